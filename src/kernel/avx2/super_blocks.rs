//! The formats of 256 elements against Q8_K activations. A format sums a block's scaled products to 32-bit lanes, for one
//! row of activations or several that share the unpacking; one loop does the rest.

use std::arch::x86_64::*;

use super::super::x86::{
    Mins, Prefetch, bsums, bytes_at, iq4_xs_scales, load_128, load_256, load_halves, q3_k_scales, sum_f32x8,
};
use super::blocks::looked_up;
use super::{pairs_of_products, pairs_of_signed_products};
use crate::quant::{Block, BlockIq4Xs, BlockQ2K, BlockQ3K, BlockQ4K, BlockQ5K, BlockQ6K, BlockQ8K, IQ4_VALUES};

/// Where the bytes of Q4_K's minima go: one for two sums of sixteen activations.
const MINS_OF_32: [u8; 32] = {
    let mut index = [0x80; 32];
    let mut i = 0;
    while i < 16 {
        index[2 * i] = (8 + i / 2) as u8;
        i += 1;
    }
    index
};

/// The eight 6-bit scales and then the eight 6-bit minima of Q4_K and Q5_K, a byte each, from the block's first sixteen
/// bytes: two halves, then the twelve bytes that [`crate::quant::BlockQ4K::scales`] describes.
#[inline]
#[target_feature(enable = "avx2")]
fn scales_and_mins(header: &[u8; 16]) -> __m128i {
    let header = load_128(header);
    // Doublewords: low scales, high scales, low minima, high minima.
    let low = _mm_shuffle_epi32::<0b11_10_11_01>(header);
    let low = _mm_srlv_epi32(low, _mm_setr_epi32(0, 0, 0, 4));
    let low = _mm_and_si128(low, _mm_setr_epi32(0x3F3F_3F3F, 0x0F0F_0F0F, 0x3F3F_3F3F, 0x0F0F_0F0F));
    let high = _mm_srli_epi32::<2>(_mm_shuffle_epi32::<0b10_10_01_01>(header));
    _mm_or_si128(low, _mm_and_si128(high, _mm_setr_epi32(0, 0x3030_3030, 0, 0x3030_3030)))
}

/// What a block and `C` blocks of activations come to before the floats.
struct Summed<const C: usize> {
    /// Σ scale · code · activation.
    products: [__m256i; C],
    /// 16-bit factors of the sums of sixteen activations.
    mins: __m256i,
    /// Four floats, of which the loop is told the lanes that matter.
    halves: __m128,
}

/// The dot products of a row of weights with `C` rows of activations.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dots<B: Block, const C: usize>(
    weights: &[B],
    activations: [&[BlockQ8K]; C],
    d_lane: i32,
    mins: Mins,
    sum: impl Fn(&B, [&BlockQ8K; C]) -> Summed<C>,
) -> [f32; C] {
    let mut sums = [_mm256_setzero_ps(); C];
    let prefetch = Prefetch::of_this_cpu();
    for (i, w) in weights.iter().enumerate() {
        prefetch.ahead_of(w);
        let a = activations.map(|a| &a[i]);
        let block = sum(w, a);
        for c in 0..C {
            let halves = _mm256_castps128_ps256(_mm_mul_ps(block.halves, _mm_set1_ps(a[c].d.get())));
            let of_mins = _mm256_madd_epi16(block.mins, load_256(bsums(a[c])));
            let products = match mins {
                Mins::Offset => _mm256_add_epi32(block.products[c], of_mins),
                Mins::Lane(lane) => {
                    let dmin = _mm256_permutevar8x32_ps(halves, _mm256_set1_epi32(lane));
                    sums[c] = _mm256_fnmadd_ps(_mm256_cvtepi32_ps(of_mins), dmin, sums[c]);
                    block.products[c]
                }
            };
            let d = _mm256_permutevar8x32_ps(halves, _mm256_set1_epi32(d_lane));
            sums[c] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(products), d, sums[c]);
        }
    }
    std::array::from_fn(|c| sum_f32x8(sums[c]))
}

/// Activations 32 · `run` and the 31 after it.
#[inline]
#[target_feature(enable = "avx2")]
fn run_of_32(a: &BlockQ8K, run: usize) -> __m256i {
    load_256(bytes_at(a, 4 + 32 * run))
}

/// Q4_K's and Q5_K's loop over the eight sub-blocks of 32, given their codes.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn sum_of_32<const C: usize>(header: &[u8; 16], a: [&BlockQ8K; C], codes: impl Fn(usize) -> __m256i) -> Summed<C> {
    let scales_and_mins = _mm256_broadcastsi128_si256(scales_and_mins(header));
    let mut products = [_mm256_setzero_si256(); C];
    for run in 0..8 {
        // Every 16-bit lane takes the byte of the sub-block's scale; an index above 127 is a zero byte.
        let scale = _mm256_shuffle_epi8(scales_and_mins, _mm256_set1_epi16((0x8000 | run) as i16));
        let codes = codes(run);
        for c in 0..C {
            let scaled = _mm256_madd_epi16(pairs_of_products(codes, run_of_32(a[c], run)), scale);
            products[c] = _mm256_add_epi32(products[c], scaled);
        }
    }
    let mins = _mm256_shuffle_epi8(scales_and_mins, load_256(&MINS_OF_32));
    Summed { products, mins, halves: load_halves(bytes_at(header, 0)) }
}

/// The scales of the sub-blocks of 16 that lie in run `run` of 32 elements, one a half of the register.
#[inline]
#[target_feature(enable = "avx2")]
fn scales_of_run(scales: __m256i, run: usize) -> __m256i {
    let eight = if run < 4 { _mm256_castsi256_si128(scales) } else { _mm256_extracti128_si256::<1>(scales) };
    let word = |i: usize| ((2 * i) | ((2 * i + 1) << 8)) as i16;
    let (first, second) = (word(run % 4 * 2), word(run % 4 * 2 + 1));
    let index = _mm256_setr_m128i(_mm_set1_epi16(first), _mm_set1_epi16(second));
    _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(eight), index)
}

/// Q2_K's, Q3_K's and Q6_K's loop over the runs of 32 elements, given their codes.
#[inline]
#[target_feature(enable = "avx2")]
fn sum_of_16<const C: usize>(scales: __m256i, a: [&BlockQ8K; C], codes: impl Fn(usize) -> __m256i) -> [__m256i; C] {
    let mut products = [_mm256_setzero_si256(); C];
    for run in 0..8 {
        let (codes, scale) = (codes(run), scales_of_run(scales, run));
        for c in 0..C {
            let scaled = _mm256_madd_epi16(pairs_of_products(codes, run_of_32(a[c], run)), scale);
            products[c] = _mm256_add_epi32(products[c], scaled);
        }
    }
    products
}

/// Bits `at` and up of each byte, `mask` of them.
#[inline]
#[target_feature(enable = "avx2")]
fn bits(bytes: __m256i, at: usize, mask: i8) -> __m256i {
    _mm256_and_si256(_mm256_srl_epi16(bytes, _mm_cvtsi32_si128(at as i32)), _mm256_set1_epi8(mask))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn q4_k<const C: usize>(weights: &[BlockQ4K], activations: [&[BlockQ8K]; C]) -> [f32; C] {
    dots(weights, activations, 0, Mins::Lane(1), |w, a| {
        sum_of_32(bytes_at(w, 0), a, |run| bits(load_256(bytes_at(w, 16 + run / 2 * 32)), run % 2 * 4, 0x0F))
    })
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn q5_k<const C: usize>(weights: &[BlockQ5K], activations: [&[BlockQ8K]; C]) -> [f32; C] {
    dots(weights, activations, 0, Mins::Lane(1), |w, a| {
        let fifth = load_256(bytes_at(w, 16));
        sum_of_32(bytes_at(w, 0), a, |run| {
            let low = bits(load_256(bytes_at(w, 48 + run / 2 * 32)), run % 2 * 4, 0x0F);
            _mm256_or_si256(low, _mm256_slli_epi16::<4>(bits(fifth, run, 1)))
        })
    })
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn q6_k<const C: usize>(weights: &[BlockQ6K], activations: [&[BlockQ8K]; C]) -> [f32; C] {
    dots(weights, activations, 3, Mins::Offset, |w, a| {
        let scales = _mm256_cvtepi8_epi16(load_128(bytes_at(w, 192)));
        let products = sum_of_16(scales, a, |run| {
            let (half, run) = (run / 4, run % 4);
            let low = bits(load_256(bytes_at(w, half * 64 + run % 2 * 32)), run / 2 * 4, 0x0F);
            let high = bits(load_256(bytes_at(w, 128 + half * 32)), run * 2, 3);
            _mm256_or_si256(low, _mm256_slli_epi16::<4>(high))
        });
        let mins = _mm256_mullo_epi16(scales, _mm256_set1_epi16(-32));
        Summed { products, mins, halves: load_halves(bytes_at(w, 202)) }
    })
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn q2_k<const C: usize>(weights: &[BlockQ2K], activations: [&[BlockQ8K]; C]) -> [f32; C] {
    dots(weights, activations, 2, Mins::Lane(3), |w, a| {
        let packed = _mm256_cvtepu8_epi16(load_128(bytes_at(w, 0)));
        let scales = _mm256_and_si256(packed, _mm256_set1_epi16(0x0F));
        let products = sum_of_16(scales, a, |run| bits(load_256(bytes_at(w, 16 + run / 4 * 32)), run % 4 * 2, 3));
        Summed { products, mins: _mm256_srli_epi16::<4>(packed), halves: load_halves(bytes_at(w, 76)) }
    })
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn q3_k<const C: usize>(weights: &[BlockQ3K], activations: [&[BlockQ8K]; C]) -> [f32; C] {
    dots(weights, activations, 3, Mins::Offset, |w, a| {
        let scales = _mm256_cvtepi8_epi16(q3_k_scales(bytes_at(w, 92)));
        let scales = _mm256_sub_epi16(scales, _mm256_set1_epi16(32));
        let third = load_256(bytes_at(w, 0));
        let products = sum_of_16(scales, a, |run| {
            let low = bits(load_256(bytes_at(w, 32 + run / 4 * 32)), run % 4 * 2, 3);
            _mm256_or_si256(low, _mm256_slli_epi16::<2>(bits(third, run, 1)))
        });
        let mins = _mm256_mullo_epi16(scales, _mm256_set1_epi16(-4));
        Summed { products, mins, halves: load_halves(bytes_at(w, 102)) }
    })
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn iq4_xs<const C: usize>(weights: &[BlockIq4Xs], activations: [&[BlockQ8K]; C]) -> [f32; C] {
    dots(weights, activations, 0, Mins::Offset, |w, a| {
        let scales = iq4_xs_scales(*bytes_at(w, 0));
        // A scale stands in both 16-bit lanes of its doubleword.
        let twice = _mm256_blend_epi16::<0b1010_1010>(scales, _mm256_slli_epi32::<16>(scales));
        let mut products = [_mm256_setzero_si256(); C];
        for run in 0..8 {
            let values = looked_up(IQ4_VALUES, bytes_at(w, 8 + run * 16));
            let scale = _mm256_permutevar8x32_epi32(twice, _mm256_set1_epi32(run as i32));
            for c in 0..C {
                let scaled = _mm256_madd_epi16(pairs_of_signed_products(values, run_of_32(a[c], run)), scale);
                products[c] = _mm256_add_epi32(products[c], scaled);
            }
        }
        Summed { products, mins: _mm256_setzero_si256(), halves: load_halves(bytes_at(w, 0)) }
    })
}

super::super::x86::dots! {
    "avx2,fma,f16c", 256, BlockQ8K;
    dot_q2_k, dot4_q2_k: q2_k, BlockQ2K;
    dot_q3_k, dot4_q3_k: q3_k, BlockQ3K;
    dot_q4_k, dot4_q4_k: q4_k, BlockQ4K;
    dot_q5_k, dot4_q5_k: q5_k, BlockQ5K;
    dot_q6_k, dot4_q6_k: q6_k, BlockQ6K;
    dot_iq4_xs, dot4_iq4_xs: iq4_xs, BlockIq4Xs;
}
