//! Products of one token, what generation is made of: several matrices in one hand-over to the threads, with the step
//! that follows them (bias, SwiGLU, the weighted sum into the residual stream) done where their results are made. Every
//! number is to the bit what the step-by-step products of a batch give.

use super::{Kernels, Matrix};
use crate::pool::Pool;
use crate::quant::ActivationForm;

/// Bytes of weights a thread takes at a time: enough to hide taking them, for which the loads of the last ones are waited,
/// little enough that threads end together.
const PIECE_BYTES: usize = 128 << 10;

/// Bytes of weights below which no piece is cut.
const LEAST_BYTES: usize = 8 << 10;

/// The most rows of weights a thread takes at a time.
const PIECE_ROWS: usize = 256;

/// A matrix and, where it has one, its bias: `y = W x + b`.
#[derive(Debug, Clone, Copy)]
pub struct Projection<'a> {
    /// `[n_out, n_in]`
    pub weight: Matrix<'a>,
    /// `[n_out]`
    pub bias: Option<&'a [f32]>,
}

/// Buffers for a few rows of activations, one a form, kept between products so that generating allocates nothing.
#[derive(Debug, Default)]
pub struct RowScratch {
    /// Indexed by [`ActivationForm`].
    forms: [Vec<u8>; ActivationForm::ALL.len()],
    /// Of several matrices, before they are put together.
    products: Vec<f32>,
}

/// The activations of one token, a row or one for each expert, quantized by the calling thread, at most once a form.
#[derive(Debug)]
pub struct TokenRows<'a> {
    rows: &'a [f32],
    n_cols: usize,
    scratch: &'a mut RowScratch,
    ready: [bool; ActivationForm::ALL.len()],
}

impl<'a> TokenRows<'a> {
    /// `rows`: `[n, n_cols]`.
    pub fn new(rows: &'a [f32], n_cols: usize, scratch: &'a mut RowScratch) -> TokenRows<'a> {
        assert!(n_cols > 0 && rows.len() % n_cols == 0, "{} activations are not rows of {n_cols}", rows.len());
        TokenRows { rows, n_cols, scratch, ready: [false; ActivationForm::ALL.len()] }
    }

    fn prepare(&mut self, form: ActivationForm, kernels: &Kernels) {
        if self.ready[form as usize] {
            return;
        }
        let row_bytes = form.row_bytes(self.n_cols);
        let buffer = &mut self.scratch.forms[form as usize];
        let n = row_bytes * (self.rows.len() / self.n_cols);
        if buffer.len() < n {
            buffer.resize(n, 0);
        }
        for (row, out) in self.rows.chunks_exact(self.n_cols).zip(buffer.chunks_exact_mut(row_bytes)) {
            kernels.quantize(form, row, out);
        }
        self.ready[form as usize] = true;
    }

    /// Row `i` as the prepared `form`.
    fn row(&self, i: usize, form: ActivationForm) -> &[u8] {
        assert!(self.ready[form as usize], "activations that were not prepared as {form:?}");
        let row_bytes = form.row_bytes(self.n_cols);
        &self.scratch.forms[form as usize][i * row_bytes..][..row_bytes]
    }
}

/// Rows of one matrix ready to be multiplied with one row of activations.
struct Product<'a> {
    kernels: &'a Kernels,
    projection: Projection<'a>,
    activations: &'a [u8],
}

impl Product<'_> {
    /// The products of the rows from `first` on, as many as `out` has numbers.
    fn fill(&self, first: usize, out: &mut [f32]) {
        if out.is_empty() {
            return;
        }
        let Projection { weight, bias } = &self.projection;
        let rows = first..first + out.len();
        self.kernels.dot_rows(weight.ty(), weight.n_cols(), weight.row_range(rows.clone()), self.activations, out);
        if let Some(bias) = bias {
            out.iter_mut().zip(&bias[rows]).for_each(|(out, bias)| *out += bias);
        }
    }
}

impl Kernels {
    fn form(weight: &Matrix<'_>) -> ActivationForm {
        weight.ty().activation_form().expect("the loader admits only formats with kernels")
    }

    /// `projection` of row `i` of `x`, which is prepared in its form.
    fn row_product<'a>(&'a self, projection: Projection<'a>, x: &'a TokenRows<'_>, i: usize) -> Product<'a> {
        let weight = &projection.weight;
        assert_eq!(weight.n_cols(), x.n_cols, "weights and activations differ in length");
        Product { kernels: self, activations: x.row(i, Self::form(weight)), projection }
    }

    /// `out = [W₀ x + b₀, W₁ x + b₁, …]`, one after the other. `x`: one row.
    pub fn project<const N: usize>(
        &self,
        pool: &Pool,
        x: &mut TokenRows<'_>,
        projections: [Projection<'_>; N],
        out: &mut [f32],
    ) {
        projections.iter().for_each(|p| x.prepare(Self::form(&p.weight), self));
        let products = projections.map(|p| self.row_product(p, x, 0));
        assert_eq!(out.len(), projections.iter().map(|p| p.weight.n_rows()).sum::<usize>(), "output of the products");
        let [unit, most] = piece_rows(projections.iter().map(|p| row_bytes(&p.weight)).max().unwrap_or(0));
        pool.for_parts(out, unit, most, |mut start, part| {
            // The part is where `products` have their rows `start..`, those of all matrices counted on.
            let mut rest = part;
            for product in &products {
                let n_rows = product.projection.weight.n_rows();
                let here = n_rows.saturating_sub(start).min(rest.len());
                let (now, later) = std::mem::take(&mut rest).split_at_mut(here);
                product.fill(start, now);
                (start, rest) = ((start + here).saturating_sub(n_rows), later);
            }
        });
    }

    /// `out[slot] = silu(gate x) · (up x)` (SwiGLU, Shazeer 2020) for each slot of `out`: `[slots, n_ff]`, with the gate
    /// and up matrices that `gate_and_up` gives for it, all of one shape. `x`: one row. A thread reads a piece of the one and
    /// then of the other.
    pub fn project_gated<'a>(
        &self,
        pool: &Pool,
        x: &mut TokenRows<'_>,
        n_slots: usize,
        gate_and_up: impl Fn(usize) -> [Projection<'a>; 2] + Sync,
        out: &mut [f32],
    ) {
        let first = gate_and_up(0);
        first.iter().for_each(|p| x.prepare(Self::form(&p.weight), self));
        let n_ff = first[0].weight.n_rows();
        assert_eq!(out.len(), n_slots * n_ff, "output of the gated products");
        let [unit, most] = piece_rows(first.iter().map(|p| row_bytes(&p.weight)).max().unwrap_or(0));
        let x = &*x;
        pool.for_parts(out, unit, most, |mut start, part| {
            let mut rest = part;
            while !rest.is_empty() {
                let (slot, row) = (start / n_ff, start % n_ff);
                let (now, later) = rest.split_at_mut((n_ff - row).min(rest.len()));
                let mut ups = [0.0; PIECE_ROWS];
                let ups = &mut ups[..now.len()];
                let [gate, up] = gate_and_up(slot).map(|projection| self.row_product(projection, x, 0));
                gate.fill(row, now);
                up.fill(row, ups);
                self.swiglu(now, ups);
                (start, rest) = (start + now.len(), later);
            }
        });
    }

    /// `hidden += W x + b`. `x`: one row.
    pub fn add_product(&self, pool: &Pool, x: &mut TokenRows<'_>, projection: Projection<'_>, hidden: &mut [f32]) {
        let weight = &projection.weight;
        assert_eq!(hidden.len(), weight.n_rows(), "output of the product");
        x.prepare(Self::form(weight), self);
        let product = self.row_product(projection, x, 0);
        let [unit, most] = piece_rows(row_bytes(weight));
        pool.for_parts(hidden, unit, most, |start, part| {
            let mut products = [0.0; PIECE_ROWS];
            let products = &mut products[..part.len()];
            product.fill(start, products);
            self.add(part, products);
        });
    }

    /// `hidden += Σ weights[slot] · down x[slot]`, summed in the order of the slots, with the matrix that `down` gives for
    /// each, all of one format. `x`: a row for each slot.
    pub fn add_projected<'a>(
        &self,
        pool: &Pool,
        x: &mut TokenRows<'_>,
        weights: &[f32],
        down: impl Fn(usize) -> Projection<'a> + Sync,
        hidden: &mut [f32],
    ) {
        let n_out = hidden.len();
        let mut out = std::mem::take(&mut x.scratch.products);
        let products = sized(&mut out, weights.len() * n_out);
        self.project_slots(pool, x, weights.len(), down, products);
        self.add_weighted(weights, |slot| &products[slot * n_out..][..n_out], hidden);
        x.scratch.products = out;
    }

    /// `out[slot] = W x[slot] + b` for each slot, `[slots, n_out]`, with the matrix that `projection` gives for it, all of
    /// one shape and format. `x`: a row for each slot. With [`Kernels::add_weighted`] it makes in two steps, and to the
    /// bit, what [`Kernels::add_projected`] makes in one.
    pub fn project_slots<'a>(
        &self,
        pool: &Pool,
        x: &mut TokenRows<'_>,
        n_slots: usize,
        projection: impl Fn(usize) -> Projection<'a> + Sync,
        out: &mut [f32],
    ) {
        let first = projection(0).weight;
        assert_eq!(out.len(), n_slots * first.n_rows(), "output of the products");
        x.prepare(Self::form(&first), self);
        let x = &*x;
        let product = |slot| self.row_product(projection(slot), x, slot);
        self.stream(pool, first.n_rows(), row_bytes(&first), product, out);
    }

    /// `out[i] = product(i)`, `[n, n_out]`: one matrix after the other. Two matrices read in turns, 8 KiB of each, took Zen 4
    /// up to 1.6 times as long (`tests/bench/EXPERIMENTS.md`); in how many streams a piece is read is the kernel's choice.
    fn stream<'a>(
        &self,
        pool: &Pool,
        n_out: usize,
        row_bytes: usize,
        product: impl Fn(usize) -> Product<'a> + Sync,
        out: &mut [f32],
    ) {
        let [unit, most] = piece_rows(row_bytes);
        pool.for_parts(out, unit, most, |mut start, part| {
            let mut rest = part;
            while !rest.is_empty() {
                let (i, row) = (start / n_out, start % n_out);
                let (now, later) = rest.split_at_mut((n_out - row).min(rest.len()));
                product(i).fill(row, now);
                (start, rest) = (start + now.len(), later);
            }
        });
    }

    /// `hidden += Σ weights[slot] · row(slot)`, summed in the order of the slots.
    pub fn add_weighted<'a>(&self, weights: &[f32], row: impl Fn(usize) -> &'a [f32], hidden: &mut [f32]) {
        for (i, chunk) in hidden.chunks_mut(PIECE_ROWS).enumerate() {
            let rows = i * PIECE_ROWS..i * PIECE_ROWS + chunk.len();
            let mut sums = [0.0; PIECE_ROWS];
            let sums = &mut sums[..chunk.len()];
            for (slot, &weight) in weights.iter().enumerate() {
                self.add_scaled(sums, weight, &row(slot)[rows.clone()]);
            }
            self.add(chunk, sums);
        }
    }
}

/// The first `n` elements of a buffer that grows when it must.
pub(crate) fn sized(buffer: &mut Vec<f32>, n: usize) -> &mut [f32] {
    if buffer.len() < n {
        buffer.resize(n, 0.0);
    }
    &mut buffer[..n]
}

fn row_bytes(weight: &Matrix<'_>) -> usize {
    weight.bytes().len() / weight.n_rows().max(1)
}

/// Of rows of so many bytes, how many a thread takes at a time: a multiple of the first, and at the most the last.
fn piece_rows(row_bytes: usize) -> [usize; 2] {
    [LEAST_BYTES, PIECE_BYTES].map(|bytes| (bytes / row_bytes.max(1)).clamp(4, PIECE_ROWS) / 4 * 4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{ActivationScratch, Activations, Rows};
    use crate::quant::GgmlType;

    const N_IN: usize = 512;

    /// `n_rows` rows of `N_IN` weights of `ty`, whose bytes are of any value but whose scales are small numbers.
    fn weights(ty: GgmlType, n_rows: usize, seed: usize) -> Vec<u8> {
        let n = n_rows * ty.row_bytes(N_IN as u64).unwrap() as usize;
        match ty {
            GgmlType::F32 => (0..n / 4).flat_map(|i| value(i + seed).to_le_bytes()).collect(),
            _ => (0..n / 34)
                .flat_map(|b| {
                    let d = half::f16::from_f32(0.01 * (1 + b % 5) as f32).to_le_bytes();
                    d.into_iter().chain((0..32).map(move |i| ((b * 32 + i + seed) * 7919 % 255) as u8))
                })
                .collect(),
        }
    }

    fn value(i: usize) -> f32 {
        ((i * 7919 % 1009) as f32 - 500.0) / 300.0
    }

    fn values(n: usize) -> Vec<f32> {
        (0..n).map(value).collect()
    }

    /// `W x + b` as a batch computes it.
    fn product(kernels: &Kernels, pool: &Pool, p: &Projection<'_>, x: &[f32]) -> Vec<f32> {
        let mut out = vec![0.0; p.weight.n_rows()];
        let mut scratch = ActivationScratch::default();
        kernels.matmul(pool, &p.weight, &mut Activations::new(x, N_IN, &mut scratch), Rows::All, &mut out);
        if let Some(bias) = p.bias {
            kernels.add(&mut out, bias);
        }
        out
    }

    #[test]
    fn fused_products_have_the_bits_of_single_ones() {
        let kernels = Kernels::detect();
        for threads in [1, 3] {
            let pool = Pool::new(Some(threads)).unwrap();
            for (types, shapes) in [
                ([GgmlType::Q8_0, GgmlType::F32, GgmlType::Q8_0], [300, 7, 1]),
                ([GgmlType::F32, GgmlType::F32, GgmlType::Q8_0], [1, 1000, 513]),
            ] {
                let bytes: Vec<_> = (0..3).map(|i| weights(types[i], shapes[i], i)).collect();
                let bias = values(shapes[1]);
                let projection = |i: usize| Projection {
                    weight: Matrix::new(types[i], shapes[i], N_IN, &bytes[i]),
                    bias: (i == 1).then_some(&bias[..]),
                };
                let projections = std::array::from_fn::<_, 3, _>(projection);
                let x = values(N_IN);
                let mut scratch = RowScratch::default();
                let mut out = vec![f32::NAN; shapes.iter().sum()];
                kernels.project(&pool, &mut TokenRows::new(&x, N_IN, &mut scratch), projections, &mut out);
                let expected: Vec<f32> = projections.iter().flat_map(|p| product(&kernels, &pool, p, &x)).collect();
                assert_eq!(out, expected, "{types:?} {threads} threads");
            }
        }
    }

    #[test]
    fn a_gated_layer_of_several_experts_has_the_bits_of_its_steps() {
        let kernels = Kernels::detect();
        let pool = Pool::new(Some(2)).unwrap();
        let (n_ff, n_slots) = (37, 5);
        let bytes: Vec<_> = (0..2 * n_slots).map(|i| weights(GgmlType::Q8_0, n_ff, i)).collect();
        let projection =
            |i: usize| Projection { weight: Matrix::new(GgmlType::Q8_0, n_ff, N_IN, &bytes[i]), bias: None };
        let x = values(N_IN);
        let mut scratch = RowScratch::default();
        let mut out = vec![f32::NAN; n_slots * n_ff];
        let mut rows = TokenRows::new(&x, N_IN, &mut scratch);
        let gate_and_up = |slot| [projection(2 * slot), projection(2 * slot + 1)];
        kernels.project_gated(&pool, &mut rows, n_slots, gate_and_up, &mut out);
        let expected: Vec<f32> = (0..n_slots)
            .flat_map(|slot| {
                let [mut gate, up] = gate_and_up(slot).map(|p| product(&kernels, &pool, &p, &x));
                kernels.swiglu(&mut gate, &up);
                gate
            })
            .collect();
        assert_eq!(out, expected);

        let mut added = values(n_ff);
        let mut expected = added.clone();
        kernels.add_product(&pool, &mut TokenRows::new(&x, N_IN, &mut scratch), projection(3), &mut added);
        kernels.add(&mut expected, &product(&kernels, &pool, &projection(3), &x));
        assert_eq!(added, expected);

        let inner = values(n_slots * N_IN);
        let slot_weights = values(n_slots);
        let mut hidden = values(n_ff);
        let mut expected = hidden.clone();
        let mut rows = TokenRows::new(&inner, N_IN, &mut scratch);
        kernels.add_projected(&pool, &mut rows, &slot_weights, projection, &mut hidden);
        let outs: Vec<_> =
            (0..n_slots).map(|i| product(&kernels, &pool, &projection(i), &inner[i * N_IN..][..N_IN])).collect();
        for (row, x) in expected.iter_mut().enumerate() {
            *x += (0..n_slots).map(|slot| slot_weights[slot] * outs[slot][row]).sum::<f32>();
        }
        assert_eq!(hidden, expected);

        // The same in steps, whatever the order and company in which the slots are computed.
        let mut staged = values(n_ff);
        let mut products = vec![Vec::new(); n_slots];
        for group in [&[3, 0][..], &[4, 1, 2]] {
            let rows: Vec<f32> = group.iter().flat_map(|&slot| &inner[slot * N_IN..][..N_IN]).copied().collect();
            let mut out = vec![f32::NAN; group.len() * n_ff];
            let mut rows = TokenRows::new(&rows, N_IN, &mut scratch);
            kernels.project_slots(&pool, &mut rows, group.len(), |i| projection(group[i]), &mut out);
            group.iter().zip(out.chunks_exact(n_ff)).for_each(|(&slot, row)| products[slot] = row.to_vec());
        }
        kernels.add_weighted(&slot_weights, |slot| &products[slot], &mut staged);
        assert_eq!(staged, expected);
    }
}
