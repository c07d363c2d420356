//! Sampling: logits in, a token id out.

use std::collections::VecDeque;

/// How the next token is chosen. `temperature` 0 is greedy.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    pub temperature: f32,
    /// 0: off.
    pub top_k: usize,
    /// 1.0: off.
    pub top_p: f32,
    /// 0.0: off.
    pub min_p: f32,
    /// 1.0: off.
    pub repeat_penalty: f32,
    pub frequency_penalty: f32,
    pub presence_penalty: f32,
    /// How many of the last tokens the penalties look at.
    pub penalty_window: usize,
    /// `None`: from the clock.
    pub seed: Option<u64>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        SamplingParams {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repeat_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            penalty_window: 64,
            seed: None,
        }
    }
}

/// Chooses tokens by [`SamplingParams`]. The same seed and logits give the same tokens.
#[derive(Debug)]
pub struct Sampler {
    params: SamplingParams,
    random: SplitMix64,
    /// The tokens the penalties look at, oldest first.
    recent: VecDeque<u32>,
    candidates: Vec<Candidate>,
}

#[derive(Debug, Clone, Copy)]
struct Candidate {
    token: u32,
    logit: f32,
    p: f32,
}

/// SplitMix64 (Steele, Lea and Flood 2014).
#[derive(Debug)]
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in 0..1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

impl SamplingParams {
    /// The parameters by name, as a transcript's header has them.
    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "temperature": self.temperature, "top_k": self.top_k, "top_p": self.top_p, "min_p": self.min_p,
            "repeat_penalty": self.repeat_penalty, "frequency_penalty": self.frequency_penalty,
            "presence_penalty": self.presence_penalty, "penalty_window": self.penalty_window, "seed": self.seed,
        })
    }

    /// What [`SamplingParams::json`] says; what it does not say, or says out of range, is as in `self`.
    #[must_use]
    pub fn with_json(&self, json: &serde_json::Value) -> SamplingParams {
        let number = |key: &str, d: f32| json[key].as_f64().map_or(d, |x| x as f32);
        let count = |key: &str, d: usize| json[key].as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or(d);
        let said = SamplingParams {
            temperature: number("temperature", self.temperature),
            top_k: count("top_k", self.top_k),
            top_p: number("top_p", self.top_p),
            min_p: number("min_p", self.min_p),
            repeat_penalty: number("repeat_penalty", self.repeat_penalty),
            frequency_penalty: number("frequency_penalty", self.frequency_penalty),
            presence_penalty: number("presence_penalty", self.presence_penalty),
            penalty_window: count("penalty_window", self.penalty_window).min(1 << 20),
            seed: json.get("seed").map_or(self.seed, serde_json::Value::as_u64),
        };
        if said.problem().is_some() { self.clone() } else { said }
    }

    /// The most probable token, always.
    pub fn greedy() -> SamplingParams {
        SamplingParams { temperature: 0.0, ..SamplingParams::default() }
    }

    /// The first parameter out of its range, in words.
    pub fn problem(&self) -> Option<String> {
        let ranges = [
            ("temperature", self.temperature, 0.0, 100.0),
            ("top-p", self.top_p, 0.0, 1.0),
            ("min-p", self.min_p, 0.0, 1.0),
            ("repeat penalty", self.repeat_penalty, 0.01, 100.0),
            ("frequency penalty", self.frequency_penalty, -100.0, 100.0),
            ("presence penalty", self.presence_penalty, -100.0, 100.0),
        ];
        let bad = ranges.into_iter().find(|&(_, x, low, high)| !(low..=high).contains(&x));
        bad.map(|(name, x, low, high)| format!("{name} is {x}, expected {low} to {high}"))
    }
}

impl Sampler {
    pub fn new(params: SamplingParams) -> Sampler {
        let seed = params.seed.unwrap_or_else(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            now.map_or(0, |d| d.as_nanos() as u64)
        });
        Sampler { params, random: SplitMix64(seed), recent: VecDeque::new(), candidates: Vec::new() }
    }

    /// Counts a token for the penalties: of the prompt, or of the reply.
    pub fn accept(&mut self, token: u32) {
        if self.params.penalty_window == 0 {
            return;
        }
        if self.recent.len() == self.params.penalty_window {
            self.recent.pop_front();
        }
        self.recent.push_back(token);
    }

    /// Chooses the next token, in the usual order: penalties, top-k, top-p, min-p, temperature, draw.
    pub fn sample(&mut self, logits: &[f32]) -> u32 {
        assert!(!logits.is_empty(), "no logits to sample from");
        self.candidates.clear();
        self.candidates.extend(logits.iter().enumerate().map(|(i, &logit)| Candidate {
            token: i as u32,
            // A broken logit is never chosen while another is whole.
            logit: if logit.is_nan() { f32::NEG_INFINITY } else { logit },
            p: 0.0,
        }));
        self.penalize();
        if self.params.temperature <= 0.0 {
            return greedy(&self.candidates);
        }
        self.keep_top_k();
        self.weigh(1.0);
        self.keep_top_p();
        self.keep_min_p();
        self.weigh(self.params.temperature);
        self.draw()
    }

    fn penalize(&mut self) {
        let p = &self.params;
        if p.repeat_penalty == 1.0 && p.frequency_penalty == 0.0 && p.presence_penalty == 0.0 {
            return;
        }
        for (i, &token) in self.recent.iter().enumerate() {
            let first = !self.recent.iter().take(i).any(|&t| t == token);
            let Some(candidate) = self.candidates.get_mut(token as usize).filter(|_| first) else { continue };
            let count = self.recent.iter().filter(|&&t| t == token).count() as f32;
            // Keskar et al. 2019: a likely token is divided, an unlikely one multiplied.
            if candidate.logit > 0.0 {
                candidate.logit /= p.repeat_penalty;
            } else {
                candidate.logit *= p.repeat_penalty;
            }
            candidate.logit -= count * p.frequency_penalty + p.presence_penalty;
        }
    }

    /// Keeps the `top_k` best, sorted best first; ties go to the lower id.
    fn keep_top_k(&mut self) {
        let best_first = |a: &Candidate, b: &Candidate| b.logit.total_cmp(&a.logit).then(a.token.cmp(&b.token));
        let k = self.params.top_k;
        if k > 0 && k < self.candidates.len() {
            self.candidates.select_nth_unstable_by(k - 1, best_first);
            self.candidates.truncate(k);
        }
        self.candidates.sort_unstable_by(best_first);
    }

    /// Probabilities of the candidates at a temperature.
    fn weigh(&mut self, temperature: f32) {
        let max = self.candidates[0].logit;
        let mut sum = 0.0;
        for c in &mut self.candidates {
            // An infinite best logit takes everything; the difference of two infinities is no number.
            c.p = if c.logit == max { 1.0 } else { ((c.logit - max) / temperature).exp() };
            sum += c.p;
        }
        self.candidates.iter_mut().for_each(|c| c.p /= sum);
    }

    /// Nucleus sampling (Holtzman et al. 2020): the fewest that together reach `top_p`.
    fn keep_top_p(&mut self) {
        if self.params.top_p >= 1.0 {
            return;
        }
        let mut sum = 0.0;
        let reached = self.candidates.iter().position(|c| {
            sum += c.p;
            sum >= self.params.top_p
        });
        if let Some(last) = reached {
            self.candidates.truncate(last + 1);
        }
    }

    /// Min-p (Nguyen et al. 2024): those at least `min_p` times as likely as the best.
    fn keep_min_p(&mut self) {
        let floor = self.candidates[0].p * self.params.min_p;
        let keep = self.candidates.iter().take_while(|c| c.p >= floor).count();
        self.candidates.truncate(keep.max(1));
    }

    fn draw(&mut self) -> u32 {
        let mut left = self.random.unit();
        for c in &self.candidates {
            left -= f64::from(c.p);
            if left < 0.0 {
                return c.token;
            }
        }
        // Rounding can leave a crumb: the likeliest takes it.
        self.candidates[0].token
    }
}

/// The best candidate; ties go to the lower id.
fn greedy(candidates: &[Candidate]) -> u32 {
    let better = |best: Candidate, c: &Candidate| if c.logit > best.logit { *c } else { best };
    candidates.iter().fold(candidates[0], better).token
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> SamplingParams {
        SamplingParams { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: Some(7), ..Default::default() }
    }

    fn drawn(params: SamplingParams, logits: &[f32], n: usize) -> Vec<usize> {
        let mut sampler = Sampler::new(params);
        let mut counts = vec![0; logits.len()];
        (0..n).for_each(|_| counts[sampler.sample(logits) as usize] += 1);
        counts
    }

    #[test]
    fn greedy_takes_the_first_of_the_largest_and_never_nan() {
        let mut sampler = Sampler::new(SamplingParams::greedy());
        assert_eq!(sampler.sample(&[0.0, 2.0, f32::NAN, 2.0]), 1);
        assert_eq!(sampler.sample(&[f32::NAN, f32::NEG_INFINITY]), 0);
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let logits = [0.0, 1.0, 2.0];
        let counts = drawn(plain(), &logits, 20_000);
        let sum: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
        for (count, &logit) in counts.iter().zip(&logits) {
            let expected = f64::from(logit).exp() / sum;
            assert!((*count as f64 / 20_000.0 - expected).abs() < 0.015, "{counts:?}");
        }
    }

    #[test]
    fn top_k_top_p_and_min_p_cut_the_tail() {
        let logits = [3.0, 2.0, 1.0, 0.0];
        assert_eq!(drawn(SamplingParams { top_k: 2, ..plain() }, &logits, 2000)[2..], [0, 0]);
        // The best has 64%, the best two 88%.
        assert_eq!(drawn(SamplingParams { top_p: 0.6, ..plain() }, &logits, 2000), [2000, 0, 0, 0]);
        assert_eq!(drawn(SamplingParams { top_p: 0.8, ..plain() }, &logits, 2000)[2..], [0, 0]);
        // The second is 37% as likely as the best, the third 14%.
        assert_eq!(drawn(SamplingParams { min_p: 0.2, ..plain() }, &logits, 2000)[2..], [0, 0]);
    }

    #[test]
    fn a_seed_repeats_itself_and_another_does_not() {
        let logits: Vec<f32> = (0..50).map(|i| (i % 7) as f32).collect();
        let run = |seed| {
            let mut sampler = Sampler::new(SamplingParams { seed: Some(seed), ..plain() });
            (0..20).map(|_| sampler.sample(&logits)).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn penalties_push_down_what_was_said() {
        for change in [
            SamplingParams { repeat_penalty: 4.0, ..SamplingParams::greedy() },
            SamplingParams { presence_penalty: 2.0, ..SamplingParams::greedy() },
            SamplingParams { frequency_penalty: 2.0, ..SamplingParams::greedy() },
        ] {
            let mut sampler = Sampler::new(change);
            assert_eq!(sampler.sample(&[1.0, 2.0]), 1);
            sampler.accept(1);
            assert_eq!(sampler.sample(&[1.0, 2.0]), 0);
        }
    }

    #[test]
    fn infinite_logits_draw_without_a_panic() {
        let counts = drawn(plain(), &[f32::INFINITY, 0.0, f32::INFINITY], 100);
        assert_eq!(counts[1], 0);
        assert_eq!(drawn(plain(), &[f32::NEG_INFINITY; 3], 100).iter().sum::<usize>(), 100);
    }
}
