//! The compute threads. A pass enters the pool once ([`Pool::enter`]); inside it, work is cut into ranges whose results
//! do not depend on which thread took which range, so output is the same for any number of threads.

use std::ops::Range;

use rayon::prelude::*;

/// A fixed set of compute threads.
#[derive(Debug)]
pub struct Pool {
    threads: rayon::ThreadPool,
}

/// The system refused to start the compute threads.
#[derive(Debug, thiserror::Error)]
#[error("cannot start {threads} compute threads: {source}; try a smaller --threads")]
pub struct PoolError {
    threads: usize,
    source: rayon::ThreadPoolBuildError,
}

impl Pool {
    /// A pool of `threads` threads, or as many as the machine has where it is `None`.
    pub fn new(threads: Option<usize>) -> Result<Pool, PoolError> {
        let n = threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)).clamp(1, 1024);
        rayon::ThreadPoolBuilder::new()
            .num_threads(n)
            .thread_name(|i| format!("compute-{i}"))
            .build()
            .map(|threads| Pool { threads })
            .map_err(|source| PoolError { threads: n, source })
    }

    pub fn n_threads(&self) -> usize {
        self.threads.current_num_threads()
    }

    /// Runs `pass` on a thread of the pool: what it splits with [`Pool::for_ranges`] is then handed over cheaply.
    pub fn enter<T: Send>(&self, pass: impl FnOnce() -> T + Send) -> T {
        self.threads.install(pass)
    }

    /// Calls `work` over `0..n`, cut into ranges of `grain` (the last one shorter), on all threads.
    pub fn for_ranges(&self, n: usize, grain: usize, work: impl Fn(Range<usize>) + Sync) {
        assert!(grain > 0, "ranges of no length");
        if n <= grain || self.n_threads() == 1 {
            let mut start = 0;
            while start < n {
                let end = n.min(start + grain);
                work(start..end);
                start = end;
            }
            return;
        }
        self.threads.install(|| {
            (0..n.div_ceil(grain)).into_par_iter().for_each(|i| work(i * grain..n.min((i + 1) * grain)));
        });
    }

    /// Calls `work(i, row)` for every row of `rows`, each `row_len` long, on all threads.
    pub fn for_rows<T: Send>(&self, rows: &mut [T], row_len: usize, work: impl Fn(usize, &mut [T]) + Sync) {
        assert!(row_len > 0 && rows.len().is_multiple_of(row_len), "{} elements are not whole rows of {row_len}", rows.len());
        if rows.len() <= row_len || self.n_threads() == 1 {
            rows.chunks_exact_mut(row_len).enumerate().for_each(|(i, row)| work(i, row));
            return;
        }
        self.threads.install(|| rows.par_chunks_exact_mut(row_len).enumerate().for_each(|(i, row)| work(i, row)));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn every_index_is_visited_once_for_any_grain_and_thread_count() {
        for threads in [1, 2, 3] {
            let pool = Pool::new(Some(threads)).unwrap();
            for (n, grain) in [(0, 4), (1, 4), (4, 4), (5, 4), (1000, 7)] {
                let seen: Vec<AtomicUsize> = (0..n).map(|_| AtomicUsize::new(0)).collect();
                pool.for_ranges(n, grain, |r| r.for_each(|i| _ = seen[i].fetch_add(1, Ordering::Relaxed)));
                assert!(seen.iter().all(|s| s.load(Ordering::Relaxed) == 1), "threads {threads} n {n} grain {grain}");
            }
        }
    }
}
