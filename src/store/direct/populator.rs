//! Memory for the arena before it is needed. The kernel clears a page when it is first written to, and a virtual machine's
//! host may have to find it first: up to ten times as long as the disk takes to fill it. Done by the one that starts a
//! read, that would hold up computing; so a few threads do it ahead, as far as the pager says.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{Builder, JoinHandle};

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::Arena;

/// Bytes taken at a time; only between them does a thread stop.
const PIECE_BYTES: u64 = 2 << 20;
const MAX_THREADS: usize = 2;
/// After so many bytes it is known how long one takes.
const KNOWN_BYTES: u64 = 64 << 20;

/// Threads that take memory.
#[derive(Debug)]
pub struct Populator {
    /// `None` only while it is dropped.
    requests: Option<Sender<(u64, u64)>>,
    waiting: Receiver<(u64, u64)>,
    stop: Arc<AtomicBool>,
    done: Arc<Done>,
    threads: Vec<JoinHandle<()>>,
}

/// What the threads have done so far.
#[derive(Debug, Default)]
struct Done {
    bytes: AtomicU64,
    /// Time of processors that it took.
    ns: AtomicU64,
}

impl Populator {
    /// Where no thread can be started, whoever writes first takes the memory.
    pub fn new(arena: &Arc<Arena>) -> Populator {
        let (requests, waiting) = unbounded();
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::new(Done::default());
        let start = |n: usize| {
            let (arena, waiting, stop) = (Arc::clone(arena), waiting.clone(), Arc::clone(&stop));
            let done = Arc::clone(&done);
            Builder::new().name(format!("memory-{n}")).spawn(move || populate(&arena, &waiting, &stop, &done)).ok()
        };
        let n_threads = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
        let threads = (0..n_threads).filter_map(start).collect();
        Populator { requests: Some(requests), waiting, stop, done, threads }
    }

    /// The `n` bytes at `at` of the arena will be written to before long.
    pub fn ask(&self, at: u64, n: u64) {
        if let Some(requests) = &self.requests {
            requests.send((at, n)).expect("the other end is kept here");
        }
    }

    /// Bytes that all processors together can take in a second, once enough were taken to tell.
    pub fn bytes_per_second(&self) -> Option<f64> {
        let (bytes, ns) = (self.done.bytes.load(Relaxed), self.done.ns.load(Relaxed));
        let n_processors = std::thread::available_parallelism().map_or(1, usize::from);
        (bytes >= KNOWN_BYTES && ns > 0).then(|| bytes as f64 / (ns as f64 * 1e-9) * n_processors as f64)
    }

    /// Nothing of what was asked for is begun any more.
    pub fn forget(&self) {
        self.waiting.try_iter().for_each(drop);
    }
}

fn populate(arena: &Arena, waiting: &Receiver<(u64, u64)>, stop: &AtomicBool, done: &Done) {
    for (at, n) in waiting {
        let began = processor_ns();
        for start in (at..at + n).step_by(PIECE_BYTES as usize) {
            if stop.load(Relaxed) {
                return;
            }
            arena.populate(start, PIECE_BYTES.min(at + n - start));
        }
        done.ns.fetch_add(processor_ns() - began, Relaxed);
        done.bytes.fetch_add(n, Relaxed);
    }
}

/// Time that this thread has had of a processor; zero where the system does not say.
fn processor_ns() -> u64 {
    #[cfg(target_os = "linux")]
    {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
    }
    #[cfg(not(target_os = "linux"))]
    0
}

impl Drop for Populator {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        self.requests = None;
        for thread in self.threads.drain(..) {
            // It has nothing to tell.
            let _ = thread.join();
        }
    }
}
