//! `wayinfer render`: a conversation through a chat template, as text.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use jiff::civil::DateTime;

use super::options::find_model;
use super::output::{self, usage};
use crate::gguf::Gguf;
use crate::text::template::{ChatTemplate, GenerationPrompt, RenderOptions};

/// The longest template and the longest conversation read.
const MAX_TEMPLATE: u64 = 4 << 20;
const MAX_MESSAGES: u64 = 256 << 20;

#[derive(Debug, Args)]
pub(super) struct RenderArgs {
    /// A GGUF file whose template is used
    #[arg(value_name = "MODEL")]
    positional: Option<PathBuf>,
    /// The model, as an option
    #[arg(long, value_name = "PATH", conflicts_with = "positional")]
    model: Option<PathBuf>,
    /// A file with a template, instead of a model
    #[arg(long, value_name = "FILE", conflicts_with_all = ["positional", "model"])]
    template: Option<PathBuf>,
    /// A JSON array of messages, or an object with `messages` and further template variables
    #[arg(long, value_name = "FILE")]
    messages: PathBuf,
    /// End after the last message, without the opening of a reply
    #[arg(long)]
    no_generation_prompt: bool,
    /// The text of the BOS token [default: the model's]
    #[arg(long, value_name = "S", allow_hyphen_values = true)]
    bos: Option<String>,
    /// The text of the EOS token [default: the model's]
    #[arg(long, value_name = "S", allow_hyphen_values = true)]
    eos: Option<String>,
    /// What the template takes for the time, for example 2026-01-15T09:30:00 [default: the clock]
    #[arg(long, value_name = "ISO-8601")]
    now: Option<String>,
}

/// A template, and the texts of its model's BOS and EOS.
struct Source {
    template: String,
    bos: String,
    eos: String,
}

pub(super) fn render(args: &RenderArgs) -> anyhow::Result<()> {
    let source = source(args)?;
    let template = ChatTemplate::new(&source.template)?;
    let name = args.messages.display();
    let json: serde_json::Value = serde_json::from_slice(&output::read_limited(&args.messages, MAX_MESSAGES)?)
        .with_context(|| format!("{name} is not JSON"))?;
    let (messages, extra) = match json {
        serde_json::Value::Object(mut object) => {
            let messages = object.shift_remove("messages");
            (messages.ok_or_else(|| anyhow::anyhow!("{name} has no `messages`"))?, object)
        }
        other => (other, serde_json::Map::new()),
    };
    anyhow::ensure!(messages.is_array(), "{name} holds no array of messages");
    let now = match &args.now {
        Some(text) => parse_time(text)?,
        None => jiff::Zoned::now().datetime(),
    };
    let text = template.render(&RenderOptions {
        messages: &messages,
        generation_prompt: if args.no_generation_prompt { GenerationPrompt::Omit } else { GenerationPrompt::Add },
        bos_token: args.bos.as_deref().unwrap_or(&source.bos),
        eos_token: args.eos.as_deref().unwrap_or(&source.eos),
        now,
        tools: None,
        extra,
    })?;
    output::print(&text)?;
    Ok(())
}

fn source(args: &RenderArgs) -> anyhow::Result<Source> {
    if let Some(path) = &args.template {
        let template = String::from_utf8(output::read_limited(path, MAX_TEMPLATE)?)
            .map_err(|e| anyhow::anyhow!("{} is not UTF-8: {e}", path.display()))?;
        return Ok(Source { template, bos: String::new(), eos: String::new() });
    }
    let path = args.positional.as_ref().or(args.model.as_ref());
    let path = path.ok_or_else(|| usage("no template; name a model, or a --template file"))?;
    let path = &find_model(path)?;
    let gguf = Gguf::open(path)?;
    let template = crate::text::chat::source(&gguf.metadata)?
        .ok_or_else(|| anyhow::anyhow!("{} has no chat template; give one with --template", path.display()))?;
    let token = |key: &str| -> anyhow::Result<String> {
        let id = gguf.metadata.u64(key)?;
        let tokens = gguf.metadata.strings("tokenizer.ggml.tokens")?.unwrap_or_default();
        Ok(id.and_then(|id| tokens.get(id as usize)).cloned().unwrap_or_default())
    };
    Ok(Source {
        template: template.to_owned(),
        bos: token("tokenizer.ggml.bos_token_id")?,
        eos: token("tokenizer.ggml.eos_token_id")?,
    })
}

/// A civil time; a zone, where one is given, is what the template's clock shows.
fn parse_time(text: &str) -> anyhow::Result<DateTime> {
    let civil = text.strip_suffix('Z').unwrap_or(text);
    civil.parse::<DateTime>().map_err(|e| usage(format!("--now {text} is no time such as 2026-01-15T09:30:00: {e}")))
}
