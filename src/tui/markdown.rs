//! Markdown as it is drawn: text that grows at its end in, rows of toned text out.
//!
//! The text is cut into units: blocks, and the items of lists. A unit that another one follows on whole lines does not change
//! any more and is laid out once; what comes after it, the tail, is laid out anew whenever text arrives. Each unit is parsed
//! by itself, so that text in pieces comes out as the whole does. A unit has at most [`LONGEST_UNIT`] bytes; only fenced code
//! has no limit, since its lines are told without a parser.
//!
//! - `units`: where units begin and end. `layout`: a unit to rows. `runs`: toned text, and its wrapping.
//! - `table`: tables fitted to the width. `fence`: fenced code, which grows line by line. `highlight`: its colours.

mod fence;
pub mod highlight;
mod layout;
mod runs;
mod table;
#[cfg(test)]
mod tests;
mod units;

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use ratatui::style::Modifier;

use super::sanitize::char_start;

use self::fence::Fence;
use self::highlight::{Colored, Job};
use self::layout::{Laid, layout};
pub use self::units::code_blocks;
use self::units::{Kind, Unit, fence_begins, line_end};

/// So much is looked at first for units that are over.
const SHORTEST_WINDOW: usize = 1 << 10;
/// More than this in one unit is cut in two. It bounds what a piece of text can cost.
const LONGEST_UNIT: usize = 16 << 10;

/// What a stretch of text is. The theme says how that looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ink {
    #[default]
    Text,
    Heading,
    Code,
    Keyword,
    Literal,
    Comment,
    Number,
    Name,
    Quote,
    Link,
    Marker,
    Dim,
    /// What a model thinks before it answers.
    Thinking,
}

/// How a stretch of text is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tone {
    pub ink: Ink,
    pub modifier: Modifier,
}

impl From<Ink> for Tone {
    fn from(ink: Ink) -> Tone {
        Tone { ink, modifier: Modifier::empty() }
    }
}

/// The tones of a line: where each ends, and what it is.
pub type Tones = Vec<(u32, Tone)>;

/// How a row hangs together with the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Join {
    /// A line of its own.
    Line,
    /// Wrapped at spaces.
    Space,
    /// Wrapped within a word.
    Word,
}

impl Join {
    /// How two lines hang together that have this between them.
    pub fn of(between: &str) -> Join {
        match between {
            "" => Join::Word,
            spaces if spaces.contains('\n') => Join::Line,
            _ => Join::Space,
        }
    }
}

/// One row as it is drawn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub text: String,
    pub tones: Tones,
    /// The byte of the Markdown that it begins with.
    pub source: usize,
    /// Bytes of indent and signs before what was said.
    pub lead: usize,
    pub join: Join,
}

/// A row, borrowed.
#[derive(Debug, Clone, Copy)]
pub struct RowRef<'a> {
    pub text: &'a str,
    pub lead: usize,
    pub join: Join,
    tones: &'a [(u32, Tone)],
    /// Where `text` begins in what the tones are of.
    base: usize,
    /// What has no tone of its own.
    rest: Tone,
}

impl<'a> RowRef<'a> {
    /// A row in one tone.
    pub fn plain(text: &'a str, join: Join, rest: Tone) -> RowRef<'a> {
        RowRef { text, lead: 0, join, tones: &[], base: 0, rest }
    }

    /// A row that was not said.
    pub fn sign(text: &'a str, tone: Tone) -> RowRef<'a> {
        RowRef { lead: text.len(), ..RowRef::plain(text, Join::Line, tone) }
    }

    /// Its stretches, in order.
    pub fn stretches(self) -> impl Iterator<Item = (&'a str, Tone)> {
        let first = self.tones.partition_point(|&(end, _)| end as usize <= self.base);
        let mut at = 0;
        let toned = self.tones[first..].iter().map(move |&(end, tone)| (end as usize - self.base, tone));
        toned.chain([(usize::MAX, self.rest)]).map_while(move |(end, tone)| {
            let end = end.min(self.text.len());
            let piece = self.text.get(at..end)?;
            at = end;
            Some((piece, tone))
        })
    }
}

/// A part of the text, from what is settled on, that is looked at for units.
struct Window {
    end: usize,
    /// It is as long as a unit may get.
    is_full: bool,
    /// No whole line comes after it.
    is_last: bool,
}

/// One unit, laid out.
#[derive(Debug)]
struct Block {
    range: Range<usize>,
    kind: Kind,
    body: Body,
}

#[derive(Debug)]
enum Body {
    Laid(Laid),
    Fence(Box<Fence>),
}

impl Block {
    fn len(&self) -> usize {
        match &self.body {
            Body::Laid(laid) => laid.rows.len(),
            Body::Fence(fence) => fence.len(),
        }
    }
}

/// The rows of a text at one width.
#[derive(Debug)]
pub struct Document {
    width: u16,
    blocks: Vec<Block>,
    /// `ends[i]`: rows of the blocks up to and with `i`.
    ends: Vec<usize>,
    /// Blocks that do not change any more, and the byte that follows them.
    settled: usize,
    next: usize,
    /// The last of these is code whose fence is open.
    fence_open: bool,
    /// The item at `next`, where it goes on a list.
    goes_on: Option<Kind>,
    /// Bytes up to the last whole line, and those that were looked at for it.
    whole: usize,
    seen: usize,
    /// Up to here whole lines have been looked at for units that are settled.
    judged: usize,
    /// Blocks with code that has no colours yet.
    colorless: Vec<usize>,
}

impl Document {
    /// Nothing yet; `width` in cells, at least 1.
    pub fn new(width: u16) -> Document {
        Document {
            width: width.max(1),
            blocks: Vec::new(),
            ends: Vec::new(),
            settled: 0,
            next: 0,
            fence_open: false,
            goes_on: None,
            whole: 0,
            seen: 0,
            judged: 0,
            colorless: Vec::new(),
        }
    }

    /// Takes what was added to `text` since the last call. Text before it must not have changed.
    pub fn extend(&mut self, text: &str) {
        self.whole = text[self.seen..].rfind('\n').map_or(self.whole, |i| self.seen + i + 1);
        self.seen = text.len();
        let open = usize::from(self.fence_open);
        self.blocks.truncate(self.settled);
        self.ends.truncate(self.settled - open);
        self.settle(text);
        self.show_tail(text);
        self.count_rows(self.blocks.len());
    }

    /// Lays everything out at another width. Colours stay.
    pub fn rewrap(&mut self, text: &str, width: u16) {
        self.width = width.max(1);
        for block in &mut self.blocks {
            match &mut block.body {
                Body::Laid(laid) => laid.renew(&text[block.range.clone()], block.range.start, block.kind, self.width),
                Body::Fence(fence) => fence.rewrap(text, self.width),
            }
        }
        self.ends.clear();
        self.count_rows(self.blocks.len());
    }

    pub fn width(&self) -> u16 {
        self.width
    }

    /// Whether text that comes now costs more than a frame should spend on each of many pieces.
    pub fn is_costly(&self) -> bool {
        const MUCH: usize = 2 << 10;
        !self.fence_open && self.seen - self.next > MUCH
    }

    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Row `i` of `text`.
    pub fn row<'a>(&'a self, text: &'a str, i: usize) -> RowRef<'a> {
        let (block, i) = self.place(i);
        match &block.body {
            Body::Laid(laid) => {
                let row = &laid.rows[i];
                RowRef {
                    text: &row.text,
                    lead: row.lead,
                    join: row.join,
                    tones: &row.tones,
                    base: 0,
                    rest: Tone::default(),
                }
            }
            Body::Fence(fence) => fence.row(text, i),
        }
    }

    /// The byte of the text that row `i` begins with.
    pub fn source(&self, i: usize) -> usize {
        let (block, i) = self.place(i);
        match &block.body {
            Body::Laid(laid) => laid.rows[i].source,
            Body::Fence(fence) => fence.source(i),
        }
    }

    fn place(&self, i: usize) -> (&Block, usize) {
        let block = self.ends.partition_point(|&end| end <= i);
        (&self.blocks[block], i - block.checked_sub(1).map_or(0, |before| self.ends[before]))
    }

    /// Settles the units that nothing behind them can change: those before the last of some whole lines. A unit that fills the
    /// longest window is cut.
    fn settle(&mut self, text: &str) {
        let mut length = SHORTEST_WINDOW;
        loop {
            if !self.settle_fence(text) {
                return;
            }
            if self.whole <= self.judged.max(self.next) && text.len() - self.next <= LONGEST_UNIT {
                return;
            }
            let window = self.window(text, length);
            let start = self.next;
            let units = units::split(&text[start..window.end], self.goes_on);
            if let Some((at, opened)) =
                units.first().and_then(|unit| Some(start + unit.start).zip(fence_begins(text, start + unit.start)))
            {
                self.open_fence(text, at, opened);
                length = SHORTEST_WINDOW;
                continue;
            }
            let fence = units.iter().position(|unit| unit.kind == Kind::Fence).filter(|&at| at > 0);
            let is_cut = window.is_full && units.len() <= 1;
            let settled = if is_cut { units.len() } else { fence.unwrap_or(units.len().saturating_sub(1)) };
            for (i, unit) in units[..settled].iter().enumerate() {
                let end = units.get(i + 1).map_or(window.end, |next| start + next.start);
                self.add(text, start + unit.start..end, unit.kind);
                self.want_colors(self.blocks.len() - 1);
            }
            if settled > 0 || is_cut {
                self.settled = self.blocks.len();
                self.goes_on = units.get(settled).and_then(Unit::goes_on_list);
                self.next = units.get(settled).map_or(window.end, |unit| start + unit.start);
                self.count_rows(self.settled);
                length = SHORTEST_WINDOW;
            } else if window.is_last {
                self.judged = self.whole;
                return;
            } else {
                length *= 2;
            }
        }
    }

    /// Lets the open fence take what has come, and opens the one that comes next. False where it is not closed.
    fn settle_fence(&mut self, text: &str) -> bool {
        loop {
            if self.fence_open {
                let Some(Block { range, body: Body::Fence(fence), .. }) = self.blocks.last_mut() else {
                    unreachable!("the open fence is the last block")
                };
                fence.extend(text);
                let end = fence.end();
                range.end = end.unwrap_or(range.end);
                self.want_colors(self.settled - 1);
                let Some(end) = end else { return false };
                self.fence_open = false;
                self.next = end;
                self.count_rows(self.settled);
            }
            let line = text[self.next..].len() - text[self.next..].trim_start_matches([' ', '\n']).len();
            let at = text[..self.next + line].rfind('\n').map_or(0, |i| i + 1);
            // Within a list a fence belongs to its item, unless that is over.
            match fence_begins(text, at).filter(|_| at >= self.next && self.goes_on.is_none()) {
                Some(opened) => self.open_fence(text, at, opened),
                None => return true,
            }
        }
    }

    /// What is looked at next: whole lines where there are any.
    fn window(&self, text: &str, length: usize) -> Window {
        let start = self.next;
        if text.len() - start <= length {
            return Window { end: self.whole.max(start), is_full: false, is_last: true };
        }
        let is_full = length >= LONGEST_UNIT;
        let part = &text[start..char_start(text, start + length)];
        let end = part.rfind('\n').or_else(|| part.rfind(' ').filter(|_| is_full)).map(|i| i + 1);
        Window { end: start + end.unwrap_or(if is_full { part.len() } else { 0 }), is_full, is_last: false }
    }

    fn open_fence(&mut self, text: &str, start: usize, opened: units::Opened) {
        let code = line_end(text, start);
        let gap = gap_before(text, start, Kind::Fence, self.blocks.last());
        let fence = Fence::new(opened, code, gap, self.width, next_key());
        self.blocks.push(Block { range: start..code, kind: Kind::Fence, body: Body::Fence(Box::new(fence)) });
        self.settled = self.blocks.len();
        (self.next, self.goes_on, self.fence_open) = (code, None, true);
    }

    /// Lays out a unit behind the others.
    fn add(&mut self, text: &str, range: Range<usize>, kind: Kind) {
        let gap = gap_before(text, range.start, kind, self.blocks.last());
        let mut laid = layout(&text[range.clone()], range.start, kind, self.width, gap, &[]);
        for code in &mut laid.codes {
            code.key = next_key();
        }
        self.blocks.push(Block { range, kind, body: Body::Laid(laid) });
    }

    /// Counts the rows of the first `n` blocks, as far as that is not done.
    fn count_rows(&mut self, n: usize) {
        for i in self.ends.len()..n {
            self.ends.push(self.blocks[i].len() + i.checked_sub(1).map_or(0, |before| self.ends[before]));
        }
    }

    /// Lays out what is not settled.
    fn show_tail(&mut self, text: &str) {
        if self.fence_open || self.next >= text.len() {
            return;
        }
        let mut end = text.len();
        // The beginning of a rule, or of a line that would make a heading of the paragraph before it, is not yet either.
        let last = &text[self.whole.max(self.next)..];
        if self.whole > self.next
            && last.len() <= 2
            && !last.is_empty()
            && last.bytes().all(|b| matches!(b, b'-' | b'='))
        {
            end = self.whole;
        }
        let window = self.next..end;
        let units = units::split(&text[window.clone()], self.goes_on);
        for (i, unit) in units.iter().enumerate() {
            let end = units.get(i + 1).map_or(window.end, |next| window.start + next.start);
            self.add(text, window.start + unit.start..end, unit.kind);
        }
    }

    /// Notes that block `i` has code to be coloured, where it does and nobody is at it.
    fn want_colors(&mut self, i: usize) {
        let wants = match self.blocks.get(i).map(|block| &block.body) {
            Some(Body::Fence(fence)) => fence.wants_colors(),
            Some(Body::Laid(laid)) => laid.wants_colors(),
            None => false,
        };
        if wants && self.colorless.last() != Some(&i) {
            self.colorless.push(i);
        }
    }

    /// Code that waits for its colours; it counts as under way until it is answered.
    pub fn next_job(&mut self, text: &str) -> Option<Job> {
        while let Some(i) = self.colorless.pop() {
            let job = match self.blocks.get_mut(i).map(|block| &mut block.body) {
                Some(Body::Fence(fence)) => fence.next_job(text),
                Some(Body::Laid(laid)) => laid.next_job(),
                None => None,
            };
            if job.is_some() {
                return job;
            }
        }
        None
    }

    /// Takes the colours of some code.
    pub fn take_colors(&mut self, text: &str, colored: Colored) {
        let key = colored.key;
        let holds = |block: &Block| match &block.body {
            Body::Fence(fence) => fence.key() == key,
            Body::Laid(laid) => laid.codes.iter().any(|code| code.key == key),
        };
        let Some(i) = self.blocks[..self.settled].iter().rposition(holds) else { return };
        let block = &mut self.blocks[i];
        match &mut block.body {
            Body::Fence(fence) => fence.take_colors(colored),
            Body::Laid(laid) => {
                laid.take_colors(colored);
                laid.renew(&text[block.range.clone()], block.range.start, block.kind, self.width);
            }
        }
        self.want_colors(i);
    }
}

/// A number for code that no other has, so that colours which come late do not get to another conversation.
fn next_key() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Whether an empty row stands before a unit at `start`: where there is an empty line in the text, and around what stands out.
fn gap_before(text: &str, start: usize, kind: Kind, before: Option<&Block>) -> bool {
    let Some(before) = before else { return false };
    let stands_out = |kind| matches!(kind, Kind::Heading | Kind::Fence);
    let end = text[..start].trim_end().len();
    let blank = text[end..start].bytes().filter(|&b| b == b'\n').count() > 1;
    blank || stands_out(kind) || before.kind == Kind::Fence
}
