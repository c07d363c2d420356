//! A chat that is driven by short scripts: keys and text in, what must then be on the screen out. One process serves many
//! scripts; after each it is led back to an empty input.

#![allow(clippy::unwrap_used, reason = "whatever fails here fails the test")]

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crossterm::event::{KeyCode, KeyEvent};
use wayinfer::tui::keys::Chord;

use super::program::{ENDLESS, at_home, bytes, tiny_model};
use super::pty::{Answers, Pty};

const PATIENCE: Duration = Duration::from_secs(5);
/// Lines of the message that every chat begins with, so that there is something to scroll.
const TALL: usize = 120;
/// Models in the folder, so that the list of them has pages.
const MODELS: usize = 90;

/// What is done and seen, one after the other.
#[derive(Debug, Clone, Copy)]
pub enum Step {
    /// The key that the script is about. What is waited for next must not be so before.
    Key,
    /// Another key, as help writes it.
    Press(&'static str),
    Type(&'static str),
    /// A message that is typed and sent, and the whole reply to it.
    Say(&'static str),
    /// In brackets, as a terminal pastes.
    Paste(&'static str),
    /// A line of the screen has this.
    See(&'static str),
    /// No line has this.
    Gone(&'static str),
    /// The line with this is the chosen one of a list.
    Chosen(&'static str),
    /// The line with this is not the chosen one, or out of view.
    Unchosen(&'static str),
    /// What the screen was when the key was pressed and what it has become.
    Becomes(fn(&str, &str) -> bool),
    /// The program has written these bytes since the key was pressed.
    Writes(&'static str),
    /// Something in the program's home folder.
    Do(fn(&Path)),
    /// A file of this ending lies in the program's folder.
    File(&'static str),
    /// No reply is under way.
    Idle,
    /// The program has ended well, and the terminal is as it was before it.
    Ends,
}

pub use Step::*;

/// A program, its home and its terminal.
pub struct Driver {
    home: tempfile::TempDir,
    size: (u16, u16),
    /// A chat that the next script can go on with.
    chat: Option<Pty>,
    markers: usize,
}

/// The program that a script needs. A chat serves many scripts, the others are started for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Chat,
    /// A chat whose context is soon full.
    Narrow,
    Replay,
}

impl Driver {
    pub fn new(size: (u16, u16)) -> Driver {
        let home = tempfile::tempdir().unwrap();
        let models = home.path().join("data/wayinfer/models");
        fs::create_dir_all(&models).unwrap();
        let model = home.path().join("tiny.gguf");
        fs::copy(tiny_model(), &model).unwrap();
        for n in 10..10 + MODELS {
            fs::hard_link(&model, models.join(format!("model-{n}.gguf"))).unwrap();
        }
        Driver { home, size, chat: None, markers: 0 }
    }

    fn start(&mut self, kind: Kind) -> Pty {
        let context = if kind == Kind::Narrow { "280" } else { "100000" };
        let trace = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/replay.trace");
        let mut command = match kind {
            Kind::Replay => at_home(self.home.path(), &["replay", trace, "--tui"]),
            Kind::Chat | Kind::Narrow => {
                at_home(self.home.path(), &[&[tiny_model()], &ENDLESS[..], &[context]].concat())
            }
        };
        command.env("VISUAL", "printf 'from the editor' >");
        let mut pty = Pty::start(command, self.size, Answers::Kitty);
        if kind == Kind::Replay {
            pty.wait_for("the replay", |s| s.contains("pass "));
            return pty;
        }
        pty.wait_for("the model is loaded", |s| s.contains("· ready"));
        pty.send("/max-tokens 8\r");
        pty.wait_for("the limit", |s| s.contains("of a reply is 8"));
        if kind == Kind::Chat {
            let lines: Vec<String> = (0..TALL).map(|n| format!("tall-{n}-line")).collect();
            pty.send(&format!("\x1b[200~{}\x1b[201~\r", lines.join("\n")));
            pty.wait_for("the first reply", |s| s.contains("token limit"));
        }
        pty
    }

    /// Runs the steps, with `key` as the key that they are about. Errors say what was not seen, and what was instead.
    pub fn run(&mut self, kind: Kind, key: KeyEvent, opening: &[Step], script: &[Step]) -> Result<(), String> {
        let running = self.chat.take().filter(|_| kind == Kind::Chat);
        let mut pty = running.unwrap_or_else(|| self.start(kind));
        let mut pressed = None;
        let mut is_new = true;
        let steps: Vec<Step> = opening.iter().chain(script).copied().collect();
        for (n, step) in steps.iter().enumerate() {
            match step {
                Key => {
                    // A notice of before may have to go first.
                    let next = &steps[n + 1..];
                    let awaited = next.iter().find(|s| matches!(s, See(_) | Gone(_) | Chosen(_) | Unchosen(_)));
                    if let (true, Some(awaited)) = (is_new, awaited)
                        && !wait(PATIENCE, || !self.holds(&pty, awaited, ""))
                    {
                        return Err(format!("{awaited:?} held before the key was pressed:\n{}", pty.text()));
                    }
                    (pressed, is_new) = (Some((pty.text(), pty.written())), false);
                    pty.send(&bytes(key));
                }
                Press(name) => pty.send(&bytes(named(name))),
                Type(text) => pty.send(text),
                Paste(text) => pty.send(&format!("\x1b[200~{text}\x1b[201~")),
                Do(deed) => deed(self.home.path()),
                Say(text) => {
                    pty.send(text);
                    let shown = format!("› {text}");
                    let typed = wait(PATIENCE, || pty.text().contains(&shown));
                    pty.send("\r");
                    let taken = wait(PATIENCE, || !pty.text().contains(&shown));
                    if !typed || !taken || !wait(PATIENCE, || self.holds(&pty, &Idle, "")) {
                        return Err(format!("`{text}` is not answered:\n{}", pty.text()));
                    }
                }
                Ends => {
                    let status = pty.wait_for_exit();
                    if !status.success() {
                        return Err(format!("it ended with {status}:\n{}", pty.text()));
                    }
                    pty.check_restored();
                    return Ok(());
                }
                step => {
                    let (before, written) = pressed.clone().unwrap_or_default();
                    let there = match step {
                        Writes(text) => wait(PATIENCE, || pty.has_written(written, text)),
                        step => wait(PATIENCE, || self.holds(&pty, step, &before)),
                    };
                    if !there {
                        return Err(format!("waited in vain for {step:?}:\n{}", pty.text()));
                    }
                }
            }
        }
        if kind == Kind::Chat {
            self.lead_back(&mut pty)?;
            self.chat = Some(pty);
        }
        Ok(())
    }

    fn holds(&self, pty: &Pty, step: &Step, before: &str) -> bool {
        match step {
            See(text) => pty.text().contains(text),
            Gone(text) => !pty.text().contains(text),
            Chosen(text) => choice(pty, text) == Some(true),
            Unchosen(text) => choice(pty, text) != Some(true),
            Becomes(holds) => holds(before, &pty.text()),
            Idle => {
                let text = pty.text();
                let last = text.lines().last().unwrap_or_default();
                (last.contains("· ready") || last.contains("Enter send")) && !last.contains("Esc stop")
            }
            File(ending) => fs::read_dir(self.home.path()).unwrap().any(|entry| {
                let name = entry.unwrap().file_name();
                name.to_string_lossy().ends_with(ending)
            }),
            Key | Press(_) | Type(_) | Say(_) | Paste(_) | Writes(_) | Do(_) | Ends => {
                unreachable!("nothing to wait for")
            }
        }
    }

    /// Out of whatever is open, with nothing typed.
    fn lead_back(&mut self, pty: &mut Pty) -> Result<(), String> {
        self.markers += 1;
        let marker = format!("qz{}", self.markers);
        // As kitty's protocol says it, Escape needs no pause behind it.
        pty.send(&"\x1b[27u".repeat(4));
        pty.send("\x1b[1;5F\x0e\x0e\x0e\x0e\x05");
        pty.send(&"\x15\x7f".repeat(8));
        pty.send(&marker);
        let shown = format!("› {marker}");
        if !wait(PATIENCE, || pty.text().contains(&shown)) {
            return Err(format!("it cannot be led back:\n{}", pty.text()));
        }
        pty.send("\x15");
        if !wait(PATIENCE, || !pty.text().contains(&marker)) {
            return Err(format!("the input cannot be emptied:\n{}", pty.text()));
        }
        // No earlier message waits to be put otherwise.
        pty.send("\r");
        Ok(())
    }
}

/// Whether a line with `text` is the chosen one of its list, where there is such a line.
fn choice(pty: &Pty, text: &str) -> Option<bool> {
    pty.on_screen(|screen| {
        let is_chosen = |(row, line): (usize, String)| {
            let column = line[..line.find(text)?].chars().count() as u16;
            let cell = screen.cell(row as u16, column)?;
            Some(cell.inverse() || cell.bgcolor() != vt100::Color::Default)
        };
        screen.rows(0, screen.size().1).enumerate().filter_map(is_chosen).reduce(|a, b| a || b)
    })
}

fn wait(patience: Duration, is_so: impl Fn() -> bool) -> bool {
    let begin = Instant::now();
    while !is_so() {
        if begin.elapsed() > patience {
            return false;
        }
        std::thread::sleep(Duration::from_millis(4));
    }
    true
}

/// A key as help writes it.
pub fn named(name: &str) -> KeyEvent {
    let key = Chord::parse(name).unwrap().event();
    // In a script, Escape is told apart from what follows it.
    let state = if key.code == KeyCode::Esc {
        crossterm::event::KeyEventState::KEYPAD
    } else {
        crossterm::event::KeyEventState::NONE
    };
    KeyEvent { state, ..key }
}
