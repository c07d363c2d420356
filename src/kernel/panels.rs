//! What the products of many rows share on every x86 instruction set: in what order a matrix is passed over, where the panels
//! of sixteen rows of weights come from, and where their sums go.

#![allow(unsafe_code, reason = "blocks are read at distances within a slice, and threads write disjoint columns")]
#![allow(clippy::wildcard_imports, reason = "intrinsics carry their own prefix")]

use std::arch::asm;
use std::arch::x86_64::*;
use std::cell::Cell;
use std::marker::PhantomData;
use std::ops::Range;

use zerocopy::FromZeros;

use super::dispatch::Operands;
use super::tiled::TILE_ROWS;
use crate::quant::Block;

/// Rows side by side.
pub(super) const ROWS: usize = 16;

/// A block of each row, at equal distances.
#[derive(Clone, Copy)]
pub(super) struct Blocks<'a, B> {
    /// Those of the rows 0, 4, 8 and 12.
    fourths: [*const u8; 4],
    row_bytes: usize,
    ahead: &'a Ahead,
    blocks: PhantomData<&'a B>,
}

impl<'a, B: Block> Blocks<'a, B> {
    /// The block at `at` of sixteen rows of `row_blocks` blocks.
    fn new(rows: &'a [B], row_blocks: usize, at: usize, ahead: &'a Ahead) -> Blocks<'a, B> {
        assert!(at < row_blocks && rows.len() >= ROWS * row_blocks, "sixteen rows of {row_blocks} blocks");
        let row_bytes = row_blocks * size_of::<B>();
        let fourths = std::array::from_fn(|i| rows[i * 4 * row_blocks + at].as_bytes().as_ptr());
        Blocks { fourths, row_bytes, ahead, blocks: PhantomData }
    }

    /// The bytes at `at` of the block of a row.
    #[inline(always)]
    pub(super) fn bytes_at<const N: usize>(&self, row: usize, at: usize) -> &'a [u8; N] {
        assert!(row < ROWS && at + N <= size_of::<B>(), "bytes past a block");
        // SAFETY: as just asserted, they are bytes of a block of the slice that `new` was given, which had all rows.
        unsafe { &*self.fourths[row / 4].add(row % 4 * self.row_bytes + at).cast() }
    }

    /// Asks for a part of what comes after these rows; once for about every sixteen bytes of the blocks.
    #[inline(always)]
    pub(super) fn ask_ahead(&self) {
        self.ahead.ask();
    }
}

/// Sixteen floats, a row of weights each.
#[derive(Clone, Copy, FromZeros)]
#[repr(C, align(64))]
pub(super) struct Lanes(pub(super) [f32; ROWS]);

/// Panels of sixteen rows of weights that are decoded together.
pub(super) const PANELS: usize = 2;

/// Pairs of panels that a pass over the activations serves. More of them read the activations less often from the cache
/// that is shared, fewer keep more of the sums in the cache that is not.
const GROUPS: usize = 4;

/// Tiles of activations that a panel meets before it is decoded again.
const MOST_TILES: usize = 32;

/// The sums of two panels for a tile of activations: `[panels, rows of the tile]`.
pub(super) type Out = [[Lanes; TILE_ROWS]; PANELS];

/// A part of a product whose sums stay in cache: some pairs of panels of weights, some tiles of activations, all blocks.
#[derive(Debug)]
pub(super) struct Pass {
    /// The first row of weights.
    pub(super) first_row: usize,
    /// Pairs of panels.
    pub(super) n_groups: usize,
    pub(super) first_tile: usize,
    /// Tiles of activations.
    pub(super) n_tiles: usize,
    ahead: Ahead,
}

/// The rows of weights that come after those of a pass, as the file has them. A pass takes its own rows a few bytes of each at
/// a time, in which no prefetcher of a CPU sees order; so it asks for the next ones meanwhile, from end to end.
#[derive(Debug)]
struct Ahead {
    next: Cell<*const u8>,
    lines: Cell<usize>,
    /// Cache lines that are asked for at a time.
    at_once: usize,
}

impl Ahead {
    fn new(bytes: &[u8], at_once: usize) -> Ahead {
        Ahead { next: Cell::new(bytes.as_ptr()), lines: Cell::new(bytes.len().div_ceil(LINE_BYTES)), at_once }
    }

    /// Asks for some lines more.
    #[inline(always)]
    fn ask(&self) {
        let n = self.at_once.min(self.lines.get());
        if n == 0 {
            return;
        }
        let next = self.next.get();
        for line in 0..n {
            // SAFETY: a prefetch reads nothing that the program could see and does not fault, whatever the address.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add(line * LINE_BYTES).cast()) }
        }
        self.next.set(next.wrapping_add(n * LINE_BYTES));
        self.lines.set(self.lines.get() - n);
    }
}

const LINE_BYTES: usize = 64;

thread_local! {
    /// Where the rows begin that this thread has asked for last.
    static ASKED_TO: Cell<*const u8> = const { Cell::new(std::ptr::null()) };
}

/// The first `n` of these, made where there are fewer.
fn some_of(sums: &mut Vec<Out>, n: usize) -> &mut [Out] {
    if sums.len() < n {
        sums.resize(n, [[Lanes([0.0; ROWS]); TILE_ROWS]; PANELS]);
    }
    &mut sums[..n]
}

impl Pass {
    /// Cuts the rows `range` of weights into passes, and writes the sums that `compute` has put in the place of what it
    /// finds, `[n_groups, n_tiles]`. The panels of a group ask ahead about `n_asks` times ([`Blocks::ask_ahead`]).
    pub(super) fn for_each(
        operands: &Operands<'_>,
        range: Range<usize>,
        n_asks: usize,
        sums: &mut Vec<Out>,
        mut compute: impl FnMut(&Pass, &mut [Out]),
    ) {
        let all_tiles = operands.n_rows.div_ceil(TILE_ROWS);
        let weights = &operands.weights;
        for first_row in range.clone().step_by(GROUPS * PANELS * ROWS) {
            let n_groups = (range.end - first_row).div_ceil(PANELS * ROWS).min(GROUPS);
            let rows = first_row..(first_row + n_groups * PANELS * ROWS).min(range.end);
            // A thread mostly goes on where its range ends, or with the next matrix.
            let next = match weights.row_range(rows.end..range.end.min(rows.end + rows.len())) {
                [] => &operands.next[..operands.next.len().min(weights.row_range(rows.clone()).len())],
                rest => rest,
            };
            let rows = weights.row_range(rows);
            if ASKED_TO.get() != rows.as_ptr() {
                Ahead::new(rows, usize::MAX).ask();
            }
            ASKED_TO.set(next.as_ptr());
            for first_tile in (0..all_tiles).step_by(MOST_TILES) {
                let n_tiles = MOST_TILES.min(all_tiles - first_tile);
                let lines = if first_tile == 0 { next } else { &[] };
                let ahead = Ahead::new(lines, (lines.len() / LINE_BYTES).div_ceil(n_groups * n_asks));
                let pass = Pass { first_row, n_groups, first_tile, n_tiles, ahead };
                let sums = some_of(sums, n_groups * n_tiles);
                compute(&pass, sums);
                pass.write(operands, sums);
            }
        }
    }

    /// As [`Pass::for_each`], but a pass has the whole range, asks for nothing ahead by itself and leaves writing to `compute`.
    pub(super) fn for_whole_range(
        operands: &Operands<'_>,
        range: &Range<usize>,
        sums: &mut Vec<Out>,
        mut compute: impl FnMut(&Pass, &mut [Out]),
    ) {
        let all_tiles = operands.n_rows.div_ceil(TILE_ROWS);
        let n_groups = range.len().div_ceil(PANELS * ROWS);
        for first_tile in (0..all_tiles).step_by(MOST_TILES) {
            let n_tiles = MOST_TILES.min(all_tiles - first_tile);
            let pass = Pass { first_row: range.start, n_groups, first_tile, n_tiles, ahead: Ahead::new(&[], 0) };
            compute(&pass, some_of(sums, n_groups * n_tiles));
        }
    }

    /// A panel's rows from the block at `at` of `row_blocks` on; where they end there, those in their place among the next.
    #[inline]
    pub(super) fn following<'o>(
        &self,
        operands: &'o Operands<'_>,
        row: usize,
        at: usize,
        row_blocks: usize,
    ) -> Following<'o> {
        let weights = &operands.weights;
        let row_bytes = weights.row_range(0..1).len();
        let (rows, at) = if at < row_blocks {
            (weights.row_range(row..row + ROWS), at * (row_bytes / row_blocks))
        } else {
            (operands.next.get((row - self.first_row) * row_bytes..).unwrap_or_default(), 0)
        };
        let n_rows = if rows.len() >= ROWS * row_bytes { ROWS } else { rows.len() / row_bytes };
        Following { from: &rows[at.min(rows.len())..], row_bytes, n_rows }
    }

    /// Where a panel's rows begin.
    pub(super) fn row(&self, group: usize, panel: usize) -> usize {
        self.first_row + (group * PANELS + panel) * ROWS
    }

    /// Writes the sums, `[n_groups, n_tiles]`, to the output. Inlined, so that it is compiled for the features of its caller.
    #[inline(always)]
    pub(super) fn write(&self, operands: &Operands<'_>, sums: &[Out]) {
        let n_rows = (operands.n_rows - self.first_tile * TILE_ROWS).min(self.n_tiles * TILE_ROWS);
        let at = |row: usize| operands.output.place(self.first_tile * TILE_ROWS + row, self.first_row);
        for row in 0..n_rows {
            if row + ROWS_AHEAD < n_rows {
                ask_to_write(at(row + ROWS_AHEAD).cast(), self.n_groups * PANELS * size_of::<Lanes>());
            }
            // All columns of a row before the next row, so that a page is written to once.
            let groups = sums.chunks_exact(self.n_tiles).map(|tiles| &tiles[row / TILE_ROWS]);
            let panels = groups.flatten().map(|panel| &panel[row % TILE_ROWS].0);
            // SAFETY: the range of the product is this thread's alone.
            unsafe { operands.output.give_columns(self.first_tile * TILE_ROWS + row, self.first_row, panels) };
        }
    }
}

/// Rows of weights, of each of which a part is going to be read.
pub(super) struct Following<'o> {
    /// From that part of the first on.
    from: &'o [u8],
    row_bytes: usize,
    /// As far as they exist, those of a panel at the most.
    n_rows: usize,
}

impl Following<'_> {
    /// Asks for `n_bytes` of some of the rows.
    #[inline(always)]
    pub(super) fn ask(&self, rows: Range<usize>, n_bytes: usize) {
        if rows.end > self.n_rows {
            return;
        }
        for row in rows {
            // The line of the first byte has been read with the block before.
            let from = self.from.as_ptr().wrapping_add(row * self.row_bytes + LINE_BYTES - 1);
            for line in 0..n_bytes.div_ceil(LINE_BYTES) {
                // SAFETY: a prefetch reads nothing that the program could see and does not fault, whatever the address.
                unsafe { _mm_prefetch::<_MM_HINT_T1>(from.wrapping_add(line * LINE_BYTES).cast()) }
            }
        }
    }
}

/// How many rows of the output are asked for before they are written: it is seldom in cache.
const ROWS_AHEAD: usize = 1;

/// Asks for cache lines that are going to be written.
#[inline(always)]
fn ask_to_write(from: *const u8, n_bytes: usize) {
    for line in 0..n_bytes.div_ceil(LINE_BYTES) {
        let at = from.wrapping_add(line * LINE_BYTES);
        // SAFETY: a prefetch changes nothing that the program could see and does not fault, whatever the address; where a CPU
        // does not know it, it does nothing.
        unsafe { asm!("prefetchw [{}]", in(reg) at, options(nostack, preserves_flags, readonly)) };
    }
}

/// The blocks at `at` of sixteen rows of `row_blocks` blocks, from `first_row` on. Where rows end before, they are in `padded`,
/// with zeros for those past the end, whose results are not written.
#[inline(always)]
pub(super) fn panel<'p, B: Block>(
    pass: &'p Pass,
    rows: &'p [B],
    row_blocks: usize,
    first_row: usize,
    at: usize,
    padded: &'p mut [B; ROWS],
) -> Blocks<'p, B> {
    let rows = rows.get(first_row * row_blocks..).unwrap_or_default();
    if rows.len() >= ROWS * row_blocks {
        return Blocks::new(rows, row_blocks, at, &pass.ahead);
    }
    padded.zero();
    for (padded, block) in padded.iter_mut().zip(rows.iter().skip(at).step_by(row_blocks)) {
        padded.as_mut_bytes().copy_from_slice(block.as_bytes());
    }
    Blocks::new(padded, 1, 0, &pass.ahead)
}

/// Gives `decode` a [`panel`].
#[inline(always)]
pub(super) fn with_panel<B: Block>(
    pass: &Pass,
    rows: &[B],
    row_blocks: usize,
    first_row: usize,
    at: usize,
    decode: impl FnOnce(&Blocks<'_, B>),
) {
    decode(&panel(pass, rows, row_blocks, first_row, at, &mut <[B; ROWS]>::new_zeroed()));
}
