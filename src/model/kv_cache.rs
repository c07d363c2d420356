//! The KV cache: keys and values of every position, in blocks of positions that are allocated as the context grows, so
//! that a large context costs nothing until it is used.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::kernel::{Kernels, KvFormat, PLANE_POSITIONS, Planes};

use super::compute::Compute;
use super::hyperparameters::Hyperparameters;

/// Keys and values of one sequence.
#[derive(Debug)]
pub struct KvCache {
    params: KvParams,
    n_kv_heads: usize,
    head_dim_k: usize,
    head_dim_v: usize,
    n_layers: usize,
    /// Positions whose keys and values are whole in every layer.
    len: usize,
    blocks: Vec<Block>,
}

/// How many positions a cache may hold, and in which format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvParams {
    pub capacity: usize,
    pub format: KvFormat,
}

/// The keys and values of [`PLANE_POSITIONS`] positions in every layer.
#[derive(Debug)]
struct Block {
    /// `[n_layers, n_kv_heads]` planes
    keys: Vec<CacheLine>,
    /// `[n_layers, n_kv_heads]` planes
    values: Vec<CacheLine>,
}

/// Planes are whole cache lines, so that no load crosses two.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(64))]
struct CacheLine([u8; 64]);

/// Why the cache cannot hold keys and values.
#[derive(Debug, thiserror::Error)]
pub enum KvCacheError {
    #[error(
        "the context is full: {needed} positions needed, {capacity} there; start with a larger --ctx or drop turns"
    )]
    Full { needed: usize, capacity: usize },
    #[error("no memory for {bytes} more bytes of KV cache; start with a smaller --ctx")]
    OutOfMemory { bytes: usize },
    #[error(
        "the model's heads have {dim} elements, which are not whole blocks of 32; its KV cache cannot be {format}, use --kv f16"
    )]
    HeadDim { format: KvFormat, dim: usize },
}

impl KvParams {
    /// Says whether the heads of a model can be in the format.
    pub fn check(&self, h: &Hyperparameters) -> Result<(), KvCacheError> {
        match [h.head_dim_k, h.head_dim_v].into_iter().find(|&dim| !self.format.holds(dim)) {
            Some(dim) => Err(KvCacheError::HeadDim { format: self.format, dim }),
            None => Ok(()),
        }
    }
}

impl KvCache {
    /// An empty cache.
    pub fn new(h: &Hyperparameters, params: KvParams) -> Result<KvCache, KvCacheError> {
        params.check(h)?;
        Ok(KvCache {
            params,
            n_kv_heads: h.n_kv_heads,
            head_dim_k: h.head_dim_k,
            head_dim_v: h.head_dim_v,
            n_layers: h.n_layers,
            len: 0,
            blocks: Vec::new(),
        })
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn capacity(&self) -> usize {
        self.params.capacity
    }

    pub fn format(&self) -> KvFormat {
        self.params.format
    }

    /// Bytes that the keys and values of [`PLANE_POSITIONS`] positions take in all layers.
    pub fn block_bytes(h: &Hyperparameters, format: KvFormat) -> Result<u64, KvCacheError> {
        KvParams { capacity: 0, format }.check(h)?;
        let head = format.plane_bytes(h.head_dim_k) + format.plane_bytes(h.head_dim_v);
        Ok([h.n_kv_heads, head].into_iter().fold(h.n_layers as u64, |bytes, n| bytes.saturating_mul(n as u64)))
    }

    /// Bytes allocated so far.
    pub fn bytes(&self) -> usize {
        self.blocks.iter().map(|b| size_of::<CacheLine>() * (b.keys.len() + b.values.len())).sum()
    }

    /// Forgets all positions from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Makes room for positions up to `end`.
    pub(super) fn reserve(&mut self, end: usize) -> Result<(), KvCacheError> {
        if end > self.params.capacity {
            return Err(KvCacheError::Full { needed: end, capacity: self.params.capacity });
        }
        while self.blocks.len() * PLANE_POSITIONS < end {
            let [keys, values] = [self.head_dim_k, self.head_dim_v]
                .map(|dim| zeros(self.n_layers * self.n_kv_heads * self.params.format.plane_bytes(dim)));
            self.blocks.push(Block { keys: keys?, values: values? });
        }
        Ok(())
    }

    /// Says that all layers hold positions up to `len`.
    pub(super) fn commit(&mut self, len: usize) {
        assert!(len <= self.blocks.len() * PLANE_POSITIONS, "positions committed that were never stored");
        self.len = len;
    }

    /// Stores one layer of the positions after those in the cache. `keys`: `[n, n_kv_heads, head_dim_k]`; `values`:
    /// `[n, n_kv_heads, head_dim_v]`.
    pub(super) fn store(&mut self, compute: &Compute, layer: usize, keys: &[f32], values: &[f32]) {
        let (n_heads, format, start) = (self.n_kv_heads, self.params.format, self.len);
        let end = start + keys.len() / (n_heads * self.head_dim_k);
        for b in start / PLANE_POSITIONS..end.div_ceil(PLANE_POSITIONS) {
            let positions = start.max(b * PLANE_POSITIONS)..end.min((b + 1) * PLANE_POSITIONS);
            let write = |planes: &mut [CacheLine], dim: usize, x: &[f32], store: StoreFn| {
                let plane_bytes = format.plane_bytes(dim);
                let plane = |head: usize, plane: &mut [u8]| {
                    for position in positions.clone() {
                        let row = ((position - start) * n_heads + head) * dim;
                        store(&compute.kernels, format, &x[row..][..dim], plane, position % PLANE_POSITIONS);
                    }
                };
                let planes = &mut planes.as_mut_bytes()[layer * n_heads * plane_bytes..][..n_heads * plane_bytes];
                if positions.len() == 1 {
                    planes.chunks_exact_mut(plane_bytes).enumerate().for_each(|(head, bytes)| plane(head, bytes));
                } else {
                    compute.pool.for_chunks(planes, plane_bytes, plane);
                }
            };
            let block = &mut self.blocks[b];
            write(&mut block.keys, self.head_dim_k, keys, Kernels::store_key);
            write(&mut block.values, self.head_dim_v, values, Kernels::store_value);
        }
    }

    /// The planes of one layer and head, the `i`th [`PLANE_POSITIONS`] positions.
    pub(super) fn planes(&self, layer: usize, head: usize, i: usize) -> Planes<'_> {
        let place = |dim| {
            let n_bytes = self.params.format.plane_bytes(dim);
            let first = (layer * self.n_kv_heads + head) * n_bytes;
            first..first + n_bytes
        };
        let block = &self.blocks[i];
        Planes {
            keys: &block.keys.as_bytes()[place(self.head_dim_k)],
            values: &block.values.as_bytes()[place(self.head_dim_v)],
        }
    }
}

/// Writes a key or a value to its place in a plane.
type StoreFn = fn(&Kernels, KvFormat, &[f32], &mut [u8], usize);

fn zeros(n_bytes: usize) -> Result<Vec<CacheLine>, KvCacheError> {
    let (n, mut lines) = (n_bytes.div_ceil(size_of::<CacheLine>()), Vec::new());
    lines.try_reserve_exact(n).map_err(|_| KvCacheError::OutOfMemory { bytes: n_bytes })?;
    lines.resize(n, CacheLine([0; 64]));
    Ok(lines)
}
