//! The layer × expert map, cut to the room there is: hue is residency, brightness recency.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use crate::tui::grid::Grid;
use crate::tui::theme::{ColorDepth, Heat, Theme};
use crate::tui::units::UNKNOWN;

use super::{Pen, WIDE, WIDEST};

/// A cell is drawn this many columns wide at most.
const MAX_CELL_COLUMNS: usize = 4;

/// What a cell of the map stands for.
pub fn scale_of(grid: &Grid, columns: usize) -> String {
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
pub fn draw_map(theme: &Theme, grid: &Grid, area: Rect, buf: &mut Buffer) {
    let cell_columns = (usize::from(area.width) / grid.columns.max(1)).clamp(1, MAX_CELL_COLUMNS);
    for (line, y) in (area.top()..area.bottom()).enumerate() {
        for column in 0..grid.columns {
            let x = area.x + (column * cell_columns) as u16;
            let (sign, style) = if theme.has_half_blocks() {
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
            } else {
                let cell = grid.cell(line, column);
                let style = Style::new().add_modifier(Theme::map_modifier(cell.heat));
                (Theme::map_sign(cell.share), Style { fg: theme.map_color(cell.share, cell.heat), ..style })
            };
            for dx in 0..cell_columns as u16 {
                buf.set_stringn(x + dx, y, sign, 1, style);
            }
        }
    }
}

/// What colours mean.
pub fn legend(theme: &Theme, pen: &mut Pen<'_>) {
    let unknown = if pen.columns() >= WIDE { UNKNOWN } else { "?" };
    let mut spans = Vec::new();
    if pen.columns() >= WIDEST {
        spans.push(Span::styled("in memory  ", theme.dim));
    }
    for (share, name) in [(Some(0.0), "none"), (Some(0.5), "half"), (Some(1.0), "all"), (None, unknown)] {
        let sign = match theme.map_color(share, Heat::NOW) {
            Some(color) if theme.has_half_blocks() => Span::styled("█", Style::new().fg(color)),
            Some(color) => Span::styled(Theme::map_sign(share), Style::new().fg(color)),
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
