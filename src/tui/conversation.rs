//! The conversation as it is shown: messages, replies under way and notices, wrapped once per width, and the place that is
//! looked at. What is drawn costs what is visible; text that arrives costs its own length.

pub mod find;
mod item;
#[cfg(test)]
mod tests;
mod thinking;
mod tokens;

use std::time::Instant;

use crate::transcript::{Message, Role};

use super::markdown::highlight::{Colored, Job};

use self::find::Find;
use self::item::Spot;
pub use self::item::{Item, Kind, Line, Shown, Standing};
use self::tokens::Tokens;
pub use self::tokens::{TokenHere, Walk};

/// A place in the conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Anchor {
    item: usize,
    spot: Spot,
}

/// Which part is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scroll {
    /// The end, wherever it moves.
    Follow,
    /// `top` is the first line seen; `end` is where the conversation ended when this began.
    At { top: Anchor, end: Anchor },
}

/// What lies below the part that is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Below {
    pub lines: usize,
    /// Of these, how many have come since the person scrolled up.
    pub new_lines: usize,
}

/// All that was said, and how it is looked at.
#[derive(Debug)]
pub struct Conversation {
    items: Vec<Item>,
    /// `ends[i]`: lines of the items up to and with `i`. As long as `items`.
    ends: Vec<usize>,
    width: u16,
    height: u16,
    scroll: Scroll,
    next_id: u64,
    how: Shown,
    thinking_open: bool,
    /// Replies that may hold code without colours.
    colorless: Vec<usize>,
    find: Option<Find>,
    tokens: Tokens,
}

impl Default for Conversation {
    fn default() -> Self {
        Conversation {
            items: Vec::new(),
            ends: Vec::new(),
            width: 80,
            height: 24,
            scroll: Scroll::Follow,
            next_id: 1,
            how: Shown::default(),
            thinking_open: false,
            colorless: Vec::new(),
            find: None,
            tokens: Tokens::default(),
        }
    }
}

impl Conversation {
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// Adds an item at the end and returns its place.
    pub fn add(&mut self, kind: Kind, label: &str, text: &str) -> usize {
        let id = if matches!(kind, Kind::User | Kind::Reply) {
            self.next_id += 1;
            self.next_id - 1
        } else {
            0
        };
        let mut item = Item::new(id, kind, label.to_owned(), self.width, self.how);
        let head = match kind {
            Kind::Warning => "Warning: ",
            Kind::Error => "Error: ",
            Kind::User | Kind::Reply | Kind::Note => "",
        };
        item.push(head, None);
        item.push(text, None);
        if let Some(thinking) = item.thinking_mut() {
            thinking.leave();
            thinking.toggle(self.thinking_open);
        }
        if kind == Kind::Reply {
            self.colorless.push(self.items.len());
        }
        self.ends.push(self.total() + item.lines());
        self.items.push(item);
        self.spoil_find(self.items.len() - 1);
        self.items.len() - 1
    }

    /// Adds a message of a transcript, under the number that it has there.
    pub fn restore(&mut self, id: u64, kind: Kind, label: &str, text: &str) -> usize {
        let next = self.next_id;
        let i = self.add(kind, label, text);
        self.items[i].id = id;
        self.next_id = next.max(id.saturating_add(1));
        i
    }

    /// The number of the message that the next one follows: the last that was not taken back.
    pub fn last_message(&self) -> Option<u64> {
        self.items.iter().rev().find(|i| i.is_message() && i.standing != Standing::Withdrawn).map(|i| i.id)
    }

    /// Numbers from `id` on are free.
    pub fn number_from(&mut self, id: u64) {
        self.next_id = self.next_id.max(id);
    }

    /// Item `i`, a reply, begins with thinking.
    pub fn begin_thinking(&mut self, i: usize, now: Instant) {
        self.items[i].begin_thinking(self.width, now);
        self.recount(i);
    }

    /// No more comes to item `i`.
    pub fn finish(&mut self, i: usize) {
        self.catch_up(i);
        if let Some(thinking) = self.items[i].thinking_mut() {
            thinking.leave();
        }
    }

    /// Unfolds what was thought, or folds it; the place that is looked at stays. True where it is open now.
    pub fn toggle_thinking(&mut self) -> bool {
        self.thinking_open = !self.thinking_open;
        for item in &mut self.items {
            if let Some(thinking) = item.thinking_mut() {
                thinking.toggle(self.thinking_open);
            }
        }
        self.recount(0);
        self.thinking_open
    }

    /// Shows replies as they were said, or as Markdown again; the place that is looked at stays.
    pub fn toggle_raw(&mut self) -> Shown {
        self.how = if self.how == Shown::Raw { Shown::Markdown } else { Shown::Raw };
        for (i, item) in self.items.iter_mut().enumerate() {
            item.show(self.how, self.width);
            if let Some(thinking) = item.thinking_mut() {
                thinking.toggle(self.thinking_open);
            }
            if item.kind == Kind::Reply {
                self.colorless.push(i);
            }
        }
        self.recount(0);
        self.how
    }

    /// Code that waits for its colours, and the item that it is in. What was said last comes first.
    pub fn next_job(&mut self) -> Option<(usize, Job)> {
        while let Some(i) = self.colorless.pop() {
            if let Some(job) = self.items.get_mut(i).and_then(Item::next_job) {
                self.colorless.push(i);
                return Some((i, job));
            }
        }
        None
    }

    /// Takes the colours of some code in item `i`.
    pub fn take_colors(&mut self, i: usize, colored: Colored) {
        if let Some(item) = self.items.get_mut(i) {
            item.take_colors(colored);
            self.colorless.push(i);
        }
    }

    /// Sets the line below item `i`.
    pub fn set_foot(&mut self, i: usize, foot: String) {
        self.items[i].foot = foot;
        self.recount(i);
    }

    pub fn set_standing(&mut self, i: usize, standing: Standing) {
        self.items[i].standing = standing;
    }

    /// Says beside item `i` which branch it is on.
    pub fn set_mark(&mut self, i: usize, mark: String) {
        self.items[i].mark = mark;
    }

    /// Takes the last item away again.
    pub fn remove_last(&mut self) {
        self.truncate(self.items.len().saturating_sub(1));
    }

    /// Leaves the first `n` items.
    pub fn truncate(&mut self, n: usize) {
        self.items.truncate(n);
        self.ends.truncate(n);
        self.spoil_find(n);
    }

    /// What is sent to the model, after `system`.
    pub fn messages(&self, system: Option<&str>) -> Vec<Message> {
        let system = system.map(|text| Message { role: Role::System, content: text.to_owned() });
        let said = self.items.iter().filter(|item| item.is_message() && item.standing == Standing::Sent).map(|item| {
            let role = if item.kind == Kind::User { Role::User } else { Role::Assistant };
            Message { role, content: item.raw.clone() }
        });
        system.into_iter().chain(said).collect()
    }

    /// Marks the oldest `n` turns that are still sent as dropped, and returns the numbers of their messages. A turn is a
    /// message of the person and what was said until the next.
    pub fn drop_oldest(&mut self, n: usize) -> Vec<u64> {
        let mut turns = 0;
        let mut ids = Vec::new();
        for item in self.items.iter_mut().filter(|i| i.is_message() && i.standing == Standing::Sent) {
            turns += usize::from(item.kind == Kind::User);
            if turns > n {
                break;
            }
            item.standing = Standing::Dropped;
            ids.push(item.id);
        }
        ids
    }

    /// Sets the size that it is drawn at.
    pub fn resize(&mut self, width: u16, height: u16) {
        let size = (self.width, self.height);
        self.height = height.max(1);
        // Text comes to one of the last items: behind a reply under way there are notices at most.
        (self.items.len().saturating_sub(8)..self.items.len()).for_each(|i| self.catch_up(i));
        if width.max(1) != self.width {
            self.width = width.max(1);
            for item in &mut self.items {
                item.wrap(self.width);
            }
            self.recount(0);
        }
        if (self.width, self.height) != size {
            self.show_token();
        }
        self.refresh_find();
    }

    /// Lays out what has come to item `i` since the last frame.
    fn catch_up(&mut self, i: usize) {
        if self.items.get_mut(i).is_some_and(Item::catch_up) {
            self.recount(i);
        }
    }

    /// Counts the lines anew from item `from` on.
    fn recount(&mut self, from: usize) {
        self.spoil_find(from);
        let mut total = if from == 0 { 0 } else { self.ends[from - 1] };
        for (item, end) in self.items.iter().zip(&mut self.ends).skip(from) {
            total += item.lines();
            *end = total;
        }
    }

    fn spoil_find(&mut self, from: usize) {
        if let Some(find) = &mut self.find {
            find.spoil(from);
        }
    }

    fn total(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Lines that count as content: the last gap is not shown.
    fn content(&self) -> usize {
        self.total().saturating_sub(1)
    }

    fn last_top(&self) -> usize {
        self.content().saturating_sub(usize::from(self.height))
    }

    fn line_of(&self, anchor: Anchor) -> usize {
        let Some(item) = self.items.get(anchor.item) else { return self.total() };
        self.ends[anchor.item] - item.lines() + item.line_of(anchor.spot)
    }

    fn anchor_at(&self, line: usize) -> Anchor {
        let item = self.ends.partition_point(|&end| end <= line);
        let spot = match self.items.get(item) {
            Some(i) => i.spot(line + i.lines() - self.ends[item]),
            None => Spot::Head,
        };
        Anchor { item, spot }
    }

    /// The first line seen.
    fn top(&self) -> usize {
        match self.scroll {
            Scroll::Follow => self.last_top(),
            Scroll::At { top, .. } => self.line_of(top).min(self.last_top()),
        }
    }

    /// Moves the view by `lines`, down where positive. At the end it follows again.
    pub fn scroll_by(&mut self, lines: isize) {
        self.scroll_to(self.top().saturating_add_signed(lines));
    }

    /// Moves the view by whole pages, less a line of overlap.
    pub fn scroll_pages(&mut self, pages: isize) {
        let page = isize::from(self.height.saturating_sub(1).max(1) as i16);
        self.scroll_by(pages * page);
    }

    pub fn scroll_to_top(&mut self) {
        self.scroll_to(0);
    }

    /// Puts the last message of the person that begins above the view onto its first line.
    pub fn scroll_to_prompt_before(&mut self) {
        let top = self.top();
        let before = self.prompts().take_while(|&line| line < top).last();
        if let Some(line) = before {
            self.scroll_to(line);
        }
    }

    /// Puts the first message of the person that begins below the view's first line onto it; behind the last one, the end is
    /// followed.
    pub fn scroll_to_prompt_after(&mut self) {
        let top = self.top();
        let after = self.prompts().find(|&line| line > top);
        self.scroll_to(after.unwrap_or(usize::MAX));
    }

    /// The lines on which messages of the person begin.
    fn prompts(&self) -> impl Iterator<Item = usize> {
        self.items.iter().zip(&self.ends).filter(|(item, _)| item.kind == Kind::User).map(|(i, end)| end - i.lines())
    }

    pub fn follow(&mut self) {
        self.scroll = Scroll::Follow;
    }

    fn scroll_to(&mut self, line: usize) {
        if line >= self.last_top() {
            self.scroll = Scroll::Follow;
            return;
        }
        let end = match self.scroll {
            Scroll::At { end, .. } => end,
            Scroll::Follow => self.end(),
        };
        self.scroll = Scroll::At { top: self.anchor_at(line), end };
    }

    /// Where the text ends now.
    fn end(&self) -> Anchor {
        let item = self.items.len().saturating_sub(1);
        let spot = self.items.last().map_or(Spot::Head, Item::end);
        Anchor { item, spot }
    }

    /// What lies below the view; `None` at the end.
    pub fn below(&self) -> Option<Below> {
        let Scroll::At { end, .. } = self.scroll else { return None };
        let lines = self.content().saturating_sub(self.top() + usize::from(self.height));
        if lines == 0 {
            return None;
        }
        let last = self.line_of(self.end());
        Some(Below { lines, new_lines: last.saturating_sub(self.line_of(end)).min(lines) })
    }

    /// The lines of the view, from the top.
    pub fn visible(&self) -> impl Iterator<Item = Line<'_>> {
        let top = self.top();
        let bottom = self.content().min(top + usize::from(self.height));
        let first = self.ends.partition_point(|&end| end <= top);
        let start = first.checked_sub(1).map_or(0, |before| self.ends[before]);
        self.items[first.min(self.items.len())..]
            .iter()
            .enumerate()
            .flat_map(move |(i, item)| {
                let hidden = if i == 0 { top - start } else { 0 };
                (hidden..item.lines()).map(move |line| item.line(first + i, line))
            })
            .take(bottom.saturating_sub(top))
    }
}
