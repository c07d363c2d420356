//! Small things that several parts draw: bars, titled rules, rows.

use ratatui::buffer::{Buffer, CellWidth};
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use unicode_segmentation::UnicodeSegmentation;

use crate::tui::theme::Theme;

/// A bar `columns` long of which `fraction` is filled, to half a column.
pub fn bar(theme: &Theme, columns: usize, fraction: f64) -> Vec<Span<'static>> {
    let fraction = if fraction.is_finite() { fraction.clamp(0.0, 1.0) } else { 0.0 };
    let halves = (fraction * 2.0 * columns as f64).round() as usize;
    // What is there at all is seen.
    let halves = if fraction > 0.0 { halves.max(1) } else { halves };
    let (full, half) = (halves / 2, halves % 2);
    let mut filled = "━".repeat(full);
    if half == 1 {
        filled.push('╸');
    }
    // Where the two parts do not differ by colour, or have one sign each, the rest is left out.
    let rest = if theme.has_half_blocks() { "━" } else { " " };
    let rest = rest.repeat(columns.saturating_sub(full + half));
    vec![Span::styled(filled, theme.bar), Span::styled(rest, theme.bar_rest)]
}

/// Cuts `text` to `columns`, the last of which then says so.
pub fn cut(text: &str, columns: usize) -> String {
    if usize::from(text.cell_width()) <= columns {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut used = 0;
    for grapheme in text.graphemes(true) {
        let width = usize::from(grapheme.cell_width());
        if used + width + 1 > columns {
            break;
        }
        used += width;
        out.push_str(grapheme);
    }
    if columns > 0 {
        out.push('…');
    }
    out
}

/// Lines from the top of an area down, until it is full.
pub struct Pen<'a> {
    area: Rect,
    row: u16,
    buf: &'a mut Buffer,
}

impl<'a> Pen<'a> {
    pub fn new(area: Rect, buf: &'a mut Buffer) -> Pen<'a> {
        Pen { area, row: 0, buf }
    }

    pub fn columns(&self) -> usize {
        usize::from(self.area.width)
    }

    pub fn rows_left(&self) -> usize {
        usize::from(self.area.height - self.row)
    }

    pub fn line(&mut self, line: &Line<'_>) {
        if self.row < self.area.height {
            self.buf.set_line(self.area.x, self.area.y + self.row, line, self.area.width);
            self.row += 1;
        }
    }

    pub fn gap(&mut self) {
        self.row = (self.row + 1).min(self.area.height);
    }

    /// Takes the next `rows` for something else to draw in.
    pub fn take(&mut self, rows: usize) -> (Rect, &mut Buffer) {
        let rows = (rows.min(self.rows_left())) as u16;
        let area = Rect { y: self.area.y + self.row, height: rows, ..self.area };
        self.row += rows;
        (area, self.buf)
    }

    /// A section's title, a rule, and what the section says of itself.
    pub fn section(&mut self, theme: &Theme, title: &str, caption: &str, style: Style) {
        let columns = self.columns();
        let title_columns = usize::from(title.cell_width());
        let caption = cut(caption, columns.saturating_sub(title_columns + 3));
        let used = title_columns + usize::from(caption.cell_width()) + if caption.is_empty() { 1 } else { 2 };
        let rule = "─".repeat(columns.saturating_sub(used));
        let mut spans = vec![Span::styled(title.to_owned(), style), Span::raw(" "), Span::styled(rule, theme.rule)];
        if !caption.is_empty() {
            spans.extend([Span::raw(" "), Span::styled(caption, theme.dim)]);
        }
        self.line(&Line::from(spans));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tui::theme::ColorDepth;

    fn text(spans: &[Span<'_>]) -> String {
        spans.iter().map(|s| s.content.as_ref()).collect()
    }

    #[test]
    fn a_bar_keeps_its_length_and_shows_what_little_there_is() {
        let mono = Theme::dark(ColorDepth::Mono);
        for (fraction, want) in [
            (0.0, "    "),
            (0.001, "╸   "),
            (0.5, "━━  "),
            (0.6, "━━╸ "),
            (1.0, "━━━━"),
            (7.0, "━━━━"),
            (f64::NAN, "    "),
        ] {
            assert_eq!(text(&bar(&mono, 4, fraction)), want, "{fraction}");
        }
        assert_eq!(text(&bar(&Theme::dark(ColorDepth::True), 4, 0.5)), "━━━━");
    }

    #[test]
    fn what_is_cut_says_so_and_fits() {
        assert_eq!(cut("short", 5), "short");
        assert_eq!(cut("too long", 5), "too …");
        assert_eq!(cut("日本語", 5), "日本…");
        assert_eq!(cut("日本語", 4), "日…");
        assert_eq!(cut("x", 0), "");
    }
}
