//! Rows of weights four at a time, whose sums do not wait for one another.

use super::super::x86::{Prefetch, has_large_second_level};

/// Rows that are multiplied together.
pub(super) const FOUR: usize = 4;

/// What the blocks of rows of weights ask for ahead of their use: up to a block the bytes that follow in memory, and then those
/// where the same reading goes on.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    until: usize,
    here: Prefetch,
    beyond: Prefetch,
}

impl Ahead {
    /// For a row whose successor in memory comes next.
    #[inline(always)]
    pub(super) fn of_this_cpu() -> Ahead {
        let prefetch = Prefetch::of_this_cpu();
        Ahead { until: usize::MAX, here: prefetch, beyond: prefetch }
    }

    /// What block `i` of a row asks for.
    #[inline(always)]
    pub(super) fn of_block(self, i: usize) -> Prefetch {
        if i < self.until { self.here } else { self.beyond }
    }
}

/// Where the rows of a four lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Places {
    /// A quarter of all rows apart.
    Quarters,
    Neighbours,
}

/// Fills `out` with the products of rows of `n_blocks` blocks by `four`, and those that are left by `one`.
///
/// Where the second level of cache is large, the rows of a four are a quarter of all apart, so that memory is read in four
/// streams: 14 % more than in one, from four pages instead of one (`tests/bench/EXPERIMENTS.md`). Elsewhere they are neighbours.
#[inline(always)]
pub(super) fn in_fours<B>(
    weights: &[B],
    n_blocks: usize,
    out: &mut [f32],
    four: impl Fn([&[B]; FOUR], Ahead) -> [f32; FOUR],
    one: impl Fn([&[B]; 1], Ahead) -> [f32; 1],
) {
    let places = if has_large_second_level() { Places::Quarters } else { Places::Neighbours };
    fill(places, weights, n_blocks, out, four, one);
}

#[inline(always)]
fn fill<B>(
    places: Places,
    weights: &[B],
    n_blocks: usize,
    out: &mut [f32],
    four: impl Fn([&[B]; FOUR], Ahead) -> [f32; FOUR],
    one: impl Fn([&[B]; 1], Ahead) -> [f32; 1],
) {
    let row = |i: usize| &weights[i * n_blocks..][..n_blocks];
    let fours = out.len() / FOUR;
    for i in 0..fours {
        // Rows from here to where the place's reading goes on elsewhere, and how many are skipped there.
        let (first, apart, left, skipped) = match places {
            Places::Quarters => (i, fours, fours - i, out.len() - fours),
            Places::Neighbours => (FOUR * i, 1, 1, FOUR - 1),
        };
        let beyond = Prefetch::NEAR.bytes + skipped * n_blocks * size_of::<B>();
        let ahead = Ahead {
            until: (left * n_blocks).saturating_sub(Prefetch::NEAR.bytes / size_of::<B>().max(1)),
            here: Prefetch::NEAR,
            beyond: Prefetch { bytes: beyond, ..Prefetch::NEAR },
        };
        let products = four(std::array::from_fn(|place| row(first + place * apart)), ahead);
        for (place, product) in products.into_iter().enumerate() {
            out[first + place * apart] = product;
        }
    }
    for i in FOUR * fours..out.len() {
        [out[i]] = one([row(i)], Ahead::of_this_cpu());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_multiplied_once_and_in_its_place() {
        const N_BLOCKS: usize = 3;
        for places in [Places::Quarters, Places::Neighbours] {
            for n_rows in 0..14 {
                let weights: Vec<f32> = (0..n_rows * N_BLOCKS).map(|i| i as f32).collect();
                let mut out = vec![f32::NAN; n_rows];
                let sum = |row: &[f32]| row.iter().sum();
                fill(places, &weights, N_BLOCKS, &mut out, |rows, _| rows.map(sum), |row, _| row.map(sum));
                assert_eq!(out, weights.chunks(N_BLOCKS).map(sum).collect::<Vec<f32>>(), "{n_rows} rows, {places:?}");
            }
        }
    }

    #[test]
    fn what_lies_ahead_is_what_is_read_next() {
        const N_BLOCKS: usize = 20;
        let n_rows = 402;
        let weights = vec![[0u8; 144]; n_rows * N_BLOCKS];
        let at = |block: &[u8; 144]| std::ptr::from_ref(block) as usize;
        for (places, apart) in [(Places::Quarters, n_rows / FOUR), (Places::Neighbours, 1)] {
            let read = std::cell::RefCell::new(Vec::new());
            let asked = std::cell::RefCell::new(Vec::new());
            let four = |rows: [&[[u8; 144]]; FOUR], ahead: Ahead| {
                for (i, block) in rows[1].iter().enumerate() {
                    read.borrow_mut().push(at(block));
                    asked.borrow_mut().push(at(block) + ahead.of_block(i).bytes);
                }
                [0.0; FOUR]
            };
            fill(places, &weights, N_BLOCKS, &mut vec![0.0; n_rows], four, |_, _| [0.0]);
            let (read, asked) = (read.into_inner(), asked.into_inner());
            assert_eq!(read[0], at(&weights[apart * N_BLOCKS]));
            // Every block but the first ones is asked for, the 2048 bytes rounded to a block: 14 or 15 blocks before.
            let covered = |block: &usize| asked.iter().any(|ask| ask.abs_diff(*block) < 144);
            assert!(read[15..].iter().all(covered), "{places:?}");
            // What is asked for beyond the last block is where the same place of the next rows lies.
            let next = at(&weights[0]) + (weights.len() + apart * N_BLOCKS) * 144;
            let last = asked.last().unwrap();
            assert!(places == Places::Neighbours || last.abs_diff(next) < 16 * 144, "{last} {next}");
        }
    }
}
