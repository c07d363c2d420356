//! How numbers are multiplied: one table of kernels, filled once for the instruction sets that this CPU has.
//! Rows of weights as the file has them and quantized activations in, f32 out.

mod activations;
#[cfg(target_arch = "x86_64")]
mod amx;
mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod crew;
mod dispatch;
mod fused;
mod gated;
mod matmul;
mod ops;
mod output;
#[cfg(target_arch = "x86_64")]
mod panels;
#[cfg(test)]
mod products_tests;
mod scalar;
#[cfg(test)]
mod tests;
mod tiled;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use activations::{ActivationScratch, Activations, Grouped, Rows};
pub use attention::{AttentionScratch, AttentionShape, KeyBias, KvFormat, PLANE_POSITIONS, Planes, UnknownKvFormat};
pub use crew::Crew;
pub use dispatch::{Isa, Kernels, UnknownIsa};
pub(crate) use fused::sized;
pub use fused::{Projection, RowScratch, TokenRows};
pub use gated::MAX_GATED_ROWS;
pub use matmul::{LEAST_BATCH, Matrix};
