//! The formats of 32 elements against Q8_0 and Q8_1 activations. A format unpacks a block; one loop for either form of
//! activations multiplies it.

use std::arch::x86_64::*;

use super::super::x86::{bytes_at, load_128, load_256, load_halves, prefetch_ahead, sum_f32x8};
use super::{pairs_of_products, pairs_of_signed_products};
use crate::quant::{
    Block, BlockIq4Nl, BlockMxfp4, BlockQ4_0, BlockQ4_1, BlockQ5_0, BlockQ5_1, BlockQ8_0, BlockQ8_1, IQ4_VALUES,
    MXFP4_DOUBLED_VALUES, blocks,
};

/// Values in the order of the elements, and the scale in lane 0; for a format with a minimum, that in lane 1.
type Unpacked = (__m256i, __m128);

fn rows<'a, B: Block, A: Block>(n: usize, weights: &'a [u8], activations: &'a [u8]) -> (&'a [B], &'a [A]) {
    assert_eq!(n % 32, 0, "a row of {n} elements is not a whole number of blocks of 32");
    (blocks(weights, n / 32), blocks(activations, n / 32))
}

/// The dot product of a row whose values are signed.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dot_signed<B: Block>(n: usize, weights: &[u8], activations: &[u8], unpack: impl Fn(&B) -> Unpacked) -> f32 {
    let (weights, activations) = rows::<B, BlockQ8_0>(n, weights, activations);
    let ones = _mm256_set1_epi16(1);
    let mut sums = _mm256_setzero_ps();
    for (w, a) in weights.iter().zip(activations) {
        prefetch_ahead(w);
        let (values, d) = unpack(w);
        let sum = _mm256_madd_epi16(pairs_of_signed_products(values, load_256(bytes_at(a, 2))), ones);
        let d = _mm256_broadcastss_ps(_mm_mul_ps(d, load_halves(bytes_at(a, 0))));
        sums = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), d, sums);
    }
    sum_f32x8(sums)
}

/// The dot product of a row with minima, whose codes are unsigned.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dot_with_min<B: Block>(n: usize, weights: &[u8], activations: &[u8], unpack: impl Fn(&B) -> Unpacked) -> f32 {
    let (weights, activations) = rows::<B, BlockQ8_1>(n, weights, activations);
    let ones = _mm256_set1_epi16(1);
    let mut sums = _mm256_setzero_ps();
    let mut min_sums = _mm_setzero_ps();
    for (w, a) in weights.iter().zip(activations) {
        prefetch_ahead(w);
        let (codes, dm) = unpack(w);
        let sum = _mm256_madd_epi16(pairs_of_products(codes, load_256(bytes_at(a, 4))), ones);
        // Lane 0 is d · d, lane 1 is m · s.
        let products = _mm_mul_ps(dm, load_halves(bytes_at(a, 0)));
        min_sums = _mm_add_ps(min_sums, products);
        sums = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), _mm256_broadcastss_ps(products), sums);
    }
    sum_f32x8(sums) + _mm_cvtss_f32(_mm_movehdup_ps(min_sums))
}

/// Sixteen low nibbles and then the sixteen high ones.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn nibbles(bytes: &[u8; 16]) -> __m256i {
    let bytes = load_128(bytes);
    let both = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(bytes), _mm_srli_epi16::<4>(bytes));
    _mm256_and_si256(both, _mm256_set1_epi8(0x0F))
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

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn dot_q4_0(n: usize, weights: &[u8], activations: &[u8]) -> f32 {
    dot_signed(n, weights, activations, |w: &BlockQ4_0| {
        (_mm256_sub_epi8(nibbles(&w.qs), _mm256_set1_epi8(8)), load_halves(bytes_at(w, 0)))
    })
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn dot_q5_0(n: usize, weights: &[u8], activations: &[u8]) -> f32 {
    dot_signed(n, weights, activations, |w: &BlockQ5_0| {
        (_mm256_sub_epi8(five_bits(&w.qs, w.qh), _mm256_set1_epi8(16)), load_halves(bytes_at(w, 0)))
    })
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn dot_q8_0(n: usize, weights: &[u8], activations: &[u8]) -> f32 {
    dot_signed(n, weights, activations, |w: &BlockQ8_0| (load_256(bytes_at(w, 2)), load_halves(bytes_at(w, 0))))
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn dot_iq4_nl(n: usize, weights: &[u8], activations: &[u8]) -> f32 {
    dot_signed(n, weights, activations, |w: &BlockIq4Nl| (looked_up(IQ4_VALUES, &w.qs), load_halves(bytes_at(w, 0))))
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn dot_mxfp4(n: usize, weights: &[u8], activations: &[u8]) -> f32 {
    dot_signed(n, weights, activations, |w: &BlockMxfp4| {
        (looked_up(MXFP4_DOUBLED_VALUES, &w.qs), _mm_set_ss(w.half_scale()))
    })
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn dot_q4_1(n: usize, weights: &[u8], activations: &[u8]) -> f32 {
    dot_with_min(n, weights, activations, |w: &BlockQ4_1| (nibbles(&w.qs), load_halves(bytes_at(w, 0))))
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn dot_q5_1(n: usize, weights: &[u8], activations: &[u8]) -> f32 {
    dot_with_min(n, weights, activations, |w: &BlockQ5_1| (five_bits(&w.qs, w.qh), load_halves(bytes_at(w, 0))))
}
