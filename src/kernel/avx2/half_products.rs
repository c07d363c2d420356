//! The product of many rows for F16: 64 elements of a panel are turned into floats in cache and meet all rows of activations
//! there, an element of sixteen rows of weights and one of a row of activations at a time.

use std::arch::x86_64::*;
use std::cell::RefCell;
use std::ops::Range;

use super::super::dispatch::Operands;
use super::super::panels::{Blocks, Lanes, Out};
use super::super::tiled::{TILE_FLOATS, TILE_ROWS, Tile64, Tiles};
use super::interleaved;
use super::products::{by_panels, load_lanes, store_lanes};
use crate::quant::Half;

/// 64 elements of sixteen rows of weights: of each element all rows.
type Panel = [Lanes; TILE_FLOATS];

/// What a thread works on, kept between products.
struct Scratch {
    panel: Panel,
    out: Vec<Out>,
}

impl Default for Scratch {
    fn default() -> Scratch {
        Scratch { panel: [Lanes([0.0; 16]); TILE_FLOATS], out: Vec::new() }
    }
}

thread_local! {
    static SCRATCH: RefCell<Box<Scratch>> = RefCell::default();
}

/// Rows of activations that a panel meets at once: their sums fill the registers.
const AT_ONCE: usize = 6;

/// Adds the products of a panel, the `p`-th of its group, with the first `n_rows` rows of tiles to `out`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn multiply(panel: &Panel, p: usize, tiles: &[Tile64], n_rows: usize, out: &mut [Out]) {
    let mut row = 0;
    while row < n_rows {
        row += match n_rows - row {
            1 => rows::<1>(panel, p, tiles, row, out),
            2 => rows::<2>(panel, p, tiles, row, out),
            3 => rows::<3>(panel, p, tiles, row, out),
            // Seven to nine are better in two parts of about one size.
            4 | 7 | 8 => rows::<4>(panel, p, tiles, row, out),
            5 | 9 => rows::<5>(panel, p, tiles, row, out),
            _ => rows::<AT_ONCE>(panel, p, tiles, row, out),
        };
    }
}

/// Adds the products of a panel with `N` rows from the row `first` of the tiles on; gives `N`.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c")]
fn rows<const N: usize>(panel: &Panel, p: usize, tiles: &[Tile64], first: usize, out: &mut [Out]) -> usize {
    let mut activations = [&[0.0; TILE_FLOATS]; N];
    for i in 0..N {
        activations[i] = &tiles[(first + i) / TILE_ROWS].values[(first + i) % TILE_ROWS];
    }
    let mut sums = [[_mm256_setzero_ps(); 2]; N];
    // Four elements at a time: a loop's own instructions would be every eighth.
    for (four, weights) in panel.as_chunks::<4>().0.iter().enumerate() {
        for k in 0..4 {
            let weights = [load_lanes(&weights[k], 0), load_lanes(&weights[k], 1)];
            for i in 0..N {
                let activation = _mm256_set1_ps(activations[i][4 * four + k]);
                for h in 0..2 {
                    sums[i][h] = _mm256_fmadd_ps(weights[h], activation, sums[i][h]);
                }
            }
        }
    }
    for i in 0..N {
        let out = &mut out[(first + i) / TILE_ROWS][p][(first + i) % TILE_ROWS];
        for h in 0..2 {
            store_lanes(out, h, _mm256_add_ps(sums[i][h], load_lanes(out, h)));
        }
    }
    N
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn f16(operands: &Operands<'_>, range: Range<usize>) {
    let Tiles::Of64(tiles) = operands.tiles else { panic!("no tiles of floats for halves") };
    SCRATCH.with_borrow_mut(|scratch| {
        let Scratch { panel, out } = &mut **scratch;
        by_panels(
            operands,
            range,
            (TILE_FLOATS, tiles),
            (panel, out),
            |blocks: &Blocks<'_, [Half; TILE_FLOATS]>, half, panel: &mut Panel| {
                interleaved::f16(blocks, half, |k, v| store_lanes(&mut panel[k], half, v));
            },
            |panel, p, tiles, n_rows, out| multiply(panel, p, tiles, n_rows, out),
        );
    });
}
