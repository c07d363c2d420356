//! The screen driven by messages: keys and events in, effects and state out, without a terminal or an engine.

mod branches;
mod cost;
mod engine;
mod looks;
mod monkey;
mod panels;
mod reading;
mod screens;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crossterm::event::{Event as TerminalEvent, KeyCode, KeyEvent, KeyModifiers, MouseEvent, MouseEventKind};

use crate::telemetry::Snapshot;
use crate::transcript::{Record, Role, Status};
use crate::worker::{Command, Event, ModelSummary, ReplyStats, StopReason};

use super::app::{App, Effect, Engine, Msg};
use super::conversation::{Kind, Standing};
use super::keys::{Chord, Context};
use super::panel::Preset;
use super::picker::{Candidate, Scan};
use super::theme::{ColorDepth, Theme};
use super::{ChatOptions, ExitReason};

/// A screen under test, with a clock of its own.
struct Driver {
    app: App,
    now: Instant,
}

impl Driver {
    /// A chat that was started with a model, which is loading.
    fn loading() -> Driver {
        Driver::new(Some("model.gguf".into())).0
    }

    fn new(model: Option<PathBuf>) -> (Driver, Vec<Effect>) {
        Driver::with(ChatOptions { model, ..ChatOptions::new("/home/you/models".into()) })
    }

    fn with(options: ChatOptions) -> (Driver, Vec<Effect>) {
        let now = Instant::now();
        let (app, effects) = App::new(options, Theme::dark(ColorDepth::True), now);
        (Driver { app, now }, effects)
    }

    /// A chat whose model is loaded.
    fn ready() -> Driver {
        let mut driver = Driver::loading();
        driver.worker(Event::Loaded(summary()));
        driver
    }

    /// A chat in which `text` has been sent.
    fn asked(text: &str) -> Driver {
        let mut driver = Driver::ready();
        driver.type_text(text);
        driver.press("Enter");
        driver
    }

    fn tell(&mut self, msg: Msg) -> Vec<Effect> {
        self.app.update(msg, self.now)
    }

    fn worker(&mut self, event: Event) -> Vec<Effect> {
        self.tell(Msg::Worker(event))
    }

    fn text(&mut self, text: &str) {
        self.worker(Event::Text { text: text.into(), pass: None });
    }

    fn finish(&mut self, stop: StopReason) -> Vec<Effect> {
        let stats = ReplyStats { prompt_tokens: 12, prompt_seconds: 0.5, generated_tokens: 40, generate_seconds: 8.0 };
        self.worker(Event::ReplyFinished { stop, stats })
    }

    /// Presses a key written as help writes it.
    fn press(&mut self, name: &str) -> Vec<Effect> {
        let key = Chord::parse(name).unwrap().event();
        self.tell(Msg::Terminal(TerminalEvent::Key(key)))
    }

    fn type_text(&mut self, text: &str) {
        for c in text.chars() {
            self.tell(Msg::Terminal(TerminalEvent::Key(KeyEvent::new(KeyCode::Char(c), KeyModifiers::NONE))));
        }
    }

    fn pass(&mut self, time: Duration) -> Vec<Effect> {
        self.now += time;
        self.tell(Msg::Tick)
    }

    fn last(&self) -> (Kind, Standing, String, String) {
        let item = self.app.conversation.items().last().expect("nothing was said");
        (item.kind, item.standing, item.raw.clone(), item.foot.clone())
    }
}

fn summary() -> ModelSummary {
    ModelSummary {
        name: "Qwen3 30B A3B".into(),
        path: "/home/you/models/qwen3.gguf".into(),
        architecture: "qwen3moe".into(),
        quantization: "Q4_K_M".into(),
        parameters: 30_532_122_624,
        file_bytes: 18_556_685_824,
        n_layers: 48,
        n_experts: 128,
        n_experts_used: 8,
        context_length: 40_960,
    }
}

/// What an effect is, for comparing.
fn names(effects: &[Effect]) -> Vec<String> {
    let name = |effect: &Effect| {
        Some(match effect {
            Effect::Send(Command::Load(path)) => format!("load {}", path.display()),
            Effect::Send(Command::Generate { messages, .. }) => {
                let said: Vec<String> = messages
                    .iter()
                    .map(|m| {
                        let who = match m.role {
                            Role::System => 's',
                            Role::User => 'u',
                            Role::Assistant => 'a',
                        };
                        format!("{who}:{}", m.content)
                    })
                    .collect();
                format!("generate {}", said.join("|"))
            }
            Effect::Send(Command::KeepKv(path)) => format!("keep {path:?}"),
            Effect::Send(Command::Trace(order)) => format!("trace {order:?}"),
            Effect::Send(Command::Quit) => "quit worker".into(),
            Effect::Cancel => "cancel".into(),
            Effect::Record(Record::User { id, text, .. }) => format!("save user {id} {text}"),
            Effect::Record(Record::Partial { id, text, .. }) => format!("save part {id} {text}"),
            Effect::Record(Record::Reply { id, text, stop, .. }) => format!("save reply {id} {text} {stop}"),
            Effect::Record(Record::Draft { text }) => format!("save draft {text}"),
            Effect::Record(Record::Dropped { ids }) => format!("save dropped {ids:?}"),
            Effect::Record(Record::Withdrawn { id }) => format!("save withdrawn {id}"),
            Effect::Record(Record::Model { name, .. }) => format!("save model {name}"),
            Effect::Record(Record::Header(_)) => "save header".into(),
            Effect::Record(Record::Branch { id }) => format!("save branch {id:?}"),
            Effect::Record(Record::Settings { system, sampling }) => {
                format!("save settings {system:?} {} {}", sampling["temperature"], sampling["max_tokens"])
            }
            Effect::Record(Record::Title { text }) => format!("save title {text}"),
            Effect::Work(work) => format!("{work:?}"),
            Effect::Open(name) => format!("open {name}"),
            Effect::Begin { delete, .. } => format!("begin {delete:?}"),
            Effect::Copy(text) => format!("copy {text}"),
            Effect::EditText(text) => format!("edit {text}"),
            Effect::Remember(_) | Effect::Color { .. } => return None,
            Effect::Scan(dir) => format!("scan {}", dir.display()),
            Effect::SetMouse(on) => format!("mouse {on}"),
            Effect::Redraw => "redraw".into(),
            Effect::SavePicture(shows) => format!("save {shows:?}"),
            Effect::Pin(order) => format!("pin {:?} {}", order.experts, order.is_to_stay),
            Effect::Suspend => "suspend".into(),
            Effect::Quit(reason) => format!("quit {reason:?}"),
        })
    };
    effects.iter().filter_map(name).collect()
}

#[test]
fn a_chat_with_a_model_loads_it_and_one_without_looks_for_models() {
    assert_eq!(names(&Driver::new(Some("m.gguf".into())).1), ["mouse true", "load m.gguf"]);
    assert_eq!(names(&Driver::new(None).1), ["mouse true", "scan /home/you/models"]);
}

#[test]
fn enter_sends_and_the_reply_streams_in_and_is_saved() {
    let mut d = Driver::ready();
    d.type_text("Hi there");
    assert_eq!(names(&d.press("Enter")), ["save user 1 Hi there", "generate u:Hi there"]);
    assert_eq!(d.app.composer.text(), "");
    d.worker(Event::ReplyStarted { prompt_tokens: 12, reused_tokens: 0 });
    d.text("Hel");
    d.text("lo!");
    assert_eq!(names(&d.finish(StopReason::EndOfTurn)), ["save reply 2 Hello! end_of_turn"]);
    let foot = "40 tokens · 5.00 tok/s · end of turn · 12 prompt tokens in 0.50 s";
    assert_eq!(d.last(), (Kind::Reply, Standing::Sent, "Hello!".into(), foot.into()));
    d.type_text("More");
    assert_eq!(names(&d.press("Enter"))[1], "generate u:Hi there|a:Hello!|u:More");
}

#[test]
fn nothing_but_spaces_is_not_sent() {
    let mut d = Driver::ready();
    d.type_text("  ");
    assert_eq!(names(&d.press("Enter")), [""; 0]);
}

#[test]
fn new_line_keys_do_not_send() {
    for key in ["Ctrl+J", "Alt+Enter", "Shift+Enter", "Ctrl+Enter"] {
        let mut d = Driver::ready();
        d.type_text("a");
        assert_eq!(names(&d.press(key)), [""; 0], "{key}");
        d.type_text("b");
        assert_eq!(d.app.composer.text(), "a\nb", "{key}");
    }
}

#[test]
fn a_paste_with_line_ends_does_not_send() {
    let mut d = Driver::ready();
    assert_eq!(names(&d.tell(Msg::Terminal(TerminalEvent::Paste("a\rb\r\n".into())))), [""; 0]);
    assert_eq!(d.app.composer.text(), "a\nb\n");
}

#[test]
fn escape_stops_the_reply_and_only_that() {
    let mut d = Driver::asked("Hi");
    d.text("Once upon");
    d.type_text("typed meanwhile");
    assert_eq!(names(&d.press("Esc")), ["cancel"]);
    assert!(d.app.is_stopping());
    // The worker may have been between commands: it is told until it stops.
    assert_eq!(names(&d.pass(Duration::from_millis(100))), ["cancel"]);
    assert_eq!(names(&d.finish(StopReason::Cancelled)), ["save reply 2 Once upon cancelled"]);
    assert_eq!(d.app.composer.text(), "typed meanwhile");
    assert!(d.last().3.contains("stopped"));
    assert_eq!(names(&d.press("Esc")), [""; 0]);
    assert_eq!(d.app.composer.text(), "typed meanwhile");
    assert_eq!(d.app.notice(), Some("Nothing to stop"));
}

#[test]
fn a_reply_stopped_before_its_first_word_leaves_its_message_unsent_but_in_reach() {
    let mut d = Driver::asked("Hi");
    d.press("Esc");
    assert_eq!(names(&d.finish(StopReason::Cancelled)), ["save withdrawn 1"]);
    assert_eq!(d.last().1, Standing::Withdrawn);
    d.press("Up");
    assert_eq!(d.app.composer.text(), "Hi");
    assert_eq!(names(&d.press("Enter")), ["save user 3 Hi", "generate u:Hi"]);
}

#[test]
fn control_c_stops_and_a_second_one_quits() {
    let mut d = Driver::asked("Hi");
    d.text("Once");
    assert_eq!(names(&d.press("Ctrl+C")), ["cancel"]);
    assert_eq!(d.app.notice(), Some("Ctrl+C again quits"));
    let quit = ["save reply 2 Once cancelled", "cancel", "quit worker", "quit Quit"];
    assert_eq!(names(&d.press("Ctrl+C")), quit);
}

#[test]
fn two_control_cs_far_apart_do_not_quit() {
    let mut d = Driver::ready();
    assert_eq!(names(&d.press("Ctrl+C")), [""; 0]);
    d.pass(Duration::from_secs(5));
    assert_eq!(d.app.notice(), None);
    assert_eq!(names(&d.press("Ctrl+C")), [""; 0]);
}

#[test]
fn control_d_quits_only_when_nothing_is_typed() {
    let mut d = Driver::ready();
    d.type_text("x");
    assert_eq!(names(&d.press("Ctrl+D")), [""; 0]);
    d.press("Backspace");
    assert_eq!(names(&d.press("Ctrl+D")), ["cancel", "quit worker", "quit Quit"]);
}

#[test]
fn what_is_typed_and_what_waits_is_kept_as_a_draft_however_it_ends() {
    for (msg, reason) in [(Msg::Terminate(15), "quit Signal(15)"), (Msg::TerminalClosed, "quit TerminalClosed")] {
        let mut d = Driver::asked("Hi");
        d.text("Half a rep");
        d.type_text("next");
        d.press("Tab");
        d.type_text("half typed");
        let effects = names(&d.tell(msg));
        let saved = ["save reply 2 Half a rep cancelled", "save draft next\nhalf typed"];
        assert_eq!(effects, [&saved[..], &["cancel", "quit worker", reason]].concat());
    }
}

#[test]
fn what_is_typed_is_saved_as_a_draft_while_it_is_typed_and_gone_when_it_is_sent_or_deleted() {
    let mut d = Driver::ready();
    d.type_text("half a");
    assert_eq!(names(&d.pass(Duration::from_secs(3))), ["save draft half a"]);
    assert_eq!(names(&d.pass(Duration::from_secs(3))), [""; 0]);
    d.press("Ctrl+U");
    assert_eq!(names(&d.pass(Duration::from_secs(3))), ["save draft "]);
    d.type_text("Hi");
    d.pass(Duration::from_secs(3));
    assert_eq!(names(&d.press("Enter")), ["save user 1 Hi", "generate u:Hi"]);
    // The message took the place of its draft.
    assert_eq!(names(&d.pass(Duration::from_secs(3))), [""; 0]);
    d.text("1");
    d.type_text("Hi");
    d.finish(StopReason::EndOfTurn);
    assert_eq!(names(&d.pass(Duration::from_secs(3))), ["save draft Hi"]);
}

#[test]
fn messages_sent_while_a_reply_runs_wait_their_turn() {
    for key in ["Enter", "Tab"] {
        let mut d = Driver::asked("one");
        d.type_text("two");
        assert_eq!(names(&d.press(key)), ["save draft two"]);
        d.type_text("three");
        d.press(key);
        assert_eq!(d.app.queue.len(), 2);
        d.text("1");
        let next = ["save reply 2 1 end_of_turn", "save user 3 two", "save draft three", "generate u:one|a:1|u:two"];
        assert_eq!(names(&d.finish(StopReason::EndOfTurn)), next);
    }
}

#[test]
fn messages_that_wait_come_back_to_the_input_when_a_reply_is_stopped_or_fails() {
    for end in [StopReason::Cancelled, StopReason::EndOfTurn] {
        let mut d = Driver::asked("one");
        d.text("1");
        d.type_text("two");
        d.press("Enter");
        d.type_text("three");
        if end == StopReason::Cancelled {
            d.finish(end);
        } else {
            d.worker(Event::ReplyFailed("the disk is gone".into()));
            assert_eq!(d.last().2, "Error: the disk is gone");
        }
        assert_eq!(d.app.composer.text(), "two\nthree");
        assert!(d.app.queue.is_empty());
    }
}

#[test]
fn up_takes_back_the_last_message_that_waits() {
    let mut d = Driver::asked("one");
    d.type_text("two");
    d.press("Enter");
    d.press("Up");
    assert_eq!((d.app.composer.text(), d.app.queue.len()), ("two".into(), 0));
}

#[test]
fn what_is_typed_while_the_model_loads_is_sent_when_it_is_there() {
    let mut d = Driver::loading();
    d.type_text("early");
    d.press("Enter");
    let effects = d.worker(Event::Loaded(summary()));
    assert_eq!(names(&effects), ["save model Qwen3 30B A3B", "save user 1 early", "generate u:early"]);
}

#[test]
fn the_list_moves_opens_looks_again_and_quits() {
    let mut d = Driver::new(None).0;
    let candidate = |name: &str| Candidate {
        path: format!("/m/{name}.gguf").into(),
        name: name.into(),
        folder: String::new(),
        bytes: 1,
        splits: None,
    };
    d.tell(Msg::Scanned(Scan { models: vec![candidate("a"), candidate("b"), candidate("c")], ..Scan::default() }));
    for (key, want) in [("Down", 1), ("End", 2), ("Down", 2), ("Up", 1), ("PgUp", 0), ("j", 1), ("k", 0)] {
        d.press(key);
        assert_eq!(d.app.picker.as_ref().unwrap().chosen, want, "{key}");
    }
    assert_eq!(names(&d.press("r")), ["scan /home/you/models"]);
    assert_eq!(names(&d.press("q")), ["cancel", "quit worker", "quit Quit"]);
    d.tell(Msg::Scanned(Scan { models: vec![candidate("a")], ..Scan::default() }));
    assert_eq!(names(&d.press("Enter")), ["load /m/a.gguf"]);
    assert!(matches!(d.app.engine, Engine::Loading { .. }));
}

#[test]
fn the_model_in_the_binary_is_offered_last_and_says_what_it_is() {
    let options = ChatOptions { embedded: Some("/c/demo.gguf".into()), ..ChatOptions::new("/m".into()) };
    let now = Instant::now();
    let mut d = Driver { app: App::new(options, Theme::dark(ColorDepth::True), now).0, now };
    d.tell(Msg::Scanned(Scan::default()));
    assert_eq!(names(&d.press("Enter")), ["load /c/demo.gguf"]);
    d.worker(Event::Loaded(ModelSummary { path: "/c/demo.gguf".into(), ..summary() }));
    assert_eq!(d.app.conversation.items().iter().filter(|item| item.raw.contains("a toy")).count(), 1);
    // A model of one's own gets no such word.
    let mut other = Driver::ready();
    other.worker(Event::Loaded(summary()));
    assert!(!other.app.conversation.items().iter().any(|item| item.raw.contains("a toy")));
}

#[test]
fn enter_on_an_empty_list_does_nothing() {
    let mut d = Driver::new(None).0;
    d.tell(Msg::Scanned(Scan::default()));
    assert_eq!(names(&d.press("Enter")), [""; 0]);
}

#[test]
fn the_question_mark_opens_help_only_when_nothing_is_typed() {
    let mut d = Driver::ready();
    d.press("?");
    assert_eq!(d.app.help, Some(0));
    d.press("Down");
    assert_eq!(d.app.help, Some(1));
    d.press("Esc");
    assert_eq!(d.app.help, None);
    d.type_text("what");
    d.press("?");
    assert_eq!((d.app.help, d.app.composer.text()), (None, "what?".into()));
    d.press("F1");
    assert_eq!(d.app.help, Some(0));
}

#[test]
fn keys_of_the_screen_do_what_they_say() {
    let mut d = Driver::ready();
    for want in [Preset::Compact, Preset::Off, Preset::Full] {
        d.press(if want == Preset::Off { "Ctrl+P" } else { "F2" });
        assert_eq!(d.app.panel.preset, want);
    }
    assert_eq!(names(&d.press("F6")), ["save Panel"]);
    assert_eq!(names(&d.press("F3")), ["mouse false"]);
    assert_eq!(names(&d.press("Ctrl+T")), ["mouse true"]);
    assert_eq!(names(&d.press("Ctrl+L")), ["redraw"]);
    assert_eq!(names(&d.press("Ctrl+Z")), ["suspend"]);
}

#[test]
fn keys_and_the_wheel_scroll_and_a_new_message_goes_to_the_end() {
    let mut d = Driver::asked("Hi");
    d.app.conversation.resize(40, 5);
    d.text(&"line\n".repeat(100));
    d.finish(StopReason::EndOfTurn);
    let wheel = |kind| {
        let mouse = MouseEvent { kind, column: 1, row: 1, modifiers: KeyModifiers::NONE };
        Msg::Terminal(TerminalEvent::Mouse(mouse))
    };
    for (up, down) in [("PgUp", "PgDn"), ("Ctrl+Up", "Ctrl+Down"), ("Home", "End"), ("Ctrl+Home", "Ctrl+End")] {
        d.press(up);
        assert!(d.app.conversation.below().is_some(), "{up}");
        d.press(down);
        assert_eq!(d.app.conversation.below(), None, "{down}");
    }
    d.tell(wheel(MouseEventKind::ScrollUp));
    assert_eq!(d.app.conversation.below().map(|b| b.lines), Some(3));
    d.type_text("next");
    d.press("Enter");
    assert_eq!(d.app.conversation.below(), None);
}

#[test]
fn a_tick_without_a_reply_asks_for_nothing() {
    let mut d = Driver::ready();
    d.app.observe(Snapshot::default(), d.now);
    assert_eq!(names(&d.pass(Duration::from_secs(60))), [""; 0]);
    assert_eq!(names(&d.tell(Msg::Terminate(1))), ["cancel", "quit worker", "quit Signal(1)"]);
    assert!(matches!(d.tell(Msg::TerminalClosed)[..], [.., Effect::Quit(ExitReason::TerminalClosed)]));
}
