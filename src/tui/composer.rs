//! The input: the text being typed, and the inputs before it. Edits and pastes in, the message out.

use ratatui::buffer::Buffer;
use ratatui::layout::{Position, Rect};
use ratatui::style::Style;
use ratatui::widgets::Widget;
use ratatui_textarea::{CursorMove, TextArea, WrapMode};

use super::keys::{Edit, InputState};
use super::sanitize;
use super::units;

/// More than this is refused: a file belongs in a file.
pub const MAX_BYTES: usize = 1 << 20;
const MAX_HISTORY: usize = 1000;
/// A paste of more than this is folded to one line.
const FOLD_LINES: usize = 10;
const FOLD_BYTES: usize = 2000;

/// A paste that is shown as one line.
#[derive(Debug)]
struct Fold {
    /// What stands for it; it is changed as a whole.
    sign: String,
    text: String,
}

/// What a person types, with history.
#[derive(Debug)]
pub struct Composer {
    area: TextArea<'static>,
    /// Pastes that are folded, those too that an undo may bring back.
    folds: Vec<Fold>,
    /// Earlier inputs, the oldest first.
    history: Vec<String>,
    /// Which of them is shown, unchanged.
    recalled: Option<usize>,
    /// The layout that [`Composer::rows`] measured last, and its answer; `None` after an edit.
    measured: Option<(u16, u16, u16)>,
}

impl Default for Composer {
    fn default() -> Self {
        Composer {
            area: area(vec![String::new()]),
            folds: Vec::new(),
            history: Vec::new(),
            recalled: None,
            measured: None,
        }
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

    /// All that was typed and pasted.
    pub fn text(&self) -> String {
        let text = self.area.lines().join("\n");
        if self.folds.is_empty() {
            return text;
        }
        // One pass: a paste may hold what looks like the sign of another.
        let (mut out, mut rest) = (String::with_capacity(text.len()), text.as_str());
        while let Some((at, fold)) =
            self.folds.iter().filter_map(|f| Some((rest.find(&f.sign)?, f))).min_by_key(|f| f.0)
        {
            out.push_str(&rest[..at]);
            out.push_str(&fold.text);
            rest = &rest[at + fold.sign.len()..];
        }
        out + rest
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
        self.folds.clear();
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

    /// Inserts pasted text; its line ends do not send. Much of it is folded. Errors: it is too long, with its size.
    pub fn paste(&mut self, text: &str) -> Result<(), usize> {
        let lines: usize = self.area.lines().iter().map(|line| line.len() + 1).sum();
        let held = lines + self.folds.iter().map(|fold| fold.text.len()).sum::<usize>();
        if held + text.len() > MAX_BYTES {
            return Err(text.len());
        }
        let text = sanitize::pasted(text);
        let lines = text.lines().count();
        if lines > FOLD_LINES || text.len() > FOLD_BYTES {
            let sign = self.sign(lines, text.len());
            self.area.insert_str(&sign);
            self.folds.push(Fold { sign, text });
        } else {
            self.area.insert_str(text);
        }
        self.changed();
        Ok(())
    }

    /// What stands for a paste; no two are alike.
    fn sign(&self, lines: usize, bytes: usize) -> String {
        let head = format!("[pasted {}, {}", units::plural(lines, "line"), units::bytes(bytes as u64));
        let sign = |n: usize| if n == 1 { format!("{head}]") } else { format!("{head}, {n}]") };
        let is_free = |sign: &String| self.folds.iter().all(|fold| fold.sign != *sign);
        (1..=self.folds.len() + 1).map(sign).find(is_free).unwrap_or(head)
    }

    /// The characters of the sign that stands at the cursor: those before it and those behind.
    fn sign_at_cursor(&self) -> Option<(usize, usize)> {
        let (row, column) = (self.area.cursor().0, self.area.cursor().1);
        let line = self.area.lines().get(row)?;
        let cursor = line.char_indices().nth(column).map_or(line.len(), |(at, _)| at);
        self.folds.iter().find_map(|fold| {
            let hit = line.match_indices(&fold.sign).find(|(at, sign)| (*at..=at + sign.len()).contains(&cursor));
            hit.map(|(at, sign)| (line[at..cursor].chars().count(), line[cursor..at + sign.len()].chars().count()))
        })
    }

    /// Where an edit would cut into a sign, it takes all of it.
    fn edit_sign(&mut self, edit: Edit) -> bool {
        let (before, behind) = match (edit, self.sign_at_cursor()) {
            (Edit::DeleteBack | Edit::DeleteWordBack, Some((before, behind))) if before > 0 => (before, behind),
            (Edit::DeleteForward | Edit::DeleteWordForward, Some((before, behind))) if behind > 0 => (before, behind),
            _ => return false,
        };
        self.move_by(before, CursorMove::Back);
        self.area.delete_str(before + behind);
        self.changed();
        true
    }

    fn move_by(&mut self, times: usize, to: CursorMove) {
        (0..times).for_each(|_| self.area.move_cursor(to));
    }

    pub fn edit(&mut self, edit: Edit) {
        if !self.folds.is_empty() && self.edit_sign(edit) {
            return;
        }
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
        // The cursor does not stand within a sign.
        if !self.folds.is_empty()
            && let Some((before, behind)) = self.sign_at_cursor().filter(|&(before, behind)| before > 0 && behind > 0)
        {
            match edit {
                Edit::Left | Edit::WordLeft => self.move_by(before, CursorMove::Back),
                _ => self.move_by(behind, CursorMove::Forward),
            }
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
    fn a_large_paste_is_one_line_and_is_sent_whole() {
        let long = "line\n".repeat(312);
        let mut c = composer("look: ");
        c.paste(&long).unwrap();
        assert_eq!(c.area.lines(), ["look: [pasted 312 lines, 1.52 KiB]"]);
        assert_eq!(c.text(), format!("look: {long}"));
        c.paste(&long).unwrap();
        c.insert('!');
        assert_eq!(c.text(), format!("look: {long}{long}!"));
        assert_eq!(c.take(), format!("look: {long}{long}!"));
        assert_eq!(c.text(), "");
        c.recall_previous();
        assert_eq!(c.text(), format!("look: {long}{long}!"));
    }

    #[test]
    fn one_backspace_takes_a_folded_paste_away_and_undo_brings_it_back() {
        let long = "x".repeat(FOLD_BYTES + 1);
        for (at_its_end, key) in [(true, Edit::DeleteBack), (true, Edit::DeleteWordBack), (false, Edit::DeleteForward)]
        {
            let mut c = composer("a ");
            c.paste(&long).unwrap();
            if !at_its_end {
                // One step goes over all of it.
                c.edit(Edit::Left);
            }
            c.edit(key);
            assert_eq!(c.text(), "a ", "{key:?}");
            c.edit(Edit::Undo);
            assert_eq!(c.text(), format!("a {long}"), "{key:?}");
        }
    }

    #[test]
    fn nothing_is_typed_into_a_folded_paste() {
        let long = "x".repeat(FOLD_BYTES + 1);
        let mut c = composer("a\n");
        c.paste(&long).unwrap();
        for moves in [
            &[Edit::Left][..],
            &[Edit::WordLeft],
            &[Edit::Up, Edit::LineEnd, Edit::Down],
            &[Edit::WordLeft, Edit::Right],
        ] {
            moves.iter().for_each(|&edit| c.edit(edit));
            c.insert('!');
            assert!(c.text().contains(&long), "{moves:?}: {:?}", c.area.lines());
        }
    }

    #[test]
    fn rows_grow_with_the_text_up_to_the_limit_and_shrink_again() {
        let mut c = composer("");
        assert_eq!(c.rows(10, 5), 1);
        c.paste("aaaa bbbb cccc").unwrap();
        assert_eq!(c.rows(10, 5), 2);
        assert_eq!(c.rows(5, 5), 3);
        (0..20).for_each(|_| c.paste("\nline").unwrap());
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
