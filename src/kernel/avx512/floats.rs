//! F32, F16 and BF16: products and sums in f32, in sixteen interleaved partial sums.

use std::arch::x86_64::*;

use super::super::x86::{check_floats, load_256};
use super::fours::{Ahead, in_fours};
use super::load_512;

/// What the products of `R` rows of weights with `C` rows of activations add up, in the lanes of one register for each: every
/// instruction set sums in this order ([`crate::quant::LANES`]).
type Sums<const R: usize, const C: usize> = [[__m512; C]; R];

/// Adds `multiply_add` over chunks of `BYTES` bytes of rows of weights and of activations to sums.
#[inline]
#[target_feature(enable = "avx512bw")]
fn add<const BYTES: usize, const R: usize, const C: usize>(
    mut sums: Sums<R, C>,
    weights: [&[u8]; R],
    activations: [&[u8]; C],
    ahead: Option<Ahead>,
    multiply_add: impl Fn(&[u8; BYTES], &[u8; BYTES], __m512) -> __m512,
) -> Sums<R, C> {
    let n = weights[0].len() / BYTES;
    let w = weights.map(|w| &w.as_chunks::<BYTES>().0[..n]);
    let a = activations.map(|a| &a.as_chunks::<BYTES>().0[..n]);
    for i in 0..n {
        for r in 0..R {
            if let Some(ahead) = ahead {
                ahead.of_block(i * BYTES).ahead_of(&w[r][i]);
            }
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
    sums
}

/// Bytes of a row that are taken at a time where rows of weights meet rows of activations: those of four rows of each lie in
/// the first level of cache, whose sets whole rows, mostly a power of two apart, would share.
const PART_BYTES: usize = 2048;

/// Rows of weights whose sums are kept meanwhile.
const KEPT_ROWS: usize = 32;

#[inline]
#[target_feature(enable = "avx512bw")]
fn f32<const R: usize, const C: usize>(
    sums: Sums<R, C>,
    weights: [&[u8]; R],
    activations: [&[u8]; C],
    ahead: Option<Ahead>,
) -> Sums<R, C> {
    add::<64, R, C>(sums, weights, activations, ahead, |w, a, sum| {
        _mm512_fmadd_ps(_mm512_castsi512_ps(load_512(w)), _mm512_castsi512_ps(load_512(a)), sum)
    })
}

#[inline]
#[target_feature(enable = "avx512bw")]
fn f16<const R: usize, const C: usize>(
    sums: Sums<R, C>,
    weights: [&[u8]; R],
    activations: [&[u8]; C],
    ahead: Option<Ahead>,
) -> Sums<R, C> {
    add::<32, R, C>(sums, weights, activations, ahead, |w, a, sum| {
        _mm512_fmadd_ps(_mm512_cvtph_ps(load_256(w)), _mm512_cvtph_ps(load_256(a)), sum)
    })
}

#[inline]
#[target_feature(enable = "avx512bw")]
fn bf16<const R: usize, const C: usize>(
    sums: Sums<R, C>,
    weights: [&[u8]; R],
    activations: [&[u8]; C],
    ahead: Option<Ahead>,
) -> Sums<R, C> {
    // A doubleword holds two elements; each becomes an f32 where the other is shifted or masked away.
    let even = |v| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(v));
    let odd = |v| _mm512_castsi512_ps(_mm512_and_si512(v, _mm512_set1_epi32(0xFFFF_0000u32 as i32)));
    add::<64, R, C>(sums, weights, activations, ahead, |w, a, sum| {
        let (w, a) = (load_512(w), load_512(a));
        _mm512_fmadd_ps(even(w), even(a), _mm512_fmadd_ps(odd(w), odd(a), sum))
    })
}

/// The dot products of a part of a matrix: `$add` from zero on, and the sums of lanes.
macro_rules! dots {
    ($add:ident, $weights:expr, $activations:expr, $ahead:expr) => {
        $add([[_mm512_setzero_ps(); _]; _], $weights, $activations, Some($ahead))
            .map(|sums| sums.map(|sum| _mm512_reduce_add_ps(sum)))
    };
}

/// Defines, for a format of floats of so many bytes, the dot product of one row of weights with one row of activations, that with
/// four, those of many rows with four, and those of many rows with one.
macro_rules! dots_and_rows {
    ($($dot:ident, $dot4:ident, $rows4:ident, $rows:ident: $add:ident, $bytes:literal;)*) => {$(
        #[target_feature(enable = "avx512bw")]
        pub(super) fn $dot(n: usize, weights: &[u8], activations: &[u8]) -> f32 {
            check_floats(n * $bytes, weights, [activations]);
            let [[sum]] = dots!($add, [weights], [activations], Ahead::of_this_cpu());
            sum
        }

        #[target_feature(enable = "avx512bw")]
        pub(super) fn $dot4(n: usize, weights: &[u8], activations: [&[u8]; 4]) -> [f32; 4] {
            check_floats(n * $bytes, weights, activations);
            let [sums] = dots!($add, [weights], activations, Ahead::of_this_cpu());
            sums
        }

        #[target_feature(enable = "avx512bw")]
        pub(super) fn $rows4(n: usize, weights: &[u8], activations: [&[u8]; 4], out: &mut [[f32; 4]]) {
            let n = n * $bytes;
            let is_whole = weights.len() == n * out.len() && activations.iter().all(|a| a.len() == n);
            assert!(is_whole, "{} rows of {n} bytes", out.len());
            for (i, out) in out.chunks_mut(KEPT_ROWS).enumerate() {
                let mut sums = [[_mm512_setzero_ps(); 4]; KEPT_ROWS];
                let weights = &weights[i * KEPT_ROWS * n..][..out.len() * n];
                for start in (0..n).step_by(PART_BYTES) {
                    let part = start..n.min(start + PART_BYTES);
                    let a = activations.map(|a| &a[part.clone()]);
                    let row = |r: usize| &weights[r * n..][part.clone()];
                    let (fours, rest) = sums[..out.len()].as_chunks_mut::<4>();
                    let n_fours = fours.len();
                    for (r, sums) in fours.iter_mut().enumerate() {
                        let r = 4 * r;
                        *sums = $add(*sums, [row(r), row(r + 1), row(r + 2), row(r + 3)], a, None);
                    }
                    for (r, sums) in rest.iter_mut().enumerate() {
                        [*sums] = $add([*sums], [row(4 * n_fours + r)], a, None);
                    }
                }
                for (out, sums) in out.iter_mut().zip(&sums) {
                    for c in 0..4 {
                        out[c] = _mm512_reduce_add_ps(sums[c]);
                    }
                }
            }
        }

        #[target_feature(enable = "avx512bw")]
        pub(super) fn $rows(n: usize, weights: &[u8], activations: &[u8], out: &mut [f32]) {
            let n = n * $bytes;
            assert_eq!((weights.len(), activations.len()), (n * out.len(), n), "{} rows of {n} bytes", out.len());
            in_fours(
                weights,
                n,
                out,
                |rows, ahead| dots!($add, rows, [activations], ahead).map(|[sum]| sum),
                |row, ahead| dots!($add, row, [activations], ahead).map(|[sum]| sum),
            );
        }
    )*};
}

dots_and_rows! {
    dot_f32, dot4_f32, rows4_f32, rows_f32: f32, 4;
    dot_f16, dot4_f16, rows4_f16, rows_f16: f16, 2;
    dot_bf16, dot4_bf16, rows4_bf16, rows_bf16: bf16, 2;
}
