//! Gauges and counters of the running engine: written by the engine with relaxed atomics, pulled by the screen once a
//! frame as a [`Snapshot`]. Counters only grow; a gauge that is not known reads as `None`, never as zero.

mod paging;
mod tokens;

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use paging::{Paging, PagingSnapshot, PagingWay};
pub use tokens::{Choice, Found, LayerCost, TokenCost, TokenLog, TokenRecord};

const UNKNOWN: u64 = u64::MAX;

/// One number that may be unknown.
#[derive(Debug)]
pub struct Gauge(AtomicU64);

impl Default for Gauge {
    fn default() -> Self {
        Gauge(AtomicU64::new(UNKNOWN))
    }
}

impl Gauge {
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    pub fn clear(&self) {
        self.0.store(UNKNOWN, Relaxed);
    }

    pub fn get(&self) -> Option<u64> {
        let value = self.0.load(Relaxed);
        (value != UNKNOWN).then_some(value)
    }
}

/// A count that only grows while a model is loaded.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    pub fn reset(&self) {
        self.0.store(0, Relaxed);
    }
}

/// Activity and residency of every expert of every layer. A dense model's layer counts as one expert.
#[derive(Debug)]
pub struct ExpertMap {
    n_layers: usize,
    n_experts: usize,
    /// `[n_layers, n_experts]`: the tick (see [`Telemetry::ticks`]) at which the expert was last used; 0: never.
    last_used: Vec<AtomicU64>,
    /// `[n_layers, n_experts]`: how many tokens were routed to the expert.
    uses: Vec<AtomicU64>,
    /// `[n_layers, n_experts]`: share of the expert's bytes in memory, 0 to 254 of 254; 255: unknown.
    resident: Vec<AtomicU8>,
    /// `[n_layers, n_experts]`: whether somebody has it stay in memory.
    pinned: Vec<AtomicBool>,
}

impl ExpertMap {
    pub fn new(n_layers: usize, n_experts: usize) -> ExpertMap {
        let n = n_layers * n_experts;
        ExpertMap {
            n_layers,
            n_experts,
            last_used: (0..n).map(|_| AtomicU64::new(0)).collect(),
            uses: (0..n).map(|_| AtomicU64::new(0)).collect(),
            resident: (0..n).map(|_| AtomicU8::new(u8::MAX)).collect(),
            pinned: (0..n).map(|_| AtomicBool::new(false)).collect(),
        }
    }

    /// A copy that the engine does not write to.
    #[must_use]
    pub fn copied(&self) -> ExpertMap {
        let numbers = |from: &[AtomicU64]| from.iter().map(|n| AtomicU64::new(n.load(Relaxed))).collect();
        ExpertMap {
            n_layers: self.n_layers,
            n_experts: self.n_experts,
            last_used: numbers(&self.last_used),
            uses: numbers(&self.uses),
            resident: self.resident.iter().map(|n| AtomicU8::new(n.load(Relaxed))).collect(),
            pinned: self.pinned.iter().map(|n| AtomicBool::new(n.load(Relaxed))).collect(),
        }
    }

    pub fn n_layers(&self) -> usize {
        self.n_layers
    }

    pub fn n_experts(&self) -> usize {
        self.n_experts
    }

    fn at(&self, layer: usize, expert: usize) -> usize {
        assert!(
            layer < self.n_layers && expert < self.n_experts,
            "expert {expert} of layer {layer} is outside the map"
        );
        layer * self.n_experts + expert
    }

    pub fn mark_used(&self, layer: usize, expert: usize, tick: u64, tokens: u64) {
        let i = self.at(layer, expert);
        self.last_used[i].store(tick, Relaxed);
        self.uses[i].fetch_add(tokens, Relaxed);
    }

    /// The tick of the last use; `None` before the first.
    pub fn last_used(&self, layer: usize, expert: usize) -> Option<u64> {
        let tick = self.last_used[self.at(layer, expert)].load(Relaxed);
        (tick != 0).then_some(tick)
    }

    pub fn uses(&self, layer: usize, expert: usize) -> u64 {
        self.uses[self.at(layer, expert)].load(Relaxed)
    }

    /// `share` in 0..=1, or `None` for unknown.
    pub fn set_resident(&self, layer: usize, expert: usize, share: Option<f32>) {
        let level = share.map_or(u8::MAX, |s| (s.clamp(0.0, 1.0) * 254.0).round() as u8);
        self.resident[self.at(layer, expert)].store(level, Relaxed);
    }

    /// Share of the expert's bytes in memory, 0 to 1; `None`: the system did not say.
    pub fn resident(&self, layer: usize, expert: usize) -> Option<f32> {
        let level = self.resident[self.at(layer, expert)].load(Relaxed);
        (level != u8::MAX).then_some(f32::from(level) / 254.0)
    }

    pub fn set_pinned(&self, layer: usize, expert: usize, pinned: bool) {
        self.pinned[self.at(layer, expert)].store(pinned, Relaxed);
    }

    /// Whether somebody has the expert stay in memory.
    pub fn is_pinned(&self, layer: usize, expert: usize) -> bool {
        self.pinned[self.at(layer, expert)].load(Relaxed)
    }
}

/// Everything the engine counts. Shared by the engine, the worker's sampler and the screen.
#[derive(Debug, Default)]
pub struct Telemetry {
    /// Advances by one with every forward pass (a token, or a batch of a prompt).
    pub ticks: Counter,
    /// The layer being computed.
    pub layer: Gauge,
    /// Bytes of the model's files.
    pub file_bytes: Gauge,
    /// Bytes of weights that are read in before the first pass, and how many of them are in; unknown when none are read,
    /// or not for long.
    pub loading_total: Gauge,
    pub loading_done: Gauge,
    /// Bytes of the model's files in the page cache, as the kernel reports them.
    pub resident_bytes: Gauge,
    /// Memory this process may use: the tightest of the machine's and the cgroup's limits, and what a plan keeps to.
    pub memory_total: Gauge,
    pub memory_available: Gauge,
    /// Resident set of this process.
    pub rss_bytes: Gauge,
    /// Of it, what may not leave memory.
    pub locked_bytes: Gauge,
    /// Bytes this process caused to be read from disk, as the kernel counts them.
    pub disk_read_bytes: Gauge,
    pub major_faults: Gauge,
    pub minor_faults: Gauge,
    /// Tokens of the prompt being read, and how many are done.
    pub prompt_total: Gauge,
    pub prompt_done: Gauge,
    /// Tokens that the pass at hand has done so far: its share of layers and experts, in tokens.
    pub prompt_in_pass: Gauge,
    /// Tokens a second times 1000.
    pub prompt_milli_tok_s: Gauge,
    pub generate_milli_tok_s: Gauge,
    pub kv_used: Gauge,
    pub kv_capacity: Gauge,
    pub kv_bytes: Gauge,
    /// How residency was read: `cachestat`, `mincore`, or unknown.
    residency_source: Mutex<Option<&'static str>>,
    experts: Mutex<Option<Arc<ExpertMap>>>,
    paging: Mutex<Option<Arc<Paging>>>,
    tokens: Mutex<Option<Arc<TokenLog>>>,
    /// When the prompt being read was begun, and with how many tokens done.
    prompt_began: Mutex<Option<(Instant, u64)>>,
}

impl Telemetry {
    /// A prompt of `total` tokens is read from here on; `done` of them are in the KV cache.
    pub fn begin_prompt(&self, done: u64, total: u64) {
        *self.prompt_began.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), done));
        self.prompt_in_pass.clear();
        self.prompt_done.set(done);
        self.prompt_total.set(total);
    }

    /// Tokens of the prompt that are done, and all of them; `None` where no prompt is read.
    fn prompt(&self) -> Option<(u64, u64)> {
        let (done, total) = self.prompt_done.get().zip(self.prompt_total.get())?;
        Some(((done + self.prompt_in_pass.get().unwrap_or(0)).min(total), total))
    }

    pub fn end_prompt(&self) {
        self.prompt_done.clear();
        self.prompt_total.clear();
        *self.prompt_began.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// How long the rest of the prompt will take at the speed so far; `None` where there is no prompt or no speed yet.
    fn prompt_left(&self) -> Option<Duration> {
        let (began, first) = (*self.prompt_began.lock().unwrap_or_else(PoisonError::into_inner))?;
        let (done, total) = self.prompt()?;
        let read = done.checked_sub(first).filter(|&read| read > 0)?;
        Some(began.elapsed().mul_f64(total.saturating_sub(done) as f64 / read as f64))
    }

    /// The counts of the loaded model's experts; `None` for a dense model.
    pub fn paging(&self) -> Option<Arc<Paging>> {
        self.paging.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_paging(&self, paging: Option<Arc<Paging>>) {
        *self.paging.lock().unwrap_or_else(PoisonError::into_inner) = paging;
    }

    /// What the last tokens of the loaded model cost; `None` before one is loaded.
    pub fn tokens(&self) -> Option<Arc<TokenLog>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_tokens(&self, tokens: Option<Arc<TokenLog>>) {
        *self.tokens.lock().unwrap_or_else(PoisonError::into_inner) = tokens;
    }

    /// The map of the loaded model; `None` before one is loaded.
    pub fn experts(&self) -> Option<Arc<ExpertMap>> {
        self.experts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_experts(&self, map: Option<Arc<ExpertMap>>) {
        *self.experts.lock().unwrap_or_else(PoisonError::into_inner) = map;
    }

    pub fn residency_source(&self) -> Option<&'static str> {
        *self.residency_source.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_residency_source(&self, source: Option<&'static str>) {
        *self.residency_source.lock().unwrap_or_else(PoisonError::into_inner) = source;
    }

    /// One consistent enough reading of all gauges, for a frame.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            tick: self.ticks.get(),
            layer: self.layer.get(),
            file_bytes: self.file_bytes.get(),
            loading: self.loading_done.get().zip(self.loading_total.get()),
            resident_bytes: self.resident_bytes.get(),
            residency_source: self.residency_source(),
            memory_total: self.memory_total.get(),
            memory_available: self.memory_available.get(),
            rss_bytes: self.rss_bytes.get(),
            locked_bytes: self.locked_bytes.get(),
            disk_read_bytes: self.disk_read_bytes.get(),
            major_faults: self.major_faults.get(),
            minor_faults: self.minor_faults.get(),
            prompt: self.prompt(),
            prompt_left: self.prompt_left(),
            prompt_tok_s: self.prompt_milli_tok_s.get().map(|m| m as f64 / 1000.0),
            generate_tok_s: self.generate_milli_tok_s.get().map(|m| m as f64 / 1000.0),
            kv_used: self.kv_used.get(),
            kv_capacity: self.kv_capacity.get(),
            kv_bytes: self.kv_bytes.get(),
            experts: self.experts(),
            paging: self.paging().map(|paging| paging.snapshot()),
            tokens: self.tokens(),
        }
    }
}

/// What a frame draws. `None` is "unknown" on screen.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    pub tick: u64,
    pub layer: Option<u64>,
    pub file_bytes: Option<u64>,
    /// `(done, total)` bytes of the weights that are read in before the first pass.
    pub loading: Option<(u64, u64)>,
    pub resident_bytes: Option<u64>,
    pub residency_source: Option<&'static str>,
    pub memory_total: Option<u64>,
    pub memory_available: Option<u64>,
    pub rss_bytes: Option<u64>,
    pub locked_bytes: Option<u64>,
    pub disk_read_bytes: Option<u64>,
    pub major_faults: Option<u64>,
    pub minor_faults: Option<u64>,
    /// `(done, total)` tokens of the prompt being read.
    pub prompt: Option<(u64, u64)>,
    /// How long the rest of it will take.
    pub prompt_left: Option<Duration>,
    pub prompt_tok_s: Option<f64>,
    pub generate_tok_s: Option<f64>,
    pub kv_used: Option<u64>,
    pub kv_capacity: Option<u64>,
    pub kv_bytes: Option<u64>,
    pub experts: Option<Arc<ExpertMap>>,
    pub paging: Option<PagingSnapshot>,
    pub tokens: Option<Arc<TokenLog>>,
}
