//! The small vector steps between matrix products: norm, activation, softmax, sums. Each is written once and compiled
//! for every instruction set; sums run in a fixed order, so that all of them give the same bits.

#![allow(unsafe_code, reason = "functions compiled for one instruction set are called on the proof that it is there")]

use super::{Isa, Kernels};
use crate::quant::{LANES, fold_lanes};

/// Compiles a step for each instruction set and makes it a method of [`Kernels`].
macro_rules! per_isa {
    ($(#[$doc:meta])* $name:ident($($arg:ident: $ty:ty),*)) => {
        impl Kernels {
            $(#[$doc])*
            pub fn $name(&self, $($arg: $ty),*) {
                #[cfg(target_arch = "x86_64")]
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $ty),*) {
                    $name($($arg),*);
                }
                #[cfg(target_arch = "x86_64")]
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
                fn avx512($($arg: $ty),*) {
                    $name($($arg),*);
                }
                match self.isa() {
                    Isa::Scalar => $name($($arg),*),
                    // SAFETY: these kernels are proof of AVX2 and FMA.
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx2 => unsafe { avx2($($arg),*) },
                    // SAFETY: these kernels are proof of AVX-512 F, BW, DQ and VL.
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx512 | Isa::Amx => unsafe { avx512($($arg),*) },
                    #[cfg(not(target_arch = "x86_64"))]
                    Isa::Avx2 | Isa::Avx512 | Isa::Amx => unreachable!("x86 kernels on another architecture"),
                }
            }
        }
    };
}

per_isa! {
    /// RMS norm (Zhang and Sennrich 2019): `out = x / sqrt(mean(x²) + eps) · weight`. The mean is taken in f64, as ggml does.
    rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32])
}
per_isa! {
    /// As [`Kernels::rms_norm`], in place.
    rms_norm_in_place(x: &mut [f32], weight: &[f32], eps: f32)
}
per_isa! {
    /// SwiGLU (Shazeer 2020): `gate = silu(gate) · up`, in place.
    swiglu(gate: &mut [f32], up: &[f32])
}
per_isa! {
    /// Softmax in place, shifted by the maximum.
    softmax(x: &mut [f32])
}
per_isa! {
    /// `x = exp(x - max)`, and their sum: in f32 within each sixteen, in f64 beyond, as ggml does.
    exponentials(x: &mut [f32], max: f32, sum: &mut f64)
}
per_isa! {
    /// `x += y`.
    add(x: &mut [f32], y: &[f32])
}
per_isa! {
    /// `x += scale · y`.
    add_scaled(x: &mut [f32], scale: f32, y: &[f32])
}

per_isa! {
    /// Rotates pairs of neighbours, `x = (x · cos - y · sin, y · cos + x · sin)`. `angles`: `(cos, sin)` of each pair.
    rotate_neighbours(x: &mut [f32], angles: &[f32])
}
per_isa! {
    /// As [`Kernels::rotate_neighbours`], with the first half of the pairs' elements before the second.
    rotate_halves(x: &mut [f32], angles: &[f32])
}

#[inline(always)]
fn rotated([x, y]: [f32; 2], [cos, sin]: [f32; 2]) -> [f32; 2] {
    [x.mul_add(cos, -(y * sin)), x.mul_add(sin, y * cos)]
}

#[inline(always)]
fn rotate_neighbours(x: &mut [f32], angles: &[f32]) {
    assert_eq!(x.len(), angles.len(), "an angle for each pair");
    for (pair, &angle) in x.as_chunks_mut::<2>().0.iter_mut().zip(angles.as_chunks::<2>().0) {
        *pair = rotated(*pair, angle);
    }
}

#[inline(always)]
fn rotate_halves(x: &mut [f32], angles: &[f32]) {
    assert_eq!(x.len(), angles.len(), "an angle for each pair");
    let (first, second) = x.split_at_mut(angles.len() / 2);
    for ((x, y), &angle) in first.iter_mut().zip(second).zip(angles.as_chunks::<2>().0) {
        [*x, *y] = rotated([*x, *y], angle);
    }
}

#[inline(always)]
fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    assert!(x.len() == weight.len() && x.len() == out.len(), "norm of {} by {}", x.len(), weight.len());
    let scale = rms_scale(x, eps);
    for ((o, &x), &w) in out.iter_mut().zip(x).zip(weight) {
        *o = x * scale * w;
    }
}

#[inline(always)]
fn rms_norm_in_place(x: &mut [f32], weight: &[f32], eps: f32) {
    assert_eq!(x.len(), weight.len(), "norm weights differ in length");
    let scale = rms_scale(x, eps);
    for (x, &w) in x.iter_mut().zip(weight) {
        *x = *x * scale * w;
    }
}

#[inline(always)]
fn rms_scale(x: &[f32], eps: f32) -> f32 {
    let mut lanes = [0.0f64; 8];
    let (whole, rest) = x.as_chunks::<8>();
    for chunk in whole {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(v * v);
        }
    }
    for (lane, v) in lanes.iter_mut().zip(rest) {
        *lane += f64::from(v * v);
    }
    let mean = (lanes.iter().sum::<f64>() / x.len() as f64) as f32;
    1.0 / (mean + eps).sqrt()
}

#[inline(always)]
fn swiglu(gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len(), "gate and up differ in length");
    for (g, &u) in gate.iter_mut().zip(up) {
        *g = *g / (1.0 + exp(-*g)) * u;
    }
}

#[inline(always)]
fn softmax(x: &mut [f32]) {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    exponentials(x, max, &mut sum);
    let scale = (1.0 / sum) as f32;
    for v in x.iter_mut() {
        *v *= scale;
    }
}

#[inline(always)]
fn exponentials(x: &mut [f32], max: f32, sum: &mut f64) {
    let (whole, rest) = x.as_chunks_mut::<LANES>();
    *sum = 0.0;
    for chunk in whole {
        for v in chunk.iter_mut() {
            *v = exp(*v - max);
        }
        *sum += f64::from(fold_lanes(*chunk));
    }
    let mut lanes = [0.0; LANES];
    for (v, lane) in rest.iter_mut().zip(&mut lanes) {
        *v = exp(*v - max);
        *lane = *v;
    }
    *sum += f64::from(fold_lanes(lanes));
}

#[inline(always)]
fn add(x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len(), "sum of different lengths");
    for (x, &y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

#[inline(always)]
fn add_scaled(x: &mut [f32], scale: f32, y: &[f32]) {
    assert_eq!(x.len(), y.len(), "sum of different lengths");
    for (x, &y) in x.iter_mut().zip(y) {
        *x += scale * y;
    }
}

/// `eˣ` to within 1.5 units in the last place: `2ⁿ` times a polynomial in the rest, with the coefficients of Arm's
/// optimized routines.
#[inline(always)]
fn exp(x: f32) -> f32 {
    // Adding and taking off 1.5 · 2²³ rounds to a whole number.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts, so that n · ln 2 is exact enough.
    const LN2_HIGH: f32 = f32::from_bits(0x3f31_7200);
    const LN2_LOW: f32 = f32::from_bits(0x35bf_be8e);
    const C: [f32; 5] = [
        f32::from_bits(0x3f7f_fff6),
        f32::from_bits(0x3eff_fedb),
        f32::from_bits(0x3e2a_af33),
        f32::from_bits(0x3d2b_9f17),
        f32::from_bits(0x3c07_2010),
    ];
    let n = x.mul_add(std::f32::consts::LOG2_E, ROUND) - ROUND;
    let rest = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, x));
    let square = rest * rest;
    let high = C[4].mul_add(rest, C[3]);
    let low = C[2].mul_add(rest, C[1]);
    let poly = high.mul_add(square, low).mul_add(square, C[0].mul_add(rest, 1.0));
    // 2ⁿ in two steps, since alone it may be subnormal or infinite where the product is neither.
    let n = n.clamp(-250.0, 250.0);
    let half = (n * 0.5).floor();
    // The lowest bits of `e + 127 + 1.5 · 2²³` are the exponent: a cast, which saturates, would not be vectorized.
    let power = |e: f32| f32::from_bits((e + 127.0 + ROUND).to_bits() << 23);
    let scaled = poly * power(half) * power(n - half);
    let bounded = if n < -151.0 { 0.0 } else { scaled };
    if n > 128.0 { f32::INFINITY } else { bounded }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> impl Iterator<Item = Kernels> {
        Isa::ALL.into_iter().filter_map(Kernels::new)
    }

    fn values(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919 % 1009) as f32 - 500.0) / 60.0).collect()
    }

    #[test]
    fn every_isa_gives_the_same_bits() {
        for n in [1, 7, 16, 33, 576] {
            let (x, w) = (values(n), values(n + 3)[3..].to_vec());
            let run = |k: Kernels| {
                let mut out = vec![0.0; n];
                k.rms_norm(&x, &w, 1e-5, &mut out);
                let mut in_place = x.clone();
                k.rms_norm_in_place(&mut in_place, &w, 1e-5);
                assert_eq!(in_place, out);
                let (mut gate, mut softmax, mut sum) = (x.clone(), x.clone(), x.clone());
                k.swiglu(&mut gate, &w);
                k.softmax(&mut softmax);
                k.add(&mut sum, &w);
                let pairs = n / 2 * 2;
                let (mut neighbours, mut halves) = (x.clone(), x.clone());
                k.rotate_neighbours(&mut neighbours[..pairs], &w[..pairs]);
                k.rotate_halves(&mut halves[..pairs], &w[..pairs]);
                [out, gate, softmax, sum, neighbours, halves].concat()
            };
            let judge = run(Kernels::new(Isa::Scalar).unwrap());
            for kernels in all() {
                let found = run(kernels);
                assert!(found.iter().zip(&judge).all(|(a, b)| a.to_bits() == b.to_bits()), "{} n {n}", kernels.isa());
            }
        }
    }

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        for i in -104_000..89_000 {
            let x = i as f32 / 1000.0;
            let (found, exact) = (f64::from(exp(x)), f64::from(x).exp());
            let unit = f64::from(f32::EPSILON) * exact.max(f64::from(f32::MIN_POSITIVE));
            assert!((found - exact).abs() <= 2.0 * unit || (exact > f64::from(f32::MAX) && found.is_infinite()), "{x}");
        }
        assert_eq!((exp(f32::NEG_INFINITY), exp(-1e30), exp(1e30)), (0.0, 0.0, f32::INFINITY));
        assert!(exp(f32::NAN).is_nan());
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn rms_norm_gives_unit_mean_square_times_the_weight() {
        let x: Vec<f32> = (0..64).map(|i| i as f32 - 20.0).collect();
        let mut out = vec![0.0; 64];
        Kernels::detect().rms_norm(&x, &[2.0; 64], 0.0, &mut out);
        let mean_square = out.iter().map(|v| v * v).sum::<f32>() / 64.0;
        assert!((mean_square - 4.0).abs() < 1e-5, "{mean_square}");
    }

    #[test]
    fn softmax_sums_to_one_and_survives_large_logits() {
        let mut x = vec![1000.0, 1001.0, -1e30];
        Kernels::detect().softmax(&mut x);
        assert!((x.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert!((x[1] / x[0] - std::f32::consts::E).abs() < 1e-5);
        assert_eq!(x[2], 0.0);
    }

    #[test]
    fn swiglu_is_silu_times_up() {
        let mut gate = vec![0.0, 1.0, -100.0];
        Kernels::detect().swiglu(&mut gate, &[3.0, 2.0, 1.0]);
        assert_eq!(gate[0], 0.0);
        assert!((gate[1] - 2.0 * 0.731_058_6).abs() < 1e-6);
        assert!(gate[2].abs() < 1e-30);
    }
}
