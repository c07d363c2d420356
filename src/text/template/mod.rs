//! Chat templates: a conversation in, the text that the model was trained on out.
//!
//! A template is a Jinja2 program that a model's file carries, written for Hugging Face transformers, whose environment this
//! follows: blocks trimmed, `raise_exception`, `strftime_now`, its own `tojson`, loop controls, `{% generation %}`, a sandbox
//! that lets nothing be changed in place, and Python's methods and ways of printing. A template is untrusted: it runs metered,
//! on fuel, which bounds its time and its memory.

mod engine;
mod filters;
mod json;
mod meter;
mod method;
mod source;

#[cfg(test)]
mod tests;

use jiff::civil::DateTime;
use minijinja::{Error, State};

use meter::Limit;

/// Longer than any published template by far (the longest have about 20 kB).
const MAX_SOURCE_BYTES: usize = 1 << 20;

/// Fuel of every rendering: one unit is an instruction, or 64 bytes of data. Well under a second, at most 32 MB.
const BASE_FUEL: u64 = 500_000;
/// More fuel for every message, since templates loop over them, sometimes more than once.
const FUEL_PER_MESSAGE: u64 = 4_000;
/// More fuel for every byte of the conversation: 128 passes over its text.
const FUEL_PER_BYTE: u64 = 2;

/// A chat template that is known to be valid.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    source: String,
    /// The source as the engine reads it.
    prepared: String,
}

/// What a template is rendered with.
#[derive(Debug, Clone)]
pub struct RenderOptions<'a> {
    /// An array of objects with `role` and `content`.
    pub messages: &'a serde_json::Value,
    pub generation_prompt: GenerationPrompt,
    pub bos_token: &'a str,
    pub eos_token: &'a str,
    /// The clock that `strftime_now` reads.
    pub now: DateTime,
    /// Descriptions of tools, or `None` where there are none.
    pub tools: Option<&'a serde_json::Value>,
    /// Further variables, such as `enable_thinking`.
    pub extra: serde_json::Map<String, serde_json::Value>,
}

/// Whether the text ends with the opening of the assistant's reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GenerationPrompt {
    Add,
    Omit,
}

/// What can go wrong with a template.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    #[error("the chat template has {found} bytes, the limit is {limit}")]
    TooLong { found: usize, limit: usize },
    #[error("the chat template is not valid Jinja: {0}")]
    Syntax(String),
    #[error("the chat template has {what}, more than any that was made in good faith")]
    Unreasonable { what: &'static str },
    /// The template refuses the conversation in its own words, with `raise_exception`.
    #[error("the chat template refuses this conversation: {0}")]
    Raised(String),
    #[error("the chat template does too much work or makes too much text; it may be built to hang")]
    TooCostly,
    #[error("the chat template failed: {0}")]
    Failed(String),
    #[error("the template engine broke down at this chat template")]
    BrokeDown,
    #[error("no thread for the chat template: {0}")]
    Thread(#[from] std::io::Error),
}

impl ChatTemplate {
    pub fn new(source: &str) -> Result<ChatTemplate, TemplateError> {
        if source.len() > MAX_SOURCE_BYTES {
            return Err(TemplateError::TooLong { found: source.len(), limit: MAX_SOURCE_BYTES });
        }
        let prepared = source::prepare(source)?;
        engine::check(&prepared)?;
        Ok(ChatTemplate { source: source.to_owned(), prepared })
    }

    /// The template as it was given.
    pub fn source(&self) -> &str {
        &self.source
    }

    pub fn render(&self, options: &RenderOptions) -> Result<String, TemplateError> {
        let text_bytes = text_bytes(options.messages) + options.tools.map_or(0, text_bytes);
        let n_messages = options.messages.as_array().map_or(0, Vec::len) as u64;
        let fuel = BASE_FUEL + FUEL_PER_MESSAGE * n_messages + FUEL_PER_BYTE * text_bytes as u64;
        engine::render(&self.prepared, options, fuel, Limit::for_text(text_bytes))
    }
}

/// The bytes of all strings in a value.
fn text_bytes(value: &serde_json::Value) -> usize {
    match value {
        serde_json::Value::String(text) => text.len(),
        serde_json::Value::Array(items) => items.iter().map(text_bytes).sum(),
        serde_json::Value::Object(map) => map.values().map(text_bytes).sum(),
        _ => 8,
    }
}

/// Pays for work on `bytes` bytes, or fails where the fuel does not reach.
fn pay(state: &State, bytes: usize) -> Result<(), Error> {
    state.consume_fuel(bytes as u64 / 64 + 1)
}
