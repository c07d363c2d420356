//! Attention of a batch on the matrix unit (Intel AMX), against a cache in f16. The unit multiplies bf16, which hold eight of
//! the eleven bits of an f16: queries, keys, softmax weights and values, all of them f16, are each split into the nearest
//! bf16 and the rest, which is one exactly. All four products of the parts are summed in f32, so that only the order of sums
//! differs from what other instruction sets compute. Without that of the two rests, at most 2⁻¹⁸ of the whole, a tenth of the
//! time would be saved, and a tiny model in BF16 chose other experts than the reference.
//!
//! Queries are taken 32 at a time, and so are positions, from multiples of 32 on: a token's bits depend on no other's.

use std::arch::x86_64::*;
use std::cell::RefCell;
use std::ops::Range;

use super::cache::{PLANE_POSITIONS, padded};
use super::{Isa, Job, KvFormat, Planes, Tile, UNIT_PAIR_ROWS as PAIR_ROWS, grown};
use crate::kernel::amx::unit::{FloatTile, SplitTile, Unit};
use crate::kernel::avx512::load_f32x16;
use crate::kernel::avx512::registers::{store_line, turned};
use crate::quant::{Half, LANES, blocks};

/// Elements, or positions, that one product of tiles sums over.
const STEP: usize = 2 * LANES;

/// Of positions in a plane.
const PLANE_STEPS: usize = PLANE_POSITIONS / STEP;

/// Two tiles of queries by two of positions, or of elements.
type Sums = [[FloatTile; 2]; 2];

const ZERO: Sums = [const { [FloatTile::ZERO, FloatTile::ZERO] }; 2];

/// What a thread works on, kept between tiles.
#[derive(Default)]
struct Scratch {
    /// `[tiles of queries][steps of head_dim_k]`
    queries: Vec<SplitTile>,
    /// Sixteen keys as rows.
    lines: Vec<SplitTile>,
    /// Of a step of positions: `[2][steps of head_dim_k]`
    keys: Vec<SplitTile>,
    /// Of 32 queries over a plane: `[2][PLANE_STEPS]`
    weights: Vec<SplitTile>,
    /// Of a plane: `[tiles of head_dim_v][PLANE_STEPS]`
    values: Vec<SplitTile>,
    /// `[pairs of tiles of queries][steps of positions]`: products with keys, later exponentials
    scores: Vec<Sums>,
    /// `[pairs of tiles of queries]`
    pairs: Vec<Pair>,
    /// `[pairs of tiles of queries][pairs of tiles of head_dim_v]`
    sums: Vec<Sums>,
}

/// 32 queries.
#[derive(Clone)]
struct Pair {
    /// The positions that each sees. Where there are fewer queries the last one stands for the others.
    visible: [Range<usize>; PAIR_ROWS],
    /// The steps of positions that any of them sees.
    steps: Range<usize>,
    /// The largest products with keys, in the lanes of the positions.
    maxima: [[f32; LANES]; PAIR_ROWS],
    /// The sums of the exponentials, then one over them.
    totals: [f64; PAIR_ROWS],
}

impl Pair {
    fn new(visible: impl Iterator<Item = Range<usize>>) -> Pair {
        let (mut all, mut last) = ([const { 0..0 }; PAIR_ROWS], 0..0);
        let mut visible = visible.fuse();
        for row in &mut all {
            last = visible.next().unwrap_or(last);
            row.clone_from(&last);
        }
        let first = all.iter().map(|visible| visible.start).min().unwrap_or(0);
        let end = all.iter().map(|visible| visible.end).max().unwrap_or(0);
        Pair {
            visible: all,
            steps: first / STEP..end.div_ceil(STEP),
            maxima: [[f32::NEG_INFINITY; LANES]; PAIR_ROWS],
            totals: [0.0; PAIR_ROWS],
        }
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl<'c, P: Fn(usize, usize) -> Planes<'c> + Sync> Job<'_, P> {
    /// As [`Job::attend_tile`], on the unit.
    ///
    /// # Panics
    /// Where the kernels are not AMX's or the cache is not in f16.
    pub(super) fn attend_tile_on_unit(&self, tile: &Tile, at: usize, out: &mut [f32]) {
        let on_unit = self.kernels.isa() == Isa::Amx && self.shape.format == KvFormat::F16;
        assert!(on_unit, "the unit computes with f16 only");
        // SAFETY: kernels of AMX are the proof of AVX-512.
        unsafe { self.attend_with_unit(tile, at, out) };
    }

    #[target_feature(enable = "avx512bw,avx512vl")]
    fn attend_with_unit(&self, tile: &Tile, at: usize, out: &mut [f32]) {
        let (dim_k, dim_v) = (self.shape.head_dim_k, self.shape.head_dim_v);
        let heads = || tile.tokens.clone().flat_map(|token| (0..self.group()).map(move |head| (token, head)));
        // SAFETY: kernels of AMX, whose tile this is, are the proof of the unit, and nothing below makes another.
        let unit = unsafe { Unit::configured() };
        SCRATCH.with_borrow_mut(|scratch| {
            let place = |(token, head)| token * self.shape.n_heads + tile.kv_head * self.group() + head;
            scratch.begin(heads().map(|(token, _)| self.visible(token)), dim_v);
            scratch.set_queries(&self.queries.floats, dim_k, heads().map(place));
            for plane in self.planes_of(&tile.tokens) {
                scratch.add_keys(&unit, plane, (self.planes)(tile.kv_head, plane).keys, dim_k);
            }
            scratch.softmax(1.0 / (dim_k as f32).sqrt());
            for plane in self.planes_of(&tile.tokens) {
                scratch.add_values(&unit, plane, (self.planes)(tile.kv_head, plane).values, dim_v);
            }
            for (row, (token, head)) in heads().enumerate() {
                let at = at + ((token - tile.tokens.start) * self.shape.n_heads + head) * dim_v;
                scratch.copy_sums(row, &mut out[at..][..dim_v]);
            }
        });
    }
}

/// Pairs of tiles of elements.
fn pairs_of(dim: usize) -> usize {
    dim.div_ceil(2 * LANES)
}

/// The steps of positions that any of the queries sees.
fn steps_of(pairs: &[Pair]) -> Range<usize> {
    let first = pairs.iter().map(|pair| pair.steps.start).min().unwrap_or(0);
    first..pairs.iter().map(|pair| pair.steps.end).max().unwrap_or(0)
}

/// What is in both.
fn common(a: &Range<usize>, b: &Range<usize>) -> Range<usize> {
    let start = a.start.max(b.start);
    start..a.end.min(b.end).max(start)
}

impl Scratch {
    /// Begins with queries that see these positions.
    fn begin(&mut self, visible: impl Iterator<Item = Range<usize>>, dim_v: usize) {
        self.pairs.clear();
        let mut visible = visible.peekable();
        while visible.peek().is_some() {
            self.pairs.push(Pair::new(visible.by_ref().take(PAIR_ROWS)));
        }
        let n_steps = steps_of(&self.pairs).len();
        grown(&mut self.scores, self.pairs.len() * n_steps, ZERO);
        grown(&mut self.sums, self.pairs.len() * pairs_of(dim_v), ZERO).fill(ZERO);
    }

    /// Takes the queries at these places of `floats`, `[n, padded dim]`, filled up with zeros to whole pairs of tiles.
    #[target_feature(enable = "avx512bw,avx512vl")]
    fn set_queries(&mut self, floats: &[f32], dim: usize, places: impl Iterator<Item = usize>) {
        let (n_chunks, n_steps) = (padded(dim) / LANES, dim.div_ceil(STEP));
        let all = floats.as_chunks::<LANES>().0;
        let tiles = grown(&mut self.queries, 2 * self.pairs.len() * n_steps, SplitTile::ZERO);
        let rows = places.map(Some).chain(std::iter::repeat(None)).take(PAIR_ROWS * self.pairs.len());
        for (i, place) in rows.enumerate() {
            let row = place.map_or(&[][..], |place| &all[place * n_chunks..][..n_chunks]);
            let chunk = |i: usize| match row.get(i) {
                Some(chunk) => load_f32x16(chunk),
                None => _mm512_setzero_ps(),
            };
            for (step, tile) in tiles[i / LANES * n_steps..][..n_steps].iter_mut().enumerate() {
                set_line(tile, i % LANES, [chunk(2 * step), chunk(2 * step + 1)]);
            }
        }
    }

    /// The products of the queries with one plane of keys, and their maxima.
    #[target_feature(enable = "avx512bw,avx512vl")]
    fn add_keys(&mut self, unit: &Unit, plane: usize, keys: &[u8], dim: usize) {
        let (n_chunks, n_steps) = (padded(dim) / LANES, dim.div_ceil(STEP));
        let Scratch { queries, lines, keys: tiles, scores, pairs, .. } = self;
        let lines = &mut grown(lines, 1, SplitTile::ZERO)[0];
        let (first, second) = grown(tiles, 2 * n_steps, SplitTile::ZERO).split_at_mut(n_steps);
        let all_keys = blocks::<[Half; LANES]>(keys, PLANE_POSITIONS * n_chunks);
        let all_steps = steps_of(pairs);
        for step in common(&all_steps, &(plane * PLANE_STEPS..(plane + 1) * PLANE_STEPS)) {
            let (a, b) = all_keys[step % PLANE_STEPS * STEP * n_chunks..][..STEP * n_chunks].split_at(LANES * n_chunks);
            set_keys(a, n_chunks, lines, first);
            set_keys(b, n_chunks, lines, second);
            for (i, pair) in pairs.iter_mut().enumerate().filter(|(_, pair)| pair.steps.contains(&step)) {
                let (a, b) = queries[2 * i * n_steps..][..2 * n_steps].split_at(n_steps);
                let sums = &mut scores[i * all_steps.len() + step - all_steps.start];
                unit.multiply_split([a, b], [first, second], sums, false);
                for row in 0..PAIR_ROWS {
                    let max = &mut pair.maxima[row];
                    let mut v = load_f32x16(max);
                    let seen = seen(&pair.visible[row], step);
                    for (tile, seen) in sums[row / LANES].iter().zip(seen) {
                        v = _mm512_mask_max_ps(v, seen, v, load_f32x16(&tile.0[row % LANES]));
                    }
                    store(max, v);
                }
            }
        }
    }

    /// Turns products with keys, times `scale`, into exponentials, and sums these.
    #[target_feature(enable = "avx512bw,avx512vl")]
    fn softmax(&mut self, scale: f32) {
        let all_steps = steps_of(&self.pairs);
        // Powers of two.
        let scale = scale * std::f32::consts::LOG2_E;
        for (pair, scores) in self.pairs.iter_mut().zip(self.scores.chunks_exact_mut(all_steps.len())) {
            let mut maxima = [0.0; PAIR_ROWS];
            for (max, lanes) in maxima.iter_mut().zip(&pair.maxima) {
                *max = scale * _mm512_reduce_max_ps(load_f32x16(lanes));
            }
            let mut step = pair.steps.start;
            while step < pair.steps.end {
                // Those of a plane are summed in f32.
                let end = pair.steps.end.min((step / PLANE_STEPS + 1) * PLANE_STEPS);
                let mut sums = [[0.0; LANES]; PAIR_ROWS];
                for step in step..end {
                    let scores = &mut scores[step - all_steps.start];
                    for row in 0..PAIR_ROWS {
                        let seen = seen(&pair.visible[row], step);
                        let max = _mm512_set1_ps(maxima[row]);
                        let mut sum = load_f32x16(&sums[row]);
                        for (tile, seen) in scores[row / LANES].iter_mut().zip(seen) {
                            let place = &mut tile.0[row % LANES];
                            let e = power_of_two(_mm512_fmsub_ps(load_f32x16(place), _mm512_set1_ps(scale), max), seen);
                            sum = _mm512_add_ps(sum, e);
                            store(place, e);
                        }
                        store(&mut sums[row], sum);
                    }
                }
                for (total, sums) in pair.totals.iter_mut().zip(&sums) {
                    *total += f64::from(_mm512_reduce_add_ps(load_f32x16(sums)));
                }
                step = end;
            }
            pair.totals = pair.totals.map(|total| 1.0 / total);
        }
    }

    /// Adds the values of one plane with their weights.
    #[target_feature(enable = "avx512bw,avx512vl")]
    fn add_values(&mut self, unit: &Unit, plane: usize, values: &[u8], dim: usize) {
        let (n_chunks, n_pairs) = (padded(dim) / LANES, pairs_of(dim));
        let Scratch { weights, values: tiles, scores, pairs, sums, .. } = self;
        let all_values = blocks::<[Half; LANES]>(values, PLANE_POSITIONS * n_chunks);
        let all_steps = steps_of(pairs);
        let of_plane = plane * PLANE_STEPS..(plane + 1) * PLANE_STEPS;
        let steps = common(&all_steps, &of_plane);
        let first = pairs.iter().flat_map(|pair| &pair.visible).map(|visible| visible.start).min().unwrap_or(0);
        let end = pairs.iter().flat_map(|pair| &pair.visible).map(|visible| visible.end).max().unwrap_or(0);
        let tiles = grown(tiles, 2 * n_pairs * PLANE_STEPS, SplitTile::ZERO);
        for step in steps {
            let rows = &all_values[step % PLANE_STEPS * STEP * n_chunks..][..STEP * n_chunks];
            let tiles = tiles.iter_mut().skip(step % PLANE_STEPS).step_by(PLANE_STEPS);
            if first <= step * STEP && (step + 1) * STEP <= end {
                set_values(rows, n_chunks, |_| true, tiles);
            } else {
                set_values(rows, n_chunks, |i| (first..end).contains(&(step * STEP + i)), tiles);
            }
        }
        let weights = grown(weights, 2 * PLANE_STEPS, SplitTile::ZERO);
        let rows = pairs.iter().zip(scores.chunks_exact(all_steps.len())).zip(sums.chunks_exact_mut(n_pairs));
        for ((pair, scores), sums) in rows {
            let steps = common(&pair.steps, &of_plane);
            if steps.is_empty() {
                continue;
            }
            for step in steps.clone() {
                let scores = &scores[step - all_steps.start];
                for row in 0..PAIR_ROWS {
                    let inverse = _mm512_set1_ps(pair.totals[row] as f32);
                    let [a, b] = &scores[row / LANES];
                    let weights = &mut weights[row / LANES * PLANE_STEPS + step % PLANE_STEPS];
                    let of = |tile: &FloatTile| rounded(_mm512_mul_ps(load_f32x16(&tile.0[row % LANES]), inverse));
                    set_line(weights, row % LANES, [of(a), of(b)]);
                }
            }
            let steps = steps.start % PLANE_STEPS..steps.start % PLANE_STEPS + steps.len();
            let (a, b) = weights.split_at(PLANE_STEPS);
            for (tiles, sums) in tiles.chunks_exact(2 * PLANE_STEPS).zip(sums) {
                let (c, d) = tiles.split_at(PLANE_STEPS);
                let [a, b, c, d] = [a, b, c, d].map(|tiles| &tiles[steps.clone()]);
                unit.multiply_split([a, b], [c, d], sums, true);
            }
        }
    }

    /// The sums of one query; `out`: `[head_dim_v]`.
    fn copy_sums(&self, row: usize, out: &mut [f32]) {
        let n_pairs = pairs_of(out.len());
        for (chunk, out) in out.chunks_mut(LANES).enumerate() {
            let sums = &self.sums[row / PAIR_ROWS * n_pairs + chunk / 2];
            out.copy_from_slice(&sums[row % PAIR_ROWS / LANES][chunk % 2].0[row % LANES][..out.len()]);
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(to: &mut [f32; LANES], x: __m512) {
    // SAFETY: the reference covers the 64 bytes.
    unsafe { _mm512_storeu_ps(to.as_mut_ptr(), x) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn halves(x: &[Half; LANES]) -> __m512 {
    // SAFETY: the reference covers the 32 bytes.
    _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(x.as_ptr().cast()) })
}

/// Rounded to f16.
#[inline]
#[target_feature(enable = "avx512f")]
fn rounded(x: __m512) -> __m512 {
    _mm512_cvtph_ps(_mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x))
}

/// `2ˣ` to within 2 · 10⁻⁷ of it where `mask` is set, else zero.
#[inline]
#[target_feature(enable = "avx512f")]
fn power_of_two(x: __m512, mask: u16) -> __m512 {
    /// Of a polynomial with the least relative error for -½ to ½.
    const C: [f32; 6] = [1.0, 0.693_146_94, 0.240_221_2, 0.055_507_13, 0.009_675_541, 0.001_327_647_1];
    let whole = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT }>(x);
    let rest = _mm512_sub_ps(x, whole);
    let mut sum = _mm512_set1_ps(C[5]);
    for c in [C[4], C[3], C[2], C[1], C[0]] {
        sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(c));
    }
    _mm512_maskz_scalef_ps(mask, sum, whole)
}

/// Puts 32 numbers, each an f16, into a line of a tile: a doubleword has one of the first sixteen and one of the others.
#[inline]
#[target_feature(enable = "avx512f")]
fn set_line(tile: &mut SplitTile, line: usize, [a, b]: [__m512; 2]) {
    let ([near_a, rest_a], [near_b, rest_b]) = (split(a), split(b));
    store_line(&mut tile.near.0[line], _mm512_or_si512(_mm512_srli_epi32::<16>(near_a), near_b));
    store_line(&mut tile.rest.0[line], _mm512_or_si512(_mm512_srli_epi32::<16>(rest_a), rest_b));
}

/// The nearest bf16 and the rest, each in the upper half of a doubleword.
#[inline]
#[target_feature(enable = "avx512f")]
fn split(x: __m512) -> [__m512i; 2] {
    // The upper half of a float is a bf16; half of what the other is worth is added before it is cut off.
    let up = _mm512_add_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(0x8000));
    let near = _mm512_and_si512(up, _mm512_set1_epi32(0xFFFF_0000u32 as i32));
    [near, _mm512_castps_si512(_mm512_sub_ps(x, _mm512_castsi512_ps(near)))]
}

/// Sixteen keys, `[positions][chunks]`, as tiles of the unit's second factor. `lines` is a buffer.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl")]
fn set_keys(keys: &[[Half; LANES]], n_chunks: usize, lines: &mut SplitTile, tiles: &mut [SplitTile]) {
    for (step, tile) in tiles.iter_mut().enumerate() {
        for (line, key) in keys.chunks_exact(n_chunks).enumerate() {
            let second = match key.get(2 * step + 1) {
                Some(chunk) => halves(chunk),
                None => _mm512_setzero_ps(),
            };
            set_line(lines, line, [halves(&key[2 * step]), second]);
        }
        for (from, to) in [(&lines.near, &mut tile.near), (&lines.rest, &mut tile.rest)] {
            for (i, to) in to.0.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                let turned = turned(|line| &from.0[line].as_chunks::<16>().0[i]);
                to.iter_mut().zip(turned).for_each(|(to, line)| store_line(to, line));
            }
        }
    }
}

/// The values of a step of positions, `[positions][chunks]`, as tiles of the unit's second factor, one a chunk; a tile beyond the
/// last chunk becomes zero. Positions that are not `seen` may hold anything and count as zeros.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl")]
fn set_values<'t>(
    values: &[[Half; LANES]],
    n_chunks: usize,
    seen: impl Fn(usize) -> bool,
    tiles: impl Iterator<Item = &'t mut SplitTile>,
) {
    let (first, second) = values.split_at(LANES * n_chunks);
    for (chunk, tile) in tiles.enumerate() {
        if chunk >= n_chunks {
            *tile = SplitTile::ZERO;
            continue;
        }
        for line in 0..LANES {
            let at = |values: &[[Half; LANES]], position: usize| {
                if seen(position) { halves(&values[line * n_chunks + chunk]) } else { _mm512_setzero_ps() }
            };
            set_line(tile, line, [at(first, line), at(second, line + LANES)]);
        }
    }
}

/// Which positions of a step are visible, sixteen by sixteen.
#[inline]
fn seen(visible: &Range<usize>, step: usize) -> [u16; 2] {
    [0, 1].map(|i| {
        let below = |end: usize| (1u32 << end.saturating_sub(step * STEP + i * LANES).min(LANES)) - 1;
        (below(visible.end) & !below(visible.start)) as u16
    })
}
