//! Sixteen numbers in two registers of AVX2.

#![allow(unsafe_code, reason = "vector instructions of a set that is proven to be there")]

use std::arch::x86_64::*;

use super::Lanes;
use crate::quant::{Half, LANES};

const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT;

/// Two registers of AVX2.
#[derive(Clone, Copy)]
pub(in super::super) struct Avx2([__m256; 2]);

/// Both halves of something. A closure would not be compiled for the instruction set.
macro_rules! both {
    (|$i:ident| $half:expr) => {
        [
            {
                let $i = 0;
                $half
            },
            {
                let $i = 1;
                $half
            },
        ]
    };
}

// Every block below calls intrinsics of AVX2, FMA and F16C.
// SAFETY of all of them: as for AVX-512.
#[allow(clippy::undocumented_unsafe_blocks, reason = "one reason for all, above")]
impl Lanes for Avx2 {
    const SCORE_ROWS: usize = 6;
    const SUM_ROWS: usize = 6;
    const SUM_CHUNKS: usize = 1;
    const DIRECT_ROWS: usize = 0;
    const SIGNED_OFFSET: i32 = 0;

    #[inline(always)]
    fn splat(x: f32) -> Self {
        Avx2([unsafe { _mm256_set1_ps(x) }; 2])
    }

    #[inline(always)]
    fn load(x: &[f32; LANES]) -> Self {
        Avx2(both!(|i| unsafe { _mm256_loadu_ps(x.as_ptr().add(8 * i)) }))
    }

    #[inline(always)]
    fn from_halves(x: &[Half; LANES]) -> Self {
        Avx2(both!(|i| unsafe { _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().add(8 * i).cast())) }))
    }

    #[inline(always)]
    fn from_i8(x: &[i8; LANES]) -> Self {
        Avx2(both!(|i| unsafe {
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(x.as_ptr().add(8 * i).cast())))
        }))
    }

    #[inline(always)]
    fn from_low_nibbles(x: &[u8; LANES]) -> Self {
        Avx2(both!(|i| unsafe {
            let bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(x.as_ptr().add(8 * i).cast()));
            let codes = _mm256_and_si256(bytes, _mm256_set1_epi32(0x0F));
            _mm256_cvtepi32_ps(_mm256_sub_epi32(codes, _mm256_set1_epi32(8)))
        }))
    }

    #[inline(always)]
    fn from_high_nibbles(x: &[u8; LANES]) -> Self {
        Avx2(both!(|i| unsafe {
            let bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(x.as_ptr().add(8 * i).cast()));
            let codes = _mm256_srli_epi32::<4>(bytes);
            _mm256_cvtepi32_ps(_mm256_sub_epi32(codes, _mm256_set1_epi32(8)))
        }))
    }

    #[inline(always)]
    fn store(self, out: &mut [f32; LANES]) {
        for (i, half) in self.0.into_iter().enumerate() {
            unsafe { _mm256_storeu_ps(out.as_mut_ptr().add(8 * i), half) }
        }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Avx2(both!(|i| unsafe { _mm256_add_ps(self.0[i], other.0[i]) }))
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        Avx2(both!(|i| unsafe { _mm256_mul_ps(self.0[i], other.0[i]) }))
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, sum: Self) -> Self {
        Avx2(both!(|i| unsafe { _mm256_fmadd_ps(self.0[i], factor.0[i], sum.0[i]) }))
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        Avx2(both!(|i| unsafe { _mm256_max_ps(self.0[i], other.0[i]) }))
    }

    #[inline(always)]
    fn round_to_f16(self) -> Self {
        Avx2(both!(|i| unsafe { _mm256_cvtph_ps(_mm256_cvtps_ph::<NEAREST>(self.0[i])) }))
    }

    #[inline(always)]
    fn fold4(four: [Self; 4]) -> [f32; 4] {
        unsafe {
            let [a, b, c, d] = four;
            let (a, b) = (_mm256_add_ps(a.0[0], a.0[1]), _mm256_add_ps(b.0[0], b.0[1]));
            let (c, d) = (_mm256_add_ps(c.0[0], c.0[1]), _mm256_add_ps(d.0[0], d.0[1]));
            let ab = _mm256_add_ps(_mm256_permute2f128_ps::<0x20>(a, b), _mm256_permute2f128_ps::<0x31>(a, b));
            let cd = _mm256_add_ps(_mm256_permute2f128_ps::<0x20>(c, d), _mm256_permute2f128_ps::<0x31>(c, d));
            let two = _mm256_add_ps(_mm256_shuffle_ps::<0x44>(ab, cd), _mm256_shuffle_ps::<0xEE>(ab, cd));
            // Halves hold a and c, then b and d, two lanes each.
            let one = _mm256_add_ps(two, _mm256_permute_ps::<0b10_11_00_01>(two));
            let mut out = [0.0; 8];
            _mm256_storeu_ps(out.as_mut_ptr(), one);
            [out[0], out[4], out[2], out[6]]
        }
    }

    #[inline(always)]
    fn half_dots<const G: usize>(queries: &[&[[f32; LANES]]; G], keys: &[[Half; LANES]], out: &mut [[f32; 4]; G]) {
        if G > 3 { some_half_dots::<G, 2>(queries, keys, out) } else { some_half_dots::<G, 4>(queries, keys, out) }
    }

    type Ints = __m256i;
    type Bytes = __m256i;
    const INT_PARTS: usize = 2;

    #[inline(always)]
    fn ints(x: i32) -> __m256i {
        unsafe { _mm256_set1_epi32(x) }
    }

    #[inline(always)]
    fn signed_bytes(x: &[u8; 64], part: usize) -> __m256i {
        unsafe { _mm256_loadu_si256(x.as_chunks::<32>().0[part].as_ptr().cast()) }
    }

    #[inline(always)]
    fn nibbles(x: &[u8; 64], part: usize) -> [__m256i; 2] {
        let bytes = Self::signed_bytes(x, part);
        unsafe {
            let mask = _mm256_set1_epi8(0x0F);
            [_mm256_and_si256(bytes, mask), _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), mask)]
        }
    }

    #[inline(always)]
    fn with_fifth_bit(codes: __m256i, fifth: &[u8; 64], part: usize, bit: usize) -> __m256i {
        let fifth = Self::signed_bytes(fifth, part);
        unsafe {
            let (left, right) = (4usize.saturating_sub(bit) as i32, bit.saturating_sub(4) as i32);
            let shifted = _mm256_srl_epi16(_mm256_sll_epi16(fifth, _mm_cvtsi32_si128(left)), _mm_cvtsi32_si128(right));
            _mm256_or_si256(codes, _mm256_and_si256(shifted, _mm256_set1_epi8(16)))
        }
    }

    #[inline(always)]
    fn dot(sum: __m256i, bytes: __m256i, factors: i32) -> __m256i {
        // Two products of magnitudes up to 127 fit sixteen bits.
        unsafe {
            let factors = _mm256_sign_epi8(_mm256_set1_epi32(factors), bytes);
            let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(bytes), factors);
            _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        }
    }

    #[inline(always)]
    fn dot_five_bits(sum: __m256i, codes: [__m256i; 4], factors: [i32; 4]) -> __m256i {
        // Eight products of magnitudes up to 31 · 127 fit sixteen bits.
        unsafe {
            let mut pairs = _mm256_maddubs_epi16(codes[0], _mm256_set1_epi32(factors[0]));
            for i in 1..4 {
                pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(codes[i], _mm256_set1_epi32(factors[i])));
            }
            _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        }
    }

    #[inline(always)]
    fn store_ints(ints: __m256i, out: &mut [i32; LANES], part: usize) {
        unsafe { _mm256_storeu_si256(out.as_chunks_mut::<8>().0[part].as_mut_ptr().cast(), ints) }
    }

    #[inline(always)]
    fn from_ints(ints: &[i32; LANES]) -> Self {
        Avx2(both!(|i| unsafe { _mm256_cvtepi32_ps(_mm256_loadu_si256(ints.as_ptr().add(8 * i).cast())) }))
    }
}

/// As [`Lanes::half_dots`], `K` keys at a time and one register's worth of every sixteen elements, so that all sums are in
/// registers.
#[inline(always)]
fn some_half_dots<const G: usize, const K: usize>(
    queries: &[&[[f32; LANES]]; G],
    keys: &[[Half; LANES]],
    out: &mut [[f32; 4]; G],
) {
    let n_chunks = keys.len() / 4;
    // SAFETY: as for the operations above.
    unsafe {
        for p in (0..4).step_by(K) {
            let mut some: [&[[Half; LANES]]; K] = [&[]; K];
            for i in 0..K {
                some[i] = &keys[(p + i) * n_chunks..][..n_chunks];
            }
            let mut sums = [[_mm256_setzero_ps(); K]; G];
            for part in 0..2 {
                let mut held = [[_mm256_setzero_ps(); K]; G];
                for c in 0..n_chunks {
                    let mut keys = [_mm256_setzero_ps(); K];
                    for i in 0..K {
                        keys[i] = _mm256_cvtph_ps(_mm_loadu_si128(some[i][c].as_ptr().add(8 * part).cast()));
                    }
                    for g in 0..G {
                        let query = _mm256_loadu_ps(queries[g][c].as_ptr().add(8 * part));
                        for i in 0..K {
                            held[g][i] = _mm256_fmadd_ps(query, keys[i], held[g][i]);
                        }
                    }
                }
                for g in 0..G {
                    for i in 0..K {
                        sums[g][i] = if part == 0 { held[g][i] } else { _mm256_add_ps(sums[g][i], held[g][i]) };
                    }
                }
            }
            for g in 0..G {
                for i in (0..K).step_by(2) {
                    let [a, b] = fold_two(sums[g][i], sums[g][i + 1]);
                    out[g][p + i] = a;
                    out[g][p + i + 1] = b;
                }
            }
        }
    }
}

/// Two times eight lanes, folded.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn fold_two(a: __m256, b: __m256) -> [f32; 2] {
    // SAFETY: the caller's promise.
    unsafe {
        let four = _mm256_add_ps(_mm256_permute2f128_ps::<0x20>(a, b), _mm256_permute2f128_ps::<0x31>(a, b));
        let two = _mm256_add_ps(four, _mm256_permute_ps::<0b01_00_11_10>(four));
        let one = _mm256_add_ps(two, _mm256_permute_ps::<0b10_11_00_01>(two));
        [_mm256_cvtss_f32(one), _mm_cvtss_f32(_mm256_extractf128_ps::<1>(one))]
    }
}
