//! Which memory of the arena is in use beyond its experts. What an expert leaves behind is filled again as it is: memory
//! that is given back and taken anew is cleared by the kernel first, which costs as much as computing with it. Memory that
//! was never taken is taken ahead, as far as experts may use it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::store::cache::{ExpertCache, ExpertId};
use crate::store::direct::Populator;
use crate::store::places::Places;

/// Bytes that memory is taken for before they are needed, at the least a slot.
const AHEAD_BYTES: u64 = 256 << 20;
/// Over so many bytes it is measured how fast the disk is: some of them were on their way before.
const MEASURED_BYTES: u64 = 128 << 20;

/// The slots of the arena that hold memory, by where they begin.
#[derive(Debug)]
pub(super) struct Slots {
    /// Bytes of memory that a slot holds.
    held: HashMap<u64, u64>,
    held_bytes: u64,
    /// Of those, the slots without an expert, the one left last at the end.
    free: Vec<u64>,
    /// `None` where there is no arena.
    populator: Option<Populator>,
    /// Of all experts.
    total_bytes: u64,
    /// When the measurement at hand began, and what direct reads had brought by then.
    measured_from: (Instant, u64),
    /// The most that they have brought in a second. The disk may be faster: it is not always asked for enough.
    disk_rate: f64,
    /// The sweep at hand, once it is known what memory costs.
    sweep: Option<Sweep>,
    /// By the cache's size class.
    classes: Vec<Class>,
}

/// The share of its computing time that a sweep gives to taking memory.
const SWEEP_SHARE: f64 = 0.05;

/// Memory that a sweep may use: what there was, and what was taken with time that computing did not need.
#[derive(Debug, Clone, Copy)]
struct Sweep {
    bytes: f64,
    /// When that was found.
    at: Instant,
    /// In which the pass has waited for the disk since.
    waited: Duration,
}

impl Sweep {
    fn new(bytes: u64, at: Instant) -> Sweep {
        Sweep { bytes: bytes as f64, at, waited: Duration::ZERO }
    }

    /// As it stands at `now`, where `taken` bytes of memory can be taken in a second.
    fn until(self, now: Instant, taken: f64) -> Sweep {
        let computed = (now - self.at).saturating_sub(self.waited);
        let seconds = self.waited.as_secs_f64() + SWEEP_SHARE * computed.as_secs_f64();
        Sweep { bytes: self.bytes + taken * seconds, at: now, waited: Duration::ZERO }
    }
}

/// Slots of one size, which are used in their order.
#[derive(Debug, Clone, Copy, Default)]
struct Class {
    n_slots: u32,
    /// The first that memory was never taken for.
    untouched: u32,
}

impl Slots {
    pub(super) fn new(places: &Places<'_>, cache: &ExpertCache) -> Slots {
        let mut classes: Vec<Class> = Vec::new();
        for (layer, found) in places.layers.iter().enumerate() {
            let class = cache.class(layer);
            classes.resize(classes.len().max(class + 1), Class::default());
            classes[class].n_slots += found.as_ref().map_or(0, |l| l.n_experts() as u32);
        }
        let populator = places.arena.as_ref().map(Populator::new);
        Slots {
            held: HashMap::new(),
            held_bytes: 0,
            free: Vec::new(),
            populator,
            total_bytes: places.total_bytes(),
            measured_from: (Instant::now(), 0),
            disk_rate: 0.0,
            sweep: None,
            classes,
        }
    }

    /// Direct reads have brought so many bytes by now.
    pub(super) fn note_read(&mut self, n_bytes: u64) {
        let (from, before) = self.measured_from;
        if n_bytes - before >= MEASURED_BYTES {
            let now = Instant::now();
            self.disk_rate = self.disk_rate.max((n_bytes - before) as f64 / (now - from).as_secs_f64().max(1e-6));
            self.measured_from = (now, n_bytes);
        }
    }

    /// A pass has waited for reads.
    pub(super) fn note_wait(&mut self, time: Duration) {
        if let Some(sweep) = &mut self.sweep {
            sweep.waited += time;
        }
    }

    /// Bytes that experts may take while a layer is computed. A sweep leaves the processors to computing: memory is taken while
    /// it waits for the disk, and with little of the rest of its time; where memory costs more than it saves, none is. Tokens,
    /// which wait more, may take all.
    pub(super) fn room(&mut self, is_sweep: bool, budget: u64) -> u64 {
        if !is_sweep {
            self.sweep = None;
            return budget;
        }
        let now = Instant::now();
        if let Some(taken) = self.populator.as_ref().and_then(Populator::bytes_per_second) {
            let sweep = self.sweep.unwrap_or(Sweep::new(self.held_bytes, now));
            self.sweep = Some(sweep.until(now, if self.are_dear(budget, taken) { 0.0 } else { taken }));
        }
        self.sweep.map_or(budget, |sweep| budget.min(sweep.bytes as u64))
    }

    /// As if what is held had been found to be enough for a sweep.
    #[cfg(test)]
    pub(super) fn make_do_with(&mut self, bytes: u64) {
        self.sweep = Some(Sweep::new(bytes, Instant::now()));
    }

    /// Whether it takes longer to take memory for an expert, `taken` bytes a second, than the disk will take to bring it back, as
    /// often as it is asked for again, which is at least as often as the budget has room for one of all.
    fn are_dear(&self, budget: u64, taken: f64) -> bool {
        let chance = (budget as f64 / self.total_bytes.max(1) as f64).min(1.0);
        self.disk_rate > chance * taken
    }

    /// An expert is read into its slot. Memory is taken for those that come next, where they are to have any.
    pub(super) fn fill(&mut self, places: &Places<'_>, cache: &ExpertCache, id: ExpertId, slot: u32) {
        let slot_bytes = places.of(id).slot_bytes;
        self.hold(places.slot_start(id, slot), slot_bytes);
        let class = cache.class(id.layer as usize);
        let Class { n_slots, untouched } = self.classes[class];
        let n_ahead = (AHEAD_BYTES / slot_bytes.max(1)).max(1) as u32;
        let mut next = untouched.max(slot + 1);
        while next < n_slots.min(slot.saturating_add(n_ahead + 1)) && self.held_bytes + slot_bytes <= cache.limit() {
            let start = places.slot_start(id, next);
            self.hold(start, slot_bytes);
            self.free(start);
            self.populator.iter().for_each(|populator| populator.ask(start, slot_bytes));
            next += 1;
        }
        self.classes[class].untouched = next;
    }

    fn hold(&mut self, start: u64, n_bytes: u64) {
        self.free.retain(|&other| other != start);
        if self.held.insert(start, n_bytes).is_none() {
            self.held_bytes += n_bytes;
        }
    }

    /// The slot's expert has left.
    pub(super) fn free(&mut self, start: u64) {
        self.free.push(start);
    }

    /// Gives back free slots until what all hold is within the budget.
    pub(super) fn trim(&mut self, places: &Places<'_>, budget: u64) {
        let Some(arena) = &places.arena else { return };
        let mut n_given = 0;
        while self.held_bytes > budget && n_given < self.free.len() {
            if n_given == 0 {
                // What is given back must not be taken after all.
                self.populator.iter().for_each(Populator::forget);
            }
            let start = self.free[n_given];
            let held = self.held.remove(&start).unwrap_or(0);
            self.held_bytes -= held;
            arena.discard(start, held);
            n_given += 1;
        }
        self.free.drain(..n_given);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_may_use_what_is_taken_while_it_waits_and_in_a_twentieth_of_the_rest() {
        let began = Instant::now();
        let sweep = Sweep { waited: Duration::from_secs(2), ..Sweep::new(1000, began) };
        let later = sweep.until(began + Duration::from_secs(10), 100.0);
        assert!((later.bytes - (1000.0 + 200.0 + 40.0)).abs() < 1e-6, "{later:?}");
        assert_eq!(later.waited, Duration::ZERO);
        assert!((later.until(later.at + Duration::from_secs(10), 0.0).bytes - later.bytes).abs() < 1e-6);
    }
}
