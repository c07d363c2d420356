//! What goes on beside the thread that computes, while a model is served.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};

use super::{Event, PinOrder};
use crate::session::Watch;
use crate::store::{ExpertStore, ModelFile, ResidencySurvey, System};

/// Sets a flag when it goes out of scope, on a panic too, so that a scoped thread waiting on it ends.
pub(super) struct SetOnDrop<'f>(pub &'f AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Refreshes the gauges of memory, disk and residency while a model is served.
pub(super) fn sample_gauges(file: &ModelFile, watch: &Watch, budget: Option<u64>, done: &AtomicBool) {
    const PAUSE: Duration = Duration::from_millis(100);
    // At most a fiftieth of one core goes into asking the kernel what is resident.
    const SURVEY: Duration = Duration::from_millis(2);
    let system = System::discover();
    let telemetry = &watch.telemetry;
    let is_direct = telemetry.paging().is_some_and(|paging| paging.way.name == "direct");
    let survey = ResidencySurvey::new(file);
    let mut survey = if is_direct { survey.without_experts() } else { survey };
    telemetry.set_residency_source(survey.source());
    while !done.load(Ordering::Relaxed) {
        system.sample(telemetry);
        if let Some(budget) = budget {
            telemetry.memory_total.set(budget);
        }
        survey.step(&watch.experts, SURVEY);
        survey.resident_bytes().map_or_else(|| telemetry.resident_bytes.clear(), |b| telemetry.resident_bytes.set(b));
        std::thread::sleep(PAUSE);
    }
}

/// Has experts stay in memory as they are asked to while a model is served, beside the thread that computes.
pub(super) fn pin_experts(
    experts: &ExpertStore<'_>,
    orders: &Receiver<PinOrder>,
    outbox: &Sender<Event>,
    done: &AtomicBool,
) {
    const PAUSE: Duration = Duration::from_millis(100);
    let mut n_let_go = 0;
    while !done.load(Ordering::Relaxed) {
        let let_go = experts.paging().unpinned_experts.get();
        if let_go > n_let_go {
            let n = let_go - std::mem::replace(&mut n_let_go, let_go);
            let s = if n == 1 { "" } else { "s" };
            let text = format!("{n} pinned expert{s} may leave memory again: the conversation needs the room");
            let _ = outbox.send(Event::Warning(text));
        }
        let Ok(PinOrder { experts: ids, is_to_stay }) = orders.recv_timeout(PAUSE) else { continue };
        let refused = ids.iter().find_map(|&(layer, expert)| experts.pin(layer, expert, is_to_stay).err());
        if let Some(why) = refused {
            // A screen that is gone needs none.
            let _ = outbox.send(Event::PinRefused(why.to_string()));
        }
    }
}
