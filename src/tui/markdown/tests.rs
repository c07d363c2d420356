//! Markdown as rows: what is drawn, that pieces come out as the whole does, and that nothing hostile holds it up.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use ratatui::buffer::CellWidth;

use super::*;

fn document(text: &str, width: u16) -> Document {
    let mut document = Document::new(width);
    document.extend(text);
    document
}

fn rows(text: &str, width: u16) -> Vec<String> {
    let document = document(text, width);
    (0..document.len()).map(|i| document.row(text, i).text.to_owned()).collect()
}

/// The stretches of every row, and what is known of it besides.
type Drawn = Vec<(Vec<(String, Tone)>, usize, Join, usize)>;

fn drawn(document: &Document, text: &str) -> Drawn {
    let row = |i| {
        let row = document.row(text, i);
        let stretches = row.stretches().map(|(text, tone)| (text.to_owned(), tone)).filter(|s| !s.0.is_empty());
        (stretches.collect(), row.lead, row.join, document.source(i))
    };
    (0..document.len()).map(row).collect()
}

fn ink_of(text: &str, words: &str) -> Tone {
    let all = drawn(&document(text, 80), text);
    let found = all.iter().flat_map(|row| &row.0).find(|stretch| stretch.0.contains(words));
    found.unwrap_or_else(|| panic!("{words} is not in {all:?}")).1
}

#[test]
fn every_kind_of_block_is_drawn_without_its_signs() {
    let text = "# Title\nSome **bold**, *slanted*, ~~struck~~ and `code`.\n\n> quoted\n> twice\n\n---\n";
    assert_eq!(
        rows(text, 34),
        [
            "Title",
            "Some bold, slanted, struck and",
            "code.",
            "",
            "│ quoted",
            "│ twice",
            "",
            "──────────────────────────────────"
        ]
    );
    assert_eq!(ink_of(text, "Title").ink, Ink::Heading);
    assert_eq!(ink_of(text, "bold").modifier, Modifier::BOLD);
    assert_eq!(ink_of(text, "slanted").modifier, Modifier::ITALIC);
    assert_eq!(ink_of(text, "struck").modifier, Modifier::CROSSED_OUT);
    assert_eq!(ink_of(text, "code").ink, Ink::Code);
    assert_eq!(ink_of(text, "quoted").ink, Ink::Quote);
}

#[test]
fn lists_nest_count_and_wrap_under_their_text() {
    let text = "Do:\n- one two three\n  - deeper\n- [x] done\n- [ ] open\n\n3. third\n3. fourth\n\n   still fourth\n";
    let want = [
        "Do:",
        "• one two",
        "  three",
        "  ◦ deeper",
        "• [x] done",
        "• [ ] open",
        "",
        "3. third",
        "4. fourth",
        "",
        "   still",
        "   fourth",
    ];
    assert_eq!(rows(text, 11), want);
}

#[test]
fn a_link_shows_its_text_and_where_it_leads() {
    assert_eq!(
        rows("See [the book](https://a.b/c) and <https://d.e>.", 80),
        ["See the book (https://a.b/c) and https://d.e."]
    );
    assert_eq!(rows("![a cat](cat.png)", 80), ["a cat (cat.png)"]);
    // A definition is shown: nothing that was said is left out.
    assert_eq!(rows("See [it][1].\n\n[1]: https://a.b\n", 80), ["See [it][1].", "", "[1]: https://a.b"]);
}

#[test]
fn a_table_fits_the_width_by_wrapping_its_cells() {
    let text = "| name | what it does |\n|:--|--:|\n| a | **reads** and writes |\n| bb | x |\n";
    assert_eq!(
        rows(text, 40),
        ["name │     what it does", "─────┼─────────────────", "a    │ reads and writes", "bb   │                x",]
    );
    assert_eq!(
        rows(text, 18),
        [
            "name │     what it",
            "     │        does",
            "─────┼────────────",
            "a    │   reads and",
            "     │      writes",
            "bb   │           x",
        ]
    );
    assert_eq!(
        rows(text, 12),
        ["name: a", "what it", "does: reads", "and writes", "", "name: bb", "what it", "does: x"]
    );
    assert_eq!(ink_of(text, "name").modifier, Modifier::BOLD);
}

#[test]
fn code_keeps_its_lines_names_its_language_and_is_code_before_its_fence_is_closed() {
    let text = "Look:\n```rust\nfn main() {\n    let x;\n}\n";
    let want = ["Look:", "", "rust", "fn main() {", "    let x;", "}"];
    assert_eq!(rows(text, 40), want);
    assert_eq!(rows(&format!("{text}```\n"), 40), want);
    assert_eq!(rows(&format!("{text}```\nAnd *so*"), 40)[6..], ["", "And so"]);
    assert_eq!(rows("```\nx\n``\n", 40), ["code", "x", "``"]);
    assert_eq!(rows("1. a\n   ```\n   y\n   ```\n2. b", 40), ["1. a", "   code", "   y", "2. b"]);
}

#[test]
fn what_an_entity_makes_is_cleaned() {
    let shown = rows("a&#27;[31m&#x202e;b `c`\n\n| &#10; | &#7; |\n|-|-|\n", 40).join("\n");
    assert!(shown.chars().all(|c| c == '\n' || !c.is_control()), "{shown:?}");
    assert!(shown.contains("a\u{241b}[31mb c"), "{shown:?}");
}

#[test]
fn colours_come_line_by_line_and_stay_when_the_width_changes() {
    let text = "```rust\nfn main() {}\nlet x = 1;\n```\n- a\n  ```py\n  def f(): pass\n  ```\n\nend\n";
    let mut document = document(text, 40);
    let before = drawn(&document, text);
    while let Some(job) = document.next_job(text) {
        document.take_colors(text, highlight::color(job));
    }
    let colored = drawn(&document, text);
    let plain =
        |rows: &Drawn| -> Vec<String> { rows.iter().map(|r| r.0.iter().map(|s| s.0.as_str()).collect()).collect() };
    assert_eq!(plain(&before), plain(&colored));
    for (row, word, ink) in [(1, "fn", Ink::Keyword), (2, "1", Ink::Number), (6, "def", Ink::Keyword)] {
        assert!(colored[row].0.iter().any(|s| s.0 == word && s.1.ink == ink), "{:?}", colored[row]);
    }
    document.rewrap(text, 12);
    document.rewrap(text, 40);
    assert_eq!(drawn(&document, text), colored);
}

#[test]
fn rows_know_where_they_stand_in_the_text_and_never_go_back() {
    let text = "# A\n\nalpha *beta* gamma\n\n- one\n- two\n\n```\nnumber\n```\n\n| a | b |\n|---|---|\n| c | d |\n";
    let document = document(text, 9);
    let sources: Vec<usize> = (0..document.len()).map(|i| document.source(i)).collect();
    assert!(sources.is_sorted(), "{sources:?}");
    for word in ["gamma", "two", "number"] {
        let row = (0..document.len()).find(|&i| document.row(text, i).text.ends_with(word)).unwrap();
        assert!(text[sources[row]..].trim_start_matches(['-', ' ']).starts_with(word), "{word} {}", sources[row]);
    }
}

/// Text that arrives in pieces of one, three and a thousand characters.
fn in_pieces(text: &str, lengths: impl IntoIterator<Item = usize>, width: u16) -> (Document, String) {
    let (mut document, mut said) = (Document::new(width), String::new());
    let mut chars = text.chars();
    let mut lengths = lengths.into_iter();
    loop {
        let length = lengths.next().unwrap_or(7).max(1);
        let before = said.len();
        said.extend(chars.by_ref().take(length));
        if said.len() == before {
            return (document, said);
        }
        document.extend(&said);
    }
}

#[test]
fn hostile_text_costs_little_and_breaks_nothing() {
    let many = |s: &str, n: usize| s.repeat(n);
    let mut wide = many("|a", 4000);
    wide.push('\n');
    wide += &many("|-", 4000);
    wide.push('\n');
    wide += &many("|\n", 8000);
    let mut nested = String::new();
    for i in 0..300 {
        let _ = writeln!(nested, "{}- x", " ".repeat(2 * i));
    }
    let texts = [
        many("[", 100_000),
        many("![", 50_000),
        many("*", 100_000),
        many("*a_", 40_000),
        many("`", 100_000),
        many("> ", 50_000),
        many("- ", 50_000),
        many("1. ", 50_000),
        many("<", 100_000),
        many("&#27;", 20_000),
        many("[a](", 30_000),
        many("<a ", 30_000),
        many("|", 100_000),
        many("|-", 50_000),
        many("\\", 100_000),
        many("a\n", 50_000),
        many("# a\n", 25_000),
        many("```\n", 25_000),
        many("~~", 50_000),
        many("\u{301}", 30_000),
        many(">\n", 50_000),
        many("- a\n\n", 20_000),
        many("[x]: y\n", 15_000),
        wide,
        nested,
    ];
    for text in texts {
        for width in [1, 13, 200] {
            let begin = Instant::now();
            let document = document(&text, width);
            let took = begin.elapsed();
            let name: String = text.chars().take(12).collect();
            assert!(took < Duration::from_secs(4), "{name:?} took {took:?}");
            for i in (0..document.len()).step_by(97) {
                assert!(usize::from(document.row(&text, i).text.cell_width()) <= usize::from(width.max(4)), "{name:?}");
            }
        }
    }
}

#[test]
fn units_that_are_too_long_are_cut_alike_in_pieces_and_as_a_whole() {
    let texts =
        ["word ".repeat(20_000), "> quoted *words*\n".repeat(4000), "| a | b |\n".repeat(4000), "x".repeat(50_000)];
    for text in texts {
        let whole = document(&text, 60);
        assert!(whole.settled > 1, "{text:.20}");
        let (pieces, _) = in_pieces(&text, std::iter::repeat_n(977, 200), 60);
        assert_eq!(drawn(&pieces, &text), drawn(&whole, &text), "{text:.20}");
    }
}

#[test]
fn the_name_of_a_language_is_cut_where_it_has_no_room() {
    for text in ["~~~>日~!0((a👍&0_", "~~~a-long-name\ncode\n~~~\n", "> ~~~a-long-name\n> code\n> ~~~\n"] {
        for width in [4, 7] {
            let document = document(text, width);
            for i in 0..document.len() {
                let row = document.row(text, i).text;
                assert!(row.cell_width() <= width, "{row:?} in {text:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn text_in_pieces_is_drawn_as_the_whole_is(
        parts in prop::collection::vec(prop::sample::select(PARTS), 0..40),
        lengths in prop::collection::vec(1_usize..12, 0..60),
        width in 1_u16..50,
    ) {
        let text = parts.concat();
        let whole = document(&text, width);
        let (pieces, said) = in_pieces(&text, lengths, width);
        prop_assert_eq!(&said, &text);
        prop_assert_eq!(drawn(&pieces, &text), drawn(&whole, &text), "{:?}", text);
        let mut other = document(&text, 77);
        other.rewrap(&text, width);
        prop_assert_eq!(drawn(&other, &text), drawn(&whole, &text), "{:?}", text);
    }

    #[test]
    fn any_text_is_drawn_within_its_width(text in "[ab#*_`~>\\-+0-9.|:\\[\\]()<!&;\\\\\n 日é👍]{0,300}", width in 2_u16..30) {
        let document = document(&text, width);
        for i in 0..document.len() {
            let row = document.row(&text, i).text;
            prop_assert!(row.cell_width() <= width || width < 4, "{:?} in {:?}", row, text);
            prop_assert!(!row.contains('\n'));
        }
    }
}

/// What the property test makes texts of.
const PARTS: &[&str] = &[
    "word ",
    "two words",
    "\n",
    "\n\n",
    "\n",
    "# ",
    "## head\n",
    "- ",
    "- item\n",
    "  - deep\n",
    "    ",
    "1. ",
    "2. num\n",
    "* ",
    "> ",
    "> quote\n",
    "```",
    "```rust\n",
    "fn main() {}\n",
    "```\n",
    "~~~\n",
    "`code`",
    "**bold**",
    "*",
    "_",
    "~~s~~",
    "| a | b |\n",
    "|---|---|\n",
    "| c | d |\n",
    "|-",
    "|",
    "---\n",
    "===\n",
    "-",
    "=",
    "[text](http://a.b)",
    "[r]: http://x\n",
    "[r]",
    "<b>",
    "<div>\n",
    "<https://x.y>",
    "&amp;",
    "&#27;",
    "\\",
    "- [ ] task\n",
    "- [x] done\n",
    "日本語の文章。",
    "   ",
    "long-long-long-long-long-long word",
];
