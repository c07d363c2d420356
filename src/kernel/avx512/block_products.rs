//! Products of many rows for the formats of 32 elements, as those of 256: a block's sums are integers, and both sides' scales
//! are applied to each.

use std::arch::x86_64::*;
use std::cell::RefCell;
use std::ops::Range;

use zerocopy::FromZeros;

use super::super::dispatch::Operands;
use super::super::panels::{Blocks, Lanes, Out, PANELS, Pass, ROWS, with_panel};
use super::super::tiled::{TILE_ROWS, Tile32, Tiles};
use super::interleaved::{self, Linear};
use super::registers::{load_codes, load_i32x16, load_lanes, store_i32x16, store_lanes, store_line};
use crate::quant::{Block, BlockIq4Nl, BlockMxfp4, BlockQ4_0, BlockQ4_1, BlockQ5_0, BlockQ5_1, BlockQ8_0, blocks};

/// Blocks of a row that are decoded together.
const CHUNK: usize = 8;

/// A block of each of sixteen rows of weights.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Panel {
    /// `[elements / 4, rows, 4]`
    codes: [[u8; 64]; 8],
    /// Where the sums begin: with what activations that are 128 too large add, taken away; zero where there are minima, whose
    /// formats have unsigned codes and take signed activations.
    start: [i32; ROWS],
    d: Lanes,
    m: Lanes,
}

/// What a thread works on, kept between products.
struct Scratch {
    panels: [[Panel; PANELS]; CHUNK],
    out: Vec<Out>,
}

impl Default for Scratch {
    fn default() -> Scratch {
        let zero = Lanes([0.0; ROWS]);
        let panel = Panel { codes: [[0; 64]; 8], start: [0; ROWS], d: zero, m: zero };
        Scratch { panels: [[panel; PANELS]; CHUNK], out: Vec::new() }
    }
}

thread_local! {
    static SCRATCH: RefCell<Box<Scratch>> = RefCell::default();
}

/// Rows of activations that a pair of panels meets at once. With more of them the compiler spills sums.
const AT_ONCE: usize = 4;

/// `MINS`: whether the format has minima.
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn product<B: Block, const MINS: bool>(
    operands: &Operands<'_>,
    range: Range<usize>,
    decode: impl Fn(&Blocks<'_, B>) -> ([__m512i; 8], Linear),
) {
    let weights = &operands.weights;
    let n_blocks = weights.n_cols() / 32;
    let all_rows = blocks::<B>(weights.bytes(), weights.n_rows() * n_blocks);
    let Tiles::Of32(tiles) = operands.tiles else { panic!("tiles of 256 for blocks of 32") };
    let n_tiles = operands.n_rows.div_ceil(TILE_ROWS);
    SCRATCH.with_borrow_mut(|scratch| {
        let Scratch { panels, out } = &mut **scratch;
        let n_asks = n_blocks * PANELS * size_of::<B>().div_ceil(16);
        Pass::for_each(operands, range, n_asks, out, |pass, out| {
            out.zero();
            let n_rows = (operands.n_rows - pass.first_tile * TILE_ROWS).min(pass.n_tiles * TILE_ROWS);
            for first_block in (0..n_blocks).step_by(CHUNK) {
                let chunk = CHUNK.min(n_blocks - first_block);
                for group in 0..pass.n_groups {
                    for (i, panels) in panels[..chunk].iter_mut().enumerate() {
                        for (p, panel) in panels.iter_mut().enumerate() {
                            with_panel(pass, all_rows, n_blocks, pass.row(group, p), first_block + i, |blocks| {
                                panel.set::<MINS>(decode(blocks));
                            });
                        }
                    }
                    let tiles = &tiles[first_block * n_tiles + pass.first_tile..];
                    let out = &mut out[group * pass.n_tiles..][..pass.n_tiles];
                    for row in (0..n_rows).step_by(AT_ONCE) {
                        let panels = &panels[..chunk];
                        match n_rows - row {
                            1 => rows::<MINS, 1>(panels, tiles, n_tiles, row, out),
                            2 => rows::<MINS, 2>(panels, tiles, n_tiles, row, out),
                            3 => rows::<MINS, 3>(panels, tiles, n_tiles, row, out),
                            _ => rows::<MINS, AT_ONCE>(panels, tiles, n_tiles, row, out),
                        }
                    }
                }
            }
        });
    });
}

impl Panel {
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    fn set<const MINS: bool>(&mut self, (codes, (d, m)): ([__m512i; 8], Linear)) {
        let mut added = _mm512_setzero_si512();
        for (place, codes) in self.codes.iter_mut().zip(codes) {
            store_line(place, codes);
            if !MINS {
                added = _mm512_dpbusd_epi32(added, _mm512_set1_epi8(-128), codes);
            }
        }
        store_i32x16(&mut self.start, _mm512_sub_epi32(_mm512_setzero_si512(), added));
        store_lanes(&mut self.d, d);
        store_lanes(&mut self.m, m);
    }
}

/// Adds the products of some blocks of two panels with `N` rows from the row `first` on. `tiles`: those of the first block and
/// on, `n_tiles` a block.
#[inline(never)]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn rows<const MINS: bool, const N: usize>(
    panels: &[[Panel; PANELS]],
    tiles: &[Tile32],
    n_tiles: usize,
    first: usize,
    out: &mut [Out],
) {
    let mut places = [(0, 0); N];
    let mut scaled = [[_mm512_setzero_ps(); PANELS]; N];
    for i in 0..N {
        places[i] = ((first + i) / TILE_ROWS, (first + i) % TILE_ROWS);
        for p in 0..PANELS {
            scaled[i][p] = load_lanes(&out[places[i].0][p][places[i].1]);
        }
    }
    for (panels, tiles) in panels.iter().zip(tiles.chunks(n_tiles)) {
        let mut sums = [[_mm512_setzero_si512(); PANELS]; N];
        for sums in &mut sums {
            for p in 0..PANELS {
                sums[p] = load_i32x16(&panels[p].start);
            }
        }
        for k in 0..8 {
            for p in 0..PANELS {
                let weights = load_codes(&panels[p].codes[k]);
                for i in 0..N {
                    let activations = _mm512_set1_epi32(tiles[places[i].0].codes[places[i].1][k]);
                    sums[i][p] = if MINS {
                        _mm512_dpbusd_epi32(sums[i][p], weights, activations)
                    } else {
                        _mm512_dpbusd_epi32(sums[i][p], activations, weights)
                    };
                }
            }
        }
        for p in 0..PANELS {
            let (d, m) = (load_lanes(&panels[p].d), load_lanes(&panels[p].m));
            for i in 0..N {
                let (tile, row) = (&tiles[places[i].0], places[i].1);
                let scale = _mm512_mul_ps(d, _mm512_set1_ps(tile.d[row]));
                scaled[i][p] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[i][p]), scale, scaled[i][p]);
                if MINS {
                    scaled[i][p] = _mm512_fmadd_ps(m, _mm512_set1_ps(tile.s[row]), scaled[i][p]);
                }
            }
        }
    }
    for i in 0..N {
        for p in 0..PANELS {
            store_lanes(&mut out[places[i].0][p][places[i].1], scaled[i][p]);
        }
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
