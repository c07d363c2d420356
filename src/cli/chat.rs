//! `wayinfer [MODEL]`: the chat.

use clap::Args;

use super::options::{Common, ModelArg, SamplingArgs, Screen, data_folder, note_use};
use super::output;
use crate::tui::{self, ChatOptions, ExitReason};
use crate::worker;

#[derive(Debug, Args)]
pub(super) struct ChatArgs {
    #[command(flatten)]
    model: ModelArg,
    /// The system message
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    system: Option<String>,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    common: Common,
}

pub(super) fn chat(args: ChatArgs) -> anyhow::Result<()> {
    let model = args.model.path()?;
    let sampling = args.sampling.params()?;
    let options = args.common.engine()?;
    args.common.start_log(Screen::Taken)?;
    let data = data_folder()?;
    if let Some(model) = &model {
        note_use(&data, model);
    }
    let handle = worker::spawn(options)?;
    let options = ChatOptions {
        model,
        sessions_dir: Some(data.join("sessions")),
        sampling,
        system: args.system,
        ..ChatOptions::new(data.join("models"))
    };
    let exit = tui::run(handle, options)?;
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
