//! Whether the terminal is dark or light. It is asked (OSC 11) and nobody waits: its answer comes in between keys, and is
//! taken out from among them here. Without an answer `COLORFGBG` speaks, and without that dark is assumed.

use crossterm::event::{Event, KeyCode, KeyModifiers};

use super::color::luminance;
use super::palette::Ground;

/// What to write to ask.
const QUESTION: &str = "\x1b]11;?\x1b\\";
/// What an answer begins with, behind its ESC, as keys. crossterm takes ESC and a character for Alt and that character.
const BEGINNING: &str = "]11;rgb:";
/// An answer is no longer than this, in keys.
const LONGEST: usize = 40;

/// What a key was, while an answer is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Part of an answer, as far as one can tell. Where nothing follows it soon, [`GroundQuestion::give_up`] has it.
    Held,
    /// The end of the answer.
    Ground(Ground),
    /// These are no answer but were typed.
    Typed(Vec<Event>),
}

/// Picks the terminal's answer out of what is typed.
#[derive(Debug, Default)]
pub struct GroundQuestion {
    held: Vec<Event>,
    text: String,
    is_answered: bool,
}

impl GroundQuestion {
    /// What to ask with, where it makes sense. The console has no answer, and inside screen none arrives.
    pub fn ask(variable: impl Fn(&str) -> Option<String>) -> Option<&'static str> {
        let term = variable("TERM").unwrap_or_default();
        let is_mute = ["", "dumb", "linux"].contains(&term.as_str()) || term.starts_with("screen.") || term == "screen";
        let in_tmux = variable("TMUX").is_some_and(|value| !value.is_empty());
        (!is_mute || in_tmux).then_some(QUESTION)
    }

    pub fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }

    /// Takes an event.
    pub fn take(&mut self, event: Event) -> Answer {
        let sign = self.sign_of(&event);
        if self.is_answered || sign.is_none() {
            return self.typed(event);
        }
        self.held.push(event);
        match sign {
            Some(Sign::Letter(c)) => {
                self.text.push(c);
                let begins = BEGINNING.starts_with(&self.text) || self.text.starts_with(BEGINNING);
                if !begins || self.held.len() > LONGEST { self.flush() } else { Answer::Held }
            }
            Some(Sign::End) | None => match self.text.strip_prefix(BEGINNING).and_then(ground_of) {
                Some(ground) => {
                    self.is_answered = true;
                    self.held.clear();
                    Answer::Ground(ground)
                }
                None => self.flush(),
            },
        }
    }

    /// What was held back: it is no answer, since nothing came behind it.
    pub fn give_up(&mut self) -> Vec<Event> {
        self.text.clear();
        std::mem::take(&mut self.held)
    }

    fn flush(&mut self) -> Answer {
        Answer::Typed(self.give_up())
    }

    fn typed(&mut self, event: Event) -> Answer {
        let mut events = self.give_up();
        events.push(event);
        Answer::Typed(events)
    }

    /// What an event would be in an answer at this place.
    fn sign_of(&self, event: &Event) -> Option<Sign> {
        let Event::Key(key) = event else { return None };
        match (key.code, key.modifiers - KeyModifiers::SHIFT, self.held.is_empty()) {
            (KeyCode::Char(']'), KeyModifiers::ALT, true) => Some(Sign::Letter(']')),
            (KeyCode::Char(c), KeyModifiers::NONE, false) => Some(Sign::Letter(c.to_ascii_lowercase())),
            (KeyCode::Char('\\'), KeyModifiers::ALT, false) | (KeyCode::Char('g'), KeyModifiers::CONTROL, false) => {
                Some(Sign::End)
            }
            _ => None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sign {
    Letter(char),
    End,
}

/// Of `1e1e/1e1e/2e2e`: parts of one to four hexadecimal digits each.
fn ground_of(text: &str) -> Option<Ground> {
    let mut parts = text.split('/').map(|part| {
        let largest = [0, 0xf, 0xff, 0xfff, 0xffff].get(part.len()).copied().filter(|&largest| largest > 0)?;
        Some((u32::from_str_radix(part, 16).ok()? * 255 / largest) as u8)
    });
    let rgb = (parts.next()??, parts.next()??, parts.next()??);
    if parts.next().is_some() {
        return None;
    }
    // Of middle grey, black and white are equally far to the eye at a luminance of about 0.18.
    Some(if luminance(rgb) > 0.18 { Ground::Light } else { Ground::Dark })
}

/// What `COLORFGBG` says: its last part is the background's number among the sixteen.
pub fn of_colorfgbg(value: &str) -> Option<Ground> {
    match value.rsplit(';').next()?.trim().parse::<u8>().ok()? {
        0..=6 | 8 => Some(Ground::Dark),
        7 | 9..=15 => Some(Ground::Light),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use crossterm::event::KeyEvent;

    use super::*;

    fn key(c: char, modifiers: KeyModifiers) -> Event {
        Event::Key(KeyEvent::new(KeyCode::Char(c), modifiers))
    }

    fn answer(text: &str) -> Vec<Event> {
        let mut events = vec![key(']', KeyModifiers::ALT)];
        events.extend(text.chars().map(|c| key(c, KeyModifiers::NONE)));
        events.push(key('\\', KeyModifiers::ALT));
        events
    }

    #[test]
    fn an_answer_is_taken_out_from_among_keys_which_all_come_through_in_their_order() {
        let mut events = vec![key('h', KeyModifiers::NONE)];
        events.extend(answer("11;rgb:fdfd/F6F6/e3e3"));
        events.push(key('i', KeyModifiers::NONE));
        let (mut question, mut typed, mut ground) = (GroundQuestion::default(), Vec::new(), None);
        for event in events {
            match question.take(event) {
                Answer::Held => {}
                Answer::Ground(found) => ground = Some(found),
                Answer::Typed(events) => typed.extend(events),
            }
        }
        assert_eq!(ground, Some(Ground::Light));
        assert_eq!(typed, [key('h', KeyModifiers::NONE), key('i', KeyModifiers::NONE)]);
        // There is one answer: what looks like another is typed.
        assert_eq!(question.take(key(']', KeyModifiers::ALT)), Answer::Typed(vec![key(']', KeyModifiers::ALT)]));
    }

    #[test]
    fn what_only_begins_like_an_answer_is_typed() {
        for text in ["x", "11;rgb:zz/00/00", "11;rgb:00/00", "10;rgb:0/0/0", &"1".repeat(100)] {
            let (mut question, mut typed) = (GroundQuestion::default(), Vec::new());
            let events = answer(text);
            for event in &events {
                match question.take(event.clone()) {
                    Answer::Held => {}
                    Answer::Ground(_) => panic!("{text}"),
                    Answer::Typed(events) => typed.extend(events),
                }
            }
            typed.extend(question.give_up());
            assert_eq!(typed, events, "{text}");
        }
        let mut question = GroundQuestion::default();
        assert_eq!(question.take(key(']', KeyModifiers::ALT)), Answer::Held);
        assert!(question.is_holding());
        assert_eq!(question.give_up(), [key(']', KeyModifiers::ALT)]);
        assert!(!question.is_holding());
    }

    #[test]
    fn backgrounds_are_told_apart_in_every_spelling() {
        assert_eq!(ground_of("0000/0000/0000"), Some(Ground::Dark));
        assert_eq!(ground_of("ff/ff/ff"), Some(Ground::Light));
        assert_eq!(ground_of("f/f/f"), Some(Ground::Light));
        assert_eq!(ground_of("28/2c/34"), Some(Ground::Dark));
        assert_eq!(["", "/", "1/2", "1/2/3/4", "fffff/0/0", "-1/0/0"].map(ground_of), [None; 6]);
        assert_eq!(
            ["15;0", "0;15", "0;default;15", "7;8", "x", ""].map(of_colorfgbg),
            [Some(Ground::Dark), Some(Ground::Light), Some(Ground::Light), Some(Ground::Dark), None, None]
        );
    }

    #[test]
    fn terminals_that_cannot_answer_are_not_asked() {
        let ask = |term: &str, tmux: &str| {
            GroundQuestion::ask(|name| {
                Some(if name == "TERM" { term } else { tmux }.to_owned()).filter(|v| !v.is_empty())
            })
        };
        assert!(ask("xterm-256color", "").is_some() && ask("screen-256color", "/tmp/x,1,0").is_some());
        assert!(ask("linux", "").is_none() && ask("dumb", "").is_none() && ask("screen", "").is_none());
    }
}
