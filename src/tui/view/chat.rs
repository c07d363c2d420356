//! The left side: the conversation, what is queued, the input. Text stands without borders or margins, so that copying it
//! copies nothing else.

use std::time::{Duration, Instant};

use ratatui::buffer::{Buffer, CellWidth};
use ratatui::layout::{Position, Rect};
use ratatui::style::Style;
use ratatui::text::{Line as TextLine, Span};

use crate::tui::app::{App, Engine, Reply};
use crate::tui::conversation::{Item, Kind, Line, Standing};
use crate::tui::keys::{Action, Context};
use crate::tui::markdown::{Ink, Tone};
use crate::tui::sanitize::one_line;
use crate::tui::theme::Theme;
use crate::tui::{Motion, units};

use super::lists::paragraph;
use super::parts::{Pen, bar, cut};
use super::{MAX_QUEUE_ROWS, PROMPT_COLUMNS};

/// Before this much time an estimate is a guess.
const ESTIMATE_AFTER: Duration = Duration::from_secs(1);

pub fn conversation(app: &App, now: Instant, area: Rect, buf: &mut Buffer) {
    if app.conversation.is_empty() {
        welcome(app, area, buf);
        return;
    }
    let live = app.reply().map(|reply| (reply, app.conversation.items()[reply.item].id));
    for (line, y) in app.conversation.visible().zip(area.top()..area.bottom()) {
        let width = area.width;
        match line {
            Line::Label(item) => drop(buf.set_line(area.x, y, &label(&app.theme, item), width)),
            Line::Text(item, (number, line), row) => {
                let mut x = area.x;
                for (text, tone) in row.stretches() {
                    let style = toned(&app.theme, item, tone);
                    x = buf.set_stringn(x, y, text, usize::from(area.right() - x), style).0;
                }
                for (part, is_here) in app.conversation.found_in(number, line) {
                    let style = if is_here { app.theme.found_here } else { app.theme.found };
                    mark(row.text, part, style, Rect { y, height: 1, ..area }, buf);
                }
                if let Some(part) = app.conversation.token_in(number, line) {
                    mark(row.text, part, app.theme.found_here, Rect { y, height: 1, ..area }, buf);
                }
            }
            Line::Foot(item) => {
                let line = match live {
                    Some((reply, id)) if item.id == id => live_foot(app, reply, now, usize::from(width)),
                    _ => TextLine::styled(cut(&item.foot, usize::from(width)), app.theme.dim),
                };
                buf.set_line(area.x, y, &line, width);
            }
            Line::Gap => {}
        }
    }
}

fn welcome(app: &App, area: Rect, buf: &mut Buffer) {
    let theme = &app.theme;
    let key = |action| app.keys.name_of(Context::Chat, action).unwrap_or_default();
    let what = match &app.engine {
        Engine::Loading { .. } => "The model is being opened. You can type already.",
        Engine::Ready => "Ask something.",
        Engine::Absent | Engine::Replying(_) | Engine::Gone => "",
    };
    let hints = [
        (key(Action::Send), "send"),
        (key(Action::Newline), "new line"),
        (key(Action::Stop), "stop the reply"),
        (key(Action::Help), "help"),
    ];
    let mut pen = Pen::new(area, buf);
    paragraph(&mut pen, what, theme.text);
    pen.gap();
    for (key, does) in hints {
        pen.line(&TextLine::from(vec![Span::styled(format!("{key:<8}"), theme.key), Span::styled(does, theme.dim)]));
    }
}

fn label<'a>(theme: &Theme, item: &'a Item) -> TextLine<'a> {
    let style = if item.kind == Kind::User { theme.you } else { theme.reply };
    match item.standing {
        Standing::Sent if !item.mark.is_empty() => TextLine::from(vec![
            Span::styled(item.label.as_str(), style),
            Span::styled(format!("  {}", item.mark), theme.dim),
        ]),
        Standing::Sent => TextLine::styled(item.label.as_str(), style),
        Standing::Dropped => TextLine::from(vec![
            Span::styled(item.label.as_str(), theme.dim),
            Span::styled("  no longer sent", theme.dim),
        ]),
        Standing::Withdrawn => TextLine::styled(item.label.as_str(), theme.dim),
    }
}

fn text_style(theme: &Theme, item: &Item) -> Style {
    match (item.kind, item.standing) {
        (Kind::User | Kind::Reply, Standing::Sent) => theme.text,
        (Kind::User | Kind::Reply, Standing::Dropped | Standing::Withdrawn) | (Kind::Note, _) => theme.dim,
        (Kind::Warning, _) => theme.warning,
        (Kind::Error, _) => theme.error,
    }
}

/// Draws a part of a row otherwise, or the cell at an empty one.
fn mark(text: &str, part: std::ops::Range<usize>, style: Style, row: Rect, buf: &mut Buffer) {
    let end = part.end.min(text.len());
    let (Some(before), Some(found)) = (text.get(..part.start), text.get(part.start..end)) else { return };
    let x = row.x.saturating_add(before.cell_width());
    let found = Rect { x, width: found.cell_width().max(1), ..row };
    buf.set_style(found.intersection(row), style);
}

/// How a stretch of an item's text is drawn.
fn toned(theme: &Theme, item: &Item, tone: Tone) -> Style {
    let style = text_style(theme, item);
    let ink = match tone.ink {
        Ink::Text => return style.add_modifier(tone.modifier),
        // What is not sent any more is dim as a whole.
        _ if item.standing != Standing::Sent => return style.add_modifier(tone.modifier),
        Ink::Heading => theme.heading,
        Ink::Code => theme.code,
        Ink::Keyword => theme.code_keyword,
        Ink::Literal => theme.code_string,
        Ink::Comment => theme.code_comment,
        Ink::Number => theme.code_number,
        Ink::Name => theme.code_name,
        Ink::Quote => theme.quote,
        Ink::Link => theme.link,
        Ink::Marker => theme.list_marker,
        Ink::Dim => theme.dim,
        Ink::Thinking => theme.thinking,
    };
    style.patch(ink).add_modifier(tone.modifier)
}

/// The line below the reply under way.
fn live_foot<'a>(app: &App, reply: &Reply, now: Instant, columns: usize) -> TextLine<'a> {
    let (theme, snapshot) = (&app.theme, &app.gauges.snapshot);
    let elapsed = now.saturating_duration_since(reply.since);
    if reply.stopping {
        return TextLine::styled("stopping", theme.warning);
    }
    if let Some(since) = reply.text_since {
        let mut parts = Vec::new();
        parts.extend(snapshot.generate_tok_s.map(|s| format!("{} tok/s", units::speed(s))));
        parts.push(units::duration(now.saturating_duration_since(since)));
        return TextLine::styled(parts.join(" · "), theme.dim);
    }
    let Some((done, total)) = snapshot.prompt.filter(|p| p.1 > 0) else {
        return TextLine::styled(format!("reading the prompt · {}", units::duration(elapsed)), theme.dim);
    };
    let left = estimate(elapsed, done, total).map(|left| format!(" · about {} left", units::duration(left)));
    let left = left.unwrap_or_default();
    if app.motion == Motion::Off {
        return TextLine::styled(format!("reading the prompt · {done} of {total} tokens{left}"), theme.dim);
    }
    // As many words as leave room for a bar.
    let words = [
        ("reading the prompt ", format!(" {done} of {total} tokens{left}")),
        ("prompt ", format!(" {done} of {total}{left}")),
        ("prompt ", format!(" {done} of {total}")),
    ];
    for (head, tail) in words {
        let room = columns.saturating_sub(head.len() + tail.chars().count()).min(24);
        if room >= 6 {
            let mut spans = vec![Span::styled(head, theme.dim)];
            spans.extend(bar(theme, room, done as f64 / total as f64));
            spans.push(Span::styled(tail, theme.dim));
            return TextLine::from(spans);
        }
    }
    TextLine::styled(format!("{done} of {total}"), theme.dim)
}

/// The time left, should the rest go as what is done.
fn estimate(elapsed: Duration, done: u64, total: u64) -> Option<Duration> {
    if done == 0 || elapsed < ESTIMATE_AFTER || done >= total {
        return None;
    }
    Duration::try_from_secs_f64(elapsed.as_secs_f64() * (total - done) as f64 / done as f64).ok()
}

pub fn queue(app: &App, area: Rect, buf: &mut Buffer) {
    let hidden = app.queue.len().saturating_sub(usize::from(area.height));
    for (i, (text, y)) in app.queue.iter().skip(hidden).zip(area.top()..area.bottom()).enumerate() {
        let head = if i == 0 && hidden > 0 { format!("queued, {hidden} before ") } else { "queued ".to_owned() };
        let room = usize::from(area.width).saturating_sub(head.chars().count() + 1);
        let line = TextLine::from(vec![
            Span::styled(head, app.theme.key),
            Span::styled(cut(&one_line(text), room), app.theme.dim),
        ]);
        buf.set_line(area.x, y, &line, area.width);
    }
    debug_assert!(usize::from(area.height) <= MAX_QUEUE_ROWS);
}

/// The rule above the input; it says what lies below the view.
pub fn rule(app: &App, area: Rect, buf: &mut Buffer) {
    let columns = usize::from(area.width);
    buf.set_stringn(area.x, area.y, "─".repeat(columns), columns, app.theme.rule);
    if app.editing.is_some() {
        buf.set_stringn(area.x + 2, area.y, " put otherwise ", columns.saturating_sub(2), app.theme.key);
    }
    let Some(below) = app.conversation.below() else { return };
    let key = app.keys.name_of(Context::Chat, Action::ScrollPageDown).unwrap_or_default();
    let (text, style) = if below.new_lines > 0 {
        (format!(" {} below ", units::plural(below.new_lines, "new line")), app.theme.key)
    } else {
        (format!(" {} below · {key} ", units::plural(below.lines, "line")), app.theme.dim)
    };
    let width = text.chars().count().min(columns) as u16;
    let x = area.x + (area.width - width).saturating_sub(2);
    buf.set_stringn(x, area.y, text, usize::from(width), style);
}

/// Draws the input and says where the cursor stands.
pub fn input(app: &App, area: Rect, buf: &mut Buffer) -> Position {
    buf.set_stringn(area.x, area.y, "›", 1, app.theme.you);
    let text = Rect { x: area.x + PROMPT_COLUMNS, width: area.width - PROMPT_COLUMNS - 1, ..area };
    app.composer.render(text, buf)
}
