//! Activations as the matrix unit takes them: a block of sixteen rows side by side, padded with zeros where there are fewer.
//! Rows come in groups, one after the other; of a group, the tiles of the first block of all its rows come first, then those
//! of the second.

use std::ops::Range;

use zerocopy::{FromZeros, Immutable, IntoBytes};

use super::Kernels;
#[cfg(target_arch = "x86_64")]
use super::x86::ask_for;
use crate::pool::Pool;
use crate::quant::{ActivationForm, BlockQ8_0, BlockQ8_1, BlockQ8K, blocks};

#[cfg(not(target_arch = "x86_64"))]
fn ask_for(_: &[u8]) {}

/// Rows of a tile.
pub(super) const TILE_ROWS: usize = 16;

/// How a tile holds quantized activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TileCodes {
    /// By their codes.
    Signed,
    /// By their codes, 128 too large and so unsigned, for products of unsigned bytes with signed ones.
    Offset,
    /// By their values as bf16.
    Bf16,
}

impl TileCodes {
    /// Four codes as a doubleword.
    fn four(self, codes: [i8; 4]) -> i32 {
        let codes = u32::from_le_bytes(codes.map(|code| code as u8));
        (match self {
            TileCodes::Signed => codes,
            TileCodes::Offset => codes ^ 0x8080_8080,
            TileCodes::Bf16 => panic!("bf16 are not codes"),
        }) as i32
    }
}

/// A block of 256 of sixteen rows.
#[derive(Debug, Clone)]
#[repr(C, align(64))]
pub(super) struct Tile256 {
    /// Four steps of 64 elements, four codes in a doubleword.
    pub(super) codes: [[[i32; 16]; TILE_ROWS]; 4],
    pub(super) d: [f32; TILE_ROWS],
    /// Sums of 32 codes, two in a doubleword.
    pub(super) sums_of_32: [[i32; 4]; TILE_ROWS],
    /// Sums of sixteen codes, two in a doubleword.
    pub(super) sums_of_16: [[[i32; 4]; 2]; TILE_ROWS],
}

/// A block of 32 of sixteen rows.
#[derive(Debug, Clone)]
#[repr(C, align(64))]
pub(super) struct Tile32 {
    /// Four codes in a doubleword.
    pub(super) codes: [[i32; 8]; TILE_ROWS],
    pub(super) d: [f32; TILE_ROWS],
    /// d · Σ codes; zero in Q8_0.
    pub(super) s: [f32; TILE_ROWS],
}

/// Elements of a row in a tile of floats.
pub(super) const TILE_FLOATS: usize = 64;

/// 64 floats of sixteen rows.
#[derive(Debug, Clone)]
#[repr(C, align(64))]
pub(super) struct Tile64 {
    pub(super) values: [[f32; TILE_FLOATS]; TILE_ROWS],
}

/// Elements of a row that one product of tiles of bf16 takes.
pub(super) const STEP_LEN: usize = 32;

/// As many such steps lie together at the most: those of two panels of weights leave room in a first level of 48 KiB.
pub(super) const STEPS: usize = 18;

/// How many of them do in rows of `n_cols` elements: parts of about one size.
pub(super) fn steps_of_part(n_cols: usize) -> usize {
    let n = n_cols.div_ceil(STEP_LEN).max(1);
    n.div_ceil(n.div_ceil(STEPS))
}

/// A tile of bf16: sixteen lines of 32. In one of activations a line is two elements of sixteen rows: [elements / 2, rows, 2].
#[derive(Debug, Clone, FromZeros, IntoBytes, Immutable)]
#[repr(C, align(64))]
pub(super) struct Bf16Tile(pub(super) [[u8; 64]; 16]);

impl Bf16Tile {
    pub(super) const ZERO: Bf16Tile = Bf16Tile([[0; 64]; 16]);
}

static ZERO_BF16: [Bf16Tile; STEPS] = [const { Bf16Tile::ZERO }; STEPS];

const ZERO_64: Tile64 = Tile64 { values: [[0.0; TILE_FLOATS]; TILE_ROWS] };

/// Elements of a row in a tile of this form; `None` where it has no tiles.
pub(super) fn tile_len(form: ActivationForm) -> Option<usize> {
    match form {
        ActivationForm::Q8_K => Some(256),
        ActivationForm::Q8_0 | ActivationForm::Q8_1 => Some(32),
        ActivationForm::F16 => Some(TILE_FLOATS),
        ActivationForm::F32 | ActivationForm::BF16 => None,
    }
}

/// Tiles that lie side by side in a row of `n_cols` elements.
fn n_blocks(form: ActivationForm, codes: TileCodes, n_cols: usize) -> usize {
    match codes {
        TileCodes::Bf16 => n_cols.div_ceil(steps_of_part(n_cols) * STEP_LEN),
        _ => n_cols / tile_len(form).unwrap_or_else(|| panic!("no tiles of {form:?}")),
    }
}

/// A tile made of sixteen blocks `B`.
trait Tile<B> {
    fn set(&mut self, row: usize, block: &B, codes: TileCodes);
}

/// Two 16-bit integers in a doubleword, the first one low.
fn pair(low: i16, high: i16) -> i32 {
    i32::from(low as u16) | i32::from(high) << 16
}

const ZERO_256: Tile256 = Tile256 {
    codes: [[[0; 16]; TILE_ROWS]; 4],
    d: [0.0; TILE_ROWS],
    sums_of_32: [[0; 4]; TILE_ROWS],
    sums_of_16: [[[0; 4]; 2]; TILE_ROWS],
};

impl Tile<BlockQ8K> for Tile256 {
    fn set(&mut self, row: usize, block: &BlockQ8K, codes: TileCodes) {
        let (fours, _) = block.qs.as_chunks::<4>();
        for (step, fours) in fours.as_chunks::<16>().0.iter().enumerate() {
            self.codes[step][row] = fours.map(|four| codes.four(four));
        }
        self.d[row] = block.d.get();
        // Loops, since closures in maps of arrays become calls here.
        let of_16 = |i: usize| block.bsums[i].get();
        for i in 0..4 {
            let of_32 = |i: usize| of_16(2 * i) + of_16(2 * i + 1);
            self.sums_of_32[row][i] = pair(of_32(2 * i), of_32(2 * i + 1));
            for half in 0..2 {
                self.sums_of_16[row][half][i] = pair(of_16(8 * half + 2 * i), of_16(8 * half + 2 * i + 1));
            }
        }
    }
}

fn fours(qs: &[i8; 32], codes: TileCodes) -> [i32; 8] {
    let (fours, _) = qs.as_chunks::<4>();
    std::array::from_fn(|i| codes.four(fours[i]))
}

const ZERO_32: Tile32 = Tile32 { codes: [[0; 8]; TILE_ROWS], d: [0.0; TILE_ROWS], s: [0.0; TILE_ROWS] };

impl Tile<BlockQ8_0> for Tile32 {
    fn set(&mut self, row: usize, block: &BlockQ8_0, codes: TileCodes) {
        self.codes[row] = fours(&block.qs, codes);
        self.d[row] = block.d.to_f32();
        self.s[row] = 0.0;
    }
}

impl Tile<BlockQ8_1> for Tile32 {
    fn set(&mut self, row: usize, block: &BlockQ8_1, codes: TileCodes) {
        self.codes[row] = fours(&block.qs, codes);
        self.d[row] = block.d.to_f32();
        self.s[row] = block.s.to_f32();
    }
}

/// Buffers for tiles, kept between products.
#[derive(Debug, Default)]
pub(super) struct TileScratch {
    of_256: Vec<Tile256>,
    of_32: Vec<Tile32>,
    of_64: Vec<Tile64>,
    of_bf16: Vec<[Bf16Tile; STEPS]>,
}

/// Tiles of a form: `[blocks of a row, tiles]`.
#[derive(Debug, Clone, Copy)]
pub(super) enum Tiles<'a> {
    Of256(&'a [Tile256]),
    Of32(&'a [Tile32]),
    /// Floats.
    Of64(&'a [Tile64]),
    /// Of as many steps as [`steps_of_part`] says, or are left of a row.
    Bf16(&'a [[Bf16Tile; STEPS]]),
}

impl TileScratch {
    /// The most bytes that a row of `n_cols` activations takes in tiles of these forms.
    pub(super) fn row_bytes(forms: &[ActivationForm], n_cols: usize) -> u64 {
        let has_some = |len: usize| u64::from(forms.iter().any(|&form| tile_len(form) == Some(len)));
        let of_row = |tile_bytes: usize, n: usize| (tile_bytes * n).div_ceil(TILE_ROWS) as u64;
        let of_256 = of_row(size_of::<Tile256>(), n_cols.div_ceil(256));
        let of_64 = of_row(size_of::<Tile64>(), n_cols.div_ceil(TILE_FLOATS));
        // By codes or as bf16.
        let n_parts = n_cols.div_ceil(steps_of_part(n_cols) * STEP_LEN);
        let of_32 =
            of_row(size_of::<Tile32>(), n_cols.div_ceil(32)).max(of_row(size_of::<[Bf16Tile; STEPS]>(), n_parts));
        has_some(256) * of_256 + has_some(32) * of_32 + has_some(TILE_FLOATS) * of_64
    }

    /// Lays out rows of `n_cols` activations, which are in `form`, in groups that begin at `starts`.
    #[allow(clippy::too_many_arguments, reason = "a row and how it is to be laid out")]
    pub(super) fn fill<'a>(
        &mut self,
        pool: &Pool,
        form: ActivationForm,
        codes: TileCodes,
        starts: &[usize],
        n_cols: usize,
        row: impl Fn(usize) -> &'a [u8] + Sync,
        kernels: &Kernels,
    ) {
        let n = n_blocks(form, codes, n_cols);
        if codes == TileCodes::Bf16 {
            let lay_out = kernels.lay_out_bf16().expect("the products that take them have them laid out");
            let bytes = form.row_bytes(steps_of_part(n_cols) * STEP_LEN);
            fill(&mut self.of_bf16, &ZERO_BF16, pool, starts, n, |tile, rows, b| {
                let mut parts = [&[][..]; TILE_ROWS];
                let parts = &mut parts[..rows.len()];
                for (part, r) in parts.iter_mut().zip(rows) {
                    let row = row(r);
                    *part = &row[b * bytes..row.len().min((b + 1) * bytes)];
                }
                lay_out(form, parts, tile);
            });
            return;
        }
        match form {
            ActivationForm::Q8_K => fill_rows(&mut self.of_256, &ZERO_256, pool, starts, n, |tile, at, r, b| {
                // The next tile's row at the same place, at a distance that no CPU expects.
                if starts.last().is_some_and(|&end| r + TILE_ROWS < end) {
                    ask_for(blocks::<BlockQ8K>(row(r + TILE_ROWS), n)[b].as_bytes());
                }
                tile.set(at, &blocks::<BlockQ8K>(row(r), n)[b], codes);
            }),
            ActivationForm::Q8_0 => fill_rows(&mut self.of_32, &ZERO_32, pool, starts, n, |tile, at, r, b| {
                tile.set(at, &blocks::<BlockQ8_0>(row(r), n)[b], codes);
            }),
            ActivationForm::Q8_1 => fill_rows(&mut self.of_32, &ZERO_32, pool, starts, n, |tile, at, r, b| {
                tile.set(at, &blocks::<BlockQ8_1>(row(r), n)[b], codes);
            }),
            ActivationForm::F16 => fill_rows(&mut self.of_64, &ZERO_64, pool, starts, n, |tile, at, r, b| {
                let bytes = form.row_bytes(TILE_FLOATS);
                kernels.widen()(&row(r)[b * bytes..][..bytes], &mut tile.values[at]);
            }),
            ActivationForm::F32 | ActivationForm::BF16 => panic!("no tiles of {form:?}"),
        }
    }

    /// Of what was last laid out, if it was in `form` by `codes` with these `starts`, the tiles of a group.
    pub(super) fn tiles(
        &self,
        form: ActivationForm,
        codes: TileCodes,
        starts: &[usize],
        group: usize,
        n_cols: usize,
    ) -> Tiles<'_> {
        let n_blocks = n_blocks(form, codes, n_cols);
        let at = n_blocks * n_tiles(&starts[..=group]);
        let n = n_blocks * n_tiles(&starts[group..=group + 1]);
        match form {
            _ if codes == TileCodes::Bf16 => Tiles::Bf16(&self.of_bf16[at..at + n]),
            ActivationForm::Q8_K => Tiles::Of256(&self.of_256[at..at + n]),
            ActivationForm::Q8_0 | ActivationForm::Q8_1 => Tiles::Of32(&self.of_32[at..at + n]),
            ActivationForm::F16 => Tiles::Of64(&self.of_64[at..at + n]),
            ActivationForm::F32 | ActivationForm::BF16 => panic!("no tiles of {form:?}"),
        }
    }
}

/// Tiles of the groups that begin at `starts`, of which the last one is where they end.
fn n_tiles(starts: &[usize]) -> usize {
    starts.windows(2).map(|group| (group[1] - group[0]).div_ceil(TILE_ROWS)).sum()
}

/// As [`fill`], a row at a time: `set` gives a tile, at a row of it, a block of a row of activations.
fn fill_rows<T: Clone + Send + Sync>(
    tiles: &mut Vec<T>,
    zero: &T,
    pool: &Pool,
    starts: &[usize],
    n_blocks: usize,
    set: impl Fn(&mut T, usize, usize, usize) + Sync,
) {
    fill(tiles, zero, pool, starts, n_blocks, |tile, rows, b| {
        if rows.len() < TILE_ROWS {
            tile.clone_from(zero);
        }
        rows.enumerate().for_each(|(at, r)| set(tile, at, r, b));
    });
}

/// Makes tiles of rows of `n_blocks` blocks: `set` makes a tile, all of it, of a block of some rows of activations.
fn fill<T: Clone + Send + Sync>(
    tiles: &mut Vec<T>,
    zero: &T,
    pool: &Pool,
    starts: &[usize],
    n_blocks: usize,
    set: impl Fn(&mut T, Range<usize>, usize) + Sync,
) {
    let n = n_tiles(starts) * n_blocks;
    if tiles.len() < n {
        tiles.resize(n, zero.clone());
    }
    // About as many at a time as one row of tiles has.
    pool.for_chunks(&mut tiles[..n], n_blocks, |chunk, tiles| {
        let mut at = chunk * n_blocks;
        let mut rest = tiles;
        // Where the tiles of the group at hand begin.
        let mut begin = 0;
        for group in starts.windows(2) {
            if rest.is_empty() {
                break;
            }
            let group_tiles = (group[1] - group[0]).div_ceil(TILE_ROWS);
            let end = begin + group_tiles * n_blocks;
            let (now, later) = rest.split_at_mut(end.saturating_sub(at).min(rest.len()));
            for (i, tile) in now.iter_mut().enumerate() {
                let (b, t) = ((at - begin + i) / group_tiles, (at - begin + i) % group_tiles);
                let rows = group[0] + t * TILE_ROWS..group[1].min(group[0] + (t + 1) * TILE_ROWS);
                set(tile, rows, b);
            }
            at += now.len();
            (rest, begin) = (later, end);
        }
    });
}
