//! Results on stdout, words on stderr, and errors that carry their exit code.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::model::Plan;
use crate::session::Watch;
use crate::telemetry::PagingSnapshot;

/// Wrong use of the command line: exit code 2.
#[derive(Debug)]
pub(super) struct Usage(String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

pub(super) fn usage(message: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Usage(message.into()))
}

pub(super) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

/// An error and its causes on one line, none of them twice: many errors tell their cause themselves.
pub(super) fn message(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |told, cause| match told.as_str() {
        "" => cause,
        told if told.contains(&cause) => told.to_owned(),
        told => format!("{told}: {cause}"),
    })
}

/// Writes to stdout at once.
pub(super) fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Writes a line of JSON to stdout.
pub(super) fn print_json(value: &serde_json::Value) -> io::Result<()> {
    print(&format!("{value}\n"))
}

/// Asks on stderr, without the end of the line.
pub(super) fn ask(question: &str) {
    eprint!("{question}");
}

pub(super) fn warn(message: &str) {
    eprintln!("wayinfer: {message}");
}

/// Says in a line how the experts of a model arrive, where they do not all fit.
pub(super) fn tell_paging(watch: &Watch) {
    let Some(paging) = watch.telemetry.paging() else { return };
    let gigabytes = |bytes: u64| bytes as f64 / 1e9;
    if let Some(budget) = paging.budget_bytes.get().filter(|&budget| budget < paging.total_bytes) {
        let (way, total) = (&paging.way, paging.total_bytes);
        warn(&format!(
            "experts: {:.2} of {:.2} GB fit in memory, the rest is read as it is needed, {} ({})",
            gigabytes(budget),
            gigabytes(total),
            way.name,
            way.reason
        ));
    }
}

/// What memory is spent on, as `--json` has it, in bytes.
pub(super) fn plan_json(plan: &Plan) -> serde_json::Value {
    json!({
        "budget": plan.budget.known(),
        "context": plan.context,
        "most_tokens_of_a_pass": plan.max_batch(0),
        "needed": plan.needed(),
        "parts": {
            "dense": plan.dense_kept,
            "chosen_experts_of_a_layer": plan.chosen_experts,
            "experts_at_first": plan.expert_budget(0, 1),
            "kv_of_full_context": plan.kv_bytes(plan.context),
            "buffers_of_a_token": plan.scratch.of(1),
            "buffers_of_the_largest_pass": plan.scratch.of(plan.max_batch(0)),
            "program": plan.process,
        },
    })
}

/// What experts cost, as `--json` has it.
pub(super) fn paging_json(paging: &PagingSnapshot) -> serde_json::Value {
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    let [stalls, computes]: [Vec<f64>; 2] =
        [0, 1].map(|i| paging.layers.iter().map(|&(stall, compute)| ms([stall, compute][i])).collect());
    json!({
        "way": paging.way.name,
        "reason": paging.way.reason,
        "budget_bytes": paging.budget_bytes,
        "resident_bytes": paging.resident_bytes,
        "requested_bytes": paging.requested_bytes,
        "hit_bytes": paging.hit_bytes,
        "hit_rate": paging.hit_rate(),
        "demand_bytes": paging.demand_bytes,
        "speculated_bytes": paging.speculated_bytes,
        "speculated_used_bytes": paging.speculated_used_bytes,
        "wasted_bytes": paging.wasted_bytes,
        "prediction_recall": paging.recall(),
        "guess_gain": paging.guess_gain,
        "evicted_bytes": paging.evicted_bytes,
        "passes": paging.passes,
        "stall_ms": ms(paging.stall),
        "stall_read_bytes": paging.stall_read_bytes,
        "compute_ms": ms(paging.compute),
        "last_stall_ms": ms(paging.last_stall),
        "last_compute_ms": ms(paging.last_compute),
        "layer_stall_ms": stalls,
        "layer_compute_ms": computes,
    })
}

/// Reads a file whole, up to a limit that keeps a mistake (a model where a text was meant) from filling memory.
pub(super) fn read_limited(path: &std::path::Path, limit: u64) -> anyhow::Result<Vec<u8>> {
    let name = path.display();
    let file = std::fs::File::open(path).map_err(|e| anyhow::anyhow!("cannot open {name}: {e}"))?;
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, limit + 1), &mut bytes)
        .map_err(|e| anyhow::anyhow!("cannot read {name}: {e}"))?;
    anyhow::ensure!(bytes.len() as u64 <= limit, "{name} is larger than {} MiB", limit >> 20);
    Ok(bytes)
}

/// Token ids of a file: little-endian i32.
pub(super) fn read_ids(path: &std::path::Path) -> anyhow::Result<Vec<u32>> {
    let bytes = read_limited(path, 1 << 30)?;
    let name = path.display();
    anyhow::ensure!(bytes.len() % 4 == 0, "{name} has {} bytes, not a whole number of 4-byte ids", bytes.len());
    let ids = bytes.chunks_exact(4).map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    ids.map(|id| u32::try_from(id).map_err(|_| anyhow::anyhow!("{name} holds the id {id}, which is negative")))
        .collect()
}

/// A line on stderr that tells how far long work has come; silent where stderr is no terminal.
#[derive(Debug)]
pub(super) struct Progress {
    what: &'static str,
    began: Instant,
    shown: Option<Instant>,
}

impl Progress {
    pub(super) fn new(what: &'static str) -> Progress {
        Progress { what, began: Instant::now(), shown: None }
    }

    pub(super) fn show(&mut self, done: usize, total: usize) {
        let due = self.shown.is_none_or(|at| at.elapsed() > Duration::from_millis(200));
        if !due || !io::stderr().is_terminal() || total == 0 {
            return;
        }
        self.shown = Some(Instant::now());
        let left = self.began.elapsed().as_secs_f64() / done.max(1) as f64 * (total - done) as f64;
        eprint!("\r\x1b[K{} {done}/{total}, about {left:.0} s left", self.what);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown.is_some() {
            eprint!("\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn a_cause_that_an_error_tells_itself_is_not_told_twice() {
        let cause = || io::Error::other("no such thing");
        let disk = crate::disk::DiskError::io(std::path::Path::new("x"), "cannot be read", cause());
        assert_eq!(message(&disk.into()), "x: cannot be read: no such thing");
        let context = Err::<(), _>(cause()).context("reading").unwrap_err();
        assert_eq!(message(&context), "reading: no such thing");
    }
}
