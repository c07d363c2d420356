//! The port through which a model gets its experts: it asks for the experts of a layer as soon as the router has
//! chosen, and takes them as they come. Where all of them fit, the page cache holds them and nothing is counted; else a
//! budget is kept, in the page cache or past it.

#![allow(unsafe_code, reason = "experts are lent out of memory that others are read into")]

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::cache::{ExpertCache, ExpertId, Policy, is_sweep};
use super::direct::{Arena, Reader};
use super::mapping::{FileRange, ModelFile, StoreError};
use super::pager::{Backing, Foresight, Pager, PagingError, PinError, Routed, Warmed};
use super::places::{ExpertBytes, LayerExperts, Places};
use super::probe::{Speeds, probe};
use super::system::System;
use crate::telemetry::{ExpertMap, Found, Paging, PagingWay};

/// How long whoever reads experts in that nobody asked for waits for a disk that has enough to do.
const WARMING_PAUSE: Duration = Duration::from_millis(1);
/// Parts of experts that the page cache is asked for before they are waited for.
const RANGES_AHEAD: usize = 4;

/// How expert weights arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PagingChoice {
    /// Mapped where every expert fits, else direct where that works and a probe does not find it much slower.
    #[default]
    Auto,
    /// Through the page cache.
    Mapped,
    /// Past the page cache, into memory of this process.
    Direct,
}

/// Whether all experts will have room, however long a conversation becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    ForAll,
    ForSome,
}

/// What an expert store may do.
#[derive(Debug, Clone, Copy)]
pub struct ExpertOptions {
    pub paging: PagingChoice,
    /// Bytes that experts may take at first.
    pub budget: u64,
    pub room: Room,
    /// Experts that a token takes in a layer.
    pub n_used: usize,
}

/// Every expert of a model, by layer.
#[derive(Debug)]
pub struct ExpertStore<'m> {
    places: Places<'m>,
    pager: Mutex<Pager>,
    /// Every expert fits, in the page cache: nothing is counted or dropped.
    whole: AtomicBool,
    /// Where every expert fits: how many bytes may come in before one that is in memory might have had to leave.
    lasting_bytes: u64,
    /// Where every expert fits: bytes that the kernel was told to read in so far.
    asked_bytes: AtomicU64,
    paging: Arc<Paging>,
}

impl<'m> ExpertStore<'m> {
    /// `layers`: one entry a layer of the model, `None` where it is dense. `map` is told what is resident where the page
    /// cache does not know.
    ///
    /// # Errors
    /// A tensor that does not hold as many experts as the gate of its layer; direct reads asked for by name that do not
    /// work.
    pub fn new(
        model: &'m ModelFile,
        layers: &[Option<LayerExperts<'m>>],
        options: ExpertOptions,
        map: Arc<ExpertMap>,
    ) -> Result<ExpertStore<'m>, StoreError> {
        let mut places = Places::new(model, layers)?;
        let slot_bytes: Vec<u64> = places.layers.iter().map(|l| l.as_ref().map_or(0, |l| l.slot_bytes)).collect();
        let n_experts: Vec<usize> = places.layers.iter().map(|l| l.as_ref().map_or(0, |l| l.n_experts())).collect();
        let cache = ExpertCache::new(Policy::default(), &slot_bytes, &n_experts, options.budget);
        let fits = options.room == Room::ForAll && places.total_bytes() <= options.budget;
        let (backing, reason) = match options.paging {
            PagingChoice::Mapped => (Backing::Mapped, "as asked".to_owned()),
            PagingChoice::Direct => (direct(&mut places, &cache)?, "as asked".to_owned()),
            PagingChoice::Auto if fits => (Backing::Mapped, "every expert fits".to_owned()),
            PagingChoice::Auto => probed(&mut places, &cache),
        };
        let name = if places.arena.is_some() { "direct" } else { "mapped" };
        let whole = fits && places.arena.is_none();
        let paging = Arc::new(Paging::new(PagingWay { name, reason }, places.total_bytes(), places.layers.len()));
        let pager = Pager::new(cache, backing, &places, options.n_used, Arc::clone(&paging), map);
        // The kernel evicts about in the order of use, from half of the page cache; a quarter errs on the safe side.
        let lasting_bytes = System::discover().memory().map_or(0, |memory| memory.available / 4);
        Ok(ExpertStore {
            places,
            pager: Mutex::new(pager),
            whole: AtomicBool::new(whole),
            lasting_bytes,
            asked_bytes: AtomicU64::new(0),
            paging,
        })
    }

    /// What experts cost so far.
    pub fn paging(&self) -> &Arc<Paging> {
        &self.paging
    }

    /// Whether every expert fits, so that nothing is ever read twice.
    pub fn is_whole(&self) -> bool {
        self.whole.load(Relaxed)
    }

    /// Has the page cache drop what it holds of experts that are kept elsewhere: what reads of their neighbours brought in,
    /// or what was there before.
    pub fn drop_mapped(&self) {
        if self.places.arena.is_some() {
            let n_layers = self.places.layers.len();
            (0..n_layers).for_each(|layer| self.drop_layer(layer));
        }
    }

    /// Reads experts in while nobody asks for any, as many as have room, until `stop` says so: the first prompt finds them
    /// there. No other leaves for them, and they leave before those that were asked for.
    pub fn warm(&self, stop: impl Fn() -> bool) {
        let mut ids: Vec<ExpertId> = (0..self.places.layers.len()).flat_map(|layer| self.ids(layer)).collect();
        if self.is_whole() {
            return self.warm_mapped(&ids, stop);
        }
        // Some of every layer.
        ids.sort_by_key(|id| id.expert);
        let mut rest = ids.into_iter().peekable();
        while let Some(&id) = rest.peek()
            && !stop()
        {
            let warmed = self.lock().warm(&self.places, id);
            match warmed {
                Warmed::Begun | Warmed::There => drop(rest.next()),
                Warmed::Busy => std::thread::sleep(WARMING_PAUSE),
                Warmed::Full => break,
            }
            if warmed == Warmed::Begun && self.places.arena.is_none() {
                // What cannot be read is told to whoever needs it.
                let _ = self.places.ranges(id).into_iter().try_for_each(|range| self.places.model.populate(range));
            }
        }
        while !stop() && self.lock().is_warming(&self.places) {
            std::thread::sleep(WARMING_PAUSE);
        }
    }

    /// Has the page cache read these, as they lie in the file.
    fn warm_mapped(&self, ids: &[ExpertId], stop: impl Fn() -> bool) {
        let mut ranges = ids.iter().flat_map(|&id| self.places.ranges(id));
        // The kernel reads the next ones while one is waited for.
        let ask = |range: FileRange| {
            self.places.model.will_need(range);
            range
        };
        let mut asked: VecDeque<FileRange> = ranges.by_ref().take(RANGES_AHEAD).map(ask).collect();
        while let Some(range) = asked.pop_front()
            && !stop()
        {
            asked.extend(ranges.next().map(ask));
            // What cannot be read is told to whoever needs it.
            let _ = self.places.model.populate(range);
        }
    }

    /// The experts of a layer; none where it is dense.
    fn ids(&self, layer: usize) -> impl Iterator<Item = ExpertId> + use<> {
        let n_experts = self.places.layers[layer].as_ref().map_or(0, |l| l.n_experts());
        (0..n_experts).map(move |expert| ExpertId { layer: layer as u32, expert: expert as u32 })
    }

    fn drop_layer(&self, layer: usize) {
        self.ids(layer).flat_map(|id| self.places.ranges(id)).for_each(|range| self.places.model.drop_pages(range));
    }

    /// Bytes that all experts take.
    pub fn total_bytes(&self) -> u64 {
        self.places.total_bytes()
    }

    /// Bytes that experts may take from now on; who has no room any more leaves.
    pub fn set_budget(&self, bytes: u64) {
        let mut pager = self.lock();
        pager.set_budget(&self.places, bytes);
        let whole = self.places.arena.is_none() && self.places.total_bytes() <= bytes;
        if self.whole.swap(whole, Relaxed) && !whole {
            // What the page cache holds was not counted.
            (0..self.places.layers.len()).for_each(|layer| self.drop_layer(layer));
        }
    }

    pub fn budget(&self) -> u64 {
        self.lock().cache().budget()
    }

    /// Whether nearly all of a layer's experts are asked for, as by a prompt: then the next layer's will be, too.
    pub fn is_sweep(&self, layer: usize, n_routed: usize) -> bool {
        is_sweep(n_routed, self.places.layer(layer).n_experts())
    }

    /// Which share of each layer's experts may stay when a batch that asks for so many of a layer has been computed, beside
    /// those that are being read then.
    pub fn share_to_keep(&self, layer: usize, n_routed: usize) -> f64 {
        let mut pager = self.lock();
        let bytes = pager.room(self.is_sweep(layer, n_routed));
        let room = bytes.saturating_sub(2 * pager.ahead_bytes()).saturating_sub(pager.kept_bytes());
        room as f64 / self.places.total_bytes().max(1) as f64
    }

    /// The layer is computed for `n_tokens` tokens and will read these experts. Returns at once; what is not in memory is
    /// on its way from the disk then, as far as there is room. Keep what is returned until the layer is computed.
    ///
    /// Where every expert fits, this costs nothing for those that cannot have left memory since they were last asked for.
    /// Of the others the kernel is asked what is missing: 2 µs for each MiB that is not.
    ///
    /// # Errors
    /// What keeps an expert from being read.
    ///
    /// # Panics
    /// Where the layer is dense or has no such expert.
    pub fn request<'s>(
        &'s self,
        layer: usize,
        n_tokens: usize,
        routed: &'s [Routed],
    ) -> Result<Wanted<'s>, PagingError> {
        if self.is_whole() {
            self.ask(layer, routed.iter().map(|r| r.expert));
            return Ok(Wanted { store: self, layer, pager: None, untaken: routed });
        }
        // Made before anything is asked for, so that an error takes back what was.
        let mut wanted = Wanted { store: self, layer, pager: Some(self.lock()), untaken: &[] };
        if let Some(pager) = &mut wanted.pager {
            pager.request(&self.places, layer, n_tokens, routed)?;
        }
        Ok(wanted)
    }

    /// Whether a prediction of a layer's experts, by what the layer begins with, is of use.
    pub fn wants_forecast(&self) -> bool {
        !self.is_whole() && self.lock().wants_forecast(Foresight::Late)
    }

    /// Experts that a layer is likely to ask for, the likeliest first, by what it begins with: they are read while the
    /// disk has nothing else to do, instead of those of an earlier guess.
    pub fn guess(&self, layer: usize, experts: &[usize]) {
        if !self.is_whole() {
            self.lock().guess(&self.places, layer, Foresight::Late, experts);
        }
    }

    /// Has an expert stay in memory from now on, whatever the policy thinks, or leave again when it says so.
    ///
    /// # Errors
    /// Where it cannot stay, and why.
    pub fn pin(&self, layer: usize, expert: usize, is_to_stay: bool) -> Result<(), PinError> {
        let found = self.places.layers.get(layer).and_then(Option::as_ref);
        found.filter(|found| expert < found.n_experts()).ok_or(PinError::Unknown { layer, expert })?;
        let id = ExpertId { layer: layer as u32, expert: expert as u32 };
        if !is_to_stay {
            self.lock().let_leave(&self.places, id);
            return Ok(());
        }
        if self.is_whole() {
            return Err(PinError::AllFit);
        }
        self.lock().keep(&self.places, id)
    }

    /// A token has taken so long while predictions were allowed: whether they are worth it is found out by that.
    pub fn note_token(&self, took: Duration) {
        if !self.is_whole() {
            self.lock().note_token(took);
        }
    }

    /// Has the kernel read in what is missing of a layer's experts, where every expert fits.
    fn ask(&self, layer: usize, experts: impl Iterator<Item = usize>) {
        let found = self.places.layer(layer);
        for expert in experts {
            let now = self.asked_bytes.load(Relaxed);
            let asked = found.asked[expert].load(Relaxed);
            if asked != 0 && now.saturating_sub(asked - 1) < self.lasting_bytes {
                continue;
            }
            found.asked[expert].store(now + 1, Relaxed);
            for range in self.places.ranges(ExpertId { layer: layer as u32, expert: expert as u32 }) {
                // Advice about what is resident would cost twice as much as this question.
                if self.places.residency.resident_bytes(range) != Some(range.n_bytes) {
                    self.places.model.will_need(range);
                    self.asked_bytes.fetch_add(range.n_bytes, Relaxed);
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Pager> {
        self.pager.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The way that a probe of the disk speaks for, and why.
fn probed(places: &mut Places<'_>, cache: &ExpertCache) -> (Backing, String) {
    let refused = |error: StoreError| (Backing::Mapped, format!("direct reads do not work: {error}"));
    let speeds = match probe(places) {
        Ok(speeds) => speeds,
        Err(error) => return refused(error),
    };
    let told = speeds.as_ref().map_or_else(|| "the experts do not fit".to_owned(), Speeds::tell);
    if speeds.is_some_and(|speeds| speeds.prefers_mapped()) {
        return (Backing::Mapped, told);
    }
    direct(places, cache).map_or_else(refused, |backing| (backing, told))
}

/// The arena for all that may be read, which takes memory only where it was, and its reader.
fn direct(places: &mut Places<'_>, cache: &ExpertCache) -> Result<Backing, StoreError> {
    let mut bytes = 0;
    let mut starts: Vec<Option<u64>> = Vec::new();
    for layer in 0..places.layers.len() {
        let class = cache.class(layer);
        starts.resize(starts.len().max(class + 1), None);
        let of_class = (0..places.layers.len()).filter(|&other| cache.class(other) == class);
        let size: u64 =
            of_class.filter_map(|l| places.layers[l].as_ref()).map(|l| l.slot_bytes * l.n_experts() as u64).sum();
        let start = *starts[class].get_or_insert_with(|| {
            bytes += size;
            bytes - size
        });
        if let Some(layer) = &mut places.layers[layer] {
            layer.arena_start = start;
        }
    }
    let arena = Arc::new(Arena::new(bytes)?);
    let reader = Reader::new(places.model, Arc::clone(&arena))?;
    places.arena = Some(arena);
    Ok(Backing::Direct(Box::new(reader)))
}

/// The experts that a layer asked for: they come as they are read, and stay in memory until they are released.
#[derive(Debug)]
pub struct Wanted<'s> {
    store: &'s ExpertStore<'s>,
    layer: usize,
    /// `None` where every expert fits.
    pager: Option<MutexGuard<'s, Pager>>,
    /// Where every expert fits: what has not been taken.
    untaken: &'s [Routed],
}

impl Wanted<'_> {
    /// Where an expert of the layer is now. Right after the request this tells whether it was in memory.
    pub fn found(&self, expert: usize) -> Found {
        let id = ExpertId { layer: self.layer as u32, expert: expert as u32 };
        match &self.pager {
            None => Found::Uncounted,
            Some(pager) if pager.is_resident(id) => Found::InMemory,
            Some(_) => Found::Missing,
        }
    }

    /// Puts the experts that have come, and were not taken, into `experts`: those in memory first, in the order asked
    /// for. Waits where there is none; empty where all have been taken.
    ///
    /// # Errors
    /// What keeps an expert from being read.
    pub fn take(&mut self, experts: &mut Vec<usize>) -> Result<(), PagingError> {
        if let Some(pager) = &mut self.pager {
            return pager.take(&self.store.places, experts);
        }
        experts.clear();
        experts.extend(std::mem::take(&mut self.untaken).iter().map(|r| r.expert));
        Ok(())
    }

    /// The experts that were taken and not released.
    pub fn taken(&self) -> TakenExperts<'_> {
        TakenExperts { places: &self.store.places, layer: self.layer, whole: self.pager.is_none() }
    }

    /// The expert has been computed: it may leave for others.
    ///
    /// # Errors
    /// What keeps another expert from being read.
    pub fn release(&mut self, expert: usize) -> Result<(), PagingError> {
        self.pager.as_mut().map_or(Ok(()), |pager| pager.release(&self.store.places, expert))
    }

    /// Whether a prediction of another layer's experts, by what this one's router saw, is of use.
    pub fn wants_forecast(&mut self) -> bool {
        self.pager.as_mut().is_some_and(|pager| pager.wants_forecast(Foresight::Early))
    }

    /// Experts of another layer that are likely to be asked for, the likeliest first, by what this layer's router saw:
    /// they are read while the disk has nothing else to do.
    pub fn guess(&mut self, layer: usize, experts: &[usize]) {
        if let Some(pager) = &mut self.pager {
            pager.guess(&self.store.places, layer, Foresight::Early, experts);
        }
    }

    /// All experts of another layer are to be read, one after the other, while this one is computed.
    pub fn read_ahead(&mut self, layer: usize) {
        match &mut self.pager {
            Some(pager) => pager.read_ahead(&self.store.places, layer),
            None => self.store.ask(layer, 0..self.store.places.layer(layer).n_experts()),
        }
    }
}

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        if let Some(pager) = &mut self.pager {
            pager.end(&self.store.places);
        }
    }
}

/// Experts in memory.
#[derive(Debug, Clone, Copy)]
pub struct TakenExperts<'w> {
    places: &'w Places<'w>,
    layer: usize,
    whole: bool,
}

impl<'w> TakenExperts<'w> {
    /// The expert's weights.
    ///
    /// # Panics
    /// Where the expert was not taken or is released.
    pub fn bytes(&self, expert: usize) -> ExpertBytes<'w> {
        let id = ExpertId { layer: self.layer as u32, expert: expert as u32 };
        if self.whole {
            return self.places.mapped_bytes(id);
        }
        // SAFETY: While this borrow of `Wanted` lives, it holds the pager's lock and releases nothing: what was taken
        // stays pinned, so that its slot is neither read into nor given back.
        unsafe { self.places.bytes(id) }
    }
}

#[cfg(test)]
mod kept_tests;
#[cfg(test)]
mod tests;
