//! The formats of 256 elements. A code times its sub-block's scale is an integer of up to thirteen bits; it is cut into two
//! bytes where one does not hold it, so that a whole block is summed in integers and scaled once.

use std::arch::x86_64::*;
use std::cell::RefCell;
use std::ops::Range;

use super::super::avx512::interleaved::{self, Blocks, Header, ROWS};
use super::super::dispatch::Operands;
use super::super::tiled::{TILE_ROWS, Tile256, Tiles};
use super::super::x86::load_128;
use super::unit::{Codes, Sums, Unit};
use crate::quant::{Block, BlockQ4K, blocks};

/// Sixteen floats, a row of weights each.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Lanes([f32; ROWS]);

/// A block of sixteen rows of weights, as tiles of B: four steps of 64 elements, each [elements / 4, rows, 4].
#[repr(C, align(64))]
struct Panel {
    /// Where there are two parts, the first counts `1 << shift` times.
    parts: [[[u8; 64]; 64]; 2],
    d: Lanes,
    dmin: Lanes,
    /// 16-bit factors of the sums of activations, two in a doubleword.
    mins: [[i32; ROWS]; 8],
}

/// What a thread works on, kept between products.
struct Scratch {
    panels: [Panel; 2],
    /// The step that the unit has finished last, and the one before.
    sums: [[Sums; 4]; 2],
    /// `[tiles of activations, panels, rows of a tile]`
    out: Vec<[[Lanes; TILE_ROWS]; 2]>,
}

const ZERO_PANEL: Panel = Panel {
    parts: [[[0; 64]; 64]; 2],
    d: Lanes([0.0; ROWS]),
    dmin: Lanes([0.0; ROWS]),
    mins: [[0; ROWS]; 8],
};

impl Default for Scratch {
    fn default() -> Scratch {
        Scratch {
            panels: [ZERO_PANEL; 2],
            sums: std::array::from_fn(|_| std::array::from_fn(|_| Sums([[0; 16]; 16]))),
            out: Vec::new(),
        }
    }
}

thread_local! {
    static SCRATCH: RefCell<Box<Scratch>> = RefCell::default();
}

/// Tiles of activations that a panel meets before it is decoded again; their sums stay in the second level of cache.
const MOST_TILES: usize = 32;

/// What the unit has summed in one go: up to four tiles of C.
#[derive(Clone, Copy)]
struct Step {
    /// Which of the buffers holds the sums.
    buffer: usize,
    /// `(panel, tile of activations)` of each result.
    results: [(usize, usize); 4],
    n_results: usize,
}

/// What differs between the formats.
struct Format<D> {
    codes: Codes,
    decode: D,
}

/// `SHIFT`: see [`Panel::parts`]; zero where there is only one part. `MINS`: pairs of minima.
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn product<B: Block, const SHIFT: u32, const MINS: usize>(
    operands: &Operands<'_>,
    range: Range<usize>,
    format: &Format<impl Fn(&Blocks<'_, B>, &mut Panel)>,
) {
    let weights = &operands.weights;
    let n_blocks = weights.n_cols() / 256;
    let rows = blocks::<B>(weights.bytes(), weights.n_rows() * n_blocks);
    let Tiles::Of256(all_tiles) = operands.tiles else { panic!("tiles of 32 for blocks of 256") };
    let n_tiles = operands.n_rows.div_ceil(TILE_ROWS);
    // SAFETY: the table with this function was handed out after the unit had been found; the loops below use no other.
    let unit = unsafe { Unit::configured::<64>() };
    SCRATCH.with_borrow_mut(|scratch| {
        let Scratch { panels, sums, out } = &mut **scratch;
        for first_row in range.clone().step_by(2 * ROWS) {
            for first_tile in (0..n_tiles).step_by(MOST_TILES) {
                let n = MOST_TILES.min(n_tiles - first_tile);
                out.clear();
                out.resize(n, [[Lanes([0.0; ROWS]); TILE_ROWS]; 2]);
                for b in 0..n_blocks {
                    for (g, panel) in panels.iter_mut().enumerate() {
                        // Rows past the end repeat the last one; their results are not written.
                        let row = |i: usize| (first_row + g * ROWS + i).min(weights.n_rows() - 1);
                        (format.decode)(&std::array::from_fn(|i| &rows[row(i) * n_blocks + b]), panel);
                    }
                    let tiles = &all_tiles[b * n_tiles + first_tile..][..n];
                    multiply::<SHIFT, MINS>(&unit, format.codes, panels, tiles, sums, out);
                }
                for (t, results) in out.iter().enumerate() {
                    for (g, result) in results.iter().enumerate() {
                        for (i, lanes) in result.iter().enumerate() {
                            let (row, column) = ((first_tile + t) * TILE_ROWS + i, first_row + g * ROWS);
                            if row < operands.n_rows && column < weights.n_rows() {
                                let n = ROWS.min(weights.n_rows() - column);
                                // SAFETY: `range` is this thread's alone.
                                unsafe { operands.output.write_columns(row, column, &lanes.0[..n]) };
                            }
                        }
                    }
                }
            }
        }
    });
}

/// Adds the products of two panels with all tiles to `out`.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn multiply<const SHIFT: u32, const MINS: usize>(
    unit: &Unit,
    codes: Codes,
    panels: &[Panel; 2],
    tiles: &[Tile256],
    sums: &mut [[Sums; 4]; 2],
    out: &mut [[[Lanes; TILE_ROWS]; 2]],
) {
    let mut buffer = 0;
    let mut last: Option<Step> = None;
    let mut step = |results: [(usize, usize); 4], n_results: usize| {
        let part = |panel: usize, part: usize, k: usize| panels[panel].parts[part][16 * k].as_ptr();
        let a = |result: usize, k: usize| tiles[results[result].1].codes[k].as_ptr().cast::<u8>();
        let paired = results[0].1 != results[n_results - 1].1;
        unit.clear();
        for k in 0..4 {
            // SAFETY: steps of the panels and tiles are 1024 bytes.
            unsafe {
                match (SHIFT > 0, paired) {
                    (true, true) => {
                        let g = results[0].0;
                        unit.two_by_two(codes, [a(0, k), a(1, k)], [part(g, 0, k), part(g, 1, k)]);
                    }
                    (true, false) => {
                        unit.one_by_four(codes, a(0, k), [part(0, 0, k), part(0, 1, k), part(1, 0, k), part(1, 1, k)]);
                    }
                    (false, true) => unit.two_by_two(codes, [a(0, k), a(2, k)], [part(0, 0, k), part(1, 0, k)]),
                    (false, false) => unit.one_by_two(codes, a(0, k), [part(0, 0, k), part(1, 0, k)]),
                }
            }
            // While the unit works, the sums that it has left are scaled, a quarter a time.
            if let Some(last) = &last {
                finish_quarter::<SHIFT, MINS>(last, k, panels, tiles, &sums[last.buffer], out);
            }
        }
        unit.store(&mut sums[buffer]);
        last = Some(Step { buffer, results, n_results });
        buffer = 1 - buffer;
    };
    for pair in 0..tiles.len() / 2 {
        let (t, u) = (2 * pair, 2 * pair + 1);
        if SHIFT > 0 {
            step([(0, t), (0, u), (0, 0), (0, 0)], 2);
            step([(1, t), (1, u), (0, 0), (0, 0)], 2);
        } else {
            step([(0, t), (1, t), (0, u), (1, u)], 4);
        }
    }
    if tiles.len() % 2 == 1 {
        let t = tiles.len() - 1;
        step([(0, t), (1, t), (0, 0), (0, 0)], 2);
    }
    if let Some(last) = last {
        for k in 0..4 {
            finish_quarter::<SHIFT, MINS>(&last, k, panels, tiles, &sums[last.buffer], out);
        }
    }
}

/// Scales a quarter of the sums of a step and adds them to `out`.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn finish_quarter<const SHIFT: u32, const MINS: usize>(
    step: &Step,
    quarter: usize,
    panels: &[Panel; 2],
    tiles: &[Tile256],
    sums: &[Sums; 4],
    out: &mut [[[Lanes; TILE_ROWS]; 2]],
) {
    let (result, rows) = match step.n_results {
        4 => (quarter, 0..TILE_ROWS),
        _ => (quarter / 2, quarter % 2 * 8..quarter % 2 * 8 + 8),
    };
    let (g, t) = step.results[result];
    let (panel, tile, out) = (&panels[g], &tiles[t], &mut out[t][g]);
    let load = |sums: &Sums, row: usize| load_i32x16(&sums.0[row]);
    let (d, dmin) = (load_lanes(&panel.d), load_lanes(&panel.dmin));
    let mins: [__m512i; MINS] = std::array::from_fn(|i| load_i32x16(&panel.mins[i]));
    for row in rows {
        let sum = if SHIFT > 0 {
            let high = _mm512_sllv_epi32(load(&sums[2 * result], row), _mm512_set1_epi32(SHIFT as i32));
            _mm512_add_epi32(high, load(&sums[2 * result + 1], row))
        } else {
            load(&sums[result], row)
        };
        let mut scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), d);
        if MINS > 0 {
            let mut of_mins = _mm512_setzero_si512();
            for (i, &mins) in mins.iter().enumerate() {
                let pair = if MINS == 4 { tile.sums_of_32[row][i] } else { tile.sums_of_16[row][i] };
                of_mins = _mm512_dpwssd_epi32(of_mins, mins, _mm512_set1_epi32(pair));
            }
            scaled = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(of_mins), dmin, scaled);
        }
        let sum = _mm512_fmadd_ps(scaled, _mm512_set1_ps(tile.d[row]), load_lanes(&out[row]));
        store_lanes(&mut out[row], sum);
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_lanes(lanes: &Lanes) -> __m512 {
    // SAFETY: the reference covers the 64 bytes, at an address that is a multiple of 64.
    unsafe { _mm512_load_ps(lanes.0.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store_lanes(lanes: &mut Lanes, v: __m512) {
    // SAFETY: as for a load.
    unsafe { _mm512_store_ps(lanes.0.as_mut_ptr(), v) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_i32x16(values: &[i32; 16]) -> __m512i {
    // SAFETY: the reference covers the 64 bytes.
    unsafe { _mm512_loadu_si512(values.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store_codes(bytes: &mut [u8; 64], v: __m512i) {
    // SAFETY: the reference covers the 64 bytes.
    unsafe { _mm512_storeu_si512(bytes.as_mut_ptr().cast(), v) }
}

/// For each doubleword, two of its bytes as the low bytes of words.
const fn words_of(first: u8, second: u8) -> [u8; 16] {
    let mut index = [0x80; 16];
    let mut i = 0;
    while i < 4 {
        index[4 * i] = 4 * i as u8 + first;
        index[4 * i + 2] = 4 * i as u8 + second;
        i += 1;
    }
    index
}

/// Byte `i` of each doubleword in both words.
const TWICE: [[u8; 16]; 4] = [words_of(0, 0), words_of(1, 1), words_of(2, 2), words_of(3, 3)];

/// Bytes 2i and 2i + 1 of each doubleword as words.
const PAIRS: [[u8; 16]; 2] = [words_of(0, 1), words_of(2, 3)];

#[inline]
#[target_feature(enable = "avx512bw")]
fn shuffled(v: __m512i, index: &[u8; 16]) -> __m512i {
    _mm512_shuffle_epi8(v, _mm512_broadcast_i32x4(load_128(index)))
}

impl Panel {
    /// Takes over everything but the codes; `MINS` pairs of minima.
    #[inline]
    #[target_feature(enable = "avx512bw")]
    fn set_header<const MINS: usize>(&mut self, header: &Header) {
        store_lanes(&mut self.d, header.d);
        store_lanes(&mut self.dmin, header.dmin);
        for i in 0..MINS {
            let pair = shuffled(header.mins[i / 2], &PAIRS[i % 2]);
            // SAFETY: the reference covers the 64 bytes.
            unsafe { _mm512_storeu_si512(self.mins[i].as_mut_ptr().cast(), pair) };
        }
    }
}

/// Unsigned codes of up to five bits times scales of six: the scale is cut into two parts of three bits, so that a product
/// stays in its byte and two are made by one multiplication of words.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl")]
fn two_unsigned_parts<'s>(header: &'s Header, parts: &'s mut [[[u8; 64]; 64]; 2]) -> impl FnMut(usize, __m512i) + 's {
    let scales: [__m512i; 8] = std::array::from_fn(|i| shuffled(header.scales[i / 4], &TWICE[i % 4]));
    let high = scales.map(|scale| _mm512_srli_epi16::<3>(scale));
    let low = scales.map(|scale| _mm512_and_si512(scale, _mm512_set1_epi16(7)));
    move |k, codes| {
        store_codes(&mut parts[0][k], _mm512_mullo_epi16(codes, high[k / 8]));
        store_codes(&mut parts[1][k], _mm512_mullo_epi16(codes, low[k / 8]));
    }
}

#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub(super) fn q4_k(operands: &Operands<'_>, range: Range<usize>) {
    let decode = |blocks: &Blocks<'_, BlockQ4K>, panel: &mut Panel| {
        let header = interleaved::header_with_mins(blocks);
        panel.set_header::<4>(&header);
        interleaved::q4_k(blocks, two_unsigned_parts(&header, &mut panel.parts));
    };
    product::<BlockQ4K, 3, 4>(operands, range, &Format { codes: Codes::Unsigned, decode });
}
