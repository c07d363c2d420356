//! The formats of 256 elements against Q8_K activations. A format unpacks a block to unsigned codes and 16-bit scales;
//! one loop multiplies them, for one row of activations or several that share the unpacking.

use std::arch::x86_64::*;

use super::super::x86::{
    IQ4_VALUES_OFFSET, Mins, Prefetch, bsums, bytes_at, iq4_xs_scales, load_128, load_256, load_halves, q3_k_scales,
    sum_f32x8,
};
use super::fours::{Ahead, in_fours};
use super::load_512;
use super::registers::add_products;
use crate::quant::{Block, BlockIq4Xs, BlockQ2K, BlockQ3K, BlockQ4K, BlockQ5K, BlockQ6K, BlockQ8K, blocks};

/// A block ready to be multiplied.
///
/// A byte product of four neighbours stays within 16 bits (4 · 63 · 128), so two vectors of them are packed into one, in
/// which every 128-bit lane holds four sums of the first vector and then four of the second. The scales lie likewise.
struct Unpacked {
    /// Unsigned codes, in the order in which the format takes its activations.
    codes: [__m512i; 4],
    /// 16-bit scales for the packed sums of the codes 0 and 1, and 2 and 3.
    scales: [__m512i; 2],
    /// 16-bit factors of the sums of sixteen activations.
    mins: __m256i,
    /// Four floats, of which the loop is told the lanes that matter.
    halves: __m128,
}

/// The dot products of `R` rows of weights with `C` rows of activations.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn dots<B: Block, const R: usize, const C: usize>(
    weights: [&[B]; R],
    activations: [&[BlockQ8K]; C],
    ahead: Ahead,
    d_lane: i32,
    mins: Mins,
    order: impl Fn(&BlockQ8K) -> [__m512i; 4],
    unpack: impl Fn(&B) -> Unpacked,
) -> [[f32; C]; R] {
    let zero = _mm512_setzero_si512();
    let d_lane = _mm512_set1_epi32(d_lane);
    let n = weights[0].len();
    let weights = weights.map(|w| &w[..n]);
    let activations = activations.map(|a| &a[..n]);
    let mut sums = [[_mm512_setzero_ps(); C]; R];
    let mut min_sums = [[_mm256_setzero_ps(); C]; R];
    for i in 0..n {
        // Rows are written out: of a loop over them the compiler makes a loop, whose sums lie in memory.
        macro_rules! row {
            ($r:literal) => {
                if $r < R {
                    let w = &weights[$r][i];
                    ahead.of_block(i).ahead_of(w);
                    let w = unpack(w);
                    for c in 0..C {
                        let a = &activations[c][i];
                        let q = order(a);
                        let halves = _mm_mul_ps(w.halves, _mm_set1_ps(a.d.get()));
                        let of_mins = _mm256_madd_epi16(w.mins, load_256(bsums(a)));
                        let start = match mins {
                            Mins::Offset => _mm512_zextsi256_si512(of_mins),
                            Mins::Lane(lane) => {
                                let dmin =
                                    _mm256_permutevar8x32_ps(_mm256_castps128_ps256(halves), _mm256_set1_epi32(lane));
                                min_sums[$r][c] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(of_mins), dmin, min_sums[$r][c]);
                                zero
                            }
                        };
                        let p = |j: usize| _mm512_dpbusd_epi32(zero, w.codes[j], q[j]);
                        let sum = add_products(start, _mm512_packs_epi32(p(0), p(1)), w.scales[0]);
                        let sum = add_products(sum, _mm512_packs_epi32(p(2), p(3)), w.scales[1]);
                        let d = _mm512_permutexvar_ps(d_lane, _mm512_castps128_ps512(halves));
                        sums[$r][c] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), d, sums[$r][c]);
                    }
                }
            };
        }
        row!(0);
        row!(1);
        row!(2);
        row!(3);
    }
    std::array::from_fn(|r| std::array::from_fn(|c| _mm512_reduce_add_ps(sums[r][c]) - sum_f32x8(min_sums[r][c])))
}

/// Q2_K, Q3_K and Q6_K take the activations as they lie.
#[inline]
#[target_feature(enable = "avx512f")]
fn in_order(a: &BlockQ8K) -> [__m512i; 4] {
    [load_512(bytes_at(a, 4)), load_512(bytes_at(a, 68)), load_512(bytes_at(a, 132)), load_512(bytes_at(a, 196))]
}

/// IQ4_XS keeps two runs of 16 elements in the low and the high nibbles of the same bytes.
#[inline]
#[target_feature(enable = "avx512f")]
fn in_runs_of_16(a: &BlockQ8K) -> [__m512i; 4] {
    let [a0, a1, a2, a3] = in_order(a);
    let even = _mm512_setr_epi64(0, 1, 4, 5, 8, 9, 12, 13);
    let odd = _mm512_setr_epi64(2, 3, 6, 7, 10, 11, 14, 15);
    [
        _mm512_permutex2var_epi64(a0, even, a1),
        _mm512_permutex2var_epi64(a0, odd, a1),
        _mm512_permutex2var_epi64(a2, even, a3),
        _mm512_permutex2var_epi64(a2, odd, a3),
    ]
}

/// Low nibbles and high nibbles of 64 bytes.
#[inline]
#[target_feature(enable = "avx512f")]
fn nibbles(bytes: &[u8; 64]) -> [__m512i; 2] {
    let bytes = load_512(bytes);
    let mask = _mm512_set1_epi32(0x0F0F_0F0F);
    [_mm512_and_si512(bytes, mask), _mm512_and_si512(_mm512_srli_epi32::<4>(bytes), mask)]
}

/// Sixteen 16-bit scales of sub-blocks of 16, spread over the packed sums: codes 0 and 1 have the first eight.
#[inline]
#[target_feature(enable = "avx512bw")]
fn spread_16(scales: __m256i) -> [__m512i; 2] {
    // Lane k of the packed sums has four of sub-block k and four of sub-block 4 + k.
    const INDEX: [u16; 32] = {
        let mut index = [0; 32];
        let mut i = 0;
        while i < 32 {
            index[i] = (i / 8 + i % 8 / 4 * 4) as u16;
            i += 1;
        }
        index
    };
    let index = load_512(&words(INDEX));
    let scales = _mm512_castsi256_si512(scales);
    [
        _mm512_permutexvar_epi16(index, scales),
        _mm512_permutexvar_epi16(_mm512_add_epi16(index, _mm512_set1_epi16(8)), scales),
    ]
}

const fn words(words: [u16; 32]) -> [u8; 64] {
    let mut bytes = [0; 64];
    let mut i = 0;
    while i < 32 {
        bytes[2 * i] = words[i] as u8;
        bytes[2 * i + 1] = (words[i] >> 8) as u8;
        i += 1;
    }
    bytes
}

/// Where the bytes of Q4_K's scales go. Lanes 0 and 1 of the packed sums have four of sub-block 0 and four of sub-block 2,
/// lanes 2 and 3 of sub-blocks 1 and 3; an index of 128 is a zero byte.
const SCALES_OF_32: [u8; 64] = {
    let mut index = [0x80; 64];
    let mut i = 0;
    while i < 32 {
        index[2 * i] = (i / 16 + i % 8 / 4 * 2) as u8;
        i += 1;
    }
    index
};

/// Where the bytes of its minima go: one for two sums of sixteen activations, each half from its own register.
const MINS_OF_32: [u8; 32] = {
    let mut index = [0x80; 32];
    let mut i = 0;
    while i < 16 {
        index[2 * i] = (4 + i % 8 / 2) as u8;
        i += 1;
    }
    index
};

/// The scales and minima of Q4_K and Q5_K, spread over the packed sums and the sums of activations. General registers put their
/// bits together, since vector ones are what these kernels wait for.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl")]
fn spread_32(block: &impl Block) -> ([__m512i; 2], __m256i) {
    // As [`crate::quant::BlockQ4K::scales`] describes: first four scales and four minima, then the low bits of four of each.
    let low = u64::from_le_bytes(*bytes_at(block, 4));
    let high = u64::from(u32::from_le_bytes(*bytes_at(block, 12)));
    let first = low & 0x3F3F_3F3F_3F3F_3F3F;
    let second = (high | high << 28) & 0x0F0F_0F0F_0F0F_0F0F | low >> 2 & 0x3030_3030_3030_3030;
    let (first, second) = (_mm512_set1_epi64(first as i64), _mm512_set1_epi64(second as i64));
    let index = load_512(&SCALES_OF_32);
    let mins = _mm256_blend_epi32::<0xF0>(_mm512_castsi512_si256(first), _mm512_castsi512_si256(second));
    (
        [_mm512_shuffle_epi8(first, index), _mm512_shuffle_epi8(second, index)],
        _mm256_shuffle_epi8(mins, load_256(&MINS_OF_32)),
    )
}

/// The low nibbles of 32 bytes and then the high ones, whose elements follow them.
#[inline]
#[target_feature(enable = "avx512f")]
fn run_of_nibbles(bytes: &[u8; 32]) -> __m512i {
    let twice = _mm512_broadcast_i64x4(load_256(bytes));
    let shifted = _mm512_srlv_epi64(twice, _mm512_setr_epi64(0, 0, 0, 0, 4, 4, 4, 4));
    _mm512_and_si512(shifted, _mm512_set1_epi32(0x0F0F_0F0F))
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn q4_k<const R: usize, const C: usize>(
    weights: [&[BlockQ4K]; R],
    activations: [&[BlockQ8K]; C],
    ahead: Ahead,
) -> [[f32; C]; R] {
    dots(
        weights,
        activations,
        ahead,
        0,
        Mins::Lane(1),
        |a| in_order(a),
        |block| {
            let (scales, mins) = spread_32(block);
            let run = |i: usize| run_of_nibbles(bytes_at(block, 16 + 32 * i));
            Unpacked { codes: [run(0), run(1), run(2), run(3)], scales, mins, halves: load_halves(bytes_at(block, 0)) }
        },
    )
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn q5_k<const R: usize, const C: usize>(
    weights: [&[BlockQ5K]; R],
    activations: [&[BlockQ8K]; C],
    ahead: Ahead,
) -> [[f32; C]; R] {
    dots(
        weights,
        activations,
        ahead,
        0,
        Mins::Lane(1),
        |a| in_order(a),
        |block| {
            let (scales, mins) = spread_32(block);
            // Both halves of the register see all 32 bytes of fifth bits; each tests the bit of its own run.
            let fifth = _mm512_broadcast_i64x4(load_256(bytes_at(block, 16)));
            let run = |i: usize| {
                let codes = run_of_nibbles(bytes_at(block, 48 + 32 * i));
                let (first, second) = (0x0101_0101i64 << (2 * i), 0x0202_0202i64 << (2 * i));
                let (first, second) = (first | first << 32, second | second << 32);
                let mask = _mm512_setr_epi64(first, first, first, first, second, second, second, second);
                _mm512_mask_add_epi8(codes, _mm512_test_epi8_mask(fifth, mask), codes, _mm512_set1_epi8(16))
            };
            Unpacked { codes: [run(0), run(1), run(2), run(3)], scales, mins, halves: load_halves(bytes_at(block, 0)) }
        },
    )
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn q6_k<const R: usize, const C: usize>(
    weights: [&[BlockQ6K]; R],
    activations: [&[BlockQ8K]; C],
    ahead: Ahead,
) -> [[f32; C]; R] {
    dots(
        weights,
        activations,
        ahead,
        3,
        Mins::Offset,
        |a| in_order(a),
        |block| {
            let upper = _mm512_set1_epi8(0x30);
            let half = |i: usize| {
                let [low, high] = nibbles(bytes_at(block, i * 64));
                let pairs = _mm512_broadcast_i64x4(load_256(bytes_at(block, 128 + i * 32)));
                let left = _mm512_inserti64x4::<1>(_mm512_set1_epi16(4), _mm256_set1_epi16(2));
                let right = _mm512_inserti64x4::<1>(_mm512_set1_epi16(0), _mm256_set1_epi16(2));
                [
                    _mm512_or_si512(low, _mm512_and_si512(_mm512_sllv_epi16(pairs, left), upper)),
                    _mm512_or_si512(high, _mm512_and_si512(_mm512_srlv_epi16(pairs, right), upper)),
                ]
            };
            let ([c0, c1], [c2, c3]) = (half(0), half(1));
            let scales = _mm256_cvtepi8_epi16(load_128(bytes_at(block, 192)));
            let mins = _mm256_mullo_epi16(scales, _mm256_set1_epi16(-32));
            Unpacked {
                codes: [c0, c1, c2, c3],
                scales: spread_16(scales),
                mins,
                halves: load_halves(bytes_at(block, 202)),
            }
        },
    )
}

/// The 2-bit codes of Q2_K and Q3_K, from the 64 bytes that hold them.
#[inline]
#[target_feature(enable = "avx512bw")]
fn two_bits(qs: &[u8; 64]) -> [__m512i; 4] {
    let (first, second) = qs.split_at(32);
    let three = _mm512_set1_epi8(3);
    let half = |bytes: &[u8]| {
        let bytes = _mm512_broadcast_i64x4(load_256(bytes.first_chunk().expect("32 bytes of 64")));
        let shift = _mm512_inserti64x4::<1>(_mm512_setzero_si512(), _mm256_set1_epi16(2));
        let low = _mm512_srlv_epi16(bytes, shift);
        [_mm512_and_si512(low, three), _mm512_and_si512(_mm512_srli_epi16::<4>(low), three)]
    };
    let ([c0, c1], [c2, c3]) = (half(first), half(second));
    [c0, c1, c2, c3]
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn q2_k<const R: usize, const C: usize>(
    weights: [&[BlockQ2K]; R],
    activations: [&[BlockQ8K]; C],
    ahead: Ahead,
) -> [[f32; C]; R] {
    dots(
        weights,
        activations,
        ahead,
        2,
        Mins::Lane(3),
        |a| in_order(a),
        |block| {
            let packed = _mm256_cvtepu8_epi16(load_128(bytes_at(block, 0)));
            let scales = _mm256_and_si256(packed, _mm256_set1_epi16(0x0F));
            Unpacked {
                codes: two_bits(bytes_at(block, 16)),
                scales: spread_16(scales),
                mins: _mm256_srli_epi16::<4>(packed),
                halves: load_halves(bytes_at(block, 76)),
            }
        },
    )
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn q3_k<const R: usize, const C: usize>(
    weights: [&[BlockQ3K]; R],
    activations: [&[BlockQ8K]; C],
    ahead: Ahead,
) -> [[f32; C]; R] {
    dots(
        weights,
        activations,
        ahead,
        3,
        Mins::Offset,
        |a| in_order(a),
        |block| {
            let codes = two_bits(bytes_at(block, 32));
            let third = _mm512_broadcast_i64x4(load_256(bytes_at(block, 0)));
            let with_third = |j: usize| {
                let (first, second) = (0x0101_0101i64 << (2 * j), 0x0202_0202i64 << (2 * j));
                let (first, second) = (first | first << 32, second | second << 32);
                let mask = _mm512_setr_epi64(first, first, first, first, second, second, second, second);
                _mm512_mask_add_epi8(codes[j], _mm512_test_epi8_mask(third, mask), codes[j], _mm512_set1_epi8(4))
            };
            let scales = _mm256_cvtepi8_epi16(q3_k_scales(bytes_at(block, 92)));
            let scales = _mm256_sub_epi16(scales, _mm256_set1_epi16(32));
            Unpacked {
                codes: [with_third(0), with_third(1), with_third(2), with_third(3)],
                scales: spread_16(scales),
                mins: _mm256_mullo_epi16(scales, _mm256_set1_epi16(-4)),
                halves: load_halves(bytes_at(block, 102)),
            }
        },
    )
}

/// IQ4_XS has values of eight bits, whose sums of four products need 17; its sums are scaled as 32-bit integers.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn iq4_xs<const C: usize>(weights: &[BlockIq4Xs], activations: [&[BlockQ8K]; C]) -> [f32; C] {
    let table = _mm512_broadcast_i32x4(load_128(&IQ4_VALUES_OFFSET));
    let zero = _mm512_setzero_si512();
    let mut sums = [_mm512_setzero_ps(); C];
    let prefetch = Prefetch::of_this_cpu();
    for (i, w) in weights.iter().enumerate() {
        prefetch.ahead_of(w);
        let d = w.d.to_f32();
        let scales = _mm512_castsi256_si512(iq4_xs_scales(*bytes_at(w, 0)));
        let half = |half: usize| {
            let [low, high] = nibbles(bytes_at(w, 8 + half * 64));
            // Lane k of 128 bits belongs to sub-block k of the half.
            let lanes = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
            let lanes = _mm512_add_epi32(lanes, _mm512_set1_epi32(4 * half as i32));
            let codes = [_mm512_shuffle_epi8(table, low), _mm512_shuffle_epi8(table, high)];
            (codes, _mm512_permutexvar_epi32(lanes, scales))
        };
        let halves = [half(0), half(1)];
        for c in 0..C {
            let a = &activations[c][i];
            let q = in_runs_of_16(a);
            let scaled = |half: usize| {
                let ([low, high], scale) = halves[half];
                let (q_low, q_high) = (q[2 * half], q[2 * half + 1]);
                let sum = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(zero, low, q_low), high, q_high);
                // What the offset of 128 has added.
                let offset = _mm512_set1_epi8(-128);
                let added = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(zero, offset, q_low), offset, q_high);
                _mm512_mullo_epi32(_mm512_sub_epi32(sum, added), scale)
            };
            let sum = _mm512_add_epi32(scaled(0), scaled(1));
            sums[c] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(d * a.d.get()), sums[c]);
        }
    }
    std::array::from_fn(|c| _mm512_reduce_add_ps(sums[c]))
}

/// Defines the dot product of one row of weights with one row of activations, that with four, and those of many rows with one.
macro_rules! dots_and_rows {
    ($($dot:ident, $dot4:ident, $rows:ident: $dots:ident, $block:ty;)*) => {$(
        #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
        pub(super) fn $dot(n: usize, weights: &[u8], activations: &[u8]) -> f32 {
            let n = blocks_of(n);
            let [[sum]] = $dots([blocks::<$block>(weights, n)], [blocks(activations, n)], Ahead::of_this_cpu());
            sum
        }

        #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
        pub(super) fn $dot4(n: usize, weights: &[u8], activations: [&[u8]; 4]) -> [f32; 4] {
            let n = blocks_of(n);
            let [sums] = $dots([blocks::<$block>(weights, n)], activations.map(|a| blocks(a, n)), Ahead::of_this_cpu());
            sums
        }

        #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
        pub(super) fn $rows(n: usize, weights: &[u8], activations: &[u8], out: &mut [f32]) {
            let n = blocks_of(n);
            let activations = blocks(activations, n);
            in_fours(
                blocks::<$block>(weights, n * out.len()),
                n,
                out,
                |rows, ahead| $dots(rows, [activations], ahead).map(|[sum]| sum),
                |row, ahead| $dots(row, [activations], ahead).map(|[sum]| sum),
            );
        }
    )*};
}

dots_and_rows! {
    dot_q2_k, dot4_q2_k, rows_q2_k: q2_k, BlockQ2K;
    dot_q3_k, dot4_q3_k, rows_q3_k: q3_k, BlockQ3K;
    dot_q4_k, dot4_q4_k, rows_q4_k: q4_k, BlockQ4K;
    dot_q5_k, dot4_q5_k, rows_q5_k: q5_k, BlockQ5K;
    dot_q6_k, dot4_q6_k, rows_q6_k: q6_k, BlockQ6K;
}

fn blocks_of(n: usize) -> usize {
    assert_eq!(n % 256, 0, "a row of {n} elements is not a whole number of blocks of 256");
    n / 256
}

super::super::x86::dots! {
    "avx512bw,avx512vl,avx512vnni", 256, BlockQ8K;
    dot_iq4_xs, dot4_iq4_xs: iq4_xs, BlockIq4Xs;
}
