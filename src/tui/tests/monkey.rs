//! A hundred thousand random events: keys, text in every script, pastes, the mouse, sizes, focus, the engine's events and
//! the answers of the disk. Nothing panics, nothing that was typed or said goes astray, and every frame is whole.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crossterm::event::MouseButton;
use ratatui::Terminal;
use ratatui::backend::{Backend, TestBackend};
use unicode_width::UnicodeWidthStr;

use super::*;
use crate::transcript::library::{self, Listed};
use crate::transcript::{Header, Transcript};
use crate::tui::app::{Answer, Work};
use crate::tui::commands::{COMMANDS, escaped};
use crate::tui::keys::{self, Action, Context, InputState};
use crate::tui::sanitize::pasted;
use crate::tui::view;

const SEED: u64 = 0x5EED_0006;
const EVENTS: usize = 100_000;
/// Events of one sitting; then the program is quit and begun again.
const SITTING: usize = 4_000;
/// A frame is drawn after so many events.
const EVENTS_A_FRAME: u64 = 6;
/// Events that are told where something fails.
const TOLD: usize = 40;

/// Letters that are wide, combining, from right to left, joined, invisible or no letters at all.
const LETTERS: [&str; 24] = [
    "a",
    "Z",
    "9",
    " ",
    "?",
    "/",
    "é",
    "e\u{301}",
    "日",
    "한",
    "ﷺ",
    "ש",
    "م",
    "👩‍👩‍👧",
    "🇨🇭",
    "\u{200b}",
    "\u{202e}",
    "ẞ",
    "ﬁ",
    "\u{fe0f}",
    "│",
    "\t",
    "𝕏",
    "क्षि",
];
const HOSTILE: [&str; 8] = [
    "\u{1b}[2J\u{1b}]0;title\u{7}",
    "\u{1b}[201~",
    "```rust\nfn main() {",
    "| a | b |\n|---|---|\n| 1 |",
    "\r\n\r",
    "\0\u{9b}31m",
    "<think>\nhm\n</think>\n# head\n* item",
    "\u{1b}P\u{1b}\\\u{ffff}",
];

/// By xorshift: the same on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % n.max(1)
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn of<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }

    fn text(&mut self, most: usize) -> String {
        let mut text = String::new();
        for _ in 0..=self.below(most) {
            match self.below(12) {
                0 => text.push_str(self.of::<&str>(&HOSTILE)),
                1 => text.push('\n'),
                2..4 => text.push_str(" word "),
                _ => text.push_str(self.of::<&str>(&LETTERS)),
            }
        }
        text
    }
}

struct Monkey {
    d: Driver,
    random: Random,
    screen: Terminal<TestBackend>,
    keys: Vec<(Context, Action, KeyEvent)>,
    listed: Vec<Listed>,
    /// What the file of the conversation holds.
    file: Transcript,
    /// What the engine has said of the reply under way.
    said: Option<String>,
    /// Work that has not been answered.
    owed: Vec<Answer>,
    log: VecDeque<Msg>,
    sittings: usize,
}

impl Monkey {
    fn new(listed: Vec<Listed>) -> Monkey {
        let mut monkey = Monkey {
            d: Driver::loading(),
            random: Random(SEED),
            screen: Terminal::new(TestBackend::new(80, 24)).unwrap(),
            keys: keys::all().collect(),
            listed,
            file: Transcript::default(),
            said: None,
            owed: Vec::new(),
            log: VecDeque::new(),
            sittings: 0,
        };
        monkey.begin_again();
        monkey
    }

    /// Starts the program on the conversation as the file has it.
    fn begin_again(&mut self) {
        self.sittings += 1;
        let model = (!self.random.one_in(4)).then(|| "model.gguf".into());
        let (mut d, effects) = Driver::new(model);
        d.now = self.d.now;
        if self.random.one_in(3) {
            self.file = Transcript::default();
        } else {
            d.app.resume("/s/now.jsonl".into(), &self.file);
            self.file.note(Record::Model { name: "m".into(), path: "m".into(), quantization: "q".into() });
        }
        (self.d, self.said) = (d, None);
        self.owed.clear();
        self.carry_out(effects);
    }

    fn event(&mut self) -> Msg {
        let typed = |code, modifiers| Msg::Terminal(TerminalEvent::Key(KeyEvent::new(code, modifiers)));
        match self.random.below(100) {
            0..28 => {
                // Keys of the context that is open come more often than others.
                let context = self.d.app.context();
                let here: Vec<KeyEvent> =
                    self.keys.iter().filter(|(c, ..)| *c == context).map(|(.., key)| *key).collect();
                let any = self.random.of(&self.keys).2;
                let key = if here.is_empty() || self.random.one_in(5) { any } else { *self.random.of(&here) };
                Msg::Terminal(TerminalEvent::Key(key))
            }
            28..44 => {
                let letters = self.random.of(&LETTERS);
                let letter = letters.chars().nth(self.random.below(letters.chars().count())).unwrap_or('x');
                typed(KeyCode::Char(letter), KeyModifiers::NONE)
            }
            44..50 => typed(KeyCode::Enter, KeyModifiers::NONE),
            50..54 => {
                let (name, argument) = (self.random.of(COMMANDS).name, self.random.below(6));
                let argument = [" ", " 1", " 0.5", " -", " md", " 3"][argument];
                Msg::Terminal(TerminalEvent::Paste(format!("{name}{argument}")))
            }
            54..58 => {
                let most = if self.random.one_in(30) { 4000 } else { 30 };
                Msg::Terminal(TerminalEvent::Paste(self.random.text(most)))
            }
            58..62 => {
                let kind = *self.random.of(&[
                    MouseEventKind::ScrollUp,
                    MouseEventKind::ScrollDown,
                    MouseEventKind::Down(MouseButton::Left),
                    MouseEventKind::Drag(MouseButton::Left),
                    MouseEventKind::Up(MouseButton::Left),
                    MouseEventKind::Moved,
                ]);
                let (column, row) = (self.random.below(300) as u16, self.random.below(100) as u16);
                Msg::Terminal(TerminalEvent::Mouse(MouseEvent { kind, column, row, modifiers: KeyModifiers::NONE }))
            }
            62..64 => Msg::Terminal(self.random.of(&[TerminalEvent::FocusGained, TerminalEvent::FocusLost]).clone()),
            64..67 => {
                let (columns, rows) =
                    *self.random.of(&[(80, 24), (20, 5), (24, 6), (120, 40), (1, 1), (37, 9), (200, 60)]);
                let (columns, rows) = if self.random.one_in(3) {
                    (1 + self.random.below(160) as u16, 1 + self.random.below(60) as u16)
                } else {
                    (columns, rows)
                };
                self.screen.backend_mut().resize(columns, rows);
                Msg::Terminal(TerminalEvent::Resize(columns, rows))
            }
            67..70 => Msg::Tick,
            70..92 => Msg::Worker(self.engine()),
            92..97 if !self.owed.is_empty() => Msg::Answer(self.owed.swap_remove(0)),
            97 => Msg::Transcript(
                self.random
                    .of(&[Status::Created("/s/now.jsonl".into()), Status::Failing("full".into()), Status::Recovered])
                    .clone(),
            ),
            98 if self.random.one_in(40) => Msg::WorkerGone,
            98 if self.random.one_in(40) => Msg::Panicked("`x` panicked".into()),
            99 if self.random.one_in(20) => Msg::Terminate(15),
            _ => Msg::Tick,
        }
    }

    /// What an engine could say now, and now and then what none would.
    fn engine(&mut self) -> Event {
        let stats = ReplyStats { prompt_tokens: 3, prompt_seconds: 0.1, generated_tokens: 9, generate_seconds: 0.2 };
        if matches!(self.d.app.engine, Engine::Loading { .. }) {
            return if self.random.one_in(6) {
                Event::LoadFailed { path: "/m/x\u{1b}.gguf".into(), error: self.random.text(9) }
            } else {
                Event::Loaded(ModelSummary { name: self.random.text(4), ..summary() })
            };
        }
        if self.said.is_none() && !self.random.one_in(12) {
            return Event::Warning(self.random.text(6));
        }
        match self.random.below(20) {
            0 => Event::ReplyStarted { prompt_tokens: 7, reused_tokens: self.random.below(7) },
            1..3 => {
                let stop = *self.random.of(&StopReason::ALL);
                Event::ReplyFinished { stop, stats }
            }
            3 if self.random.one_in(3) => Event::ReplyFailed(self.random.text(8)),
            4 if self.random.one_in(2) && self.said.as_ref().is_none_or(String::is_empty) => {
                let droppable_turns = *self.random.of(&[None, Some(1), Some(2)]);
                Event::ContextFull { needed: 99, capacity: 9, droppable_turns }
            }
            _ => {
                let pass = (!self.random.one_in(5)).then(|| self.random.below(40) as u64);
                Event::Text { text: self.random.text(12), pass }
            }
        }
    }

    fn step(&mut self) {
        let msg = self.event();
        if self.log.len() == TOLD {
            self.log.pop_front();
        }
        self.log.push_back(msg.clone());
        self.d.now += Duration::from_millis(self.random.below(120) as u64);
        let before = Before::of(&self.d.app, &msg);
        if let (Msg::Worker(Event::Text { text, .. }), Some(said)) = (&msg, &mut self.said) {
            said.push_str(text);
        }
        let effects = self.d.tell(msg.clone());
        let n_before = self.file.entries.len();
        let ended = self.carry_out(effects);
        self.check(&before, &msg, n_before, ended);
        if ended {
            self.begin_again();
        }
    }

    /// Does what the screen wants done. Whether the program has ended.
    fn carry_out(&mut self, effects: Vec<Effect>) -> bool {
        let mut ended = false;
        for effect in effects {
            match effect {
                Effect::Record(record) => {
                    if let (Record::Reply { text, .. }, Some(said)) = (&record, &self.said) {
                        assert!(text.ends_with(said.as_str()), "of `{said}` the file gets `{text}`");
                        self.said = None;
                    }
                    self.file.note(record);
                }
                Effect::Send(Command::Generate { .. }) => self.said = Some(String::new()),
                Effect::Begin { header, .. } => self.file = Transcript::new(*header),
                Effect::Open(_) => {
                    if self.random.one_in(2) {
                        self.owed.push(Answer::Told(Err("it is open elsewhere".into())));
                    } else if !self.d.app.is_busy() {
                        let mut other = Transcript::new(Header::new(None, serde_json::Value::Null));
                        other.note(Record::User { id: 1, parent: None, text: self.random.text(20) });
                        self.file = other.clone();
                        let effects = self.d.app.change_session("/s/other.jsonl".into(), &other, self.d.now);
                        self.carry_out(effects);
                    }
                }
                Effect::EditText(text) => {
                    let edited = [Ok(None), Ok(Some(format!("{text} edited"))), Err("no editor".into())];
                    let answer = Answer::Edited(self.random.of(&edited).clone());
                    // The editor has the terminal: nothing else is typed meanwhile.
                    self.d.tell(Msg::Answer(answer));
                }
                Effect::Work(Work::List { query }) => {
                    let found = if self.random.one_in(8) { Err("gone".into()) } else { Ok(self.listed.clone()) };
                    self.owed.push(Answer::Listed { query, found });
                }
                Effect::Work(Work::FindModel(name)) => {
                    let found = if self.random.one_in(2) { Ok(name.into()) } else { Err("no such model".into()) };
                    self.owed.push(Answer::Model(found));
                }
                Effect::Work(_) => self.owed.push(Answer::Changed(Ok("done".into()))),
                Effect::Scan(_) => {
                    let candidate = |n: usize| Candidate {
                        path: format!("/m/{n}.gguf").into(),
                        name: format!("m{n}"),
                        folder: String::new(),
                        bytes: 1,
                        splits: None,
                    };
                    let models = (0..self.random.below(80)).map(candidate).collect();
                    self.d.tell(Msg::Scanned(Scan { models, ..Scan::default() }));
                }
                Effect::Quit(_) => ended = true,
                _ => {}
            }
        }
        ended
    }

    /// Nothing that was typed, queued or sent has gone astray.
    fn check(&self, before: &Before, msg: &Msg, n_before: usize, ended: bool) {
        let app = &self.d.app;
        let sent: Vec<&str> = self.file.entries.iter().skip(n_before).map(|e| e.message.content.as_str()).collect();
        if ended {
            let draft = self.file.draft.clone().unwrap_or_default();
            for text in before
                .queue
                .iter()
                .chain((!before.typed.trim().is_empty() && !before.may_change).then_some(&before.typed))
            {
                assert!(
                    draft.contains(text.trim()) || sent.contains(&text.as_str()),
                    "`{text}` is not in the draft `{draft}`"
                );
            }
            return;
        }
        let now = app.composer.text();
        let kept = |text: &str| {
            let unescaped = text.strip_prefix('/').unwrap_or(text);
            [text, unescaped]
                .iter()
                .any(|text| now.contains(text) || app.queue.iter().any(|q| q == text) || sent.contains(text))
        };
        for text in &before.queue {
            assert!(kept(text), "`{text}` was queued and is gone");
        }
        let text = before.typed.trim_end();
        if text.is_empty() || before.may_change {
            return;
        }
        let in_history = || app.composer.earlier_with("").iter().any(|earlier| earlier.trim_end() == text);
        // A message that was to be put otherwise, and is as it was said.
        let is_said = |said: &str| escaped(&pasted(said)).trim_end() == text;
        let in_transcript = || self.file.entries.iter().any(|e| is_said(&e.message.content));
        assert!(
            kept(text) || in_history() || in_transcript(),
            "`{text}` was typed and is gone; it is now `{now}` after {msg:?}"
        );
    }

    fn draw(&mut self) {
        let (app, now) = (&mut self.d.app, self.d.now);
        app.observe(Snapshot::default(), now);
        // Where it stays, should it be hidden.
        self.screen.backend_mut().set_cursor_position((0, 0)).unwrap();
        self.screen.draw(|frame| view::draw(frame, app, now)).unwrap();
        let buffer = self.screen.backend().buffer().clone();
        for y in 0..buffer.area.height {
            let mut x = 0;
            while x < buffer.area.width {
                let symbol = buffer[(x, y)].symbol();
                assert!(!symbol.chars().any(char::is_control), "{symbol:?} at {x}, {y}");
                x += (symbol.width() as u16).max(1);
            }
            assert!(x <= buffer.area.width, "row {y} is {x} wide, of {}", buffer.area.width);
        }
        let cursor = self.screen.backend_mut().get_cursor_position().unwrap();
        assert!(cursor.x < buffer.area.width && cursor.y < buffer.area.height, "{cursor:?} of {:?}", buffer.area);
    }
}

/// What there is to lose.
struct Before {
    typed: String,
    queue: Vec<String>,
    /// The event edits the text, or takes it.
    may_change: bool,
}

impl Before {
    fn of(app: &App, msg: &Msg) -> Before {
        let may_change = match msg {
            Msg::Terminal(TerminalEvent::Key(key)) => {
                let action = app.keys.action(app.context(), app.input_state(), *key);
                match action {
                    // A command is done and gone; a message is somewhere.
                    Some(Action::Send | Action::Queue) => app.composer.text().starts_with('/'),
                    Some(Action::Edit(_) | Action::Newline | Action::Complete | Action::OpenEditor) => true,
                    Some(_) => app.input_state() == InputState::Recalled,
                    // Typed into its middle.
                    None => true,
                }
            }
            Msg::Terminal(TerminalEvent::Paste(_)) => true,
            _ => false,
        };
        Before { typed: app.composer.text(), queue: app.queue.iter().cloned().collect(), may_change }
    }
}

/// Conversations as the disk would list them.
fn listed() -> Vec<Listed> {
    let dir = tempfile::tempdir().unwrap();
    let head =
        r#"{"time":"2020-01-01T00:00:00Z","type":"header","version":2,"program":"w","system":null,"sampling":{}}"#;
    for n in 0..40 {
        let said = format!(r#"{{"time":"2020-01-01T00:00:01Z","type":"user","id":1,"parent":null,"text":"said {n}"}}"#);
        std::fs::write(dir.path().join(format!("{n}.jsonl")), format!("{head}\n{said}\n")).unwrap();
    }
    std::fs::write(dir.path().join("broken.jsonl"), "?").unwrap();
    library::list(dir.path(), "").unwrap()
}

#[test]
fn a_hundred_thousand_random_events_break_nothing_and_lose_nothing() {
    let mut monkey = Monkey::new(listed());
    assert!(monkey.listed.len() >= 40);
    let begin = Instant::now();
    for n in 0..EVENTS {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            monkey.step();
            if n as u64 % EVENTS_A_FRAME == 0 {
                monkey.draw();
            }
            if n % SITTING == SITTING - 1 {
                monkey.d.app.composer.set_text("");
                let effects = monkey.d.tell(Msg::Terminate(15));
                monkey.carry_out(effects);
                monkey.begin_again();
            }
        }));
        if let Err(panic) = outcome {
            println!("seed {SEED:#x}, event {n}; the last ones:");
            monkey
                .log
                .iter()
                .for_each(|msg| println!("  {}", format!("{msg:?}").chars().take(200).collect::<String>()));
            resume_unwind(panic);
        }
    }
    println!("{EVENTS} events, {} sittings, {:?}", monkey.sittings, begin.elapsed());
}
