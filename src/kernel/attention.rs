//! Attention of one query head over the cached positions, with ggml's roundings: the query and the softmax weights meet
//! the f16 cache as f16, products are summed in f32.

use std::cell::RefCell;

use half::f16;

use super::{Kernels, ops};

thread_local! {
    /// The scores of the head at hand, kept by each compute thread so that decoding allocates nothing.
    static SCORES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl Kernels {
    /// `out = softmax(scale · q·keysᵀ) · values`. `q`: `[head_dim_k]`, already rounded to f16; `out`: `[head_dim_v]`; `runs`: the
    /// positions in order, as runs of `([n, head_dim_k], [n, head_dim_v])`.
    pub fn attend<'c>(
        &self,
        q: &[f32],
        scale: f32,
        runs: impl Iterator<Item = (&'c [f16], &'c [f16])> + Clone,
        out: &mut [f32],
    ) {
        SCORES.with_borrow_mut(|scores| {
            scores.clear();
            for (keys, _) in runs.clone() {
                scores.extend(keys.chunks_exact(q.len()).map(|key| scale * self.dot_f16(q, key)));
            }
            ops::softmax(scores);
            out.fill(0.0);
            let mut weights = scores.iter();
            for (_, values) in runs {
                for (value, &weight) in values.chunks_exact(out.len()).zip(&mut weights) {
                    self.add_scaled_f16(out, round_to_f16(weight), value);
                }
            }
        });
    }
}

/// The nearest number that f16 holds.
pub fn round_to_f16(x: f32) -> f32 {
    f16::from_f32(x).to_f32()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Isa;

    #[test]
    fn attention_equals_a_plain_softmax_on_every_isa() {
        let (n, dim) = (200, 48);
        let value = |i: usize| ((i * 7919 % 1000) as f32 - 500.0) / 250.0;
        let q: Vec<f32> = (0..dim).map(|i| value(i) / 3.0).collect();
        let keys: Vec<f16> = (0..n * dim).map(|i| f16::from_f32(value(i + 5))).collect();
        let values: Vec<f16> = (0..n * dim).map(|i| f16::from_f32(value(i * 3 + 1))).collect();
        let dot = |p: usize| (0..dim).map(|i| f64::from(q[i]) * f64::from(keys[p * dim + i].to_f32())).sum::<f64>();
        let weights: Vec<f64> = (0..n).map(|p| (0.25 * dot(p)).exp()).collect();
        let total: f64 = weights.iter().sum();
        let runs = [(&keys[..70 * dim], &values[..70 * dim]), (&keys[70 * dim..], &values[70 * dim..])];
        for kernels in Isa::ALL.into_iter().filter_map(Kernels::new) {
            let mut out = vec![f32::NAN; dim];
            kernels.attend(&q, 0.25, runs.into_iter(), &mut out);
            for (i, &got) in out.iter().enumerate() {
                let expected: f64 =
                    (0..n).map(|p| weights[p] * f64::from(values[p * dim + i].to_f32())).sum::<f64>() / total;
                // The weights are rounded to 11 bits.
                assert!((f64::from(got) - expected).abs() < 1e-3, "{:?}: {got} against {expected}", kernels.isa());
            }
        }
    }
}
