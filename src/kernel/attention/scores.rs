//! Scores: queries times the keys of a plane, and the exponentials of the softmax over them. The queries of a group of
//! heads, and of several tokens, share each load of a key. Loops here are plain ones: what goes through a closure of an
//! iterator or an array is not compiled for the instruction set.

use super::cache::{BLOCK, KeyLayout, KvFormat, PLANE_POSITIONS, padded};
use super::lanes::Lanes;
use crate::quant::{Half, LANES, blocks};

/// How far ahead of their use keys are asked for, in bytes, at the least.
const PREFETCH_BYTES: usize = 2048;

/// The scores of one query over the positions of a plane, later their exponentials.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct RowScores {
    pub values: [f32; PLANE_POSITIONS],
    /// The largest score of the positions that the query sees; negative infinity where it sees none.
    pub max: f32,
    /// The sum of the exponentials.
    pub sum: f64,
}

impl RowScores {
    pub(super) const EMPTY: RowScores = RowScores { values: [0.0; PLANE_POSITIONS], max: f32::NEG_INFINITY, sum: 0.0 };
}

/// Queries as the keys of the cache want them, all heads of all tokens one after the other.
#[derive(Debug, Default)]
pub(super) struct Queries {
    /// `[n, dim]` rotated; for F16 empty.
    pub rotated: Vec<f32>,
    /// F16: `[n, padded dim]`, rounded to f16; else the scales `[n, dim / 32]`.
    pub floats: Vec<f32>,
    /// Four signed bytes each: `[n, dim / 4]`; for F16 empty.
    pub words: Vec<i32>,
    /// The sums of the bytes of each block: `[n, dim / 32]`; for F16 empty.
    pub sums: Vec<i32>,
}

/// Rounds whole registers of queries to f16.
#[inline(always)]
pub(super) fn round<L: Lanes>(x: &mut [f32]) {
    for x in x.as_chunks_mut::<LANES>().0 {
        L::load(x).round_to_f16().store(x);
    }
}

/// `[a, b)` within a plane.
pub(super) type Span = (usize, usize);

/// What the scores of some queries over one plane are made of.
pub(super) struct ScoreJob<'j> {
    pub format: KvFormat,
    pub dim: usize,
    pub scale: f32,
    pub queries: &'j Queries,
    /// The places of the queries.
    pub rows: &'j [usize],
    /// The positions that each query sees.
    pub spans: &'j [Span],
    pub plane: &'j [u8],
    /// What is read after this plane, to be asked for ahead.
    pub next: Option<&'j [u8]>,
    /// What scores against quantized keys are added to.
    pub onto: Onto,
}

/// What scores are added to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Onto {
    Nothing,
    /// The scores that are there.
    Scores,
}

/// Fills `out`, one a query.
#[inline(always)]
pub(super) fn scores<L: Lanes>(job: &ScoreJob<'_>, out: &mut [RowScores]) {
    let first = job.spans.iter().map(|s| s.0).min().unwrap_or(0);
    let end = job.spans.iter().map(|s| s.1).max().unwrap_or(0);
    let n_groups = job.rows.len().div_ceil(L::SCORE_ROWS);
    let tile_bytes = job.plane.len() / (PLANE_POSITIONS / LANES);
    let n_steps = if job.format == KvFormat::F16 { LANES / 4 } else { job.dim / BLOCK };
    for tile in first / LANES..end.div_ceil(LANES) {
        let at = tile * tile_bytes + tile_bytes.max(PREFETCH_BYTES);
        let mut ahead = Ahead { job, at, end: at + tile_bytes, step: tile_bytes.div_ceil(n_steps) };
        let mut start = 0;
        for group in 0..n_groups {
            let stop = (group + 1) * job.rows.len() / n_groups;
            let (rows, out) = (&job.rows[start..stop], &mut out[start..stop]);
            let ahead = &mut ahead;
            match rows.len() {
                1 => tile_scores::<L, 1>(job, rows, tile, ahead, out),
                2 => tile_scores::<L, 2>(job, rows, tile, ahead, out),
                3 => tile_scores::<L, 3>(job, rows, tile, ahead, out),
                4 => tile_scores::<L, 4>(job, rows, tile, ahead, out),
                5 => tile_scores::<L, 5>(job, rows, tile, ahead, out),
                _ => tile_scores::<L, 6>(job, rows, tile, ahead, out),
            }
            start = stop;
        }
    }
    for (row, &(from, to)) in out.iter_mut().zip(job.spans) {
        row.max = largest::<L>(&row.values[from..to]);
    }
}

/// The scores of `G` queries over sixteen positions, whatever lies there beyond those that the queries see.
#[inline(always)]
fn tile_scores<L: Lanes, const G: usize>(
    job: &ScoreJob<'_>,
    rows: &[usize],
    tile: usize,
    ahead: &mut Ahead<'_>,
    out: &mut [RowScores],
) {
    let (Ok(rows), Ok(out)) = (<[usize; G]>::try_from(rows), <&mut [RowScores; G]>::try_from(out)) else {
        unreachable!("a group of {} queries", rows.len())
    };
    match job.format {
        KvFormat::F16 => half_scores::<L, G>(job, rows, tile, ahead, out),
        KvFormat::Q8_0 => integer_scores::<L, Bytes, G>(job, rows, tile, ahead, out),
        KvFormat::Q4_0 => integer_scores::<L, FiveBits, G>(job, rows, tile, ahead, out),
    }
}

/// Keys as rows of halves.
#[inline(always)]
fn half_scores<L: Lanes, const G: usize>(
    job: &ScoreJob<'_>,
    rows: [usize; G],
    tile: usize,
    ahead: &mut Ahead<'_>,
    out: &mut [RowScores; G],
) {
    let n_chunks = padded(job.dim) / LANES;
    let keys = blocks::<[Half; LANES]>(job.plane, PLANE_POSITIONS * n_chunks);
    let all_queries = job.queries.floats.as_chunks::<LANES>().0;
    let mut queries: [&[[f32; LANES]]; G] = [&[]; G];
    for g in 0..G {
        queries[g] = &all_queries[rows[g] * n_chunks..][..n_chunks];
    }
    for p in (tile * LANES..(tile + 1) * LANES).step_by(4) {
        ahead.ask();
        let mut scores = [[0.0; 4]; G];
        L::half_dots(&queries, &keys[p * n_chunks..][..4 * n_chunks], &mut scores);
        for g in 0..G {
            for i in 0..4 {
                out[g].values[p + i] = job.scale * scores[g][i];
            }
        }
    }
}

/// How the codes of a block of sixteen keys, four bytes a position side by side, are multiplied with a query.
trait Codes<L: Lanes> {
    /// What is added to a code in the bytes.
    const OFFSET: i32;
    /// Times 64 bytes.
    const CHUNKS: usize;
    /// Adds to the sums of `G` queries the products with one part of `codes`; `words`: four elements of each query's block
    /// each.
    fn add<const G: usize>(codes: &[[u8; 64]], part: usize, words: &[&[i32; 8]; G], sums: &mut [L::Ints; G]);
}

struct Bytes;

impl<L: Lanes> Codes<L> for Bytes {
    const OFFSET: i32 = L::SIGNED_OFFSET;
    const CHUNKS: usize = 8;

    #[inline(always)]
    fn add<const G: usize>(codes: &[[u8; 64]], part: usize, words: &[&[i32; 8]; G], sums: &mut [L::Ints; G]) {
        for j in 0..8 {
            let keys = L::signed_bytes(&codes[j], part);
            for g in 0..G {
                sums[g] = L::dot(sums[g], keys, words[g][j]);
            }
        }
    }
}

struct FiveBits;

impl<L: Lanes> Codes<L> for FiveBits {
    const OFFSET: i32 = 16;
    const CHUNKS: usize = 5;

    #[inline(always)]
    fn add<const G: usize>(codes: &[[u8; 64]], part: usize, words: &[&[i32; 8]; G], sums: &mut [L::Ints; G]) {
        for j in [0, 2] {
            let [a, b] = L::nibbles(&codes[j], part);
            let [c, d] = L::nibbles(&codes[j + 1], part);
            let keys = [
                L::with_fifth_bit(a, &codes[4], part, j),
                L::with_fifth_bit(b, &codes[4], part, j + 4),
                L::with_fifth_bit(c, &codes[4], part, j + 1),
                L::with_fifth_bit(d, &codes[4], part, j + 5),
            ];
            for g in 0..G {
                sums[g] =
                    L::dot_five_bits(sums[g], keys, [words[g][j], words[g][j + 4], words[g][j + 1], words[g][j + 5]]);
            }
        }
    }
}

/// Keys as codes, sixteen positions side by side.
#[inline(always)]
fn integer_scores<L: Lanes, C: Codes<L>, const G: usize>(
    job: &ScoreJob<'_>,
    rows: [usize; G],
    tile: usize,
    ahead: &mut Ahead<'_>,
    out: &mut [RowScores; G],
) {
    let n_blocks = job.dim / BLOCK;
    let (scales, codes) = KeyLayout::new(job.format, job.dim).tile(job.plane, tile);
    let codes = codes.as_chunks::<64>().0;
    let scales = blocks::<[Half; LANES]>(scales, n_blocks);
    let all_words = job.queries.words.as_chunks::<{ BLOCK / 4 }>().0;
    let mut scores = [L::splat(0.0); G];
    for b in 0..n_blocks {
        ahead.ask();
        let codes = &codes[b * C::CHUNKS..][..C::CHUNKS];
        let mut words: [&[i32; BLOCK / 4]; G] = [&[0; BLOCK / 4]; G];
        for g in 0..G {
            words[g] = &all_words[rows[g] * n_blocks + b];
        }
        let mut ints = [[0; LANES]; G];
        for part in 0..L::INT_PARTS {
            let mut sums = [L::ints(0); G];
            if C::OFFSET != 0 {
                for g in 0..G {
                    sums[g] = L::ints(-C::OFFSET * job.queries.sums[rows[g] * n_blocks + b]);
                }
            }
            C::add(codes, part, &words, &mut sums);
            for g in 0..G {
                L::store_ints(sums[g], &mut ints[g], part);
            }
        }
        let scales = L::from_halves(&scales[b]);
        for g in 0..G {
            let scale = scales.mul(L::splat(job.queries.floats[rows[g] * n_blocks + b]));
            scores[g] = L::from_ints(&ints[g]).mul_add(scale, scores[g]);
        }
    }
    for g in 0..G {
        let to = out[g].values.as_chunks_mut::<LANES>().0;
        let base = match job.onto {
            Onto::Nothing => L::splat(0.0),
            Onto::Scores => L::load(&to[tile]),
        };
        scores[g].mul_add(L::splat(job.scale), base).store(&mut to[tile]);
    }
}

/// Keys that are asked for before they are needed, little by little, since requests that wait for memory hold up others.
struct Ahead<'j> {
    job: &'j ScoreJob<'j>,
    /// The first byte that has not been asked for, as if the next plane followed this one.
    at: usize,
    /// Where to end.
    end: usize,
    /// Bytes at a time.
    step: usize,
}

impl Ahead<'_> {
    #[inline(always)]
    fn ask(&mut self) {
        if self.at < self.end {
            let (at, n) = (self.at, self.job.plane.len());
            match self.job.next {
                _ if at < n => super::prefetch(self.job.plane, at, self.step),
                Some(next) => super::prefetch(next, at - n, self.step),
                None => {}
            }
            self.at += self.step;
        }
    }
}

/// The largest number; negative infinity where there is none.
#[inline(always)]
fn largest<L: Lanes>(x: &[f32]) -> f32 {
    let (whole, rest) = x.as_chunks::<LANES>();
    let mut max = L::splat(f32::NEG_INFINITY);
    for chunk in whole {
        max = L::load(chunk).max(max);
    }
    let mut lanes = [0.0; LANES];
    max.store(&mut lanes);
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
}
