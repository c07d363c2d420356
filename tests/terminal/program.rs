//! The program itself, at a home of its own, and what a terminal sends it for a key.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::path::Path;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use portable_pty::CommandBuilder;

/// The program with a home of its own: nothing of the person who tests is read or written.
pub fn at_home(home: &Path, args: &[&str]) -> CommandBuilder {
    let mut command = CommandBuilder::new(env!("CARGO_BIN_EXE_wayinfer"));
    command.args(args);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("WAYINFER_")) {
        command.env_remove(name);
    }
    for name in ["NO_COLOR", "TMUX", "STY", "SSH_TTY", "SSH_CONNECTION", "COLORFGBG"] {
        command.env_remove(name);
    }
    command.env("TERM", "xterm-256color");
    command.env("COLORTERM", "truecolor");
    command.env("HOME", home);
    for (name, folder) in [("XDG_DATA_HOME", "data"), ("XDG_CONFIG_HOME", "config"), ("XDG_CACHE_HOME", "cache")] {
        command.env(name, home.join(folder));
    }
    command.cwd(home);
    command
}

pub fn tiny_model() -> &'static str {
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/mixtral-Q4_K_M.gguf")
}

/// A real worker on a tiny model. What was said grows likelier and the context is long, so that replies repeat themselves
/// until they are stopped.
pub const ENDLESS: [&str; 5] = ["--greedy", "--frequency-penalty=-10", "--threads", "1", "--ctx"];

/// What a terminal sends for a key: the oldest way there is one, else kitty's.
pub fn bytes(key: KeyEvent) -> String {
    let has = |modifier| u8::from(key.modifiers.contains(modifier));
    let (shift, alt, ctrl) = (has(KeyModifiers::SHIFT), has(KeyModifiers::ALT), has(KeyModifiers::CONTROL));
    let m = 1 + shift + 2 * alt + 4 * ctrl;
    let letter = |letter: char| if m == 1 { format!("\x1b[{letter}") } else { format!("\x1b[1;{m}{letter}") };
    let tilde = |n: u8| if m == 1 { format!("\x1b[{n}~") } else { format!("\x1b[{n};{m}~") };
    let plain = |text: &str, code: u8| match m {
        1 => text.to_owned(),
        3 => format!("\x1b{text}"),
        _ => format!("\x1b[{code};{m}u"),
    };
    match key.code {
        KeyCode::Char(c) if m == 5 && c.is_ascii_alphabetic() => char::from(c as u8 & 0x1f).to_string(),
        KeyCode::Char('7') if m == 5 => "\x1f".into(),
        KeyCode::Char(c) if m == 1 => c.to_string(),
        KeyCode::Char(c) if m == 3 => format!("\x1b{c}"),
        KeyCode::Char(c) => format!("\x1b[{};{m}u", c as u32),
        KeyCode::Enter => plain("\r", 13),
        KeyCode::Tab => plain("\t", 9),
        KeyCode::BackTab => "\x1b[Z".into(),
        KeyCode::Backspace => plain("\x7f", 127),
        KeyCode::Esc if key.state.is_empty() => "\x1b".into(),
        KeyCode::Esc => "\x1b[27u".into(),
        KeyCode::Up => letter('A'),
        KeyCode::Down => letter('B'),
        KeyCode::Right => letter('C'),
        KeyCode::Left => letter('D'),
        KeyCode::Home => letter('H'),
        KeyCode::End => letter('F'),
        KeyCode::Insert => tilde(2),
        KeyCode::Delete => tilde(3),
        KeyCode::PageUp => tilde(5),
        KeyCode::PageDown => tilde(6),
        KeyCode::F(n @ 1..=4) => format!("\x1bO{}", char::from(b'P' + n - 1)),
        KeyCode::F(n) => tilde([15, 17, 18, 19, 20, 21, 23, 24][usize::from(n) - 5]),
        other => panic!("no terminal sends {other:?}"),
    }
}
