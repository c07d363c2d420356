//! Products of many rows for the formats of 32 elements, as those of 256: a block's sums are integers, and both sides' scales
//! are applied to each.

use std::arch::x86_64::*;
use std::cell::RefCell;
use std::ops::Range;

use zerocopy::FromZeros;

use super::super::dispatch::Operands;
use super::super::panels::{Blocks, Lanes, Out, PANELS, Pass, with_panel};
use super::super::tiled::{TILE_ROWS, Tile32, Tiles};
use super::interleaved::{self, Linear};
use super::products::{Codes, Doublewords, Sums, add_bytes, add_words, load, load_lanes, store, store_lanes};
use crate::quant::{Block, BlockIq4Nl, BlockMxfp4, BlockQ4_0, BlockQ4_1, BlockQ5_0, BlockQ5_1, BlockQ8_0, blocks};

/// Blocks of a row that are decoded together.
const CHUNK: usize = 8;

/// A block of each of sixteen rows of weights.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Panel {
    /// `[elements / 4]`, twice as many where they are words.
    codes: [Codes; 16],
    /// Where the sums begin: with what activations that are 128 too large add, taken away; zero where there are minima, whose
    /// formats have unsigned codes and take signed activations.
    start: Doublewords,
    d: Lanes,
    m: Lanes,
}

/// What a thread works on, kept between products.
struct Scratch {
    panels: [Panel; CHUNK],
    out: Vec<Out>,
}

impl Default for Scratch {
    fn default() -> Scratch {
        let zero = Lanes([0.0; 16]);
        let panel = Panel { codes: [[[0; 32]; 2]; 16], start: [[0; 32]; 2], d: zero, m: zero };
        Scratch { panels: [panel; CHUNK], out: Vec::new() }
    }
}

thread_local! {
    static SCRATCH: RefCell<Box<Scratch>> = RefCell::default();
}

/// Ones as words.
const ONES: Doublewords =
    [[1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0]; 2];

/// How the codes of a format are multiplied.
trait Multiply {
    /// Whether there are minima.
    const MINS: bool;

    /// Rows of activations that a panel meets at once, two or three: their sums fill the registers.
    const AT_ONCE: usize;

    /// Puts four codes of each of eight rows in their place and returns their sums, -128 times.
    ///
    /// # Safety
    /// The CPU has AVX2.
    unsafe fn put(panel: &mut Panel, half: usize, k: usize, codes: __m256i) -> __m256i;

    /// Adds the products of a block to the sums.
    ///
    /// # Safety
    /// The CPU has AVX2. At each address are eight doublewords of activations.
    unsafe fn add<const N: usize>(sums: &mut Sums<N>, panel: &Panel, activations: [*const i32; N]);
}

/// Signed bytes; `RUN`: how many sums of two products fit 16 bits.
struct Signed<const RUN: usize>;

/// Unsigned bytes of a format with minima.
struct Unsigned<const RUN: usize>;

/// Signed bytes too large for that, as words.
struct Words;

impl<const RUN: usize> Multiply for Signed<RUN> {
    const MINS: bool = false;
    const AT_ONCE: usize = 3;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn put(panel: &mut Panel, half: usize, k: usize, codes: __m256i) -> __m256i {
        store(&mut panel.codes[k], half, codes);
        let pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), codes);
        _mm256_madd_epi16(pairs, _mm256_set1_epi16(-128))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn add<const N: usize>(sums: &mut Sums<N>, panel: &Panel, activations: [*const i32; N]) {
        let (codes, _) = panel.codes.as_chunks::<8>();
        // SAFETY: the caller's promise.
        unsafe { add_bytes::<N, 8, RUN, true>(sums, &codes[0], activations, &ONES) };
    }
}

impl<const RUN: usize> Multiply for Unsigned<RUN> {
    const MINS: bool = true;
    const AT_ONCE: usize = 3;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn put(panel: &mut Panel, half: usize, k: usize, codes: __m256i) -> __m256i {
        store(&mut panel.codes[k], half, codes);
        _mm256_setzero_si256()
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn add<const N: usize>(sums: &mut Sums<N>, panel: &Panel, activations: [*const i32; N]) {
        let (codes, _) = panel.codes.as_chunks::<8>();
        // SAFETY: the caller's promise.
        unsafe { add_bytes::<N, 8, RUN, false>(sums, &codes[0], activations, &ONES) };
    }
}

impl Multiply for Words {
    const MINS: bool = false;
    const AT_ONCE: usize = 2;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn put(panel: &mut Panel, half: usize, k: usize, codes: __m256i) -> __m256i {
        let [even, odd] = interleaved::words(codes);
        store(&mut panel.codes[2 * k], half, even);
        store(&mut panel.codes[2 * k + 1], half, odd);
        _mm256_madd_epi16(_mm256_add_epi16(even, odd), _mm256_set1_epi16(-128))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn add<const N: usize>(sums: &mut Sums<N>, panel: &Panel, activations: [*const i32; N]) {
        // SAFETY: the caller's promise.
        unsafe { add_words(sums, &panel.codes, activations) };
    }
}

/// A format's decoding of the half of a block: it hands its codes to a sink and returns what scales them.
trait Decode {
    type Block: Block;

    /// # Safety
    /// The CPU has AVX2, FMA and F16C.
    unsafe fn decode(blocks: &Blocks<'_, Self::Block>, half: usize, sink: impl FnMut(usize, __m256i)) -> Linear;
}

#[target_feature(enable = "avx2,fma,f16c")]
fn product<D: Decode, M: Multiply>(operands: &Operands<'_>, range: Range<usize>) {
    let weights = &operands.weights;
    let n_blocks = weights.n_cols() / 32;
    let all_rows = blocks::<D::Block>(weights.bytes(), weights.n_rows() * n_blocks);
    let Tiles::Of32(tiles) = operands.tiles else { panic!("tiles of 256 for blocks of 32") };
    let n_tiles = operands.n_rows.div_ceil(TILE_ROWS);
    SCRATCH.with_borrow_mut(|scratch| {
        let Scratch { panels, out } = &mut **scratch;
        let n_asks = n_blocks * PANELS * 2 * size_of::<D::Block>().div_ceil(16);
        Pass::for_each(operands, range, n_asks, out, |pass, out| {
            out.zero();
            let n_rows = (operands.n_rows - pass.first_tile * TILE_ROWS).min(pass.n_tiles * TILE_ROWS);
            for first_block in (0..n_blocks).step_by(CHUNK) {
                let panels = &mut panels[..CHUNK.min(n_blocks - first_block)];
                let tiles = &tiles[first_block * n_tiles + pass.first_tile..];
                for group in 0..pass.n_groups {
                    for p in 0..PANELS {
                        let first_row = pass.row(group, p);
                        if first_row < weights.n_rows() {
                            for (i, panel) in panels.iter_mut().enumerate() {
                                with_panel(pass, all_rows, n_blocks, first_row, first_block + i, |blocks| {
                                    panel.set::<D, M>(blocks, 0);
                                    panel.set::<D, M>(blocks, 1);
                                });
                            }
                            let out = &mut out[group * pass.n_tiles..][..pass.n_tiles];
                            multiply::<M>(panels, p, tiles, n_tiles, n_rows, out);
                        }
                    }
                }
            }
        });
    });
}

impl Panel {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn set<D: Decode, M: Multiply>(&mut self, blocks: &Blocks<'_, D::Block>, half: usize) {
        let mut start = _mm256_setzero_si256();
        // SAFETY: the features are enabled here.
        let (d, m) = unsafe {
            D::decode(blocks, half, |k, codes| start = _mm256_add_epi32(start, M::put(self, half, k, codes)))
        };
        store(&mut self.start, half, start);
        store_lanes(&mut self.d, half, d);
        store_lanes(&mut self.m, half, m);
    }
}

/// Adds the products of some blocks of a panel, the `p`-th of its group, with the first `n_rows` rows of tiles to `out`.
/// `tiles`: those of the first block and on, `n_tiles` a block.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn multiply<M: Multiply>(panels: &[Panel], p: usize, tiles: &[Tile32], n_tiles: usize, n_rows: usize, out: &mut [Out]) {
    let mut row = 0;
    while row < n_rows {
        // Four are better two and two than three and one.
        let n = match n_rows - row {
            1 => 1,
            2 | 4 => 2,
            _ => M::AT_ONCE,
        };
        match n {
            1 => rows::<M, 1>(panels, p, tiles, n_tiles, row, out),
            2 => rows::<M, 2>(panels, p, tiles, n_tiles, row, out),
            _ => rows::<M, 3>(panels, p, tiles, n_tiles, row, out),
        }
        row += n;
    }
}

/// Adds the products of some blocks of a panel with `N` rows from the row `first` on.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c")]
fn rows<M: Multiply, const N: usize>(
    panels: &[Panel],
    p: usize,
    tiles: &[Tile32],
    n_tiles: usize,
    first: usize,
    out: &mut [Out],
) {
    let mut places = [(0, 0); N];
    let mut scaled = [[_mm256_setzero_ps(); 2]; N];
    for i in 0..N {
        places[i] = ((first + i) / TILE_ROWS, (first + i) % TILE_ROWS);
        for h in 0..2 {
            scaled[i][h] = load_lanes(&out[places[i].0][p][places[i].1], h);
        }
    }
    for (panel, tiles) in panels.iter().zip(tiles.chunks(n_tiles)) {
        let mut activations = [std::ptr::null(); N];
        for i in 0..N {
            activations[i] = tiles[places[i].0].codes[places[i].1].as_ptr();
        }
        let mut sums = [[_mm256_setzero_si256(); 2]; N];
        // SAFETY: a row of a tile has eight doublewords; AVX2 is enabled here.
        unsafe { M::add(&mut sums, panel, activations) };
        if !M::MINS {
            let start = load(&panel.start);
            for i in 0..N {
                for h in 0..2 {
                    sums[i][h] = _mm256_add_epi32(sums[i][h], start[h]);
                }
            }
        }
        for i in 0..N {
            let (tile, row) = (&tiles[places[i].0], places[i].1);
            let (d, s) = (_mm256_set1_ps(tile.d[row]), _mm256_set1_ps(tile.s[row]));
            for h in 0..2 {
                let scale = _mm256_mul_ps(load_lanes(&panel.d, h), d);
                scaled[i][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[i][h]), scale, scaled[i][h]);
                if M::MINS {
                    scaled[i][h] = _mm256_fmadd_ps(load_lanes(&panel.m, h), s, scaled[i][h]);
                }
            }
        }
    }
    for i in 0..N {
        for h in 0..2 {
            store_lanes(&mut out[places[i].0][p][places[i].1], h, scaled[i][h]);
        }
    }
}

/// Defines the product of a format by its decoding and how its codes are multiplied.
macro_rules! products {
    ($($format:ident, $decode:ident: $block:ty, $multiply:ty;)*) => {$(
        struct $decode;

        impl Decode for $decode {
            type Block = $block;

            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn decode(blocks: &Blocks<'_, $block>, half: usize, sink: impl FnMut(usize, __m256i)) -> Linear {
                interleaved::$format(blocks, half, sink)
            }
        }

        #[target_feature(enable = "avx2,fma,f16c")]
        pub(super) fn $format(operands: &Operands<'_>, range: Range<usize>) {
            product::<$decode, $multiply>(operands, range);
        }
    )*};
}

products! {
    q4_0, Q4_0: BlockQ4_0, Signed<8>;
    q4_1, Q4_1: BlockQ4_1, Unsigned<8>;
    q5_0, Q5_0: BlockQ5_0, Signed<4>;
    q5_1, Q5_1: BlockQ5_1, Unsigned<4>;
    q8_0, Q8_0: BlockQ8_0, Words;
    iq4_nl, Iq4Nl: BlockIq4Nl, Words;
    mxfp4, Mxfp4: BlockMxfp4, Signed<4>;
}
