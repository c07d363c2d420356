//! Products of many rows for the formats of 256 elements: a block of a panel is decoded into cache and meets all rows of
//! activations there. A sub-block's sums are scaled as integers; floats come in once a block.

use std::arch::x86_64::*;
use std::cell::RefCell;
use std::ops::Range;

use super::super::dispatch::Operands;
use super::super::panels::{Blocks, Lanes, Out};
use super::super::tiled::{TILE_ROWS, Tile256, Tiles};
use super::interleaved::{self, Header};
use super::products::{
    Codes, Doublewords, Sums, add_bytes, add_words, by_panels, load, load_lanes, store, store_lanes,
};
use crate::quant::{Block, BlockIq4Xs, BlockQ2K, BlockQ3K, BlockQ4K, BlockQ5K, BlockQ6K};

/// A block of sixteen rows of weights.
#[repr(C, align(64))]
struct Panel {
    /// `[elements / 4]`, twice as many where they are words.
    codes: [Codes; 128],
    /// Those of the sub-blocks, in both words; ones where the codes are scaled already.
    scales: [Doublewords; 16],
    /// Where the sums begin: with what activations that are 128 too large add, taken away; zero where there are minima, whose
    /// formats have unsigned codes and take signed activations.
    start: Doublewords,
    d: Lanes,
    dmin: Lanes,
    /// 16-bit factors of the sums of activations, two in a doubleword.
    mins: [Doublewords; 8],
}

/// What a thread works on, kept between products.
struct Scratch {
    panel: Panel,
    out: Vec<Out>,
}

impl Default for Scratch {
    fn default() -> Scratch {
        let (lanes, doublewords) = (Lanes([0.0; 16]), [[0; 32]; 2]);
        let panel = Panel {
            codes: [doublewords; 128],
            scales: [doublewords; 16],
            start: doublewords,
            d: lanes,
            dmin: lanes,
            mins: [doublewords; 8],
        };
        Scratch { panel, out: Vec::new() }
    }
}

thread_local! {
    static SCRATCH: RefCell<Box<Scratch>> = RefCell::default();
}

/// Rows of activations that a panel meets at once: their sums fill the registers.
const AT_ONCE: usize = 3;

/// How the codes of a format are multiplied.
trait Multiply {
    /// Pairs of minima.
    const MINS: usize;

    /// Adds the products of a block to the sums.
    ///
    /// # Safety
    /// The CPU has AVX2. At the addresses are the rows of a tile's first step, and those of the others after it.
    unsafe fn add<const N: usize>(sums: &mut Sums<N>, panel: &Panel, activations: [*const i32; N]);
}

/// Bytes with `SUBS` sub-blocks; `RUN`: how many sums of two products fit 16 bits; `MINS`: pairs of minima.
struct Bytes<const SUBS: usize, const RUN: usize, const MINS: usize>;

/// Words that are scaled already.
struct Words;

/// Where the doublewords of rows of activations begin for a step, of which sixteen are a row's, and within it at `at`.
#[inline(always)]
fn at_step<const N: usize>(mut activations: [*const i32; N], step: usize, at: usize) -> [*const i32; N] {
    for activations in &mut activations {
        *activations = activations.wrapping_add(step * 16 * TILE_ROWS + at);
    }
    activations
}

macro_rules! multiply_bytes {
    ($subs:literal) => {
        impl<const RUN: usize, const MINS: usize> Multiply for Bytes<$subs, RUN, MINS> {
            const MINS: usize = MINS;

            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn add<const N: usize>(sums: &mut Sums<N>, panel: &Panel, activations: [*const i32; N]) {
                const K: usize = 64 / $subs;
                let (subs, _) = panel.codes.as_chunks::<K>();
                for step in 0..4 {
                    for i in 0..16 / K {
                        let (sub, activations) = (step * (16 / K) + i, at_step(activations, step, i * K));
                        // SAFETY: a part has `K` doublewords, by the caller's promise.
                        unsafe {
                            if MINS > 0 {
                                add_bytes::<N, K, RUN, false>(sums, &subs[sub], activations, &panel.scales[sub]);
                            } else {
                                add_bytes::<N, K, RUN, true>(sums, &subs[sub], activations, &panel.scales[sub]);
                            }
                        }
                    }
                }
            }
        }
    };
}
multiply_bytes!(8);
multiply_bytes!(16);

impl Multiply for Words {
    const MINS: usize = 0;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn add<const N: usize>(sums: &mut Sums<N>, panel: &Panel, activations: [*const i32; N]) {
        for (run, codes) in panel.codes.as_chunks::<16>().0.iter().enumerate() {
            // SAFETY: a part has eight doublewords, by the caller's promise.
            unsafe { add_words(sums, codes, at_step(activations, run / 2, run % 2 * 8)) };
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn product<B: Block, M: Multiply>(
    operands: &Operands<'_>,
    range: Range<usize>,
    decode: impl Fn(&Blocks<'_, B>, usize, &mut Panel),
) {
    let Tiles::Of256(tiles) = operands.tiles else { panic!("no tiles of 256 for blocks of 256") };
    SCRATCH.with_borrow_mut(|scratch| {
        let Scratch { panel, out } = &mut **scratch;
        by_panels(operands, range, (256, tiles), (panel, out), decode, |panel, p, tiles, n_rows, out| {
            multiply::<M>(panel, p, tiles, n_rows, out);
        });
    });
}

/// Adds the products of a panel, the `p`-th of its group, with the first `n_rows` rows of tiles to `out`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn multiply<M: Multiply>(panel: &Panel, p: usize, tiles: &[Tile256], n_rows: usize, out: &mut [Out]) {
    let mut row = 0;
    while row < n_rows {
        match n_rows - row {
            1 => rows::<M, 1>(panel, p, tiles, row, out),
            // Four are better two and two than three and one.
            2 | 4 => rows::<M, 2>(panel, p, tiles, row, out),
            _ => rows::<M, AT_ONCE>(panel, p, tiles, row, out),
        }
        row += match n_rows - row {
            1 => 1,
            2 | 4 => 2,
            _ => AT_ONCE,
        };
    }
}

/// Adds the products of a panel with `N` rows from the row `first` of the tiles on.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c")]
fn rows<M: Multiply, const N: usize>(panel: &Panel, p: usize, tiles: &[Tile256], first: usize, out: &mut [Out]) {
    let mut activations = [std::ptr::null(); N];
    for i in 0..N {
        let tile = &tiles[(first + i) / TILE_ROWS];
        activations[i] = tile.codes.as_ptr().cast::<i32>().wrapping_add((first + i) % TILE_ROWS * 16);
    }
    let mut sums = [load(&panel.start); N];
    // SAFETY: the addresses are those of rows of tiles; AVX2 is enabled here.
    unsafe { M::add(&mut sums, panel, activations) };
    for i in 0..N {
        let (t, row) = ((first + i) / TILE_ROWS, (first + i) % TILE_ROWS);
        let tile = &tiles[t];
        let mut of_mins = [_mm256_setzero_si256(); 2];
        for j in 0..M::MINS {
            let pair = if M::MINS == 4 { tile.sums_of_32[row][j] } else { tile.sums_of_16[row].as_flattened()[j] };
            let (pair, mins) = (_mm256_set1_epi32(pair), load(&panel.mins[j]));
            for h in 0..2 {
                of_mins[h] = _mm256_add_epi32(of_mins[h], _mm256_madd_epi16(mins[h], pair));
            }
        }
        let (d, out) = (_mm256_set1_ps(tile.d[row]), &mut out[t][p][row]);
        for h in 0..2 {
            let mut sum = _mm256_mul_ps(_mm256_cvtepi32_ps(sums[i][h]), load_lanes(&panel.d, h));
            if M::MINS > 0 {
                sum = _mm256_fnmadd_ps(_mm256_cvtepi32_ps(of_mins[h]), load_lanes(&panel.dmin, h), sum);
            }
            store_lanes(out, h, _mm256_fmadd_ps(sum, d, load_lanes(out, h)));
        }
    }
}

impl Panel {
    /// Takes over what stands in the header of a half; `SUBS` sub-blocks, `MINS` pairs of minima.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn set<const SUBS: usize, const MINS: usize>(&mut self, half: usize, header: &Header) {
        store_lanes(&mut self.d, half, header.d);
        store_lanes(&mut self.dmin, half, header.dmin);
        for sub in 0..SUBS {
            store(&mut self.scales[sub], half, interleaved::twice(header.scales[sub / 4], sub % 4));
        }
        for i in 0..MINS {
            store(&mut self.mins[i], half, interleaved::pair(header.mins[i / 2], i % 2));
        }
        if MINS > 0 {
            store(&mut self.start, half, _mm256_setzero_si256());
        }
    }

    /// Sets where the sums begin with signed bytes in sixteen sub-blocks.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn set_start(&mut self, half: usize) {
        let mut sum = _mm256_setzero_si256();
        for (sub, codes) in self.codes.as_chunks::<4>().0[..16].iter().enumerate() {
            // Sums of four codes, within -128 and 124, are bytes still.
            let codes = [load(&codes[0])[half], load(&codes[1])[half], load(&codes[2])[half], load(&codes[3])[half]];
            let four = _mm256_add_epi8(_mm256_add_epi8(codes[0], codes[1]), _mm256_add_epi8(codes[2], codes[3]));
            let pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), four);
            sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, load(&self.scales[sub])[half]));
        }
        let start = _mm256_sub_epi32(_mm256_setzero_si256(), _mm256_slli_epi32::<7>(sum));
        store(&mut self.start, half, start);
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn q4_k(operands: &Operands<'_>, range: Range<usize>) {
    product::<BlockQ4K, Bytes<8, 8, 4>>(operands, range, |blocks, half, panel| {
        panel.set::<8, 4>(half, &interleaved::header_with_mins(blocks, half));
        interleaved::q4_k(blocks, half, |k, codes| store(&mut panel.codes[k], half, codes));
    });
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn q5_k(operands: &Operands<'_>, range: Range<usize>) {
    product::<BlockQ5K, Bytes<8, 4, 4>>(operands, range, |blocks, half, panel| {
        panel.set::<8, 4>(half, &interleaved::header_with_mins(blocks, half));
        interleaved::q5_k(blocks, half, |k, codes| store(&mut panel.codes[k], half, codes));
    });
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn q2_k(operands: &Operands<'_>, range: Range<usize>) {
    product::<BlockQ2K, Bytes<16, 4, 8>>(operands, range, |blocks, half, panel| {
        panel.set::<16, 8>(half, &interleaved::header_q2_k(blocks, half));
        interleaved::q2_k(blocks, half, |k, codes| store(&mut panel.codes[k], half, codes));
    });
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn q3_k(operands: &Operands<'_>, range: Range<usize>) {
    product::<BlockQ3K, Bytes<16, 4, 0>>(operands, range, |blocks, half, panel| {
        panel.set::<16, 0>(half, &interleaved::header_q3_k(blocks, half));
        interleaved::q3_k(blocks, half, |k, codes| store(&mut panel.codes[k], half, codes));
        panel.set_start(half);
    });
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn q6_k(operands: &Operands<'_>, range: Range<usize>) {
    product::<BlockQ6K, Bytes<16, 2, 0>>(operands, range, |blocks, half, panel| {
        panel.set::<16, 0>(half, &interleaved::header_q6_k(blocks, half));
        interleaved::q6_k(blocks, half, |k, codes| store(&mut panel.codes[k], half, codes));
        panel.set_start(half);
    });
}

/// A value times the scale of its sub-block is a word; no byte could hold twice a product of the values.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn iq4_xs(operands: &Operands<'_>, range: Range<usize>) {
    product::<BlockIq4Xs, Words>(operands, range, |blocks, half, panel| {
        let header = interleaved::header_iq4_xs(blocks, half);
        panel.set::<8, 0>(half, &header);
        let mut sum = _mm256_setzero_si256();
        interleaved::iq4_xs(blocks, half, |k, values| {
            let (scale, words) = (load(&panel.scales[k / 8])[half], interleaved::words(values));
            for i in 0..2 {
                let scaled = _mm256_mullo_epi16(words[i], scale);
                store(&mut panel.codes[2 * k + i], half, scaled);
                sum = _mm256_add_epi32(sum, _mm256_madd_epi16(scaled, _mm256_set1_epi16(-128)));
            }
        });
        store(&mut panel.start, half, sum);
    });
}
