//! The thread that owns the model: commands in, events out. Events are never lost; gauges go through `telemetry`.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crossbeam_channel::{Receiver, Sender};

pub use crate::session::{PromptStats, ReplyStats, StopReason};

use crate::sampler::SamplingParams;
use crate::telemetry::Telemetry;
use crate::transcript::Message;

/// What the screen asks of the engine.
#[derive(Debug, Clone)]
pub enum Command {
    /// Opens a model, letting go of the one before.
    Load(PathBuf),
    /// Answers the conversation, whose last message is the user's. What is already in the KV cache is not computed again.
    Generate { messages: Vec<Message>, sampling: SamplingParams },
    /// Ends the thread.
    Quit,
}

/// What the engine tells the screen, in order.
#[derive(Debug, Clone)]
pub enum Event {
    Loaded(ModelSummary),
    LoadFailed {
        path: PathBuf,
        error: String,
    },
    /// Something the person should see, for example a fallback chat template.
    Warning(String),
    /// The reply has begun: the prompt's tokens, and how many of them were in the KV cache already.
    ReplyStarted {
        prompt_tokens: usize,
        reused_tokens: usize,
    },
    /// More text of the reply.
    Text(String),
    ReplyFinished {
        stop: StopReason,
        stats: ReplyStats,
    },
    /// The conversation does not fit: nothing was computed. `droppable_turns`: how many of the oldest turns must go so that
    /// it fits; `None` where not even the last message fits alone.
    ContextFull {
        needed: usize,
        capacity: usize,
        droppable_turns: Option<usize>,
    },
    ReplyFailed(String),
}

/// What the screen shows of a loaded model.
#[derive(Debug, Clone, Default)]
pub struct ModelSummary {
    pub name: String,
    pub path: PathBuf,
    pub architecture: String,
    /// For example `Q4_K_M` or `mostly Q4_K`.
    pub quantization: String,
    pub parameters: u64,
    pub file_bytes: u64,
    pub n_layers: usize,
    /// 0 for a dense model.
    pub n_experts: usize,
    pub n_experts_used: usize,
    pub context_length: usize,
}

/// The screen's end of the worker.
#[derive(Debug)]
pub struct WorkerHandle {
    pub commands: Sender<Command>,
    pub events: Receiver<Event>,
    pub telemetry: Arc<Telemetry>,
    /// Set to stop the reply (or the load) within a layer's time; the worker clears it when it takes the next command.
    pub cancel: Arc<AtomicBool>,
}
