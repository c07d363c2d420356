//! Integer products of a panel, sixteen rows of weights in two registers, with a few rows of activations: four elements of
//! every row of weights meet four broadcast elements of a row of activations.

use std::arch::asm;
use std::arch::x86_64::*;
use std::ops::Range;

use zerocopy::FromZeros;

use super::super::dispatch::Operands;
use super::super::panels::{Blocks, Lanes, Out, PANELS, Pass, with_panel};
use super::super::tiled::TILE_ROWS;
use super::super::x86::{load_256, store_256};
use crate::quant::{Block, blocks};

/// Four elements of the sixteen rows of a panel: bytes, or the even ones or the odd ones as words.
pub(super) type Codes = [[u8; 32]; 2];

/// A doubleword of each of the sixteen rows.
pub(super) type Doublewords = [[u8; 32]; 2];

/// The integer sums of `N` rows of activations.
pub(super) type Sums<const N: usize> = [[__m256i; 2]; N];

/// Both registers.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn load(v: &[[u8; 32]; 2]) -> [__m256i; 2] {
    [load_256(&v[0]), load_256(&v[1])]
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn store(to: &mut [[u8; 32]; 2], half: usize, v: __m256i) {
    store_256(&mut to[half], v);
}

/// Eight of the lanes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn load_lanes(lanes: &Lanes, half: usize) -> __m256 {
    // SAFETY: the chunk covers the 32 bytes, at an address that is a multiple of 32.
    unsafe { _mm256_load_ps(lanes.0.as_chunks::<8>().0[half].as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn store_lanes(lanes: &mut Lanes, half: usize, v: __m256) {
    // SAFETY: as for a load.
    unsafe { _mm256_store_ps(lanes.0.as_chunks_mut::<8>().0[half].as_mut_ptr(), v) }
}

/// A product of rows of blocks of `block_len` elements with `tiles`: `decode` makes a panel of a block of sixteen rows, a half
/// of them at a time, and `multiply` adds its products, the `p`-th panel's of its group, with the first so many rows of some
/// tiles to the sums of these.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn by_panels<B: Block, T, P>(
    operands: &Operands<'_>,
    range: Range<usize>,
    (block_len, tiles): (usize, &[T]),
    (panel, out): (&mut P, &mut Vec<Out>),
    decode: impl Fn(&Blocks<'_, B>, usize, &mut P),
    multiply: impl Fn(&P, usize, &[T], usize, &mut [Out]),
) {
    let weights = &operands.weights;
    let n_blocks = weights.n_cols() / block_len;
    let rows = blocks::<B>(weights.bytes(), weights.n_rows() * n_blocks);
    let n_tiles = operands.n_rows.div_ceil(TILE_ROWS);
    let n_asks = n_blocks * PANELS * 2 * size_of::<B>().div_ceil(16);
    Pass::for_each(operands, range, n_asks, out, |pass, out| {
        out.zero();
        let n_rows = (operands.n_rows - pass.first_tile * TILE_ROWS).min(pass.n_tiles * TILE_ROWS);
        for b in 0..n_blocks {
            let tiles = &tiles[b * n_tiles + pass.first_tile..][..pass.n_tiles];
            for group in 0..pass.n_groups {
                for p in 0..PANELS {
                    let first_row = pass.row(group, p);
                    if first_row < weights.n_rows() {
                        with_panel(pass, rows, n_blocks, first_row, b, |blocks| {
                            decode(blocks, 0, panel);
                            decode(blocks, 1, panel);
                        });
                        multiply(panel, p, tiles, n_rows, &mut out[group * pass.n_tiles..][..pass.n_tiles]);
                    }
                }
            }
        }
    });
}

/// Keeps the compiler from computing what follows before the sums, or them in another order: it would load far more ahead than
/// there are registers, and spill.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn in_order<const N: usize>(sums: &mut Sums<N>) {
    for i in 0..N {
        for h in 0..2 {
            // SAFETY: no instructions; the value stays.
            unsafe { asm!("/* {0} */", inout(ymm_reg) sums[i][h], options(nostack, preserves_flags)) };
        }
    }
}

/// Adds products of bytes, scaled: `RUN` sums of two products fit 16 bits. Signed codes meet activations that are 128 too
/// large, unsigned codes meet signed ones.
///
/// # Safety
/// A row of activations has `K` doublewords at its address.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn add_bytes<const N: usize, const K: usize, const RUN: usize, const SIGNED: bool>(
    sums: &mut Sums<N>,
    codes: &[Codes; K],
    activations: [*const i32; N],
    scale: &Doublewords,
) {
    for run in 0..K / RUN {
        let mut pairs = [[_mm256_setzero_si256(); 2]; N];
        for k in run * RUN..(run + 1) * RUN {
            let codes = load(&codes[k]);
            for i in 0..N {
                // SAFETY: the caller's promise.
                let four = _mm256_set1_epi32(unsafe { *activations[i].add(k) });
                for h in 0..2 {
                    let products = if SIGNED {
                        _mm256_maddubs_epi16(four, codes[h])
                    } else {
                        _mm256_maddubs_epi16(codes[h], four)
                    };
                    pairs[i][h] = if k % RUN == 0 { products } else { _mm256_add_epi16(pairs[i][h], products) };
                }
            }
            in_order(&mut pairs);
        }
        let scale = load(scale);
        for i in 0..N {
            for h in 0..2 {
                sums[i][h] = _mm256_add_epi32(sums[i][h], _mm256_madd_epi16(pairs[i][h], scale[h]));
            }
        }
    }
}

/// Adds products of words with activations that are 128 too large. `codes`: for each four elements the even ones, then the odd
/// ones.
///
/// # Safety
/// A row of activations has half as many doublewords at its address as there are codes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn add_words<const N: usize>(sums: &mut Sums<N>, codes: &[Codes; 16], activations: [*const i32; N]) {
    let even_bytes = _mm256_set1_epi16(0xFF);
    for k in 0..8 {
        let (even, odd) = (load(&codes[2 * k]), load(&codes[2 * k + 1]));
        for i in 0..N {
            // SAFETY: the caller's promise.
            let four = _mm256_set1_epi32(unsafe { *activations[i].add(k) });
            let (even_activations, odd_activations) =
                (_mm256_and_si256(four, even_bytes), _mm256_srli_epi16::<8>(four));
            for h in 0..2 {
                sums[i][h] = _mm256_add_epi32(sums[i][h], _mm256_madd_epi16(even[h], even_activations));
                sums[i][h] = _mm256_add_epi32(sums[i][h], _mm256_madd_epi16(odd[h], odd_activations));
            }
        }
        in_order(sums);
    }
}
