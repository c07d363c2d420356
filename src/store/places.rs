//! Where the experts of a model lie: in its files, and those that are read past the page cache in an arena.

#![allow(unsafe_code, reason = "the arena's bytes are lent out while the kernel writes to other parts of it")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::cache::ExpertId;
use super::direct::{ALIGN, Arena, Piece};
use super::mapping::{ExpertTensor, FileRange, ModelFile, StoreError};
use super::residency::Residency;
use crate::gguf::TensorInfo;

/// The expert tensors of one layer.
#[derive(Debug, Clone, Copy)]
pub struct LayerExperts<'m> {
    /// `[n_embd, n_ff, n_experts]`.
    pub gate: &'m TensorInfo,
    /// `[n_embd, n_ff, n_experts]`.
    pub up: &'m TensorInfo,
    /// `[n_ff, n_embd, n_experts]`.
    pub down: &'m TensorInfo,
}

/// The weights of one expert, each matrix row after row.
#[derive(Debug, Clone, Copy)]
pub struct ExpertBytes<'m> {
    /// `[n_embd, n_ff]`.
    pub gate: &'m [u8],
    /// `[n_embd, n_ff]`.
    pub up: &'m [u8],
    /// `[n_ff, n_embd]`.
    pub down: &'m [u8],
}

/// The experts of a model's layers, and the memory they are read into.
#[derive(Debug)]
pub(super) struct Places<'m> {
    pub model: &'m ModelFile,
    pub residency: Residency<'m>,
    /// `None` for a dense layer.
    pub layers: Vec<Option<Layer>>,
    /// `None` where the page cache holds the experts.
    pub arena: Option<Arc<Arena>>,
}

/// One layer's experts.
#[derive(Debug)]
pub(super) struct Layer {
    tensors: [ExpertTensor; 3],
    /// Bytes of one expert in the file.
    pub expert_bytes: u64,
    /// Bytes of memory that one expert takes, whole pages for each matrix wherever it begins in the file.
    pub slot_bytes: u64,
    /// Where the matrices begin in a slot.
    offsets: [u64; 3],
    /// Where the slots of the layer's size class begin in the arena.
    pub arena_start: u64,
    /// `[n_experts]`: the slot of an expert that may be read from, plus 1; 0: it may not.
    readable: Vec<AtomicU32>,
    /// `[n_experts]`, where every expert fits: how many bytes had been asked for when the expert was last found in memory
    /// or asked for, plus 1; 0: never.
    pub asked: Vec<AtomicU64>,
}

impl<'m> Places<'m> {
    /// In the files alone.
    ///
    /// # Errors
    /// A tensor that does not hold as many experts as the gate of its layer.
    pub(super) fn new(model: &'m ModelFile, layers: &[Option<LayerExperts<'m>>]) -> Result<Places<'m>, StoreError> {
        let layers = layers.iter().map(|l| l.as_ref().map(Layer::new).transpose()).collect::<Result<_, _>>()?;
        Ok(Places { model, residency: Residency::new(model), layers, arena: None })
    }

    /// # Panics
    /// Where the layer is dense.
    pub(super) fn layer(&self, layer: usize) -> &Layer {
        let found = self.layers.get(layer).and_then(Option::as_ref);
        found.unwrap_or_else(|| panic!("layer {layer} of {} has no experts", self.layers.len()))
    }

    pub(super) fn of(&self, id: ExpertId) -> &Layer {
        self.layer(id.layer as usize)
    }

    /// The matrices of an expert in the files: gate, up, down.
    pub(super) fn ranges(&self, id: ExpertId) -> [FileRange; 3] {
        self.of(id).tensors.map(|tensor| tensor.range(id.expert as usize))
    }

    /// Bytes of all experts, as the memory they take.
    pub(super) fn total_bytes(&self) -> u64 {
        self.layers.iter().flatten().map(|l| l.slot_bytes * l.n_experts() as u64).sum()
    }

    /// Where in the arena the expert's slot is.
    pub(super) fn slot_start(&self, id: ExpertId, slot: u32) -> u64 {
        let layer = self.of(id);
        layer.arena_start + u64::from(slot) * layer.slot_bytes
    }

    /// What is to be read into the expert's slot.
    pub(super) fn pieces(&self, id: ExpertId, slot: u32) -> [Piece; 3] {
        let (start, ranges, offsets) = (self.slot_start(id, slot), self.ranges(id), self.of(id).offsets);
        std::array::from_fn(|i| Piece { range: ranges[i], at: start + offsets[i] })
    }

    /// Lets the expert be read from, in this slot of the arena where there is one.
    pub(super) fn open(&self, id: ExpertId, slot: u32) {
        self.of(id).readable[id.expert as usize].store(slot + 1, Ordering::Release);
    }

    pub(super) fn close(&self, id: ExpertId) {
        self.of(id).readable[id.expert as usize].store(0, Ordering::Release);
    }

    /// The expert's weights in the mapping. What is not in memory is read when it is touched.
    pub(super) fn mapped_bytes(&self, id: ExpertId) -> ExpertBytes<'m> {
        let [gate, up, down] = self.ranges(id).map(|range| self.model.bytes(range));
        ExpertBytes { gate, up, down }
    }

    /// The expert's weights.
    ///
    /// # Safety
    /// While the slices live, the expert is not [closed](Self::close) and its slot neither read into nor given back.
    ///
    /// # Panics
    /// Where the expert is not open.
    pub(super) unsafe fn bytes(&self, id: ExpertId) -> ExpertBytes<'_> {
        let readable = self.of(id).readable[id.expert as usize].load(Ordering::Acquire);
        let slot = readable.checked_sub(1).unwrap_or_else(|| panic!("{id:?} is used before it has come"));
        let Some(arena) = &self.arena else { return self.mapped_bytes(id) };
        let [gate, up, down] = self.pieces(id, slot).map(|Piece { range, at }| {
            // SAFETY: An expert is opened after its slot was read, and stays so while the slices live, as the caller
            // has promised; slots of different experts do not overlap.
            unsafe { arena.bytes(at + range.offset % ALIGN, range.n_bytes as usize) }
        });
        ExpertBytes { gate, up, down }
    }
}

/// Bytes of memory that a matrix of `n_bytes` takes in a slot: whole pages, wherever in one it begins in the file.
pub fn matrix_slot_bytes(n_bytes: u64) -> u64 {
    n_bytes.saturating_add(ALIGN - 1).checked_next_multiple_of(ALIGN).unwrap_or(u64::MAX)
}

impl Layer {
    fn new(LayerExperts { gate, up, down }: &LayerExperts<'_>) -> Result<Layer, StoreError> {
        let n_experts = ExpertTensor::of(gate).map_or(0, |t| t.n_experts());
        let experts = |tensor: &TensorInfo| {
            let found = ExpertTensor::of(tensor).filter(|t| t.n_experts() == n_experts);
            found.ok_or_else(|| StoreError::Experts {
                name: tensor.name.clone(),
                found: tensor.shape.clone(),
                gate: gate.name.clone(),
            })
        };
        let tensors = [experts(gate)?, experts(up)?, experts(down)?];
        let sizes = tensors.map(|t| if n_experts == 0 { 0 } else { t.range(0).n_bytes });
        // Wherever in a page the matrix begins; a matrix of one size has slots of one size.
        let [g, u, d] = sizes.map(matrix_slot_bytes);
        Ok(Layer {
            tensors,
            expert_bytes: sizes.iter().sum(),
            slot_bytes: g + u + d,
            offsets: [0, g, g + u],
            arena_start: 0,
            readable: (0..n_experts).map(|_| AtomicU32::new(0)).collect(),
            asked: (0..n_experts).map(|_| AtomicU64::new(0)).collect(),
        })
    }

    pub(super) fn n_experts(&self) -> usize {
        self.readable.len()
    }
}
