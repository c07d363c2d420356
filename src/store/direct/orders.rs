//! What a reader is asked for, and what it answers.

use std::io;
use std::path::PathBuf;

use super::Way;
use crate::store::mapping::FileRange;

/// The caller's name for a batch of pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket(pub u64);

/// A file range and where it goes: its first byte lands at the arena's offset `at + range.offset % ALIGN`.
#[derive(Debug, Clone, Copy)]
pub struct Piece {
    pub range: FileRange,
    /// A multiple of [`ALIGN`](super::ALIGN), with [`slot_bytes`](super::slot_bytes) of the arena behind it for the range alone.
    pub at: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// Somebody waits for it.
    Demand,
    /// Somebody may want it: read while there is no demand.
    Speculative,
}

/// A batch of which all pieces have been read, or one could not be, or that was given up on the way.
#[derive(Debug)]
pub struct Completion {
    pub ticket: Ticket,
    pub outcome: Result<Extent, ReadError>,
}

/// How much of a batch was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    Whole,
    /// It was given up; so much had been read.
    Part {
        read_bytes: u64,
    },
}

/// What giving up a batch comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GivenUp {
    /// The kernel had nothing of it: no completion follows.
    Forgotten,
    /// Its place is in use until what is in flight of it has ended: a completion tells when.
    Ending,
    /// There was nothing left to save, or no such batch.
    Unchanged,
}

/// What keeps bytes of a model from being read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error(
        "{}: the {n_bytes} bytes at {offset} are no longer in the file: it was truncated after it was opened; copy or \
         download it again", path.display()
    )]
    Truncated { path: PathBuf, offset: u64, n_bytes: u64 },
    #[error(
        "{}: the {n_bytes} bytes at {offset} cannot be read: {source}; the disk fails or is gone: see the system's log",
        path.display()
    )]
    Io { path: PathBuf, offset: u64, n_bytes: u64, source: io::Error },
}

/// How a reader reads. The defaults are what was measured best.
#[derive(Debug, Clone, Copy)]
pub struct ReaderOptions {
    /// `None`: io_uring, or threads where it is refused.
    pub way: Option<Way>,
    /// The most that is read by one request; a multiple of [`ALIGN`](super::ALIGN).
    pub request_bytes: u32,
    /// The most that is in flight while there is demand.
    pub demand_bytes: u64,
    /// The most that is in flight when a speculative read is started: what demand may have to wait for.
    pub speculative_bytes: u64,
    /// Used where io_uring is not.
    pub n_threads: usize,
}

impl Default for ReaderOptions {
    fn default() -> ReaderOptions {
        ReaderOptions {
            way: None,
            request_bytes: 512 << 10,
            demand_bytes: 16 << 20,
            speculative_bytes: 4 << 20,
            n_threads: 8,
        }
    }
}
