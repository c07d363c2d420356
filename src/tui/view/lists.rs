//! What stands over or in place of the conversation: the list of models, help, the question about a full context.

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, BorderType, Clear, Padding, Widget};

use crate::tui::app::App;
use crate::tui::commands;
use crate::tui::keys::{Action, Context};
use crate::tui::picker::{Candidate, Picker};
use crate::tui::sanitize::{one_line, sanitize};
use crate::tui::units;
use crate::tui::wrap::Wrapped;

use super::parts::{Pen, cut};

pub fn picker(app: &App, area: Rect, buf: &mut Buffer) {
    let Some(picker) = &app.picker else { return };
    let theme = &app.theme;
    let area = Rect { x: area.x + 2, width: area.width.saturating_sub(4), ..area };
    let mut pen = Pen::new(area, buf);
    let columns = pen.columns();
    pen.gap();
    pen.line(&Line::styled("Choose a model", theme.title));
    let folder = one_line(&app.models_dir.to_string_lossy());
    pen.line(&Line::styled(cut(&folder, columns), theme.dim));
    pen.gap();
    if let Some(error) = &picker.error {
        paragraph(&mut pen, &format!("It could not be opened. {error}"), theme.error);
        pen.gap();
    }
    match &picker.scan {
        None => pen.line(&Line::styled("Looking for models", theme.dim)),
        Some(scan) => {
            if let Some(error) = &scan.error {
                paragraph(&mut pen, &format!("The folder could not be read: {error}"), theme.error);
                pen.gap();
            }
            if scan.models.is_empty() {
                no_models(app, &mut pen);
                return;
            }
            rows(app, picker, &mut pen);
            if scan.cut {
                pen.line(&Line::styled("There are more: the folder is too large or too deep to show all.", theme.dim));
            }
        }
    }
}

fn rows(app: &App, picker: &Picker, pen: &mut Pen<'_>) {
    let columns = pen.columns();
    // The last rows are the chosen one's, where its header has been read.
    let below = if picker.outlooks.is_empty() { 1 } else { 3 };
    let visible = pen.rows_left().saturating_sub(below).max(1);
    let first = (picker.chosen + 1).saturating_sub(visible);
    for (i, model) in picker.models().iter().enumerate().skip(first).take(visible) {
        let mut line = row(app, picker, model, columns);
        if i == picker.chosen {
            line = Line::styled(line.to_string(), app.theme.selected);
        }
        pen.line(&line);
    }
    let outlook = picker.chosen().and_then(|model| picker.outlook(model));
    if let Some(outlook) = outlook.filter(|_| pen.rows_left() > 1) {
        let (words, style) = match outlook {
            Ok(outlook) => (outlook.words(), app.theme.dim),
            Err(why) => (format!("it cannot be read: {why}"), app.theme.warning),
        };
        pen.gap();
        pen.line(&Line::styled(cut(&format!(" {words}"), columns), style));
    }
}

/// Name, folder or what is missing, and the size at the right edge.
fn row<'a>(app: &App, picker: &Picker, model: &Candidate, columns: usize) -> Line<'a> {
    let theme = &app.theme;
    let size = format!("{:>9} ", units::bytes(model.bytes));
    let note = match model.splits {
        Some((there, all)) if there < all => format!("{there} of {all} files"),
        Some((_, all)) => units::plural(all, "file"),
        None => String::new(),
    };
    let kind = match picker.outlook(model) {
        Some(Ok(outlook)) => format!("{} {}", outlook.architecture, outlook.format),
        _ => String::new(),
    };
    let beside: Vec<&str> =
        [kind.as_str(), model.folder.as_str(), note.as_str()].into_iter().filter(|s| !s.is_empty()).collect();
    let room = columns.saturating_sub(size.len() + 3);
    let name = cut(&model.name, room);
    let beside = cut(&beside.join("  "), room.saturating_sub(Span::raw(name.as_str()).width()));
    let used = Span::raw(name.as_str()).width() + Span::raw(beside.as_str()).width();
    let fill = room.saturating_sub(used);
    Line::from(vec![
        Span::raw(" "),
        Span::styled(name, theme.text),
        Span::raw("  "),
        Span::styled(beside, theme.dim),
        Span::raw(" ".repeat(fill)),
        Span::styled(size, theme.dim),
    ])
}

fn no_models(app: &App, pen: &mut Pen<'_>) {
    let theme = &app.theme;
    let folder = one_line(&app.models_dir.to_string_lossy());
    let key = app.keys.name_of(Context::Picker, Action::Rescan).unwrap_or_default();
    paragraph(pen, "There are no models here yet.", theme.text);
    pen.gap();
    let how = "Models are files in GGUF format. Their makers and others publish them on model hubs; a good first one is an \
               instruct model of 1 to 4 billion parameters in Q4_K_M, about 1 to 3 GB.";
    paragraph(pen, how, theme.dim);
    pen.gap();
    paragraph(pen, &format!("Put one into {folder} and press {key},"), theme.dim);
    paragraph(pen, "or start with a file from anywhere:", theme.dim);
    pen.gap();
    pen.line(&Line::styled("  wayinfer PATH.gguf", theme.key));
}

pub fn paragraph(pen: &mut Pen<'_>, text: &str, style: Style) {
    let text = sanitize(text);
    let mut wrapped = Wrapped::new(pen.columns() as u16);
    wrapped.extend(&text);
    for i in 0..wrapped.len() {
        pen.line(&Line::styled(&text[wrapped.line(i)], style));
    }
}

/// A box in the middle of `area`, cleared, and the room in it.
pub fn window(app: &App, title: &str, columns: u16, rows: u16, area: Rect, buf: &mut Buffer) -> Rect {
    let (columns, rows) = (Constraint::Length(columns + 4), Constraint::Length(rows + 2));
    let outer = area.centered(columns, rows);
    Clear.render(outer, buf);
    let block = Block::bordered()
        .border_type(BorderType::Rounded)
        .border_style(app.theme.rule)
        .title(Line::styled(format!(" {title} "), app.theme.title))
        .padding(Padding::horizontal(1));
    let inner = block.inner(outer);
    block.render(outer, buf);
    inner
}

pub fn help(app: &mut App, area: Rect, buf: &mut Buffer) {
    let Some(top) = app.help else { return };
    let context = app.behind_help();
    let mut lines: Vec<(String, &str)> = app.keys.help(context).collect();
    if context == Context::Chat {
        lines.extend([(String::new(), ""), ("Commands".into(), "typed like a message; Tab completes")]);
        lines.extend(commands::COMMANDS.iter().map(|command| (commands::synopsis(command), command.help)));
    }
    let key_columns = lines.iter().map(|(k, _)| Span::raw(k.as_str()).width()).max().unwrap_or(0);
    let text_columns = lines.iter().map(|(_, t)| Span::raw(*t).width()).max().unwrap_or(0);
    let inner = window(app, "Keys", (key_columns + 2 + text_columns) as u16, lines.len() as u16, area, buf);
    let top = top.min(lines.len().saturating_sub(usize::from(inner.height)));
    app.help = Some(top);
    if lines.len() > top + usize::from(inner.height) {
        let key = app.keys.name_of(Context::Help, Action::PageDown).unwrap_or_default();
        let more = format!(" {key}: more ");
        let x = inner.right().saturating_sub(more.len() as u16);
        buf.set_stringn(x, inner.bottom(), &more, more.len(), app.theme.dim);
    }
    // In a narrow window the first key is enough.
    let narrow = usize::from(inner.width) < key_columns + 2 + text_columns.min(40);
    let key_columns = if narrow { 8 } else { key_columns };
    let mut pen = Pen::new(inner, buf);
    for (keys, does) in &lines[top..] {
        let keys = if narrow { keys.split("  ").next().unwrap_or(keys) } else { keys };
        let fill = " ".repeat((key_columns + 2).saturating_sub(Span::raw(keys).width()).max(1));
        let does = cut(does, pen.columns().saturating_sub(Span::raw(keys).width() + fill.len()));
        pen.line(&Line::from(vec![
            Span::styled(keys.to_owned(), app.theme.key),
            Span::raw(fill),
            Span::styled(does, app.theme.text),
        ]));
    }
}

pub fn context_full(app: &App, area: Rect, buf: &mut Buffer) {
    let Some(dialog) = app.dialog else { return };
    let theme = &app.theme;
    let key = |action| app.keys.name_of(Context::Dialog, action).unwrap_or_default();
    let mut what = format!("The conversation takes {} tokens; the context holds {}.", dialog.needed, dialog.capacity);
    let mut choices = Vec::new();
    if let Some(turns) = dialog.droppable_turns {
        what.push_str(" Dropped turns are no longer sent, but stay here to be read.");
        let oldest = if turns == 1 { "turn".into() } else { format!("{turns} turns") };
        choices.push((key(Action::DropOldest), format!("drop the oldest {oldest}")));
        choices.push((key(Action::Stop), "stop, and do not send".into()));
    } else {
        what.push_str(" The last message is too long by itself: it is taken back, to be shortened.");
        choices.push((key(Action::Stop), "take it back".into()));
    }
    let columns = area.width.saturating_sub(4).min(60);
    let mut wrapped = Wrapped::new(columns);
    wrapped.extend(&what);
    let rows = wrapped.len() + 1 + choices.len();
    let inner = window(app, "The context is full", columns, rows as u16, area, buf);
    let mut pen = Pen::new(inner, buf);
    // Where not all fits, the choices do.
    for i in 0..wrapped.len().min(pen.rows_left().saturating_sub(choices.len())) {
        pen.line(&Line::styled(&what[wrapped.line(i)], theme.text));
    }
    if pen.rows_left() > choices.len() {
        pen.gap();
    }
    for (key, does) in choices {
        let text = cut(&does, pen.columns().saturating_sub(3));
        pen.line(&Line::from(vec![Span::styled(format!("{key:<3}"), theme.key), Span::styled(text, theme.text)]));
    }
}
