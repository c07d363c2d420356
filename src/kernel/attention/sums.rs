//! Weighted sums of values: `lane[p % 16] += weight[p] · value[p]`, each lane in the order of the positions, so that the
//! result is the same however positions are cut into planes and lanes dealt out to threads. Loops here are plain ones:
//! what goes through a closure of an iterator or an array is not compiled for the instruction set.

use super::cache::{BLOCK, KvFormat, PLANE_POSITIONS, padded};
use super::lanes::{Lanes, SumLanes};
use super::scores::{RowScores, Span};
use crate::quant::{Half, LANES, blocks};

/// Lanes whose sums are held in registers at once; work is dealt out in these.
pub(super) const LANE_GROUP: usize = 4;

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
    /// The first of the lanes of `sums`, a multiple of [`LANE_GROUP`].
    pub first_lane: usize,
}

/// Values of a plane, a chunk of sixteen elements at a time.
trait Values<L: Lanes> {
    /// Turns to another chunk.
    fn turn_to(&mut self, chunk: usize);
    /// The chunk of a position.
    fn load(&self, position: usize) -> L;
}

struct Halves<'p> {
    rows: &'p [[Half; LANES]],
    n_chunks: usize,
    chunk: usize,
}

impl<L: Lanes> Values<L> for Halves<'_> {
    #[inline(always)]
    fn turn_to(&mut self, chunk: usize) {
        self.chunk = chunk;
    }

    #[inline(always)]
    fn load(&self, position: usize) -> L {
        L::from_halves(&self.rows[position * self.n_chunks + self.chunk])
    }
}

/// The scales of the block of the chunk at hand; a block has two chunks.
struct Scales<'p> {
    /// `[n_blocks][PLANE_POSITIONS]`
    halves: &'p [[Half; PLANE_POSITIONS]],
    floats: [f32; PLANE_POSITIONS],
}

impl Scales<'_> {
    #[inline(always)]
    fn turn_to<L: Lanes>(&mut self, chunk: usize) {
        let halves = self.halves[chunk / 2].as_chunks::<LANES>().0;
        for (halves, floats) in halves.iter().zip(self.floats.as_chunks_mut::<LANES>().0) {
            L::from_halves(halves).store(floats);
        }
    }
}

struct Bytes<'p> {
    scales: Scales<'p>,
    codes: &'p [[i8; LANES]],
    n_chunks: usize,
    chunk: usize,
}

impl<L: Lanes> Values<L> for Bytes<'_> {
    #[inline(always)]
    fn turn_to(&mut self, chunk: usize) {
        self.chunk = chunk;
        self.scales.turn_to::<L>(chunk);
    }

    #[inline(always)]
    fn load(&self, position: usize) -> L {
        let codes = &self.codes[position * self.n_chunks + self.chunk];
        L::from_i8(codes).mul(L::splat(self.scales.floats[position]))
    }
}

/// The two chunks of a block are in the low and the high nibbles.
struct Nibbles<'p> {
    scales: Scales<'p>,
    codes: &'p [[u8; LANES]],
    n_chunks: usize,
    chunk: usize,
}

impl<L: Lanes> Values<L> for Nibbles<'_> {
    #[inline(always)]
    fn turn_to(&mut self, chunk: usize) {
        self.chunk = chunk;
        self.scales.turn_to::<L>(chunk);
    }

    #[inline(always)]
    fn load(&self, position: usize) -> L {
        let codes = &self.codes[position * (self.n_chunks / 2) + self.chunk / 2];
        let values =
            if self.chunk.is_multiple_of(2) { L::from_low_nibbles(codes) } else { L::from_high_nibbles(codes) };
        values.mul(L::splat(self.scales.floats[position]))
    }
}

/// Adds the values of the plane to `sums`: `[lanes from first_lane on][queries][padded dim]`.
#[inline(always)]
pub(super) fn sums<L: Lanes>(job: &SumJob<'_>, sums: &mut [f32]) {
    let n_chunks = padded(job.dim) / LANES;
    let n_blocks = job.dim / BLOCK;
    let (scales, codes) = match job.format {
        KvFormat::F16 => (&[][..], job.plane),
        KvFormat::Q8_0 | KvFormat::Q4_0 => job.plane.split_at(n_blocks * PLANE_POSITIONS * size_of::<Half>()),
    };
    let (n, chunk) = (PLANE_POSITIONS * n_chunks, 0);
    match job.format {
        KvFormat::F16 => sums_of::<L, _>(job, &mut Halves { rows: blocks(codes, n), n_chunks, chunk }, sums),
        KvFormat::Q8_0 => {
            let scales = Scales { halves: blocks(scales, n_blocks), floats: [0.0; PLANE_POSITIONS] };
            sums_of::<L, _>(job, &mut Bytes { scales, codes: blocks(codes, n), n_chunks, chunk }, sums);
        }
        KvFormat::Q4_0 => {
            let scales = Scales { halves: blocks(scales, n_blocks), floats: [0.0; PLANE_POSITIONS] };
            sums_of::<L, _>(job, &mut Nibbles { scales, codes: blocks(codes, n / 2), n_chunks, chunk }, sums);
        }
    }
}

#[inline(always)]
fn sums_of<L: Lanes, V: Values<L>>(job: &SumJob<'_>, values: &mut V, sums: &mut [f32]) {
    let n_rows = job.weights.len();
    let n_chunks = padded(job.dim) / LANES;
    // `[lanes][queries][chunks]`
    let sums = sums.as_chunks_mut::<LANES>().0;
    let n_groups = sums.len() / (LANE_GROUP * n_rows * n_chunks);
    // The rounds of sixteen positions that all queries see whole; the others' positions come one by one.
    let first = job.spans.iter().map(|s| s.0).max().unwrap_or(0).div_ceil(LANES);
    let end = job.spans.iter().map(|s| s.1).min().unwrap_or(0) / LANES;
    let rounds = (first, end.max(first));
    for group in 0..n_groups {
        let lane = job.first_lane + group * LANE_GROUP;
        let sums = &mut sums[group * LANE_GROUP * n_rows * n_chunks..][..LANE_GROUP * n_rows * n_chunks];
        for chunk in 0..n_chunks {
            if let Some(next) = job.next {
                let part = next.len() / (n_groups * n_chunks);
                super::prefetch(next, (group * n_chunks + chunk) * part, part);
            }
            values.turn_to(chunk);
            one_by_one::<L>(job, values, (chunk, lane), (0, rounds.0 * LANES), sums);
            let n_parts = n_rows.div_ceil(L::SUM_ROWS);
            for part in 0..n_parts {
                let (start, stop) = (part * n_rows / n_parts, (part + 1) * n_rows / n_parts);
                let mut at = Place { chunk, lane, n_chunks, n_rows, first_row: start };
                match L::SUM_LANES {
                    SumLanes::Group => rows_of_rounds::<L, LANE_GROUP>(job, values, rounds, at, stop - start, sums),
                    SumLanes::One => {
                        for sums in sums.chunks_exact_mut(n_rows * n_chunks) {
                            rows_of_rounds::<L, 1>(job, values, rounds, at, stop - start, sums);
                            at.lane += 1;
                        }
                    }
                }
            }
            one_by_one::<L>(job, values, (chunk, lane), (rounds.1 * LANES, PLANE_POSITIONS), sums);
        }
    }
}

/// Which sums are at hand: a chunk of elements, a group of lanes, some of the queries.
#[derive(Clone, Copy)]
struct Place {
    chunk: usize,
    lane: usize,
    n_chunks: usize,
    n_rows: usize,
    first_row: usize,
}

impl Place {
    /// The sum of a lane of the group and one of the queries.
    #[inline(always)]
    fn place(&self, lane: usize, g: usize) -> usize {
        (lane * self.n_rows + self.first_row + g) * self.n_chunks + self.chunk
    }
}

/// As [`whole_rounds`], for `n` queries.
#[inline(always)]
fn rows_of_rounds<L: Lanes, const N: usize>(
    job: &SumJob<'_>,
    values: &impl Values<L>,
    rounds: (usize, usize),
    at: Place,
    n: usize,
    sums: &mut [[f32; LANES]],
) {
    match n {
        1 => whole_rounds::<L, 1, N>(job, values, rounds, at, sums),
        2 => whole_rounds::<L, 2, N>(job, values, rounds, at, sums),
        3 => whole_rounds::<L, 3, N>(job, values, rounds, at, sums),
        4 => whole_rounds::<L, 4, N>(job, values, rounds, at, sums),
        5 => whole_rounds::<L, 5, N>(job, values, rounds, at, sums),
        _ => whole_rounds::<L, 6, N>(job, values, rounds, at, sums),
    }
}

/// Rounds of sixteen positions, of which `N` lanes take as many, for `G` queries that all see them.
#[inline(always)]
fn whole_rounds<L: Lanes, const G: usize, const N: usize>(
    job: &SumJob<'_>,
    values: &impl Values<L>,
    rounds: (usize, usize),
    at: Place,
    sums: &mut [[f32; LANES]],
) {
    let mut weights: [&[[f32; N]]; G] = [&[]; G];
    let mut held = [[L::splat(0.0); N]; G];
    for g in 0..G {
        weights[g] = job.weights[at.first_row + g].as_chunks::<N>().0;
        for lane in 0..N {
            held[g][lane] = L::load(&sums[at.place(lane, g)]);
        }
    }
    for round in rounds.0..rounds.1 {
        let mut loaded = [L::splat(0.0); N];
        for lane in 0..N {
            loaded[lane] = values.load(round * LANES + at.lane + lane);
        }
        for g in 0..G {
            let weights = &weights[g][round * (LANES / N) + at.lane / N];
            for lane in 0..N {
                held[g][lane] = L::splat(weights[lane]).mul_add(loaded[lane], held[g][lane]);
            }
        }
    }
    for g in 0..G {
        for lane in 0..N {
            held[g][lane].store(&mut sums[at.place(lane, g)]);
        }
    }
}

/// The positions of each query's span that are within `cut`, in the lanes of a group.
#[inline(always)]
fn one_by_one<L: Lanes>(
    job: &SumJob<'_>,
    values: &impl Values<L>,
    (chunk, first_lane): (usize, usize),
    cut: Span,
    sums: &mut [[f32; LANES]],
) {
    let n_rows = job.weights.len();
    let n_chunks = sums.len() / (LANE_GROUP * n_rows);
    for (row, (weights, &span)) in job.weights.iter().zip(job.spans).enumerate() {
        let (from, to) = (span.0.max(cut.0), span.1.min(cut.1));
        for lane in 0..LANE_GROUP {
            let sum = &mut sums[(lane * n_rows + row) * n_chunks + chunk];
            // The first position of the lane that is not before `from`.
            let mut p = from + (first_lane + lane + LANES - from % LANES) % LANES;
            while p < to {
                L::splat(weights[p]).mul_add(values.load(p), L::load(sum)).store(sum);
                p += LANES;
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

/// Folds the lanes of one query: `sums`: `[LANES][queries][padded dim]`, `out`: `[dim]`.
#[inline(always)]
pub(super) fn folded<L: Lanes>(sums: &[f32], n_rows: usize, row: usize, out: &mut [f32]) {
    let n_chunks = padded(out.len()) / LANES;
    let sums = sums.as_chunks::<LANES>().0;
    for (chunk, out) in out.chunks_mut(LANES).enumerate() {
        let mut lanes = [L::splat(0.0); LANES];
        for lane in 0..LANES {
            lanes[lane] = L::load(&sums[(lane * n_rows + row) * n_chunks + chunk]);
        }
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                lanes[i] = lanes[i].add(lanes[i + half]);
            }
        }
        let mut whole = [0.0; LANES];
        lanes[0].store(&mut whole);
        out.copy_from_slice(&whole[..out.len()]);
    }
}
