//! The list of conversations, and the question before one is deleted.

use ratatui::buffer::{Buffer, CellWidth};
use ratatui::layout::{Position, Rect};
use ratatui::text::{Line, Span};

use crate::transcript::library::Listed;
use crate::tui::app::App;
use crate::tui::keys::{Action, Context};
use crate::tui::sanitize::one_line;
use crate::tui::session_list::{Mode, SessionList};
use crate::tui::units;
use crate::tui::wrap::Wrapped;

use super::lists::{paragraph, window};
use super::parts::{Pen, cut};

/// Draws the list and says where the cursor stands.
pub fn list(app: &App, list: &SessionList, area: Rect, buf: &mut Buffer) -> Position {
    let theme = &app.theme;
    let area = Rect { x: area.x + 2, width: area.width.saturating_sub(4), ..area };
    let mut pen = Pen::new(area, buf);
    let columns = pen.columns();
    pen.gap();
    pen.line(&Line::styled("Conversations", theme.title));
    let (head, text) = match &list.mode {
        Mode::Browse => ("look for ", &list.query),
        Mode::Naming(name) => ("call it ", name),
    };
    let shown = cut(text, columns.saturating_sub(head.len() + 1));
    let cursor = Position::new(
        (area.x + head.len() as u16 + shown.as_str().cell_width()).min(area.right()),
        (area.y + 2).min(area.bottom().saturating_sub(1)),
    );
    pen.line(&Line::from(vec![Span::styled(head, theme.you), Span::styled(shown, theme.text)]));
    pen.gap();
    match &list.found {
        None => pen.line(&Line::styled("Looking", theme.dim)),
        Some(Err(error)) => paragraph(&mut pen, error, theme.error),
        Some(Ok(rows)) if rows.is_empty() => {
            let none = if list.query.is_empty() { "There are none yet." } else { "None holds this." };
            pen.line(&Line::styled(none, theme.text));
        }
        Some(Ok(rows)) => {
            // The chosen one has a second line.
            let visible = pen.rows_left().saturating_sub(1).max(1);
            let first = (list.chosen + 1).saturating_sub(visible);
            for (i, listed) in rows.iter().enumerate().skip(first).take(visible) {
                row(app, listed, i == list.chosen, &mut pen);
            }
        }
    }
    cursor
}

fn row(app: &App, listed: &Listed, is_chosen: bool, pen: &mut Pen<'_>) {
    let theme = &app.theme;
    let columns = pen.columns();
    let is_open = app.transcript.as_ref() == Some(&listed.path);
    let (name, when, about) = match &listed.what {
        Ok(summary) => {
            let models = summary.models.iter().map(|m| one_line(m)).collect::<Vec<_>>().join(", ");
            let mut about = vec![units::plural(summary.turns, "turn")];
            about.extend((!models.is_empty()).then_some(models));
            about.extend(is_open.then(|| "open now".to_owned()));
            about.extend((!listed.excerpt.is_empty()).then(|| format!("“{}”", one_line(&listed.excerpt))));
            let name = if summary.name.is_empty() { "(nothing said)" } else { &summary.name };
            (one_line(name), summary.local_time(), about.join(" · "))
        }
        Err(why) => (one_line(&listed.id()), "cannot be read".to_owned(), one_line(why)),
    };
    let room = columns.saturating_sub(when.len() + 2);
    let name = cut(&name, room);
    let fill = " ".repeat(columns.saturating_sub(usize::from(name.as_str().cell_width()) + when.len()));
    let name_style = if listed.what.is_ok() { theme.text } else { theme.dim };
    let line = Line::from(vec![Span::styled(name, name_style), Span::raw(fill), Span::styled(when, theme.dim)]);
    if is_chosen {
        pen.line(&Line::styled(line.to_string(), theme.selected));
        pen.line(&Line::styled(format!("  {}", cut(&about, columns.saturating_sub(2))), theme.dim));
    } else {
        pen.line(&line);
    }
}

/// Asks whether a conversation is to be deleted.
pub fn confirm(app: &App, area: Rect, buf: &mut Buffer) {
    let Some(confirm) = &app.confirm else { return };
    let theme = &app.theme;
    let key = |action| app.keys.name_of(Context::Confirm, action).unwrap_or_default();
    let what = format!("“{}” is deleted for good, with its cache.", one_line(&confirm.name));
    let columns = area.width.saturating_sub(4).min(60);
    let mut wrapped = Wrapped::new(columns);
    wrapped.extend(&what);
    let inner = window(app, "Delete it?", columns, wrapped.len() as u16 + 3, area, buf);
    let mut pen = Pen::new(inner, buf);
    for i in 0..wrapped.len().min(pen.rows_left().saturating_sub(2)) {
        pen.line(&Line::styled(&what[wrapped.line(i)], theme.text));
    }
    if pen.rows_left() > 2 {
        pen.gap();
    }
    for (action, does) in [(Action::Confirm, "delete it"), (Action::Close, "keep it")] {
        pen.line(&Line::from(vec![
            Span::styled(format!("{:<3}", key(action)), theme.key),
            Span::styled(does, theme.text),
        ]));
    }
}
