//! What the panel shows of the engine: snapshots in, a few a second, and out the last of them, what its counters grew by a
//! second, and its map cut to size.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::telemetry::{Snapshot, TokenLog, TokenRecord};

use super::grid::Grid;

/// Over how long a rate is taken.
const WINDOW: Duration = Duration::from_secs(2);
/// Snapshots closer together than this say nothing new.
const SPACING: Duration = Duration::from_millis(200);
/// A shorter history gives no rate.
const SHORTEST: Duration = Duration::from_millis(400);
/// The time that one cell of a history stands for, and how many there are.
pub const HISTORY_CELL: Duration = Duration::from_millis(500);
const HISTORY_CELLS: usize = 240;
/// The most tokens that the timeline keeps.
const TIMELINE_TOKENS: usize = 1024;

#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Instant,
    disk_bytes: Option<u64>,
    major_faults: Option<u64>,
    minor_faults: Option<u64>,
}

/// The last reading of the engine.
#[derive(Debug, Default, Clone)]
pub struct Gauges {
    pub snapshot: Snapshot,
    pub rates: Rates,
    pub history: History,
    pub timeline: Timeline,
    /// When weights began to be read in, and how many bytes were in then.
    loading: Option<(Instant, u64)>,
    /// How long the rest of them will take at the speed so far.
    pub loading_left: Option<Duration>,
    /// The map of this reading at the size asked for last. The engine goes on writing to the map; what is shown changes only
    /// with the next reading.
    grid: Option<((usize, usize), Grid)>,
}

impl Gauges {
    pub fn observe(&mut self, now: Instant, snapshot: Snapshot) {
        self.rates.observe(now, &snapshot);
        self.history.observe(now, &snapshot);
        self.timeline.observe(snapshot.tokens.as_ref());
        self.loading = snapshot.loading.map(|(done, _)| self.loading.unwrap_or((now, done)));
        self.loading_left = self.loading.zip(snapshot.loading).and_then(|((began, first), (done, total))| {
            let read = done.checked_sub(first).filter(|&read| read > 0)?;
            let per_byte = now.saturating_duration_since(began).as_secs_f64() / read as f64;
            Duration::try_from_secs_f64(per_byte * total.saturating_sub(done) as f64).ok()
        });
        self.snapshot = snapshot;
        self.grid = None;
    }

    /// As they are now, whatever the engine goes on to do.
    pub fn frozen(&self) -> Gauges {
        let mut copy = self.clone();
        copy.snapshot.experts = self.snapshot.experts.as_deref().map(|map| Arc::new(map.copied()));
        copy
    }

    /// The map in at most `columns` × `rows` cells; `None` where there is none.
    pub fn grid(&mut self, columns: usize, rows: usize) -> Option<&Grid> {
        let map = self.snapshot.experts.as_deref().filter(|m| m.n_layers() > 0 && m.n_experts() > 0)?;
        if self.grid.as_ref().is_none_or(|(size, _)| *size != (columns, rows)) {
            self.grid = Some(((columns, rows), Grid::new(map, self.snapshot.tick, columns, rows)));
        }
        self.grid.as_ref().map(|(_, grid)| grid)
    }
}

/// The last records of tokens.
#[derive(Debug, Default, Clone)]
pub struct Timeline {
    log: Option<Arc<TokenLog>>,
    /// The number of the first.
    pub first: u64,
    pub records: VecDeque<TokenRecord>,
}

impl Timeline {
    fn observe(&mut self, log: Option<&Arc<TokenLog>>) {
        let same = matches!((&self.log, log), (Some(old), Some(new)) if Arc::ptr_eq(old, new));
        let Some(log) = log else {
            *self = Timeline::default();
            return;
        };
        let kept = log.kept();
        // A log that went back was wound back, as a replay is.
        if !same || kept.end < self.end() || kept.start > self.end() {
            *self = Timeline { log: Some(Arc::clone(log)), first: kept.start, records: VecDeque::new() };
        }
        for number in self.end()..kept.end {
            if let Some(record) = log.get(number) {
                self.records.push_back(record);
            } else {
                // It was overtaken: what is read from here on follows what is kept.
                (self.first, self.records) = (number + 1, VecDeque::new());
            }
        }
        while self.records.len() > TIMELINE_TOKENS {
            self.records.pop_front();
            self.first += 1;
        }
    }

    /// The number that the next token will have.
    pub fn end(&self) -> u64 {
        self.first + self.records.len() as u64
    }

    pub fn get(&self, number: u64) -> Option<&TokenRecord> {
        self.records.get(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }
}

/// Rates of the last minutes, a cell for every half second.
#[derive(Debug, Default, Clone)]
pub struct History {
    last: Option<(Instant, Option<u64>, Option<Duration>)>,
    /// Bytes a second from the disk, and the share of the time in which the engine waited for experts.
    pub cells: VecDeque<(Option<f64>, Option<f64>)>,
}

impl History {
    fn observe(&mut self, now: Instant, snapshot: &Snapshot) {
        let stall = snapshot.paging.as_ref().filter(|paging| paging.is_paged()).map(|paging| paging.stall);
        let Some((at, disk, stalled)) = self.last else {
            self.last = Some((now, snapshot.disk_read_bytes, stall));
            return;
        };
        let time = now.saturating_duration_since(at);
        let n = time.as_millis() / HISTORY_CELL.as_millis();
        if n == 0 {
            return;
        }
        let seconds = time.as_secs_f64();
        let read = snapshot.disk_read_bytes.zip(disk).and_then(|(new, old)| new.checked_sub(old));
        let waited = stall.zip(stalled).and_then(|(new, old)| new.checked_sub(old));
        let cell =
            (read.map(|bytes| bytes as f64 / seconds), waited.map(|time| (time.as_secs_f64() / seconds).min(1.0)));
        // A reading that came late speaks for all of the time since the one before.
        for _ in 0..n.min(HISTORY_CELLS as u128) {
            self.cells.push_back(cell);
        }
        while self.cells.len() > HISTORY_CELLS {
            self.cells.pop_front();
        }
        self.last = Some((now, snapshot.disk_read_bytes, stall));
    }
}

/// The counters of the last seconds.
#[derive(Debug, Default, Clone)]
pub struct Rates {
    samples: VecDeque<Sample>,
}

impl Rates {
    pub fn observe(&mut self, now: Instant, snapshot: &Snapshot) {
        if self.samples.back().is_some_and(|last| now.saturating_duration_since(last.at) < SPACING) {
            return;
        }
        // The sample at the far end of the window is kept, so that the rate spans all of it.
        while self.samples.get(1).is_some_and(|second| now.saturating_duration_since(second.at) >= WINDOW) {
            self.samples.pop_front();
        }
        self.samples.push_back(Sample {
            at: now,
            disk_bytes: snapshot.disk_read_bytes,
            major_faults: snapshot.major_faults,
            minor_faults: snapshot.minor_faults,
        });
    }

    /// Bytes a second; `None` where it is not known.
    pub fn disk_bytes(&self) -> Option<f64> {
        self.rate(|s| s.disk_bytes)
    }

    pub fn major_faults(&self) -> Option<f64> {
        self.rate(|s| s.major_faults)
    }

    pub fn minor_faults(&self) -> Option<f64> {
        self.rate(|s| s.minor_faults)
    }

    fn rate(&self, counter: impl Fn(&Sample) -> Option<u64>) -> Option<f64> {
        let (first, last) = (self.samples.front()?, self.samples.back()?);
        let time = last.at.saturating_duration_since(first.at);
        // A counter that fell began anew, as with another model.
        let grown = counter(last)?.checked_sub(counter(first)?)?;
        (time >= SHORTEST).then(|| grown as f64 / time.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(bytes: Option<u64>) -> Snapshot {
        Snapshot { disk_read_bytes: bytes, ..Snapshot::default() }
    }

    #[test]
    fn a_history_has_a_cell_for_every_half_second_and_unknown_stays_unknown() {
        let start = Instant::now();
        let mut history = History::default();
        history.observe(start, &reading(Some(0)));
        history.observe(start + Duration::from_millis(200), &reading(Some(50)));
        assert!(history.cells.is_empty());
        history.observe(start + Duration::from_millis(500), &reading(Some(100)));
        history.observe(start + Duration::from_secs(2), &reading(Some(400)));
        assert_eq!(history.cells, vec![(Some(200.0), None); 4]);
        history.observe(start + Duration::from_secs(10_000), &reading(None));
        assert_eq!((history.cells.len(), history.cells.back()), (HISTORY_CELLS, Some(&(None, None))));
    }

    #[test]
    fn the_timeline_follows_the_log_and_begins_anew_with_another_model() {
        use crate::telemetry::TokenCost;
        let log = Arc::new(TokenLog::new(1, 1));
        let mut timeline = Timeline::default();
        let token = |log: &TokenLog, ms| {
            log.begin();
            log.end(TokenCost { wall: Duration::from_millis(ms), ..TokenCost::default() });
        };
        (0..3).for_each(|ms| token(&log, ms));
        timeline.observe(Some(&log));
        assert_eq!((timeline.first, timeline.end()), (0, 3));
        (3..5000).for_each(|ms| token(&log, ms));
        timeline.observe(Some(&log));
        assert_eq!((timeline.first, timeline.end()), (5000 - 1024, 5000));
        assert_eq!(timeline.get(4999).unwrap().cost.wall, Duration::from_millis(4999));
        assert_eq!((timeline.get(5000), timeline.get(0)), (None, None));
        timeline.observe(Some(&Arc::new(TokenLog::new(1, 1))));
        assert_eq!((timeline.first, timeline.end()), (0, 0));
    }

    #[test]
    fn what_is_left_of_loading_is_estimated_by_its_speed() {
        let start = Instant::now();
        let loading = |done| Snapshot { loading: Some((done, 1000)), ..Snapshot::default() };
        let mut gauges = Gauges::default();
        gauges.observe(start, loading(100));
        assert_eq!(gauges.loading_left, None);
        gauges.observe(start + Duration::from_secs(3), loading(400));
        assert_eq!(gauges.loading_left, Some(Duration::from_secs(6)));
        gauges.observe(start + Duration::from_secs(4), Snapshot::default());
        assert_eq!(gauges.loading_left, None);
    }

    #[test]
    fn a_rate_needs_two_readings_and_time_between_them() {
        let start = Instant::now();
        let mut rates = Rates::default();
        assert_eq!(rates.disk_bytes(), None);
        rates.observe(start, &reading(Some(0)));
        assert_eq!(rates.disk_bytes(), None);
        rates.observe(start + Duration::from_millis(100), &reading(Some(50)));
        assert_eq!(rates.disk_bytes(), None);
        rates.observe(start + Duration::from_millis(500), &reading(Some(500)));
        assert_eq!(rates.disk_bytes(), Some(1000.0));
        assert_eq!(rates.major_faults(), None);
    }

    #[test]
    fn the_window_moves_on_and_a_restart_gives_no_rate() {
        let start = Instant::now();
        let mut rates = Rates::default();
        for i in 0..100_u64 {
            let bytes = if i < 50 { i * 1000 } else { 49_000 };
            rates.observe(start + Duration::from_millis(250 * i), &reading(Some(bytes)));
        }
        assert_eq!(rates.disk_bytes(), Some(0.0));
        assert!(rates.samples.len() < 12);
        rates.observe(start + Duration::from_secs(30), &reading(Some(10)));
        assert_eq!(rates.disk_bytes(), None);
        rates.observe(start + Duration::from_secs(31), &reading(None));
        assert_eq!(rates.disk_bytes(), None);
    }
}
