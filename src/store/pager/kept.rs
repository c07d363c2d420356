//! Experts that a person wants to stay in memory, whatever the policy thinks: pinned in the cache from when they are there
//! until they are let go, or until the budget no longer has room for them beside what a token takes.
//!
//! Reading one for that is a guess of the person's: it is counted with the guesses.

use super::{Pager, State};
use crate::store::budget::Mebibytes;
use crate::store::cache::{ExpertId, Place};
use crate::store::places::Places;

/// Whether an expert is to stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    No,
    /// It is to stay once it is there.
    Wished,
    /// The cache may not evict it.
    Pinned,
}

/// The experts that are to stay, in the order in which they were asked for.
#[derive(Debug)]
pub(super) struct Kept {
    ids: Vec<ExpertId>,
    bytes: u64,
    /// What one token takes in all layers together: so much room is left for others.
    token_bytes: u64,
}

impl Kept {
    pub(super) fn new(places: &Places<'_>, n_used: usize) -> Kept {
        let bytes = places.layers.iter().flatten().map(|layer| layer.slot_bytes);
        Kept { ids: Vec::new(), bytes: 0, token_bytes: bytes.sum::<u64>().saturating_mul(n_used as u64) }
    }
}

/// Why an expert is not kept in memory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PinError {
    #[error("every expert fits in memory: none has to leave, so none is pinned")]
    AllFit,
    #[error("the model has no expert {expert} in layer {layer}")]
    Unknown { layer: usize, expert: usize },
    #[error("no room to pin more: of {budget} for experts {pinned} are pinned, and a token takes {token}")]
    NoRoom { budget: Mebibytes, pinned: Mebibytes, token: Mebibytes },
}

impl Pager {
    /// Bytes of the experts that are to stay.
    pub(in crate::store) fn kept_bytes(&self) -> u64 {
        self.kept.bytes
    }

    /// Has an expert stay in memory from now on, and read where it is not there. Returns at once but where it was just
    /// given up.
    pub(in crate::store) fn keep(&mut self, places: &Places<'_>, id: ExpertId) -> Result<(), PinError> {
        if self.entry(id).keep != Keep::No {
            return Ok(());
        }
        let slot_bytes = places.of(id).slot_bytes;
        let Kept { bytes, token_bytes, .. } = self.kept;
        let no_room = PinError::NoRoom {
            budget: Mebibytes(self.cache.budget()),
            pinned: Mebibytes(bytes),
            token: Mebibytes(token_bytes),
        };
        if bytes.saturating_add(slot_bytes).saturating_add(token_bytes) > self.cache.budget() {
            return Err(no_room);
        }
        // What fails here is told to whoever asks for the expert.
        let _ = self.poll(places);
        while self.entry(id).state == State::Ending {
            let _ = self.wait(places);
        }
        if self.entry(id).state == State::Absent {
            self.begin_guess(places, id, Place::Hot).map_err(|_| no_room)?;
        }
        // A guess that nobody may give up any more.
        self.guesses.retain(|&guess| guess != id);
        self.cache.pin(id);
        self.entry(id).keep = Keep::Pinned;
        self.kept.ids.push(id);
        self.kept.bytes += slot_bytes;
        self.tell_kept(id, true);
        Ok(())
    }

    /// Lets an expert leave again when the policy says so.
    pub(in crate::store) fn let_leave(&mut self, places: &Places<'_>, id: ExpertId) {
        if let Some(at) = self.kept.ids.iter().position(|&kept| kept == id) {
            self.kept.ids.remove(at);
            self.kept.bytes -= places.of(id).slot_bytes;
            if std::mem::replace(&mut self.entry(id).keep, Keep::No) == Keep::Pinned {
                self.cache.unpin(id);
            }
            self.tell_kept(id, false);
        }
    }

    /// Lets those leave that were asked for last, until a budget has room for a token beside the others.
    pub(super) fn keep_within(&mut self, places: &Places<'_>, budget: u64) {
        while let Some(&last) = self.kept.ids.last()
            && self.kept.bytes.saturating_add(self.kept.token_bytes) > budget
        {
            self.let_leave(places, last);
            self.paging.unpinned_experts.add(1);
        }
    }

    /// An expert that is to stay has been given a slot again.
    pub(super) fn keep_begun(&mut self, id: ExpertId) {
        let entry = self.entry(id);
        if entry.keep == Keep::Wished {
            entry.keep = Keep::Pinned;
            self.cache.pin(id);
        }
    }

    /// An expert loses its slot, for it could not be read.
    pub(super) fn keep_lost(&mut self, id: ExpertId) {
        let entry = self.entry(id);
        if entry.keep == Keep::Pinned {
            entry.keep = Keep::Wished;
            self.cache.unpin(id);
        }
    }

    fn tell_kept(&self, id: ExpertId, is_kept: bool) {
        self.map.set_pinned(id.layer as usize, id.expert as usize, is_kept);
        self.paging.pinned_bytes.set(self.kept.bytes);
    }
}
