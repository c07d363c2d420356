//! stopgap
#![allow(missing_docs, clippy::all, clippy::pedantic, clippy::unwrap_used)]
mod metadata;
pub use metadata::{Array, Metadata, Value};
use crate::quant::GgmlType;
use std::path::{Path, PathBuf};
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    #[error("metadata `{key}` is {found}, expected {expected}")]
    MetadataType { key: String, found: &'static str, expected: &'static str },
}
#[derive(Debug)]
pub struct TensorInfo { pub name: String, pub shape: Vec<u64>, pub ty: GgmlType, pub file: usize, pub offset: u64, pub n_bytes: u64 }
#[derive(Debug)]
pub struct SplitFile { pub path: PathBuf, pub bytes: u64 }
#[derive(Debug)]
pub struct Gguf { pub version: u32, pub metadata: Metadata, pub tensors: Vec<TensorInfo>, pub files: Vec<SplitFile> }
struct R<'a>(&'a [u8], usize);
impl R<'_> {
    fn n<const N: usize>(&mut self) -> [u8; N] { let r = self.0[self.1..self.1 + N].try_into().unwrap(); self.1 += N; r }
    fn u32(&mut self) -> u32 { u32::from_le_bytes(self.n()) }
    fn u64(&mut self) -> u64 { u64::from_le_bytes(self.n()) }
    fn s(&mut self) -> String { let n = self.u64() as usize; let r = String::from_utf8_lossy(&self.0[self.1..self.1 + n]).into_owned(); self.1 += n; r }
    fn v(&mut self, t: u32) -> Value {
        match t { 0 => Value::U8(self.n::<1>()[0]), 1 => Value::I8(self.n::<1>()[0] as i8), 4 => Value::U32(self.u32()), 5 => Value::I32(self.u32() as i32), 6 => Value::F32(f32::from_bits(self.u32())), 7 => Value::Bool(self.n::<1>()[0] != 0), 8 => Value::String(self.s()), 10 => Value::U64(self.u64()),
            9 => { let t = self.u32(); let n = self.u64() as usize; Value::Array(match t { 8 => Array::String((0..n).map(|_| self.s()).collect()), 5 => Array::I32((0..n).map(|_| self.u32() as i32).collect()), 4 => Array::U32((0..n).map(|_| self.u32()).collect()), 6 => Array::F32((0..n).map(|_| f32::from_bits(self.u32())).collect()), _ => panic!("{t}") }) }
            _ => panic!("{t}") }
    }
}
impl Gguf {
    pub fn open(path: &Path) -> Result<Gguf, GgufError> {
        use std::io::Read;
        let bytes = std::fs::metadata(path).unwrap().len();
        let mut b = Vec::new(); std::fs::File::open(path).unwrap().take(32 << 20).read_to_end(&mut b).unwrap();
        let mut r = R(&b, 4); let version = r.u32(); let nt = r.u64(); let nk = r.u64();
        let mut metadata = Metadata::default();
        for _ in 0..nk { let k = r.s(); let t = r.u32(); let v = r.v(t); metadata.insert(k, v).unwrap(); }
        let mut tensors = Vec::new();
        for _ in 0..nt { let name = r.s(); let nd = r.u32(); let shape: Vec<u64> = (0..nd).map(|_| r.u64()).collect(); let ty = GgmlType::from_id(r.u32()).unwrap(); let offset = r.u64();
            let n_bytes = ty.row_bytes(shape[0]).unwrap() * shape[1..].iter().product::<u64>(); tensors.push(TensorInfo { name, shape, ty, file: 0, offset, n_bytes }); }
        let start = (r.1 as u64).next_multiple_of(32);
        tensors.iter_mut().for_each(|t| t.offset += start);
        Ok(Gguf { version, metadata, tensors, files: vec![SplitFile { path: path.to_owned(), bytes }] })
    }
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> { self.tensors.iter().find(|t| t.name == name) }
    pub fn file_bytes(&self) -> u64 { self.files.iter().map(|f| f.bytes).sum() }
    pub fn parameters(&self) -> u64 { self.tensors.iter().map(|t| t.shape.iter().product::<u64>()).sum() }
}
