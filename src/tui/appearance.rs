//! How the screen is asked to look: a theme or whichever suits the terminal, its symbols, and whether things move.

use std::path::PathBuf;

use super::output::Synchronized;
use super::theme::{ColorDepth, Ground, Palette, SymbolChoice, Theme, of_colorfgbg};

/// Whether the screen moves by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Motion {
    #[default]
    On,
    /// No bars that grow, and readings once a second: progress is told in figures.
    Off,
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appearance {
    /// `None`: dark or light, as the terminal is.
    pub theme: Option<Palette>,
    /// The folder of theme files.
    pub themes: Option<PathBuf>,
    /// `None`: what the environment promises.
    pub colors: Option<ColorDepth>,
    pub symbols: SymbolChoice,
    pub motion: Motion,
    pub synchronized: Synchronized,
}

impl Default for Appearance {
    fn default() -> Appearance {
        Appearance {
            theme: None,
            themes: None,
            colors: None,
            symbols: SymbolChoice::Auto,
            motion: Motion::On,
            synchronized: Synchronized::On,
        }
    }
}

impl Appearance {
    /// The theme to begin with, by the environment as `variable` gives it.
    pub fn first_theme(&self, variable: impl Fn(&str) -> Option<String> + Copy) -> Theme {
        let ground = variable("COLORFGBG").and_then(|value| of_colorfgbg(&value)).unwrap_or(Ground::Dark);
        let palette = self.theme.clone().unwrap_or_else(|| Palette::of_ground(ground));
        let depth = self.colors.unwrap_or_else(|| ColorDepth::detect(variable));
        Theme::new(palette, depth).with_symbols(self.symbols.decide(variable))
    }
}

#[cfg(test)]
mod tests {
    use super::super::theme::Symbols;
    use super::*;

    #[test]
    fn the_environment_fills_in_what_nobody_asked_for() {
        let light = |name: &str| (name == "COLORFGBG").then(|| "0;15".to_owned());
        let console = |name: &str| (name == "TERM").then(|| "linux".to_owned());
        let asked = Appearance { theme: Some(Palette::high_contrast()), ..Appearance::default() };
        assert_eq!(Appearance::default().first_theme(light).name(), "light");
        assert_eq!(Appearance::default().first_theme(console).name(), "dark");
        assert_eq!(asked.first_theme(light).name(), "high-contrast");
        assert_eq!(Appearance::default().first_theme(console).symbols, Symbols::Ascii);
        assert_eq!(Appearance::default().first_theme(console).depth, ColorDepth::Ansi16);
    }
}
