//! The header of one GGUF file: magic, version, metadata and tensor table. Bytes in, checked [`Header`] out.

use std::io::Read;

use super::metadata::Original;
use super::reader::{CountWidth, Reader, Text};
use super::{Array, GgufError, Metadata, TensorInfo, Value};
use crate::quant::GgmlType;

/// Metadata entries in one file; models have about 50.
const MAX_ENTRIES: u64 = 16 << 10;
/// Tensors in one file; the largest models have a few thousand.
const MAX_TENSORS: u64 = 256 << 10;
/// Bytes of a metadata key, as the format defines it.
const MAX_KEY_BYTES: u64 = 65_535;
/// Bytes of a tensor name; ggml stops at 63.
const MAX_NAME_BYTES: u64 = 1024;
/// Bytes of a metadata string, or of one string in an array.
const MAX_STRING_BYTES: u64 = 16 << 20;
/// Elements of an array.
const MAX_ARRAY_LEN: u64 = 32 << 20;
/// Arrays within arrays.
const MAX_ARRAY_DEPTH: usize = 4;
/// Dimensions of a tensor.
const MAX_DIMS: u32 = 4;
/// `general.alignment`.
const MAX_ALIGNMENT: u64 = 2 << 20;

pub(super) const ALIGNMENT_KEY: &str = "general.alignment";
pub(super) const DEFAULT_ALIGNMENT: u64 = 32;
pub(super) const MAGIC: [u8; 4] = *b"GGUF";

/// All that stands before the weights of one file.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) metadata: Metadata,
    /// In the file's order, with `file` 0 and offsets from the beginning of the file.
    pub(super) tensors: Vec<TensorInfo>,
}

/// Reads the header of a file of `len` bytes.
pub(super) fn read(source: impl Read, len: u64, text: Text) -> Result<Header, GgufError> {
    let mut reader = Reader::new(source, len, text);
    let version = read_version(&mut reader)?;
    if version == 1 {
        reader.counts = CountWidth::Bits32;
    }
    let counts = reader.counts.bytes();
    // The least a tensor takes: a name of one byte, one dimension, type and offset.
    let tensor_bytes = counts + 1 + 4 + counts + 4 + 8;
    let n_tensors = reader.bounded_count("tensors", tensor_bytes, MAX_TENSORS)?;
    // The least an entry takes: a key of one byte, a type and a value of one byte.
    let n_entries = reader.bounded_count("metadata entries", counts + 1 + 4 + 1, MAX_ENTRIES)?;

    let metadata = read_metadata(&mut reader, n_entries)?;
    let alignment = alignment(&metadata)?;
    let mut tensors = Vec::with_capacity(n_tensors);
    for _ in 0..n_tensors {
        tensors.push(read_tensor(&mut reader, alignment)?);
    }
    let data = reader.offset().next_multiple_of(alignment);
    for tensor in &mut tensors {
        place(tensor, data, len)?;
    }
    check_overlaps(&tensors)?;
    Ok(Header { version, metadata, tensors })
}

/// The alignment of the tensors' data: `general.alignment`, or 32.
pub(super) fn alignment(metadata: &Metadata) -> Result<u64, GgufError> {
    let found = metadata.u64(ALIGNMENT_KEY)?.unwrap_or(DEFAULT_ALIGNMENT);
    if !found.is_power_of_two() || found > MAX_ALIGNMENT {
        return Err(GgufError::Alignment { found, limit: MAX_ALIGNMENT });
    }
    Ok(found)
}

fn read_version<R: Read>(reader: &mut Reader<R>) -> Result<u32, GgufError> {
    let n = reader.remaining().min(4) as usize;
    let found: Vec<u8> = reader.numbers(n, |[b]| b)?;
    if found != MAGIC {
        let hint = match found.as_slice() {
            b"" => "the file is empty, download it again",
            b"tjgg" | b"fmgg" | b"lmgg" | b"algg" => "it is of ggml's older formats, convert the model to GGUF",
            b"vers" => "it is a Git LFS pointer, fetch the model itself",
            b"<!DO" | b"<htm" => "it is a web page, download the model itself",
            b"PK\x03\x04" => "it is an archive, convert the model to GGUF",
            _ => "give a model in the GGUF format",
        };
        return Err(GgufError::Magic { found, hint });
    }
    match reader.u32("the version")? {
        version @ 1..=3 => Ok(version),
        swapped if swapped.swap_bytes() <= 0xffff && swapped > 0xffff => Err(GgufError::BigEndian),
        found => Err(GgufError::Version { found }),
    }
}

fn read_metadata<R: Read>(reader: &mut Reader<R>, n: usize) -> Result<Metadata, GgufError> {
    let mut metadata = Metadata::with_capacity(n);
    for _ in 0..n {
        let offset = reader.offset();
        let key = read_name(reader, "a metadata key", MAX_KEY_BYTES)?;
        let value = read_value(reader).map_err(|e| e.in_entry(&key))?;
        let originals = reader.take_originals();
        if !originals.is_empty() {
            metadata.keep_originals(key.clone(), originals);
        }
        metadata.insert(key, value).map_err(|key| GgufError::DuplicateKey { key, offset })?;
    }
    Ok(metadata)
}

/// A key or a tensor's name: text that can be shown in a message as it is.
fn read_name<R: Read>(reader: &mut Reader<R>, what: &'static str, limit: u64) -> Result<String, GgufError> {
    let offset = reader.offset();
    let not_text = |found: &[u8]| {
        let shown = &found[..found.len().min(64)];
        GgufError::NotText { what, offset, found: shown.escape_ascii().to_string() }
    };
    match String::from_utf8(reader.string(what, limit)?) {
        Ok(name) if !name.is_empty() && !name.contains(char::is_control) => Ok(name),
        Ok(name) => Err(not_text(name.as_bytes())),
        Err(e) => Err(not_text(e.as_bytes())),
    }
}

fn read_value<R: Read>(reader: &mut Reader<R>) -> Result<Value, GgufError> {
    let offset = reader.offset();
    Ok(match reader.u32("a value's type")? {
        0 => Value::U8(reader.u8("a u8")?),
        1 => Value::I8(reader.bytes("an i8").map(i8::from_le_bytes)?),
        2 => Value::U16(reader.bytes("a u16").map(u16::from_le_bytes)?),
        3 => Value::I16(reader.bytes("an i16").map(i16::from_le_bytes)?),
        4 => Value::U32(reader.u32("a u32")?),
        5 => Value::I32(reader.bytes("an i32").map(i32::from_le_bytes)?),
        6 => Value::F32(reader.bytes("an f32").map(f32::from_le_bytes)?),
        7 => {
            let offset = reader.offset();
            Value::Bool(as_bool(reader.u8("a bool")?, offset)?)
        }
        8 => Value::String(read_string(reader)?),
        9 => Value::Array(read_array(reader, 1)?),
        10 => Value::U64(reader.u64("a u64")?),
        11 => Value::I64(reader.bytes("an i64").map(i64::from_le_bytes)?),
        12 => Value::F64(reader.bytes("an f64").map(f64::from_le_bytes)?),
        found => return Err(GgufError::ValueType { found, offset }),
    })
}

/// `depth`: how many arrays this one is the innermost of.
fn read_array<R: Read>(reader: &mut Reader<R>, depth: usize) -> Result<Array, GgufError> {
    let offset = reader.offset();
    if depth > MAX_ARRAY_DEPTH {
        return Err(GgufError::ArrayDepth { offset, limit: MAX_ARRAY_DEPTH });
    }
    let ty = reader.u32("an array's type")?;
    let counts = reader.counts.bytes();
    let min_bytes = match ty {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        8 => counts,
        9 => 4 + counts,
        10..=12 => 8,
        found => return Err(GgufError::ValueType { found, offset }),
    };
    let n = reader.bounded_count("array elements", min_bytes, MAX_ARRAY_LEN)?;
    Ok(match ty {
        0 => Array::U8(reader.numbers(n, u8::from_le_bytes)?),
        1 => Array::I8(reader.numbers(n, i8::from_le_bytes)?),
        2 => Array::U16(reader.numbers(n, u16::from_le_bytes)?),
        3 => Array::I16(reader.numbers(n, i16::from_le_bytes)?),
        4 => Array::U32(reader.numbers(n, u32::from_le_bytes)?),
        5 => Array::I32(reader.numbers(n, i32::from_le_bytes)?),
        6 => Array::F32(reader.numbers(n, f32::from_le_bytes)?),
        7 => {
            let offset = reader.offset();
            let bytes = reader.numbers(n, u8::from_le_bytes)?;
            let bools = bytes.iter().zip(offset..).map(|(&b, at)| as_bool(b, at));
            Array::Bool(bools.collect::<Result<_, _>>()?)
        }
        8 => Array::String(read_each(n, || read_string(reader))?),
        9 => Array::Array(read_each(n, || read_array(reader, depth + 1))?),
        10 => Array::U64(reader.numbers(n, u64::from_le_bytes)?),
        11 => Array::I64(reader.numbers(n, i64::from_le_bytes)?),
        _ => Array::F64(reader.numbers(n, f64::from_le_bytes)?),
    })
}

/// `n` elements, in room taken once: `collect` would double its way up, which for a million strings is not small.
fn read_each<T>(n: usize, mut read: impl FnMut() -> Result<T, GgufError>) -> Result<Vec<T>, GgufError> {
    let mut elements = Vec::with_capacity(n);
    for _ in 0..n {
        elements.push(read()?);
    }
    Ok(elements)
}

/// A string's text; bytes that are not UTF-8 become U+FFFD, since some vocabularies hold half characters.
fn read_string<R: Read>(reader: &mut Reader<R>) -> Result<String, GgufError> {
    let number = reader.count_string();
    let bytes = match String::from_utf8(reader.string("a string", MAX_STRING_BYTES)?) {
        Ok(text) => return Ok(text),
        Err(e) => e.into_bytes(),
    };
    let text = shown(&bytes);
    reader.keep_original(Original { string: number, bytes });
    Ok(text)
}

/// The text with U+FFFD in the place of what is not UTF-8.
fn shown(bytes: &[u8]) -> String {
    let replacement = |invalid: &[u8]| if invalid.is_empty() { "" } else { "\u{fffd}" };
    let n = bytes.utf8_chunks().map(|c| c.valid().len() + replacement(c.invalid()).len()).sum();
    let mut text = String::with_capacity(n);
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.push_str(replacement(chunk.invalid()));
    }
    text
}

fn as_bool(found: u8, offset: u64) -> Result<bool, GgufError> {
    match found {
        0 => Ok(false),
        1 => Ok(true),
        found => Err(GgufError::Bool { found, offset }),
    }
}

/// One entry of the tensor table, its offset still relative to the data.
fn read_tensor<R: Read>(reader: &mut Reader<R>, alignment: u64) -> Result<TensorInfo, GgufError> {
    let name = read_name(reader, "a tensor's name", MAX_NAME_BYTES)?;
    let n_dims = reader.u32("a tensor's dimension count")?;
    if !(1..=MAX_DIMS).contains(&n_dims) {
        return Err(GgufError::Dimensions { name, found: n_dims });
    }
    let mut shape = Vec::with_capacity(n_dims as usize);
    for _ in 0..n_dims {
        shape.push(reader.count("a tensor's dimension")?);
    }
    let id = reader.u32("a tensor's type")?;
    let offset = reader.u64("a tensor's offset")?;
    let Some(ty) = GgmlType::from_id(id) else {
        return Err(GgufError::TensorType { name, id });
    };
    if !offset.is_multiple_of(alignment) {
        return Err(GgufError::Misaligned { name, offset, alignment });
    }
    let n_bytes = tensor_bytes(&name, &shape, ty)?;
    Ok(TensorInfo { name, shape, ty, file: 0, offset, n_bytes })
}

/// Bytes of a tensor's data.
pub(super) fn tensor_bytes(name: &str, shape: &[u64], ty: GgmlType) -> Result<u64, GgufError> {
    let too_large = || GgufError::TooLarge { name: name.to_owned(), shape: shape.to_vec() };
    if shape.contains(&0) {
        return Err(GgufError::EmptyDimension { name: name.to_owned(), shape: shape.to_vec() });
    }
    let n_elements = shape.iter().try_fold(1u64, |n, &dim| n.checked_mul(dim)).ok_or_else(too_large)?;
    let row = shape[0];
    if !row.is_multiple_of(ty.block_len() as u64) {
        return Err(GgufError::PartialBlock { name: name.to_owned(), ty, row });
    }
    ty.row_bytes(row).and_then(|bytes| bytes.checked_mul(n_elements / row)).ok_or_else(too_large)
}

/// Turns the tensor's offset into one from the beginning of the file, whose data begins at `data`.
fn place(tensor: &mut TensorInfo, data: u64, file_bytes: u64) -> Result<(), GgufError> {
    let start = data.checked_add(tensor.offset);
    let end = start.and_then(|s| s.checked_add(tensor.n_bytes));
    match (start, end) {
        (Some(start), Some(end)) if end <= file_bytes => {
            tensor.offset = start;
            Ok(())
        }
        _ => Err(GgufError::OutOfRange {
            name: tensor.name.clone(),
            offset: start.unwrap_or(u64::MAX),
            n_bytes: tensor.n_bytes,
            file_bytes,
        }),
    }
}

fn check_overlaps(tensors: &[TensorInfo]) -> Result<(), GgufError> {
    let mut by_offset: Vec<&TensorInfo> = tensors.iter().collect();
    by_offset.sort_unstable_by_key(|t| t.offset);
    for pair in by_offset.windows(2) {
        let (first, second) = (pair[0], pair[1]);
        if first.offset + first.n_bytes > second.offset {
            let (first, second, offset) = (first.name.clone(), second.name.clone(), second.offset);
            return Err(GgufError::Overlap { first, second, offset });
        }
    }
    Ok(())
}
