//! One unit of Markdown as rows.

use pulldown_cmark::{CodeBlockKind, Event, HeadingLevel, LinkType, Parser, Tag, TagEnd};
use ratatui::buffer::CellWidth;
use ratatui::style::Modifier;

use super::fence::label;
use super::highlight::{Colored, Colors, Job};
use super::runs::Runs;
use super::table::Table;
use super::units::{Kind, OPTIONS, as_said, language, without_definitions};
use super::{Ink, Join, Row, Tone, Tones};

/// A unit in rows, and the code in it.
#[derive(Debug)]
pub struct Laid {
    pub rows: Vec<Row>,
    pub codes: Vec<Code>,
    /// An empty row stands before it.
    gap: bool,
}

/// Code within a unit.
#[derive(Debug, Default)]
pub struct Code {
    pub key: u64,
    language: String,
    text: String,
    colors: Colors,
}

impl Laid {
    /// Lays the unit out anew: at another width, or with more colours.
    pub fn renew(&mut self, text: &str, base: usize, kind: Kind, width: u16) {
        self.rows = layout(text, base, kind, width, self.gap, &self.codes).rows;
    }

    pub fn wants_colors(&self) -> bool {
        self.codes.iter().any(|code| code.colors.wanted(code.text.lines().count()))
    }

    pub fn next_job(&mut self) -> Option<Job> {
        self.codes.iter_mut().find_map(|code| {
            let done: usize = code.text.split_inclusive('\n').take(code.colors.lines.len()).map(str::len).sum();
            code.colors.job(code.key, &code.language, &code.text[done..])
        })
    }

    pub fn take_colors(&mut self, colored: Colored) {
        if let Some(code) = self.codes.iter_mut().find(|code| code.key == colored.key) {
            code.colors.take(colored);
        }
    }
}

impl Code {
    /// The tones of all of it, as far as they are known.
    fn tones(&self) -> Tones {
        let mut tones = Tones::new();
        let mut at = 0;
        for (i, line) in self.text.split_inclusive('\n').enumerate() {
            tones.extend(self.colors.lines.get(i).into_iter().flatten().map(|&(end, tone)| (at + end, tone)));
            at += line.len() as u32;
            if tones.last().is_none_or(|last| last.0 < at) {
                tones.push((at, Ink::Code.into()));
            }
        }
        tones
    }
}

/// Lays out a unit. `base`: where it begins in the document. `gap`: an empty row stands before it. `codes`: what is known of
/// the code in it, in order.
pub fn layout(text: &str, base: usize, kind: Kind, width: u16, gap: bool, codes: &[Code]) -> Laid {
    let mut flow = Flow::new(text, base, usize::from(width), codes);
    if gap {
        flow.push_gap(base);
    }
    if kind == Kind::Plain {
        flow.runs.push(text.trim_end(), Ink::Text.into(), base);
        flow.flush();
    } else {
        flow.first = Some(kind);
        for (event, range) in Parser::new_ext(&without_definitions(text), OPTIONS).into_offset_iter() {
            flow.take(event, range.start, range.end);
        }
        flow.flush();
    }
    Laid { rows: flow.rows, codes: flow.codes, gap }
}

/// What stands before the text of a container's rows.
#[derive(Debug)]
struct Lead {
    first: String,
    rest: String,
    tone: Tone,
    used: bool,
}

impl Lead {
    /// How wide it is.
    fn cells(&self) -> usize {
        usize::from(self.rest.cell_width())
    }
}

/// Code under way.
enum Begun {
    /// With its language.
    Fenced(String),
    Indented,
}

struct Flow<'a> {
    text: &'a str,
    base: usize,
    width: usize,
    rows: Vec<Row>,
    codes: Vec<Code>,
    known: &'a [Code],
    leads: Vec<Lead>,
    runs: Runs,
    tones: Vec<Tone>,
    links: Vec<(String, usize, LinkType)>,
    lists: Vec<Option<u64>>,
    /// The number of the first item of the first list, whatever it says itself.
    first: Option<Kind>,
    table: Option<Table>,
    code: Option<Begun>,
    /// Where what was drawn last ended; `None`: nothing was.
    end: Option<usize>,
}

impl<'a> Flow<'a> {
    fn new(text: &'a str, base: usize, width: usize, known: &'a [Code]) -> Flow<'a> {
        Flow {
            text,
            base,
            width,
            rows: Vec::new(),
            codes: Vec::new(),
            known,
            leads: Vec::new(),
            runs: Runs::default(),
            tones: Vec::new(),
            links: Vec::new(),
            lists: Vec::new(),
            first: None,
            table: None,
            code: None,
            end: None,
        }
    }

    fn tone(&self) -> Tone {
        self.tones.last().copied().unwrap_or_default()
    }

    fn push_tone(&mut self, change: impl FnOnce(&mut Tone)) {
        let mut tone = self.tone();
        change(&mut tone);
        self.tones.push(tone);
    }

    fn push_text(&mut self, text: &str, tone: Tone, start: usize, end: usize) {
        self.runs.push(text, tone, self.base + start);
        self.end = Some(self.end.unwrap_or(0).max(end));
    }

    fn take(&mut self, event: Event<'_>, start: usize, end: usize) {
        match event {
            Event::Start(tag) => self.begin(tag, start),
            Event::End(tag) => self.finish(tag, end),
            Event::Text(text) => self.push_text(&text, self.tone(), start, end),
            Event::Code(text) => {
                let tone = Tone { ink: Ink::Code, ..self.tone() };
                self.push_text(&text, tone, start, end);
            }
            Event::InlineHtml(html) if html.starts_with("<br") => self.push_text("\n", self.tone(), start, end),
            Event::Html(text) | Event::InlineHtml(text) => self.push_text(&text, self.tone(), start, end),
            Event::InlineMath(text) | Event::DisplayMath(text) | Event::FootnoteReference(text) => {
                self.push_text(&text, self.tone(), start, end);
            }
            // Line ends are kept as they were said.
            Event::SoftBreak | Event::HardBreak => self.push_text("\n", self.tone(), start, end),
            Event::Rule => {
                self.begin_block(start);
                let room = self.room();
                let mut rule = Runs::default();
                rule.push(&"─".repeat(room), Ink::Dim.into(), self.base + start);
                self.push_row(&rule, 0..rule.text.len(), Join::Line);
                self.end = Some(end);
            }
            Event::TaskListMarker(done) => {
                let sign = if done { "[x] " } else { "[ ] " };
                self.push_text(sign, Ink::Marker.into(), start, end);
            }
        }
    }

    fn begin(&mut self, tag: Tag<'_>, start: usize) {
        match tag {
            Tag::Paragraph | Tag::HtmlBlock => self.begin_block(start),
            Tag::Heading { level, .. } => {
                self.begin_block(start);
                let modifier = if level == HeadingLevel::H1 { Modifier::UNDERLINED } else { Modifier::empty() };
                self.push_tone(|tone| *tone = Tone { ink: Ink::Heading, modifier });
            }
            Tag::BlockQuote(_) => {
                self.begin_block(start);
                let sign = "│ ".to_owned();
                self.leads.push(Lead { first: sign.clone(), rest: sign, tone: Ink::Marker.into(), used: false });
                self.push_tone(|tone| tone.ink = Ink::Quote);
            }
            Tag::List(number) => {
                self.flush();
                let number = match self.first.take() {
                    Some(Kind::Item(number)) => number,
                    _ => number,
                };
                self.lists.push(number);
            }
            Tag::Item => self.begin_item(start),
            Tag::CodeBlock(kind) => {
                self.begin_block(start);
                self.code = Some(match kind {
                    CodeBlockKind::Fenced(info) => Begun::Fenced(language(&info)),
                    CodeBlockKind::Indented => Begun::Indented,
                });
                self.push_tone(|tone| *tone = Ink::Code.into());
            }
            Tag::Table(aligned) => {
                self.begin_block(start);
                self.table = Some(Table::new(aligned));
            }
            Tag::TableHead | Tag::TableRow => {
                if let Some(table) = &mut self.table {
                    table.begin_row();
                }
            }
            Tag::TableCell => {
                let heading = self.table.as_ref().is_some_and(Table::in_heading);
                self.push_tone(|tone| {
                    if heading {
                        tone.modifier |= Modifier::BOLD;
                    }
                });
            }
            Tag::Emphasis => self.push_tone(|tone| tone.modifier |= Modifier::ITALIC),
            Tag::Strong => self.push_tone(|tone| tone.modifier |= Modifier::BOLD),
            Tag::Strikethrough => self.push_tone(|tone| tone.modifier |= Modifier::CROSSED_OUT),
            Tag::Link { link_type, dest_url, .. } | Tag::Image { link_type, dest_url, .. } => {
                self.links.push((dest_url.into_string(), self.runs.text.len(), link_type));
                self.push_tone(|tone| tone.ink = Ink::Link);
            }
            _ => self.push_tone(|_| {}),
        }
    }

    fn begin_item(&mut self, start: usize) {
        self.begin_block(start);
        let depth = self.lists.len();
        let sign = match self.lists.last_mut() {
            Some(Some(number)) => {
                let sign = format!("{number}. ");
                *number = number.saturating_add(1);
                sign
            }
            _ => if depth.is_multiple_of(2) { "◦ " } else { "• " }.to_owned(),
        };
        let rest = " ".repeat(usize::from(sign.cell_width()));
        self.leads.push(Lead { first: sign, rest, tone: Ink::Marker.into(), used: false });
    }

    fn finish(&mut self, tag: TagEnd, end: usize) {
        match tag {
            TagEnd::Paragraph | TagEnd::HtmlBlock => self.flush(),
            TagEnd::Heading(_) => {
                self.flush();
                self.tones.pop();
            }
            TagEnd::BlockQuote(_) => {
                self.end_container();
                self.tones.pop();
            }
            TagEnd::Item => self.end_container(),
            TagEnd::List(_) => {
                self.flush();
                self.lists.pop();
            }
            TagEnd::CodeBlock => {
                self.finish_code(end);
                self.tones.pop();
            }
            TagEnd::TableCell => {
                self.tones.pop();
                let cell = std::mem::take(&mut self.runs);
                if let Some(table) = &mut self.table {
                    table.push(cell);
                }
            }
            TagEnd::TableHead | TagEnd::TableRow => {}
            TagEnd::Table => {
                if let Some(table) = self.table.take() {
                    let room = self.room();
                    for row in table.layout(room) {
                        // The rows of a list of cells may be longer than the width.
                        for (part, join) in row.wrap(room) {
                            self.push_row(&row, part, join);
                        }
                        if row.text.is_empty() {
                            self.push_gap(self.base);
                        }
                    }
                    self.end = Some(end);
                }
            }
            TagEnd::Link | TagEnd::Image => {
                self.tones.pop();
                self.finish_link(end);
            }
            _ => drop(self.tones.pop()),
        }
    }

    /// The address behind a link's text, where the text is not the address.
    fn finish_link(&mut self, end: usize) {
        let Some((address, from, link_type)) = self.links.pop() else { return };
        let address = as_said(&address);
        let says_it = matches!(link_type, LinkType::Autolink | LinkType::Email)
            || self.runs.text.get(from..).is_some_and(|text| text == address);
        if says_it || address.is_empty() {
            return;
        }
        let address = crate::tui::sanitize::one_line(&address);
        self.push_text(&format!(" ({address})"), Ink::Dim.into(), end.saturating_sub(1), end);
    }

    fn finish_code(&mut self, end: usize) {
        let mut runs = std::mem::take(&mut self.runs);
        let Some(begun) = self.code.take() else { return };
        if let Begun::Fenced(language) = begun {
            let mut head = Runs::default();
            let room = u16::try_from(self.room()).unwrap_or(u16::MAX);
            head.push(label(&language, room), Ink::Dim.into(), runs.source(0));
            self.push_row(&head, 0..head.text.len(), Join::Line);
            let known = self.known.get(self.codes.len()).filter(|code| code.text == runs.text);
            if let Some(known) = known {
                runs.tones = known.tones();
            }
            self.codes.push(Code { language, text: runs.text.clone(), ..Code::default() });
        }
        self.push_wrapped(&runs);
        self.end = Some(end);
    }

    /// Ends what is under way, and leaves an empty row where the text has an empty line.
    fn begin_block(&mut self, start: usize) {
        self.flush();
        let Some(end) = self.end else { return };
        let end = self.text[..end.min(start)].trim_end().len();
        if self.text[end..start].bytes().filter(|&b| b == b'\n').count() > 1 {
            self.push_gap(self.base + start);
        }
    }

    fn end_container(&mut self) {
        self.flush();
        // An empty item still shows its sign.
        if self.leads.last().is_some_and(|lead| !lead.used) {
            self.push_row(&Runs::default(), 0..0, Join::Line);
        }
        self.leads.pop();
    }

    /// Makes rows of the text under way, if it is not a table's.
    fn flush(&mut self) {
        if self.table.is_none() && self.code.is_none() && !self.runs.text.is_empty() {
            let runs = std::mem::take(&mut self.runs);
            self.push_wrapped(&runs);
        }
    }

    fn push_wrapped(&mut self, runs: &Runs) {
        for (part, join) in runs.wrap(self.room()) {
            self.push_row(runs, part, join);
        }
    }

    /// Signs and indents, as many as half of the width has room for.
    fn fitting_leads(&self) -> impl Iterator<Item = &Lead> {
        let mut left = self.width / 2;
        self.leads.iter().take_while(move |lead| {
            let rest = left.checked_sub(lead.cells());
            left = rest.unwrap_or(left);
            rest.is_some()
        })
    }

    /// The cells that are left beside them.
    fn room(&self) -> usize {
        let cells: usize = self.fitting_leads().map(Lead::cells).sum();
        (self.width - cells).max(1)
    }

    fn push_row(&mut self, runs: &Runs, part: std::ops::Range<usize>, join: Join) {
        let lead = self.lead(|lead| if lead.used { &lead.rest } else { &lead.first });
        self.leads.iter_mut().for_each(|lead| lead.used = true);
        self.add(runs.row(&part, &lead, join));
    }

    /// An empty row, but for the signs of quotes.
    fn push_gap(&mut self, source: usize) {
        let Runs { text, tones, .. } = self.lead(|lead| &lead.rest);
        self.add(Row { lead: text.len(), text, tones, source, join: Join::Line });
    }

    fn add(&mut self, mut row: Row) {
        let before = self.rows.last().map_or(self.base, |row| row.source);
        row.source = row.source.max(before);
        if row.text.trim().is_empty() {
            row = Row { text: String::new(), tones: Tones::new(), lead: 0, ..row };
        }
        self.rows.push(row);
    }

    /// What stands before a row.
    fn lead(&self, text: impl Fn(&Lead) -> &str) -> Runs {
        let mut runs = Runs::default();
        for lead in self.fitting_leads() {
            runs.push(text(lead), lead.tone, 0);
        }
        runs
    }
}
