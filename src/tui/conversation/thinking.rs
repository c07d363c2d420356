//! What a model thinks before it answers: shown while it comes, folded to one line when it is over.

use std::time::{Duration, Instant};

use crate::tui::markdown::{Ink, Join, RowRef};
use crate::tui::units;
use crate::tui::wrap::Wrapped;

/// The thinking of a reply. Bytes are those of the text as drawn.
#[derive(Debug)]
pub struct Thinking {
    start: usize,
    /// Where its closing tag begins; `None`: it is not over.
    end: Option<usize>,
    wrapped: Wrapped,
    pub is_open: bool,
    /// When it began, where that was seen; and the pieces that came since, each a token.
    since: Option<Instant>,
    tokens: usize,
    took: Option<Duration>,
    /// It will not go on.
    is_left: bool,
    head: String,
}

impl Thinking {
    /// Thinking from byte `start` on. `now`: it begins now; without, it is of an earlier sitting.
    pub fn new(start: usize, width: u16, now: Option<Instant>) -> Thinking {
        let mut thinking = Thinking {
            start,
            end: None,
            wrapped: Wrapped::new(width),
            is_open: false,
            since: now,
            tokens: 0,
            took: None,
            is_left: false,
            head: String::new(),
        };
        thinking.write_head("");
        thinking
    }

    pub fn is_over(&self) -> bool {
        self.end.is_some()
    }

    /// Takes what was added to `text`.
    pub fn extend(&mut self, text: &str) {
        self.tokens += 1;
        self.wrapped.extend(self.part(text));
    }

    /// No tag says where it began.
    pub fn has_no_tag(&self) -> bool {
        self.start == 0
    }

    /// Text came that was not counted here.
    pub fn lose_count(&mut self) {
        if self.end.is_none() {
            self.since = None;
        }
    }

    /// Takes over the figures of the same thinking, laid out before.
    pub fn remember(&mut self, before: &Thinking, text: &str) {
        (self.since, self.tokens, self.took, self.is_left) =
            (before.since, before.tokens, before.took, before.is_left && self.end.is_none());
        self.write_head(text);
    }

    /// It ended at byte `end`.
    pub fn finish(&mut self, text: &str, end: usize, now: Option<Instant>) {
        self.end = Some(end.max(self.start));
        self.took = self.since.zip(now).map(|(since, now)| now.saturating_duration_since(since));
        let width = self.wrapped.width();
        self.rewrap(text, width);
        self.write_head(text);
    }

    /// The reply ended within it.
    pub fn leave(&mut self) {
        if self.end.is_none() {
            self.is_left = true;
            self.write_head("");
        }
    }

    pub fn toggle(&mut self, open: bool) {
        self.is_open = open;
        let sign = if self.shows_text() { "▾" } else { "▸" };
        self.head.replace_range(..sign.len(), sign);
    }

    fn write_head(&mut self, text: &str) {
        let sign = if self.shows_text() { "▾" } else { "▸" };
        let said = match (self.end, self.took) {
            (None, _) if self.is_left => "thinking, cut off".to_owned(),
            (None, _) => "thinking".to_owned(),
            (Some(_), Some(took)) => {
                format!("thought for {}, {}", units::duration(took), units::plural(self.tokens, "token"))
            }
            (Some(_), None) => {
                let characters = self.part(text).trim().chars().count();
                format!("thought, {}", units::plural(characters, "character"))
            }
        };
        self.head = format!("{sign} {said}");
    }

    /// What was thought.
    pub fn part<'t>(&self, text: &'t str) -> &'t str {
        text.get(self.start..self.end.unwrap_or(text.len())).unwrap_or("").trim_end()
    }

    pub fn rewrap(&mut self, text: &str, width: u16) {
        self.wrapped = Wrapped::new(width);
        self.wrapped.extend(self.part(text));
    }

    pub fn shows_text(&self) -> bool {
        self.is_open || self.end.is_none()
    }

    /// Whether byte `at` of the text is of what was thought, and not shown.
    pub fn hides(&self, at: usize) -> bool {
        !self.shows_text() && self.end.is_some_and(|end| at < end)
    }

    /// Rows: the head, and what was thought where that is shown.
    pub fn len(&self) -> usize {
        1 + if self.shows_text() { self.wrapped.len() } else { 0 }
    }

    pub fn row<'a>(&'a self, text: &'a str, i: usize) -> RowRef<'a> {
        let Some(i) = i.checked_sub(1) else {
            return RowRef::sign(&self.head, Ink::Thinking.into());
        };
        let (part, range) = (&text[self.start..], self.wrapped.line(i));
        let join = match i.checked_sub(1) {
            Some(before) => Join::of(&part[self.wrapped.line(before).end..range.start]),
            None => Join::Line,
        };
        RowRef::plain(&part[range], join, Ink::Thinking.into())
    }

    /// The byte of the text that row `i` begins with.
    pub fn source(&self, i: usize) -> usize {
        i.checked_sub(1).map_or(0, |i| self.start + self.wrapped.line(i).start)
    }
}
