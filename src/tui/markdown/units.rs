//! Where the units of a Markdown text begin.

use std::borrow::Cow;

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

/// What is told apart of Markdown.
pub const OPTIONS: Options =
    Options::ENABLE_TABLES.union(Options::ENABLE_STRIKETHROUGH).union(Options::ENABLE_TASKLISTS);

/// Stands for the colon of what would be the definition of a link. The parser leaves definitions out, and resolves links by
/// what may come much later; here they are text. Cleaned text has no such character.
const NO_DEFINITION: &str = "]\u{1}";

/// `text`, as it is given to the parser.
pub fn without_definitions(text: &str) -> Cow<'_, str> {
    if text.contains("]:") { text.replace("]:", NO_DEFINITION).into() } else { text.into() }
}

/// What the parser gives, as it was said.
pub fn as_said(text: &str) -> Cow<'_, str> {
    if text.contains('\u{1}') { text.replace('\u{1}', ":").into() } else { text.into() }
}

/// What a unit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A paragraph, a table, a quote and all else.
    Block,
    Heading,
    /// Code between fences.
    Fence,
    /// An item of a list, with its number where the list has numbers.
    Item(Option<u64>),
    /// Text that the parser leaves out.
    Plain,
}

/// A unit of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unit {
    /// The first byte of its first line.
    pub start: usize,
    pub kind: Kind,
    /// It is an item with others of its list before it.
    follows: bool,
}

impl Unit {
    /// What it is, where it is an item that goes on a list.
    pub fn goes_on_list(&self) -> Option<Kind> {
        self.follows.then_some(self.kind)
    }
}

/// The units of `text`. `goes_on`: the item that it begins with, where it goes on a list.
pub fn split(text: &str, goes_on: Option<Kind>) -> Vec<Unit> {
    let mut units: Vec<Unit> = Vec::new();
    let (mut depth, mut list) = (0_usize, None);
    // Everything before this is in a unit, or blank.
    let mut covered = 0;
    for (event, range) in Parser::new_ext(&without_definitions(text), OPTIONS).into_offset_iter() {
        let top = depth == 0;
        match &event {
            Event::Start(Tag::List(first)) if top => {
                list = Some(match goes_on {
                    Some(Kind::Item(number)) if units.is_empty() => (number, true),
                    _ => (*first, false),
                });
                depth += 1;
                continue;
            }
            Event::End(TagEnd::List(_)) if depth == 1 && list.is_some() => {
                (depth, list, covered) = (0, None, covered.max(range.end));
                continue;
            }
            _ => {}
        }
        let kind = match (&event, &mut list) {
            (Event::Start(Tag::Item), Some((number, follows))) if depth == 1 => {
                let unit = Some((Kind::Item(*number), *follows));
                (*number, *follows) = (number.map(|n| n.saturating_add(1)), true);
                unit
            }
            (Event::Start(Tag::Heading { .. }), _) if top => Some((Kind::Heading, false)),
            (Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(_))), _) if top => Some((Kind::Fence, false)),
            (Event::Start(_) | Event::Rule, _) if top => Some((Kind::Block, false)),
            _ => None,
        };
        if let Some((kind, follows)) = kind {
            let start = line_start(text, range.start).max(covered);
            push_left_out(text, covered, start, &mut units);
            units.push(Unit { start, kind, follows });
            covered = covered.max(range.end);
        }
        match event {
            Event::Start(_) => depth += 1,
            Event::End(_) => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    push_left_out(text, covered, text.len(), &mut units);
    units
}

/// Text between units is shown as it stands.
fn push_left_out(text: &str, from: usize, to: usize, units: &mut Vec<Unit>) {
    let Some(part) = text.get(from..to) else { return };
    let blank = part.len() - part.trim_start().len();
    if blank < part.len() {
        let start = line_start(text, from + blank).max(from);
        units.push(Unit { start, kind: Kind::Plain, follows: false });
    }
}

fn line_start(text: &str, at: usize) -> usize {
    text[..at].rfind('\n').map_or(0, |i| i + 1)
}

/// The byte behind the line that `at` stands in, with its end.
pub fn line_end(text: &str, at: usize) -> usize {
    text[at..].find('\n').map_or(text.len(), |i| at + i + 1)
}

/// A line that begins fenced code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    pub marker: u8,
    pub length: usize,
    pub language: String,
}

/// Whether a whole line at `at` begins fenced code.
pub fn fence_begins(text: &str, at: usize) -> Option<Opened> {
    let line = text[at..line_end(text, at)].strip_suffix('\n')?;
    let (marker, length, rest) = fence_line(line)?;
    if length < 3 || marker == b'`' && rest.contains('`') {
        return None;
    }
    Some(Opened { marker, length, language: language(rest) })
}

/// Whether `line` ends code that was begun so.
pub fn fence_ends(line: &str, opened: &Opened) -> bool {
    fence_line(line).is_some_and(|(marker, length, rest)| {
        marker == opened.marker && length >= opened.length && rest.trim().is_empty()
    })
}

/// Whether an unfinished line may yet become the end of code.
pub fn may_end_fence(line: &str, opened: &Opened) -> bool {
    let signs = line.trim_matches(' ');
    line.len() - line.trim_start_matches(' ').len() <= 3 && signs.bytes().all(|b| b == opened.marker)
}

/// The marker of a fence, how often it stands there, and what follows.
fn fence_line(line: &str) -> Option<(u8, usize, &str)> {
    let rest = line.trim_start_matches(' ');
    let marker = *rest.as_bytes().first()?;
    if line.len() - rest.len() > 3 || !matches!(marker, b'`' | b'~') {
        return None;
    }
    let length = rest.bytes().take_while(|&b| b == marker).count();
    Some((marker, length, &rest[length..]))
}

/// The language of an info string: its first word.
pub fn language(info: &str) -> String {
    const LONGEST: usize = 40;
    let word = info.split([' ', ',', '{', '\t']).find(|word| !word.is_empty()).unwrap_or("");
    crate::tui::sanitize::one_line(&as_said(word)).chars().take(LONGEST).collect()
}

/// The blocks of code between fences in a Markdown text, as they were said.
pub fn code_blocks(text: &str) -> Vec<String> {
    let (mut blocks, mut is_code) = (Vec::new(), false);
    for event in Parser::new_ext(text, OPTIONS) {
        match event {
            Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(_))) => {
                is_code = true;
                blocks.push(String::new());
            }
            Event::End(TagEnd::CodeBlock) => is_code = false,
            Event::Text(piece) if is_code => blocks.iter_mut().last().into_iter().for_each(|b| b.push_str(&piece)),
            _ => {}
        }
    }
    blocks
}
