//! What experts cost: bytes wanted, found in memory, read, guessed and thrown out, and the time spent waiting for them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::{Counter, Gauge};

/// How expert bytes arrive, and why that way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PagingWay {
    /// `mapped`, `direct`, or `replayed` from a trace.
    pub name: &'static str,
    /// In words, for a person.
    pub reason: String,
}

/// Counts of one model's experts; exact where a budget is kept, all zero where every expert fits.
#[derive(Debug)]
pub struct Paging {
    pub way: PagingWay,
    /// Bytes that all experts would take.
    pub total_bytes: u64,
    /// Bytes that experts may take.
    pub budget_bytes: Gauge,
    /// Bytes that experts take.
    pub resident_bytes: Gauge,
    /// Of the experts that somebody has stay in memory.
    pub pinned_bytes: Gauge,
    /// Experts that were to stay and had to be let go, for the budget fell.
    pub unpinned_experts: Counter,
    /// Bytes of the experts that were routed to: a pass counts an expert of a layer once.
    pub requested_bytes: Counter,
    /// Of those, bytes that were in memory, speculated ones that were asked for the first time aside. With the demanded
    /// bytes and the speculated ones that were used they are all that was requested.
    pub hit_bytes: Counter,
    /// Of those, bytes that were read because a pass waited for them.
    pub demand_bytes: Counter,
    /// Bytes read, or begun to be read, before anything asked for them.
    pub speculated_bytes: Counter,
    /// Of those, bytes that were asked for later, while they were on their way or there.
    pub speculated_used_bytes: Counter,
    /// Of those, bytes that left without having been asked for.
    pub wasted_bytes: Counter,
    /// Bytes that left for others.
    pub evicted_bytes: Counter,
    /// Experts that single tokens took and that had been predicted.
    pub foreseen_experts: Counter,
    /// Those that had not, though others of the layer had.
    pub unforeseen_experts: Counter,
    /// The bits of the share of a token's time that guesses save; see [`PagingSnapshot::guess_gain`].
    guess_gain: Gauge,
    /// Time in which a pass could only wait for experts.
    stall_ns: Counter,
    /// Bytes that direct reads brought in that time.
    pub stall_read_bytes: Counter,
    passes: Counter,
    /// Time of passes, waiting included.
    pass_ns: Counter,
    /// Those of the last pass.
    last_stall_ns: AtomicU64,
    last_pass_ns: AtomicU64,
    /// `[n_layers]`
    layers: Vec<LayerTimes>,
}

#[derive(Debug, Default)]
struct LayerTimes {
    stall_ns: Counter,
    /// Of attention and FFN, waiting not included.
    compute_ns: Counter,
}

/// What a screen or a report shows of [`Paging`].
#[derive(Debug, Clone, PartialEq)]
pub struct PagingSnapshot {
    pub way: PagingWay,
    pub total_bytes: u64,
    pub budget_bytes: Option<u64>,
    pub resident_bytes: Option<u64>,
    pub pinned_bytes: Option<u64>,
    pub requested_bytes: u64,
    pub hit_bytes: u64,
    pub demand_bytes: u64,
    pub speculated_bytes: u64,
    pub speculated_used_bytes: u64,
    pub wasted_bytes: u64,
    pub evicted_bytes: u64,
    pub foreseen_experts: u64,
    pub unforeseen_experts: u64,
    /// Share of a token's time that guesses save, below zero where they cost time and are left off; `None` before it was
    /// tried.
    pub guess_gain: Option<f64>,
    pub passes: u64,
    pub stall: Duration,
    pub stall_read_bytes: u64,
    /// Of all passes, waiting not included.
    pub compute: Duration,
    /// Of the last pass.
    pub last_stall: Duration,
    pub last_compute: Duration,
    /// Stall and compute of each layer.
    pub layers: Vec<(Duration, Duration)>,
}

impl Paging {
    pub fn new(way: PagingWay, total_bytes: u64, n_layers: usize) -> Paging {
        Paging {
            way,
            total_bytes,
            budget_bytes: Gauge::default(),
            resident_bytes: Gauge::default(),
            pinned_bytes: Gauge::default(),
            unpinned_experts: Counter::default(),
            requested_bytes: Counter::default(),
            hit_bytes: Counter::default(),
            demand_bytes: Counter::default(),
            speculated_bytes: Counter::default(),
            speculated_used_bytes: Counter::default(),
            wasted_bytes: Counter::default(),
            evicted_bytes: Counter::default(),
            foreseen_experts: Counter::default(),
            unforeseen_experts: Counter::default(),
            guess_gain: Gauge::default(),
            stall_ns: Counter::default(),
            stall_read_bytes: Counter::default(),
            passes: Counter::default(),
            pass_ns: Counter::default(),
            last_stall_ns: AtomicU64::new(0),
            last_pass_ns: AtomicU64::new(0),
            layers: (0..n_layers).map(|_| LayerTimes::default()).collect(),
        }
    }

    /// A pass could only wait for experts of `layer` for `time`.
    pub fn add_stall(&self, layer: usize, time: Duration) {
        let ns = time.as_nanos() as u64;
        self.layers[layer].stall_ns.add(ns);
        self.stall_ns.add(ns);
    }

    pub fn layer_stall(&self, layer: usize) -> Duration {
        Duration::from_nanos(self.layers[layer].stall_ns.get())
    }

    pub fn add_compute(&self, layer: usize, time: Duration) {
        self.layers[layer].compute_ns.add(time.as_nanos() as u64);
    }

    /// Tokens with guesses and without have been compared.
    pub fn set_guess_gain(&self, gain: f64) {
        self.guess_gain.set(gain.to_bits());
    }

    /// Bytes read, or begun to be read, for demand and on guesses.
    pub fn read_bytes(&self) -> u64 {
        self.demand_bytes.get() + self.speculated_bytes.get()
    }

    pub fn stall(&self) -> Duration {
        Duration::from_nanos(self.stall_ns.get())
    }

    /// A pass took `time`, of which `stall` was waiting.
    pub fn end_pass(&self, time: Duration, stall: Duration) {
        self.passes.add(1);
        self.pass_ns.add(time.as_nanos() as u64);
        self.last_pass_ns.store(time.as_nanos() as u64, Relaxed);
        self.last_stall_ns.store(stall.as_nanos() as u64, Relaxed);
    }

    pub fn snapshot(&self) -> PagingSnapshot {
        let (pass, stall) = (Duration::from_nanos(self.pass_ns.get()), self.stall());
        let [last_pass, last_stall] =
            [&self.last_pass_ns, &self.last_stall_ns].map(|ns| Duration::from_nanos(ns.load(Relaxed)));
        let times = |layer: &LayerTimes| [&layer.stall_ns, &layer.compute_ns].map(|ns| Duration::from_nanos(ns.get()));
        PagingSnapshot {
            way: self.way.clone(),
            total_bytes: self.total_bytes,
            budget_bytes: self.budget_bytes.get(),
            resident_bytes: self.resident_bytes.get(),
            pinned_bytes: self.pinned_bytes.get(),
            requested_bytes: self.requested_bytes.get(),
            hit_bytes: self.hit_bytes.get(),
            demand_bytes: self.demand_bytes.get(),
            speculated_bytes: self.speculated_bytes.get(),
            speculated_used_bytes: self.speculated_used_bytes.get(),
            wasted_bytes: self.wasted_bytes.get(),
            evicted_bytes: self.evicted_bytes.get(),
            foreseen_experts: self.foreseen_experts.get(),
            unforeseen_experts: self.unforeseen_experts.get(),
            guess_gain: self.guess_gain.get().map(f64::from_bits),
            passes: self.passes.get(),
            stall,
            stall_read_bytes: self.stall_read_bytes.get(),
            compute: pass.saturating_sub(stall),
            last_stall,
            last_compute: last_pass.saturating_sub(last_stall),
            layers: self.layers.iter().map(|layer| times(layer).into()).collect(),
        }
    }
}

impl PagingSnapshot {
    /// Whether a budget is kept: experts come and go.
    pub fn is_paged(&self) -> bool {
        self.way.name != "mapped" || self.budget_bytes.is_some_and(|budget| budget < self.total_bytes)
    }

    /// Share of the requested bytes that were in memory, guesses aside; `None` before anything was requested.
    pub fn hit_rate(&self) -> Option<f64> {
        (self.requested_bytes > 0).then(|| self.hit_bytes as f64 / self.requested_bytes as f64)
    }

    /// Share of the experts that had been predicted before the router chose them; `None` where nothing was predicted.
    pub fn recall(&self) -> Option<f64> {
        let all = self.foreseen_experts + self.unforeseen_experts;
        (all > 0).then(|| self.foreseen_experts as f64 / all as f64)
    }
}
