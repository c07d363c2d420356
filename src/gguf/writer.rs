//! Writes GGUF version 3: metadata and the tensors' names, shapes and types in, then their bytes one after the other,
//! a file out. Nothing is held but the table, so that a model of any size can be written piece by piece.

use std::io::{self, Write};

use super::header::{self, MAGIC};
use super::metadata::Original;
use super::{Array, GgufError, Metadata, Value};
use crate::quant::GgmlType;

/// What keeps a file from being written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("the file cannot be written: {0}")]
    Io(#[from] io::Error),
    /// The tensor or the alignment could not be read back.
    #[error("the model cannot be written as GGUF: {0}")]
    Invalid(#[from] GgufError),
    #[error("tensor `{found}` was written where {expected} was due")]
    Order { found: String, expected: String },
    #[error("tensor `{name}` was given {found} bytes, expected {expected}")]
    Length { name: String, found: u64, expected: u64 },
}

/// A tensor to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorPlan {
    pub name: String,
    /// In ggml's order, the fastest first.
    pub shape: Vec<u64>,
    pub ty: GgmlType,
}

/// A file whose header is written and whose tensors follow in the planned order.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    alignment: u64,
    /// Name and bytes of every tensor.
    tensors: Vec<(String, u64)>,
    /// Index of the tensor that is due, and its bytes written so far.
    current: usize,
    written: u64,
}

impl<W: Write> Writer<W> {
    /// Writes the header. The alignment is that of `general.alignment` in the metadata, or 32.
    ///
    /// # Errors
    /// A shape or alignment that GGUF does not allow, or a failure of `out`.
    pub fn new(mut out: W, metadata: &Metadata, tensors: &[TensorPlan]) -> Result<Writer<W>, WriteError> {
        let alignment = header::alignment(metadata)?;
        let mut bytes = Vec::new();
        bytes.extend(MAGIC);
        put_u32(&mut bytes, 3);
        put_u64(&mut bytes, tensors.len() as u64);
        put_u64(&mut bytes, metadata.len() as u64);
        for (key, value) in metadata.iter() {
            put_string(&mut bytes, key.as_bytes());
            put_value(&mut bytes, value, &mut Strings::of(metadata.originals(key)));
        }
        let mut offset = 0;
        let mut sizes = Vec::with_capacity(tensors.len());
        for TensorPlan { name, shape, ty } in tensors {
            if !(1..=4).contains(&shape.len()) {
                return Err(GgufError::Dimensions { name: name.clone(), found: shape.len() as u32 }.into());
            }
            let n_bytes = header::tensor_bytes(name, shape, *ty)?;
            put_string(&mut bytes, name.as_bytes());
            put_u32(&mut bytes, shape.len() as u32);
            for &dim in shape {
                put_u64(&mut bytes, dim);
            }
            put_u32(&mut bytes, ty.id());
            put_u64(&mut bytes, offset);
            offset = offset
                .checked_add(n_bytes)
                .and_then(|end| end.checked_next_multiple_of(alignment))
                .ok_or_else(|| GgufError::TooLarge { name: name.clone(), shape: shape.clone() })?;
            sizes.push((name.clone(), n_bytes));
        }
        bytes.resize(bytes.len().next_multiple_of(alignment as usize), 0);
        out.write_all(&bytes)?;
        Ok(Writer { out, alignment, tensors: sizes, current: 0, written: 0 })
    }

    /// Writes the next bytes of the tensor that is due; a tensor may come in any number of pieces.
    ///
    /// # Errors
    /// Another tensor than the one that is due, more bytes than it has, or a failure of the output.
    pub fn write(&mut self, name: &str, piece: &[u8]) -> Result<(), WriteError> {
        let Some((due, n_bytes)) = self.tensors.get(self.current) else {
            return Err(WriteError::Order { found: name.to_owned(), expected: "the end".to_owned() });
        };
        if due != name {
            return Err(WriteError::Order { found: name.to_owned(), expected: format!("`{due}`") });
        }
        let written = self.written + piece.len() as u64;
        if written > *n_bytes {
            return Err(WriteError::Length { name: due.clone(), found: written, expected: *n_bytes });
        }
        self.out.write_all(piece)?;
        self.written = written;
        if written == *n_bytes {
            let padding = written.next_multiple_of(self.alignment) - written;
            io::copy(&mut io::Read::take(io::repeat(0), padding), &mut self.out)?;
            self.current += 1;
            self.written = 0;
        }
        Ok(())
    }

    /// The output, once every tensor is complete.
    pub fn finish(mut self) -> Result<W, WriteError> {
        if let Some((name, expected)) = self.tensors.get(self.current) {
            return Err(WriteError::Length { name: name.clone(), found: self.written, expected: *expected });
        }
        self.out.flush()?;
        Ok(self.out)
    }
}

fn put_u32(out: &mut Vec<u8>, x: u32) {
    out.extend(x.to_le_bytes());
}

fn put_u64(out: &mut Vec<u8>, x: u64) {
    out.extend(x.to_le_bytes());
}

fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u64(out, bytes.len() as u64);
    out.extend(bytes);
}

/// The strings of one value in their order, each as the file had it that they are from.
struct Strings<'m> {
    n_strings: u32,
    originals: &'m [Original],
}

impl<'m> Strings<'m> {
    fn of(originals: &'m [Original]) -> Strings<'m> {
        Strings { n_strings: 0, originals }
    }

    fn put(&mut self, out: &mut Vec<u8>, text: &str) {
        match self.originals.split_first() {
            Some((original, rest)) if original.string == self.n_strings => {
                put_string(out, &original.bytes);
                self.originals = rest;
            }
            _ => put_string(out, text.as_bytes()),
        }
        self.n_strings += 1;
    }
}

fn put_value(out: &mut Vec<u8>, value: &Value, strings: &mut Strings) {
    let id = match value {
        Value::U8(_) => 0,
        Value::I8(_) => 1,
        Value::U16(_) => 2,
        Value::I16(_) => 3,
        Value::U32(_) => 4,
        Value::I32(_) => 5,
        Value::F32(_) => 6,
        Value::Bool(_) => 7,
        Value::String(_) => 8,
        Value::Array(_) => 9,
        Value::U64(_) => 10,
        Value::I64(_) => 11,
        Value::F64(_) => 12,
    };
    put_u32(out, id);
    match value {
        Value::U8(x) => out.push(*x),
        Value::I8(x) => out.extend(x.to_le_bytes()),
        Value::U16(x) => out.extend(x.to_le_bytes()),
        Value::I16(x) => out.extend(x.to_le_bytes()),
        Value::U32(x) => put_u32(out, *x),
        Value::I32(x) => out.extend(x.to_le_bytes()),
        Value::F32(x) => out.extend(x.to_le_bytes()),
        Value::Bool(x) => out.push(u8::from(*x)),
        Value::String(x) => strings.put(out, x),
        Value::Array(x) => put_array(out, x, strings),
        Value::U64(x) => put_u64(out, *x),
        Value::I64(x) => out.extend(x.to_le_bytes()),
        Value::F64(x) => out.extend(x.to_le_bytes()),
    }
}

fn put_array(out: &mut Vec<u8>, array: &Array, strings: &mut Strings) {
    let id = match array {
        Array::U8(_) => 0,
        Array::I8(_) => 1,
        Array::U16(_) => 2,
        Array::I16(_) => 3,
        Array::U32(_) => 4,
        Array::I32(_) => 5,
        Array::F32(_) => 6,
        Array::Bool(_) => 7,
        Array::String(_) => 8,
        Array::Array(_) => 9,
        Array::U64(_) => 10,
        Array::I64(_) => 11,
        Array::F64(_) => 12,
    };
    put_u32(out, id);
    put_u64(out, array.len() as u64);
    match array {
        Array::U8(v) => out.extend(v),
        Array::I8(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
        Array::U16(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
        Array::I16(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
        Array::U32(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
        Array::I32(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
        Array::F32(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
        Array::Bool(v) => out.extend(v.iter().map(|&x| u8::from(x))),
        Array::String(v) => v.iter().for_each(|x| strings.put(out, x)),
        Array::Array(v) => v.iter().for_each(|x| put_array(out, x, strings)),
        Array::U64(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
        Array::I64(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
        Array::F64(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
    }
}
