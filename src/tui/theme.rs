//! Every colour and symbol of the screen, named by its role. A theme is one constructor of [`Theme`]; what the terminal can
//! show ([`ColorDepth`]) decides how its colours come out.

use ratatui::style::{Color, Modifier, Style};

/// How many colours the terminal shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColorDepth {
    /// None: only bold, dim and reverse.
    Mono,
    Ansi16,
    Indexed256,
    True,
}

impl ColorDepth {
    /// What the environment promises: `NO_COLOR`, `COLORTERM` and `TERM`, as `variable` gives them.
    pub fn detect(variable: impl Fn(&str) -> Option<String>) -> ColorDepth {
        let value = |name: &str| variable(name).filter(|v| !v.is_empty());
        let term = value("TERM").unwrap_or_default();
        if value("NO_COLOR").is_some() || term == "dumb" {
            return ColorDepth::Mono;
        }
        match value("COLORTERM").as_deref() {
            Some("truecolor" | "24bit") => ColorDepth::True,
            _ if term.contains("direct") => ColorDepth::True,
            _ if term.contains("256color") => ColorDepth::Indexed256,
            Some(_) => ColorDepth::Indexed256,
            None => ColorDepth::Ansi16,
        }
    }
}

/// A colour as the theme wants it, and its stand-in among the sixteen.
#[derive(Debug, Clone, Copy)]
struct Ink {
    rgb: (u8, u8, u8),
    ansi: Color,
}

/// How lately an expert was used, in steps; [`Heat::STEPS`] of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Heat(u8);

impl Heat {
    pub const STEPS: u8 = 6;
    pub const NEVER: Heat = Heat(0);
    pub const NOW: Heat = Heat(Heat::STEPS - 1);

    /// By the forward passes since: within the last two, 8, 32, 128, longer ago, never.
    pub fn of_age(age: Option<u64>) -> Heat {
        Heat(match age {
            None => 0,
            Some(0..=1) => 5,
            Some(2..=8) => 4,
            Some(9..=32) => 3,
            Some(33..=128) => 2,
            Some(_) => 1,
        })
    }

    /// From never to now.
    pub fn all() -> impl DoubleEndedIterator<Item = Heat> {
        (0..Heat::STEPS).map(Heat)
    }
}

/// Steps of residency that the map's colours show.
const MAP_STEPS: usize = 5;
/// The brightness of each step of heat.
const MAP_LEVELS: [f32; Heat::STEPS as usize] = [0.26, 0.36, 0.50, 0.66, 0.84, 1.0];
/// The same ramps among xterm's 256 colours, where scaling would lose the hue.
const MAP_INDEXED: [[u8; Heat::STEPS as usize]; MAP_STEPS] = [
    [52, 94, 130, 166, 208, 215],
    [89, 125, 161, 168, 204, 211],
    [53, 54, 55, 97, 134, 177],
    [17, 18, 25, 32, 39, 75],
    [23, 29, 30, 37, 44, 87],
];
const MAP_UNKNOWN_INDEXED: [u8; Heat::STEPS as usize] = [236, 239, 242, 245, 249, 254];

/// The styles of the screen by role. Text stands on the terminal's own background.
#[derive(Debug, Clone)]
pub struct Theme {
    pub depth: ColorDepth,
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
    /// Cells of the map by what share of them is in memory, from none to all; and where it is not known.
    map: [Ink; MAP_STEPS],
    map_unknown: Ink,
}

impl Theme {
    /// The default: calm colours of middle brightness, for a dark background.
    pub fn dark(depth: ColorDepth) -> Theme {
        let ink = |rgb, ansi| Ink { rgb, ansi };
        let style = |i: Ink| match resolve(i, depth) {
            Some(color) => Style::new().fg(color),
            None => Style::new(),
        };
        let plain = Style::new();
        let faint = if depth == ColorDepth::Mono { plain.add_modifier(Modifier::DIM) } else { plain };
        let blue = ink((122, 162, 220), Color::Blue);
        let green = ink((134, 188, 150), Color::Green);
        let amber = ink((218, 170, 98), Color::Yellow);
        let red = ink((224, 112, 112), Color::Red);
        let grey = ink((138, 143, 152), Color::DarkGray);
        let slate = ink((72, 78, 88), Color::DarkGray);
        let teal = ink((110, 190, 190), Color::Cyan);
        let violet = ink((184, 150, 224), Color::Magenta);
        let sand = ink((206, 196, 160), Color::Yellow);
        // Black on a colour; without colours, what is found is underlined and what is looked at stands reversed.
        let marked = |i: Ink| match resolve(i, depth) {
            Some(color) => Style::new().fg(resolve(ink((16, 18, 22), Color::Black), depth).unwrap_or(color)).bg(color),
            None => Style::new().add_modifier(Modifier::UNDERLINED),
        };
        Theme {
            depth,
            text: plain,
            dim: faint.patch(style(grey)),
            rule: faint.patch(style(slate)),
            title: plain.add_modifier(Modifier::BOLD),
            you: style(blue).add_modifier(Modifier::BOLD),
            reply: style(green).add_modifier(Modifier::BOLD),
            warning: style(amber),
            error: style(red).add_modifier(Modifier::BOLD),
            key: style(blue),
            selected: plain.add_modifier(Modifier::REVERSED),
            bar: style(blue),
            bar_rest: faint.patch(style(slate)),
            heading: style(blue).add_modifier(Modifier::BOLD),
            code: style(sand),
            code_keyword: style(violet),
            code_string: style(green),
            code_comment: faint.patch(style(grey)),
            code_number: style(amber),
            code_name: style(blue),
            quote: faint.patch(style(grey)).add_modifier(Modifier::ITALIC),
            link: style(teal).add_modifier(Modifier::UNDERLINED),
            list_marker: style(teal),
            thinking: faint.patch(style(grey)).add_modifier(Modifier::ITALIC),
            found: marked(sand),
            found_here: match depth {
                ColorDepth::Mono => plain.add_modifier(Modifier::REVERSED),
                _ => marked(amber).add_modifier(Modifier::BOLD),
            },
            map: [
                ink((240, 130, 66), Color::Red),
                ink((226, 96, 134), Color::Red),
                ink((176, 122, 232), Color::Magenta),
                ink((88, 148, 240), Color::Cyan),
                ink((64, 206, 190), Color::Cyan),
            ],
            map_unknown: ink((150, 152, 156), Color::Gray),
        }
    }

    /// The colour of a cell of the map; `None` where the terminal has none. `share` of it in memory, 0 to 1, gives the hue and
    /// `heat` the brightness. Whole steps keep neighbouring frames alike, and with them the bytes to draw few.
    pub fn map_color(&self, share: Option<f32>, heat: Heat) -> Option<Color> {
        let step = share.map(|s| (s.clamp(0.0, 1.0) * (MAP_STEPS - 1) as f32).round() as usize);
        let heat = usize::from(heat.0);
        match self.depth {
            ColorDepth::Mono => None,
            ColorDepth::Ansi16 => {
                let ansi = step.map_or(self.map_unknown, |s| self.map[s]).ansi;
                Some(if heat >= 4 { brighter(ansi) } else { ansi })
            }
            ColorDepth::Indexed256 => Some(Color::Indexed(step.map_or(MAP_UNKNOWN_INDEXED, |s| MAP_INDEXED[s])[heat])),
            ColorDepth::True => {
                let (r, g, b) = step.map_or(self.map_unknown, |s| self.map[s]).rgb;
                let scale = |x: u8| (f32::from(x) * MAP_LEVELS[heat]).round() as u8;
                Some(Color::Rgb(scale(r), scale(g), scale(b)))
            }
        }
    }

    /// The map's sign for a cell where there are no colours: the fuller, the more of it is in memory.
    pub fn map_sign(share: Option<f32>) -> &'static str {
        match share {
            None => "?",
            Some(s) if s >= 0.875 => "█",
            Some(s) if s >= 0.625 => "▓",
            Some(s) if s >= 0.375 => "▒",
            Some(s) if s >= 0.125 => "░",
            Some(_) => ".",
        }
    }

    /// How such a sign is set: bold for now, dim for long ago.
    pub fn map_modifier(heat: Heat) -> Modifier {
        match heat.0 {
            4.. => Modifier::BOLD,
            2..=3 => Modifier::empty(),
            _ => Modifier::DIM,
        }
    }
}

fn resolve(ink: Ink, depth: ColorDepth) -> Option<Color> {
    let (r, g, b) = ink.rgb;
    match depth {
        ColorDepth::Mono => None,
        ColorDepth::Ansi16 => Some(ink.ansi),
        ColorDepth::Indexed256 => Some(Color::Indexed(nearest_indexed(r, g, b))),
        ColorDepth::True => Some(Color::Rgb(r, g, b)),
    }
}

fn brighter(color: Color) -> Color {
    match color {
        Color::Red => Color::LightRed,
        Color::Magenta => Color::LightMagenta,
        Color::Cyan => Color::LightCyan,
        Color::Gray => Color::White,
        other => other,
    }
}

/// The nearest of xterm's 216 colours of the cube and 24 greys.
fn nearest_indexed(r: u8, g: u8, b: u8) -> u8 {
    const LEVELS: [i32; 6] = [0, 95, 135, 175, 215, 255];
    let step = |x: u8| (0..6).min_by_key(|&i| (LEVELS[i] - i32::from(x)).abs()).unwrap_or(0);
    let (ri, gi, bi) = (step(r), step(g), step(b));
    let distance = |x: i32, y: i32, z: i32| {
        let (dr, dg, db) = (x - i32::from(r), y - i32::from(g), z - i32::from(b));
        dr * dr + dg * dg + db * db
    };
    let cube = distance(LEVELS[ri], LEVELS[gi], LEVELS[bi]);
    let mean = (i32::from(r) + i32::from(g) + i32::from(b)) / 3;
    let grey_index = ((mean - 8 + 5) / 10).clamp(0, 23);
    let grey = 8 + 10 * grey_index;
    if distance(grey, grey, grey) < cube { 232 + grey_index as u8 } else { (16 + 36 * ri + 6 * gi + bi) as u8 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detect(variables: &[(&str, &str)]) -> ColorDepth {
        ColorDepth::detect(|name| variables.iter().find(|v| v.0 == name).map(|v| v.1.to_owned()))
    }

    #[test]
    fn no_color_wins_unless_it_is_empty() {
        assert_eq!(detect(&[("NO_COLOR", "1"), ("COLORTERM", "truecolor")]), ColorDepth::Mono);
        assert_eq!(detect(&[("NO_COLOR", ""), ("COLORTERM", "truecolor")]), ColorDepth::True);
        assert_eq!(detect(&[("TERM", "xterm-256color")]), ColorDepth::Indexed256);
        assert_eq!(detect(&[("TERM", "linux")]), ColorDepth::Ansi16);
        assert_eq!(detect(&[("TERM", "dumb"), ("COLORTERM", "24bit")]), ColorDepth::Mono);
    }

    #[test]
    fn known_colours_find_themselves_in_the_cube() {
        assert_eq!(nearest_indexed(0, 0, 0), 16);
        assert_eq!(nearest_indexed(255, 255, 255), 231);
        assert_eq!(nearest_indexed(95, 135, 175), 67);
        assert_eq!(nearest_indexed(128, 128, 128), 244);
    }

    #[test]
    fn the_map_tells_residency_and_recency_apart_wherever_there_are_colours() {
        for depth in [ColorDepth::Ansi16, ColorDepth::Indexed256, ColorDepth::True] {
            let theme = Theme::dark(depth);
            let shares = [None, Some(0.0), Some(0.5), Some(1.0)];
            for heat in [Heat::of_age(Some(1000)), Heat::NOW] {
                let colors = shares.map(|s| theme.map_color(s, heat));
                for (i, color) in colors.iter().enumerate() {
                    assert!(color.is_some());
                    assert!(!colors[..i].contains(color), "{depth:?} {heat:?} {:?}", shares[i]);
                }
            }
            for share in shares {
                assert_ne!(
                    theme.map_color(share, Heat::NOW),
                    theme.map_color(share, Heat::NEVER),
                    "{depth:?} {share:?}"
                );
            }
        }
        assert_eq!(Theme::dark(ColorDepth::Mono).map_color(Some(1.0), Heat::NOW), None);
    }

    #[test]
    fn heat_falls_with_age() {
        let heats = [None, Some(5000), Some(100), Some(20), Some(5), Some(0)].map(Heat::of_age);
        assert!(heats.is_sorted());
        assert_eq!((heats[0], heats[5]), (Heat::NEVER, Heat::NOW));
    }
}
