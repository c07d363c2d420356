//! The key–value metadata of a GGUF file, as typed values: key in, typed value or an error naming the key out.

use std::collections::BTreeMap;

use super::GgufError;

/// A metadata value, in the file's own type.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// A metadata array: one type for all of its elements.
#[derive(Debug, Clone, PartialEq)]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    String(Vec<String>),
    Array(Vec<Array>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
}

/// A string of a value that is not UTF-8, as the file has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Original {
    /// Which of the value's strings, counted through all arrays.
    pub(super) string: u32,
    pub(super) bytes: Vec<u8>,
}

/// All metadata of a file, in the file's order, found by key.
#[derive(Debug, Clone, Default)]
pub struct Metadata {
    entries: Vec<(String, Value)>,
    /// By key, in their order, where a file was opened for the sake of its exact bytes.
    originals: BTreeMap<String, Vec<Original>>,
    /// Indices into `entries`, in the order of their keys: a tenth of a hash map's memory, which a hostile file counts.
    by_key: Vec<u32>,
}

impl Array {
    pub fn len(&self) -> usize {
        match self {
            Array::U8(v) => v.len(),
            Array::I8(v) => v.len(),
            Array::U16(v) => v.len(),
            Array::I16(v) => v.len(),
            Array::U32(v) => v.len(),
            Array::I32(v) => v.len(),
            Array::F32(v) => v.len(),
            Array::Bool(v) => v.len(),
            Array::String(v) => v.len(),
            Array::Array(v) => v.len(),
            Array::U64(v) => v.len(),
            Array::I64(v) => v.len(),
            Array::F64(v) => v.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements as `i64`, where they are integers that fit.
    fn integers(&self) -> Option<Vec<i64>> {
        match self {
            Array::U8(v) => Some(v.iter().map(|&x| i64::from(x)).collect()),
            Array::I8(v) => Some(v.iter().map(|&x| i64::from(x)).collect()),
            Array::U16(v) => Some(v.iter().map(|&x| i64::from(x)).collect()),
            Array::I16(v) => Some(v.iter().map(|&x| i64::from(x)).collect()),
            Array::U32(v) => Some(v.iter().map(|&x| i64::from(x)).collect()),
            Array::I32(v) => Some(v.iter().map(|&x| i64::from(x)).collect()),
            Array::U64(v) => v.iter().map(|&x| i64::try_from(x).ok()).collect(),
            Array::I64(v) => Some(v.clone()),
            Array::F32(_) | Array::Bool(_) | Array::String(_) | Array::Array(_) | Array::F64(_) => None,
        }
    }
}

impl Value {
    /// The GGUF name of the value's type, for messages.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::U8(_) => "u8",
            Value::I8(_) => "i8",
            Value::U16(_) => "u16",
            Value::I16(_) => "i16",
            Value::U32(_) => "u32",
            Value::I32(_) => "i32",
            Value::F32(_) => "f32",
            Value::Bool(_) => "bool",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::U64(_) => "u64",
            Value::I64(_) => "i64",
            Value::F64(_) => "f64",
        }
    }

    fn integer(&self) -> Option<i128> {
        match *self {
            Value::U8(x) => Some(x.into()),
            Value::I8(x) => Some(x.into()),
            Value::U16(x) => Some(x.into()),
            Value::I16(x) => Some(x.into()),
            Value::U32(x) => Some(x.into()),
            Value::I32(x) => Some(x.into()),
            Value::U64(x) => Some(x.into()),
            Value::I64(x) => Some(x.into()),
            Value::F32(_) | Value::Bool(_) | Value::String(_) | Value::Array(_) | Value::F64(_) => None,
        }
    }
}

impl Metadata {
    /// Empty, with room for `n` entries.
    pub fn with_capacity(n: usize) -> Metadata {
        Metadata { entries: Vec::with_capacity(n), originals: BTreeMap::new(), by_key: Vec::with_capacity(n) }
    }

    /// Adds an entry, or hands the key back where it is already there.
    pub fn insert(&mut self, key: String, value: Value) -> Result<(), String> {
        let Err(place) = self.find(&key) else {
            return Err(key);
        };
        self.by_key.insert(place, self.entries.len() as u32);
        self.entries.push((key, value));
        Ok(())
    }

    /// The entries whose keys are `wanted`, in their order.
    #[must_use]
    pub fn only(&self, wanted: impl Fn(&str) -> bool) -> Metadata {
        let mut only = Metadata::default();
        for (key, value) in self.entries.iter().filter(|(key, _)| wanted(key)) {
            only.insert(key.clone(), value.clone()).expect("keys are unique");
        }
        only.originals.clone_from(&self.originals);
        only.originals.retain(|key, _| wanted(key));
        only
    }

    /// What the file has in the place of the strings that were not UTF-8 in the value of `key`.
    pub(super) fn keep_originals(&mut self, key: String, originals: Vec<Original>) {
        self.originals.insert(key, originals);
    }

    pub(super) fn originals(&self, key: &str) -> &[Original] {
        self.originals.get(key).map_or(&[], Vec::as_slice)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(k, v)| (k.as_str(), v))
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn get(&self, key: &str) -> Option<&Value> {
        self.find(key).ok().map(|at| &self.entries[self.by_key[at] as usize].1)
    }

    /// Where in `by_key` the key is, or where it would have to be.
    fn find(&self, key: &str) -> Result<usize, usize> {
        self.by_key.binary_search_by(|&i| self.entries[i as usize].0.as_str().cmp(key))
    }

    /// Any integer type that fits; `None` where the key is absent, an error where it is something else.
    pub fn u64(&self, key: &str) -> Result<Option<u64>, GgufError> {
        self.typed(key, "an unsigned integer", |v| v.integer().and_then(|x| u64::try_from(x).ok()))
    }

    /// As [`Metadata::u64`], for 32 bits.
    pub fn u32(&self, key: &str) -> Result<Option<u32>, GgufError> {
        self.typed(key, "an unsigned 32-bit integer", |v| v.integer().and_then(|x| u32::try_from(x).ok()))
    }

    /// Any float or integer type, as f32.
    pub fn f32(&self, key: &str) -> Result<Option<f32>, GgufError> {
        self.typed(key, "a number", |v| match *v {
            Value::F32(x) => Some(x),
            Value::F64(x) => Some(x as f32),
            ref other => other.integer().map(|x| x as f32),
        })
    }

    pub fn bool(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.typed(key, "true or false", |v| match *v {
            Value::Bool(x) => Some(x),
            _ => None,
        })
    }

    pub fn str(&self, key: &str) -> Result<Option<&str>, GgufError> {
        self.typed(key, "a string", |v| match v {
            Value::String(x) => Some(x.as_str()),
            _ => None,
        })
    }

    pub fn strings(&self, key: &str) -> Result<Option<&[String]>, GgufError> {
        self.typed(key, "an array of strings", |v| match v {
            Value::Array(Array::String(x)) => Some(x.as_slice()),
            _ => None,
        })
    }

    pub fn f32s(&self, key: &str) -> Result<Option<&[f32]>, GgufError> {
        self.typed(key, "an array of f32", |v| match v {
            Value::Array(Array::F32(x)) => Some(x.as_slice()),
            _ => None,
        })
    }

    /// An array of any integer type.
    pub fn integers(&self, key: &str) -> Result<Option<Vec<i64>>, GgufError> {
        self.typed(key, "an array of integers", |v| match v {
            Value::Array(a) => a.integers(),
            _ => None,
        })
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        as_t: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        match self.get(key) {
            None => Ok(None),
            Some(v) => as_t(v).map(Some).ok_or_else(|| GgufError::MetadataType {
                key: key.to_owned(),
                found: v.type_name(),
                expected,
            }),
        }
    }
}
