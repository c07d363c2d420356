//! Colours: how many the terminal shows, what a theme wants, and how the one comes out as the other.

use ratatui::style::Color;

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

/// Red, green and blue.
pub type Rgb = (u8, u8, u8);

/// A colour as the theme wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ink {
    /// This one, or its stand-in among the sixteen.
    Rgb(Rgb, Color),
    /// One of the terminal's own sixteen, at every depth.
    Own(Color),
}

/// The sixteen: their names in a theme file, and about what they look like.
pub const OWN: [(&str, Color, Rgb); 16] = [
    ("black", Color::Black, (0, 0, 0)),
    ("red", Color::Red, (205, 49, 49)),
    ("green", Color::Green, (13, 188, 121)),
    ("yellow", Color::Yellow, (205, 190, 20)),
    ("blue", Color::Blue, (60, 110, 220)),
    ("magenta", Color::Magenta, (188, 63, 188)),
    ("cyan", Color::Cyan, (17, 168, 205)),
    ("gray", Color::Gray, (200, 200, 200)),
    ("dark-gray", Color::DarkGray, (110, 110, 110)),
    ("bright-red", Color::LightRed, (241, 76, 76)),
    ("bright-green", Color::LightGreen, (35, 225, 139)),
    ("bright-yellow", Color::LightYellow, (245, 245, 67)),
    ("bright-blue", Color::LightBlue, (110, 160, 255)),
    ("bright-magenta", Color::LightMagenta, (230, 120, 230)),
    ("bright-cyan", Color::LightCyan, (90, 220, 240)),
    ("white", Color::White, (245, 245, 245)),
];

impl Ink {
    /// A colour with the stand-in among the sixteen that looks most like it.
    pub fn of(rgb: Rgb) -> Ink {
        let nearest = OWN.iter().min_by_key(|own| distance(own.2, rgb));
        Ink::Rgb(rgb, nearest.map_or(Color::Reset, |own| own.1))
    }

    /// As it comes out; `None` where there are no colours.
    pub fn at(self, depth: ColorDepth) -> Option<Color> {
        match (self, depth) {
            (_, ColorDepth::Mono) => None,
            (Ink::Own(color), _) | (Ink::Rgb(_, color), ColorDepth::Ansi16) => Some(color),
            (Ink::Rgb(rgb, _), ColorDepth::Indexed256) => Some(Color::Indexed(nearest_indexed(rgb))),
            (Ink::Rgb((r, g, b), _), ColorDepth::True) => Some(Color::Rgb(r, g, b)),
        }
    }

    /// About what it looks like.
    pub fn rgb(self) -> Rgb {
        match self {
            Ink::Rgb(rgb, _) => rgb,
            Ink::Own(color) => OWN.iter().find(|own| own.1 == color).map_or((128, 128, 128), |own| own.2),
        }
    }

    /// As one of the sixteen.
    pub fn own(self) -> Color {
        let (Ink::Rgb(_, color) | Ink::Own(color)) = self;
        color
    }
}

fn distance(a: Rgb, b: Rgb) -> i32 {
    let square = |x: u8, y: u8| (i32::from(x) - i32::from(y)).pow(2);
    square(a.0, b.0) + square(a.1, b.1) + square(a.2, b.2)
}

/// The nearest of xterm's 216 colours of the cube and 24 greys.
pub fn nearest_indexed((r, g, b): Rgb) -> u8 {
    const LEVELS: [u8; 6] = [0, 95, 135, 175, 215, 255];
    let step = |x: u8| (0..6).min_by_key(|&i| LEVELS[i].abs_diff(x)).unwrap_or(0);
    let (ri, gi, bi) = (step(r), step(g), step(b));
    let mean = (i32::from(r) + i32::from(g) + i32::from(b)) / 3;
    let grey_index = ((mean - 8 + 5) / 10).clamp(0, 23);
    let grey = 8 + 10 * grey_index as u8;
    let cube = distance((LEVELS[ri], LEVELS[gi], LEVELS[bi]), (r, g, b));
    if distance((grey, grey, grey), (r, g, b)) < cube {
        232 + grey_index as u8
    } else {
        (16 + 36 * ri + 6 * gi + bi) as u8
    }
}

/// How bright a colour is to the eye, 0 to 1 (the relative luminance of WCAG 2).
pub fn luminance((r, g, b): Rgb) -> f64 {
    let linear = |x: u8| {
        let x = f64::from(x) / 255.0;
        if x <= 0.040_45 { x / 12.92 } else { ((x + 0.055) / 1.055).powf(2.4) }
    };
    0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b)
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
        assert_eq!(nearest_indexed((0, 0, 0)), 16);
        assert_eq!(nearest_indexed((255, 255, 255)), 231);
        assert_eq!(nearest_indexed((95, 135, 175)), 67);
        assert_eq!(nearest_indexed((128, 128, 128)), 244);
    }

    #[test]
    fn a_colour_has_the_stand_in_that_looks_like_it() {
        assert_eq!(Ink::of((250, 10, 20)).own(), Color::Red);
        assert_eq!(Ink::of((255, 255, 255)).own(), Color::White);
        assert_eq!(Ink::of((0, 0, 0)).at(ColorDepth::Ansi16), Some(Color::Black));
        assert_eq!(Ink::Own(Color::Green).at(ColorDepth::True), Some(Color::Green));
        assert_eq!(Ink::Own(Color::Green).at(ColorDepth::Mono), None);
    }
}
