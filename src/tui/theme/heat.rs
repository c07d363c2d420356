//! The colours of the map: hue says how much of a cell is in memory, strength how lately it was used.

use ratatui::style::{Color, Modifier};

use super::color::{ColorDepth, Ink, Rgb, nearest_indexed};
use super::palette::Ground;

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
pub const STEPS: usize = 5;
/// How far each step of heat is from the ground.
const LEVELS: [f32; Heat::STEPS as usize] = [0.26, 0.36, 0.50, 0.66, 0.84, 1.0];
/// The ramps of the usual colours among xterm's 256, where mixing would lose the hue.
const INDEXED: [[u8; Heat::STEPS as usize]; STEPS] = [
    [52, 94, 130, 166, 208, 215],
    [89, 125, 161, 168, 204, 211],
    [53, 54, 55, 97, 134, 177],
    [17, 18, 25, 32, 39, 75],
    [23, 29, 30, 37, 44, 87],
];
const UNKNOWN_INDEXED: [u8; Heat::STEPS as usize] = [236, 239, 242, 245, 249, 254];

/// The inks of the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ramp {
    /// By what share of a cell is in memory, from none to all.
    pub by_share: [Ink; STEPS],
    pub unknown: Ink,
    pub ground: Ground,
}

impl Ramp {
    /// The usual one, for a dark ground.
    pub const DARK: Ramp = Ramp {
        by_share: [
            Ink::Rgb((240, 130, 66), Color::Red),
            Ink::Rgb((226, 96, 134), Color::Red),
            Ink::Rgb((176, 122, 232), Color::Magenta),
            Ink::Rgb((88, 148, 240), Color::Cyan),
            Ink::Rgb((64, 206, 190), Color::Cyan),
        ],
        unknown: Ink::Rgb((150, 152, 156), Color::Gray),
        ground: Ground::Dark,
    };
    /// Deeper colours that stand out from white.
    pub const LIGHT: Ramp = Ramp {
        by_share: [
            Ink::Rgb((200, 84, 10), Color::Red),
            Ink::Rgb((196, 40, 96), Color::Red),
            Ink::Rgb((126, 58, 190), Color::Magenta),
            Ink::Rgb((30, 92, 200), Color::Cyan),
            Ink::Rgb((0, 132, 120), Color::Cyan),
        ],
        unknown: Ink::Rgb((92, 94, 98), Color::Gray),
        ground: Ground::Light,
    };

    /// The colour of a cell; `None` where the terminal has none. `share` of it is in memory, 0 to 1. Whole steps keep
    /// neighbouring frames alike, and with them the bytes to draw few.
    pub fn color(&self, depth: ColorDepth, share: Option<f32>, heat: Heat) -> Option<Color> {
        let step = share.map(|s| (s.clamp(0.0, 1.0) * (STEPS - 1) as f32).round() as usize);
        let ink = step.map_or(self.unknown, |s| self.by_share[s]);
        let at = usize::from(heat.0);
        match depth {
            ColorDepth::Mono => None,
            ColorDepth::Ansi16 => {
                let is_late = heat.0 >= 4;
                Some(if is_late == (self.ground == Ground::Dark) { brighter(ink.own()) } else { darker(ink.own()) })
            }
            ColorDepth::Indexed256 if *self == Ramp::DARK => {
                Some(Color::Indexed(step.map_or(UNKNOWN_INDEXED, |s| INDEXED[s])[at]))
            }
            ColorDepth::Indexed256 => Some(Color::Indexed(nearest_indexed(self.mixed(ink, at)))),
            ColorDepth::True => {
                let (r, g, b) = self.mixed(ink, at);
                Some(Color::Rgb(r, g, b))
            }
        }
    }

    /// The weaker, the nearer to the ground.
    fn mixed(&self, ink: Ink, level: usize) -> Rgb {
        let level = LEVELS[level];
        let ground = if self.ground == Ground::Light { 255.0 * (1.0 - level) } else { 0.0 };
        let mix = |x: u8| (f32::from(x) * level + ground).round() as u8;
        let (r, g, b) = ink.rgb();
        (mix(r), mix(g), mix(b))
    }
}

/// A map's sign for a cell where there are no colours: the fuller, the more of it is in memory.
pub fn sign(share: Option<f32>) -> &'static str {
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
pub fn modifier(heat: Heat) -> Modifier {
    match heat.0 {
        4.. => Modifier::BOLD,
        2..=3 => Modifier::empty(),
        _ => Modifier::DIM,
    }
}

fn brighter(color: Color) -> Color {
    match color {
        Color::Red => Color::LightRed,
        Color::Green => Color::LightGreen,
        Color::Yellow => Color::LightYellow,
        Color::Blue => Color::LightBlue,
        Color::Magenta => Color::LightMagenta,
        Color::Cyan => Color::LightCyan,
        Color::Gray => Color::White,
        Color::DarkGray | Color::Black => Color::Gray,
        other => other,
    }
}

fn darker(color: Color) -> Color {
    match color {
        Color::LightRed => Color::Red,
        Color::LightGreen => Color::Green,
        Color::LightYellow => Color::Yellow,
        Color::LightBlue => Color::Blue,
        Color::LightMagenta => Color::Magenta,
        Color::LightCyan => Color::Cyan,
        Color::White => Color::Gray,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_tells_residency_and_recency_apart_wherever_there_are_colours() {
        for ramp in [Ramp::DARK, Ramp::LIGHT] {
            for depth in [ColorDepth::Ansi16, ColorDepth::Indexed256, ColorDepth::True] {
                let shares = [None, Some(0.0), Some(0.5), Some(1.0)];
                for heat in [Heat::of_age(Some(1000)), Heat::NOW] {
                    let colors = shares.map(|s| ramp.color(depth, s, heat));
                    for (i, color) in colors.iter().enumerate() {
                        assert!(color.is_some());
                        assert!(!colors[..i].contains(color), "{depth:?} {heat:?} {:?}", shares[i]);
                    }
                }
                for share in shares {
                    let [now, never] = [Heat::NOW, Heat::NEVER].map(|heat| ramp.color(depth, share, heat));
                    assert_ne!(now, never, "{depth:?} {share:?}");
                }
            }
        }
        assert_eq!(Ramp::DARK.color(ColorDepth::Mono, Some(1.0), Heat::NOW), None);
    }

    #[test]
    fn heat_falls_with_age() {
        let heats = [None, Some(5000), Some(100), Some(20), Some(5), Some(0)].map(Heat::of_age);
        assert!(heats.is_sorted());
        assert_eq!((heats[0], heats[5]), (Heat::NEVER, Heat::NOW));
    }
}
