//! WayInfer: chat in a terminal with GGUF language models that do not fit in RAM, without a GPU.
//!
//! The way of the data: bytes on disk → tensors → token ids → hidden state → logits → token id → text → screen.
//! A floor imports only from floors below it (`ARCHITECTURE.md`; `tests/architecture.rs` checks it):
//!
//! | floor | modules |
//! |---|---|
//! | 6 | `main`, [`cli`] |
//! | 5 | [`tui`] |
//! | 4 | [`worker`] |
//! | 3 | [`session`], [`sampler`], [`text`], [`transcript`], [`pull`], [`catalog`], [`embedded`] |
//! | 2 | [`model`], [`quantize`] |
//! | 1 | [`store`], [`gguf`], [`kernel`], [`pool`] |
//! | 0 | [`quant`], [`telemetry`], [`disk`] |

pub mod catalog;
pub mod cli;
pub mod disk;
pub mod embedded;
pub mod gguf;
pub mod kernel;
pub mod model;
pub mod pool;
pub mod pull;
pub mod quant;
pub mod quantize;
pub mod sampler;
pub mod session;
pub mod store;
pub mod telemetry;
pub mod text;
pub mod transcript;
pub mod tui;
pub mod worker;
