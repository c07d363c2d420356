//! What a model would be on this machine: its header in; what it is, what of it fits in memory and how fast it can be,
//! out.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::catalog;
use crate::gguf::{Gguf, TensorInfo};
use crate::model::{Hyperparameters, Plan, PlanError, PlanOptions};
use crate::store::direct::Probe;
use crate::store::is_expert_tensor;

use super::sanitize::one_line;
use super::units;

/// Bytes that all threads together read to time the memory: more than most caches hold, and little beside a model.
const TIMED_BYTES: usize = 128 << 20;
const PASSES: usize = 4;
/// How long a disk is read to time it.
const DISK_PATIENCE: Duration = Duration::from_millis(60);

/// What the picker tells of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Outlook {
    /// `Q4_K_M`.
    pub format: String,
    pub architecture: String,
    pub fits: Fits,
    pub speed: Speed,
}

/// Tokens a second that the reading of weights allows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Speed {
    /// All are read from memory: no more than that.
    AtMost(f64),
    /// What does not fit is read from disk, every expert as likely as the next: routers that come back to experts do better,
    /// what is computed meanwhile costs.
    About(f64),
    Unknown,
}

/// Bytes a second, measured.
#[derive(Debug)]
pub struct Rates {
    memory: f64,
    /// By folder; `None` where the disk could not be timed.
    disks: HashMap<PathBuf, Option<f64>>,
}

impl Rates {
    pub fn new(memory: f64) -> Rates {
        Rates { memory, disks: HashMap::new() }
    }

    /// That of the disk with a model's file, of which some is read when it is asked for first.
    fn disk(&mut self, path: &Path) -> Option<f64> {
        let measure = || {
            let probe = Probe::run(path, DISK_PATIENCE).ok()?;
            Some(probe.bytes as f64 / probe.seconds).filter(|rate| rate.is_finite() && *rate > 0.0)
        };
        *self.disks.entry(path.parent().unwrap_or(path).to_owned()).or_insert_with(measure)
    }
}

/// What a token reads, in bytes.
#[derive(Debug, Clone, Copy)]
struct Active {
    dense: f64,
    experts: f64,
}

impl Active {
    fn speed(self, fits: &Fits, memory: f64, disk: impl FnOnce() -> Option<f64>) -> Speed {
        let Active { dense, experts } = self;
        let (kept, read) = match *fits {
            Fits::All => (dense + experts, 0.0),
            Fits::Experts(share) => (dense + share * experts, (1.0 - share) * experts),
            Fits::ReadAgain => (0.0, dense + experts),
            Fits::No | Fits::Unknown => return Speed::Unknown,
        };
        if kept + read <= 0.0 || memory <= 0.0 {
            return Speed::Unknown;
        }
        if read <= 0.0 {
            return Speed::AtMost(memory / kept);
        }
        disk().map_or(Speed::Unknown, |disk| Speed::About(1.0 / (kept / memory + read / disk)))
    }
}

/// What of a model stays in memory.
#[derive(Debug, Clone, PartialEq)]
pub enum Fits {
    All,
    /// All but experts, and this share of those.
    Experts(f64),
    /// Not even what every token needs: all is read again for each.
    ReadAgain,
    /// It cannot work in so little.
    No,
    /// The header does not say enough.
    Unknown,
}

/// Reads a header and plans, and times the disk where it has a part in the speed.
///
/// # Errors
/// Why the file is no model.
pub fn of(path: &Path, options: &PlanOptions, rates: &mut Rates) -> Result<Outlook, String> {
    let gguf = Gguf::open(path).map_err(|error| one_line(&error.to_string()))?;
    let facts = catalog::facts_of(&gguf);
    let n_vocab = gguf.tensor("token_embd.weight").and_then(|t| t.shape.get(1).copied()).unwrap_or(0);
    let known = Hyperparameters::from_metadata(&gguf.metadata, n_vocab as usize).ok();
    let fits = match known.as_ref().map(|h| Plan::new(&gguf, h, options)) {
        None => Fits::Unknown,
        Some(Err(PlanError::TooSmall(_))) => Fits::No,
        Some(Err(_)) => Fits::Unknown,
        Some(Ok(plan)) if plan.reads_dense_weights_again() => Fits::ReadAgain,
        Some(Ok(plan)) if plan.holds_all_experts() => Fits::All,
        Some(Ok(plan)) => Fits::Experts(plan.expert_budget(0, 1) as f64 / plan.experts.max(1) as f64),
    };
    let moe = known.as_ref().and_then(|h| h.moe);
    let used = moe.map_or(1.0, |moe| moe.n_used as f64 / moe.n_experts.max(1) as f64);
    // Of the table of embeddings a token takes one row, unless the same table makes the logits.
    let is_tied = gguf.tensor("output.weight").is_none();
    let active = |tensor: &TensorInfo| match tensor.name.as_str() {
        "token_embd.weight" if !is_tied => 0.0,
        _ if is_expert_tensor(tensor) => tensor.n_bytes as f64 * used,
        _ => tensor.n_bytes as f64,
    };
    let of = |experts: bool| gguf.tensors.iter().filter(|t| is_expert_tensor(t) == experts).map(active).sum();
    let active = Active { dense: of(false), experts: of(true) };
    let speed = active.speed(&fits, rates.memory, || rates.disk(path));
    Ok(Outlook { format: one_line(&facts.format), architecture: one_line(&facts.architecture), fits, speed })
}

impl Outlook {
    /// What fits and how fast it can be, in words.
    pub fn words(&self) -> String {
        let fits = match self.fits {
            Fits::All => "fits in memory".to_owned(),
            Fits::Experts(share) => format!("about {:.0} % of its experts fit in memory", 100.0 * share),
            Fits::ReadAgain => "larger than memory: every token reads it anew".to_owned(),
            Fits::No => "cannot work in the memory there is".to_owned(),
            Fits::Unknown => "what fits is unknown".to_owned(),
        };
        let speed = match self.speed {
            Speed::AtMost(speed) => format!("at most about {} tok/s, by the memory's rate", units::speed(speed)),
            // No more digits than it deserves.
            Speed::About(speed) if speed < 9.95 => format!("about {speed:.1} tok/s, by the disk's rate"),
            Speed::About(speed) => format!("about {speed:.0} tok/s, by the disk's rate"),
            Speed::Unknown => "speed unknown: it depends on the disk".to_owned(),
        };
        match self.fits {
            Fits::No | Fits::Unknown => fits,
            _ => format!("{fits}; {speed}"),
        }
    }
}

/// Bytes a second that `n` threads together read from memory, measured for some milliseconds; 0 where it cannot be.
pub fn memory_rate(n: usize) -> f64 {
    let n = n.clamp(1, 64);
    let buffers: Vec<Vec<u64>> = (0..n as u64).map(|seed| vec![seed | 1; TIMED_BYTES / 8 / n]).collect();
    // The best of some passes: who else uses the memory should not decide what is possible.
    let seconds = (0..PASSES).map(|_| {
        let began = Instant::now();
        let total = std::thread::scope(|scope| {
            let threads: Vec<_> = buffers
                .iter()
                .map(|buffer| scope.spawn(move || buffer.iter().fold(0_u64, |sum, x| sum.wrapping_add(*x))))
                .collect();
            threads.into_iter().fold(0, |sum: u64, thread| sum.wrapping_add(thread.join().unwrap_or_default()))
        });
        std::hint::black_box(total);
        began.elapsed().as_secs_f64()
    });
    let seconds = seconds.fold(f64::INFINITY, f64::min);
    if seconds > 0.0 { TIMED_BYTES as f64 / seconds } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded;
    use crate::store::Budget;

    #[test]
    fn the_model_in_the_binary_fits_and_its_speed_follows_from_its_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = embedded::file(dir.path()).unwrap();
        let options = PlanOptions { budget: Budget::UNKNOWN, ..PlanOptions::for_experts(u64::MAX) };
        let mut rates = Rates::new(10e9);
        let outlook = of(&path, &options, &mut rates).unwrap();
        assert_eq!(outlook.fits, Fits::All);
        // No more than all of its bytes are read for a token, and no less than a hundredth.
        let least = 10e9 / embedded::bytes() as f64;
        let Speed::AtMost(speed) = outlook.speed else { panic!("{outlook:?}") };
        assert!(speed >= least && speed <= 100.0 * least, "{speed} {least}");
        assert!(outlook.words().starts_with("fits in memory; at most about "), "{}", outlook.words());
        std::fs::write(dir.path().join("x.gguf"), "<html>").unwrap();
        assert!(of(&dir.path().join("x.gguf"), &options, &mut rates).is_err());
        assert!(rates.disks.is_empty(), "no disk has a part in it");
    }

    #[test]
    fn a_token_takes_as_long_as_memory_and_disk_take_for_its_bytes() {
        let active = Active { dense: 1e9, experts: 2e9 };
        let speed = |fits| active.speed(&fits, 30e9, || Some(1e9));
        assert_eq!(speed(Fits::All), Speed::AtMost(10.0));
        assert_eq!(speed(Fits::Experts(1.0)), Speed::AtMost(10.0));
        // 2 GB from memory, 1 GB from disk.
        assert_eq!(speed(Fits::Experts(0.5)), Speed::About(1.0 / (2.0 / 30.0 + 1.0)));
        assert_eq!(speed(Fits::ReadAgain), Speed::About(1.0 / 3.0));
        assert_eq!(speed(Fits::No), Speed::Unknown);
        assert_eq!(active.speed(&Fits::Experts(0.5), 30e9, || None), Speed::Unknown);
        assert_eq!(Active { dense: 0.0, experts: 0.0 }.speed(&Fits::All, 30e9, || None), Speed::Unknown);
    }

    #[test]
    fn a_model_over_the_budget_has_its_disk_timed_once() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = dir.path().join("model.gguf");
        let model = include_bytes!("../../tests/data/mixtral-Q4_K_M.gguf");
        std::fs::write(&path, model).unwrap();
        let plan = of(&path, &PlanOptions::for_experts(1 << 17), &mut Rates::new(10e9)).unwrap();
        assert!(matches!(plan.fits, Fits::Experts(share) if share < 1.0), "{plan:?}");
        assert_eq!(plan.speed, Speed::Unknown, "the file is too small to time a disk by");
        // What follows a model's tensors is not looked at.
        std::fs::OpenOptions::new().append(true).open(&path).unwrap().set_len(64 << 20).unwrap();
        let mut rates = Rates::new(10e9);
        let outlook = of(&path, &PlanOptions::for_experts(1 << 17), &mut rates).unwrap();
        match outlook.speed {
            Speed::About(speed) => {
                assert!(speed > 0.0 && outlook.words().contains("by the disk's rate"), "{outlook:?}");
            }
            // Not every file system can be read past its cache.
            Speed::Unknown => assert!(rates.disk(&path).is_none()),
            Speed::AtMost(_) => panic!("{outlook:?}"),
        }
        assert_eq!(rates.disks.len(), 1);
    }

    #[test]
    fn what_is_not_known_is_said_to_be_unknown() {
        let outlook = |fits| Outlook { format: "Q4_0".into(), architecture: "x".into(), fits, speed: Speed::Unknown };
        assert!(
            outlook(Fits::Experts(0.337)).words().contains("about 34 % of its experts fit in memory; speed unknown")
        );
        assert_eq!(outlook(Fits::Unknown).words(), "what fits is unknown");
        assert!(memory_rate(1) > 1e8);
    }
}
