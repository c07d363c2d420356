//! The KV cache: keys and values of every position in f16, in blocks of positions that are allocated as the context
//! grows, so that a large context costs nothing until it is used.

use half::f16;

use super::hyperparameters::Hyperparameters;

/// Positions a block.
pub const BLOCK_POSITIONS: usize = 256;

/// Keys and values of one sequence.
#[derive(Debug)]
pub struct KvCache {
    n_kv_heads: usize,
    head_dim_k: usize,
    head_dim_v: usize,
    n_layers: usize,
    capacity: usize,
    /// Positions whose keys and values are whole in every layer.
    len: usize,
    blocks: Vec<Block>,
}

/// 256 positions of every layer and head.
#[derive(Debug)]
struct Block {
    /// `[n_layers, n_kv_heads, BLOCK_POSITIONS, head_dim_k]`
    keys: Vec<f16>,
    /// `[n_layers, n_kv_heads, BLOCK_POSITIONS, head_dim_v]`
    values: Vec<f16>,
}

/// Why the cache cannot hold more positions.
#[derive(Debug, thiserror::Error)]
pub enum KvCacheError {
    #[error(
        "the context is full: {needed} positions needed, {capacity} there; start with a larger --ctx or drop turns"
    )]
    Full { needed: usize, capacity: usize },
    #[error("no memory for {bytes} more bytes of KV cache; start with a smaller --ctx")]
    OutOfMemory { bytes: usize },
}

impl KvCache {
    /// An empty cache for up to `capacity` positions.
    pub fn new(h: &Hyperparameters, capacity: usize) -> KvCache {
        KvCache {
            n_kv_heads: h.n_kv_heads,
            head_dim_k: h.head_dim_k,
            head_dim_v: h.head_dim_v,
            n_layers: h.n_layers,
            capacity,
            len: 0,
            blocks: Vec::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes allocated so far.
    pub fn bytes(&self) -> usize {
        self.blocks.iter().map(|b| 2 * (b.keys.len() + b.values.len())).sum()
    }

    /// Forgets all positions from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Makes room for positions up to `end`.
    pub(super) fn reserve(&mut self, end: usize) -> Result<(), KvCacheError> {
        if end > self.capacity {
            return Err(KvCacheError::Full { needed: end, capacity: self.capacity });
        }
        while self.blocks.len() * BLOCK_POSITIONS < end {
            let rows = self.n_layers * self.n_kv_heads * BLOCK_POSITIONS;
            let keys = zeros(rows * self.head_dim_k)?;
            let values = zeros(rows * self.head_dim_v)?;
            self.blocks.push(Block { keys, values });
        }
        Ok(())
    }

    /// Says that all layers hold positions up to `len`.
    pub(super) fn commit(&mut self, len: usize) {
        assert!(len <= self.blocks.len() * BLOCK_POSITIONS, "positions committed that were never stored");
        self.len = len;
    }

    /// Stores one position of one layer. `keys`: `[n_kv_heads, head_dim_k]`; `values`: `[n_kv_heads, head_dim_v]`.
    pub(super) fn store(&mut self, layer: usize, position: usize, keys: &[f32], values: &[f32]) {
        let block = &mut self.blocks[position / BLOCK_POSITIONS];
        for head in 0..self.n_kv_heads {
            let row = (layer * self.n_kv_heads + head) * BLOCK_POSITIONS + position % BLOCK_POSITIONS;
            to_f16(&keys[head * self.head_dim_k..][..self.head_dim_k], &mut block.keys[row * self.head_dim_k..]);
            to_f16(&values[head * self.head_dim_v..][..self.head_dim_v], &mut block.values[row * self.head_dim_v..]);
        }
    }

    /// Keys and values of `start..end` of one layer and head, in runs that lie together: `([n, head_dim_k], [n, head_dim_v])`.
    pub(super) fn runs(
        &self,
        layer: usize,
        head: usize,
        start: usize,
        end: usize,
    ) -> impl Iterator<Item = (&[f16], &[f16])> + Clone {
        let first = start / BLOCK_POSITIONS;
        (first..end.div_ceil(BLOCK_POSITIONS)).map(move |b| {
            let from = start.max(b * BLOCK_POSITIONS) - b * BLOCK_POSITIONS;
            let to = end.min((b + 1) * BLOCK_POSITIONS) - b * BLOCK_POSITIONS;
            let row = (layer * self.n_kv_heads + head) * BLOCK_POSITIONS;
            let block = &self.blocks[b];
            (
                &block.keys[(row + from) * self.head_dim_k..(row + to) * self.head_dim_k],
                &block.values[(row + from) * self.head_dim_v..(row + to) * self.head_dim_v],
            )
        })
    }
}

fn zeros(n: usize) -> Result<Vec<f16>, KvCacheError> {
    let mut v = Vec::new();
    v.try_reserve_exact(n).map_err(|_| KvCacheError::OutOfMemory { bytes: 2 * n })?;
    v.resize(n, f16::ZERO);
    Ok(v)
}

fn to_f16(from: &[f32], to: &mut [f16]) {
    for (to, &from) in to.iter_mut().zip(from) {
        *to = f16::from_f32(from);
    }
}
