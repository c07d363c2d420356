//! Dot products of rows of weights in blocks of 32 with one row of activations, what generation is made of. Four blocks are
//! multiplied together: the first halves of their elements in one register, the last halves in another, so that a register of
//! sums has four lanes for each block. The activations are laid out once for all rows: codes in that order, scales as floats,
//! what an offset of the weights' codes adds summed beforehand.

use std::arch::asm;
use std::arch::x86_64::*;
use std::cell::RefCell;

use zerocopy::FromZeros;

use super::super::avx2::load_f32x8;
use super::super::x86::{IQ4_VALUES_OFFSET, MXFP4_VALUES_OFFSET, bytes_at, load_128, load_halves, sum_f32x8};
use super::fours::{Ahead, FOUR, in_fours};
use super::registers::{load_codes, load_i32x16, store_i32x16, store_line};
use crate::quant::{
    Block, BlockIq4Nl, BlockMxfp4, BlockQ4_0, BlockQ4_1, BlockQ5_0, BlockQ5_1, BlockQ8_0, BlockQ8_1, blocks,
};

/// Blocks that are multiplied together.
const GROUP: usize = 4;

/// Unsigned codes of a group: the first sixteen of every block, and the last.
type Codes = [__m512i; 2];

/// Some blocks of a row of activations. What the last ones of a row lack is zero.
#[repr(C, align(64))]
struct Group {
    codes: [[u8; 64]; 2],
    /// Where the sums begin: with what an offset of the weights' codes adds, taken away.
    start: [i32; 16],
    /// Scales; for weights with minima, scales and scaled sums by turns.
    scales: [f32; 8],
}

thread_local! {
    /// A row of activations.
    static ROW: RefCell<Vec<Group>> = const { RefCell::new(Vec::new()) };
}

/// What a format makes of blocks of its weights. Where they have minima, a scale and a minimum stand by turns.
struct Format<C, S, R> {
    /// `Fn([&B; GROUP]) -> Codes`
    codes: C,
    /// `Fn(&[B; GROUP]) -> __m256`: the scales of a group.
    scales: S,
    /// `Fn([&B; GROUP]) -> __m256`: those of blocks wherever they lie.
    scales_of_rest: R,
}

impl Group {
    /// Up to four blocks for weights whose codes are `offset` too large.
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    fn with_offset(blocks: &[BlockQ8_0], offset: u8) -> Group {
        let zero = BlockQ8_0::new_zeroed();
        let blocks: [&BlockQ8_0; GROUP] = std::array::from_fn(|i| blocks.get(i).unwrap_or(&zero));
        let mut scales = [0.0; 8];
        blocks.iter().zip(&mut scales).for_each(|(block, scale)| *scale = block.d.to_f32());
        Group::new([lanes(blocks.map(|b| bytes_at(b, 2))), lanes(blocks.map(|b| bytes_at(b, 18)))], offset, scales)
    }

    /// Up to four blocks for weights with minima.
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    fn with_sums(blocks: &[BlockQ8_1]) -> Group {
        let zero = BlockQ8_1::new_zeroed();
        let blocks: [&BlockQ8_1; GROUP] = std::array::from_fn(|i| blocks.get(i).unwrap_or(&zero));
        let mut scales = [0.0; 8];
        let pairs = blocks.iter().zip(scales.as_chunks_mut::<2>().0);
        pairs.for_each(|(block, pair)| *pair = [block.d.to_f32(), block.s.to_f32()]);
        Group::new([lanes(blocks.map(|b| bytes_at(b, 4))), lanes(blocks.map(|b| bytes_at(b, 20)))], 0, scales)
    }

    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    fn new(halves: Codes, offset: u8, scales: [f32; 8]) -> Group {
        let mut group = Group { codes: [[0; 64]; 2], start: [0; 16], scales };
        let mut added = _mm512_setzero_si512();
        for (codes, place) in halves.into_iter().zip(&mut group.codes) {
            store_line(place, codes);
            added = _mm512_dpbusd_epi32(added, _mm512_set1_epi8(offset as i8), codes);
        }
        store_i32x16(&mut group.start, _mm512_sub_epi32(_mm512_setzero_si512(), added));
        group
    }
}

/// Rows of weights whose codes are `offset` too large and that have no minima.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn rows_with_offset<B: Block>(
    n: usize,
    weights: &[u8],
    activations: &[u8],
    out: &mut [f32],
    offset: u8,
    scales: impl Fn([&B; GROUP]) -> __m128,
    codes: impl Fn([&B; GROUP]) -> Codes,
) {
    let n_blocks = blocks_of(n);
    let format = Format {
        codes,
        scales: |four: &[B; GROUP]| _mm256_castps128_ps256(scales(four.each_ref())),
        scales_of_rest: |four: [&B; GROUP]| _mm256_castps128_ps256(scales(four)),
    };
    let groups =
        blocks::<BlockQ8_0>(activations, n_blocks).chunks(GROUP).map(|group| Group::with_offset(group, offset));
    rows::<B, false>(n_blocks, weights, groups, out, &format);
}

/// Rows of weights whose blocks begin with their scale and their minimum; `gather` takes these of a group.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn rows_with_min<B: Block>(
    n: usize,
    weights: &[u8],
    activations: &[u8],
    out: &mut [f32],
    gather: impl Fn(&[B; GROUP]) -> __m128i,
    codes: impl Fn([&B; GROUP]) -> Codes,
) {
    let n_blocks = blocks_of(n);
    let format = Format {
        codes,
        scales: |four: &[B; GROUP]| _mm256_cvtph_ps(gather(four)),
        scales_of_rest: |four: [&B; GROUP]| {
            let [a, b, c, d] = four.map(|block| i32::from_le_bytes(*bytes_at(block, 0)));
            _mm256_cvtph_ps(_mm_setr_epi32(a, b, c, d))
        },
    };
    let groups = blocks::<BlockQ8_1>(activations, n_blocks).chunks(GROUP).map(|group| Group::with_sums(group));
    rows::<B, true>(n_blocks, weights, groups, out, &format);
}

/// Rows of `n_blocks` blocks of weights, with minima or without, by the groups of a row of activations.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn rows<B: Block, const MINS: bool>(
    n_blocks: usize,
    weights: &[u8],
    groups: impl Iterator<Item = Group>,
    out: &mut [f32],
    format: &Format<impl Fn([&B; GROUP]) -> Codes, impl Fn(&[B; GROUP]) -> __m256, impl Fn([&B; GROUP]) -> __m256>,
) {
    let weights = blocks::<B>(weights, n_blocks * out.len());
    ROW.with_borrow_mut(|row| {
        row.clear();
        row.extend(groups);
        let (four, one) = (
            |rows: [&[B]; FOUR], ahead| products::<B, FOUR, MINS>(row, rows, ahead, format),
            |rows: [&[B]; 1], ahead| products::<B, 1, MINS>(row, rows, ahead, format),
        );
        in_fours(weights, n_blocks, out, four, one);
    });
}

/// The dot products of `R` rows of weights with a row of activations.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn products<B: Block, const R: usize, const MINS: bool>(
    row: &[Group],
    rows: [&[B]; R],
    ahead: Ahead,
    format: &Format<impl Fn([&B; GROUP]) -> Codes, impl Fn(&[B; GROUP]) -> __m256, impl Fn([&B; GROUP]) -> __m256>,
) -> [f32; R] {
    let mut sums = Sums::<R, MINS>::new();
    let n_groups = rows[0].len() / GROUP;
    let (groups, rest) = row.split_at(n_groups);
    for (i, group) in groups.iter().enumerate() {
        let fours: [&[B; GROUP]; R] =
            std::array::from_fn(|r| rows[r][i * GROUP..].first_chunk::<GROUP>().expect("a group"));
        let mut scales = [_mm256_setzero_ps(); R];
        let mut codes = [[_mm512_setzero_si512(); 2]; R];
        for r in 0..R {
            ahead.of_block(i * GROUP).ahead_of(fours[r]);
            scales[r] = (format.scales)(fours[r]);
            codes[r] = (format.codes)(fours[r].each_ref());
        }
        sums.add(group, codes, scales);
    }
    if let [group] = rest {
        let mut scales = [_mm256_setzero_ps(); R];
        let mut codes = [[_mm512_setzero_si512(); 2]; R];
        for r in 0..R {
            // The last one stands for those that there are not: the activations have zeros there.
            let blocks = std::array::from_fn(|i| &rows[r][(n_groups * GROUP + i).min(rows[r].len() - 1)]);
            scales[r] = (format.scales_of_rest)(blocks);
            codes[r] = (format.codes)(blocks);
        }
        sums.add(group, codes, scales);
    }
    sums.of_rows()
}

/// What the groups of `R` rows of weights have come to.
struct Sums<const R: usize, const MINS: bool> {
    sums: [__m512; R],
    /// In the odd lanes, of each block of a group by itself.
    mins: [__m256; R],
    /// Where a block's four lanes find its scale.
    index: __m512i,
}

impl<const R: usize, const MINS: bool> Sums<R, MINS> {
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    fn new() -> Self {
        let index = if MINS {
            _mm512_setr_epi32(0, 0, 0, 0, 2, 2, 2, 2, 4, 4, 4, 4, 6, 6, 6, 6)
        } else {
            _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3)
        };
        Sums { sums: [_mm512_setzero_ps(); R], mins: [_mm256_setzero_ps(); R], index }
    }

    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    fn add(&mut self, group: &Group, codes: [Codes; R], scales: [__m256; R]) {
        let activations = [load_codes(&group.codes[0]), load_codes(&group.codes[1])];
        for r in 0..R {
            let mut sum = if MINS { _mm512_setzero_si512() } else { load_i32x16(&group.start) };
            sum = _mm512_dpbusd_epi32(sum, codes[r][0], activations[0]);
            sum = _mm512_dpbusd_epi32(sum, codes[r][1], activations[1]);
            let products = _mm256_mul_ps(scales[r], load_f32x8(&group.scales));
            let scale = _mm512_permutexvar_ps(self.index, _mm512_castps256_ps512(products));
            self.sums[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, self.sums[r]);
            if MINS {
                self.mins[r] = _mm256_add_ps(self.mins[r], products);
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    fn of_rows(self) -> [f32; R] {
        std::array::from_fn(|r| {
            let [low, high] = [_mm512_castps512_ps256(self.sums[r]), high_half(self.sums[r])];
            let sum = sum_f32x8(_mm256_add_ps(low, high));
            if MINS { sum + sum_of_odd(self.mins[r]) } else { sum }
        })
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn high_half(v: __m512) -> __m256 {
    _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(v)))
}

/// The sum of the odd lanes.
#[inline]
#[target_feature(enable = "avx512vl")]
fn sum_of_odd(v: __m256) -> f32 {
    let sums = _mm_movehdup_ps(_mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v)));
    _mm_cvtss_f32(_mm_add_ss(sums, _mm_movehl_ps(sums, sums)))
}

fn blocks_of(n: usize) -> usize {
    assert_eq!(n % 32, 0, "a row of {n} elements is not a whole number of blocks of 32");
    n / 32
}

/// A register of four times sixteen bytes.
#[inline]
#[target_feature(enable = "avx512f")]
fn lanes(bytes: [&[u8; 16]; GROUP]) -> __m512i {
    let [a, b, c, d] = bytes.map(|bytes| load_128(bytes));
    let v = _mm512_inserti32x4::<1>(_mm512_castsi128_si512(a), b);
    _mm512_inserti32x4::<3>(_mm512_inserti32x4::<2>(v, c), d)
}

/// The low nibbles, which are the codes of the first elements, and the high ones.
#[inline]
#[target_feature(enable = "avx512bw")]
fn nibbles(bytes: [&[u8; 16]; GROUP]) -> Codes {
    let (both, low) = (lanes(bytes), _mm512_set1_epi8(0x0F));
    [_mm512_and_si512(both, low), _mm512_and_si512(_mm512_srli_epi16::<4>(both), low)]
}

/// The nibbles with the fifth bits of a word for each block added.
#[inline]
#[target_feature(enable = "avx512bw")]
fn five_bits(bytes: [&[u8; 16]; GROUP], words: [[u8; 4]; GROUP]) -> Codes {
    let [mut first, mut last] = [0, 0];
    for (i, [a, b, c, d]) in words.into_iter().enumerate() {
        first |= u64::from(u16::from_le_bytes([a, b])) << (16 * i);
        last |= u64::from(u16::from_le_bytes([c, d])) << (16 * i);
    }
    let [low, high] = nibbles(bytes);
    let sixteen = _mm512_set1_epi8(16);
    [_mm512_mask_add_epi8(low, first, low, sixteen), _mm512_mask_add_epi8(high, last, high, sixteen)]
}

/// The entries of a table of sixteen that the nibbles name.
#[inline]
#[target_feature(enable = "avx512bw")]
fn looked_up(table: &[u8; 16], bytes: [&[u8; 16]; GROUP]) -> Codes {
    let table = _mm512_broadcast_i32x4(load_128(table));
    let [low, high] = nibbles(bytes);
    [_mm512_shuffle_epi8(table, low), _mm512_shuffle_epi8(table, high)]
}

/// A load that the compiler does not look into: it would make later ones of parts of these bytes into shuffles of this one.
#[inline]
#[target_feature(enable = "avx2")]
fn load_opaque(bytes: &[u8; 32]) -> __m256i {
    let v: __m256i;
    // SAFETY: the reference covers the 32 bytes that are read.
    unsafe {
        asm!("vmovdqu {v}, ymmword ptr [{from}]", v = out(ymm_reg) v, from = in(reg) bytes,
             options(pure, readonly, nostack, preserves_flags));
    }
    v
}

/// Doublewords of the eight at `FIRST` and the eight at `SECOND` of four blocks, of which the latter count from 8.
#[inline]
#[target_feature(enable = "avx512vl")]
fn doublewords<B: Block, const FIRST: usize, const SECOND: usize>(four: &[B; GROUP], index: [i32; GROUP]) -> __m128i {
    let [a, b, c, d] = index;
    let (first, second) = (load_opaque(bytes_at(four, FIRST)), load_opaque(bytes_at(four, SECOND)));
    let index = _mm256_setr_epi32(a, b, c, d, 0, 0, 0, 0);
    _mm256_castsi256_si128(_mm256_permutex2var_epi32(first, index, second))
}

/// The scales with which blocks begin.
#[inline]
#[target_feature(enable = "avx512vl")]
fn halves<B: Block>(four: [&B; GROUP]) -> __m128 {
    let [a, b, c, d] = four.map(|block| u64::from(u16::from_le_bytes(*bytes_at(block, 0))));
    load_halves(&(a | b << 16 | c << 32 | d << 48).to_le_bytes())
}

/// As [`BlockMxfp4::half_scale`]: powers of two, of which the two smallest are subnormal.
#[inline]
#[target_feature(enable = "avx512vl")]
fn powers(four: [&BlockMxfp4; GROUP]) -> __m128 {
    let e = _mm_cvtepu8_epi32(_mm_cvtsi32_si128(i32::from_le_bytes(four.map(|block| block.e))));
    let normal = _mm_slli_epi32::<23>(_mm_sub_epi32(e, _mm_set1_epi32(1)));
    let is_subnormal = _mm_cmplt_epu32_mask(e, _mm_set1_epi32(2));
    _mm_castsi128_ps(_mm_mask_sllv_epi32(normal, is_subnormal, _mm_set1_epi32(0x0020_0000), e))
}

#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub(super) fn rows_q4_0(n: usize, weights: &[u8], activations: &[u8], out: &mut [f32]) {
    let codes = |four: [&BlockQ4_0; GROUP]| nibbles(four.map(|w| &w.qs));
    rows_with_offset(n, weights, activations, out, 8, |four| halves(four), codes);
}

#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub(super) fn rows_q5_0(n: usize, weights: &[u8], activations: &[u8], out: &mut [f32]) {
    let codes = |four: [&BlockQ5_0; GROUP]| five_bits(four.map(|w| &w.qs), four.map(|w| w.qh));
    rows_with_offset(n, weights, activations, out, 16, |four| halves(four), codes);
}

#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub(super) fn rows_q8_0(n: usize, weights: &[u8], activations: &[u8], out: &mut [f32]) {
    let codes = |four: [&BlockQ8_0; GROUP]| {
        let halves = [lanes(four.map(|w| bytes_at(w, 2))), lanes(four.map(|w| bytes_at(w, 18)))];
        halves.map(|codes| _mm512_xor_si512(codes, _mm512_set1_epi8(-128)))
    };
    rows_with_offset(n, weights, activations, out, 128, |four| halves(four), codes);
}

#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub(super) fn rows_iq4_nl(n: usize, weights: &[u8], activations: &[u8], out: &mut [f32]) {
    let codes = |four: [&BlockIq4Nl; GROUP]| looked_up(&IQ4_VALUES_OFFSET, four.map(|w| &w.qs));
    rows_with_offset(n, weights, activations, out, 128, |four| halves(four), codes);
}

#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub(super) fn rows_mxfp4(n: usize, weights: &[u8], activations: &[u8], out: &mut [f32]) {
    let codes = |four: [&BlockMxfp4; GROUP]| looked_up(&MXFP4_VALUES_OFFSET, four.map(|w| &w.qs));
    rows_with_offset(n, weights, activations, out, 12, |four| powers(four), codes);
}

#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub(super) fn rows_q4_1(n: usize, weights: &[u8], activations: &[u8], out: &mut [f32]) {
    let gather = |four: &[BlockQ4_1; GROUP]| doublewords::<_, 0, 32>(four, [0, 5, 10, 15]);
    let codes = |four: [&BlockQ4_1; GROUP]| nibbles(four.map(|w| &w.qs));
    rows_with_min(n, weights, activations, out, gather, codes);
}

#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub(super) fn rows_q5_1(n: usize, weights: &[u8], activations: &[u8], out: &mut [f32]) {
    let gather = |four: &[BlockQ5_1; GROUP]| doublewords::<_, 0, 48>(four, [0, 6, 8, 14]);
    let codes = |four: [&BlockQ5_1; GROUP]| five_bits(four.map(|w| &w.qs), four.map(|w| w.qh));
    rows_with_min(n, weights, activations, out, gather, codes);
}

/// Defines the dot product of one row of weights by that of many.
macro_rules! dots {
    ($($dot:ident: $rows:ident;)*) => {$(
        #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
        pub(super) fn $dot(n: usize, weights: &[u8], activations: &[u8]) -> f32 {
            let mut sum = [0.0];
            $rows(n, weights, activations, &mut sum);
            sum[0]
        }
    )*};
}

dots! {
    dot_q4_0: rows_q4_0;
    dot_q4_1: rows_q4_1;
    dot_q5_0: rows_q5_0;
    dot_q5_1: rows_q5_1;
    dot_q8_0: rows_q8_0;
    dot_iq4_nl: rows_iq4_nl;
    dot_mxfp4: rows_mxfp4;
}
