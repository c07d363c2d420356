//! Attention of a batch that is too small to give every thread tiles of queries: the positions are dealt out for the scores, and
//! the lanes for the sums over the values.

use super::cache::padded;
use super::scores::RowScores;
use super::sums::POSITION_LANES;
use super::{AttentionShape, Buffers, Job, LOCAL, Planes, Tile, folded, grown, inverse_sums, maxima};
use crate::pool::Pool;

impl<'c, P: Fn(usize, usize) -> Planes<'c> + Sync> Job<'_, P> {
    /// All of the batch, `n` tokens, with the positions and then the lanes of each head dealt out to the threads.
    pub(super) fn attend_split(&self, pool: &Pool, n: usize, buffers: &mut Buffers, out: &mut [f32]) {
        let AttentionShape { n_heads, n_kv_heads, head_dim_v, .. } = *self.shape;
        let (planes, n_rows) = (self.planes_of(&(0..n)), n * self.group());
        let tile = |kv_head, first_lane| Tile { kv_head, tokens: 0..n, first_lane };
        let head_scores = planes.len() * n_rows;
        let all_scores = grown(&mut buffers.scores, n_kv_heads * head_scores, RowScores::EMPTY);
        let totals = grown(&mut buffers.totals, n_kv_heads * n_rows, 0.0);

        pool.for_chunks(all_scores, n_rows, |i, out| {
            let (kv_head, plane) = (i / planes.len(), planes.start + i % planes.len());
            LOCAL.with_borrow_mut(|(_, rows)| self.scores(&tile(kv_head, 0), plane, rows, out));
        });
        for (scores, totals) in all_scores.chunks_exact(head_scores).zip(totals.chunks_exact_mut(n_rows)) {
            maxima(scores, totals);
        }
        let (kv_head_totals, maxima) = (|kv_head: usize| kv_head * n_rows..(kv_head + 1) * n_rows, &*totals);
        pool.for_chunks(all_scores, n_rows, |i, out| {
            let (kv_head, plane) = (i / planes.len(), planes.start + i % planes.len());
            let maxima = &maxima[kv_head_totals(kv_head)];
            LOCAL.with_borrow_mut(|(_, rows)| self.exponentials(&tile(kv_head, 0), plane, rows, maxima, out));
        });
        for (scores, totals) in all_scores.chunks_exact(head_scores).zip(totals.chunks_exact_mut(n_rows)) {
            inverse_sums(scores, totals);
        }

        let lane_sums = n_rows * padded(head_dim_v);
        let n_lanes = lanes_dealt_out(n_kv_heads, pool.n_threads());
        let all_sums = grown(&mut buffers.sums, n_kv_heads * POSITION_LANES * lane_sums, 0.0);
        let (all_scores, inverses) = (&*all_scores, &*totals);
        pool.for_chunks(all_sums, n_lanes * lane_sums, |i, out| {
            let (kv_head, first_lane) = (i * n_lanes / POSITION_LANES, i * n_lanes % POSITION_LANES);
            let scores = all_scores[kv_head * head_scores..][..head_scores].chunks_exact(n_rows);
            let inverses = &inverses[kv_head_totals(kv_head)];
            out.fill(0.0);
            for (plane, scores) in planes.clone().zip(scores) {
                LOCAL.with_borrow_mut(|(_, rows)| {
                    self.sums(&tile(kv_head, first_lane), plane, rows, scores, inverses, out);
                });
            }
        });
        for (i, out) in out.chunks_exact_mut(head_dim_v).enumerate() {
            let (token, head) = (i / n_heads, i % n_heads);
            let (kv_head, row) = (head / self.group(), token * self.group() + head % self.group());
            let sums = &all_sums[kv_head * POSITION_LANES * lane_sums..][..POSITION_LANES * lane_sums];
            folded(self.kernels.isa(), sums, n_rows, row, out);
        }
    }
}

/// How many lanes a thread takes at a time: few enough that every thread has as much to do, or nearly.
fn lanes_dealt_out(n_kv_heads: usize, n_threads: usize) -> usize {
    let is_even = |n: usize| n.is_multiple_of(n_threads) || n >= 4 * n_threads;
    let parts = [1, 2].into_iter().find(|parts| is_even(n_kv_heads * parts));
    parts.map_or(1, |parts| POSITION_LANES / parts)
}
