//! The formats of 32 elements against Q8_0 and Q8_1 activations. A format unpacks a block to unsigned codes; one loop for
//! either form of activations multiplies them, for one row of weights or several that share each activation load.

use std::arch::x86_64::*;

use super::super::x86::{
    IQ4_VALUES_OFFSET, MXFP4_VALUES_OFFSET, bytes_at, load_128, load_256, load_halves, prefetch_ahead, sum_f32x8,
};
use crate::quant::{
    Block, BlockIq4Nl, BlockMxfp4, BlockQ4_0, BlockQ4_1, BlockQ5_0, BlockQ5_1, BlockQ8_0, BlockQ8_1, blocks,
};

/// Unsigned codes in the order of the elements, and the scale in lane 0; for a format with a minimum, that in lane 1.
type Unpacked = (__m256i, __m128);

/// The dot products of `R` rows of a format whose codes are `offset` too large.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn dot_with_offset<B: Block, const R: usize>(
    rows: [&[B]; R],
    activations: &[BlockQ8_0],
    offset: u8,
    unpack: impl Fn(&B) -> Unpacked,
) -> [f32; R] {
    let zero = _mm256_setzero_si256();
    let offset = _mm256_set1_epi8(offset as i8);
    let mut sums = [_mm256_setzero_ps(); R];
    for (i, a) in activations.iter().enumerate() {
        let q = load_256(bytes_at(a, 2));
        let start = _mm256_sub_epi32(zero, _mm256_dpbusd_epi32(zero, offset, q));
        let a_d = load_halves(bytes_at(a, 0));
        for r in 0..R {
            prefetch_ahead(&rows[r][i]);
            let (codes, d) = unpack(&rows[r][i]);
            let sum = _mm256_dpbusd_epi32(start, codes, q);
            let d = _mm256_broadcastss_ps(_mm_mul_ps(d, a_d));
            sums[r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), d, sums[r]);
        }
    }
    std::array::from_fn(|r| sum_f32x8(sums[r]))
}

/// The dot products of `R` rows of a format with minima.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn dot_with_min<B: Block, const R: usize>(
    rows: [&[B]; R],
    activations: &[BlockQ8_1],
    unpack: impl Fn(&B) -> Unpacked,
) -> [f32; R] {
    let mut sums = [_mm256_setzero_ps(); R];
    let mut min_sums = [_mm_setzero_ps(); R];
    for (i, a) in activations.iter().enumerate() {
        let q = load_256(bytes_at(a, 4));
        let a_ds = load_halves(bytes_at(a, 0));
        for r in 0..R {
            prefetch_ahead(&rows[r][i]);
            let (codes, dm) = unpack(&rows[r][i]);
            let sum = _mm256_dpbusd_epi32(_mm256_setzero_si256(), codes, q);
            // Lane 0 is d · d, lane 1 is m · s.
            let products = _mm_mul_ps(dm, a_ds);
            min_sums[r] = _mm_add_ps(min_sums[r], products);
            let d = _mm256_broadcastss_ps(products);
            sums[r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), d, sums[r]);
        }
    }
    std::array::from_fn(|r| sum_f32x8(sums[r]) + _mm_cvtss_f32(_mm_movehdup_ps(min_sums[r])))
}

/// Sixteen low nibbles and then the sixteen high ones.
#[inline]
#[target_feature(enable = "avx512vl")]
fn nibbles(bytes: &[u8; 16]) -> __m256i {
    let twice = _mm256_broadcastsi128_si256(load_128(bytes));
    let shifted = _mm256_srlv_epi64(twice, _mm256_setr_epi64x(0, 0, 4, 4));
    _mm256_and_si256(shifted, _mm256_set1_epi8(0x0F))
}

/// The nibbles with the fifth bits of a word added.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl")]
fn five_bits(qs: &[u8; 16], qh: [u8; 4]) -> __m256i {
    let codes = nibbles(qs);
    _mm256_mask_add_epi8(codes, u32::from_le_bytes(qh), codes, _mm256_set1_epi8(16))
}

/// The entries of a table of sixteen that the nibbles name.
#[inline]
#[target_feature(enable = "avx512vl")]
fn looked_up(table: &[u8; 16], qs: &[u8; 16]) -> __m256i {
    _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(load_128(table)), nibbles(qs))
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn q4_0_rows<const R: usize>(rows: [&[BlockQ4_0]; R], activations: &[BlockQ8_0]) -> [f32; R] {
    dot_with_offset(rows, activations, 8, |w| (nibbles(&w.qs), load_halves(bytes_at(w, 0))))
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn q5_0_rows<const R: usize>(rows: [&[BlockQ5_0]; R], activations: &[BlockQ8_0]) -> [f32; R] {
    dot_with_offset(rows, activations, 16, |w| (five_bits(&w.qs, w.qh), load_halves(bytes_at(w, 0))))
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn q8_0_rows<const R: usize>(rows: [&[BlockQ8_0]; R], activations: &[BlockQ8_0]) -> [f32; R] {
    dot_with_offset(rows, activations, 128, |w| {
        let codes = _mm256_xor_si256(load_256(bytes_at(w, 2)), _mm256_set1_epi8(-128));
        (codes, load_halves(bytes_at(w, 0)))
    })
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn iq4_nl_rows<const R: usize>(rows: [&[BlockIq4Nl]; R], activations: &[BlockQ8_0]) -> [f32; R] {
    dot_with_offset(rows, activations, 128, |w| (looked_up(&IQ4_VALUES_OFFSET, &w.qs), load_halves(bytes_at(w, 0))))
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn mxfp4_rows<const R: usize>(rows: [&[BlockMxfp4]; R], activations: &[BlockQ8_0]) -> [f32; R] {
    dot_with_offset(rows, activations, 12, |w| (looked_up(&MXFP4_VALUES_OFFSET, &w.qs), _mm_set_ss(w.half_scale())))
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn q4_1_rows<const R: usize>(rows: [&[BlockQ4_1]; R], activations: &[BlockQ8_1]) -> [f32; R] {
    dot_with_min(rows, activations, |w| (nibbles(&w.qs), load_halves(bytes_at(w, 0))))
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn q5_1_rows<const R: usize>(rows: [&[BlockQ5_1]; R], activations: &[BlockQ8_1]) -> [f32; R] {
    dot_with_min(rows, activations, |w| (five_bits(&w.qs, w.qh), load_halves(bytes_at(w, 0))))
}

/// Defines the dot product of one row by the form for several.
macro_rules! dot_of_one_row {
    ($($name:ident: $rows:ident, $block:ty, $activations:ty;)*) => {$(
        #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
        pub(super) fn $name(n: usize, weights: &[u8], activations: &[u8]) -> f32 {
            assert_eq!(n % 32, 0, "a row of {n} elements is not a whole number of blocks of 32");
            let [sum] = $rows([blocks::<$block>(weights, n / 32)], blocks::<$activations>(activations, n / 32));
            sum
        }
    )*};
}

dot_of_one_row! {
    dot_q4_0: q4_0_rows, BlockQ4_0, BlockQ8_0;
    dot_q4_1: q4_1_rows, BlockQ4_1, BlockQ8_1;
    dot_q5_0: q5_0_rows, BlockQ5_0, BlockQ8_0;
    dot_q5_1: q5_1_rows, BlockQ5_1, BlockQ8_1;
    dot_q8_0: q8_0_rows, BlockQ8_0, BlockQ8_0;
    dot_iq4_nl: iq4_nl_rows, BlockIq4Nl, BlockQ8_0;
    dot_mxfp4: mxfp4_rows, BlockMxfp4, BlockQ8_0;
}
