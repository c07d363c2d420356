//! One message, reply or notice of the conversation: its text as it was said and as it is drawn, laid out once per width.

use std::time::Instant;

use crate::text::thinking;
use crate::tui::markdown::highlight::{Colored, Job};
use crate::tui::markdown::{Document, Ink, Join, RowRef};
use crate::tui::sanitize::{Sanitizer, char_start};
use crate::tui::wrap::Wrapped;

use super::thinking::Thinking;

/// What an item is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    User,
    Reply,
    Note,
    Warning,
    Error,
}

/// Whether a message is part of what is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Sent,
    /// No longer: the context was full.
    Dropped,
    /// Never answered.
    Withdrawn,
}

/// How replies are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Shown {
    #[default]
    Markdown,
    /// As they were said.
    Raw,
}

/// One message, reply or notice.
#[derive(Debug)]
pub struct Item {
    /// The number of a message in the transcript; 0 for notices.
    pub id: u64,
    pub kind: Kind,
    pub standing: Standing,
    /// Who speaks; empty for notices.
    pub label: String,
    /// Which of several branches it is on, beside the label; empty where there is one.
    pub mark: String,
    /// The text as it was said.
    pub raw: String,
    /// What stands below it: figures of a reply.
    pub foot: String,
    /// The text without what must not reach a terminal. Places in it are the same however it is shown.
    shown: String,
    sanitizer: Sanitizer,
    body: Body,
    /// What is known of the thinking while the text is shown as it was said.
    aside: Option<Thinking>,
    /// Text has come that is not laid out yet.
    is_behind: bool,
}

/// The text laid out.
#[derive(Debug)]
enum Body {
    Plain(Wrapped),
    Reply(Box<Reply>),
}

/// A reply: what was thought, and what was said.
#[derive(Debug)]
struct Reply {
    thinking: Option<Thinking>,
    /// Where the answer begins.
    answer: usize,
    document: Document,
    /// Tags were looked for up to here.
    searched: usize,
}

impl Item {
    pub(super) fn new(id: u64, kind: Kind, label: String, width: u16, how: Shown) -> Item {
        Item {
            id,
            kind,
            standing: Standing::Sent,
            label,
            mark: String::new(),
            raw: String::new(),
            foot: String::new(),
            shown: String::new(),
            sanitizer: Sanitizer::default(),
            body: Body::new(kind, how, width),
            aside: None,
            is_behind: false,
        }
    }

    /// Appends text. `now`: it comes now, from a model.
    pub(super) fn push(&mut self, text: &str, now: Option<Instant>) {
        self.raw.push_str(text);
        self.sanitizer.push(text, &mut self.shown);
        if self.shown.starts_with('\n') {
            // Replies often begin with line ends, which would only push the text away from its label.
            self.shown = self.shown.trim_start_matches('\n').to_owned();
        }
        // Of many pieces that come between two frames only the last is laid out, where that costs much.
        self.is_behind = matches!(&self.body, Body::Reply(reply) if reply.document.is_costly());
        if !self.is_behind {
            self.body.extend(&self.shown, now);
        }
        if let Some(thinking) = &mut self.aside {
            thinking.lose_count();
        }
    }

    /// Lays out text that has come and was left for the next frame. True where there was any.
    pub(super) fn catch_up(&mut self) -> bool {
        let was_behind = std::mem::take(&mut self.is_behind);
        if was_behind {
            self.body.extend(&self.shown, None);
        }
        was_behind
    }

    pub(super) fn wrap(&mut self, width: u16) {
        match &mut self.body {
            Body::Plain(wrapped) => {
                *wrapped = Wrapped::new(width);
                wrapped.extend(&self.shown);
            }
            Body::Reply(reply) => reply.rewrap(&self.shown, width),
        }
    }

    /// Shows the text otherwise.
    pub(super) fn show(&mut self, how: Shown, width: u16) {
        if self.kind != Kind::Reply {
            return;
        }
        let before = std::mem::replace(&mut self.body, Body::new(self.kind, how, width));
        if let Body::Reply(reply) = before {
            self.aside = reply.thinking;
        }
        if let (Body::Reply(reply), Some(aside)) = (&mut self.body, &self.aside)
            && aside.has_no_tag()
        {
            reply.thinking = Some(Thinking::new(0, width, None));
        }
        self.is_behind = false;
        self.body.extend(&self.shown, None);
        if let (Body::Reply(reply), Some(aside)) = (&mut self.body, self.aside.take_if(|_| how == Shown::Markdown))
            && let Some(thinking) = &mut reply.thinking
        {
            thinking.remember(&aside, &self.shown);
        }
    }

    /// The reply begins with thinking, without a tag of its own.
    pub(super) fn begin_thinking(&mut self, width: u16, now: Instant) {
        if !self.shown.is_empty() {
            return;
        }
        let thinking = Thinking::new(0, width, Some(now));
        match &mut self.body {
            Body::Reply(reply) => reply.thinking = Some(thinking),
            Body::Plain(_) => self.aside = Some(thinking),
        }
    }

    pub(super) fn thinking(&self) -> Option<&Thinking> {
        let Body::Reply(reply) = &self.body else { return None };
        reply.thinking.as_ref()
    }

    pub(super) fn thinking_mut(&mut self) -> Option<&mut Thinking> {
        let Body::Reply(reply) = &mut self.body else { return None };
        reply.thinking.as_mut()
    }

    pub(super) fn is_message(&self) -> bool {
        matches!(self.kind, Kind::User | Kind::Reply)
    }

    /// The text as it may be drawn, all of it.
    pub(super) fn text(&self) -> &str {
        &self.shown
    }

    /// What was said without what was thought, as far as that is known.
    pub fn answer(&self) -> &str {
        let skip = thinking::begins(&self.raw).unwrap_or(0);
        let is_thought = self.thinking().is_some();
        match thinking::ends(&self.raw, skip).filter(|_| is_thought || skip > 0) {
            Some((_, end)) => self.raw[end..].trim_start_matches(['\n', '\r', ' ']),
            None => &self.raw,
        }
    }

    /// Lines before the text.
    pub(super) fn head_lines(&self) -> usize {
        usize::from(self.is_message())
    }

    /// Lines of the text.
    pub(super) fn rows(&self) -> usize {
        match &self.body {
            Body::Plain(wrapped) => wrapped.len(),
            Body::Reply(reply) => reply.head() + reply.document.len(),
        }
    }

    /// Head, text, foot, and an empty line after it.
    pub(super) fn lines(&self) -> usize {
        self.head_lines() + self.rows() + usize::from(!self.foot.is_empty()) + 1
    }

    /// Line `i` of the text.
    pub(super) fn row(&self, i: usize) -> RowRef<'_> {
        match &self.body {
            Body::Plain(wrapped) => {
                let range = wrapped.line(i);
                let before = i.checked_sub(1).map(|before| wrapped.line(before).end);
                let join = before.map_or(Join::Line, |before| Join::of(&self.shown[before..range.start]));
                RowRef::plain(&self.shown[range], join, Ink::Text.into())
            }
            Body::Reply(reply) => reply.row(&self.shown, i),
        }
    }

    /// The byte of the text that line `i` of it begins with.
    pub(super) fn source(&self, i: usize) -> usize {
        match &self.body {
            Body::Plain(wrapped) => wrapped.line(i).start,
            Body::Reply(reply) => reply.source(i),
        }
    }

    pub(super) fn spot(&self, line: usize) -> Spot {
        match line.checked_sub(self.head_lines()) {
            None => Spot::Head,
            Some(i) if i < self.rows() => {
                let byte = self.source(i);
                let nth = (0..i).rev().take_while(|&before| self.source(before) == byte).count();
                Spot::Text { byte, nth }
            }
            Some(i) => Spot::After(i - self.rows()),
        }
    }

    /// The line that `spot` is on.
    pub(super) fn line_of(&self, spot: Spot) -> usize {
        let line = match spot {
            Spot::Head => 0,
            Spot::Text { byte, nth } => self.head_lines() + self.row_of(byte, nth),
            Spot::After(n) => self.head_lines() + self.rows() + n,
        };
        line.min(self.lines() - 1)
    }

    /// The row that byte `byte` of the text stands in; of several that begin there, the `nth`.
    pub(super) fn row_of(&self, byte: usize, nth: usize) -> usize {
        let (mut low, mut high) = (0, self.rows());
        while low < high {
            let middle = usize::midpoint(low, high);
            if self.source(middle) < byte { low = middle + 1 } else { high = middle }
        }
        if low == self.rows() || self.source(low) > byte {
            return low.saturating_sub(1);
        }
        let more = (1..=nth).take_while(|n| low + n < self.rows() && self.source(low + n) == byte).count();
        low + more
    }

    /// Line `line` of the item, which is number `place`, to be drawn.
    pub(super) fn line(&self, place: usize, line: usize) -> Line<'_> {
        let Some(line) = line.checked_sub(self.head_lines()) else { return Line::Label(self) };
        if line < self.rows() {
            return Line::Text(self, (place, line), self.row(line));
        }
        if line == self.rows() && !self.foot.is_empty() { Line::Foot(self) } else { Line::Gap }
    }

    /// The place behind the text.
    pub(super) fn end(&self) -> Spot {
        Spot::Text { byte: self.shown.len(), nth: 0 }
    }

    pub(super) fn next_job(&mut self) -> Option<Job> {
        let Body::Reply(reply) = &mut self.body else { return None };
        reply.document.next_job(self.shown.get(reply.answer..)?)
    }

    pub(super) fn take_colors(&mut self, colored: Colored) {
        if let Body::Reply(reply) = &mut self.body
            && let Some(text) = self.shown.get(reply.answer..)
        {
            reply.document.take_colors(text, colored);
        }
    }
}

impl Body {
    fn new(kind: Kind, how: Shown, width: u16) -> Body {
        if (kind, how) == (Kind::Reply, Shown::Markdown) {
            let document = Document::new(width);
            return Body::Reply(Box::new(Reply { thinking: None, answer: 0, document, searched: 0 }));
        }
        Body::Plain(Wrapped::new(width))
    }

    fn extend(&mut self, text: &str, now: Option<Instant>) {
        match self {
            Body::Plain(wrapped) => wrapped.extend(text),
            Body::Reply(reply) => reply.extend(text, now),
        }
    }
}

impl Reply {
    fn extend(&mut self, text: &str, now: Option<Instant>) {
        let width = self.document.width();
        // A tag may have begun in the text before.
        let from = char_start(text, self.searched.saturating_sub(thinking::LONGEST + 1));
        self.searched = text.len();
        if self.thinking.is_none()
            && from <= thinking::LONGEST
            && let Some(start) = thinking::begins(text)
        {
            self.thinking = Some(Thinking::new(start, width, now));
            self.document = Document::new(width);
        }
        if let Some(thinking) = self.thinking.as_mut().filter(|thinking| !thinking.is_over()) {
            thinking.extend(text);
            self.answer = text.len();
            let Some((start, end)) = thinking::ends(text, from) else { return };
            thinking.finish(text, start, now);
            self.answer = end;
        } else if self.thinking.is_none()
            && let Some((start, end)) = thinking::ends_on_own_line(text, from)
        {
            let mut thinking = Thinking::new(0, width, None);
            thinking.finish(text, start, None);
            (self.thinking, self.answer, self.document) = (Some(thinking), end, Document::new(width));
        }
        if self.thinking.is_some() && self.document.is_empty() {
            let rest = &text[self.answer..];
            self.answer += rest.len() - rest.trim_start_matches(['\n', ' ']).len();
        }
        self.document.extend(&text[self.answer..]);
    }

    fn rewrap(&mut self, text: &str, width: u16) {
        if let Some(thinking) = &mut self.thinking {
            thinking.rewrap(text, width);
        }
        self.document.rewrap(&text[self.answer..], width);
    }

    /// Rows before the answer: what was thought, and a gap.
    fn head(&self) -> usize {
        self.thinking.as_ref().map_or(0, |thinking| thinking.len() + usize::from(!self.document.is_empty()))
    }

    fn row<'a>(&'a self, text: &'a str, i: usize) -> RowRef<'a> {
        match (&self.thinking, i.checked_sub(self.head())) {
            (_, Some(i)) => self.document.row(&text[self.answer..], i),
            (Some(thinking), None) if i < thinking.len() => thinking.row(text, i),
            (_, None) => RowRef::plain("", Join::Line, Ink::Text.into()),
        }
    }

    fn source(&self, i: usize) -> usize {
        match (&self.thinking, i.checked_sub(self.head())) {
            (_, Some(i)) => self.answer + self.document.source(i),
            (Some(thinking), None) if i < thinking.len() => thinking.source(i),
            (_, None) => self.answer,
        }
    }
}

/// A place in an item that stays the same when the width changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spot {
    Head,
    /// A byte of the text; of several lines that begin with it, which.
    Text {
        byte: usize,
        nth: usize,
    },
    /// Lines after the text.
    After(usize),
}

/// One line to draw.
#[derive(Debug, Clone, Copy)]
pub enum Line<'a> {
    Label(&'a Item),
    /// A line of an item's text; the item's number and the line's.
    Text(&'a Item, (usize, usize), RowRef<'a>),
    Foot(&'a Item),
    Gap,
}
