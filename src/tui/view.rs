//! What a frame shows: the state in, cells out. The layout is settled first, since text is
//! wrapped for it; drawing then changes nothing.

mod chat;
mod lists;
pub mod panel;
mod parts;
mod popup;
mod sessions;
mod status;

use std::time::Instant;

use ratatui::Frame;
use ratatui::layout::{Position, Rect};
use ratatui::text::Line;

use super::app::App;
use super::keys::Context;
use super::panel::Preset;

/// Columns and rows from which on the panel is shown.
pub const PANEL_NEEDS: (u16, u16) = (80, 16);
/// Columns and rows below which nothing but a note is shown.
const SMALLEST: (u16, u16) = (24, 6);
/// The input grows to a third of the screen, and no further than this.
const MAX_INPUT_ROWS: u16 = 10;
const MAX_QUEUE_ROWS: usize = 3;
/// The input's prompt, and the column behind its last character, where the cursor may stand.
const PROMPT_COLUMNS: u16 = 2;

/// Where the parts are.
struct Layout {
    /// The conversation, or a list in its place.
    main: Rect,
    queue: Rect,
    rule: Rect,
    input: Rect,
    panel: Option<Rect>,
    status: Rect,
}

/// Draws everything.
pub fn draw(frame: &mut Frame, app: &mut App, now: Instant) {
    draw_parts(frame, app, now);
    app.theme.finish(frame.buffer_mut());
}

fn draw_parts(frame: &mut Frame, app: &mut App, now: Instant) {
    let area = frame.area();
    if area.width < SMALLEST.0 || area.height < SMALLEST.1 {
        too_small(frame, app, area);
        return;
    }
    let layout = settle(app, area);
    let buf = frame.buffer_mut();
    let mut cursor = None;
    if let Some(list) = &app.sessions {
        cursor = Some(sessions::list(app, list, layout.main, buf));
    } else if app.picker.is_some() {
        lists::picker(app, layout.main, buf);
    } else {
        chat::conversation(app, now, layout.main, buf);
        chat::queue(app, layout.queue, buf);
        chat::rule(app, layout.rule, buf);
        popup::popup(app, layout.main, buf);
        cursor = Some(match (&app.search, app.conversation.find()) {
            (Some(search), _) => popup::search(app, search, layout.input, buf),
            (None, Some(find)) => popup::find(app, find, layout.input, buf),
            (None, None) => chat::input(app, layout.input, buf),
        });
        if let Some(panel) = layout.panel {
            panel::panel(app, panel, buf);
        }
        if app.dialog.is_some() {
            let over = Rect { height: area.height - 1, ..layout.main };
            lists::context_full(app, over, buf);
        }
    }
    if app.confirm.is_some() {
        sessions::confirm(app, Rect { height: area.height - 1, ..layout.main }, buf);
        cursor = None;
    }
    status::status(app, now, layout.status, buf);
    if app.help.is_some() {
        lists::help(app, Rect { height: area.height - 1, ..area }, buf);
        cursor = None;
    }
    if let Some(position) =
        cursor.filter(|_| app.dialog.is_none() && !matches!(app.context(), Context::Panel | Context::Tokens))
    {
        frame.set_cursor_position(position);
    }
}

/// Divides the screen and wraps the text for its part.
fn settle(app: &mut App, area: Rect) -> Layout {
    let rows = area.height - 1;
    let status = Rect { y: area.y + rows, height: 1, ..area };
    app.panel_fits = area.width >= PANEL_NEEDS.0 && area.height >= PANEL_NEEDS.1;
    if app.picker.is_some() || app.sessions.is_some() {
        let main = Rect { height: rows, ..area };
        app.page = usize::from(rows.saturating_sub(6).max(1));
        return Layout { main, queue: Rect::ZERO, rule: Rect::ZERO, input: Rect::ZERO, panel: None, status };
    }
    let panel_columns = if app.shows_panel() { panel_columns(area.width, app.panel.preset) } else { 0 };
    let columns = area.width - panel_columns;
    let panel = (panel_columns > 0).then_some(Rect { x: area.x + columns, width: panel_columns, height: rows, ..area });
    let most = (rows / 3).clamp(1, MAX_INPUT_ROWS);
    let input_rows = app.composer.rows(columns - PROMPT_COLUMNS - 1, most);
    let queue_rows = (app.queue.len().min(MAX_QUEUE_ROWS) as u16).min(rows.saturating_sub(input_rows + 3));
    let main_rows = rows - input_rows - queue_rows - 1;
    let part = |y: u16, height: u16| Rect { x: area.x, y: area.y + y, width: columns, height };
    // Text that fills its last column would touch the panel's rule.
    let gap = u16::from(panel_columns > 0);
    app.conversation.resize(columns - gap, main_rows);
    if app.help.is_some() {
        app.page = usize::from(rows.saturating_sub(4).max(1));
    }
    Layout {
        main: Rect { width: columns - gap, ..part(0, main_rows) },
        queue: part(main_rows, queue_rows),
        rule: part(main_rows + queue_rows, 1),
        input: part(main_rows + queue_rows + 1, input_rows),
        panel,
        status,
    }
}

/// The panel's share of the screen, its rule included.
fn panel_columns(columns: u16, preset: Preset) -> u16 {
    match columns {
        _ if preset == Preset::Compact => 32,
        0..100 => 32,
        100..120 => 39,
        120..160 => 47,
        160.. => 69,
    }
}

fn too_small(frame: &mut Frame, app: &App, area: Rect) {
    let text = format!("{}×{} is too small: {}×{} needed", area.width, area.height, SMALLEST.0, SMALLEST.1);
    let buf = frame.buffer_mut();
    let mut wrapped = super::wrap::Wrapped::new(area.width);
    wrapped.extend(&text);
    for (i, row) in (area.top()..area.bottom()).enumerate().take(wrapped.len()) {
        buf.set_line(area.x, row, &Line::styled(&text[wrapped.line(i)], app.theme.dim), area.width);
    }
    if area.height > 0 && area.width > 0 {
        frame.set_cursor_position(Position::new(area.x, area.bottom() - 1));
    }
}

/// The panel by itself, for a picture.
pub fn panel_alone(app: &mut App, area: Rect, buf: &mut ratatui::buffer::Buffer) {
    let head = panel::head(app, usize::from(area.width));
    panel::draw(&app.theme, &mut app.panel, &mut app.gauges, &head, area, buf);
}
