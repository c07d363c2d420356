//! Whether guesses make tokens faster, found out by trying: stretches of tokens with guesses and without take turns, and the
//! pairs of them are compared. What is right and what is wasted cannot tell: a guess that is right costs computing time, and
//! gains nothing where the disk is faster than what else there is to do.

use std::time::Duration;

/// Tokens of a stretch. The first is not measured: what it finds is the stretch's before.
const STRETCH: u32 = 8;
/// Pairs of stretches after which the answer may be clear, and after which it is taken as it is.
const FEWEST_PAIRS: usize = 6;
const MOST_PAIRS: usize = 16;
/// Standard errors that a clear answer is away from none.
const CLEAR: f64 = 2.0;
/// Tokens for which an answer holds.
const HOLDS_FOR: u32 = 512;

#[derive(Debug)]
pub(super) struct Trial {
    is_on: bool,
    /// Tokens until the stretch ends, or the answer has to be found again.
    left: u32,
    is_settled: bool,
    /// Seconds of the measured tokens of the stretch, and how many.
    measured: (f64, u32),
    /// Seconds a token of the first stretch of the pair.
    first: Option<f64>,
    /// Of each pair, by how much its tokens with guesses took longer, as a natural logarithm.
    longer: Vec<f64>,
}

impl Trial {
    pub(super) fn new() -> Trial {
        let longer = Vec::with_capacity(MOST_PAIRS);
        Trial { is_on: true, left: STRETCH, is_settled: false, measured: (0.0, 0), first: None, longer }
    }

    /// Whether guesses are to be read for the token at hand.
    pub(super) fn is_on(&self) -> bool {
        self.is_on
    }

    /// A token has taken so long. Tells the share of it that guesses save, below zero where they cost, when that has been
    /// found out.
    pub(super) fn note(&mut self, took: Duration) -> Option<f64> {
        if !self.is_settled && self.left < STRETCH {
            self.measured.0 += took.as_secs_f64();
            self.measured.1 += 1;
        }
        self.left -= 1;
        if self.left > 0 {
            return None;
        }
        self.left = STRETCH;
        if self.is_settled {
            // The answer held; now it is found again, beginning with what it was.
            self.is_settled = false;
            self.longer.clear();
            return None;
        }
        let (seconds, n) = std::mem::take(&mut self.measured);
        let mean = (seconds / f64::from(n)).max(f64::MIN_POSITIVE);
        let Some(first) = self.first.take() else {
            self.first = Some(mean);
            self.is_on = !self.is_on;
            return None;
        };
        // The next pair begins as this one ends, so that what changes steadily counts for neither.
        let ratio = (mean / first).ln();
        self.longer.push(if self.is_on { ratio } else { -ratio });
        let answer = self.answer()?;
        self.is_on = answer < 0.0;
        self.is_settled = true;
        self.left = HOLDS_FOR;
        Some(1.0 - answer.exp())
    }

    /// By how much tokens with guesses take longer, once that is known.
    fn answer(&self) -> Option<f64> {
        let n = self.longer.len();
        if n < FEWEST_PAIRS {
            return None;
        }
        let mean = self.longer.iter().sum::<f64>() / n as f64;
        let squares: f64 = self.longer.iter().map(|x| (x - mean).powi(2)).sum();
        let error = (squares / (n * (n - 1)) as f64).sqrt();
        (mean.abs() > CLEAR * error || n >= MOST_PAIRS).then_some(mean)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A number below 1 that looks like chance.
    fn chance(state: &mut u64) -> f64 {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Of `n_tokens` tokens of 60 to 140 ms, which take `factor` times as long with guesses and `drift` times as long at the
    /// end: the share with guesses, and what was found.
    fn tried(trial: &mut Trial, n_tokens: u32, factor: f64, drift: f64, seed: u64) -> (f64, Vec<f64>) {
        let (mut state, mut n_on, mut found) = (seed, 0, Vec::new());
        for i in 0..n_tokens {
            let with = if trial.is_on() { factor } else { 1.0 };
            let drifted = 1.0 + (drift - 1.0) * f64::from(i) / f64::from(n_tokens);
            n_on += u32::from(trial.is_on());
            found.extend(trial.note(Duration::from_secs_f64((0.06 + 0.08 * chance(&mut state)) * with * drifted)));
        }
        (f64::from(n_on) / f64::from(n_tokens), found)
    }

    #[test]
    fn guesses_that_cost_time_are_left_off_and_those_that_save_it_are_kept() {
        for seed in 0..20 {
            let (on, found) = tried(&mut Trial::new(), 5000, 1.15, 1.0, seed);
            assert!(on < 0.3 && found[0] < -0.05, "{on} {found:?}");
            let (on, found) = tried(&mut Trial::new(), 5000, 0.85, 1.0, seed);
            assert!(on > 0.7 && found[0] > 0.05, "{on} {found:?}");
        }
    }

    #[test]
    fn what_changes_for_both_is_not_taken_for_the_guesses() {
        let found = (0..20).map(|seed| tried(&mut Trial::new(), 5000, 1.0, 5.0, seed).1);
        let found: Vec<f64> = found.flatten().collect();
        let mean = found.iter().sum::<f64>() / found.len() as f64;
        assert!(mean.abs() < 0.03, "{mean} of {found:?}");
    }

    #[test]
    fn an_answer_is_found_again() {
        let mut trial = Trial::new();
        tried(&mut trial, 2000, 1.2, 1.0, 1);
        let (on, found) = tried(&mut trial, 5000, 0.8, 1.0, 2);
        assert!(on > 0.5 && *found.last().unwrap() > 0.1, "{on} {found:?}");
    }

    #[test]
    fn times_without_length_decide_something() {
        let mut trial = Trial::new();
        (0..10_000).for_each(|_| _ = trial.note(Duration::ZERO));
    }
}
