//! What decides which expert leaves. Time is counted in tokens, for every layer apart, so that a layer that is about to
//! be computed is not taken for one that has not been needed for a token.

use std::fmt;
use std::str::FromStr;

/// A rule of replacement.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Policy {
    /// The one used the longest ago leaves.
    Lru,
    /// The one used the least leaves.
    Lfu,
    /// Uses count, halved every `half_life` tokens (Lee et al. 2001, with λ = 1 / `half_life`); the least sum leaves.
    Lrfu { half_life: f64 },
    /// The one that its layer's last tokens passed by the longest leaves; of equals, the one whose layer has just been
    /// computed, for it is needed again the latest.
    LeastStale,
    /// The one expected to be used again the latest leaves: how often it is used, as in [`Policy::Lrfu`], and how far its
    /// layer is.
    LongestWait { half_life: f64 },
}

/// A policy that is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{found}` is no policy; there are lru, lfu, lrfu, least-stale and longest-wait, lrfu:N and longest-wait:N with a half-life of N tokens"
)]
pub struct UnknownPolicy {
    found: String,
}

/// When an expert is used.
pub(super) struct Moment {
    /// Tokens times layers so far.
    pub steps: f64,
    pub n_layers: f64,
    /// Tokens that the layer has seen, those at hand included.
    pub clock: f64,
    /// Tokens at hand.
    pub batch: f64,
    /// How many of them the expert is used for.
    pub n_tokens: f64,
}

impl Moment {
    /// Expected tokens since the last of the uses, were they spread evenly at random.
    fn gap(&self) -> f64 {
        (self.batch - self.n_tokens).max(0.0) / (self.n_tokens + 1.0)
    }
}

/// Tokens; between 8 and 32 hits differ by less than 1 point, and 8 reads the least (`tests/bench/EXPERIMENTS.md`).
const HALF_LIFE: f64 = 8.0;

impl Default for Policy {
    /// More hits than LRU on real text at every budget, also below a token's experts, where LRU has none (`tests/bench/EXPERIMENTS.md`).
    fn default() -> Policy {
        Policy::LongestWait { half_life: HALF_LIFE }
    }
}

impl Policy {
    /// All policies, with the half-lives that are worth a comparison.
    pub fn all() -> Vec<Policy> {
        let halving = [4.0, HALF_LIFE, 16.0, 32.0];
        let mut all = vec![Policy::Lru, Policy::Lfu];
        all.extend(halving.map(|half_life| Policy::Lrfu { half_life }));
        all.push(Policy::LeastStale);
        all.extend(halving.map(|half_life| Policy::LongestWait { half_life }));
        all
    }

    /// The key of an expert that was never used.
    pub(super) fn unused(self) -> f64 {
        match self {
            Policy::Lrfu { .. } | Policy::LongestWait { .. } => f64::NEG_INFINITY,
            Policy::Lru | Policy::Lfu | Policy::LeastStale => 0.0,
        }
    }

    /// The key after a use.
    pub(super) fn used(self, key: f64, now: &Moment) -> f64 {
        match self {
            Policy::Lru => now.steps - now.gap() * now.n_layers,
            // Of experts used as often the one used last is kept: the fraction is below 1 for 2^40 tokens times layers.
            Policy::Lfu => key.floor() + now.n_tokens + now.steps / (1u64 << 40) as f64,
            // Logarithm of the sum of 2^(λ·t) over the uses: decay then changes no order.
            Policy::Lrfu { half_life } | Policy::LongestWait { half_life } => {
                let lambda = half_life.recip();
                // As many uses as given, spread evenly over the batch.
                let weight = one_less_halved(lambda * now.batch) / one_less_halved(lambda) / now.batch * now.n_tokens;
                add_log2(key, lambda * now.clock + weight.log2())
            }
            Policy::LeastStale => now.clock - now.gap(),
        }
    }

    /// How much an expert is worth keeping, comparable across layers: the least leaves. `passed`: 0 for the layer at hand,
    /// nearly 1 for the one that comes next.
    pub(super) fn worth(self, key: f64, clock: f64, passed: f64) -> f64 {
        match self {
            Policy::Lru | Policy::Lfu => key,
            Policy::Lrfu { half_life } => key - clock / half_life,
            Policy::LeastStale => key - clock + passed,
            Policy::LongestWait { half_life } => {
                let lambda = half_life.recip();
                // The sum of an expert used by every token since the first; layers that are a token behind then compare.
                let most = one_less_halved(lambda * clock) / one_less_halved(lambda);
                let rate = (key - lambda * clock).exp2() / most.max(f64::MIN_POSITIVE);
                passed - rate.recip()
            }
        }
    }

    /// By how many tokens a worth is below another; where a policy does not count in tokens, any difference is large.
    pub(super) fn tokens_apart(self, less: f64, more: f64) -> f64 {
        match self {
            Policy::LeastStale | Policy::LongestWait { .. } => more - less,
            _ if more > less => f64::INFINITY,
            _ => 0.0,
        }
    }
}

/// `log2(2^a + 2^b)`.
fn add_log2(a: f64, b: f64) -> f64 {
    let (low, high) = if a < b { (a, b) } else { (b, a) };
    if low == f64::NEG_INFINITY { high } else { high + (low - high).exp2().ln_1p() / std::f64::consts::LN_2 }
}

/// `1 - 2^-x`, exact for small `x`.
fn one_less_halved(x: f64) -> f64 {
    -(-x * std::f64::consts::LN_2).exp_m1()
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Policy::Lru => f.write_str("lru"),
            Policy::Lfu => f.write_str("lfu"),
            Policy::Lrfu { half_life } => write!(f, "lrfu:{half_life}"),
            Policy::LeastStale => f.write_str("least-stale"),
            Policy::LongestWait { half_life } => write!(f, "longest-wait:{half_life}"),
        }
    }
}

impl FromStr for Policy {
    type Err = UnknownPolicy;

    fn from_str(text: &str) -> Result<Policy, UnknownPolicy> {
        let unknown = || UnknownPolicy { found: text.to_owned() };
        let (name, half_life) = text.split_once(':').map_or((text, None), |(name, n)| (name, Some(n)));
        let halving = || match half_life.map_or(Ok(HALF_LIFE), str::parse::<f64>) {
            Ok(half_life) if (1.0..=1e6).contains(&half_life) => Ok(half_life),
            _ => Err(unknown()),
        };
        match (name, half_life) {
            ("lru", None) => Ok(Policy::Lru),
            ("lfu", None) => Ok(Policy::Lfu),
            ("least-stale", None) => Ok(Policy::LeastStale),
            ("lrfu", _) => Ok(Policy::Lrfu { half_life: halving()? }),
            ("longest-wait", _) => Ok(Policy::LongestWait { half_life: halving()? }),
            _ => Err(unknown()),
        }
    }
}
