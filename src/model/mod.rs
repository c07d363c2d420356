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
pub use forward::{Control, ForwardError, LOGIT_ROWS, Prefetch, ScratchBytes, State};
pub use hyperparameters::{Architecture, HyperparameterError, Hyperparameters, MoeParams, RopeLayout, RopeScaling};
pub use kv_cache::{KvCache, KvCacheError, KvParams};
pub use plan::{ContextSource, Plan, PlanError, PlanOptions, TooSmall};
pub use weights::WeightError;

use rope::Rope;
use weights::Weights;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::store::{DenseStream, ExpertOptions, ExpertStore, ModelFile, PagingChoice, Room, Shape, StoreError};
use crate::telemetry::ExpertMap;

/// A model ready to compute, borrowing its weights from the mapped file.
#[derive(Debug)]
pub struct Model<'a> {
    hyperparameters: Hyperparameters,
    weights: Weights<'a>,
    rope: Rope,
    file: &'a ModelFile,
    experts: ExpertStore<'a>,
    expert_map: Arc<ExpertMap>,
    plan: Plan,
    /// Where the dense weights do not all fit.
    stream: Option<DenseStream<'a>>,
    /// The bytes that experts were last given.
    planned_experts: AtomicU64,
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
}

impl<'a> Model<'a> {
    /// Reads the metadata, plans memory and binds the tensors. Touches norms and biases, and no matrix.
    pub fn new(file: &'a ModelFile, paging: PagingChoice, options: &PlanOptions) -> Result<Model<'a>, ModelError> {
        let n_vocab = weights::vocabulary_rows(file)?;
        let hyperparameters = Hyperparameters::from_metadata(&file.gguf().metadata, n_vocab)?;
        let plan = Plan::new(file.gguf(), &hyperparameters, options)?;
        let weights = Weights::bind(file, &hyperparameters)?;
        let rope = Rope::new(&hyperparameters, weights.rope_factors.as_deref());
        let (n_experts, n_used) = hyperparameters.moe.map_or((1, 0), |moe| (moe.n_experts, moe.n_used));
        let expert_map = Arc::new(ExpertMap::new(hyperparameters.n_layers, n_experts));
        let budget = plan.expert_budget(0, 1);
        let room = if plan.holds_all_experts() { Room::ForAll } else { Room::ForSome };
        let options = ExpertOptions { paging, budget, room, n_used };
        let experts = ExpertStore::new(file, &weights.experts, options, Arc::clone(&expert_map))?;
        file.advise_dense_sequential();
        file.check_read()?;
        let planned_experts = AtomicU64::new(budget);
        let stream = plan
            .reads_dense_weights_again()
            .then(|| DenseStream::new(file, hyperparameters.n_layers, plan.usable_for_dense()));
        Ok(Model { hyperparameters, weights, rope, file, experts, expert_map, plan, stream, planned_experts })
    }

    /// Bytes of the dense weights that stay in memory once they are read.
    pub fn kept_dense_bytes(&self) -> u64 {
        self.stream.as_ref().map_or(u64::MAX, DenseStream::kept_bytes)
    }

    /// What memory is spent on.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    pub fn hyperparameters(&self) -> &Hyperparameters {
        &self.hyperparameters
    }

    /// What a trace says of this model, which is the one in `file`.
    pub fn trace_shape(&self, file: &ModelFile) -> Shape {
        let h = &self.hyperparameters;
        Shape::of(file, h.n_layers, h.moe.map_or(0, |moe| moe.n_used))
    }

    /// The map of this model's experts.
    pub fn expert_map(&self) -> &Arc<ExpertMap> {
        &self.expert_map
    }

    pub fn experts(&self) -> &ExpertStore<'a> {
        &self.experts
    }
}
