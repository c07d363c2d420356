//! The formats of 32 elements against Q8_0 and Q8_1 activations. A format unpacks a block; one loop for either form of
//! activations multiplies it, for one row of activations or several that share the unpacking.

use std::arch::x86_64::*;

use super::super::x86::{Prefetch, bytes_at, load_128, load_256, load_halves, nibbles, store_f32x4, sum_f32x8};
use super::{pairs_of_products, pairs_of_signed_products};
use crate::quant::{
    Block, BlockIq4Nl, BlockMxfp4, BlockQ4_0, BlockQ4_1, BlockQ5_0, BlockQ5_1, BlockQ8_0, BlockQ8_1, Half, IQ4_VALUES,
    MXFP4_DOUBLED_VALUES,
};

/// Codes in the order of the elements, and in lane 0 the scale, in lane 1 the minimum.
type Unpacked = (__m256i, __m128);

/// Four halves as floats.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn four_halves(halves: [Half; 4]) -> __m128 {
    // Put together in a general register: one conversion takes as long as four.
    let bits = halves.iter().rev().fold(0, |bits, half| bits << 16 | u64::from(half.to_bits()));
    _mm_cvtph_ps(_mm_cvtsi64_si128(bits as i64))
}

/// The dot products of a row of weights, whose values are signed, with `C` rows of activations. `scales` gives those of four
/// blocks, `pairs` the sums of two products of a block's values, as 16 bits.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dots_signed<B: Block, V, const C: usize>(
    weights: &[B],
    activations: [&[BlockQ8_0]; C],
    scales: impl Fn([&B; 4]) -> __m128,
    unpack: impl Fn(&B) -> V,
    pairs: impl Fn(&V, __m256i) -> __m256i,
) -> [f32; C] {
    let ones = _mm256_set1_epi16(1);
    let product = |values: &V, a: &BlockQ8_0| {
        _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs(values, load_256(bytes_at(a, 2))), ones))
    };
    let mut sums = [_mm256_setzero_ps(); C];
    let (fours, rest) = weights.as_chunks::<4>();
    for (i, four) in fours.iter().enumerate() {
        Prefetch::NEAR.ahead_of(four);
        let [w0, w1, w2, w3] = four;
        let d = scales([w0, w1, w2, w3]);
        let mut of_rows = [[0.0; 4]; C];
        for c in 0..C {
            let a: &[BlockQ8_0; 4] = &activations[c].as_chunks().0[i];
            store_f32x4(&mut of_rows[c], _mm_mul_ps(d, four_halves([a[0].d, a[1].d, a[2].d, a[3].d])));
        }
        for j in 0..4 {
            let values = unpack(&four[j]);
            for c in 0..C {
                let a: &[BlockQ8_0; 4] = &activations[c].as_chunks().0[i];
                sums[c] = _mm256_fmadd_ps(product(&values, &a[j]), _mm256_broadcast_ss(&of_rows[c][j]), sums[c]);
            }
        }
    }
    for (j, w) in rest.iter().enumerate() {
        let (values, d) = (unpack(w), scales([w; 4]));
        for c in 0..C {
            let a = &activations[c][4 * fours.len() + j];
            let d = _mm256_broadcastss_ps(_mm_mul_ps(d, four_halves([a.d; 4])));
            sums[c] = _mm256_fmadd_ps(product(&values, a), d, sums[c]);
        }
    }
    std::array::from_fn(|c| sum_f32x8(sums[c]))
}

/// For [`dots_signed`]: unsigned codes that are `OFFSET` too large.
#[inline]
#[target_feature(enable = "avx2")]
fn pairs_of_offset<const OFFSET: i8>(codes: &__m256i, activations: __m256i) -> __m256i {
    let offset = pairs_of_products(_mm256_set1_epi8(OFFSET), activations);
    _mm256_sub_epi16(pairs_of_products(*codes, activations), offset)
}

/// The dot products of a row of weights with minima, whose codes are unsigned, with `C` rows of activations.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dots_with_min<B: Block, const C: usize>(
    weights: &[B],
    activations: [&[BlockQ8_1]; C],
    unpack: impl Fn(&B) -> Unpacked,
) -> [f32; C] {
    let ones = _mm256_set1_epi16(1);
    let mut sums = [_mm256_setzero_ps(); C];
    let mut min_sums = [_mm_setzero_ps(); C];
    for (i, w) in weights.iter().enumerate() {
        Prefetch::NEAR.ahead_of(w);
        let (codes, dm) = unpack(w);
        for c in 0..C {
            let a = &activations[c][i];
            let sum = _mm256_madd_epi16(pairs_of_products(codes, load_256(bytes_at(a, 4))), ones);
            // Lane 0 is d · d, lane 1 is m · s.
            let products = _mm_mul_ps(dm, load_halves(bytes_at(a, 0)));
            min_sums[c] = _mm_add_ps(min_sums[c], products);
            sums[c] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), _mm256_broadcastss_ps(products), sums[c]);
        }
    }
    std::array::from_fn(|c| sum_f32x8(sums[c]) + _mm_cvtss_f32(_mm_movehdup_ps(min_sums[c])))
}

/// The nibbles with the fifth bits of a word added.
#[inline]
#[target_feature(enable = "avx2")]
fn five_bits(qs: &[u8; 16], qh: [u8; 4]) -> __m256i {
    // Byte i of the register gets byte i / 8 of the word, and of that, bit i % 8.
    let of_byte = _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
    let word = _mm256_shuffle_epi8(_mm256_set1_epi32(i32::from_le_bytes(qh)), of_byte);
    let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201u64 as i64);
    let is_set = _mm256_cmpeq_epi8(_mm256_and_si256(word, bit), bit);
    _mm256_or_si256(nibbles(qs), _mm256_and_si256(is_set, _mm256_set1_epi8(16)))
}

/// The entries of a table of sixteen that the nibbles name.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn looked_up(table: [i8; 16], qs: &[u8; 16]) -> __m256i {
    let table = load_128(&zerocopy::transmute!(table));
    _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), nibbles(qs))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn q4_0<const C: usize>(weights: &[BlockQ4_0], activations: [&[BlockQ8_0]; C]) -> [f32; C] {
    let scales = |w: [&BlockQ4_0; 4]| four_halves([w[0].d, w[1].d, w[2].d, w[3].d]);
    dots_signed(weights, activations, scales, |w| nibbles(&w.qs), |codes, a| pairs_of_offset::<8>(codes, a))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn q5_0<const C: usize>(weights: &[BlockQ5_0], activations: [&[BlockQ8_0]; C]) -> [f32; C] {
    let scales = |w: [&BlockQ5_0; 4]| four_halves([w[0].d, w[1].d, w[2].d, w[3].d]);
    dots_signed(weights, activations, scales, |w| five_bits(&w.qs, w.qh), |codes, a| pairs_of_offset::<16>(codes, a))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn q8_0<const C: usize>(weights: &[BlockQ8_0], activations: [&[BlockQ8_0]; C]) -> [f32; C] {
    let scales = |w: [&BlockQ8_0; 4]| four_halves([w[0].d, w[1].d, w[2].d, w[3].d]);
    let unpack = |w: &BlockQ8_0| load_256(bytes_at(w, 2));
    dots_signed(weights, activations, scales, unpack, |values, a| pairs_of_signed_products(*values, a))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn iq4_nl<const C: usize>(weights: &[BlockIq4Nl], activations: [&[BlockQ8_0]; C]) -> [f32; C] {
    let scales = |w: [&BlockIq4Nl; 4]| four_halves([w[0].d, w[1].d, w[2].d, w[3].d]);
    let unpack = |w: &BlockIq4Nl| looked_up(IQ4_VALUES, &w.qs);
    dots_signed(weights, activations, scales, unpack, |values, a| pairs_of_signed_products(*values, a))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn mxfp4<const C: usize>(weights: &[BlockMxfp4], activations: [&[BlockQ8_0]; C]) -> [f32; C] {
    let scales =
        |w: [&BlockMxfp4; 4]| _mm_setr_ps(w[0].half_scale(), w[1].half_scale(), w[2].half_scale(), w[3].half_scale());
    let unpack = |w: &BlockMxfp4| looked_up(MXFP4_DOUBLED_VALUES, &w.qs);
    dots_signed(weights, activations, scales, unpack, |values, a| pairs_of_signed_products(*values, a))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn q4_1<const C: usize>(weights: &[BlockQ4_1], activations: [&[BlockQ8_1]; C]) -> [f32; C] {
    dots_with_min(weights, activations, |w| (nibbles(&w.qs), load_halves(bytes_at(w, 0))))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn q5_1<const C: usize>(weights: &[BlockQ5_1], activations: [&[BlockQ8_1]; C]) -> [f32; C] {
    dots_with_min(weights, activations, |w| (five_bits(&w.qs, w.qh), load_halves(bytes_at(w, 0))))
}

super::super::x86::dots! {
    "avx2,fma,f16c", 32, BlockQ8_0;
    dot_q4_0, dot4_q4_0: q4_0, BlockQ4_0;
    dot_q5_0, dot4_q5_0: q5_0, BlockQ5_0;
    dot_q8_0, dot4_q8_0: q8_0, BlockQ8_0;
    dot_iq4_nl, dot4_iq4_nl: iq4_nl, BlockIq4Nl;
    dot_mxfp4, dot4_mxfp4: mxfp4, BlockMxfp4;
}

super::super::x86::dots! {
    "avx2,fma,f16c", 32, BlockQ8_1;
    dot_q4_1, dot4_q4_1: q4_1, BlockQ4_1;
    dot_q5_1, dot4_q5_1: q5_1, BlockQ5_1;
}
