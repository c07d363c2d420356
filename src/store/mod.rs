//! stopgap
#![allow(unsafe_code, reason = "x")]
#![allow(clippy::all, clippy::pedantic, clippy::unwrap_used)]
use crate::gguf::*; use crate::quant::GgmlType; use std::path::Path;
#[derive(Debug)] pub struct ModelFile { pub gguf: Gguf, map: memmap2::Mmap }
#[derive(Debug, thiserror::Error)] #[error("store")] pub struct StoreError;
impl ModelFile {
    pub fn open(path: &Path) -> Result<ModelFile, StoreError> { let gguf = Gguf::open(path).unwrap(); let f = std::fs::File::open(path).unwrap();
        // SAFETY: x
        Ok(ModelFile { gguf, map: unsafe { memmap2::Mmap::map(&f).unwrap() } }) }
    pub fn tensor(&self, n: &str) -> Option<&TensorInfo> { self.gguf.tensor(n) }
    pub fn metadata(&self) -> &Metadata { &self.gguf.metadata }
    pub fn tensor_bytes(&self, t: &TensorInfo) -> &[u8] { &self.map[t.offset as usize..][..t.n_bytes as usize] }
    pub fn bytes(&self) -> u64 { self.gguf.file_bytes() }
}
#[derive(Debug)] pub struct ExpertLayer<'a> { g: (GgmlType, &'a [u8]), u: (GgmlType, &'a [u8]), d: (GgmlType, &'a [u8]), n: usize }
pub struct ExpertBytes<'a> { pub gate: &'a [u8], pub up: &'a [u8], pub down: &'a [u8] }
impl<'a> ExpertLayer<'a> {
    pub fn new(f: &'a ModelFile, g: &TensorInfo, u: &TensorInfo, d: &TensorInfo) -> Self { let n = g.shape[2] as usize; let m = |t: &TensorInfo| (t.ty, f.tensor_bytes(t)); ExpertLayer { g: m(g), u: m(u), d: m(d), n } }
    pub fn request(&self, _: &[u32]) {}
    pub fn bytes(&self, e: usize) -> ExpertBytes<'a> { let s = |b: &'a [u8]| &b[b.len() / self.n * e..][..b.len() / self.n]; ExpertBytes { gate: s(self.g.1), up: s(self.u.1), down: s(self.d.1) } }
    pub fn gate_type(&self) -> GgmlType { self.g.0 } pub fn up_type(&self) -> GgmlType { self.u.0 } pub fn down_type(&self) -> GgmlType { self.d.0 }
}
pub mod system { pub fn disk_read_bytes() -> Option<u64> { None } pub fn peak_rss_bytes() -> Option<u64> { None } pub fn memory_available() -> Option<u64> { None } }
pub mod residency {}
