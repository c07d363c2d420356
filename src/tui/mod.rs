//! The chat screen: keys and the engine's events in, frames and commands out.
//!
//! - `app`: the state. A message in, effects out; it neither draws nor waits.
//! - `view`: the state and a reading of the gauges in, cells out.
//! - `event_loop`: gathers messages, carries out effects, draws at most 60 times a second.
//! - `terminal`, `output`, `reader`, `signals`: the terminal's modes, what is written, what is typed, what the system says.
//! - `conversation`, `composer`, `picker`, `gauges`, `grid`: the parts of the state.
//! - `commands`: what each slash command is called, takes and does; `session_list`: the conversations to choose from.
//! - `outlook`: what a model that can be picked would be on this machine.
//! - `work`, `editor`: what happens on other threads and in other programs.
//! - `panel`, `picture`, `export`: what the person made of the panel; it as a file.
//! - `player`, `replay`: a recorded trace through the same panel, without an engine.
//! - `markdown`: replies as rows of toned text. `clipboard`: what is copied, by way of the terminal.
//! - `appearance`, `keys`, `theme`, `units`, `wrap`, `sanitize`: what each key does, how things look, how text is measured
//!   and made safe. `nearest`: what a name was meant to be.

mod app;
mod appearance;
mod clipboard;
pub mod commands;
mod composer;
mod conversation;
mod editor;
mod event_loop;
mod export;
mod gauges;
mod grid;
pub mod keys;
mod markdown;
mod nearest;
mod outlook;
mod output;
mod panel;
mod picker;
mod picture;
mod player;
mod reader;
mod replay;
mod sanitize;
mod session_list;
mod signals;
pub mod terminal;
pub mod theme;
mod units;
mod view;
mod work;
mod wrap;

#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;

use crate::catalog::Folders;
use crate::model::PlanOptions;
use crate::sampler::SamplingParams;
use crate::transcript::SessionFile;
use crate::worker::WorkerHandle;

pub use self::appearance::{Appearance, Motion};
pub use self::keys::{Keys, KeysError, Wish};
pub use self::nearest::nearest;
pub use self::output::Synchronized;
pub use self::player::Player;
pub use self::replay::{ReplayScreen, run as run_replay};
pub use self::sanitize::{one_line, sanitize};
pub use self::theme::{ColorDepth, Theme};
pub use self::units::duration;
pub use self::view::PANEL_NEEDS;

/// How a chat begins.
#[derive(Debug)]
pub struct ChatOptions {
    /// `None`: the person picks one.
    pub model: Option<PathBuf>,
    /// The file of the model in the binary, the last one to pick from.
    pub embedded: Option<PathBuf>,
    /// Where to look for models to pick from.
    pub models_dir: PathBuf,
    /// Where models that are named are looked for.
    pub models: Folders,
    pub sampling: SamplingParams,
    /// The sampling was asked for, and wins over that of the session that is gone on with.
    pub sampling_asked: bool,
    pub system: Option<String>,
    /// The session to go on with.
    pub session: Option<SessionFile>,
    /// Whether its KV cache is kept beside it also where there is none yet.
    pub keep_kv: bool,
    /// The file of earlier prompts; `None`: they are not kept.
    pub prompts: Option<PathBuf>,
    /// Where other conversations are saved, without their KV caches; `None`: nowhere.
    pub sessions_dir: Option<PathBuf>,
    /// Whether the wheel scrolls from the start. The terminal then selects text only with Shift held.
    pub mouse: bool,
    pub appearance: Appearance,
    pub keys: Keys,
    /// How memory is planned, to tell what of a model fits; `None`: it is not told.
    pub plan: Option<PlanOptions>,
}

impl ChatOptions {
    /// The defaults, with models in `models_dir` and nothing saved.
    pub fn new(models_dir: PathBuf) -> ChatOptions {
        ChatOptions {
            model: None,
            embedded: None,
            models_dir,
            models: Folders::default(),
            sampling: SamplingParams::default(),
            sampling_asked: false,
            system: None,
            session: None,
            keep_kv: true,
            prompts: None,
            sessions_dir: None,
            mouse: true,
            appearance: Appearance::default(),
            keys: Keys::default(),
            plan: None,
        }
    }
}

/// How a chat ended. Nothing has been printed: the caller tells the person what they should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    pub reason: ExitReason,
    /// Where the conversation lies; `None` where nothing was said or saving was off.
    pub transcript: Option<PathBuf>,
    /// What could not be saved, and where it lies instead.
    pub unsaved: Option<String>,
    /// What a thread said that panicked while the screen was up.
    pub panic: Option<String>,
}

/// Why a chat ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitReason {
    /// The person quit.
    Quit,
    /// By this signal: the caller should end as the signal does.
    Signal(i32),
    /// The terminal went away.
    TerminalClosed,
}

/// Why a chat could not begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum TuiError {
    #[error("the chat needs a terminal: {0}; `wayinfer run` answers without one")]
    NoTerminal(io::Error),
    #[error("the terminal cannot be used: {0}")]
    Terminal(io::Error),
    #[error("a thread of the chat cannot be started: {0}")]
    Thread(io::Error),
}

/// Runs the chat until the person quits, a signal ends it or the terminal goes away. The terminal is as it was when this
/// returns, and when it panics.
pub fn run(handle: WorkerHandle, options: ChatOptions) -> Result<Exit, TuiError> {
    event_loop::run(handle, options)
}
