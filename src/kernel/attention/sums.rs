//! Weighted sums of values: `lane[p % 4] += weight[p] · value[p]`, each lane in the order of the positions, so that the
//! result is the same however positions are cut into planes and lanes dealt out to threads. Loops here are plain ones:
//! what goes through a closure of an iterator or an array is not compiled for the instruction set.

use std::ops::Range;

use super::cache::{BLOCK, KvFormat, PLANE_POSITIONS, padded};
use super::lanes::Lanes;
use super::scores::{RowScores, Span};
use crate::quant::{Half, LANES, blocks};

/// Lanes over positions. More of them could be dealt out to more threads, but the sums of a prompt's tile would no longer be
/// near the core.
pub(super) const POSITION_LANES: usize = 4;

/// Positions of a lane in a plane.
const ROUNDS: usize = PLANE_POSITIONS / POSITION_LANES;

/// Rounds whose values are passed over a sixteen of elements at a time, so that they stay in the cache that is nearest.
const ROUNDS_AT_ONCE: usize = 16;

/// The softmax weights of one query over the positions of a plane.
pub(super) type RowWeights = [f32; PLANE_POSITIONS];

/// What the sums over the values of one plane are made of.
pub(super) struct SumJob<'j> {
    pub format: KvFormat,
    pub dim: usize,
    /// One a query.
    pub weights: &'j [RowWeights],
    /// The positions that each query sees.
    pub spans: &'j [Span],
    pub plane: &'j [u8],
    /// What is read after this plane, to be asked for ahead.
    pub next: Option<&'j [u8]>,
    /// The first of the lanes of `sums`.
    pub first_lane: usize,
}

/// Values of a plane, sixteen elements at a time.
trait Values<L: Lanes> {
    /// A chunk of a position.
    fn load(&self, position: usize, chunk: usize) -> L;
}

struct Halves<'p> {
    rows: &'p [[Half; LANES]],
    n_chunks: usize,
}

impl<L: Lanes> Values<L> for Halves<'_> {
    #[inline(always)]
    fn load(&self, position: usize, chunk: usize) -> L {
        L::from_halves(&self.rows[position * self.n_chunks + chunk])
    }
}

/// A block has two chunks.
struct Bytes<'p> {
    /// `[n_blocks][PLANE_POSITIONS]`
    scales: &'p [[f32; PLANE_POSITIONS]],
    codes: &'p [[i8; LANES]],
    n_chunks: usize,
}

impl<L: Lanes> Values<L> for Bytes<'_> {
    #[inline(always)]
    fn load(&self, position: usize, chunk: usize) -> L {
        let codes = &self.codes[position * self.n_chunks + chunk];
        L::from_i8(codes).mul(L::splat(self.scales[chunk / 2][position]))
    }
}

/// The two chunks of a block are in the low and the high nibbles.
struct Nibbles<'p> {
    /// `[n_blocks][PLANE_POSITIONS]`
    scales: &'p [[f32; PLANE_POSITIONS]],
    codes: &'p [[u8; LANES]],
    n_blocks: usize,
}

impl<L: Lanes> Values<L> for Nibbles<'_> {
    #[inline(always)]
    fn load(&self, position: usize, chunk: usize) -> L {
        let codes = &self.codes[position * self.n_blocks + chunk / 2];
        let values = if chunk.is_multiple_of(2) { L::from_low_nibbles(codes) } else { L::from_high_nibbles(codes) };
        values.mul(L::splat(self.scales[chunk / 2][position]))
    }
}

/// Values of one lane over the positions, decoded.
struct Decoded<'d> {
    /// `[chunks][rounds]`
    floats: &'d [[[f32; LANES]; ROUNDS_AT_ONCE]],
}

impl<L: Lanes> Values<L> for Decoded<'_> {
    #[inline(always)]
    fn load(&self, position: usize, chunk: usize) -> L {
        L::load(&self.floats[chunk][position / POSITION_LANES % ROUNDS_AT_ONCE])
    }
}

/// Adds the values of the plane to `sums`: `[lanes from first_lane on][chunks][queries][LANES]`, one, two or all of them. `scratch`
/// is of any length.
#[inline(always)]
pub(super) fn sums<L: Lanes>(job: &SumJob<'_>, scratch: &mut Vec<f32>, sums: &mut [f32]) {
    let n_chunks = padded(job.dim) / LANES;
    let n_blocks = job.dim / BLOCK;
    let (n_scales, n_decoded) = (n_blocks * PLANE_POSITIONS, n_chunks * ROUNDS_AT_ONCE * LANES);
    let (scales, decoded) = super::grown(scratch, n_scales + n_decoded, 0.0).split_at_mut(n_scales);
    let (halves, codes) = match job.format {
        KvFormat::F16 => (&[][..], job.plane),
        KvFormat::Q8_0 | KvFormat::Q4_0 => job.plane.split_at(n_scales * size_of::<Half>()),
    };
    let halves = blocks::<[Half; LANES]>(halves, halves.len() / size_of::<[Half; LANES]>());
    for (halves, scales) in halves.iter().zip(scales.as_chunks_mut().0) {
        L::from_halves(halves).store(scales);
    }
    let scales = scales.as_chunks().0;
    let n = PLANE_POSITIONS * n_chunks;
    match job.format {
        KvFormat::F16 => sums_of::<L, _>(job, &Halves { rows: blocks(codes, n), n_chunks }, decoded, sums),
        KvFormat::Q8_0 => {
            sums_of::<L, _>(job, &Bytes { scales, codes: blocks(codes, n), n_chunks }, decoded, sums);
        }
        KvFormat::Q4_0 => {
            sums_of::<L, _>(job, &Nibbles { scales, codes: blocks(codes, n / 2), n_blocks }, decoded, sums);
        }
    }
}

#[inline(always)]
fn sums_of<L: Lanes, V: Values<L>>(job: &SumJob<'_>, values: &V, decoded: &mut [f32], sums: &mut [f32]) {
    let n_rows = job.weights.len();
    let n_chunks = padded(job.dim) / LANES;
    // `[lanes][chunks][queries]`
    let sums = sums.as_chunks_mut::<LANES>().0;
    // The rounds of positions that all queries see whole; the others' positions come one by one.
    let first = job.spans.iter().map(|s| s.0).max().unwrap_or(0).div_ceil(POSITION_LANES);
    let end = job.spans.iter().map(|s| s.1).min().unwrap_or(0) / POSITION_LANES;
    let rounds = (first, end.max(first));
    let lane = job.first_lane;
    one_by_one::<L>(job, values, lane, (0, rounds.0 * POSITION_LANES), sums);
    for start in (rounds.0..rounds.1).step_by(ROUNDS_AT_ONCE) {
        let rounds = (start, rounds.1.min(start + ROUNDS_AT_ONCE));
        let ask_ahead = |i: usize| {
            if let Some(next) = job.next {
                let part = next.len() / (ROUNDS / ROUNDS_AT_ONCE * POSITION_LANES * n_chunks);
                super::prefetch(next, ((start / ROUNDS_AT_ONCE * POSITION_LANES + lane) * n_chunks + i) * part, part);
            }
        };
        for (i, sums) in sums.chunks_exact_mut(n_rows * n_chunks).enumerate() {
            let ask_ahead = |chunks: Range<usize>| chunks.for_each(|chunk| ask_ahead(i * n_chunks + chunk));
            if n_rows > L::DIRECT_ROWS {
                decode(values, rounds, lane + i, decoded);
                let values = Decoded { floats: decoded.as_chunks().0.as_chunks().0 };
                all_chunks::<L>(job, &values, rounds, lane + i, sums, ask_ahead);
            } else {
                all_chunks::<L>(job, values, rounds, lane + i, sums, ask_ahead);
            }
        }
    }
    one_by_one::<L>(job, values, lane, (rounds.1 * POSITION_LANES, PLANE_POSITIONS), sums);
}

/// Decodes the values of one lane: `out`: `[chunks][rounds][LANES]`.
#[inline(always)]
fn decode<L: Lanes>(values: &impl Values<L>, rounds: (usize, usize), lane: usize, out: &mut [f32]) {
    let chunks = out.as_chunks_mut::<LANES>().0.as_chunks_mut::<ROUNDS_AT_ONCE>().0;
    for round in rounds.0..rounds.1 {
        for (chunk, out) in chunks.iter_mut().enumerate() {
            values.load(round * POSITION_LANES + lane, chunk).store(&mut out[round % ROUNDS_AT_ONCE]);
        }
    }
}

/// Which sums of a lane are at hand: the first of some chunks of elements, and of some queries.
#[derive(Clone, Copy)]
struct Place {
    lane: usize,
    first_chunk: usize,
    first_row: usize,
}

/// One lane of all queries; `sums`: `[chunks][queries]`. `begin` is told which chunks come next.
#[inline(always)]
fn all_chunks<L: Lanes>(
    job: &SumJob<'_>,
    values: &impl Values<L>,
    rounds: (usize, usize),
    lane: usize,
    sums: &mut [[f32; LANES]],
    begin: impl Fn(Range<usize>),
) {
    let n_chunks = padded(job.dim) / LANES;
    let mut first_chunk = 0;
    while first_chunk < n_chunks {
        let at = Place { lane, first_chunk, first_row: 0 };
        let n = if L::SUM_CHUNKS == 4 && n_chunks - first_chunk >= 4 { 4 } else { 1 };
        begin(first_chunk..first_chunk + n);
        match n {
            4 => all_rows::<L, 4>(job, values, rounds, at, sums),
            _ => all_rows::<L, 1>(job, values, rounds, at, sums),
        }
        first_chunk += n;
    }
}

/// `C` chunks of a lane of all queries, as many queries at once as the registers hold.
#[inline(always)]
fn all_rows<L: Lanes, const C: usize>(
    job: &SumJob<'_>,
    values: &impl Values<L>,
    rounds: (usize, usize),
    at: Place,
    sums: &mut [[f32; LANES]],
) {
    let n_rows = job.weights.len();
    let n_parts = n_rows.div_ceil(L::SUM_ROWS);
    for part in 0..n_parts {
        let (start, stop) = (part * n_rows / n_parts, (part + 1) * n_rows / n_parts);
        let at = Place { first_row: start, ..at };
        match stop - start {
            1 => whole_rounds::<L, 1, C>(job, values, rounds, at, sums),
            2 => whole_rounds::<L, 2, C>(job, values, rounds, at, sums),
            3 => whole_rounds::<L, 3, C>(job, values, rounds, at, sums),
            4 => whole_rounds::<L, 4, C>(job, values, rounds, at, sums),
            5 => whole_rounds::<L, 5, C>(job, values, rounds, at, sums),
            _ => whole_rounds::<L, 6, C>(job, values, rounds, at, sums),
        }
    }
}

/// The positions of a lane in some rounds, for `G` queries that all see them: `C` sixteens of elements share a weight.
#[inline(always)]
fn whole_rounds<L: Lanes, const G: usize, const C: usize>(
    job: &SumJob<'_>,
    values: &impl Values<L>,
    rounds: (usize, usize),
    at: Place,
    sums: &mut [[f32; LANES]],
) {
    let Ok(weights) = <&[RowWeights; G]>::try_from(&job.weights[at.first_row..][..G]) else {
        unreachable!("{G} queries")
    };
    let n_rows = job.weights.len();
    let mut held = [[L::splat(0.0); C]; G];
    for c in 0..C {
        let sums = &sums[(at.first_chunk + c) * n_rows + at.first_row..][..G];
        for g in 0..G {
            held[g][c] = L::load(&sums[g]);
        }
    }
    for round in rounds.0..rounds.1 {
        let position = round * POSITION_LANES + at.lane;
        let mut some = [L::splat(0.0); C];
        for c in 0..C {
            some[c] = values.load(position, at.first_chunk + c);
        }
        for g in 0..G {
            let weight = L::splat(weights[g][position]);
            for c in 0..C {
                held[g][c] = weight.mul_add(some[c], held[g][c]);
            }
        }
    }
    for c in 0..C {
        let sums = &mut sums[(at.first_chunk + c) * n_rows + at.first_row..][..G];
        for g in 0..G {
            held[g][c].store(&mut sums[g]);
        }
    }
}

/// The positions of each query's span that are within `cut`, in the lanes of a group.
#[inline(always)]
fn one_by_one<L: Lanes>(
    job: &SumJob<'_>,
    values: &impl Values<L>,
    first_lane: usize,
    cut: Span,
    sums: &mut [[f32; LANES]],
) {
    let n_rows = job.weights.len();
    let n_chunks = padded(job.dim) / LANES;
    for (row, (weights, &span)) in job.weights.iter().zip(job.spans).enumerate() {
        let (from, to) = (span.0.max(cut.0), span.1.min(cut.1));
        for (lane, sums) in sums.chunks_exact_mut(n_rows * n_chunks).enumerate() {
            // The first position of the lane that is not before `from`.
            let mut p = from + (first_lane + lane + POSITION_LANES - from % POSITION_LANES) % POSITION_LANES;
            while p < to {
                for chunk in 0..n_chunks {
                    let sum = &mut sums[chunk * n_rows + row];
                    L::splat(weights[p]).mul_add(values.load(p, chunk), L::load(sum)).store(sum);
                }
                p += POSITION_LANES;
            }
        }
    }
}

/// `e` of a softmax times `scale`, the inverse of their sum, rounded to f16 as ggml does before they meet the values.
#[inline(always)]
pub(super) fn weights<L: Lanes>(row: &RowScores, scale: f32, out: &mut RowWeights) {
    let from = row.values.as_chunks::<LANES>().0;
    for (e, out) in from.iter().zip(out.as_chunks_mut::<LANES>().0) {
        L::load(e).mul(L::splat(scale)).round_to_f16().store(out);
    }
}

/// Folds the lanes of one query: `sums`: `[POSITION_LANES][chunks][queries][LANES]`, `out`: `[dim]`.
#[inline(always)]
pub(super) fn folded<L: Lanes>(sums: &[f32], n_rows: usize, row: usize, out: &mut [f32]) {
    let n_chunks = padded(out.len()) / LANES;
    let sums = sums.as_chunks::<LANES>().0;
    for (chunk, out) in out.chunks_mut(LANES).enumerate() {
        let mut lanes = [L::splat(0.0); POSITION_LANES];
        for lane in 0..POSITION_LANES {
            lanes[lane] = L::load(&sums[(lane * n_chunks + chunk) * n_rows + row]);
        }
        let mut whole = [0.0; LANES];
        lanes[0].add(lanes[2]).add(lanes[1].add(lanes[3])).store(&mut whole);
        out.copy_from_slice(&whole[..out.len()]);
    }
}
