//! What the AVX2 and AVX-512 kernels share: loads that a reference proves to be in bounds, and the passage from a
//! function that needs a CPU feature to a [`DotFn`](crate::quant::DotFn).
#![allow(unsafe_code, reason = "vector loads and stores go through pointers")]
#![allow(clippy::wildcard_imports, reason = "intrinsics carry their own prefix, and a kernel uses dozens")]

use std::arch::x86_64::*;

use crate::quant::{Block, BlockQ8K, IQ4_VALUES, MXFP4_DOUBLED_VALUES};

/// The largest float below one half. Added to a value with the value's sign and cut to an integer, it rounds half away
/// from zero; one half itself would round its predecessor up.
pub(super) const HALF_AWAY: f32 = 0.499_999_97;

/// The values of IQ4_NL and IQ4_XS with 128 added, which makes them unsigned.
pub(super) const IQ4_VALUES_OFFSET: [u8; 16] = offset(IQ4_VALUES, 128);

/// Twice the values of MXFP4 with 12 added, which makes them unsigned.
pub(super) const MXFP4_VALUES_OFFSET: [u8; 16] = offset(MXFP4_DOUBLED_VALUES, 12);

const fn offset(values: [i8; 16], by: i16) -> [u8; 16] {
    let mut out = [0; 16];
    let mut i = 0;
    while i < 16 {
        out[i] = (values[i] as i16 + by) as u8;
        i += 1;
    }
    out
}

/// Makes a [`DotFn`](crate::quant::DotFn) of a dot product that needs CPU features.
macro_rules! proven {
    ($dot:expr) => {{
        fn dot(n: usize, weights: &[u8], activations: &[u8]) -> f32 {
            // SAFETY: the table that this function stands in is only handed out by `Kernels::new`, which has found the
            // features that the kernel needs on this CPU.
            unsafe { $dot(n, weights, activations) }
        }
        Some(dot as crate::quant::DotFn)
    }};
}
pub(super) use proven;

/// Makes a [`Dot4Fn`](super::dispatch::Dot4Fn) of four dot products that need CPU features.
macro_rules! proven4 {
    ($dot4:expr) => {{
        fn dot4(n: usize, weights: &[u8], activations: [&[u8]; 4]) -> [f32; 4] {
            // SAFETY: as for `proven`.
            unsafe { $dot4(n, weights, activations) }
        }
        Some(dot4 as crate::kernel::dispatch::Dot4Fn)
    }};
}
pub(super) use proven4;

/// Makes a [`Rows4Fn`](super::dispatch::Rows4Fn) of sixteen dot products that need CPU features.
macro_rules! proven_rows4 {
    ($rows4:expr) => {{
        fn rows4(n: usize, weights: &[u8], activations: [&[u8]; 4], out: &mut [[f32; 4]]) {
            // SAFETY: as for `proven`.
            unsafe { $rows4(n, weights, activations, out) }
        }
        Some(rows4 as crate::kernel::dispatch::Rows4Fn)
    }};
}
pub(super) use proven_rows4;

/// Makes a [`RowsFn`](super::dispatch::RowsFn) of dot products that need CPU features.
macro_rules! proven_rows {
    ($rows:expr) => {{
        fn rows(n: usize, weights: &[u8], activations: &[u8], out: &mut [f32]) {
            // SAFETY: as for `proven`.
            unsafe { $rows(n, weights, activations, out) }
        }
        Some(rows as crate::kernel::dispatch::RowsFn)
    }};
}
pub(super) use proven_rows;

/// Makes a [`RunFn`](super::dispatch::RunFn) of a product that needs CPU features.
macro_rules! proven_product {
    ($product:expr) => {{
        fn run(operands: &crate::kernel::dispatch::Operands<'_>, range: std::ops::Range<usize>) {
            // SAFETY: as for `proven`.
            unsafe { $product(operands, range) }
        }
        run as crate::kernel::dispatch::RunFn
    }};
}
pub(super) use proven_product;

/// Defines the dot product with one row of activations and that with four, which share the unpacking of the weights, by
/// a form that is generic in their number.
macro_rules! dots {
    ($features:literal, $block_len:literal, $activations:ty; $($dot:ident, $dot4:ident: $dots:ident, $block:ty;)*) => {$(
        #[target_feature(enable = $features)]
        pub(super) fn $dot(n: usize, weights: &[u8], activations: &[u8]) -> f32 {
            assert_eq!(n % $block_len, 0, "a row of {n} elements is not a whole number of blocks of {}", $block_len);
            let blocks = crate::quant::blocks::<$block>(weights, n / $block_len);
            let [sum] = $dots(blocks, [crate::quant::blocks::<$activations>(activations, n / $block_len)]);
            sum
        }

        #[target_feature(enable = $features)]
        pub(super) fn $dot4(n: usize, weights: &[u8], activations: [&[u8]; 4]) -> [f32; 4] {
            assert_eq!(n % $block_len, 0, "a row of {n} elements is not a whole number of blocks of {}", $block_len);
            let blocks = crate::quant::blocks::<$block>(weights, n / $block_len);
            $dots(blocks, activations.map(|a| crate::quant::blocks::<$activations>(a, n / $block_len)))
        }
    )*};
}
pub(super) use dots;

pub(super) fn check_floats<const C: usize>(n_bytes: usize, weights: &[u8], activations: [&[u8]; C]) {
    let fits = weights.len() == n_bytes && activations.iter().all(|a| a.len() == n_bytes);
    assert!(fits, "a row of {} bytes where {n_bytes} are expected", weights.len());
}

/// How the factors of the sums of activations count.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mins {
    /// They are multiplied by a scale of their own, from this lane of the halves, and subtracted.
    Lane(i32),
    /// They are part of the integer sum: codes were made unsigned by an offset, which they take away.
    Offset,
}

/// The `N` bytes at `at` of a block; the place is a constant, so the check costs nothing.
#[inline(always)]
pub(super) fn bytes_at<const N: usize>(block: &impl Block, at: usize) -> &[u8; N] {
    match block.as_bytes()[at..].first_chunk::<N>() {
        Some(bytes) => bytes,
        None => panic!("{N} bytes at {at} reach out of the block"),
    }
}

/// The sixteen sums of a Q8_K block as bytes.
#[inline(always)]
pub(super) fn bsums(block: &BlockQ8K) -> &[u8; 32] {
    bytes_at::<32>(block, 260)
}

/// How weights are asked for ahead of their use. The hardware's own prefetching stops at every 4096 bytes, where a mapped file's
/// next page begins.
#[derive(Clone, Copy)]
pub(super) struct Prefetch {
    /// How many bytes ahead.
    pub(super) bytes: usize,
    /// Into the second level of cache instead of the first.
    pub(super) is_far: bool,
}

impl Prefetch {
    /// Into the first level: for formats whose every byte takes so long that memory is not what they wait for.
    pub(super) const NEAR: Prefetch = Prefetch { bytes: 2048, is_far: false };

    /// For rows one after the other.
    #[inline(always)]
    pub(super) fn of_this_cpu() -> Prefetch {
        if has_large_second_level() { Prefetch { bytes: 6144, is_far: true } } else { Prefetch::NEAR }
    }

    /// Asks for the cache lines that lie ahead of those of blocks, in their row or the rows that follow it in memory.
    #[inline(always)]
    pub(super) fn ahead_of<T>(self, blocks: &T) {
        let ahead = std::ptr::from_ref(blocks).cast::<i8>().wrapping_add(self.bytes);
        for line in 0..size_of::<T>().div_ceil(64) {
            let line = ahead.wrapping_add(line * 64);
            // SAFETY: a prefetch reads nothing that the program could see and does not fault, whatever the address.
            unsafe { if self.is_far { _mm_prefetch::<_MM_HINT_T1>(line) } else { _mm_prefetch::<_MM_HINT_T0>(line) } }
        }
    }
}

/// Asks for bytes.
#[inline(always)]
pub(super) fn ask_for(bytes: &[u8]) {
    for line in bytes.chunks(64) {
        // SAFETY: a prefetch reads nothing that the program could see and does not fault, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) }
    }
}

/// Whether this CPU's second level of cache is large and far from the third: Intel's since Sapphire Rapids, which are those with
/// products of f16.
#[inline(always)]
pub(super) fn has_large_second_level() -> bool {
    is_x86_feature_detected!("avx512fp16")
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn load_128(bytes: &[u8; 16]) -> __m128i {
    // SAFETY: the reference covers the 16 bytes that an unaligned load reads.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn load_256(bytes: &[u8; 32]) -> __m256i {
    // SAFETY: the reference covers the 32 bytes that an unaligned load reads.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

/// Sixteen low nibbles and then the sixteen high ones.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn nibbles(bytes: &[u8; 16]) -> __m256i {
    let twice = _mm256_broadcastsi128_si256(load_128(bytes));
    let shifted = _mm256_srlv_epi64(twice, _mm256_setr_epi64x(0, 0, 4, 4));
    _mm256_and_si256(shifted, _mm256_set1_epi8(0x0F))
}

/// Four halves as floats.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(super) fn load_halves(bytes: &[u8; 8]) -> __m128 {
    // SAFETY: the reference covers the 8 bytes that the load reads.
    _mm_cvtph_ps(unsafe { _mm_loadl_epi64(bytes.as_ptr().cast()) })
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn store_f32x4(floats: &mut [f32; 4], value: __m128) {
    // SAFETY: the reference covers the 16 bytes that an unaligned store writes.
    unsafe { _mm_storeu_ps(floats.as_mut_ptr(), value) }
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn store_128(bytes: &mut [u8; 16], value: __m128i) {
    // SAFETY: the reference covers the 16 bytes that an unaligned store writes.
    unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), value) }
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn store_256(bytes: &mut [u8; 32], value: __m256i) {
    // SAFETY: the reference covers the 32 bytes that an unaligned store writes.
    unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().cast(), value) }
}

/// The sum of eight floats.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn sum_f32x8(v: __m256) -> f32 {
    let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
    _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
}

/// Q3_K's sixteen scales as bytes, 32 too large, from the sixteen bytes of the block that end with its twelve of scales.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn q3_k_scales(packed: &[u8; 16]) -> __m128i {
    let packed = load_128(packed);
    let low = _mm_shuffle_epi32::<0b10_01_10_01>(packed);
    let low = _mm_and_si128(_mm_srlv_epi32(low, _mm_setr_epi32(0, 0, 4, 4)), _mm_set1_epi8(0x0F));
    // Each doubleword moves its own pair of the last four bytes to bits 4 and 5.
    let high = _mm_shuffle_epi32::<0b11_11_11_11>(packed);
    let high = _mm_sllv_epi32(high, _mm_setr_epi32(4, 2, 0, 0));
    let high = _mm_srlv_epi32(high, _mm_setr_epi32(0, 0, 0, 2));
    _mm_or_si128(low, _mm_and_si128(high, _mm_set1_epi8(0x30)))
}

/// IQ4_XS's eight scales from its first eight bytes: a half, sixteen upper bits, four bytes of low nibbles.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn iq4_xs_scales(header: [u8; 8]) -> __m256i {
    let header = u64::from_le_bytes(header);
    let low =
        _mm256_srlv_epi32(_mm256_set1_epi32((header >> 32) as i32), _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28));
    let high =
        _mm256_srlv_epi32(_mm256_set1_epi32((header >> 12) as i32), _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14));
    let low = _mm256_and_si256(low, _mm256_set1_epi32(0x0F));
    let high = _mm256_and_si256(high, _mm256_set1_epi32(0x30));
    _mm256_sub_epi32(_mm256_or_si256(low, high), _mm256_set1_epi32(32))
}
