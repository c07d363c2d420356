//! One message, reply or notice of the conversation: its text as it was said and as it is drawn, wrapped once per width.

use crate::tui::sanitize::Sanitizer;
use crate::tui::wrap::Wrapped;

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
    /// The text as it is drawn.
    shown: String,
    sanitizer: Sanitizer,
    wrapped: Wrapped,
}

impl Item {
    pub(super) fn new(id: u64, kind: Kind, label: String) -> Item {
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
            wrapped: Wrapped::new(1),
        }
    }

    pub(super) fn push(&mut self, text: &str) {
        self.raw.push_str(text);
        self.sanitizer.push(text, &mut self.shown);
        if self.shown.starts_with('\n') {
            // Replies often begin with line ends, which would only push the text away from its label.
            self.shown = self.shown.trim_start_matches('\n').to_owned();
        }
        self.wrapped.extend(&self.shown);
    }

    pub(super) fn wrap(&mut self, width: u16) {
        self.wrapped = Wrapped::new(width);
        self.wrapped.extend(&self.shown);
    }

    pub(super) fn is_message(&self) -> bool {
        matches!(self.kind, Kind::User | Kind::Reply)
    }

    fn head_lines(&self) -> usize {
        usize::from(self.is_message())
    }

    /// Head, text, foot, and an empty line after it.
    pub(super) fn lines(&self) -> usize {
        self.head_lines() + self.wrapped.len() + usize::from(!self.foot.is_empty()) + 1
    }

    pub(super) fn spot(&self, line: usize) -> Spot {
        let body = line.checked_sub(self.head_lines());
        match body {
            None => Spot::Head,
            Some(i) if i < self.wrapped.len() => Spot::Text(self.wrapped.line(i).start),
            Some(i) => Spot::After(i - self.wrapped.len()),
        }
    }

    /// The line that `spot` is on.
    pub(super) fn line_of(&self, spot: Spot) -> usize {
        let line = match spot {
            Spot::Head => 0,
            Spot::Text(byte) => self.head_lines() + self.wrapped.line_of(byte),
            Spot::After(n) => self.head_lines() + self.wrapped.len() + n,
        };
        line.min(self.lines() - 1)
    }

    /// Line `line` of the item, to be drawn.
    pub(super) fn line(&self, line: usize) -> Line<'_> {
        let Some(line) = line.checked_sub(self.head_lines()) else { return Line::Label(self) };
        if line < self.wrapped.len() {
            return Line::Text(self, &self.shown[self.wrapped.line(line)]);
        }
        if line == self.wrapped.len() && !self.foot.is_empty() { Line::Foot(self) } else { Line::Gap }
    }

    /// The place behind the text.
    pub(super) fn end(&self) -> Spot {
        Spot::Text(self.shown.len())
    }
}

/// A place in an item that stays the same when the width changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spot {
    Head,
    /// A byte of the text as drawn.
    Text(usize),
    /// Lines after the text.
    After(usize),
}

/// One line to draw.
#[derive(Debug, Clone, Copy)]
pub enum Line<'a> {
    Label(&'a Item),
    Text(&'a Item, &'a str),
    Foot(&'a Item),
    Gap,
}
