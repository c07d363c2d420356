//! What another budget or policy would have made of a trace: its passes through the bookkeeping of the expert cache,
//! without the model. The bound is Belady's: whoever is needed again the latest leaves, which only a replay can know.

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
                let served = residents.serve(layer, pass.n_tokens, &self.demands[demands.clone()], &self.next[demands]);
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::trace::LayerShape;
    use super::*;

    /// A trace of the experts of every layer of every pass.
    fn replay(n_experts: u32, slot_bytes: u64, passes: &[Vec<Vec<u32>>]) -> Replay {
        let layers = vec![LayerShape { n_experts, slot_bytes }; passes[0].len()];
        let mut replay = Replay {
            shape: Shape { name: "test".into(), n_used: 2, dense_bytes: 0, layers },
            passes: Vec::new(),
            visits: Vec::new(),
            demands: Vec::new(),
            next: Vec::new(),
            cut_off: false,
        };
        for pass in passes {
            replay.passes.push(TracedPass { n_tokens: 1, first: replay.visits.len() });
            for (layer, experts) in pass.iter().enumerate() {
                replay.visits.push(Visit { layer: layer as u32, first: replay.demands.len() });
                replay.demands.extend(experts.iter().map(|&expert| Demand { expert, n_tokens: 1 }));
            }
        }
        replay.next = replay.next_uses();
        replay
    }

    fn total(outcome: &ReplayOutcome) -> Counts {
        outcome.cold.generate.plus(outcome.warm.generate)
    }

    /// The fewest misses any order of leaving can reach, by trying all: one expert a demand, so nothing is pinned.
    fn fewest_misses(demands: &[u32], resident: &mut Vec<u32>, room: usize) -> u64 {
        let Some((first, rest)) = demands.split_first() else { return 0 };
        if resident.contains(first) {
            return fewest_misses(rest, resident, room);
        }
        let mut best = u64::MAX;
        if resident.len() < room {
            resident.push(*first);
            best = fewest_misses(rest, resident, room);
            resident.pop();
        } else {
            for i in 0..room {
                let left = std::mem::replace(&mut resident[i], *first);
                best = best.min(fewest_misses(rest, resident, room));
                resident[i] = left;
            }
        }
        best + 1
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_optimum_is_what_trying_everything_finds_and_no_policy_beats_it(
            demands in prop::collection::vec(0u32..5, 1..12),
            room in 1usize..4,
        ) {
            let passes: Vec<_> = demands.iter().map(|&expert| vec![vec![expert]]).collect();
            let replay = replay(5, 10, &passes);
            let misses = |rule| {
                let counts = total(&replay.run(rule, 10 * room as u64));
                assert_eq!(counts.read_bytes, 10 * (counts.demands - counts.hits));
                assert_eq!((counts.tokens, counts.demands), (demands.len() as u64, demands.len() as u64));
                counts.demands - counts.hits
            };
            let fewest = fewest_misses(&demands, &mut Vec::new(), room);
            prop_assert_eq!(misses(Rule::Optimal), fewest);
            for policy in Policy::all() {
                prop_assert!(misses(Rule::Online(policy, Scope::Global)) >= fewest, "{}", policy);
            }
        }

        #[test]
        fn with_room_for_all_every_expert_is_read_once_whatever_the_rule(
            passes in prop::collection::vec(
                prop::collection::vec(prop::collection::btree_set(0u32..9, 1..4), 3..4), 1..20),
        ) {
            let passes: Vec<Vec<Vec<u32>>> =
                passes.into_iter().map(|p| p.into_iter().map(|l| l.into_iter().collect()).collect()).collect();
            let replay = replay(9, 7, &passes);
            let all = replay.shape().expert_bytes();
            let mut different: Vec<(usize, u32)> =
                passes.iter().flat_map(|p| p.iter().enumerate().flat_map(|(l, e)| e.iter().map(move |&e| (l, e)))).collect();
            different.sort_unstable();
            different.dedup();
            let policies = Policy::all().into_iter().flat_map(|p| [Scope::Global, Scope::PerLayer].map(|s| Rule::Online(p, s)));
            for rule in policies.chain([Rule::Optimal]) {
                let outcome = replay.run(rule, all);
                prop_assert_eq!(outcome.cold.generate.read_bytes, 7 * different.len() as u64, "{:?}", rule);
                prop_assert_eq!(&outcome.warm, &Phase::default());
                let layers = outcome.layers.iter().map(|c| c.read_bytes).sum::<u64>();
                prop_assert_eq!(layers, outcome.cold.generate.read_bytes);
            }
        }
    }

    #[test]
    fn a_budget_smaller_than_one_layers_demand_still_computes_and_reads_all_of_it() {
        let passes = vec![vec![vec![0, 1, 2, 3]]; 3];
        let replay = replay(4, 10, &passes);
        for rule in [Rule::Optimal, Rule::Online(Policy::default(), Scope::Global)] {
            assert_eq!(total(&replay.run(rule, 0)), Counts { tokens: 3, demands: 12, hits: 0, read_bytes: 120 });
            let some = total(&replay.run(rule, 20));
            assert_eq!(some.read_bytes, 120 - 10 * some.hits, "{rule:?}");
        }
    }

    #[test]
    fn a_layers_own_part_is_whole_slots_and_all_parts_are_within_the_budget() {
        let layers =
            [(8, 10), (0, 0), (8, 15), (4, 10)].map(|(n_experts, slot_bytes)| LayerShape { n_experts, slot_bytes });
        let shape = Shape { layers: layers.to_vec(), ..Shape::default() };
        for budget in 0..=shape.expert_bytes() + 20 {
            let parts = parts(&shape, budget);
            assert!(parts.iter().sum::<u64>() <= budget);
            assert!(parts.iter().zip(&layers).all(|(p, l)| l.slot_bytes == 0 && *p == 0 || p % l.slot_bytes == 0));
        }
        assert_eq!(parts(&shape, 240), [80, 0, 120, 40]);
    }
}
