//! Mixture of Experts: a router picks a few experts a token (Shazeer et al. 2017; Mixtral, Jiang et al. 2024). Tokens are
//! grouped by expert, each expert's weights are used for all of its tokens at once, and the results are summed in the
//! router's order, so that neither batching nor the order in which experts arrive changes a bit of the output.

use crate::kernel::{
    ActivationScratch, Activations, Grouped, Kernels, MAX_GATED_ROWS, Matrix, Projection, RowScratch, Rows, TokenRows,
    sized,
};

use super::Model;
use super::compute::{Compute, activation_form, unbiased};
use super::forward::{Control, ForwardError, Prefetch, Scratch};
use super::hyperparameters::MoeParams;
use super::weights::{ExpertFormats, FeedForward, Layer, Linear};
use crate::store::{ExpertBytes, Place, Routed};
use crate::telemetry::Choice;

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
    /// What is asked of the store: the experts with at least one token, in the router's order where there is one token.
    routed: Vec<Routed>,
    /// `[n_experts]`: how many of the last tokens take each expert, and how many of all.
    uses: Vec<(u32, u32)>,
    /// What other layers are likely to take.
    forecast: Forecast,
    /// The experts that have just come.
    arrived: Vec<usize>,
    /// The experts of one token in the order in which they came.
    computed: Vec<usize>,
    /// The experts that are computed together.
    group: Group,
    /// `[n_used, n_ff]`, of one token.
    gated: Vec<f32>,
    /// `[n, n_used, n_embd]`; of one token's experts in the order in which they came.
    slot_out: Vec<f32>,
    /// The quantized inputs of the down matrices, apart from those of gate and up, which all experts share.
    inner_acts: ActivationScratch,
    /// The same of one token.
    inner_rows: RowScratch,
}

/// Tokens that an expert is computed for at a time, so that its buffers stay small in a pass of thousands.
pub(super) const MAX_EXPERT_ROWS: usize = MAX_GATED_ROWS;

/// Experts with few tokens that are computed together, so that threads meet less often; their rows are at most
/// [`MAX_EXPERT_ROWS`] too.
pub(super) const MAX_GROUP: usize = 16;

/// Experts that are computed together, or a part of the tokens of one.
#[derive(Debug, Default)]
struct Group {
    experts: Vec<usize>,
    /// The slots of these experts, one expert after the other.
    slots: Vec<u32>,
    /// The tokens of the slots.
    tokens: Vec<u32>,
    /// Where the slots of each expert begin, and where the last one's end.
    starts: Vec<usize>,
}

impl Group {
    fn clear(&mut self) {
        self.experts.clear();
        self.slots.clear();
        self.tokens.clear();
        self.starts.clear();
        self.starts.push(0);
    }

    fn has_room_for(&self, n: usize) -> bool {
        self.experts.len() < MAX_GROUP && self.slots.len() + n <= MAX_EXPERT_ROWS
    }

    fn push(&mut self, expert: usize, slots: &[u32], n_used: usize) {
        self.experts.push(expert);
        self.slots.extend_from_slice(slots);
        self.tokens.extend(slots.iter().map(|slot| slot / n_used as u32));
        self.starts.push(self.slots.len());
    }
}

/// Buffers of a prediction.
#[derive(Debug, Default)]
struct Forecast {
    /// `[n_embd]`
    input: Vec<f32>,
    /// `[n_experts]`
    router: Vec<f32>,
    /// `[n_experts]`: the experts, the likeliest first.
    likely: Vec<usize>,
}

/// How many tokens at a prompt's end say what generation will need.
const TAIL: usize = 256;

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
    /// Groups the token slots by expert (a counting sort), in `slots` and `starts`.
    fn group(&mut self, n_experts: usize) {
        self.starts.clear();
        self.starts.resize(n_experts + 1, 0);
        for &expert in &self.chosen {
            self.starts[expert as usize + 1] += 1;
        }
        for expert in 0..n_experts {
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

    /// Lists the experts of a batch in the order of the file. The `n_kept` of them that the last tokens used the most
    /// stay in memory if they can.
    fn list_batch(&mut self, moe: &MoeParams, n_kept: usize) {
        self.uses.clear();
        self.uses.resize(moe.n_experts, (0, 0));
        let tail = self.chosen.len().saturating_sub(TAIL * moe.n_used);
        for (slot, &expert) in self.chosen.iter().enumerate() {
            let (of_tail, of_all) = &mut self.uses[expert as usize];
            *of_tail += u32::from(slot >= tail);
            *of_all += 1;
        }
        let used = self.uses.iter().enumerate().filter(|(_, uses)| uses.1 > 0);
        self.routed.clear();
        self.routed.extend(used.map(|(expert, uses)| Routed { expert, n_tokens: uses.1 as usize, place: Place::Cold }));
        let uses = &self.uses;
        self.routed.sort_unstable_by_key(|r| (std::cmp::Reverse(uses[r.expert]), r.expert));
        self.routed.iter_mut().take(n_kept).for_each(|r| r.place = Place::Hot);
        self.routed.sort_unstable_by_key(|r| r.expert);
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

impl<'e> ExpertMatrices<'e> {
    fn gate_and_up(&self) -> [Projection<'e>; 2] {
        [unbiased(self.gate), unbiased(self.up)]
    }
}

/// A layer whose FFN is routed.
#[derive(Debug, Clone, Copy)]
pub(super) struct RoutedLayer<'l> {
    pub number: usize,
    /// `[n_experts, n_embd]`
    pub router: &'l Linear<'l>,
    pub formats: &'l ExpertFormats,
    /// The number of the next layer, where it is routed and as many tokens will ask for its experts.
    pub next: Option<usize>,
    /// Whether the pass has a single token, whose choices are recorded. The last layer may have one of a prompt's.
    pub is_token_pass: bool,
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
    ) -> Result<(), ForwardError> {
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
        if n == 1 {
            s.routed.clear();
            s.routed.extend(s.chosen.iter().map(|&e| Routed { expert: e as usize, n_tokens: 1, place: Place::Hot }));
        } else {
            s.group(moe.n_experts);
            let n_routed = s.starts.windows(2).filter(|w| w[0] < w[1]).count();
            let n_kept = (self.experts.share_to_keep(layer.number, n_routed) * moe.n_experts as f64) as usize;
            s.list_batch(&moe, n_kept);
        }
        let tick = control.telemetry.ticks.get();
        for &Routed { expert, n_tokens, .. } in &s.routed {
            control.experts.mark_used(layer.number, expert, tick, n_tokens as u64);
        }
        if let Some(trace) = control.trace {
            if layer.is_token_pass {
                let mut demanded: Vec<_> = s.routed.iter().map(|r| r.expert).zip(s.weights.iter().copied()).collect();
                demanded.sort_unstable_by_key(|&(expert, _)| expert);
                trace.token_layer(layer.number, demanded.into_iter());
            } else {
                let mut demanded: Vec<_> = s.routed.iter().map(|r| (r.expert, r.n_tokens)).collect();
                demanded.sort_unstable();
                trace.layer(layer.number, demanded.into_iter());
            }
        }
        if n == 1 {
            self.experts_of_a_token(compute, s, layer, normed, hidden, &mut products.token, control)
        } else {
            self.experts_of_a_batch(compute, s, layer, normed, hidden, &mut products.batch, control)
        }
    }

    /// Predicts the experts of a layer from what the residual stream of one token holds before the layer: its router's
    /// choice if nothing were added any more. 0.7 of them are right from the router of the layer before on, 0.8 from the
    /// layer's own beginning (`tests/bench/EXPERIMENTS.md`). `None` where the layer is dense.
    fn foresee<'f>(
        &self,
        compute: &Compute,
        layer: usize,
        hidden: &[f32],
        forecast: &'f mut Forecast,
        rows: &mut RowScratch,
    ) -> Option<&'f [usize]> {
        let h = &self.hyperparameters;
        let moe = h.moe?;
        let Layer { ffn: FeedForward::Moe { router, .. }, ffn_norm, .. } = self.weights.layers.get(layer)? else {
            return None;
        };
        let Forecast { input, router: logits, likely } = forecast;
        let (input, logits) = (sized(input, h.n_embd), sized(logits, moe.n_experts));
        compute.kernels.rms_norm(hidden, ffn_norm, h.norm_eps, input);
        let mut input = TokenRows::new(input, h.n_embd, rows);
        compute.kernels.project(&compute.pool, &mut input, [router.projection()], logits);
        likely.clear();
        likely.extend(0..moe.n_experts);
        let n = moe.n_used.min(moe.n_experts);
        let better = |&a: &usize, &b: &usize| logits[b].total_cmp(&logits[a]).then(a.cmp(&b));
        if n < likely.len() {
            likely.select_nth_unstable_by(n, better);
        }
        likely[..n].sort_unstable_by(better);
        Some(&likely[..n])
    }

    /// Has experts of a layer that is about to begin read ahead, for one token.
    pub(super) fn guess_experts(&self, compute: &Compute, scratch: &mut Scratch, layer: usize, control: Control<'_>) {
        if control.prefetch == Prefetch::Off || !self.experts.wants_forecast() {
            return;
        }
        let Scratch { hidden, products, moe, .. } = scratch;
        let hidden = &hidden[..self.hyperparameters.n_embd];
        if let Some(likely) = self.foresee(compute, layer, hidden, &mut moe.forecast, &mut products.token) {
            self.experts.guess(layer, likely);
            if let Some(trace) = control.trace {
                trace.predicted(layer, likely);
            }
        }
    }

    fn expert_matrices<'e>(&self, formats: ExpertFormats, bytes: ExpertBytes<'e>) -> ExpertMatrices<'e> {
        let (n_embd, n_ff) = (self.hyperparameters.n_embd, self.hyperparameters.moe.map_or(0, |moe| moe.n_ff));
        ExpertMatrices {
            gate: Matrix::new(formats.gate, n_ff, n_embd, bytes.gate),
            up: Matrix::new(formats.up, n_ff, n_embd, bytes.up),
            down: Matrix::new(formats.down, n_embd, n_ff, bytes.down),
        }
    }

    /// One token through its experts: all of them at once where they are in memory, else those that are first
    /// and the others as they come. Both give the same bits.
    #[expect(clippy::too_many_arguments, reason = "buffers are borrowed apart")]
    fn experts_of_a_token(
        &self,
        compute: &Compute,
        s: &mut MoeScratch,
        layer: RoutedLayer<'_>,
        x: &[f32],
        hidden: &mut [f32],
        rows: &mut RowScratch,
        control: Control<'_>,
    ) -> Result<(), ForwardError> {
        let MoeScratch { routed, chosen, weights, gated, arrived, computed, slot_out, inner_rows, forecast, .. } = s;
        let (kernels, pool) = (&compute.kernels, &compute.pool);
        let (n_embd, n_ff) = (x.len(), self.hyperparameters.moe.map_or(0, |moe| moe.n_ff));
        let gated = sized(gated, chosen.len() * n_ff);
        let mut wanted = self.experts.request(layer.number, 1, routed)?;
        let choices = chosen.iter().zip(&*weights).map(|(&expert, &weight)| Choice {
            expert: expert as usize,
            weight: Some(weight),
            found: wanted.found(expert as usize),
        });
        if layer.is_token_pass {
            control.tokens.choose(layer.number, choices);
        }
        if let Some(next) = layer.next.filter(|_| control.prefetch == Prefetch::On && wanted.wants_forecast())
            && let Some(likely) = self.foresee(compute, next, hidden, forecast, rows)
        {
            wanted.guess(next, likely);
        }
        let mut x = TokenRows::new(x, n_embd, rows);
        wanted.take(arrived)?;
        let all_are_there = arrived.len() == chosen.len();
        if all_are_there {
            let taken = wanted.taken();
            let matrices = |slot: usize| self.expert_matrices(*layer.formats, taken.bytes(chosen[slot] as usize));
            let gate_and_up = |slot: usize| matrices(slot).gate_and_up();
            kernels.project_gated(pool, &mut x, chosen.len(), gate_and_up, gated);
            let down = |slot| unbiased(matrices(slot).down);
            kernels.add_projected(pool, &mut TokenRows::new(gated, n_ff, inner_rows), weights, down, hidden);
            return Ok(());
        }
        let slot_out = sized(slot_out, chosen.len() * n_embd);
        computed.clear();
        while !arrived.is_empty() {
            control.check()?;
            let taken = wanted.taken();
            let matrices = |slot: usize| self.expert_matrices(*layer.formats, taken.bytes(arrived[slot]));
            let gate_and_up = |slot: usize| matrices(slot).gate_and_up();
            let gated = &mut gated[..arrived.len() * n_ff];
            kernels.project_gated(pool, &mut x, arrived.len(), gate_and_up, gated);
            let mut inner = TokenRows::new(gated, n_ff, inner_rows);
            let out = &mut slot_out[computed.len() * n_embd..][..arrived.len() * n_embd];
            kernels.project_slots(pool, &mut inner, arrived.len(), |slot| unbiased(matrices(slot).down), out);
            computed.extend_from_slice(arrived);
            arrived.iter().try_for_each(|&expert| wanted.release(expert))?;
            wanted.take(arrived)?;
        }
        let row = |slot: usize| {
            let at = computed.iter().position(|&expert| expert == chosen[slot] as usize);
            &slot_out[at.expect("every chosen expert was computed") * n_embd..][..n_embd]
        };
        kernels.add_weighted(weights, row, hidden);
        Ok(())
    }

    /// A batch of tokens, `[n, n_embd]`, through their experts, in groups as they come.
    #[expect(clippy::too_many_arguments, reason = "buffers are borrowed apart")]
    fn experts_of_a_batch(
        &self,
        compute: &Compute,
        s: &mut MoeScratch,
        layer: RoutedLayer<'_>,
        x: &[f32],
        hidden: &mut [f32],
        acts: &mut ActivationScratch,
        control: Control<'_>,
    ) -> Result<(), ForwardError> {
        let n_embd = self.hyperparameters.n_embd;
        let n_used = s.chosen.len() / (x.len() / n_embd);
        let (kernels, pool) = (&compute.kernels, &compute.pool);
        let mut x = Activations::new(x, n_embd, acts);
        let MoeScratch { routed, slots, starts, group, arrived, slot_out, inner_acts, .. } = s;
        let inner_form = activation_form(layer.formats.down);
        let slot_out = sized(slot_out, s.chosen.len() * n_embd);
        let mut wanted = self.experts.request(layer.number, x.n_rows(), routed)?;
        if let Some(next) = layer.next.filter(|_| self.experts.is_sweep(layer.number, routed.len())) {
            wanted.read_ahead(next);
        }
        wanted.take(arrived)?;
        let mut n_done = 0;
        while !arrived.is_empty() {
            let slots_of = |expert: usize| &slots[starts[expert] as usize..starts[expert + 1] as usize];
            let parts = |&expert: &usize| slots_of(expert).chunks(MAX_EXPERT_ROWS).map(move |part| (expert, part));
            let mut parts = arrived.iter().flat_map(parts).peekable();
            while parts.peek().is_some() {
                control.check()?;
                group.clear();
                while let Some((expert, slots)) = parts.next_if(|(_, slots)| group.has_room_for(slots.len())) {
                    group.push(expert, slots, n_used);
                }
                let Group { experts, slots, tokens, starts } = &*group;
                let taken = wanted.taken();
                let matrices = |i: usize| self.expert_matrices(*layer.formats, taken.bytes(experts[i]));
                let gate_and_up = |i: usize| matrices(i).gate_and_up();
                let rows = Grouped { rows: Rows::Only(tokens), starts };
                let mut activated = kernels.gated_groups(pool, gate_and_up, &mut x, rows, inner_form, inner_acts);
                let (rows, places) = (Grouped { rows: Rows::All, starts }, Rows::Only(slots));
                kernels.matmul_groups(pool, |i| matrices(i).down, &mut activated, rows, slot_out, places);
                let unfinished = parts.peek().map(|&(expert, _)| expert);
                for (i, &expert) in experts.iter().enumerate() {
                    if Some(expert) != unfinished && experts.get(i + 1) != Some(&expert) {
                        wanted.release(expert)?;
                        n_done += 1;
                    }
                }
                self.advance_prompt(layer.number, n_done as f32 / routed.len() as f32, x.n_rows(), control);
            }
            wanted.take(arrived)?;
        }
        let (slot_out, weights) = (&*slot_out, &s.weights);
        pool.for_rows(hidden, n_embd, |t, row| {
            let out_of = |slot: usize| &slot_out[(t * n_used + slot) * n_embd..][..n_embd];
            kernels.add_weighted(&weights[t * n_used..][..n_used], out_of, row);
        });
        Ok(())
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
        let of = |e: usize| &s.slots[s.starts[e] as usize..s.starts[e + 1] as usize];
        assert_eq!(
            (of(0), of(1), of(2), of(3), of(4), of(5)),
            (&[1, 2, 6][..], &[5][..], &[][..], &[0, 4, 7][..], &[][..], &[3][..])
        );
    }

    #[test]
    fn what_the_last_tokens_used_most_is_kept() {
        // Experts 0 and 1 early and often, 2 and 3 at the end, 4 never.
        let chosen = [[0, 1].repeat(2 * TAIL), [2, 3].repeat(TAIL - 1), vec![2, 0]].concat();
        let mut s = MoeScratch { chosen, ..MoeScratch::default() };
        s.list_batch(&parameters(5, 2), 2);
        let routed = |expert, n_tokens, place| Routed { expert, n_tokens, place };
        let expected = [
            routed(0, 2 * TAIL + 1, Place::Cold),
            routed(1, 2 * TAIL, Place::Cold),
            routed(2, TAIL, Place::Hot),
            routed(3, TAIL - 1, Place::Hot),
        ];
        assert_eq!(s.routed, expected);
    }
}
