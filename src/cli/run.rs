//! `wayinfer run`: one reply on stdout, and nothing else there.

use std::io::{self, IsTerminal, Read};
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde_json::json;

use super::options::{Common, ModelArg, SamplingArgs, Screen};
use super::output::{self, Progress, usage};
use crate::session::{self, ReplySink, ReplyStats, StopReason, Watch, Words};
use crate::store::System;
use crate::text::tokenizer::Special;
use crate::transcript::{Message, Role};

/// The longest text read from a pipe.
const MAX_INPUT: u64 = 64 << 20;

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    model: ModelArg,
    /// What to answer; `-` reads it from stdin, and so does leaving this out with a pipe
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: Option<String>,
    /// Continue the text as it is, without the chat template
    #[arg(long)]
    raw: bool,
    /// The system message
    #[arg(long, value_name = "TEXT", conflicts_with = "raw", allow_hyphen_values = true)]
    system: Option<String>,
    /// The prompt as little-endian i32 token ids
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "raw", "system"])]
    ids_file: Option<PathBuf>,
    /// The most tokens to generate [default: until the turn ends or the context is full]
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    /// The reply and its figures as one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    common: Common,
}

pub(super) fn run(args: RunArgs) -> anyhow::Result<()> {
    let path = args.model.required()?;
    let sampling = args.sampling.params()?;
    let options = args.common.engine()?;
    args.common.start_log(Screen::Free)?;
    let text = match args.ids_file {
        Some(_) => None,
        None => Some(prompt_text(args.prompt.as_deref())?),
    };
    let compute = options.compute()?;
    let file = session::open_file(path)?;
    let model = session::bind_model(path, &file, &options)?;
    let words = Words::read(path, &file, model.hyperparameters().n_vocab)?;
    words.warnings.iter().chain(&model.plan().warnings()).for_each(|w| output::warn(w));
    let watch = Watch::unattended(&file, &model, options.prefetch);
    let mut chat = session::chat(&model, &compute, &words, &options)?;

    let prompt = match (&args.ids_file, &text) {
        (Some(ids), _) => output::read_ids(ids)?,
        (None, Some(text)) if args.raw => {
            let ids = words.tokenizer.encode(text, Special::Plain)?;
            words.tokenizer.bos().filter(|_| words.tokenizer.add_bos()).into_iter().chain(ids).collect()
        }
        (None, text) => chat.prompt(&messages(args.system, text.clone().unwrap_or_default()), now())?,
    };
    file.advise_dense_willneed();
    let mut said = String::new();
    let mut failed = None;
    let cancel = Arc::clone(&watch.cancel);
    let outcome = std::thread::scope(|scope| {
        let (done_tx, done_rx) = crossbeam_channel::bounded::<()>(0);
        let telemetry = &watch.telemetry;
        scope.spawn(move || {
            let mut progress = Progress::new("reading the prompt");
            let tick = std::time::Duration::from_millis(200);
            while let Err(crossbeam_channel::RecvTimeoutError::Timeout) = done_rx.recv_timeout(tick) {
                if let Some((done, total)) = telemetry.snapshot().prompt {
                    progress.show(done as usize, total as usize);
                }
            }
        });
        let mut done = Some(done_tx);
        let sink = ReplySink {
            on_prompt: &mut |_| drop(done.take()),
            on_text: &mut |piece| {
                said.push_str(piece);
                if !args.json
                    && failed.is_none()
                    && let Err(error) = output::print(piece)
                {
                    cancel.store(true, std::sync::atomic::Ordering::Relaxed);
                    failed = Some(error);
                }
            },
        };
        chat.reply(&prompt, &sampling, args.max_tokens, watch.control(), sink)
    });
    let (stop, stats) = outcome?;
    if let Some(error) = failed {
        return Err(error.into());
    }
    if args.json {
        output::print_json(&report(&said, stop, &stats))?;
    } else if !said.ends_with('\n') {
        output::print("\n")?;
    }
    Ok(())
}

fn now() -> jiff::civil::DateTime {
    jiff::Zoned::now().datetime()
}

fn messages(system: Option<String>, text: String) -> Vec<Message> {
    let system = system.map(|content| Message { role: Role::System, content });
    system.into_iter().chain([Message { role: Role::User, content: text }]).collect()
}

/// The prompt of `-p`, or of a pipe.
fn prompt_text(option: Option<&str>) -> anyhow::Result<String> {
    let piped = || -> anyhow::Result<String> {
        let mut bytes = Vec::new();
        io::stdin().lock().take(MAX_INPUT + 1).read_to_end(&mut bytes)?;
        anyhow::ensure!(bytes.len() as u64 <= MAX_INPUT, "stdin holds more than {} MiB", MAX_INPUT >> 20);
        String::from_utf8(bytes).map_err(|e| anyhow::anyhow!("stdin is not UTF-8: {e}"))
    };
    let text = match option {
        Some("-") => piped()?,
        None if io::stdin().is_terminal() => return Err(usage("no prompt; give -p TEXT, or pipe one in")),
        None => piped()?,
        Some(text) => text.to_owned(),
    };
    if text.is_empty() {
        return Err(usage("the prompt is empty"));
    }
    Ok(text)
}

fn report(text: &str, stop: StopReason, stats: &ReplyStats) -> serde_json::Value {
    let speed = |tokens: usize, seconds: f64| (seconds > 0.0).then(|| tokens as f64 / seconds);
    json!({
        "text": text,
        "prompt": {
            "tokens": stats.prompt_tokens,
            "tok_s": speed(stats.prompt_tokens, stats.prompt_seconds),
        },
        "generate": {
            "tokens": stats.generated_tokens,
            "tok_s": speed(stats.generated_tokens, stats.generate_seconds),
        },
        "stop": stop.name(),
        "disk_read_bytes": System::discover().process().disk_read_bytes,
    })
}
