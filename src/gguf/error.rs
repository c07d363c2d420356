//! What can be wrong with a GGUF file, or with the set of files that a split model is.

use std::path::PathBuf;

use crate::quant::GgmlType;

/// What can be wrong with a GGUF file: what, where, what was found, what was expected, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// Everything that concerns one file, with its name.
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: Box<GgufError> },
    /// A failure while the value of a metadata entry was read.
    #[error("metadata `{key}`: {source}")]
    Entry { key: String, source: Box<GgufError> },

    #[error("cannot be read at byte {offset}: {source}")]
    Read { offset: u64, source: std::io::Error },
    #[error("cannot be opened: {0}")]
    Open(std::io::Error),
    #[error("is not a regular file; give the path of a .gguf file")]
    NotAFile,
    #[error("is not a GGUF file: it begins with \"{}\", expected \"GGUF\"; {hint}", found.escape_ascii())]
    Magic { found: Vec<u8>, hint: &'static str },
    #[error("is a big-endian GGUF; only little-endian files are read, convert it with a GGUF endianness tool")]
    BigEndian,
    #[error("has GGUF version {found}; versions 1 to 3 are read, convert the model again or use a newer WayInfer")]
    Version { found: u32 },
    #[error(
        "ends too early: {what} at byte {offset} needs {needed} bytes and {remaining} are left; the file is truncated \
         or damaged, download it again"
    )]
    Truncated { what: &'static str, offset: u64, needed: u64, remaining: u64 },
    #[error("claims {found} {what} at byte {offset}; at most {limit} are read, so the file is damaged or hostile")]
    TooMany { what: &'static str, offset: u64, found: u64, limit: u64 },
    #[error("has a header of more than {limit} bytes; no model needs this, so the file is damaged or hostile")]
    HeaderTooLarge { limit: u64 },
    #[error("has {what} at byte {offset} that is not plain UTF-8 text: \"{found}\"; the file is damaged")]
    NotText { what: &'static str, offset: u64, found: String },

    #[error("metadata `{key}` is {found}, expected {expected}")]
    MetadataType { key: String, found: &'static str, expected: &'static str },
    #[error("metadata `{key}` stands in the file twice, again at byte {offset}; the file is damaged")]
    DuplicateKey { key: String, offset: u64 },
    #[error("value type {found} at byte {offset} is unknown, expected 0 to 12; the file is damaged or newer than this")]
    ValueType { found: u32, offset: u64 },
    #[error("bool at byte {offset} is {found}, expected 0 or 1; the file is damaged")]
    Bool { found: u8, offset: u64 },
    #[error("array at byte {offset} is nested more than {limit} deep; the file is damaged or hostile")]
    ArrayDepth { offset: u64, limit: usize },
    #[error("metadata `general.alignment` is {found}, expected a power of two up to {limit}; the file is damaged")]
    Alignment { found: u64, limit: u64 },

    #[error("tensor `{name}` stands in the model twice; the file is damaged, convert the model again")]
    DuplicateTensor { name: String },
    #[error("tensor `{name}` has {found} dimensions, expected 1 to 4; the file is damaged")]
    Dimensions { name: String, found: u32 },
    #[error("tensor `{name}` has shape {shape:?} with an empty dimension; the file is damaged")]
    EmptyDimension { name: String, shape: Vec<u64> },
    #[error("tensor `{name}` has the unknown ggml type {id}; use a model in another quantization")]
    TensorType { name: String, id: u32 },
    #[error("tensor `{name}` has rows of {row} elements, expected whole blocks of {} for {ty}", ty.block_len())]
    PartialBlock { name: String, ty: GgmlType, row: u64 },
    #[error("tensor `{name}` with shape {shape:?} is larger than any file; the file is damaged")]
    TooLarge { name: String, shape: Vec<u64> },
    #[error("tensor `{name}` begins at {offset} of the data, expected a multiple of {alignment}; the file is damaged")]
    Misaligned { name: String, offset: u64, alignment: u64 },
    #[error(
        "tensor `{name}` takes {n_bytes} bytes from byte {offset}, but the file has {file_bytes}; it is truncated or \
         damaged, download it again"
    )]
    OutOfRange { name: String, offset: u64, n_bytes: u64, file_bytes: u64 },
    #[error("tensors `{first}` and `{second}` share bytes from byte {offset} on; the file is damaged")]
    Overlap { first: String, second: String, offset: u64 },

    #[error(
        "is part {part} of {count} of a split model, but its name does not end in `-{part:05}-of-{count:05}.gguf`, so \
         the other parts cannot be found; give it back its name"
    )]
    SplitName { part: u64, count: u64 },
    #[error(
        "is named as part {named_part} of {named_count}, but its metadata says {found}; the parts are mixed up or \
         renamed, download them again"
    )]
    SplitMixedUp { named_part: u64, named_count: u64, found: String },
    #[error("claims to be one of {found} parts; at most {limit} are read")]
    SplitCount { found: u64, limit: u64 },
    #[error("is missing: it is part {part} of the {count} parts of this model; put it beside the others")]
    SplitMissing { part: u64, count: u64 },
    #[error("belongs to another model: its `{key}` is not that of the first part; download the parts again")]
    SplitForeign { key: String },
    #[error(
        "is the first of parts that hold {found} tensors together, expected {expected} (`split.tensors.count`); a part \
         belongs to another model or is damaged, download the parts again"
    )]
    SplitTensors { found: u64, expected: u64 },
}

impl GgufError {
    /// The same error with the name of the file it is about.
    pub(super) fn in_file(self, path: impl Into<PathBuf>) -> GgufError {
        GgufError::File { path: path.into(), source: Box::new(self) }
    }

    /// The same error with the metadata key whose value was being read.
    pub(super) fn in_entry(self, key: &str) -> GgufError {
        GgufError::Entry { key: key.to_owned(), source: Box::new(self) }
    }
}
