//! Matrix products: weights as they lie in the file, activations quantized once into the form the weights want.
//! `out[m][n] = Σ_k weights[n][k] · activations[m][k]`.

#![allow(unsafe_code, reason = "threads write disjoint columns of one output")]

use std::ops::Range;

use super::Kernels;
use super::activations::{Activations, Grouped, Rows};
use super::dispatch::{Operands, Product};
use super::fused::Projection;
use super::output::{Output, Then};
use crate::pool::Pool;
use crate::quant::{ActivationForm, GgmlType};

/// From so many rows on, a batch is computed by the same kernels wherever it is cut and however few of its rows a matrix
/// takes; of fewer, single rows have dot products.
pub const LEAST_BATCH: usize = 16;

/// A weight matrix where it lies: `[n_rows, n_cols]`, rows contiguous, each a whole number of blocks.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    ty: GgmlType,
    n_rows: usize,
    n_cols: usize,
    row_bytes: usize,
    bytes: &'a [u8],
}

impl<'a> Matrix<'a> {
    /// # Panics
    /// Where `bytes` is not exactly `n_rows` rows of `n_cols` elements of `ty`.
    pub fn new(ty: GgmlType, n_rows: usize, n_cols: usize, bytes: &'a [u8]) -> Matrix<'a> {
        let row_bytes = ty.row_bytes(n_cols as u64).map(|b| b as usize).expect("rows are whole blocks");
        assert_eq!(Some(bytes.len()), row_bytes.checked_mul(n_rows), "{n_rows} x {n_cols} of {ty}");
        Matrix { ty, n_rows, n_cols, row_bytes, bytes }
    }

    pub fn ty(&self) -> GgmlType {
        self.ty
    }

    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    pub fn n_cols(&self) -> usize {
        self.n_cols
    }

    pub fn row(&self, i: usize) -> &'a [u8] {
        &self.bytes[i * self.row_bytes..][..self.row_bytes]
    }

    /// Some rows, as far as there are so many.
    pub(super) fn row_range(&self, rows: Range<usize>) -> &'a [u8] {
        let at = |row: usize| row.min(self.n_rows) * self.row_bytes;
        &self.bytes[at(rows.start)..at(rows.end)]
    }

    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The rows from `row` on, or, where there are none, all of the matrix that comes after this one.
    pub(super) fn rows_from(&self, row: usize, after: impl FnOnce() -> Option<Matrix<'a>>) -> &'a [u8] {
        match self.row_range(row..self.n_rows) {
            [] => after().map_or(&[], |matrix| matrix.bytes),
            rest => rest,
        }
    }
}

/// Whether no number is there twice. `seen` is a buffer.
fn are_distinct(numbers: &[u32], seen: &mut Vec<u64>) -> bool {
    seen.clear();
    seen.resize(numbers.iter().max().map_or(0, |&most| most as usize / 64 + 1), 0);
    numbers.iter().all(|&number| {
        let (word, bit) = (&mut seen[number as usize / 64], 1 << (number % 64));
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    })
}

/// Rows of weights that meet four rows of activations at a time.
const ROWS_AT_ONCE: usize = 32;

/// Rows of weights that meet one row of activations at a time.
const SUMS_AT_ONCE: usize = 256;

/// Rows of weights a thread takes at a time, so that a chunk is about 64 KiB of weights.
fn grain(w: &Matrix<'_>) -> usize {
    ((64 << 10) / w.row_bytes.max(1)).clamp(1, 256)
}

/// Activations as products with matrices of one format take them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ready<'r> {
    form: ActivationForm,
    product: Option<Product>,
    /// Which of the tiles.
    set: usize,
    rows: Grouped<'r>,
}

impl Ready<'_> {
    /// How many rows of weights like `w` a thread takes at a time.
    pub(super) fn range_rows(&self, w: &Matrix<'_>, pool: &Pool) -> usize {
        let (n_groups, n) = (self.rows.starts.len() - 1, self.rows.starts[self.rows.starts.len() - 1]);
        match self.product {
            Some(product) => {
                // As many that every thread has some ranges, so that they end together.
                let fair = (w.n_rows * n_groups).div_ceil(4 * pool.n_threads());
                grain(w).max(fair.min(product.range_rows)).next_multiple_of(product.panel_rows)
            }
            // Of many activations more rows at a time, as often as not all of them have to be read again.
            None if n >= 16 * n_groups => {
                let (least, fair) = (grain(w), (w.n_rows * n_groups).div_ceil(2 * pool.n_threads()));
                fair.clamp(least, 4 * least).next_multiple_of(4)
            }
            None => grain(w),
        }
    }

    /// Where the rows of weights like `w` are cut into ranges, from 0 to their number. Of a single matrix the ranges of each
    /// thread become shorter towards the end of its share: a thread that is slower than others is then never far behind.
    fn cuts(&self, w: &Matrix<'_>, pool: &Pool) -> Vec<usize> {
        let most = self.range_rows(w, pool);
        match self.product {
            Some(product) if self.rows.starts.len() == 2 => {
                tapered(w.n_rows, most, product.panel_rows, pool.n_threads())
            }
            _ => (0..w.n_rows).step_by(most).chain([w.n_rows]).collect(),
        }
    }
}

/// Cuts `0..n` into a share for each thread, and each share into ranges of a third of what is left of it, but no more than
/// `most`, in multiples of `unit`.
fn tapered(n: usize, most: usize, unit: usize, n_threads: usize) -> Vec<usize> {
    let (mut cuts, mut at) = (vec![0], 0);
    for thread in 1..=n_threads {
        let end = n.min((thread * n / n_threads).next_multiple_of(unit));
        while at < end {
            at = end.min(at + ((end - at) / 3).next_multiple_of(unit).clamp(unit, most.max(unit)));
            cuts.push(at);
        }
    }
    cuts
}

impl Kernels {
    /// `out[m][n] = Σ_k w[n][k] · x[m][k]` for the rows `rows` of `x`; `out`: `[rows, w.n_rows]`.
    ///
    /// # Panics
    /// Where the shapes do not fit or the format of `w` cannot be computed with (the model's loader refuses those).
    pub fn matmul(&self, pool: &Pool, w: &Matrix<'_>, x: &mut Activations<'_>, rows: Rows<'_>, out: &mut [f32]) {
        self.matmul_to(pool, w, x, rows, out, Rows::All);
    }

    /// As [`Kernels::matmul`], but row `m` of the product becomes row `places[m]` of `out`, `[any, w.n_rows]`.
    ///
    /// # Panics
    /// As there, and where `out` lacks one of the places.
    pub fn matmul_to(
        &self,
        pool: &Pool,
        w: &Matrix<'_>,
        x: &mut Activations<'_>,
        rows: Rows<'_>,
        out: &mut [f32],
        places: Rows<'_>,
    ) {
        let rows = Grouped { rows, starts: &[0, rows.len(x.n_rows())] };
        self.matmul_groups(pool, |_| *w, x, rows, out, places);
    }

    /// As [`Kernels::matmul_to`] for each group of rows of `x` with a matrix of its own, all of one shape and format. They
    /// are one piece of work: threads go from one matrix to the next without waiting for each other, and ask for its
    /// beginning before they are there.
    ///
    /// # Panics
    /// As there, and where two rows have the same place.
    pub fn matmul_groups<'w>(
        &self,
        pool: &Pool,
        weight: impl Fn(usize) -> Matrix<'w> + Sync,
        x: &mut Activations<'_>,
        rows: Grouped<'_>,
        out: &mut [f32],
        places: Rows<'_>,
    ) {
        let n_groups = rows.check(x);
        if n_groups == 0 {
            return;
        }
        if let Rows::Only(places) = places {
            assert!(are_distinct(places, &mut x.scratch.seen), "two rows of a product have one place");
        }
        let output = Output::new(out, rows.starts[n_groups], weight(0).n_rows, places);
        self.products(pool, weight, x, rows, &output);
    }

    /// `out += W x + b` for every row of `x`, `[rows of x, n_out]`.
    ///
    /// # Panics
    /// As [`Kernels::matmul`].
    pub fn matmul_add(&self, pool: &Pool, linear: Projection<'_>, x: &mut Activations<'_>, out: &mut [f32]) {
        let (n, n_out) = (x.n_rows(), linear.weight.n_rows);
        let output = Output::new(out, n, n_out, Rows::All).then(Then::Add(self, linear.bias));
        self.products(pool, |_| linear.weight, x, Grouped { rows: Rows::All, starts: &[0, n] }, &output);
    }

    /// Gives `output` the products of each group of rows of `x`, of which there are some, with a matrix of its own.
    fn products<'w>(
        &self,
        pool: &Pool,
        weight: impl Fn(usize) -> Matrix<'w> + Sync,
        x: &mut Activations<'_>,
        rows: Grouped<'_>,
        output: &Output<'_>,
    ) {
        let starts = rows.starts;
        let n_groups = starts.len() - 1;
        let Matrix { ty, n_rows: n_out, n_cols, .. } = weight(0);
        let checked = |group: usize| {
            let w = weight(group);
            assert!((w.ty, w.n_rows, w.n_cols) == (ty, n_out, n_cols), "matrices of groups differ");
            w
        };
        let ready = self.make_ready(pool, &weight(0), x, rows);
        let x = &*x;
        let cuts = ready.cuts(&weight(0), pool);
        let pieces = cuts.len() - 1;
        // Groups have rows of the output of their own, and pieces columns.
        pool.for_ranges(n_groups * pieces, 1, |range| {
            for piece in range {
                let (group, piece) = (piece / pieces, piece % pieces);
                let (group_rows, range) = (starts[group]..starts[group + 1], cuts[piece]..cuts[piece + 1]);
                let (w, output) = (checked(group), output.part(group_rows));
                let next = w.rows_from(range.end, || (group + 1 < n_groups).then(|| checked(group + 1)));
                self.compute(&ready, x, group, w, range, next, &output);
            }
        });
    }

    /// Makes what products of these rows with matrices like `w` take.
    pub(super) fn make_ready<'r>(
        &self,
        pool: &Pool,
        w: &Matrix<'_>,
        x: &mut Activations<'_>,
        rows: Grouped<'r>,
    ) -> Ready<'r> {
        assert_eq!(w.n_cols, x.n_cols, "weights and activations differ in length");
        let form = w.ty.activation_form().expect("the loader admits only formats with kernels");
        let product = self.product(w.ty, x.n_batch, w.n_cols);
        let set = if let Some(product) = product {
            x.tile(form, product.codes, rows, self, pool)
        } else {
            x.quantize(form, self, pool);
            0
        };
        Ready { form, product, set, rows }
    }

    /// Computes the columns of a group's output that belong to a range of the rows of its weights; `next`: the rows that are
    /// likely to come after it.
    #[expect(clippy::too_many_arguments, reason = "what is multiplied, which part of it, and where it goes")]
    pub(super) fn compute(
        &self,
        ready: &Ready<'_>,
        x: &Activations<'_>,
        group: usize,
        w: Matrix<'_>,
        range: Range<usize>,
        next: &[u8],
        output: &Output<'_>,
    ) {
        let Ready { form, product, set, rows } = *ready;
        let group_rows = rows.starts[group]..rows.starts[group + 1];
        if group_rows.is_empty() {
            return;
        }
        // One row has nothing to share what a product decodes with.
        let is_alone = group_rows.len() == 1 && x.n_batch < LEAST_BATCH;
        let Some(product) = product.filter(|_| !is_alone) else {
            let (acts, act_bytes) = x.quantized(form);
            let act = |m: usize| &acts[rows.rows.index(group_rows.start + m) * act_bytes..][..act_bytes];
            return self.dots(&w, range, group_rows.len(), act, output);
        };
        let tiles = x.tiles(set, form, product.codes, rows.starts, group);
        (product.run)(&Operands { weights: w, next, n_rows: group_rows.len(), tiles, output }, range);
    }

    /// Computes the columns of the output that belong to a range of the rows of weights, which stay in cache while the
    /// activations pass by, four rows at a time.
    fn dots<'x>(
        &self,
        w: &Matrix<'_>,
        range: Range<usize>,
        n: usize,
        act: impl Fn(usize) -> &'x [u8],
        output: &Output<'_>,
    ) {
        for m in (0..n / 4 * 4).step_by(4) {
            let acts = [act(m), act(m + 1), act(m + 2), act(m + 3)];
            for first in range.clone().step_by(ROWS_AT_ONCE) {
                let rows = first..range.end.min(first + ROWS_AT_ONCE);
                let mut sums = [[0.0; 4]; ROWS_AT_ONCE];
                let sums = &mut sums[..rows.len()];
                self.dot4_rows(w.ty, w.n_cols, w.row_range(rows), acts, sums);
                for i in 0..4 {
                    let mut row = [0.0; ROWS_AT_ONCE];
                    row.iter_mut().zip(&*sums).for_each(|(place, sums)| *place = sums[i]);
                    // SAFETY: every weight row of a group, hence every column of its rows, is given to one thread.
                    unsafe { output.give(m + i, first, &mut row[..sums.len()]) };
                }
            }
        }
        for m in n / 4 * 4..n {
            for first in range.clone().step_by(SUMS_AT_ONCE) {
                let rows = first..range.end.min(first + SUMS_AT_ONCE);
                let mut sums = [0.0; SUMS_AT_ONCE];
                let sums = &mut sums[..rows.len()];
                self.dot_rows(w.ty, w.n_cols, w.row_range(rows), act(m), sums);
                // SAFETY: as above.
                unsafe { output.give(m, first, sums) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_cut_into_ranges_that_become_shorter() {
        assert_eq!(tapered(1536, 256, 32, 2)[..7], [0, 256, 448, 576, 640, 704, 736]);
        for (n, most, unit, n_threads) in [(0, 32, 32, 2), (77, 64, 32, 3), (1536, 192, 32, 2), (100, 16, 32, 64)] {
            let cuts = tapered(n, most, unit, n_threads);
            assert_eq!((cuts[0], cuts[cuts.len() - 1]), (0, n));
            assert!(cuts.windows(2).all(|c| c[0] < c[1] && c[1] - c[0] <= most.max(unit)), "{cuts:?}");
            assert!(cuts[..cuts.len() - 1].iter().all(|at| at % unit == 0), "{cuts:?}");
        }
    }
}
