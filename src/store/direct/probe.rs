//! How fast a disk gives bytes of a file past the page cache: a path in, bytes and seconds out. It reads as experts are
//! read, in pieces at places that no readahead can foresee.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::orders::ReaderOptions;
use super::reader::MAX_REQUESTS;
use super::source::{Finished, Request, Source, Wait, Way, open_past_cache};
use super::threads::Threads;
use super::{ALIGN, Arena};

/// Bytes that lie together in the file, about an expert's matrix.
const PIECE_BYTES: u64 = 4 << 20;
/// A file must have so many for its figure to mean anything.
const LEAST_PIECES: u64 = 8;

/// What a probe has read, and how.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Probe {
    pub way: Way,
    pub bytes: u64,
    pub seconds: f64,
}

impl Probe {
    /// The least that a file may have to be probed.
    pub const LEAST_BYTES: u64 = LEAST_PIECES * PIECE_BYTES;

    /// Reads from the file at `path`, each piece at most once, for about `patience`.
    ///
    /// # Errors
    /// The file is too small or cannot be read past the page cache.
    pub fn run(path: &Path, patience: Duration) -> io::Result<Probe> {
        let file = open_past_cache(path)?;
        let pieces = file.metadata()?.len() / PIECE_BYTES;
        if pieces < LEAST_PIECES {
            let what = format!("a file of {} MiB or more is needed", Self::LEAST_BYTES >> 20);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let options = ReaderOptions::default();
        let slots = (options.demand_bytes / u64::from(options.request_bytes)).min(MAX_REQUESTS as u64);
        let arena = Arena::new(slots * u64::from(options.request_bytes)).map_err(io::Error::other)?;
        let source = open(file, &Arc::new(arena), options.n_threads)?;
        read(source, pieces, options.request_bytes, slots as u32, patience)
    }
}

fn open(file: File, arena: &Arc<Arena>, n_threads: usize) -> io::Result<Box<dyn Source>> {
    #[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
    if let Ok(ring) = super::uring::Uring::try_ring() {
        return Ok(Box::new(super::uring::Uring::new(ring, vec![file], arena.clone())));
    }
    Ok(Box::new(Threads::new(vec![file], arena, n_threads).map_err(io::Error::other)?))
}

/// Keeps `slots` requests in flight until the pieces or the patience are used up.
fn read(
    mut source: Box<dyn Source>,
    pieces: u64,
    request_bytes: u32,
    slots: u32,
    patience: Duration,
) -> io::Result<Probe> {
    let parts = PIECE_BYTES / u64::from(request_bytes);
    let step = stride(pieces);
    let request = |n: u64, slot: u32| Request {
        id: slot,
        file: 0,
        offset: (n / parts * step % pieces) * PIECE_BYTES + n % parts * u64::from(request_bytes),
        at: u64::from(slot) * u64::from(request_bytes),
        n_bytes: request_bytes,
    };
    let all = pieces * parts;
    let began = Instant::now();
    let first: Vec<_> = (0..slots.min(all as u32)).map(|slot| request(slot.into(), slot)).collect();
    let (mut asked, mut in_flight) = (first.len() as u64, first.len());
    source.start(&first);
    let (mut bytes, mut failed) = (0, None);
    let mut finished: Vec<Finished> = Vec::new();
    // What is in flight is waited for, whatever happens: it goes to memory that is given back behind this.
    while in_flight > 0 {
        source.reap(Wait::One, &mut finished);
        let mut next = Vec::new();
        for Finished { id, outcome } in finished.drain(..) {
            in_flight -= 1;
            match outcome {
                Ok(n) => bytes += u64::from(n),
                Err(error) => {
                    failed.get_or_insert(error);
                }
            }
            if failed.is_none() && asked < all && began.elapsed() < patience {
                next.push(request(asked, id));
                asked += 1;
            }
        }
        in_flight += next.len();
        source.start(&next);
    }
    match failed {
        Some(error) => Err(error),
        None => Ok(Probe { way: source.way(), bytes, seconds: began.elapsed().as_secs_f64() }),
    }
}

/// A step that visits all of `pieces`, in an order that is far from theirs.
fn stride(pieces: u64) -> u64 {
    let gcd = |mut a: u64, mut b: u64| {
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    let wanted = (pieces as f64 * 0.618) as u64;
    (wanted.max(1)..=pieces).find(|&step| gcd(step, pieces) == 1).unwrap_or(1)
}

/// Whether this process may use io_uring.
///
/// # Errors
/// Why not.
pub fn io_uring() -> io::Result<()> {
    #[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
    return super::uring::Uring::try_ring().map(drop);
    #[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
    Err(io::ErrorKind::Unsupported.into())
}

/// Whether the file at `path` can be read past the page cache.
///
/// # Errors
/// Why not.
pub fn past_cache(path: &Path) -> io::Result<()> {
    if !cfg!(target_os = "linux") {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let file = open_past_cache(path)?;
    let buffer = Arena::new(ALIGN).map_err(io::Error::other)?;
    super::source::read_at(&file, 0, &buffer, 0, ALIGN as u32).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stride_visits_every_piece_once() {
        for pieces in 1..200 {
            let step = stride(pieces);
            let mut seen: Vec<_> = (0..pieces).map(|n| n * step % pieces).collect();
            seen.sort_unstable();
            assert_eq!(seen, (0..pieces).collect::<Vec<_>>(), "{pieces}");
        }
    }

    #[test]
    fn a_probe_reads_the_file_once_and_refuses_one_that_is_too_small() {
        let folder = tempfile::tempdir_in(std::env::current_exe().unwrap().parent().unwrap()).unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, vec![7; Probe::LEAST_BYTES as usize]).unwrap();
        match Probe::run(&path, Duration::from_secs(60)) {
            Ok(probe) => assert_eq!(probe.bytes, Probe::LEAST_BYTES),
            Err(error) => println!("SKIP: this folder's file system takes no direct reads: {error}"),
        }
        std::fs::write(&path, vec![7; Probe::LEAST_BYTES as usize - 1]).unwrap();
        assert!(Probe::run(&path, Duration::ZERO).unwrap_err().to_string().contains("32 MiB"));
        assert!(Probe::run(&folder.path().join("none"), Duration::ZERO).is_err());
    }
}
