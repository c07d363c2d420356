//! Large files written and read from end to end without pushing a model's weights out of the page cache: what has been
//! written is on its way to the disk while the next bytes come, and what is done with leaves the cache at once.

#![allow(unsafe_code, reason = "sync_file_range has no safe wrapper")]

use std::fs::File;
use std::io::{self, Read, Write};
use std::num::NonZeroU64;
use std::ops::Range;

use rustix::fs::{Advice, fadvise};

use super::system;

/// Bytes that are handed to the disk, or asked of it, together.
const WINDOW: u64 = 8 << 20;

/// Writes a new file.
#[derive(Debug)]
pub struct StreamWriter {
    file: File,
    written: u64,
    /// Up to here bytes are on their way to the disk.
    started: u64,
}

impl StreamWriter {
    /// `file`: empty, and open for writing.
    pub fn new(file: File) -> StreamWriter {
        StreamWriter { file, written: 0, started: 0 }
    }

    pub fn written(&self) -> u64 {
        self.written
    }

    /// Waits until all of it is on the disk.
    pub fn finish(self) -> io::Result<()> {
        self.file.sync_all()?;
        forget(&self.file, 0..self.written);
        Ok(())
    }
}

impl Write for StreamWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.written += n as u64;
        if self.written - self.started >= WINDOW {
            start_writing(&self.file, self.started..self.written);
            // Not more than two windows wait for the disk.
            let done = self.started.saturating_sub(WINDOW)..self.started;
            if !done.is_empty() {
                finish_writing(&self.file, done.clone());
                forget(&self.file, done);
            }
            self.started = self.written;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads a file from its beginning.
#[derive(Debug)]
pub struct StreamReader {
    file: File,
    read: u64,
    /// Up to here bytes have been asked for.
    asked: u64,
    /// What one request brings in at most.
    piece_bytes: u64,
}

impl StreamReader {
    /// `file`: open for reading, at its beginning.
    pub fn new(file: File) -> StreamReader {
        let piece_bytes = system::piece_bytes(&file);
        StreamReader { file, read: 0, asked: 0, piece_bytes }
    }
}

impl Read for StreamReader {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        while self.asked < self.read + WINDOW {
            let _ = fadvise(&self.file, self.asked, NonZeroU64::new(self.piece_bytes), Advice::WillNeed);
            self.asked += self.piece_bytes;
        }
        let n = self.file.read(bytes)?;
        let before = self.read;
        self.read += n as u64;
        if before / WINDOW != self.read / WINDOW {
            forget(&self.file, 0..self.read);
        }
        Ok(n)
    }
}

impl Drop for StreamReader {
    fn drop(&mut self) {
        forget(&self.file, 0..self.asked);
    }
}

/// Lets the page cache drop what is on the disk of a range. Advice: nothing depends on it.
fn forget(file: &File, range: Range<u64>) {
    if let Some(n) = NonZeroU64::new(range.end - range.start) {
        let _ = fadvise(file, range.start, Some(n), Advice::DontNeed);
    }
}

#[cfg(target_os = "linux")]
fn start_writing(file: &File, range: Range<u64>) {
    sync_range(file, range, libc::SYNC_FILE_RANGE_WRITE);
}

#[cfg(target_os = "linux")]
fn finish_writing(file: &File, range: Range<u64>) {
    let wait = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    sync_range(file, range, wait);
}

/// A failure is not lost: the `fsync` at the end reports it.
#[cfg(target_os = "linux")]
fn sync_range(file: &File, range: Range<u64>, flags: libc::c_uint) {
    use std::os::fd::AsRawFd;
    // SAFETY: The descriptor is that of an open file, and the call touches no memory of ours.
    unsafe {
        libc::sync_file_range(file.as_raw_fd(), range.start as i64, (range.end - range.start) as i64, flags);
    }
}

#[cfg(not(target_os = "linux"))]
fn start_writing(_file: &File, _range: Range<u64>) {}

#[cfg(not(target_os = "linux"))]
fn finish_writing(_file: &File, _range: Range<u64>) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_in_odd_pieces_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        let bytes: Vec<u8> = (0..3 * WINDOW as usize + 12_345).map(|i| (i * 31 + i / 977) as u8).collect();
        let mut writer = StreamWriter::new(File::create(&path).unwrap());
        bytes.chunks(99_991).for_each(|piece| writer.write_all(piece).unwrap());
        assert_eq!(writer.written(), bytes.len() as u64);
        writer.finish().unwrap();
        let mut found = Vec::new();
        StreamReader::new(File::open(&path).unwrap()).read_to_end(&mut found).unwrap();
        assert!(found == bytes);
    }
}
