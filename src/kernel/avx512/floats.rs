//! F32, F16 and BF16: products and sums in f32, in sixteen interleaved partial sums.

use std::arch::x86_64::*;

use super::super::x86::{Prefetch, float_dots, load_256};
use super::load_512;

/// Σ of `multiply_add` over chunks of `BYTES` bytes of a row of weights and each of `C` rows of activations, in the lanes of
/// one register for each: every instruction set sums in this order ([`crate::quant::LANES`]).
#[inline]
#[target_feature(enable = "avx512bw")]
fn sums<const BYTES: usize, const C: usize>(
    weights: &[u8],
    activations: [&[u8]; C],
    multiply_add: impl Fn(&[u8; BYTES], &[u8; BYTES], __m512) -> __m512,
) -> [f32; C] {
    let (w, w_rest) = weights.as_chunks::<BYTES>();
    let a = activations.map(|a| &a.as_chunks::<BYTES>().0[..w.len()]);
    let mut sums = [_mm512_setzero_ps(); C];
    let prefetch = Prefetch::of_this_cpu();
    for (i, w) in w.iter().enumerate() {
        prefetch.ahead_of(w);
        for c in 0..C {
            sums[c] = multiply_add(w, &a[c][i], sums[c]);
        }
    }
    if !w_rest.is_empty() {
        // The tail is filled up with zeros, which add nothing.
        let mut w = [0; BYTES];
        w[..w_rest.len()].copy_from_slice(w_rest);
        for c in 0..C {
            let (_, a_rest) = activations[c].as_chunks::<BYTES>();
            let mut a = [0; BYTES];
            a[..a_rest.len()].copy_from_slice(a_rest);
            sums[c] = multiply_add(&w, &a, sums[c]);
        }
    }
    sums.map(|sum| _mm512_reduce_add_ps(sum))
}

#[inline]
#[target_feature(enable = "avx512bw")]
fn f32<const C: usize>(weights: &[u8], activations: [&[u8]; C]) -> [f32; C] {
    sums::<64, C>(weights, activations, |w, a, sum| {
        _mm512_fmadd_ps(_mm512_castsi512_ps(load_512(w)), _mm512_castsi512_ps(load_512(a)), sum)
    })
}

#[inline]
#[target_feature(enable = "avx512bw")]
fn f16<const C: usize>(weights: &[u8], activations: [&[u8]; C]) -> [f32; C] {
    sums::<32, C>(weights, activations, |w, a, sum| {
        _mm512_fmadd_ps(_mm512_cvtph_ps(load_256(w)), _mm512_cvtph_ps(load_256(a)), sum)
    })
}

#[inline]
#[target_feature(enable = "avx512bw")]
fn bf16<const C: usize>(weights: &[u8], activations: [&[u8]; C]) -> [f32; C] {
    // A doubleword holds two elements; each becomes an f32 where the other is shifted or masked away.
    let even = |v| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(v));
    let odd = |v| _mm512_castsi512_ps(_mm512_and_si512(v, _mm512_set1_epi32(0xFFFF_0000u32 as i32)));
    sums::<64, C>(weights, activations, |w, a, sum| {
        let (w, a) = (load_512(w), load_512(a));
        _mm512_fmadd_ps(even(w), even(a), _mm512_fmadd_ps(odd(w), odd(a), sum))
    })
}

float_dots! {
    "avx512bw";
    dot_f32, dot4_f32: f32, 4;
    dot_f16, dot4_f16: f16, 2;
    dot_bf16, dot4_bf16: bf16, 2;
}
