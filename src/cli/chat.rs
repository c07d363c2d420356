//! `wayinfer [MODEL]`: the chat.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::Args;
use crossbeam_channel::Receiver;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::look::LookArgs;
use super::options::{Common, ModelArg, SamplingArgs, Screen, data_folder, embedded_model, model_folders, note_use};
use super::output;
use super::session::SessionArg;
use crate::catalog;
use crate::tui::{self, ChatOptions, ExitReason, Keys};
use crate::worker::{self, Event};

/// How long the worker may take to save the KV cache at the end, and after what time the person is told of it.
const PATIENCE: Duration = Duration::from_secs(60);
const TELL_AFTER: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(super) struct ChatArgs {
    #[command(flatten)]
    model: ModelArg,
    /// The system message
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    system: Option<String>,
    #[command(flatten)]
    session: SessionArg,
    /// Go on with the latest conversation, or with the one of this name; `wayinfer sessions` lists them
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = "", conflicts_with = "session")]
    resume: Option<String>,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    look: LookArgs,
}

/// Whether the command line says how tokens are chosen; a session has its own word on that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sampling {
    Asked,
    NotAsked,
}

pub(super) fn chat(args: ChatArgs, asked: Sampling, keys: Keys) -> anyhow::Result<()> {
    let mut model = args.model.path()?;
    let options = args.common.engine()?;
    let appearance = args.look.appearance()?;
    args.common.start_log(Screen::Taken)?;
    let data = data_folder()?;
    let sessions = data.join("sessions");
    let session = match &args.resume {
        Some(name) => Some(super::sessions::open(&sessions, name)?),
        None => args.session.open(args.system.as_deref())?,
    };
    let models = data.join("models");
    // What is named is opened, or what the conversation was about to go on with; where there is nothing to choose from, the
    // model in the binary is.
    if model.is_none() {
        let last = session.as_ref().and_then(|session| session.transcript()?.model_path());
        model = last.filter(|path| path.is_file()).map(std::path::Path::to_owned);
    }
    let nothing_else = model.is_none() && catalog::scan(&models).models.is_empty();
    let embedded = match embedded_model() {
        Err(error) if nothing_else => return Err(error),
        embedded => embedded.ok(),
    };
    if nothing_else {
        model.clone_from(&embedded);
    }
    let sampling = match &model {
        Some(model) => args.sampling.params_for(model)?,
        None => args.sampling.params()?,
    };
    if let Some(model) = &model {
        note_use(&data, model);
    }
    let plan = Some(options.plan());
    let handle = worker::spawn(options)?;
    let events = handle.events.clone();
    let options = ChatOptions {
        model,
        embedded,
        session,
        sessions_dir: Some(sessions),
        sampling,
        sampling_asked: asked == Sampling::Asked,
        system: args.system,
        models: model_folders()?,
        keep_kv: args.session.is_named(),
        prompts: Some(data.join("prompts.jsonl")),
        appearance,
        keys,
        plan,
        ..ChatOptions::new(models)
    };
    let exit = tui::run(handle, options)?;
    wait_for_worker(&events);
    if let Some(path) = &exit.transcript {
        output::warn(&format!("the conversation is in {}", path.display()));
    }
    if let Some(unsaved) = &exit.unsaved {
        output::warn(unsaved);
    }
    if let Some(panic) = &exit.panic {
        anyhow::bail!("something failed that should not have: {panic}");
    }
    if let ExitReason::Signal(signal) = exit.reason {
        // Whoever sent the signal is to see that it was what ended us.
        signal_hook::low_level::emulate_default_handler(signal)?;
    }
    Ok(())
}

/// Lets the worker save what it keeps. Without that nothing but time is lost, so that any signal ends it.
fn wait_for_worker(events: &Receiver<Event>) {
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        let _ = signal_hook::flag::register_conditional_default(signal, Arc::new(AtomicBool::new(true)));
    }
    let mut warnings = worker::wait_for_end(events, TELL_AFTER);
    if warnings.is_none() {
        output::warn("saving the KV cache of the session; Ctrl+C ends without it");
        warnings = worker::wait_for_end(events, PATIENCE);
    }
    match warnings {
        Some(warnings) => warnings.iter().for_each(|text| output::warn(text)),
        None => {
            output::warn("the KV cache was not saved in time; the conversation is kept, and read again the next time");
        }
    }
}
