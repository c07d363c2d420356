//! Matrix products: weights as they lie in the file, activations quantized once into the form the weights want.
//! `out[m][n] = Σ_k weights[n][k] · activations[m][k]`.

#![allow(unsafe_code, reason = "threads write disjoint columns of one output")]

use std::ops::Range;

use super::Kernels;
use super::dispatch::{Operands, Product};
use super::output::Output;
use super::tiled::{TILE_ROWS, TileCodes, TileScratch};
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
}

/// Buffers for quantized activations, one a form, kept between products so that decoding allocates nothing.
#[derive(Debug, Default)]
pub struct ActivationScratch {
    /// Indexed by [`ActivationForm`].
    forms: [Vec<u8>; ActivationForm::ALL.len()],
    /// Two, since matrices that are multiplied together may want different ones.
    tiles: [TileSet; 2],
    /// The places of a product's rows that were met before, a bit each.
    seen: Vec<u64>,
}

/// Tiles, and what they are of.
#[derive(Debug, Default)]
struct TileSet {
    tiles: TileScratch,
    /// The rows, where they are not all.
    rows: Vec<u32>,
    /// Where the groups begin.
    starts: Vec<usize>,
}

impl ActivationScratch {
    /// The most bytes that a row of `n_cols` activations takes for products with weights of these formats.
    pub fn row_bytes(formats: impl Iterator<Item = GgmlType>, n_cols: usize) -> u64 {
        let forms = forms(formats);
        let quantized = |form: &ActivationForm| {
            let n_blocks = n_cols.div_ceil(form.block_len());
            form.row_bytes(n_blocks * form.block_len()) as u64
        };
        forms.iter().map(quantized).sum::<u64>() + 2 * TileScratch::row_bytes(&forms, n_cols)
    }

    /// The most bytes that `n` groups take beyond that where each has a few rows.
    pub fn group_bytes(formats: impl Iterator<Item = GgmlType>, n_cols: usize, n: usize) -> u64 {
        TileScratch::row_bytes(&forms(formats), n_cols).saturating_mul((2 * n * TILE_ROWS) as u64)
    }
}

/// The forms that activations take for weights of these formats.
fn forms(formats: impl Iterator<Item = GgmlType>) -> Vec<ActivationForm> {
    let mut forms: Vec<ActivationForm> = formats.filter_map(GgmlType::activation_form).collect();
    forms.sort_unstable_by_key(|&form| form as usize);
    forms.dedup();
    forms
}

/// Rows of activations, quantized on demand, at most once a form.
#[derive(Debug)]
pub struct Activations<'a> {
    rows: &'a [f32],
    n_rows: usize,
    n_cols: usize,
    /// Rows of the batch that these are of: its kernels compute them, however few they are.
    n_batch: usize,
    scratch: &'a mut ActivationScratch,
    ready: [bool; ActivationForm::ALL.len()],
    /// What the tiles of the scratch hold.
    tiled: [Option<Tiled>; 2],
    /// Which of them were laid out last.
    latest: usize,
}

/// What tiles hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tiled {
    form: ActivationForm,
    codes: TileCodes,
    rows: TiledRows,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TiledRows {
    All,
    /// Those of the set's `rows`.
    Only,
}

impl<'a> Activations<'a> {
    /// `rows`: `[n_rows, n_cols]`.
    pub fn new(rows: &'a [f32], n_cols: usize, scratch: &'a mut ActivationScratch) -> Activations<'a> {
        assert!(n_cols > 0 && rows.len() % n_cols == 0, "{} activations are not rows of {n_cols}", rows.len());
        let ready = [false; ActivationForm::ALL.len()];
        let n_rows = rows.len() / n_cols;
        Activations { rows, n_rows, n_cols, n_batch: n_rows, scratch, ready, tiled: [None; 2], latest: 0 }
    }

    /// `n_rows` rows of a batch of `n_batch` in `form` alone, with whatever was in the scratch; for who writes them next.
    pub(super) fn in_form(
        form: ActivationForm,
        n_rows: usize,
        n_cols: usize,
        n_batch: usize,
        scratch: &'a mut ActivationScratch,
    ) -> Activations<'a> {
        let n = form.row_bytes(n_cols) * n_rows;
        let buffer = &mut scratch.forms[form as usize];
        if buffer.len() < n {
            buffer.resize(n, 0);
        }
        let mut ready = [false; ActivationForm::ALL.len()];
        ready[form as usize] = true;
        Activations { rows: &[], n_rows, n_cols, n_batch, scratch, ready, tiled: [None; 2], latest: 0 }
    }

    /// The bytes of all rows in a form that they are in.
    pub(super) fn bytes_mut(&mut self, form: ActivationForm) -> &mut [u8] {
        assert!(self.ready[form as usize], "activations that are not {form:?}");
        &mut self.scratch.forms[form as usize][..form.row_bytes(self.n_cols) * self.n_rows]
    }

    /// These rows as a part of a batch of `n_batch`: their products are the same bits wherever the batch was cut.
    #[cfg(test)]
    pub(super) fn of_batch(self, n_batch: usize) -> Activations<'a> {
        Activations { n_batch, ..self }
    }

    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    pub(super) fn n_batch(&self) -> usize {
        self.n_batch
    }

    /// Makes the rows in `form`.
    fn quantize(&mut self, form: ActivationForm, kernels: &Kernels, pool: &Pool) {
        if !self.ready[form as usize] {
            assert_eq!(self.rows.len(), self.n_rows * self.n_cols, "activations that are only in another form");
            let row_bytes = form.row_bytes(self.n_cols);
            let buffer = &mut self.scratch.forms[form as usize];
            let n = row_bytes * self.n_rows;
            if buffer.len() < n {
                buffer.resize(n, 0);
            }
            let (rows, n_cols) = (self.rows, self.n_cols);
            pool.for_rows(&mut buffer[..n], row_bytes, |i, out| {
                kernels.quantize(form, &rows[i * n_cols..][..n_cols], out);
            });
            self.ready[form as usize] = true;
        }
    }

    /// The rows in `form`, which have been made, and the bytes of one.
    fn quantized(&self, form: ActivationForm) -> (&[u8], usize) {
        let row_bytes = form.row_bytes(self.n_cols);
        (&self.scratch.forms[form as usize][..row_bytes * self.n_rows], row_bytes)
    }

    /// The groups of rows that `rows` names as tiles of `form`, laid out anew where neither set has them. Returns which set does.
    fn tile(
        &mut self,
        form: ActivationForm,
        codes: TileCodes,
        rows: Grouped<'_>,
        kernels: &Kernels,
        pool: &Pool,
    ) -> usize {
        self.quantize(form, kernels, pool);
        let (of, indices) = match rows.rows {
            Rows::All => (TiledRows::All, None),
            Rows::Only(indices) => (TiledRows::Only, Some(indices)),
        };
        let wanted = Tiled { form, codes, rows: of };
        let sets = &self.scratch.tiles;
        let has_them = |&set: &usize| {
            let TileSet { rows: of, starts, .. } = &sets[set];
            self.tiled[set] == Some(wanted) && indices.is_none_or(|indices| of == indices) && starts == rows.starts
        };
        if let Some(set) = (0..2).find(has_them) {
            return set;
        }
        // Other rows replace those laid out alike.
        let alike = |&set: &usize| self.tiled[set].is_none_or(|t| (t.form, t.codes) == (form, codes));
        let set = (0..2).find(alike).unwrap_or(1 - self.latest);
        let row_bytes = form.row_bytes(self.n_cols);
        let ActivationScratch { forms, tiles: sets, .. } = &mut *self.scratch;
        let bytes = &forms[form as usize];
        let row = |i: usize| &bytes[rows.rows.index(i) * row_bytes..][..row_bytes];
        let TileSet { tiles, rows: of, starts } = &mut sets[set];
        tiles.fill(pool, form, codes, rows.starts, self.n_cols, row, kernels);
        of.clear();
        of.extend_from_slice(indices.unwrap_or_default());
        starts.clear();
        starts.extend_from_slice(rows.starts);
        self.tiled[set] = Some(wanted);
        self.latest = set;
        set
    }
}

/// Rows of activations in groups, each of which meets a matrix of its own.
#[derive(Debug, Clone, Copy)]
pub struct Grouped<'a> {
    /// Those of all groups, one group after the other.
    pub rows: Rows<'a>,
    /// Group `g` has the rows `starts[g]..starts[g + 1]` of these; `[groups + 1]`, not falling.
    pub starts: &'a [usize],
}

/// Which rows of the activations take part in a product.
#[derive(Debug, Clone, Copy)]
pub enum Rows<'a> {
    All,
    /// Row numbers; output row `i` is for activation row `indices[i]`.
    Only(&'a [u32]),
}

impl Grouped<'_> {
    /// How many groups there are, which are all of `x`'s rows or of those named.
    ///
    /// # Panics
    /// Where they are not, or a row is none of `x`.
    pub(super) fn check(&self, x: &Activations<'_>) -> usize {
        let Some((&n, _)) = self.starts.split_last() else { return 0 };
        let is_all = self.starts[0] == 0 && self.starts.is_sorted() && n == self.rows.len(x.n_rows);
        assert!(is_all, "groups are not all rows");
        if let Rows::Only(indices) = self.rows {
            assert!(indices.iter().all(|&i| (i as usize) < x.n_rows), "a row number past the activations");
        }
        self.starts.len() - 1
    }
}

impl Rows<'_> {
    /// How many they are, of `n_rows`.
    fn len(&self, n_rows: usize) -> usize {
        match self {
            Rows::All => n_rows,
            Rows::Only(indices) => indices.len(),
        }
    }

    /// The number of the `i`-th.
    pub(super) fn index(&self, i: usize) -> usize {
        match self {
            Rows::All => i,
            Rows::Only(indices) => indices[i] as usize,
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
        let rows = Grouped { rows, starts: &[0, rows.len(x.n_rows)] };
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
        let Matrix { ty, n_rows: n_out, n_cols, .. } = weight(0);
        let starts = rows.starts;
        if let Rows::Only(places) = places {
            assert!(are_distinct(places, &mut x.scratch.seen), "two rows of a product have one place");
        }
        let output = Output::new(out, starts[n_groups], n_out, places);
        let checked = |group: usize| {
            let w = weight(group);
            assert!((w.ty, w.n_rows, w.n_cols) == (ty, n_out, n_cols), "matrices of groups differ");
            w
        };
        let ready = self.make_ready(pool, &weight(0), x, rows);
        let x = &*x;
        let grain = ready.range_rows(&weight(0), pool);
        let pieces = n_out.div_ceil(grain);
        // Groups have rows of the output of their own, and pieces columns.
        pool.for_ranges(n_groups * pieces, 1, |range| {
            for piece in range {
                let (group, first) = (piece / pieces, piece % pieces * grain);
                let (group_rows, range) = (starts[group]..starts[group + 1], first..n_out.min(first + grain));
                let (w, output) = (checked(group), output.part(group_rows));
                let next = match w.row_range(range.end..n_out) {
                    [] if group + 1 < n_groups => checked(group + 1).bytes,
                    rest => rest,
                };
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
        let tiles = x.scratch.tiles[set].tiles.tiles(form, product.codes, rows.starts, group, w.n_cols);
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
            let write = |r: usize, sums: [f32; 4]| {
                for (i, sum) in sums.into_iter().enumerate() {
                    // SAFETY: `matmul_groups` gives every weight row of a group, hence every column of its rows, to one thread.
                    unsafe { output.write(m + i, r, sum) };
                }
            };
            let fours = range.start + range.len() / 4 * 4;
            for r in (range.start..fours).step_by(4) {
                let weights = [w.row(r), w.row(r + 1), w.row(r + 2), w.row(r + 3)];
                let sums = self.dot4x4(w.ty, w.n_cols, weights, acts);
                (r..).zip(sums).for_each(|(r, sums)| write(r, sums));
            }
            for r in fours..range.end {
                write(r, self.dot4(w.ty, w.n_cols, w.row(r), acts));
            }
        }
        for m in n / 4 * 4..n {
            // SAFETY: as above.
            let sums = unsafe { output.columns(m, range.clone()) };
            self.dot_rows(w.ty, w.n_cols, w.row_range(range.clone()), act(m), sums);
        }
    }
}
