//! Looking at the conversation: Markdown and its raw text, folded thinking, search, the clipboard, colours that come late.

use super::*;
use crate::tui::app::Answer;
use crate::tui::conversation::Line;
use crate::tui::markdown::{Ink, highlight};

/// The lines of the conversation, as they are seen.
fn seen(d: &Driver) -> Vec<String> {
    let line = |line| match line {
        Line::Label(item) => format!("[{}]", item.label),
        Line::Text(_, _, row) => row.text.to_owned(),
        Line::Foot(_) | Line::Gap => String::new(),
    };
    d.app.conversation.visible().map(line).filter(|line| !line.is_empty()).collect()
}

fn answered(text: &str) -> Driver {
    let mut d = Driver::asked("Hi");
    d.app.conversation.resize(60, 40);
    for piece in text.split_inclusive(' ') {
        d.text(piece);
    }
    d.finish(StopReason::EndOfTurn);
    d
}

#[test]
fn a_reply_is_markdown_and_the_persons_own_words_are_not() {
    let mut d = Driver::asked("I *say* `this`");
    d.text("**So** it\n- is");
    assert_eq!(seen(&d)[1..], ["I *say* `this`", "[Qwen3 30B A3B]", "So it", "• is"]);
    d.press("Alt+m");
    assert_eq!(seen(&d)[3..], ["**So** it", "- is"]);
    d.text("\n- more");
    d.type_text("/raw");
    d.press("Enter");
    assert_eq!(seen(&d)[3..], ["So it", "• is", "• more"]);
}

#[test]
fn the_place_stays_when_the_raw_text_is_shown_and_back() {
    let mut d = answered(&(0..200).map(|n| format!("## Head {n}\n\nword{n} *and* more\n\n")).collect::<String>());
    d.app.conversation.resize(40, 10);
    d.app.conversation.scroll_to_top();
    d.app.conversation.scroll_by(301);
    let before = seen(&d);
    let word = before.iter().find(|line| line.starts_with("word")).unwrap().clone();
    d.press("Alt+m");
    assert!(seen(&d).iter().any(|line| line.starts_with(word.split(' ').next().unwrap())), "{:?}", seen(&d));
    d.press("Alt+m");
    assert_eq!(seen(&d), before);
}

#[test]
fn scrolling_goes_line_by_line_through_every_kind_of_row() {
    let table = "| a | b |\n|---|---|\n| one two three four five | six seven eight nine |\n\n";
    let mut d =
        answered(&format!("{table}<think>no</think>\n\n```\n\n\nx\n```\n\n> q\n\n- \n- a\n\n  b\n\n").repeat(8));
    d.app.conversation.resize(22, 5);
    d.app.conversation.scroll_to_top();
    let mut steps = 0;
    while d.app.conversation.below().is_some() {
        let before = d.app.conversation.below().unwrap().lines;
        d.press("Ctrl+Down");
        assert_eq!(d.app.conversation.below().map_or(0, |b| b.lines), before - 1);
        steps += 1;
    }
    for up in 1..=steps {
        d.press("Ctrl+Up");
        assert_eq!(d.app.conversation.below().map(|b| b.lines), Some(up));
    }
}

#[test]
fn thinking_is_seen_while_it_comes_and_folded_with_its_time_afterwards() {
    let mut d = Driver::asked("Hi");
    for piece in ["<think>", "\nLet", " me", " see"] {
        d.text(piece);
    }
    assert_eq!(seen(&d)[3..], ["▾ thinking", "Let me see"]);
    d.now += Duration::from_secs(12);
    for piece in ["\n</thi", "nk>\n", "\nYes", "."] {
        d.text(piece);
    }
    d.finish(StopReason::EndOfTurn);
    assert_eq!(seen(&d)[3..], ["▸ thought for 12 s, 6 tokens", "Yes."]);
    d.press("Alt+t");
    assert_eq!(seen(&d)[3..], ["▾ thought for 12 s, 6 tokens", "Let me see", "Yes."]);
    d.type_text("/thinking");
    d.press("Enter");
    assert_eq!(seen(&d)[3..], ["▸ thought for 12 s, 6 tokens", "Yes."]);
    d.press("Alt+m");
    d.press("Alt+m");
    assert_eq!(seen(&d)[3], "▸ thought for 12 s, 6 tokens");
    assert_eq!(d.last().2, "<think>\nLet me see\n</think>\n\nYes.");
    assert_eq!(names(&d.press("Alt+c")), ["copy Yes."]);
}

#[test]
fn a_reply_that_begins_within_its_thinking_is_folded_too() {
    let mut d = Driver::asked("Hi");
    d.worker(Event::ThinkingBegun);
    d.text("hm");
    assert_eq!(seen(&d)[3..], ["▾ thinking", "hm"]);
    d.finish(StopReason::Cancelled);
    assert_eq!(seen(&d)[3], "▾ thinking, cut off");
    // Of an earlier sitting only the length is known.
    let mut earlier = Driver::ready();
    earlier.app.conversation.restore(1, Kind::Reply, "model", "hm hm\n</think>\n\nNo.");
    assert_eq!(seen(&earlier)[1..], ["▸ thought, 5 characters", "No."]);
    // An answer may speak of tags.
    let spoken = answered("The tag `</think>` ends it. <think> begins it.");
    assert_eq!(seen(&spoken)[3..], ["The tag </think> ends it. <think> begins it."]);
}

#[test]
fn what_is_looked_for_is_found_across_lines_in_folds_and_out_of_sight() {
    let filler = "filler\n\n".repeat(60);
    let mut d = answered(&format!("<think>a needle here</think>A **nee**dle.\n\n{filler}Needle\n{filler}last"));
    d.app.conversation.resize(30, 8);
    let count = |d: &Driver| d.app.conversation.find().map(|find| find.count());
    d.press("Ctrl+f");
    d.type_text("needle");
    // From the end on there is none: the last one is looked at.
    assert_eq!(count(&d), Some((3, 3)));
    assert!(seen(&d).contains(&"Needle".to_owned()));
    d.press("Enter");
    assert_eq!(count(&d), Some((1, 3)));
    assert!(seen(&d).contains(&"a needle here".to_owned()), "{:?}", seen(&d));
    d.press("Down");
    assert_eq!(count(&d), Some((2, 3)));
    d.press("Up");
    d.press("Shift+Enter");
    assert_eq!(count(&d), Some((3, 3)));
    for _ in 0..6 {
        d.press("Backspace");
    }
    d.type_text("Needle");
    assert_eq!(count(&d), Some((1, 1)));
    let place = seen(&d);
    d.press("Esc");
    assert_eq!((count(&d), seen(&d)), (None, place));
    d.type_text("/find r fil");
    d.press("Enter");
    assert_eq!(count(&d), Some((0, 0)));
    d.press("Esc");
    // Wrapped words are found as they were said.
    d.app.conversation.resize(8, 8);
    d.type_text("/find you last");
    d.press("Enter");
    assert_eq!(count(&d), Some((0, 0)));
}

#[test]
fn what_is_found_is_marked_where_it_stands() {
    let mut d = answered("one two three four five six");
    d.app.conversation.resize(10, 20);
    d.type_text("/find three four");
    d.press("Enter");
    let marks: Vec<(String, String)> = d
        .app
        .conversation
        .visible()
        .filter_map(|line| if let Line::Text(_, place, row) = line { Some((place, row)) } else { None })
        .flat_map(|((item, row), text)| {
            let found = d.app.conversation.found_in(item, row);
            found.map(move |(part, _)| {
                (text.text.to_owned(), text.text[part.start..part.end.min(text.text.len())].into())
            })
        })
        .collect();
    assert_eq!(marks, [("three four".to_owned(), "three four".to_owned())]);
    d.app.conversation.resize(7, 20);
    let marked =
        d.app.conversation.visible().filter_map(|line| if let Line::Text(_, p, _) = line { Some(p) } else { None });
    assert_eq!(marked.filter(|&(item, row)| d.app.conversation.found_in(item, row).count() > 0).count(), 2);
    // Text that comes while the search is open is looked through.
    d.app.conversation.append(1, " three four", None, d.now);
    d.app.conversation.resize(7, 20);
    assert_eq!(d.app.conversation.find().unwrap().count(), (1, 2));
}

#[test]
fn the_clipboard_gets_the_reply_its_code_or_all_without_control_characters() {
    let mut d = answered("Run:\n```sh\nmake\tall\n```\nor\n```\nninja\u{1b}[2J\n```\n");
    let reply = "copy Run:\n```sh\nmake\tall\n```\nor\n```\nninja\u{241b}[2J\n```";
    assert_eq!(names(&d.press("Alt+c")), [reply]);
    assert_eq!(d.app.notice(), Some("Copied the last reply: 8 lines, 46 B"));
    assert_eq!(names(&d.press("Alt+k")), ["copy ninja\u{241b}[2J"]);
    for (command, want) in
        [("/copy code 1", "copy make\tall"), ("/copy code", "copy ninja\u{241b}[2J"), ("/copy", reply)]
    {
        d.type_text(command);
        assert_eq!(names(&d.press("Enter")), [want]);
    }
    d.type_text("/copy all");
    let all = names(&d.press("Enter"));
    assert!(all[0].contains("Hi") && all[0].contains("Run:"), "{all:?}");
    for (command, why) in [("/copy code 3", "There is no code 3: the reply has 2 blocks"), ("/copy x", "/copy takes")] {
        d.type_text(command);
        assert_eq!(names(&d.press("Enter")), [""; 0]);
        assert!(d.app.notice().unwrap().starts_with(why), "{:?}", d.app.notice());
        d.press("Ctrl+u");
    }
    assert_eq!(names(&Driver::ready().press("Alt+c")), [""; 0]);
}

#[test]
fn what_is_too_large_for_the_clipboard_is_refused_with_the_reason() {
    let mut d = answered(&"word ".repeat(20_000));
    assert_eq!(names(&d.press("Alt+c")), [""; 0]);
    assert!(d.app.notice().unwrap().contains("too much for the terminal's clipboard"), "{:?}", d.app.notice());
}

#[test]
fn code_is_coloured_a_job_at_a_time_and_late_colours_hurt_nobody() {
    let mut d = Driver::asked("Hi");
    let effects = d.tell(Msg::Worker(Event::Text { text: "```rust\nfn main() {\n".into(), pass: None }));
    let [Effect::Color { item, job }] = &effects[..] else { panic!("{effects:?}") };
    // Another job waits for the answer.
    assert!(d.tell(Msg::Worker(Event::Text { text: "let x = 1;\n".into(), pass: None })).is_empty());
    let answer = Answer::Colored { item: *item, colored: highlight::color(job.clone()) };
    let next = d.tell(Msg::Answer(answer.clone()));
    assert!(matches!(&next[..], [Effect::Color { job, .. }] if job.text == "let x = 1;\n"), "{next:?}");
    let inks: Vec<Ink> = d
        .app
        .conversation
        .visible()
        .filter_map(|line| if let Line::Text(_, _, row) = line { Some(row) } else { None })
        .flat_map(|row| row.stretches().map(|stretch| stretch.1.ink).collect::<Vec<_>>())
        .collect();
    assert!(inks.contains(&Ink::Keyword), "{inks:?}");
    d.finish(StopReason::EndOfTurn);
    d.type_text("/new");
    d.press("Enter");
    d.tell(Msg::Answer(answer));
}

#[test]
fn a_large_paste_is_kept_as_a_draft_and_goes_to_the_editor_whole() {
    let mut d = Driver::ready();
    let long = "line\n".repeat(40);
    d.tell(Msg::Terminal(TerminalEvent::Paste(long.clone())));
    assert_eq!(names(&d.press("Ctrl+g")), [format!("edit {long}")]);
    assert_eq!(names(&d.tell(Msg::Terminate(1)))[0], format!("save draft {long}"));
    assert_eq!(names(&d.press("Enter"))[0], format!("save user 1 {}", long.trim_end()));
}
