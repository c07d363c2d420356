//! The formats of 256 elements. A code times its sub-block's scale is an integer of up to thirteen bits; it is cut into two
//! bytes where one does not hold it, so that a whole block is summed in integers and scaled once.
//!
//! While the unit multiplies, the vector registers scale what it has summed before and decode what it takes next.

use std::arch::x86_64::*;
use std::cell::RefCell;
use std::ops::Range;

use zerocopy::FromZeros;

use super::super::avx512::registers::{add_products_of, load_i32x16, load_lanes, store_lanes};
use super::super::dispatch::Operands;
use super::super::panels::{Blocks, Following, Out, PANELS, Pass, ROWS, panel};
use super::super::tiled::{TILE_ROWS, Tile256, Tiles};

use super::parts::{Decoder, Factors, Part, Parts, Scales};
use super::unit::{ByteOperands, Stored, Unit};
use crate::quant::{Block, blocks};

/// What a thread works on, kept between products.
#[derive(Default)]
struct Scratch {
    /// Those at hand and those that come next.
    parts: [Parts; 2],
    scales: Sets,
    factors: Factors,
    /// Sums that the unit has stored.
    sums: Stored,
    /// `[groups, tiles of activations, panels, rows of a tile]`
    out: Vec<Out>,
}

/// Those of the parts before, whose last sums are not yet scaled, of the parts at hand and of the next.
type Sets = [[Scales; PANELS]; 3];

/// How often there is time for something else in a step.
const TIMES: usize = 4;

/// From so many steps on a visit decodes between them: few pieces fall to each, and a step that calls for none has its factors
/// in registers.
const LONG_VISIT: usize = 3;

thread_local! {
    static SCRATCH: RefCell<Box<Scratch>> = RefCell::default();
}

/// What stands in the parts at a time: a block of a panel, or of both panels of a group where each has one part.
#[derive(Clone, Copy)]
struct Visit {
    block: usize,
    group: usize,
    /// The first panel.
    panel: usize,
    /// Which of the scales.
    set: usize,
}

/// What a step of the unit computes: with some tiles of activations, twice as many of C, each or each pair a result.
#[derive(Clone, Copy)]
struct Step {
    visit: Visit,
    /// Of activations: one or two, or none before the first step.
    n_tiles: usize,
    tile: usize,
    /// Where its results go, one tile after the other.
    place: usize,
}

impl Step {
    const NONE: Step = Step { visit: Visit::FIRST, n_tiles: 0, tile: 0, place: 0 };
}

/// Steps on their way through the unit: while it multiplies for one, the sums of the one before are scaled.
struct Pipeline<'s, const UNSIGNED: bool, const SHIFT: u32, const MINS: usize> {
    unit: Unit,
    tiles: &'s [Tile256],
    sums: &'s Stored,
    /// The step whose sums are in the unit.
    last: Step,
}

/// What scales some rows of a result, in registers: `MINS` pairs of minima.
macro_rules! load_scales {
    ($scales:expr) => {{
        let scales: &Scales = $scales;
        let mut mins = [[_mm512_setzero_si512(); 4]; 2];
        for i in 0..MINS {
            mins[i / 4][i % 4] = load_i32x16(&scales.mins[i / 4][i % 4]);
        }
        (load_lanes(&scales.d), load_lanes(&scales.dmin), mins)
    }};
}

/// Scales a row of a result and adds it to `$out` in the lanes `$is_added`, or puts it there. No function: what it takes is to
/// stay in registers.
macro_rules! scale_row {
    ($sums:expr, $result:expr, $row:expr, $tile:expr, $scales:expr, $is_added:expr, $out:expr) => {{
        let (d, dmin, mins) = $scales;
        let sum = if SHIFT > 0 {
            let high = _mm512_sllv_epi32($sums.row(2 * $result, $row), _mm512_set1_epi32(SHIFT as i32));
            _mm512_add_epi32(high, $sums.row(2 * $result + 1, $row))
        } else {
            $sums.row($result, $row)
        };
        let mut scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), d);
        if MINS > 0 {
            let zero = _mm512_setzero_si512();
            let of_mins = if MINS == 4 {
                add_products_of(zero, mins[0], &$tile.sums_of_32[$row])
            } else {
                let [first, second] = &$tile.sums_of_16[$row];
                add_products_of(add_products_of(zero, mins[0], first), mins[1], second)
            };
            scaled = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(of_mins), dmin, scaled);
        }
        let before = _mm512_maskz_mov_ps($is_added, load_lanes(&$out[$row]));
        store_lanes(&mut $out[$row], _mm512_fmadd_ps(scaled, _mm512_set1_ps($tile.d[$row]), before));
    }};
}

/// Where parts come from.
struct Source<'a, B, D> {
    operands: &'a Operands<'a>,
    rows: &'a [B],
    n_blocks: usize,
    pass: &'a Pass,
    decoder: &'a D,
}

/// What is decoded while the unit is at work on something else, a piece now and then.
struct Ahead<'a, B, D> {
    decoder: &'a D,
    visit: Visit,
    /// The blocks of a panel and those that follow, of one panel or of two.
    panels: [Option<(Blocks<'a, B>, Following<'a>)>; PANELS],
    parts: &'a mut Parts,
    factors: &'a mut Factors,
    /// The piece that is next, and its panel.
    piece: usize,
    panel: usize,
    /// Of all panels.
    n_pieces: usize,
    /// How often there is time for a piece.
    n_times: usize,
    /// Reaches `n_times` whenever a piece is due.
    due: usize,
}

impl<B: Block, const PIECES: usize, Begin, Piece> Source<'_, B, Decoder<PIECES, Begin, Piece>> {
    /// Begins what a visit of some panels needs.
    #[inline(always)]
    fn begin<'s>(
        &'s self,
        visit: Visit,
        n_panels: usize,
        parts: &'s mut Parts,
        factors: &'s mut Factors,
        padded: &'s mut [[B; ROWS]; PANELS],
        n_times: usize,
    ) -> Ahead<'s, B, Decoder<PIECES, Begin, Piece>> {
        let Source { operands, rows, n_blocks, pass, decoder } = *self;
        let mut panels = [const { None }; PANELS];
        for (p, padded) in padded.iter_mut().enumerate().take(n_panels) {
            let row = pass.row(visit.group, visit.panel + p);
            let blocks = panel(pass, rows, n_blocks, row, visit.block, padded);
            let following = pass.following(operands, row, visit.block + 1, n_blocks);
            panels[p] = Some((blocks, following));
        }
        let n_pieces = n_panels * PIECES;
        Ahead { decoder, visit, panels, parts, factors, piece: 0, panel: 0, n_pieces, n_times, due: 0 }
    }
}

impl<B, const PIECES: usize, Begin, Piece> Ahead<'_, B, Decoder<PIECES, Begin, Piece>>
where
    B: Block,
    Begin: Fn(&Blocks<'_, B>, &mut Factors, &mut Scales),
    Piece: Fn(&Blocks<'_, B>, usize, &Factors, &mut [Part]),
{
    /// There is time for a piece, `n` times.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    fn advance(&mut self, n: usize, scales: &mut Sets) {
        self.due += n * self.n_pieces;
        while self.due >= self.n_times {
            self.due -= self.n_times;
            self.decode(scales);
        }
    }

    #[inline(never)]
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    fn decode(&mut self, scales: &mut Sets) {
        let (piece, panel) = (self.piece, self.panel);
        let Some((blocks, following)) = &self.panels[panel] else { return };
        if piece == 0 {
            (self.decoder.begin)(blocks, self.factors, &mut scales[self.visit.set][self.visit.panel + panel]);
        }
        (self.decoder.piece)(blocks, piece, self.factors, &mut self.parts.0[panel..]);
        let n_rows = ROWS / PIECES;
        following.ask(piece * n_rows..(piece + 1) * n_rows, size_of::<B>());
        (self.piece, self.panel) = if piece + 1 == PIECES { (0, panel + 1) } else { (piece + 1, panel) };
    }
}

impl Visit {
    const FIRST: Visit = Visit { block: 0, group: 0, panel: 0, set: 0 };

    /// The one that comes after this; it may be past the last block.
    fn next(self, n_groups: usize, n_panels: usize) -> Visit {
        let panel = (self.panel + n_panels) % PANELS;
        let group = if panel == 0 { (self.group + 1) % n_groups } else { self.group };
        let block = self.block + usize::from(panel == 0 && group == 0);
        Visit { block, group, panel, set: (self.set + 1) % 3 }
    }
}

/// `UNSIGNED`: whether parts are. `SHIFT`: see [`Parts`]; zero where a panel has only one. `MINS`: pairs of minima.
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub(super) fn product<B: Block, const UNSIGNED: bool, const SHIFT: u32, const MINS: usize, const PIECES: usize>(
    operands: &Operands<'_>,
    range: Range<usize>,
    decoder: &Decoder<
        PIECES,
        impl Fn(&Blocks<'_, B>, &mut Factors, &mut Scales),
        impl Fn(&Blocks<'_, B>, usize, &Factors, &mut [Part]),
    >,
) {
    let weights = &operands.weights;
    let n_blocks = weights.n_cols() / 256;
    let rows = blocks::<B>(weights.bytes(), weights.n_rows() * n_blocks);
    let Tiles::Of256(tiles) = operands.tiles else { panic!("tiles of 32 for blocks of 256") };
    let n_tiles = operands.n_rows.div_ceil(TILE_ROWS);
    let n_panels = if SHIFT > 0 { 1 } else { PANELS };
    SCRATCH.with_borrow_mut(|scratch| {
        let Scratch { parts: [even, odd], scales, factors, sums, out } = &mut **scratch;
        let mut padded = <[[B; ROWS]; PANELS]>::new_zeroed();
        // SAFETY: the table with this function was handed out after the unit had been found; nothing below makes another.
        let unit = unsafe { Unit::configured() };
        let mut pipeline: Pipeline<'_, UNSIGNED, SHIFT, MINS> = Pipeline { unit, tiles, sums, last: Step::NONE };
        Pass::for_whole_range(operands, &range, out, |pass, out| {
            let n_steps = pass.n_tiles.div_ceil(2);
            let (mut parts, mut next_parts) = (&mut *even, &mut *odd);
            let source = Source { operands, rows, n_blocks, pass, decoder };
            let mut visit = Visit::FIRST;
            source.begin(visit, n_panels, parts, factors, &mut padded, 1).advance(1, scales);
            while visit.block < n_blocks {
                let next = visit.next(pass.n_groups, n_panels);
                let mut ahead = (next.block < n_blocks)
                    .then(|| source.begin(next, n_panels, next_parts, factors, &mut padded, n_steps * TIMES));
                let first_tile = visit.block * n_tiles + pass.first_tile;
                // SAFETY: tiles of activations and of parts are 1024 bytes.
                unsafe { pipeline.unit.load_bytes(&pipeline.operands(parts, first_tile, 2.min(pass.n_tiles), 0)) };
                for first in (0..pass.n_tiles).step_by(2) {
                    let n_left = pass.n_tiles - first;
                    let step = Step {
                        visit,
                        n_tiles: 2.min(n_left),
                        tile: first_tile + first,
                        place: visit.group * pass.n_tiles + first,
                    };
                    let next = n_left.saturating_sub(2).min(2);
                    let mut advance = |n: usize, scales: &mut Sets| {
                        if let Some(ahead) = &mut ahead {
                            ahead.advance(n, scales);
                        }
                    };
                    match (step.n_tiles, pipeline.last.n_tiles) {
                        (2, 2) if n_steps >= LONG_VISIT => {
                            pipeline.step::<2, 2>(parts, scales, step, next, out, |_, _| ());
                            advance(TIMES, scales);
                        }
                        (2, 2) => pipeline.step::<2, 2>(parts, scales, step, next, out, advance),
                        (2, 1) => pipeline.step::<2, 1>(parts, scales, step, next, out, advance),
                        (2, _) => pipeline.step::<2, 0>(parts, scales, step, next, out, advance),
                        (_, 2) => pipeline.step::<1, 2>(parts, scales, step, next, out, advance),
                        (_, 1) => pipeline.step::<1, 1>(parts, scales, step, next, out, advance),
                        (_, _) => pipeline.step::<1, 0>(parts, scales, step, next, out, advance),
                    }
                }
                (parts, next_parts) = (next_parts, parts);
                visit = next;
            }
            pipeline.drain(scales, out);
            pass.write(operands, out);
        });
    });
}

impl<const UNSIGNED: bool, const SHIFT: u32, const MINS: usize> Pipeline<'_, UNSIGNED, SHIFT, MINS> {
    /// Results of a tile of activations.
    const OF_TILE: usize = if SHIFT > 0 { 1 } else { PANELS };

    /// What quarter `k` of a product takes.
    fn operands(&self, parts: &Parts, tile: usize, n_tiles: usize, k: usize) -> ByteOperands {
        let a = [0, n_tiles - 1].map(|i| self.tiles[tile + i].codes[k].as_ptr().cast());
        let b = [0, 1].map(|part| parts.0[part][16 * k].as_ptr());
        ByteOperands { a, b }
    }

    /// Sends a step of `M` tiles of activations into the unit and scales the sums of the one before, of `L` tiles; calls
    /// `advance` [`TIMES`] times meanwhile. Its first operands have been loaded; after it come `next` tiles with the same parts.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    fn step<const M: usize, const L: usize>(
        &mut self,
        parts: &Parts,
        scales: &mut Sets,
        step: Step,
        next: usize,
        out: &mut [Out],
        mut advance: impl FnMut(usize, &mut Sets),
    ) {
        let operands: [ByteOperands; 4] = std::array::from_fn(|k| self.operands(parts, step.tile, M, k));
        let after = (next > 0).then(|| self.operands(parts, step.tile + M, next, 0));
        let last = self.last;
        let is_added = if last.visit.block == 0 { 0 } else { 0xFFFF };
        // Written out, quarters and their pieces, so that their numbers are constants.
        macro_rules! quarter {
            ($k:literal) => {{
                let n_rows = TILE_ROWS * Self::OF_TILE * L / 4;
                let (result, first_row) = ($k * n_rows / TILE_ROWS, $k * n_rows % TILE_ROWS);
                let panel = if SHIFT > 0 { last.visit.panel } else { result % PANELS };
                let tile = &self.tiles[last.tile + result / Self::OF_TILE];
                let scaling = load_scales!(&scales[last.visit.set][panel]);
                let out = &mut out[last.place + result / Self::OF_TILE][panel];
                // A piece of the products and then one of the scaling.
                macro_rules! piece {
                    ($piece:literal) => {
                        // SAFETY: the tiles of activations and of parts are 1024 bytes.
                        unsafe {
                            let next = if $k < 3 { operands.get($k + 1) } else { after.as_ref() };
                            self.unit.multiply_bytes::<M, UNSIGNED, { $k == 0 }, $piece>(next, self.sums);
                        }
                        // Of the first quarter, whose sums have only now been stored, two pieces wait.
                        let (begin, end) = match ($k, $piece) {
                            (0, 0 | 1) => (0, 0),
                            (0, piece) => (2 * piece - 4, 2 * piece - 2),
                            (_, piece) => (piece, piece + 1),
                        };
                        for row in first_row + begin * n_rows / 4..first_row + end * n_rows / 4 {
                            scale_row!(self.sums, result, row, tile, scaling, is_added, out);
                        }
                    };
                }
                piece!(0);
                piece!(1);
                piece!(2);
                piece!(3);
                advance(1, scales);
            }};
        }
        quarter!(0);
        quarter!(1);
        quarter!(2);
        quarter!(3);
        self.last = step;
    }

    /// Scales what is still on its way.
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    fn drain(&mut self, scales: &Sets, out: &mut [Out]) {
        // What comes next may have fewer places than there were here.
        let last = std::mem::replace(&mut self.last, Step::NONE);
        self.unit.store(self.sums);
        let is_added = if last.visit.block == 0 { 0 } else { 0xFFFF };
        for result in 0..last.n_tiles * Self::OF_TILE {
            let panel = if SHIFT > 0 { last.visit.panel } else { result % PANELS };
            let tile = &self.tiles[last.tile + result / Self::OF_TILE];
            let scales = load_scales!(&scales[last.visit.set][panel]);
            let out = &mut out[last.place + result / Self::OF_TILE][panel];
            for row in 0..TILE_ROWS {
                scale_row!(self.sums, result, row, tile, scales, is_added, out);
            }
        }
    }
}
