//! The tags between which models think before they answer. A tag counts where a reply begins, so that an answer can speak of
//! tags; some templates write the opening tag themselves, and the reply begins inside.

/// Opening and closing tags in use.
const TAGS: [(&str, &str); 7] = [
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("[THINK]", "[/THINK]"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<seed:think>", "</seed:think>"),
];

/// The longest tag, in bytes.
pub const LONGEST: usize = 20;

/// How far the thinking that `text` begins with goes on from: the byte behind its opening tag.
pub fn begins(text: &str) -> Option<usize> {
    let blank = text.len() - text.trim_start().len();
    TAGS.iter().find(|(open, _)| text[blank..].starts_with(open)).map(|(open, _)| blank + open.len())
}

/// Whether the prompt leaves an opening tag behind, so that the reply begins with thinking.
pub fn is_left_open(prompt: &str) -> bool {
    let prompt = prompt.trim_end();
    TAGS.iter().any(|(open, _)| prompt.ends_with(open))
}

/// The first closing tag at or behind byte `from`: where it begins and ends.
pub fn ends(text: &str, from: usize) -> Option<(usize, usize)> {
    let found = |close: &str| text[from..].find(close).map(|at| (from + at, from + at + close.len()));
    TAGS.iter().filter_map(|(_, close)| found(close)).min()
}

/// A closing tag that is a line by itself, at or behind byte `from`: the text before it was thought, although no tag says
/// where that began.
pub fn ends_on_own_line(text: &str, from: usize) -> Option<(usize, usize)> {
    let (mut from, text_from) = (from, text);
    while let Some((start, end)) = ends(text_from, from) {
        if (start == 0 || text[..start].ends_with('\n')) && text[end..].starts_with('\n') {
            return Some((start, end));
        }
        from = end;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_that_begins_with_a_tag_begins_with_thinking() {
        assert_eq!(begins("\n<think>\nhm"), Some(8));
        assert_eq!(begins("[THINK]x"), Some(7));
        assert_eq!(begins("The tag <think> opens"), None);
        assert_eq!(ends("a</think>b", 0), Some((1, 9)));
        assert_eq!(ends("a</think>b", 2), None);
        assert!(TAGS.iter().all(|(open, close)| open.len() <= LONGEST && close.len() <= LONGEST));
    }

    #[test]
    fn a_template_may_leave_the_tag_open_and_a_line_tells_where_thinking_ended() {
        assert!(is_left_open("<|im_start|>assistant\n<think>\n"));
        assert!(!is_left_open("<|im_start|>assistant\n<think>\n\n</think>\n\n"));
        assert_eq!(ends_on_own_line("hm\n</think>\n\nyes", 0), Some((3, 11)));
        assert_eq!(ends_on_own_line("write `</think>` there\n", 0), None);
    }
}
