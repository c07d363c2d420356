//! The lowest level of reading: requests in, what became of them out. Also where a model's files are opened for direct
//! reads, and checked: some file systems accept the flag and then give other bytes.

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::path::Path;

use super::{ALIGN, Arena};
use crate::store::mapping::{FileRange, ModelFile, StoreError};

/// How reads reach the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The kernel's queue, no thread.
    Uring,
    /// Threads that block.
    Threads,
}

impl Way {
    pub fn name(self) -> &'static str {
        match self {
            Way::Uring => "io_uring",
            Way::Threads => "threads",
        }
    }
}

/// One read: all of it a multiple of [`ALIGN`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    /// What its [`Finished`] is called.
    pub id: u32,
    /// Index into the model's files.
    pub file: usize,
    pub offset: u64,
    /// Where it goes in the arena.
    pub at: u64,
    pub n_bytes: u32,
}

/// A request that has ended: the bytes that arrived, fewer than asked for at the end of the file and wherever the system
/// likes.
#[derive(Debug)]
pub(super) struct Finished {
    pub id: u32,
    pub outcome: io::Result<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    No,
    /// Until one request has ended.
    One,
}

/// Where requests go.
pub(super) trait Source: Send + Debug {
    fn way(&self) -> Way;

    /// Begins reads, in this order, and returns at once. No more than [`super::reader::MAX_REQUESTS`] may be in flight,
    /// and no two of them may go to the same bytes of the arena.
    fn start(&mut self, requests: &[Request]);

    /// Appends the requests that have ended. Waiting, there must be one in flight.
    fn reap(&mut self, wait: Wait, finished: &mut Vec<Finished>);
}

/// Opens the model's files again, for reads past the page cache, and checks a read of each against the mapping.
pub(super) fn open_direct(model: &ModelFile) -> Result<Vec<File>, StoreError> {
    let files = &model.gguf().files;
    (0..files.len()).map(|file| open_one(model, file, &files[file].path, files[file].bytes)).collect()
}

fn open_one(model: &ModelFile, index: usize, path: &Path, n_bytes: u64) -> Result<File, StoreError> {
    let failed = |source| StoreError::Direct { path: path.to_owned(), source };
    let mapped = model.file(index).ok_or(StoreError::InMemory)?;
    let file = open_past_cache(path).map_err(failed)?;
    if !same_file(mapped, &file).map_err(failed)? {
        return Err(StoreError::Replaced { path: path.to_owned() });
    }
    // The file's last block, where a read is short, and one in its middle.
    let buffer = Arena::new(ALIGN)?;
    for offset in [n_bytes / 2, n_bytes.saturating_sub(1)].map(|offset| offset / ALIGN * ALIGN) {
        let expected = (n_bytes - offset).min(ALIGN);
        let found = read_at(&file, offset, &buffer, 0, ALIGN as u32).map_err(failed)?;
        // SAFETY: The read into the buffer, which nobody else has, is over.
        let bytes = unsafe { buffer.bytes(0, expected as usize) };
        let range = FileRange { file: index, offset, n_bytes: expected };
        if u64::from(found) < expected || bytes != model.bytes(range) {
            return Err(StoreError::DirectDiffers { path: path.to_owned(), offset });
        }
    }
    Ok(file)
}

#[cfg(target_os = "linux")]
pub(super) fn open_past_cache(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options().read(true).custom_flags(libc::O_DIRECT).open(path)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn open_past_cache(path: &Path) -> io::Result<File> {
    File::open(path)
}

#[cfg(unix)]
fn same_file(a: &File, b: &File) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let (a, b) = (a.metadata()?, b.metadata()?);
    Ok((a.dev(), a.ino(), a.len()) == (b.dev(), b.ino(), b.len()))
}

#[cfg(not(unix))]
fn same_file(a: &File, b: &File) -> io::Result<bool> {
    Ok(a.metadata()?.len() == b.metadata()?.len())
}

/// One blocking read into the arena. The range must not be in use: it is the caller's as if by `&mut`.
pub(super) fn read_at(file: &File, offset: u64, arena: &Arena, at: u64, n_bytes: u32) -> io::Result<u32> {
    let target = arena.target(at, u64::from(n_bytes));
    // SAFETY: The bytes are within the arena, which outlives the slice, initialized, and nobody else's: requests in
    // flight do not overlap, and who takes a slice of the arena has promised that none is in flight there.
    let buffer = unsafe { std::slice::from_raw_parts_mut(target, n_bytes as usize) };
    #[cfg(unix)]
    let n = std::os::unix::fs::FileExt::read_at(file, buffer, offset)?;
    #[cfg(windows)]
    let n = std::os::windows::fs::FileExt::seek_read(file, buffer, offset)?;
    Ok(n as u32)
}
