//! What becomes of experts that are on their way: they are there, or will not come.

use super::{Backing, Pager, PagingError, State};
use crate::store::cache::ExpertId;
use crate::store::direct::{Completion, Extent, Ticket};
use crate::store::places::Places;

impl Pager {
    /// An expert that was on its way will not come.
    pub(super) fn forget(&mut self, places: &Places<'_>, id: ExpertId) {
        self.loading_bytes -= places.of(id).slot_bytes;
        let entry = self.entry(id);
        (entry.state, entry.guess) = (State::Absent, false);
        let (slot, ticket) = (entry.slot, entry.ticket);
        let wanted = std::mem::take(&mut entry.wanted);
        self.cache.unpin(id);
        if let Some(at) = self.held.iter().position(|&held| held == id) {
            self.held.swap_remove(at);
            self.held_bytes -= places.of(id).slot_bytes;
            self.cache.unpin(id);
        }
        if wanted {
            self.cache.unpin(id);
            self.waiting.retain(|&other| other != id);
        }
        self.keep_lost(id);
        self.cache.remove(id);
        self.flights.retain(|&(other, _)| other != ticket);
        if self.is_direct() {
            self.slots.free(places.slot_start(id, slot));
        }
    }

    /// An expert that was on its way is there.
    pub(super) fn arrived(&mut self, places: &Places<'_>, id: ExpertId) {
        self.loading_bytes -= places.of(id).slot_bytes;
        let direct = self.is_direct();
        let entry = self.entry(id);
        entry.state = State::Resident;
        let guess = entry.guess;
        self.cache.unpin(id);
        if direct {
            self.map.set_resident(id.layer as usize, id.expert as usize, Some(1.0));
            if guess {
                self.paging.speculated_bytes.add(places.of(id).expert_bytes);
                self.guesses.retain(|&other| other != id);
            }
        }
    }

    /// Notes what has arrived, without waiting.
    pub(super) fn poll(&mut self, places: &Places<'_>) -> Result<(), PagingError> {
        if let Backing::Direct(reader) = &mut self.backing {
            reader.poll(&mut self.done);
        }
        self.settle(places)?;
        self.read_candidates(places);
        Ok(())
    }

    /// Waits until something has arrived.
    pub(super) fn wait(&mut self, places: &Places<'_>) -> Result<(), PagingError> {
        match &mut self.backing {
            Backing::Direct(reader) => {
                reader.wait(&mut self.done);
                self.settle(places)
            }
            Backing::Mapped => {
                let Some(&id) = self.waiting.first() else { return Ok(()) };
                let read = places.ranges(id).into_iter().try_for_each(|range| places.model.populate(range));
                match read {
                    Ok(()) => self.arrived(places, id),
                    Err(error) => {
                        self.forget(places, id);
                        return Err(error.into());
                    }
                }
                Ok(())
            }
        }
    }

    /// Sees to what has ended.
    fn settle(&mut self, places: &Places<'_>) -> Result<(), PagingError> {
        self.slots.note_read(self.arrived_bytes());
        let mut failed = None;
        while let Some(Completion { ticket: Ticket(ticket), outcome }) = self.done.pop() {
            let Some(at) = self.flights.iter().position(|&(other, _)| other == ticket) else { continue };
            let (_, id) = self.flights.swap_remove(at);
            match outcome {
                Ok(Extent::Whole) => self.arrived(places, id),
                Ok(Extent::Part { read_bytes }) => {
                    self.paging.speculated_bytes.add(read_bytes);
                    self.paging.wasted_bytes.add(read_bytes);
                    self.forget(places, id);
                }
                Err(error) => {
                    // A guess that failed is read again, and complained of, when it is asked for.
                    failed = Some(error).filter(|_| self.entry(id).wanted).or(failed);
                    self.guesses.retain(|&guess| guess != id);
                    self.forget(places, id);
                }
            }
        }
        failed.map_or(Ok(()), |error| Err(error.into()))
    }
}
