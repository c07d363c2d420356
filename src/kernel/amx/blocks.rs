//! The formats of 32 elements. Both sides have a float scale for each block, so the sums of every block are scaled and added as
//! floats: the unit computes two blocks of two panels at a time while the vector units scale those before.

use std::arch::x86_64::*;
use std::cell::RefCell;
use std::ops::Range;

use super::super::avx512::interleaved::{self, Linear};
use super::super::avx512::registers::{load_lanes, store_codes, store_lanes};
use super::super::dispatch::Operands;
use super::super::panels::{Blocks, Lanes, Out, PANELS, Pass, ROWS, with_panel};
use super::super::tiled::{TILE_ROWS, Tile32, Tiles};

use super::unit::{PIECES, Stored, Unit};
use crate::quant::{Block, BlockIq4Nl, BlockMxfp4, BlockQ4_0, BlockQ4_1, BlockQ5_0, BlockQ5_1, BlockQ8_0, blocks};

/// Blocks of a row that are decoded together; an even number.
const CHUNK: usize = 8;

/// The codes of a block of each panel, as tiles of B: [panels, elements / 4, rows, 4].
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Codes([[[u8; 64]; 8]; PANELS]);

/// What scales their sums.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Scales {
    d: [Lanes; PANELS],
    m: [Lanes; PANELS],
}

/// What a thread works on, kept between products.
struct Scratch {
    codes: [Codes; CHUNK],
    /// Those of the chunk at hand and of the one before, whose last sums are not yet scaled.
    scales: [[Scales; CHUNK]; 2],
    /// Sums that the unit has stored.
    sums: Stored,
    /// `[groups, tiles of activations]`
    out: Vec<Out>,
}

impl Default for Scratch {
    fn default() -> Scratch {
        let zero = [Lanes([0.0; ROWS]); PANELS];
        Scratch {
            codes: [Codes([[[0; 64]; 8]; PANELS]); CHUNK],
            scales: [[Scales { d: zero, m: zero }; CHUNK]; 2],
            sums: Stored::default(),
            out: Vec::new(),
        }
    }
}

thread_local! {
    static SCRATCH: RefCell<Box<Scratch>> = RefCell::default();
}

/// What a step of the unit computes: two blocks of two panels and a tile of activations.
#[derive(Clone, Copy)]
struct Step {
    /// Whether its results are the first in their place.
    is_first: bool,
    /// Which scales.
    set: usize,
    /// The first of two blocks in the chunk.
    block: usize,
    /// The tiles of activations of both.
    tiles: [usize; 2],
    /// The place in the output.
    place: usize,
}

/// `MINS`: whether the format has minima.
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn product<B: Block, const MINS: bool>(
    operands: &Operands<'_>,
    range: Range<usize>,
    decode: impl Fn(&Blocks<'_, B>) -> ([__m512i; 8], Linear),
) {
    let weights = &operands.weights;
    let n_blocks = weights.n_cols() / 32;
    let rows = blocks::<B>(weights.bytes(), weights.n_rows() * n_blocks);
    let Tiles::Of32(tiles) = operands.tiles else { panic!("tiles of 256 for blocks of 32") };
    let n_tiles = operands.n_rows.div_ceil(TILE_ROWS);
    SCRATCH.with_borrow_mut(|scratch| {
        let Scratch { codes, scales, sums, out } = &mut **scratch;
        let sums = &*sums;
        // SAFETY: the table with this function was handed out after the unit had been found; nothing below makes another.
        let unit = unsafe { Unit::configured::<32>() };
        let n_asks = n_blocks * PANELS * size_of::<B>().div_ceil(16);
        Pass::for_each(operands, range, n_asks, out, |pass, out| {
            let mut last: Option<Step> = None;
            let mut set = 0;
            for first_block in (0..n_blocks).step_by(CHUNK) {
                let chunk = CHUNK.min(n_blocks - first_block);
                for group in 0..pass.n_groups {
                    set = 1 - set;
                    decode_chunk(
                        pass,
                        rows,
                        n_blocks,
                        pass.row(group, 0),
                        first_block,
                        chunk,
                        &decode,
                        codes,
                        &mut scales[set],
                    );
                    for t in 0..pass.n_tiles {
                        for block in (0..chunk).step_by(2) {
                            // An odd last block has another of zeros beside it.
                            let second = (block + 1).min(chunk - 1);
                            let tile = |block: usize| (first_block + block) * n_tiles + pass.first_tile + t;
                            let tiles_of_step = [tile(block), tile(second)];
                            let (is_first, place) = (first_block + block == 0, group * pass.n_tiles + t);
                            let step = Step { is_first, set, block, tiles: tiles_of_step, place };
                            let a = step.tiles.map(|tile| tiles[tile].codes.as_ptr().cast());
                            let b = [block, block + 1].map(|block| codes[block].0.as_ptr().cast());
                            // SAFETY: tiles of activations are 512 bytes, codes of a block 1024.
                            unsafe { unit.multiply_pairs::<0>(a, b, sums) };
                            scale::<MINS>(last.as_ref(), 0, sums, scales, tiles, out);
                            // SAFETY: as above.
                            unsafe { unit.multiply_pairs::<1>(a, b, sums) };
                            scale::<MINS>(last.as_ref(), 1, sums, scales, tiles, out);
                            // SAFETY: as above.
                            unsafe { unit.multiply_pairs::<2>(a, b, sums) };
                            scale::<MINS>(last.as_ref(), 2, sums, scales, tiles, out);
                            // SAFETY: as above.
                            unsafe { unit.multiply_pairs::<3>(a, b, sums) };
                            scale::<MINS>(last.as_ref(), 3, sums, scales, tiles, out);
                            last = Some(step);
                        }
                    }
                }
            }
            if let Some(last) = last {
                unit.store(sums);
                (0..PIECES).for_each(|piece| scale::<MINS>(Some(&last), piece, sums, scales, tiles, out));
            }
        });
    });
}

/// Decodes `chunk` blocks of two panels of rows; where they are odd, a block of zeros follows.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
#[allow(clippy::too_many_arguments, reason = "a place in a matrix, and where its codes and scales go")]
fn decode_chunk<B: Block>(
    pass: &Pass,
    rows: &[B],
    n_blocks: usize,
    first_row: usize,
    first_block: usize,
    chunk: usize,
    decode: &impl Fn(&Blocks<'_, B>) -> ([__m512i; 8], Linear),
    codes: &mut [Codes; CHUNK],
    scales: &mut [Scales; CHUNK],
) {
    for block in 0..chunk {
        for panel in 0..PANELS {
            with_panel(pass, rows, n_blocks, first_row + panel * ROWS, first_block + block, |blocks| {
                let (decoded, (d, m)) = decode(blocks);
                for (codes, decoded) in codes[block].0[panel].iter_mut().zip(decoded) {
                    store_codes(codes, decoded);
                }
                store_lanes(&mut scales[block].d[panel], d);
                store_lanes(&mut scales[block].m[panel], m);
            });
        }
    }
    if chunk % 2 == 1 {
        codes[chunk] = Codes([[[0; 64]; 8]; PANELS]);
        let zero = [Lanes([0.0; ROWS]); PANELS];
        scales[chunk] = Scales { d: zero, m: zero };
    }
}

/// Scales a piece of the sums of a step and adds them to `out`, or puts them there. They are stored before that piece of the
/// next products at the latest.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn scale<const MINS: bool>(
    step: Option<&Step>,
    piece: usize,
    sums: &Stored,
    scales: &[[Scales; CHUNK]; 2],
    tiles: &[Tile32],
    out: &mut [Out],
) {
    const PIECES_OF_PANEL: usize = PIECES / PANELS;
    const ROWS_OF_PIECE: usize = TILE_ROWS / PIECES_OF_PANEL;
    let Some(step) = step else { return };
    let panel = piece / PIECES_OF_PANEL;
    let first_row = piece % PIECES_OF_PANEL * ROWS_OF_PIECE;
    let scales: &[Scales; 2] = scales[step.set][step.block..].first_chunk().expect("chunks are even");
    let d = [load_lanes(&scales[0].d[panel]), load_lanes(&scales[1].d[panel])];
    let m = [load_lanes(&scales[0].m[panel]), load_lanes(&scales[1].m[panel])];
    let tiles = [&tiles[step.tiles[0]], &tiles[step.tiles[1]]];
    let out = &mut out[step.place][panel];
    for row in first_row..first_row + ROWS_OF_PIECE {
        let mut sum = if step.is_first { _mm512_setzero_ps() } else { load_lanes(&out[row]) };
        for i in 0..2 {
            let scale = _mm512_mul_ps(d[i], _mm512_set1_ps(tiles[i].d[row]));
            sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums.row(2 * panel + i, row)), scale, sum);
            if MINS {
                sum = _mm512_fmadd_ps(m[i], _mm512_set1_ps(tiles[i].s[row]), sum);
            }
        }
        store_lanes(&mut out[row], sum);
    }
}

/// Defines the product of a format by its decoding and whether it has minima.
macro_rules! products {
    ($($format:ident: $block:ty, $mins:literal;)*) => {$(
        #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
        pub(super) fn $format(operands: &Operands<'_>, range: Range<usize>) {
            product::<$block, $mins>(operands, range, |blocks| interleaved::$format(blocks));
        }
    )*};
}

products! {
    q4_0: BlockQ4_0, false;
    q4_1: BlockQ4_1, true;
    q5_0: BlockQ5_0, false;
    q5_1: BlockQ5_1, true;
    q8_0: BlockQ8_0, false;
    iq4_nl: BlockIq4Nl, false;
    mxfp4: BlockMxfp4, false;
}
