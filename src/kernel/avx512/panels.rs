//! What the products of many rows share, on AVX-512 and AMX alike: in what order a matrix is passed over, where the panels of
//! sixteen rows of weights come from, and where their sums go.

use std::arch::x86_64::*;
use std::ops::Range;

use zerocopy::FromZeros;

use super::super::dispatch::Operands;
use super::super::tiled::TILE_ROWS;
use super::interleaved::{Blocks, ROWS};
use crate::quant::Block;

/// Sixteen floats, a row of weights each.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(in crate::kernel) struct Lanes(pub(in crate::kernel) [f32; ROWS]);

/// Panels of sixteen rows of weights that are decoded together.
pub(in crate::kernel) const PANELS: usize = 2;

/// Pairs of panels that a pass over the activations serves. More of them read the activations less often from the cache
/// that is shared, fewer keep more of the sums in the cache that is not.
const GROUPS: usize = 4;

/// Tiles of activations that a panel meets before it is decoded again.
const MOST_TILES: usize = 32;

/// The sums of two panels for a tile of activations: `[panels, rows of the tile]`.
pub(in crate::kernel) type Out = [[Lanes; TILE_ROWS]; PANELS];

/// A part of a product whose sums stay in cache: some pairs of panels of weights, some tiles of activations, all blocks.
#[derive(Debug, Clone, Copy)]
pub(in crate::kernel) struct Pass {
    /// The first row of weights.
    pub(in crate::kernel) first_row: usize,
    /// Pairs of panels.
    pub(in crate::kernel) n_groups: usize,
    pub(in crate::kernel) first_tile: usize,
    /// Tiles of activations.
    pub(in crate::kernel) n_tiles: usize,
}

impl Pass {
    /// Cuts the rows `range` of weights into passes, and writes the sums that `compute` has added to zeros:
    /// `[n_groups, n_tiles]`.
    pub(in crate::kernel) fn for_each(
        operands: &Operands<'_>,
        range: Range<usize>,
        sums: &mut Vec<Out>,
        mut compute: impl FnMut(Pass, &mut [Out]),
    ) {
        let all_tiles = operands.n_rows.div_ceil(TILE_ROWS);
        for first_row in range.clone().step_by(GROUPS * PANELS * ROWS) {
            let n_groups = (range.end - first_row).div_ceil(PANELS * ROWS).min(GROUPS);
            for first_tile in (0..all_tiles).step_by(MOST_TILES) {
                let n_tiles = MOST_TILES.min(all_tiles - first_tile);
                let pass = Pass { first_row, n_groups, first_tile, n_tiles };
                sums.clear();
                sums.resize(n_groups * n_tiles, [[Lanes([0.0; ROWS]); TILE_ROWS]; PANELS]);
                compute(pass, sums);
                pass.write(operands, sums);
            }
        }
    }

    /// Where a panel's rows begin.
    pub(in crate::kernel) fn row(&self, group: usize, panel: usize) -> usize {
        self.first_row + (group * PANELS + panel) * ROWS
    }

    fn write(&self, operands: &Operands<'_>, sums: &[Out]) {
        let n_rows = (operands.n_rows - self.first_tile * TILE_ROWS).min(self.n_tiles * TILE_ROWS);
        for row in 0..n_rows {
            // All columns of a row before the next row, so that a page is written to once.
            for (group, tiles) in sums.chunks_exact(self.n_tiles).enumerate() {
                for (panel, rows) in tiles[row / TILE_ROWS].iter().enumerate() {
                    let column = self.row(group, panel);
                    let n_columns = operands.weights.n_rows().saturating_sub(column).min(ROWS);
                    if n_columns > 0 {
                        let Lanes(sums) = &rows[row % TILE_ROWS];
                        // SAFETY: the range of the product is this thread's alone.
                        unsafe {
                            operands.output.write_columns(self.first_tile * TILE_ROWS + row, column, sums, n_columns);
                        };
                    }
                }
            }
        }
    }
}

/// Gives `decode` the block at `at` of sixteen rows of `row_blocks` blocks, from `first_row` on. Rows past the end are zeros,
/// whose results are not written.
#[inline(always)]
pub(in crate::kernel) fn with_panel<B: Block>(
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

#[inline]
#[target_feature(enable = "avx512f")]
pub(in crate::kernel) fn load_lanes(lanes: &Lanes) -> __m512 {
    // SAFETY: the reference covers the 64 bytes, at an address that is a multiple of 64.
    unsafe { _mm512_load_ps(lanes.0.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(in crate::kernel) fn store_lanes(lanes: &mut Lanes, v: __m512) {
    // SAFETY: as for a load.
    unsafe { _mm512_store_ps(lanes.0.as_mut_ptr(), v) }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(in crate::kernel) fn load_i32x16(values: &[i32; 16]) -> __m512i {
    // SAFETY: the reference covers the 64 bytes.
    unsafe { _mm512_loadu_si512(values.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(in crate::kernel) fn store_codes(bytes: &mut [u8; 64], v: __m512i) {
    // SAFETY: the reference covers the 64 bytes.
    unsafe { _mm512_storeu_si512(bytes.as_mut_ptr().cast(), v) }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(in crate::kernel) fn store_i32x16(values: &mut [i32; 16], v: __m512i) {
    // SAFETY: the reference covers the 64 bytes.
    unsafe { _mm512_storeu_si512(values.as_mut_ptr().cast(), v) }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(in crate::kernel) fn load_codes(bytes: &[u8; 64]) -> __m512i {
    // SAFETY: the reference covers the 64 bytes.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}
