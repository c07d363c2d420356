//! What is looked at of a conversation, as it grows and as its width changes.

use super::*;

fn shown(c: &Conversation) -> Vec<String> {
    c.visible()
        .map(|line| match line {
            Line::Label(item) => format!("[{}]", item.label),
            Line::Text(_, _, row) => row.text.to_owned(),
            Line::Foot(item) => format!("({})", item.foot),
            Line::Gap => String::new(),
        })
        .collect()
}

/// Ten turns, each "question N" and three lines of answer.
fn ten_turns() -> Conversation {
    let mut c = Conversation::default();
    c.resize(40, 6);
    for n in 0..10 {
        c.add(Kind::User, "you", &format!("question {n}"));
        let reply = c.add(Kind::Reply, "model", &format!("a{n}\nb{n}\nc{n}"));
        c.set_foot(reply, format!("{n} tokens"));
    }
    c
}

#[test]
fn the_end_is_followed_until_someone_scrolls_up() {
    let mut c = ten_turns();
    assert_eq!(shown(&c), ["", "[model]", "a9", "b9", "c9", "(9 tokens)"]);
    c.append(19, "\nd9", None, Instant::now());
    assert_eq!(shown(&c), ["[model]", "a9", "b9", "c9", "d9", "(9 tokens)"]);
    c.scroll_by(-3);
    let before = shown(&c);
    c.append(19, "\ne9\nf9", None, Instant::now());
    assert_eq!(shown(&c), before);
    assert_eq!(c.below(), Some(Below { lines: 5, new_lines: 2 }));
    c.scroll_by(5);
    assert_eq!(c.below(), None);
    assert_eq!(c.below(), None);
}

#[test]
fn pages_overlap_by_a_line_and_stop_at_both_ends() {
    let mut c = ten_turns();
    c.scroll_pages(-1);
    assert_eq!(shown(&c).last().map(String::as_str), Some(""));
    c.scroll_pages(-100);
    assert_eq!(shown(&c)[..2], ["[you]", "question 0"]);
    c.scroll_pages(100);
    assert_eq!(c.below(), None);
    c.scroll_to_top();
    assert_eq!(shown(&c)[0], "[you]");
}

#[test]
fn the_view_goes_from_one_message_of_the_person_to_the_next_and_back() {
    let mut c = ten_turns();
    c.scroll_to_prompt_before();
    assert_eq!(shown(&c)[..2], ["[you]", "question 9"]);
    c.scroll_to_prompt_before();
    assert_eq!(shown(&c)[..2], ["[you]", "question 8"]);
    c.scroll_by(2);
    c.scroll_to_prompt_before();
    assert_eq!(shown(&c)[..2], ["[you]", "question 8"]);
    c.scroll_to_prompt_after();
    assert_eq!(shown(&c)[..2], ["[you]", "question 9"]);
    c.scroll_to_prompt_after();
    assert_eq!(c.below(), None);
    c.scroll_to_top();
    c.scroll_to_prompt_before();
    assert_eq!(shown(&c)[..2], ["[you]", "question 0"]);
    c.scroll_to_top();
    Conversation::default().scroll_to_prompt_after();
}

#[test]
fn the_place_that_is_read_stays_when_the_width_changes() {
    let mut c = Conversation::default();
    c.resize(80, 4);
    for n in 0..20 {
        c.add(Kind::Reply, "model", &format!("start{n} {}end{n}", "lorem ipsum dolor ".repeat(20)));
    }
    c.scroll_to_top();
    c.scroll_by(40);
    let Scroll::At { top, .. } = c.scroll else { panic!("it follows") };
    for width in [30, 7, 200, 13, 80] {
        c.resize(width, 4);
        assert!(matches!(c.scroll, Scroll::At { top: t, .. } if t == top));
        assert_eq!(c.anchor_at(c.top()).item, top.item, "width {width}");
    }
}

#[test]
fn text_in_pieces_lies_as_the_whole_does() {
    let text = "The quick brown fox\n\njumps over\nthe lazy dog 日本語の文章。 and on and on it goes";
    for width in [3, 10, 17, 80] {
        let mut c = Conversation::default();
        c.resize(width, 100);
        let pieces = c.add(Kind::Reply, "", "");
        for ch in text.chars() {
            c.append(pieces, ch.encode_utf8(&mut [0; 4]), None, Instant::now());
        }
        let whole = c.add(Kind::Reply, "", text);
        assert_eq!(c.ends[pieces], c.ends[whole] - c.ends[pieces]);
    }
}

#[test]
fn oldest_turns_are_dropped_from_what_is_sent_and_stay_to_be_read() {
    let mut c = ten_turns();
    assert_eq!(c.drop_oldest(2), [1, 2, 3, 4]);
    assert_eq!(c.messages(None).len(), 16);
    assert_eq!(c.messages(Some("Be kind."))[1].content, "question 2");
    assert_eq!(c.items().len(), 20);
    assert_eq!(c.drop_oldest(100).len(), 16);
}

#[test]
fn nothing_is_shown_of_an_empty_conversation() {
    let mut c = Conversation::default();
    c.resize(0, 0);
    c.scroll_pages(-1);
    assert_eq!(shown(&c).len(), 0);
    assert_eq!(c.below(), None);
}

#[test]
fn line_ends_at_the_start_of_a_reply_are_left_out() {
    let mut c = Conversation::default();
    let reply = c.add(Kind::Reply, "model", "");
    for piece in ["\n", "\n\n", "Hi"] {
        c.append(reply, piece, None, Instant::now());
    }
    assert_eq!(shown(&c), ["[model]", "Hi"]);
}
