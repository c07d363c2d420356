//! What a theme is before the terminal is known: an ink and a manner for each role, the map's ramp, and the ground.

use ratatui::style::{Color, Modifier, Style};

use super::color::{ColorDepth, Ink};
use super::heat::Ramp;

/// What text stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ground {
    Dark,
    Light,
}

/// A part that text plays on the screen. Its name is the key of a theme file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Role {
    pub name: &'static str,
    pub what: &'static str,
}

const fn role(name: &'static str, what: &'static str) -> Role {
    Role { name, what }
}

/// Every role, in the order of [`Palette::looks`].
pub const ROLES: [Role; N_ROLES] = [
    role("base", "the whole screen; the terminal's own colours where nothing is said"),
    role("text", "what was said"),
    role("dim", "captions, hints, figures about a reply"),
    role("rule", "rules between parts"),
    role("title", "the name of a thing: the model, a section"),
    role("you", "the label of your messages"),
    role("reply", "the label of replies"),
    role("warning", "warnings"),
    role("error", "errors"),
    role("key", "keys in hints and help"),
    role("selected", "the chosen row of a list"),
    role("bar", "the filled part of a bar"),
    role("bar_rest", "the empty part of a bar"),
    role("heading", "a heading in a reply"),
    role("code", "code in a line or a block"),
    role("code_keyword", "a keyword"),
    role("code_string", "a text in code"),
    role("code_comment", "a comment"),
    role("code_number", "a number"),
    role("code_name", "the name of a function or type"),
    role("quote", "a quotation"),
    role("link", "a link"),
    role("list_marker", "the sign before a list's item"),
    role("thinking", "what a model thinks before it answers"),
    role("found", "what a search found"),
    role("found_here", "the found place that is looked at"),
];
pub const N_ROLES: usize = 26;

/// How a role looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Look {
    pub ink: Option<Ink>,
    /// What stands behind it.
    pub on: Option<Ink>,
    pub manner: Modifier,
    /// What it has instead where there are no colours.
    pub mono: Modifier,
}

impl Look {
    pub fn style(self, depth: ColorDepth) -> Style {
        let manner = if depth == ColorDepth::Mono { self.manner | self.mono } else { self.manner };
        let mut style = Style::new().add_modifier(manner);
        style.fg = self.ink.and_then(|ink| ink.at(depth));
        style.bg = self.on.and_then(|ink| ink.at(depth));
        style
    }
}

/// A theme, for any terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Palette {
    pub name: String,
    /// By role, as [`ROLES`] has them.
    pub looks: [Look; N_ROLES],
    pub map: Ramp,
}

/// The inks that a built-in theme is made of.
struct Inks {
    base: Look,
    blue: Ink,
    green: Ink,
    amber: Ink,
    red: Ink,
    grey: Ink,
    /// Rules, which nobody reads.
    slate: Ink,
    teal: Ink,
    violet: Ink,
    sand: Ink,
    /// Behind what was found, and what is written on it.
    marked: Ink,
    marked_here: Ink,
    on_mark: Ink,
}

const fn ink(r: u8, g: u8, b: u8, own: Color) -> Ink {
    Ink::Rgb((r, g, b), own)
}

const PLAIN: Look = Look { ink: None, on: None, manner: Modifier::empty(), mono: Modifier::empty() };

impl Palette {
    /// The names of those that need no file.
    pub const BUILT_IN: [&'static str; 3] = ["dark", "light", "high-contrast"];

    pub fn built_in(name: &str) -> Option<Palette> {
        match name {
            "dark" => Some(Palette::dark()),
            "light" => Some(Palette::light()),
            "high-contrast" => Some(Palette::high_contrast()),
            _ => None,
        }
    }

    /// The one that is taken where nobody chose.
    pub fn of_ground(ground: Ground) -> Palette {
        match ground {
            Ground::Dark => Palette::dark(),
            Ground::Light => Palette::light(),
        }
    }

    /// Calm colours of middle brightness.
    pub fn dark() -> Palette {
        let inks = Inks {
            base: PLAIN,
            blue: ink(122, 162, 220, Color::Blue),
            green: ink(134, 188, 150, Color::Green),
            amber: ink(218, 170, 98, Color::Yellow),
            red: ink(224, 112, 112, Color::Red),
            grey: ink(138, 143, 152, Color::DarkGray),
            slate: ink(72, 78, 88, Color::DarkGray),
            teal: ink(110, 190, 190, Color::Cyan),
            violet: ink(184, 150, 224, Color::Magenta),
            sand: ink(206, 196, 160, Color::Yellow),
            marked: ink(206, 196, 160, Color::Yellow),
            marked_here: ink(240, 160, 70, Color::LightYellow),
            on_mark: ink(16, 18, 22, Color::Black),
        };
        Palette::of("dark", &inks, Ramp::DARK)
    }

    /// The same calm, deep enough for a light ground.
    pub fn light() -> Palette {
        let inks = Inks {
            base: PLAIN,
            blue: ink(32, 88, 164, Color::Blue),
            green: ink(28, 104, 52, Color::Green),
            amber: ink(136, 80, 0, Color::Magenta),
            red: ink(176, 30, 38, Color::Red),
            grey: ink(92, 97, 106, Color::DarkGray),
            slate: ink(190, 194, 200, Color::Gray),
            teal: ink(0, 102, 108, Color::Cyan),
            violet: ink(116, 60, 168, Color::Magenta),
            sand: ink(110, 80, 16, Color::Blue),
            marked: ink(250, 224, 130, Color::Yellow),
            marked_here: ink(255, 168, 60, Color::LightYellow),
            on_mark: ink(16, 18, 22, Color::Black),
        };
        Palette::of("light", &inks, Ramp::LIGHT)
    }

    /// Bright on black, which it brings with it.
    pub fn high_contrast() -> Palette {
        let white = ink(255, 255, 255, Color::White);
        let inks = Inks {
            base: Look { ink: Some(white), on: Some(ink(0, 0, 0, Color::Black)), ..PLAIN },
            blue: ink(140, 195, 255, Color::LightCyan),
            green: ink(120, 240, 140, Color::LightGreen),
            amber: ink(255, 210, 70, Color::LightYellow),
            red: ink(255, 140, 140, Color::LightRed),
            grey: ink(205, 205, 205, Color::Gray),
            slate: ink(150, 150, 150, Color::Gray),
            teal: ink(90, 240, 240, Color::LightCyan),
            violet: ink(228, 180, 255, Color::LightMagenta),
            sand: ink(255, 240, 170, Color::LightYellow),
            marked: ink(255, 240, 120, Color::LightYellow),
            marked_here: ink(120, 255, 255, Color::LightCyan),
            on_mark: ink(0, 0, 0, Color::Black),
        };
        Palette::of("high-contrast", &inks, Ramp::DARK)
    }

    fn of(name: &str, inks: &Inks, map: Ramp) -> Palette {
        let plain = |ink: Ink| Look { ink: Some(ink), ..PLAIN };
        let with = |ink: Ink, manner: Modifier| Look { manner, ..plain(ink) };
        let faint = |ink: Ink| Look { mono: Modifier::DIM, ..plain(ink) };
        let marked = |on: Ink, mono: Modifier| Look { on: Some(on), mono, ..plain(inks.on_mark) };
        let (bold, italic) = (Modifier::BOLD, Modifier::ITALIC);
        let looks = [
            inks.base,
            PLAIN,
            faint(inks.grey),
            faint(inks.slate),
            Look { manner: bold, ..PLAIN },
            with(inks.blue, bold),
            with(inks.green, bold),
            plain(inks.amber),
            with(inks.red, bold),
            plain(inks.blue),
            Look { manner: Modifier::REVERSED, ..PLAIN },
            plain(inks.blue),
            faint(inks.slate),
            with(inks.blue, bold),
            plain(inks.sand),
            plain(inks.violet),
            plain(inks.green),
            faint(inks.grey),
            plain(inks.amber),
            plain(inks.blue),
            Look { manner: italic, ..faint(inks.grey) },
            with(inks.teal, Modifier::UNDERLINED),
            plain(inks.teal),
            Look { manner: italic, ..faint(inks.grey) },
            // Without colours, what is found is underlined and what is looked at stands reversed.
            marked(inks.marked, Modifier::UNDERLINED),
            Look { manner: bold, ..marked(inks.marked_here, Modifier::REVERSED) },
        ];
        Palette { name: name.to_owned(), looks, map }
    }
}

#[cfg(test)]
mod tests {
    use super::super::color::{Rgb, luminance};
    use super::*;

    /// The contrast ratio of WCAG 2, 1 to 21.
    fn contrast(a: Rgb, b: Rgb) -> f64 {
        let (a, b) = (luminance(a), luminance(b));
        (a.max(b) + 0.05) / (a.min(b) + 0.05)
    }

    #[test]
    fn black_on_white_has_the_contrast_that_the_standard_says() {
        assert!((contrast((0, 0, 0), (255, 255, 255)) - 21.0).abs() < 1e-9);
        assert!((contrast((119, 119, 119), (255, 255, 255)) - 4.48).abs() < 0.01);
    }

    #[test]
    fn whatever_is_read_stands_out_from_its_ground() {
        let black: Rgb = (0, 0, 0);
        let cases: [(Palette, &[Rgb], f64); 3] = [
            (Palette::dark(), &[black, (30, 30, 30), (30, 30, 46)], 4.5),
            (Palette::light(), &[(255, 255, 255), (253, 246, 227)], 4.5),
            (Palette::high_contrast(), &[black], 7.0),
        ];
        for (palette, grounds, least) in cases {
            for (role, look) in ROLES.iter().zip(palette.looks) {
                let Some(ink) = look.ink else { continue };
                // Rules and the rest of a bar are not read, but in high contrast are still to be seen.
                let least = match role.name {
                    "rule" | "bar_rest" if least < 7.0 => 1.3,
                    _ => least,
                };
                let on_its_own = look.on.map(|ink| [ink.rgb()]);
                for &ground in on_its_own.as_ref().map_or(grounds, |own| own.as_slice()) {
                    let found = contrast(ink.rgb(), ground);
                    assert!(found >= least, "{} {}: {found:.2} on {ground:?}", palette.name, role.name);
                }
            }
        }
    }

    #[test]
    fn the_map_of_the_light_theme_stands_out_from_white_where_experts_are_used_now() {
        for ink in Palette::light().map.by_share {
            assert!(contrast(ink.rgb(), (255, 255, 255)) >= 3.0);
        }
    }
}
