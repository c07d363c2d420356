//! GGUF: a bounded parser of the header of a model file. Bytes of one file or of its splits in, typed metadata and a
//! checked table of tensors out. It reads the header and never the weights.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

mod error;
mod header;
mod metadata;
mod reader;
mod split;
#[cfg(test)]
mod tests;
pub mod writer;

use std::path::{Path, PathBuf};

pub use error::GgufError;
use header::Header;
pub use metadata::{Array, Metadata, Value};
use reader::Text;

use crate::quant::GgmlType;

/// A model's files, opened and checked: whatever is in here lies within the files and does not overlap.
#[derive(Debug)]
pub struct Gguf {
    /// The version of the (first) file: 1 to 3.
    pub version: u32,
    /// The metadata of the (first) file.
    pub metadata: Metadata,
    /// The tensors of all files, in their order.
    pub tensors: Vec<TensorInfo>,
    /// One file, or the parts of a split model in order.
    pub files: Vec<SplitFile>,
    /// Indices into `tensors`, in the order of their names.
    by_name: Vec<u32>,
}

/// Where a tensor lies and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    pub name: String,
    /// One to four dimensions, none of them 0, in ggml's order: the fastest first.
    pub shape: Vec<u64>,
    pub ty: GgmlType,
    /// Index into [`Gguf::files`].
    pub file: usize,
    /// From the beginning of the file.
    pub offset: u64,
    pub n_bytes: u64,
}

/// One file of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SplitFile {
    /// Empty for a model in memory.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
}

impl Gguf {
    /// Opens a model by its file, or by any one of the files it is split over. Reads the headers only.
    ///
    /// # Errors
    /// Whatever is wrong with a file, with its name; and a part that is missing or does not belong to the others.
    pub fn open(path: impl AsRef<Path>) -> Result<Gguf, GgufError> {
        split::open(path.as_ref(), Text::Shown)
    }

    /// As [`Gguf::open`], with metadata that the [`writer`] writes to the byte as the file has it, strings that are not
    /// UTF-8 too.
    ///
    /// # Errors
    /// As [`Gguf::open`].
    pub fn open_exact(path: impl AsRef<Path>) -> Result<Gguf, GgufError> {
        split::open(path.as_ref(), Text::Exact)
    }

    /// Reads a model of one file that is already in memory.
    pub fn parse(bytes: &[u8]) -> Result<Gguf, GgufError> {
        let len = bytes.len() as u64;
        let header = header::read(bytes, len, Text::Shown)?;
        Gguf::merge(vec![(header, SplitFile { path: PathBuf::new(), bytes: len })])
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        let at = |&i: &u32| &self.tensors[i as usize];
        let found = self.by_name.binary_search_by(|i| at(i).name.as_str().cmp(name)).ok()?;
        Some(at(&self.by_name[found]))
    }

    /// Elements of all tensors.
    pub fn parameters(&self) -> u64 {
        self.tensors.iter().map(TensorInfo::n_elements).sum()
    }

    /// Bytes of all files.
    pub fn file_bytes(&self) -> u64 {
        self.files.iter().map(|f| f.bytes).sum()
    }

    /// One model of the headers of its files, in order; the first one speaks for all.
    fn merge(parts: Vec<(Header, SplitFile)>) -> Result<Gguf, GgufError> {
        let mut parts = parts.into_iter();
        let (first, file) = parts.next().expect("a model has at least one file");
        let Header { version, metadata, mut tensors } = first;
        let mut files = vec![file];
        for (header, file) in parts {
            tensors.extend(header.tensors.into_iter().map(|t| TensorInfo { file: files.len(), ..t }));
            files.push(file);
        }
        let mut by_name: Vec<u32> = (0..tensors.len() as u32).collect();
        let name = |i: u32| tensors[i as usize].name.as_str();
        by_name.sort_unstable_by_key(|&i| name(i));
        if let Some(twice) = by_name.windows(2).find(|pair| name(pair[0]) == name(pair[1])) {
            let second = &tensors[twice[0].max(twice[1]) as usize];
            let error = GgufError::DuplicateTensor { name: second.name.clone() };
            let path = &files[second.file].path;
            return Err(if path.as_os_str().is_empty() { error } else { error.in_file(path) });
        }
        Ok(Gguf { version, metadata, tensors, files, by_name })
    }
}

impl TensorInfo {
    /// Product of the shape.
    pub fn n_elements(&self) -> u64 {
        self.shape.iter().product()
    }
}
