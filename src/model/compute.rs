//! What computes, and the steps of a layer in its terms: matrix products of one token, fused and handed over together, or
//! of a batch, one after the other. Both give the same bits.

use crate::kernel::{ActivationScratch, Activations, Kernels, Matrix, Projection, RowScratch, Rows, TokenRows, sized};
use crate::pool::Pool;
use crate::quant::{ActivationForm, GgmlType};

use super::weights::Linear;

/// What computes: the kernels of this CPU, and its threads.
#[derive(Debug)]
pub struct Compute {
    pub kernels: Kernels,
    pub pool: Pool,
}

/// Buffers of the products, grown to the largest batch seen and then kept.
#[derive(Debug, Default)]
pub(super) struct ProductScratch {
    pub token: RowScratch,
    pub batch: ActivationScratch,
    /// The input of the down matrix.
    inner: ActivationScratch,
    /// `[n_ff]`, of one token.
    gated: Vec<f32>,
}

impl<'a> Linear<'a> {
    pub(super) fn projection(&self) -> Projection<'_> {
        Projection { weight: self.weight, bias: self.bias.as_deref() }
    }
}

/// A matrix without a bias.
pub(super) fn unbiased(weight: Matrix<'_>) -> Projection<'_> {
    Projection { weight, bias: None }
}

/// The form that activations take for weights of a format.
pub(super) fn activation_form(weights: GgmlType) -> ActivationForm {
    weights.activation_form().expect("the loader admits only formats with kernels")
}

impl Compute {
    /// RMS norm of every row of `x` into `out`.
    pub(super) fn norm(&self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        let n = weight.len();
        self.pool.for_rows(out, n, |i, out| self.kernels.rms_norm(&x[i * n..][..n], weight, eps, out));
    }

    /// `W x + b` for every matrix and row of `x`. `out`: for each matrix `[rows of x, n_out]`, one after the other.
    pub(super) fn project<const N: usize>(
        &self,
        linears: [&Linear<'_>; N],
        x: &[f32],
        scratch: &mut ProductScratch,
        out: &mut [f32],
    ) {
        let n_in = linears[0].weight.n_cols();
        if x.len() == n_in {
            let mut x = TokenRows::new(x, n_in, &mut scratch.token);
            return self.kernels.project(&self.pool, &mut x, linears.map(Linear::projection), out);
        }
        let n = x.len() / n_in;
        let mut x = Activations::new(x, n_in, &mut scratch.batch);
        let mut rest = out;
        for linear in linears {
            let (now, later) = rest.split_at_mut(n * linear.weight.n_rows());
            self.product(linear, &mut x, now);
            rest = later;
        }
        assert!(rest.is_empty(), "output of the products");
    }

    /// `hidden += down (silu(gate x) · (up x))` (SwiGLU, Shazeer 2020).
    pub(super) fn add_gated(
        &self,
        [gate, up, down]: [&Linear<'_>; 3],
        x: &[f32],
        scratch: &mut ProductScratch,
        hidden: &mut [f32],
    ) {
        let (n_in, n_ff) = (gate.weight.n_cols(), gate.weight.n_rows());
        let both = [gate.projection(), up.projection()];
        if x.len() == n_in {
            let gated = sized(&mut scratch.gated, n_ff);
            self.kernels.project_gated(
                &self.pool,
                &mut TokenRows::new(x, n_in, &mut scratch.token),
                1,
                |_| both,
                gated,
            );
            let mut gated = TokenRows::new(gated, n_ff, &mut scratch.token);
            return self.kernels.add_product(&self.pool, &mut gated, down.projection(), hidden);
        }
        let ProductScratch { batch, inner, .. } = scratch;
        let mut x = Activations::new(x, n_in, batch);
        let mut gated = self.kernels.gated(&self.pool, both, &mut x, activation_form(down.weight.ty()), inner);
        self.kernels.matmul_add(&self.pool, down.projection(), &mut gated, hidden);
    }

    /// `hidden += W x + b`, `[rows of x, n_out]`.
    pub(super) fn add_projected(
        &self,
        linear: &Linear<'_>,
        x: &[f32],
        scratch: &mut ProductScratch,
        hidden: &mut [f32],
    ) {
        let n_in = linear.weight.n_cols();
        if x.len() == n_in {
            let mut x = TokenRows::new(x, n_in, &mut scratch.token);
            return self.kernels.add_product(&self.pool, &mut x, linear.projection(), hidden);
        }
        let mut x = Activations::new(x, n_in, &mut scratch.batch);
        self.kernels.matmul_add(&self.pool, linear.projection(), &mut x, hidden);
    }

    /// `out = W x + b` for a batch.
    fn product(&self, linear: &Linear<'_>, x: &mut Activations<'_>, out: &mut [f32]) {
        self.kernels.matmul(&self.pool, &linear.weight, x, Rows::All, out);
        if let Some(bias) = &linear.bias {
            self.pool.for_rows(out, bias.len(), |_, row| self.kernels.add(row, bias));
        }
    }
}
