//! How numbers are multiplied: one table of kernels, filled once for the instruction sets that this CPU has.
//! Rows of weights as the file has them and quantized activations in, f32 out.

mod dispatch;
mod scalar;

pub use dispatch::{Isa, Kernels, UnknownIsa};
