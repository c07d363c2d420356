//! What a budget of memory is spent on: a model's header, a conversation's settings and a budget in; the parts of memory
//! and the context that fits out, or why it cannot work and what would. Computed once, before a weight is read.
//!
//! Neither the KV cache nor the buffers of a pass are reserved at their largest: experts leave for them when they grow and
//! come back when a long prompt has been read. The context is cut to what fits beside the least that experts need, so that
//! this can always be done.

use std::fmt;

use super::forward::ScratchBytes;
use super::hyperparameters::Hyperparameters;
use super::kv_cache::{KvCache, KvCacheError};
use crate::gguf::{Gguf, TensorInfo};
use crate::kernel::{AttentionScratch, Isa, KvFormat, PLANE_POSITIONS};
use crate::store::{Budget, BudgetSource, Mebibytes, is_expert_tensor, layer_of, matrix_slot_bytes};

/// The most tokens that one pass takes where every expert fits; longer prompts are cut into passes.
const MAX_BATCH: usize = 512;
/// The most where there are so many experts that a pass of [`MAX_BATCH`] would give each of them fewer than
/// [`EXPERT_BATCH`] tokens, for which its weights are hardly worth decoding.
const MAX_SPREAD_BATCH: usize = 2048;
const EXPERT_BATCH: usize = 128;
/// The most that one takes where experts are read anew in every pass.
pub(super) const MAX_PAGED_BATCH: usize = 4096;
/// The most that one takes where memory is scarce.
const MIN_BATCH: usize = 32;
/// The share of what dense weights and the KV cache leave that the buffers of a larger pass may take.
const SCRATCH_SHARE: u64 = 8;

/// Positions that there must be room for where nobody said how many.
const MIN_CONTEXT: usize = 2048;
/// Positions that are given up rather than to read experts again and again.
const LARGE_CONTEXT: usize = 8192;
/// What the program takes by itself, the resident part of its file included; measured.
const PROGRAM_BYTES: u64 = 20 << 20;
/// What it takes for each token of the vocabulary (text, merges and their tables), and for each thread; measured.
const VOCABULARY_BYTES: u64 = 416;
const THREAD_BYTES: u64 = 2 << 20;
/// The share of the budget that the kernel's own tables take: page tables and the page cache's index.
const KERNEL_SHARE: u64 = 256;

/// What decides about memory beside the model.
#[derive(Debug, Clone, Copy)]
pub struct PlanOptions {
    pub budget: Budget,
    /// Positions asked for; `None`: the model's own, as far as they fit.
    pub context: Option<usize>,
    pub kv: KvFormat,
    pub n_threads: usize,
    pub isa: Isa,
    /// The most that experts may take, however much there is.
    pub most_experts: u64,
}

impl PlanOptions {
    /// Without a budget, but for the bytes that experts may take.
    pub fn for_experts(bytes: u64) -> PlanOptions {
        let (budget, kv) = (Budget::UNKNOWN, KvFormat::default());
        PlanOptions { budget, context: None, kv, n_threads: 1, isa: Isa::Scalar, most_experts: bytes }
    }
}

/// The parts of memory, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub budget: Budget,
    /// Positions that a conversation may hold.
    pub context: usize,
    /// Why `context` is what it is.
    pub context_source: ContextSource,
    /// What every token needs.
    pub dense: u64,
    /// What of it is kept in memory: all, or, of a dense model that is larger than memory, one layer.
    pub dense_kept: u64,
    /// All experts, as the memory they take.
    pub experts: u64,
    /// The experts that one token takes in one layer: the least that must be there.
    pub chosen_experts: u64,
    /// The KV cache of [`PLANE_POSITIONS`] positions, and what attention needs to look at them.
    pub kv_block: u64,
    /// The buffers of a pass, by its tokens.
    pub scratch: ScratchBytes,
    /// The program, its vocabulary and its threads.
    pub process: u64,
    /// Tokens of a pass that is long enough where every expert fits.
    whole_batch: usize,
    most_experts: u64,
}

/// Who chose the length of the context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContextSource {
    Asked,
    Model,
    /// The model's own, so many positions, does not fit.
    Memory(usize),
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error(transparent)]
    KvCache(#[from] KvCacheError),
    #[error(transparent)]
    TooSmall(#[from] Box<TooSmall>),
}

/// A budget in which a model cannot work, and what it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TooSmall {
    /// What would be done with enough memory; its context is the least that must fit.
    pub plan: Plan,
    /// The largest context that fits, 0: none does.
    pub fitting_context: usize,
}

impl std::error::Error for TooSmall {}

impl fmt::Display for TooSmall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan { budget, context, dense, dense_kept, chosen_experts, scratch, process, .. } = &self.plan;
        let needed = self.plan.needed();
        write!(f, "{} of memory ", Mebibytes(budget.bytes))?;
        match budget.source {
            BudgetSource::Limited(asked) => write!(f, "(all there is of the {} asked for) ", Mebibytes(asked))?,
            BudgetSource::Spare => write!(f, "(what this system can spare) ")?,
            BudgetSource::Asked | BudgetSource::Unknown => {}
        }
        write!(f, "cannot hold this model, which needs {}: ", Mebibytes(needed))?;
        let weights = if dense_kept < dense { "one layer's weights" } else { "dense weights" };
        write!(f, "{weights} {}", Mebibytes(*dense_kept))?;
        if *chosen_experts > 0 {
            write!(f, ", one layer's chosen experts {}", Mebibytes(*chosen_experts))?;
        }
        write!(f, ", KV cache {} for --ctx {context}, ", Mebibytes(self.plan.kv_bytes(*context)))?;
        write!(f, "buffers of a pass {}, the program {}, ", Mebibytes(scratch.of(MIN_BATCH)), Mebibytes(*process))?;
        write!(f, "the kernel's tables {}; ", Mebibytes(needed / KERNEL_SHARE))?;
        match budget.source {
            BudgetSource::Asked | BudgetSource::Unknown => write!(f, "start with --ram {}M", needed.div_ceil(1 << 20))?,
            BudgetSource::Limited(_) | BudgetSource::Spare => write!(f, "free memory or raise the limit on it")?,
        }
        if self.fitting_context > 0 {
            write!(f, ", or with --ctx {}", self.fitting_context)?;
        }
        write!(f, ", or use a smaller model")
    }
}

impl Plan {
    /// # Errors
    /// What a model of this header needs at least, where it is more than the budget.
    pub fn new(gguf: &Gguf, h: &Hyperparameters, options: &PlanOptions) -> Result<Plan, PlanError> {
        let (experts, dense): (Vec<_>, Vec<_>) = gguf.tensors.iter().partition(|t| is_expert_tensor(t));
        let dense_bytes = sum(dense.iter().map(|t| t.n_bytes));
        let scores = AttentionScratch::plane_bytes(h.n_heads, options.n_threads);
        let attention = AttentionScratch::thread_bytes(options.isa, h.head_dim_k.max(h.head_dim_v));
        let threads = THREAD_BYTES.saturating_add(attention).saturating_mul(options.n_threads as u64);
        let vocabulary = VOCABULARY_BYTES.saturating_mul(h.n_vocab as u64);
        let plan = Plan {
            budget: options.budget,
            context: options.context.unwrap_or(h.context_length.min(MIN_CONTEXT)),
            context_source: ContextSource::Asked,
            dense: dense_bytes,
            dense_kept: dense_bytes,
            experts: sum(experts.iter().map(|t| slots(t).map_or(0, |(slot, n)| slot.saturating_mul(n)))),
            chosen_experts: chosen_experts(&experts, h),
            kv_block: KvCache::block_bytes(h, options.kv)?.saturating_add(scores),
            scratch: ScratchBytes::new(gguf, h),
            process: sum([PROGRAM_BYTES, vocabulary, threads].into_iter()),
            whole_batch: whole_batch(h),
            most_experts: options.most_experts,
        };
        // A dense model that does not fit is read from disk at every token: slow, and better than not at all.
        let plan = if plan.needed() > plan.budget.bytes && plan.experts == 0 {
            Plan { dense_kept: largest_layer(&dense), ..plan }
        } else {
            plan
        };
        if plan.needed() > plan.budget.bytes {
            let fitting_context = plan.context_beside(plan.least());
            return Err(Box::new(TooSmall { plan, fitting_context }).into());
        }
        let (context, context_source) = match options.context {
            Some(asked) => (asked, ContextSource::Asked),
            None => plan.own_context(h.context_length),
        };
        Ok(Plan { context, context_source, ..plan })
    }

    /// The model's own context, or as much of it as is good for the rest.
    fn own_context(&self, own: usize) -> (usize, ContextSource) {
        // Where all experts fit beside a context that is large enough, it is not longer than that.
        let beside_all = self.context_beside(self.least_with_all_experts());
        let fitting = if beside_all >= own.min(LARGE_CONTEXT) {
            beside_all
        } else {
            let least = self.least();
            let all = self.context_beside(least);
            // Else experts keep half of what there is.
            let half = self.context_beside(least + self.usable().saturating_sub(least) / 2);
            if self.experts == 0 { all } else { half.max(self.context.min(all)) }
        };
        if own <= fitting { (own, ContextSource::Model) } else { (fitting, ContextSource::Memory(own)) }
    }

    /// Bytes of the KV cache when it holds `positions`, with what attention needs to look at them.
    pub fn kv_bytes(&self, positions: usize) -> u64 {
        self.kv_block.saturating_mul(positions.div_ceil(PLANE_POSITIONS) as u64)
    }

    /// The least budget in which the plan works, with a full context, the fewest experts and the shortest passes.
    pub fn needed(&self) -> u64 {
        let bytes = self.least().saturating_add(self.kv_bytes(self.context));
        bytes.saturating_add(bytes / (KERNEL_SHARE - 1) + 1)
    }

    /// Whether all experts fit, however long the conversation becomes.
    pub fn holds_all_experts(&self) -> bool {
        let bytes = self.least_with_all_experts().saturating_add(self.kv_bytes(self.context));
        bytes <= self.usable() && self.experts <= self.most_experts
    }

    /// Bytes that experts may take beside a KV cache of `positions` and the buffers of a pass of `n` tokens.
    pub fn expert_budget(&self, positions: usize, n: usize) -> u64 {
        let scratch = self.scratch.of(n);
        let taken = sum([self.dense_kept, self.process, self.kv_bytes(positions), scratch].into_iter());
        self.usable().saturating_sub(taken).min(self.experts).min(self.most_experts)
    }

    /// The most tokens that one pass takes which begins when the KV cache holds `positions`. Where weights are read anew in
    /// every pass, it is as many as buffers allow: a long prompt then reads each expert once.
    pub fn max_batch(&self, positions: usize) -> usize {
        let is_whole = self.holds_all_experts() && !self.reads_dense_weights_again();
        // Experts that are all in memory are to stay there, however long the conversation becomes.
        let (most, beside, least) = if is_whole {
            (self.whole_batch, self.experts.saturating_add(self.kv_bytes(self.context)), MAX_BATCH)
        } else {
            let context = positions.saturating_add(MAX_PAGED_BATCH).min(self.context);
            (MAX_PAGED_BATCH, self.kv_bytes(context), MIN_BATCH)
        };
        let taken = sum([self.dense_kept, self.process, beside].into_iter());
        let room = self.usable().saturating_sub(taken);
        let fits = |n: &usize| self.scratch.of(*n) <= room / SCRATCH_SHARE;
        let batches = std::iter::successors(Some(most), |n| Some(n - n.div_ceil(8)));
        batches.take_while(|&n| n > least).find(fits).unwrap_or(least)
    }

    /// Whether the weights do not all fit, so that every token reads some of them from disk.
    pub fn reads_dense_weights_again(&self) -> bool {
        self.dense_kept < self.dense
    }

    /// Bytes that dense weights may take where they do not all fit, beside a full context and the longest pass.
    pub fn usable_for_dense(&self) -> u64 {
        let others = sum([self.process, self.kv_bytes(self.context), self.scratch.of(self.max_batch(0))].into_iter());
        self.usable().saturating_sub(others)
    }

    /// What the person should know before it begins.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if let BudgetSource::Limited(asked) = self.budget.source {
            let (asked, there) = (Mebibytes(asked), Mebibytes(self.budget.bytes));
            warnings.push(format!("of the {asked} asked for with --ram this system can spare {there}"));
        }
        if self.reads_dense_weights_again() {
            let (weights, budget) = (Mebibytes(self.dense), Mebibytes(self.budget.bytes));
            warnings.push(format!(
                "the weights of {weights} do not fit in {budget}, and every token needs all: the disk sets the speed"
            ));
        }
        if let ContextSource::Memory(own) = self.context_source {
            let fits = self.context;
            warnings.push(format!(
                "the model's context of {own} tokens is cut to {fits}, for the memory there is; --ctx sets another"
            ));
        }
        warnings
    }

    /// What is left of the budget by the kernel's own tables.
    fn usable(&self) -> u64 {
        self.budget.bytes - self.budget.bytes / KERNEL_SHARE
    }

    /// All but the KV cache, with the fewest experts and the shortest passes.
    fn least(&self) -> u64 {
        sum([self.dense_kept, self.chosen_experts, self.scratch.of(MIN_BATCH), self.process].into_iter())
    }

    /// All but the KV cache, with all experts and the passes that belong to them.
    fn least_with_all_experts(&self) -> u64 {
        sum([self.dense_kept, self.experts, self.scratch.of(MAX_BATCH), self.process].into_iter())
    }

    /// The largest context that fits beside `bytes`.
    fn context_beside(&self, bytes: u64) -> usize {
        let n_blocks = self.usable().saturating_sub(bytes) / self.kv_block.max(1);
        usize::try_from(n_blocks).unwrap_or(usize::MAX).saturating_mul(PLANE_POSITIONS)
    }
}

fn sum(parts: impl Iterator<Item = u64>) -> u64 {
    parts.fold(0, u64::saturating_add)
}

/// What an expert's part of a tensor takes in memory, and how many experts there are.
fn slots(tensor: &TensorInfo) -> Option<(u64, u64)> {
    let n = *tensor.shape.get(2)?;
    Some((matrix_slot_bytes(tensor.n_bytes.checked_div(n)?), n))
}

/// Bytes of the experts that a token takes in the layer where they are largest.
fn chosen_experts(experts: &[&TensorInfo], h: &Hyperparameters) -> u64 {
    let Some(moe) = h.moe else { return 0 };
    let expert = by_layer(experts, |tensor| slots(tensor).map_or(0, |(slot, _)| slot));
    expert.saturating_mul(moe.n_used as u64)
}

/// Bytes of the largest layer; a tensor outside of the layers counts as one.
fn largest_layer(tensors: &[&TensorInfo]) -> u64 {
    by_layer(tensors, |tensor| tensor.n_bytes)
}

/// Tokens of a pass in which every expert gets [`EXPERT_BATCH`] of them, if the router is fair.
fn whole_batch(h: &Hyperparameters) -> usize {
    let Some(moe) = h.moe else { return MAX_BATCH };
    let tokens = EXPERT_BATCH.saturating_mul(moe.n_experts) / moe.n_used.max(1);
    tokens.clamp(MAX_BATCH, MAX_SPREAD_BATCH)
}

/// The largest sum over the tensors of a layer.
fn by_layer(tensors: &[&TensorInfo], bytes: impl Fn(&TensorInfo) -> u64) -> u64 {
    let mut layers = std::collections::HashMap::<_, u64>::new();
    for tensor in tensors {
        let layer = layer_of(&tensor.name).ok_or(tensor.name.as_str());
        let sum = layers.entry(layer).or_default();
        *sum = sum.saturating_add(bytes(tensor));
    }
    layers.into_values().max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIXTRAL: &[u8] = include_bytes!("../../tests/data/mixtral-Q4_K_M.gguf");

    fn plan(ram: Option<u64>, context: Option<usize>) -> Result<Plan, PlanError> {
        let gguf = Gguf::parse(MIXTRAL).unwrap();
        let h = Hyperparameters::from_metadata(&gguf.metadata, 512).unwrap();
        let budget = Budget::new(ram, Some(8 << 30));
        let options = PlanOptions { budget, context, n_threads: 2, ..PlanOptions::for_experts(u64::MAX) };
        Plan::new(&gguf, &h, &options)
    }

    #[test]
    fn the_least_budget_works_and_one_byte_less_does_not() {
        let needed = plan(None, Some(1024)).unwrap().needed();
        let least = plan(Some(needed), Some(1024)).unwrap();
        assert!(least.expert_budget(1024, MIN_BATCH) >= least.chosen_experts);
        assert_eq!(least.max_batch(0), MIN_BATCH);
        // The kernel's share is a whole number of bytes, so the last byte may round either way.
        let Err(PlanError::TooSmall(error)) = plan(Some(needed - 2), Some(1024)) else { panic!("it is too small") };
        let text = error.to_string();
        for part in ["dense weights", "KV cache", "for --ctx 1024", "chosen experts", "buffers of a pass", "--ram "] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(error.fitting_context, 768);
        assert!(plan(Some(needed - 2), Some(768)).is_ok());
    }

    #[test]
    fn experts_leave_for_the_cache_as_it_grows_and_never_below_what_a_token_takes() {
        let plan = plan(Some(plan(None, Some(2048)).unwrap().needed() + (1 << 20)), Some(2048)).unwrap();
        assert!(!plan.holds_all_experts());
        let budgets: Vec<u64> = (0..=8).map(|block| plan.expert_budget(block * PLANE_POSITIONS, MIN_BATCH)).collect();
        assert!(budgets.is_sorted_by(|a, b| a >= b) && budgets[0] > budgets[8], "{budgets:?}");
        assert!(budgets[8] >= plan.chosen_experts, "{budgets:?}");
        assert!(budgets[8] + plan.kv_bytes(2048) + plan.dense < plan.budget.bytes);
    }

    #[test]
    fn a_context_that_nobody_asked_for_is_cut_to_what_fits() {
        let free = plan(None, None).unwrap();
        assert_eq!(free.context_source, ContextSource::Model);
        assert!(free.holds_all_experts());
        assert_eq!((free.expert_budget(free.context, 1), free.max_batch(0)), (free.experts, MAX_BATCH));
        assert_eq!(free.warnings(), [""; 0]);
    }

    #[test]
    fn a_larger_budget_never_has_fewer_experts_or_shorter_passes() {
        let needed = plan(None, Some(1024)).unwrap().needed();
        let plans: Vec<Plan> = (0..64).map(|i| plan(Some(needed + (i << 18)), Some(1024)).unwrap()).collect();
        assert!(plans.is_sorted_by_key(|plan| plan.expert_budget(512, 1)));
        let paged: Vec<usize> = plans.iter().filter(|p| !p.holds_all_experts()).map(|p| p.max_batch(0)).collect();
        assert!(paged.is_sorted() && paged[0] < paged[paged.len() - 1], "{paged:?}");
        assert!(plans[63].holds_all_experts());
        let whole = plans.iter().find(|p| p.holds_all_experts()).unwrap();
        assert!(whole.expert_budget(1024, whole.max_batch(512)) == whole.experts, "{whole:?}");
    }
}
