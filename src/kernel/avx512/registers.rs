//! Panels in registers: sixteen rows of weights are the lanes of one.

use std::arch::asm;
use std::arch::x86_64::*;

use super::super::panels::Lanes;
use super::super::x86::load_128;

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
pub(in crate::kernel) fn to_floats(v: __m512) -> [f32; 16] {
    // SAFETY: both are sixteen floats.
    unsafe { std::mem::transmute::<__m512, [f32; 16]>(v) }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(in crate::kernel) fn load_i32x16(values: &[i32; 16]) -> __m512i {
    // SAFETY: the reference covers the 64 bytes.
    unsafe { _mm512_loadu_si512(values.as_ptr().cast()) }
}

/// The doublewords of sixteen bytes of each row: register `i` holds the `i`-th of every row.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl")]
pub(in crate::kernel) fn turned<'a>(bytes_of: impl Fn(usize) -> &'a [u8; 16]) -> [__m512i; 4] {
    let gathered = |i: usize| {
        let lane = |lane: usize| load_128(bytes_of(4 * lane + i));
        let v = _mm512_castsi128_si512(lane(0));
        let v = _mm512_inserti32x4::<1>(v, lane(1));
        let v = _mm512_inserti32x4::<2>(v, lane(2));
        _mm512_inserti32x4::<3>(v, lane(3))
    };
    let (a, b, c, d) = (gathered(0), gathered(1), gathered(2), gathered(3));
    let (ab_low, ab_high) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let (cd_low, cd_high) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    [
        _mm512_unpacklo_epi64(ab_low, cd_low),
        _mm512_unpackhi_epi64(ab_low, cd_low),
        _mm512_unpacklo_epi64(ab_high, cd_high),
        _mm512_unpackhi_epi64(ab_high, cd_high),
    ]
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(in crate::kernel) fn store_line(bytes: &mut [u8; 64], v: __m512i) {
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

/// `sums` and the products of 16-bit numbers, two by two: VNNI's instruction, of whose intrinsic the compiler makes a
/// multiplication and an addition.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
pub(in crate::kernel) fn add_products(mut sums: __m512i, a: __m512i, b: __m512i) -> __m512i {
    // SAFETY: the instruction reads and writes the registers that are named.
    unsafe {
        asm!("vpdpwssd {}, {}, {}", inout(zmm_reg) sums, in(zmm_reg) a, in(zmm_reg) b,
             options(pure, nomem, nostack, preserves_flags));
    }
    sums
}

/// As [`add_products`], of pairs each of which meets all lanes of its register.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
pub(in crate::kernel) fn add_products_of(mut sums: __m512i, a: [__m512i; 4], pairs: &[i32; 4]) -> __m512i {
    // SAFETY: the instructions read the reference's sixteen bytes, and the registers that are named.
    unsafe {
        asm!("vpdpwssd {sums}, {a}, dword ptr [{pairs}]{{1to16}}",
             "vpdpwssd {sums}, {b}, dword ptr [{pairs} + 4]{{1to16}}",
             "vpdpwssd {sums}, {c}, dword ptr [{pairs} + 8]{{1to16}}",
             "vpdpwssd {sums}, {d}, dword ptr [{pairs} + 12]{{1to16}}",
             sums = inout(zmm_reg) sums, a = in(zmm_reg) a[0], b = in(zmm_reg) a[1], c = in(zmm_reg) a[2],
             d = in(zmm_reg) a[3], pairs = in(reg) pairs, options(pure, readonly, nostack, preserves_flags));
    }
    sums
}
