//! Where a matrix product goes: several threads write to one output, each to columns of its own.

#![allow(unsafe_code, reason = "threads write disjoint columns of one output")]

use std::marker::PhantomData;
use std::ops::Range;

use super::Kernels;
use super::activations::Rows;

/// What becomes of the numbers of a product.
#[derive(Clone, Copy)]
pub(super) enum Then<'a> {
    /// They take the place of what is in the output.
    Put,
    /// They are added to it, with their bias.
    Add(&'a Kernels, Option<&'a [f32]>),
    /// They are given away. For outputs that one thread has alone.
    Give(&'a Taker<'a>),
}

/// Takes numbers of a row, `(row, columns, numbers)`, together with all columns of the row up to where they end. A row's numbers
/// come in the order of their columns.
pub(super) type Taker<'a> = dyn Fn(usize, &mut [f32], &mut [f32]) + Sync + 'a;

/// A product's output, written by several threads, each to its own columns of every row.
pub(super) struct Output<'a, T = f32> {
    base: *mut T,
    n_rows: usize,
    n_cols: usize,
    /// Where the product's rows go.
    places: Rows<'a>,
    /// Which of the places has the first row.
    first: usize,
    /// The number of the first column.
    first_col: usize,
    then: Then<'a>,
    out: PhantomData<&'a mut [T]>,
}

// SAFETY: each (row, column) is written by one thread only, see `matmul_groups` and `gated_groups`.
unsafe impl<T: Send> Sync for Output<'_, T> {}

impl<'a, T> Output<'a, T> {
    /// For a product of `n_rows` rows, which go to the rows `places` of `out`.
    pub(super) fn new(out: &'a mut [T], n_rows: usize, n_cols: usize, places: Rows<'a>) -> Output<'a, T> {
        let all = out.len() / n_cols.max(1);
        let fits = match places {
            Rows::All => out.len() == n_rows * n_cols,
            Rows::Only(places) => places.len() == n_rows && places.iter().all(|&place| (place as usize) < all),
        };
        assert!(fits, "output is not {n_rows} x {n_cols}");
        let base = out.as_mut_ptr();
        Output { base, n_rows, n_cols, places, first: 0, first_col: 0, then: Then::Put, out: PhantomData }
    }

    pub(super) fn then(self, then: Then<'a>) -> Output<'a, T> {
        Output { then, ..self }
    }

    /// These columns numbered from `first_col` on, as those of a wider product.
    pub(super) fn beginning_at(self, first_col: usize) -> Output<'a, T> {
        Output { first_col, ..self }
    }

    pub(super) fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// The part that has these rows of the product.
    pub(super) fn part(&self, rows: Range<usize>) -> Output<'a, T> {
        assert!(rows.start <= rows.end && rows.end <= self.n_rows, "rows past the output");
        Output { n_rows: rows.len(), first: self.first + rows.start, ..*self }
    }

    /// Where an element of the product goes.
    fn at(&self, row: usize, col: usize) -> *mut T {
        // SAFETY: the row is one of `places`, all of which lie in the slice, and the callers have checked the columns.
        unsafe { self.base.add(self.places.index(self.first + row) * self.n_cols + (col - self.first_col)) }
    }

    /// Whether there is a row with these columns; both ends may be past the last one.
    fn has(&self, row: usize, columns: Range<usize>) -> bool {
        let all = self.first_col..=self.first_col + self.n_cols;
        row < self.n_rows && columns.start <= columns.end && all.contains(&columns.start) && all.contains(&columns.end)
    }

    /// Where a row goes, from a column on.
    pub(super) fn place(&self, row: usize, col: usize) -> *const T {
        assert!(self.has(row, col..col), "past the output");
        self.at(row, col)
    }

    /// Some columns of a row.
    ///
    /// # Safety
    /// No other thread writes or reads these elements while the slice lives, nor is there another reference to them.
    #[allow(clippy::mut_from_ref, reason = "the caller promises that the parts are disjoint")]
    pub(super) unsafe fn columns(&self, row: usize, columns: Range<usize>) -> &mut [T] {
        assert!(self.has(row, columns.clone()), "past the output");
        // SAFETY: in bounds as just checked; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.at(row, columns.start), columns.len()) }
    }
}

/// Numbers of a row that are given to the output at once, where they do not just take their places.
const AT_ONCE: usize = 256;

impl Output<'_> {
    /// Gives the output neighbouring numbers of a row from column `first` on, as far as there are columns.
    ///
    /// # Safety
    /// No other thread writes or reads these elements during the product, nor, where they are given away, any of the output.
    pub(super) unsafe fn give(&self, row: usize, first: usize, values: &mut [f32]) {
        let n = values.len().min((self.first_col + self.n_cols).saturating_sub(first));
        let values = &mut values[..n];
        // SAFETY: the caller's promise.
        unsafe {
            match self.then {
                Then::Put => self.columns(row, first..first + n).copy_from_slice(values),
                Then::Add(kernels, bias) => {
                    if let Some(bias) = bias {
                        kernels.add(values, &bias[first..first + n]);
                    }
                    kernels.add(self.columns(row, first..first + n), values);
                }
                Then::Give(give) => give(row, self.columns(row, self.first_col..first + n), values),
            }
        }
    }

    /// Gives the output numbers of neighbouring columns of a row from `first` on, sixteen at a time.
    ///
    /// # Safety
    /// No other thread writes or reads these elements during the product.
    #[inline(always)]
    pub(super) unsafe fn give_columns<'v>(
        &self,
        row: usize,
        mut first: usize,
        mut values: impl Iterator<Item = &'v [f32; 16]>,
    ) {
        if matches!(self.then, Then::Put) {
            // SAFETY: the caller's promise.
            return unsafe { self.write_columns(row, first, values) };
        }
        let mut together = [[0.0; 16]; AT_ONCE / 16];
        loop {
            let places = together.iter_mut().zip(&mut values);
            let n = places.map(|(place, values)| *place = *values).count();
            if n == 0 {
                return;
            }
            // SAFETY: the caller's promise.
            unsafe { self.give(row, first, together[..n].as_flattened_mut()) };
            first += 16 * n;
        }
    }

    /// Writes values to neighbouring columns of a row from `first` on, sixteen at a time, as far as there are columns.
    ///
    /// # Safety
    /// No other thread writes or reads these elements during the product.
    #[inline(always)]
    unsafe fn write_columns<'v>(&self, row: usize, first: usize, values: impl Iterator<Item = &'v [f32; 16]>) {
        assert!(self.has(row, first..first), "columns past the output");
        let mut left = self.first_col + self.n_cols - first;
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
