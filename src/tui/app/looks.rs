//! The theme: chosen, or as the terminal is.

use std::time::Instant;

use super::super::commands::Suggestion;
use super::super::theme::{Ground, Palette};
use super::{App, Effect, Work};

const AUTO: &str = "auto";
const COMMAND: &str = "/theme ";

impl App {
    /// The terminal has told its background.
    pub(super) fn on_ground(&mut self, ground: Ground) {
        self.ground = ground;
        if self.theme_is_auto {
            self.theme = self.theme.with_palette(Palette::of_ground(ground));
        }
    }

    /// Takes the theme of this name; without one, tells which there are.
    pub(super) fn set_theme(&mut self, name: &str, now: Instant) -> Vec<Effect> {
        match name {
            "" => {
                let by = if self.theme_is_auto { ", as the terminal is" } else { "" };
                let text = format!(
                    "The theme is {}{by}; there are {AUTO}, {}",
                    self.theme.name(),
                    self.theme_names.join(", ")
                );
                self.notify(text, now);
            }
            AUTO => {
                self.theme_is_auto = true;
                self.on_ground(self.ground);
            }
            name => match Palette::built_in(name) {
                Some(palette) => self.take_theme(palette),
                None => return vec![Effect::Work(Work::ReadTheme(name.to_owned()))],
            },
        }
        Vec::new()
    }

    pub(super) fn take_theme(&mut self, palette: Palette) {
        self.theme_is_auto = false;
        self.theme = self.theme.with_palette(palette);
    }

    /// The themes whose names begin as what is typed.
    pub(super) fn theme_suggestions(&self, text: &str) -> Vec<Suggestion> {
        let Some(begun) = text.strip_prefix(COMMAND) else { return Vec::new() };
        let names = std::iter::once(AUTO).chain(self.theme_names.iter().map(String::as_str));
        names
            .filter(|name| name.starts_with(begun) && *name != begun)
            .map(|name| Suggestion {
                fill: Some(format!("{COMMAND}{name}")),
                name: format!("{COMMAND}{name}"),
                help: "",
            })
            .collect()
    }
}
