//! The KV cache: keys and values of every position, in blocks of positions that are allocated as the context grows, so
//! that a large context costs nothing until it is used.

use std::ops::Range;

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
    /// Numbers of a position's angles, where keys are kept without their bias; else 0.
    n_angles: usize,
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
    /// One plane in f16 for all, where keys are kept without their bias.
    angles: Vec<CacheLine>,
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
    /// An empty cache; `n_angles`: cosines and sines of a position, if keys have a bias.
    pub fn new(h: &Hyperparameters, params: KvParams, n_angles: Option<usize>) -> Result<KvCache, KvCacheError> {
        params.check(h)?;
        Ok(KvCache {
            params,
            n_kv_heads: h.n_kv_heads,
            head_dim_k: h.head_dim_k,
            head_dim_v: h.head_dim_v,
            n_layers: h.n_layers,
            n_angles: n_angles.filter(|_| params.format != KvFormat::F16).unwrap_or(0),
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

    /// Layers, heads of a layer, and elements of a key and of a value.
    pub fn shape(&self) -> [usize; 4] {
        [self.n_layers, self.n_kv_heads, self.head_dim_k, self.head_dim_v]
    }

    pub fn format(&self) -> KvFormat {
        self.params.format
    }

    /// Bytes that [`PLANE_POSITIONS`] positions take in all layers, with room for the angles that keys without their bias
    /// need.
    ///
    /// # Errors
    /// A format that cannot hold the heads.
    pub fn block_bytes(h: &Hyperparameters, format: KvFormat) -> Result<u64, KvCacheError> {
        KvParams { capacity: 0, format }.check(h)?;
        let head = format.key_plane_bytes(h.head_dim_k) + format.value_plane_bytes(h.head_dim_v);
        let heads = [h.n_kv_heads, head].into_iter().fold(h.n_layers as u64, |bytes, n| bytes.saturating_mul(n as u64));
        let angles = if format == KvFormat::F16 { 0 } else { KvFormat::F16.key_plane_bytes(h.n_rot) as u64 };
        Ok(heads.saturating_add(angles))
    }

    /// Bytes allocated so far.
    pub fn bytes(&self) -> usize {
        self.blocks.iter().map(|b| size_of::<CacheLine>() * (b.keys.len() + b.values.len() + b.angles.len())).sum()
    }

    /// Forgets all positions from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Makes room for positions up to `end`.
    pub fn reserve(&mut self, end: usize) -> Result<(), KvCacheError> {
        if end > self.params.capacity {
            return Err(KvCacheError::Full { needed: end, capacity: self.params.capacity });
        }
        while self.blocks.len() * PLANE_POSITIONS < end {
            let (format, n_planes) = (self.params.format, self.n_layers * self.n_kv_heads);
            self.blocks.push(Block {
                keys: zeros(n_planes * format.key_plane_bytes(self.head_dim_k))?,
                values: zeros(n_planes * format.value_plane_bytes(self.head_dim_v))?,
                angles: zeros(KvFormat::F16.key_plane_bytes(self.n_angles))?,
            });
        }
        Ok(())
    }

    /// Whether keys are stored without their bias, and with the angles of their positions instead.
    pub(super) fn is_unbiased(&self) -> bool {
        self.n_angles > 0
    }

    /// Stores the angles of the positions after those in the cache; `angles`: `[n, n_angles]`.
    pub(super) fn store_angles(&mut self, kernels: &Kernels, angles: &[f32]) {
        for (position, angles) in (self.len..).zip(angles.chunks_exact(self.n_angles)) {
            let plane = self.blocks[position / PLANE_POSITIONS].angles.as_mut_bytes();
            kernels.store_key(KvFormat::F16, angles, plane, position % PLANE_POSITIONS);
        }
    }

    /// Says that all layers hold positions up to `len`.
    pub fn commit(&mut self, len: usize) {
        assert!(len <= self.blocks.len() * PLANE_POSITIONS, "positions committed that were never stored");
        self.len = len;
    }

    /// The bytes that the keys and values of the first `n` positions of a layer are made of, piece by piece in an order that
    /// depends on nothing but `n` and the cache's shape.
    ///
    /// # Panics
    /// Where the cache holds fewer positions.
    pub fn layer_bytes(&self, layer: usize, n: usize) -> impl Iterator<Item = &[u8]> {
        assert!(n <= self.len, "{n} of {} positions", self.len);
        let shape = self.layer_shape(layer);
        self.blocks[..n.div_ceil(PLANE_POSITIONS)].iter().enumerate().flat_map(move |(i, block)| {
            let n = n - i * PLANE_POSITIONS;
            let ([keys, values], angles) = (shape.used(n), shape.angles(n));
            let angles = angles.of(block.angles.as_bytes());
            keys.of(block.keys.as_bytes()).chain(values.of(block.values.as_bytes())).chain(angles)
        })
    }

    /// As [`KvCache::layer_bytes`], for filling a cache in: the pieces of the first `n` positions, for which there is room
    /// after [`KvCache::reserve`]. They are held once [`KvCache::commit`] says so.
    pub fn layer_bytes_mut(&mut self, layer: usize, n: usize) -> impl Iterator<Item = &mut [u8]> {
        let shape = self.layer_shape(layer);
        self.blocks[..n.div_ceil(PLANE_POSITIONS)].iter_mut().enumerate().flat_map(move |(i, block)| {
            let n = n - i * PLANE_POSITIONS;
            let ([keys, values], angles) = (shape.used(n), shape.angles(n));
            let angles = angles.of_mut(block.angles.as_mut_bytes());
            keys.of_mut(block.keys.as_mut_bytes()).chain(values.of_mut(block.values.as_mut_bytes())).chain(angles)
        })
    }

    /// Bytes that [`KvCache::layer_bytes`] has for `n` positions.
    pub fn layer_len(&self, layer: usize, n: usize) -> u64 {
        let shape = self.layer_shape(layer);
        let bytes = |n| shape.used(n).iter().chain([&shape.angles(n)]).map(Used::len).sum::<usize>() as u64;
        let (whole, rest) = (n / PLANE_POSITIONS, n % PLANE_POSITIONS);
        whole as u64 * bytes(PLANE_POSITIONS) + if rest == 0 { 0 } else { bytes(rest) }
    }

    fn layer_shape(&self, layer: usize) -> LayerShape {
        let KvCache { params, n_kv_heads, head_dim_k, head_dim_v, n_angles, .. } = *self;
        LayerShape { layer, format: params.format, n_kv_heads, head_dim_k, head_dim_v, n_angles }
    }

    /// Stores one layer of the positions after those in the cache. `keys`: `[n, n_kv_heads, head_dim_k]`; `values`:
    /// `[n, n_kv_heads, head_dim_v]`.
    pub(super) fn store(&mut self, compute: &Compute, layer: usize, keys: &[f32], values: &[f32]) {
        let (n_heads, format, start) = (self.n_kv_heads, self.params.format, self.len);
        let end = start + keys.len() / (n_heads * self.head_dim_k);
        for b in start / PLANE_POSITIONS..end.div_ceil(PLANE_POSITIONS) {
            let positions = start.max(b * PLANE_POSITIONS)..end.min((b + 1) * PLANE_POSITIONS);
            let write = |planes: &mut [CacheLine], dim: usize, plane_bytes: usize, x: &[f32], store: StoreFn| {
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
            let (dim_k, dim_v) = (self.head_dim_k, self.head_dim_v);
            write(&mut block.keys, dim_k, format.key_plane_bytes(dim_k), keys, Kernels::store_key);
            write(&mut block.values, dim_v, format.value_plane_bytes(dim_v), values, Kernels::store_value);
        }
    }

    /// The planes of one layer and head, the `i`th [`PLANE_POSITIONS`] positions.
    pub(super) fn planes(&self, layer: usize, head: usize, i: usize) -> Planes<'_> {
        let place = |n_bytes| {
            let first = (layer * self.n_kv_heads + head) * n_bytes;
            first..first + n_bytes
        };
        let (block, format) = (&self.blocks[i], self.params.format);
        Planes {
            keys: &block.keys.as_bytes()[place(format.key_plane_bytes(self.head_dim_k))],
            values: &block.values.as_bytes()[place(format.value_plane_bytes(self.head_dim_v))],
            angles: &block.angles.as_bytes()[..KvFormat::F16.key_plane_bytes(self.n_angles)],
        }
    }
}

/// Which layer of a block, and what its planes are like.
#[derive(Debug, Clone, Copy)]
struct LayerShape {
    layer: usize,
    format: KvFormat,
    n_kv_heads: usize,
    head_dim_k: usize,
    head_dim_v: usize,
    n_angles: usize,
}

/// The used bytes of a layer's keys or values in a block: the first `bytes` of every `stride` in `range`.
struct Used {
    range: Range<usize>,
    stride: usize,
    bytes: usize,
}

impl Used {
    fn len(&self) -> usize {
        match self.stride {
            0 => 0,
            stride => self.range.len() / stride * self.bytes,
        }
    }

    fn of(self, planes: &[u8]) -> impl Iterator<Item = &[u8]> {
        planes[self.range].chunks_exact(self.stride.max(1)).map(move |plane| &plane[..self.bytes])
    }

    fn of_mut(self, planes: &mut [u8]) -> impl Iterator<Item = &mut [u8]> {
        planes[self.range].chunks_exact_mut(self.stride.max(1)).map(move |plane| &mut plane[..self.bytes])
    }
}

impl LayerShape {
    /// The angles of the first `n` positions of a block, which all layers share and the first one stands for.
    fn angles(&self, n: usize) -> Used {
        let n_angles = if self.layer == 0 { self.n_angles } else { 0 };
        let stride = KvFormat::F16.key_plane_bytes(n_angles);
        Used { range: 0..stride, stride, bytes: KvFormat::F16.used_key_bytes(n_angles, n.min(PLANE_POSITIONS)) }
    }

    /// What the first `n` positions of a block take up, keys and values. A full block has one piece of each.
    fn used(self, n: usize) -> [Used; 2] {
        let used = |plane: usize, used_bytes: usize| {
            let all = plane * self.n_kv_heads;
            let range = self.layer * all..(self.layer + 1) * all;
            match n {
                PLANE_POSITIONS.. => Used { range, stride: all, bytes: all },
                _ => Used { range, stride: plane, bytes: used_bytes },
            }
        };
        let (format, dim_k, dim_v) = (self.format, self.head_dim_k, self.head_dim_v);
        [
            used(format.key_plane_bytes(dim_k), format.used_key_bytes(dim_k, n)),
            used(format.value_plane_bytes(dim_v), format.used_value_bytes(dim_v, n)),
        ]
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
