//! The right side: the tiers of memory at work. Every number says what it measures; what is not known says so.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use crate::telemetry::Snapshot;
use crate::tui::app::{App, Engine};
use crate::tui::gauges::Gauges;
use crate::tui::grid::Grid;
use crate::tui::sanitize::one_line;
use crate::tui::theme::{ColorDepth, Heat, Theme};
use crate::tui::units::{self, UNKNOWN, or_unknown};

use super::parts::{Pen, bar, cut};

/// Fewer rows than this leave out what matters less.
const ROOMY: u16 = 30;
/// From this many on, sections stand apart.
const SPACIOUS: u16 = 38;
/// From this many columns on, captions are spelled out.
const WIDE: usize = 36;
/// From this many on, the legend has its captions.
const WIDEST: usize = 44;
const LABEL_COLUMNS: usize = 8;
const VALUE_COLUMNS: usize = 11;
const COUNTER_LABEL_COLUMNS: usize = 12;
/// A cell is drawn this many columns wide at most.
const MAX_CELL_COLUMNS: usize = 4;

pub fn panel(app: &mut App, area: Rect, buf: &mut Buffer) {
    for y in area.top()..area.bottom() {
        buf.set_stringn(area.x, y, "│", 1, app.theme.rule);
    }
    let inner = Rect { x: area.x + 2, width: area.width.saturating_sub(3), ..area };
    let mut pen = Pen::new(inner, buf);
    let roomy = area.height >= ROOMY;
    let gaps = usize::from(area.height >= SPACIOUS);
    model(app, &mut pen);
    let (theme, gauges) = (&app.theme, &mut app.gauges);
    apart(&mut pen, gaps);
    memory(theme, &gauges.snapshot, roomy, &mut pen);
    apart(&mut pen, gaps);
    // Below the map come two sections, each with its title.
    let below = if roomy { 4 } else { 3 } + 4 + 2 * gaps;
    experts(theme, gauges, below, &mut pen);
    apart(&mut pen, gaps);
    disk(theme, gauges, roomy, &mut pen);
    apart(&mut pen, gaps);
    tokens(theme, &gauges.snapshot, &mut pen);
}

fn apart(pen: &mut Pen<'_>, gaps: usize) {
    for _ in 0..gaps {
        pen.gap();
    }
}

fn model(app: &App, pen: &mut Pen<'_>) {
    let theme = &app.theme;
    let columns = pen.columns();
    let Some(model) = &app.model else {
        let (title, note) = match &app.engine {
            Engine::Loading { path, .. } => {
                (one_line(&path.file_name().unwrap_or(path.as_os_str()).to_string_lossy()), "being opened")
            }
            _ => ("no model".into(), ""),
        };
        pen.line(&Line::styled(cut(&title, columns), theme.title));
        pen.line(&Line::styled(note, theme.dim));
        pen.gap();
        return;
    };
    pen.line(&Line::styled(cut(&model.name, columns), theme.title));
    let kind = format!("{} · {} · {}", model.architecture, model.quantization, units::parameters(model.parameters));
    pen.line(&Line::styled(cut(&kind, columns), theme.dim));
    let layers = units::plural(model.n_layers, "layer");
    let shape = match model.n_experts {
        0 => format!("{layers}, dense"),
        n if columns >= WIDE => format!("{layers} × {n} experts, {} used", model.n_experts_used),
        n => format!("{} × {n} experts, {} used", model.n_layers, model.n_experts_used),
    };
    pen.line(&Line::styled(cut(&shape, columns), theme.dim));
}

/// A label, a value and a bar, whose full length is `scale`.
fn level(theme: &Theme, pen: &mut Pen<'_>, label: &str, value: Option<u64>, scale: u64) {
    let text = or_unknown(value, units::bytes);
    let style = if value.is_some() { theme.text } else { theme.dim };
    let mut spans = vec![
        Span::styled(format!("{label:<LABEL_COLUMNS$}"), theme.dim),
        Span::styled(format!("{text:>VALUE_COLUMNS$}"), style),
    ];
    let room = pen.columns().saturating_sub(LABEL_COLUMNS + VALUE_COLUMNS + 1);
    if let Some(value) = value.filter(|_| scale > 0) {
        spans.push(Span::raw(" "));
        spans.extend(bar(theme, room, value as f64 / scale as f64));
    }
    pen.line(&Line::from(spans));
}

fn memory(theme: &Theme, snapshot: &Snapshot, roomy: bool, pen: &mut Pen<'_>) {
    let source = match snapshot.residency_source {
        Some(source) if pen.columns() >= WIDE => format!("page cache, by {source}"),
        Some(source) => format!("by {source}"),
        None => UNKNOWN.into(),
    };
    pen.title(theme, "memory", &source);
    // One scale for all: the bars can be compared.
    let paged = snapshot.paging.as_ref().filter(|paging| paging.is_paged());
    let all = [snapshot.file_bytes, snapshot.memory_total, snapshot.rss_bytes];
    let scale = all.into_iter().flatten().max().unwrap_or(0);
    level(theme, pen, "file", snapshot.file_bytes, scale);
    // Experts past the page cache are in memory all the same.
    match paged.filter(|paging| paging.way.name == "direct") {
        None => level(theme, pen, "cached", snapshot.resident_bytes, scale),
        Some(paging) => {
            let both = snapshot.resident_bytes.zip(paging.resident_bytes).map(|(cached, experts)| cached + experts);
            level(theme, pen, "held", both, scale);
        }
    }
    if let Some(paging) = paged.filter(|_| roomy) {
        level(theme, pen, "experts", paging.resident_bytes, scale);
    }
    level(theme, pen, "budget", snapshot.memory_total, scale);
    if roomy {
        level(theme, pen, "free", snapshot.memory_available, scale);
        level(theme, pen, "process", snapshot.rss_bytes, scale);
    }
    if let Some(paging) = paged {
        let way = format!("{:<LABEL_COLUMNS$}{}: {}", "paging", paging.way.name, one_line(&paging.way.reason));
        pen.line(&Line::styled(cut(&way, pen.columns()), theme.dim));
    }
}

fn experts(theme: &Theme, gauges: &mut Gauges, rows_below: usize, pen: &mut Pen<'_>) {
    let columns = pen.columns();
    let mono = theme.depth == ColorDepth::Mono;
    // Title and two lines of legend are not map.
    let lines = pen.rows_left().saturating_sub(rows_below + 3);
    let rows = if mono { lines } else { 2 * lines };
    let Some(grid) = gauges.grid(columns, rows.max(1)) else {
        pen.title(theme, "experts", "");
        pen.line(&Line::styled(UNKNOWN, theme.dim));
        return;
    };
    let title = if grid.dense { "layers" } else { "experts" };
    pen.title(theme, title, &scale_of(grid, columns));
    let text_rows = if mono { grid.rows } else { grid.rows.div_ceil(2) };
    let (area, buf) = pen.take(text_rows.min(lines));
    draw_map(theme, grid, area, buf);
    legend(theme, pen);
}

/// What a cell of the map stands for.
fn scale_of(grid: &Grid, columns: usize) -> String {
    match (grid.dense, grid.per_column, grid.per_row) {
        (true, 1, _) => "1 a cell".into(),
        (true, n, _) => format!("{n} a cell"),
        (false, 1, 1) if columns >= WIDE => "layers down, 1 a cell".into(),
        (false, 1, 1) => "1 a cell".into(),
        (false, x, y) if columns >= WIDE => format!("layers down, {x}×{y} a cell"),
        (false, x, y) => format!("{x}×{y} a cell"),
    }
}

/// Two rows of cells a line where there are colours: the upper half of a block is one, the lower the other.
fn draw_map(theme: &Theme, grid: &Grid, area: Rect, buf: &mut Buffer) {
    let cell_columns = (usize::from(area.width) / grid.columns.max(1)).clamp(1, MAX_CELL_COLUMNS);
    for (line, y) in (area.top()..area.bottom()).enumerate() {
        for column in 0..grid.columns {
            let x = area.x + (column * cell_columns) as u16;
            let (sign, style) = if theme.depth == ColorDepth::Mono {
                let cell = grid.cell(line, column);
                (Theme::map_sign(cell.share), Style::new().add_modifier(Theme::map_modifier(cell.heat)))
            } else {
                let color = |row: usize| {
                    let cell = grid.cell(row, column);
                    theme.map_color(cell.share, cell.heat)
                };
                let style = Style::new().fg(color(2 * line).unwrap_or_default());
                // A dense model's only row fills the line.
                let lower = if grid.dense { Some(0) } else { Some(2 * line + 1).filter(|&row| row < grid.rows) };
                match lower.and_then(color) {
                    Some(below) => ("▀", style.bg(below)),
                    None => ("▀", style),
                }
            };
            for dx in 0..cell_columns as u16 {
                buf.set_stringn(x + dx, y, sign, 1, style);
            }
        }
    }
}

fn legend(theme: &Theme, pen: &mut Pen<'_>) {
    let unknown = if pen.columns() >= WIDE { UNKNOWN } else { "?" };
    let mut spans = Vec::new();
    if pen.columns() >= WIDEST {
        spans.push(Span::styled("in memory  ", theme.dim));
    }
    for (share, name) in [(Some(0.0), "none"), (Some(0.5), "half"), (Some(1.0), "all"), (None, unknown)] {
        let sign = match theme.map_color(share, Heat::NOW) {
            Some(color) => Span::styled("█", Style::new().fg(color)),
            None => Span::raw(Theme::map_sign(share)),
        };
        spans.extend([sign, Span::styled(format!(" {name}  "), theme.dim)]);
    }
    pen.line(&Line::from(spans));
    let mut spans = Vec::new();
    if pen.columns() >= WIDEST {
        spans.push(Span::styled("last used  ", theme.dim));
    }
    if theme.depth == ColorDepth::Mono {
        spans.push(Span::styled("bold: now, dim: long ago", theme.dim));
    } else {
        spans.push(Span::styled(if pen.columns() >= WIDEST { "never " } else { "never used " }, theme.dim));
        for heat in Heat::all() {
            spans.push(Span::styled("█", Style::new().fg(theme.map_color(Some(1.0), heat).unwrap_or_default())));
        }
        spans.push(Span::styled(" now", theme.dim));
    }
    pen.line(&Line::from(spans));
}

/// A label, a count and its growth a second, in columns.
fn counter(theme: &Theme, pen: &mut Pen<'_>, label: &str, value: &str, rate: &str) {
    let style = |text: &str| if text == UNKNOWN { theme.dim } else { theme.text };
    let (value_columns, rate_columns) = if pen.columns() >= WIDE { (11, 11) } else { (8, 9) };
    pen.line(&Line::from(vec![
        Span::styled(format!("{label:<COUNTER_LABEL_COLUMNS$}"), theme.dim),
        Span::styled(format!("{value:>value_columns$}"), style(value)),
        Span::styled(format!("{rate:>rate_columns$}"), style(rate)),
    ]));
}

fn disk(theme: &Theme, gauges: &Gauges, roomy: bool, pen: &mut Pen<'_>) {
    let (snapshot, rates) = (&gauges.snapshot, &gauges.rates);
    let caption = if pen.columns() >= WIDE { "this process: total, a second" } else { "total, a second" };
    pen.title(theme, "disk", caption);
    let bytes = |rate: f64| units::bytes(rate as u64);
    let count = |rate: f64| units::count(rate.round() as u64);
    let read = or_unknown(snapshot.disk_read_bytes, units::bytes);
    counter(theme, pen, "read", &read, &or_unknown(rates.disk_bytes(), bytes));
    let major = or_unknown(snapshot.major_faults, units::count);
    counter(theme, pen, "major faults", &major, &or_unknown(rates.major_faults(), count));
    if roomy {
        let minor = or_unknown(snapshot.minor_faults, units::count);
        counter(theme, pen, "minor faults", &minor, &or_unknown(rates.minor_faults(), count));
    }
}

fn tokens(theme: &Theme, snapshot: &Snapshot, pen: &mut Pen<'_>) {
    pen.title(theme, "tokens", "");
    let speed = |value: Option<f64>| or_unknown(value, |s| format!("{} tok/s", units::speed(s)));
    let part = snapshot.prompt.filter(|&(done, total)| done < total);
    let wide = pen.columns() >= WIDE;
    let beside = part.map(|(done, total)| {
        let percent = units::percent(done, total).unwrap_or(0);
        (done, total, if wide { format!(" {done} of {total}") } else { format!(" {percent} %") })
    });
    meter(theme, pen, "prompt", &speed(snapshot.prompt_tok_s), beside);
    meter(theme, pen, "reply", &speed(snapshot.generate_tok_s), None);
    let used = or_unknown(snapshot.kv_used, units::count);
    let beside = snapshot.kv_used.zip(snapshot.kv_capacity).map(|(used, capacity)| {
        let bytes = snapshot.kv_bytes.map_or_else(String::new, |b| format!(", {}", units::bytes(b)));
        let tail = if wide { bytes } else { String::new() };
        (used, capacity, format!(" of {}{tail}", units::count(capacity)))
    });
    meter(theme, pen, "context", &used, beside);
}

/// A label, a value and, where there is a whole, a bar of it and words.
fn meter(theme: &Theme, pen: &mut Pen<'_>, label: &str, value: &str, part: Option<(u64, u64, String)>) {
    let style = if value == UNKNOWN { theme.dim } else { theme.text };
    let mut spans = vec![
        Span::styled(format!("{label:<LABEL_COLUMNS$}"), theme.dim),
        Span::styled(format!("{value:>VALUE_COLUMNS$}"), style),
    ];
    if let Some((done, total, words)) = part.filter(|p| p.1 > 0) {
        let room = pen.columns().saturating_sub(LABEL_COLUMNS + VALUE_COLUMNS + words.chars().count() + 1);
        spans.push(Span::styled(words, theme.dim));
        if room >= 4 {
            spans.push(Span::raw(" "));
            spans.extend(bar(theme, room, done as f64 / total as f64));
        }
    }
    pen.line(&Line::from(spans));
}
