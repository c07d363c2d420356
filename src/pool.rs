//! The compute threads. Whoever calls works along with the threads of the pool; work is cut into ranges whose results do
//! not depend on which thread took which range, so output is the same for any number of threads.

use std::ops::Range;
use std::sync::Arc;

use crate::kernel::Crew;

/// A fixed set of compute threads.
#[derive(Debug)]
pub struct Pool {
    crew: Arc<Crew>,
    /// The threads beside the caller's; `None` where there are none.
    _threads: Option<rayon::ThreadPool>,
}

/// The system refused to start the compute threads.
#[derive(Debug, thiserror::Error)]
#[error("cannot start {threads} compute threads: {source}; try a smaller --threads")]
pub struct PoolError {
    threads: usize,
    source: rayon::ThreadPoolBuildError,
}

impl Pool {
    /// A pool of `threads` threads, the caller's among them, or as many as the machine has where it is `None`.
    pub fn new(threads: Option<usize>) -> Result<Pool, PoolError> {
        let n = Pool::threads_for(threads);
        let crew = Arc::new(Crew::new(n));
        if n == 1 {
            return Ok(Pool { crew, _threads: None });
        }
        let threads = rayon::ThreadPoolBuilder::new()
            .num_threads(n - 1)
            .thread_name(|i| format!("compute-{}", i + 1))
            .build()
            .map_err(|source| PoolError { threads: n, source })?;
        let members = Arc::clone(&crew);
        threads.spawn_broadcast(move |thread| members.serve(thread.index() + 1));
        Ok(Pool { crew, _threads: Some(threads) })
    }

    /// How many threads a pool of `threads` has.
    pub fn threads_for(threads: Option<usize>) -> usize {
        threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)).clamp(1, 1024)
    }

    pub fn n_threads(&self) -> usize {
        self.crew.n_members()
    }

    /// Runs `pass` on the calling thread, after a call to the others that there will be work.
    pub fn enter<T>(&self, pass: impl FnOnce() -> T) -> T {
        self.crew.rouse();
        pass()
    }

    /// Calls `work` over `0..n`, cut into ranges of `grain` (the last one shorter), on all threads.
    pub fn for_ranges(&self, n: usize, grain: usize, work: impl Fn(Range<usize>) + Sync) {
        self.crew.for_ranges(n, grain, work);
    }

    /// Calls `work(i, row)` for every row of `rows`, each `row_len` long, on all threads.
    pub fn for_rows<T: Send>(&self, rows: &mut [T], row_len: usize, work: impl Fn(usize, &mut [T]) + Sync) {
        assert!(row_len > 0 && rows.len() % row_len == 0, "{} elements are not whole rows of {row_len}", rows.len());
        self.crew.for_chunks(rows, row_len, work);
    }

    /// Calls `work(i, chunk)` for every chunk of `len` elements of `slice` (the last one shorter), on all threads.
    pub fn for_chunks<T: Send>(&self, slice: &mut [T], len: usize, work: impl Fn(usize, &mut [T]) + Sync) {
        self.crew.for_chunks(slice, len, work);
    }

    /// Calls `work(start, part)` for parts of `slice` on all threads, each at most `most` long, which begin at multiples of
    /// `unit` and become shorter towards the end.
    pub fn for_parts<T: Send>(&self, slice: &mut [T], unit: usize, most: usize, work: impl Fn(usize, &mut [T]) + Sync) {
        self.crew.for_parts(slice, unit, most, work);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.crew.dismiss();
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
