//! How the bytes of a model become resident: the mapping of its files, what of them the kernel holds in memory, the
//! port through which experts are asked for, and the gauges of this process and machine.

mod budget;
mod experts;
mod faults;
mod mapping;
mod residency;
mod survey;
mod system;

pub use budget::{Budget, BudgetSource, Mebibytes};
pub use experts::{ExpertBytes, ExpertStore, LayerExperts};
pub use mapping::{ExpertTensor, FaultError, FileRange, ModelFile, StoreError, is_expert_tensor, layer_of};
pub use residency::Residency;
pub use survey::ResidencySurvey;
pub use system::{Memory, ProcessGauges, System};
