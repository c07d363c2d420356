//! A trace: which experts a model was asked for, pass by pass, in a file. Written while the engine runs, whatever way its
//! experts arrive; read by the replay, which asks what another budget or policy would have done.
//!
//! The file: a magic, a version, the model's [`Shape`], then a frame for every pass: its length and its items. All numbers
//! are varints of seven bits a byte, but the router's weights, which are `f32`s; lists of ids are differences. A token of 48
//! layers with 8 experts takes about two kilobytes, three quarters of them weights. A frame is written at once when its
//! pass ends: what a killed process leaves can be read up to there.
//!
//! Version 1 knew no weights, and wrote zeros where nobody counted what a layer waited for and read.

mod reader;
#[cfg(test)]
mod tests;

pub use reader::{TraceError, TraceReader};

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::mapping::{ExpertTensor, ModelFile, is_expert_tensor};
use crate::telemetry::LayerCost;

const MAGIC: [u8; 8] = *b"WAYTRACE";
const VERSION: u64 = 2;
const MAX_NAME_BYTES: usize = 1024;

/// What a replay has to know of the model.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Shape {
    pub name: String,
    /// Experts a token uses in a layer.
    pub n_used: u32,
    /// Bytes of all weights but the experts'.
    pub dense_bytes: u64,
    pub layers: Vec<LayerShape>,
}

/// The experts of a layer; a dense one has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LayerShape {
    pub n_experts: u32,
    /// Bytes of one expert.
    pub slot_bytes: u64,
}

impl Shape {
    /// The shape of an opened model.
    pub fn of(file: &ModelFile, n_layers: usize, n_used: usize) -> Shape {
        let gguf = file.gguf();
        let name = gguf.metadata.str("general.name").ok().flatten().unwrap_or("a model without a name");
        let mut shape = Shape {
            name: name.chars().take(MAX_NAME_BYTES / 4).collect(),
            n_used: n_used as u32,
            dense_bytes: 0,
            layers: vec![LayerShape::default(); n_layers],
        };
        for tensor in &gguf.tensors {
            let experts = ExpertTensor::of(tensor).filter(|_| is_expert_tensor(tensor));
            let number = tensor.name.strip_prefix("blk.").and_then(|rest| rest.split('.').next()?.parse().ok());
            match experts.zip(number.and_then(|n: usize| shape.layers.get_mut(n))) {
                Some((experts, layer)) => {
                    layer.n_experts = experts.n_experts() as u32;
                    layer.slot_bytes += experts.range(0).n_bytes;
                }
                None => shape.dense_bytes += tensor.n_bytes,
            }
        }
        shape
    }

    /// Bytes of all experts.
    pub fn expert_bytes(&self) -> u64 {
        self.layers.iter().map(|l| l.slot_bytes.saturating_mul(l.n_experts.into())).fold(0, u64::saturating_add)
    }

    /// Bytes of the experts that one token uses.
    pub fn token_bytes(&self) -> u64 {
        let used = |l: &LayerShape| l.slot_bytes.saturating_mul(self.n_used.min(l.n_experts).into());
        self.layers.iter().map(used).fold(0, u64::saturating_add)
    }
}

/// What one pass asked for.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Pass {
    pub n_tokens: u32,
    pub wall_us: u64,
    pub outcome: Outcome,
    /// Of those layers of which something is known, in their order.
    pub layers: Vec<LayerRecord>,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct LayerRecord {
    pub layer: u32,
    /// In ascending order.
    pub demanded: Vec<Demand>,
    /// What the router gave each of the demanded, in a pass of one token; empty where it is not known.
    pub weights: Vec<f32>,
    /// What was expected to be demanded, the most probable first.
    pub predicted: Vec<u32>,
    /// `None` where it was not measured.
    pub cost: Option<LayerCost>,
}

/// Tokens of a pass that were routed to an expert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    pub expert: u32,
    pub n_tokens: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Outcome {
    #[default]
    Whole,
    /// Stopped between layers.
    Cancelled,
}

/// What follows in a frame, in the order in which it happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Item {
    /// Layer, count, ids as differences less one, and in a batch the tokens of each.
    Demanded = 1,
    /// Layer, count, ids.
    Predicted = 2,
    /// Layer, stall µs, compute µs, bytes read.
    Times = 3,
    /// Wall µs, 0: whole or 1: cancelled. The last item.
    End = 4,
    /// In a pass of one token: layer, count, and for each the id as in [`Item::Demanded`] and the weight, four bytes, the
    /// lowest first. Since version 2.
    Weighed = 5,
    /// Where nobody counts the rest: layer, compute µs. Since version 2.
    Computed = 6,
}

/// Writes a trace. Shared with the engine's thread; a call costs well under a microsecond, the end of a pass one write.
#[derive(Debug)]
pub struct TraceRecorder {
    path: PathBuf,
    recording: Mutex<Recording>,
}

#[derive(Debug)]
struct Recording {
    file: File,
    began: Instant,
    n_tokens: usize,
    /// Room for the frame's length, then the frame of the pass at hand.
    frame: Vec<u8>,
    /// The first write that failed; nothing is recorded after.
    failed: Option<io::Error>,
    /// Whether that has been told while the recording goes on.
    told: bool,
}

/// Bytes left free before a frame for its length: 8 hold 2^56.
const LENGTH_BYTES: usize = 8;

impl TraceRecorder {
    /// Creates the file, or empties it, and writes the header.
    ///
    /// # Errors
    /// What the system says.
    pub fn create(path: &Path, shape: &Shape) -> io::Result<TraceRecorder> {
        TraceRecorder::begin(File::create(path)?, path, shape)
    }

    /// As [`TraceRecorder::create`], but never over a file that is there.
    ///
    /// # Errors
    /// What the system says.
    pub fn create_new(path: &Path, shape: &Shape) -> io::Result<TraceRecorder> {
        TraceRecorder::begin(File::create_new(path)?, path, shape)
    }

    fn begin(mut file: File, path: &Path, shape: &Shape) -> io::Result<TraceRecorder> {
        let mut header = MAGIC.to_vec();
        put(&mut header, VERSION);
        put(&mut header, shape.name.len() as u64);
        header.extend_from_slice(shape.name.as_bytes());
        let numbers = [u64::from(shape.n_used), shape.dense_bytes, shape.layers.len() as u64];
        let layers = shape.layers.iter().flat_map(|l| [u64::from(l.n_experts), l.slot_bytes]);
        numbers.into_iter().chain(layers).for_each(|n| put(&mut header, n));
        file.write_all(&header)?;
        let began = Instant::now();
        let recording = Recording { file, began, n_tokens: 0, frame: Vec::new(), failed: None, told: false };
        Ok(TraceRecorder { path: path.to_owned(), recording: Mutex::new(recording) })
    }

    /// A pass begins. One that was never ended is forgotten.
    pub fn pass(&self, n_tokens: usize) {
        let r = &mut *self.lock();
        r.began = Instant::now();
        r.n_tokens = n_tokens;
        r.frame.clear();
        r.frame.resize(LENGTH_BYTES, 0);
        put(&mut r.frame, n_tokens as u64);
    }

    /// The router of a layer has chosen: the experts with a token or more, in ascending order, each with its tokens.
    pub fn layer(&self, layer: usize, demanded: impl ExactSizeIterator<Item = (usize, usize)>) {
        let r = &mut *self.lock();
        r.item(Item::Demanded, layer);
        put(&mut r.frame, demanded.len() as u64);
        let mut next = 0;
        for (expert, n_tokens) in demanded {
            put(&mut r.frame, (expert - next) as u64);
            next = expert + 1;
            if r.n_tokens > 1 {
                put(&mut r.frame, n_tokens as u64);
            }
        }
    }

    /// As [`TraceRecorder::layer`] in a pass of one token, each expert with the weight that the router gave it.
    pub fn token_layer(&self, layer: usize, demanded: impl ExactSizeIterator<Item = (usize, f32)>) {
        let r = &mut *self.lock();
        r.item(Item::Weighed, layer);
        put(&mut r.frame, demanded.len() as u64);
        let mut next = 0;
        for (expert, weight) in demanded {
            put(&mut r.frame, (expert - next) as u64);
            next = expert + 1;
            r.frame.extend_from_slice(&weight.to_le_bytes());
        }
    }

    /// These experts of a layer are expected to be demanded, the most probable first.
    pub fn predicted(&self, layer: usize, experts: &[usize]) {
        let r = &mut *self.lock();
        r.item(Item::Predicted, layer);
        put(&mut r.frame, experts.len() as u64);
        experts.iter().for_each(|&expert| put(&mut r.frame, expert as u64));
    }

    /// What a layer cost.
    pub fn cost(&self, layer: usize, cost: LayerCost) {
        let r = &mut *self.lock();
        let micros = |time: Duration| time.as_micros() as u64;
        let compute = micros(cost.compute);
        if let Some((stall, read_bytes)) = cost.stall.map(micros).zip(cost.read_bytes) {
            r.item(Item::Times, layer);
            [stall, compute, read_bytes].into_iter().for_each(|n| put(&mut r.frame, n));
        } else {
            r.item(Item::Computed, layer);
            put(&mut r.frame, compute);
        }
    }

    /// The pass is over: its frame is written.
    pub fn end_pass(&self, outcome: Outcome) {
        let r = &mut *self.lock();
        let wall_us = r.began.elapsed().as_micros() as u64;
        [Item::End as u64, wall_us, outcome as u64].into_iter().for_each(|n| put(&mut r.frame, n));
        let mut length = Vec::with_capacity(LENGTH_BYTES);
        put(&mut length, (r.frame.len() - LENGTH_BYTES) as u64);
        let start = LENGTH_BYTES - length.len();
        r.frame[start..LENGTH_BYTES].copy_from_slice(&length);
        if r.failed.is_none() {
            r.failed = r.file.write_all(&r.frame[start..]).err();
        }
    }

    /// Where the trace goes.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tells once what keeps the trace from being written whole.
    ///
    /// # Errors
    /// The first write that failed.
    pub fn check(&self) -> io::Result<()> {
        let found = self.finish();
        let told = std::mem::replace(&mut self.lock().told, found.is_err());
        if told { Ok(()) } else { found }
    }

    /// Tells what kept the trace from being written whole.
    ///
    /// # Errors
    /// The first write that failed.
    pub fn finish(&self) -> io::Result<()> {
        let r = self.lock();
        r.failed.as_ref().map_or(Ok(()), |error| Err(io::Error::new(error.kind(), error.to_string())))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Recording> {
        self.recording.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recording {
    fn item(&mut self, item: Item, layer: usize) {
        put(&mut self.frame, item as u64);
        put(&mut self.frame, layer as u64);
    }
}

/// Appends a varint: seven bits a byte, the lowest first, the eighth bit set where more follow.
fn put(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}
