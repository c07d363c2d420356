//! What the screen looks like, at four sizes.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::{Buffer, CellWidth};
use ratatui::style::Color;

use super::*;
use crate::telemetry::{Choice, ExpertMap, Found, LayerCost, Paging, PagingWay, TokenCost, TokenLog};
use crate::tui::app::Answer;
use crate::tui::outlook::{Fits, Outlook, Speed};
use crate::tui::view;

pub(super) const SIZES: [(u16, u16); 4] = [(80, 24), (120, 40), (200, 60), (30, 8)];
const GIB: u64 = 1 << 30;

/// Forty tokens, of which some waited for the disk.
fn tokens() -> TokenLog {
    let log = TokenLog::new(48, 8);
    for token in 0..40_u64 {
        log.begin();
        let stall = Duration::from_millis(5 + 37 * token % 90);
        for layer in 0..48 {
            let choice = |rank: usize| Choice {
                expert: (layer * 7 + rank * 13 + token as usize) % 128,
                weight: Some(0.3 / (rank + 1) as f32),
                found: if (rank as u64 + token).is_multiple_of(5) { Found::Missing } else { Found::InMemory },
            };
            log.choose(layer, (0..8).map(choice));
            // Every fourth layer waits, every third reads.
            let stall = if layer % 4 == 0 { stall / 12 } else { Duration::ZERO };
            let read_bytes = if layer % 3 == 0 { (token << 20) / 16 } else { 0 };
            let compute = Duration::from_micros(1800 + 5 * (layer as u64 % 7));
            log.end_layer(layer, LayerCost { compute, stall: Some(stall), read_bytes: Some(read_bytes) });
        }
        let wall = Duration::from_millis(90) + stall;
        let at = Duration::from_millis(150) * token as u32;
        log.end_at(at, TokenCost { wall, stall: Some(stall), read_bytes: Some(token << 20) });
    }
    log
}

/// A reading of an engine that holds a third of a large model in memory.
pub(super) fn reading() -> Snapshot {
    let map = ExpertMap::new(48, 128);
    for layer in 0..48 {
        for expert in 0..128 {
            match (layer * 31 + expert * 17) % 10 {
                0 => {}
                n @ 1..=3 => map.set_resident(layer, expert, Some(n as f32 / 3.0)),
                _ => map.set_resident(layer, expert, Some(0.0)),
            }
            if (layer * 5 + expert * 3) % 7 == 0 {
                map.mark_used(layer, expert, 1000 - ((layer + expert) % 200) as u64, 1);
            }
        }
    }
    let paging = Paging::new(PagingWay { name: "direct", reason: "the experts do not fit".into() }, 16 * GIB, 48);
    paging.budget_bytes.set(6 * GIB);
    paging.resident_bytes.set(5 * GIB);
    paging.requested_bytes.add(100 * GIB);
    paging.hit_bytes.add(73 * GIB);
    paging.demand_bytes.add(20 * GIB);
    paging.speculated_bytes.add(9 * GIB);
    paging.speculated_used_bytes.add(7 * GIB);
    paging.wasted_bytes.add(2 * GIB);
    paging.foreseen_experts.add(71);
    paging.unforeseen_experts.add(29);
    paging.set_guess_gain(0.064);
    paging.add_stall(3, Duration::from_secs(30));
    paging.end_pass(Duration::from_secs(50), Duration::from_secs(30));
    Snapshot {
        paging: Some(paging.snapshot()),
        tokens: Some(Arc::new(tokens())),
        locked_bytes: Some(0),
        tick: 1000,
        layer: Some(17),
        file_bytes: Some(18_556_685_824),
        resident_bytes: Some(6 * GIB),
        residency_source: Some("cachestat"),
        memory_total: Some(8 * GIB),
        memory_available: Some(GIB / 2),
        rss_bytes: Some(700 << 20),
        disk_read_bytes: Some(13 * GIB),
        major_faults: Some(18_402),
        minor_faults: Some(2_100_000),
        prompt: Some((412, 412)),
        prompt_tok_s: Some(41.2),
        generate_tok_s: Some(5.31),
        kv_used: Some(1204),
        kv_capacity: Some(8192),
        kv_bytes: Some(112 << 20),
        experts: Some(Arc::new(map)),
        ..Snapshot::default()
    }
}

pub(super) fn draw(d: &mut Driver, snapshot: &Snapshot, (columns, rows): (u16, u16)) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(columns, rows)).unwrap();
    d.app.observe(snapshot.clone(), d.now);
    terminal.draw(|frame| view::draw(frame, &mut d.app, d.now)).unwrap();
    terminal.backend().buffer().clone()
}

pub(super) fn text(buffer: &Buffer) -> String {
    let width = usize::from(buffer.area.width);
    let mut out = String::new();
    for row in buffer.content().chunks(width) {
        let mut line = String::new();
        let mut covered = 0;
        for cell in row {
            // The cell behind a wide character is covered by it.
            if covered == 0 {
                line.push_str(cell.symbol());
                covered = usize::from(cell.cell_width());
            }
            covered = covered.saturating_sub(1);
        }
        writeln!(out, "{}", line.trim_end()).unwrap();
    }
    out
}

/// Compares the screen at each size with what is stored in `tests/snapshots`.
pub(super) fn check(name: &str, d: &mut Driver, snapshot: &Snapshot) {
    for size in SIZES {
        let shown = text(&draw(d, snapshot, size));
        insta::with_settings!({
            snapshot_path => concat!(env!("CARGO_MANIFEST_DIR"), "/tests/snapshots"),
            prepend_module_to_snapshot => false,
            omit_expression => true,
        }, {
            insta::assert_snapshot!(format!("{name}_{}x{}", size.0, size.1), shown);
        });
    }
}

/// A question answered, and a second reply under way.
pub(super) fn talk() -> Driver {
    let mut d = Driver::asked("What is the capital of France?");
    d.worker(Event::ReplyStarted { prompt_tokens: 18, reused_tokens: 0 });
    d.text("The capital of France is Paris.");
    d.finish(StopReason::EndOfTurn);
    d.type_text("Write a haiku about cold memory,\u{20}and one in Japanese.");
    d.press("Enter");
    d.worker(Event::ReplyStarted { prompt_tokens: 44, reused_tokens: 31 });
    d.text(
        "Pages sleep on disk —\na token knocks, waits its turn;\nlight climbs tier by tier.\n\n記憶の階段を登る光、",
    );
    d.now += Duration::from_secs(12);
    d
}

#[test]
fn a_conversation_with_a_reply_under_way() {
    let mut d = talk();
    d.type_text("And then");
    d.press("Enter");
    d.type_text("one more thing that is long enough to need more than one line on a narrow screen");
    check("conversation", &mut d, &reading());
}

#[test]
fn a_prompt_being_read() {
    let mut d = Driver::asked("A long prompt");
    d.now += Duration::from_secs(8);
    let snapshot = Snapshot { prompt: Some((820, 2048)), generate_tok_s: None, ..reading() };
    check("prompt", &mut d, &snapshot);
}

#[test]
fn an_engine_of_which_nothing_is_known() {
    let mut d = Driver::loading();
    check("loading", &mut d, &Snapshot::default());
    let shown = text(&draw(&mut d, &Snapshot::default(), (200, 60)));
    let panel: String = shown.lines().filter_map(|line| Some(line.split_once('│')?.1)).collect();
    assert!(!panel.contains("NaN") && !panel.contains('0'), "{panel}");
}

#[test]
fn a_dense_model_shows_its_layers_side_by_side() {
    let map = ExpertMap::new(30, 1);
    for layer in 0..30 {
        map.mark_used(layer, 0, 1000, 1);
        map.set_resident(layer, 0, Some(1.0));
    }
    let mut d = Driver::loading();
    let name = "SmolLM2 135M Instruct".into();
    let dense = ModelSummary { name, architecture: "llama".into(), parameters: 134_515_008, n_layers: 30, ..summary() };
    d.worker(Event::Loaded(ModelSummary { n_experts: 0, n_experts_used: 0, ..dense }));
    check("dense", &mut d, &Snapshot { experts: Some(Arc::new(map)), paging: None, ..reading() });
}

#[test]
fn a_full_context() {
    let mut d = talk();
    d.finish(StopReason::EndOfTurn);
    d.type_text("And in French?");
    d.press("Enter");
    d.worker(Event::ContextFull { needed: 9210, capacity: 8192, droppable_turns: Some(2) });
    check("context_full", &mut d, &reading());
}

#[test]
fn the_list_of_models() {
    let mut d = Driver::new(None).0;
    let candidate = |name: &str, folder: &str, bytes, splits| Candidate {
        path: name.into(),
        name: name.into(),
        folder: folder.into(),
        bytes,
        splits,
    };
    let models = vec![
        candidate("Qwen3-30B-A3B-Q4_K_M", "", 18_556_685_824, None),
        candidate("SmolLM2-1.7B-Instruct-Q4_K_M", "", 1_055_609_536, None),
        candidate("Mixtral-8x22B-Instruct-v0.1-Q4_K_M", "mistral", 85_600_000_000, Some((2, 2))),
        candidate("DeepSeek-V3-Q2_K", "deepseek/v3", 204_000_000_000, Some((3, 5))),
    ];
    d.tell(Msg::Scanned(Scan { models, ..Scan::default() }));
    d.press("Down");
    check("picker", &mut d, &Snapshot::default());
    let outlook = Outlook {
        format: "Q4_K_M".into(),
        architecture: "qwen3moe".into(),
        fits: Fits::Experts(0.34),
        speed: Speed::About(2.14),
    };
    d.tell(Msg::Answer(Answer::Outlook("Qwen3-30B-A3B-Q4_K_M".into(), Ok(outlook))));
    d.press("Up");
    let shown = text(&draw(&mut d, &Snapshot::default(), (120, 40)));
    assert!(shown.contains("Qwen3-30B-A3B-Q4_K_M  qwen3moe Q4_K_M"), "{shown}");
    assert!(shown.contains("about 34 % of its experts fit in memory; about 2.1 tok/s"), "{shown}");
}

#[test]
fn an_empty_folder_of_models_and_why_the_last_one_failed() {
    let mut d = Driver::loading();
    let error = "it is not a GGUF file: it begins with `<htm`, expected `GGUF`".to_owned();
    d.worker(Event::LoadFailed { path: "/m/model.gguf".into(), error });
    d.tell(Msg::Scanned(Scan::default()));
    check("picker_empty", &mut d, &Snapshot::default());
}

#[test]
fn help_lists_the_keys() {
    let mut d = Driver::ready();
    d.press("F1");
    check("help", &mut d, &reading());
}

#[test]
fn scrolled_up_the_rule_tells_what_is_below() {
    let mut d = talk();
    draw(&mut d, &reading(), (80, 24));
    d.text(&"\nmore".repeat(40));
    draw(&mut d, &reading(), (80, 24));
    d.press("PgUp");
    d.text("\nnew\nnew");
    let shown = text(&draw(&mut d, &reading(), (80, 24)));
    assert!(shown.contains(" 2 new lines below ─"), "{shown}");
    d.press("End");
    let shown = text(&draw(&mut d, &reading(), (80, 24)));
    assert!(!shown.contains("below"), "{shown}");
}

#[test]
fn every_size_can_be_drawn() {
    let mut d = talk();
    d.type_text("typed");
    let mut dialog = talk();
    dialog.worker(Event::ContextFull { needed: 9210, capacity: 8192, droppable_turns: None });
    let mut help = talk();
    help.press("F1");
    let mut list = Driver::new(None).0;
    list.tell(Msg::Scanned(Scan::default()));
    let snapshot = reading();
    for columns in (0..132).chain([500]) {
        for rows in (0..34).chain([200]) {
            for screen in [&mut d, &mut dialog, &mut help, &mut list] {
                draw(screen, &snapshot, (columns, rows));
            }
        }
    }
    let shown = text(&draw(&mut d, &snapshot, (20, 5)));
    assert!(shown.contains("too small"), "{shown}");
}

#[test]
fn no_color_draws_no_color() {
    let options = ChatOptions { model: Some("m".into()), ..ChatOptions::new("/m".into()) };
    let now = Instant::now();
    let mut d = Driver { app: App::new(options, Theme::dark(ColorDepth::Mono), now).0, now };
    d.worker(Event::Loaded(summary()));
    d.type_text("Hi");
    d.press("Enter");
    d.text("Hello");
    for size in SIZES {
        let buffer = draw(&mut d, &reading(), size);
        let colored = buffer.content().iter().find(|c| c.fg != Color::Reset || c.bg != Color::Reset);
        assert_eq!(colored, None);
    }
    let shown = text(&draw(&mut d, &reading(), (120, 40)));
    assert!(shown.contains('█') && shown.contains('?') && shown.contains('.'), "{shown}");
}

#[test]
fn control_characters_never_reach_a_cell() {
    let mut d = Driver::loading();
    let evil = "a\u{1b}[2Jb\u{7}c\u{9b}1md";
    let mut model = summary();
    model.name = evil.into();
    model.quantization = evil.into();
    d.worker(Event::Loaded(model));
    d.worker(Event::Warning(evil.into()));
    d.tell(Msg::Terminal(TerminalEvent::Paste(evil.into())));
    d.press("Enter");
    d.text(evil);
    d.tell(Msg::Terminal(TerminalEvent::Paste(evil.into())));
    d.press("Enter");
    d.tell(Msg::Terminal(TerminalEvent::Paste(evil.into())));
    for size in SIZES {
        let buffer = draw(&mut d, &reading(), size);
        assert!(buffer.content().iter().all(|c| !c.symbol().contains(char::is_control)));
    }
}

#[test]
fn no_order_of_events_breaks_the_screen() {
    const KEYS: [&str; 34] = [
        "Enter",
        "Enter",
        "Esc",
        "Tab",
        "Up",
        "Down",
        "Left",
        "Home",
        "End",
        "PgUp",
        "PgDn",
        "Backspace",
        "Ctrl+J",
        "Ctrl+Up",
        "Ctrl+Home",
        "Ctrl+W",
        "Ctrl+U",
        "Ctrl+K",
        "Ctrl+Y",
        "Ctrl+_",
        "Alt+_",
        "F1",
        "F2",
        "F3",
        "F4",
        "F5",
        "Left",
        "Enter",
        "f",
        "p",
        "?",
        "d",
        "s",
        "x",
    ];
    let snapshot = reading();
    let mut random = 7_u64;
    let mut below = |n: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % n
    };
    let mut d = Driver::ready();
    for step in 0..6000 {
        match below(12) {
            0..=5 => drop(d.press(KEYS[below(KEYS.len())])),
            6 => d.type_text(["a", "日本 ", "e\u{301}", "👩\u{200d}👧", "word "][below(5)]),
            7 => drop(d.tell(Msg::Terminal(TerminalEvent::Paste("two\r\nlines\t\u{1b}[A".repeat(1 + below(4)))))),
            8 => d.text(["text ", "\n", "# a much longer piece of a reply, with words\n", "\u{1b}[2J", "光"][below(5)]),
            9 => {
                let stop = [StopReason::EndOfTurn, StopReason::Cancelled, StopReason::ContextFull][below(3)];
                d.finish(stop);
            }
            10 => {
                let droppable_turns = [None, Some(1), Some(3)][below(3)];
                let events = [
                    Event::ReplyStarted { prompt_tokens: 9, reused_tokens: 3 },
                    Event::Warning("careful".into()),
                    Event::ReplyFailed("no".into()),
                    Event::ContextFull { needed: 10, capacity: 5, droppable_turns },
                    Event::Loaded(summary()),
                    Event::LoadFailed { path: "m".into(), error: "no".into() },
                ];
                d.worker(events[below(events.len())].clone());
                if d.app.picker.is_some() {
                    d.tell(Msg::Scanned(Scan::default()));
                    d.worker(Event::Loaded(summary()));
                    d.app.picker = None;
                }
            }
            _ => drop(d.pass(Duration::from_millis(300))),
        }
        if step % 5 == 0 {
            draw(&mut d, &snapshot, (1 + below(140) as u16, 1 + below(45) as u16));
        }
    }
    assert!(d.app.conversation.items().len() > 50);
}
