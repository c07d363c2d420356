//! F32, F16 and BF16: products and sums in f32, in sixteen interleaved partial sums.

use std::arch::x86_64::*;

use super::super::x86::{Prefetch, check_floats, load_128, load_256, sum_f32x8};

/// Σ of `multiply_add` over chunks of `BYTES` bytes of a row of weights and each of `C` rows of activations, in the lanes of
/// two registers for each: every instruction set sums in this order ([`crate::quant::LANES`]).
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn sums<const BYTES: usize, const C: usize>(
    weights: &[u8],
    activations: [&[u8]; C],
    multiply_add: impl Fn(&[u8; BYTES], &[u8; BYTES], __m256) -> __m256,
) -> [f32; C] {
    let (w, w_rest) = weights.as_chunks::<BYTES>();
    let a = activations.map(|a| &a.as_chunks::<BYTES>().0[..w.len()]);
    let mut sums = [[_mm256_setzero_ps(); 2]; C];
    // Two chunks at a time: a register that an index chooses would lie in memory between them.
    let (pairs, last) = w.as_chunks::<2>();
    let prefetch = Prefetch::of_this_cpu();
    for (i, pair) in pairs.iter().enumerate() {
        prefetch.ahead_of(pair);
        for c in 0..C {
            for half in 0..2 {
                sums[c][half] = multiply_add(&pair[half], &a[c][2 * i + half], sums[c][half]);
            }
        }
    }
    if let [w] = last {
        for c in 0..C {
            sums[c][0] = multiply_add(w, &a[c][2 * pairs.len()], sums[c][0]);
        }
    }
    if !w_rest.is_empty() {
        // The tail is filled up with zeros, which add nothing.
        let mut tail = [0; BYTES];
        tail[..w_rest.len()].copy_from_slice(w_rest);
        for c in 0..C {
            let (_, a_rest) = activations[c].as_chunks::<BYTES>();
            let mut a = [0; BYTES];
            a[..a_rest.len()].copy_from_slice(a_rest);
            sums[c][w.len() % 2] = multiply_add(&tail, &a, sums[c][w.len() % 2]);
        }
    }
    sums.map(|[even, odd]| sum_f32x8(_mm256_add_ps(even, odd)))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn f32<const C: usize>(weights: &[u8], activations: [&[u8]; C]) -> [f32; C] {
    sums::<32, C>(weights, activations, |w, a, sum| {
        _mm256_fmadd_ps(_mm256_castsi256_ps(load_256(w)), _mm256_castsi256_ps(load_256(a)), sum)
    })
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn f16<const C: usize>(weights: &[u8], activations: [&[u8]; C]) -> [f32; C] {
    sums::<16, C>(weights, activations, |w, a, sum| {
        _mm256_fmadd_ps(_mm256_cvtph_ps(load_128(w)), _mm256_cvtph_ps(load_128(a)), sum)
    })
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn bf16<const C: usize>(weights: &[u8], activations: [&[u8]; C]) -> [f32; C] {
    // A doubleword holds two elements; each becomes an f32 where the other is shifted or masked away.
    let even = |v| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(v));
    let odd = |v| _mm256_castsi256_ps(_mm256_and_si256(v, _mm256_set1_epi32(0xFFFF_0000u32 as i32)));
    sums::<32, C>(weights, activations, |w, a, sum| {
        let (w, a) = (load_256(w), load_256(a));
        _mm256_fmadd_ps(even(w), even(a), _mm256_fmadd_ps(odd(w), odd(a), sum))
    })
}

/// Defines the dot product of a format of floats of so many bytes with one row of activations and that with four, which load
/// the weights once and whose sums do not wait for one another.
macro_rules! float_dots {
    ($features:literal; $($dot:ident, $dot4:ident: $dots:ident, $bytes:literal;)*) => {$(
        #[target_feature(enable = $features)]
        pub(super) fn $dot(n: usize, weights: &[u8], activations: &[u8]) -> f32 {
            check_floats(n * $bytes, weights, [activations]);
            let [sum] = $dots(weights, [activations]);
            sum
        }

        #[target_feature(enable = $features)]
        pub(super) fn $dot4(n: usize, weights: &[u8], activations: [&[u8]; 4]) -> [f32; 4] {
            check_floats(n * $bytes, weights, activations);
            $dots(weights, activations)
        }
    )*};
}

float_dots! {
    "avx2,fma,f16c";
    dot_f32, dot4_f32: f32, 4;
    dot_f16, dot4_f16: f16, 2;
    dot_bf16, dot4_bf16: bf16, 2;
}
