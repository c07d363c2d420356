//! The last line: what is going on, and which keys matter now.

use std::time::Instant;

use ratatui::buffer::{Buffer, CellWidth};
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use crate::telemetry::Snapshot;
use crate::tui::app::{App, Engine};
use crate::tui::conversation::TokenHere;
use crate::tui::keys::{Action, Context};
use crate::tui::sanitize::one_line;
use crate::tui::session_list::Mode;
use crate::tui::units::{self, milliseconds};

use super::parts::cut;

/// More of a token's text is not told.
const TOKEN_CHARACTERS: usize = 24;

pub fn status(app: &App, now: Instant, area: Rect, buf: &mut Buffer) {
    let columns = usize::from(area.width);
    let theme = &app.theme;
    let (text, style) = match app.notice() {
        Some(notice) => (notice.to_owned(), theme.warning),
        None => (state(app, now), theme.dim),
    };
    let hints = hints(app);
    let text = match &app.model {
        Some(model)
            if app.notice().is_none()
                && app.picker.is_none()
                && !app.panel.in_text
                && !matches!(app.engine, Engine::Loading { .. }) =>
        {
            let named = format!("{} · {text}", model.name);
            let first = hints.first().map_or(0, |(key, does)| usize::from(key.cell_width()) + does.len() + 3);
            if usize::from(named.cell_width()) + first <= columns { named } else { text }
        }
        _ => text,
    };
    // What goes on comes before what one could do: hints that do not fit are left out from the end.
    let text = cut(&text, columns);
    let mut room = columns.saturating_sub(usize::from(text.cell_width()) + 2);
    let mut spans = Vec::new();
    let mut used = 0;
    for (key, does) in hints {
        let width = usize::from(key.cell_width()) + does.len() + 1 + if spans.is_empty() { 0 } else { 2 };
        if width > room {
            break;
        }
        room -= width;
        used += width;
        if !spans.is_empty() {
            spans.push(Span::raw("  "));
        }
        spans.extend([Span::styled(key, theme.key), Span::styled(format!(" {does}"), theme.dim)]);
    }
    buf.set_line(area.x, area.y, &Line::styled(text, style), area.width);
    buf.set_line(area.x + (columns - used) as u16, area.y, &Line::from(spans), used as u16);
}

fn state(app: &App, now: Instant) -> String {
    let snapshot = &app.gauges.snapshot;
    if app.picker.is_some() {
        return "wayinfer".into();
    }
    if let Some(token) = app.conversation.token().filter(|_| app.panel.in_text) {
        return told(app, &token);
    }
    match &app.engine {
        Engine::Absent => "no model".into(),
        Engine::Gone => "the engine has stopped".into(),
        Engine::Ready if app.dialog.is_some() => "the context is full".into(),
        Engine::Ready if snapshot.loading.is_some() => loading(app),
        Engine::Ready => match context_used(snapshot) {
            Some(used) => format!("ready · {used}"),
            None => "ready".into(),
        },
        Engine::Loading { stopping: true, .. } => "stopping".into(),
        Engine::Loading { path, since, .. } => {
            let name = one_line(&path.file_name().unwrap_or(path.as_os_str()).to_string_lossy());
            format!("opening {name} · {}", units::duration(now.saturating_duration_since(*since)))
        }
        Engine::Replying(reply) if reply.stopping => "stopping".into(),
        Engine::Replying(reply) if reply.text_since.is_some() => match snapshot.generate_tok_s {
            Some(speed) => format!("replying · {} tok/s", units::speed(speed)),
            None => "replying".into(),
        },
        Engine::Replying(_) if snapshot.loading.is_some() => loading(app),
        Engine::Replying(_) => match snapshot.prompt.and_then(|(done, total)| units::percent(done, total)) {
            Some(percent) => format!("reading the prompt · {percent} %"),
            None => "reading the prompt".into(),
        },
    }
}

/// The token that is looked at, and what the pass that read it cost.
fn told(app: &App, token: &TokenHere<'_>) -> String {
    let text: String = token.text.chars().take(TOKEN_CHARACTERS).flat_map(char::escape_debug).collect();
    let more = if token.text.chars().nth(TOKEN_CHARACTERS).is_some() { "…" } else { "" };
    let cost = match app.gauges.timeline.get(token.pass).map(|record| record.cost) {
        None => "its cost is not kept".to_owned(),
        Some(cost) => {
            let waited = cost.stall.map(|stall| format!(", waited {}", milliseconds(stall)));
            let read = cost.read_bytes.map(|bytes| format!(", {} read", units::bytes(bytes)));
            format!("{}{}{}", milliseconds(cost.wall), waited.unwrap_or_default(), read.unwrap_or_default())
        }
    };
    format!("token {} “{text}{more}” · {cost}", token.pass)
}

/// How far the weights are read in that every token needs.
fn loading(app: &App) -> String {
    let snapshot = &app.gauges.snapshot;
    let percent = snapshot.loading.and_then(|(done, total)| units::percent(done, total)).unwrap_or(0);
    let left = app.gauges.loading_left.map(|left| format!(" · about {} left", units::duration(left)));
    format!("reading the weights · {percent} %{}", left.unwrap_or_default())
}

fn context_used(snapshot: &Snapshot) -> Option<String> {
    let percent = units::percent(snapshot.kv_used?, snapshot.kv_capacity?)?;
    Some(format!("context {percent} %"))
}

/// Keys and what they do, the most useful first.
fn hints(app: &App) -> Vec<(String, &'static str)> {
    let actions: &[(Action, &'static str)] = match app.context() {
        Context::Help => &[(Action::Close, "close")],
        Context::Picker if app.picker.as_ref().is_some_and(|p| p.models().is_empty()) => {
            &[(Action::Rescan, "look again"), (Action::Quit, "quit")]
        }
        Context::Picker if app.model.is_some() => {
            &[(Action::Choose, "open"), (Action::Close, "back"), (Action::Rescan, "look again")]
        }
        Context::Picker => &[(Action::Choose, "open"), (Action::Rescan, "look again"), (Action::Quit, "quit")],
        Context::Sessions if app.sessions.as_ref().is_some_and(|list| list.mode != Mode::Browse) => {
            &[(Action::Choose, "rename"), (Action::Close, "leave it")]
        }
        Context::Sessions => &[
            (Action::Choose, "go on"),
            (Action::Close, "back"),
            (Action::RenameSession, "rename"),
            (Action::DeleteSession, "delete"),
        ],
        Context::Confirm => &[(Action::Confirm, "delete"), (Action::Close, "keep")],
        Context::Find => &[(Action::Next, "next"), (Action::Previous, "before"), (Action::Close, "back")],
        Context::Search => &[(Action::Choose, "take"), (Action::Up, "earlier"), (Action::Close, "back")],
        Context::Dialog => &[(Action::DropOldest, "drop"), (Action::Stop, "stop")],
        Context::Replay => &[],
        Context::Panel => &[
            (Action::Previous, "token"),
            (Action::Choose, "zoom"),
            (Action::Freeze, "freeze"),
            (Action::Pin, "keep"),
            (Action::Close, "back"),
            (Action::Help, "help"),
        ],
        Context::Tokens => &[
            (Action::Next, "token"),
            (Action::Choose, "experts"),
            (Action::Pin, "keep"),
            (Action::Close, "back"),
            (Action::Help, "help"),
        ],
        Context::Chat if app.is_busy() => &[(Action::Stop, "stop"), (Action::Queue, "queue"), (Action::Help, "help")],
        Context::Chat => &[(Action::Send, "send"), (Action::Help, "help"), (Action::Newline, "new line")],
    };
    let context = app.context();
    actions.iter().filter_map(|&(action, does)| Some((app.keys.name_of(context, action)?, does))).collect()
}
