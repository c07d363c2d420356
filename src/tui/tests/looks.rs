//! Themes, signs and motion: what is chosen while the chat runs, and what each looks like.

use std::fmt::Write;

use ratatui::buffer::{Buffer, Cell};
use ratatui::style::{Color, Modifier};

use super::screens::{SIZES, draw, reading, talk, text};
use super::*;
use crate::tui::app::{Answer, Work};
use crate::tui::theme::{Ground, Palette, Symbols};
use crate::tui::{Appearance, Motion};

fn submit(d: &mut Driver, line: &str) -> Vec<Effect> {
    d.type_text(line);
    d.press("Enter")
}

#[test]
fn a_theme_is_as_the_terminal_is_until_somebody_chooses_one() {
    let mut d = Driver::ready();
    assert_eq!(d.app.theme.name(), "dark");
    d.tell(Msg::Ground(Ground::Light));
    assert_eq!(d.app.theme.name(), "light");
    submit(&mut d, "/theme high-contrast");
    assert_eq!(d.app.theme.name(), "high-contrast");
    d.tell(Msg::Ground(Ground::Dark));
    assert_eq!(d.app.theme.name(), "high-contrast");
    submit(&mut d, "/theme auto");
    assert_eq!(d.app.theme.name(), "dark");
    submit(&mut d, "/theme");
    let notice = d.app.notice().unwrap();
    assert!(notice.contains("dark, as the terminal is; there are auto, dark, light, high-contrast"), "{notice}");
}

#[test]
fn a_theme_of_ones_own_is_read_when_it_is_asked_for_and_what_is_wrong_with_it_is_told() {
    let mut d = Driver::ready();
    let effects = submit(&mut d, "/theme sea");
    assert!(matches!(&effects[..], [Effect::Work(Work::ReadTheme(name))] if name == "sea"), "{effects:?}");
    d.tell(Msg::Answer(Answer::Theme(Err("sea.toml, line 1: there is no role `x`".into()))));
    assert_eq!(d.app.theme.name(), "dark");
    assert!(text(&draw(&mut d, &reading(), (120, 40))).contains("there is no role"));
    d.tell(Msg::Answer(Answer::Theme(Ok(Box::new(Palette { name: "sea".into(), ..Palette::light() })))));
    assert_eq!(d.app.theme.name(), "sea");
}

#[test]
fn themes_are_completed_by_name() {
    let mut d = Driver::ready();
    d.type_text("/theme h");
    d.press("Tab");
    assert_eq!(d.app.composer.text(), "/theme high-contrast");
    d.press("Enter");
    assert_eq!(d.app.theme.name(), "high-contrast");
    d.type_text("/theme ");
    let (lines, _) = d.app.suggestions().unwrap();
    let fills: Vec<_> = lines.into_iter().filter_map(|line| line.fill).collect();
    assert_eq!(fills, ["/theme auto", "/theme dark", "/theme light", "/theme high-contrast"]);
}

#[test]
fn the_high_contrast_theme_brings_its_ground_with_it() {
    for (name, mut d) in screens() {
        d.app.theme = d.app.theme.with_palette(Palette::high_contrast());
        for size in SIZES {
            let buffer = draw(&mut d, &reading(), size);
            let bare = buffer.content().iter().find(|cell| cell.bg == Color::Reset || cell.fg == Color::Reset);
            assert_eq!(bare, None, "{name} {size:?}");
        }
    }
}

#[test]
fn without_motion_progress_is_told_in_figures() {
    let appearance = Appearance { motion: Motion::Off, ..Appearance::default() };
    let options = ChatOptions { model: Some("m".into()), appearance, ..ChatOptions::new("/m".into()) };
    let mut d = Driver::with(options).0;
    d.worker(Event::Loaded(summary()));
    submit(&mut d, "A long prompt");
    d.now += Duration::from_secs(8);
    let snapshot = Snapshot { prompt: Some((820, 2048)), generate_tok_s: None, ..reading() };
    let shown = text(&draw(&mut d, &snapshot, (80, 24)));
    let foot = shown.lines().find(|line| line.contains("820 of 2048")).unwrap();
    let conversation: String = foot.chars().take(47).collect();
    assert!(!conversation.contains('━'), "{shown}");
}

/// Every screen there is, ready to be drawn.
fn screens() -> Vec<(&'static str, Driver)> {
    let keys = |mut d: Driver, keys: &[&str]| {
        draw(&mut d, &reading(), (120, 40));
        keys.iter().for_each(|key| drop(d.press(key)));
        d
    };
    let chat = || {
        let mut d = Driver::asked("What is the capital of France?");
        d.worker(Event::ReplyStarted { prompt_tokens: 18, reused_tokens: 0 });
        d.text("The capital of France is Paris.");
        d.finish(StopReason::EndOfTurn);
        d
    };
    let replying = || {
        let mut d = chat();
        submit(&mut d, "more");
        d.now += Duration::from_secs(5);
        d
    };
    let mut dialog = chat();
    submit(&mut dialog, "more");
    dialog.worker(Event::ContextFull { needed: 9210, capacity: 8192, droppable_turns: Some(2) });
    let mut picker = Driver::new(None).0;
    let models = vec![Candidate {
        path: "m".into(),
        name: "a name that is longer than what a narrow screen has room for, by far".into(),
        folder: "f".into(),
        bytes: 1 << 30,
        splits: Some((1, 2)),
    }];
    picker.tell(Msg::Scanned(Scan { models, ..Scan::default() }));
    let mut branch = chat();
    branch.press("Alt+r");
    branch.text("Another.");
    branch.finish(StopReason::EndOfTurn);
    let mut queued = replying();
    queued.type_text("queued");
    queued.press("Tab");
    let mut command = chat();
    command.type_text("/e");
    vec![
        ("loading", Driver::loading()),
        ("welcome", Driver::ready()),
        ("chat", chat()),
        ("replying", replying()),
        ("queued", queued),
        ("branch", branch),
        ("command", command),
        ("search", keys(chat(), &["Ctrl+r"])),
        ("dialog", dialog),
        ("picker", picker),
        ("sessions", keys(chat(), &["F4"])),
        ("help", keys(chat(), &["F1"])),
        ("token", keys(chat(), &["F5", "Left", "Enter"])),
        ("layer", keys(chat(), &["F5", "Up", "Up", "Enter"])),
        ("frozen", keys(chat(), &["F5", "c", "f"])),
        ("compact", keys(chat(), &["F2"])),
    ]
}

#[test]
fn every_screen_can_be_drawn_in_ascii() {
    for depth in [ColorDepth::True, ColorDepth::Mono] {
        for (name, mut d) in screens() {
            d.app.theme = Theme::dark(depth).with_symbols(Symbols::Ascii);
            for size in SIZES.into_iter().chain([(10, 3)]) {
                for snapshot in [reading(), Snapshot { prompt: Some((820, 2048)), ..reading() }, Snapshot::default()] {
                    let buffer = draw(&mut d, &snapshot, size);
                    let other = buffer.content().iter().find(|cell| !cell.symbol().is_ascii());
                    assert_eq!(other, None, "{name} {size:?} {}", text(&buffer));
                }
            }
        }
    }
}

/// How a cell is set, in a word.
fn set(cell: &Cell) -> String {
    let color = |color: Color| match color {
        Color::Rgb(r, g, b) => format!("#{r:02x}{g:02x}{b:02x}"),
        other => format!("{other:?}").to_lowercase(),
    };
    let mut word = format!("{} on {}", color(cell.fg), color(cell.bg));
    if cell.modifier != Modifier::empty() {
        write!(word, " {:?}", cell.modifier).unwrap();
    }
    word
}

/// The styles of a screen, row by row, as letters with how often each stands in a row. Those of the map are left out: they
/// have a test of their own. What the letters are comes behind.
fn styles(buffer: &Buffer) -> String {
    let letter = |at: usize| char::from_u32('a' as u32 + at as u32).unwrap();
    let mut known: Vec<String> = Vec::new();
    let mut out = String::new();
    for row in buffer.content().chunks(usize::from(buffer.area.width)) {
        let mut runs: Vec<(usize, usize)> = Vec::new();
        for cell in row {
            let word = if cell.symbol() == "▀" { "map".to_owned() } else { set(cell) };
            let at = known.iter().position(|other| *other == word).unwrap_or_else(|| {
                known.push(word);
                known.len() - 1
            });
            match runs.last_mut().filter(|run| run.0 == at) {
                Some(run) => run.1 += 1,
                None => runs.push((at, 1)),
            }
        }
        let words: Vec<String> = runs.iter().map(|&(at, n)| format!("{}{n}", letter(at))).collect();
        writeln!(out, "{}", words.join(" ")).unwrap();
    }
    for (i, word) in known.iter().enumerate() {
        writeln!(out, "{}: {word}", letter(i)).unwrap();
    }
    out
}

#[test]
fn each_theme_sets_the_screen_in_its_own_way() {
    let cases = [
        ("dark", "dark", ColorDepth::True),
        ("light", "light", ColorDepth::True),
        ("high_contrast", "high-contrast", ColorDepth::True),
        ("dark_16", "dark", ColorDepth::Ansi16),
        ("light_16", "light", ColorDepth::Ansi16),
        ("no_color", "dark", ColorDepth::Mono),
    ];
    for (name, palette, depth) in cases {
        let mut d = talk();
        d.app.theme = Theme::new(Palette::built_in(palette).unwrap(), depth);
        for size in [(80, 24), (200, 60)] {
            let shown = styles(&draw(&mut d, &reading(), size));
            insta::with_settings!({
                snapshot_path => concat!(env!("CARGO_MANIFEST_DIR"), "/tests/snapshots"),
                prepend_module_to_snapshot => false,
                omit_expression => true,
            }, {
                insta::assert_snapshot!(format!("theme_{name}_{}x{}", size.0, size.1), shown);
            });
        }
    }
}
