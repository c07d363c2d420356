//! Mixture of Experts: a router picks a few experts a token (Shazeer et al. 2017; Mixtral, Jiang et al. 2024). Tokens are
//! grouped by expert, each expert's weights are used for all of its tokens at once, and the results are summed in the
//! router's order, so that neither batching nor the order in which experts arrive changes a bit of the output.

use crate::kernel::{ActivationScratch, Activations, Kernels, Matrix, Rows};

use super::Model;
use super::forward::{Compute, Control, Prefetch, Scratch, sized};
use super::hyperparameters::MoeParams;
use super::weights::{ExpertFormats, Linear};

/// Buffers of the routed FFN, kept between passes.
#[derive(Debug, Default)]
pub(super) struct MoeScratch {
    /// `[n, n_experts]`
    router: Vec<f32>,
    /// `[n, n_used]`: the chosen experts, best first.
    chosen: Vec<u32>,
    /// `[n, n_used]`
    weights: Vec<f32>,
    /// Token slots (`token · n_used + rank`) grouped by expert.
    slots: Vec<u32>,
    /// `slots[starts[e]..starts[e + 1]]` are expert `e`'s; `[n_experts + 1]`.
    starts: Vec<u32>,
    /// The experts with at least one token.
    active: Vec<usize>,
    /// The tokens of the expert at hand.
    tokens: Vec<u32>,
    /// `[tokens of an expert, n_ff]`
    gate: Vec<f32>,
    /// `[tokens of an expert, n_ff]`
    up: Vec<f32>,
    /// `[tokens of an expert, n_embd]`
    down: Vec<f32>,
    /// `[n, n_used, n_embd]`
    slot_out: Vec<f32>,
    /// The quantized inputs of the down matrices, apart from those of gate and up, which all experts share.
    inner_acts: ActivationScratch,
}

/// Chooses the `chosen.len()` most probable experts of one token, best first, and their weights. `router`: the router's
/// logits, overwritten by their softmax.
fn route(kernels: &Kernels, moe: &MoeParams, router: &mut [f32], chosen: &mut [u32], weights: &mut [f32]) {
    kernels.softmax(router);
    let mut n = 0;
    for (expert, p) in router.iter().enumerate() {
        // Insertion into the short list of the best; equal probabilities keep the lower expert first, and NaN comes last.
        let worse = |&other: &u32| router[other as usize].total_cmp(p).is_lt() || router[other as usize].is_nan();
        let at = chosen[..n].iter().position(|other| !p.is_nan() && worse(other)).unwrap_or(n);
        if at == chosen.len() {
            continue;
        }
        n = (n + 1).min(chosen.len());
        chosen[at..n].rotate_right(1);
        chosen[at] = expert as u32;
    }
    let mut sum = 0.0;
    for (weight, &expert) in weights.iter_mut().zip(chosen.iter()) {
        *weight = router[expert as usize];
        sum += *weight;
    }
    let divisor = if moe.weights_norm { sum } else { 1.0 };
    weights.iter_mut().for_each(|w| *w = *w / divisor * moe.weights_scale);
}

impl MoeScratch {
    /// Groups the token slots by expert (a counting sort), in `slots`, `starts` and `active`.
    fn group(&mut self, n_experts: usize) {
        self.starts.clear();
        self.starts.resize(n_experts + 1, 0);
        for &expert in &self.chosen {
            self.starts[expert as usize + 1] += 1;
        }
        self.active.clear();
        for expert in 0..n_experts {
            if self.starts[expert + 1] > 0 {
                self.active.push(expert);
            }
            self.starts[expert + 1] += self.starts[expert];
        }
        self.slots.clear();
        self.slots.resize(self.chosen.len(), 0);
        // `starts[e]` runs ahead while its slots are dealt out and is set back after.
        for (slot, &expert) in self.chosen.iter().enumerate() {
            let start = &mut self.starts[expert as usize];
            self.slots[*start as usize] = slot as u32;
            *start += 1;
        }
        self.starts.rotate_right(1);
        self.starts[0] = 0;
        // The rotation brought the end of the last expert to the front; every other start moved up by one place.
    }
}

impl Model<'_> {
    /// `hidden += Σ weight · expert(x)` over the chosen experts of each token; `x` is in `scratch.normed`.
    #[allow(clippy::too_many_arguments, reason = "one step of the pass, with the pass's own arguments")]
    pub(super) fn moe_ffn(
        &self,
        compute: &Compute,
        scratch: &mut Scratch,
        layer: usize,
        router: &Linear<'_>,
        formats: &ExpertFormats,
        n: usize,
        control: Control<'_>,
    ) {
        let moe = self.hyperparameters.moe.expect("a routed layer has expert counts");
        let n_embd = self.hyperparameters.n_embd;
        let Scratch { hidden, normed, acts, moe: s, .. } = scratch;
        let mut x = Activations::new(&normed[..n * n_embd], n_embd, acts);

        let logits = sized(&mut s.router, n * moe.n_experts);
        compute.linear(router, &mut x, logits);
        s.chosen.resize(n * moe.n_used, 0);
        s.weights.resize(n * moe.n_used, 0.0);
        let choices = s.chosen.chunks_exact_mut(moe.n_used).zip(s.weights.chunks_exact_mut(moe.n_used));
        for (logits, (chosen, weights)) in logits.chunks_exact_mut(moe.n_experts).zip(choices) {
            route(&compute.kernels, &moe, logits, chosen, weights);
        }
        s.group(moe.n_experts);
        if control.prefetch == Prefetch::On {
            self.experts.request(layer, &s.active);
        }
        let tick = control.telemetry.ticks.get();
        let slot_out = sized(&mut s.slot_out, n * moe.n_used * n_embd);
        for &expert in &s.active {
            let slots = &s.slots[s.starts[expert] as usize..s.starts[expert + 1] as usize];
            control.experts.mark_used(layer, expert, tick, slots.len() as u64);
            s.tokens.clear();
            s.tokens.extend(slots.iter().map(|slot| slot / moe.n_used as u32));
            let rows = Rows::Only(&s.tokens);
            let bytes = self.experts.bytes(layer, expert);
            let (m, ff) = (slots.len(), moe.n_ff);
            let matrix = |ty, bytes, n_rows, n_cols| Matrix::new(ty, n_rows, n_cols, bytes);
            let (gate, up) = (sized(&mut s.gate, m * ff), sized(&mut s.up, m * ff));
            let gate_matrix = matrix(formats.gate, bytes.gate, ff, n_embd);
            compute.kernels.matmul(&compute.pool, &gate_matrix, &mut x, rows, gate);
            let up_matrix = matrix(formats.up, bytes.up, ff, n_embd);
            compute.kernels.matmul(&compute.pool, &up_matrix, &mut x, rows, up);
            compute.pool.for_rows(gate, ff, |i, row| compute.kernels.swiglu(row, &up[i * ff..][..ff]));
            let down = sized(&mut s.down, m * n_embd);
            let down_matrix = matrix(formats.down, bytes.down, n_embd, ff);
            let mut activated = Activations::new(gate, ff, &mut s.inner_acts);
            compute.kernels.matmul(&compute.pool, &down_matrix, &mut activated, Rows::All, down);
            for (&slot, row) in slots.iter().zip(down.chunks_exact(n_embd)) {
                slot_out[slot as usize * n_embd..][..n_embd].copy_from_slice(row);
            }
        }
        let (slot_out, weights) = (&*slot_out, &s.weights);
        compute.pool.for_rows(&mut hidden[..n * n_embd], n_embd, |t, row| {
            for (i, x) in row.iter_mut().enumerate() {
                let slots = t * moe.n_used..(t + 1) * moe.n_used;
                *x += slots.map(|slot| weights[slot] * slot_out[slot * n_embd + i]).sum::<f32>();
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(n_experts: usize, n_used: usize) -> MoeParams {
        MoeParams { n_experts, n_used, n_ff: 1, weights_norm: true, weights_scale: 1.0 }
    }

    #[test]
    fn the_best_experts_come_first_and_their_weights_sum_to_one() {
        let mut logits = [0.1, 3.0, -1.0, 3.0, 2.0];
        let (mut chosen, mut weights) = ([9; 3], [0.0; 3]);
        route(&Kernels::detect(), &parameters(5, 3), &mut logits, &mut chosen, &mut weights);
        assert_eq!(chosen, [1, 3, 4]);
        assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert!((weights[0] / weights[2] - std::f32::consts::E).abs() < 1e-4);
    }

    #[test]
    fn broken_logits_still_choose_different_experts() {
        for broken in [[f32::NAN; 5], [f32::INFINITY; 5], [f32::NEG_INFINITY; 5]] {
            let (mut chosen, mut weights) = ([9; 3], [0.0; 3]);
            route(&Kernels::detect(), &parameters(5, 3), &mut broken.clone(), &mut chosen, &mut weights);
            chosen.sort_unstable();
            assert!(chosen.windows(2).all(|w| w[0] < w[1]) && chosen[2] < 5, "{chosen:?}");
        }
    }

    #[test]
    fn grouping_gives_every_slot_to_its_expert_once() {
        let mut s = MoeScratch { chosen: vec![3, 0, 0, 5, 3, 1, 0, 3], ..MoeScratch::default() };
        s.group(6);
        assert_eq!(s.active, [0, 1, 3, 5]);
        let of = |e: usize| &s.slots[s.starts[e] as usize..s.starts[e + 1] as usize];
        assert_eq!(
            (of(0), of(1), of(2), of(3), of(4), of(5)),
            (&[1, 2, 6][..], &[5][..], &[][..], &[0, 4, 7][..], &[][..], &[3][..])
        );
    }
}
