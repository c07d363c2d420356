//! What the panel shows of the engine: snapshots in, a few a second, and out the last of them, what its counters grew by a
//! second, and its map cut to size.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::telemetry::Snapshot;

use super::grid::Grid;

/// Over how long a rate is taken.
const WINDOW: Duration = Duration::from_secs(2);
/// Snapshots closer together than this say nothing new.
const SPACING: Duration = Duration::from_millis(200);
/// A shorter history gives no rate.
const SHORTEST: Duration = Duration::from_millis(400);

#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Instant,
    disk_bytes: Option<u64>,
    major_faults: Option<u64>,
    minor_faults: Option<u64>,
}

/// The last reading of the engine.
#[derive(Debug, Default)]
pub struct Gauges {
    pub snapshot: Snapshot,
    pub rates: Rates,
    /// The map of this reading at the size asked for last. The engine goes on writing to the map; what is shown changes only
    /// with the next reading.
    grid: Option<((usize, usize), Grid)>,
}

impl Gauges {
    pub fn observe(&mut self, now: Instant, snapshot: Snapshot) {
        self.rates.observe(now, &snapshot);
        self.snapshot = snapshot;
        self.grid = None;
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

/// The counters of the last seconds.
#[derive(Debug, Default)]
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
