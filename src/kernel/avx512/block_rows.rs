//! Dot products of many rows of weights in blocks of 32 with one row of activations, what generation is made of. The
//! activations are laid out once for all rows: their codes side by side, their scales as floats, what an offset of the
//! weights' codes adds summed beforehand. Scales of four blocks are then made at once. To the bit they are the dot products of
//! `blocks`.

use std::arch::asm;
use std::arch::x86_64::*;
use std::cell::RefCell;

use super::super::avx2::load_f32x8;
use super::super::x86::{
    IQ4_VALUES_OFFSET, MXFP4_VALUES_OFFSET, bytes_at, load_256, load_halves, nibbles, store_256, sum_f32x8,
};
use super::blocks::{five_bits, folded_mins, looked_up};
use super::fours::{Ahead, FOUR, in_fours};
use crate::quant::{
    Block, BlockIq4Nl, BlockMxfp4, BlockQ4_0, BlockQ4_1, BlockQ5_0, BlockQ5_1, BlockQ8_0, BlockQ8_1, blocks,
};

/// Blocks whose scales are made together.
const GROUP: usize = 4;

/// A row of activations, by blocks.
#[derive(Default)]
struct Row {
    codes: Vec<Codes>,
    /// Where the sums of eight fours of products begin.
    starts: Vec<[i32; 8]>,
    /// Of four blocks: scales, or scales and scaled sums by turns.
    scales: Vec<[f32; 8]>,
}

#[derive(Clone, Copy)]
#[repr(C, align(32))]
struct Codes([u8; 32]);

thread_local! {
    static ROW: RefCell<Row> = RefCell::default();
}

impl Row {
    fn begin(&mut self) {
        self.codes.clear();
        self.starts.clear();
        self.scales.clear();
    }

    /// Activations for weights whose codes are `offset` too large.
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    fn set_with_offset(&mut self, row: &[BlockQ8_0], offset: u8) {
        self.begin();
        for block in row {
            let codes = load_256(bytes_at(block, 2));
            let added = _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(offset as i8), codes);
            let mut start = [0; 32];
            store_256(&mut start, _mm256_sub_epi32(_mm256_setzero_si256(), added));
            self.starts.push(zerocopy::transmute!(start));
            self.codes.push(Codes(*bytes_at(block, 2)));
        }
        for four in row.chunks(GROUP) {
            let mut scales = [0.0; 8];
            four.iter().zip(&mut scales).for_each(|(block, scale)| *scale = block.d.to_f32());
            self.scales.push(scales);
        }
    }

    /// Activations for weights with minima.
    fn set_with_min(&mut self, row: &[BlockQ8_1]) {
        self.begin();
        self.codes.extend(row.iter().map(|block| Codes(*bytes_at(block, 4))));
        for four in row.chunks(GROUP) {
            let mut scales = [0.0; 8];
            let pairs = four.iter().zip(scales.as_chunks_mut::<2>().0);
            pairs.for_each(|(block, pair)| *pair = [block.d.to_f32(), block.s.to_f32()]);
            self.scales.push(scales);
        }
    }
}

/// A register that the compiler does not look into: it would make two shuffles of one whose index it knows.
#[inline]
#[target_feature(enable = "avx2")]
fn opaque(mut v: __m256i) -> __m256i {
    // SAFETY: there is no instruction.
    unsafe { asm!("/* {0} */", inout(ymm_reg) v, options(pure, nomem, nostack, preserves_flags)) };
    v
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

/// Adds the products of a block of each of `R` rows of weights to `sums`. `scales`: those of a group of blocks, of which `lane`
/// broadcasts this one's.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn add_block<B: Block, const R: usize>(
    mut sums: [__m256; R],
    weights: [&B; R],
    codes: &Codes,
    start: __m256i,
    scales: [__m256; R],
    lane: __m256i,
    unpack: impl Fn(&B) -> __m256i,
) -> [__m256; R] {
    let codes = load_256(&codes.0);
    for r in 0..R {
        let sum = _mm256_dpbusd_epi32(start, unpack(weights[r]), codes);
        sums[r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), _mm256_permutevar8x32_ps(scales[r], lane), sums[r]);
    }
    sums
}

/// Rows of weights whose codes are `offset` too large and that have no minima; `scales_of` makes floats of their scales.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn rows_with_offset<B: Block>(
    n: usize,
    weights: &[u8],
    activations: &[u8],
    out: &mut [f32],
    offset: u8,
    scales_of: impl Fn([&B; GROUP]) -> __m128,
    unpack: impl Fn(&B) -> __m256i,
) {
    let n_blocks = blocks_of(n);
    let weights = blocks::<B>(weights, n_blocks * out.len());
    ROW.with_borrow_mut(|row| {
        row.set_with_offset(blocks(activations, n_blocks), offset);
        let (four, one) = (
            |rows: [&[B]; FOUR], ahead| row.products_with_offset(rows, ahead, &scales_of, &unpack),
            |rows: [&[B]; 1], ahead| row.products_with_offset(rows, ahead, &scales_of, &unpack),
        );
        in_fours(weights, n_blocks, out, four, one);
    });
}

/// Rows of weights whose blocks begin with their scale and their minimum; `gather` takes these of four blocks.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn rows_with_min<B: Block>(
    n: usize,
    weights: &[u8],
    activations: &[u8],
    out: &mut [f32],
    gather: impl Fn(&[B; GROUP]) -> __m128i,
    unpack: impl Fn(&B) -> __m256i,
) {
    let n_blocks = blocks_of(n);
    let weights = blocks::<B>(weights, n_blocks * out.len());
    ROW.with_borrow_mut(|row| {
        row.set_with_min(blocks(activations, n_blocks));
        let (four, one) = (
            |rows: [&[B]; FOUR], ahead| row.products_with_min(rows, ahead, &gather, &unpack),
            |rows: [&[B]; 1], ahead| row.products_with_min(rows, ahead, &gather, &unpack),
        );
        in_fours(weights, n_blocks, out, four, one);
    });
}

impl Row {
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    fn products_with_offset<B: Block, const R: usize>(
        &self,
        rows: [&[B]; R],
        ahead: Ahead,
        scales_of: impl Fn([&B; GROUP]) -> __m128,
        unpack: impl Fn(&B) -> __m256i,
    ) -> [f32; R] {
        let lanes: [__m256i; GROUP] = [0, 1, 2, 3].map(|i| opaque(_mm256_set1_epi32(i)));
        let start = |start: &[i32; 8]| load_256(zerocopy::transmute_ref!(start));
        let mut sums = [_mm256_setzero_ps(); R];
        let (codes, codes_of_rest) = self.codes.as_chunks::<GROUP>();
        let (starts, starts_of_rest) = self.starts.as_chunks::<GROUP>();
        for (i, ((codes, starts), of_activations)) in codes.iter().zip(starts).zip(&self.scales).enumerate() {
            let mut scales = [_mm256_setzero_ps(); R];
            let mut fours = [&rows[0][..GROUP]; R];
            for r in 0..R {
                fours[r] = &rows[r][i * GROUP..][..GROUP];
                ahead.of_block(i * GROUP).ahead_of(fours[r].first_chunk::<GROUP>().expect("a group"));
                let of_weights = _mm256_castps128_ps256(scales_of([0, 1, 2, 3].map(|i| &fours[r][i])));
                scales[r] = _mm256_mul_ps(of_weights, load_f32x8(of_activations));
            }
            for j in 0..GROUP {
                let weights: [&B; R] = std::array::from_fn(|r| &fours[r][j]);
                sums = add_block(sums, weights, &codes[j], start(&starts[j]), scales, lanes[j], &unpack);
            }
        }
        let first = codes.len() * GROUP;
        for (j, (codes, starts)) in codes_of_rest.iter().zip(starts_of_rest).enumerate() {
            let weights: [&B; R] = std::array::from_fn(|r| &rows[r][first + j]);
            let scale = _mm256_set1_ps(self.scales[first / GROUP][j]);
            let scales = weights.map(|block| _mm256_mul_ps(_mm256_broadcastss_ps(scales_of([block; GROUP])), scale));
            sums = add_block(sums, weights, codes, start(starts), scales, lanes[0], &unpack);
        }
        sums.map(|sums| sum_f32x8(sums))
    }

    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    fn products_with_min<B: Block, const R: usize>(
        &self,
        rows: [&[B]; R],
        ahead: Ahead,
        gather: impl Fn(&[B; GROUP]) -> __m128i,
        unpack: impl Fn(&B) -> __m256i,
    ) -> [f32; R] {
        let lanes: [__m256i; GROUP] = [0, 2, 4, 6].map(|i| opaque(_mm256_set1_epi32(i)));
        let zero = _mm256_setzero_si256();
        let mut sums = [_mm256_setzero_ps(); R];
        // The odd lanes: of the blocks of four each in its own.
        let mut mins = [_mm256_setzero_ps(); R];
        let (codes, codes_of_rest) = self.codes.as_chunks::<GROUP>();
        for (i, (codes, of_activations)) in codes.iter().zip(&self.scales).enumerate() {
            let mut products = [_mm256_setzero_ps(); R];
            let mut fours = [&rows[0][..GROUP]; R];
            for r in 0..R {
                fours[r] = &rows[r][i * GROUP..][..GROUP];
                let four = fours[r].first_chunk::<GROUP>().expect("a group");
                ahead.of_block(i * GROUP).ahead_of(four);
                products[r] = _mm256_mul_ps(_mm256_cvtph_ps(gather(four)), load_f32x8(of_activations));
                mins[r] = _mm256_add_ps(mins[r], products[r]);
            }
            for j in 0..GROUP {
                let weights: [&B; R] = std::array::from_fn(|r| &fours[r][j]);
                sums = add_block(sums, weights, &codes[j], zero, products, lanes[j], &unpack);
            }
        }
        let first = codes.len() * GROUP;
        if let (false, Some(of_activations)) = (codes_of_rest.is_empty(), self.scales.get(codes.len())) {
            let mut products = [_mm256_setzero_ps(); R];
            for r in 0..R {
                let both = |i: usize| rows[r].get(first + i).map_or(0, |block| i32::from_le_bytes(*bytes_at(block, 0)));
                let halves = _mm_setr_epi32(both(0), both(1), both(2), 0);
                products[r] = _mm256_mul_ps(_mm256_cvtph_ps(halves), load_f32x8(of_activations));
                mins[r] = _mm256_add_ps(mins[r], products[r]);
            }
            for (j, codes) in codes_of_rest.iter().enumerate() {
                let weights: [&B; R] = std::array::from_fn(|r| &rows[r][first + j]);
                sums = add_block(sums, weights, codes, zero, products, lanes[j], &unpack);
            }
        }
        std::array::from_fn(|r| {
            let of_mins = folded_mins(_mm256_castps256_ps128(mins[r]), _mm256_extractf128_ps::<1>(mins[r]));
            sum_f32x8(sums[r]) + of_mins
        })
    }
}

fn blocks_of(n: usize) -> usize {
    assert_eq!(n % 32, 0, "a row of {n} elements is not a whole number of blocks of 32");
    n / 32
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
pub(super) fn q4_0(n: usize, weights: &[u8], activations: &[u8], out: &mut [f32]) {
    rows_with_offset(n, weights, activations, out, 8, |four| halves(four), |w: &BlockQ4_0| nibbles(&w.qs));
}

#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub(super) fn q5_0(n: usize, weights: &[u8], activations: &[u8], out: &mut [f32]) {
    rows_with_offset(n, weights, activations, out, 16, |four| halves(four), |w: &BlockQ5_0| five_bits(&w.qs, w.qh));
}

#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub(super) fn q8_0(n: usize, weights: &[u8], activations: &[u8], out: &mut [f32]) {
    let codes = |w: &BlockQ8_0| _mm256_xor_si256(load_256(bytes_at(w, 2)), _mm256_set1_epi8(-128));
    rows_with_offset(n, weights, activations, out, 128, |four| halves(four), codes);
}

#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub(super) fn iq4_nl(n: usize, weights: &[u8], activations: &[u8], out: &mut [f32]) {
    let codes = |w: &BlockIq4Nl| looked_up(&IQ4_VALUES_OFFSET, &w.qs);
    rows_with_offset(n, weights, activations, out, 128, |four| halves(four), codes);
}

#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub(super) fn mxfp4(n: usize, weights: &[u8], activations: &[u8], out: &mut [f32]) {
    let codes = |w: &BlockMxfp4| looked_up(&MXFP4_VALUES_OFFSET, &w.qs);
    rows_with_offset(n, weights, activations, out, 12, |four| powers(four), codes);
}

#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub(super) fn q4_1(n: usize, weights: &[u8], activations: &[u8], out: &mut [f32]) {
    let gather = |four: &[BlockQ4_1; GROUP]| doublewords::<_, 0, 32>(four, [0, 5, 10, 15]);
    rows_with_min(n, weights, activations, out, gather, |w| nibbles(&w.qs));
}

#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub(super) fn q5_1(n: usize, weights: &[u8], activations: &[u8], out: &mut [f32]) {
    let gather = |four: &[BlockQ5_1; GROUP]| doublewords::<_, 0, 48>(four, [0, 6, 8, 14]);
    rows_with_min(n, weights, activations, out, gather, |w| five_bits(&w.qs, w.qh));
}
