//! A key with its modifiers: from an event, from a text, and as help writes it.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// A key with its modifiers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chord {
    pub(super) code: KeyCode,
    pub(super) modifiers: KeyModifiers,
}

const MODIFIERS: [(KeyModifiers, &str); 3] =
    [(KeyModifiers::CONTROL, "Ctrl+"), (KeyModifiers::ALT, "Alt+"), (KeyModifiers::SHIFT, "Shift+")];

/// Keys by name; the first of several names is how help writes it.
const NAMED: [(&str, KeyCode); 20] = [
    ("Space", KeyCode::Char(' ')),
    ("Enter", KeyCode::Enter),
    ("Return", KeyCode::Enter),
    ("Esc", KeyCode::Esc),
    ("Escape", KeyCode::Esc),
    ("Tab", KeyCode::Tab),
    ("Backspace", KeyCode::Backspace),
    ("Delete", KeyCode::Delete),
    ("Insert", KeyCode::Insert),
    ("Home", KeyCode::Home),
    ("End", KeyCode::End),
    ("PgUp", KeyCode::PageUp),
    ("PageUp", KeyCode::PageUp),
    ("PgDn", KeyCode::PageDown),
    ("PageDown", KeyCode::PageDown),
    ("Up", KeyCode::Up),
    ("Down", KeyCode::Down),
    ("Left", KeyCode::Left),
    ("Right", KeyCode::Right),
    ("Menu", KeyCode::Menu),
];
const ARROWS: [(&str, KeyCode); 4] =
    [("↑", KeyCode::Up), ("↓", KeyCode::Down), ("←", KeyCode::Left), ("→", KeyCode::Right)];

impl Chord {
    /// The chord of a key event. Shift says nothing on top of a character that it made.
    pub fn of(key: KeyEvent) -> Chord {
        let mut modifiers = key.modifiers & (KeyModifiers::CONTROL | KeyModifiers::ALT | KeyModifiers::SHIFT);
        let mut code = key.code;
        if let KeyCode::Char(c) = code {
            modifiers -= KeyModifiers::SHIFT;
            if modifiers.contains(KeyModifiers::CONTROL) {
                code = KeyCode::Char(c.to_ascii_lowercase());
            }
        }
        if code == KeyCode::BackTab {
            modifiers -= KeyModifiers::SHIFT;
        }
        Chord { code, modifiers }
    }

    /// Reads `Ctrl+X`, `Alt+Enter`, `F5`, `?`.
    ///
    /// # Errors
    /// It is no key, or one that a terminal cannot tell from another.
    pub fn parse(text: &str) -> Result<Chord, String> {
        let mut modifiers = KeyModifiers::NONE;
        let mut rest = text.trim();
        while let Some((modifier, word)) = MODIFIERS.iter().find(|(_, word)| {
            rest.len() > word.len() && rest.get(..word.len()).is_some_and(|r| r.eq_ignore_ascii_case(word))
        }) {
            modifiers |= *modifier;
            rest = &rest[word.len()..];
        }
        let named =
            NAMED.iter().chain(&ARROWS).find(|(name, _)| name.eq_ignore_ascii_case(rest)).map(|(_, code)| *code);
        let function = || rest.strip_prefix(['F', 'f'])?.parse().ok().filter(|n| (1..=24).contains(n)).map(KeyCode::F);
        let mut chars = rest.chars();
        let letter = || chars.next().filter(|c| chars.next().is_none() && !c.is_control()).map(KeyCode::Char);
        let code = named.or_else(function).or_else(letter).ok_or_else(|| {
            format!("`{text}` is no key; write for example Ctrl+X, Alt+Enter, Shift+Up, F5, PgUp, Space or ?")
        })?;
        let shift = modifiers.contains(KeyModifiers::SHIFT);
        let code = match code {
            KeyCode::Char(_) if shift => {
                return Err(format!("`{text}`: Shift makes another character; write that character"));
            }
            KeyCode::Tab if shift => KeyCode::BackTab,
            KeyCode::Char(c) if modifiers != KeyModifiers::NONE => KeyCode::Char(c.to_ascii_lowercase()),
            code => code,
        };
        if code == KeyCode::BackTab {
            modifiers -= KeyModifiers::SHIFT;
        }
        let twin = match code {
            KeyCode::Char('m') => Some("Enter"),
            KeyCode::Char('i') => Some("Tab"),
            KeyCode::Char('[') => Some("Esc"),
            _ => None,
        };
        match twin.filter(|_| modifiers.contains(KeyModifiers::CONTROL)) {
            Some(twin) => Err(format!("`{text}` cannot be bound: a terminal sends the same for it as for {twin}")),
            None => Ok(Chord { code, modifiers }),
        }
    }

    /// What a terminal's event is when it is pressed.
    pub fn event(self) -> KeyEvent {
        KeyEvent::new(self.code, self.modifiers)
    }

    /// Whether it is a character that a person types.
    pub fn is_typed(self) -> bool {
        matches!(self.code, KeyCode::Char(_)) && self.modifiers.is_empty()
    }

    /// As help writes it.
    pub fn name(self) -> String {
        let arrow = ARROWS.iter().find(|(_, code)| *code == self.code).map(|(arrow, _)| (*arrow).to_owned());
        self.prefix() + &arrow.unwrap_or_else(|| self.key())
    }

    /// As the settings' file has it: all ASCII.
    pub fn spelled(self) -> String {
        self.prefix() + &self.key()
    }

    fn prefix(self) -> String {
        let has = |modifier: KeyModifiers| self.modifiers.contains(modifier);
        let words = MODIFIERS.iter().filter(|(modifier, _)| has(*modifier)).map(|(_, word)| *word);
        words.chain((self.code == KeyCode::BackTab).then_some("Shift+")).collect()
    }

    fn key(self) -> String {
        match self.code {
            KeyCode::Char(c) if c != ' ' && self.modifiers.is_empty() => c.to_string(),
            KeyCode::Char(c) if c != ' ' => c.to_ascii_uppercase().to_string(),
            KeyCode::F(n) => format!("F{n}"),
            KeyCode::BackTab => "Tab".to_owned(),
            code => match NAMED.iter().find(|(_, named)| *named == code) {
                Some((name, _)) => (*name).to_owned(),
                None => format!("{code:?}"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_reads_back_as_the_key_it_is() {
        for text in [
            "Ctrl+X",
            "Alt+Enter",
            "Ctrl+Alt+Shift+Up",
            "F12",
            "PgUp",
            "Space",
            "?",
            "G",
            "g",
            "Shift+Tab",
            "+",
            "Ctrl++",
        ] {
            assert_eq!(Chord::parse(text).unwrap().spelled(), text);
        }
        assert_eq!(Chord::parse("ctrl+shift+up").unwrap().name(), "Ctrl+Shift+↑");
        assert_eq!(Chord::parse("alt+R"), Chord::parse("Alt+r"));
        assert_ne!(Chord::parse("R"), Chord::parse("r"));
        assert_eq!(Chord::parse("pageup"), Chord::parse("PgUp"));
    }

    #[test]
    fn what_a_terminal_cannot_tell_apart_is_refused_with_the_reason() {
        for (text, twin) in [("Ctrl+M", "Enter"), ("ctrl+i", "Tab"), ("Ctrl+[", "Esc"), ("Ctrl+Alt+M", "Enter")] {
            let problem = Chord::parse(text).unwrap_err();
            assert!(problem.contains(&format!("the same for it as for {twin}")), "{problem}");
        }
        assert!(Chord::parse("Shift+a").unwrap_err().contains("write that character"));
        for text in ["", "Ctrl+", "Hyper+X", "F0", "F25", "ab", "\u{7}", "Ctrl+é+", "日本"] {
            assert!(Chord::parse(text).unwrap_err().contains("is no key"), "{text}");
        }
    }
}
