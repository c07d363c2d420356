//! Which memory of the arena is in use beyond its experts. What an expert leaves behind is filled again as it is: memory
//! that is given back and taken anew is cleared by the kernel first, which costs as much as computing with it.

use std::collections::HashMap;

use crate::store::places::Places;

/// The slots of the arena that hold memory, by where they begin.
#[derive(Debug, Default)]
pub(super) struct Slots {
    /// Bytes of memory that a slot holds.
    held: HashMap<u64, u64>,
    held_bytes: u64,
    /// Of those, the slots without an expert, the one left last at the end.
    free: Vec<u64>,
}

impl Slots {
    /// An expert of `n_bytes`, as large as the slot, is read into it.
    pub(super) fn fill(&mut self, start: u64, n_bytes: u64) {
        self.free.retain(|&other| other != start);
        if self.held.insert(start, n_bytes).is_none() {
            self.held_bytes += n_bytes;
        }
    }

    /// Memory is taken for a slot that no expert has been read into, unless more would be held than `budget`, or it is
    /// held. Says whether it is.
    pub(super) fn take_ahead(&mut self, start: u64, n_bytes: u64, budget: u64) -> bool {
        if self.held_bytes + n_bytes > budget || self.held.contains_key(&start) {
            return false;
        }
        self.held.insert(start, n_bytes);
        self.held_bytes += n_bytes;
        self.free.push(start);
        true
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
            let start = self.free[n_given];
            let held = self.held.remove(&start).unwrap_or(0);
            self.held_bytes -= held;
            arena.discard(start, held);
            n_given += 1;
        }
        self.free.drain(..n_given);
    }
}
