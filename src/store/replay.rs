//! What another budget or policy would have made of a trace: its passes through the bookkeeping of the expert cache,
//! without the model. The bound is Belady's: whoever is needed again the latest leaves, which only a replay can know.

#[cfg(test)]
mod tests;

use std::collections::BinaryHeap;
use std::io::Read;

use super::cache::{ExpertCache, ExpertId, Place, Policy};
use super::trace::{Demand, Shape, TraceError, TraceReader};

/// A trace in memory.
#[derive(Debug)]
pub struct Replay {
    shape: Shape,
    passes: Vec<TracedPass>,
    visits: Vec<Visit>,
    demands: Vec<Demand>,
    /// For each demand the visit in which the expert is demanded next; `NEVER`.
    next: Vec<u32>,
    cut_off: bool,
}

#[derive(Debug)]
struct TracedPass {
    n_tokens: u32,
    /// Index of its first visit.
    first: usize,
}

/// A layer in a pass.
#[derive(Debug)]
struct Visit {
    layer: u32,
    /// Index of its first demand.
    first: usize,
}

const NEVER: u32 = u32::MAX;

/// Demands that a replay takes: 1 GB of them.
const MAX_DEMANDS: usize = 80 << 20;

/// Who leaves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rule {
    Online(Policy, Scope),
    /// Whoever is needed again the latest (Belady 1966): the best possible where all experts have one size, very near to
    /// it where they have not.
    Optimal,
}

/// What shares the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All layers.
    Global,
    /// Each layer has its part, in proportion to its bytes.
    PerLayer,
}

/// What a replay found.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ReplayOutcome {
    /// The passes that began before anything had to leave. Every miss in them is the first use of an expert, or nearly.
    pub cold: Phase,
    /// The passes since.
    pub warm: Phase,
    /// By layer, all passes of one token.
    pub layers: Vec<Counts>,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Phase {
    /// Passes of several tokens.
    pub prompt: Counts,
    /// Passes of one token.
    pub generate: Counts,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    pub tokens: u64,
    pub demands: u64,
    pub hits: u64,
    pub read_bytes: u64,
}

impl Counts {
    /// `None` where nothing was demanded.
    pub fn hit_rate(&self) -> Option<f64> {
        (self.demands > 0).then(|| self.hits as f64 / self.demands as f64)
    }

    /// `None` where there was no token.
    pub fn bytes_per_token(&self) -> Option<f64> {
        (self.tokens > 0).then(|| self.read_bytes as f64 / self.tokens as f64)
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, more: Counts) -> Counts {
        Counts {
            tokens: self.tokens + more.tokens,
            demands: self.demands + more.demands,
            hits: self.hits + more.hits,
            read_bytes: self.read_bytes + more.read_bytes,
        }
    }
}

impl Replay {
    /// Reads a trace to its end.
    ///
    /// # Errors
    /// What is wrong with it, or that it is too long.
    pub fn read(mut reader: TraceReader<impl Read>) -> Result<Replay, TraceError> {
        let shape = reader.shape().clone();
        let (mut passes, mut visits, mut demands) = (Vec::new(), Vec::new(), Vec::new());
        while let Some(pass) = reader.next_pass()? {
            passes.push(TracedPass { n_tokens: pass.n_tokens, first: visits.len() });
            for record in pass.layers.iter().filter(|record| !record.demanded.is_empty()) {
                visits.push(Visit { layer: record.layer, first: demands.len() });
                demands.extend_from_slice(&record.demanded);
            }
            if demands.len() > MAX_DEMANDS {
                return Err(TraceError::TooLong { max_demands: MAX_DEMANDS });
            }
        }
        let mut replay = Replay { shape, passes, visits, demands, next: Vec::new(), cut_off: reader.cut_off() };
        replay.next = replay.next_uses();
        Ok(replay)
    }

    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Whether the trace ended within a pass.
    pub fn cut_off(&self) -> bool {
        self.cut_off
    }

    pub fn n_passes(&self) -> usize {
        self.passes.len()
    }

    /// `budget`: bytes of experts.
    pub fn run(&self, rule: Rule, budget: u64) -> ReplayOutcome {
        match rule {
            Rule::Online(policy, scope) => self.count(&mut Online::new(&self.shape, policy, scope, budget)),
            Rule::Optimal => self.count(&mut Optimal::new(&self.shape, budget)),
        }
    }

    fn count(&self, residents: &mut impl Residents) -> ReplayOutcome {
        let mut outcome =
            ReplayOutcome { layers: vec![Counts::default(); self.shape.layers.len()], ..ReplayOutcome::default() };
        let mut full = false;
        for (number, pass) in self.passes.iter().enumerate() {
            let phase = if full { &mut outcome.warm } else { &mut outcome.cold };
            let generates = pass.n_tokens == 1;
            let counts = if generates { &mut phase.generate } else { &mut phase.prompt };
            counts.tokens += u64::from(pass.n_tokens);
            let end = self.passes.get(number + 1).map_or(self.visits.len(), |next| next.first);
            for visit in pass.first..end {
                let demands = self.demands_of(visit);
                let layer = self.visits[visit].layer as usize;
                let n_tokens = self.tokens_of(&self.demands[demands.clone()]);
                let served = residents.serve(layer, n_tokens, &self.demands[demands.clone()], &self.next[demands]);
                full |= served.evicted;
                let more = served.counts(self.shape.layers[layer].slot_bytes);
                *counts = counts.plus(more);
                if generates {
                    outcome.layers[layer] = outcome.layers[layer].plus(Counts { tokens: 1, ..more });
                }
            }
        }
        outcome
    }

    fn demands_of(&self, visit: usize) -> std::ops::Range<usize> {
        self.visits[visit].first..self.visits.get(visit + 1).map_or(self.demands.len(), |next| next.first)
    }

    /// The tokens that a layer was computed for: of a prompt's the last layer has but those whose logits were wanted.
    fn tokens_of(&self, demands: &[Demand]) -> u32 {
        let uses: u64 = demands.iter().map(|demand| u64::from(demand.n_tokens)).sum();
        u32::try_from(uses / u64::from(self.shape.n_used.max(1))).unwrap_or(u32::MAX).max(1)
    }

    fn next_uses(&self) -> Vec<u32> {
        let firsts = first_experts(&self.shape);
        let n: usize = self.shape.layers.iter().map(|l| l.n_experts as usize).sum();
        let mut seen = vec![NEVER; n];
        let mut next = vec![NEVER; self.demands.len()];
        for visit in (0..self.visits.len()).rev() {
            let first = firsts[self.visits[visit].layer as usize];
            for demand in self.demands_of(visit) {
                let seen = &mut seen[first + self.demands[demand].expert as usize];
                next[demand] = std::mem::replace(seen, visit as u32);
            }
        }
        next
    }
}

/// Index of every layer's first expert where all experts are numbered through.
fn first_experts(shape: &Shape) -> Vec<usize> {
    let before = |n: &mut usize, l: &super::trace::LayerShape| {
        *n += l.n_experts as usize;
        Some(*n - l.n_experts as usize)
    };
    shape.layers.iter().scan(0, before).collect()
}

/// What became of the demands of a layer.
#[derive(Debug, Clone, Copy, Default)]
struct Served {
    hits: u64,
    misses: u64,
    evicted: bool,
}

impl Served {
    fn counts(self, slot_bytes: u64) -> Counts {
        let (demands, read_bytes) = (self.hits + self.misses, self.misses.saturating_mul(slot_bytes));
        Counts { tokens: 0, demands, hits: self.hits, read_bytes }
    }
}

/// Whatever decides which experts are resident.
trait Residents {
    /// `next`: the visits in which the demanded are demanded again. They are resident together; where they are too many
    /// for the budget, those computed first give their room to the others.
    fn serve(&mut self, layer: usize, n_tokens: u32, demands: &[Demand], next: &[u32]) -> Served;
}

/// The cache that the store uses, one for all layers or one for each.
struct Online {
    scope: Scope,
    caches: Vec<ExpertCache>,
    evicted: Vec<ExpertId>,
}

impl Online {
    fn new(shape: &Shape, policy: Policy, scope: Scope, budget: u64) -> Online {
        let slot_bytes: Vec<u64> = shape.layers.iter().map(|l| l.slot_bytes).collect();
        let n_experts: Vec<usize> = shape.layers.iter().map(|l| l.n_experts as usize).collect();
        let caches = match scope {
            Scope::Global => vec![ExpertCache::new(policy, &slot_bytes, &n_experts, budget)],
            Scope::PerLayer => {
                let parts = parts(shape, budget);
                let layers = slot_bytes.iter().zip(&n_experts).zip(parts);
                layers.map(|((&slot, &n), part)| ExpertCache::new(policy, &[slot], &[n], part)).collect()
            }
        };
        Online { scope, caches, evicted: Vec::new() }
    }
}

/// The bytes of each layer's own budget: whole slots in proportion to its experts' bytes, what is left over to the first.
fn parts(shape: &Shape, budget: u64) -> Vec<u64> {
    let all = shape.expert_bytes().max(1);
    let share = |l: &super::trace::LayerShape| {
        let bytes = u128::from(l.slot_bytes) * u128::from(l.n_experts) * u128::from(budget) / u128::from(all);
        (bytes as u64).checked_div(l.slot_bytes).map_or(0, |n| n * l.slot_bytes)
    };
    let mut parts: Vec<u64> = shape.layers.iter().map(share).collect();
    let mut left = budget.saturating_sub(parts.iter().sum());
    for (part, layer) in parts.iter_mut().zip(&shape.layers) {
        if layer.slot_bytes <= left {
            *part += layer.slot_bytes;
            left -= layer.slot_bytes;
        }
    }
    parts
}

/// What a layer demands goes through the cache as the store has it: which of the demands were in memory. Whoever leaves is
/// appended to `evicted`. Where all do not fit at once, those computed first give their room to the others.
pub fn serve(
    cache: &mut ExpertCache,
    layer: usize,
    n_tokens: u32,
    demands: &[Demand],
    evicted: &mut Vec<ExpertId>,
) -> Vec<bool> {
    let id = |demand: &Demand| ExpertId { layer: layer as u32, expert: demand.expert };
    cache.begin_layer(layer, n_tokens as usize);
    cache.note_routed(demands.len());
    let mut pinned = Vec::with_capacity(demands.len());
    let mut found = Vec::with_capacity(demands.len());
    for demand in demands {
        let is_there = cache.demand(id(demand), demand.n_tokens as usize);
        if is_there {
            cache.pin(id(demand));
            pinned.push(id(demand));
        }
        found.push(is_there);
    }
    let mut released = 0;
    for (demand, _) in demands.iter().zip(&found).filter(|&(_, &is_there)| !is_there) {
        loop {
            if cache.insert(id(demand), Place::Hot, evicted).is_ok() {
                cache.pin(id(demand));
                pinned.push(id(demand));
            } else if let Some(&first) = pinned.get(released) {
                cache.unpin(first);
                released += 1;
                continue;
            }
            break;
        }
    }
    pinned[released..].iter().for_each(|&id| cache.unpin(id));
    found
}

impl Residents for Online {
    fn serve(&mut self, layer: usize, n_tokens: u32, demands: &[Demand], _next: &[u32]) -> Served {
        let (cache, layer) = match self.scope {
            Scope::Global => (&mut self.caches[0], layer),
            Scope::PerLayer => (&mut self.caches[layer], 0),
        };
        self.evicted.clear();
        let found = serve(cache, layer, n_tokens, demands, &mut self.evicted);
        let hits = found.iter().filter(|&&is_there| is_there).count() as u64;
        let misses = found.len() as u64 - hits;
        Served { hits, misses, evicted: !self.evicted.is_empty() }
    }
}

/// Knows the future.
struct Optimal {
    budget: u64,
    used: u64,
    /// Index of every layer's first expert, and its experts' bytes.
    layers: Vec<(usize, u64)>,
    /// The visit in which a resident expert is demanded next; `None`: not resident.
    due: Vec<Option<u32>>,
    slot_bytes: Vec<u64>,
    /// `(due, expert)` of residents that may leave; entries that no longer agree with `due` are skipped.
    order: BinaryHeap<(u32, usize)>,
    /// Demanded by the layer at hand.
    pinned: Vec<bool>,
}

impl Optimal {
    fn new(shape: &Shape, budget: u64) -> Optimal {
        let slot_bytes: Vec<u64> =
            shape.layers.iter().flat_map(|l| std::iter::repeat_n(l.slot_bytes, l.n_experts as usize)).collect();
        let layers = first_experts(shape).into_iter().zip(shape.layers.iter().map(|l| l.slot_bytes)).collect();
        let (due, pinned) = (vec![None; slot_bytes.len()], vec![false; slot_bytes.len()]);
        Optimal { budget, used: 0, layers, due, slot_bytes, order: BinaryHeap::new(), pinned }
    }

    /// Whether there was one that could leave.
    fn evict(&mut self) -> bool {
        while let Some((due, expert)) = self.order.pop() {
            if self.due[expert] == Some(due) && !self.pinned[expert] {
                self.due[expert] = None;
                self.used -= self.slot_bytes[expert];
                return true;
            }
        }
        false
    }

    fn release(&mut self, expert: usize) {
        self.pinned[expert] = false;
        self.order.extend(self.due[expert].map(|due| (due, expert)));
    }
}

impl Residents for Optimal {
    fn serve(&mut self, layer: usize, _n_tokens: u32, demands: &[Demand], next: &[u32]) -> Served {
        let (first, slot_bytes) = self.layers[layer];
        let demands = demands.iter().zip(next).map(|(d, &next)| (first + d.expert as usize, next));
        let (hits, missing): (Vec<_>, Vec<_>) = demands.partition(|&(expert, _)| self.due[expert].is_some());
        let mut served = Served { hits: hits.len() as u64, misses: missing.len() as u64, evicted: false };
        let mut pinned = Vec::with_capacity(hits.len() + missing.len());
        for (expert, next) in hits {
            (self.due[expert], self.pinned[expert]) = (Some(next), true);
            pinned.push(expert);
        }
        let mut released = 0;
        for (expert, next) in missing {
            while self.used + slot_bytes > self.budget {
                if self.evict() {
                    served.evicted = true;
                } else if let Some(&first) = pinned.get(released) {
                    self.release(first);
                    released += 1;
                } else {
                    break;
                }
            }
            if self.used + slot_bytes <= self.budget {
                self.used += slot_bytes;
                (self.due[expert], self.pinned[expert]) = (Some(next), true);
                pinned.push(expert);
            }
        }
        pinned[released..].iter().for_each(|&expert| self.release(expert));
        served
    }
}
