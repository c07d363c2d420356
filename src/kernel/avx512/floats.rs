//! F32, F16 and BF16: products and sums in f32, in sixteen interleaved partial sums.

use std::arch::x86_64::*;

use super::super::x86::{check_floats, load_256};
use super::fours::{Ahead, in_fours};
use super::load_512;

/// Σ of `multiply_add` over chunks of `BYTES` bytes of each of `R` rows of weights and each of `C` rows of activations, in the
/// lanes of one register for each: every instruction set sums in this order ([`crate::quant::LANES`]).
#[inline]
#[target_feature(enable = "avx512bw")]
fn sums<const BYTES: usize, const R: usize, const C: usize>(
    weights: [&[u8]; R],
    activations: [&[u8]; C],
    ahead: Ahead,
    multiply_add: impl Fn(&[u8; BYTES], &[u8; BYTES], __m512) -> __m512,
) -> [[f32; C]; R] {
    let n = weights[0].len() / BYTES;
    let w = weights.map(|w| &w.as_chunks::<BYTES>().0[..n]);
    let a = activations.map(|a| &a.as_chunks::<BYTES>().0[..n]);
    let mut sums = [[_mm512_setzero_ps(); C]; R];
    for i in 0..n {
        for r in 0..R {
            ahead.of_block(i * BYTES).ahead_of(&w[r][i]);
            for c in 0..C {
                sums[r][c] = multiply_add(&w[r][i], &a[c][i], sums[r][c]);
            }
        }
    }
    // The tail is filled up with zeros, which add nothing.
    let filled = |row: &[u8]| {
        let (_, rest) = row.as_chunks::<BYTES>();
        let mut filled = [0; BYTES];
        filled[..rest.len()].copy_from_slice(rest);
        filled
    };
    if !weights[0].len().is_multiple_of(BYTES) {
        for r in 0..R {
            for c in 0..C {
                sums[r][c] = multiply_add(&filled(weights[r]), &filled(activations[c]), sums[r][c]);
            }
        }
    }
    sums.map(|sums| sums.map(|sum| _mm512_reduce_add_ps(sum)))
}

#[inline]
#[target_feature(enable = "avx512bw")]
fn f32<const R: usize, const C: usize>(weights: [&[u8]; R], activations: [&[u8]; C], ahead: Ahead) -> [[f32; C]; R] {
    sums::<64, R, C>(weights, activations, ahead, |w, a, sum| {
        _mm512_fmadd_ps(_mm512_castsi512_ps(load_512(w)), _mm512_castsi512_ps(load_512(a)), sum)
    })
}

#[inline]
#[target_feature(enable = "avx512bw")]
fn f16<const R: usize, const C: usize>(weights: [&[u8]; R], activations: [&[u8]; C], ahead: Ahead) -> [[f32; C]; R] {
    sums::<32, R, C>(weights, activations, ahead, |w, a, sum| {
        _mm512_fmadd_ps(_mm512_cvtph_ps(load_256(w)), _mm512_cvtph_ps(load_256(a)), sum)
    })
}

#[inline]
#[target_feature(enable = "avx512bw")]
fn bf16<const R: usize, const C: usize>(weights: [&[u8]; R], activations: [&[u8]; C], ahead: Ahead) -> [[f32; C]; R] {
    // A doubleword holds two elements; each becomes an f32 where the other is shifted or masked away.
    let even = |v| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(v));
    let odd = |v| _mm512_castsi512_ps(_mm512_and_si512(v, _mm512_set1_epi32(0xFFFF_0000u32 as i32)));
    sums::<64, R, C>(weights, activations, ahead, |w, a, sum| {
        let (w, a) = (load_512(w), load_512(a));
        _mm512_fmadd_ps(even(w), even(a), _mm512_fmadd_ps(odd(w), odd(a), sum))
    })
}

/// Defines, for a format of floats of so many bytes, the dot product of one row of weights with one row of activations, that with
/// four, those of four with four, and those of many rows with one.
macro_rules! dots_and_rows {
    ($($dot:ident, $dot4:ident, $dot4x4:ident, $rows:ident: $dots:ident, $bytes:literal;)*) => {$(
        #[target_feature(enable = "avx512bw")]
        pub(super) fn $dot(n: usize, weights: &[u8], activations: &[u8]) -> f32 {
            check_floats(n * $bytes, weights, [activations]);
            let [[sum]] = $dots([weights], [activations], Ahead::of_this_cpu());
            sum
        }

        #[target_feature(enable = "avx512bw")]
        pub(super) fn $dot4(n: usize, weights: &[u8], activations: [&[u8]; 4]) -> [f32; 4] {
            check_floats(n * $bytes, weights, activations);
            let [sums] = $dots([weights], activations, Ahead::of_this_cpu());
            sums
        }

        #[target_feature(enable = "avx512bw")]
        pub(super) fn $dot4x4(n: usize, weights: [&[u8]; 4], activations: [&[u8]; 4]) -> [[f32; 4]; 4] {
            for weights in weights {
                check_floats(n * $bytes, weights, activations);
            }
            $dots(weights, activations, Ahead::of_this_cpu())
        }

        #[target_feature(enable = "avx512bw")]
        pub(super) fn $rows(n: usize, weights: &[u8], activations: &[u8], out: &mut [f32]) {
            let n = n * $bytes;
            assert_eq!((weights.len(), activations.len()), (n * out.len(), n), "{} rows of {n} bytes", out.len());
            in_fours(
                weights,
                n,
                out,
                |rows, ahead| $dots(rows, [activations], ahead).map(|[sum]| sum),
                |row, ahead| $dots(row, [activations], ahead).map(|[sum]| sum),
            );
        }
    )*};
}

dots_and_rows! {
    dot_f32, dot4_f32, dot4x4_f32, rows_f32: f32, 4;
    dot_f16, dot4_f16, dot4x4_f16, rows_f16: f16, 2;
    dot_bf16, dot4_bf16, dot4x4_bf16, rows_bf16: bf16, 2;
}
