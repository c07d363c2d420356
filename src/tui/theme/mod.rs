//! Every colour and symbol of the screen, named by its role: a [`Palette`] (built in, or from a file), what the terminal can
//! show ([`ColorDepth`], [`Symbols`]), and out comes a [`Theme`] of styles.

mod color;
mod file;
mod ground;
mod heat;
mod palette;
mod symbols;

use ratatui::buffer::Buffer;
use ratatui::style::{Color, Modifier, Style};

pub use self::color::ColorDepth;
pub use self::file::{ThemeError, commented, find, names, parse};
pub use self::ground::{Answer, GroundQuestion, of_colorfgbg};
pub use self::heat::Heat;
pub use self::palette::{Ground, Palette};
pub use self::symbols::{SymbolChoice, Symbols};

/// The styles of the screen by role. Text stands on the terminal's own background, unless `base` brings one.
#[derive(Debug, Clone)]
pub struct Theme {
    palette: Palette,
    pub depth: ColorDepth,
    pub symbols: Symbols,
    base: Style,
    /// What was said.
    pub text: Style,
    /// What explains: captions, hints, figures about a reply.
    pub dim: Style,
    /// Rules between parts.
    pub rule: Style,
    /// The name of a thing: the model, a section.
    pub title: Style,
    /// Labels of the speakers.
    pub you: Style,
    pub reply: Style,
    pub warning: Style,
    pub error: Style,
    /// Keys in hints and help.
    pub key: Style,
    /// The chosen row of a list.
    pub selected: Style,
    /// The filled and the empty part of a bar.
    pub bar: Style,
    pub bar_rest: Style,
    // What a reply's Markdown is drawn with.
    pub heading: Style,
    /// Code, in a line or a block, and the parts of it that are told apart.
    pub code: Style,
    pub code_keyword: Style,
    pub code_string: Style,
    pub code_comment: Style,
    pub code_number: Style,
    /// The name of a function or type.
    pub code_name: Style,
    pub quote: Style,
    pub link: Style,
    pub list_marker: Style,
    /// What a model thinks before it answers.
    pub thinking: Style,
    /// What a search found, and the one of these that is looked at.
    pub found: Style,
    pub found_here: Style,
}

impl Theme {
    /// `palette` on a terminal that shows so many colours, with all symbols.
    pub fn new(palette: Palette, depth: ColorDepth) -> Theme {
        let [
            base,
            text,
            dim,
            rule,
            title,
            you,
            reply,
            warning,
            error,
            key,
            selected,
            bar,
            bar_rest,
            heading,
            code,
            code_keyword,
            code_string,
            code_comment,
            code_number,
            code_name,
            quote,
            link,
            list_marker,
            thinking,
            found,
            found_here,
        ] = palette.looks.map(|look| look.style(depth));
        Theme {
            palette,
            depth,
            symbols: Symbols::Unicode,
            base,
            text,
            dim,
            rule,
            title,
            you,
            reply,
            warning,
            error,
            key,
            selected,
            bar,
            bar_rest,
            heading,
            code,
            code_keyword,
            code_string,
            code_comment,
            code_number,
            code_name,
            quote,
            link,
            list_marker,
            thinking,
            found,
            found_here,
        }
    }

    /// The default.
    pub fn dark(depth: ColorDepth) -> Theme {
        Theme::new(Palette::dark(), depth)
    }

    #[must_use]
    pub fn with_symbols(self, symbols: Symbols) -> Theme {
        Theme { symbols, ..self }
    }

    /// Other colours on the same terminal.
    #[must_use]
    pub fn with_palette(&self, palette: Palette) -> Theme {
        Theme::new(palette, self.depth).with_symbols(self.symbols)
    }

    /// What it is made for.
    pub fn ground(&self) -> Ground {
        self.palette.map.ground
    }

    pub fn name(&self) -> &str {
        &self.palette.name
    }

    /// Whether a block that is half of one colour and half of another can be drawn.
    pub fn has_half_blocks(&self) -> bool {
        self.depth != ColorDepth::Mono && self.symbols == Symbols::Unicode
    }

    /// The last touch on a frame: the ground where nothing else was said, and signs that the terminal has.
    pub fn finish(&self, buf: &mut Buffer) {
        let (fg, bg) = (self.base.fg, self.base.bg);
        if fg.is_none() && bg.is_none() && self.symbols == Symbols::Unicode {
            return;
        }
        for cell in &mut buf.content {
            if let (Color::Reset, Some(fg)) = (cell.fg, fg) {
                cell.fg = fg;
            }
            if let (Color::Reset, Some(bg)) = (cell.bg, bg) {
                cell.bg = bg;
            }
            if self.symbols == Symbols::Ascii
                && let Some(sign) = symbols::stand_in(cell.symbol())
            {
                cell.set_symbol(sign);
            }
        }
    }

    /// The colour of a cell of the map; `None` where the terminal has none. `share` of it in memory, 0 to 1, gives the hue and
    /// `heat` the strength.
    pub fn map_color(&self, share: Option<f32>, heat: Heat) -> Option<Color> {
        self.palette.map.color(self.depth, share, heat)
    }

    /// The map's sign for a cell where there are no colours: the fuller, the more of it is in memory.
    pub fn map_sign(share: Option<f32>) -> &'static str {
        heat::sign(share)
    }

    /// How such a sign is set: bold for now, dim for long ago.
    pub fn map_modifier(heat: Heat) -> Modifier {
        heat::modifier(heat)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_colours_no_role_has_one_and_found_things_are_still_seen() {
        for name in Palette::BUILT_IN {
            let palette = Palette::built_in(name).unwrap();
            for look in palette.looks {
                let style = look.style(ColorDepth::Mono);
                assert_eq!((style.fg, style.bg), (None, None));
            }
            let theme = Theme::new(palette, ColorDepth::Mono);
            assert!(theme.found != theme.text && theme.found != theme.found_here && theme.found_here != theme.text);
        }
    }
}
