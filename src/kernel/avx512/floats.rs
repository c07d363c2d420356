//! F32, F16 and BF16: products and sums in f32, in sixteen interleaved partial sums.

use std::arch::x86_64::*;

use super::super::x86::{load_256, prefetch_ahead};
use super::load_512;

/// Σ of `multiply_add` over chunks of `BYTES` bytes of both rows, in the lanes of one register: every instruction set sums
/// in this order ([`crate::quant::LANES`]).
#[inline]
#[target_feature(enable = "avx512bw")]
fn sum<const BYTES: usize>(
    weights: &[u8],
    activations: &[u8],
    multiply_add: impl Fn(&[u8; BYTES], &[u8; BYTES], __m512) -> __m512,
) -> f32 {
    let (w, w_rest) = weights.as_chunks::<BYTES>();
    let (a, a_rest) = activations.as_chunks::<BYTES>();
    let mut sum = _mm512_setzero_ps();
    for (w, a) in w.iter().zip(a) {
        prefetch_ahead(w);
        sum = multiply_add(w, a, sum);
    }
    if !w_rest.is_empty() {
        // The tail is filled up with zeros, which add nothing.
        let (mut w, mut a) = ([0; BYTES], [0; BYTES]);
        w[..w_rest.len()].copy_from_slice(w_rest);
        a[..a_rest.len()].copy_from_slice(a_rest);
        sum = multiply_add(&w, &a, sum);
    }
    _mm512_reduce_add_ps(sum)
}

fn check(n: usize, bytes: usize, weights: &[u8], activations: &[u8]) {
    assert_eq!((weights.len(), activations.len()), (n * bytes, n * bytes), "rows of {n} elements of {bytes} bytes");
}

#[target_feature(enable = "avx512bw")]
pub(super) fn dot_f32(n: usize, weights: &[u8], activations: &[u8]) -> f32 {
    check(n, 4, weights, activations);
    sum::<64>(weights, activations, |w, a, sum| {
        _mm512_fmadd_ps(_mm512_castsi512_ps(load_512(w)), _mm512_castsi512_ps(load_512(a)), sum)
    })
}

#[target_feature(enable = "avx512bw")]
pub(super) fn dot_f16(n: usize, weights: &[u8], activations: &[u8]) -> f32 {
    check(n, 2, weights, activations);
    sum::<32>(weights, activations, |w, a, sum| {
        _mm512_fmadd_ps(_mm512_cvtph_ps(load_256(w)), _mm512_cvtph_ps(load_256(a)), sum)
    })
}

#[target_feature(enable = "avx512bw")]
pub(super) fn dot_bf16(n: usize, weights: &[u8], activations: &[u8]) -> f32 {
    check(n, 2, weights, activations);
    // A doubleword holds two elements; each becomes an f32 where the other is shifted or masked away.
    let even = |v| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(v));
    let odd = |v| _mm512_castsi512_ps(_mm512_and_si512(v, _mm512_set1_epi32(0xFFFF_0000u32 as i32)));
    sum::<64>(weights, activations, |w, a, sum| {
        let (w, a) = (load_512(w), load_512(a));
        _mm512_fmadd_ps(even(w), even(a), _mm512_fmadd_ps(odd(w), odd(a), sum))
    })
}
