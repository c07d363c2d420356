//! The KV cache of a conversation in a file: tokens, keys and values of a [`Session`] out, and back in without computing
//! them again.
//!
//! The file is a cache and never the truth: whatever is wrong with it, the conversation is read again. All numbers are
//! little-endian.
//!
//! | part | what |
//! |---|---|
//! | header | magic, version, format of keys and values, fingerprint of the model, shape, counts; its checksum |
//! | `TOKS` | the token ids, 4 bytes each |
//! | `SAID` | the replies among them: first token, number, last token, 4 bytes each |
//! | `LAYR` × layers | keys and values of the positions used, as [`KvCache::layer_bytes`](crate::model::KvCache) has them |
//!
//! A section is its name and number, its length, its bytes and an XXH3 checksum over all of that. A file is written beside
//! the old one, synced and then renamed, so that there is always a whole one.

use std::fs::{self, File, OpenOptions};
use std::hash::Hasher;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use twox_hash::{XxHash3_64, XxHash3_128};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Session;
use super::said::Said;
use crate::kernel::KvFormat;
use crate::model::{KvCacheError, Model};
use crate::store::{FileRange, ModelFile, StreamReader, StreamWriter};

const MAGIC: [u8; 8] = *b"WAYIN-KV";
/// Grows with every change of the file, of the cache's layout in memory, or of the numbers that the engine computes.
const VERSION: u32 = 1;
/// Bytes that are left free on a disk.
const SPARE_BYTES: u64 = 1 << 20;

/// Where the KV cache of a conversation is kept, and for which model.
///
/// Nothing here keeps two processes from one file: the conversation's own file is locked, see
/// [`SessionFile`](crate::transcript::SessionFile).
#[derive(Debug, Clone)]
pub struct KvFile {
    path: PathBuf,
    model: [u8; 16],
}

/// What a save cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Saved {
    pub bytes: u64,
    pub seconds: f64,
}

/// Why a KV cache was not saved. The file that was there before is as it was.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    #[error(
        "the disk of {} has {free} bytes free and {needed} are needed; make room or keep the session elsewhere", folder.display()
    )]
    NoSpace { folder: PathBuf, free: u64, needed: u64 },
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// It was asked not to go on.
    #[error("stopped")]
    Stopped,
}

/// Why a saved KV cache is not used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("there is none")]
    Absent,
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("is not one of WayInfer's")]
    Foreign,
    #[error("has version {found} of the format; this program reads version {VERSION}")]
    Version { found: u32 },
    #[error("is of another model, or of another version of this one")]
    OtherModel,
    #[error("holds keys and values as {found}, and the session was started with --kv {expected}")]
    OtherFormat { found: KvFormat, expected: KvFormat },
    #[error("holds {found} tokens and the context {capacity}; start with a larger --ctx to use it")]
    TooLong { found: usize, capacity: usize },
    #[error("has {found} bytes where {expected} belong; it was cut off or added to")]
    Length { found: u64, expected: u64 },
    #[error("is damaged in {section}")]
    Damaged { section: Section },
    #[error(transparent)]
    KvCache(#[from] KvCacheError),
}

/// A part of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    Header,
    Tokens,
    Replies,
    Layer(u32),
}

impl std::fmt::Display for Section {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Section::Header => f.write_str("its header"),
            Section::Tokens => f.write_str("its tokens"),
            Section::Replies => f.write_str("its list of replies"),
            Section::Layer(n) => write!(f, "layer {n}"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    version: U32,
    /// Place in [`KvFormat::ALL`].
    format: U32,
    model: [u8; 16],
    /// Layers, heads of a layer, elements of a key and of a value.
    shape: [U32; 4],
    n_tokens: U32,
    n_replies: U32,
    /// Of what is before it.
    checksum: U64,
}

/// What comes before the bytes of a section.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct SectionHead {
    name: [u8; 4],
    number: U32,
    bytes: U64,
}

/// A reply, as it stands in the file.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct SavedReply {
    start: U32,
    n: U32,
    last: U32,
}

const HEADER_BYTES: u64 = size_of::<Header>() as u64;
const _: () = assert!(size_of::<Header>() == 64);
/// Bytes of a section besides its own.
const FRAME_BYTES: u64 = (size_of::<SectionHead>() + size_of::<U64>()) as u64;

impl Header {
    fn of(session: &Session<'_>, model: [u8; 16]) -> Header {
        let kv = &session.state.kv;
        let format = KvFormat::ALL.iter().position(|f| *f == kv.format()).expect("a format is one of all");
        let mut header = Header {
            magic: MAGIC,
            version: VERSION.into(),
            format: (format as u32).into(),
            model,
            shape: kv.shape().map(|n| (n as u32).into()),
            n_tokens: (session.cached.len() as u32).into(),
            n_replies: (session.replies.len() as u32).into(),
            checksum: 0.into(),
        };
        header.checksum = header.sum().into();
        header
    }

    fn sum(&self) -> u64 {
        XxHash3_64::oneshot(&self.as_bytes()[..size_of::<Header>() - size_of::<U64>()])
    }

    fn n_tokens(&self) -> usize {
        self.n_tokens.get() as usize
    }

    fn n_replies(&self) -> usize {
        self.n_replies.get() as usize
    }

    /// Bytes of a whole file with this header.
    fn file_bytes(&self, session: &Session<'_>) -> u64 {
        let [n_layers, ..] = session.state.kv.shape();
        let layer = |layer| FRAME_BYTES + session.state.kv.layer_len(layer, self.n_tokens());
        let layers = (0..n_layers).map(layer).sum::<u64>();
        let tokens = FRAME_BYTES + size_of::<U32>() as u64 * self.n_tokens() as u64;
        let replies = FRAME_BYTES + size_of::<SavedReply>() as u64 * self.n_replies() as u64;
        HEADER_BYTES + tokens + replies + layers
    }

    /// Checks all that the header says against the session that it is to be loaded into, and the length of its file.
    fn check(&self, session: &Session<'_>, model: &[u8; 16], found: u64) -> Result<(), LoadError> {
        if self.magic != MAGIC {
            return Err(LoadError::Foreign);
        }
        if self.version.get() != VERSION {
            return Err(LoadError::Version { found: self.version.get() });
        }
        if self.sum() != self.checksum.get() {
            return Err(LoadError::Damaged { section: Section::Header });
        }
        let kv = &session.state.kv;
        if self.model != *model || self.shape != kv.shape().map(|n| U32::new(n as u32)) {
            return Err(LoadError::OtherModel);
        }
        let format = KvFormat::ALL.get(self.format.get() as usize);
        let format = *format.ok_or(LoadError::Damaged { section: Section::Header })?;
        if format != kv.format() {
            return Err(LoadError::OtherFormat { found: format, expected: kv.format() });
        }
        if self.n_tokens() > session.capacity() {
            return Err(LoadError::TooLong { found: self.n_tokens(), capacity: session.capacity() });
        }
        if self.n_replies() > self.n_tokens() {
            return Err(LoadError::Damaged { section: Section::Header });
        }
        let expected = self.file_bytes(session);
        if found == expected { Ok(()) } else { Err(LoadError::Length { found, expected }) }
    }
}

impl Section {
    fn head(self, bytes: u64) -> SectionHead {
        let (name, number) = match self {
            Section::Header => unreachable!("the header is no section"),
            Section::Tokens => (b"TOKS", 0),
            Section::Replies => (b"SAID", 0),
            Section::Layer(n) => (b"LAYR", n),
        };
        SectionHead { name: *name, number: number.into(), bytes: bytes.into() }
    }
}

impl KvFile {
    /// The KV cache in `path` for `model`, which is bound to `file`.
    pub fn new(path: PathBuf, file: &ModelFile, model: &Model<'_>) -> KvFile {
        KvFile { path, model: fingerprint(file, model) }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the session's tokens, keys and values. `go_on` is asked between layers; where it says no, the save is given up.
    pub fn save(&self, session: &Session<'_>, go_on: &dyn Fn() -> bool) -> Result<Saved, SaveError> {
        let began = Instant::now();
        let header = Header::of(session, self.model);
        let needed = header.file_bytes(session);
        let folder = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let temporary = Temporary { path: temporary_path(&self.path) };
        // What is left of a save that was killed.
        let _ = fs::remove_file(&temporary.path);
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| SaveError::Io { path, source }
        };
        let space = rustix::fs::statvfs(folder).map_err(|e| failed(folder)(e.into()))?;
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        if free < needed + SPARE_BYTES {
            return Err(SaveError::NoSpace { folder: folder.to_owned(), free, needed });
        }
        let file = create(&temporary.path).map_err(failed(&temporary.path))?;
        let mut out = StreamWriter::new(file);
        if !write(&mut out, &header, session, go_on).map_err(failed(&temporary.path))? {
            return Err(SaveError::Stopped);
        }
        assert_eq!(out.written(), needed, "bytes of a saved KV cache");
        out.finish().map_err(failed(&temporary.path))?;
        fs::rename(&temporary.path, &self.path).map_err(failed(&self.path))?;
        // The rename itself is on the disk when its folder is.
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed(folder))?;
        let saved = Saved { bytes: needed, seconds: began.elapsed().as_secs_f64() };
        tracing::info!(bytes = saved.bytes, seconds = saved.seconds, "saved the KV cache");
        Ok(saved)
    }

    /// Fills the session from the file and returns how many tokens it then holds. After an error the session is empty.
    pub fn load(&self, session: &mut Session<'_>) -> Result<usize, LoadError> {
        let began = Instant::now();
        session.clear();
        let file = match open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(LoadError::Absent),
            other => other?,
        };
        let found = file.metadata()?;
        if !found.is_file() {
            return Err(LoadError::Foreign);
        }
        let mut input = StreamReader::new(file);
        let header = read_header(&mut input)?;
        header.check(session, &self.model, found.len())?;
        let (tokens, replies) = read_tokens(&mut input, &header, session.n_vocab())?;
        let n = tokens.len();
        let kv = &mut session.state.kv;
        kv.reserve(n)?;
        for layer in 0..kv.shape()[0] {
            read_section(
                &mut input,
                Section::Layer(layer as u32),
                kv.layer_len(layer, n),
                kv.layer_bytes_mut(layer, n),
            )?;
        }
        kv.commit(n);
        session.cached = tokens;
        session.replies = replies;
        tracing::info!(bytes = found.len(), seconds = began.elapsed().as_secs_f64(), "loaded the KV cache");
        Ok(n)
    }
}

/// What must be the same for keys and values to be those of a model: the sizes of its files, all that their headers say,
/// the numbers that the engine reads there, and a look at the weights, too short to read them.
fn fingerprint(file: &ModelFile, model: &Model<'_>) -> [u8; 16] {
    const SAMPLES: usize = 16;
    const SAMPLE_BYTES: u64 = 4096;
    let mut hasher = XxHash3_128::new();
    for (i, part) in file.gguf().files.iter().enumerate() {
        hasher.write(&part.bytes.to_le_bytes());
        hasher.write(file.header_bytes(i));
    }
    hasher.write(format!("{:?}", model.hyperparameters()).as_bytes());
    let tensors = &file.gguf().tensors;
    for sample in 0..SAMPLES.min(tensors.len()) {
        let tensor = &tensors[sample * tensors.len() / SAMPLES.min(tensors.len())];
        let n_bytes = tensor.n_bytes.min(SAMPLE_BYTES);
        let offset = tensor.offset + (tensor.n_bytes - n_bytes) / 2;
        hasher.write(file.bytes(FileRange { file: tensor.file, offset, n_bytes }));
    }
    hasher.finish_128().to_le_bytes()
}

/// A file that goes away again unless it is renamed before.
struct Temporary {
    path: PathBuf,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn temporary_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    name.into()
}

/// A new file, readable by its owner alone.
fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Opens a file for reading; a pipe would otherwise wait for its other end.
fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, rustix::fs::OFlags::NONBLOCK.bits() as i32);
    options.open(path)
}

/// Writes a whole file; `false`: `go_on` said no.
fn write(out: impl Write, header: &Header, session: &Session<'_>, go_on: &dyn Fn() -> bool) -> io::Result<bool> {
    let mut out = BufWriter::with_capacity(1 << 20, out);
    out.write_all(header.as_bytes())?;
    let tokens: Vec<U32> = session.cached.iter().map(|&token| token.into()).collect();
    write_section(&mut out, Section::Tokens, size_of_val(&tokens[..]) as u64, [tokens.as_bytes()].into_iter())?;
    let replies: Vec<SavedReply> = session.replies.iter().map(SavedReply::of).collect();
    write_section(&mut out, Section::Replies, size_of_val(&replies[..]) as u64, [replies.as_bytes()].into_iter())?;
    let kv = &session.state.kv;
    for layer in 0..kv.shape()[0] {
        if !go_on() {
            return Ok(false);
        }
        write_section(
            &mut out,
            Section::Layer(layer as u32),
            kv.layer_len(layer, kv.len()),
            kv.layer_bytes(layer, kv.len()),
        )?;
    }
    out.flush()?;
    Ok(true)
}

/// Writes a section of `bytes` bytes, which lie in `pieces`.
fn write_section<'p>(
    out: &mut impl Write,
    section: Section,
    bytes: u64,
    pieces: impl Iterator<Item = &'p [u8]>,
) -> io::Result<()> {
    let head = section.head(bytes);
    let mut hasher = XxHash3_64::new();
    hasher.write(head.as_bytes());
    out.write_all(head.as_bytes())?;
    for piece in pieces {
        hasher.write(piece);
        out.write_all(piece)?;
    }
    out.write_all(&hasher.finish().to_le_bytes())
}

/// Reads a header; a file that is too short for one is foreign, or cut off where it begins like one.
fn read_header(input: &mut impl Read) -> Result<Header, LoadError> {
    let mut bytes = Vec::with_capacity(size_of::<Header>());
    input.take(HEADER_BYTES).read_to_end(&mut bytes)?;
    match Header::read_from_bytes(&bytes) {
        Ok(header) => Ok(header),
        Err(_) if !bytes.is_empty() && bytes.starts_with(&MAGIC[..bytes.len().min(MAGIC.len())]) => {
            Err(LoadError::Length { found: bytes.len() as u64, expected: HEADER_BYTES })
        }
        Err(_) => Err(LoadError::Foreign),
    }
}

/// Reads the tokens and the replies among them, all of them checked. `header`: checked.
fn read_tokens(input: &mut impl Read, header: &Header, n_vocab: usize) -> Result<(Vec<u32>, Vec<Said>), LoadError> {
    let mut tokens = vec![U32::new(0); header.n_tokens()];
    let bytes = tokens.as_mut_bytes();
    read_section(input, Section::Tokens, bytes.len() as u64, [bytes].into_iter())?;
    let mut replies = vec![SavedReply { start: 0.into(), n: 0.into(), last: 0.into() }; header.n_replies()];
    let bytes = replies.as_mut_bytes();
    read_section(input, Section::Replies, bytes.len() as u64, [bytes].into_iter())?;
    let tokens: Vec<u32> = tokens.iter().map(|token| token.get()).collect();
    if tokens.iter().any(|&token| token as usize >= n_vocab) {
        return Err(LoadError::Damaged { section: Section::Tokens });
    }
    let replies: Vec<Said> = replies.iter().map(SavedReply::said).collect();
    let mut free = 0;
    for reply in &replies {
        let fits = reply.n > 0 && reply.start >= free && reply.known_end() <= tokens.len();
        if !fits || reply.last as usize >= n_vocab {
            return Err(LoadError::Damaged { section: Section::Replies });
        }
        free = reply.known_end() + 1;
    }
    Ok((tokens, replies))
}

/// Reads a section that must have `bytes` bytes into `pieces`, which have as many.
fn read_section<'p>(
    input: &mut impl Read,
    section: Section,
    bytes: u64,
    pieces: impl Iterator<Item = &'p mut [u8]>,
) -> Result<(), LoadError> {
    let damaged = || LoadError::Damaged { section };
    let mut head = [0; size_of::<SectionHead>()];
    input.read_exact(&mut head)?;
    if head != *section.head(bytes).as_bytes() {
        return Err(damaged());
    }
    let mut hasher = XxHash3_64::new();
    hasher.write(&head);
    for piece in pieces {
        // In parts that are still in the processor's cache when they are summed.
        for part in piece.chunks_mut(256 << 10) {
            input.read_exact(part)?;
            hasher.write(part);
        }
    }
    let mut sum = [0; size_of::<u64>()];
    input.read_exact(&mut sum)?;
    if hasher.finish() == u64::from_le_bytes(sum) { Ok(()) } else { Err(damaged()) }
}

impl SavedReply {
    fn of(said: &Said) -> SavedReply {
        SavedReply { start: (said.start as u32).into(), n: (said.n as u32).into(), last: said.last.into() }
    }

    fn said(&self) -> Said {
        Said { start: self.start.get() as usize, n: self.n.get() as usize, last: self.last.get() }
    }
}
