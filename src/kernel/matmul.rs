//! Matrix products: weights as they lie in the file, activations quantized once into the form the weights want.
//! `out[m][n] = Σ_k weights[n][k] · activations[m][k]`.

#![allow(unsafe_code, reason = "threads write disjoint columns of one output")]

use std::ops::Range;

use super::Kernels;
use super::dispatch::Operands;
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
    tiles: TileScratch,
    /// The rows that the tiles are of, where they are not all.
    tiled_rows: Vec<u32>,
    /// Where the groups of the tiles begin.
    tiled_groups: Vec<usize>,
    /// The places of a product's rows that were met before, a bit each.
    seen: Vec<u64>,
}

impl ActivationScratch {
    /// The most bytes that a row of `n_cols` activations takes for products with weights of these formats.
    pub fn row_bytes(formats: impl Iterator<Item = GgmlType>, n_cols: usize) -> u64 {
        let forms = forms(formats);
        let quantized = |form: &ActivationForm| {
            let n_blocks = n_cols.div_ceil(form.block_len());
            form.row_bytes(n_blocks * form.block_len()) as u64
        };
        forms.iter().map(quantized).sum::<u64>() + TileScratch::row_bytes(&forms, n_cols)
    }

    /// The most bytes that `n` groups take beyond that where each has a few rows.
    pub fn group_bytes(formats: impl Iterator<Item = GgmlType>, n_cols: usize, n: usize) -> u64 {
        TileScratch::row_bytes(&forms(formats), n_cols).saturating_mul((n * TILE_ROWS) as u64)
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
    tiled: Option<Tiled>,
}

/// What the tiles of the scratch hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tiled {
    form: ActivationForm,
    codes: TileCodes,
    rows: TiledRows,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TiledRows {
    All,
    /// Those of the scratch's `tiled_rows`.
    Only,
}

impl<'a> Activations<'a> {
    /// `rows`: `[n_rows, n_cols]`.
    pub fn new(rows: &'a [f32], n_cols: usize, scratch: &'a mut ActivationScratch) -> Activations<'a> {
        assert!(n_cols > 0 && rows.len() % n_cols == 0, "{} activations are not rows of {n_cols}", rows.len());
        let ready = [false; ActivationForm::ALL.len()];
        let n_rows = rows.len() / n_cols;
        Activations { rows, n_rows, n_cols, n_batch: n_rows, scratch, ready, tiled: None }
    }

    /// These rows as a part of a batch of `n_batch`: their products are the same bits wherever the batch was cut.
    #[must_use]
    pub fn of_batch(self, n_batch: usize) -> Activations<'a> {
        Activations { n_batch, ..self }
    }

    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Makes the rows in `form`.
    fn quantize(&mut self, form: ActivationForm, kernels: &Kernels, pool: &Pool) {
        if !self.ready[form as usize] {
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

    /// The groups of rows that `rows` names as tiles of `form`, laid out anew where the last product took others.
    fn tile(&mut self, form: ActivationForm, codes: TileCodes, rows: Grouped<'_>, kernels: &Kernels, pool: &Pool) {
        self.quantize(form, kernels, pool);
        let (of, same_rows) = match rows.rows {
            Rows::All => (TiledRows::All, true),
            Rows::Only(indices) => (TiledRows::Only, self.scratch.tiled_rows == indices),
        };
        let wanted = Tiled { form, codes, rows: of };
        if self.tiled != Some(wanted) || !same_rows || self.scratch.tiled_groups != rows.starts {
            let row_bytes = form.row_bytes(self.n_cols);
            let ActivationScratch { forms, tiles, tiled_rows, tiled_groups, .. } = &mut *self.scratch;
            let bytes = &forms[form as usize];
            let row = |i: usize| &bytes[rows.rows.index(i) * row_bytes..][..row_bytes];
            tiles.fill(pool, form, codes, rows.starts, self.n_cols, row, kernels);
            tiled_rows.clear();
            if let Rows::Only(indices) = rows.rows {
                tiled_rows.extend_from_slice(indices);
            }
            tiled_groups.clear();
            tiled_groups.extend_from_slice(rows.starts);
            self.tiled = Some(wanted);
        }
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
        let starts = rows.starts;
        let n_groups = starts.len().saturating_sub(1);
        if n_groups == 0 {
            return;
        }
        let Matrix { ty, n_rows: n_out, n_cols, .. } = weight(0);
        assert_eq!(n_cols, x.n_cols, "weights and activations differ in length");
        let n = starts[n_groups];
        assert!(starts[0] == 0 && starts.is_sorted() && n == rows.rows.len(x.n_rows), "groups are not all rows");
        if let Rows::Only(indices) = rows.rows {
            assert!(indices.iter().all(|&i| (i as usize) < x.n_rows), "a row number past the activations");
        }
        if let Rows::Only(places) = places {
            assert!(are_distinct(places, &mut x.scratch.seen), "two rows of a product have one place");
        }
        let output = Output::new(out, n, n_out, places);
        let checked = |group: usize| {
            let w = weight(group);
            assert!((w.ty, w.n_rows, w.n_cols) == (ty, n_out, n_cols), "matrices of groups differ");
            w
        };
        let form = ty.activation_form().expect("the loader admits only formats with kernels");
        let product = self.product(ty, x.n_batch, n_cols);
        match product {
            Some(product) => x.tile(form, product.codes, rows, self, pool),
            None => x.quantize(form, self, pool),
        }
        let x = &*x;
        let (acts, act_bytes) = x.quantized(form);
        let grain = match product {
            Some(product) => {
                // As many that every thread has some ranges, so that they end together.
                let fair = (n_out * n_groups).div_ceil(4 * pool.n_threads());
                grain(&weight(0)).max(fair.min(product.range_rows)).next_multiple_of(product.panel_rows)
            }
            // Of many activations more rows at a time, as often as not all of them have to be read again.
            None if n >= 16 * n_groups => {
                let (least, fair) = (grain(&weight(0)), (n_out * n_groups).div_ceil(2 * pool.n_threads()));
                fair.clamp(least, 4 * least).next_multiple_of(4)
            }
            None => grain(&weight(0)),
        };
        let pieces = n_out.div_ceil(grain);
        // Groups have rows of the output of their own, and pieces columns.
        pool.for_ranges(n_groups * pieces, 1, |range| {
            for piece in range {
                let (group, first) = (piece / pieces, piece % pieces * grain);
                let (group_rows, range) = (starts[group]..starts[group + 1], first..n_out.min(first + grain));
                if group_rows.is_empty() {
                    continue;
                }
                let (w, output) = (checked(group), output.part(group_rows.clone()));
                // One row has nothing to share what a product decodes with.
                let is_alone = group_rows.len() == 1 && x.n_batch < LEAST_BATCH;
                let Some(product) = product.filter(|_| !is_alone) else {
                    let act = |m: usize| &acts[rows.rows.index(group_rows.start + m) * act_bytes..][..act_bytes];
                    self.dots(&w, range, group_rows.len(), act, &output);
                    continue;
                };
                let next = if group + 1 < n_groups { checked(group + 1).bytes } else { &[] };
                let tiles = x.scratch.tiles.tiles(form, product.codes, starts, group, n_cols);
                let operands = Operands { weights: w, next, n_rows: group_rows.len(), tiles, output: &output };
                (product.run)(&operands, range);
            }
        });
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
