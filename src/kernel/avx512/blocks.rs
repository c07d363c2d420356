//! The formats of 32 elements against Q8_0 and Q8_1 activations. A format unpacks a block to unsigned codes; one loop for
//! either form of activations multiplies them, for one row of activations or several that share the unpacking.

use std::arch::x86_64::*;

use super::super::x86::{
    IQ4_VALUES_OFFSET, MXFP4_VALUES_OFFSET, Prefetch, bytes_at, load_128, load_256, load_halves, nibbles, sum_f32x8,
};
use crate::quant::{Block, BlockIq4Nl, BlockMxfp4, BlockQ4_0, BlockQ4_1, BlockQ5_0, BlockQ5_1, BlockQ8_0, BlockQ8_1};

/// Unsigned codes in the order of the elements, and the scale in lane 0; for a format with a minimum, that in lane 1.
type Unpacked = (__m256i, __m128);

/// The dot products of a row of weights, whose codes are `offset` too large, with `C` rows of activations.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn dots_with_offset<B: Block, const C: usize>(
    weights: &[B],
    activations: [&[BlockQ8_0]; C],
    offset: u8,
    unpack: impl Fn(&B) -> Unpacked,
) -> [f32; C] {
    let zero = _mm256_setzero_si256();
    let offset = _mm256_set1_epi8(offset as i8);
    let mut sums = [_mm256_setzero_ps(); C];
    for (i, w) in weights.iter().enumerate() {
        Prefetch::NEAR.ahead_of(w);
        let (codes, d) = unpack(w);
        for c in 0..C {
            let a = &activations[c][i];
            let q = load_256(bytes_at(a, 2));
            let sum = _mm256_sub_epi32(_mm256_dpbusd_epi32(zero, codes, q), _mm256_dpbusd_epi32(zero, offset, q));
            let d = _mm256_broadcastss_ps(_mm_mul_ps(d, load_halves(bytes_at(a, 0))));
            sums[c] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), d, sums[c]);
        }
    }
    std::array::from_fn(|c| sum_f32x8(sums[c]))
}

/// The dot products of a row of weights with minima with `C` rows of activations.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn dots_with_min<B: Block, const C: usize>(
    weights: &[B],
    activations: [&[BlockQ8_1]; C],
    unpack: impl Fn(&B) -> Unpacked,
) -> [f32; C] {
    let mut sums = [_mm256_setzero_ps(); C];
    // Of every fourth block.
    let mut min_sums = [[_mm_setzero_ps(); 4]; C];
    let mut add = |w: &B, i: usize, place: usize| {
        Prefetch::NEAR.ahead_of(w);
        let (codes, dm) = unpack(w);
        for c in 0..C {
            let a = &activations[c][i];
            let sum = _mm256_dpbusd_epi32(_mm256_setzero_si256(), codes, load_256(bytes_at(a, 4)));
            // Lane 0 is d · d, lane 1 is m · s.
            let products = _mm_mul_ps(dm, load_halves(bytes_at(a, 0)));
            min_sums[c][place] = _mm_add_ps(min_sums[c][place], products);
            sums[c] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), _mm256_broadcastss_ps(products), sums[c]);
        }
    };
    let (fours, rest) = weights.as_chunks::<4>();
    for (i, [a, b, c, d]) in fours.iter().enumerate() {
        add(a, 4 * i, 0);
        add(b, 4 * i + 1, 1);
        add(c, 4 * i + 2, 2);
        add(d, 4 * i + 3, 3);
    }
    for (place, w) in rest.iter().enumerate() {
        add(w, 4 * fours.len() + place, place);
    }
    std::array::from_fn(|c| {
        let [a, b, c_, d] = min_sums[c];
        sum_f32x8(sums[c]) + folded_mins(_mm_movelh_ps(a, b), _mm_movelh_ps(c_, d))
    })
}

/// The sum of the odd lanes of the sums of two blocks and of the two that follow them.
#[inline]
#[target_feature(enable = "avx512vl")]
pub(super) fn folded_mins(first: __m128, second: __m128) -> f32 {
    let sums = _mm_movehdup_ps(_mm_add_ps(first, second));
    _mm_cvtss_f32(_mm_add_ss(sums, _mm_movehl_ps(sums, sums)))
}

/// The nibbles with the fifth bits of a word added.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl")]
pub(super) fn five_bits(qs: &[u8; 16], qh: [u8; 4]) -> __m256i {
    let codes = nibbles(qs);
    _mm256_mask_add_epi8(codes, u32::from_le_bytes(qh), codes, _mm256_set1_epi8(16))
}

/// The entries of a table of sixteen that the nibbles name.
#[inline]
#[target_feature(enable = "avx512vl")]
pub(super) fn looked_up(table: &[u8; 16], qs: &[u8; 16]) -> __m256i {
    _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(load_128(table)), nibbles(qs))
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn q4_0<const C: usize>(weights: &[BlockQ4_0], activations: [&[BlockQ8_0]; C]) -> [f32; C] {
    dots_with_offset(weights, activations, 8, |w| (nibbles(&w.qs), load_halves(bytes_at(w, 0))))
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn q5_0<const C: usize>(weights: &[BlockQ5_0], activations: [&[BlockQ8_0]; C]) -> [f32; C] {
    dots_with_offset(weights, activations, 16, |w| (five_bits(&w.qs, w.qh), load_halves(bytes_at(w, 0))))
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn q8_0<const C: usize>(weights: &[BlockQ8_0], activations: [&[BlockQ8_0]; C]) -> [f32; C] {
    dots_with_offset(weights, activations, 128, |w| {
        let codes = _mm256_xor_si256(load_256(bytes_at(w, 2)), _mm256_set1_epi8(-128));
        (codes, load_halves(bytes_at(w, 0)))
    })
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn iq4_nl<const C: usize>(weights: &[BlockIq4Nl], activations: [&[BlockQ8_0]; C]) -> [f32; C] {
    dots_with_offset(weights, activations, 128, |w| (looked_up(&IQ4_VALUES_OFFSET, &w.qs), load_halves(bytes_at(w, 0))))
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn mxfp4<const C: usize>(weights: &[BlockMxfp4], activations: [&[BlockQ8_0]; C]) -> [f32; C] {
    dots_with_offset(weights, activations, 12, |w| (looked_up(&MXFP4_VALUES_OFFSET, &w.qs), _mm_set_ss(w.half_scale())))
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn q4_1<const C: usize>(weights: &[BlockQ4_1], activations: [&[BlockQ8_1]; C]) -> [f32; C] {
    dots_with_min(weights, activations, |w| (nibbles(&w.qs), load_halves(bytes_at(w, 0))))
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn q5_1<const C: usize>(weights: &[BlockQ5_1], activations: [&[BlockQ8_1]; C]) -> [f32; C] {
    dots_with_min(weights, activations, |w| (five_bits(&w.qs, w.qh), load_halves(bytes_at(w, 0))))
}

super::super::x86::dots! {
    "avx512bw,avx512vl,avx512vnni", 32, BlockQ8_0;
    dot_q4_0, dot4_q4_0: q4_0, BlockQ4_0;
    dot_q5_0, dot4_q5_0: q5_0, BlockQ5_0;
    dot_q8_0, dot4_q8_0: q8_0, BlockQ8_0;
    dot_iq4_nl, dot4_iq4_nl: iq4_nl, BlockIq4Nl;
    dot_mxfp4, dot4_mxfp4: mxfp4, BlockMxfp4;
}

super::super::x86::dots! {
    "avx512bw,avx512vl,avx512vnni", 32, BlockQ8_1;
    dot_q4_1, dot4_q4_1: q4_1, BlockQ4_1;
    dot_q5_1, dot4_q5_1: q5_1, BlockQ5_1;
}
