//! How the screen looks: options of the commands that draw one.

use clap::Args;
use clap::builder::PossibleValuesParser;

use super::config;
use super::output::usage;
use crate::tui::theme::{self, SymbolChoice};
use crate::tui::{Appearance, Motion, Synchronized};

/// The names of [`LookArgs`], which are settings of every command with a screen.
pub(super) const LOOK: [&str; 4] = ["theme", "symbols", "motion", "synchronized_updates"];
const AUTO: &str = "auto";
/// Variables that ask for a calm screen, in the place of an option.
const CALM: [&str; 2] = ["REDUCE_MOTION", "NO_MOTION"];

#[derive(Debug, Args)]
#[command(next_help_heading = "Screen")]
pub(super) struct LookArgs {
    /// Colours: auto (as the terminal is), dark, light, high-contrast, or NAME of themes/NAME.toml in the config folder
    #[arg(long, value_name = "NAME", default_value = AUTO)]
    theme: String,
    /// Signs to draw with; auto: ascii where the locale is not UTF-8, or on the Linux console
    #[arg(long, value_name = "SET", default_value = "auto", value_parser = PossibleValuesParser::new(["auto", "unicode", "ascii"]))]
    symbols: String,
    /// Whether bars grow and figures run [default: true, or false where REDUCE_MOTION is set]
    #[arg(long, value_name = "BOOL")]
    motion: Option<bool>,
    /// Whether frames are marked to be shown whole (DEC mode 2026)
    #[arg(long, value_name = "BOOL", default_value = "true", action = clap::ArgAction::Set)]
    synchronized_updates: bool,
}

impl LookArgs {
    pub(super) fn appearance(&self) -> anyhow::Result<Appearance> {
        let themes = config::themes_folder();
        let is_set = |name: &&str| std::env::var_os(name).is_some_and(|value| !value.is_empty() && value != "0");
        let moves = self.motion.unwrap_or_else(|| !CALM.iter().any(is_set));
        Ok(Appearance {
            theme: match self.theme.as_str() {
                AUTO => None,
                name => Some(theme::find(name, themes.as_deref()).map_err(|error| usage(error.to_string()))?),
            },
            themes,
            colors: None,
            symbols: self.symbols.parse().unwrap_or(SymbolChoice::Auto),
            motion: if moves { Motion::On } else { Motion::Off },
            synchronized: if self.synchronized_updates { Synchronized::On } else { Synchronized::Off },
        })
    }
}
