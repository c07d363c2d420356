//! Panels in registers: sixteen rows of weights are the lanes of one.

use std::arch::x86_64::*;

use super::super::panels::Lanes;

#[inline]
#[target_feature(enable = "avx512f")]
pub(in crate::kernel) fn load_lanes(lanes: &Lanes) -> __m512 {
    // SAFETY: the reference covers the 64 bytes, at an address that is a multiple of 64.
    unsafe { _mm512_load_ps(lanes.0.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(in crate::kernel) fn store_lanes(lanes: &mut Lanes, v: __m512) {
    // SAFETY: as for a load.
    unsafe { _mm512_store_ps(lanes.0.as_mut_ptr(), v) }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(in crate::kernel) fn load_i32x16(values: &[i32; 16]) -> __m512i {
    // SAFETY: the reference covers the 64 bytes.
    unsafe { _mm512_loadu_si512(values.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(in crate::kernel) fn store_codes(bytes: &mut [u8; 64], v: __m512i) {
    // SAFETY: the reference covers the 64 bytes.
    unsafe { _mm512_storeu_si512(bytes.as_mut_ptr().cast(), v) }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(in crate::kernel) fn store_i32x16(values: &mut [i32; 16], v: __m512i) {
    // SAFETY: the reference covers the 64 bytes.
    unsafe { _mm512_storeu_si512(values.as_mut_ptr().cast(), v) }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(in crate::kernel) fn load_codes(bytes: &[u8; 64]) -> __m512i {
    // SAFETY: the reference covers the 64 bytes.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}
