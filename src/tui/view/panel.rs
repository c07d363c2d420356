//! The right side: the tiers of memory at work. Every number says what it measures; what is not known says so. Sections are
//! lists of rows with ranks: where there is no room for all, those that matter least are left out first.

mod detail;
mod map;
mod tokens;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use crate::telemetry::{PagingSnapshot, Snapshot};
use crate::tui::app::{App, Engine};
use crate::tui::gauges::{Gauges, HISTORY_CELL};
use crate::tui::panel::{Panel, Preset, Section, Zoom};
use crate::tui::sanitize::one_line;
use crate::tui::theme::Theme;
use crate::tui::units::{self, UNKNOWN, or_unknown};

use super::parts::{Pen, bar, cut};

/// From this many rows on, sections stand apart.
const SPACIOUS: u16 = 38;
/// From this many columns on, captions are spelled out.
const WIDE: usize = 36;
/// From this many on, the legend has its captions.
const WIDEST: usize = 44;
const LABEL_COLUMNS: usize = 8;
const VALUE_COLUMNS: usize = 11;
/// Rows that the map keeps whatever else there is to say, and the part of all that it keeps where there are many.
const LEAST_MAP_ROWS: usize = 4;
const MAP_SHARE: usize = 5;
/// The map's title and legend.
const MAP_FRAME_ROWS: usize = 3;
/// Rows of a higher rank are not in the compact panel.
const COMPACT_RANK: u8 = 1;

/// What the panel is about: a model that is loaded, or one that a trace is of.
#[derive(Debug, Clone, Default)]
pub struct Head {
    pub name: String,
    pub kind: String,
    pub shape: String,
}

/// A line, and how soon it is left out: the higher, the sooner.
#[derive(Debug)]
struct Row {
    rank: u8,
    line: Line<'static>,
}

impl Row {
    fn new(rank: u8, line: Line<'static>) -> Row {
        Row { rank, line }
    }
}

/// A section with its title and what it says of itself.
struct Block {
    section: Section,
    title: String,
    caption: String,
    rows: Vec<Row>,
    /// Rows at the top that stay when the others are scrolled.
    n_head: usize,
    /// The map follows, in whatever room is left.
    has_map: bool,
}

pub fn panel(app: &mut App, area: Rect, buf: &mut Buffer) {
    for y in area.top()..area.bottom() {
        buf.set_stringn(area.x, y, "│", 1, app.theme.rule);
    }
    let inner = Rect { x: area.x + 2, width: area.width.saturating_sub(3), ..area };
    let head = head(app, usize::from(inner.width));
    draw(&app.theme, &mut app.panel, &mut app.gauges, &head, inner, buf);
}

pub fn head(app: &App, columns: usize) -> Head {
    let Some(model) = &app.model else {
        return match &app.engine {
            Engine::Loading { path, .. } => {
                let name = one_line(&path.file_name().unwrap_or(path.as_os_str()).to_string_lossy());
                Head { name, kind: "being opened".into(), shape: String::new() }
            }
            _ => Head { name: "no model".into(), ..Head::default() },
        };
    };
    let layers = units::plural(model.n_layers, "layer");
    let shape = match model.n_experts {
        0 => format!("{layers}, dense"),
        n if columns >= WIDE => format!("{layers} × {n} experts, {} used", model.n_experts_used),
        n => format!("{} × {n} experts, {} used", model.n_layers, model.n_experts_used),
    };
    let kind = format!("{} · {} · {}", model.architecture, model.quantization, units::parameters(model.parameters));
    Head { name: model.name.clone(), kind, shape }
}

/// Draws the panel of `gauges`, or of those that were frozen.
pub fn draw(theme: &Theme, panel: &mut Panel, gauges: &mut Gauges, head: &Head, area: Rect, buf: &mut Buffer) {
    let mut frozen = panel.frozen.take();
    let is_frozen = frozen.is_some();
    let shown = frozen.as_deref_mut().unwrap_or(gauges);
    let mut blocks = blocks(theme, panel, shown, usize::from(area.width));
    let compact = panel.preset == Preset::Compact;
    if compact {
        blocks.retain(|block| !block.has_map || panel.zoom.is_some());
        for block in blocks.iter_mut().filter(|block| !is_zoomed(panel, block.section)) {
            block.rows.retain(|row| row.rank <= COMPACT_RANK);
        }
        blocks.retain(|block| !block.rows.is_empty());
    }
    let focus = panel.focus;
    if panel.expanded && focus.is_some() {
        blocks.retain(|block| Some(block.section) == focus);
    }
    for block in blocks.iter_mut().filter(|block| panel.is_collapsed(block.section)) {
        block.rows.clear();
        block.has_map = false;
        block.title.insert_str(0, "+ ");
    }
    let rows = usize::from(area.height);
    let mut pen = Pen::new(area, buf);
    let mut lines = vec![Line::styled(cut(&head.name, pen.columns()), theme.title)];
    if is_frozen {
        lines.push(Line::styled("frozen: the engine goes on", theme.warning));
    } else if !compact {
        lines.push(Line::styled(cut(&head.kind, pen.columns()), theme.dim));
    }
    if !compact && rows >= 12 {
        lines.push(Line::styled(cut(&head.shape, pen.columns()), theme.dim));
    }
    lines.iter().for_each(|line| pen.line(line));
    scroll_zoomed(panel, &mut blocks, rows.saturating_sub(lines.len()));
    let gaps = usize::from(area.height >= SPACIOUS);
    let room = rows.saturating_sub(lines.len() + gaps * blocks.len());
    fit(&mut blocks, room, LEAST_MAP_ROWS.max(rows / MAP_SHARE));
    let fixed: usize = blocks.iter().map(Block::n_rows).sum();
    let map_rows = room.saturating_sub(fixed);
    for block in &blocks {
        (0..gaps).for_each(|_| pen.gap());
        let style = if focus == Some(block.section) { theme.selected } else { theme.title };
        let scale = if block.has_map { map_scale(theme, shown, map_rows, pen.columns()) } else { None };
        pen.section(theme, &block.title, scale.as_ref().unwrap_or(&block.caption), style);
        block.rows.iter().for_each(|row| pen.line(&row.line));
        if block.has_map {
            draw_map(theme, shown, map_rows, &mut pen);
        }
    }
    panel.frozen = frozen;
}

impl Block {
    /// Its title, its rows, and the frame of its map.
    fn n_rows(&self) -> usize {
        1 + self.rows.len() + if self.has_map { MAP_FRAME_ROWS - 1 } else { 0 }
    }
}

/// Whether a section shows what was zoomed into: the map's place shows it.
fn is_zoomed(panel: &Panel, section: Section) -> bool {
    panel.zoom.is_some() && section == Section::Experts
}

/// Leaves out rows until all fit, the highest rank first and of one rank the lowest row.
fn fit(blocks: &mut Vec<Block>, rows: usize, map_rows: usize) {
    loop {
        let map = if blocks.iter().any(|block| block.has_map) { map_rows } else { 0 };
        let all = blocks.iter().map(Block::n_rows).sum::<usize>() + map;
        if all <= rows {
            return;
        }
        let ranks = blocks.iter().flat_map(|block| block.rows.iter().map(|row| row.rank));
        let Some(highest) = ranks.max() else {
            // Titles alone do not fit either.
            if blocks.pop().is_none() {
                return;
            }
            continue;
        };
        let found = blocks.iter_mut().rev().find_map(|block| {
            let at = block.rows.iter().rposition(|row| row.rank == highest)?;
            Some((block, at))
        });
        if let Some((block, at)) = found {
            block.rows.remove(at);
            let section = block.section;
            let is_empty = block.rows.is_empty() && !block.has_map;
            // A title with nothing below it says nothing.
            blocks.retain(|block| block.section != section || !is_empty);
        }
    }
}

/// Shows of what is zoomed into as much as the other sections' most important rows leave room for.
fn scroll_zoomed(panel: &mut Panel, blocks: &mut [Block], rows: usize) {
    let others: usize = blocks
        .iter()
        .filter(|block| !is_zoomed(panel, block.section))
        .map(|block| 1 + block.rows.iter().filter(|row| row.rank == 0).count())
        .sum();
    let room = rows.saturating_sub(others + 1).max(1);
    let Some(block) = blocks.iter_mut().find(|block| is_zoomed(panel, block.section)) else { return };
    let mut top = panel.top.min(block.rows.len().saturating_sub(room));
    if let (Some(Zoom::Layer(_)), Some(_)) = (panel.zoom, panel.focus) {
        // The expert that is looked at is in view.
        let seen = room.saturating_sub(block.n_head).max(1);
        top = top.clamp((panel.expert + 1).saturating_sub(seen), panel.expert);
    }
    panel.top = top;
    let first = block.n_head.min(block.rows.len());
    block.rows.drain(first..(first + top).min(block.rows.len()));
    block.rows.truncate(room);
}

fn blocks(theme: &Theme, panel: &Panel, gauges: &Gauges, columns: usize) -> Vec<Block> {
    let snapshot = &gauges.snapshot;
    let mut blocks = vec![memory(theme, snapshot, columns), experts(theme, panel, gauges, columns)];
    blocks.extend(snapshot.paging.as_ref().map(|paging| paging_block(theme, paging, columns)));
    blocks.push(timeline(theme, panel, gauges, columns));
    blocks.push(disk(theme, gauges, columns));
    blocks.push(speed(theme, gauges, columns));
    blocks
}

/// A label, a value and a bar, whose full length is `scale`.
fn level(theme: &Theme, label: &str, value: Option<u64>, scale: u64, columns: usize) -> Line<'static> {
    let text = or_unknown(value, units::bytes);
    let style = if value.is_some() { theme.text } else { theme.dim };
    let mut spans = vec![
        Span::styled(format!("{label:<LABEL_COLUMNS$}"), theme.dim),
        Span::styled(format!("{text:>VALUE_COLUMNS$}"), style),
    ];
    let room = columns.saturating_sub(LABEL_COLUMNS + VALUE_COLUMNS + 1);
    if let Some(value) = value.filter(|_| scale > 0) {
        spans.push(Span::raw(" "));
        spans.extend(bar(theme, room, value as f64 / scale as f64));
    }
    Line::from(spans)
}

/// The tiers, from the disk up, on one scale, so that the bars can be compared.
fn memory(theme: &Theme, snapshot: &Snapshot, columns: usize) -> Block {
    let caption = match snapshot.residency_source {
        Some(source) if columns >= WIDE => format!("page cache, by {source}"),
        Some(source) => format!("by {source}"),
        None => format!("page cache {UNKNOWN}"),
    };
    let paged = snapshot.paging.as_ref().filter(|paging| paging.is_paged());
    let all = [snapshot.file_bytes, snapshot.memory_total, snapshot.rss_bytes];
    let scale = all.into_iter().flatten().max().unwrap_or(0);
    let row = |rank, label, value| Row::new(rank, level(theme, label, value, scale, columns));
    let mut rows = vec![row(0, "on SSD", snapshot.file_bytes), row(0, "cached", snapshot.resident_bytes)];
    if let Some(paging) = paged.filter(|paging| paging.way.name != "mapped") {
        rows.push(row(0, "arena", paging.resident_bytes));
    }
    if let Some(pinned) = paged.and_then(|paging| paging.pinned_bytes).filter(|&bytes| bytes > 0) {
        rows.push(row(1, "pinned", Some(pinned)));
    }
    rows.push(row(4, "locked", snapshot.locked_bytes));
    rows.push(row(1, "budget", snapshot.memory_total));
    rows.push(row(4, "free", snapshot.memory_available));
    rows.push(row(3, "process", snapshot.rss_bytes));
    if let Some(paging) = paged {
        let way = format!("{:<LABEL_COLUMNS$}{}: {}", "paging", paging.way.name, one_line(&paging.way.reason));
        rows.push(Row::new(4, Line::styled(cut(&way, columns), theme.dim)));
    }
    Block { section: Section::Memory, title: "memory".into(), caption, rows, n_head: 0, has_map: false }
}

/// The map, or what was zoomed into.
fn experts(theme: &Theme, panel: &Panel, gauges: &Gauges, columns: usize) -> Block {
    let (map, tick) = (gauges.snapshot.experts.as_deref(), gauges.snapshot.tick);
    let block = |title, caption, rows, n_head| {
        let section = Section::Experts;
        Block { section, title, caption, rows, n_head, has_map: false }
    };
    match (panel.zoom, map) {
        (Some(Zoom::Token), _) => {
            let detail = detail::token_detail(theme, gauges, panel.token, columns);
            let caption = if columns >= WIDEST { "experts and weights, ! missing" } else { "! missing" };
            block(detail.title, caption.into(), detail.rows, detail.n_head)
        }
        (Some(Zoom::Layer(layer)), Some(map)) if layer < map.n_layers() => {
            let chosen = panel.focus.map(|_| panel.expert);
            let rows = detail::layer_detail(theme, map, tick, layer, chosen, columns);
            let caption = if columns >= WIDE { "passes ago, * pinned" } else { "* pinned" };
            block(format!("layer {layer} of {}", map.n_layers()), caption.into(), rows, 1)
        }
        (_, Some(map)) if map.n_layers() > 0 && map.n_experts() > 0 => {
            let title = if map.n_experts() == 1 { "layers" } else { "experts" };
            Block { has_map: true, ..block(title.into(), String::new(), Vec::new(), 0) }
        }
        _ => block("experts".into(), String::new(), vec![Row::new(1, Line::styled(UNKNOWN, theme.dim))], 0),
    }
}

/// What a cell of the map stands for.
fn map_scale(theme: &Theme, gauges: &mut Gauges, lines: usize, columns: usize) -> Option<String> {
    let rows = if theme.has_half_blocks() { 2 * lines } else { lines };
    gauges.grid(columns, rows.max(1)).map(|grid| map::scale_of(grid, columns))
}

fn draw_map(theme: &Theme, gauges: &mut Gauges, lines: usize, pen: &mut Pen<'_>) {
    let rows = if theme.has_half_blocks() { 2 * lines } else { lines };
    let columns = pen.columns();
    let Some(grid) = gauges.grid(columns, rows.max(1)) else { return };
    let text_rows = if theme.has_half_blocks() { grid.rows.div_ceil(2) } else { grid.rows };
    let (area, buf) = pen.take(text_rows.min(lines));
    map::draw_map(theme, grid, area, buf);
    map::legend(theme, pen);
}

/// What experts cost, and what guesses gained and wasted.
fn paging_block(theme: &Theme, paging: &PagingSnapshot, columns: usize) -> Block {
    let mut rows = Vec::new();
    let mut say = |rank, label: &str, text: String| {
        let spans = vec![
            Span::styled(format!("{label:<LABEL_COLUMNS$}"), theme.dim),
            Span::styled(cut(&text, columns.saturating_sub(LABEL_COLUMNS)), theme.text),
        ];
        rows.push(Row::new(rank, Line::from(spans)));
    };
    let wide = columns >= WIDEST;
    if paging.is_paged() {
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        let asked = units::bytes(paging.requested_bytes);
        say(0, "hits", or_unknown(paging.hit_rate(), |rate| format!("{} of {asked} asked", percent(rate))));
        let read = units::bytes(paging.demand_bytes);
        say(3, "read", format!("{read} on demand"));
        let (stall, all) = (paging.stall.as_secs_f64(), (paging.stall + paging.compute).as_secs_f64());
        say(2, "waited", format!("{} of {}", units::seconds(stall), units::seconds(all)));
        match paging.recall() {
            None => say(2, "guesses", "off, or none made yet".into()),
            Some(recall) => {
                let beside = if wide { " of experts foreseen" } else { " foreseen" };
                let is_off = paging.guess_gain.is_some_and(|gain| gain <= 0.0);
                let on = if is_off { "off" } else { "on" };
                say(1, "guesses", format!("{on}: {}{beside}", percent(recall)));
                if let Some(gain) = paging.guess_gain {
                    let (does, beside) =
                        (if is_off { "cost" } else { "save" }, if wide { " of a token's time" } else { "" });
                    say(3, "gain", format!("they {does} {}{beside}", percent(gain.abs())));
                }
                let [useful, guessed, wasted] =
                    [paging.speculated_used_bytes, paging.speculated_bytes, paging.wasted_bytes].map(units::bytes);
                let beside = if wide { " read ahead" } else { "" };
                if paging.speculated_bytes > 0 {
                    say(2, "useful", format!("{useful} of {guessed}{beside}"));
                    say(3, "wasted", format!("{wasted} left unused"));
                }
            }
        }
    } else {
        say(3, "hits", "not counted: every expert fits".into());
    }
    let caption = if wide { "bytes of experts, since loaded" } else { "bytes, since loaded" };
    let caption = caption.to_owned();
    Block { section: Section::Paging, title: "paging".into(), caption, rows, n_head: 0, has_map: false }
}

fn timeline(theme: &Theme, panel: &Panel, gauges: &Gauges, columns: usize) -> Block {
    let rows = tokens::timeline(theme, gauges, panel.token, columns);
    let caption = match tokens::scale(gauges, panel.token, columns) {
        Some(longest) if columns >= WIDE => format!("a cell each, tallest {}", units::milliseconds(longest)),
        Some(longest) => format!("to {}", units::milliseconds(longest)),
        None => String::new(),
    };
    Block { section: Section::Tokens, title: "tokens".into(), caption, rows, n_head: 0, has_map: false }
}

/// A label, a count and its growth a second, in columns.
fn counter(theme: &Theme, label: &str, value: &str, rate: &str, columns: usize) -> Line<'static> {
    let style = |text: &str| if text == UNKNOWN { theme.dim } else { theme.text };
    let (label_columns, value_columns, rate_columns) = if columns >= WIDE { (12, 11, 11) } else { (12, 8, 9) };
    Line::from(vec![
        Span::styled(format!("{label:<label_columns$}"), theme.dim),
        Span::styled(format!("{value:>value_columns$}"), style(value)),
        Span::styled(format!("{rate:>rate_columns$}"), style(rate)),
    ])
}

fn disk(theme: &Theme, gauges: &Gauges, columns: usize) -> Block {
    let (snapshot, rates) = (&gauges.snapshot, &gauges.rates);
    let caption = if columns >= WIDE { "this process: total, a second" } else { "total, a second" };
    let bytes = |rate: f64| units::bytes(rate as u64);
    let count = |rate: f64| units::count(rate.round() as u64);
    let line = |label, value: String, rate: String| counter(theme, label, &value, &rate, columns);
    let mut rows = vec![Row::new(
        0,
        line("read", or_unknown(snapshot.disk_read_bytes, units::bytes), or_unknown(rates.disk_bytes(), bytes)),
    )];
    let room = columns.saturating_sub(LABEL_COLUMNS);
    let cells: Vec<_> = gauges.history.cells.iter().rev().take(room).rev().collect();
    let seconds = HISTORY_CELL.as_secs_f64() * cells.len() as f64;
    let peak = cells.iter().filter_map(|cell| cell.0).fold(0.0, f64::max);
    if cells.iter().any(|cell| cell.0.is_some()) {
        let of_peak = cells.iter().map(|cell| cell.0.map(|rate| if peak > 0.0 { rate / peak } else { 0.0 }));
        rows.push(Row::new(2, spark(theme, "rate", of_peak, theme.bar)));
        let words = format!("{:<LABEL_COLUMNS$}last {seconds:.0} s, peak {}/s", "", units::bytes(peak as u64));
        rows.push(Row::new(4, Line::styled(cut(&words, columns), theme.dim)));
    }
    if cells.iter().any(|cell| cell.1.is_some()) {
        rows.push(Row::new(3, spark(theme, "waiting", cells.iter().map(|cell| cell.1), theme.warning)));
    }
    let major = or_unknown(snapshot.major_faults, units::count);
    rows.push(Row::new(3, line("major faults", major, or_unknown(rates.major_faults(), count))));
    let minor = or_unknown(snapshot.minor_faults, units::count);
    rows.push(Row::new(5, line("minor faults", minor, or_unknown(rates.minor_faults(), count))));
    Block { section: Section::Disk, title: "disk".into(), caption: caption.into(), rows, n_head: 0, has_map: false }
}

/// A history, newest right.
fn spark(
    theme: &Theme,
    label: &str,
    shares: impl Iterator<Item = Option<f64>>,
    style: ratatui::style::Style,
) -> Line<'static> {
    let mut spans = vec![Span::styled(format!("{label:<LABEL_COLUMNS$}"), theme.dim)];
    spans.extend(shares.map(|share| match share {
        None => Span::styled("·", theme.dim),
        Some(share) => Span::styled(tokens::height(share), style),
    }));
    Line::from(spans)
}

fn speed(theme: &Theme, gauges: &Gauges, columns: usize) -> Block {
    let snapshot = &gauges.snapshot;
    let speed = |value: Option<f64>| or_unknown(value, |s| format!("{} tok/s", units::speed(s)));
    let wide = columns >= WIDE;
    let mut rows = Vec::new();
    if let Some((done, total)) = snapshot.loading {
        let left = gauges.loading_left.map(|left| format!(" {} left", units::duration(left))).unwrap_or_default();
        let value = format!("{} %", units::percent(done, total).unwrap_or(0));
        rows.push(Row::new(0, meter(theme, "weights", &value, Some((done, total, left)), columns)));
    }
    let part = snapshot.prompt.filter(|&(done, total)| done < total);
    let beside = part.map(|(done, total)| {
        let percent = units::percent(done, total).unwrap_or(0);
        (done, total, if wide { format!(" {done} of {total}") } else { format!(" {percent} %") })
    });
    let reads_prompt = beside.is_some();
    rows.push(Row::new(1, meter(theme, "prompt", &speed(snapshot.prompt_tok_s), beside, columns)));
    if let Some((layer, map)) = snapshot.layer.zip(snapshot.experts.as_ref()).filter(|_| reads_prompt) {
        let left = snapshot.prompt_left.map(|left| format!(" about {} left", units::duration(left)));
        let value = format!("{} of {}", layer + 1, map.n_layers());
        let part = Some((layer + 1, map.n_layers() as u64, left.unwrap_or_default()));
        rows.push(Row::new(0, meter(theme, "layer", &value, part, columns)));
    }
    rows.push(Row::new(0, meter(theme, "reply", &speed(snapshot.generate_tok_s), None, columns)));
    let used = or_unknown(snapshot.kv_used, units::count);
    let beside = snapshot.kv_used.zip(snapshot.kv_capacity).map(|(used, capacity)| {
        let bytes = snapshot.kv_bytes.map_or_else(String::new, |b| format!(", {}", units::bytes(b)));
        let tail = if wide { bytes } else { String::new() };
        (used, capacity, format!(" of {}{tail}", units::count(capacity)))
    });
    rows.push(Row::new(1, meter(theme, "context", &used, beside, columns)));
    let caption = if wide { "the last prompt and reply" } else { "" };
    Block { section: Section::Speed, title: "speed".into(), caption: caption.into(), rows, n_head: 0, has_map: false }
}

/// A label, a value and, where there is a whole, a bar of it and words.
fn meter(theme: &Theme, label: &str, value: &str, part: Option<(u64, u64, String)>, columns: usize) -> Line<'static> {
    let style = if value == UNKNOWN { theme.dim } else { theme.text };
    let mut spans = vec![
        Span::styled(format!("{label:<LABEL_COLUMNS$}"), theme.dim),
        Span::styled(format!("{value:>VALUE_COLUMNS$}"), style),
    ];
    if let Some((done, total, words)) = part.filter(|p| p.1 > 0) {
        let room = columns.saturating_sub(LABEL_COLUMNS + VALUE_COLUMNS + words.chars().count() + 1);
        spans.push(Span::styled(words, theme.dim));
        if room >= 4 {
            spans.push(Span::raw(" "));
            spans.extend(bar(theme, room, done as f64 / total as f64));
        }
    }
    Line::from(spans)
}
