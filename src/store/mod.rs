//! How the bytes of a model become resident: the mapping of its files, what of them the kernel holds in memory, the
//! port through which experts are asked for, large files that pass through, and the gauges of this process and machine.

mod budget;
mod cache;
mod dense;
mod device;
pub mod direct;
mod experts;
mod guard;
mod mapping;
mod pager;
mod places;
mod probe;
mod replay;
mod residency;
mod stream;
mod survey;
mod system;
mod trace;

pub use budget::{Budget, BudgetSource, Mebibytes};
pub use cache::{ExpertCache, ExpertId, NoRoom, Place, Policy, UnknownPolicy};
pub use dense::DenseStream;
pub use device::Device;
pub use experts::{ExpertOptions, ExpertStore, PagingChoice, Room, TakenExperts, Wanted};
pub use mapping::{ExpertTensor, FileRange, ModelFile, StoreError, is_expert_tensor, layer_of};
pub use pager::{PagingError, PinError, Routed};
pub use places::{ExpertBytes, LayerExperts, matrix_slot_bytes};
pub use replay::{Counts, Phase, Replay, ReplayOutcome, Rule, Scope, serve};
pub use residency::Residency;
pub use stream::{StreamReader, StreamWriter};
pub use survey::ResidencySurvey;
pub use system::{CgroupVersion, Memory, MemoryLimit, ProcessGauges, System, return_large_buffers};
pub use trace::{Demand, LayerRecord, LayerShape, Outcome, Pass, Shape, TraceError, TraceReader, TraceRecorder};
