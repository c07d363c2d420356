//! Makes text of a model, a person or a file safe to draw: text in, text without control characters out. Nothing that
//! comes out of here moves the cursor, changes a colour or reorders a line of the terminal.

use unicode_width::UnicodeWidthChar;

const TAB: &str = "    ";
/// More marks than this on one character are left out: they would run over the neighbouring lines.
const MAX_MARKS: usize = 8;

/// Cleans text that arrives in pieces.
#[derive(Debug, Clone, Default)]
pub struct Sanitizer {
    /// The piece before ended in a carriage return, which has been written as a line end.
    after_return: bool,
    /// Characters of no width since the last one that has one.
    marks: usize,
}

impl Sanitizer {
    /// Appends `text`, cleaned, to `out`.
    pub fn push(&mut self, text: &str, out: &mut String) {
        for c in text.chars() {
            let after_return = std::mem::replace(&mut self.after_return, c == '\r');
            match c {
                '\n' if after_return => {}
                '\n' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}' => out.push('\n'),
                '\t' => out.push_str(TAB),
                // The pictures that Unicode has for control characters: what was there is shown, not done.
                '\0'..='\u{1f}' => out.extend(char::from_u32(0x2400 + c as u32)),
                '\u{7f}' => out.push('\u{2421}'),
                '\u{80}'..='\u{9f}' => out.push('\u{fffd}'),
                c if is_invisible(c) => {}
                c if c.width() == Some(0) => {
                    self.marks += 1;
                    if self.marks <= MAX_MARKS {
                        out.push(c);
                    }
                    continue;
                }
                c => out.push(c),
            }
            self.marks = 0;
        }
    }
}

/// Characters without a picture that reorder text, hide in it or measure differently from terminal to terminal.
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// `text`, cleaned.
pub fn sanitize(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    Sanitizer::default().push(text, &mut out);
    out
}

/// What is pasted into the input: cleaned, but with its tabs, which the input draws and the model should see.
pub fn pasted(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut sanitizer = Sanitizer::default();
    for (i, piece) in text.split('\t').enumerate() {
        if i > 0 {
            out.push('\t');
        }
        sanitizer.push(piece, &mut out);
    }
    out
}

/// The start of the character that byte `at` of `text` is in; its end, behind it.
pub fn char_start(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

/// `text`, cleaned and on one line: for names, paths and errors.
pub fn one_line(text: &str) -> String {
    sanitize(text).replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_are_shown_and_not_done() {
        assert_eq!(sanitize("\u{1b}[31mred\u{7}\u{7f}\u{9b}2J"), "\u{241b}[31mred\u{2407}\u{2421}\u{fffd}2J");
    }

    #[test]
    fn every_line_end_becomes_one_newline_also_across_pieces() {
        assert_eq!(sanitize("a\r\nb\rc\nd\u{2028}e\u{85}f"), "a\nb\nc\nd\ne\nf");
        let (mut sanitizer, mut out) = (Sanitizer::default(), String::new());
        for piece in ["a\r", "\nb\r", "c"] {
            sanitizer.push(piece, &mut out);
        }
        assert_eq!(out, "a\nb\nc");
    }

    #[test]
    fn what_reorders_or_hides_is_left_out() {
        assert_eq!(sanitize("a\u{202e}b\u{2066}c\u{feff}d\u{e0041}e"), "abcde");
    }

    #[test]
    fn a_paste_keeps_its_tabs() {
        assert_eq!(pasted("all:\r\n\tcc\t-o\u{1b}"), "all:\n\tcc\t-o\u{241b}");
    }

    #[test]
    fn a_pile_of_marks_is_cut_and_an_emoji_family_is_not() {
        let pile = format!("a{}b", "\u{301}".repeat(1000));
        assert_eq!(sanitize(&pile).chars().count(), 2 + MAX_MARKS);
        let family = "👩\u{200d}👩\u{200d}👧\u{200d}👦";
        assert_eq!(sanitize(family), family);
    }

    #[test]
    fn no_control_character_comes_through() {
        let all: String = (0..0x3000).filter_map(char::from_u32).collect();
        assert!(sanitize(&all).chars().all(|c| c == '\n' || !c.is_control()));
        assert!(!one_line(&all).contains('\n'));
    }
}
