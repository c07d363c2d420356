//! F32, F16 and BF16: products and sums in f32, in sixteen interleaved partial sums.

use std::arch::x86_64::*;

use super::super::x86::{load_128, load_256, prefetch_ahead, sum_f32x8};

/// Σ of `multiply_add` over chunks of `BYTES` bytes of both rows, in the lanes of two registers: every instruction set sums
/// in this order ([`crate::quant::LANES`]).
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn sum<const BYTES: usize>(
    weights: &[u8],
    activations: &[u8],
    multiply_add: impl Fn(&[u8; BYTES], &[u8; BYTES], __m256) -> __m256,
) -> f32 {
    let (w, w_rest) = weights.as_chunks::<BYTES>();
    let (a, a_rest) = activations.as_chunks::<BYTES>();
    let mut sums = [_mm256_setzero_ps(); 2];
    for (i, (w, a)) in w.iter().zip(a).enumerate() {
        prefetch_ahead(w);
        sums[i % 2] = multiply_add(w, a, sums[i % 2]);
    }
    if !w_rest.is_empty() {
        // The tail is filled up with zeros, which add nothing.
        let (mut tail_w, mut tail_a) = ([0; BYTES], [0; BYTES]);
        tail_w[..w_rest.len()].copy_from_slice(w_rest);
        tail_a[..a_rest.len()].copy_from_slice(a_rest);
        sums[w.len() % 2] = multiply_add(&tail_w, &tail_a, sums[w.len() % 2]);
    }
    sum_f32x8(_mm256_add_ps(sums[0], sums[1]))
}

fn check(n: usize, bytes: usize, weights: &[u8], activations: &[u8]) {
    assert_eq!((weights.len(), activations.len()), (n * bytes, n * bytes), "rows of {n} elements of {bytes} bytes");
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn dot_f32(n: usize, weights: &[u8], activations: &[u8]) -> f32 {
    check(n, 4, weights, activations);
    sum::<32>(weights, activations, |w, a, sum| {
        _mm256_fmadd_ps(_mm256_castsi256_ps(load_256(w)), _mm256_castsi256_ps(load_256(a)), sum)
    })
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn dot_f16(n: usize, weights: &[u8], activations: &[u8]) -> f32 {
    check(n, 2, weights, activations);
    sum::<16>(weights, activations, |w, a, sum| {
        _mm256_fmadd_ps(_mm256_cvtph_ps(load_128(w)), _mm256_cvtph_ps(load_128(a)), sum)
    })
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn dot_bf16(n: usize, weights: &[u8], activations: &[u8]) -> f32 {
    check(n, 2, weights, activations);
    // A doubleword holds two elements; each becomes an f32 where the other is shifted or masked away.
    let even = |v| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(v));
    let odd = |v| _mm256_castsi256_ps(_mm256_and_si256(v, _mm256_set1_epi32(0xFFFF_0000u32 as i32)));
    sum::<32>(weights, activations, |w, a, sum| {
        let (w, a) = (load_256(w), load_256(a));
        _mm256_fmadd_ps(even(w), even(a), _mm256_fmadd_ps(odd(w), odd(a), sum))
    })
}
