//! Rotary position embedding (Su et al. 2021), with linear and YaRN scaling and per-frequency factors (Llama 3.1).

use super::hyperparameters::{Hyperparameters, RopeLayout, RopeScaling};
use crate::kernel::Kernels;

/// The frequencies of a model, worked out once. Angles are computed in f32 and in ggml's order: their rounding decides
/// the last bit of every key.
#[derive(Debug, Clone)]
pub struct Rope {
    layout: RopeLayout,
    /// The ratio of neighbouring frequencies.
    ratio: f32,
    /// `[n_rot / 2]`
    pairs: Vec<Pair>,
    /// A factor on every sine and cosine.
    magnitude: f32,
}

/// What becomes of the plain angle of one pair.
#[derive(Debug, Clone, Copy)]
struct Pair {
    /// Divides the angle (Llama 3.1's `rope_freqs.weight`).
    factor: f32,
    /// Multiplies the part of the angle that is stretched.
    stretch: f32,
    /// The share of the angle that is not stretched (YaRN), 0 to 1.
    keep: f32,
}

impl Rope {
    /// `factors`: `[n_rot / 2]`, the tensor `rope_freqs.weight`, which divides the frequencies.
    pub fn new(h: &Hyperparameters, factors: Option<&[f32]>) -> Rope {
        let n_rot = h.n_rot as f64;
        let (stretch, magnitude) = match h.rope_scaling {
            RopeScaling::None => (1.0, 1.0),
            RopeScaling::Linear { factor } => (1.0 / factor, 1.0),
            RopeScaling::Yarn { factor, attention_factor, .. } => {
                (1.0 / factor, attention_factor * (1.0 + 0.1 * factor.ln()))
            }
        };
        let keep = |i: usize| match h.rope_scaling {
            RopeScaling::None | RopeScaling::Linear { .. } => 0.0,
            RopeScaling::Yarn { original_context, beta_fast, beta_slow, .. } => {
                // The pair that turns `beta` times over the original context.
                let pair_of = |beta: f64| {
                    n_rot * (original_context / (beta * std::f64::consts::TAU)).ln() / (2.0 * h.rope_base.ln())
                };
                let low = pair_of(beta_fast).floor().max(0.0);
                let high = pair_of(beta_slow).ceil().min(n_rot - 1.0);
                1.0 - ((i as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0)
            }
        };
        let pair =
            |i: usize| Pair { factor: factors.map_or(1.0, |f| f[i]), stretch: stretch as f32, keep: keep(i) as f32 };
        Rope {
            layout: h.architecture.rope_layout,
            ratio: (h.rope_base as f32).powf(-2.0 / h.n_rot as f32),
            pairs: (0..h.n_rot / 2).map(pair).collect(),
            magnitude: magnitude as f32,
        }
    }

    /// Sines and cosines of one position, `[n_rot]` as pairs `(cos, sin)`.
    pub fn angles(&self, position: usize, out: &mut [f32]) {
        let mut plain = position as f32;
        for (out, pair) in out.chunks_exact_mut(2).zip(&self.pairs) {
            let full = plain / pair.factor;
            let stretched = full * pair.stretch;
            let angle = if pair.keep == 0.0 { stretched } else { stretched * (1.0 - pair.keep) + full * pair.keep };
            let (sin, cos) = angle.sin_cos();
            out[0] = cos * self.magnitude;
            out[1] = sin * self.magnitude;
            plain *= self.ratio;
        }
    }

    /// Numbers that [`Rope::angles`] writes.
    pub fn n_angles(&self) -> usize {
        2 * self.pairs.len()
    }

    /// The elements of a head that make up pair `i`.
    fn pair(&self, i: usize) -> (usize, usize) {
        match self.layout {
            RopeLayout::Interleaved => (2 * i, 2 * i + 1),
            RopeLayout::Halves => (i, i + self.pairs.len()),
        }
    }

    /// Numbers whose product with the angles of a position is `query · rotated bias`, but for the elements that are not
    /// rotated, which add the same at every position. `out`: [`Rope::n_angles`].
    pub fn against(&self, query: &[f32], bias: &[f32], out: &mut [f32]) {
        for (i, out) in out.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            let (a, b) = self.pair(i);
            *out = [query[a].mul_add(bias[a], query[b] * bias[b]), query[b].mul_add(bias[a], -(query[a] * bias[b]))];
        }
    }

    /// Rotates one head in place by the angles of its position.
    pub fn rotate(&self, kernels: &Kernels, head: &mut [f32], angles: &[f32]) {
        let pairs = &mut head[..self.n_angles()];
        match self.layout {
            RopeLayout::Interleaved => kernels.rotate_neighbours(pairs, angles),
            RopeLayout::Halves => kernels.rotate_halves(pairs, angles),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::hyperparameters::Architecture;

    fn parameters(rope_layout: RopeLayout, rope_scaling: RopeScaling) -> Hyperparameters {
        Hyperparameters {
            architecture: Architecture { name: "test", rope_layout },
            n_layers: 1,
            n_vocab: 1,
            n_embd: 8,
            n_ff: vec![8],
            n_heads: 1,
            n_kv_heads: 1,
            head_dim_k: 8,
            head_dim_v: 8,
            norm_eps: 1e-5,
            n_rot: 8,
            rope_base: 10_000.0,
            rope_scaling,
            sliding_window: None,
            context_length: 4096,
            moe: None,
        }
    }

    fn rotated(h: &Hyperparameters, factors: Option<&[f32]>, position: usize) -> Vec<f32> {
        let rope = Rope::new(h, factors);
        let mut angles = vec![0.0; rope.n_angles()];
        rope.angles(position, &mut angles);
        let mut head: Vec<f32> = (1..=8).map(|x| x as f32).collect();
        rope.rotate(&Kernels::detect(), &mut head, &angles);
        head
    }

    #[test]
    fn position_zero_changes_nothing_and_every_position_keeps_the_length() {
        for layout in [RopeLayout::Interleaved, RopeLayout::Halves] {
            let h = parameters(layout, RopeScaling::None);
            assert_eq!(rotated(&h, None, 0), (1..=8).map(|x| x as f32).collect::<Vec<_>>());
            let length: f32 = rotated(&h, None, 77).iter().map(|x| x * x).sum();
            assert!((length - 204.0).abs() < 1e-3, "{length}");
        }
    }

    #[test]
    fn a_rotated_bias_is_a_product_with_the_angles() {
        for layout in [RopeLayout::Interleaved, RopeLayout::Halves] {
            let h = parameters(layout, RopeScaling::None);
            let (query, rotated) = ([3.0, -1.0, 2.0, 0.5, -4.0, 1.0, 0.25, 6.0], rotated(&h, None, 77));
            let bias: Vec<f32> = (1..=8).map(|x| x as f32).collect();
            let (rope, mut numbers, mut angles) = (Rope::new(&h, None), [0.0; 8], [0.0; 8]);
            rope.against(&query, &bias, &mut numbers);
            rope.angles(77, &mut angles);
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
            assert!((dot(&numbers, &angles) - dot(&query, &rotated)).abs() < 1e-3);
        }
    }

    #[test]
    fn the_layouts_pair_neighbours_and_halves() {
        let turn = |h| rotated(&h, None, 1);
        let interleaved = turn(parameters(RopeLayout::Interleaved, RopeScaling::None));
        let halves = turn(parameters(RopeLayout::Halves, RopeScaling::None));
        let (sin, cos) = 1f32.sin_cos();
        assert!((interleaved[0] - (cos - 2.0 * sin)).abs() < 1e-6);
        assert!((halves[0] - (cos - 5.0 * sin)).abs() < 1e-6);
    }

    #[test]
    fn linear_scaling_and_uniform_factors_divide_the_position() {
        let plain = parameters(RopeLayout::Halves, RopeScaling::None);
        let linear = parameters(RopeLayout::Halves, RopeScaling::Linear { factor: 4.0 });
        for (a, b) in rotated(&linear, None, 40).iter().zip(rotated(&plain, None, 10)) {
            assert!((a - b).abs() < 1e-5);
        }
        for (a, b) in rotated(&plain, Some(&[4.0; 4]), 40).iter().zip(rotated(&plain, None, 10)) {
            assert!((a - b).abs() < 1e-5);
        }
    }

    #[test]
    fn yarn_keeps_the_fastest_pair_and_stretches_the_slowest() {
        let yarn = RopeScaling::Yarn {
            factor: 4.0,
            original_context: 4096.0,
            attention_factor: 1.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
        };
        let h = parameters(RopeLayout::Halves, yarn);
        let rope = Rope::new(&h, None);
        let mut angles = vec![0.0; rope.n_angles()];
        rope.angles(3, &mut angles);
        let magnitude = 1.0 + 0.1 * 4f32.ln();
        assert!((angles[0] - 3f32.cos() * magnitude).abs() < 1e-6);
        let slowest = 3.0 * 10_000f32.powf(-0.75) / 4.0;
        assert!((angles[7] - slowest.sin() * magnitude).abs() < 1e-6);
    }
}
