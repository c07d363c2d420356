//! What a budget of memory is spent on: a model's header, a conversation's settings and a budget in; the parts of memory
//! and the context that fits out, or why it cannot work and what would. Computed once, before a weight is read.
//!
//! The KV cache is not reserved for the whole context: it takes its memory as the conversation grows, and experts leave
//! for it. The context is cut to what fits beside the least that experts need, so that this can always be done.

use std::fmt;

use super::forward::Scratch;
use super::hyperparameters::Hyperparameters;
use super::kv_cache::{KvCache, KvCacheError};
use crate::gguf::{Gguf, TensorInfo};
use crate::kernel::{AttentionScratch, KvFormat, PLANE_POSITIONS};
use crate::store::{Budget, BudgetSource, Mebibytes, is_expert_tensor, layer_of};

/// The most tokens that one pass takes; longer prompts are cut into passes.
pub const MAX_BATCH: usize = 512;

/// Positions that there must be room for where nobody said how many.
const MIN_CONTEXT: usize = 2048;
/// What the program takes by itself, the resident part of its file included; measured.
const PROGRAM_BYTES: u64 = 24 << 20;
/// What it takes for each token of the vocabulary (text, merges and their tables), and for each thread.
const VOCABULARY_BYTES: u64 = 448;
const THREAD_BYTES: u64 = 1 << 20;
/// The share of the budget that the kernel's own tables take: page tables and the page cache's index.
const KERNEL_SHARE: u64 = 64;
/// An expert in memory of its own takes whole pages for each of its three matrices, wherever they begin in the file.
const PAGE_LOSS: u64 = 3 * (8 << 10);

/// What decides about memory beside the model.
#[derive(Debug, Clone, Copy)]
pub struct PlanOptions {
    pub budget: Budget,
    /// Positions asked for; `None`: the model's own, as far as they fit.
    pub context: Option<usize>,
    pub kv: KvFormat,
    pub n_threads: usize,
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
    /// All experts.
    pub experts: u64,
    /// The experts that one token takes in one layer: the least that must be there.
    pub chosen_experts: u64,
    /// The KV cache of [`PLANE_POSITIONS`] positions, and what attention needs to look at them.
    pub kv_block: u64,
    /// Buffers of the largest pass.
    pub scratch: u64,
    /// The program, its vocabulary and its threads.
    pub process: u64,
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
    TooSmall(#[from] TooSmall),
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
            BudgetSource::Available => write!(f, "(what this system can spare) ")?,
            BudgetSource::Asked | BudgetSource::Unknown => {}
        }
        write!(f, "cannot hold this model, which needs {}: ", Mebibytes(needed))?;
        let weights = if dense_kept < dense { "one layer's weights" } else { "dense weights" };
        write!(f, "{weights} {}", Mebibytes(*dense_kept))?;
        if *chosen_experts > 0 {
            write!(f, ", one layer's chosen experts {}", Mebibytes(*chosen_experts))?;
        }
        write!(f, ", KV cache {} for --ctx {context}, ", Mebibytes(self.plan.kv_bytes(*context)))?;
        write!(f, "buffers of a pass {}, the program {}, ", Mebibytes(*scratch), Mebibytes(*process))?;
        write!(f, "the kernel's tables {}; ", Mebibytes(needed / KERNEL_SHARE))?;
        match budget.source {
            BudgetSource::Asked | BudgetSource::Unknown => write!(f, "start with --ram {}M", needed.div_ceil(1 << 20))?,
            BudgetSource::Limited(_) | BudgetSource::Available => {
                write!(f, "free memory or raise the limit on it")?;
            }
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
        let sum = |tensors: &[&TensorInfo]| tensors.iter().map(|t| t.n_bytes).fold(0, u64::saturating_add);
        let dense_bytes = sum(&dense);
        let least = options.context.unwrap_or(h.context_length.min(MIN_CONTEXT));
        let scores = AttentionScratch::plane_bytes(h.n_heads, options.n_threads);
        let plan = Plan {
            budget: options.budget,
            context: least,
            context_source: ContextSource::Asked,
            dense: dense_bytes,
            dense_kept: dense_bytes,
            experts: sum(&experts),
            chosen_experts: chosen_experts(&experts, h),
            kv_block: KvCache::block_bytes(h, options.kv)?.saturating_add(scores),
            scratch: Scratch::bound(h, MAX_BATCH),
            process: PROGRAM_BYTES + VOCABULARY_BYTES * h.n_vocab as u64 + THREAD_BYTES * options.n_threads as u64,
        };
        // A dense model that does not fit is read from disk at every token: slow, and better than not at all.
        let plan = if plan.needed() > plan.budget.bytes && plan.experts == 0 {
            Plan { dense_kept: largest_layer(&dense), ..plan }
        } else {
            plan
        };
        let fitting = plan.fitting_context();
        if plan.needed() > plan.budget.bytes {
            return Err(TooSmall { plan, fitting_context: fitting }.into());
        }
        let (context, context_source) = match options.context {
            Some(asked) => (asked, ContextSource::Asked),
            None if h.context_length <= fitting => (h.context_length, ContextSource::Model),
            None => (fitting, ContextSource::Memory(h.context_length)),
        };
        Ok(Plan { context, context_source, ..plan })
    }

    /// Bytes of the KV cache when it holds `positions`, with what attention needs to look at them.
    pub fn kv_bytes(&self, positions: usize) -> u64 {
        self.kv_block.saturating_mul(positions.div_ceil(PLANE_POSITIONS) as u64)
    }

    /// The least budget in which the plan works, with a full context and the fewest experts.
    pub fn needed(&self) -> u64 {
        let bytes = self.fixed().saturating_add(self.kv_bytes(self.context));
        bytes.saturating_add(bytes / (KERNEL_SHARE - 1) + 1)
    }

    /// Bytes that experts may take beside a KV cache of `positions` and the buffers of a pass, `scratch` bytes where they
    /// are more than planned.
    pub fn expert_budget(&self, positions: usize, scratch: u64) -> u64 {
        let others = self.fixed().saturating_sub(self.chosen_experts);
        let more_scratch = scratch.saturating_sub(self.scratch);
        let taken = others.saturating_add(self.kv_bytes(positions)).saturating_add(more_scratch);
        self.usable().saturating_sub(taken).min(self.experts)
    }

    /// Whether the weights do not all fit, so that every token reads some of them from disk.
    pub fn reads_dense_weights_again(&self) -> bool {
        self.dense_kept < self.dense
    }

    /// What the person should know before it begins.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if let BudgetSource::Limited(asked) = self.budget.source {
            let (asked, there) = (Mebibytes(asked), Mebibytes(self.budget.bytes));
            warnings.push(format!("of the {asked} asked for with --ram only {there} are available"));
        }
        if self.reads_dense_weights_again() {
            let (weights, budget) = (Mebibytes(self.dense), Mebibytes(self.budget.bytes));
            warnings.push(format!(
                "the weights of {weights} do not fit in {budget}, and every token needs all: the disk sets the speed"
            ));
        }
        if let ContextSource::Memory(own) = self.context_source {
            let fits = self.context;
            warnings.push(format!("the model's context of {own} does not fit in memory; this one holds {fits} tokens"));
        }
        warnings
    }

    /// What is left of the budget by the kernel's own tables.
    fn usable(&self) -> u64 {
        self.budget.bytes - self.budget.bytes / KERNEL_SHARE
    }

    /// All but the KV cache, with the fewest experts.
    fn fixed(&self) -> u64 {
        let parts = [self.dense_kept, self.chosen_experts, self.scratch, self.process];
        parts.into_iter().fold(0, u64::saturating_add)
    }

    /// The largest context that fits.
    fn fitting_context(&self) -> usize {
        let n_blocks = self.usable().saturating_sub(self.fixed()) / self.kv_block.max(1);
        usize::try_from(n_blocks).unwrap_or(usize::MAX).saturating_mul(PLANE_POSITIONS)
    }
}

/// Bytes of the experts that a token takes in the layer where they are largest.
fn chosen_experts(experts: &[&TensorInfo], h: &Hyperparameters) -> u64 {
    let Some(moe) = h.moe else { return 0 };
    let layer = largest_layer(experts) / moe.n_experts as u64;
    if experts.is_empty() { 0 } else { (layer + PAGE_LOSS).saturating_mul(moe.n_used as u64) }
}

/// Bytes of the largest layer; a tensor outside of the layers counts as one.
fn largest_layer(tensors: &[&TensorInfo]) -> u64 {
    let mut layers = std::collections::HashMap::<_, u64>::new();
    for tensor in tensors {
        let layer = layer_of(&tensor.name).map_or(Err(tensor.name.as_str()), Ok);
        *layers.entry(layer).or_default() += tensor.n_bytes;
    }
    layers.into_values().max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Memory;

    const MIXTRAL: &[u8] = include_bytes!("../../tests/data/mixtral-Q4_K_M.gguf");

    fn plan(ram: Option<u64>, context: Option<usize>) -> Result<Plan, PlanError> {
        let gguf = Gguf::parse(MIXTRAL).unwrap();
        let h = Hyperparameters::from_metadata(&gguf.metadata, 512).unwrap();
        let memory = Memory { total: 8 << 30, available: 8 << 30 };
        let budget = Budget::new(ram, Some(memory));
        Plan::new(&gguf, &h, &PlanOptions { budget, context, kv: KvFormat::F16, n_threads: 2 })
    }

    #[test]
    fn the_least_budget_works_and_one_byte_less_does_not() {
        let needed = plan(None, Some(1024)).unwrap().needed();
        let least = plan(Some(needed), Some(1024)).unwrap();
        assert!(least.expert_budget(1024, 0) >= least.chosen_experts);
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
        let budgets: Vec<u64> = (0..=8).map(|block| plan.expert_budget(block * PLANE_POSITIONS, 0)).collect();
        assert!(budgets.is_sorted_by(|a, b| a >= b) && budgets[0] > budgets[8], "{budgets:?}");
        assert!(budgets[8] >= plan.chosen_experts, "{budgets:?}");
        assert!(budgets[8] + plan.kv_bytes(2048) + plan.dense < plan.budget.bytes);
    }

    #[test]
    fn a_context_that_nobody_asked_for_is_cut_to_what_fits() {
        let free = plan(None, None).unwrap();
        assert_eq!(free.context_source, ContextSource::Model);
        assert_eq!(free.expert_budget(free.context, 0), free.experts);
        assert_eq!(free.warnings(), [""; 0]);
    }
}
