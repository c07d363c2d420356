//! Products of many rows for the formats of 256 elements: the codes of two panels of weights, four elements of sixteen rows in
//! a register, meet four broadcast elements of several rows of activations. A sub-block's sums are integers; its scale, an
//! integer too, is applied as a float, which is exact as long as the sums of a block stay below 2^24.

use std::arch::x86_64::*;
use std::cell::RefCell;
use std::ops::Range;

use zerocopy::FromZeros;

use super::super::dispatch::Operands;
use super::super::panels::{Blocks, Lanes, Out, PANELS, Pass, ROWS, with_panel};
use super::super::tiled::{TILE_ROWS, Tile256, Tiles};
use super::super::x86::load_128;
use super::interleaved::{self, Header};
use super::registers::{add_products_of, load_codes, load_i32x16, load_lanes, store_i32x16, store_lanes, store_line};
use crate::quant::{Block, BlockIq4Xs, BlockQ2K, BlockQ3K, BlockQ4K, BlockQ5K, BlockQ6K, IQ4_VALUES, blocks};

/// A block of sixteen rows of weights.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Panel {
    /// `[elements / 4, rows, 4]`
    codes: [[u8; 64]; 64],
    /// Where the sums of a sub-block begin: with what activations that are 128 too large add, taken away. Formats with minima
    /// have unsigned codes and take signed activations; their sums begin at zero.
    starts: [[i32; ROWS]; 16],
    /// Those of the sub-blocks.
    scales: [Lanes; 16],
    d: Lanes,
    dmin: Lanes,
    /// 16-bit factors of the sums of activations, two in a doubleword.
    mins: [[[i32; ROWS]; 4]; 2],
}

/// What a thread works on, kept between products.
struct Scratch {
    panels: [Panel; PANELS],
    out: Vec<Out>,
}

impl Default for Scratch {
    fn default() -> Scratch {
        let zero = Lanes([0.0; ROWS]);
        let panel = Panel {
            codes: [[0; 64]; 64],
            starts: [[0; ROWS]; 16],
            scales: [zero; 16],
            d: zero,
            dmin: zero,
            mins: [[[0; ROWS]; 4]; 2],
        };
        Scratch { panels: [panel; PANELS], out: Vec::new() }
    }
}

thread_local! {
    static SCRATCH: RefCell<Box<Scratch>> = RefCell::default();
}

/// Rows of activations that a pair of panels meets at once. With more of them the compiler spills sums.
const AT_ONCE: usize = 6;

/// `SUBS`: sub-blocks; `MINS`: pairs of minima.
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn product<B: Block, const SUBS: usize, const MINS: usize>(
    operands: &Operands<'_>,
    range: Range<usize>,
    decode: impl Fn(&Blocks<'_, B>, &mut Panel),
) {
    let weights = &operands.weights;
    let n_blocks = weights.n_cols() / 256;
    let rows = blocks::<B>(weights.bytes(), weights.n_rows() * n_blocks);
    let Tiles::Of256(tiles) = operands.tiles else { panic!("tiles of 32 for blocks of 256") };
    let n_tiles = operands.n_rows.div_ceil(TILE_ROWS);
    SCRATCH.with_borrow_mut(|scratch| {
        let Scratch { panels, out } = &mut **scratch;
        let n_asks = n_blocks * PANELS * size_of::<B>().div_ceil(16);
        Pass::for_each(operands, range, n_asks, out, |pass, out| {
            out.zero();
            for b in 0..n_blocks {
                for group in 0..pass.n_groups {
                    for (i, panel) in panels.iter_mut().enumerate() {
                        with_panel(pass, rows, n_blocks, pass.row(group, i), b, |blocks| {
                            decode(blocks, panel);
                        });
                    }
                    let tiles = &tiles[b * n_tiles + pass.first_tile..][..pass.n_tiles];
                    let out = &mut out[group * pass.n_tiles..][..pass.n_tiles];
                    let n_rows = (operands.n_rows - pass.first_tile * TILE_ROWS).min(pass.n_tiles * TILE_ROWS);
                    multiply::<SUBS, MINS>(panels, tiles, n_rows, out);
                }
            }
        });
    });
}

/// Adds the products of two panels with the first `n_rows` rows of tiles to `out`.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn multiply<const SUBS: usize, const MINS: usize>(
    panels: &[Panel; PANELS],
    tiles: &[Tile256],
    n_rows: usize,
    out: &mut [Out],
) {
    for row in (0..n_rows).step_by(AT_ONCE) {
        match n_rows - row {
            1 => rows::<SUBS, MINS, 1>(panels, tiles, row, out),
            2 => rows::<SUBS, MINS, 2>(panels, tiles, row, out),
            3 => rows::<SUBS, MINS, 3>(panels, tiles, row, out),
            4 => rows::<SUBS, MINS, 4>(panels, tiles, row, out),
            5 => rows::<SUBS, MINS, 5>(panels, tiles, row, out),
            _ => rows::<SUBS, MINS, AT_ONCE>(panels, tiles, row, out),
        }
    }
}

/// Adds the products of two panels with `N` rows from the row `first` of the tiles on.
#[inline(never)]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn rows<const SUBS: usize, const MINS: usize, const N: usize>(
    panels: &[Panel; PANELS],
    tiles: &[Tile256],
    first: usize,
    out: &mut [Out],
) {
    let mut places = [(0, 0); N];
    for i in 0..N {
        places[i] = ((first + i) / TILE_ROWS, (first + i) % TILE_ROWS);
    }
    let mut scaled = [[_mm512_setzero_ps(); PANELS]; N];
    for sub in 0..SUBS {
        let mut sums = [[_mm512_setzero_si512(); PANELS]; N];
        if MINS == 0 {
            for p in 0..PANELS {
                let start = load_i32x16(&panels[p].starts[sub]);
                for i in 0..N {
                    sums[i][p] = start;
                }
            }
        }
        let first = sub * (64 / SUBS);
        let weights = [panels[0].codes[first].as_ptr(), panels[1].codes[first].as_ptr()];
        let mut activations = [std::ptr::null(); N];
        for i in 0..N {
            activations[i] = tiles[places[i].0].codes[first / 16][places[i].1][first % 16..].as_ptr();
        }
        // A number of rounds that the compiler does not know keeps it from unrolling them all and spilling what it loads.
        for k in 0..std::hint::black_box(64 / SUBS) {
            // SAFETY: a sub-block has so many codes, and so many doublewords of activations, which a step does not divide.
            unsafe {
                let weights = weights.map(|codes| _mm512_loadu_si512(codes.add(64 * k).cast()));
                for i in 0..N {
                    let activations = _mm512_set1_epi32(*activations[i].add(k));
                    for p in 0..PANELS {
                        sums[i][p] = if MINS > 0 {
                            _mm512_dpbusd_epi32(sums[i][p], weights[p], activations)
                        } else {
                            _mm512_dpbusd_epi32(sums[i][p], activations, weights[p])
                        };
                    }
                }
            }
        }
        for p in 0..PANELS {
            let scale = load_lanes(&panels[p].scales[sub]);
            for i in 0..N {
                scaled[i][p] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[i][p]), scale, scaled[i][p]);
            }
        }
    }
    for i in 0..N {
        let (tile, row) = (&tiles[places[i].0], places[i].1);
        let pairs: &[[i32; 4]] = match MINS {
            0 => &[],
            4 => std::slice::from_ref(&tile.sums_of_32[row]),
            _ => &tile.sums_of_16[row],
        };
        let mut of_mins = [_mm512_setzero_si512(); PANELS];
        for (j, pairs) in pairs.iter().enumerate() {
            for p in 0..PANELS {
                let [a, b, c, d] = &panels[p].mins[j];
                let mins = [load_i32x16(a), load_i32x16(b), load_i32x16(c), load_i32x16(d)];
                of_mins[p] = add_products_of(of_mins[p], mins, pairs);
            }
        }
        for p in 0..PANELS {
            let mut sum = _mm512_mul_ps(scaled[i][p], load_lanes(&panels[p].d));
            if MINS > 0 {
                sum = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(of_mins[p]), load_lanes(&panels[p].dmin), sum);
            }
            let out = &mut out[places[i].0][p][row];
            store_lanes(out, _mm512_fmadd_ps(sum, _mm512_set1_ps(tile.d[row]), load_lanes(out)));
        }
    }
}

impl Panel {
    /// Takes over what stands in a header; `SUBS` sub-blocks, `MINS` pairs of minima.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl")]
    fn set<const SUBS: usize, const MINS: usize>(&mut self, header: &Header) {
        store_lanes(&mut self.d, header.d);
        store_lanes(&mut self.dmin, header.dmin);
        for sub in 0..SUBS {
            // The byte, with its sign, at the lower end of each doubleword.
            let scale = _mm512_sllv_epi32(header.scales[sub / 4], _mm512_set1_epi32(24 - 8 * (sub % 4) as i32));
            store_lanes(&mut self.scales[sub], _mm512_cvtepi32_ps(_mm512_srai_epi32::<24>(scale)));
        }
        for i in 0..MINS {
            store_i32x16(&mut self.mins[i / 4][i % 4], interleaved::pair(header.mins[i / 2], i % 2));
        }
    }

    /// Codes that are unsigned.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl")]
    fn unsigned(&mut self) -> impl FnMut(usize, __m512i) {
        |k, codes| store_line(&mut self.codes[k], codes)
    }

    /// Where the sums of `SUBS` sub-blocks begin with signed codes and activations 128 too large.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    fn set_starts<const SUBS: usize>(&mut self) {
        let offset = _mm512_set1_epi8(-128);
        for sub in 0..SUBS {
            let of_sub = sub * (64 / SUBS)..(sub + 1) * (64 / SUBS);
            let added = of_sub
                .fold(_mm512_setzero_si512(), |sum, k| _mm512_dpbusd_epi32(sum, offset, load_codes(&self.codes[k])));
            store_i32x16(&mut self.starts[sub], _mm512_sub_epi32(_mm512_setzero_si512(), added));
        }
    }
}

#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub(super) fn q4_k(operands: &Operands<'_>, range: Range<usize>) {
    product::<BlockQ4K, 8, 4>(operands, range, |blocks, panel| {
        panel.set::<8, 4>(&interleaved::header_with_mins(blocks));
        for piece in 0..interleaved::PIECES_OF_Q4_K {
            interleaved::q4_k(blocks, piece, panel.unsigned());
        }
    });
}

#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub(super) fn q5_k(operands: &Operands<'_>, range: Range<usize>) {
    product::<BlockQ5K, 8, 4>(operands, range, |blocks, panel| {
        panel.set::<8, 4>(&interleaved::header_with_mins(blocks));
        let fifths = interleaved::fifths(blocks);
        for piece in 0..interleaved::PIECES_OF_Q5_K {
            interleaved::q5_k(blocks, &fifths, piece, panel.unsigned());
        }
    });
}

#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub(super) fn q2_k(operands: &Operands<'_>, range: Range<usize>) {
    product::<BlockQ2K, 16, 8>(operands, range, |blocks, panel| {
        panel.set::<16, 8>(&interleaved::header_q2_k(blocks));
        for piece in 0..interleaved::PIECES_OF_Q2_K {
            interleaved::q2_k(blocks, piece, panel.unsigned());
        }
    });
}

#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub(super) fn q3_k(operands: &Operands<'_>, range: Range<usize>) {
    product::<BlockQ3K, 16, 0>(operands, range, |blocks, panel| {
        panel.set::<16, 0>(&interleaved::header_q3_k(blocks));
        let offset = _mm512_set1_epi8(4);
        for piece in 0..interleaved::PIECES_OF_Q3_K {
            interleaved::q3_k(blocks, piece, |k, codes| {
                store_line(&mut panel.codes[k], _mm512_sub_epi8(codes, offset));
            });
        }
        panel.set_starts::<16>();
    });
}

#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub(super) fn q6_k(operands: &Operands<'_>, range: Range<usize>) {
    product::<BlockQ6K, 16, 0>(operands, range, |blocks, panel| {
        panel.set::<16, 0>(&interleaved::header_q6_k(blocks));
        let offset = _mm512_set1_epi8(32);
        for piece in 0..interleaved::PIECES_OF_Q6_K {
            interleaved::q6_k(blocks, piece, |k, codes| {
                store_line(&mut panel.codes[k], _mm512_sub_epi8(codes, offset));
            });
        }
        panel.set_starts::<16>();
    });
}

#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub(super) fn iq4_xs(operands: &Operands<'_>, range: Range<usize>) {
    let levels = _mm512_broadcast_i32x4(load_128(&IQ4_VALUES.map(|value| value as u8)));
    product::<BlockIq4Xs, 8, 0>(operands, range, |blocks, panel| {
        panel.set::<8, 0>(&interleaved::header_iq4_xs(blocks));
        for piece in 0..interleaved::PIECES_OF_IQ4_XS {
            interleaved::iq4_xs(blocks, piece, |k, codes| {
                store_line(&mut panel.codes[k], _mm512_shuffle_epi8(levels, codes));
            });
        }
        panel.set_starts::<8>();
    });
}
