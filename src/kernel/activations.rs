//! Rows of activations as products take them: quantized on demand, in groups, laid out as tiles.

use super::Kernels;
use super::tiled::{TILE_ROWS, TileCodes, TileScratch, Tiles};
use crate::pool::Pool;
use crate::quant::{ActivationForm, GgmlType};

/// Buffers for quantized activations, one a form, kept between products so that decoding allocates nothing.
#[derive(Debug, Default)]
pub struct ActivationScratch {
    /// Indexed by [`ActivationForm`].
    forms: [Vec<u8>; ActivationForm::ALL.len()],
    /// Two, since matrices that are multiplied together may want different ones.
    tiles: [TileSet; 2],
    /// The places of a product's rows that were met before, a bit each.
    pub(super) seen: Vec<u64>,
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

    /// Room for `n_rows` rows of `n_cols` activations in a form.
    fn rows_mut(&mut self, form: ActivationForm, n_rows: usize, n_cols: usize) -> &mut [u8] {
        let n = form.row_bytes(n_cols) * n_rows;
        let buffer = &mut self.forms[form as usize];
        if buffer.len() < n {
            buffer.resize(n, 0);
        }
        &mut buffer[..n]
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
    pub(super) n_cols: usize,
    /// Rows of the batch that these are of: its kernels compute them, however few they are.
    pub(super) n_batch: usize,
    pub(super) scratch: &'a mut ActivationScratch,
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
        scratch.rows_mut(form, n_rows, n_cols);
        let mut ready = [false; ActivationForm::ALL.len()];
        ready[form as usize] = true;
        Activations { rows: &[], n_rows, n_cols, n_batch, scratch, ready, tiled: [None; 2], latest: 0 }
    }

    /// The bytes of all rows in a form that they are in.
    pub(super) fn bytes_mut(&mut self, form: ActivationForm) -> &mut [u8] {
        assert!(self.ready[form as usize], "activations that are not {form:?}");
        self.scratch.rows_mut(form, self.n_rows, self.n_cols)
    }

    /// These rows as a part of a batch of `n_batch`: their products are the same bits wherever the batch was cut.
    #[cfg(test)]
    pub(super) fn of_batch(self, n_batch: usize) -> Activations<'a> {
        Activations { n_batch, ..self }
    }

    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Makes the rows in `form`.
    pub(super) fn quantize(&mut self, form: ActivationForm, kernels: &Kernels, pool: &Pool) {
        if !self.ready[form as usize] {
            assert_eq!(self.rows.len(), self.n_rows * self.n_cols, "activations that are only in another form");
            let (rows, n_cols) = (self.rows, self.n_cols);
            let quantized = self.scratch.rows_mut(form, self.n_rows, n_cols);
            pool.for_rows(quantized, form.row_bytes(n_cols), |i, out| {
                kernels.quantize(form, &rows[i * n_cols..][..n_cols], out);
            });
            self.ready[form as usize] = true;
        }
    }

    /// The rows in `form`, which have been made, and the bytes of one.
    pub(super) fn quantized(&self, form: ActivationForm) -> (&[u8], usize) {
        let row_bytes = form.row_bytes(self.n_cols);
        (&self.scratch.forms[form as usize][..row_bytes * self.n_rows], row_bytes)
    }

    /// The groups of rows that `rows` names as tiles of `form`, laid out anew where neither set has them. Returns which set does.
    pub(super) fn tile(
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

    /// Of what the last [`Activations::tile`] for these rows has laid out, the tiles of a group.
    pub(super) fn tiles(
        &self,
        set: usize,
        form: ActivationForm,
        codes: TileCodes,
        starts: &[usize],
        group: usize,
    ) -> Tiles<'_> {
        self.scratch.tiles[set].tiles.tiles(form, codes, starts, group, self.n_cols)
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
    pub(super) fn len(&self, n_rows: usize) -> usize {
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
