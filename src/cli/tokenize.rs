//! `wayinfer tokenize`: the token ids of a text.

use std::io::{self, IsTerminal, Read};
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::options::{Common, Screen, find_model};
use super::output::{self, usage};
use crate::gguf::Gguf;
use crate::text::tokenizer::{Special, Tokenizer};

/// The longest text that is tokenized.
const MAX_TEXT: u64 = 1 << 30;

#[derive(Debug, Args)]
pub(super) struct TokenizeArgs {
    /// The model (a vocabulary alone will do), then the text
    #[arg(value_name = "MODEL> <TEXT", num_args = 0..=2)]
    positional: Vec<String>,
    /// The model, as an option
    #[arg(long, value_name = "PATH")]
    model: Option<PathBuf>,
    /// The text of a file
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Read control tokens in the text as such
    #[arg(long)]
    special: bool,
    /// `{"ids": [..]}` instead of one id a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    common: Common,
}

impl TokenizeArgs {
    /// Model and text, where the text is an argument.
    fn model_and_text(&self) -> anyhow::Result<(PathBuf, Option<String>)> {
        match (&self.model, &self.positional[..]) {
            (Some(model), []) => Ok((model.clone(), None)),
            (Some(model), [text]) => Ok((model.clone(), Some(text.clone()))),
            (None, [model]) => Ok((model.into(), None)),
            (None, [model, text]) => Ok((model.into(), Some(text.clone()))),
            _ => Err(usage("tokenize takes one model and one text")),
        }
    }

    fn text(&self, argument: Option<String>) -> anyhow::Result<String> {
        let bytes = match (argument, &self.file) {
            (Some(_), Some(_)) => return Err(usage("a text and --file were both given")),
            (Some(text), None) => return Ok(text),
            (None, Some(file)) => output::read_limited(file, MAX_TEXT)?,
            (None, None) if io::stdin().is_terminal() => {
                return Err(usage("no text; give one, name a --file, or pipe one in"));
            }
            (None, None) => {
                let mut bytes = Vec::new();
                io::stdin().lock().take(MAX_TEXT).read_to_end(&mut bytes)?;
                bytes
            }
        };
        String::from_utf8(bytes).map_err(|e| anyhow::anyhow!("the text is not UTF-8: {e}"))
    }
}

pub(super) fn tokenize(args: &TokenizeArgs) -> anyhow::Result<()> {
    let (name, argument) = args.model_and_text()?;
    let path = find_model(&name)?;
    args.common.start_log(Screen::Free)?;
    let text = args.text(argument)?;
    let gguf = Gguf::open(&path)?;
    let (tokenizer, warnings) =
        Tokenizer::from_metadata(&gguf.metadata).map_err(|e| anyhow::anyhow!("{}: {e}", path.display()))?;
    warnings.iter().for_each(|w| output::warn(w));
    let ids = tokenizer.encode(&text, if args.special { Special::Parse } else { Special::Plain })?;
    if args.json {
        output::print_json(&json!({ "ids": ids }))?;
    } else {
        output::print(&ids.iter().map(|id| format!("{id}\n")).collect::<String>())?;
    }
    Ok(())
}
