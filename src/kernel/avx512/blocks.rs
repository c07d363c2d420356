//! Dot products of rows of weights in blocks of 32 with one row of activations, what generation is made of. Four blocks lie
//! in two registers, the first halves of their elements in one, the last halves in the other, so that a register of sums has
//! four lanes for each block; eight blocks share the making of their scales. Blocks that are left at the end of a row, fewer
//! than eight, are multiplied by twos, together with those of a second row. The activations are laid out once for all rows:
//! codes in that order, scales as floats, what an offset of the weights' codes adds summed beforehand.

use std::arch::asm;
use std::arch::x86_64::*;
use std::cell::RefCell;

use super::super::x86::{IQ4_VALUES_OFFSET, MXFP4_VALUES_OFFSET, bytes_at, load_128, store_f32x4};
use super::fours::{Ahead, FOUR, in_fours};
use super::registers::{load_codes, load_i32x16, store_i32x16, store_line, to_floats};
use crate::quant::{
    Block, BlockIq4Nl, BlockMxfp4, BlockQ4_0, BlockQ4_1, BlockQ5_0, BlockQ5_1, BlockQ8_0, BlockQ8_1, blocks,
};

/// Blocks that lie in the same registers.
const QUAD: usize = 4;
/// Blocks that are multiplied together.
const GROUP: usize = 8;

/// Unsigned codes of four blocks: the first sixteen of every block, and the last.
type Codes = [__m512i; 2];

/// Four blocks of activations.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Quad {
    codes: [[u8; 64]; 2],
    /// Where the sums begin: with what an offset of the weights' codes adds, taken away.
    start: [i32; 16],
}

/// Some blocks of a row of activations.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Group<const QUADS: usize> {
    quads: [Quad; QUADS],
    /// Scales; for weights with minima, scales and scaled sums by turns.
    scales: [f32; 16],
}

/// A row of activations.
#[derive(Default)]
struct Row {
    groups: Vec<Group<2>>,
    /// Two blocks twice, once for each of two rows of weights. What the last one lacks is zero.
    pairs: Vec<Group<1>>,
}

thread_local! {
    static ROW: RefCell<Row> = RefCell::default();
}

/// What a format makes of blocks of its weights. Where they have minima, a scale and a minimum stand by turns.
struct Format<G, P> {
    /// `Fn(&[B; GROUP]) -> ([Codes; 2], __m512)`: codes and scales of a group.
    group: G,
    /// `Fn([&B; QUAD]) -> (Codes, __m512)`: those of blocks wherever they lie.
    quad: P,
}

impl Quad {
    const ZERO: Quad = Quad { codes: [[0; 64]; 2], start: [0; 16] };

    /// Codes of blocks for weights whose codes are `offset` too large.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    fn set(&mut self, halves: Codes, offset: u8) {
        let mut added = _mm512_setzero_si512();
        for (codes, place) in halves.into_iter().zip(&mut self.codes) {
            store_line(place, codes);
            added = _mm512_dpbusd_epi32(added, _mm512_set1_epi8(offset as i8), codes);
        }
        store_i32x16(&mut self.start, _mm512_sub_epi32(_mm512_setzero_si512(), added));
    }
}

impl<const QUADS: usize> Group<QUADS> {
    const ZERO: Self = Group { quads: [Quad::ZERO; QUADS], scales: [0.0; 16] };
}

impl Row {
    /// Lays out a row: `codes` of four blocks, `scales` of eight, as formats of weights have them.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    fn set<A: Block>(
        &mut self,
        row: &[A],
        offset: u8,
        codes: impl Fn([&A; QUAD]) -> Codes,
        scales: impl Fn([&A; GROUP]) -> __m512,
    ) {
        let (groups, rest) = row.as_chunks::<GROUP>();
        self.groups.resize(groups.len(), Group::ZERO);
        for (blocks, place) in groups.iter().zip(&mut self.groups) {
            for (quad, place) in blocks.as_chunks::<QUAD>().0.iter().zip(&mut place.quads) {
                place.set(codes(quad.each_ref()), offset);
            }
            place.scales = to_floats(scales(blocks.each_ref()));
        }
        self.pairs.resize(rest.len().div_ceil(2), Group::ZERO);
        let zero = A::new_zeroed();
        for (blocks, place) in rest.chunks(2).zip(&mut self.pairs) {
            let [a, b] = [&blocks[0], blocks.get(1).unwrap_or(&zero)];
            place.quads[0].set(codes([a, b, a, b]), offset);
            place.scales = to_floats(scales([a, b, a, b, &zero, &zero, &zero, &zero]));
        }
    }
}

/// Rows of weights whose codes are `offset` too large and that have no minima; `scales` makes floats of what four and four
/// blocks begin with.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn rows_with_offset<B: Block>(
    n: usize,
    weights: &[u8],
    activations: &[u8],
    out: &mut [f32],
    offset: u8,
    scales: impl Fn([u64; 2]) -> __m256,
    codes: impl Fn([&B; QUAD]) -> Codes,
) {
    let packed = |quad: [&B; QUAD]| {
        let [a, b, c, d] = quad.map(|block| u64::from(first_word(block)));
        a | b << 16 | c << 32 | d << 48
    };
    let format = Format {
        group: |[a, b, c, d, e, f, g, h]: &[B; GROUP]| {
            let quads = [[a, b, c, d], [e, f, g, h]];
            let scales = scales([packed(quads[0]), packed(quads[1])]);
            ([codes(quads[0]), codes(quads[1])], _mm512_zextps256_ps512(scales))
        },
        quad: |quad: [&B; QUAD]| (codes(quad), _mm512_zextps256_ps512(scales([packed(quad), 0]))),
    };
    let n_blocks = blocks_of(n);
    ROW.with_borrow_mut(|row| {
        let codes =
            |quad: [&BlockQ8_0; QUAD]| [lanes(quad.map(|b| bytes_at(b, 2))), lanes(quad.map(|b| bytes_at(b, 18)))];
        let scales = |group: [&BlockQ8_0; GROUP]| {
            let [a, b, c, d, e, f, g, h] = group.map(|block| first_word(block).cast_signed());
            _mm512_zextps256_ps512(_mm256_cvtph_ps(_mm_setr_epi16(a, b, c, d, e, f, g, h)))
        };
        row.set(blocks::<BlockQ8_0>(activations, n_blocks), offset, codes, scales);
        rows::<B, false>(n_blocks, weights, row, out, &format);
    });
}

/// Rows of weights whose blocks begin with their scale and their minimum.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn rows_with_min<B: Block>(
    n: usize,
    weights: &[u8],
    activations: &[u8],
    out: &mut [f32],
    group: impl Fn(&[B; GROUP]) -> ([Codes; 2], __m512),
    codes: impl Fn([&B; QUAD]) -> Codes,
) {
    let quad = |quad: [&B; QUAD]| {
        let [a, b, c, d] = quad.map(first_doubleword);
        (codes(quad), _mm512_zextps256_ps512(_mm256_cvtph_ps(_mm_setr_epi32(a, b, c, d))))
    };
    let n_blocks = blocks_of(n);
    ROW.with_borrow_mut(|row| {
        let codes =
            |quad: [&BlockQ8_1; QUAD]| [lanes(quad.map(|b| bytes_at(b, 4))), lanes(quad.map(|b| bytes_at(b, 20)))];
        let scales = |group: [&BlockQ8_1; GROUP]| {
            let [a, b, c, d, e, f, g, h] = group.map(first_doubleword);
            _mm512_cvtph_ps(_mm256_setr_epi32(a, b, c, d, e, f, g, h))
        };
        row.set(blocks::<BlockQ8_1>(activations, n_blocks), 0, codes, scales);
        rows::<B, true>(n_blocks, weights, row, out, &Format { group, quad });
    });
}

/// Rows of `n_blocks` blocks of weights, with minima or without, by a row of activations.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn rows<B: Block, const MINS: bool>(
    n_blocks: usize,
    weights: &[u8],
    row: &Row,
    out: &mut [f32],
    format: &Format<impl Fn(&[B; GROUP]) -> ([Codes; 2], __m512), impl Fn([&B; QUAD]) -> (Codes, __m512)>,
) {
    let weights = blocks::<B>(weights, n_blocks * out.len());
    let (four, one) = (
        |rows: [&[B]; FOUR], ahead| products::<B, FOUR, MINS>(row, rows, ahead, format),
        |rows: [&[B]; 1], ahead| products::<B, 1, MINS>(row, rows, ahead, format),
    );
    in_fours(weights, n_blocks, out, four, one);
}

/// The dot products of `R` rows of weights, one or four, with a row of activations.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn products<B: Block, const R: usize, const MINS: bool>(
    row: &Row,
    rows: [&[B]; R],
    ahead: Ahead,
    format: &Format<impl Fn(&[B; GROUP]) -> ([Codes; 2], __m512), impl Fn([&B; QUAD]) -> (Codes, __m512)>,
) -> [f32; R] {
    let indices = [index::<MINS>(0), index::<MINS>(QUAD)];
    let mut sums = [_mm512_setzero_ps(); R];
    // In the odd lanes, of each block of a group by itself.
    let mut mins = [_mm512_setzero_ps(); R];
    for (i, group) in row.groups.iter().enumerate() {
        let activation_scales = load_floats(&group.scales);
        for r in 0..R {
            let blocks = rows[r][i * GROUP..].first_chunk::<GROUP>().expect("a group");
            ahead.of_block(i * GROUP).ahead_of(blocks);
            let (codes, scales) = (format.group)(blocks);
            let scales = _mm512_mul_ps(scales, activation_scales);
            for ((quad, codes), index) in group.quads.iter().zip(codes).zip(indices) {
                let sum = _mm512_cvtepi32_ps(quad_sums::<MINS>(quad, codes));
                sums[r] = _mm512_fmadd_ps(sum, _mm512_permutexvar_ps(index, scales), sums[r]);
            }
            if MINS {
                mins[r] = _mm512_add_ps(mins[r], scales);
            }
        }
    }
    let mut ends = [_mm256_setzero_ps(); R];
    for r in (0..R).step_by(2) {
        let (mut sums, mut mins) = (_mm512_setzero_ps(), _mm512_setzero_ps());
        for (i, pair) in row.pairs.iter().enumerate() {
            let first = row.groups.len() * GROUP + 2 * i;
            let [a, b] = [rows[r], rows[(r + 1).min(R - 1)]];
            // The last one stands for the one that there is not: the activations have zeros there.
            let second = (first + 1).min(a.len() - 1);
            let (codes, scales) = (format.quad)([&a[first], &a[second], &b[first], &b[second]]);
            let scales = _mm512_mul_ps(scales, load_floats(&pair.scales));
            let sum = _mm512_cvtepi32_ps(quad_sums::<MINS>(&pair.quads[0], codes));
            sums = _mm512_fmadd_ps(sum, _mm512_permutexvar_ps(indices[0], scales), sums);
            mins = _mm512_add_ps(mins, scales);
        }
        // Half of the lanes belong to each of the two rows.
        let mins = _mm512_castps512_ps256(mins);
        let of_rows = [
            (_mm512_castps512_ps256(sums), _mm256_castps256_ps128(mins)),
            (high_half(sums), _mm256_extractf128_ps::<1>(mins)),
        ];
        for ((sums, mins), end) in of_rows.into_iter().zip(&mut ends[r..]) {
            *end = if MINS { _mm256_add_ps(sums, odd(_mm256_zextps128_ps256(mins))) } else { sums };
        }
    }
    let all = std::array::from_fn(|r| {
        let sum = _mm256_add_ps(_mm256_add_ps(_mm512_castps512_ps256(sums[r]), high_half(sums[r])), ends[r]);
        let mins = _mm256_add_ps(_mm512_castps512_ps256(mins[r]), high_half(mins[r]));
        if MINS { _mm256_add_ps(sum, odd(mins)) } else { sum }
    });
    sums_of(all)
}

/// The products of four blocks' codes, in four lanes for each.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn quad_sums<const MINS: bool>(quad: &Quad, codes: Codes) -> __m512i {
    let start = if MINS { _mm512_setzero_si512() } else { load_i32x16(&quad.start) };
    let sums = _mm512_dpbusd_epi32(start, codes[0], load_codes(&quad.codes[0]));
    _mm512_dpbusd_epi32(sums, codes[1], load_codes(&quad.codes[1]))
}

/// Where the four lanes of each of four blocks, from the block `first` on, find its scale.
#[inline]
#[target_feature(enable = "avx512f")]
fn index<const MINS: bool>(first: usize) -> __m512i {
    let block = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    let block = _mm512_add_epi32(block, _mm512_set1_epi32(first as i32));
    if MINS { _mm512_slli_epi32::<1>(block) } else { block }
}

/// The sums of the lanes of `R` registers, one or four, each added in the same order.
#[inline]
#[target_feature(enable = "avx512vl")]
fn sums_of<const R: usize>(registers: [__m256; R]) -> [f32; R] {
    let [a, b, c, d] = std::array::from_fn(|r| registers[r.min(R - 1)]);
    let sums = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    let mut out = [0.0; FOUR];
    store_f32x4(&mut out, _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps::<1>(sums)));
    std::array::from_fn(|r| out[r])
}

/// The odd lanes, zeros in the others.
#[inline]
#[target_feature(enable = "avx512vl")]
fn odd(v: __m256) -> __m256 {
    _mm256_maskz_mov_ps(0b1010_1010, v)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn high_half(v: __m512) -> __m256 {
    _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(v)))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_floats(floats: &[f32; 16]) -> __m512 {
    // SAFETY: the reference covers the 64 bytes.
    unsafe { _mm512_loadu_ps(floats.as_ptr()) }
}

/// The scale and the minimum, or the sum, with which a block begins.
#[inline(always)]
fn first_doubleword(block: &impl Block) -> i32 {
    i32::from_le_bytes(*bytes_at(block, 0))
}

fn blocks_of(n: usize) -> usize {
    assert_eq!(n % 32, 0, "a row of {n} elements is not a whole number of blocks of 32");
    n / 32
}

/// A register of four times sixteen bytes.
#[inline]
#[target_feature(enable = "avx512f")]
fn lanes(bytes: [&[u8; 16]; QUAD]) -> __m512i {
    let [a, b, c, d] = bytes.map(|bytes| load_128(bytes));
    let v = _mm512_inserti32x4::<1>(_mm512_castsi128_si512(a), b);
    _mm512_inserti32x4::<3>(_mm512_inserti32x4::<2>(v, c), d)
}

/// The low nibbles, which are the codes of the first elements, and the high ones.
#[inline]
#[target_feature(enable = "avx512bw")]
fn nibbles(bytes: [&[u8; 16]; QUAD]) -> Codes {
    nibbles_of(lanes(bytes))
}

#[inline]
#[target_feature(enable = "avx512bw")]
fn nibbles_of(both: __m512i) -> Codes {
    let low = _mm512_set1_epi8(0x0F);
    [_mm512_and_si512(both, low), _mm512_and_si512(_mm512_srli_epi16::<4>(both), low)]
}

/// The nibbles with the fifth bits of a word for each block added.
#[inline]
#[target_feature(enable = "avx512bw")]
fn five_bits(bytes: [&[u8; 16]; QUAD], words: [[u8; 4]; QUAD]) -> Codes {
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
fn looked_up(table: &[u8; 16], bytes: [&[u8; 16]; QUAD]) -> Codes {
    let table = _mm512_broadcast_i32x4(load_128(table));
    let [low, high] = nibbles(bytes);
    [_mm512_shuffle_epi8(table, low), _mm512_shuffle_epi8(table, high)]
}

/// A load that the compiler does not look into: it would make later ones of parts of these bytes into shuffles of this one,
/// and a shuffle of two such loads into several of their parts.
#[inline]
#[target_feature(enable = "avx512f")]
fn load_opaque(bytes: &[u8; 64]) -> __m512i {
    let v: __m512i;
    // SAFETY: the reference covers the 64 bytes that are read.
    unsafe {
        asm!("vmovdqu64 {v}, zmmword ptr [{from}]", v = out(zmm_reg) v, from = in(reg) bytes,
             options(pure, readonly, nostack, preserves_flags));
    }
    v
}

/// The scales with which blocks begin.
#[inline]
#[target_feature(enable = "avx512vl")]
fn halves([low, high]: [u64; 2]) -> __m256 {
    _mm256_cvtph_ps(_mm_set_epi64x(high as i64, low as i64))
}

/// As [`BlockMxfp4::half_scale`] of the lower bytes: powers of two, of which the two smallest are subnormal.
#[inline]
#[target_feature(enable = "avx512vl")]
fn powers([low, high]: [u64; 2]) -> __m256 {
    let e = _mm256_cvtepu16_epi32(_mm_and_si128(_mm_set_epi64x(high as i64, low as i64), _mm_set1_epi16(0xFF)));
    let normal = _mm256_slli_epi32::<23>(_mm256_sub_epi32(e, _mm256_set1_epi32(1)));
    let is_subnormal = _mm256_cmplt_epu32_mask(e, _mm256_set1_epi32(2));
    _mm256_castsi256_ps(_mm256_mask_sllv_epi32(normal, is_subnormal, _mm256_set1_epi32(0x0020_0000), e))
}

/// The first two bytes of a block.
#[inline(always)]
fn first_word(block: &impl Block) -> u16 {
    u16::from_le_bytes(*bytes_at(block, 0))
}

#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub(super) fn rows_q4_0(n: usize, weights: &[u8], activations: &[u8], out: &mut [f32]) {
    let codes = |quad: [&BlockQ4_0; QUAD]| nibbles(quad.map(|w| &w.qs));
    rows_with_offset(n, weights, activations, out, 8, |words| halves(words), codes);
}

#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub(super) fn rows_q5_0(n: usize, weights: &[u8], activations: &[u8], out: &mut [f32]) {
    let codes = |quad: [&BlockQ5_0; QUAD]| five_bits(quad.map(|w| &w.qs), quad.map(|w| w.qh));
    rows_with_offset(n, weights, activations, out, 16, |words| halves(words), codes);
}

#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub(super) fn rows_q8_0(n: usize, weights: &[u8], activations: &[u8], out: &mut [f32]) {
    let codes = |quad: [&BlockQ8_0; QUAD]| {
        let signs = _mm512_set1_epi8(-128);
        let (first, last) = (lanes(quad.map(|w| bytes_at(w, 2))), lanes(quad.map(|w| bytes_at(w, 18))));
        [_mm512_xor_si512(first, signs), _mm512_xor_si512(last, signs)]
    };
    rows_with_offset(n, weights, activations, out, 128, |words| halves(words), codes);
}

#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub(super) fn rows_iq4_nl(n: usize, weights: &[u8], activations: &[u8], out: &mut [f32]) {
    let codes = |quad: [&BlockIq4Nl; QUAD]| looked_up(&IQ4_VALUES_OFFSET, quad.map(|w| &w.qs));
    rows_with_offset(n, weights, activations, out, 128, |words| halves(words), codes);
}

#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub(super) fn rows_mxfp4(n: usize, weights: &[u8], activations: &[u8], out: &mut [f32]) {
    let codes = |quad: [&BlockMxfp4; QUAD]| looked_up(&MXFP4_VALUES_OFFSET, quad.map(|w| &w.qs));
    rows_with_offset(n, weights, activations, out, 12, |words| powers(words), codes);
}

#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub(super) fn rows_q4_1(n: usize, weights: &[u8], activations: &[u8], out: &mut [f32]) {
    // Five doublewords a block: its scale and minimum, and four of codes.
    let group = |group: &[BlockQ4_1; GROUP]| {
        let at = |first: &[BlockQ4_1; QUAD]| [load_opaque(bytes_at(first, 0)), load_opaque(bytes_at(first, 16))];
        let [a, b] = group.as_chunks::<QUAD>().0 else { unreachable!("a group is two quads") };
        let ([a, a_end], [b, b_end]) = (at(a), at(b));
        let codes = _mm512_setr_epi32(1, 2, 3, 4, 6, 7, 8, 9, 11, 12, 13, 14, 28, 29, 30, 31);
        let scales = _mm512_setr_epi32(0, 5, 10, 15, 16, 21, 26, 31, 0, 0, 0, 0, 0, 0, 0, 0);
        let both = [_mm512_permutex2var_epi32(a, codes, a_end), _mm512_permutex2var_epi32(b, codes, b_end)];
        let scales = _mm512_castsi512_si256(_mm512_permutex2var_epi32(a, scales, b));
        (both.map(|both| nibbles_of(both)), _mm512_cvtph_ps(scales))
    };
    rows_with_min(n, weights, activations, out, group, |quad: [&BlockQ4_1; QUAD]| nibbles(quad.map(|w| &w.qs)));
}

#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub(super) fn rows_q5_1(n: usize, weights: &[u8], activations: &[u8], out: &mut [f32]) {
    let codes = |quad: [&BlockQ5_1; QUAD]| five_bits(quad.map(|w| &w.qs), quad.map(|w| w.qh));
    // Six doublewords a block, the first of which is its scale and minimum.
    let group = |group: &[BlockQ5_1; GROUP]| {
        let [a, b, c] = [0, 64, 128].map(|at| load_opaque(bytes_at(group, at)));
        let ab = _mm512_setr_epi32(0, 6, 12, 18, 24, 30, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
        let abc = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 20, 26, 0, 0, 0, 0, 0, 0, 0, 0);
        let scales = _mm512_permutex2var_epi32(_mm512_permutex2var_epi32(a, ab, b), abc, c);
        let [a, b, c, d, e, f, g, h] = group;
        ([codes([a, b, c, d]), codes([e, f, g, h])], _mm512_cvtph_ps(_mm512_castsi512_si256(scales)))
    };
    rows_with_min(n, weights, activations, out, group, codes);
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
