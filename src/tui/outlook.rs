//! What a model would be on this machine: its header in; what it is, what of it fits in memory and how fast it can be at
//! most, out.

use std::path::Path;
use std::time::Instant;

use crate::catalog;
use crate::gguf::{Gguf, TensorInfo};
use crate::model::{Hyperparameters, Plan, PlanError, PlanOptions};
use crate::store::is_expert_tensor;

use super::sanitize::one_line;
use super::units;

/// Bytes that all threads together read to time the memory: more than most caches hold, and little beside a model.
const TIMED_BYTES: usize = 128 << 20;

/// What the picker tells of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Outlook {
    /// `Q4_K_M`.
    pub format: String,
    pub architecture: String,
    pub fits: Fits,
    /// Tokens a second, were reading the weights from memory all there is to do; `None` where the disk has a part in it,
    /// whose rate is not known before the model is open.
    pub most_tok_s: Option<f64>,
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

/// Reads a header and plans. `rate`: bytes a second that memory gives, measured.
///
/// # Errors
/// Why the file is no model.
pub fn of(path: &Path, options: &PlanOptions, rate: f64) -> Result<Outlook, String> {
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
    let active: f64 = gguf.tensors.iter().map(active).sum();
    let most_tok_s = (fits == Fits::All && active > 0.0 && rate > 0.0).then(|| rate / active);
    Ok(Outlook { format: one_line(&facts.format), architecture: one_line(&facts.architecture), fits, most_tok_s })
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
        let speed = match self.most_tok_s {
            Some(speed) => format!("at most about {} tok/s, by the memory's rate", units::speed(speed)),
            None => "speed unknown: it depends on the disk".to_owned(),
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
    let began = Instant::now();
    let total = std::thread::scope(|scope| {
        let threads: Vec<_> = buffers
            .iter()
            .map(|buffer| scope.spawn(move || buffer.iter().fold(0_u64, |sum, x| sum.wrapping_add(*x))))
            .collect();
        threads.into_iter().fold(0, |sum: u64, thread| sum.wrapping_add(thread.join().unwrap_or_default()))
    });
    let seconds = began.elapsed().as_secs_f64();
    std::hint::black_box(total);
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
        let outlook = of(&path, &options, 10e9).unwrap();
        assert_eq!(outlook.fits, Fits::All);
        // No more than all of its bytes are read for a token, and no less than a hundredth.
        let least = 10e9 / embedded::bytes() as f64;
        let speed = outlook.most_tok_s.unwrap();
        assert!(speed >= least && speed <= 100.0 * least, "{speed} {least}");
        assert!(outlook.words().starts_with("fits in memory; at most about "), "{}", outlook.words());
        std::fs::write(dir.path().join("x.gguf"), "<html>").unwrap();
        assert!(of(&dir.path().join("x.gguf"), &options, 10e9).is_err());
    }

    #[test]
    fn what_is_not_known_is_said_to_be_unknown() {
        let outlook = |fits| Outlook { format: "Q4_0".into(), architecture: "x".into(), fits, most_tok_s: None };
        assert!(
            outlook(Fits::Experts(0.337)).words().contains("about 34 % of its experts fit in memory; speed unknown")
        );
        assert_eq!(outlook(Fits::Unknown).words(), "what fits is unknown");
        assert!(memory_rate(1) > 1e8);
    }
}
