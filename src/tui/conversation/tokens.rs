//! The tokens of replies: which part of a text each of them said, the one that is looked at, and where it stands in what is
//! drawn. They are known of what came while a model was loaded, for its passes are numbered since then.

use std::collections::HashMap;
use std::ops::Range;
use std::time::Instant;

use super::item::Item;
use super::{Conversation, Kind, Scroll};

/// The tokens of all replies, on every branch, and which of them is looked at.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    /// By the numbers of replies in the transcript, each in the order of its text.
    said: HashMap<u64, Vec<Token>>,
    /// The number of a reply, and the place of its token.
    chosen: Option<(u64, usize)>,
}

/// What a token said, or several of which only the last made a whole text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Token {
    /// Bytes of the text as drawn.
    start: usize,
    end: usize,
    /// The pass that reads it, by its number in the log of tokens.
    pass: u64,
}

/// The token that is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenHere<'a> {
    pub text: &'a str,
    /// The pass that read it, by its number in the log of tokens.
    pub pass: u64,
}

/// A way from one token to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Walk {
    /// So many tokens on; behind the last one of a reply comes the first of the next.
    Token(isize),
    /// To what stands above or below.
    Row(isize),
    Reply(isize),
    First,
    Last,
}

impl Conversation {
    /// Appends text to item `i`. `pass`: which one will read its last token.
    pub fn append(&mut self, i: usize, text: &str, pass: Option<u64>, now: Instant) {
        let item = &mut self.items[i];
        let start = item.text().len();
        item.push(text, Some(now));
        let (id, end) = (item.id, item.text().len());
        if let Some(pass) = pass.filter(|_| end > start) {
            let said = self.tokens.said.entry(id).or_default();
            // The pass of this number did not read what was to wait for it.
            said.truncate(said.partition_point(|token| token.pass < pass));
            said.push(Token { start, end, pass });
        }
        self.recount(i);
        if self.colorless.last() != Some(&i) {
            self.colorless.push(i);
        }
    }

    /// Another model counts its passes anew.
    pub fn forget_tokens(&mut self) {
        self.tokens = Tokens::default();
    }

    /// No pass from this number on has been made, and the next one will read something else: what waited for it is not known.
    pub fn end_passes(&mut self, n: u64) {
        for said in self.tokens.said.values_mut() {
            while said.last().is_some_and(|token| token.pass >= n) {
                said.pop();
            }
        }
        if self.token().is_none() {
            self.tokens.chosen = None;
        }
    }

    /// The token that is looked at.
    pub fn token(&self) -> Option<TokenHere<'_>> {
        let (item, token) = self.chosen()?;
        Some(TokenHere { text: self.items[item].text().get(token.start..token.end)?, pass: token.pass })
    }

    /// Looks at the token that a pass read, where it is shown, or at none: whoever is at the end follows it again.
    pub fn choose_token(&mut self, pass: Option<u64>) {
        let of = |pass| {
            self.replies().rev().find_map(|item| {
                let id = self.items[item].id;
                let at = self.said(id).binary_search_by_key(&pass, |token| token.pass).ok()?;
                Some((id, at))
            })
        };
        self.tokens.chosen = pass.and_then(of);
        if pass.is_none() && self.below().is_none() {
            self.follow();
        }
        self.show_token();
    }

    /// Looks at the last token that one of the first `n` passes read, or where the view is further up, at its first.
    /// False where no reply has any.
    pub fn enter_tokens(&mut self, n: u64) -> bool {
        if self.chosen().is_none() {
            let top = (self.scroll != Scroll::Follow).then(|| self.top());
            let last = |item: usize| {
                let id = self.items[item].id;
                self.read(id, n).checked_sub(1).map(|at| (id, at))
            };
            let first = |item: usize| {
                let id = self.items[item].id;
                (0..self.read(id, n)).find(|&at| Some(self.line_of_token(item, at)) >= top).map(|at| (id, at))
            };
            let in_view = top.and_then(|_| self.replies().find_map(first));
            self.tokens.chosen = in_view.or_else(|| self.replies().rev().find_map(last));
        }
        self.show_token();
        self.chosen().is_some()
    }

    /// Goes to another token that one of the first `n` passes read, where there is one that way.
    pub fn walk(&mut self, way: Walk, n: u64) {
        let (Some((item, _)), Some((id, at))) = (self.chosen(), self.tokens.chosen) else { return };
        let of = self.read(id, n);
        let reply = |by: isize| {
            let has_any = |&other: &usize| self.read(self.items[other].id, n) > 0;
            let found = match by {
                ..0 => self.replies().rev().filter(|&other| other < item).find(has_any),
                _ => self.replies().filter(|&other| other > item).find(has_any),
            };
            found.map(|other| self.items[other].id)
        };
        let to = match way {
            Walk::Token(by) => match at.checked_add_signed(by) {
                Some(to) if to < of => Some((id, to)),
                None => reply(-1).map(|id| (id, self.read(id, n).saturating_sub(1))),
                Some(_) => reply(1).map(|id| (id, 0)),
            },
            Walk::Row(by) => self.token_beside(item, at, by, of).map(|at| (id, at)),
            Walk::Reply(by) => reply(by).map(|id| (id, 0)),
            Walk::First => Some((id, 0)),
            Walk::Last => of.checked_sub(1).map(|last| (id, last)),
        };
        self.tokens.chosen = to.or(self.tokens.chosen);
        self.show_token();
    }

    /// What the token that is looked at said in row `row` of item `item`: bytes of the row. Where it said nothing that is
    /// drawn, such as the end of a line, the empty place before which it stands.
    pub fn token_in(&self, item: usize, row: usize) -> Option<Range<usize>> {
        let (chosen, token) = self.chosen().filter(|chosen| chosen.0 == item)?;
        let item = &self.items[chosen];
        let (first, last) = (item.row_of(token.start, 0), item.row_of(token.end - 1, usize::MAX));
        if !(first..=last).contains(&row) {
            return None;
        }
        let bytes = token.start..token.end;
        if let Place::Drawn(range) = place(item, row, &bytes) {
            return Some(range);
        }
        let is_seen = (first..=last).any(|row| matches!(place(item, row, &bytes), Place::Drawn(_)));
        match place(item, first, &bytes) {
            Place::Before(at) if !is_seen && row == first => Some(at..at),
            _ => None,
        }
    }

    /// The item and the token that are looked at, where they are shown.
    fn chosen(&self) -> Option<(usize, Token)> {
        let (id, at) = self.tokens.chosen?;
        let item = self.items.iter().rposition(|item| item.id == id)?;
        let token = *self.said(id).get(at)?;
        (token.end <= self.items[item].text().len()).then_some((item, token))
    }

    fn said(&self, id: u64) -> &[Token] {
        self.tokens.said.get(&id).map_or(&[], Vec::as_slice)
    }

    /// How many tokens of a reply the first `n` passes read.
    fn read(&self, id: u64, n: u64) -> usize {
        self.said(id).partition_point(|token| token.pass < n)
    }

    /// The places of replies.
    fn replies(&self) -> impl DoubleEndedIterator<Item = usize> {
        (0..self.items.len()).filter(|&i| self.items[i].kind == Kind::Reply)
    }

    /// The token of the same reply that stands where the `at`th does, `by` rows further down, of the first `of`.
    fn token_beside(&self, item: usize, at: usize, by: isize, of: usize) -> Option<usize> {
        let (said, item) = (self.said(self.items[item].id), &self.items[item]);
        let start = said[at].start;
        let row = item.row_of(start, usize::MAX);
        let column = start - item.source(row).min(start);
        let rows = item.rows();
        // Rows without a text of their own, such as the gap between two paragraphs, are passed over.
        let mut to = row;
        loop {
            to = to.checked_add_signed(by).filter(|&to| to < rows)?;
            let from = item.source(to);
            let end = (to + 1..rows).map(|next| item.source(next)).find(|&next| next > from);
            let end = end.unwrap_or(item.text().len());
            let wanted = (from + column).min(end.saturating_sub(1));
            let found = said[..of].partition_point(|token| token.end <= wanted);
            if found < of && (by < 0) == (found < at) && found != at && said[found].end > from {
                return Some(found);
            }
        }
    }

    fn line_of_token(&self, item: usize, at: usize) -> usize {
        let found = &self.items[item];
        let row = found.row_of(self.said(found.id)[at].start, 0);
        self.ends[item] - found.lines() + found.head_lines() + row
    }

    /// Brings the token that is looked at into view, unfolding what was thought where it must.
    pub(super) fn show_token(&mut self) {
        let (Some((item, token)), Some((_, at))) = (self.chosen(), self.tokens.chosen) else { return };
        if let Some(thinking) = self.items[item].thinking_mut().filter(|thinking| thinking.hides(token.start)) {
            thinking.toggle(true);
            self.recount(item);
        }
        let (line, top, height) = (self.line_of_token(item, at), self.top(), usize::from(self.height));
        let top = if (top..top + height).contains(&line) { top } else { line.saturating_sub(height / 3) };
        // It is not carried away by what comes.
        let end = if let Scroll::At { end, .. } = self.scroll { end } else { self.end() };
        self.scroll = Scroll::At { top: self.anchor_at(top.min(self.last_top())), end };
    }
}

/// Where some bytes of a text stand in a row of it.
enum Place {
    Drawn(Range<usize>),
    /// Nowhere; what comes after them begins here.
    Before(usize),
}

/// A row shows its part of the text without what only shapes it: its characters are those of the text in their order.
fn place(item: &Item, row: usize, bytes: &Range<usize>) -> Place {
    let from = item.source(row);
    let to = (row + 1..item.rows()).map(|next| item.source(next)).find(|&next| next > from);
    let text = item.text().get(from..to.unwrap_or(item.text().len())).unwrap_or("");
    let drawn = item.row(row);
    let lead = drawn.lead.min(drawn.text.len());
    let (mut at, mut found, mut after) = (0, None::<Range<usize>>, None);
    for (i, sign) in drawn.text[lead..].char_indices() {
        let (i, rest) = (lead + i, &text[at..]);
        // Blanks also fill up the cells of a table.
        let skipped = if sign.is_whitespace() { rest.starts_with(sign).then_some(0) } else { rest.find(sign) };
        let Some(skipped) = skipped else { continue };
        let source = from + at + skipped;
        at += skipped + sign.len_utf8();
        if bytes.contains(&source) {
            found = Some(found.map_or(i, |range| range.start)..i + sign.len_utf8());
        } else if source >= bytes.end {
            after.get_or_insert(i);
            break;
        }
    }
    found.map_or_else(|| Place::Before(after.unwrap_or(drawn.text.len())), Place::Drawn)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reply of these pieces, each a token, whose passes are numbered from `first` on.
    fn say(c: &mut Conversation, first: u64, pieces: &[&str]) -> usize {
        c.add(Kind::User, "you", "a question");
        let item = c.add(Kind::Reply, "model", "");
        for (piece, pass) in pieces.iter().zip(first..) {
            c.append(item, piece, Some(pass), Instant::now());
        }
        c.finish(item);
        item
    }

    fn conversation(pieces: &[&str]) -> Conversation {
        let mut c = Conversation::default();
        c.resize(20, 12);
        say(&mut c, 0, pieces);
        c
    }

    /// What is marked, row by row: an empty place as `|`.
    fn marked(c: &Conversation, item: usize) -> Vec<String> {
        let of_row = |row: usize| {
            let range = c.token_in(item, row)?;
            let text = c.items[item].row(row).text.get(range.clone())?.to_owned();
            Some(if range.is_empty() { format!("{}|", &c.items[item].row(row).text[..range.start]) } else { text })
        };
        (0..c.items[item].rows()).filter_map(of_row).collect()
    }

    #[test]
    fn each_token_is_found_in_what_is_drawn_of_it() {
        let pieces = [
            "\n", "The", " **", "quick", "** bro", "wn", " `fox`", "\n\n", "- one", "\n- t", "wo", " words", " that",
            " wrap",
        ];
        let mut c = conversation(&pieces);
        assert!(c.enter_tokens(100));
        c.walk(Walk::First, 100);
        let mut seen = Vec::new();
        for _ in 1..pieces.len() {
            let here = c.token().unwrap();
            seen.push((here.pass, here.text.to_owned(), marked(&c, 1).join("/")));
            c.walk(Walk::Token(1), 100);
        }
        let expected = [
            (1, "The", "The"),
            (2, " **", " "),
            (3, "quick", "quick"),
            (4, "** bro", "bro"),
            (5, "wn", "wn"),
            (6, " `fox`", " fox"),
            (7, "\n\n", "The quick brown fox|"),
            (8, "- one", "one"),
            (9, "\n- t", "t"),
            (10, "wo", "wo"),
            (11, " words", " words"),
            (12, " that", " that"),
            (13, " wrap", "wrap"),
        ];
        assert_eq!(seen, expected.map(|(n, text, mark)| (n, text.to_owned(), mark.to_owned())));
        assert_eq!(c.token().unwrap().pass, 13, "there is none behind the last");
    }

    #[test]
    fn cells_of_a_table_and_lines_of_code_are_found_too() {
        let pieces = ["| a | word |\n|---|---|\n| ", "x", " | ", "y z", " |\n\n```\nlet", " b", ";\n```\n"];
        let mut c = conversation(&pieces);
        c.enter_tokens(100);
        for (pass, mark) in [(1, "x"), (3, "y z"), (5, " b")] {
            c.choose_token(Some(pass));
            assert_eq!(marked(&c, 1), [mark], "{pass}");
        }
        c.toggle_raw();
        c.choose_token(Some(3));
        assert_eq!(marked(&c, 1), ["y z"]);
    }

    #[test]
    fn walking_goes_from_reply_to_reply_and_up_and_down_the_rows() {
        let mut c = conversation(&["one ", "two\n\n", "three ", "four\n\n", "five ", "six"]);
        say(&mut c, 7, &["seven ", "eight"]);
        c.enter_tokens(100);
        let mut walk = |way| {
            c.walk(way, 100);
            c.token().unwrap().text.trim().to_owned()
        };
        assert_eq!(
            [Walk::First, Walk::Token(-1), Walk::Row(-1), Walk::Row(-1)].map(&mut walk),
            ["seven", "six", "three", "one"]
        );
        assert_eq!(
            [Walk::Row(-1), Walk::Row(1), Walk::First, Walk::Row(1)].map(&mut walk),
            ["one", "three", "one", "three"]
        );
        assert_eq!(
            [Walk::Last, Walk::Row(1), Walk::Token(1), Walk::Token(-1)].map(&mut walk),
            ["six", "six", "seven", "six"]
        );
        assert_eq!([Walk::Reply(1), Walk::Reply(1), Walk::Reply(-1)].map(&mut walk), ["seven", "seven", "one"]);
        c.choose_token(Some(8));
        assert_eq!(c.token().unwrap().text, "eight");
        c.choose_token(Some(6));
        assert_eq!(c.token(), None, "that pass read none of them");
    }

    #[test]
    fn what_no_pass_has_read_cannot_be_looked_at() {
        let mut c = conversation(&["one ", "two ", "three"]);
        assert!(c.enter_tokens(2));
        assert_eq!(c.token().unwrap().text, "two ");
        c.walk(Walk::Token(1), 2);
        c.walk(Walk::Last, 2);
        assert_eq!(c.token().unwrap().text, "two ");
        // The next pass with that number reads something else.
        c.end_passes(2);
        c.walk(Walk::Last, 100);
        assert_eq!(c.token().unwrap().text, "two ");
        c.forget_tokens();
        assert!(!c.enter_tokens(100) && c.token().is_none());
        assert!(!Conversation::default().enter_tokens(9));
    }

    #[test]
    fn the_token_is_brought_into_view_and_stays_there() {
        let words: Vec<String> = (0..200).map(|n| format!("word{n:03} ")).collect();
        let mut c = conversation(&words.iter().map(String::as_str).collect::<Vec<_>>());
        c.resize(20, 5);
        c.enter_tokens(1000);
        c.walk(Walk::First, 1000);
        let sees = |c: &Conversation, word: &str| {
            c.visible()
                .any(|line| matches!(line, crate::tui::conversation::Line::Text(_, _, row) if row.text.contains(word)))
        };
        assert!(sees(&c, "word000"));
        c.walk(Walk::Last, 1000);
        assert!(sees(&c, "word199"));
        for _ in 0..50 {
            c.append(1, "more ", Some(500), Instant::now());
        }
        assert!(sees(&c, "word199"), "what comes does not carry it away");
        c.resize(11, 4);
        assert!(sees(&c, "word199"), "nor does another size");
        c.resize(20, 5);
        // Whoever scrolled up begins there.
        c.choose_token(None);
        c.scroll_to_top();
        assert!(c.enter_tokens(1000));
        assert_eq!(c.token().unwrap().text, "word000 ");
    }

    #[test]
    fn what_was_thought_is_unfolded_for_its_tokens() {
        let mut c = conversation(&["<think>", "hm", " well", "</think>", "Yes", "."]);
        assert!(!c.items[1].thinking().unwrap().shows_text());
        c.enter_tokens(100);
        assert_eq!(marked(&c, 1), ["."]);
        c.choose_token(Some(1));
        assert_eq!(marked(&c, 1), ["hm"]);
    }
}
