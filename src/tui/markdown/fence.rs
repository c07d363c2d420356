//! Code between fences: it grows by lines, and is never parsed for anything but its colours and its end.

use ratatui::buffer::CellWidth;
use unicode_segmentation::UnicodeSegmentation;

use crate::tui::wrap::Wrapped;

use super::highlight::{Colored, Colors, Job};
use super::units::{Opened, fence_ends, may_end_fence};
use super::{Ink, Join, RowRef, Tone};

/// A line that may be the fence's end is held back up to this length.
const LONGEST_FENCE: usize = 64;

#[derive(Debug)]
pub struct Fence {
    opened: Opened,
    /// An empty row stands before it.
    gap: bool,
    /// Where the code begins, how far it was laid out, and where its last line begins.
    start: usize,
    laid: usize,
    line: usize,
    /// Line ends were looked for up to here.
    searched: usize,
    /// The byte behind the closing fence.
    end: Option<usize>,
    /// The first byte of each line but the first.
    lines: Vec<usize>,
    wrapped: Wrapped,
    key: u64,
    colors: Colors,
}

impl Fence {
    /// Code that begins at byte `start`.
    pub fn new(opened: Opened, start: usize, gap: bool, width: u16, key: u64) -> Fence {
        Fence {
            opened,
            gap,
            start,
            laid: start,
            line: start,
            searched: start,
            end: None,
            lines: Vec::new(),
            wrapped: Wrapped::new(width),
            key,
            colors: Colors::default(),
        }
    }

    pub fn end(&self) -> Option<usize> {
        self.end
    }

    pub fn key(&self) -> u64 {
        self.key
    }

    /// Takes what was added to `text`.
    pub fn extend(&mut self, text: &str) {
        while let Some(i) = text[self.searched..].find('\n') {
            let line_end = self.searched + i;
            if fence_ends(&text[self.line..line_end], &self.opened) {
                self.end = Some(line_end + 1);
                break;
            }
            self.line = line_end + 1;
            (self.searched, self.laid) = (self.line, self.line);
            self.lines.push(self.line);
        }
        if self.end.is_none() {
            self.searched = text.len();
            let last = &text[self.line..];
            if last.len() > LONGEST_FENCE || !may_end_fence(last, &self.opened) {
                self.laid = text.len();
            }
        }
        self.wrapped.extend(&text[self.start..self.laid]);
    }

    pub fn rewrap(&mut self, text: &str, width: u16) {
        self.wrapped = Wrapped::new(width);
        self.wrapped.extend(&text[self.start..self.laid]);
    }

    /// The row that names the language, and the gap.
    fn head(&self) -> usize {
        1 + usize::from(self.gap)
    }

    pub fn len(&self) -> usize {
        self.head() + self.wrapped.len()
    }

    pub fn row<'a>(&'a self, text: &'a str, i: usize) -> RowRef<'a> {
        let Some(i) = i.checked_sub(self.head()) else {
            let name = if i + 1 < self.head() { "" } else { label(&self.opened.language, self.wrapped.width()) };
            return RowRef::sign(name, Ink::Dim.into());
        };
        let range = self.wrapped.line(i);
        let before = i.checked_sub(1).map(|before| self.wrapped.line(before).end);
        let code = &text[self.start..self.laid];
        let at = self.start + range.start;
        let line = self.lines.partition_point(|&start| start <= at);
        let line_start = line.checked_sub(1).map_or(self.start, |before| self.lines[before]);
        RowRef {
            text: &code[range.clone()],
            lead: 0,
            join: before.map_or(Join::Line, |before| Join::of(&code[before..range.start])),
            tones: self.colors.lines.get(line).map_or(&[], Vec::as_slice),
            base: at - line_start,
            rest: Tone::from(Ink::Code),
        }
    }

    pub fn source(&self, i: usize) -> usize {
        match i.checked_sub(self.head()) {
            Some(i) => self.start + self.wrapped.line(i).start,
            None => self.start.saturating_sub(1),
        }
    }

    /// Whether there are lines without colours, and nobody at it.
    pub fn wants_colors(&self) -> bool {
        self.colors.wanted(self.lines.len())
    }

    pub fn next_job(&mut self, text: &str) -> Option<Job> {
        let done = self.colors.lines.len();
        let from = done.checked_sub(1).map_or(self.start, |before| self.lines[before]);
        self.colors.job(self.key, &self.opened.language, &text[from..self.line])
    }

    pub fn take_colors(&mut self, colored: Colored) {
        self.colors.take(colored);
    }
}

/// What stands above code: its language, as much of it as has room.
pub fn label(language: &str, columns: u16) -> &str {
    let text = if language.is_empty() { "code" } else { language };
    let mut used = 0;
    let too_wide = text.grapheme_indices(true).find(|(_, grapheme)| {
        used += usize::from(grapheme.cell_width());
        used > usize::from(columns)
    });
    &text[..too_wide.map_or(text.len(), |(at, _)| at)]
}
