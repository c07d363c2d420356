//! Sixteen numbers in one register of AVX-512.

#![allow(unsafe_code, reason = "vector instructions of a set that is proven to be there")]

use std::arch::x86_64::*;

use super::Lanes;
use crate::quant::{Half, LANES};

const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT;

/// One register of AVX-512.
#[derive(Clone, Copy)]
pub(in super::super) struct Avx512(__m512);

// Every block below calls intrinsics of AVX-512 F, BW, VL and VNNI.
// SAFETY of all of them: the type is only used in functions compiled for these features, which are called on the
// proof that the CPU has them; loads and stores cover exactly the array that is referred to.
#[allow(clippy::undocumented_unsafe_blocks, reason = "one reason for all, above")]
impl Lanes for Avx512 {
    const SCORE_ROWS: usize = 6;
    const SUM_ROWS: usize = 6;
    const SUM_CHUNKS: usize = 4;
    const DIRECT_ROWS: usize = 6;
    const SIGNED_OFFSET: i32 = 128;

    #[inline(always)]
    fn splat(x: f32) -> Self {
        Avx512(unsafe { _mm512_set1_ps(x) })
    }

    #[inline(always)]
    fn load(x: &[f32; LANES]) -> Self {
        Avx512(unsafe { _mm512_loadu_ps(x.as_ptr()) })
    }

    #[inline(always)]
    fn from_halves(x: &[Half; LANES]) -> Self {
        Avx512(unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast())) })
    }

    #[inline(always)]
    fn from_i8(x: &[i8; LANES]) -> Self {
        unsafe { Avx512(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(x.as_ptr().cast())))) }
    }

    #[inline(always)]
    fn from_low_nibbles(x: &[u8; LANES]) -> Self {
        unsafe {
            let bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(x.as_ptr().cast()));
            from_codes(_mm512_and_si512(bytes, _mm512_set1_epi32(0x0F)))
        }
    }

    #[inline(always)]
    fn from_high_nibbles(x: &[u8; LANES]) -> Self {
        unsafe { from_codes(_mm512_srli_epi32::<4>(_mm512_cvtepu8_epi32(_mm_loadu_si128(x.as_ptr().cast())))) }
    }

    #[inline(always)]
    fn store(self, out: &mut [f32; LANES]) {
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), self.0) }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Avx512(unsafe { _mm512_add_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        Avx512(unsafe { _mm512_mul_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, sum: Self) -> Self {
        Avx512(unsafe { _mm512_fmadd_ps(self.0, factor.0, sum.0) })
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        Avx512(unsafe { _mm512_max_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn round_to_f16(self) -> Self {
        Avx512(unsafe { _mm512_cvtph_ps(_mm512_cvtps_ph::<NEAREST>(self.0)) })
    }

    #[inline(always)]
    fn fold4([a, b, c, d]: [Self; 4]) -> [f32; 4] {
        // Each step adds the upper half of what is left of a number's lanes to the lower half; the four share registers.
        unsafe {
            let (a, b, c, d) = (a.0, b.0, c.0, d.0);
            let ab = _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0xEE>(a, b));
            let cd = _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(c, d), _mm512_shuffle_f32x4::<0xEE>(c, d));
            let four = _mm512_add_ps(_mm512_shuffle_f32x4::<0x88>(ab, cd), _mm512_shuffle_f32x4::<0xDD>(ab, cd));
            let two = _mm512_add_ps(four, _mm512_permute_ps::<0b01_00_11_10>(four));
            let one = _mm512_add_ps(two, _mm512_permute_ps::<0b10_11_00_01>(two));
            let first = _mm512_permutexvar_ps(_mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), one);
            let mut out = [0.0; 4];
            _mm_storeu_ps(out.as_mut_ptr(), _mm512_castps512_ps128(first));
            out
        }
    }

    type Ints = __m512i;
    type Bytes = __m512i;
    const INT_PARTS: usize = 1;

    #[inline(always)]
    fn ints(x: i32) -> __m512i {
        unsafe { _mm512_set1_epi32(x) }
    }

    #[inline(always)]
    fn signed_bytes(x: &[u8; 64], _: usize) -> __m512i {
        unsafe { _mm512_xor_si512(_mm512_loadu_si512(x.as_ptr().cast()), _mm512_set1_epi8(-128)) }
    }

    #[inline(always)]
    fn nibbles(x: &[u8; 64], _: usize) -> [__m512i; 2] {
        unsafe {
            let (bytes, mask) = (_mm512_loadu_si512(x.as_ptr().cast()), _mm512_set1_epi8(0x0F));
            [_mm512_and_si512(bytes, mask), _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), mask)]
        }
    }

    #[inline(always)]
    fn with_fifth_bit(codes: __m512i, fifth: &[u8; 64], _: usize, bit: usize) -> __m512i {
        unsafe {
            let set =
                _mm512_test_epi8_mask(_mm512_loadu_si512(fifth.as_ptr().cast()), _mm512_set1_epi8((1u8 << bit) as i8));
            _mm512_or_si512(codes, _mm512_maskz_mov_epi8(set, _mm512_set1_epi8(16)))
        }
    }

    #[inline(always)]
    fn dot(sum: __m512i, bytes: __m512i, factors: i32) -> __m512i {
        unsafe { _mm512_dpbusd_epi32(sum, bytes, _mm512_set1_epi32(factors)) }
    }

    #[inline(always)]
    fn dot_five_bits(sum: __m512i, [a, b, c, d]: [__m512i; 4], factors: [i32; 4]) -> __m512i {
        let sum = Self::dot(Self::dot(sum, a, factors[0]), b, factors[1]);
        Self::dot(Self::dot(sum, c, factors[2]), d, factors[3])
    }

    #[inline(always)]
    fn store_ints(ints: __m512i, out: &mut [i32; LANES], _: usize) {
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), ints) }
    }

    #[inline(always)]
    fn from_ints(ints: &[i32; LANES]) -> Self {
        Avx512(unsafe { _mm512_cvtepi32_ps(_mm512_loadu_si512(ints.as_ptr().cast())) })
    }
}

/// Codes of Q4_0 as floats.
///
/// # Safety
/// The CPU has AVX-512 F.
#[inline(always)]
unsafe fn from_codes(codes: __m512i) -> Avx512 {
    // SAFETY: the caller's promise.
    Avx512(unsafe { _mm512_cvtepi32_ps(_mm512_sub_epi32(codes, _mm512_set1_epi32(8))) })
}
