//! The gated half of an FFN for a batch: `silu(W_gate x) · (W_up x)` (SwiGLU, Shazeer 2020). A thread makes some columns of
//! both products, gates them and quantizes the result while it has them in cache, so that none of it passes through memory
//! in f32. Every number is to the bit what the products one after the other give.

#![allow(unsafe_code, reason = "threads write disjoint columns of one output")]

use std::cell::RefCell;
use std::ops::Range;

use super::Kernels;
use super::activations::{ActivationScratch, Activations, Grouped, Rows};
use super::fused::{Projection, sized};
use super::matmul::{Matrix, Ready};
use super::output::{Output, Then};
use crate::pool::Pool;
use crate::quant::ActivationForm;

/// Rows of activations that are gated at a time, and columns at the most: they are half a megabyte then, and the sums of a product
/// as much, of the two that a second level of cache holds.
pub const MAX_GATED_ROWS: usize = 512;
const MAX_COLUMNS: usize = 256;

thread_local! {
    /// `[rows of a group, columns]`: of the gate's product, and then what it gates.
    static COLUMNS: RefCell<Vec<f32>> = RefCell::default();
}

impl Kernels {
    /// `silu(W_gate x + b) · (W_up x + b)` in `form`, for each group of rows of `x` with the gate and up matrices that
    /// `gate_and_up` gives for it, all of one shape and, of gate and up each, one format. Row `i` is that of row `i` of `rows`.
    ///
    /// # Panics
    /// Where the shapes do not fit or a format cannot be computed with (the model's loader refuses those).
    pub fn gated_groups<'w, 's>(
        &self,
        pool: &Pool,
        gate_and_up: impl Fn(usize) -> [Projection<'w>; 2] + Sync,
        x: &mut Activations<'_>,
        rows: Grouped<'_>,
        form: ActivationForm,
        scratch: &'s mut ActivationScratch,
    ) -> Activations<'s> {
        let n_groups = rows.check(x);
        if n_groups == 0 {
            return Activations::in_form(form, 0, 1, x.n_batch, scratch);
        }
        let shape = |w: &Matrix<'_>| (w.ty(), w.n_rows(), w.n_cols());
        let first = gate_and_up(0).map(|p| p.weight);
        let n_ff = first[0].n_rows();
        assert_eq!(n_ff, first[1].n_rows(), "gate and up differ in length");
        let shapes = first.each_ref().map(shape);
        let checked = |group: usize| {
            let both = gate_and_up(group);
            assert_eq!(both.each_ref().map(|p| shape(&p.weight)), shapes, "matrices of groups differ");
            both
        };
        let ready = first.each_ref().map(|w| self.make_ready(pool, w, x, rows));
        let x = &*x;
        let range_rows = |i: usize| ready[i].range_rows(&first[i], pool);
        let len = range_rows(0).max(range_rows(1)).min(MAX_COLUMNS).next_multiple_of(form.block_len());
        let n_pieces = n_ff.div_ceil(len);
        let starts = rows.starts;
        let mut gated = Activations::in_form(form, starts[n_groups], n_ff, x.n_batch, scratch);
        let output = Output::new(gated.bytes_mut(form), starts[n_groups], form.row_bytes(n_ff), Rows::All);
        pool.for_ranges(n_groups * n_pieces, 1, |range| {
            for i in range {
                let (group, piece) = (i / n_pieces, i % n_pieces);
                let columns = piece * len..n_ff.min((piece + 1) * len);
                let both = checked(group);
                let [gate, up] = both.map(|p| p.weight);
                let after = || (group + 1 < n_groups).then(|| checked(group + 1)[0].weight);
                let next = [up.row_range(columns.start..n_ff), gate.rows_from(columns.end, after)];
                let output = output.part(starts[group]..starts[group + 1]);
                self.gate_columns(&ready, x, group, both, next, columns, form, &output);
            }
        });
        gated
    }

    /// As [`Kernels::gated_groups`], for all rows with the same matrices.
    ///
    /// # Panics
    /// As there.
    pub fn gated<'s>(
        &self,
        pool: &Pool,
        gate_and_up: [Projection<'_>; 2],
        x: &mut Activations<'_>,
        form: ActivationForm,
        scratch: &'s mut ActivationScratch,
    ) -> Activations<'s> {
        let n = x.n_rows();
        let starts: Vec<usize> = (0..n).step_by(MAX_GATED_ROWS).chain([n]).collect();
        let rows = Grouped { rows: Rows::All, starts: &starts };
        self.gated_groups(pool, |_| gate_and_up, x, rows, form, scratch)
    }

    /// Makes some columns of a group.
    #[expect(clippy::too_many_arguments, reason = "what is multiplied, which part of it, and where it goes")]
    fn gate_columns(
        &self,
        ready: &[Ready<'_>; 2],
        x: &Activations<'_>,
        group: usize,
        gate_and_up: [Projection<'_>; 2],
        next: [&[u8]; 2],
        columns: Range<usize>,
        form: ActivationForm,
        output: &Output<'_, u8>,
    ) {
        let len = columns.len();
        let bytes = form.row_bytes(columns.start)..form.row_bytes(columns.end);
        COLUMNS.with_borrow_mut(|gated| {
            let n = output.n_rows();
            let gated = sized(gated, n * len);
            let [gate, up] = gate_and_up;
            let product = |i: usize, weight: Matrix<'_>, gated: &mut [f32], then: Then<'_>| {
                let out = Output::new(gated, n, len, Rows::All).beginning_at(columns.start).then(then);
                self.compute(&ready[i], x, group, weight, columns.clone(), next[i], &out);
            };
            product(0, gate.weight, gated, Then::Put);
            if let Some(bias) = gate.bias {
                gated.chunks_exact_mut(len).for_each(|row| self.add(row, &bias[columns.clone()]));
            }
            let gate = |row: usize, gated: &mut [f32], ups: &mut [f32]| {
                let first = gated.len() - ups.len();
                if let Some(bias) = up.bias {
                    self.add(ups, &bias[columns.start + first..][..ups.len()]);
                }
                self.swiglu(&mut gated[first..], ups);
                if gated.len() < len {
                    return;
                }
                // SAFETY: every piece of work has columns of its own, and blocks of the form do not reach over their ends.
                self.quantize(form, gated, unsafe { output.columns(row, bytes.clone()) });
            };
            product(1, up.weight, gated, Then::Give(&gate));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Isa;
    use crate::quant::GgmlType;
    use crate::quant::testing::{Random, Scales, Values, values, weights};

    const N_IN: usize = 512;

    /// The matrices of a format, one a group, and their bias.
    struct Linears {
        ty: GgmlType,
        n_ff: usize,
        matrices: Vec<Vec<u8>>,
        bias: Option<Vec<f32>>,
    }

    impl Linears {
        fn new(ty: GgmlType, n_ff: usize, n_groups: usize, is_biased: bool, random: &mut Random) -> Linears {
            let rows = |random: &mut Random| {
                (0..n_ff).flat_map(|_| weights(ty, N_IN / ty.block_len(), Scales::Usual, random)).collect()
            };
            let matrices = (0..n_groups).map(|_| rows(random)).collect();
            Linears { ty, n_ff, matrices, bias: is_biased.then(|| values(n_ff, Values::Usual, random)) }
        }

        fn of(&self, group: usize) -> Projection<'_> {
            let weight = Matrix::new(self.ty, self.n_ff, N_IN, &self.matrices[group]);
            Projection { weight, bias: self.bias.as_deref() }
        }

        /// `W x + b` of each group.
        fn products(&self, kernels: &Kernels, pool: &Pool, x: &mut Activations<'_>, rows: Grouped<'_>) -> Vec<f32> {
            let n = rows.starts[rows.starts.len() - 1];
            let mut out = vec![f32::NAN; n * self.n_ff];
            kernels.matmul_groups(pool, |group| self.of(group).weight, x, rows, &mut out, Rows::All);
            if let Some(bias) = &self.bias {
                out.chunks_exact_mut(self.n_ff).for_each(|row| kernels.add(row, bias));
            }
            out
        }
    }

    /// What the steps one after the other give.
    fn expected(
        kernels: &Kernels,
        pool: &Pool,
        linears: &[Linears; 2],
        x: &[f32],
        rows: Grouped<'_>,
        form: ActivationForm,
    ) -> Vec<u8> {
        let mut scratch = ActivationScratch::default();
        let mut x = Activations::new(x, N_IN, &mut scratch);
        let [mut gate, up] = linears.each_ref().map(|l| l.products(kernels, pool, &mut x, rows));
        let n_ff = linears[0].n_ff;
        let quantized = |(gate, up): (&mut [f32], &[f32])| {
            let mut out = vec![0; form.row_bytes(n_ff)];
            kernels.swiglu(gate, up);
            kernels.quantize(form, gate, &mut out);
            out
        };
        gate.chunks_exact_mut(n_ff).zip(up.chunks_exact(n_ff)).flat_map(quantized).collect()
    }

    #[test]
    fn gated_rows_are_those_of_the_steps_one_after_the_other() {
        use GgmlType::{F32, Q4_0, Q4_K, Q5_1, Q6_K, Q8_0};
        let mut random = Random(7);
        let x = values(90 * N_IN, Values::Usual, &mut random);
        let indices: Vec<u32> = (0..90).map(|i| i * 37 % 90).collect();
        let (pool, starts) = (Pool::new(Some(3)).unwrap(), [0, 1, 34, 34, 71, 90]);
        let some = Grouped { rows: Rows::Only(&indices), starts: &starts };
        for (types, n_ff, form) in [
            ([Q4_K, Q4_K], 768, ActivationForm::Q8_K),
            ([Q4_K, Q6_K], 512, ActivationForm::F16),
            // Of different forms, and of different forms whose tiles have one place.
            ([Q4_K, Q8_0], 256, ActivationForm::Q8_0),
            ([Q4_0, Q5_1], 288, ActivationForm::Q8_1),
            ([F32, Q4_0], 77, ActivationForm::F32),
        ] {
            let linears = [0, 1].map(|i| Linears::new(types[i], n_ff, 5, i == 0 || n_ff == 512, &mut random));
            for kernels in Isa::ALL.into_iter().filter_map(Kernels::new) {
                let what = format!("{types:?} on {}", kernels.isa());
                let both = |group: usize| linears.each_ref().map(|l| l.of(group));
                let (mut outer, mut inner) = Default::default();
                let mut acts = Activations::new(&x, N_IN, &mut outer);
                let mut gated = kernels.gated_groups(&pool, both, &mut acts, some, form, &mut inner);
                let steps = expected(&kernels, &pool, &linears, &x, some, form);
                assert!(gated.bytes_mut(form) == steps, "groups, {what}");
                let all = Grouped { rows: Rows::All, starts: &[0, 90] };
                let mut gated = kernels.gated(&pool, both(0), &mut acts, form, &mut inner);
                assert!(
                    gated.bytes_mut(form) == expected(&kernels, &pool, &linears, &x, all, form),
                    "all rows, {what}"
                );
            }
        }
    }

    #[test]
    fn more_rows_than_are_gated_at_a_time_are_all_made() {
        let mut random = Random(8);
        let n = MAX_GATED_ROWS + 3;
        let x = values(n * N_IN, Values::Usual, &mut random);
        let (pool, kernels) = (Pool::new(Some(2)).unwrap(), Kernels::detect());
        let linears = [false, true].map(|biased| Linears::new(GgmlType::Q4_K, 512, 1, biased, &mut random));
        let (mut outer, mut inner) = Default::default();
        let mut acts = Activations::new(&x, N_IN, &mut outer);
        let both = linears.each_ref().map(|l| l.of(0));
        let mut gated = kernels.gated(&pool, both, &mut acts, ActivationForm::Q8_K, &mut inner);
        let all = Grouped { rows: Rows::All, starts: &[0, n] };
        let steps = expected(&kernels, &pool, &linears, &x, all, ActivationForm::Q8_K);
        assert!(gated.bytes_mut(ActivationForm::Q8_K) == steps);
    }
}
