//! Experts that are read before their router has chosen: predicted by the model, ranked, and read while the disk has
//! nothing else to do. Every prediction is compared with what the router chose, so that a rank that is wrong too often is
//! no longer read, and is again when it has become right: the comparison needs no reading.

use std::time::Duration;

use super::{Backing, Pager, Routed, State};
use crate::store::cache::{ExpertId, NoRoom, Place};
use crate::store::direct::{GivenUp, Ticket, Urgency};
use crate::store::places::Places;

/// What the experts of a layer are predicted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Foresight {
    /// The layer's router on what the router of the layer before saw: early, and right less often.
    Early,
    /// The layer's router on the layer's input, before its attention.
    Late,
}

/// What came of the wish to have an expert read that nobody asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Warmed {
    Begun,
    /// It is there, or on its way.
    There,
    /// The disk has enough to do.
    Busy,
    /// There is no room.
    Full,
}

/// Of a rank's predictions, the share that has to be right for it to be read.
const LEAST_SHARE: f64 = 0.8;
/// What a rank's share is taken for before it is known.
const FIRST_SHARE: f64 = 0.9;
/// How many comparisons a share remembers, about.
const MEMORY: f64 = 200.0;
/// Where no rank is worth reading, every how many layers one is predicted all the same, to notice when one is again.
const PROBE_EVERY: u64 = 7;

/// What was predicted, and how often it was right.
#[derive(Debug)]
pub(super) struct Forecasts {
    sources: [Source; 2],
    n_asked: u64,
}

#[derive(Debug)]
struct Source {
    /// `[n_layers]`: what was predicted and not compared yet, the likeliest first.
    predicted: Vec<Vec<u32>>,
    /// `[n_used]`: of each rank's predictions the share that was right, the latest weighing the most.
    shares: Vec<f64>,
}

impl Forecasts {
    pub(super) fn new(n_layers: usize, n_used: usize) -> Forecasts {
        let source =
            || Source { predicted: vec![Vec::with_capacity(n_used); n_layers], shares: vec![FIRST_SHARE; n_used] };
        Forecasts { sources: [source(), source()], n_asked: 0 }
    }

    /// How many of the first ranks are worth reading.
    fn n_worthy(&self, foresight: Foresight) -> usize {
        let shares = &self.sources[foresight as usize].shares;
        shares.iter().position(|&share| share < LEAST_SHARE).unwrap_or(shares.len())
    }

    fn note(&mut self, foresight: Foresight, layer: usize, experts: &[usize]) {
        let Source { predicted, shares } = &mut self.sources[foresight as usize];
        predicted[layer].clear();
        predicted[layer].extend(experts.iter().take(shares.len()).map(|&expert| expert as u32));
    }

    /// Learns from what a token's router has chosen; how many of the choices the latest prediction had, and had not.
    fn compare(&mut self, layer: usize, routed: &[Routed]) -> Option<(u64, u64)> {
        let chosen = |expert: u32| routed.iter().any(|r| r.expert == expert as usize);
        let mut found = None;
        for Source { predicted, shares } in &mut self.sources {
            let predicted = &mut predicted[layer];
            if predicted.is_empty() {
                continue;
            }
            let n_right = predicted.iter().filter(|&&expert| chosen(expert)).count() as u64;
            found = Some((n_right, (routed.len() as u64).saturating_sub(n_right)));
            for (share, expert) in shares.iter_mut().zip(predicted.drain(..)) {
                *share += (f64::from(u8::from(chosen(expert))) - *share) / MEMORY;
            }
        }
        found
    }

    fn forget(&mut self, layer: usize) {
        self.sources.iter_mut().for_each(|source| source.predicted[layer].clear());
    }
}

impl Pager {
    /// Whether a prediction would be of use: to read by, or to learn from.
    pub(in crate::store) fn wants_forecast(&mut self, foresight: Foresight) -> bool {
        self.forecasts.n_asked += 1;
        self.n_worthy(foresight) > 0 || self.forecasts.n_asked % PROBE_EVERY == 0
    }

    /// How many of the first ranks are read.
    fn n_worthy(&self, foresight: Foresight) -> usize {
        if self.trial.is_on() { self.forecasts.n_worthy(foresight) } else { 0 }
    }

    /// A token has taken so long, with predictions or without.
    pub(in crate::store) fn note_token(&mut self, took: Duration) {
        if let Some(gain) = self.trial.note(took) {
            self.paging.set_guess_gain(gain);
        }
    }

    /// Takes a prediction of another layer's experts, the likeliest first: what is worth it is read while nobody waits
    /// for the disk, and what was guessed of the layer before and is no longer likely is given up.
    pub(in crate::store) fn guess(
        &mut self,
        places: &Places<'_>,
        layer: usize,
        foresight: Foresight,
        experts: &[usize],
    ) {
        self.forecasts.note(foresight, layer, experts);
        let experts = &experts[..experts.len().min(self.n_worthy(foresight))];
        self.cancel_guesses(places, |id| id.layer as usize == layer && !experts.contains(&(id.expert as usize)));
        self.candidates.clear();
        for &expert in experts {
            let id = ExpertId { layer: layer as u32, expert: expert as u32 };
            match self.entries[self.index(id)].state {
                State::Absent => self.candidates.push_back(id),
                State::Resident if self.may_guess(places, layer) && !self.held.contains(&id) => self.hold(places, id),
                State::Loading | State::Ending | State::Resident => {}
            }
        }
        self.read_candidates(places);
    }

    /// Begins guesses, one at a time as the disk falls idle: only what is read makes others leave.
    pub(super) fn read_candidates(&mut self, places: &Places<'_>) {
        while let Some(&id) = self.candidates.front().filter(|_| self.missing.is_empty()) {
            let idle = match &self.backing {
                Backing::Direct(reader) => reader.takes_speculation(),
                Backing::Mapped => true,
            };
            if !idle || !self.may_guess(places, id.layer as usize) {
                return;
            }
            self.candidates.pop_front();
            self.read_guess(places, id);
        }
    }

    pub(super) fn compare_forecasts(&mut self, layer: usize, n_tokens: usize, routed: &[Routed]) {
        if n_tokens > 1 {
            self.forecasts.forget(layer);
        } else if let Some((n_right, n_missed)) = self.forecasts.compare(layer, routed) {
            self.paging.foreseen_experts.add(n_right);
            self.paging.unforeseen_experts.add(n_missed);
        }
    }

    /// Has an expert read that nobody has asked for, where there is room.
    pub(super) fn read_guess(&mut self, places: &Places<'_>, id: ExpertId) {
        if self.entry(id).state != State::Absent || self.begin_guess(places, id, Place::Cold).is_err() {
            return;
        }
        self.hold(places, id);
        if self.is_direct() {
            self.guesses.push(id);
        }
    }

    /// Has an expert read before anybody asks for any, if it has room without another leaving.
    pub(in crate::store) fn warm(&mut self, places: &Places<'_>, id: ExpertId) -> Warmed {
        // What cannot be read is told to whoever asks for it.
        let _ = self.poll(places);
        if self.entry(id).state != State::Absent {
            return Warmed::There;
        }
        if self.cache.used_bytes() + places.of(id).slot_bytes > self.cache.budget() {
            return Warmed::Full;
        }
        if let Backing::Direct(reader) = &self.backing
            && !reader.takes_speculation()
        {
            return Warmed::Busy;
        }
        self.begin_guess(places, id, Place::Cold).map_or(Warmed::Full, |()| Warmed::Begun)
    }

    /// Makes room for an expert that no layer has asked for and has it read.
    pub(super) fn begin_guess(&mut self, places: &Places<'_>, id: ExpertId, place: Place) -> Result<(), NoRoom> {
        self.begin(places, id, place, Urgency::Speculative)?;
        self.entry(id).guess = true;
        // A direct read is counted when it arrives.
        if !self.is_direct() {
            self.paging.speculated_bytes.add(places.of(id).expert_bytes);
        }
        Ok(())
    }

    /// Takes note of what has arrived; whether something is still on its way.
    pub(in crate::store) fn is_warming(&mut self, places: &Places<'_>) -> bool {
        let _ = self.poll(places);
        self.loading_bytes > 0
    }

    fn hold(&mut self, places: &Places<'_>, id: ExpertId) {
        self.cache.pin(id);
        self.held.push(id);
        self.held_bytes += places.of(id).slot_bytes;
    }

    /// Whether one more guess of the layer leaves enough room for what is sure.
    pub(super) fn may_guess(&self, places: &Places<'_>, layer: usize) -> bool {
        self.held_bytes + places.layer(layer).slot_bytes <= self.ahead_bytes.min(self.cache.budget() / 4)
    }

    /// Lets guesses leave when the policy says so.
    pub(super) fn let_go(&mut self) {
        while let Some(id) = self.held.pop() {
            self.cache.unpin(id);
        }
        self.held_bytes = 0;
    }

    /// Gives up guesses that have not arrived; what of them is with the disk ends first.
    pub(super) fn cancel_guesses(&mut self, places: &Places<'_>, which: impl Fn(ExpertId) -> bool) {
        let mut guesses = std::mem::take(&mut self.guesses);
        guesses.retain(|&id| {
            let index = self.index(id);
            let Backing::Direct(reader) = &mut self.backing else { return false };
            if !which(id) {
                return true;
            }
            match reader.give_up(Ticket(self.entries[index].ticket)) {
                GivenUp::Forgotten => self.forget(places, id),
                GivenUp::Ending => self.entries[index].state = State::Ending,
                GivenUp::Unchanged => return true,
            }
            false
        });
        self.guesses = guesses;
    }
}
