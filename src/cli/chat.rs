//! `wayinfer [MODEL]`: the chat.

use clap::Args;

use super::options::{Common, ModelArg, SamplingArgs, Screen};
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
    let model = args.model.path()?.map(std::path::Path::to_owned);
    let sampling = args.sampling.params()?;
    let options = args.common.engine()?;
    args.common.start_log(Screen::Taken)?;
    let folders = directories::ProjectDirs::from("", "", "wayinfer")
        .ok_or_else(|| anyhow::anyhow!("no home folder; set HOME"))?;
    let handle = worker::spawn(options)?;
    let options = ChatOptions {
        model,
        sessions_dir: Some(folders.data_dir().join("sessions")),
        sampling,
        system: args.system,
        ..ChatOptions::new(folders.data_dir().join("models"))
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
