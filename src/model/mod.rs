//! The model: hyperparameters read from metadata, weights bound to typed fields, and the forward pass over them.

mod compute;
mod forward;
mod hyperparameters;
mod kv_cache;
mod moe;
mod plan;
mod rope;
mod weights;

pub use compute::Compute;
pub use forward::{Control, ForwardError, LOGIT_ROWS, Prefetch, State};
pub use hyperparameters::{Architecture, HyperparameterError, Hyperparameters, MoeParams, RopeLayout, RopeScaling};
pub use kv_cache::{KvCache, KvCacheError, KvParams};
pub use plan::{ContextSource, MAX_BATCH, Plan, PlanError, PlanOptions, TooSmall};
pub use weights::WeightError;

use rope::Rope;
use weights::Weights;

use crate::store::{ExpertStore, FaultError, ModelFile, StoreError};
use crate::telemetry::ExpertMap;

/// A model ready to compute, borrowing its weights from the mapped file.
#[derive(Debug)]
pub struct Model<'a> {
    hyperparameters: Hyperparameters,
    weights: Weights<'a>,
    rope: Rope,
    experts: ExpertStore<'a>,
    plan: Plan,
    file: &'a ModelFile,
}

/// Why a file is not a model that can be computed.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error(transparent)]
    Hyperparameters(#[from] HyperparameterError),
    #[error(transparent)]
    Weights(#[from] WeightError),
    #[error(transparent)]
    Experts(#[from] StoreError),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Fault(#[from] FaultError),
}

impl<'a> Model<'a> {
    /// Reads the metadata and binds the tensors. Touches norms and biases, and no matrix.
    pub fn new(file: &'a ModelFile, options: &PlanOptions) -> Result<Model<'a>, ModelError> {
        let n_vocab = weights::vocabulary_rows(file)?;
        let hyperparameters = Hyperparameters::from_metadata(&file.gguf().metadata, n_vocab)?;
        let plan = Plan::new(file.gguf(), &hyperparameters, options)?;
        let weights = Weights::bind(file, &hyperparameters)?;
        let rope = Rope::new(&hyperparameters, weights.rope_factors.as_deref());
        let experts = ExpertStore::new(file, &weights.experts)?;
        file.check_reads()?;
        file.advise_dense_sequential();
        Ok(Model { hyperparameters, weights, rope, experts, plan, file })
    }

    pub fn hyperparameters(&self) -> &Hyperparameters {
        &self.hyperparameters
    }

    /// What memory is spent on.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// An empty map of this model's experts.
    pub fn expert_map(&self) -> ExpertMap {
        let n_experts = self.hyperparameters.moe.map_or(1, |moe| moe.n_experts);
        ExpertMap::new(self.hyperparameters.n_layers, n_experts)
    }
}
