//! Where a matrix product goes: several threads write to one output, each to columns of its own.

#![allow(unsafe_code, reason = "threads write disjoint columns of one output")]

use std::marker::PhantomData;
use std::ops::Range;

use super::matmul::Rows;

/// A product's output, written by several threads, each to its own columns of every row.
#[derive(Debug)]
pub(super) struct Output<'a> {
    base: *mut f32,
    n_rows: usize,
    n_cols: usize,
    /// Where the product's rows go.
    places: Rows<'a>,
    /// Which of the places has the first row.
    first: usize,
    out: PhantomData<&'a mut [f32]>,
}

// SAFETY: each (row, column) is written by one thread only, see `matmul_groups`.
unsafe impl Sync for Output<'_> {}

impl<'a> Output<'a> {
    /// For a product of `n_rows` rows, which go to the rows `places` of `out`.
    pub(super) fn new(out: &'a mut [f32], n_rows: usize, n_cols: usize, places: Rows<'a>) -> Output<'a> {
        let all = out.len() / n_cols.max(1);
        let fits = match places {
            Rows::All => out.len() == n_rows * n_cols,
            Rows::Only(places) => places.len() == n_rows && places.iter().all(|&place| (place as usize) < all),
        };
        assert!(fits, "output is not {n_rows} x {n_cols}");
        Output { base: out.as_mut_ptr(), n_rows, n_cols, places, first: 0, out: PhantomData }
    }

    /// The part that has these rows of the product.
    pub(super) fn part(&self, rows: Range<usize>) -> Output<'a> {
        assert!(rows.start <= rows.end && rows.end <= self.n_rows, "rows past the output");
        Output { n_rows: rows.len(), first: self.first + rows.start, ..*self }
    }

    /// Where an element of the product goes.
    fn at(&self, row: usize, col: usize) -> *mut f32 {
        // SAFETY: the row is one of `places`, all of which lie in the slice, and the callers have checked the columns.
        unsafe { self.base.add(self.places.index(self.first + row) * self.n_cols + col) }
    }

    /// Where a row goes, from a column on.
    pub(super) fn place(&self, row: usize, col: usize) -> *const f32 {
        assert!(row < self.n_rows && col <= self.n_cols, "past the output");
        self.at(row, col)
    }

    /// # Safety
    /// No other thread writes or reads this element during the product.
    pub(super) unsafe fn write(&self, row: usize, col: usize, value: f32) {
        debug_assert!(row < self.n_rows && col < self.n_cols);
        // SAFETY: in bounds by construction of the ranges; exclusive by the caller's promise.
        unsafe { *self.at(row, col) = value };
    }

    /// Some columns of a row.
    ///
    /// # Safety
    /// No other thread writes or reads these elements while the slice lives, nor is there another reference to them.
    #[allow(clippy::mut_from_ref, reason = "the caller promises that the parts are disjoint")]
    pub(super) unsafe fn columns(&self, row: usize, columns: Range<usize>) -> &mut [f32] {
        assert!(row < self.n_rows && columns.start <= columns.end && columns.end <= self.n_cols, "past the output");
        // SAFETY: in bounds as just checked; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.at(row, columns.start), columns.len()) }
    }

    /// Writes sixteen columns of a row from `first` on, or as many as there are.
    ///
    /// # Safety
    /// No other thread writes or reads these elements during the product.
    #[inline]
    pub(super) unsafe fn write_sixteen(&self, row: usize, first: usize, values: &[f32; 16]) {
        // SAFETY: the caller's promise.
        unsafe { self.write_columns(row, first, std::iter::once(values)) };
    }

    /// Writes values to neighbouring columns of a row from `first` on, sixteen at a time, as far as there are columns.
    ///
    /// # Safety
    /// No other thread writes or reads these elements during the product.
    #[inline]
    pub(super) unsafe fn write_columns<'v>(
        &self,
        row: usize,
        first: usize,
        values: impl Iterator<Item = &'v [f32; 16]>,
    ) {
        assert!(row < self.n_rows && first <= self.n_cols, "columns past the output");
        let mut left = self.n_cols - first;
        let mut out = self.at(row, first);
        for values in values {
            // SAFETY: what is written lies within the columns that are left; exclusive by the caller's promise.
            unsafe {
                if left < 16 {
                    return write_some(out, &values[..left]);
                }
                out.cast::<[f32; 16]>().write_unaligned(*values);
                out = out.add(16);
            }
            left -= 16;
        }
    }
}

/// Writes fewer than sixteen columns; apart, so that sixteen are copied without a call.
///
/// # Safety
/// There is room for them at `out`, which no other thread writes or reads.
#[cold]
#[inline(never)]
unsafe fn write_some(out: *mut f32, values: &[f32]) {
    // SAFETY: the caller's promise.
    unsafe { out.copy_from_nonoverlapping(values.as_ptr(), values.len()) };
}
