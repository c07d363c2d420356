//! Sixteen rows of weights side by side: a block of each, its codes turned so that a register holds four neighbouring
//! elements of every row. That is the layout in which byte products are summed, by AVX-512 and AMX alike.
//!
//! Codes are handed to a `sink` with their place: `k` stands for the elements 4k to 4k + 3 of the block. Those of a block of
//! 256 elements come in pieces, so that something else can be done between two of them.

use std::arch::x86_64::*;

use super::super::panels::Blocks;
use super::super::x86::load_128;
use super::registers::turned;
use crate::quant::{
    Block, BlockIq4Nl, BlockIq4Xs, BlockMxfp4, BlockQ2K, BlockQ3K, BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5_0,
    BlockQ5_1, BlockQ5K, BlockQ6K, BlockQ8_0, IQ4_VALUES, MXFP4_DOUBLED_VALUES,
};

/// What scales the codes of a block of 256 elements; a lane is a row.
#[derive(Clone, Copy)]
pub(in crate::kernel) struct Header {
    pub(in crate::kernel) d: __m512,
    /// Zero where the format has no minima.
    pub(in crate::kernel) dmin: __m512,
    /// A byte for each sub-block, four in a doubleword; signed where the format's are.
    pub(in crate::kernel) scales: [__m512i; 4],
    /// Likewise, unsigned.
    pub(in crate::kernel) mins: [__m512i; 4],
}

/// The doublewords of the 16 bytes at `at` of each block: register `i` holds the `i`-th of every row.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl")]
pub(in crate::kernel) fn quad<B: Block>(blocks: &Blocks<'_, B>, at: usize) -> [__m512i; 4] {
    blocks.ask_ahead();
    turned(|row| blocks.bytes_at(row, at))
}

/// The low halves of the doublewords as floats.
#[inline]
#[target_feature(enable = "avx512bw")]
pub(in crate::kernel) fn low_halves(v: __m512i) -> __m512 {
    _mm512_cvtph_ps(_mm512_cvtepi32_epi16(v))
}

/// The high halves of the doublewords as floats.
#[inline]
#[target_feature(enable = "avx512bw")]
pub(in crate::kernel) fn high_halves(v: __m512i) -> __m512 {
    low_halves(_mm512_srli_epi32::<16>(v))
}

#[inline]
#[target_feature(enable = "avx512bw")]
fn and(v: __m512i, byte: u8) -> __m512i {
    _mm512_and_si512(v, _mm512_set1_epi8(byte as i8))
}

/// `v` masked by `byte`, with the bits of `other`.
#[inline]
#[target_feature(enable = "avx512bw")]
fn and_or(v: __m512i, byte: u8, other: __m512i) -> __m512i {
    _mm512_ternarylogic_epi32::<0b1111_1000>(other, v, _mm512_set1_epi8(byte as i8))
}

/// The doublewords moved so that bit `from` of a byte stands at bit `to`; bits that came from another byte are the caller's
/// to mask.
#[inline]
#[target_feature(enable = "avx512bw")]
fn moved(v: __m512i, from: usize, to: usize) -> __m512i {
    if from > to {
        _mm512_srlv_epi32(v, _mm512_set1_epi32((from - to) as i32))
    } else {
        _mm512_sllv_epi32(v, _mm512_set1_epi32((to - from) as i32))
    }
}

/// For each doubleword, two of its bytes as the low bytes of words.
const fn words_of(first: u8, second: u8) -> [u8; 16] {
    let mut index = [0x80; 16];
    let mut i = 0;
    while i < 4 {
        index[4 * i] = 4 * i as u8 + first;
        index[4 * i + 2] = 4 * i as u8 + second;
        i += 1;
    }
    index
}

const TWICE: [[u8; 16]; 4] = [words_of(0, 0), words_of(1, 1), words_of(2, 2), words_of(3, 3)];

const PAIRS: [[u8; 16]; 2] = [words_of(0, 1), words_of(2, 3)];

/// Byte `i` of each doubleword in both words.
#[inline]
#[target_feature(enable = "avx512bw")]
pub(in crate::kernel) fn twice(v: __m512i, i: usize) -> __m512i {
    _mm512_shuffle_epi8(v, _mm512_broadcast_i32x4(load_128(&TWICE[i])))
}

/// Bytes 2i and 2i + 1 of each doubleword as words.
#[inline]
#[target_feature(enable = "avx512bw")]
pub(in crate::kernel) fn pair(v: __m512i, i: usize) -> __m512i {
    _mm512_shuffle_epi8(v, _mm512_broadcast_i32x4(load_128(&PAIRS[i])))
}

/// Q4_K's and Q5_K's.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl")]
pub(in crate::kernel) fn header_with_mins<B: Block>(blocks: &Blocks<'_, B>) -> Header {
    let [halves, low_scales, low_mins, high] = quad(blocks, 0);
    let zero = _mm512_setzero_si512();
    let high_scales = and_or(moved(low_scales, 6, 4), 0x30, and(high, 0x0F));
    let high_mins = and_or(moved(low_mins, 6, 4), 0x30, and(moved(high, 4, 0), 0x0F));
    Header {
        d: low_halves(halves),
        dmin: high_halves(halves),
        scales: [and(low_scales, 63), high_scales, zero, zero],
        mins: [and(low_mins, 63), high_mins, zero, zero],
    }
}

pub(in crate::kernel) const PIECES_OF_Q4_K: usize = 8;

#[inline]
#[target_feature(enable = "avx512bw,avx512vl")]
pub(in crate::kernel) fn q4_k(blocks: &Blocks<'_, BlockQ4K>, piece: usize, mut sink: impl FnMut(usize, __m512i)) {
    // Two pieces are the low and high nibbles of 64 elements.
    let k = piece / 2 * 16 + piece % 2 * 4;
    for (i, v) in quad(blocks, 16 + piece * 16).into_iter().enumerate() {
        sink(k + i, and(v, 0x0F));
        sink(k + i + 8, and(moved(v, 4, 0), 0x0F));
    }
}

/// The fifth bits of Q5_K's codes: of each half of the bytes that hold them, four doublewords.
pub(in crate::kernel) type Fifths = [[__m512i; 4]; 2];

#[inline]
#[target_feature(enable = "avx512bw,avx512vl")]
pub(in crate::kernel) fn fifths(blocks: &Blocks<'_, BlockQ5K>) -> Fifths {
    [quad(blocks, 16), quad(blocks, 32)]
}

pub(in crate::kernel) const PIECES_OF_Q5_K: usize = 8;

#[inline]
#[target_feature(enable = "avx512bw,avx512vl")]
pub(in crate::kernel) fn q5_k(
    blocks: &Blocks<'_, BlockQ5K>,
    fifths: &Fifths,
    piece: usize,
    mut sink: impl FnMut(usize, __m512i),
) {
    let (quarter, half) = (piece / 2, piece % 2);
    let k = quarter * 16 + half * 4;
    for (i, v) in quad(blocks, 48 + piece * 16).into_iter().enumerate() {
        let fifth = fifths[half][i];
        sink(k + i, and_or(moved(fifth, 2 * quarter, 4), 0x10, and(v, 0x0F)));
        sink(k + i + 8, and_or(moved(fifth, 2 * quarter + 1, 4), 0x10, and(moved(v, 4, 0), 0x0F)));
    }
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl")]
pub(in crate::kernel) fn header_q6_k(blocks: &Blocks<'_, BlockQ6K>) -> Header {
    let zero = _mm512_setzero_si512();
    // The block's last doubleword ends with the half.
    let [_, _, _, last] = quad(blocks, 194);
    Header { d: high_halves(last), dmin: _mm512_setzero_ps(), scales: quad(blocks, 192), mins: [zero; 4] }
}

pub(in crate::kernel) const PIECES_OF_Q6_K: usize = 4;

/// Codes 32 too large.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl")]
pub(in crate::kernel) fn q6_k(blocks: &Blocks<'_, BlockQ6K>, piece: usize, mut sink: impl FnMut(usize, __m512i)) {
    let (half, k) = (piece / 2, piece / 2 * 32 + piece % 2 * 4);
    let at = half * 64 + piece % 2 * 16;
    let (first, second) = (quad(blocks, at), quad(blocks, at + 32));
    let upper = quad(blocks, 128 + piece * 16);
    for i in 0..4 {
        let (first, second, upper) = (first[i], second[i], upper[i]);
        sink(k + i, and_or(moved(upper, 0, 4), 0x30, and(first, 0x0F)));
        sink(k + i + 8, and_or(moved(upper, 2, 4), 0x30, and(second, 0x0F)));
        sink(k + i + 16, and_or(upper, 0x30, and(moved(first, 4, 0), 0x0F)));
        sink(k + i + 24, and_or(moved(upper, 6, 4), 0x30, and(moved(second, 4, 0), 0x0F)));
    }
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl")]
pub(in crate::kernel) fn header_q2_k(blocks: &Blocks<'_, BlockQ2K>) -> Header {
    let packed = quad(blocks, 0);
    let [_, _, _, halves] = quad(blocks, 68);
    Header {
        d: low_halves(halves),
        dmin: high_halves(halves),
        scales: packed.map(|v| and(v, 0x0F)),
        mins: packed.map(|v| and(moved(v, 4, 0), 0x0F)),
    }
}

pub(in crate::kernel) const PIECES_OF_Q2_K: usize = 4;

#[inline]
#[target_feature(enable = "avx512bw,avx512vl")]
pub(in crate::kernel) fn q2_k(blocks: &Blocks<'_, BlockQ2K>, piece: usize, mut sink: impl FnMut(usize, __m512i)) {
    let k = piece / 2 * 32 + piece % 2 * 4;
    for (i, v) in quad(blocks, 16 + piece * 16).into_iter().enumerate() {
        for run in 0..4 {
            sink(k + i + 8 * run, and(moved(v, 2 * run, 0), 3));
        }
    }
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl")]
pub(in crate::kernel) fn header_q3_k(blocks: &Blocks<'_, BlockQ3K>) -> Header {
    let [_, first, second, upper] = quad(blocks, 92);
    let [_, _, _, last] = quad(blocks, 94);
    let zero = _mm512_setzero_si512();
    let scales = [
        and_or(moved(upper, 0, 4), 0x30, and(first, 0x0F)),
        and_or(moved(upper, 2, 4), 0x30, and(second, 0x0F)),
        and_or(upper, 0x30, and(moved(first, 4, 0), 0x0F)),
        and_or(moved(upper, 6, 4), 0x30, and(moved(second, 4, 0), 0x0F)),
    ];
    Header {
        d: high_halves(last),
        dmin: _mm512_setzero_ps(),
        scales: scales.map(|v| _mm512_sub_epi8(v, _mm512_set1_epi8(32))),
        mins: [zero; 4],
    }
}

pub(in crate::kernel) const PIECES_OF_Q3_K: usize = 4;

/// Codes 4 too large.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl")]
pub(in crate::kernel) fn q3_k(blocks: &Blocks<'_, BlockQ3K>, piece: usize, mut sink: impl FnMut(usize, __m512i)) {
    let (half, k) = (piece / 2, piece / 2 * 32 + piece % 2 * 4);
    let third = quad(blocks, piece % 2 * 16);
    for (i, v) in quad(blocks, 32 + piece * 16).into_iter().enumerate() {
        for run in 0..4 {
            let low = and(moved(v, 2 * run, 0), 3);
            sink(k + i + 8 * run, and_or(moved(third[i], 4 * half + run, 2), 4, low));
        }
    }
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl")]
pub(in crate::kernel) fn header_iq4_xs(blocks: &Blocks<'_, BlockIq4Xs>) -> Header {
    let [first, nibbles, _, _] = quad(blocks, 0);
    let zero = _mm512_setzero_si512();
    let upper = _mm512_srli_epi32::<16>(first);
    // Byte `i` takes nibble `i` of a half of the nibbles, and the pair of bits `i` of a half of the upper bits.
    let four = |half: u32| {
        let word = |v: __m512i, shift: u32| _mm512_srlv_epi32(v, _mm512_set1_epi32(shift as i32));
        let mut scales = zero;
        for i in 0..4 {
            let scale = _mm512_or_si512(
                _mm512_and_si512(word(nibbles, 16 * half + 4 * i), _mm512_set1_epi32(0x0F)),
                _mm512_and_si512(_mm512_slli_epi32::<4>(word(upper, 8 * half + 2 * i)), _mm512_set1_epi32(0x30)),
            );
            scales = _mm512_or_si512(scales, _mm512_sllv_epi32(scale, _mm512_set1_epi32(8 * i as i32)));
        }
        _mm512_sub_epi8(scales, _mm512_set1_epi8(32))
    };
    Header { d: low_halves(first), dmin: _mm512_setzero_ps(), scales: [four(0), four(1), zero, zero], mins: [zero; 4] }
}

pub(in crate::kernel) const PIECES_OF_IQ4_XS: usize = 8;

/// The nibbles, which name levels.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl")]
pub(in crate::kernel) fn iq4_xs(blocks: &Blocks<'_, BlockIq4Xs>, piece: usize, mut sink: impl FnMut(usize, __m512i)) {
    for (i, v) in quad(blocks, 8 + piece * 16).into_iter().enumerate() {
        sink(piece * 8 + i, and(v, 0x0F));
        sink(piece * 8 + i + 4, and(moved(v, 4, 0), 0x0F));
    }
}

/// The scale of a block of 32 elements and what is added to each, which is zero where the format has no minima.
pub(in crate::kernel) type Linear = (__m512, __m512);

/// The low nibbles of sixteen bytes and then the high ones.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl")]
fn nibbles<B: Block>(blocks: &Blocks<'_, B>, at: usize) -> [__m512i; 8] {
    let [a, b, c, d] = quad(blocks, at);
    [a, b, c, d, moved(a, 4, 0), moved(b, 4, 0), moved(c, 4, 0), moved(d, 4, 0)].map(|v| and(v, 0x0F))
}

/// The first doubleword of each block.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl")]
fn first<B: Block>(blocks: &Blocks<'_, B>) -> __m512i {
    let [first, _, _, _] = quad(blocks, 0);
    first
}

/// Codes with fifth bits, of which bit `i` of a doubleword belongs to element `i`.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl")]
fn with_fifth(codes: [__m512i; 8], fifth: __m512i) -> [__m512i; 8] {
    std::array::from_fn(|k| {
        // All four bytes take the byte with the bits of these elements, and each tests its own.
        let byte = _mm512_shuffle_epi8(fifth, _mm512_broadcast_i32x4(load_128(&BYTE_FOUR_TIMES[k / 2])));
        let bits = _mm512_set1_epi32(0x0804_0201 << (k % 2 * 4));
        _mm512_mask_add_epi8(codes[k], _mm512_test_epi8_mask(byte, bits), codes[k], _mm512_set1_epi8(16))
    })
}

/// Byte `i` of a doubleword in all its places.
const BYTE_FOUR_TIMES: [[u8; 16]; 4] = {
    let mut index = [[0; 16]; 4];
    let mut i = 0;
    while i < 64 {
        index[i / 16][i % 16] = (i % 16 / 4 * 4 + i / 16) as u8;
        i += 1;
    }
    index
};

#[inline]
#[target_feature(enable = "avx512bw")]
fn minus(codes: [__m512i; 8], offset: i8) -> [__m512i; 8] {
    codes.map(|v| _mm512_sub_epi8(v, _mm512_set1_epi8(offset)))
}

/// The entries of a table of sixteen that nibbles name.
#[inline]
#[target_feature(enable = "avx512bw")]
fn looked_up(table: [i8; 16], nibbles: [__m512i; 8]) -> [__m512i; 8] {
    let table = _mm512_broadcast_i32x4(load_128(&table.map(|value| value as u8)));
    nibbles.map(|v| _mm512_shuffle_epi8(table, v))
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl")]
pub(in crate::kernel) fn q4_0(blocks: &Blocks<'_, BlockQ4_0>) -> ([__m512i; 8], Linear) {
    (minus(nibbles(blocks, 2), 8), (low_halves(first(blocks)), _mm512_setzero_ps()))
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl")]
pub(in crate::kernel) fn q4_1(blocks: &Blocks<'_, BlockQ4_1>) -> ([__m512i; 8], Linear) {
    let first = first(blocks);
    (nibbles(blocks, 4), (low_halves(first), high_halves(first)))
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl")]
pub(in crate::kernel) fn q5_0(blocks: &Blocks<'_, BlockQ5_0>) -> ([__m512i; 8], Linear) {
    let [first, second, _, _] = quad(blocks, 0);
    let fifth = _mm512_or_si512(_mm512_srli_epi32::<16>(first), _mm512_slli_epi32::<16>(second));
    (with_fifth(minus(nibbles(blocks, 6), 16), fifth), (low_halves(first), _mm512_setzero_ps()))
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl")]
pub(in crate::kernel) fn q5_1(blocks: &Blocks<'_, BlockQ5_1>) -> ([__m512i; 8], Linear) {
    let [first, fifth, _, _] = quad(blocks, 0);
    (with_fifth(nibbles(blocks, 8), fifth), (low_halves(first), high_halves(first)))
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl")]
pub(in crate::kernel) fn q8_0(blocks: &Blocks<'_, BlockQ8_0>) -> ([__m512i; 8], Linear) {
    let ([a, b, c, d], [e, f, g, h]) = (quad(blocks, 2), quad(blocks, 18));
    ([a, b, c, d, e, f, g, h], (low_halves(first(blocks)), _mm512_setzero_ps()))
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl")]
pub(in crate::kernel) fn iq4_nl(blocks: &Blocks<'_, BlockIq4Nl>) -> ([__m512i; 8], Linear) {
    (looked_up(IQ4_VALUES, nibbles(blocks, 2)), (low_halves(first(blocks)), _mm512_setzero_ps()))
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl")]
pub(in crate::kernel) fn mxfp4(blocks: &Blocks<'_, BlockMxfp4>) -> ([__m512i; 8], Linear) {
    // As `BlockMxfp4::half_scale`: a power of two, of which the two smallest are subnormal.
    let e = _mm512_and_si512(first(blocks), _mm512_set1_epi32(0xFF));
    let normal = _mm512_slli_epi32::<23>(_mm512_sub_epi32(e, _mm512_set1_epi32(1)));
    let subnormal = _mm512_sllv_epi32(_mm512_set1_epi32(0x0020_0000), e);
    let is_normal = _mm512_cmpge_epu32_mask(e, _mm512_set1_epi32(2));
    let d = _mm512_castsi512_ps(_mm512_mask_mov_epi32(subnormal, is_normal, normal));
    (looked_up(MXFP4_DOUBLED_VALUES, nibbles(blocks, 1)), (d, _mm512_setzero_ps()))
}
