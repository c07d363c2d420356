//! Soft wrap: text and a width in cells in, byte ranges of lines out. Widths are those that ratatui draws with.
//!
//! A break is decided by what stands before it, so text that grows at its end moves only the last line: [`Wrapped::extend`]
//! looks at nothing before it.

use std::ops::Range;

use ratatui::buffer::CellWidth;
use unicode_segmentation::UnicodeSegmentation;
use unicode_width::UnicodeWidthChar;

/// The lines of a text at one width.
#[derive(Debug, Clone, Default)]
pub struct Wrapped {
    width: usize,
    /// Byte ranges, without the line's end and the spaces at a break.
    lines: Vec<(u32, u32)>,
}

impl Wrapped {
    /// No lines yet; `width` in cells, at least 1.
    pub fn new(width: u16) -> Wrapped {
        Wrapped { width: usize::from(width.max(1)), lines: Vec::new() }
    }

    /// Takes what was added to `text` since the last call. Text before it must not have changed.
    pub fn extend(&mut self, text: &str) {
        let from = self.lines.pop().map_or(0, |line| line.0 as usize);
        let mut start = from;
        loop {
            let end = text[start..].find('\n').map(|i| start + i);
            self.wrap(text, start, end.unwrap_or(text.len()));
            match end {
                Some(end) => start = end + 1,
                None => return,
            }
        }
    }

    pub fn width(&self) -> u16 {
        self.width as u16
    }

    /// How many lines there are; empty ones at the end, which a text under way often has, do not count.
    pub fn len(&self) -> usize {
        self.lines.len() - self.lines.iter().rev().take_while(|line| line.0 == line.1).count()
    }

    /// The bytes of line `i`.
    pub fn line(&self, i: usize) -> Range<usize> {
        let (start, end) = self.lines[i];
        start as usize..end as usize
    }

    /// Wraps one logical line, the bytes `start..end` of `text`.
    fn wrap(&mut self, text: &str, start: usize, end: usize) {
        let mut line = Fill::new(start);
        let part = &text[start..end];
        if part.is_ascii() {
            for (i, byte) in part.bytes().enumerate() {
                let kind = match byte {
                    b' ' => Kind::Space,
                    b'-' => Kind::Dash,
                    _ => Kind::Letter,
                };
                self.step(&mut line, start + i, 1, 1, kind);
            }
        } else {
            for (i, grapheme) in part.grapheme_indices(true) {
                let cells = usize::from(grapheme.cell_width());
                self.step(&mut line, start + i, grapheme.len(), cells, Kind::of(grapheme));
            }
        }
        self.push(line.start, line.end);
    }

    /// Puts one grapheme, `bytes` long from `at` on and `cells` wide, onto the line or begins the next with it.
    fn step(&mut self, line: &mut Fill, at: usize, bytes: usize, cells: usize, kind: Kind) {
        if kind == Kind::Space {
            if line.before != Kind::Space {
                line.break_end = at;
            }
            // Spaces beyond the edge hang there unseen.
            if line.column < self.width {
                line.column += 1;
                line.end = at + bytes;
            }
            line.break_next = at + bytes;
            line.break_column = line.column;
            line.before = kind;
            return;
        }
        let free = kind == Kind::Wide || matches!(line.before, Kind::Dash | Kind::Wide | Kind::WideEnd);
        if free && kind != Kind::WideEnd && line.before != Kind::Space {
            (line.break_end, line.break_next, line.break_column) = (at, at, line.column);
        }
        if line.column + cells > self.width && line.break_end > line.start {
            self.push(line.start, line.break_end);
            line.column -= line.break_column;
            line.start = line.break_next;
            line.break_end = line.start;
        }
        // What cannot be broken at a better place is split where the line is full.
        if line.column + cells > self.width && at > line.start {
            self.push(line.start, line.end);
            line.column = 0;
            line.start = at;
            line.break_end = at;
        }
        line.column += cells;
        line.end = at + bytes;
        line.before = kind;
    }

    fn push(&mut self, start: usize, end: usize) {
        self.lines.push((start as u32, end.max(start) as u32));
    }
}

/// The line being filled.
struct Fill {
    start: usize,
    /// Cells used, and the end of what used them.
    column: usize,
    end: usize,
    /// What stands last on it.
    before: Kind,
    /// The last place for a break: where this line would end, where the next would start, and the cells before that. There is
    /// none unless `break_end` is beyond `start`.
    break_end: usize,
    break_next: usize,
    break_column: usize,
}

impl Fill {
    fn new(start: usize) -> Fill {
        Fill {
            start,
            column: 0,
            end: start,
            before: Kind::Letter,
            break_end: start,
            break_next: start,
            break_column: 0,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Letter,
    Space,
    /// A break may follow.
    Dash,
    /// A wide character: a break may stand before and after it.
    Wide,
    /// A wide closing mark: a break may stand after it.
    WideEnd,
}

impl Kind {
    /// Told by the first character, so that marks which follow change nothing.
    fn of(grapheme: &str) -> Kind {
        if grapheme == " " {
            return Kind::Space;
        }
        match grapheme.chars().next() {
            Some('-' | '\u{2013}' | '\u{2014}') => Kind::Dash,
            Some('、' | '。' | '，' | '．' | '！' | '？' | '：' | '；' | '）' | '」' | '』' | '】' | '》') => {
                Kind::WideEnd
            }
            Some(c) if c.width() == Some(2) => Kind::Wide,
            _ => Kind::Letter,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wrap(text: &str, width: u16) -> Vec<&str> {
        let mut wrapped = Wrapped::new(width);
        wrapped.extend(text);
        (0..wrapped.len()).map(|i| &text[wrapped.line(i)]).collect()
    }

    #[test]
    fn words_stay_whole_and_long_ones_are_split() {
        assert_eq!(wrap("the quick brown fox", 10), ["the quick", "brown fox"]);
        assert_eq!(wrap("a pneumonoultra b", 6), ["a", "pneumo", "noultr", "a b"]);
        assert_eq!(wrap("abcdef", 3), ["abc", "def"]);
        assert_eq!(wrap("well-known fact", 8), ["well-", "known", "fact"]);
    }

    #[test]
    fn line_ends_and_indents_are_kept() {
        assert_eq!(wrap("fn x() {\n    y\n\n}", 20), ["fn x() {", "    y", "", "}"]);
    }

    #[test]
    fn spaces_at_a_break_hang_beyond_the_edge() {
        assert_eq!(wrap("abc   def", 3), ["abc", "def"]);
        assert_eq!(wrap("abc       ", 3), ["abc"]);
    }

    #[test]
    fn wide_characters_take_two_cells_and_break_anywhere_but_before_a_closing_mark() {
        assert_eq!(wrap("日本語の文章", 6), ["日本語", "の文章"]);
        assert_eq!(wrap("日本語。文", 6), ["日本", "語。文"]);
        assert_eq!(wrap("日", 1), ["日"]);
    }

    #[test]
    fn empty_lines_at_the_end_do_not_count() {
        assert_eq!(wrap("a\n\n\n", 5), ["a"]);
        assert_eq!(wrap("", 5), [""; 0]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn text_in_pieces_wraps_as_the_whole_and_fits(
            pieces in prop::collection::vec("[ab \\-\n日。é👍🏽\u{301}]{0,9}", 0..30),
            width in 2_u16..12,
        ) {
            let mut grown = Wrapped::new(width);
            let mut text = String::new();
            grown.extend(&text);
            for piece in &pieces {
                text.push_str(piece);
                grown.extend(&text);
            }
            let mut whole = Wrapped::new(width);
            whole.extend(&text);
            prop_assert_eq!(&grown.lines, &whole.lines, "{:?}", text);
            for i in 0..whole.len() {
                let line = &text[whole.line(i)];
                // One character wider than the line cannot be split.
                let fits = line.cell_width() <= width || line.graphemes(true).count() == 1;
                prop_assert!(fits, "{:?} in {:?}", line, text);
            }
            // Nothing but spaces and line ends is left out.
            let shown: String = (0..whole.len()).map(|i| &text[whole.line(i)]).collect();
            let dense = |s: &str| s.chars().filter(|c| !" \n".contains(*c)).collect::<String>();
            prop_assert_eq!(dense(&shown), dense(&text));
        }
    }
}
