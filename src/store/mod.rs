//! How the bytes of a model become resident: the mapping of its files, what of them the kernel holds in memory, the
//! port through which experts are asked for, and the gauges of this process and machine.

mod cache;
pub mod direct;
mod experts;
mod mapping;
mod pager;
mod places;
mod residency;
mod survey;
mod system;

pub use cache::{ExpertCache, ExpertId, NoRoom, Place, Policy, UnknownPolicy};
pub use experts::{ExpertOptions, ExpertStore, PagingChoice, TakenExperts, Wanted};
pub use mapping::{ExpertTensor, FileRange, ModelFile, StoreError};
pub use pager::{PagingError, Routed};
pub use places::{ExpertBytes, LayerExperts};
pub use residency::Residency;
pub use survey::ResidencySurvey;
pub use system::{Memory, ProcessGauges, System};
