//! Finds the tokens that are matched as whole texts (control and user-defined ones) before anything else is tokenized.

/// A set of token texts, found leftmost and longest.
#[derive(Debug, Default)]
pub(super) struct TokenMatcher {
    /// Sorted by text.
    entries: Vec<Entry>,
    /// Where the texts that begin with a byte lie in `entries`.
    first_byte: Vec<(u32, u32)>,
}

#[derive(Debug)]
pub(super) struct Entry {
    text: Box<str>,
    pub(super) id: u32,
    /// White space after the token belongs to it.
    pub(super) strip_right: bool,
}

/// A token text found in a string.
#[derive(Debug, Clone, Copy)]
pub(super) struct Match<'a> {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) entry: &'a Entry,
}

impl Entry {
    pub(super) fn new(text: &str, id: u32, strip_right: bool) -> Entry {
        Entry { text: text.into(), id, strip_right }
    }
}

impl TokenMatcher {
    /// Of entries with the same text the lowest id stays. Empty texts match nothing.
    pub(super) fn new(entries: impl Iterator<Item = Entry>) -> TokenMatcher {
        let mut entries: Vec<Entry> = entries.filter(|entry| !entry.text.is_empty()).collect();
        entries.sort_by(|a, b| a.text.cmp(&b.text).then(a.id.cmp(&b.id)));
        entries.dedup_by(|later, kept| later.text == kept.text);
        let mut first_byte = vec![(0, 0); 256];
        for (i, entry) in entries.iter().enumerate() {
            let range: &mut (u32, u32) = &mut first_byte[usize::from(entry.text.as_bytes()[0])];
            if range.1 == 0 {
                range.0 = i as u32;
            }
            range.1 = i as u32 + 1;
        }
        TokenMatcher { entries, first_byte }
    }

    /// The first match at or after `from`; where several begin there, the longest.
    pub(super) fn find(&self, text: &str, from: usize) -> Option<Match<'_>> {
        if self.entries.is_empty() {
            return None;
        }
        (from..text.len()).find_map(|start| {
            self.longest_at(text.as_bytes(), start).map(|entry| Match { start, end: start + entry.text.len(), entry })
        })
    }

    /// Whether a text of the set begins at byte `start`.
    pub(super) fn starts_at(&self, text: &str, start: usize) -> bool {
        !self.entries.is_empty() && self.longest_at(text.as_bytes(), start).is_some()
    }

    /// Narrows the sorted texts byte by byte. A text that equals the prefix read so far is the first of its range.
    fn longest_at(&self, text: &[u8], start: usize) -> Option<&Entry> {
        let (low, high) = self.first_byte[usize::from(text[start])];
        let mut range = &self.entries[low as usize..high as usize];
        let mut longest = None;
        for (depth, &byte) in text[start..].iter().enumerate() {
            let at = |entry: &Entry| entry.text.as_bytes().get(depth).copied();
            if depth > 0 {
                let (Some(first), Some(last)) = (range.first(), range.last()) else { break };
                // The common case, one branch of the texts, needs no search.
                if at(first) != Some(byte) || at(last) != Some(byte) {
                    let low = range.partition_point(|entry| at(entry) < Some(byte));
                    let high = range.partition_point(|entry| at(entry) <= Some(byte));
                    range = &range[low..high];
                }
            }
            match range.first() {
                None => break,
                Some(first) if first.text.len() == depth + 1 => longest = Some(first),
                Some(_) => {}
            }
        }
        longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matcher(texts: &[&str]) -> TokenMatcher {
        TokenMatcher::new(texts.iter().enumerate().map(|(id, text)| Entry::new(text, id as u32, false)))
    }

    fn found(texts: &[&str], text: &str) -> Vec<(usize, u32)> {
        let matcher = matcher(texts);
        let mut out = Vec::new();
        let mut from = 0;
        while let Some(m) = matcher.find(text, from) {
            out.push((m.start, m.entry.id));
            from = m.end;
        }
        out
    }

    #[test]
    fn the_leftmost_and_longest_text_is_found() {
        let texts = ["<a>", "<a>b", "b", "<", "é"];
        assert_eq!(found(&texts, "x<a>bb<<a>éy<a"), [(1, 1), (5, 2), (6, 3), (7, 0), (10, 4), (13, 3)]);
        assert_eq!(found(&texts, ""), []);
        assert_eq!(found(&[], "abc"), []);
        assert_eq!(found(&[""], "abc"), []);
    }

    #[test]
    fn the_search_agrees_with_trying_every_text() {
        let texts = ["aa", "ab", "aab", "ba", "bab", "c", "abcab", "aaaa"];
        let mut state = 7_u32;
        for _ in 0..500 {
            let text: String = (0..12)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    ['a', 'b', 'c'][(state >> 24) as usize % 3]
                })
                .collect();
            let naive = |start: usize| {
                texts.iter().enumerate().filter(|(_, t)| text[start..].starts_with(**t)).max_by_key(|(_, t)| t.len())
            };
            let mut expected = Vec::new();
            let mut at = 0;
            while at < text.len() {
                match naive(at) {
                    Some((id, t)) => {
                        expected.push((at, id as u32));
                        at += t.len();
                    }
                    None => at += 1,
                }
            }
            assert_eq!(found(&texts, &text), expected, "{text}");
        }
    }
}
