//! GGUF: a bounded parser of the header of a model file. Bytes of one file or of its splits in, typed metadata and a
//! checked table of tensors out. It reads the header and never the weights.

mod metadata;

pub use metadata::{Array, Metadata, Value};

/// What can be wrong with a GGUF file: what, where, what was expected.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    #[error("metadata `{key}` is {found}, expected {expected}")]
    MetadataType { key: String, found: &'static str, expected: &'static str },
}
