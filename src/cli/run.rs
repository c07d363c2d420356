//! `wayinfer run`: one reply on stdout, and nothing else there.

use std::io::{self, IsTerminal, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Args;
use serde_json::json;

use super::options::{Common, ModelArg, SamplingArgs, Screen, embedded_model};
use super::output::{self, Progress, usage};
use super::session::{SessionArg, Turn};
use crate::embedded;
use crate::session::{self, KvFile, PromptStats, ReplySink, ReplyStats, StopReason, Watch, Words};
use crate::store::System;
use crate::text::tokenizer::Special;
use crate::transcript::{Message, Role};
use crate::worker::{ModelSummary, model_record};

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
    #[arg(long, conflicts_with = "session")]
    raw: bool,
    /// The system message
    #[arg(long, value_name = "TEXT", conflicts_with = "raw", allow_hyphen_values = true)]
    system: Option<String>,
    #[command(flatten)]
    session: SessionArg,
    /// The prompt as little-endian i32 token ids
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "raw", "system", "session"])]
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
    let path = &model_path(&args)?;
    let sampling = args.sampling.params_for(path)?;
    let options = args.common.engine()?;
    args.common.start_log(Screen::Free)?;
    let text = match args.ids_file {
        Some(_) => None,
        None => Some(prompt_text(args.prompt.as_deref())?),
    };
    let session = args.session.open(args.system.as_deref())?;
    let compute = options.compute()?;
    let file = session::open_file(path)?;
    let model = session::bind_model(path, &file, &options)?;
    let words = Words::read(path, &file, model.hyperparameters().n_vocab)?;
    words.warnings.iter().chain(&model.plan().warnings()).for_each(|w| output::warn(w));
    let watch = Watch::unattended(&file, &model, options.prefetch).record(&options, &file, &model)?;
    output::tell_paging(&watch);
    let mut chat = session::chat(&model, &compute, &words, &options)?;

    let mut turn = None;
    let prompt = match (&args.ids_file, &text) {
        (Some(ids), _) => output::read_ids(ids)?,
        (None, Some(text)) if args.raw => {
            let ids = words.tokenizer.encode(text, Special::Plain)?;
            words.tokenizer.bos().filter(|_| words.tokenizer.add_bos()).into_iter().chain(ids).collect()
        }
        (None, text) => {
            let text = text.clone().unwrap_or_default();
            let messages = match session {
                None => messages(args.system, text),
                Some(session) => {
                    let kv = KvFile::new(session.kv_path(), &file, &model);
                    let record = model_record(&ModelSummary::new(path, &file, &model, chat.session.capacity()));
                    let (begun, messages) =
                        Turn::begin(session, kv, &mut chat, record, &sampling, (args.system, text))?;
                    turn = Some(begun);
                    messages
                }
            };
            chat.prompt(&messages, now())?
        }
    };
    let mut said = String::new();
    let mut failed = None;
    let mut prompt_stats = PromptStats::default();
    let (cancel, ended) = (Arc::clone(&watch.cancel), AtomicBool::new(false));
    let outcome = std::thread::scope(|scope| {
        let (done_tx, done_rx) = crossbeam_channel::bounded::<()>(0);
        let telemetry = &watch.telemetry;
        scope.spawn(|| session::read_in(&file, &model, telemetry, &ended));
        scope.spawn(move || {
            let mut weights = Progress::new("reading the weights, MB");
            let mut prompt = Progress::new("reading the prompt");
            let tick = std::time::Duration::from_millis(200);
            while let Err(crossbeam_channel::RecvTimeoutError::Timeout) = done_rx.recv_timeout(tick) {
                let snapshot = telemetry.snapshot();
                if let Some((done, total)) = snapshot.loading {
                    weights.show((done / 1_000_000) as usize, (total / 1_000_000) as usize);
                } else if let Some((done, total)) = snapshot.prompt {
                    prompt.show(done as usize, total as usize);
                }
            }
        });
        let mut done = Some(done_tx);
        let sink = ReplySink {
            on_prompt: &mut |stats| {
                drop(done.take());
                prompt_stats = stats;
            },
            on_text: &mut |piece| {
                said.push_str(piece);
                turn.iter_mut().for_each(|turn| turn.push(piece));
                if !args.json
                    && failed.is_none()
                    && let Err(error) = output::print(piece)
                {
                    cancel.store(true, std::sync::atomic::Ordering::Relaxed);
                    failed = Some(error);
                }
            },
        };
        let outcome = chat.reply(&prompt, &sampling, args.max_tokens, watch.control(), sink);
        ended.store(true, std::sync::atomic::Ordering::Relaxed);
        outcome
    });
    let traced = watch.finish_trace();
    let printed = match (&outcome, failed) {
        (_, Some(error)) => Err(error),
        (Ok((stop, stats)), None) if args.json => {
            let mut report = report(&said, *stop, stats, prompt_stats.reused);
            report["paging"] = watch.telemetry.paging().map(|paging| output::paging_json(&paging.snapshot())).into();
            report["memory"] = output::plan_json(model.plan());
            output::print_json(&report)
        }
        (Ok(_), None) if !said.ends_with('\n') => output::print("\n"),
        _ => Ok(()),
    };
    let saved = turn.map_or(Ok(()), |turn| turn.end(outcome.as_ref().ok().map(|(stop, stats)| (*stop, stats)), &chat));
    outcome?;
    saved?;
    traced?;
    Ok(printed?)
}

/// The model that is named, or the one in the binary, and then a word of what it is.
fn model_path(args: &RunArgs) -> anyhow::Result<PathBuf> {
    if let Some(named) = args.model.path()? {
        return Ok(named);
    }
    output::warn(embedded::NOTICE);
    embedded_model()
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

fn report(text: &str, stop: StopReason, stats: &ReplyStats, reused: usize) -> serde_json::Value {
    let speed = |tokens: usize, seconds: f64| (seconds > 0.0).then(|| tokens as f64 / seconds);
    json!({
        "text": text,
        "prompt": {
            "tokens": stats.prompt_tokens,
            "reused_tokens": reused,
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
