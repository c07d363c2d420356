//! Attention of one query head over the cached positions, with ggml's roundings: the query and the softmax weights meet
//! the f16 cache as f16, products are summed in f32. Sums run in sixteen interleaved lanes on every instruction set, so
//! that all of them give the same bits.

#![allow(unsafe_code, reason = "AVX2 and AVX-512 intrinsics")]

use std::cell::RefCell;

use half::f16;

use super::{Isa, Kernels};
use crate::quant::{LANES, fold_lanes};

/// Buffers of the head at hand, kept by each compute thread so that decoding allocates nothing.
#[derive(Default)]
struct Buffers {
    /// `[positions]`
    scores: Vec<f32>,
    /// `[LANES, head_dim_v]`: the sum over positions, lane by lane.
    lanes: Vec<f32>,
}

thread_local! {
    static BUFFERS: RefCell<Buffers> = const { RefCell::new(Buffers { scores: Vec::new(), lanes: Vec::new() }) };
}

impl Kernels {
    /// `out = softmax(scale · q·keysᵀ) · values` over positions `first..`. `q`: `[head_dim_k]`, already rounded to f16; `out`:
    /// `[head_dim_v]`; `runs`: the positions in order, as runs of `([n, head_dim_k], [n, head_dim_v])`.
    pub fn attend<'c>(
        &self,
        q: &[f32],
        scale: f32,
        first: usize,
        runs: impl Iterator<Item = (&'c [f16], &'c [f16])> + Clone,
        out: &mut [f32],
    ) {
        let dim = out.len();
        BUFFERS.with_borrow_mut(|Buffers { scores, lanes }| {
            scores.clear();
            for (keys, _) in runs.clone() {
                scores.extend(keys.chunks_exact(q.len()).map(|key| scale * self.dot_f16(q, key)));
            }
            self.softmax(scores);
            scores.iter_mut().for_each(|w| *w = round_to_f16(*w));
            lanes.clear();
            lanes.resize(LANES * dim, 0.0);
            let (mut position, mut weights) = (first, &scores[..]);
            for (_, values) in runs {
                let (now, rest) = weights.split_at(values.len() / dim);
                self.weighted_sum(position, now, values, lanes);
                position += now.len();
                weights = rest;
            }
            for (d, out) in out.iter_mut().enumerate() {
                *out = fold_lanes(std::array::from_fn(|lane| lanes[lane * dim + d]));
            }
        });
    }

    /// `Σ x[i] · y[i]`, in lanes.
    pub fn dot_f16(&self, x: &[f32], y: &[f16]) -> f32 {
        assert_eq!(x.len(), y.len(), "dot product of different lengths");
        let whole = x.len() / LANES * LANES;
        let mut lanes = match self.isa() {
            Isa::Scalar => scalar_dot(&x[..whole], &y[..whole]),
            // SAFETY: kernels above scalar are proof of AVX2, FMA and F16C.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { x86::dot_avx2(&x[..whole], &y[..whole]) },
            // SAFETY: these kernels are proof of AVX-512F.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Amx => unsafe { x86::dot_avx512(&x[..whole], &y[..whole]) },
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512 | Isa::Amx => unreachable!("x86 kernels on another architecture"),
        };
        for ((lane, x), y) in lanes.iter_mut().zip(&x[whole..]).zip(&y[whole..]) {
            *lane = x.mul_add(y.to_f32(), *lane);
        }
        fold_lanes(lanes)
    }

    /// `lanes[(position + p) % LANES] += weights[p] · values[p]`. `values`: `[n, dim]`; `lanes`: `[LANES, dim]`.
    fn weighted_sum(&self, position: usize, weights: &[f32], values: &[f16], lanes: &mut [f32]) {
        let dim = lanes.len() / LANES;
        assert_eq!(values.len(), weights.len() * dim, "weights and values differ in positions");
        // Up to the first position of lane 0, then whole rounds of the lanes, then the rest.
        let head = ((LANES - position % LANES) % LANES).min(weights.len());
        let tail = head + (weights.len() - head) / LANES * LANES;
        scalar_weighted_sum(position % LANES, &weights[..head], &values[..head * dim], lanes);
        let (weights_whole, values_whole) = (&weights[head..tail], &values[head * dim..tail * dim]);
        match self.isa() {
            Isa::Scalar => scalar_weighted_sum(0, weights_whole, values_whole, lanes),
            // SAFETY: kernels above scalar are proof of AVX2, FMA and F16C.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { x86::weighted_sum_avx2(weights_whole, values_whole, lanes) },
            // SAFETY: these kernels are proof of AVX-512F.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Amx => unsafe { x86::weighted_sum_avx512(weights_whole, values_whole, lanes) },
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512 | Isa::Amx => unreachable!("x86 kernels on another architecture"),
        }
        scalar_weighted_sum(0, &weights[tail..], &values[tail * dim..], lanes);
    }
}

/// The nearest number that f16 holds.
pub fn round_to_f16(x: f32) -> f32 {
    f16::from_f32(x).to_f32()
}

fn scalar_dot(x: &[f32], y: &[f16]) -> [f32; LANES] {
    let mut lanes = [0.0f32; LANES];
    for (x, y) in x.chunks_exact(LANES).zip(y.chunks_exact(LANES)) {
        for ((lane, x), y) in lanes.iter_mut().zip(x).zip(y) {
            *lane = x.mul_add(y.to_f32(), *lane);
        }
    }
    lanes
}

fn scalar_weighted_sum(first_lane: usize, weights: &[f32], values: &[f16], lanes: &mut [f32]) {
    let dim = lanes.len() / LANES;
    for (p, (weight, value)) in weights.iter().zip(values.chunks_exact(dim)).enumerate() {
        let lane = &mut lanes[(first_lane + p) % LANES * dim..][..dim];
        for (sum, v) in lane.iter_mut().zip(value) {
            *sum = weight.mul_add(v.to_f32(), *sum);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use core::arch::x86_64::*;

    use half::f16;

    use super::LANES;

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn dot_avx2(x: &[f32], y: &[f16]) -> [f32; LANES] {
        assert!(x.len() == y.len() && x.len() % LANES == 0);
        let mut sums = [_mm256_setzero_ps(); 2];
        for i in (0..x.len()).step_by(LANES) {
            for (j, sum) in sums.iter_mut().enumerate() {
                // SAFETY: `i + LANES <= len` of both slices.
                let (a, b) = unsafe {
                    (_mm256_loadu_ps(x.as_ptr().add(i + 8 * j)), _mm_loadu_si128(y.as_ptr().add(i + 8 * j).cast()))
                };
                *sum = _mm256_fmadd_ps(a, _mm256_cvtph_ps(b), *sum);
            }
        }
        let mut lanes = [0.0; LANES];
        // SAFETY: sixteen floats are two registers.
        unsafe {
            _mm256_storeu_ps(lanes.as_mut_ptr(), sums[0]);
            _mm256_storeu_ps(lanes.as_mut_ptr().add(8), sums[1]);
        }
        lanes
    }

    #[target_feature(enable = "avx512f")]
    pub(super) fn dot_avx512(x: &[f32], y: &[f16]) -> [f32; LANES] {
        assert!(x.len() == y.len() && x.len() % LANES == 0);
        let mut sum = _mm512_setzero_ps();
        for i in (0..x.len()).step_by(LANES) {
            // SAFETY: `i + LANES <= len` of both slices.
            let (a, b) = unsafe { (_mm512_loadu_ps(x.as_ptr().add(i)), _mm256_loadu_si256(y.as_ptr().add(i).cast())) };
            sum = _mm512_fmadd_ps(a, _mm512_cvtph_ps(b), sum);
        }
        let mut lanes = [0.0; LANES];
        // SAFETY: sixteen floats are one register.
        unsafe { _mm512_storeu_ps(lanes.as_mut_ptr(), sum) };
        lanes
    }

    /// One register of dimensions at a time, with a sum a lane; `weights` are whole rounds of the lanes.
    #[target_feature(enable = "avx512f")]
    pub(super) fn weighted_sum_avx512(weights: &[f32], values: &[f16], lanes: &mut [f32]) {
        let dim = lanes.len() / LANES;
        assert!(weights.len() % LANES == 0 && values.len() == weights.len() * dim && lanes.len() == LANES * dim);
        let whole = dim / 16 * 16;
        for d in (0..whole).step_by(16) {
            let mut sums = [_mm512_setzero_ps(); LANES];
            for (lane, sum) in sums.iter_mut().enumerate() {
                // SAFETY: `lane · dim + d + 16 <= LANES · dim`.
                *sum = unsafe { _mm512_loadu_ps(lanes.as_ptr().add(lane * dim + d)) };
            }
            for p in (0..weights.len()).step_by(LANES) {
                for (lane, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: `(p + lane) · dim + d + 16 <= weights · dim`, the length of `values`.
                    let value = unsafe { _mm256_loadu_si256(values.as_ptr().add((p + lane) * dim + d).cast()) };
                    *sum = _mm512_fmadd_ps(_mm512_set1_ps(weights[p + lane]), _mm512_cvtph_ps(value), *sum);
                }
            }
            for (lane, sum) in sums.iter().enumerate() {
                // SAFETY: as for the load.
                unsafe { _mm512_storeu_ps(lanes.as_mut_ptr().add(lane * dim + d), *sum) };
            }
        }
        rest(whole, weights, values, lanes);
    }

    /// As the AVX-512 one, with eight dimensions at a time.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn weighted_sum_avx2(weights: &[f32], values: &[f16], lanes: &mut [f32]) {
        let dim = lanes.len() / LANES;
        assert!(weights.len() % LANES == 0 && values.len() == weights.len() * dim && lanes.len() == LANES * dim);
        let whole = dim / 8 * 8;
        for d in (0..whole).step_by(8) {
            // Eight sums leave registers free for the values, so the lanes go in two halves.
            for half in [0, 8] {
                let mut sums = [_mm256_setzero_ps(); 8];
                for (lane, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: `(half + lane) · dim + d + 8 <= LANES · dim`.
                    *sum = unsafe { _mm256_loadu_ps(lanes.as_ptr().add((half + lane) * dim + d)) };
                }
                for p in (half..weights.len()).step_by(LANES) {
                    for (lane, sum) in sums.iter_mut().enumerate() {
                        // SAFETY: `(p + lane) · dim + d + 8 <= weights · dim`, the length of `values`.
                        let value = unsafe { _mm_loadu_si128(values.as_ptr().add((p + lane) * dim + d).cast()) };
                        *sum = _mm256_fmadd_ps(_mm256_set1_ps(weights[p + lane]), _mm256_cvtph_ps(value), *sum);
                    }
                }
                for (lane, sum) in sums.iter().enumerate() {
                    // SAFETY: as for the load.
                    unsafe { _mm256_storeu_ps(lanes.as_mut_ptr().add((half + lane) * dim + d), *sum) };
                }
            }
        }
        rest(whole, weights, values, lanes);
    }

    /// The dimensions from `whole` on, which fill no register.
    fn rest(whole: usize, weights: &[f32], values: &[f16], lanes: &mut [f32]) {
        let dim = lanes.len() / LANES;
        for (p, (weight, value)) in weights.iter().zip(values.chunks_exact(dim)).enumerate() {
            for d in whole..dim {
                let sum = &mut lanes[p % LANES * dim + d];
                *sum = weight.mul_add(value[d].to_f32(), *sum);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attention_is_a_softmax_and_has_the_same_bits_on_every_isa() {
        for (n, dim, first) in [(1, 64, 0), (200, 48, 0), (77, 20, 5), (300, 128, 250)] {
            let value = |i: usize| ((i * 7919 % 1000) as f32 - 500.0) / 250.0;
            let q: Vec<f32> = (0..dim).map(|i| round_to_f16(value(i) / 3.0)).collect();
            let keys: Vec<f16> = (0..n * dim).map(|i| f16::from_f32(value(i + 5))).collect();
            let values: Vec<f16> = (0..n * dim).map(|i| f16::from_f32(value(i * 3 + 1))).collect();
            let dot = |p: usize| (0..dim).map(|i| f64::from(q[i] * keys[p * dim + i].to_f32())).sum::<f64>();
            let weights: Vec<f64> = (0..n).map(|p| (0.25 * dot(p)).exp()).collect();
            let total: f64 = weights.iter().sum();
            let cut = n / 3 * dim;
            let runs = [(&keys[..cut], &values[..cut]), (&keys[cut..], &values[cut..])];
            let attend = |kernels: Kernels| {
                let mut out = vec![f32::NAN; dim];
                kernels.attend(&q, 0.25, first, runs.into_iter(), &mut out);
                out
            };
            let judge = attend(Kernels::new(Isa::Scalar).unwrap());
            for (i, &got) in judge.iter().enumerate() {
                let expected: f64 =
                    (0..n).map(|p| weights[p] * f64::from(values[p * dim + i].to_f32())).sum::<f64>() / total;
                // The weights are rounded to 11 bits.
                assert!((f64::from(got) - expected).abs() < 2e-3, "{got} against {expected}");
            }
            for kernels in Isa::ALL.into_iter().filter_map(Kernels::new) {
                assert_eq!(attend(kernels), judge, "{} n {n} dim {dim}", kernels.isa());
            }
        }
    }
}
