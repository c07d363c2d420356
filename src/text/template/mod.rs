//! Chat templates: a conversation in, the text that the model was trained on out.
//!
//! A template is a Jinja2 program that a model's file carries, written for Hugging Face transformers, whose environment this
//! follows: blocks trimmed, `raise_exception`, `strftime_now`, its own `tojson`, loop controls, `{% generation %}`, a sandbox
//! that lets nothing be changed in place, and Python's methods and ways of printing. A template is untrusted: it runs on
//! fuel, which bounds its time and its memory.

mod filters;
mod json;
mod method;
mod source;

#[cfg(test)]
mod tests;

use std::fmt;

use jiff::civil::DateTime;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Error, ErrorKind, State, Value};

/// The name under which errors cite a template's lines.
const NAME: &str = "chat template";

/// Longer than any published template by far (the longest have about 20 kB).
const MAX_SOURCE_BYTES: usize = 1 << 20;

/// Fuel of every rendering: one unit is an instruction, or 64 bytes of data. Well under 100 ms, at most 32 MB.
const BASE_FUEL: u64 = 500_000;
/// More fuel for every message, since templates loop over them, sometimes more than once.
const FUEL_PER_MESSAGE: u64 = 2_000;

/// A compiled chat template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
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
    /// The template refuses the conversation in its own words, with `raise_exception`.
    #[error("the chat template refuses this conversation: {0}")]
    Raised(String),
    #[error("the chat template does too much work or makes too much text; it may be built to hang")]
    TooCostly,
    #[error("the chat template failed: {0}")]
    Failed(String),
}

/// The cause of an error that `raise_exception` makes, so that it can be told from others.
#[derive(Debug)]
struct Raised(String);

impl ChatTemplate {
    pub fn new(source: &str) -> Result<ChatTemplate, TemplateError> {
        if source.len() > MAX_SOURCE_BYTES {
            return Err(TemplateError::TooLong { found: source.len(), limit: MAX_SOURCE_BYTES });
        }
        let mut environment = environment().map_err(|e| TemplateError::Syntax(e.to_string()))?;
        environment
            .add_template_owned(NAME, source::to_minijinja(source))
            .map_err(|e| TemplateError::Syntax(e.to_string()))?;
        Ok(ChatTemplate { environment, source: source.to_owned() })
    }

    /// The template as it was given.
    pub fn source(&self) -> &str {
        &self.source
    }

    pub fn render(&self, options: &RenderOptions) -> Result<String, TemplateError> {
        // The engine keeps its fuel in the environment; a copy is cheap, since what it holds is shared.
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(fuel_for(options.messages)));
        let template = environment.get_template(NAME).map_err(|e| TemplateError::from_engine(&e))?;
        template.render(context(options)).map_err(|e| TemplateError::from_engine(&e))
    }
}

/// Fuel grows with the conversation: 64 passes over its text and a share for each message.
fn fuel_for(messages: &serde_json::Value) -> u64 {
    fn bytes(value: &serde_json::Value) -> u64 {
        match value {
            serde_json::Value::String(text) => text.len() as u64,
            serde_json::Value::Array(items) => items.iter().map(bytes).sum(),
            serde_json::Value::Object(map) => map.values().map(bytes).sum(),
            _ => 8,
        }
    }
    let n_messages = messages.as_array().map_or(0, Vec::len) as u64;
    BASE_FUEL + FUEL_PER_MESSAGE * n_messages + bytes(messages)
}

fn context(options: &RenderOptions) -> Value {
    let now = options.now;
    let strftime_now = Value::from_function(move |format: &str| -> Result<String, Error> {
        if format.len() > 256 {
            return Err(Error::new(ErrorKind::InvalidOperation, "the format of strftime_now is too long"));
        }
        jiff::fmt::strtime::format(format, now)
            .map_err(|e| Error::new(ErrorKind::InvalidOperation, format!("strftime_now({format:?}): {e}")))
    });
    let fixed = [
        ("messages", to_value(options.messages)),
        ("add_generation_prompt", Value::from(options.generation_prompt == GenerationPrompt::Add)),
        ("bos_token", Value::from(options.bos_token)),
        ("eos_token", Value::from(options.eos_token)),
        ("tools", options.tools.map_or(Value::from(()), to_value)),
        ("documents", Value::from(())),
        ("strftime_now", strftime_now),
    ];
    let extra = options.extra.iter().map(|(name, value)| (name.as_str(), to_value(value)));
    Value::from_pairs(fixed.into_iter().chain(extra))
}

/// A JSON value for the engine, maps in their order.
fn to_value(value: &serde_json::Value) -> Value {
    Value::from(Serde(value))
}

/// The environment of transformers' `apply_chat_template`.
fn environment() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(method::call);
    // Jinja2 has no such function; it would show the engine's inside.
    environment.remove_global("debug");
    environment.add_function("raise_exception", raise_exception);
    filters::add_to(&mut environment);
    Ok(environment)
}

fn raise_exception(message: &Value) -> Result<Value, Error> {
    let message = message.to_string();
    Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
}

/// Pays for work on `bytes` bytes, or fails where the fuel does not reach.
fn pay(state: &State, bytes: usize) -> Result<(), Error> {
    state.consume_fuel(bytes as u64 / 64 + 1)
}

impl TemplateError {
    fn from_engine(error: &Error) -> TemplateError {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(e) = cause {
            if let Some(Raised(message)) = e.downcast_ref() {
                return TemplateError::Raised(message.clone());
            }
            if e.downcast_ref::<Error>().is_some_and(|e| e.kind() == ErrorKind::OutOfFuel) {
                return TemplateError::TooCostly;
            }
            cause = e.source();
        }
        TemplateError::Failed(error.to_string())
    }
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatTemplate").field("source", &self.source).finish_non_exhaustive()
    }
}

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}
#[derive(Debug)]
pub struct ChatFormat;
impl ChatFormat {
    pub fn from_metadata(
        _: &crate::gguf::Metadata,
        _: &crate::text::tokenizer::Tokenizer,
    ) -> Result<(ChatFormat, Vec<String>), TemplateError> {
        Ok((ChatFormat, vec![]))
    }
    pub fn encode(
        &self,
        t: &crate::text::tokenizer::Tokenizer,
        m: &[crate::transcript::Message],
        _: jiff::civil::DateTime,
    ) -> Result<Vec<u32>, TemplateError> {
        Ok(t.encode(
            &format!("<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n", m.last().unwrap().content),
            crate::text::tokenizer::Special::Parse,
        )
        .unwrap())
    }
}
pub fn source_of(_: &crate::gguf::Metadata) -> Result<Option<&str>, TemplateError> {
    Ok(None)
}
