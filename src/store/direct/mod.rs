//! Expert bytes past the page cache: an arena of anonymous memory, and a reader that fills it with direct reads, several
//! in flight. Batches of file ranges go in, completions come out; which range lies where in the arena is the caller's.
//!
//! The reader has a queue of its own, demand before speculation, of which the kernel gets only as much as keeps the disk
//! busy. With io_uring no thread takes part: the kernel's queue is filled again whenever the reader is called, so reads
//! go on while every core computes. Where io_uring is refused, as in many containers, a few threads read instead.

#![allow(unsafe_code, reason = "the kernel writes to the arena while it is shared, outside of what Rust can see")]

mod arena;
mod orders;
mod populator;
mod probe;
mod reader;
mod source;
#[cfg(test)]
mod tests;
mod threads;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod uring;

pub use arena::Arena;
pub use orders::{Completion, Extent, GivenUp, Piece, ReadError, ReaderOptions, Ticket, Urgency};
pub use populator::Populator;
pub use probe::{Probe, io_uring, past_cache};
pub use reader::Reader;
pub use source::Way;

use super::mapping::FileRange;

/// Direct reads begin and end at multiples of this in the file and in the arena.
pub const ALIGN: u64 = 4096;

/// Bytes of the arena that a file range needs: rounded out to [`ALIGN`] on both sides.
pub fn slot_bytes(range: FileRange) -> u64 {
    (range.offset % ALIGN + range.n_bytes).next_multiple_of(ALIGN)
}
