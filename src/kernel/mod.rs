//! How numbers are multiplied: one table of kernels, filled once for the instruction sets that this CPU has.
//! Rows of weights as the file has them and quantized activations in, f32 out.

mod attention;
mod dispatch;
mod matmul;
mod ops;
mod scalar;

pub use attention::round_to_f16;
pub use dispatch::{Isa, Kernels, UnknownIsa};
pub use matmul::{ActivationScratch, Activations, Matrix, Rows};
