//! Keeps to a budget of experts: what a layer wants is pinned, read where it is missing, and handed over as it comes;
//! what may leave is decided by the [`ExpertCache`], alike for both ways of reading.

mod arrivals;
mod guesses;
mod kept;
mod slots;
mod trial;

pub use guesses::{Foresight, Warmed};
pub use kept::PinError;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use self::guesses::Forecasts;
use self::kept::{Keep, Kept};
use self::slots::Slots;
use self::trial::Trial;
use super::cache::{ExpertCache, ExpertId, NoRoom, Place};
use super::direct::{Completion, ReadError, Reader, Ticket, Urgency};
use super::mapping::FileRange;
use super::places::Places;
use crate::telemetry::{ExpertMap, Paging};

/// Bytes that may be on their way before they are needed, where twice a token's experts of a layer are less.
const AHEAD_BYTES: u64 = 64 << 20;

/// Why a layer does not get its experts.
#[derive(Debug, thiserror::Error)]
pub enum PagingError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
}

/// An expert that tokens of a pass were routed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Routed {
    pub expert: usize,
    /// How many tokens.
    pub n_tokens: usize,
    /// Where it goes when it has been used.
    pub place: Place,
}

/// The bookkeeping of one model's experts.
#[derive(Debug)]
pub(super) struct Pager {
    cache: ExpertCache,
    backing: Backing,
    paging: Arc<Paging>,
    map: Arc<ExpertMap>,
    /// Of all layers, one after the other.
    entries: Vec<Entry>,
    slots: Slots,
    /// `[n_layers]`: index of the layer's first expert.
    firsts: Vec<usize>,
    /// The layer at hand.
    layer: usize,
    /// What the layer at hand wants and is resident or on its way.
    waiting: Vec<ExpertId>,
    /// What it wants and has not been begun.
    missing: VecDeque<ExpertId>,
    /// What it has been handed.
    taken: Vec<ExpertId>,
    /// What may be guessed once the disk has nothing to do, the likeliest first.
    candidates: VecDeque<ExpertId>,
    /// Guesses that nobody has asked for and that have not arrived.
    guesses: Vec<ExpertId>,
    /// Guesses, and what is resident of what was predicted: they may not leave before the layer has chosen.
    held: Vec<ExpertId>,
    held_bytes: u64,
    kept: Kept,
    forecasts: Forecasts,
    trial: Trial,
    /// A layer to be read ahead, and the next of its experts.
    ahead: Option<(usize, usize)>,
    /// Bytes on their way.
    loading_bytes: u64,
    /// Bytes that may be on their way before they are needed.
    ahead_bytes: u64,
    last_ticket: u64,
    /// What the reader has, by its tickets.
    flights: Vec<(u64, ExpertId)>,
    /// For reuse.
    evicted: Vec<ExpertId>,
    done: Vec<Completion>,
}

/// How bytes come and go.
#[derive(Debug)]
pub(super) enum Backing {
    /// The page cache holds them: it is asked to read, and told what to drop.
    Mapped,
    Direct(Box<Reader>),
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    state: State,
    slot: u32,
    /// Names the expert while it is read.
    ticket: u64,
    /// The layer at hand wants it.
    wanted: bool,
    /// It was read, or is, on a guess, and nobody has asked for it yet.
    guess: bool,
    keep: Keep,
    place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Absent,
    /// On its way; pinned until it is there.
    Loading,
    /// Given up while it was on its way; pinned until what is in flight of it has ended.
    Ending,
    Resident,
}

impl Pager {
    /// `n_used`: experts that a token takes in a layer.
    pub(super) fn new(
        cache: ExpertCache,
        backing: Backing,
        places: &Places<'_>,
        n_used: usize,
        paging: Arc<Paging>,
        map: Arc<ExpertMap>,
    ) -> Pager {
        let absent = Entry {
            state: State::Absent,
            slot: 0,
            ticket: 0,
            wanted: false,
            guess: false,
            keep: Keep::No,
            place: Place::Cold,
        };
        let counts = places.layers.iter().map(|l| l.as_ref().map_or(0, |l| l.n_experts()));
        let firsts = counts.clone().scan(0, |sum, n| Some(std::mem::replace(sum, *sum + n))).collect();
        let largest = places.layers.iter().flatten().map(|l| l.slot_bytes).max().unwrap_or(0);
        let pager = Pager {
            slots: Slots::new(places, &cache),
            cache,
            backing,
            paging,
            map,
            entries: vec![absent; counts.sum()],
            firsts,
            layer: 0,
            waiting: Vec::new(),
            missing: VecDeque::new(),
            taken: Vec::new(),
            candidates: VecDeque::new(),
            guesses: Vec::new(),
            held: Vec::new(),
            held_bytes: 0,
            kept: Kept::new(places, n_used),
            forecasts: Forecasts::new(places.layers.len(), n_used),
            trial: Trial::new(),
            ahead: None,
            loading_bytes: 0,
            ahead_bytes: AHEAD_BYTES.max(2 * n_used as u64 * largest),
            last_ticket: 0,
            flights: Vec::new(),
            evicted: Vec::new(),
            done: Vec::new(),
        };
        if pager.is_direct() {
            for (layer, found) in places.layers.iter().enumerate() {
                let n_experts = found.as_ref().map_or(0, |l| l.n_experts());
                (0..n_experts).for_each(|expert| pager.map.set_resident(layer, expert, Some(0.0)));
            }
        }
        pager.paging.budget_bytes.set(pager.cache.budget());
        pager.paging.resident_bytes.set(0);
        pager
    }

    pub(super) fn cache(&self) -> &ExpertCache {
        &self.cache
    }

    /// Bytes that experts may take while a layer is computed, one of a sweep or not.
    pub(super) fn room(&mut self, is_sweep: bool) -> u64 {
        self.slots.room(is_sweep, self.cache.budget())
    }

    #[cfg(test)]
    pub(super) fn make_do_with(&mut self, bytes: u64) {
        self.slots.make_do_with(bytes);
    }

    pub(super) fn ahead_bytes(&self) -> u64 {
        self.ahead_bytes
    }

    fn is_direct(&self) -> bool {
        matches!(self.backing, Backing::Direct(_))
    }

    fn index(&self, id: ExpertId) -> usize {
        self.firsts[id.layer as usize] + id.expert as usize
    }

    /// Whether it is in memory, and not still on its way.
    pub(super) fn is_resident(&self, id: ExpertId) -> bool {
        self.entries[self.index(id)].state == State::Resident
    }

    fn entry(&mut self, id: ExpertId) -> &mut Entry {
        let index = self.index(id);
        &mut self.entries[index]
    }

    pub(super) fn set_budget(&mut self, places: &Places<'_>, bytes: u64) {
        self.keep_within(places, bytes);
        let mut evicted = std::mem::take(&mut self.evicted);
        self.cache.set_budget(bytes, &mut evicted);
        self.evicted = evicted;
        self.drop_evicted(places);
        self.slots.trim(places, self.cache.budget());
        self.paging.budget_bytes.set(bytes);
        self.paging.resident_bytes.set(self.cache.used_bytes());
    }

    /// Begins a layer: pins what is resident of the experts it wants, and has the rest read, all at once as far as there
    /// is room. Returns at once.
    pub(super) fn request(
        &mut self,
        places: &Places<'_>,
        layer: usize,
        n_tokens: usize,
        routed: &[Routed],
    ) -> Result<(), PagingError> {
        self.layer = layer;
        self.cache.begin_layer(layer, n_tokens);
        self.cache.note_routed(routed.len());
        let room = self.room(self.cache.is_sweep());
        self.cache.set_limit(room);
        self.candidates.clear();
        self.poll(places)?;
        self.ahead = None;
        self.compare_forecasts(layer, n_tokens, routed);
        for &Routed { expert, n_tokens, place } in routed {
            let id = ExpertId { layer: layer as u32, expert: expert as u32 };
            let bytes = places.of(id).expert_bytes;
            while self.entry(id).state == State::Ending {
                self.wait_counted(places)?;
            }
            let resident = self.cache.demand(id, n_tokens);
            let index = self.index(id);
            let entry = &mut self.entries[index];
            (entry.wanted, entry.place) = (true, place);
            if !resident {
                self.missing.push_back(id);
                continue;
            }
            self.paging.requested_bytes.add(bytes);
            self.cache.pin(id);
            self.waiting.push(id);
            let guessed = std::mem::take(&mut entry.guess);
            if guessed {
                self.paging.speculated_used_bytes.add(bytes);
                self.guesses.retain(|&guess| guess != id);
            }
            match &mut self.backing {
                Backing::Direct(reader) => {
                    if entry.state == State::Loading {
                        reader.promote(Ticket(entry.ticket));
                        // A guess that arrives unasked is counted when it does.
                        self.paging.speculated_bytes.add(if guessed { bytes } else { 0 });
                    }
                    self.paging.hit_bytes.add(if guessed { 0 } else { bytes });
                }
                Backing::Mapped => {
                    // The kernel may have dropped it, or not have read it yet.
                    let ranges = places.ranges(id);
                    let known = |range: FileRange| places.residency.resident_bytes(range).unwrap_or(range.n_bytes);
                    let missing = bytes - ranges.iter().map(|&range| known(range)).sum::<u64>().min(bytes);
                    if missing > 0 {
                        ranges.iter().for_each(|&range| places.model.will_need(range));
                    }
                    if !guessed {
                        self.paging.demand_bytes.add(missing);
                        self.paging.hit_bytes.add(bytes - missing);
                    }
                    if entry.state == State::Resident && (missing > 0 || guessed) {
                        entry.state = State::Loading;
                        self.loading_bytes += places.of(id).slot_bytes;
                        self.cache.pin(id);
                    }
                }
            }
        }
        self.let_go();
        self.cancel_guesses(places, |id| id.layer as usize == layer);
        // Where there is no room yet, who takes the experts is told.
        let _ = self.submit_missing(places);
        Ok(())
    }

    /// Hands over what has come, and waits where nothing has, unless nothing more is to come: `experts` is empty then.
    pub(super) fn take(&mut self, places: &Places<'_>, experts: &mut Vec<usize>) -> Result<(), PagingError> {
        experts.clear();
        loop {
            self.poll(places)?;
            let (entries, firsts, taken) = (&self.entries, &self.firsts, &mut self.taken);
            self.waiting.retain(|&id| {
                let entry = &entries[firsts[id.layer as usize] + id.expert as usize];
                let resident = entry.state == State::Resident;
                if resident {
                    places.open(id, entry.slot);
                    taken.push(id);
                    experts.push(id.expert as usize);
                }
                !resident
            });
            if !experts.is_empty() || self.waiting.is_empty() && self.missing.is_empty() {
                return Ok(());
            }
            self.submit_missing(places)?;
            self.wait_counted(places)?;
        }
    }

    /// Waits until something has ended, and counts the time.
    fn wait_counted(&mut self, places: &Places<'_>) -> Result<(), PagingError> {
        let (began, arrived) = (Instant::now(), self.arrived_bytes());
        let waited = self.wait(places);
        let (time, n_bytes) = (began.elapsed(), self.arrived_bytes() - arrived);
        self.paging.add_stall(self.layer, time);
        self.paging.stall_read_bytes.add(n_bytes);
        self.slots.note_wait(time);
        waited
    }

    /// Bytes that direct reads have brought.
    fn arrived_bytes(&self) -> u64 {
        match &self.backing {
            Backing::Direct(reader) => reader.read_bytes(),
            Backing::Mapped => 0,
        }
    }

    /// Takes an expert back.
    pub(super) fn release(&mut self, places: &Places<'_>, expert: usize) -> Result<(), PagingError> {
        let found = self.taken.iter().position(|id| id.expert as usize == expert);
        let id = self.taken.swap_remove(found.unwrap_or_else(|| panic!("expert {expert} was not taken")));
        self.put_back(places, id);
        self.poll(places)?;
        let _ = self.submit_missing(places);
        Ok(())
    }

    /// Ends the layer, finished or not: what is on its way comes in all the same, and stays as long as the policy says.
    pub(super) fn end(&mut self, places: &Places<'_>) {
        self.cache.set_limit(u64::MAX);
        while let Some(id) = self.taken.pop() {
            self.put_back(places, id);
        }
        while let Some(id) = self.missing.pop_front() {
            self.entry(id).wanted = false;
        }
        while let Some(id) = self.waiting.pop() {
            self.entry(id).wanted = false;
            self.cache.unpin(id);
            if !self.is_direct() && self.entry(id).state == State::Loading {
                self.arrived(places, id);
            }
        }
    }

    fn put_back(&mut self, places: &Places<'_>, id: ExpertId) {
        places.close(id);
        let entry = self.entry(id);
        entry.wanted = false;
        let place = entry.place;
        self.cache.unpin(id);
        self.cache.set_place(id, place);
    }

    /// Has the experts of a layer read one after the other while there is room and the layer at hand wants nothing more.
    pub(super) fn read_ahead(&mut self, places: &Places<'_>, layer: usize) {
        self.ahead = Some((layer, 0));
        let _ = self.submit_missing(places);
    }

    /// Begins as much of what is missing as may be on its way.
    ///
    /// # Errors
    /// There is no room, and nothing on its way or waiting to be taken that would make some.
    fn submit_missing(&mut self, places: &Places<'_>) -> Result<(), NoRoom> {
        while let Some(&id) = self.missing.front() {
            if self.loading_bytes > 0 && self.loading_bytes + places.of(id).slot_bytes > self.ahead_bytes {
                return Ok(());
            }
            match self.begin(places, id, Place::Hot, Urgency::Demand) {
                Ok(()) => {}
                Err(no_room) if self.guesses.is_empty() && self.held.is_empty() => {
                    let nothing = self.waiting.is_empty() && self.loading_bytes == 0;
                    return if nothing { Err(no_room) } else { Ok(()) };
                }
                Err(_) => {
                    self.let_go();
                    self.cancel_guesses(places, |_| true);
                    if self.begin(places, id, Place::Hot, Urgency::Demand).is_err() {
                        return Ok(());
                    }
                }
            }
            self.missing.pop_front();
            self.paging.requested_bytes.add(places.of(id).expert_bytes);
            self.paging.demand_bytes.add(places.of(id).expert_bytes);
            self.cache.pin(id);
            self.waiting.push(id);
        }
        while let Some((layer, expert)) = self.ahead.filter(|_| self.missing.is_empty()) {
            let found = places.layer(layer);
            if expert >= found.n_experts() {
                self.ahead = None;
            } else if self.loading_bytes + found.slot_bytes > self.ahead_bytes || !self.may_guess(places, layer) {
                break;
            } else {
                self.read_guess(places, ExpertId { layer: layer as u32, expert: expert as u32 });
                self.ahead = Some((layer, expert + 1));
            }
        }
        Ok(())
    }

    /// Makes room for an expert and has it read.
    fn begin(&mut self, places: &Places<'_>, id: ExpertId, place: Place, urgency: Urgency) -> Result<(), NoRoom> {
        let mut evicted = std::mem::take(&mut self.evicted);
        let inserted = self.cache.insert(id, place, &mut evicted);
        self.evicted = evicted;
        let slot = inserted?;
        self.drop_evicted(places);
        if self.is_direct() {
            self.slots.fill(places, &self.cache, id, slot);
        }
        self.slots.trim(places, self.cache.budget());
        self.last_ticket += 1;
        let ticket = self.last_ticket;
        let entry = self.entry(id);
        (entry.slot, entry.ticket) = (slot, ticket);
        self.keep_begun(id);
        match &mut self.backing {
            Backing::Direct(reader) => {
                self.flights.push((ticket, id));
                reader.submit(Ticket(ticket), &places.pieces(id, slot), urgency);
            }
            Backing::Mapped => places.ranges(id).iter().for_each(|&range| places.model.will_need(range)),
        }
        // A guess in the page cache is waited for by who asks for it.
        if self.is_direct() || urgency == Urgency::Demand {
            self.entry(id).state = State::Loading;
            self.loading_bytes += places.of(id).slot_bytes;
            self.cache.pin(id);
        } else {
            self.entry(id).state = State::Resident;
        }
        self.paging.resident_bytes.set(self.cache.used_bytes());
        Ok(())
    }

    /// What has left is told to whoever counts; its memory is filled again, or given back when there is need of it.
    fn drop_evicted(&mut self, places: &Places<'_>) {
        while let Some(id) = self.evicted.pop() {
            let bytes = places.of(id).expert_bytes;
            self.paging.evicted_bytes.add(bytes);
            let entry = self.entry(id);
            entry.state = State::Absent;
            let slot = entry.slot;
            if std::mem::take(&mut entry.guess) {
                self.paging.wasted_bytes.add(bytes);
            }
            if places.arena.is_none() {
                places.ranges(id).iter().for_each(|&range| places.model.drop_pages(range));
            } else {
                self.map.set_resident(id.layer as usize, id.expert as usize, Some(0.0));
                self.slots.free(places.slot_start(id, slot));
            }
        }
    }
}
