//! A model's files mapped into memory, read-only: a path in, tensors as byte slices out. Opening maps the files and
//! reads their headers; weights are read by the kernel when they are touched or asked for.

#![allow(unsafe_code, reason = "mapping a file is unsafe: its bytes are somebody else's to change")]

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use memmap2::{Mmap, MmapMut};

use super::direct::ReadError;
use super::guard::Guard;
use super::system;
use crate::gguf::{Gguf, GgufError, TensorInfo};

/// What keeps a model from being mapped.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(transparent)]
    Gguf(#[from] GgufError),
    #[error("{}: cannot be mapped: {source}", path.display())]
    Map { path: PathBuf, source: io::Error },
    #[error("{}: changed from {expected} to {found} bytes while it was opened; wait until it is complete", path.display())]
    Changed { path: PathBuf, expected: u64, found: u64 },
    #[error(
        "{}: the bytes from {offset} on are gone: the file was truncated, or the disk failed to read them; check both, \
         then open the model again", path.display()
    )]
    Lost { path: PathBuf, offset: u64 },
    #[error("{}: was written to while it was in use; open the model again", path.display())]
    Written { path: PathBuf },
    #[error("the model of {bytes} bytes does not fit in this machine's address space; use a 64-bit system")]
    AddressSpace { bytes: u64 },
    #[error(
        "tensor `{name}` has shape {found:?}, expected three dimensions, the last as long as that of `{gate}`; the \
         model is damaged, convert it again"
    )]
    Experts { name: String, found: Vec<u64>, gate: String },
    #[error("{bytes} bytes of memory for experts are refused: {source}; give the model less memory")]
    Arena { bytes: u64, source: io::Error },
    #[error("a model in memory has no file to read experts from; use it mapped")]
    InMemory,
    #[error("{}: cannot be read past the page cache: {source}; use the model mapped", path.display())]
    Direct { path: PathBuf, source: io::Error },
    #[error(
        "{}: reads past the page cache give other bytes than reads through it, at {offset}; use the model mapped, or \
         copy it to another disk", path.display()
    )]
    DirectDiffers { path: PathBuf, offset: u64 },
    #[error("{}: was replaced by another file after it was opened; start again", path.display())]
    Replaced { path: PathBuf },
    #[error("no thread to read experts with can be started: {0}; end other programs or raise the limit of threads")]
    Threads(io::Error),
    #[error("io_uring is refused: {0}; read with threads")]
    Uring(io::Error),
}

/// Bytes of one of a model's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileRange {
    /// Index into [`Gguf::files`].
    pub file: usize,
    pub offset: u64,
    pub n_bytes: u64,
}

/// Where the experts of a tensor `[n_in, n_out, n_experts]` lie: one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpertTensor {
    file: usize,
    offset: u64,
    /// Bytes of one expert.
    expert_bytes: u64,
    n_experts: u64,
}

impl ExpertTensor {
    /// `None` where the tensor has not three dimensions.
    pub fn of(tensor: &TensorInfo) -> Option<ExpertTensor> {
        let &[_, _, n_experts] = tensor.shape.as_slice() else { return None };
        let TensorInfo { file, offset, n_bytes, .. } = *tensor;
        Some(ExpertTensor { file, offset, expert_bytes: n_bytes.checked_div(n_experts)?, n_experts })
    }

    pub fn n_experts(&self) -> usize {
        self.n_experts as usize
    }

    pub fn range(&self, expert: usize) -> FileRange {
        let expert = expert as u64;
        assert!(expert < self.n_experts, "expert {expert} of {}", self.n_experts);
        FileRange { file: self.file, offset: self.offset + expert * self.expert_bytes, n_bytes: self.expert_bytes }
    }
}

/// An opened model: its header, and its bytes where they lie.
#[derive(Debug)]
pub struct ModelFile {
    gguf: Gguf,
    files: Vec<MappedFile>,
}

#[derive(Debug)]
struct MappedFile {
    /// Ends before the mapping that it guards. `None` for a model in memory.
    guard: Option<Guard>,
    map: Mmap,
    /// `None` for a model in memory.
    file: Option<File>,
    /// What tells that the file was written to.
    stamp: Option<Stamp>,
    /// The most that one WILLNEED brings in.
    piece_bytes: u64,
}

/// Length and time of the last change of a file.
type Stamp = (u64, SystemTime);

/// `None` where the system does not say.
fn stamp(file: &File) -> Option<Stamp> {
    let metadata = file.metadata().ok()?;
    Some((metadata.len(), metadata.modified().ok()?))
}

impl ModelFile {
    /// Opens and maps a model by its file, or by any one of the files it is split over. Reads the headers only.
    ///
    /// # Errors
    /// What is wrong with a header, or why the system does not map the file.
    pub fn open(path: impl AsRef<Path>) -> Result<ModelFile, StoreError> {
        let gguf = Gguf::open(path)?;
        check_address_space(gguf.file_bytes())?;
        let map = |f: &crate::gguf::SplitFile| MappedFile::open(&f.path, f.bytes);
        let files = gguf.files.iter().map(map).collect::<Result<_, _>>()?;
        Ok(ModelFile { gguf, files })
    }

    /// A model of one file that is already in memory, for tests: the bytes are copied once.
    pub fn from_bytes(bytes: &[u8]) -> Result<ModelFile, StoreError> {
        let gguf = Gguf::parse(bytes)?;
        let in_memory = |source| StoreError::Map { path: PathBuf::from("the model in memory"), source };
        let mut map = MmapMut::map_anon(bytes.len()).map_err(in_memory)?;
        map.copy_from_slice(bytes);
        let map = map.make_read_only().map_err(in_memory)?;
        let piece_bytes = system::MIN_PIECE_BYTES;
        Ok(ModelFile { gguf, files: vec![MappedFile { guard: None, map, file: None, stamp: None, piece_bytes }] })
    }

    /// Whether all bytes that were read so far were there. Once they were not, zeros were read in their place, and the
    /// answer stays the same for as long as the model is open. Costs a load for each file.
    ///
    /// # Errors
    /// [`StoreError::Lost`] with the first place.
    pub fn check_read(&self) -> Result<(), StoreError> {
        for (file, split) in self.files.iter().zip(&self.gguf.files) {
            if let Some(offset) = file.guard.as_ref().and_then(Guard::lost_at) {
                return Err(StoreError::Lost { path: split.path.clone(), offset });
            }
        }
        Ok(())
    }

    /// [`ModelFile::check_read`], and whether the files are as they were when they were opened. Costs a system call for
    /// each, about a microsecond.
    ///
    /// # Errors
    /// [`StoreError::Lost`] where bytes are missing, [`StoreError::Written`] where others may have taken their place.
    pub fn check_unchanged(&self) -> Result<(), StoreError> {
        self.check_read()?;
        for (MappedFile { map, file, stamp: opened, .. }, split) in self.files.iter().zip(&self.gguf.files) {
            let found = file.as_ref().and_then(stamp);
            if found.is_none() || found == *opened {
                continue;
            }
            let path = split.path.clone();
            return Err(match found {
                Some((len, _)) if len < map.len() as u64 => StoreError::Lost { path, offset: len },
                _ => StoreError::Written { path },
            });
        }
        Ok(())
    }

    pub fn gguf(&self) -> &Gguf {
        &self.gguf
    }

    /// The tensor's data, `n_bytes` of it, where it lies in the mapping. Aligned as the file aligns it.
    ///
    /// # Panics
    /// Where the tensor is not of this model.
    pub fn tensor_bytes(&self, tensor: &TensorInfo) -> &[u8] {
        let TensorInfo { file, offset, n_bytes, .. } = *tensor;
        self.bytes(FileRange { file, offset, n_bytes })
    }

    /// The bytes of a range, where they lie in the mapping.
    pub fn bytes(&self, range: FileRange) -> &[u8] {
        &self.files[range.file].map[range.offset as usize..][..range.n_bytes as usize]
    }

    /// What comes before the first tensor of one of the files: its metadata and its table of tensors.
    pub fn header_bytes(&self, file: usize) -> &[u8] {
        let tensors = self.gguf.tensors.iter().filter(|t| t.file == file);
        let n_bytes = tensors.map(|t| t.offset).min().unwrap_or(self.gguf.files[file].bytes);
        self.bytes(FileRange { file, offset: 0, n_bytes })
    }

    /// Tells the kernel that the dense weights will be read from end to end. Until then, and for experts always, a page
    /// that is touched comes in alone: a few norms read at load would else bring in megabytes around each.
    pub fn advise_dense_sequential(&self) {
        for tensor in self.gguf.tensors.iter().filter(|t| !is_expert_tensor(t)) {
            self.files[tensor.file].advise(Advice::Normal, tensor.offset, tensor.n_bytes);
        }
    }

    /// Asks the kernel to read in a range, in pieces that it does not cut off. It is advice: where the system does not
    /// take it, the bytes are read when they are touched.
    pub(super) fn will_need(&self, range: FileRange) {
        let file = &self.files[range.file];
        let end = range.offset + range.n_bytes;
        let mut start = range.offset;
        while start < end {
            let next = (start + 1).next_multiple_of(file.piece_bytes).min(end);
            file.advise(Advice::WillNeed, start, next - start);
            start = next;
        }
    }

    /// Waits until a range has been read, so that touching it waits for nothing; where the system cannot, it does nothing.
    ///
    /// # Errors
    /// The bytes cannot be read, or are no longer in the file.
    pub(super) fn populate(&self, range: FileRange) -> Result<(), ReadError> {
        let FileRange { file, offset, n_bytes } = range;
        self.files[file].populate(offset, n_bytes).map_err(|source| {
            let path = self.gguf.files[file].path.clone();
            let file_bytes = self.file(file).and_then(|f| f.metadata().ok()).map(|m| m.len());
            match file_bytes {
                Some(there) if there < offset + n_bytes => ReadError::Truncated { path, offset, n_bytes },
                _ => ReadError::Io { path, offset, n_bytes, source },
            }
        })
    }

    /// Tells the kernel that a range will not be read soon, so that its memory is free for what will.
    pub(super) fn drop_pages(&self, range: FileRange) {
        self.files[range.file].drop_pages(range.offset, range.n_bytes);
    }

    /// The opened file of this index; `None` for a model in memory.
    pub(super) fn file(&self, file: usize) -> Option<&File> {
        self.files[file].file.as_ref()
    }
}

/// Whether the tensor holds the experts of a layer, of which a token needs only some.
pub fn is_expert_tensor(tensor: &TensorInfo) -> bool {
    tensor.shape.len() == 3 && tensor.name.contains("_exps.")
}

/// The layer of a tensor called `blk.LAYER.…`.
pub fn layer_of(name: &str) -> Option<usize> {
    name.strip_prefix("blk.")?.split_once('.')?.0.parse().ok()
}

fn check_address_space(bytes: u64) -> Result<(), StoreError> {
    isize::try_from(bytes).map(|_| ()).map_err(|_| StoreError::AddressSpace { bytes })
}

impl MappedFile {
    /// `expected`: bytes the file had when its header was read.
    fn open(path: &Path, expected: u64) -> Result<MappedFile, StoreError> {
        let failed = |source| StoreError::Map { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        // SAFETY: The mapping is shared and read-only, and its bytes are only ever read as plain numbers, for which any
        // value is valid. If another process writes to the file they change, which `check_unchanged` tells; if it
        // truncates the file, the lost pages become zeros and are noted by the guard.
        let map = unsafe { Mmap::map(&file) }.map_err(failed)?;
        if map.len() as u64 != expected {
            return Err(StoreError::Changed { path: path.to_owned(), expected, found: map.len() as u64 });
        }
        let (piece_bytes, stamp) = (system::piece_bytes(&file), stamp(&file));
        let mapped = MappedFile { guard: Some(Guard::new(&map)), map, file: Some(file), stamp, piece_bytes };
        mapped.advise(Advice::Random, 0, expected);
        Ok(mapped)
    }

    /// The range is within the mapping; its start is rounded down to a page there. A refusal changes nothing but speed.
    #[cfg(unix)]
    fn advise(&self, advice: Advice, offset: u64, n_bytes: u64) {
        let advice = match advice {
            Advice::Random => memmap2::Advice::Random,
            Advice::Normal => memmap2::Advice::Normal,
            Advice::WillNeed => memmap2::Advice::WillNeed,
        };
        let _ = self.map.advise_range(advice, offset as usize, n_bytes as usize);
    }

    #[cfg(target_os = "linux")]
    fn populate(&self, offset: u64, n_bytes: u64) -> io::Result<()> {
        match self.map.advise_range(memmap2::Advice::PopulateRead, offset as usize, n_bytes as usize) {
            // Linux before 5.14 does not know it.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
            other => other,
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn populate(&self, _offset: u64, _n_bytes: u64) -> io::Result<()> {
        Ok(())
    }

    #[cfg(target_os = "linux")]
    fn drop_pages(&self, offset: u64, n_bytes: u64) {
        // The bytes of a model in memory are nowhere else.
        let Some(file) = &self.file else { return };
        // SAFETY: The pages are of a file and this mapping is shared and read-only: dropped, they read from the file
        // again, the same bytes.
        let _ = unsafe {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            self.map.unchecked_advise_range(advice, offset as usize, n_bytes as usize)
        };
        // The page cache drops only what no process has mapped.
        let n_bytes = std::num::NonZeroU64::new(n_bytes);
        let _ = rustix::fs::fadvise(file, offset, n_bytes, rustix::fs::Advice::DontNeed);
    }

    #[cfg(not(target_os = "linux"))]
    fn drop_pages(&self, _offset: u64, _n_bytes: u64) {}

    #[cfg(not(unix))]
    fn advise(&self, _advice: Advice, _offset: u64, _n_bytes: u64) {}
}

/// What the kernel is told of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Advice {
    /// A touched page comes in alone.
    Random,
    /// A touched page brings in what follows.
    Normal,
    /// To be read in now.
    WillNeed,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::Metadata;
    use crate::gguf::writer::{TensorPlan, Writer};
    use crate::quant::GgmlType;

    fn model() -> Vec<u8> {
        let plan = |name: &str, shape: &[u64]| TensorPlan { name: name.into(), shape: shape.into(), ty: GgmlType::I8 };
        let plans = [plan("output.weight", &[70, 3]), plan("blk.0.ffn_up_exps.weight", &[8, 4, 3])];
        let mut writer = Writer::new(Vec::new(), &Metadata::default(), &plans).unwrap();
        writer.write("output.weight", &[7; 210]).unwrap();
        for expert in 0..3 {
            writer.write("blk.0.ffn_up_exps.weight", &[expert; 32]).unwrap();
        }
        writer.finish().unwrap()
    }

    #[test]
    fn tensors_and_experts_are_read_where_they_lie() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, model()).unwrap();
        for model in [ModelFile::from_bytes(&model()).unwrap(), ModelFile::open(&file).unwrap()] {
            assert_eq!(model.tensor_bytes(model.gguf().tensor("output.weight").unwrap()), [7; 210]);
            let experts = ExpertTensor::of(model.gguf().tensor("blk.0.ffn_up_exps.weight").unwrap()).unwrap();
            assert_eq!(experts.n_experts(), 3);
            for expert in 0..3 {
                model.will_need(experts.range(expert));
                assert_eq!(model.bytes(experts.range(expert)), [expert as u8; 32]);
            }
        }
    }

    #[cfg(target_pointer_width = "64")]
    #[test]
    fn a_model_of_18_gb_opens_without_reading_its_weights() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let plan = TensorPlan { name: "x".into(), shape: vec![18 << 30], ty: GgmlType::I8 };
        // The weights are left out: a hole in the file, of which nothing is on disk.
        drop(Writer::new(file.as_file(), &Metadata::default(), &[plan]).unwrap());
        let header = file.as_file().metadata().unwrap().len();
        file.as_file().set_len(header + (18 << 30)).unwrap();
        let start = std::time::Instant::now();
        let model = ModelFile::open(&file).unwrap();
        assert!(start.elapsed() < std::time::Duration::from_millis(500), "opened in {:?}", start.elapsed());
        assert_eq!(model.tensor_bytes(&model.gguf().tensors[0]).len(), 18 << 30);
    }

    #[test]
    fn a_file_that_is_written_to_or_cut_is_told() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, model()).unwrap();
        let model = ModelFile::open(&file).unwrap();
        model.check_unchanged().unwrap();
        let later = SystemTime::now() + std::time::Duration::from_secs(5);
        file.as_file().set_modified(later).unwrap();
        let error = model.check_unchanged().unwrap_err().to_string();
        assert!(error.contains("was written to while it was in use"), "{error}");
        file.as_file().set_len(100).unwrap();
        let error = model.check_unchanged().unwrap_err().to_string();
        assert!(error.contains("the bytes from 100 on are gone"), "{error}");
        model.check_read().unwrap();
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn reading_what_was_cut_off_gives_zeros_and_an_error_that_stays() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let plan = TensorPlan { name: "x".into(), shape: vec![1 << 20], ty: GgmlType::I8 };
        let mut writer = Writer::new(file.as_file(), &Metadata::default(), &[plan]).unwrap();
        writer.write("x", &vec![7; 1 << 20]).unwrap();
        writer.finish().unwrap();
        let model = ModelFile::open(&file).unwrap();
        let bytes = model.tensor_bytes(&model.gguf().tensors[0]);
        let sum = || bytes.iter().map(|&b| u64::from(std::hint::black_box(b))).sum::<u64>();
        assert_eq!(sum(), 7 << 20);
        let whole = file.as_file().metadata().unwrap().len();
        file.as_file().set_len(1 << 19).unwrap();
        assert!(sum() < 4 << 20);
        file.as_file().set_len(whole).unwrap();
        for _ in 0..2 {
            let error = model.check_read().unwrap_err().to_string();
            assert!(error.contains("the bytes from 524288 on are gone"), "{error}");
        }
    }

    #[test]
    fn a_file_that_grows_while_it_is_opened_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, model()).unwrap();
        let error = MappedFile::open(file.path(), 10).unwrap_err().to_string();
        assert!(error.contains("changed from 10 to"), "{error}");
    }
}
