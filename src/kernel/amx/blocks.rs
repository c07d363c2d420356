//! The formats of 32 elements: a step of the unit is a block of sixteen rows.

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::avx512::interleaved::{self, Linear};
use super::super::avx512::registers::{store_lanes, store_line};
use super::super::dispatch::Operands;
use super::super::panels::{Blocks, Lanes, ROWS};
use super::super::tiled::Bf16Tile;
use super::super::x86::load_128;
use super::bf16::product;
use super::levels::{floats, integers, rounded};
use crate::quant::{
    Block, BlockIq4Nl, BlockMxfp4, BlockQ4_0, BlockQ4_1, BlockQ5_0, BlockQ5_1, IQ4_VALUES, MXFP4_DOUBLED_VALUES,
};

/// Fills a tile, `row` by row from its scale and what is added to each of its elements.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512bf16")]
fn fill((d, m): Linear, tile: &mut Bf16Tile, row: impl Fn(usize, __m512, __m512) -> __m512i) {
    let (mut scales, mut minima) = (Lanes([0.0; ROWS]), Lanes([0.0; ROWS]));
    store_lanes(&mut scales, d);
    store_lanes(&mut minima, m);
    for (r, line) in tile.0.iter_mut().enumerate() {
        store_line(line, row(r, _mm512_set1_ps(scales.0[r]), _mm512_set1_ps(minima.0[r])));
    }
}

/// The sixteen bytes at `at` of a row's block as words, and again four bits lower: the lower four bits of each are its low
/// nibbles and then the high ones.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl")]
fn nibbles<B: Block>(blocks: &Blocks<'_, B>, row: usize, at: usize) -> __m512i {
    let bytes = load_128(blocks.bytes_at(row, at));
    let words = _mm512_cvtepu8_epi16(_mm256_broadcastsi128_si256(bytes));
    let shifts = _mm512_inserti64x4::<1>(_mm512_setzero_si512(), _mm256_set1_epi16(4));
    _mm512_srlv_epi16(words, shifts)
}

/// Elements that four bits of each word name among sixteen levels.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512bf16")]
fn looked_up(levels: __m512, nibbles: __m512i) -> __m512i {
    // Twice, so that the fifth bit does not count.
    _mm512_permutexvar_epi16(nibbles, rounded(levels, levels))
}

/// Elements that the lower four bits of each word and a bit of `fifth` name among 32 levels.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512bf16")]
fn looked_up_with_fifth(levels: [__m512; 2], nibbles: __m512i, fifth: [u8; 4]) -> __m512i {
    let low = _mm512_and_si512(nibbles, _mm512_set1_epi16(0x0F));
    let codes = _mm512_mask_add_epi16(low, u32::from_le_bytes(fifth), low, _mm512_set1_epi16(16));
    _mm512_permutexvar_epi16(codes, rounded(levels[0], levels[1]))
}

/// Defines the product of a format by the tile of a block of sixteen rows.
macro_rules! products {
    ($($format:ident: $block:ty, |$blocks:ident, $tile:ident| $decode:expr;)*) => {$(
        #[target_feature(enable = "avx512bw,avx512vl,avx512bf16")]
        pub(super) fn $format(operands: &Operands<'_>, range: Range<usize>) {
            product::<$block>(operands, range, |$blocks, $tile| $decode);
        }
    )*};
}

products! {
    q4_0: BlockQ4_0, |blocks, tile| fill(interleaved::q4_0(blocks).1, tile, |row, d, _| {
        looked_up(_mm512_mul_ps(integers(-8), d), nibbles(blocks, row, 2))
    });
    q4_1: BlockQ4_1, |blocks, tile| fill(interleaved::q4_1(blocks).1, tile, |row, d, m| {
        looked_up(_mm512_fmadd_ps(integers(0), d, m), nibbles(blocks, row, 4))
    });
    q5_0: BlockQ5_0, |blocks, tile| fill(interleaved::q5_0(blocks).1, tile, |row, d, _| {
        let levels = [-16, 0].map(|first| _mm512_mul_ps(integers(first), d));
        looked_up_with_fifth(levels, nibbles(blocks, row, 6), *blocks.bytes_at(row, 2))
    });
    q5_1: BlockQ5_1, |blocks, tile| fill(interleaved::q5_1(blocks).1, tile, |row, d, m| {
        let levels = [0, 16].map(|first| _mm512_fmadd_ps(integers(first), d, m));
        looked_up_with_fifth(levels, nibbles(blocks, row, 8), *blocks.bytes_at(row, 4))
    });
    iq4_nl: BlockIq4Nl, |blocks, tile| fill(interleaved::iq4_nl(blocks).1, tile, |row, d, _| {
        looked_up(_mm512_mul_ps(floats(&IQ4_VALUES), d), nibbles(blocks, row, 2))
    });
    mxfp4: BlockMxfp4, |blocks, tile| fill(interleaved::mxfp4(blocks).1, tile, |row, d, _| {
        looked_up(_mm512_mul_ps(floats(&MXFP4_DOUBLED_VALUES), d), nibbles(blocks, row, 1))
    });
}
