//! The forward pass: token ids in, hidden states out, the KV cache longer by as many positions. One path for every
//! architecture; what differs is data in [`Hyperparameters`] and tensors that are there or not.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::gguf::Gguf;
use crate::kernel::{ActivationScratch, AttentionScratch, KeyBias, sized};
use crate::store::{Outcome, PagingError, StoreError, TraceRecorder, is_expert_tensor};
use crate::telemetry::{ExpertMap, LayerCost, Telemetry, TokenCost, TokenLog};

use super::compute::{Compute, ProductScratch};
use super::kv_cache::{KvCache, KvCacheError, KvParams};
use super::moe::{MAX_EXPERT_ROWS, MAX_GROUP, MoeScratch, RoutedLayer};
use super::plan::MAX_PAGED_BATCH;
use super::weights::{FeedForward, Layer, Linear};
use super::{Hyperparameters, Model};

/// What may stop a pass, and where it reports.
#[derive(Debug, Clone, Copy)]
pub struct Control<'c> {
    /// Looked at before every layer, and before every expert of a batch.
    pub cancel: &'c AtomicBool,
    pub telemetry: &'c Telemetry,
    pub experts: &'c ExpertMap,
    /// What single tokens cost.
    pub tokens: &'c TokenLog,
    pub prefetch: Prefetch,
    /// Where it is recorded which experts are used.
    pub trace: Option<&'c TraceRecorder>,
}

impl Control<'_> {
    pub(super) fn check(&self) -> Result<(), ForwardError> {
        if self.cancel.load(Ordering::Relaxed) { Err(ForwardError::Cancelled) } else { Ok(()) }
    }
}

/// Whether the experts of a layer are guessed, and read on an idle disk, before the router has chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Prefetch {
    #[default]
    On,
    Off,
}

/// Why a pass did not finish. The KV cache is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    #[error("stopped")]
    Cancelled,
    #[error(transparent)]
    KvCache(#[from] KvCacheError),
    #[error(transparent)]
    Paging(#[from] PagingError),
    /// Bytes of the model are gone or not what they were.
    #[error(transparent)]
    File(#[from] StoreError),
    #[error("token {token} is outside the vocabulary of {n_vocab}")]
    Token { token: u32, n_vocab: usize },
}

/// One sequence being computed: its KV cache and the buffers of a pass.
#[derive(Debug)]
pub struct State {
    pub kv: KvCache,
    pub(super) scratch: Scratch,
}

/// Buffers of a pass, grown to the largest batch seen and then kept.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// Tokens of the largest pass that these buffers were used for.
    n_tokens: usize,
    /// Of the tokens of the last pass, how many at its end have been through all of the last layer.
    n_outputs: usize,
    /// `[n, n_embd]`: the residual stream; after a pass, the last layer's output, `[n_outputs, n_embd]`.
    pub hidden: Vec<f32>,
    /// `[n, n_embd]`
    pub normed: Vec<f32>,
    /// Queries `[n, n_heads · head_dim_k]`, of the last layer `[n_outputs, …]`, then keys `[n, n_kv_heads · head_dim_k]`, then values
    /// `[n, n_kv_heads · head_dim_v]`.
    qkv: Vec<f32>,
    /// `[n, n_heads · head_dim_v]`
    attn: Vec<f32>,
    /// `[n, n_rot]`
    angles: Vec<f32>,
    /// `[n, n_heads, n_rot]`: queries against the rotated bias of the keys.
    bias_queries: Vec<f32>,
    /// `[n, n_vocab]`
    logits: Vec<f32>,
    attention: AttentionScratch,
    pub products: ProductScratch,
    pub moe: MoeScratch,
}

/// Rows of logits that are made at a time: 32 rows of a vocabulary of 150k are 19 MB.
pub const LOGIT_ROWS: usize = 32;

/// Buffers that are larger than those of so many tokens are given back when shorter passes follow.
const KEPT_TOKENS: usize = MAX_EXPERT_ROWS;

/// The most bytes that the buffers of a pass take. What attention keeps for each plane it looks at is counted with the
/// planes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScratchBytes {
    /// For each token.
    token: u64,
    /// For each row of the experts that are computed together.
    expert_row: u64,
    /// Such rows of a token.
    n_used: usize,
    /// For the tiles of experts that have few rows each, and for the FFN of a single token.
    fixed: u64,
    /// For each row of logits.
    logit_row: u64,
}

impl ScratchBytes {
    pub(super) fn new(gguf: &Gguf, h: &Hyperparameters) -> ScratchBytes {
        // The header is untrusted, and nothing was allocated by it yet.
        const WIDEST: usize = 1 << 32;
        let product = |a: usize, b: usize| a.saturating_mul(b).min(WIDEST);
        let floats = |parts: &[usize]| {
            let elements = parts.iter().fold(0, |sum: usize, &n| sum.saturating_add(n)) as u64;
            elements.saturating_mul(size_of::<f32>() as u64)
        };
        let formats = |experts: bool| {
            gguf.tensors.iter().filter(move |t| is_expert_tensor(t) == experts && t.shape.len() > 1).map(|t| t.ty)
        };
        let is_routed = formats(true).next().is_some();
        let n_ff = h.n_ff.iter().copied().max().filter(|_| !is_routed).unwrap_or(0).min(WIDEST);
        let (n_q, n_attn) = (product(h.n_heads, h.head_dim_k), product(h.n_heads, h.head_dim_v));
        let n_kv = product(h.n_kv_heads, h.head_dim_k).saturating_add(product(h.n_kv_heads, h.head_dim_v));
        let widest = h.n_embd.max(n_attn).min(WIDEST);
        // Queries once more as attention wants them: in f32 or rotated, in bytes, and those that meet the keys' bias.
        let queries = [n_q, n_q, n_q / 2, product(h.n_heads, h.n_rot), product(h.n_heads, h.n_rot)];
        let residual = [h.n_embd, h.n_embd, n_q, n_kv, n_attn, h.n_rot];
        let mut token = floats(&residual).saturating_add(floats(&queries));
        token = token.saturating_add(ActivationScratch::row_bytes(formats(false).chain(formats(true)), widest));
        token = token.saturating_add(ActivationScratch::row_bytes(formats(false), n_ff));
        let (mut expert_row, mut fixed) = (0, floats(&[product(3, n_ff)]));
        if let Some(moe) = h.moe {
            let routing = [moe.n_experts, product(5, moe.n_used), product(moe.n_used, h.n_embd)];
            token = token.saturating_add(floats(&routing));
            expert_row = ActivationScratch::row_bytes(formats(true), moe.n_ff.min(WIDEST));
            let tiles = |n_cols: usize| ActivationScratch::group_bytes(formats(true), n_cols.min(WIDEST), MAX_GROUP);
            fixed = floats(&[product(3, product(moe.n_used, moe.n_ff))]);
            fixed = fixed.saturating_add(tiles(h.n_embd)).saturating_add(tiles(moe.n_ff));
        }
        let n_used = h.moe.map_or(0, |moe| moe.n_used);
        ScratchBytes { token, expert_row, n_used, fixed, logit_row: floats(&[h.n_vocab]) }
    }

    /// Bytes of a pass of `n` tokens.
    pub fn of(&self, n: usize) -> u64 {
        let expert_rows = n.saturating_mul(self.n_used).min(MAX_EXPERT_ROWS);
        let parts = [(self.token, n), (self.expert_row, expert_rows), (self.logit_row, n.min(LOGIT_ROWS))];
        parts.into_iter().fold(self.fixed, |sum, (bytes, n)| bytes.saturating_mul(n as u64).saturating_add(sum))
    }
}

impl Scratch {
    /// Makes buffers fit for `n` tokens: gives back those of a long prompt when tokens follow one at a time. Returns for
    /// how many tokens there may be buffers in the coming pass.
    fn settle(&mut self, n: usize) -> usize {
        if self.n_tokens > KEPT_TOKENS.max(4 * n) {
            *self = Scratch::default();
        }
        self.n_tokens = self.n_tokens.max(n);
        self.n_tokens
    }
}

impl State {
    /// A fresh sequence.
    pub fn new(model: &Model<'_>, kv: KvParams) -> Result<State, KvCacheError> {
        let n_angles =
            model.weights.layers.iter().any(|l| l.turned_key_bias().is_some()).then(|| model.rope.n_angles());
        Ok(State { kv: KvCache::new(&model.hyperparameters, kv, n_angles)?, scratch: Scratch::default() })
    }
}

impl Model<'_> {
    /// The most tokens that one pass takes after `positions` others.
    pub fn max_batch(&self, positions: usize) -> usize {
        self.plan.max_batch(positions)
    }

    /// Shares memory out anew before a pass of `n` tokens that ends at position `end`: the KV cache and the buffers take
    /// what they need, and experts have the rest.
    fn share_memory(&self, state: &mut State, end: usize, n: usize) -> Result<(), KvCacheError> {
        let n_buffered = state.scratch.settle(n);
        if !self.experts.is_whole() {
            let bytes = self.plan.expert_budget(end, n_buffered);
            // What was set by somebody else in between stays, as long as nothing changes here.
            if self.planned_experts.swap(bytes, Ordering::Relaxed) != bytes {
                self.experts.set_budget(bytes);
            }
        }
        state.kv.reserve(end)
    }

    /// Computes `tokens` (1 to [`Model::max_batch`]) at the positions after those in the cache. Afterwards
    /// [`Model::logits`] gives the logits of the last `n_outputs` of them: of the others the last layer has keys and values
    /// only.
    pub fn forward(
        &self,
        compute: &Compute,
        state: &mut State,
        tokens: &[u32],
        n_outputs: usize,
        control: Control<'_>,
    ) -> Result<(), ForwardError> {
        assert!((1..=MAX_PAGED_BATCH).contains(&tokens.len()), "a pass takes 1 to {MAX_PAGED_BATCH} tokens");
        assert!(n_outputs <= tokens.len(), "{n_outputs} outputs of {} tokens", tokens.len());
        let h = &self.hyperparameters;
        let start = state.kv.len();
        if let Some(&token) = tokens.iter().find(|&&t| t as usize >= h.n_vocab) {
            return Err(ForwardError::Token { token, n_vocab: h.n_vocab });
        }
        self.share_memory(state, start + tokens.len(), tokens.len())?;
        control.telemetry.ticks.add(1);
        if let Some(trace) = control.trace {
            trace.pass(tokens.len());
        }
        let paging = self.experts.paging();
        let (began, stall, read_bytes) = (Instant::now(), paging.stall(), paging.read_bytes());
        if tokens.len() == 1 {
            control.tokens.begin();
        }
        // A pass that fails has none.
        state.scratch.n_outputs = 0;
        let computed = compute.pool.enter(|| {
            self.embed(compute, state, tokens);
            (0..h.n_layers).try_for_each(|i| self.layer(compute, state, i, tokens.len(), n_outputs, control))
        });
        if let Some(trace) = control.trace {
            trace.end_pass(if computed.is_ok() { Outcome::Whole } else { Outcome::Cancelled });
        }
        computed?;
        self.file.check_unchanged()?;
        let (wall, stall) = (began.elapsed(), paging.stall().saturating_sub(stall));
        paging.end_pass(wall, stall);
        if tokens.len() == 1 {
            let counted = !self.experts.is_whole();
            let read_bytes = counted.then(|| paging.read_bytes() - read_bytes);
            control.tokens.end(TokenCost { wall, stall: counted.then_some(stall), read_bytes });
            if control.prefetch == Prefetch::On {
                self.experts.note_token(wall);
            }
        }
        state.scratch.n_outputs = n_outputs;
        state.kv.commit(start + tokens.len());
        Ok(())
    }

    /// How many of the `n` tokens of a pass leave a layer, those at its end: no other layer asks for the last one's.
    fn n_leaving(&self, layer: usize, n: usize, n_outputs: usize) -> usize {
        if layer + 1 == self.hyperparameters.n_layers { n_outputs } else { n }
    }

    fn layer(
        &self,
        compute: &Compute,
        state: &mut State,
        i: usize,
        n: usize,
        n_outputs: usize,
        control: Control<'_>,
    ) -> Result<(), ForwardError> {
        control.check()?;
        control.telemetry.layer.set(i as u64);
        let paging = self.experts.paging();
        let (began, stall, read_bytes) = (Instant::now(), paging.layer_stall(i), paging.read_bytes());
        let layer = &self.weights.layers[i];
        if n == 1 {
            self.guess_experts(compute, &mut state.scratch, i, control);
        }
        if let Some(stream) = &self.stream {
            stream.begin(i);
        }
        let n_leaving = self.n_leaving(i, n, n_outputs);
        self.attention(compute, state, i, layer, n, n_leaving);
        let scratch = &mut state.scratch;
        self.norm_ffn_input(compute, scratch, layer, n_leaving);
        match &layer.ffn {
            _ if n_leaving == 0 => {}
            FeedForward::Dense { gate, up, down } => {
                control.experts.mark_used(i, 0, control.telemetry.ticks.get(), n_leaving as u64);
                let Scratch { hidden, normed, products, .. } = &mut *scratch;
                let n_all = n_leaving * self.hyperparameters.n_embd;
                compute.add_gated([gate, up, down], &normed[..n_all], products, &mut hidden[..n_all]);
            }
            FeedForward::Moe { router, formats } => {
                let next = Some(i + 1).filter(|&next| self.weights.experts.get(next).is_some_and(Option::is_some));
                let next = next.filter(|&next| self.n_leaving(next, n, n_outputs) == n);
                let layer = RoutedLayer { number: i, router, formats, next, is_token_pass: n == 1 };
                self.moe_ffn(compute, scratch, layer, n_leaving, control)?;
            }
        }
        let stall = paging.layer_stall(i).saturating_sub(stall);
        let computed = began.elapsed().saturating_sub(stall);
        paging.add_compute(i, computed);
        // Where every expert fits the kernel's own reads are what there is to wait for, and nobody sees them.
        let counted = !self.experts.is_whole();
        let cost = LayerCost {
            compute: computed,
            stall: counted.then_some(stall),
            read_bytes: counted.then(|| paging.read_bytes() - read_bytes),
        };
        if n == 1 {
            control.tokens.end_layer(i, cost);
        }
        if let Some(trace) = control.trace {
            trace.cost(i, cost);
        }
        if let Some(stream) = &self.stream {
            stream.end(i);
        }
        self.advance_prompt(i, 1.0, n, control);
        Ok(self.file.check_read()?)
    }

    /// Tells the screen how far a pass of a prompt has come: in layer `i`, this share of it.
    pub(super) fn advance_prompt(&self, i: usize, share: f32, n: usize, control: Control<'_>) {
        let done = (i as f32 + share) / self.hyperparameters.n_layers as f32;
        control.telemetry.prompt_in_pass.set((n as f32 * done) as u64);
    }

    /// The logits of `rows` of the outputs of the last pass: `[rows, n_vocab]`.
    ///
    /// # Errors
    /// [`ForwardError::File`] where the weights could not be read.
    ///
    /// # Panics
    /// Where the pass had fewer outputs.
    pub fn logits<'s>(
        &self,
        compute: &Compute,
        state: &'s mut State,
        rows: Range<usize>,
    ) -> Result<&'s [f32], ForwardError> {
        let h = &self.hyperparameters;
        let n = rows.len();
        let Scratch { n_outputs, hidden, normed, logits, products, .. } = &mut state.scratch;
        assert!(rows.end <= *n_outputs, "logits of {rows:?} of {n_outputs} outputs");
        let hidden = &hidden[rows.start * h.n_embd..rows.end * h.n_embd];
        let normed = sized(normed, n * h.n_embd);
        let logits = sized(logits, n * h.n_vocab);
        compute.pool.enter(|| {
            compute.norm(hidden, &self.weights.output_norm, h.norm_eps, normed);
            compute.project([&self.weights.output], normed, products, logits);
        });
        self.file.check_read()?;
        Ok(logits)
    }

    /// Embeddings of the tokens into the residual stream, and the angles of their positions.
    fn embed(&self, compute: &Compute, state: &mut State, tokens: &[u32]) {
        let h = &self.hyperparameters;
        let start = state.kv.len();
        let embd = &self.weights.token_embd;
        compute.pool.for_rows(sized(&mut state.scratch.hidden, tokens.len() * h.n_embd), h.n_embd, |i, row| {
            embd.ty().dequantize(embd.row(tokens[i] as usize), row);
        });
        let n_angles = self.rope.n_angles();
        let angles = sized(&mut state.scratch.angles, tokens.len() * n_angles);
        for (i, row) in angles.chunks_exact_mut(n_angles).enumerate() {
            self.rope.angles(start + i, row);
        }
        if state.kv.is_unbiased() {
            state.kv.store_angles(&compute.kernels, angles);
        }
    }

    /// `hidden += attention(norm(hidden))` for the last `n_leaving` of `n` tokens, which move to the front of `hidden`; keys and
    /// values are kept of all.
    fn attention(&self, compute: &Compute, state: &mut State, i: usize, layer: &Layer<'_>, n: usize, n_leaving: usize) {
        let h = &self.hyperparameters;
        let State { kv, scratch } = state;
        let Scratch { hidden, normed, qkv, attn, angles, bias_queries, attention, products, .. } = scratch;
        let n_staying = n - n_leaving;
        let normed = sized(normed, n * h.n_embd);
        let (n_q, n_k, n_v) = (h.n_heads * h.head_dim_k, h.n_kv_heads * h.head_dim_k, h.n_kv_heads * h.head_dim_v);
        let qkv = sized(qkv, n_leaving * n_q + n * (n_k + n_v));

        compute.norm(&hidden[..n * h.n_embd], &layer.attn_norm, h.norm_eps, normed);
        // Keys that are quantized leave their bias to the scores.
        let key_bias = layer.turned_key_bias().filter(|_| kv.is_unbiased());
        let unbiased = key_bias.map(|_| Linear { weight: layer.k.weight, bias: None });
        let k_proj = unbiased.as_ref().unwrap_or(&layer.k);
        if n_staying == 0 {
            compute.project([&layer.q, k_proj, &layer.v], normed, products, qkv);
        } else {
            let (q, kv_rows) = qkv.split_at_mut(n_leaving * n_q);
            compute.project([k_proj, &layer.v], normed, products, kv_rows);
            if n_leaving > 0 {
                compute.project([&layer.q], &normed[n_staying * h.n_embd..], products, q);
                hidden.copy_within(n_staying * h.n_embd..n * h.n_embd, 0);
            }
        }
        let (q, kv_rows) = qkv.split_at_mut(n_leaving * n_q);
        let (k, v) = kv_rows.split_at_mut(n * n_k);
        let n_angles = self.rope.n_angles();
        let (of_all, of_leaving) = (&angles[..], &angles[n_staying * n_angles..]);
        let turn = |rows: &mut [f32], n_row: usize, norm: Option<&Vec<f32>>, angles: &[f32]| {
            compute.pool.for_rows(rows, n_row, |t, row| {
                for head in row.chunks_exact_mut(h.head_dim_k) {
                    if let Some(norm) = norm {
                        compute.kernels.rms_norm_in_place(head, norm, h.norm_eps);
                    }
                    self.rope.rotate(&compute.kernels, head, &angles[t * n_angles..][..n_angles]);
                }
            });
        };
        turn(k, n_k, layer.k_norm.as_ref(), of_all);
        kv.store(compute, i, k, v);
        if n_leaving == 0 {
            return;
        }
        turn(q, n_q, layer.q_norm.as_ref(), of_leaving);
        let key_bias = key_bias.map(|bias| {
            let (dim, group) = (h.head_dim_k, h.n_heads / h.n_kv_heads);
            let queries = sized(bias_queries, n_leaving * h.n_heads * n_angles);
            compute.pool.for_rows(queries, h.n_heads * n_angles, |t, row| {
                for (i, out) in row.chunks_exact_mut(n_angles).enumerate() {
                    self.rope.against(&q[t * n_q + i * dim..][..dim], &bias[i / group * dim..][..dim], out);
                }
            });
            KeyBias { dim: n_angles, queries }
        });
        let attn = sized(attn, n_leaving * h.n_heads * h.head_dim_v);
        let (kv, shape) = (&*kv, h.attention_shape(kv.format()));
        let planes = |head, plane| kv.planes(i, head, plane);
        let start = kv.len() + n_staying;
        compute.kernels.attend(&compute.pool, &shape, start, q, key_bias, planes, attention, attn);
        compute.add_projected(&layer.attn_out, attn, products, &mut hidden[..n_leaving * h.n_embd]);
    }

    fn norm_ffn_input(&self, compute: &Compute, scratch: &mut Scratch, layer: &Layer<'_>, n: usize) {
        let h = &self.hyperparameters;
        let normed = sized(&mut scratch.normed, n * h.n_embd);
        compute.norm(&scratch.hidden[..n * h.n_embd], &layer.ffn_norm, h.norm_eps, normed);
    }
}
