//! Mixture of Experts: a router picks a few experts a token (Shazeer et al. 2017; Mixtral, Jiang et al. 2024). Tokens are
//! grouped by expert, each expert's weights are used for all of its tokens at once, and the results are summed in the
//! router's order, so that neither batching nor the order in which experts arrive changes a bit of the output.

use crate::kernel::{ActivationScratch, Activations, Kernels, Matrix, RowScratch, Rows, TokenRows};

use super::Model;
use super::compute::{Compute, sized, unbiased};
use super::forward::{Control, Prefetch, Scratch};
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
    /// `[tokens of an expert, n_ff]`, or `[n_used, n_ff]` where there is one token.
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

/// The matrices of one expert.
struct ExpertMatrices<'e> {
    /// `[n_ff, n_embd]`
    gate: Matrix<'e>,
    /// `[n_ff, n_embd]`
    up: Matrix<'e>,
    /// `[n_embd, n_ff]`
    down: Matrix<'e>,
}

/// A layer whose FFN is routed.
#[derive(Debug, Clone, Copy)]
pub(super) struct RoutedLayer<'l> {
    pub number: usize,
    /// `[n_experts, n_embd]`
    pub router: &'l Linear<'l>,
    pub formats: &'l ExpertFormats,
}

impl Model<'_> {
    /// `hidden += Σ weight · expert(x)` over the chosen experts of each token; `x` is in `scratch.normed`.
    pub(super) fn moe_ffn(
        &self,
        compute: &Compute,
        scratch: &mut Scratch,
        layer: RoutedLayer<'_>,
        n: usize,
        control: Control<'_>,
    ) {
        let moe = self.hyperparameters.moe.expect("a routed layer has expert counts");
        let n_embd = self.hyperparameters.n_embd;
        let Scratch { hidden, normed, products, moe: s, .. } = scratch;
        let (hidden, normed) = (&mut hidden[..n * n_embd], &normed[..n * n_embd]);

        let logits = sized(&mut s.router, n * moe.n_experts);
        compute.project([layer.router], normed, products, logits);
        s.chosen.resize(n * moe.n_used, 0);
        s.weights.resize(n * moe.n_used, 0.0);
        let choices = s.chosen.chunks_exact_mut(moe.n_used).zip(s.weights.chunks_exact_mut(moe.n_used));
        for (logits, (chosen, weights)) in logits.chunks_exact_mut(moe.n_experts).zip(choices) {
            route(&compute.kernels, &moe, logits, chosen, weights);
        }
        s.group(moe.n_experts);
        if control.prefetch == Prefetch::On {
            self.experts.request(layer.number, &s.active);
        }
        let tick = control.telemetry.ticks.get();
        let tokens_of = |expert: usize| (s.starts[expert + 1] - s.starts[expert]) as usize;
        for &expert in &s.active {
            control.experts.mark_used(layer.number, expert, tick, tokens_of(expert) as u64);
        }
        if let Some(trace) = control.trace {
            trace.layer(layer.number, s.active.iter().map(|&expert| (expert, tokens_of(expert))));
        }
        if n == 1 {
            self.experts_of_a_token(compute, s, layer, normed, hidden, &mut products.token);
        } else {
            self.experts_of_a_batch(compute, s, layer, normed, hidden, &mut products.batch);
        }
    }

    fn expert_matrices(&self, layer: RoutedLayer<'_>, expert: usize) -> ExpertMatrices<'_> {
        let (n_embd, n_ff) = (self.hyperparameters.n_embd, self.hyperparameters.moe.map_or(0, |moe| moe.n_ff));
        let (bytes, formats) = (self.experts.bytes(layer.number, expert), layer.formats);
        ExpertMatrices {
            gate: Matrix::new(formats.gate, n_ff, n_embd, bytes.gate),
            up: Matrix::new(formats.up, n_ff, n_embd, bytes.up),
            down: Matrix::new(formats.down, n_embd, n_ff, bytes.down),
        }
    }

    /// One token through its experts, all of them in two hand-overs.
    fn experts_of_a_token(
        &self,
        compute: &Compute,
        s: &mut MoeScratch,
        layer: RoutedLayer<'_>,
        x: &[f32],
        hidden: &mut [f32],
        rows: &mut RowScratch,
    ) {
        let MoeScratch { chosen, weights, gate: gated, .. } = s;
        let matrices = |slot: usize| self.expert_matrices(layer, chosen[slot] as usize);
        let n_ff = matrices(0).gate.n_rows();
        let gated = sized(gated, chosen.len() * n_ff);
        let gate_and_up = |slot| {
            let ExpertMatrices { gate, up, .. } = matrices(slot);
            [unbiased(gate), unbiased(up)]
        };
        let (kernels, pool) = (&compute.kernels, &compute.pool);
        kernels.project_gated(pool, &mut TokenRows::new(x, x.len(), rows), chosen.len(), gate_and_up, gated);
        let down = |slot| unbiased(matrices(slot).down);
        kernels.add_projected(pool, &mut TokenRows::new(gated, n_ff, rows), weights, down, hidden);
    }

    /// A batch of tokens, `[n, n_embd]`, through their experts, one expert after the other.
    fn experts_of_a_batch(
        &self,
        compute: &Compute,
        s: &mut MoeScratch,
        layer: RoutedLayer<'_>,
        x: &[f32],
        hidden: &mut [f32],
        acts: &mut ActivationScratch,
    ) {
        let n_embd = self.hyperparameters.n_embd;
        let n_used = s.chosen.len() / (x.len() / n_embd);
        let (kernels, pool) = (&compute.kernels, &compute.pool);
        let mut x = Activations::new(x, n_embd, acts);
        let slot_out = sized(&mut s.slot_out, s.chosen.len() * n_embd);
        for &expert in &s.active {
            let slots = &s.slots[s.starts[expert] as usize..s.starts[expert + 1] as usize];
            s.tokens.clear();
            s.tokens.extend(slots.iter().map(|slot| slot / n_used as u32));
            let rows = Rows::Only(&s.tokens);
            let ExpertMatrices { gate: gate_matrix, up: up_matrix, down: down_matrix } =
                self.expert_matrices(layer, expert);
            let (m, n_ff) = (slots.len(), gate_matrix.n_rows());
            let (gate, up) = (sized(&mut s.gate, m * n_ff), sized(&mut s.up, m * n_ff));
            kernels.matmul(pool, &gate_matrix, &mut x, rows, gate);
            kernels.matmul(pool, &up_matrix, &mut x, rows, up);
            pool.for_rows(gate, n_ff, |i, row| kernels.swiglu(row, &up[i * n_ff..][..n_ff]));
            let down = sized(&mut s.down, m * n_embd);
            let mut activated = Activations::new(gate, n_ff, &mut s.inner_acts);
            kernels.matmul(pool, &down_matrix, &mut activated, Rows::All, down);
            for (&slot, row) in slots.iter().zip(down.chunks_exact(n_embd)) {
                slot_out[slot as usize * n_embd..][..n_embd].copy_from_slice(row);
            }
        }
        let (slot_out, weights) = (&*slot_out, &s.weights);
        pool.for_rows(hidden, n_embd, |t, row| {
            for (i, x) in row.iter_mut().enumerate() {
                let slots = t * n_used..(t + 1) * n_used;
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
