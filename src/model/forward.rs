//! The forward pass: token ids in, hidden states out, the KV cache longer by as many positions. One path for every
//! architecture; what differs is data in [`Hyperparameters`] and tensors that are there or not.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::kernel::AttentionScratch;
use crate::store::FaultError;
use crate::telemetry::{ExpertMap, Telemetry};

use super::compute::{Compute, ProductScratch, sized};
use super::kv_cache::{KvCache, KvCacheError, KvParams};
use super::moe::{MoeScratch, RoutedLayer};
use super::plan::MAX_BATCH;
use super::weights::{FeedForward, Layer, Linear};
use super::{Hyperparameters, Model};

/// What may stop a pass, and where it reports.
#[derive(Debug, Clone, Copy)]
pub struct Control<'c> {
    /// Looked at before every layer.
    pub cancel: &'c AtomicBool,
    pub telemetry: &'c Telemetry,
    pub experts: &'c ExpertMap,
    pub prefetch: Prefetch,
}

/// Whether experts are asked for as soon as the router has chosen, or read where they are first touched.
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
    Fault(#[from] FaultError),
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
    /// `[n, n_embd]`: the residual stream; after a pass, the last layer's output.
    pub hidden: Vec<f32>,
    /// `[n, n_embd]`
    pub normed: Vec<f32>,
    /// Queries `[n, n_heads · head_dim_k]`, then keys `[n, n_kv_heads · head_dim_k]`, then values
    /// `[n, n_kv_heads · head_dim_v]`.
    qkv: Vec<f32>,
    /// `[n, n_heads · head_dim_v]`
    attn: Vec<f32>,
    /// `[n, n_rot]`
    angles: Vec<f32>,
    /// `[n, n_ff]`
    gate: Vec<f32>,
    /// `[n, n_vocab]`
    logits: Vec<f32>,
    attention: AttentionScratch,
    pub products: ProductScratch,
    pub moe: MoeScratch,
}

/// Rows of logits that are made at a time: 32 rows of a vocabulary of 150k are 19 MB.
pub const LOGIT_ROWS: usize = 32;

impl Scratch {
    /// The most bytes that the buffers of a pass of `n` tokens take, logits included; what attention keeps for each plane
    /// it looks at is counted with the planes.
    pub(super) fn bound(h: &Hyperparameters, n: usize) -> u64 {
        // Quantized in every form, and laid out in tiles: Q8_K, Q8_0 and Q8_1 take 3.4 bytes an element, f32 and f16 six,
        // tiles of 256 and of 32 three.
        const ACTIVATION_BYTES: usize = 13;
        const FLOAT: usize = size_of::<f32>();
        let (n_q, n_v) = (h.n_heads * h.head_dim_k, h.n_heads * h.head_dim_v);
        let n_kv = h.n_kv_heads * (h.head_dim_k + h.head_dim_v);
        let n_ff = h.n_ff.iter().copied().max().unwrap_or(0);
        let widest = h.n_embd.max(n_v).max(n_ff);
        let moe = h.moe.map_or(0, |moe| {
            let routing = moe.n_experts + 4 * moe.n_used;
            FLOAT * (routing + 2 * moe.n_ff + h.n_embd + moe.n_used * h.n_embd) + ACTIVATION_BYTES * moe.n_ff
        });
        // The queries once more as attention wants them.
        let floats = 2 * h.n_embd + 2 * n_q + n_kv + n_v + h.n_rot + n_ff + widest;
        let token = (FLOAT * floats + ACTIVATION_BYTES * widest + moe) as u64;
        let logits = (FLOAT * n.min(LOGIT_ROWS) * h.n_vocab) as u64;
        token.saturating_mul(n as u64).saturating_add(logits)
    }
}

impl State {
    /// A fresh sequence.
    pub fn new(h: &Hyperparameters, kv: KvParams) -> Result<State, KvCacheError> {
        Ok(State { kv: KvCache::new(h, kv)?, scratch: Scratch::default() })
    }
}

impl Model<'_> {
    /// Computes `tokens` (1 to [`MAX_BATCH`]) at the positions after those in the cache. Afterwards [`Model::logits`]
    /// gives the logits of any of these positions.
    pub fn forward(
        &self,
        compute: &Compute,
        state: &mut State,
        tokens: &[u32],
        control: Control<'_>,
    ) -> Result<(), ForwardError> {
        assert!((1..=MAX_BATCH).contains(&tokens.len()), "a pass takes 1 to {MAX_BATCH} tokens");
        let h = &self.hyperparameters;
        let start = state.kv.len();
        if let Some(&token) = tokens.iter().find(|&&t| t as usize >= h.n_vocab) {
            return Err(ForwardError::Token { token, n_vocab: h.n_vocab });
        }
        self.file.check_unchanged()?;
        state.kv.reserve(start + tokens.len())?;
        control.telemetry.ticks.add(1);
        compute.pool.enter(|| {
            self.embed(compute, state, tokens);
            for (i, layer) in self.weights.layers.iter().enumerate() {
                if control.cancel.load(Ordering::Relaxed) {
                    return Err(ForwardError::Cancelled);
                }
                control.telemetry.layer.set(i as u64);
                self.attention(compute, state, i, layer, tokens.len());
                match &layer.ffn {
                    FeedForward::Dense { gate, up, down } => {
                        control.experts.mark_used(i, 0, control.telemetry.ticks.get(), tokens.len() as u64);
                        let scratch = &mut state.scratch;
                        self.norm_ffn_input(compute, scratch, layer, tokens.len());
                        self.dense_ffn(compute, scratch, [gate, up, down], tokens.len());
                    }
                    FeedForward::Moe { router, formats } => {
                        self.norm_ffn_input(compute, &mut state.scratch, layer, tokens.len());
                        let layer = RoutedLayer { number: i, router, formats };
                        self.moe_ffn(compute, &mut state.scratch, layer, tokens.len(), control);
                    }
                }
                self.file.check_reads()?;
            }
            Ok(())
        })?;
        state.kv.commit(start + tokens.len());
        Ok(())
    }

    /// The logits of `rows` of the last pass: `[rows, n_vocab]`.
    pub fn logits<'s>(
        &self,
        compute: &Compute,
        state: &'s mut State,
        rows: Range<usize>,
    ) -> Result<&'s [f32], ForwardError> {
        let h = &self.hyperparameters;
        let n = rows.len();
        let Scratch { hidden, normed, logits, products, .. } = &mut state.scratch;
        let hidden = &hidden[rows.start * h.n_embd..rows.end * h.n_embd];
        let normed = sized(normed, n * h.n_embd);
        let logits = sized(logits, n * h.n_vocab);
        compute.pool.enter(|| {
            compute.norm(hidden, &self.weights.output_norm, h.norm_eps, normed);
            compute.project([&self.weights.output], normed, products, logits);
        });
        self.file.check_unchanged()?;
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
    }

    /// `hidden += attention(norm(hidden))`.
    fn attention(&self, compute: &Compute, state: &mut State, i: usize, layer: &Layer<'_>, n: usize) {
        let h = &self.hyperparameters;
        let State { kv, scratch } = state;
        let Scratch { hidden, normed, qkv, attn, angles, attention, products, .. } = scratch;
        let hidden = &mut hidden[..n * h.n_embd];
        let normed = sized(normed, n * h.n_embd);
        let (n_q, n_k, n_v) = (h.n_heads * h.head_dim_k, h.n_kv_heads * h.head_dim_k, h.n_kv_heads * h.head_dim_v);
        let qkv = sized(qkv, n * (n_q + n_k + n_v));

        compute.norm(hidden, &layer.attn_norm, h.norm_eps, normed);
        compute.project([&layer.q, &layer.k, &layer.v], normed, products, qkv);
        let (q, kv_rows) = qkv.split_at_mut(n * n_q);
        let (k, v) = kv_rows.split_at_mut(n * n_k);
        let n_angles = self.rope.n_angles();
        let turn = |rows: &mut [f32], n_row: usize, norm: Option<&Vec<f32>>| {
            compute.pool.for_rows(rows, n_row, |t, row| {
                for head in row.chunks_exact_mut(h.head_dim_k) {
                    if let Some(norm) = norm {
                        compute.kernels.rms_norm_in_place(head, norm, h.norm_eps);
                    }
                    self.rope.rotate(head, &angles[t * n_angles..][..n_angles]);
                }
            });
        };
        turn(q, n_q, layer.q_norm.as_ref());
        turn(k, n_k, layer.k_norm.as_ref());
        kv.store(compute, i, k, v);
        let attn = sized(attn, n * h.n_heads * h.head_dim_v);
        let (kv, shape) = (&*kv, h.attention_shape(kv.format()));
        let planes = |head, plane| kv.planes(i, head, plane);
        compute.kernels.attend(&compute.pool, &shape, kv.len(), q, planes, attention, attn);
        compute.add_projected(&layer.attn_out, attn, products, hidden);
    }

    fn norm_ffn_input(&self, compute: &Compute, scratch: &mut Scratch, layer: &Layer<'_>, n: usize) {
        let h = &self.hyperparameters;
        let normed = sized(&mut scratch.normed, n * h.n_embd);
        compute.norm(&scratch.hidden[..n * h.n_embd], &layer.ffn_norm, h.norm_eps, normed);
    }

    /// `hidden += down(silu(gate(x)) · up(x))`; `x` is in `scratch.normed`.
    fn dense_ffn(&self, compute: &Compute, scratch: &mut Scratch, [gate, up, down]: [&Linear<'_>; 3], n: usize) {
        let n_embd = self.hyperparameters.n_embd;
        let Scratch { hidden, normed, gate: gated, products, .. } = scratch;
        let gated = sized(gated, n * gate.weight.n_rows());
        compute.project_gated([gate, up], &normed[..n * n_embd], products, gated);
        compute.add_projected(down, gated, products, &mut hidden[..n * n_embd]);
    }
}
