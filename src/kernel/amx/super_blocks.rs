//! The formats of 256 elements. A code times its sub-block's scale is an integer of up to thirteen bits; it is cut into two
//! bytes where one does not hold it, so that a whole block is summed in integers and scaled once.

use std::arch::x86_64::*;
use std::cell::RefCell;
use std::ops::Range;

use super::super::avx512::interleaved::{self, Header};
use super::super::avx512::registers::{
    add_products_of, load_i32x16, load_lanes, store_i32x16, store_lanes, store_line,
};
use super::super::dispatch::Operands;
use super::super::panels::{Blocks, Lanes, Out, PANELS, Pass, ROWS, with_panel};
use super::super::tiled::{TILE_ROWS, Tile256, Tiles};
use super::super::x86::load_128;

use super::unit::{PIECES, Stored, Tile, Unit};
use crate::quant::{Block, BlockIq4Xs, BlockQ2K, BlockQ3K, BlockQ4K, BlockQ5K, BlockQ6K, IQ4_VALUES, blocks};

/// The codes of a block of sixteen rows of weights, as tiles of B: four steps of 64 elements, each [elements / 4, rows, 4].
/// Where there are two parts, the first counts `1 << SHIFT` times.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Parts([[[u8; 64]; 64]; 2]);

/// What scales their sums.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Scales {
    d: Lanes,
    dmin: Lanes,
    /// 16-bit factors of the sums of activations, two in a doubleword.
    mins: [[[i32; ROWS]; 4]; 2],
}

/// What a thread works on, kept between products.
struct Scratch {
    parts: [Parts; PANELS],
    /// Those of the panels at hand and of the pair before, whose last sums are not yet scaled.
    scales: [[Scales; PANELS]; 2],
    /// Sums that the unit has stored.
    sums: Stored,
    /// `[groups, tiles of activations, panels, rows of a tile]`
    out: Vec<Out>,
}

impl Default for Scratch {
    fn default() -> Scratch {
        let scales = Scales { d: Lanes([0.0; ROWS]), dmin: Lanes([0.0; ROWS]), mins: [[[0; ROWS]; 4]; 2] };
        Scratch {
            parts: [Parts([[[0; 64]; 64]; 2]); PANELS],
            scales: [[scales; PANELS]; 2],
            sums: Stored::default(),
            out: Vec::new(),
        }
    }
}

thread_local! {
    static SCRATCH: RefCell<Box<Scratch>> = RefCell::default();
}

/// What a step of the unit computes: up to four tiles of C, each or each pair a result.
#[derive(Clone, Copy)]
struct Step {
    /// Whether its results are the first in their places.
    is_first: bool,
    /// Which scales.
    set: usize,
    /// `(panel, tile of activations, place in out)` of each result.
    results: [(usize, usize, usize); 4],
    n_results: usize,
}

/// A quarter of the sums of a step and what they are scaled with.
struct Quarter<'t> {
    is_first: bool,
    result: usize,
    /// In the output: tile and panel.
    place: (usize, usize),
    tile: &'t Tile256,
    first_row: usize,
    n_rows: usize,
    d: __m512,
    dmin: __m512,
    /// Some of them, as many as the format has.
    mins: [[__m512i; 4]; 2],
}

/// What quarter `$k` of the sums of a step is scaled with. Its tiles are stored before the first piece of the quarter's products
/// at the latest. No function: what is loaded is to stay in registers.
macro_rules! quarter_of {
    ($pipeline:ident, $step:expr, $k:expr, $scales:expr) => {{
        let step: &Step = $step;
        // Where parts are two, a step has two results.
        let (result, first_row, n_rows) = if SHIFT == 0 && step.n_results == 4 {
            ($k, 0, TILE_ROWS)
        } else {
            ($k / 2, $k % 2 * (TILE_ROWS / 2), TILE_ROWS / 2)
        };
        let (panel, tile, place) = step.results[result];
        let scales = &$scales[step.set][panel];
        let mut mins = [[_mm512_setzero_si512(); 4]; 2];
        for i in 0..MINS {
            mins[i / 4][i % 4] = load_i32x16(&scales.mins[i / 4][i % 4]);
        }
        Quarter {
            is_first: step.is_first,
            result,
            place: (place, panel),
            tile: &$pipeline.tiles[tile],
            first_row,
            n_rows,
            d: load_lanes(&scales.d),
            dmin: load_lanes(&scales.dmin),
            mins,
        }
    }};
}

/// Steps on their way through the unit: while it multiplies for one, the sums of the one before are scaled.
struct Pipeline<'s, const UNSIGNED: bool, const SHIFT: u32, const MINS: usize> {
    unit: Unit,
    tiles: &'s [Tile256],
    sums: &'s Stored,
    /// The step whose sums are in the unit.
    last: Option<Step>,
}

/// `UNSIGNED`: whether parts are. `SHIFT`: see [`Parts`]; zero where there is only one. `MINS`: pairs of minima.
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn product<B: Block, const UNSIGNED: bool, const SHIFT: u32, const MINS: usize>(
    operands: &Operands<'_>,
    range: Range<usize>,
    decode: impl Fn(&Blocks<'_, B>, &mut Parts, &mut Scales),
) {
    let weights = &operands.weights;
    let n_blocks = weights.n_cols() / 256;
    let rows = blocks::<B>(weights.bytes(), weights.n_rows() * n_blocks);
    let Tiles::Of256(tiles) = operands.tiles else { panic!("tiles of 32 for blocks of 256") };
    let n_tiles = operands.n_rows.div_ceil(TILE_ROWS);
    SCRATCH.with_borrow_mut(|scratch| {
        let Scratch { parts, scales, sums, out } = &mut **scratch;
        // SAFETY: the table with this function was handed out after the unit had been found; nothing below makes another.
        let unit = unsafe { Unit::configured() };
        let mut pipeline: Pipeline<'_, UNSIGNED, SHIFT, MINS> = Pipeline { unit, tiles, sums, last: None };
        Pass::for_whole_range(operands, &range, out, |pass, out| {
            let mut set = 0;
            for b in 0..n_blocks {
                for group in 0..pass.n_groups {
                    set = 1 - set;
                    for panel in 0..PANELS {
                        let row = pass.row(group, panel);
                        pass.ask_for_blocks(operands, row, b + 1, n_blocks, size_of::<B>());
                        with_panel(pass, rows, n_blocks, row, b, |blocks| {
                            decode(blocks, &mut parts[panel], &mut scales[set][panel]);
                        });
                    }
                    let first = b * n_tiles + pass.first_tile;
                    let tiles = first..first + pass.n_tiles;
                    pipeline.multiply(parts, scales, b == 0, set, tiles, out, group * pass.n_tiles);
                }
            }
            pipeline.drain(scales, out);
            pass.write(operands, out);
        });
    });
}

impl<const UNSIGNED: bool, const SHIFT: u32, const MINS: usize> Pipeline<'_, UNSIGNED, SHIFT, MINS> {
    /// Adds the products of two panels with the tiles of a range to `out` from the place `first` on, or puts them there.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    #[allow(clippy::too_many_arguments, reason = "a step's operands and where its results go")]
    fn multiply(
        &mut self,
        parts: &[Parts; PANELS],
        scales: &[[Scales; PANELS]; 2],
        is_first: bool,
        set: usize,
        tiles: Range<usize>,
        out: &mut [Out],
        first: usize,
    ) {
        let n = tiles.len();
        let result = |panel: usize, tile: usize| (panel, tiles.start + tile, first + tile);
        let none = (0, 0, 0);
        for t in (0..n / 2 * 2).step_by(2) {
            if SHIFT > 0 {
                for panel in 0..PANELS {
                    let results = [result(panel, t), result(panel, t + 1), none, none];
                    self.step(parts, scales, Step { is_first, set, results, n_results: 2 }, out);
                }
            } else {
                let results = [result(0, t), result(1, t), result(0, t + 1), result(1, t + 1)];
                self.step(parts, scales, Step { is_first, set, results, n_results: 4 }, out);
            }
        }
        if n % 2 == 1 {
            let results = [result(0, n - 1), result(1, n - 1), none, none];
            self.step(parts, scales, Step { is_first, set, results, n_results: 2 }, out);
        }
    }

    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    fn step(&mut self, parts: &[Parts; PANELS], scales: &[[Scales; PANELS]; 2], step: Step, out: &mut [Out]) {
        let a = |result: usize| &self.tiles[step.results[result].1].codes;
        let b = |panel: usize, part: usize| &parts[panel].0[part];
        let paired = step.results[0].1 != step.results[step.n_results - 1].1;
        match (SHIFT > 0, paired) {
            (true, true) => {
                let panel = step.results[0].0;
                self.quarters([a(0), a(1)], [b(panel, 0), b(panel, 1)], scales, out);
            }
            (true, false) => self.quarters([a(0)], [b(0, 0), b(0, 1), b(1, 0), b(1, 1)], scales, out),
            (false, true) => self.quarters([a(0), a(2)], [b(0, 0), b(1, 0)], scales, out),
            (false, false) => self.quarters([a(0)], [b(0, 0), b(1, 0)], scales, out),
        }
        self.last = Some(step);
    }

    /// Multiplies tiles, a quarter of the block at a time, and meanwhile scales the sums of the step before.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    fn quarters<const M: usize, const N: usize>(
        &self,
        a: [&[[[i32; 16]; TILE_ROWS]; 4]; M],
        b: [&[[u8; 64]; 64]; N],
        scales: &[[Scales; PANELS]; 2],
        out: &mut [Out],
    ) {
        // Written out so that their numbers are constants.
        self.quarter::<M, N, 0>(a, b, scales, out);
        self.quarter::<M, N, 1>(a, b, scales, out);
        self.quarter::<M, N, 2>(a, b, scales, out);
        self.quarter::<M, N, 3>(a, b, scales, out);
    }

    /// Before the first quarter the sums of the step before are in the unit.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    fn quarter<const M: usize, const N: usize, const K: usize>(
        &self,
        a: [&[[[i32; 16]; TILE_ROWS]; 4]; M],
        b: [&[[u8; 64]; 64]; N],
        scales: &[[Scales; PANELS]; 2],
        out: &mut [Out],
    ) {
        let a: [Tile; M] = a.map(|tiles| tiles[K].as_ptr().cast());
        let b: [Tile; N] = b.map(|codes| codes[16 * K].as_ptr());
        let quarter = self.last.as_ref().map(|last| quarter_of!(self, last, K, scales));
        // A piece of the products and then one of the scaling, written out so that what it takes stays in registers.
        macro_rules! piece {
            ($piece:literal) => {
                // SAFETY: the tiles of activations and of parts are 1024 bytes.
                unsafe {
                    if K == 0 {
                        self.unit.multiply_bytes::<M, N, UNSIGNED, true, $piece>(a, b, self.sums);
                    } else {
                        self.unit.multiply_bytes::<M, N, UNSIGNED, false, $piece>(a, b, self.sums);
                    }
                }
                if let Some(quarter) = &quarter {
                    // Of the first quarter, whose sums have only now been stored, two pieces wait.
                    let now = match (K, $piece) {
                        (0, 0 | 1) => 0..0,
                        (0, 2) => 0..2,
                        (0, _) => 2..4,
                        (_, piece) => piece..piece + 1,
                    };
                    for piece in now {
                        self.scale_piece(quarter, piece, &mut out[quarter.place.0][quarter.place.1]);
                    }
                }
            };
        }
        piece!(0);
        piece!(1);
        piece!(2);
        piece!(3);
    }

    /// Scales what is still on its way.
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    fn drain(&mut self, scales: &[[Scales; PANELS]; 2], out: &mut [Out]) {
        let Some(last) = self.last.take() else { return };
        self.unit.store(self.sums);
        for k in 0..4 {
            let quarter = quarter_of!(self, &last, k, scales);
            for piece in 0..PIECES {
                self.scale_piece(&quarter, piece, &mut out[quarter.place.0][quarter.place.1]);
            }
        }
    }

    /// Scales a piece of the sums of a step and adds it to `out`, or puts it there.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    fn scale_piece(&self, quarter: &Quarter<'_>, piece: usize, out: &mut [Lanes; TILE_ROWS]) {
        let n_rows = quarter.n_rows / PIECES;
        let first = quarter.first_row + piece * n_rows;
        if SHIFT > 0 || n_rows == 2 {
            self.scale::<2>(quarter, first, out);
        } else {
            self.scale::<4>(quarter, first, out);
        }
    }

    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    fn scale<const N: usize>(&self, quarter: &Quarter<'_>, first: usize, out: &mut [Lanes; TILE_ROWS]) {
        assert!(first + N <= TILE_ROWS, "rows of a tile");
        let is_added = if quarter.is_first { 0 } else { 0xFFFF };
        for row in first..first + N {
            self.scale_row(quarter, row, is_added, &mut out[row]);
        }
    }

    /// `is_added`: to which lanes of `out`.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    fn scale_row(&self, quarter: &Quarter<'_>, row: usize, is_added: __mmask16, out: &mut Lanes) {
        let Quarter { result, tile, mins, .. } = *quarter;
        let sum = if SHIFT > 0 {
            let high = _mm512_sllv_epi32(self.sums.row(2 * result, row), _mm512_set1_epi32(SHIFT as i32));
            _mm512_add_epi32(high, self.sums.row(2 * result + 1, row))
        } else {
            self.sums.row(result, row)
        };
        let mut scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), quarter.d);
        if MINS > 0 {
            let zero = _mm512_setzero_si512();
            let of_mins = if MINS == 4 {
                add_products_of(zero, mins[0], &tile.sums_of_32[row])
            } else {
                let [first, second] = &tile.sums_of_16[row];
                add_products_of(add_products_of(zero, mins[0], first), mins[1], second)
            };
            scaled = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(of_mins), quarter.dmin, scaled);
        }
        let before = _mm512_maskz_mov_ps(is_added, load_lanes(out));
        store_lanes(out, _mm512_fmadd_ps(scaled, _mm512_set1_ps(tile.d[row]), before));
    }
}

impl Scales {
    /// Takes over what stands in a header; `MINS` pairs of minima.
    #[inline]
    #[target_feature(enable = "avx512bw")]
    fn set<const MINS: usize>(&mut self, header: &Header) {
        store_lanes(&mut self.d, header.d);
        store_lanes(&mut self.dmin, header.dmin);
        for i in 0..MINS {
            store_i32x16(&mut self.mins[i / 4][i % 4], interleaved::pair(header.mins[i / 2], i % 2));
        }
    }
}

/// Unsigned codes of up to five bits times scales of six: the scale is cut into two parts of three bits, so that a product
/// stays in its byte and two are made by one multiplication of words.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl")]
fn two_unsigned_parts<'s>(header: &Header, parts: &'s mut Parts) -> impl FnMut(usize, __m512i) + 's {
    let scales: [__m512i; 8] = std::array::from_fn(|i| interleaved::twice(header.scales[i / 4], i % 4));
    let high = scales.map(|scale| _mm512_srli_epi16::<3>(scale));
    let low = scales.map(|scale| _mm512_and_si512(scale, _mm512_set1_epi16(7)));
    move |k, codes| {
        store_line(&mut parts.0[0][k], _mm512_mullo_epi16(codes, high[k / 8]));
        store_line(&mut parts.0[1][k], _mm512_mullo_epi16(codes, low[k / 8]));
    }
}

/// Signed codes times signed scales, a product of up to thirteen bits: seven of them are the low part, which is not negative,
/// and the others, with the sign, the high one.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl")]
fn two_signed_parts<'s, const SUB_BLOCKS: usize>(
    header: &Header,
    parts: &'s mut Parts,
) -> impl FnMut(usize, __m512i) + 's {
    // In the upper byte of both words.
    let scales: [__m512i; SUB_BLOCKS] =
        std::array::from_fn(|i| _mm512_slli_epi16::<8>(interleaved::twice(header.scales[i / 4], i % 4)));
    let even = _mm512_set1_epi16(0x00FF);
    move |k, codes| {
        // The upper half of the product of two upper bytes is the product of the bytes.
        let scale = scales[k * SUB_BLOCKS / 64];
        let of_even = _mm512_mulhi_epi16(_mm512_slli_epi16::<8>(codes), scale);
        let of_odd = _mm512_mulhi_epi16(_mm512_andnot_si512(even, codes), scale);
        let bytes = |of_even, of_odd| _mm512_ternarylogic_epi32::<0b1011_1000>(of_odd, even, of_even);
        let low = bytes(of_even, _mm512_slli_epi16::<8>(of_odd));
        let high = bytes(_mm512_srai_epi16::<7>(of_even), _mm512_slli_epi16::<1>(of_odd));
        store_line(&mut parts.0[0][k], high);
        store_line(&mut parts.0[1][k], _mm512_and_si512(low, _mm512_set1_epi8(0x7F)));
    }
}

/// Signed codes times signed scales where the product, with its sign turned, fits in a byte.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl")]
fn one_turned_part<'s>(header: &Header, parts: &'s mut Parts) -> impl FnMut(usize, __m512i) + 's {
    let scales: [__m512i; 16] = std::array::from_fn(|i| interleaved::twice(header.scales[i / 4], i % 4));
    let even = _mm512_set1_epi16(0x00FF);
    move |k, codes| {
        let turned = _mm512_sub_epi8(_mm512_setzero_si512(), codes);
        // The lower byte of a product of words is that of the product of their lower bytes.
        let of_even = _mm512_mullo_epi16(turned, scales[k / 4]);
        let of_odd = _mm512_mullo_epi16(_mm512_andnot_si512(even, turned), scales[k / 4]);
        store_line(&mut parts.0[0][k], _mm512_ternarylogic_epi32::<0b1011_1000>(of_odd, even, of_even));
    }
}

#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub(super) fn q4_k(operands: &Operands<'_>, range: Range<usize>) {
    product::<BlockQ4K, true, 3, 4>(operands, range, |blocks, parts, scales| {
        let header = interleaved::header_with_mins(blocks);
        scales.set::<4>(&header);
        interleaved::q4_k(blocks, two_unsigned_parts(&header, parts));
    });
}

#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub(super) fn q5_k(operands: &Operands<'_>, range: Range<usize>) {
    product::<BlockQ5K, true, 3, 4>(operands, range, |blocks, parts, scales| {
        let header = interleaved::header_with_mins(blocks);
        scales.set::<4>(&header);
        interleaved::q5_k(blocks, two_unsigned_parts(&header, parts));
    });
}

#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub(super) fn q6_k(operands: &Operands<'_>, range: Range<usize>) {
    product::<BlockQ6K, false, 7, 0>(operands, range, |blocks, parts, scales| {
        let header = interleaved::header_q6_k(blocks);
        scales.set::<0>(&header);
        let mut cut = two_signed_parts::<16>(&header, parts);
        interleaved::q6_k(blocks, |k, codes| cut(k, _mm512_sub_epi8(codes, _mm512_set1_epi8(32))));
    });
}

#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub(super) fn iq4_xs(operands: &Operands<'_>, range: Range<usize>) {
    let levels: [u8; 16] = IQ4_VALUES.map(|value| value as u8);
    let levels = _mm512_broadcast_i32x4(load_128(&levels));
    product::<BlockIq4Xs, false, 7, 0>(operands, range, |blocks, parts, scales| {
        let header = interleaved::header_iq4_xs(blocks);
        scales.set::<0>(&header);
        let mut cut = two_signed_parts::<8>(&header, parts);
        interleaved::iq4_xs(blocks, |k, codes| cut(k, _mm512_shuffle_epi8(levels, codes)));
    });
}

#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub(super) fn q3_k(operands: &Operands<'_>, range: Range<usize>) {
    product::<BlockQ3K, false, 0, 0>(operands, range, |blocks, parts, scales| {
        let mut header = interleaved::header_q3_k(blocks);
        header.d = _mm512_sub_ps(_mm512_setzero_ps(), header.d);
        scales.set::<0>(&header);
        let mut cut = one_turned_part(&header, parts);
        interleaved::q3_k(blocks, |k, codes| cut(k, _mm512_sub_epi8(codes, _mm512_set1_epi8(4))));
    });
}

#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub(super) fn q2_k(operands: &Operands<'_>, range: Range<usize>) {
    product::<BlockQ2K, true, 0, 8>(operands, range, |blocks, parts, scales| {
        let header = interleaved::header_q2_k(blocks);
        scales.set::<8>(&header);
        // A product of two bits and four stays in its byte, so two are made by one multiplication of words.
        let of_block: [__m512i; 16] = std::array::from_fn(|i| interleaved::twice(header.scales[i / 4], i % 4));
        interleaved::q2_k(blocks, |k, codes| {
            store_line(&mut parts.0[0][k], _mm512_mullo_epi16(codes, of_block[k / 4]));
        });
    });
}
