//! The product of blocks of 32 elements: two panels of sixteen rows of weights are made bf16 in the first level of cache, up to
//! [`STEPS`] blocks at a time, and meet all rows of activations there.

use std::arch::x86_64::*;
use std::cell::RefCell;
use std::ops::Range;

use zerocopy::{FromZeros, IntoBytes};

use super::super::avx512::registers::{store_lanes, turned};
use super::super::dispatch::Operands;
use super::super::panels::{Blocks, Lanes, Out, PANELS, Pass, ROWS, with_panel};
use super::super::tiled::{Bf16Tile, STEP_LEN, STEPS, TILE_ROWS, Tiles, steps_of_part};
use super::unit::Unit;
use crate::quant::{Block, blocks};

/// What a thread works on, kept between products.
struct Scratch {
    panels: [[Bf16Tile; STEPS]; PANELS],
    /// `[groups, tiles of activations]`
    out: Vec<Out>,
    rows: Rows,
}

/// Pairs of panels of which rows of sums are put together.
const GROUPS_AT_ONCE: usize = 8;

/// Four rows of sums.
type Rows = [[Lanes; GROUPS_AT_ONCE * PANELS]; 4];

impl Default for Scratch {
    fn default() -> Scratch {
        Scratch {
            panels: FromZeros::new_zeroed(),
            out: Vec::new(),
            rows: [[Lanes([0.0; ROWS]); GROUPS_AT_ONCE * PANELS]; 4],
        }
    }
}

thread_local! {
    static SCRATCH: RefCell<Box<Scratch>> = RefCell::default();
}

/// `decode` makes a tile of a block of sixteen rows: [rows, elements].
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512bf16")]
pub(super) fn product<B: Block>(
    operands: &Operands<'_>,
    range: Range<usize>,
    decode: impl Fn(&Blocks<'_, B>, &mut Bf16Tile),
) {
    let weights = &operands.weights;
    let row_blocks = weights.n_cols() / STEP_LEN;
    let rows = blocks::<B>(weights.bytes(), weights.n_rows() * row_blocks);
    let Tiles::Bf16(tiles) = operands.tiles else { panic!("the unit takes tiles of bf16") };
    let n_tiles = operands.n_rows.div_ceil(TILE_ROWS);
    let part_steps = steps_of_part(weights.n_cols());
    SCRATCH.with_borrow_mut(|scratch| {
        let Scratch { panels, out, rows: sums_of_rows } = &mut **scratch;
        // SAFETY: the table with this function was handed out after the unit had been found; nothing below makes another.
        let unit = unsafe { Unit::configured() };
        Pass::for_whole_range(operands, &range, out, |pass, out| {
            let tiles_of = |part: usize| {
                let first = part * n_tiles + pass.first_tile;
                tiles.get(first..first + pass.n_tiles).unwrap_or_default()
            };
            for (part, first) in (0..row_blocks).step_by(part_steps).enumerate() {
                let n_steps = part_steps.min(row_blocks - first);
                for (group, out) in out.chunks_exact_mut(pass.n_tiles).enumerate() {
                    for (panel, steps) in panels.iter_mut().enumerate() {
                        let first_row = pass.row(group, panel);
                        let n_bytes = part_steps * size_of::<B>();
                        pass.following(operands, first_row, first + n_steps, row_blocks).ask(0..ROWS, n_bytes);
                        for (b, tile) in steps[..n_steps].iter_mut().enumerate() {
                            with_panel(pass, rows, row_blocks, first_row, first + b, |blocks| decode(blocks, tile));
                        }
                    }
                    let panels = [&panels[0][..n_steps], &panels[1][..n_steps]];
                    // Each group asks for a share of the next part of the activations.
                    let share = group * STEPS / pass.n_groups..(group + 1) * STEPS / pass.n_groups;
                    multiply(&unit, panels, tiles_of(part), out, part > 0, tiles_of(part + 1), share);
                }
            }
            write(operands, pass, out, sums_of_rows);
        });
    });
}

/// Adds the products of two panels with tiles of activations to `out`, or, where nothing `precedes`, puts them there, and asks
/// for a `share` of the steps of each of the `next` tiles meanwhile.
fn multiply(
    unit: &Unit,
    panels: [&[Bf16Tile]; PANELS],
    tiles: &[[Bf16Tile; STEPS]],
    out: &mut [Out],
    precedes: bool,
    next: &[[Bf16Tile; STEPS]],
    share: Range<usize>,
) {
    let n_steps = panels[0].len();
    let share = share.start.min(n_steps)..share.end.min(n_steps);
    let next = |t: usize| next.get(t).map_or(&[][..], |tile| &tile[share.clone()]).as_bytes();
    let (pairs, rest) = tiles.as_chunks::<2>();
    let (out_of_pairs, out_of_rest) = out.as_chunks_mut::<2>();
    for (i, ([first, second], out)) in pairs.iter().zip(out_of_pairs).enumerate() {
        let ahead = [next(2 * i), next(2 * i + 1)];
        unit.multiply(panels, [&first[..n_steps], &second[..n_steps]], out, precedes, ahead);
    }
    for (tile, out) in rest.iter().zip(out_of_rest) {
        unit.multiply(panels, [&tile[..n_steps]], std::array::from_mut(out), precedes, [next(tiles.len() - 1)]);
    }
}

/// Writes sums, which the unit leaves as [weights, activations], to the output's rows of activations, a few of these at a time
/// from their first column to the last.
#[target_feature(enable = "avx512bw,avx512vl")]
fn write(operands: &Operands<'_>, pass: &Pass, sums: &[Out], rows: &mut Rows) {
    const { assert!(ROWS == TILE_ROWS) };
    for tile in 0..pass.n_tiles {
        let first_row = (pass.first_tile + tile) * TILE_ROWS;
        for i in 0..4 {
            let n_rows = 4.min(operands.n_rows.saturating_sub(first_row + 4 * i));
            for (groups, sums) in sums.chunks(GROUPS_AT_ONCE * pass.n_tiles).enumerate() {
                let mut n_panels = 0;
                for sums in sums.chunks_exact(pass.n_tiles).flat_map(|tiles| &tiles[tile]) {
                    let turned = turned(|row| &sums[row].0.as_bytes().as_chunks::<16>().0[i]);
                    for (row, sums) in rows.iter_mut().zip(turned) {
                        store_lanes(&mut row[n_panels], _mm512_castsi512_ps(sums));
                    }
                    n_panels += 1;
                }
                let first_column = pass.row(groups * GROUPS_AT_ONCE, 0);
                for (j, row) in rows[..n_rows].iter().enumerate() {
                    let columns = row[..n_panels].iter().map(|lanes| &lanes.0);
                    // SAFETY: the range of the product is this thread's alone.
                    unsafe { operands.output.give_columns(first_row + 4 * i + j, first_column, columns) };
                }
            }
        }
    }
}
