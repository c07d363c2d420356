//! Signs beyond ASCII, and what stands in for them where a terminal has no others.

use std::str::FromStr;

use super::super::keys::Arrows;

/// Which signs the screen is drawn with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Symbols {
    Unicode,
    Ascii,
}

impl Symbols {
    /// How the arrow keys are written.
    pub fn arrows(self) -> Arrows {
        match self {
            Symbols::Unicode => Arrows::Signs,
            Symbols::Ascii => Arrows::Words,
        }
    }
}

/// Which ones are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SymbolChoice {
    #[default]
    Auto,
    Unicode,
    Ascii,
}

impl SymbolChoice {
    /// What to draw with; `Auto` goes by the locale and `TERM`, as `variable` gives them.
    pub fn decide(self, variable: impl Fn(&str) -> Option<String>) -> Symbols {
        match self {
            SymbolChoice::Unicode => Symbols::Unicode,
            SymbolChoice::Ascii => Symbols::Ascii,
            SymbolChoice::Auto => {
                let value = |name: &&str| variable(name).filter(|value| !value.is_empty());
                // The first that is set is what counts; without any, most terminals of today speak UTF-8.
                let locale = ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(value);
                let is_utf8 = locale.is_none_or(|locale| {
                    let locale = locale.to_ascii_lowercase();
                    locale.contains("utf-8") || locale.contains("utf8")
                });
                let is_console = variable("TERM").is_some_and(|term| term == "linux");
                if is_utf8 && !is_console { Symbols::Unicode } else { Symbols::Ascii }
            }
        }
    }
}

impl FromStr for SymbolChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<SymbolChoice, String> {
        match text {
            "auto" => Ok(SymbolChoice::Auto),
            "unicode" => Ok(SymbolChoice::Unicode),
            "ascii" => Ok(SymbolChoice::Ascii),
            other => Err(format!("`{other}` is none of auto, unicode and ascii")),
        }
    }
}

/// What stands in for a cell's sign; `None` where it may stay: it is ASCII, or a letter of a text.
pub fn stand_in(symbol: &str) -> Option<&'static str> {
    let mut chars = symbol.chars();
    let (first, None) = (chars.next()?, chars.next()) else { return None };
    Some(match first {
        ' '..='~' => return None,
        '─' | '╌' | '╍' | '┄' | '┅' | '┈' | '┉' | '╴' | '╶' | '╸' | '╺' | '╼' | '╾' | '·' | '–' | '—' | '‐' | '‑' => {
            "-"
        }
        '━' | '═' => "=",
        '│' | '┃' | '║' | '╎' | '╏' | '┆' | '┇' | '┊' | '┋' | '╵' | '╷' | '╹' | '╻' | '╽' | '╿' | '▏' | '▎' | '▍'
        | '▌' | '▐' | '▕' => "|",
        '┌'..='╋' | '╒'..='╰' => "+",
        '╱' => "/",
        '╲' => "\\",
        '╳' => "x",
        '▁' => "_",
        '▂' => ".",
        '▃' => ":",
        '▄' => "-",
        '▅' => "=",
        '▆' => "+",
        '▇' => "*",
        '█' | '■' | '▀' | '▉' | '▊' | '▋' => "#",
        '▓' => "%",
        '▒' => "+",
        '░' => ":",
        '…' => "~",
        '×' => "x",
        '±' => "~",
        '›' | '▸' | '▶' | '►' | '→' | '❯' | '⏵' => ">",
        '‹' | '◂' | '◀' | '◄' | '←' => "<",
        '↑' | '▲' | '△' | '▴' => "^",
        '↓' | '▼' | '▽' | '▾' => "v",
        '↵' | '⏎' => "<",
        '•' | '●' | '◦' | '○' | '◆' | '◇' | '∙' | '▪' | '▫' | '★' | '☆' => "*",
        '✓' | '✔' | '☑' => "x",
        '☐' | '□' => "o",
        '“' | '”' | '„' | '«' | '»' => "\"",
        '‘' | '’' => "'",
        '≈' => "~",
        '≤' => "<",
        '≥' => ">",
        '\u{a0}' => " ",
        // Braille: spinners and small graphs, by how many dots are set.
        '\u{2800}'..='\u{28ff}' => match (first as u32 - 0x2800).count_ones() {
            0 => " ",
            1..=2 => ".",
            3..=5 => ":",
            _ => "#",
        },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_locale_and_the_console_decide_unless_somebody_does() {
        let decide = |variables: &[(&str, &str)]| {
            let variable = |name: &str| variables.iter().find(|v| v.0 == name).map(|v| v.1.to_owned());
            SymbolChoice::Auto.decide(variable)
        };
        assert_eq!(decide(&[]), Symbols::Unicode);
        assert_eq!(decide(&[("LANG", "de_DE.UTF-8")]), Symbols::Unicode);
        assert_eq!(decide(&[("LANG", "C")]), Symbols::Ascii);
        assert_eq!(decide(&[("LC_ALL", "POSIX"), ("LANG", "en_US.utf8")]), Symbols::Ascii);
        assert_eq!(decide(&[("LC_ALL", ""), ("LANG", "en_US.utf8")]), Symbols::Unicode);
        assert_eq!(decide(&[("LANG", "en_US.utf8"), ("TERM", "linux")]), Symbols::Ascii);
        assert_eq!("ascii".parse::<SymbolChoice>().unwrap().decide(|_| None), Symbols::Ascii);
        assert!("latin".parse::<SymbolChoice>().unwrap_err().contains("`latin`"));
    }

    #[test]
    fn every_stand_in_is_one_column_of_ascii_and_letters_are_left() {
        for code in 0x80..0x3000_u32 {
            let Some(c) = char::from_u32(code) else { continue };
            if let Some(sign) = stand_in(c.encode_utf8(&mut [0; 4])) {
                assert!(sign.len() == 1 && sign.is_ascii(), "{c}");
            } else {
                assert!(!('\u{2500}'..='\u{257f}').contains(&c), "{c}");
            }
        }
        assert_eq!((stand_in("é"), stand_in("日"), stand_in("a"), stand_in("")), (None, None, None, None));
    }
}
