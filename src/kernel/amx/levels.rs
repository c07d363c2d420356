//! How codes become bf16.

use std::arch::x86_64::*;

use super::super::x86::{load_128, load_256};

/// Floats rounded to the nearest bf16, the first sixteen and then the others.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512bf16")]
pub(super) fn rounded(first: __m512, second: __m512) -> __m512i {
    // SAFETY: both are 64 bytes without padding.
    unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(second, first)) }
}

/// 32 signed codes times their scale.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512bf16")]
pub(super) fn scaled(codes: &[u8; 32], scale: __m512) -> __m512i {
    let codes = load_256(codes);
    let halves = [_mm256_castsi256_si128(codes), _mm256_extracti128_si256::<1>(codes)];
    let [first, second] = halves.map(|half| _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(half)), scale));
    rounded(first, second)
}

/// The integers from `first` on.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn integers(first: i8) -> __m512 {
    let from_zero = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    _mm512_cvtepi32_ps(_mm512_add_epi32(from_zero, _mm512_set1_epi32(first.into())))
}

/// Sixteen values as floats.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn floats(values: &[i8; 16]) -> __m512 {
    _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load_128(&values.map(|value| value as u8))))
}
