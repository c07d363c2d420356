//! Tables: cells in, rows out. Columns share the width by what they hold; cells wrap. Where columns would get too narrow to
//! read, each row of the table becomes lines of `heading: cell`.

use std::ops::Range;

use pulldown_cmark::Alignment;
use ratatui::buffer::CellWidth;

use super::runs::Runs;
use super::{Ink, Join};

/// A column is not made narrower than this.
const NARROWEST: usize = 5;
const BETWEEN: &str = " │ ";
const BETWEEN_CELLS: usize = 3;

#[derive(Debug, Default)]
pub struct Table {
    aligned: Vec<Alignment>,
    /// The first is the heading.
    rows: Vec<Vec<Runs>>,
}

impl Table {
    pub fn new(aligned: Vec<Alignment>) -> Table {
        Table { aligned, rows: Vec::new() }
    }

    pub fn begin_row(&mut self) {
        self.rows.push(Vec::new());
    }

    /// Whether cells that come now are headings.
    pub fn in_heading(&self) -> bool {
        self.rows.len() == 1
    }

    pub fn push(&mut self, cell: Runs) {
        if let Some(row) = self.rows.last_mut() {
            row.push(cell);
        }
    }

    /// The table in rows of at most `width` cells.
    pub fn layout(&self, width: usize) -> Vec<Runs> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let between = BETWEEN_CELLS * columns.saturating_sub(1);
        if width < between + NARROWEST * columns {
            return self.as_list();
        }
        let widths = share(width - between, &self.natural_widths(columns));
        let mut out = Vec::new();
        for (i, row) in self.rows.iter().enumerate() {
            self.push_row(row, &widths, &mut out);
            if i == 0 {
                let lines: Vec<String> = widths.iter().map(|&w| "─".repeat(w)).collect();
                let mut rule = Runs::default();
                rule.push(&lines.join("─┼─"), Ink::Dim.into(), row_source(row));
                out.push(rule);
            }
        }
        out
    }

    fn natural_widths(&self, columns: usize) -> Vec<usize> {
        let mut widths = vec![1; columns];
        for row in &self.rows {
            for (cell, width) in row.iter().zip(&mut widths) {
                let widest = cell.text.split('\n').map(|line| usize::from(line.cell_width())).max();
                *width = (*width).max(widest.unwrap_or(0));
            }
        }
        widths
    }

    fn push_row(&self, row: &[Runs], widths: &[usize], out: &mut Vec<Runs>) {
        let lines: Vec<Vec<(Range<usize>, Join)>> = row.iter().zip(widths).map(|(cell, &w)| cell.wrap(w)).collect();
        let height = lines.iter().map(Vec::len).max().unwrap_or(0).max(1);
        for line in 0..height {
            let mut runs = Runs::default();
            for (column, &width) in widths.iter().enumerate() {
                let cell = row.get(column);
                let part = lines.get(column).and_then(|lines| lines.get(line)).map_or(0..0, |line| line.0.clone());
                let text = cell.map_or("", |cell| &cell.text[part.clone()]);
                let free = width.saturating_sub(usize::from(text.cell_width()));
                let left = match self.aligned.get(column) {
                    Some(Alignment::Right) => free,
                    Some(Alignment::Center) => free / 2,
                    _ => 0,
                };
                let source = cell.map_or_else(|| row_source(row), |cell| cell.source(part.start));
                if column > 0 {
                    runs.push(BETWEEN, Ink::Dim.into(), source);
                }
                runs.push(&" ".repeat(left), Ink::Text.into(), source);
                if let Some(cell) = cell {
                    push_part(&mut runs, cell, &part);
                }
                if column + 1 < widths.len() {
                    runs.push(&" ".repeat(free - left), Ink::Text.into(), source);
                }
            }
            out.push(runs);
        }
    }

    fn as_list(&self) -> Vec<Runs> {
        let Some((heading, rows)) = self.rows.split_first() else { return Vec::new() };
        let mut out = Vec::new();
        if rows.is_empty() {
            out.extend(heading.iter().cloned());
        }
        for (i, row) in rows.iter().enumerate() {
            if i > 0 {
                out.push(Runs::default());
            }
            // The parser fills rows up to the heading's length; empty cells say nothing here.
            for (column, cell) in row.iter().enumerate().filter(|(_, cell)| !cell.text.is_empty()) {
                let mut runs = Runs::default();
                if let Some(heading) = heading.get(column).filter(|heading| !heading.text.is_empty()) {
                    push_part(&mut runs, heading, &(0..heading.text.len()));
                    runs.push(": ", Ink::Dim.into(), cell.source(0));
                }
                push_part(&mut runs, cell, &(0..cell.text.len()));
                out.push(runs);
            }
        }
        out
    }
}

fn row_source(row: &[Runs]) -> usize {
    row.first().map_or(0, |cell| cell.source(0))
}

fn push_part(runs: &mut Runs, cell: &Runs, part: &Range<usize>) {
    let mut at = part.start;
    for (end, tone) in cell.tones_of(part, part.start) {
        runs.push(&cell.text[at..end as usize], tone, cell.source(at));
        at = end as usize;
    }
}

/// Shares `width` among columns: those that need less than an equal share get what they need, the others the rest equally.
fn share(width: usize, natural: &[usize]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..natural.len()).collect();
    order.sort_by_key(|&column| natural[column]);
    let mut widths = vec![0; natural.len()];
    let mut left = width;
    for (i, &column) in order.iter().enumerate() {
        let fair = left / (natural.len() - i);
        widths[column] = natural[column].min(fair).max(1);
        left -= widths[column].min(left);
    }
    widths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_that_need_little_leave_the_rest_to_the_others() {
        assert_eq!(share(30, &[3, 40, 5]), [3, 22, 5]);
        assert_eq!(share(30, &[3, 4, 5]), [3, 4, 5]);
        assert_eq!(share(20, &[40, 40]), [10, 10]);
    }
}
