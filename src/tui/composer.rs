//! The input: the text being typed, and the inputs before it. Edits and pastes in, the message out.

use ratatui::buffer::Buffer;
use ratatui::layout::{Position, Rect};
use ratatui::style::Style;
use ratatui::widgets::Widget;
use ratatui_textarea::{CursorMove, TextArea, WrapMode};

use super::keys::{Edit, InputState};
use super::sanitize;

/// More than this is refused: a file belongs in a file.
pub const MAX_BYTES: usize = 1 << 20;
const MAX_HISTORY: usize = 1000;

/// What a person types, with history.
#[derive(Debug)]
pub struct Composer {
    area: TextArea<'static>,
    /// Earlier inputs, the oldest first.
    history: Vec<String>,
    /// Which of them is shown, unchanged.
    recalled: Option<usize>,
    /// The layout that [`Composer::rows`] measured last, and its answer; `None` after an edit.
    measured: Option<(u16, u16, u16)>,
}

impl Default for Composer {
    fn default() -> Self {
        Composer { area: area(vec![String::new()]), history: Vec::new(), recalled: None, measured: None }
    }
}

fn area(lines: Vec<String>) -> TextArea<'static> {
    let mut area = TextArea::new(lines);
    area.set_wrap_mode(WrapMode::WordOrGlyph);
    // The terminal's own cursor is shown, so that input methods and screen readers find it.
    area.set_cursor_style(Style::new());
    area.set_cursor_line_style(Style::new());
    area.set_max_histories(200);
    area.move_cursor(CursorMove::Bottom);
    area.move_cursor(CursorMove::End);
    area
}

impl Composer {
    pub fn state(&self) -> InputState {
        if self.area.is_empty() {
            InputState::Empty
        } else if self.recalled.is_some() {
            InputState::Recalled
        } else {
            InputState::Typed
        }
    }

    pub fn text(&self) -> String {
        self.area.lines().join("\n")
    }

    /// The line, where there is one alone.
    pub fn only_line(&self) -> Option<&str> {
        let [line] = self.area.lines() else { return None };
        Some(line)
    }

    /// Whether there is anything to send.
    pub fn is_blank(&self) -> bool {
        self.area.lines().iter().all(|line| line.trim().is_empty())
    }

    /// Puts `text` in place of what is there, the cursor at its end.
    pub fn set_text(&mut self, text: &str) {
        self.area = area(text.split('\n').map(str::to_owned).collect());
        self.changed();
    }

    /// Puts `text` before what is there, as lines of its own.
    pub fn put_before(&mut self, text: &str) {
        let joined = if self.is_blank() { text.to_owned() } else { format!("{text}\n{}", self.text()) };
        self.set_text(&joined);
    }

    /// Takes the text out, for sending, without the spaces and line ends behind it; it becomes the latest of the earlier
    /// inputs.
    pub fn take(&mut self) -> String {
        let text = self.text().trim_end().to_owned();
        self.remember(&text);
        self.set_text("");
        text
    }

    /// Makes a text the latest of the earlier inputs.
    pub fn remember(&mut self, text: &str) {
        self.history.retain(|earlier| earlier != text);
        if self.history.len() == MAX_HISTORY {
            self.history.remove(0);
        }
        self.history.push(text.to_owned());
    }

    /// Makes texts, the oldest first, earlier than all inputs so far.
    pub fn remember_before(&mut self, texts: &[String]) {
        let later = std::mem::take(&mut self.history);
        texts.iter().chain(&later).for_each(|text| self.remember(&sanitize::pasted(text)));
    }

    /// The earlier inputs that hold `words`, in any case, the latest first.
    pub fn earlier_with(&self, words: &str) -> Vec<String> {
        let words = words.to_lowercase();
        self.history.iter().rev().filter(|text| text.to_lowercase().contains(&words)).cloned().collect()
    }

    fn changed(&mut self) {
        self.recalled = None;
        self.measured = None;
    }

    pub fn insert(&mut self, c: char) {
        self.area.insert_char(c);
        self.changed();
    }

    pub fn newline(&mut self) {
        self.area.insert_newline();
        self.changed();
    }

    /// Inserts pasted text; its line ends do not send. Errors: it is too long, with its size.
    pub fn paste(&mut self, text: &str) -> Result<(), usize> {
        let held: usize = self.area.lines().iter().map(|line| line.len() + 1).sum();
        if held + text.len() > MAX_BYTES {
            return Err(text.len());
        }
        self.area.insert_str(sanitize::pasted(text));
        self.changed();
        Ok(())
    }

    pub fn edit(&mut self, edit: Edit) {
        let area = &mut self.area;
        match edit {
            Edit::Left => area.move_cursor(CursorMove::Back),
            Edit::Right => area.move_cursor(CursorMove::Forward),
            Edit::Up => area.move_cursor(CursorMove::Up),
            Edit::Down => area.move_cursor(CursorMove::Down),
            Edit::WordLeft => area.move_cursor(CursorMove::WordBack),
            Edit::WordRight => area.move_cursor(CursorMove::WordForward),
            Edit::LineStart => area.move_cursor(CursorMove::Head),
            Edit::LineEnd => area.move_cursor(CursorMove::End),
            Edit::DeleteBack => drop(area.delete_char()),
            Edit::DeleteForward => drop(area.delete_next_char()),
            Edit::DeleteWordBack => drop(area.delete_word()),
            Edit::DeleteWordForward => drop(area.delete_next_word()),
            Edit::DeleteToStart => drop(area.delete_line_by_head()),
            Edit::DeleteToEnd => drop(area.delete_line_by_end()),
            Edit::PutBack => drop(area.paste()),
            Edit::Undo => drop(area.undo()),
            Edit::Redo => drop(area.redo()),
        }
        self.changed();
    }

    /// Shows the input before the one shown.
    pub fn recall_previous(&mut self) {
        let before = self.recalled.unwrap_or(self.history.len());
        if let Some(i) = before.checked_sub(1) {
            let text = self.history[i].clone();
            self.set_text(&text);
            self.recalled = Some(i);
        }
    }

    /// Shows the input after the one shown; after the last, nothing.
    pub fn recall_next(&mut self) {
        let Some(i) = self.recalled else { return };
        let next = self.history.get(i + 1).cloned();
        self.set_text(next.as_deref().unwrap_or(""));
        self.recalled = next.map(|_| i + 1);
    }

    /// How many rows the text takes at `width` columns, at most `max`.
    pub fn rows(&mut self, width: u16, max: u16) -> u16 {
        let (width, max) = (width.max(1), max.max(1));
        if let Some((w, m, rows)) = self.measured
            && (w, m) == (width, max)
        {
            return rows;
        }
        // The widget knows its rows only once it has been drawn at this width.
        let scratch = Rect::new(0, 0, width, max);
        (&self.area).render(scratch, &mut Buffer::empty(scratch));
        let mut rows = 1;
        while rows < max && self.row_exists(rows) {
            rows += 1;
        }
        // After lines were deleted the widget stays scrolled down, with empty rows below.
        let top = self.area.scroll_offset().0;
        let shown = (top..top + max).take_while(|&row| self.row_exists(row)).count() as u16;
        if top > 0 && shown < max {
            self.area.scroll((-((max - shown).min(top) as i16), 0));
        }
        self.measured = Some((width, max, rows));
        rows
    }

    /// Rows below the last are answered for by the last.
    fn row_exists(&self, row: u16) -> bool {
        let row = usize::from(row);
        row == 0 || self.area.screen_to_data(row, 0) != self.area.screen_to_data(row - 1, 0)
    }

    /// Draws the text and says where the cursor stands, which may be in the column right of `rect`.
    pub fn render(&self, rect: Rect, buf: &mut Buffer) -> Position {
        (&self.area).render(rect, buf);
        let cursor = self.area.screen_cursor();
        let row = (cursor.row as u16).saturating_sub(self.area.scroll_offset().0);
        Position::new(rect.x + (cursor.col as u16).min(rect.width), rect.y + row.min(rect.height.saturating_sub(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn composer(text: &str) -> Composer {
        let mut c = Composer::default();
        c.paste(text).unwrap();
        c
    }

    #[test]
    fn a_paste_keeps_its_line_ends_and_loses_its_escapes() {
        assert_eq!(composer("one\r\ntwo\rthree\u{1b}[A").text(), "one\ntwo\nthree\u{241b}[A");
    }

    #[test]
    fn a_paste_beyond_the_limit_is_refused_whole() {
        let mut c = composer("kept");
        assert_eq!(c.paste(&"x".repeat(MAX_BYTES)), Err(MAX_BYTES));
        assert_eq!(c.text(), "kept");
    }

    #[test]
    fn rows_grow_with_the_text_up_to_the_limit_and_shrink_again() {
        let mut c = composer("");
        assert_eq!(c.rows(10, 5), 1);
        c.paste("aaaa bbbb cccc").unwrap();
        assert_eq!(c.rows(10, 5), 2);
        assert_eq!(c.rows(5, 5), 3);
        c.paste(&"\nline".repeat(20)).unwrap();
        assert_eq!(c.rows(10, 5), 5);
        for _ in 0..20 {
            c.edit(Edit::DeleteWordBack);
            c.edit(Edit::DeleteBack);
        }
        assert_eq!(c.rows(10, 5), 2);
        let rect = Rect::new(0, 0, 10, 2);
        let mut buf = Buffer::empty(rect);
        c.render(rect, &mut buf);
        assert_eq!(buf, Buffer::with_lines(["aaaa bbbb ", "cccc      "]));
    }

    #[test]
    fn the_cursor_stands_behind_the_last_character_also_at_the_edge() {
        let mut c = composer("日本語");
        assert_eq!(c.rows(6, 5), 1);
        let rect = Rect::new(2, 1, 6, 1);
        let position = c.render(rect, &mut Buffer::empty(Rect::new(0, 0, 10, 3)));
        assert_eq!(position, Position::new(8, 1));
    }

    #[test]
    fn earlier_inputs_come_back_in_order_and_end_in_nothing() {
        let mut c = Composer::default();
        for text in ["one", "two", "two", "three\nlines"] {
            c.set_text(text);
            assert_eq!(c.take(), text);
        }
        let mut seen = Vec::new();
        for _ in 0..4 {
            c.recall_previous();
            seen.push(c.text());
        }
        assert_eq!(seen, ["three\nlines", "two", "one", "one"]);
        assert_eq!(c.state(), InputState::Recalled);
        for want in ["two", "three\nlines", "", ""] {
            c.recall_next();
            assert_eq!(c.text(), want);
        }
        assert_eq!(c.state(), InputState::Empty);
    }

    #[test]
    fn a_recalled_input_that_is_changed_counts_as_typed() {
        let mut c = Composer::default();
        c.set_text("one");
        c.take();
        c.recall_previous();
        c.insert('!');
        assert_eq!((c.state(), c.text()), (InputState::Typed, "one!".into()));
        c.edit(Edit::Undo);
        assert_eq!(c.text(), "one");
    }

    #[test]
    fn text_put_before_keeps_what_was_there() {
        let mut c = composer("new");
        c.put_before("old");
        assert_eq!(c.text(), "old\nnew");
        c.set_text("  ");
        c.put_before("old");
        assert_eq!(c.text(), "old");
    }
}
