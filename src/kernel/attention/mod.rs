//! Attention of the heads of a batch over the cached positions: `softmax(scale · q·keysᵀ) · values`, with ggml's roundings:
//! against a cache in f16 queries and softmax weights are rounded to f16, against a quantized one queries are rotated as
//! the keys are and quantized to Q8_0. Products are summed in f32, those of queries and keys in sixteen interleaved lanes
//! and those of weights and values in four, on every instruction set, so that all of them give the same bits; neither do
//! threads change one, nor how many tokens are computed at once. The matrix unit's batches alone are summed otherwise (see
//! `unit`).
//!
//! Queries that share a head of keys and values are computed together.

#![allow(unsafe_code, reason = "AVX2 and AVX-512 intrinsics, called on the proof that they are there")]
#![allow(clippy::needless_range_loop, reason = "sums, rows and lanes are indexed side by side")]
#![allow(clippy::wildcard_imports, reason = "intrinsics carry their own prefix, and a kernel uses dozens")]

mod cache;
mod lanes;
mod rotation;
mod scores;
mod split;
mod sums;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod unit;

pub use cache::{KvFormat, PLANE_POSITIONS, UnknownKvFormat};

use std::cell::RefCell;
use std::ops::Range;

use self::cache::{BLOCK, padded};
#[cfg(target_arch = "x86_64")]
use self::lanes::{Avx2, Avx512};
use self::rotation::{rotate, rotate_back};
use self::scores::{Onto, Queries, RowScores, ScoreJob, Span};
use self::sums::{POSITION_LANES, RowWeights, SumJob};
use super::{Isa, Kernels, LEAST_BATCH};
use crate::pool::Pool;
use crate::quant::LANES;

/// The queries that one thread computes together, about, and the bytes of scores that they may need.
const TILE_ROWS: usize = 24;
const TILE_SCORE_BYTES: usize = 1 << 20;

/// Those that one thread computes together on the matrix unit: for every such tile all keys and values are laid out anew.
const UNIT_ROWS: usize = 256;
const UNIT_SCORE_BYTES: usize = 4 << 20;

/// So many of them are computed at once there.
const UNIT_PAIR_ROWS: usize = 32;

/// Products below which a hand-over to other threads costs more than it saves.
const INLINE_PRODUCTS: usize = 1 << 16;

/// The numbers that attention of every layer shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionShape {
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub head_dim_k: usize,
    pub head_dim_v: usize,
    /// Positions a token looks back on, itself included; `None`: all.
    pub sliding_window: Option<usize>,
    pub format: KvFormat,
}

/// Keys and values of [`PLANE_POSITIONS`] positions of one head.
#[derive(Debug, Clone, Copy)]
pub struct Planes<'c> {
    /// [`KvFormat::key_plane_bytes`] of `head_dim_k`
    pub keys: &'c [u8],
    /// [`KvFormat::value_plane_bytes`] of `head_dim_v`
    pub values: &'c [u8],
    /// Where keys are without their bias: cosines and sines of the positions in f16, as [`Kernels::store_key`] writes
    /// `dim` numbers of [`KeyBias`]; else empty.
    pub angles: &'c [u8],
}

/// The bias of keys, kept apart from quantized keys: a few channels of it are hundreds of times as large as all else.
/// Turned by its position, it adds to a score the product of the cosines and sines of the position with numbers of the
/// query.
#[derive(Debug, Clone, Copy)]
pub struct KeyBias<'q> {
    /// Cosines and sines a position.
    pub dim: usize,
    /// `[n, n_heads, dim]`
    pub queries: &'q [f32],
}

/// Buffers of attention, kept so that generating allocates nothing.
#[derive(Debug, Default)]
pub struct AttentionScratch {
    queries: Queries,
    bias_queries: Queries,
    split: Buffers,
}

impl AttentionScratch {
    /// The most bytes that a look at one plane takes, beside it: the scores of the queries of a batch that is too small
    /// to be cut into tiles for all threads.
    pub fn plane_bytes(n_heads: usize, n_threads: usize) -> u64 {
        (4 * n_threads as u64).saturating_mul(n_heads as u64).saturating_mul(size_of::<RowScores>() as u64)
    }

    /// The most bytes that a thread takes for the rest, with heads of `dim` elements: on the matrix unit scores of a tile of
    /// queries, and queries, sums, keys and values as the unit wants them, four bytes an element.
    pub fn thread_bytes(isa: Isa, dim: usize) -> u64 {
        match isa {
            Isa::Amx => {
                let rows = 2 * UNIT_ROWS + PLANE_POSITIONS + UNIT_PAIR_ROWS;
                (4 * rows as u64).saturating_mul(dim as u64).saturating_add(UNIT_SCORE_BYTES as u64)
            }
            Isa::Scalar | Isa::Avx2 | Isa::Avx512 => 0,
        }
    }
}

/// Buffers of the queries that are computed together.
#[derive(Debug, Default)]
struct Buffers {
    /// `[planes][rows]`, or that for each kv head
    scores: Vec<RowScores>,
    /// `[rows]`, or that for each kv head: the largest scores, then the inverse sums of the exponentials.
    totals: Vec<f32>,
    /// `[POSITION_LANES][chunks of head_dim_v][rows][LANES]`, or that for each kv head
    sums: Vec<f32>,
}

/// What a thread needs beside them, for the plane at hand.
#[derive(Debug, Default)]
struct Rows {
    /// The places of the queries.
    places: Vec<usize>,
    /// `[rows]`
    spans: Vec<Span>,
    /// `[rows]`
    weights: Vec<RowWeights>,
    /// Decoded values and their scales.
    values: Vec<f32>,
}

thread_local! {
    static LOCAL: RefCell<(Buffers, Rows)> = RefCell::default();
}

/// Makes a function of a kernel, which calls the form of it for the instruction set of its first argument.
macro_rules! dispatched {
    ($module:ident:: $name:ident($($arg:ident: $ty:ty),*)) => {
        fn $name(isa: Isa, $($arg: $ty),*) {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2($($arg: $ty),*) {
                $module::$name::<Avx2>($($arg),*);
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
            fn avx512($($arg: $ty),*) {
                $module::$name::<Avx512>($($arg),*);
            }
            match isa {
                Isa::Scalar => $module::$name::<[f32; LANES]>($($arg),*),
                // SAFETY: kernels of these instruction sets, which the callers hold, are the proof of them.
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => unsafe { avx2($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 | Isa::Amx => unsafe { avx512($($arg),*) },
                #[cfg(not(target_arch = "x86_64"))]
                Isa::Avx2 | Isa::Avx512 | Isa::Amx => unreachable!("x86 kernels on another architecture"),
            }
        }
    };
}

dispatched!(scores::scores(job: &ScoreJob<'_>, out: &mut [RowScores]));
dispatched!(scores::round(x: &mut [f32]));
dispatched!(sums::sums(job: &SumJob<'_>, scratch: &mut Vec<f32>, out: &mut [f32]));
dispatched!(sums::weights(row: &RowScores, scale: f32, out: &mut RowWeights));
dispatched!(sums::folded(sums: &[f32], n_rows: usize, row: usize, out: &mut [f32]));

/// Asks for the cache lines of `n` bytes at `at`, as far as they are within `bytes`.
#[inline(always)]
fn prefetch(bytes: &[u8], at: usize, n: usize) {
    #[cfg(target_arch = "x86_64")]
    for at in (at..bytes.len().min(at + n)).step_by(64) {
        use std::arch::x86_64::*;
        // SAFETY: a prefetch reads nothing that the program could see; the address is within the slice.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(bytes.as_ptr().add(at).cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (bytes, at, n);
}

/// Queries that one thread computes together: those of some tokens of the batch whose heads share a head of the cache.
#[derive(Debug, Clone)]
struct Tile {
    kv_head: usize,
    tokens: Range<usize>,
    /// The first of the lanes over positions that values are summed in.
    first_lane: usize,
}

/// Attention of one batch in one layer.
struct Job<'j, P> {
    kernels: &'j Kernels,
    shape: &'j AttentionShape,
    queries: &'j Queries,
    /// What meets the angles of the keys' bias, and how many these are.
    bias: Option<(&'j Queries, usize)>,
    /// The position of the first token.
    start: usize,
    /// Keys and values by kv head and plane.
    planes: P,
}

impl Kernels {
    /// Attention of a batch whose first token is at position `start`, with the keys and values that `planes` gives for a
    /// kv head and a run of [`PLANE_POSITIONS`] positions; those of the batch are there already. `q`:
    /// `[n, n_heads, head_dim_k]`; `out`: `[n, n_heads, head_dim_v]`.
    #[allow(clippy::too_many_arguments, reason = "one step of the pass, with the pass's own arguments")]
    pub fn attend<'c>(
        &self,
        pool: &Pool,
        shape: &AttentionShape,
        start: usize,
        q: &[f32],
        key_bias: Option<KeyBias<'_>>,
        planes: impl Fn(usize, usize) -> Planes<'c> + Sync,
        scratch: &mut AttentionScratch,
        out: &mut [f32],
    ) {
        let (n_q, n_out) = (shape.n_heads * shape.head_dim_k, shape.n_heads * shape.head_dim_v);
        let n = q.len() / n_q;
        assert!(q.len() == n * n_q && out.len() == n * n_out && n > 0, "queries and output of {n} tokens");
        let AttentionScratch { queries, bias_queries, split } = scratch;
        self.prepare_queries(pool, shape, q, queries);
        let bias = key_bias.map(|bias| {
            assert!(shape.format != KvFormat::F16, "keys in f16 have their bias");
            assert_eq!(bias.queries.len(), n * shape.n_heads * bias.dim, "queries of the bias");
            let row = padded(bias.dim);
            let floats = grown(&mut bias_queries.floats, n * shape.n_heads * row, 0.0);
            for (from, to) in bias.queries.chunks_exact(bias.dim).zip(floats.chunks_exact_mut(row)) {
                to[bias.dim..].fill(0.0);
                to[..bias.dim].copy_from_slice(from);
            }
            (&*bias_queries, bias.dim)
        });
        let job = Job { kernels: self, shape, queries, bias, start, planes };
        let visible = shape.sliding_window.map_or(start + n, |window| window.min(start + n));
        let group = job.group();
        let on_unit = self.attends_on_unit(shape.format, n);
        let tile_rows = if on_unit { unit_rows(visible) } else { tile_rows(visible) };
        let tile_tokens = (tile_rows / group).min(n.div_ceil(4 * pool.n_threads())).max(1);
        // One token is cut by heads, several are cut into tiles of tokens with all their heads.
        let n_chunk = if n == 1 { group * shape.head_dim_v } else { tile_tokens * n_out };
        let tile = |i: usize, chunk: &mut [f32]| {
            if n == 1 {
                return job.attend_tile(&Tile { kv_head: i, tokens: 0..1, first_lane: 0 }, 0, chunk);
            }
            let tokens = i * tile_tokens..n.min((i + 1) * tile_tokens);
            for kv_head in 0..shape.n_kv_heads {
                let tile = Tile { kv_head, tokens: tokens.clone(), first_lane: 0 };
                let at = kv_head * group * shape.head_dim_v;
                #[cfg(target_arch = "x86_64")]
                if on_unit {
                    job.attend_tile_on_unit(&tile, at, chunk);
                    continue;
                }
                job.attend_tile(&tile, at, chunk);
            }
        };
        if n * visible * (n_q + n_out) < INLINE_PRODUCTS || pool.n_threads() == 1 {
            out.chunks_mut(n_chunk).enumerate().for_each(|(i, chunk)| tile(i, chunk));
        } else if on_unit || out.len().div_ceil(n_chunk) >= 4 * pool.n_threads() || visible <= PLANE_POSITIONS {
            pool.for_chunks(out, n_chunk, tile);
        } else {
            job.attend_split(pool, n, split, out);
        }
        if shape.format != KvFormat::F16 {
            pool.for_chunks(out, n_out, |_, token| token.chunks_exact_mut(shape.head_dim_v).for_each(rotate_back));
        }
    }

    /// Whether the matrix unit computes batches of `n` tokens. It depends on nothing else, so that neither threads nor cuts of a
    /// batch change a bit.
    fn attends_on_unit(&self, format: KvFormat, n: usize) -> bool {
        self.isa() == Isa::Amx && format == KvFormat::F16 && n >= LEAST_BATCH
    }

    /// Brings queries into the form that the keys of the cache want.
    fn prepare_queries(&self, pool: &Pool, shape: &AttentionShape, q: &[f32], out: &mut Queries) {
        let dim = shape.head_dim_k;
        let n_heads = q.len() / dim;
        if shape.format == KvFormat::F16 {
            let row = padded(dim);
            let floats = grown(&mut out.floats, n_heads * row, 0.0);
            return pool.for_chunks(floats, shape.n_heads * row, |t, rows| {
                let heads = q[t * shape.n_heads * dim..].chunks_exact(dim);
                for (head, to) in heads.zip(rows.chunks_exact_mut(row)) {
                    to[dim..].fill(0.0);
                    to[..dim].copy_from_slice(head);
                    round(self.isa(), to);
                }
            });
        }
        let rotated = grown(&mut out.rotated, q.len(), 0.0);
        rotated.copy_from_slice(q);
        pool.for_chunks(rotated, shape.n_heads * dim, |_, token| token.chunks_exact_mut(dim).for_each(rotate));
        let n_blocks = dim / BLOCK;
        let words = grown(&mut out.words, n_heads * dim / 4, 0).as_chunks_mut::<{ BLOCK / 4 }>().0;
        let scales = grown(&mut out.floats, n_heads * n_blocks, 0.0);
        let sums = grown(&mut out.sums, n_heads * n_blocks, 0);
        let blocks = rotated.as_chunks::<BLOCK>().0.iter().zip(words).zip(scales.iter_mut().zip(sums));
        for ((x, words), (scale, sum)) in blocks {
            (*scale, *sum) = cache::query_block(x, words);
        }
    }
}

/// How many queries a thread computes together that see so many positions.
fn tile_rows(visible: usize) -> usize {
    TILE_ROWS.min(TILE_SCORE_BYTES * PLANE_POSITIONS / (visible * size_of::<RowScores>()))
}

/// As [`tile_rows`], on the matrix unit.
fn unit_rows(visible: usize) -> usize {
    let rows = UNIT_SCORE_BYTES / (visible * size_of::<f32>());
    (rows / UNIT_PAIR_ROWS * UNIT_PAIR_ROWS).clamp(UNIT_PAIR_ROWS, UNIT_ROWS)
}

/// The first `n` elements of a buffer that grows when it must.
fn grown<T: Clone>(buffer: &mut Vec<T>, n: usize, empty: T) -> &mut [T] {
    if buffer.len() < n {
        buffer.resize(n, empty);
    }
    &mut buffer[..n]
}

impl<'c, P: Fn(usize, usize) -> Planes<'c> + Sync> Job<'_, P> {
    /// Heads of queries that share a head of the cache.
    fn group(&self) -> usize {
        self.shape.n_heads / self.shape.n_kv_heads
    }

    /// The positions that a token of the batch sees.
    fn visible(&self, token: usize) -> Range<usize> {
        let end = self.start + token + 1;
        self.shape.sliding_window.map_or(0, |window| end.saturating_sub(window))..end
    }

    /// The planes that hold what the tokens see.
    fn planes_of(&self, tokens: &Range<usize>) -> Range<usize> {
        let (first, end) = (self.visible(tokens.start).start, self.visible(tokens.end - 1).end);
        first / PLANE_POSITIONS..end.div_ceil(PLANE_POSITIONS)
    }

    /// Turns to a plane: what each query sees of it.
    fn turn_to(&self, tile: &Tile, plane: usize, rows: &mut Rows) {
        let start = plane * PLANE_POSITIONS;
        rows.spans.clear();
        for token in tile.tokens.clone() {
            let visible = self.visible(token);
            let place = |position: usize| position.clamp(start, start + PLANE_POSITIONS) - start;
            let span = (place(visible.start), place(visible.end));
            rows.spans.extend(std::iter::repeat_n(span, self.group()));
        }
    }

    /// Finds the queries of a tile.
    fn place_rows(&self, tile: &Tile, rows: &mut Rows) {
        rows.places.clear();
        for token in tile.tokens.clone() {
            let first = token * self.shape.n_heads + tile.kv_head * self.group();
            rows.places.extend(first..first + self.group());
        }
    }

    /// A plane of the tile's head and the one that is read after it.
    fn plane_and_next(&self, tile: &Tile, plane: usize) -> (Planes<'c>, Option<Planes<'c>>) {
        let has_next = plane + 1 < self.planes_of(&tile.tokens).end;
        ((self.planes)(tile.kv_head, plane), has_next.then(|| (self.planes)(tile.kv_head, plane + 1)))
    }

    /// The scores of the tile over one plane, with their maxima; `out`: `[rows]`.
    fn scores(&self, tile: &Tile, plane: usize, rows: &mut Rows, out: &mut [RowScores]) {
        self.turn_to(tile, plane, rows);
        self.place_rows(tile, rows);
        let (now, next) = self.plane_and_next(tile, plane);
        let mut job = ScoreJob {
            format: self.shape.format,
            dim: self.shape.head_dim_k,
            scale: 1.0 / (self.shape.head_dim_k as f32).sqrt(),
            queries: self.queries,
            rows: &rows.places,
            spans: &rows.spans,
            plane: now.keys,
            next: next.map(|next| next.keys),
            onto: Onto::Nothing,
        };
        if let Some((queries, dim)) = self.bias {
            let next = next.map(|next| next.angles);
            let of_bias = ScoreJob { format: KvFormat::F16, dim, queries, plane: now.angles, next, ..job };
            scores(self.kernels.isa(), &of_bias, out);
            job.onto = Onto::Scores;
        }
        scores(self.kernels.isa(), &job, out);
    }

    /// Turns the scores over one plane into exponentials, with their sums; `maxima`: `[rows]`.
    fn exponentials(&self, tile: &Tile, plane: usize, rows: &mut Rows, maxima: &[f32], out: &mut [RowScores]) {
        self.turn_to(tile, plane, rows);
        for ((row, &(from, to)), &max) in out.iter_mut().zip(&rows.spans).zip(maxima) {
            self.kernels.exponentials(&mut row.values[from..to], max, &mut row.sum);
        }
    }

    /// Turns the scores of a tile, `[planes][rows]`, into exponentials; `inverses`, `[rows]`, become one over their sums.
    fn softmax(&self, tile: &Tile, rows: &mut Rows, all_scores: &mut [RowScores], inverses: &mut [f32]) {
        maxima(all_scores, inverses);
        for (plane, out) in self.planes_of(&tile.tokens).zip(all_scores.chunks_exact_mut(inverses.len())) {
            self.exponentials(tile, plane, rows, inverses, out);
        }
        inverse_sums(all_scores, inverses);
    }

    /// Adds the values of one plane, weighted by `scores` times `inverses`, both `[rows]`, to `out`: `[lanes from the
    /// tile's first on][chunks of head_dim_v][rows][LANES]`.
    fn sums(
        &self,
        tile: &Tile,
        plane: usize,
        rows: &mut Rows,
        scores: &[RowScores],
        inverses: &[f32],
        out: &mut [f32],
    ) {
        self.turn_to(tile, plane, rows);
        let row_weights = grown(&mut rows.weights, scores.len(), [0.0; PLANE_POSITIONS]);
        for ((row, &inverse), out) in scores.iter().zip(inverses).zip(&mut *row_weights) {
            weights(self.kernels.isa(), row, inverse, out);
        }
        let (now, next) = self.plane_and_next(tile, plane);
        let job = SumJob {
            format: self.shape.format,
            dim: self.shape.head_dim_v,
            weights: row_weights,
            spans: &rows.spans,
            plane: now.values,
            next: next.map(|next| next.values),
            first_lane: tile.first_lane,
        };
        sums(self.kernels.isa(), &job, &mut rows.values, out);
    }

    /// All of a tile on the calling thread. Its first output is at `at` of `out`, the heads of each further token
    /// `n_heads · head_dim_v` on.
    fn attend_tile(&self, tile: &Tile, at: usize, out: &mut [f32]) {
        let (planes, n_rows) = (self.planes_of(&tile.tokens), tile.tokens.len() * self.group());
        LOCAL.with_borrow_mut(|(buffers, rows)| {
            let all_scores = grown(&mut buffers.scores, planes.len() * n_rows, RowScores::EMPTY);
            for (plane, out) in planes.clone().zip(all_scores.chunks_exact_mut(n_rows)) {
                self.scores(tile, plane, rows, out);
            }
            let totals = grown(&mut buffers.totals, n_rows, 0.0);
            self.softmax(tile, rows, all_scores, totals);
            let row_sums = n_rows * padded(self.shape.head_dim_v);
            let all_sums = grown(&mut buffers.sums, POSITION_LANES * row_sums, 0.0);
            all_sums.fill(0.0);
            for (plane, scores) in planes.zip(all_scores.chunks_exact(n_rows)) {
                self.sums(tile, plane, rows, scores, totals, all_sums);
            }
            for row in 0..n_rows {
                let (token, head) = (row / self.group(), row % self.group());
                let at = at + (token * self.shape.n_heads + head) * self.shape.head_dim_v;
                folded(self.kernels.isa(), all_sums, n_rows, row, &mut out[at..][..self.shape.head_dim_v]);
            }
        });
    }
}

/// The largest score of each query; `scores`: `[planes][rows]`, `out`: `[rows]`.
fn maxima(scores: &[RowScores], out: &mut [f32]) {
    out.fill(f32::NEG_INFINITY);
    for scores in scores.chunks_exact(out.len()) {
        out.iter_mut().zip(scores).for_each(|(max, row)| *max = max.max(row.max));
    }
}

/// One over the sum of the exponentials of each query, summed in the order of the planes.
fn inverse_sums(scores: &[RowScores], out: &mut [f32]) {
    let n_rows = out.len();
    for (i, out) in out.iter_mut().enumerate() {
        *out = (1.0 / scores.iter().skip(i).step_by(n_rows).map(|row| row.sum).sum::<f64>()) as f32;
    }
}
