//! Which experts a budget of bytes holds, and which must leave for others: uses and insertions in, evictions out. No
//! reading and no clock but the layers that are begun, so that the store and the replay of a trace decide alike.
//!
//! Every layer keeps a heap of its experts that may leave, the least worth keeping on top; an eviction compares the tops
//! of the layers. What was learnt of an expert stays when it leaves.

mod policy;
#[cfg(test)]
mod tests;

pub use policy::{Policy, UnknownPolicy};

/// One expert of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExpertId {
    pub layer: u32,
    pub expert: u32,
}

/// Whether an expert has proved useful.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Leaves before any that is hot: a guess, or one of a prompt's sweep. The first demand makes it hot.
    Cold,
    /// Leaves when the policy says.
    Hot,
}

/// The experts that may not leave, with the one asked for, are more than the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the budget of {budget} bytes for experts cannot hold {wanted} bytes more beside the {pinned} bytes in use; raise it"
)]
pub struct NoRoom {
    pub budget: u64,
    pub pinned: u64,
    pub wanted: u64,
}

const NOWHERE: u32 = u32::MAX;

/// How many tokens' wait another size class's victim must be ahead of one whose slot can be filled in place.
const CLASS_PREFERENCE: f64 = 1.0;

/// Whether a layer that wants so many of its experts is one of a sweep over nearly all experts of every layer.
pub fn is_sweep(n_routed: usize, n_experts: usize) -> bool {
    n_routed * 10 >= 9 * n_experts
}

/// The experts that are resident, in slots of the arena of their size class.
#[derive(Debug, Clone)]
pub struct ExpertCache {
    policy: Policy,
    budget: u64,
    /// What insertions keep to as far as experts may leave: at most the budget.
    limit: u64,
    used: u64,
    pinned: u64,
    /// The layer begun last.
    current: usize,
    /// The layers after it will want nearly all of their experts.
    is_sweep: bool,
    /// Tokens times layers begun so far.
    steps: f64,
    layers: Vec<Layer>,
    classes: Vec<Class>,
    /// Of all layers, one after the other.
    experts: Vec<Expert>,
    /// Indices into `experts`; each layer has a heap in a range as long as its experts, at the place of its experts.
    heaps: Vec<u32>,
}

#[derive(Debug, Clone)]
struct Layer {
    /// Index of its first expert.
    first: usize,
    n_experts: usize,
    /// 0 for a dense layer.
    slot_bytes: u64,
    class: usize,
    /// Tokens that the layer has seen.
    clock: f64,
    /// Tokens of the pass at hand.
    batch: f64,
    /// Experts in its heap.
    heap_len: usize,
}

/// The layers whose experts take the same number of bytes.
#[derive(Debug, Clone)]
struct Class {
    slot_bytes: u64,
    /// Slots that were used and are free again, the one freed last at the end.
    free: Vec<u32>,
    /// Slots ever used.
    n_slots: u32,
}

#[derive(Debug, Clone)]
struct Expert {
    /// What the policy knows of it: higher is better within a layer.
    key: f64,
    place: Place,
    pins: u32,
    /// In the arena of its class; `NOWHERE`: not resident.
    slot: u32,
    /// In its layer's heap; `NOWHERE`: pinned or not resident.
    at: u32,
}

impl ExpertCache {
    /// `slot_bytes[layer]`: what one expert of the layer takes, 0 for a dense layer; `n_experts[layer]`; `budget`: bytes.
    ///
    /// # Panics
    /// Where the two slices differ in length.
    pub fn new(policy: Policy, slot_bytes: &[u64], n_experts: &[usize], budget: u64) -> ExpertCache {
        assert_eq!(slot_bytes.len(), n_experts.len(), "one size and one count a layer");
        let mut classes: Vec<Class> = Vec::new();
        let mut layers = Vec::with_capacity(slot_bytes.len());
        let mut first = 0;
        for (&slot_bytes, &n_experts) in slot_bytes.iter().zip(n_experts) {
            let n_experts = if slot_bytes == 0 { 0 } else { n_experts };
            let class = classes.iter().position(|c| c.slot_bytes == slot_bytes).unwrap_or_else(|| {
                classes.push(Class { slot_bytes, free: Vec::new(), n_slots: 0 });
                classes.len() - 1
            });
            classes[class].free.reserve(n_experts);
            layers.push(Layer { first, n_experts, slot_bytes, class, clock: 0.0, batch: 0.0, heap_len: 0 });
            first += n_experts;
        }
        let unused = Expert { key: policy.unused(), place: Place::Cold, pins: 0, slot: NOWHERE, at: NOWHERE };
        let (experts, heaps) = (vec![unused; first], vec![NOWHERE; first]);
        for class in &mut classes {
            let slots: usize = layers.iter().filter(|l| l.slot_bytes == class.slot_bytes).map(|l| l.n_experts).sum();
            class.free.reserve(slots);
        }
        ExpertCache {
            policy,
            budget,
            limit: budget,
            used: 0,
            pinned: 0,
            current: 0,
            is_sweep: false,
            steps: 0.0,
            layers,
            classes,
            experts,
            heaps,
        }
    }

    /// The layer is computed next, for `n_tokens` tokens: the clock of the policies.
    pub fn begin_layer(&mut self, layer: usize, n_tokens: usize) {
        self.current = layer;
        self.steps += n_tokens as f64;
        let layer = &mut self.layers[layer];
        layer.clock += n_tokens as f64;
        layer.batch = n_tokens as f64;
    }

    /// The layer that was begun wants so many of its experts. Where it is one of a sweep, as of a prompt, cold experts leave
    /// in the order of their layers, those of the layer at hand first, since the next layers will want theirs.
    pub fn note_routed(&mut self, n_routed: usize) {
        self.is_sweep = is_sweep(n_routed, self.layers[self.current].n_experts);
    }

    /// Whether the layer that was begun is one of a sweep.
    pub fn is_sweep(&self) -> bool {
        self.is_sweep
    }

    /// `n_tokens` tokens of the layer that was begun were routed to the expert. Whether it is resident: then pin it before
    /// room is made for others of the layer, for the layer at hand is the one needed again the latest.
    pub fn demand(&mut self, id: ExpertId, n_tokens: usize) -> bool {
        let index = self.index(id);
        let layer = &self.layers[id.layer as usize];
        let moment = policy::Moment {
            steps: self.steps,
            n_layers: self.layers.len() as f64,
            clock: layer.clock,
            batch: layer.batch,
            n_tokens: n_tokens as f64,
        };
        let expert = &mut self.experts[index];
        expert.key = self.policy.used(expert.key, &moment);
        expert.place = Place::Hot;
        if expert.at != NOWHERE {
            self.settle(id.layer as usize, expert_at(&self.experts, index));
        }
        self.experts[index].slot != NOWHERE
    }

    pub fn contains(&self, id: ExpertId) -> bool {
        self.slot(id).is_some()
    }

    /// The expert's slot in the arena of its [class](Self::class); `None` where it is not resident.
    pub fn slot(&self, id: ExpertId) -> Option<u32> {
        let slot = self.experts[self.index(id)].slot;
        (slot != NOWHERE).then_some(slot)
    }

    /// The size class of a layer: slots of one class have the same size, and are numbered from 0 up to at most as many as
    /// its layers have experts.
    pub fn class(&self, layer: usize) -> usize {
        self.layers[layer].class
    }

    /// Makes room and inserts; gives the slot. Whoever leaves is appended to `evicted`, its slot free from then on; if it
    /// was of the same class, that slot is the one given. On an error nothing is changed.
    ///
    /// # Panics
    /// Where the expert is resident already.
    pub fn insert(&mut self, id: ExpertId, place: Place, evicted: &mut Vec<ExpertId>) -> Result<u32, NoRoom> {
        let index = self.index(id);
        assert!(self.experts[index].slot == NOWHERE, "{id:?} is inserted twice");
        let Layer { slot_bytes: wanted, class, .. } = self.layers[id.layer as usize];
        if self.pinned.saturating_add(wanted) > self.budget {
            return Err(NoRoom { budget: self.budget, pinned: self.pinned, wanted });
        }
        self.evict_to(self.limit.saturating_sub(wanted), Some(class), evicted);
        let class = &mut self.classes[class];
        let slot = class.free.pop().unwrap_or_else(|| {
            class.n_slots += 1;
            class.n_slots - 1
        });
        self.used += wanted;
        let expert = &mut self.experts[index];
        (expert.slot, expert.place) = (slot, place);
        self.push(id.layer as usize, index);
        Ok(slot)
    }

    /// Lets an expert go, whatever the policy thinks.
    ///
    /// # Panics
    /// Where it is not resident, or pinned.
    pub fn remove(&mut self, id: ExpertId) {
        let index = self.index(id);
        let expert = &mut self.experts[index];
        assert!(expert.slot != NOWHERE && expert.pins == 0, "{id:?} cannot be removed: {expert:?}");
        let slot = std::mem::replace(&mut expert.slot, NOWHERE);
        self.take(id.layer as usize, index);
        let layer = &self.layers[id.layer as usize];
        self.used -= layer.slot_bytes;
        self.classes[layer.class].free.push(slot);
    }

    /// The expert may not leave until it is unpinned as often.
    ///
    /// # Panics
    /// Where it is not resident.
    pub fn pin(&mut self, id: ExpertId) {
        let index = self.index(id);
        let expert = &mut self.experts[index];
        assert!(expert.slot != NOWHERE, "{id:?} is pinned without being resident");
        expert.pins += 1;
        if expert.pins == 1 {
            self.take(id.layer as usize, index);
            self.pinned += self.layers[id.layer as usize].slot_bytes;
        }
    }

    /// Takes back one pin.
    ///
    /// # Panics
    /// Where there is none.
    pub fn unpin(&mut self, id: ExpertId) {
        let index = self.index(id);
        let expert = &mut self.experts[index];
        assert!(expert.pins > 0, "{id:?} is unpinned more often than pinned");
        expert.pins -= 1;
        if expert.pins == 0 {
            self.push(id.layer as usize, index);
            self.pinned -= self.layers[id.layer as usize].slot_bytes;
        }
    }

    /// Moves a resident expert to the hot or the cold ones.
    pub fn set_place(&mut self, id: ExpertId, place: Place) {
        let index = self.index(id);
        self.experts[index].place = place;
        if self.experts[index].at != NOWHERE {
            self.settle(id.layer as usize, expert_at(&self.experts, index));
        }
    }

    /// Changes the budget; who has no room any more is appended to `evicted`. Pinned experts stay, even over the budget,
    /// until they are unpinned and the next insertion or change makes them leave.
    pub fn set_budget(&mut self, bytes: u64, evicted: &mut Vec<ExpertId>) {
        (self.budget, self.limit) = (bytes, bytes);
        self.evict_to(bytes, None, evicted);
    }

    /// Has insertions make room within fewer bytes than the budget, as far as experts may leave, and fill slots of their
    /// class where they can, until this or the budget is set again. Nobody leaves at once.
    pub fn set_limit(&mut self, bytes: u64) {
        self.limit = bytes.min(self.budget);
    }

    /// What insertions keep to.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Whether that is less than the budget.
    pub fn is_limited(&self) -> bool {
        self.limit < self.budget
    }

    pub fn budget(&self) -> u64 {
        self.budget
    }

    /// Bytes of the resident experts: never more than the budget, but where it was lowered below what is pinned.
    pub fn used_bytes(&self) -> u64 {
        self.used
    }

    /// The resident experts, in the order of layers.
    pub fn resident(&self) -> impl Iterator<Item = ExpertId> {
        let of_layer = |(number, layer): (usize, &Layer)| {
            let first = layer.first;
            let experts = self.experts[first..first + layer.n_experts].iter().enumerate();
            let resident = experts.filter(|(_, expert)| expert.slot != NOWHERE);
            resident.map(move |(expert, _)| ExpertId { layer: number as u32, expert: expert as u32 })
        };
        self.layers.iter().enumerate().flat_map(of_layer)
    }

    fn index(&self, ExpertId { layer, expert }: ExpertId) -> usize {
        let found = &self.layers[layer as usize];
        assert!((expert as usize) < found.n_experts, "expert {expert} of {} in layer {layer}", found.n_experts);
        found.first + expert as usize
    }

    /// Evicts until at most `bytes` are used, or nothing but pinned experts is left.
    fn evict_to(&mut self, bytes: u64, class: Option<usize>, evicted: &mut Vec<ExpertId>) {
        while self.used > bytes {
            let Some(layer) = self.victim(class) else { return };
            let index = self.heaps[self.layers[layer].first] as usize;
            let id = ExpertId { layer: layer as u32, expert: (index - self.layers[layer].first) as u32 };
            self.remove(id);
            evicted.push(id);
        }
    }

    /// The layer whose least worthy expert leaves next: of the class asked for where that costs little.
    fn victim(&self, class: Option<usize>) -> Option<usize> {
        let n_layers = self.layers.len();
        let mut best: [Option<(Place, f64, usize)>; 2] = [None; 2];
        for (number, layer) in self.layers.iter().enumerate().filter(|(_, layer)| layer.heap_len > 0) {
            let Expert { key, place, .. } = self.experts[self.heaps[layer.first] as usize];
            // A share of a token, as policies count: below the preference for slots of the same size.
            let passed = ((self.current + n_layers - number) % n_layers) as f64 / n_layers as f64;
            let worth = match place {
                Place::Cold if self.is_sweep => passed,
                _ => self.policy.worth(key, layer.clock, passed),
            };
            let best = &mut best[usize::from(class == Some(layer.class))];
            if best.is_none_or(|(p, w, _)| (place, worth) < (p, w)) {
                *best = Some((place, worth, number));
            }
        }
        let [other, same] = best;
        match (other, same) {
            (Some(_), Some((_, _, same))) if self.is_limited() => Some(same),
            (Some((p, worth, other)), Some((place, of_same, same))) => {
                let ahead = p < place || p == place && self.policy.tokens_apart(worth, of_same) > CLASS_PREFERENCE;
                Some(if ahead { other } else { same })
            }
            (other, same) => same.or(other).map(|(_, _, number)| number),
        }
    }

    fn push(&mut self, layer: usize, index: usize) {
        let Layer { first, heap_len, .. } = &mut self.layers[layer];
        self.heaps[*first + *heap_len] = index as u32;
        self.experts[index].at = *heap_len as u32;
        *heap_len += 1;
        let at = *heap_len - 1;
        self.settle(layer, at);
    }

    fn take(&mut self, layer: usize, index: usize) {
        let at = expert_at(&self.experts, index);
        let Layer { first, heap_len, .. } = &mut self.layers[layer];
        *heap_len -= 1;
        let (first, last) = (*first, *heap_len);
        self.experts[index].at = NOWHERE;
        if at != last {
            let moved = self.heaps[first + last];
            self.heaps[first + at] = moved;
            self.experts[moved as usize].at = at as u32;
            self.settle(layer, at);
        }
    }

    /// Restores the order of a layer's heap around the place whose expert has changed.
    fn settle(&mut self, layer: usize, mut at: usize) {
        let Layer { first, heap_len, .. } = self.layers[layer];
        let heap = &mut self.heaps[first..first + heap_len];
        let experts = &mut self.experts;
        let before = |experts: &[Expert], a: u32, b: u32| {
            let (a_, b_) = (&experts[a as usize], &experts[b as usize]);
            a_.place.cmp(&b_.place).then(a_.key.total_cmp(&b_.key)).then(a.cmp(&b)).is_lt()
        };
        loop {
            let parent = at.saturating_sub(1) / 2;
            let children = [2 * at + 1, 2 * at + 2].into_iter().filter(|&c| c < heap.len());
            let next = if before(experts, heap[at], heap[parent]) {
                parent
            } else {
                let least = children.reduce(|a, b| if before(experts, heap[b], heap[a]) { b } else { a });
                match least.filter(|&c| before(experts, heap[c], heap[at])) {
                    Some(child) => child,
                    None => return,
                }
            };
            heap.swap(at, next);
            experts[heap[at] as usize].at = at as u32;
            experts[heap[next] as usize].at = next as u32;
            at = next;
        }
    }
}

fn expert_at(experts: &[Expert], index: usize) -> usize {
    experts[index].at as usize
}
