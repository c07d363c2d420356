//! Blocks of 256 elements as the matrix unit takes them: codes times the scales of their sub-blocks, as one part of bytes or two.

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::avx512::interleaved::{self, Fifths, Header};
use super::super::avx512::registers::{store_i32x16, store_lanes, store_line};
use super::super::dispatch::Operands;
use super::super::panels::{Blocks, Lanes, ROWS};
use super::super::x86::load_128;
use super::super_blocks::product;
use crate::quant::{BlockIq4Xs, BlockQ2K, BlockQ3K, BlockQ4K, BlockQ5K, BlockQ6K, IQ4_VALUES};

/// The bytes of a block of sixteen rows of weights, as tiles of B: four steps of 64 elements, each [elements / 4, rows, 4].
pub(super) type Part = [[u8; 64]; 64];

/// The two parts of a panel, of which the first counts `1 << SHIFT` times, or the only part of each of two panels.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Parts(pub(super) [Part; 2]);

/// What scales their sums.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Scales {
    pub(super) d: Lanes,
    pub(super) dmin: Lanes,
    /// 16-bit factors of the sums of activations, two in a doubleword.
    pub(super) mins: [[[i32; ROWS]; 4]; 2],
}

/// What the pieces of a block share.
pub(super) struct Factors {
    /// The scales of sub-blocks; both parts of them where they are cut.
    scales: [[__m512i; 16]; 2],
    fifths: Fifths,
}

/// How a format's blocks become parts.
pub(super) struct Decoder<const PIECES: usize, Begin, Piece> {
    /// What the pieces share and what scales the sums.
    pub(super) begin: Begin,
    /// A piece of one part or two.
    pub(super) piece: Piece,
}

impl Default for Parts {
    fn default() -> Parts {
        Parts([[[0; 64]; 64]; 2])
    }
}

impl Default for Scales {
    fn default() -> Scales {
        Scales { d: Lanes([0.0; ROWS]), dmin: Lanes([0.0; ROWS]), mins: [[[0; ROWS]; 4]; 2] }
    }
}

impl Default for Factors {
    fn default() -> Factors {
        // SAFETY: a register of integers may have all bits zero.
        unsafe { std::mem::zeroed() }
    }
}

impl Scales {
    /// Takes over what stands in a header; `MINS` pairs of minima.
    #[inline]
    #[target_feature(enable = "avx512bw")]
    fn set<const MINS: usize>(&mut self, header: &Header) {
        store_lanes(&mut self.d, header.d);
        store_lanes(&mut self.dmin, header.dmin);
        for i in 0..MINS {
            store_i32x16(&mut self.mins[i / 4][i % 4], interleaved::pair(header.mins[i / 2], i % 2));
        }
    }
}

/// Unsigned codes of up to five bits times scales of six: the scale is cut into two parts of three bits, so that a product
/// stays in its byte and two are made by one multiplication of words.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl")]
fn cut_unsigned_scales(header: &Header, factors: &mut Factors) {
    for i in 0..8 {
        let scale = interleaved::twice(header.scales[i / 4], i % 4);
        factors.scales[0][i] = _mm512_srli_epi16::<3>(scale);
        factors.scales[1][i] = _mm512_and_si512(scale, _mm512_set1_epi16(7));
    }
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl")]
fn two_unsigned_parts(factors: &Factors, parts: &mut [Part]) -> impl FnMut(usize, __m512i) {
    let [high, low] = parts else { panic!("one part") };
    move |k, codes| {
        store_line(&mut high[k], _mm512_mullo_epi16(codes, factors.scales[0][k / 8]));
        store_line(&mut low[k], _mm512_mullo_epi16(codes, factors.scales[1][k / 8]));
    }
}

/// The scales of `SUB_BLOCKS` sub-blocks in the upper byte of both words.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl")]
fn raise_scales<const SUB_BLOCKS: usize>(header: &Header, factors: &mut Factors) {
    for i in 0..SUB_BLOCKS {
        factors.scales[0][i] = _mm512_slli_epi16::<8>(interleaved::twice(header.scales[i / 4], i % 4));
    }
}

/// Signed codes times signed scales, a product of up to thirteen bits: seven of them are the low part, which is not negative,
/// and the others, with the sign, the high one.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl")]
fn two_signed_parts<const SUB_BLOCKS: usize>(factors: &Factors, parts: &mut [Part]) -> impl FnMut(usize, __m512i) {
    let [high_part, low_part] = parts else { panic!("one part") };
    let even = _mm512_set1_epi16(0x00FF);
    move |k, codes| {
        // The upper half of the product of two upper bytes is the product of the bytes.
        let scale = factors.scales[0][k * SUB_BLOCKS / 64];
        let of_even = _mm512_mulhi_epi16(_mm512_slli_epi16::<8>(codes), scale);
        let of_odd = _mm512_mulhi_epi16(_mm512_andnot_si512(even, codes), scale);
        let bytes = |of_even, of_odd| _mm512_ternarylogic_epi32::<0b1011_1000>(of_odd, even, of_even);
        let low = bytes(of_even, _mm512_slli_epi16::<8>(of_odd));
        let high = bytes(_mm512_srai_epi16::<7>(of_even), _mm512_slli_epi16::<1>(of_odd));
        store_line(&mut high_part[k], high);
        store_line(&mut low_part[k], _mm512_and_si512(low, _mm512_set1_epi8(0x7F)));
    }
}

/// The scales of sixteen sub-blocks in both words.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl")]
fn double_scales(header: &Header, factors: &mut Factors) {
    for i in 0..16 {
        factors.scales[0][i] = interleaved::twice(header.scales[i / 4], i % 4);
    }
}

/// Signed codes times signed scales where the product, with its sign turned, fits in a byte.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl")]
fn one_turned_part(factors: &Factors, parts: &mut [Part]) -> impl FnMut(usize, __m512i) {
    let part = &mut parts[0];
    let even = _mm512_set1_epi16(0x00FF);
    move |k, codes| {
        let turned = _mm512_sub_epi8(_mm512_setzero_si512(), codes);
        let scale = factors.scales[0][k / 4];
        // The lower byte of a product of words is that of the product of their lower bytes.
        let of_even = _mm512_mullo_epi16(turned, scale);
        let of_odd = _mm512_mullo_epi16(_mm512_andnot_si512(even, turned), scale);
        store_line(&mut part[k], _mm512_ternarylogic_epi32::<0b1011_1000>(of_odd, even, of_even));
    }
}

#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub(super) fn q4_k(operands: &Operands<'_>, range: Range<usize>) {
    let decoder: Decoder<{ interleaved::PIECES_OF_Q4_K }, _, _> = Decoder {
        begin: |blocks: &Blocks<'_, BlockQ4K>, factors: &mut Factors, scales: &mut Scales| {
            let header = interleaved::header_with_mins(blocks);
            scales.set::<4>(&header);
            cut_unsigned_scales(&header, factors);
        },
        piece: |blocks: &Blocks<'_, BlockQ4K>, piece: usize, factors: &Factors, parts: &mut [Part]| {
            interleaved::q4_k(blocks, piece, two_unsigned_parts(factors, parts));
        },
    };
    product::<BlockQ4K, true, 3, 4, _>(operands, range, &decoder);
}

#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub(super) fn q5_k(operands: &Operands<'_>, range: Range<usize>) {
    let decoder: Decoder<{ interleaved::PIECES_OF_Q5_K }, _, _> = Decoder {
        begin: |blocks: &Blocks<'_, BlockQ5K>, factors: &mut Factors, scales: &mut Scales| {
            let header = interleaved::header_with_mins(blocks);
            scales.set::<4>(&header);
            cut_unsigned_scales(&header, factors);
            factors.fifths = interleaved::fifths(blocks);
        },
        piece: |blocks: &Blocks<'_, BlockQ5K>, piece: usize, factors: &Factors, parts: &mut [Part]| {
            interleaved::q5_k(blocks, &factors.fifths, piece, two_unsigned_parts(factors, parts));
        },
    };
    product::<BlockQ5K, true, 3, 4, _>(operands, range, &decoder);
}

#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub(super) fn q6_k(operands: &Operands<'_>, range: Range<usize>) {
    let decoder: Decoder<{ interleaved::PIECES_OF_Q6_K }, _, _> = Decoder {
        begin: |blocks: &Blocks<'_, BlockQ6K>, factors: &mut Factors, scales: &mut Scales| {
            let header = interleaved::header_q6_k(blocks);
            scales.set::<0>(&header);
            raise_scales::<16>(&header, factors);
        },
        piece: |blocks: &Blocks<'_, BlockQ6K>, piece: usize, factors: &Factors, parts: &mut [Part]| {
            let mut cut = two_signed_parts::<16>(factors, parts);
            interleaved::q6_k(blocks, piece, |k, codes| cut(k, _mm512_sub_epi8(codes, _mm512_set1_epi8(32))));
        },
    };
    product::<BlockQ6K, false, 7, 0, _>(operands, range, &decoder);
}

#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub(super) fn iq4_xs(operands: &Operands<'_>, range: Range<usize>) {
    let levels: [u8; 16] = IQ4_VALUES.map(|value| value as u8);
    let levels = _mm512_broadcast_i32x4(load_128(&levels));
    let decoder: Decoder<{ interleaved::PIECES_OF_IQ4_XS }, _, _> = Decoder {
        begin: |blocks: &Blocks<'_, BlockIq4Xs>, factors: &mut Factors, scales: &mut Scales| {
            let header = interleaved::header_iq4_xs(blocks);
            scales.set::<0>(&header);
            raise_scales::<8>(&header, factors);
        },
        piece: |blocks: &Blocks<'_, BlockIq4Xs>, piece: usize, factors: &Factors, parts: &mut [Part]| {
            let mut cut = two_signed_parts::<8>(factors, parts);
            interleaved::iq4_xs(blocks, piece, |k, codes| cut(k, _mm512_shuffle_epi8(levels, codes)));
        },
    };
    product::<BlockIq4Xs, false, 7, 0, _>(operands, range, &decoder);
}

#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub(super) fn q3_k(operands: &Operands<'_>, range: Range<usize>) {
    let decoder: Decoder<{ interleaved::PIECES_OF_Q3_K }, _, _> = Decoder {
        begin: |blocks: &Blocks<'_, BlockQ3K>, factors: &mut Factors, scales: &mut Scales| {
            let mut header = interleaved::header_q3_k(blocks);
            header.d = _mm512_sub_ps(_mm512_setzero_ps(), header.d);
            scales.set::<0>(&header);
            double_scales(&header, factors);
        },
        piece: |blocks: &Blocks<'_, BlockQ3K>, piece: usize, factors: &Factors, parts: &mut [Part]| {
            let mut cut = one_turned_part(factors, parts);
            interleaved::q3_k(blocks, piece, |k, codes| cut(k, _mm512_sub_epi8(codes, _mm512_set1_epi8(4))));
        },
    };
    product::<BlockQ3K, false, 0, 0, _>(operands, range, &decoder);
}

#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub(super) fn q2_k(operands: &Operands<'_>, range: Range<usize>) {
    let decoder: Decoder<{ interleaved::PIECES_OF_Q2_K }, _, _> = Decoder {
        begin: |blocks: &Blocks<'_, BlockQ2K>, factors: &mut Factors, scales: &mut Scales| {
            let header = interleaved::header_q2_k(blocks);
            scales.set::<8>(&header);
            double_scales(&header, factors);
        },
        piece: |blocks: &Blocks<'_, BlockQ2K>, piece: usize, factors: &Factors, parts: &mut [Part]| {
            // A product of two bits and four stays in its byte, so two are made by one multiplication of words.
            interleaved::q2_k(blocks, piece, |k, codes| {
                store_line(&mut parts[0][k], _mm512_mullo_epi16(codes, factors.scales[0][k / 4]));
            });
        },
    };
    product::<BlockQ2K, true, 0, 8, _>(operands, range, &decoder);
}
