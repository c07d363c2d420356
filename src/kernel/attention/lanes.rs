//! Sixteen numbers side by side, on each instruction set: what the kernels of attention are written in, once for all.
//! Every operation rounds as the scalar one does, so that every instruction set gives the same bits.

use crate::quant::{Half, LANES, fold_lanes};

/// Sixteen floats, and beside them sixteen integers that products of bytes are summed in.
///
/// The implementation for an instruction set is used in functions that are compiled for it, which are called on the
/// proof that this CPU has it.
pub(super) trait Lanes: Copy {
    /// Rows of queries whose scores the registers hold at once.
    const SCORE_ROWS: usize;
    /// Rows of weights whose sums of values the registers hold at once, in as many lanes over positions.
    const SUM_ROWS: usize;
    const SUM_LANES: SumLanes;
    /// What [`Lanes::signed_bytes`] adds to every byte.
    const SIGNED_OFFSET: i32;

    fn splat(x: f32) -> Self;
    fn load(x: &[f32; LANES]) -> Self;
    fn from_halves(x: &[Half; LANES]) -> Self;
    fn from_i8(x: &[i8; LANES]) -> Self;
    /// The low nibbles, less 8.
    fn from_low_nibbles(x: &[u8; LANES]) -> Self;
    /// The high nibbles, less 8.
    fn from_high_nibbles(x: &[u8; LANES]) -> Self;
    fn store(self, out: &mut [f32; LANES]);
    fn add(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    /// `self · factor + sum`, rounded once.
    fn mul_add(self, factor: Self, sum: Self) -> Self;
    /// Lane by lane the larger; `other` where `self` is NaN.
    fn max(self, other: Self) -> Self;
    fn round_to_f16(self) -> Self;
    /// A register: one of [`Lanes::PARTS`] that sixteen floats are in.
    type Part: Copy;
    const PARTS: usize;
    fn zero_part() -> Self::Part;
    fn part(x: &[f32; LANES], part: usize) -> Self::Part;
    fn part_of_halves(x: &[Half; LANES], part: usize) -> Self::Part;
    fn part_mul_add(x: Self::Part, factor: Self::Part, sum: Self::Part) -> Self::Part;
    /// The first [`Lanes::PARTS`] of `parts` side by side.
    fn join(parts: [Self::Part; 2]) -> Self;
    /// Each of four folded to one number, as [`fold_lanes`] does.
    fn fold4(four: [Self; 4]) -> [f32; 4];

    type Ints: Copy;
    /// 64 bytes as factors: lane `i` has bytes `4 i` to `4 i + 3`.
    type Bytes: Copy;
    fn ints(x: i32) -> Self::Ints;
    fn signed_bytes(x: &[u8; 64]) -> Self::Bytes;
    /// The low and the high nibbles.
    fn nibbles(x: &[u8; 64]) -> [Self::Bytes; 2];
    /// `codes` plus 16 in the bytes whose byte of `fifth` has `bit`, of 0 to 7.
    fn with_fifth_bit(codes: Self::Bytes, fifth: &[u8; 64], bit: usize) -> Self::Bytes;
    /// In every lane `sum` plus the products of its four bytes with the four signed bytes of `factors`.
    fn dot(sum: Self::Ints, bytes: Self::Bytes, factors: i32) -> Self::Ints;
    /// As [`Lanes::dot`], for bytes of 0 to 127.
    fn dot_unsigned(sum: Self::Ints, bytes: Self::Bytes, factors: i32) -> Self::Ints;
    fn to_floats(ints: Self::Ints) -> Self;
}

/// Lanes over positions whose sums of values the registers hold at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SumLanes {
    One,
    Group,
}

impl Lanes for [f32; LANES] {
    const SCORE_ROWS: usize = 1;
    const SUM_ROWS: usize = 1;
    const SUM_LANES: SumLanes = SumLanes::One;
    const SIGNED_OFFSET: i32 = 0;

    fn splat(x: f32) -> Self {
        [x; LANES]
    }

    fn load(x: &[f32; LANES]) -> Self {
        *x
    }

    fn from_halves(x: &[Half; LANES]) -> Self {
        x.map(Half::to_f32)
    }

    fn from_i8(x: &[i8; LANES]) -> Self {
        x.map(f32::from)
    }

    fn from_low_nibbles(x: &[u8; LANES]) -> Self {
        x.map(|x| f32::from(x & 0x0F) - 8.0)
    }

    fn from_high_nibbles(x: &[u8; LANES]) -> Self {
        x.map(|x| f32::from(x >> 4) - 8.0)
    }

    fn store(self, out: &mut [f32; LANES]) {
        *out = self;
    }

    fn add(self, other: Self) -> Self {
        std::array::from_fn(|i| self[i] + other[i])
    }

    fn mul(self, other: Self) -> Self {
        std::array::from_fn(|i| self[i] * other[i])
    }

    fn mul_add(self, factor: Self, sum: Self) -> Self {
        std::array::from_fn(|i| self[i].mul_add(factor[i], sum[i]))
    }

    fn max(self, other: Self) -> Self {
        std::array::from_fn(|i| if self[i] > other[i] { self[i] } else { other[i] })
    }

    fn round_to_f16(self) -> Self {
        self.map(|x| Half::from_f32(x).to_f32())
    }

    type Part = Self;
    const PARTS: usize = 1;

    fn zero_part() -> Self {
        [0.0; LANES]
    }

    fn part(x: &[f32; LANES], _: usize) -> Self {
        *x
    }

    fn part_of_halves(x: &[Half; LANES], _: usize) -> Self {
        Self::from_halves(x)
    }

    fn part_mul_add(x: Self, factor: Self, sum: Self) -> Self {
        x.mul_add(factor, sum)
    }

    fn join([whole, _]: [Self; 2]) -> Self {
        whole
    }

    fn fold4(four: [Self; 4]) -> [f32; 4] {
        four.map(fold_lanes)
    }

    type Ints = [i32; LANES];
    type Bytes = [i8; 64];

    fn ints(x: i32) -> Self::Ints {
        [x; LANES]
    }

    fn signed_bytes(x: &[u8; 64]) -> Self::Bytes {
        x.map(|x| x as i8)
    }

    fn nibbles(x: &[u8; 64]) -> [Self::Bytes; 2] {
        [x.map(|x| (x & 0x0F) as i8), x.map(|x| (x >> 4) as i8)]
    }

    fn with_fifth_bit(codes: Self::Bytes, fifth: &[u8; 64], bit: usize) -> Self::Bytes {
        std::array::from_fn(|i| codes[i] | ((fifth[i] >> bit & 1) << 4) as i8)
    }

    fn dot(sum: Self::Ints, bytes: Self::Bytes, factors: i32) -> Self::Ints {
        let factors = factors.to_le_bytes().map(|f| i32::from(f as i8));
        std::array::from_fn(|i| sum[i] + (0..4).map(|j| i32::from(bytes[4 * i + j]) * factors[j]).sum::<i32>())
    }

    fn dot_unsigned(sum: Self::Ints, bytes: Self::Bytes, factors: i32) -> Self::Ints {
        Self::dot(sum, bytes, factors)
    }

    fn to_floats(ints: Self::Ints) -> Self {
        ints.map(|x| x as f32)
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Half, LANES, Lanes, SumLanes};

    const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT;

    /// One register of AVX-512.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx512(__m512);

    // Every block below calls intrinsics of AVX-512 F, BW, VL and VNNI.
    // SAFETY of all of them: the type is only used in functions compiled for these features, which are called on the
    // proof that the CPU has them; loads and stores cover exactly the array that is referred to.
    #[allow(clippy::undocumented_unsafe_blocks, reason = "one reason for all, above")]
    impl Lanes for Avx512 {
        const SCORE_ROWS: usize = 4;
        const SUM_ROWS: usize = 6;
        const SUM_LANES: SumLanes = SumLanes::Group;
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

        type Part = Self;
        const PARTS: usize = 1;

        #[inline(always)]
        fn zero_part() -> Self {
            Self::splat(0.0)
        }

        #[inline(always)]
        fn part(x: &[f32; LANES], _: usize) -> Self {
            Self::load(x)
        }

        #[inline(always)]
        fn part_of_halves(x: &[Half; LANES], _: usize) -> Self {
            Self::from_halves(x)
        }

        #[inline(always)]
        fn part_mul_add(x: Self, factor: Self, sum: Self) -> Self {
            x.mul_add(factor, sum)
        }

        #[inline(always)]
        fn join([whole, _]: [Self; 2]) -> Self {
            whole
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
                let first =
                    _mm512_permutexvar_ps(_mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), one);
                let mut out = [0.0; 4];
                _mm_storeu_ps(out.as_mut_ptr(), _mm512_castps512_ps128(first));
                out
            }
        }

        type Ints = __m512i;
        type Bytes = __m512i;

        #[inline(always)]
        fn ints(x: i32) -> __m512i {
            unsafe { _mm512_set1_epi32(x) }
        }

        #[inline(always)]
        fn signed_bytes(x: &[u8; 64]) -> __m512i {
            unsafe { _mm512_xor_si512(_mm512_loadu_si512(x.as_ptr().cast()), _mm512_set1_epi8(-128)) }
        }

        #[inline(always)]
        fn nibbles(x: &[u8; 64]) -> [__m512i; 2] {
            unsafe {
                let (bytes, mask) = (_mm512_loadu_si512(x.as_ptr().cast()), _mm512_set1_epi8(0x0F));
                [_mm512_and_si512(bytes, mask), _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), mask)]
            }
        }

        #[inline(always)]
        fn with_fifth_bit(codes: __m512i, fifth: &[u8; 64], bit: usize) -> __m512i {
            unsafe {
                let set = _mm512_test_epi8_mask(
                    _mm512_loadu_si512(fifth.as_ptr().cast()),
                    _mm512_set1_epi8((1u8 << bit) as i8),
                );
                _mm512_or_si512(codes, _mm512_maskz_mov_epi8(set, _mm512_set1_epi8(16)))
            }
        }

        #[inline(always)]
        fn dot(sum: __m512i, bytes: __m512i, factors: i32) -> __m512i {
            unsafe { _mm512_dpbusd_epi32(sum, bytes, _mm512_set1_epi32(factors)) }
        }

        #[inline(always)]
        fn dot_unsigned(sum: __m512i, bytes: __m512i, factors: i32) -> __m512i {
            Self::dot(sum, bytes, factors)
        }

        #[inline(always)]
        fn to_floats(ints: __m512i) -> Self {
            Avx512(unsafe { _mm512_cvtepi32_ps(ints) })
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
        const SCORE_ROWS: usize = 3;
        const SUM_ROWS: usize = 6;
        const SUM_LANES: SumLanes = SumLanes::One;
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

        type Part = __m256;
        const PARTS: usize = 2;

        #[inline(always)]
        fn zero_part() -> __m256 {
            unsafe { _mm256_setzero_ps() }
        }

        #[inline(always)]
        fn part(x: &[f32; LANES], part: usize) -> __m256 {
            unsafe { _mm256_loadu_ps(x.as_chunks::<8>().0[part].as_ptr()) }
        }

        #[inline(always)]
        fn part_of_halves(x: &[Half; LANES], part: usize) -> __m256 {
            unsafe { _mm256_cvtph_ps(_mm_loadu_si128(x.as_chunks::<8>().0[part].as_ptr().cast())) }
        }

        #[inline(always)]
        fn part_mul_add(x: __m256, factor: __m256, sum: __m256) -> __m256 {
            unsafe { _mm256_fmadd_ps(x, factor, sum) }
        }

        #[inline(always)]
        fn join(parts: [__m256; 2]) -> Self {
            Avx2(parts)
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

        type Ints = [__m256i; 2];
        type Bytes = [__m256i; 2];

        #[inline(always)]
        fn ints(x: i32) -> [__m256i; 2] {
            [unsafe { _mm256_set1_epi32(x) }; 2]
        }

        #[inline(always)]
        fn signed_bytes(x: &[u8; 64]) -> [__m256i; 2] {
            both!(|i| unsafe { _mm256_loadu_si256(x.as_ptr().add(32 * i).cast()) })
        }

        #[inline(always)]
        fn nibbles(x: &[u8; 64]) -> [[__m256i; 2]; 2] {
            let (bytes, mask) = (Self::signed_bytes(x), unsafe { _mm256_set1_epi8(0x0F) });
            [
                both!(|i| unsafe { _mm256_and_si256(bytes[i], mask) }),
                both!(|i| unsafe { _mm256_and_si256(_mm256_srli_epi16::<4>(bytes[i]), mask) }),
            ]
        }

        #[inline(always)]
        fn with_fifth_bit(codes: [__m256i; 2], fifth: &[u8; 64], bit: usize) -> [__m256i; 2] {
            let (fifth, bit) = (Self::signed_bytes(fifth), unsafe { _mm256_set1_epi8((1u8 << bit) as i8) });
            both!(|i| unsafe {
                let set = _mm256_cmpeq_epi8(_mm256_and_si256(fifth[i], bit), bit);
                _mm256_or_si256(codes[i], _mm256_and_si256(set, _mm256_set1_epi8(16)))
            })
        }

        #[inline(always)]
        fn dot(sum: [__m256i; 2], bytes: [__m256i; 2], factors: i32) -> [__m256i; 2] {
            // Two products of magnitudes up to 127 fit sixteen bits.
            both!(|i| unsafe {
                let factors = _mm256_sign_epi8(_mm256_set1_epi32(factors), bytes[i]);
                let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(bytes[i]), factors);
                _mm256_add_epi32(sum[i], _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
            })
        }

        #[inline(always)]
        fn dot_unsigned(sum: [__m256i; 2], bytes: [__m256i; 2], factors: i32) -> [__m256i; 2] {
            both!(|i| unsafe {
                let pairs = _mm256_maddubs_epi16(bytes[i], _mm256_set1_epi32(factors));
                _mm256_add_epi32(sum[i], _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
            })
        }

        #[inline(always)]
        fn to_floats(ints: [__m256i; 2]) -> Self {
            Avx2(both!(|i| unsafe { _mm256_cvtepi32_ps(ints[i]) }))
        }
    }
}
