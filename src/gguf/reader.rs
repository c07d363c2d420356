//! A small buffered reader over the header of a GGUF file: little-endian numbers, strings and arrays of numbers out.
//! Every length is checked against the bytes left in the file, and against the limit of a header, before anything is
//! allocated for it.

use std::io::{ErrorKind, Read};

use super::GgufError;
use super::metadata::Original;

/// The largest header that is read. A vocabulary of 260,000 tokens takes about 15 MB.
pub(super) const MAX_HEADER_BYTES: u64 = 128 << 20;

const BUFFER_BYTES: u64 = 64 << 10;

/// Width of the counts and lengths in the file: 32 bits in version 1, 64 bits since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CountWidth {
    Bits32,
    Bits64,
}

impl CountWidth {
    pub(super) fn bytes(self) -> u64 {
        match self {
            CountWidth::Bits32 => 4,
            CountWidth::Bits64 => 8,
        }
    }
}

/// What becomes of strings that are not UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Text {
    /// They are made so that they can be shown.
    Shown,
    /// That, and their bytes are kept beside, for a file to be written with them.
    Exact,
}

pub(super) struct Reader<R> {
    source: R,
    /// Bytes of the whole file.
    len: u64,
    /// Offset in the file of the next byte to hand out.
    offset: u64,
    buffer: Box<[u8]>,
    /// The bytes of `buffer` that are read and not yet handed out.
    ready: std::ops::Range<usize>,
    pub(super) counts: CountWidth,
    text: Text,
    /// Strings of the value that is being read, and those of them that are not UTF-8.
    n_strings: u32,
    originals: Vec<Original>,
}

impl<R: Read> Reader<R> {
    /// `len`: bytes that `source` holds.
    pub(super) fn new(source: R, len: u64, text: Text) -> Reader<R> {
        let buffer = vec![0; len.clamp(16, BUFFER_BYTES) as usize].into_boxed_slice();
        let (ready, counts) = (0..0, CountWidth::Bits64);
        Reader { source, len, offset: 0, buffer, ready, counts, text, n_strings: 0, originals: Vec::new() }
    }

    /// The number of the string that is read next, within its value.
    pub(super) fn count_string(&mut self) -> u32 {
        self.n_strings += 1;
        self.n_strings - 1
    }

    pub(super) fn keep_original(&mut self, original: Original) {
        if self.text == Text::Exact {
            self.originals.push(original);
        }
    }

    /// Ends a value: its strings that are not UTF-8, where they are kept.
    pub(super) fn take_originals(&mut self) -> Vec<Original> {
        self.n_strings = 0;
        std::mem::take(&mut self.originals)
    }

    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes of the file not yet read.
    pub(super) fn remaining(&self) -> u64 {
        self.len - self.offset
    }

    pub(super) fn u8(&mut self, what: &'static str) -> Result<u8, GgufError> {
        self.bytes::<1>(what).map(|b| b[0])
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, GgufError> {
        self.bytes(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64, GgufError> {
        self.bytes(what).map(u64::from_le_bytes)
    }

    /// A count or length in the width of the file's version.
    pub(super) fn count(&mut self, what: &'static str) -> Result<u64, GgufError> {
        match self.counts {
            CountWidth::Bits32 => self.u32(what).map(u64::from),
            CountWidth::Bits64 => self.u64(what),
        }
    }

    /// A count of things of at least `min_bytes` each, of which there may be `limit`.
    pub(super) fn bounded_count(&mut self, what: &'static str, min_bytes: u64, limit: u64) -> Result<usize, GgufError> {
        let offset = self.offset;
        let found = self.count(what)?;
        self.check_count(found, what, offset, min_bytes, limit)
    }

    /// Refuses a count found at `offset` whose things cannot fit in the file.
    pub(super) fn check_count(
        &self,
        found: u64,
        what: &'static str,
        offset: u64,
        min_bytes: u64,
        limit: u64,
    ) -> Result<usize, GgufError> {
        if found > limit {
            return Err(GgufError::TooMany { what, offset, found, limit });
        }
        self.check(found.saturating_mul(min_bytes), what)?;
        Ok(found as usize)
    }

    /// The next `N` bytes.
    pub(super) fn bytes<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], GgufError> {
        self.check(N as u64, what)?;
        self.fill(N)?;
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.buffer[self.ready.start..][..N]);
        self.advance(N);
        Ok(bytes)
    }

    /// A string's bytes: its length, checked against `limit`, and what follows.
    pub(super) fn string(&mut self, what: &'static str, limit: u64) -> Result<Vec<u8>, GgufError> {
        let n = self.bounded_count(what, 1, limit)?;
        let mut bytes = Vec::with_capacity(n);
        while bytes.len() < n {
            self.fill(1)?;
            let take = (n - bytes.len()).min(self.ready.len());
            bytes.extend_from_slice(&self.buffer[self.ready.start..][..take]);
            self.advance(take);
        }
        Ok(bytes)
    }

    /// `n` numbers of `N` bytes each; the caller has checked `n` against the file.
    pub(super) fn numbers<T, const N: usize>(
        &mut self,
        n: usize,
        from_le_bytes: impl Fn([u8; N]) -> T,
    ) -> Result<Vec<T>, GgufError> {
        let mut numbers = Vec::with_capacity(n);
        while numbers.len() < n {
            self.fill(N)?;
            let take = (n - numbers.len()).min(self.ready.len() / N);
            let (whole, _) = self.buffer[self.ready.start..][..take * N].as_chunks::<N>();
            numbers.extend(whole.iter().map(|&b| from_le_bytes(b)));
            self.advance(take * N);
        }
        Ok(numbers)
    }

    /// Refuses what would need more bytes than the file, or a header, has left.
    fn check(&self, needed: u64, what: &'static str) -> Result<(), GgufError> {
        let (offset, remaining) = (self.offset, self.remaining());
        if needed > remaining {
            return Err(GgufError::Truncated { what, offset, needed, remaining });
        }
        if offset + needed > MAX_HEADER_BYTES {
            return Err(GgufError::HeaderTooLarge { limit: MAX_HEADER_BYTES });
        }
        Ok(())
    }

    fn advance(&mut self, n: usize) {
        self.ready.start += n;
        self.offset += n as u64;
    }

    /// Has at least `n` bytes ready; `n` is at most 16, the smallest buffer.
    fn fill(&mut self, n: usize) -> Result<(), GgufError> {
        if self.ready.len() >= n {
            return Ok(());
        }
        self.buffer.copy_within(self.ready.clone(), 0);
        self.ready = 0..self.ready.len();
        while self.ready.len() < n {
            match self.source.read(&mut self.buffer[self.ready.end..]) {
                Ok(0) => {
                    let source = std::io::Error::from(ErrorKind::UnexpectedEof);
                    return Err(GgufError::Read { offset: self.offset, source });
                }
                Ok(read) => self.ready.end += read,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(source) => return Err(GgufError::Read { offset: self.offset, source }),
            }
        }
        Ok(())
    }
}
