//! The list right above the input: completions of a command, or earlier prompts that hold what is looked for.

use ratatui::buffer::{Buffer, CellWidth};
use ratatui::layout::{Position, Rect};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Clear, Widget};

use crate::tui::app::{App, Search};
use crate::tui::conversation::find::{self, Find};
use crate::tui::sanitize::one_line;
use crate::tui::units;

use super::PROMPT_COLUMNS;
use super::parts::cut;

/// More rows are looked through with the arrow keys.
const MOST_ROWS: usize = 8;

/// Draws the list, if there is one, over the end of `area`.
pub fn popup(app: &App, area: Rect, buf: &mut Buffer) {
    let (rows, chosen): (Vec<(String, String)>, usize) = if let Some(search) = &app.search {
        (search.found.iter().map(|text| (one_line(text), String::new())).collect(), search.chosen)
    } else if let Some((lines, chosen)) = app.suggestions() {
        (lines.into_iter().map(|line| (one_line(&line.name), line.help.to_owned())).collect(), chosen)
    } else {
        return;
    };
    let visible = rows.len().min(MOST_ROWS).min(usize::from(area.height));
    let first = (chosen + 1).saturating_sub(visible);
    let y = area.bottom() - visible as u16;
    Clear.render(Rect { y, height: visible as u16, ..area }, buf);
    let columns = usize::from(area.width);
    let name_columns = rows.iter().map(|(name, _)| usize::from(name.cell_width())).max().unwrap_or(0).min(columns);
    for ((i, (name, help)), y) in rows.iter().enumerate().skip(first).take(visible).zip(y..) {
        let name = cut(name, columns.saturating_sub(2));
        let fill = (name_columns + 2).saturating_sub(usize::from(name.cell_width()));
        let room = columns.saturating_sub(1 + usize::from(name.cell_width()) + fill);
        let help = if room < 8 { String::new() } else { cut(help, room) };
        let text = format!(" {name}{}{help}", " ".repeat(fill));
        let line = if i == chosen {
            let width = usize::from(text.as_str().cell_width());
            Line::styled(format!("{text}{}", " ".repeat(columns.saturating_sub(width))), app.theme.selected)
        } else {
            Line::from(vec![
                Span::styled(format!(" {name}{}", " ".repeat(fill)), app.theme.key),
                Span::styled(help, app.theme.dim),
            ])
        };
        buf.set_line(area.x, y, &line, area.width);
    }
}

/// What is looked for among earlier prompts, in the place of the input. Says where the cursor stands.
pub fn search(app: &App, search: &Search, area: Rect, buf: &mut Buffer) -> Position {
    let n = search.found.len();
    let count = if n == 0 { "no prompt holds it".to_owned() } else { units::plural(n, "earlier prompt") };
    query_line(app, "look for ", &search.query, &count, area, buf)
}

/// What is looked for in the conversation, in the place of the input. Says where the cursor stands.
pub fn find(app: &App, find: &Find, area: Rect, buf: &mut Buffer) -> Position {
    let count = match find.count() {
        _ if find.query.is_empty() => String::new(),
        (_, 0) => "not found".to_owned(),
        (at, n) if n >= find::MOST => format!("{at}/{n} and more"),
        (at, n) => format!("{at}/{n}"),
    };
    query_line(app, "find ", &find.query, &count, area, buf)
}

fn query_line(app: &App, head: &str, query: &str, count: &str, area: Rect, buf: &mut Buffer) -> Position {
    buf.set_stringn(area.x, area.y, head, usize::from(area.width), app.theme.you);
    let room = usize::from(area.width).saturating_sub(head.len() + usize::from(PROMPT_COLUMNS));
    // The end of a long text is where one types.
    let mut query = query;
    while usize::from(query.cell_width()) > room {
        query = &query[query.chars().next().map_or(0, char::len_utf8)..];
    }
    let x = area.x + head.len() as u16;
    let (end, _) = buf.set_stringn(x.min(area.right()), area.y, query, room, app.theme.text);
    let left = usize::from(area.right().saturating_sub(end + 3));
    if left >= count.len().min(8) {
        buf.set_stringn(end + 3, area.y, cut(count, left), left, app.theme.dim);
    }
    Position::new(end.min(area.right().saturating_sub(1)), area.y)
}
