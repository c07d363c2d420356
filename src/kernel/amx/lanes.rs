//! What the products of both kinds of blocks share: where their panels come from, and where their sums go.

use std::arch::x86_64::*;

use zerocopy::FromZeros;

use super::super::avx512::interleaved::{Blocks, ROWS};
use super::super::dispatch::Operands;
use super::super::tiled::TILE_ROWS;
use crate::quant::Block;

/// Sixteen floats, a row of weights each.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Lanes(pub(super) [f32; ROWS]);

/// Panels of sixteen rows of weights that are decoded together.
pub(super) const PANELS: usize = 2;

/// Pairs of panels that a pass over the activations serves. More of them read the activations less often from the cache
/// that is shared, fewer keep more of the sums in the cache that is not.
pub(super) const GROUPS: usize = 4;

/// Tiles of activations that a panel meets before it is decoded again.
pub(super) const MOST_TILES: usize = 32;

/// Gives `decode` the block at `at` of sixteen rows of `row_blocks` blocks, from `first_row` on. Rows past the end are zeros,
/// whose results are not written.
#[inline(always)]
pub(super) fn with_panel<B: Block>(
    rows: &[B],
    row_blocks: usize,
    first_row: usize,
    at: usize,
    decode: impl FnOnce(&Blocks<'_, B>),
) {
    let rows = rows.get(first_row * row_blocks..).unwrap_or_default();
    if rows.len() >= ROWS * row_blocks {
        return decode(&Blocks::new(rows, row_blocks, at));
    }
    let mut padded = <[B; ROWS]>::new_zeroed();
    for (padded, block) in padded.iter_mut().zip(rows.iter().skip(at).step_by(row_blocks)) {
        padded.as_mut_bytes().copy_from_slice(block.as_bytes());
    }
    decode(&Blocks::new(&padded, 1, 0));
}

/// The sums of two panels for a tile of activations: `[panels, rows of the tile]`.
pub(super) type Out = [[Lanes; TILE_ROWS]; PANELS];

/// Writes the sums of `groups` of panels, each of `n` tiles, from a row of weights and a tile of activations on.
pub(super) fn write(operands: &Operands<'_>, first_row: usize, first_tile: usize, n: usize, out: &[Out]) {
    let n_columns = |column: usize| operands.weights.n_rows().saturating_sub(column).min(ROWS);
    for row in 0..(operands.n_rows - first_tile * TILE_ROWS).min(n * TILE_ROWS) {
        // All columns of a row before the next row, so that a page is written to once.
        for (group, tiles) in out.chunks_exact(n).enumerate() {
            for (panel, rows) in tiles[row / TILE_ROWS].iter().enumerate() {
                let column = first_row + (group * PANELS + panel) * ROWS;
                let Lanes(sums) = &rows[row % TILE_ROWS];
                // SAFETY: the range of the product is this thread's alone.
                unsafe {
                    match n_columns(column) {
                        0 => {}
                        ROWS => operands.output.write_columns(first_tile * TILE_ROWS + row, column, sums),
                        n => operands.output.write_columns(first_tile * TILE_ROWS + row, column, &sums[..n]),
                    }
                }
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load_lanes(lanes: &Lanes) -> __m512 {
    // SAFETY: the reference covers the 64 bytes, at an address that is a multiple of 64.
    unsafe { _mm512_load_ps(lanes.0.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn store_lanes(lanes: &mut Lanes, v: __m512) {
    // SAFETY: as for a load.
    unsafe { _mm512_store_ps(lanes.0.as_mut_ptr(), v) }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load_i32x16(values: &[i32; 16]) -> __m512i {
    // SAFETY: the reference covers the 64 bytes.
    unsafe { _mm512_loadu_si512(values.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn store_codes(bytes: &mut [u8; 64], v: __m512i) {
    // SAFETY: the reference covers the 64 bytes.
    unsafe { _mm512_storeu_si512(bytes.as_mut_ptr().cast(), v) }
}
