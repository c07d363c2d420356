//! What a frame costs: time and bytes, whatever the conversation's length.

use std::io::Write;
use std::time::{Duration, Instant};

use ratatui::backend::CrosstermBackend;
use ratatui::layout::Rect;
use ratatui::{Terminal, TerminalOptions, Viewport};

use super::*;
use crate::tui::output::{FrameBuffer, Synchronized};
use crate::tui::view;

/// A terminal that only counts.
struct Counted {
    terminal: Terminal<CrosstermBackend<FrameBuffer>>,
    frames: FrameBuffer,
}

impl Counted {
    fn new(columns: u16, rows: u16) -> Counted {
        let frames = FrameBuffer::default();
        let viewport = Viewport::Fixed(Rect::new(0, 0, columns, rows));
        let backend = CrosstermBackend::new(frames.clone());
        let terminal = Terminal::with_options(backend, TerminalOptions { viewport }).unwrap();
        Counted { terminal, frames }
    }

    /// Draws a frame; its bytes.
    fn draw(&mut self, d: &mut Driver, snapshot: &Snapshot) -> usize {
        d.app.observe(snapshot.clone(), d.now);
        self.terminal.draw(|frame| view::draw(frame, &mut d.app, d.now)).unwrap();
        self.frames.flush().unwrap();
        self.frames.take(Synchronized::On).len()
    }
}

/// A conversation of about `tokens` tokens, with a reply under way.
fn conversation(tokens: usize) -> Driver {
    let mut d = Driver::ready();
    let paragraph = "The quick brown fox jumps over the lazy dog, and memory is a ladder of tiers. ".repeat(8) + "\n\n";
    let mut written = 0;
    while written < tokens {
        d.type_text("go on");
        d.press("Enter");
        for _ in 0..5 {
            d.text(&paragraph);
            written += 8 * 18;
        }
        d.finish(StopReason::EndOfTurn);
    }
    d.type_text("and on");
    d.press("Enter");
    d
}

/// The median time of a frame in which one more word has come.
fn median_frame(d: &mut Driver, screen: &mut Counted, snapshot: &Snapshot) -> Duration {
    let mut times: Vec<Duration> = (0..200)
        .map(|_| {
            let begin = Instant::now();
            d.text("word ");
            screen.draw(d, snapshot);
            begin.elapsed()
        })
        .collect();
    times.sort();
    times[times.len() / 2]
}

#[test]
fn a_frame_costs_the_same_in_a_long_conversation_as_in_a_short_one() {
    let snapshot = screens::reading();
    let mut screen = Counted::new(200, 60);
    let mut short = conversation(1000);
    screen.draw(&mut short, &snapshot);
    let short = median_frame(&mut short, &mut screen, &snapshot);
    let mut long = conversation(100_000);
    let begin = Instant::now();
    screen.draw(&mut long, &snapshot);
    let wrap = begin.elapsed();
    let long = median_frame(&mut long, &mut screen, &snapshot);
    println!("200x60 frame, median: {short:?} after 1k tokens, {long:?} after 100k; wrapping 100k anew: {wrap:?}");
    // Far beyond what was measured (see the printed line), so that a busy machine does not fail it.
    assert!(long < Duration::from_millis(16), "{long:?}");
    assert!(long < short * 4, "{short:?} grew to {long:?}");
}

#[test]
fn a_word_sends_few_bytes_and_nothing_new_sends_none() {
    let snapshot = screens::reading();
    let mut d = conversation(1000);
    let mut screen = Counted::new(120, 40);
    let first = screen.draw(&mut d, &snapshot);
    // The second frame only places the cursor.
    assert!(screen.draw(&mut d, &snapshot) < 60);
    assert_eq!(screen.draw(&mut d, &snapshot), 0);
    let mut total = 0;
    for _ in 0..100 {
        d.text("word ");
        total += screen.draw(&mut d, &snapshot);
    }
    println!("120x40: whole screen {first} bytes, a streamed word {} bytes on average", total / 100);
    assert!(total / 100 < 400, "{total}");
}

#[test]
fn one_hundred_thousand_tokens_of_any_markdown_stream_and_scroll_without_slowing() {
    let snapshot = screens::reading();
    let row = "| cell one | cell two |\n";
    let shapes: [(&str, String, &str); 6] = [
        ("paragraphs", String::new(), "Some **words** and `code` in a line.\n\n"),
        ("one fence", "```rust\n".into(), "let value = compute(1, 2);\n"),
        ("one list", String::new(), "- an item of *some* words\n"),
        ("one table", format!("| a | b |\n|---|---|\n{row}"), row),
        ("one quote", String::new(), "> quoted words\n"),
        ("one line", String::new(), "words without an end "),
    ];
    for (name, head, piece) in shapes {
        let mut d = Driver::ready();
        d.type_text("go on");
        d.press("Enter");
        let mut screen = Counted::new(200, 60);
        d.text(&head);
        let tokens = piece.len() / 4;
        let mut written = 0;
        let begin = Instant::now();
        // Token by token at the end, in larger pieces before.
        while written < 100_000 {
            d.text(piece);
            written += tokens;
        }
        let streamed = begin.elapsed();
        screen.draw(&mut d, &snapshot);
        let median = median_frame(&mut d, &mut screen, &snapshot);
        d.app.conversation.scroll_to_top();
        let begin = Instant::now();
        for _ in 0..50 {
            d.app.conversation.scroll_pages(1);
            screen.draw(&mut d, &snapshot);
        }
        let scrolled = begin.elapsed() / 50;
        let begin = Instant::now();
        d.app.conversation.look_for("words");
        let found = begin.elapsed();
        println!(
            "{name}: 100k tokens in {streamed:?}, a word more {median:?}, a page {scrolled:?}, a search {found:?}"
        );
        assert!(streamed < Duration::from_secs(30), "{name}: {streamed:?}");
        assert!(median < Duration::from_millis(16) && scrolled < Duration::from_millis(30), "{name}: {median:?}");
    }
}
