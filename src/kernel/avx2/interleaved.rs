//! Eight of the sixteen rows of a panel side by side: a block of each, its codes turned so that a register holds four
//! neighbouring elements of every row. `half` 0 are the first eight rows, 1 the last.
//!
//! Codes are handed to a `sink` with their place: `k` stands for the elements 4k to 4k + 3 of the block.

use std::arch::x86_64::*;

use super::super::panels::Blocks;
use super::super::x86::load_128;
use crate::quant::{
    Block, BlockIq4Nl, BlockIq4Xs, BlockMxfp4, BlockQ2K, BlockQ3K, BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5_0,
    BlockQ5_1, BlockQ5K, BlockQ6K, BlockQ8_0, IQ4_VALUES, MXFP4_DOUBLED_VALUES,
};

/// What scales the codes of a block of 256 elements; a lane is a row.
#[derive(Clone, Copy)]
pub(super) struct Header {
    pub(super) d: __m256,
    /// Zero where the format has no minima.
    pub(super) dmin: __m256,
    /// A byte for each sub-block, four in a doubleword; signed where the format's are.
    pub(super) scales: [__m256i; 4],
    /// Likewise, unsigned.
    pub(super) mins: [__m256i; 4],
}

/// The doublewords of the 16 bytes at `at` of each block: register `i` holds the `i`-th of every row.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn quad<B: Block>(blocks: &Blocks<'_, B>, half: usize, at: usize) -> [__m256i; 4] {
    blocks.ask_ahead();
    let row = |row: usize| load_128(blocks.bytes_at(8 * half + row, at));
    let (a, b) = (_mm256_setr_m128i(row(0), row(4)), _mm256_setr_m128i(row(1), row(5)));
    let (c, d) = (_mm256_setr_m128i(row(2), row(6)), _mm256_setr_m128i(row(3), row(7)));
    let (ab_low, ab_high) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
    let (cd_low, cd_high) = (_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
    [
        _mm256_unpacklo_epi64(ab_low, cd_low),
        _mm256_unpackhi_epi64(ab_low, cd_low),
        _mm256_unpacklo_epi64(ab_high, cd_high),
        _mm256_unpackhi_epi64(ab_high, cd_high),
    ]
}

/// The low halves of the doublewords as floats.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn low_halves(v: __m256i) -> __m256 {
    high_halves(_mm256_slli_epi32::<16>(v))
}

/// The high halves of the doublewords as floats.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn high_halves(v: __m256i) -> __m256 {
    let v = _mm256_srli_epi32::<16>(v);
    let packed = _mm256_packus_epi32(v, v);
    _mm256_cvtph_ps(_mm256_castsi256_si128(_mm256_permute4x64_epi64::<0b10_00>(packed)))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn and(v: __m256i, byte: u8) -> __m256i {
    _mm256_and_si256(v, _mm256_set1_epi8(byte as i8))
}

/// The doublewords moved so that bit `from` of a byte stands at bit `to`, and of that byte what `mask` leaves.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn moved(v: __m256i, from: usize, to: usize, mask: u8) -> __m256i {
    let moved = if from > to {
        _mm256_srlv_epi32(v, _mm256_set1_epi32((from - to) as i32))
    } else {
        _mm256_sllv_epi32(v, _mm256_set1_epi32((to - from) as i32))
    };
    and(moved, mask)
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn or(a: __m256i, b: __m256i) -> __m256i {
    _mm256_or_si256(a, b)
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn minus(v: __m256i, offset: i8) -> __m256i {
    _mm256_sub_epi8(v, _mm256_set1_epi8(offset))
}

/// The entries of a table of sixteen that nibbles name.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn looked_up(table: [i8; 16], nibbles: __m256i) -> __m256i {
    let table = load_128(&zerocopy::transmute!(table));
    _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), nibbles)
}

/// For each doubleword, its bytes `first` and `second` as those at `at` of its words, which are zero otherwise.
const fn words_of(first: u8, second: u8, at: usize) -> [u8; 16] {
    let mut index = [0x80; 16];
    let mut i = 0;
    while i < 4 {
        index[4 * i + at] = 4 * i as u8 + first;
        index[4 * i + 2 + at] = 4 * i as u8 + second;
        i += 1;
    }
    index
}

const TWICE: [[u8; 16]; 4] = [words_of(0, 0, 1), words_of(1, 1, 1), words_of(2, 2, 1), words_of(3, 3, 1)];

const PAIRS: [[u8; 16]; 2] = [words_of(0, 1, 0), words_of(2, 3, 0)];

/// Byte `i` of each doubleword, with its sign, in both words.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn twice(v: __m256i, i: usize) -> __m256i {
    let upper = _mm256_shuffle_epi8(v, _mm256_broadcastsi128_si256(load_128(&TWICE[i])));
    _mm256_srai_epi16::<8>(upper)
}

/// Bytes 2i and 2i + 1 of each doubleword, unsigned, as words.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn pair(v: __m256i, i: usize) -> __m256i {
    _mm256_shuffle_epi8(v, _mm256_broadcastsi128_si256(load_128(&PAIRS[i])))
}

/// The even bytes, with their signs, as words, and then the odd ones.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn words(v: __m256i) -> [__m256i; 2] {
    [_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(v)), _mm256_srai_epi16::<8>(v)]
}

/// Q4_K's and Q5_K's.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn header_with_mins<B: Block>(blocks: &Blocks<'_, B>, half: usize) -> Header {
    let [halves, low_scales, low_mins, high] = quad(blocks, half, 0);
    let zero = _mm256_setzero_si256();
    let high_scales = or(moved(low_scales, 6, 4, 0x30), and(high, 0x0F));
    let high_mins = or(moved(low_mins, 6, 4, 0x30), moved(high, 4, 0, 0x0F));
    Header {
        d: low_halves(halves),
        dmin: high_halves(halves),
        scales: [and(low_scales, 63), high_scales, zero, zero],
        mins: [and(low_mins, 63), high_mins, zero, zero],
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn q4_k(blocks: &Blocks<'_, BlockQ4K>, half: usize, mut sink: impl FnMut(usize, __m256i)) {
    for sixteen in 0..8 {
        // Two sixteens are the low and high nibbles of 64 elements.
        let k = sixteen / 2 * 16 + sixteen % 2 * 4;
        let codes = quad(blocks, half, 16 + sixteen * 16);
        for i in 0..4 {
            sink(k + i, and(codes[i], 0x0F));
            sink(k + i + 8, moved(codes[i], 4, 0, 0x0F));
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn q5_k(blocks: &Blocks<'_, BlockQ5K>, half: usize, mut sink: impl FnMut(usize, __m256i)) {
    for sixteen in 0..2 {
        let fifth = quad(blocks, half, 16 + sixteen * 16);
        for quarter in 0..4 {
            let k = quarter * 16 + sixteen * 4;
            let codes = quad(blocks, half, 48 + quarter * 32 + sixteen * 16);
            for i in 0..4 {
                sink(k + i, or(moved(fifth[i], 2 * quarter, 4, 0x10), and(codes[i], 0x0F)));
                sink(k + i + 8, or(moved(fifth[i], 2 * quarter + 1, 4, 0x10), moved(codes[i], 4, 0, 0x0F)));
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn header_q6_k(blocks: &Blocks<'_, BlockQ6K>, half: usize) -> Header {
    let zero = _mm256_setzero_si256();
    // The block's last doubleword ends with the half.
    let [_, _, _, last] = quad(blocks, half, 194);
    Header { d: high_halves(last), dmin: _mm256_setzero_ps(), scales: quad(blocks, half, 192), mins: [zero; 4] }
}

/// Codes that are signed.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn q6_k(blocks: &Blocks<'_, BlockQ6K>, half: usize, mut sink: impl FnMut(usize, __m256i)) {
    for sixteen in 0..4 {
        let k = sixteen / 2 * 32 + sixteen % 2 * 4;
        let at = sixteen / 2 * 64 + sixteen % 2 * 16;
        let (first, second) = (quad(blocks, half, at), quad(blocks, half, at + 32));
        let upper = quad(blocks, half, 128 + sixteen * 16);
        for i in 0..4 {
            let (first, second, upper) = (first[i], second[i], upper[i]);
            sink(k + i, minus(or(moved(upper, 0, 4, 0x30), and(first, 0x0F)), 32));
            sink(k + i + 8, minus(or(moved(upper, 2, 4, 0x30), and(second, 0x0F)), 32));
            sink(k + i + 16, minus(or(and(upper, 0x30), moved(first, 4, 0, 0x0F)), 32));
            sink(k + i + 24, minus(or(moved(upper, 6, 4, 0x30), moved(second, 4, 0, 0x0F)), 32));
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn header_q2_k(blocks: &Blocks<'_, BlockQ2K>, half: usize) -> Header {
    let packed = quad(blocks, half, 0);
    let [_, _, _, halves] = quad(blocks, half, 68);
    let (mut scales, mut mins) = (packed, packed);
    for i in 0..4 {
        scales[i] = and(packed[i], 0x0F);
        mins[i] = moved(packed[i], 4, 0, 0x0F);
    }
    Header { d: low_halves(halves), dmin: high_halves(halves), scales, mins }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn q2_k(blocks: &Blocks<'_, BlockQ2K>, half: usize, mut sink: impl FnMut(usize, __m256i)) {
    for sixteen in 0..4 {
        let k = sixteen / 2 * 32 + sixteen % 2 * 4;
        let codes = quad(blocks, half, 16 + sixteen * 16);
        for i in 0..4 {
            for run in 0..4 {
                sink(k + i + 8 * run, moved(codes[i], 2 * run, 0, 3));
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn header_q3_k(blocks: &Blocks<'_, BlockQ3K>, half: usize) -> Header {
    let [_, first, second, upper] = quad(blocks, half, 92);
    let [_, _, _, last] = quad(blocks, half, 94);
    let zero = _mm256_setzero_si256();
    let scales = [
        minus(or(moved(upper, 0, 4, 0x30), and(first, 0x0F)), 32),
        minus(or(moved(upper, 2, 4, 0x30), and(second, 0x0F)), 32),
        minus(or(and(upper, 0x30), moved(first, 4, 0, 0x0F)), 32),
        minus(or(moved(upper, 6, 4, 0x30), moved(second, 4, 0, 0x0F)), 32),
    ];
    Header { d: high_halves(last), dmin: _mm256_setzero_ps(), scales, mins: [zero; 4] }
}

/// Codes that are signed.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn q3_k(blocks: &Blocks<'_, BlockQ3K>, half: usize, mut sink: impl FnMut(usize, __m256i)) {
    for sixteen in 0..4 {
        let (part, k) = (sixteen / 2, sixteen / 2 * 32 + sixteen % 2 * 4);
        let third = quad(blocks, half, sixteen % 2 * 16);
        let codes = quad(blocks, half, 32 + sixteen * 16);
        for i in 0..4 {
            for run in 0..4 {
                let third = moved(third[i], 4 * part + run, 2, 4);
                sink(k + i + 8 * run, minus(or(third, moved(codes[i], 2 * run, 0, 3)), 4));
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn header_iq4_xs(blocks: &Blocks<'_, BlockIq4Xs>, half: usize) -> Header {
    let [first, nibbles, _, _] = quad(blocks, half, 0);
    let zero = _mm256_setzero_si256();
    let mut scales = [zero; 4];
    for i in 0..8 {
        // Nibble `i` of the second doubleword, and the pair of bits `i` of the upper half of the first.
        let low = _mm256_srlv_epi32(nibbles, _mm256_set1_epi32(4 * i));
        let low = _mm256_and_si256(low, _mm256_set1_epi32(0x0F));
        let upper = _mm256_srlv_epi32(first, _mm256_set1_epi32(16 + 2 * i));
        let upper = _mm256_and_si256(_mm256_slli_epi32::<4>(upper), _mm256_set1_epi32(0x30));
        let byte = _mm256_sllv_epi32(or(low, upper), _mm256_set1_epi32(8 * (i % 4)));
        scales[i as usize / 4] = or(scales[i as usize / 4], byte);
    }
    let scales = [minus(scales[0], 32), minus(scales[1], 32), zero, zero];
    Header { d: low_halves(first), dmin: _mm256_setzero_ps(), scales, mins: [zero; 4] }
}

/// The values that the nibbles name.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn iq4_xs(blocks: &Blocks<'_, BlockIq4Xs>, half: usize, mut sink: impl FnMut(usize, __m256i)) {
    for run in 0..8 {
        let nibbles = quad(blocks, half, 8 + run * 16);
        for i in 0..4 {
            sink(run * 8 + i, looked_up(IQ4_VALUES, and(nibbles[i], 0x0F)));
            sink(run * 8 + i + 4, looked_up(IQ4_VALUES, moved(nibbles[i], 4, 0, 0x0F)));
        }
    }
}

/// The scale of a block of 32 elements and what is added to each, which is zero where the format has no minima.
pub(super) type Linear = (__m256, __m256);

/// The low nibbles of the sixteen bytes at `at` and then the high ones.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn nibbles<B: Block>(blocks: &Blocks<'_, B>, half: usize, at: usize) -> [__m256i; 8] {
    let bytes = quad(blocks, half, at);
    let mut out = [_mm256_setzero_si256(); 8];
    for i in 0..4 {
        out[i] = and(bytes[i], 0x0F);
        out[i + 4] = moved(bytes[i], 4, 0, 0x0F);
    }
    out
}

/// The first doubleword of each block.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn first<B: Block>(blocks: &Blocks<'_, B>, half: usize) -> __m256i {
    let [first, _, _, _] = quad(blocks, half, 0);
    first
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

/// Four codes of each row, those at `k`, with their fifth bits: bit `i` of a doubleword belongs to element `i`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn with_fifth(codes: __m256i, fifth: __m256i, k: usize) -> __m256i {
    // All four bytes take the byte with the bits of these elements, and each tests its own.
    let byte = _mm256_shuffle_epi8(fifth, _mm256_broadcastsi128_si256(load_128(&BYTE_FOUR_TIMES[k / 2])));
    let bit = _mm256_set1_epi32(0x0804_0201 << (k % 2 * 4));
    let is_set = _mm256_cmpeq_epi8(_mm256_and_si256(byte, bit), bit);
    or(codes, and(is_set, 0x10))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn q4_0(blocks: &Blocks<'_, BlockQ4_0>, half: usize, mut sink: impl FnMut(usize, __m256i)) -> Linear {
    let codes = nibbles(blocks, half, 2);
    for k in 0..8 {
        sink(k, minus(codes[k], 8));
    }
    (low_halves(first(blocks, half)), _mm256_setzero_ps())
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn q4_1(blocks: &Blocks<'_, BlockQ4_1>, half: usize, mut sink: impl FnMut(usize, __m256i)) -> Linear {
    let codes = nibbles(blocks, half, 4);
    for k in 0..8 {
        sink(k, codes[k]);
    }
    let first = first(blocks, half);
    (low_halves(first), high_halves(first))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn q5_0(blocks: &Blocks<'_, BlockQ5_0>, half: usize, mut sink: impl FnMut(usize, __m256i)) -> Linear {
    let [first, second, _, _] = quad(blocks, half, 0);
    let fifth = or(_mm256_srli_epi32::<16>(first), _mm256_slli_epi32::<16>(second));
    let codes = nibbles(blocks, half, 6);
    for k in 0..8 {
        sink(k, minus(with_fifth(codes[k], fifth, k), 16));
    }
    (low_halves(first), _mm256_setzero_ps())
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn q5_1(blocks: &Blocks<'_, BlockQ5_1>, half: usize, mut sink: impl FnMut(usize, __m256i)) -> Linear {
    let [first, fifth, _, _] = quad(blocks, half, 0);
    let codes = nibbles(blocks, half, 8);
    for k in 0..8 {
        sink(k, with_fifth(codes[k], fifth, k));
    }
    (low_halves(first), high_halves(first))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn q8_0(blocks: &Blocks<'_, BlockQ8_0>, half: usize, mut sink: impl FnMut(usize, __m256i)) -> Linear {
    for sixteen in 0..2 {
        let codes = quad(blocks, half, 2 + sixteen * 16);
        for i in 0..4 {
            sink(sixteen * 4 + i, codes[i]);
        }
    }
    (low_halves(first(blocks, half)), _mm256_setzero_ps())
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn iq4_nl(blocks: &Blocks<'_, BlockIq4Nl>, half: usize, mut sink: impl FnMut(usize, __m256i)) -> Linear {
    let codes = nibbles(blocks, half, 2);
    for k in 0..8 {
        sink(k, looked_up(IQ4_VALUES, codes[k]));
    }
    (low_halves(first(blocks, half)), _mm256_setzero_ps())
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn mxfp4(blocks: &Blocks<'_, BlockMxfp4>, half: usize, mut sink: impl FnMut(usize, __m256i)) -> Linear {
    let codes = nibbles(blocks, half, 1);
    for k in 0..8 {
        sink(k, looked_up(MXFP4_DOUBLED_VALUES, codes[k]));
    }
    // As `BlockMxfp4::half_scale`: a power of two, of which the two smallest are subnormal.
    let e = _mm256_and_si256(first(blocks, half), _mm256_set1_epi32(0xFF));
    let one = _mm256_set1_epi32(1);
    let normal = _mm256_slli_epi32::<23>(_mm256_sub_epi32(e, one));
    let subnormal = _mm256_sllv_epi32(_mm256_set1_epi32(0x0020_0000), e);
    let d = _mm256_blendv_epi8(subnormal, normal, _mm256_cmpgt_epi32(e, one));
    (_mm256_castsi256_ps(d), _mm256_setzero_ps())
}

/// Floats: the `sink` is given an element of every row.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn f16<B: Block>(blocks: &Blocks<'_, B>, half: usize, mut sink: impl FnMut(usize, __m256)) {
    for eight in 0..size_of::<B>() / 16 {
        let pairs = quad(blocks, half, 16 * eight);
        for i in 0..4 {
            sink(8 * eight + 2 * i, low_halves(pairs[i]));
            sink(8 * eight + 2 * i + 1, high_halves(pairs[i]));
        }
    }
}
