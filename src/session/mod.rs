//! One conversation with a model: which tokens its KV cache holds, how much of a new prompt is already there, and the
//! loop that makes a reply.

mod chat;
mod engine;
mod said;
mod saved;

pub use chat::{Chat, ChatError, ReplySink};
pub use engine::{EngineError, EngineOptions, Watch, Words, bind_model, chat, open_file, read_in};
pub use saved::{KvFile, LoadError, SaveError, Saved, Section};

use std::ops::ControlFlow;
use std::time::Instant;

use crate::kernel::LEAST_BATCH;
use crate::model::{Compute, Control, ForwardError, KvCacheError, KvParams, LOGIT_ROWS, Model, State};
use crate::sampler::Sampler;
use said::Said;

/// A model, a KV cache, and the tokens that are in it.
#[derive(Debug)]
pub struct Session<'m> {
    model: &'m Model<'m>,
    compute: &'m Compute,
    state: State,
    /// The tokens whose keys and values the cache holds.
    cached: Vec<u32>,
    /// The replies among them, in their order.
    replies: Vec<Said>,
}

/// What a reply may take, and who is told of it.
pub struct ReplyRequest<'r> {
    /// The whole conversation, rendered and tokenized.
    pub prompt: &'r [u32],
    /// The most tokens to generate; `None`: until the context is full.
    pub max_tokens: Option<usize>,
    /// Whether a token ends the turn.
    pub is_end: &'r dyn Fn(u32) -> bool,
    /// Called once the prompt has been computed, with the figures so far.
    pub on_prompt: &'r mut dyn FnMut(PromptStats),
    /// Called with every token of the reply; a break ends the turn.
    pub on_token: &'r mut dyn FnMut(u32) -> ControlFlow<()>,
}

/// What reading a prompt cost.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PromptStats {
    /// Tokens found in the KV cache.
    pub reused: usize,
    /// Tokens computed.
    pub computed: usize,
    pub seconds: f64,
}

/// Why a reply ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    EndOfTurn,
    MaxTokens,
    ContextFull,
    Cancelled,
}

impl StopReason {
    pub const ALL: [StopReason; 4] =
        [StopReason::EndOfTurn, StopReason::MaxTokens, StopReason::ContextFull, StopReason::Cancelled];

    /// The name in `--json` and in transcripts.
    pub fn name(self) -> &'static str {
        match self {
            StopReason::EndOfTurn => "end_of_turn",
            StopReason::MaxTokens => "max_tokens",
            StopReason::ContextFull => "context_full",
            StopReason::Cancelled => "cancelled",
        }
    }
}

/// Counts and speeds of one reply.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ReplyStats {
    /// Prompt tokens computed; those found in the KV cache are not counted.
    pub prompt_tokens: usize,
    pub prompt_seconds: f64,
    pub generated_tokens: usize,
    pub generate_seconds: f64,
}

/// Why there is no reply.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error("the prompt is empty")]
    EmptyPrompt,
    #[error(
        "the prompt has {needed} tokens and the context holds {capacity}; shorten it, drop older turns, or start with a larger --ctx"
    )]
    ContextFull { needed: usize, capacity: usize },
    #[error(transparent)]
    Forward(#[from] ForwardError),
}

/// How many of `n` tokens the next pass takes, where it takes at most `most`. None leaves a few tokens over: those are
/// computed by other kernels than a batch, with other sums, and how memory cuts a prompt must not change a bit.
fn pass_of(n: usize, most: usize) -> usize {
    assert!(most >= 2 * LEAST_BATCH, "passes of {most} tokens");
    if n > most && n - most < LEAST_BATCH { n - LEAST_BATCH } else { n.min(most) }
}

impl<'m> Session<'m> {
    /// An empty session with a KV cache as `kv` says.
    pub fn new(model: &'m Model<'m>, compute: &'m Compute, kv: KvParams) -> Result<Session<'m>, KvCacheError> {
        let state = State::new(model, kv)?;
        Ok(Session { model, compute, state, cached: Vec::new(), replies: Vec::new() })
    }

    pub fn capacity(&self) -> usize {
        self.state.kv.capacity()
    }

    /// Tokens in the KV cache.
    pub fn cached(&self) -> &[u32] {
        &self.cached
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.keep(0);
    }

    /// Bytes of the KV cache.
    pub fn kv_bytes(&self) -> usize {
        self.state.kv.bytes()
    }

    /// Forgets all tokens from `len` on.
    pub fn keep(&mut self, len: usize) {
        self.cached.truncate(len);
        self.state.kv.truncate(len);
        self.replies.retain(|reply| reply.known_end() <= len);
    }

    fn n_vocab(&self) -> usize {
        self.model.hyperparameters().n_vocab
    }

    /// The prompt with every reply that this session gave in the tokens in which it was said, so that the KV cache serves
    /// it. `bytes_of` appends the bytes that a token stands for.
    pub fn respelled(&self, prompt: &[u32], bytes_of: impl Fn(u32, &mut Vec<u8>)) -> Vec<u32> {
        said::respelled(prompt, &self.cached, &self.replies, bytes_of)
    }

    /// Computes `tokens` after what is cached, in passes; on an error, whole passes stay cached. The logits of the last
    /// `n_outputs`, at most a pass, can be asked for then.
    fn compute(&mut self, tokens: &[u32], n_outputs: usize, control: Control<'_>) -> Result<(), ForwardError> {
        let mut rest = tokens;
        while !rest.is_empty() {
            let batch;
            (batch, rest) = rest.split_at(pass_of(rest.len(), self.model.max_batch(self.cached.len())));
            let n_outputs = if rest.is_empty() { n_outputs } else { 0 };
            self.model.forward(self.compute, &mut self.state, batch, n_outputs, control)?;
            self.cached.extend_from_slice(batch);
            let t = control.telemetry;
            t.prompt_in_pass.clear();
            t.prompt_done.set(t.prompt_done.get().unwrap_or(0) + batch.len() as u64);
            t.kv_used.set(self.state.kv.len() as u64);
            t.kv_bytes.set(self.state.kv.bytes() as u64);
        }
        Ok(())
    }

    /// Makes the cache hold exactly `prompt`, computing only what follows the longest common prefix (at least the last
    /// token, whose logits come next).
    fn prefill(&mut self, prompt: &[u32], control: Control<'_>) -> Result<PromptStats, SessionError> {
        if prompt.is_empty() {
            return Err(SessionError::EmptyPrompt);
        }
        if prompt.len() > self.capacity() {
            return Err(SessionError::ContextFull { needed: prompt.len(), capacity: self.capacity() });
        }
        let common = self.cached.iter().zip(prompt).take_while(|(a, b)| a == b).count().min(prompt.len() - 1);
        self.keep(common);
        let t = control.telemetry;
        t.kv_capacity.set(self.capacity() as u64);
        t.begin_prompt(common as u64, prompt.len() as u64);
        let began = Instant::now();
        let outcome = self.compute(&prompt[common..], 1, control);
        t.end_prompt();
        outcome?;
        let seconds = began.elapsed().as_secs_f64();
        let stats = PromptStats { reused: common, computed: prompt.len() - common, seconds };
        t.prompt_milli_tok_s.set((stats.computed as f64 / seconds.max(1e-9) * 1000.0) as u64);
        Ok(stats)
    }

    /// Computes `tokens` after what is cached and returns the logits of the last one.
    pub fn feed(&mut self, tokens: &[u32], control: Control<'_>) -> Result<&[f32], SessionError> {
        if tokens.is_empty() {
            return Err(SessionError::EmptyPrompt);
        }
        let needed = self.cached.len() + tokens.len();
        if needed > self.capacity() {
            return Err(SessionError::ContextFull { needed, capacity: self.capacity() });
        }
        self.compute(tokens, 1, control)?;
        Ok(self.model.logits(self.compute, &mut self.state, 0..1)?)
    }

    /// The logits of every token of `tokens`, from an empty context, given to `each` as `(first position, [n, n_vocab])`.
    pub fn all_logits(
        &mut self,
        tokens: &[u32],
        control: Control<'_>,
        each: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), SessionError> {
        self.clear();
        if tokens.is_empty() {
            return Err(SessionError::EmptyPrompt);
        }
        if tokens.len() > self.capacity() {
            return Err(SessionError::ContextFull { needed: tokens.len(), capacity: self.capacity() });
        }
        while self.cached.len() < tokens.len() {
            let done = self.cached.len();
            let n = pass_of(tokens.len() - done, self.model.max_batch(done));
            self.compute(&tokens[done..done + n], n, control)?;
            for first in (0..n).step_by(LOGIT_ROWS) {
                let rows = first..n.min(first + LOGIT_ROWS);
                each(done + first, self.model.logits(self.compute, &mut self.state, rows)?);
            }
        }
        Ok(())
    }

    /// Replies to a prompt. Every token of the reply but the last is in the cache afterwards, for the next turn.
    pub fn reply(
        &mut self,
        request: ReplyRequest<'_>,
        sampler: &mut Sampler,
        control: Control<'_>,
    ) -> Result<(StopReason, ReplyStats), SessionError> {
        let prompt = match self.prefill(request.prompt, control) {
            Err(SessionError::Forward(ForwardError::Cancelled)) => {
                return Ok((StopReason::Cancelled, ReplyStats::default()));
            }
            other => other?,
        };
        (request.on_prompt)(prompt);
        request.prompt.iter().for_each(|&token| sampler.accept(token));
        let mut stats =
            ReplyStats { prompt_tokens: prompt.computed, prompt_seconds: prompt.seconds, ..ReplyStats::default() };
        let began = Instant::now();
        let start = self.cached.len();
        let mut last_said = None;
        let stop = loop {
            if request.max_tokens.is_some_and(|max| stats.generated_tokens >= max) {
                break StopReason::MaxTokens;
            }
            let logits = self.model.logits(self.compute, &mut self.state, 0..1);
            let token = sampler.sample(logits.map_err(SessionError::Forward)?);
            sampler.accept(token);
            if (request.is_end)(token) {
                break StopReason::EndOfTurn;
            }
            let flow = (request.on_token)(token);
            last_said = Some(token);
            stats.generated_tokens += 1;
            let speed = stats.generated_tokens as f64 / began.elapsed().as_secs_f64().max(1e-9);
            control.telemetry.generate_milli_tok_s.set((speed * 1000.0) as u64);
            if flow.is_break() {
                break StopReason::EndOfTurn;
            }
            if self.cached.len() == self.capacity() {
                break StopReason::ContextFull;
            }
            if request.max_tokens == Some(stats.generated_tokens) {
                break StopReason::MaxTokens;
            }
            match self.compute(&[token], 1, control) {
                Err(ForwardError::Cancelled) => break StopReason::Cancelled,
                other => other?,
            }
        };
        stats.generate_seconds = began.elapsed().as_secs_f64();
        let n = stats.generated_tokens;
        match (self.replies.last_mut(), last_said) {
            (_, None) => {}
            // A reply that went on where it had been stopped is one.
            (Some(before), Some(last)) if before.start + before.n == start => {
                (before.n, before.last) = (before.n + n, last);
            }
            (_, Some(last)) => self.replies.push(Said { start, n, last }),
        }
        Ok((stop, stats))
    }
}
