//! Products of many rows for the formats of 32 elements, as those of 256: a block's sums are integers, and both sides' scales
//! are applied to each.

use std::arch::x86_64::*;
use std::cell::RefCell;
use std::ops::Range;

use super::super::dispatch::Operands;
use super::super::tiled::{TILE_ROWS, Tile32, Tiles};
use super::interleaved::{self, Blocks, Linear, ROWS};
use super::panels::{
    Lanes, Out, PANELS, Pass, load_codes, load_i32x16, load_lanes, store_codes, store_i32x16, store_lanes, with_panel,
};
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

/// Rows of activations that a pair of panels meets at once: as many as leave no register unused.
const AT_ONCE: usize = 6;

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
        Pass::for_each(operands, range, out, |pass, out| {
            let n_rows = (operands.n_rows - pass.first_tile * TILE_ROWS).min(pass.n_tiles * TILE_ROWS);
            for first_block in (0..n_blocks).step_by(CHUNK) {
                let chunk = CHUNK.min(n_blocks - first_block);
                for group in 0..pass.n_groups {
                    for (i, panels) in panels[..chunk].iter_mut().enumerate() {
                        for (p, panel) in panels.iter_mut().enumerate() {
                            with_panel(all_rows, n_blocks, pass.row(group, p), first_block + i, |blocks| {
                                if i == 0 {
                                    blocks.prefetch(CHUNK);
                                }
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
                            4 => rows::<MINS, 4>(panels, tiles, n_tiles, row, out),
                            5 => rows::<MINS, 5>(panels, tiles, n_tiles, row, out),
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
            store_codes(place, codes);
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
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn rows<const MINS: bool, const N: usize>(
    panels: &[[Panel; PANELS]],
    tiles: &[Tile32],
    n_tiles: usize,
    first: usize,
    out: &mut [Out],
) {
    let place = |i: usize| ((first + i) / TILE_ROWS, (first + i) % TILE_ROWS);
    let places: [(usize, usize); N] = std::array::from_fn(place);
    let mut scaled: [[__m512; PANELS]; N] =
        std::array::from_fn(|i| std::array::from_fn(|p| load_lanes(&out[places[i].0][p][places[i].1])));
    for (b, panels) in panels.iter().enumerate() {
        let of_block: [(&Tile32, usize); N] = places.map(|(tile, row)| (&tiles[b * n_tiles + tile], row));
        let mut sums = [panels.each_ref().map(|panel| load_i32x16(&panel.start)); N];
        for k in 0..8 {
            let weights: [__m512i; PANELS] = panels.each_ref().map(|panel| load_codes(&panel.codes[k]));
            for (sums, (tile, row)) in sums.iter_mut().zip(of_block) {
                let activations = _mm512_set1_epi32(tile.codes[row][k]);
                for (sum, weights) in sums.iter_mut().zip(weights) {
                    *sum = if MINS {
                        _mm512_dpbusd_epi32(*sum, weights, activations)
                    } else {
                        _mm512_dpbusd_epi32(*sum, activations, weights)
                    };
                }
            }
        }
        for p in 0..PANELS {
            let (d, m) = (load_lanes(&panels[p].d), load_lanes(&panels[p].m));
            for i in 0..N {
                let (tile, row) = of_block[i];
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
