//! Attention of one query head over a run of cached positions, with an online softmax (Milakov and Gimelshein 2018;
//! FlashAttention, Dao et al. 2022), so that no buffer grows with the context.

use half::f16;

use super::Kernels;

/// Positions taken at a time: the scores of one run live on the stack.
const RUN: usize = 64;

/// The state of one query head on its way over the keys: the largest score so far, the sum of the weights, and the
/// weighted sum of the values in `acc`.
#[derive(Debug)]
pub struct OnlineSoftmax<'a> {
    max: f32,
    sum: f32,
    acc: &'a mut [f32],
}

impl<'a> OnlineSoftmax<'a> {
    /// `acc`: `[head_dim_v]`, overwritten.
    pub fn new(acc: &'a mut [f32]) -> OnlineSoftmax<'a> {
        acc.fill(0.0);
        OnlineSoftmax { max: f32::NEG_INFINITY, sum: 0.0, acc }
    }

    /// Takes in consecutive positions. `q`: `[head_dim_k]`, already scaled; `keys`: `[n, head_dim_k]`; `values`: `[n, head_dim_v]`.
    pub fn extend(&mut self, kernels: &Kernels, q: &[f32], keys: &[f16], values: &[f16]) {
        let (dim_k, dim_v) = (q.len(), self.acc.len());
        assert_eq!(keys.len() / dim_k, values.len() / dim_v, "keys and values differ in positions");
        for (keys, values) in keys.chunks(RUN * dim_k).zip(values.chunks(RUN * dim_v)) {
            let mut scores = [0.0f32; RUN];
            let n = keys.len() / dim_k;
            let mut run_max = f32::NEG_INFINITY;
            for (score, key) in scores[..n].iter_mut().zip(keys.chunks_exact(dim_k)) {
                *score = kernels.dot_f16(q, key);
                run_max = run_max.max(*score);
            }
            if run_max > self.max {
                let shrink = (self.max - run_max).exp();
                self.sum *= shrink;
                self.acc.iter_mut().for_each(|a| *a *= shrink);
                self.max = run_max;
            }
            for (score, value) in scores[..n].iter().zip(values.chunks_exact(dim_v)) {
                let weight = (score - self.max).exp();
                self.sum += weight;
                kernels.add_scaled_f16(self.acc, weight, value);
            }
        }
    }

    /// Divides by the sum of the weights.
    pub fn finish(self) {
        let scale = 1.0 / self.sum;
        self.acc.iter_mut().for_each(|a| *a *= scale);
    }
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
        let weights: Vec<f64> = (0..n).map(|p| dot(p).exp()).collect();
        let total: f64 = weights.iter().sum();
        for kernels in Isa::ALL.into_iter().filter_map(Kernels::new) {
            let mut acc = vec![f32::NAN; dim];
            let mut softmax = OnlineSoftmax::new(&mut acc);
            softmax.extend(&kernels, &q, &keys[..70 * dim], &values[..70 * dim]);
            softmax.extend(&kernels, &q, &keys[70 * dim..], &values[70 * dim..]);
            softmax.finish();
            for (i, &got) in acc.iter().enumerate() {
                let expected: f64 =
                    (0..n).map(|p| weights[p] * f64::from(values[p * dim + i].to_f32())).sum::<f64>() / total;
                assert!((f64::from(got) - expected).abs() < 1e-5, "{:?}: {got} against {expected}", kernels.isa());
            }
        }
    }
}
