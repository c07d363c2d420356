//! What each token cost: the passes of single tokens, one record each, in a ring that the engine writes and the screen
//! reads. The writer takes no lock, waits for nobody and allocates nothing; a reader who was overtaken is told so.

use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::{Duration, Instant};

const UNKNOWN: u64 = u64::MAX;
/// The most records, and the most bytes that the layers in them may take.
const MAX_TOKENS: usize = 1024;
const MAX_BYTES: usize = 4 << 20;
const FEWEST_TOKENS: usize = 16;

/// Where an expert was when its layer asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    InMemory,
    /// It was read for the token, or was still on its way.
    Missing,
    /// Every expert fits: nobody counts.
    Uncounted,
}

/// An expert that the router chose for a token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    pub expert: usize,
    /// `None` where it was not recorded.
    pub weight: Option<f32>,
    pub found: Found,
}

/// What one token cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TokenCost {
    /// Of the whole pass through the layers, waiting included.
    pub wall: Duration,
    /// In which the pass could only wait for experts; `None` where nobody counts.
    pub stall: Option<Duration>,
    /// Bytes of experts that were read, or begun to be read, during the pass; `None` where nobody counts.
    pub read_bytes: Option<u64>,
}

/// What one layer of a pass cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LayerCost {
    /// Of attention and FFN, waiting not included.
    pub compute: Duration,
    /// In which the layer could only wait for experts; `None` where nobody counts.
    pub stall: Option<Duration>,
    /// Bytes of experts that were read, or begun to be read, during the layer, also on guesses for others; `None` where
    /// nobody counts.
    pub read_bytes: Option<u64>,
}

impl LayerCost {
    pub fn wall(&self) -> Duration {
        self.compute.saturating_add(self.stall.unwrap_or_default())
    }
}

/// A record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenRecord {
    /// When the pass ended, since the model was loaded.
    pub at: Duration,
    pub cost: TokenCost,
    /// Experts that were in memory when asked for, and that were not; `None` where nobody counts.
    pub hits: Option<u64>,
    pub misses: Option<u64>,
}

impl TokenRecord {
    /// The pass without its waiting.
    pub fn compute(&self) -> Duration {
        self.cost.wall.saturating_sub(self.cost.stall.unwrap_or_default())
    }
}

/// The numbers of a record.
#[derive(Debug)]
struct Slot {
    at_us: AtomicU64,
    wall_us: AtomicU64,
    stall_us: AtomicU64,
    read_bytes: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// What a layer of a record cost.
#[derive(Debug)]
struct LayerSlot {
    /// Compute µs in the lower half, stall µs in the upper; a half of ones is unknown. Up to 71 minutes.
    times: AtomicU64,
    read_bytes: AtomicU64,
}

/// The last tokens of a model, by number since it was loaded.
#[derive(Debug)]
pub struct TokenLog {
    began: Instant,
    n_layers: usize,
    n_used: usize,
    slots: Vec<Slot>,
    /// `[tokens, n_layers]`, or empty where they would take too much.
    layers: Vec<LayerSlot>,
    /// `[tokens, n_layers, n_used]`: weight, expert and where it was, or `UNKNOWN`.
    choices: Vec<AtomicU64>,
    /// Tokens begun and ended. Between the two the record of the last one is being written.
    n_begun: AtomicU64,
    n_ended: AtomicU64,
}

impl TokenLog {
    /// `n_used`: experts that a token takes in a layer; 0 for a dense model.
    pub fn new(n_layers: usize, n_used: usize) -> TokenLog {
        let bytes = |n_used: usize| {
            n_used
                .saturating_mul(size_of::<AtomicU64>())
                .saturating_add(size_of::<LayerSlot>())
                .saturating_mul(n_layers)
        };
        let fit = |n_used| Some(MAX_BYTES / bytes(n_used).max(1)).filter(|&fit| fit >= FEWEST_TOKENS);
        // What would not fit keeps its layers' costs without the experts, or its own costs alone.
        let (n_used, fit) = match fit(n_used) {
            Some(fit) => (n_used, Some(fit)),
            None => (0, fit(0)),
        };
        let n_tokens = fit.unwrap_or(MAX_TOKENS).min(MAX_TOKENS);
        let n_slots = fit.map_or(0, |_| n_tokens * n_layers);
        let unknown = || AtomicU64::new(UNKNOWN);
        let slot = |_| Slot {
            at_us: unknown(),
            wall_us: unknown(),
            stall_us: unknown(),
            read_bytes: unknown(),
            hits: unknown(),
            misses: unknown(),
        };
        TokenLog {
            began: Instant::now(),
            n_layers,
            n_used,
            slots: (0..n_tokens).map(slot).collect(),
            layers: (0..n_slots).map(|_| LayerSlot { times: unknown(), read_bytes: unknown() }).collect(),
            choices: (0..n_slots * n_used).map(|_| unknown()).collect(),
            n_begun: AtomicU64::new(0),
            n_ended: AtomicU64::new(0),
        }
    }

    pub fn n_layers(&self) -> usize {
        self.n_layers
    }

    /// How many tokens are kept.
    pub fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// Tokens since the model was loaded.
    pub fn n_tokens(&self) -> u64 {
        self.n_ended.load(Ordering::Acquire)
    }

    /// The numbers of the tokens that can be read.
    pub fn kept(&self) -> std::ops::Range<u64> {
        let end = self.n_tokens();
        let begun = self.n_begun.load(Ordering::Acquire).max(end);
        begun.saturating_sub(self.slots.len() as u64).min(end)..end
    }

    /// The engine begins a token. One that was begun and not ended is forgotten.
    pub fn begin(&self) {
        let number = self.n_ended.load(Ordering::Relaxed);
        self.n_begun.store(number + 1, Ordering::Relaxed);
        // A reader that sees what follows sees that the record is being written.
        fence(Ordering::Release);
        let slot = self.slot(number);
        slot.hits.store(UNKNOWN, Ordering::Relaxed);
        slot.misses.store(UNKNOWN, Ordering::Relaxed);
        if self.layers.is_empty() {
            return;
        }
        let n = self.n_layers * self.n_used;
        self.choices[self.place(number) * n..][..n].iter().for_each(|c| c.store(UNKNOWN, Ordering::Relaxed));
        for layer in &self.layers[self.place(number) * self.n_layers..][..self.n_layers] {
            layer.times.store(UNKNOWN, Ordering::Relaxed);
            layer.read_bytes.store(UNKNOWN, Ordering::Relaxed);
        }
    }

    /// The router of a layer has chosen these for the token at hand.
    pub fn choose(&self, layer: usize, choices: impl Iterator<Item = Choice>) {
        if self.choices.is_empty() {
            return;
        }
        let number = self.n_ended.load(Ordering::Relaxed);
        let first = (self.place(number) * self.n_layers + layer) * self.n_used;
        let (mut hits, mut misses) = (0, 0);
        for (choice, out) in choices.zip(&self.choices[first..][..self.n_used]) {
            hits += u64::from(choice.found == Found::InMemory);
            misses += u64::from(choice.found == Found::Missing);
            out.store(pack(choice), Ordering::Relaxed);
        }
        if hits + misses > 0 {
            let slot = self.slot(number);
            for (count, more) in [(&slot.hits, hits), (&slot.misses, misses)] {
                let before = known(count.load(Ordering::Relaxed)).unwrap_or(0);
                count.store(before + more, Ordering::Relaxed);
            }
        }
    }

    /// A layer of the token at hand is done.
    pub fn end_layer(&self, layer: usize, cost: LayerCost) {
        if let Some(slot) = self.layer_slot(self.n_ended.load(Ordering::Relaxed), layer) {
            slot.times.store(pack_times(cost), Ordering::Relaxed);
            slot.read_bytes.store(cost.read_bytes.unwrap_or(UNKNOWN), Ordering::Relaxed);
        }
    }

    /// The token at hand is done, now.
    pub fn end(&self, cost: TokenCost) {
        self.end_at(self.began.elapsed(), cost);
    }

    /// The token at hand is done at a time since the model was loaded.
    pub fn end_at(&self, at: Duration, cost: TokenCost) {
        let number = self.n_ended.load(Ordering::Relaxed);
        let slot = self.slot(number);
        let micros = |time: Duration| time.as_micros() as u64;
        slot.at_us.store(micros(at), Ordering::Relaxed);
        slot.wall_us.store(micros(cost.wall), Ordering::Relaxed);
        slot.stall_us.store(cost.stall.map_or(UNKNOWN, micros), Ordering::Relaxed);
        slot.read_bytes.store(cost.read_bytes.unwrap_or(UNKNOWN), Ordering::Relaxed);
        self.n_ended.store(number + 1, Ordering::Release);
    }

    /// What a token cost; `None` where it is not kept any more, or not there yet.
    pub fn get(&self, number: u64) -> Option<TokenRecord> {
        let read = || {
            let slot = self.slot(number);
            let micros = |n: &AtomicU64| known(n.load(Ordering::Relaxed)).map(Duration::from_micros);
            let count = |n: &AtomicU64| known(n.load(Ordering::Relaxed));
            TokenRecord {
                at: micros(&slot.at_us).unwrap_or_default(),
                cost: TokenCost {
                    wall: micros(&slot.wall_us).unwrap_or_default(),
                    stall: micros(&slot.stall_us),
                    read_bytes: count(&slot.read_bytes),
                },
                hits: count(&slot.hits),
                misses: count(&slot.misses),
            }
        };
        self.whole(number, read)
    }

    /// The experts that a token took in a layer, as the router ranked them; empty where the layer is dense or they are not
    /// known.
    pub fn choices(&self, number: u64, layer: usize) -> Vec<Choice> {
        if layer >= self.n_layers || self.choices.is_empty() {
            return Vec::new();
        }
        let first = (self.place(number) * self.n_layers + layer) * self.n_used;
        let read = || {
            let packed = self.choices[first..][..self.n_used].iter().map(|c| c.load(Ordering::Relaxed));
            packed.filter_map(known).map(unpack).collect()
        };
        self.whole(number, read).unwrap_or_default()
    }

    /// What a layer of a token cost; `None` where it is not known.
    pub fn layer(&self, number: u64, layer: usize) -> Option<LayerCost> {
        let slot = self.layer_slot(number, layer)?;
        let read = || {
            let (times, read_bytes) = (slot.times.load(Ordering::Relaxed), slot.read_bytes.load(Ordering::Relaxed));
            let cost = LayerCost { stall: micros(times >> 32), read_bytes: known(read_bytes), ..LayerCost::default() };
            Some(LayerCost { compute: micros(times)?, ..cost })
        };
        self.whole(number, read).flatten()
    }

    /// What `read` finds of a token, if nobody wrote meanwhile.
    fn whole<T>(&self, number: u64, read: impl Fn() -> T) -> Option<T> {
        if number >= self.n_tokens() {
            return None;
        }
        let found = read();
        fence(Ordering::Acquire);
        let is_kept = self.n_begun.load(Ordering::Relaxed) <= number + self.slots.len() as u64;
        is_kept.then_some(found)
    }

    fn place(&self, number: u64) -> usize {
        (number % self.slots.len() as u64) as usize
    }

    fn slot(&self, number: u64) -> &Slot {
        &self.slots[self.place(number)]
    }

    /// `None` where layers are not kept.
    fn layer_slot(&self, number: u64, layer: usize) -> Option<&LayerSlot> {
        let is_kept = layer < self.n_layers && !self.layers.is_empty();
        is_kept.then(|| &self.layers[self.place(number) * self.n_layers + layer])
    }
}

fn known(value: u64) -> Option<u64> {
    (value != UNKNOWN).then_some(value)
}

fn pack_times(cost: LayerCost) -> u64 {
    let half = |time: Duration| (time.as_micros() as u64).min(u64::from(u32::MAX - 1));
    half(cost.compute) | cost.stall.map_or(u64::from(u32::MAX), half) << 32
}

/// The lower half as µs.
fn micros(times: u64) -> Option<Duration> {
    let micros = times as u32;
    (micros != u32::MAX).then(|| Duration::from_micros(micros.into()))
}

/// Weight in the lower half, the expert in the next 24 bits, then where it was: never `UNKNOWN`.
fn pack(choice: Choice) -> u64 {
    let weight = choice.weight.unwrap_or(f32::NAN).to_bits();
    u64::from(weight) | (choice.expert as u64 & 0xff_ffff) << 32 | (choice.found as u64) << 56
}

fn unpack(packed: u64) -> Choice {
    let weight = f32::from_bits(packed as u32);
    let found = match packed >> 56 {
        0 => Found::InMemory,
        1 => Found::Missing,
        _ => Found::Uncounted,
    };
    Choice { expert: (packed >> 32 & 0xff_ffff) as usize, weight: (!weight.is_nan()).then_some(weight), found }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(expert: usize, weight: f32, found: Found) -> Choice {
        Choice { expert, weight: Some(weight), found }
    }

    fn cost(ms: u64, stall_ms: u64) -> TokenCost {
        let [wall, stall] = [ms, stall_ms].map(Duration::from_millis);
        TokenCost { wall, stall: Some(stall), read_bytes: Some(1 << 20) }
    }

    #[test]
    fn a_token_is_kept_with_its_experts_weights_and_cost() {
        let log = TokenLog::new(2, 2);
        assert_eq!((log.n_tokens(), log.get(0)), (0, None));
        log.begin();
        let first = [choice(65_000, 0.75, Found::InMemory), choice(3, 0.25, Found::Missing)];
        let second = [choice(7, 1.5, Found::Missing), Choice { weight: None, ..choice(0, 0.0, Found::Missing) }];
        log.choose(0, first.into_iter());
        log.choose(1, second.into_iter());
        assert_eq!(log.get(0), None, "it is not whole yet");
        log.end_at(Duration::from_millis(70), cost(50, 20));
        let record = log.get(0).unwrap();
        assert_eq!((record.at, record.cost), (Duration::from_millis(70), cost(50, 20)));
        assert_eq!((record.hits, record.misses, record.compute()), (Some(1), Some(3), Duration::from_millis(30)));
        assert_eq!((log.choices(0, 0), log.choices(0, 1)), (first.to_vec(), second.to_vec()));
        assert_eq!(log.choices(0, 2), []);
    }

    #[test]
    fn what_nobody_counts_is_unknown_and_a_pass_that_was_stopped_leaves_nothing() {
        let log = TokenLog::new(1, 1);
        log.begin();
        log.choose(0, [choice(4, 0.5, Found::Missing)].into_iter());
        log.begin();
        log.choose(0, [choice(2, 0.5, Found::Uncounted)].into_iter());
        log.end(TokenCost { wall: Duration::from_millis(3), ..TokenCost::default() });
        let record = log.get(0).unwrap();
        assert_eq!((record.hits, record.misses, record.cost.stall, record.cost.read_bytes), (None, None, None, None));
        assert_eq!(log.choices(0, 0), [choice(2, 0.5, Found::Uncounted)]);
    }

    #[test]
    fn the_ring_keeps_the_last_tokens_and_its_size_has_a_bound() {
        let log = TokenLog::new(3, 2);
        assert_eq!(log.capacity(), MAX_TOKENS);
        for i in 0..3000 {
            log.begin();
            log.end(cost(i, 0));
        }
        assert_eq!(log.kept(), 1976..3000);
        assert_eq!(log.get(1975), None);
        assert_eq!(log.get(1976).unwrap().cost.wall, Duration::from_millis(1976));
        log.begin();
        assert_eq!((log.kept(), log.get(1976)), (1977..3000, None), "its place is being written");
        assert!(TokenLog::new(94, 8).capacity() > 500);
        // A header may claim anything.
        for (n_layers, n_used) in
            [(48, 8), (94, 8), (4096, 1 << 16), (1 << 14, 0), (1 << 20, 0), (usize::MAX, usize::MAX)]
        {
            let log = TokenLog::new(n_layers, n_used);
            assert!(log.choices.len() * 8 + log.layers.len() * 16 <= MAX_BYTES, "{n_layers} {n_used}");
            assert!((FEWEST_TOKENS..=MAX_TOKENS).contains(&log.capacity()));
            let last = n_layers - 1;
            for _ in 0..2 * MAX_TOKENS {
                log.begin();
                log.choose(last, [choice(3, 0.5, Found::InMemory)].into_iter());
                log.end_layer(last, LayerCost::default());
                log.end(cost(1, 0));
            }
            let number = log.n_tokens() - 1;
            assert_eq!(log.choices(number, last).len(), usize::from(n_used == 8));
            assert_eq!(log.layer(number, last).is_some(), n_layers <= 1 << 14);
        }
    }

    #[test]
    fn what_each_layer_cost_is_kept_and_what_is_not_known_is_told_apart_from_nothing() {
        let log = TokenLog::new(4, 1);
        let micros = Duration::from_micros;
        let [slow, whole, longest] = [
            LayerCost { compute: micros(0), stall: Some(micros(1234)), read_bytes: Some(u64::MAX - 1) },
            LayerCost { compute: micros(77), stall: None, read_bytes: None },
            LayerCost { compute: Duration::MAX, stall: Some(Duration::MAX), read_bytes: Some(0) },
        ];
        log.begin();
        log.end_layer(3, slow);
        log.begin();
        log.end_layer(0, slow);
        log.end_layer(1, whole);
        log.end_layer(2, longest);
        assert_eq!(log.layer(0, 0), None, "the token is not whole yet");
        log.end(cost(9, 3));
        assert_eq!((log.layer(0, 0), log.layer(0, 1)), (Some(slow), Some(whole)));
        // More than an hour in one layer is cut, never unknown.
        let hour = log.layer(0, 2).unwrap();
        assert!(hour.compute > Duration::from_secs(3600) && hour.stall.unwrap() == hour.compute);
        assert_eq!(log.layer(0, 3), None, "that was of the pass that was stopped");
        assert_eq!((log.layer(0, 4), log.layer(0, usize::MAX), log.layer(1, 0)), (None, None, None));
        assert_eq!(slow.wall(), micros(1234));
    }

    #[test]
    fn a_reader_beside_the_writer_sees_whole_records_or_none() {
        let log = TokenLog::new(1, 2);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for i in 0..200_000_u64 {
                    log.begin();
                    let expert = i as usize % 1000;
                    log.choose(0, [expert, expert + 1].into_iter().map(|e| choice(e, e as f32, Found::Missing)));
                    log.end_layer(0, LayerCost { read_bytes: Some(i), ..LayerCost::default() });
                    log.end(TokenCost { read_bytes: Some(i), ..TokenCost::default() });
                }
            });
            let mut n_read = 0;
            while log.n_tokens() < 200_000 {
                let oldest = log.kept().start;
                if let Some(record) = log.get(oldest) {
                    n_read += 1;
                    assert_eq!((record.cost.read_bytes, record.misses), (Some(oldest), Some(2)));
                }
                if let Some(layer) = log.layer(oldest, 0) {
                    assert_eq!(layer.read_bytes, Some(oldest));
                }
                if let [a, b] = log.choices(oldest, 0)[..] {
                    assert_eq!((a.expert, b.expert), (oldest as usize % 1000, oldest as usize % 1000 + 1));
                }
            }
            println!("{n_read} records were read beside the writer");
        });
        assert_eq!(log.get(199_999).unwrap().misses, Some(2));
    }
}
