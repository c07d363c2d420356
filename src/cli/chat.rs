//! `wayinfer [MODEL]`: the chat.

use clap::Args;

use super::options::{Common, ModelArg, SamplingArgs, Screen};
use crate::tui::{self, ChatOptions};
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
    tui::run(
        handle,
        ChatOptions {
            model,
            models_dir: folders.data_dir().join("models"),
            sessions_dir: Some(folders.data_dir().join("sessions")),
            sampling,
            system: args.system,
        },
    )?;
    Ok(())
}
