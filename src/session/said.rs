//! The replies in a session's tokens, and prompts that repeat them in the very tokens in which they were said.
//!
//! A model is free to spell a word otherwise than the tokenizer would: `he` `llo` for `hello`. The next prompt holds the
//! text of the reply, tokenized anew, and would part from the KV cache at the first such word.

/// A reply among the tokens of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Said {
    /// The place of its first token.
    pub start: usize,
    /// How many tokens it has, at least one.
    pub n: usize,
    /// Its last token, which may not have been computed.
    pub last: u32,
}

impl Said {
    /// Up to here `tokens` hold it, but perhaps for its last token.
    pub(super) fn known_end(&self) -> usize {
        self.start + self.n - 1
    }

    fn tokens(&self, cached: &[u32]) -> impl Iterator<Item = u32> {
        cached[self.start..self.known_end()].iter().copied().chain([self.last])
    }
}

/// `prompt`, with the tokens of every reply of `replies` in place of others of the same text, as far as it otherwise goes
/// along with `cached`. `replies` are in their order; `bytes_of` appends the bytes that a token stands for.
pub(super) fn respelled(
    prompt: &[u32],
    cached: &[u32],
    replies: &[Said],
    bytes_of: impl Fn(u32, &mut Vec<u8>),
) -> Vec<u32> {
    let mut out = Vec::with_capacity(prompt.len());
    let mut rest = prompt;
    for reply in replies {
        let Some(after) = rest.strip_prefix(&cached[out.len()..reply.start]) else { break };
        let mut wanted = Vec::new();
        reply.tokens(cached).for_each(|token| bytes_of(token, &mut wanted));
        // What the conversation keeps of a reply is text.
        let wanted = String::from_utf8_lossy(&wanted);
        let Some(n) = tokens_of(wanted.as_bytes(), after, &bytes_of) else { break };
        out.extend_from_slice(&cached[out.len()..reply.start]);
        out.extend(reply.tokens(cached));
        rest = &after[n..];
        if out.len() > cached.len() {
            break;
        }
    }
    out.extend_from_slice(rest);
    out
}

/// How many of the first tokens stand for exactly these bytes.
fn tokens_of(wanted: &[u8], tokens: &[u32], bytes_of: impl Fn(u32, &mut Vec<u8>)) -> Option<usize> {
    let mut found = Vec::with_capacity(wanted.len());
    for (n, &token) in tokens.iter().enumerate() {
        if found.len() >= wanted.len() {
            return (found == wanted).then_some(n);
        }
        bytes_of(token, &mut found);
        if !wanted.starts_with(&found) {
            return None;
        }
    }
    (found == wanted).then_some(tokens.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tokens below 256 are bytes; above, pairs of letters.
    fn bytes_of(token: u32, out: &mut Vec<u8>) {
        match token {
            0..256 => out.push(token as u8),
            _ => out.extend([(token >> 8) as u8, token as u8]),
        }
    }

    const AB: u32 = 0x6162;
    const BC: u32 = 0x6263;
    const A: u32 = 0x61;
    const B: u32 = 0x62;
    const C: u32 = 0x63;

    #[test]
    fn a_reply_comes_back_in_its_own_tokens() {
        let said = Said { start: 1, n: 2, last: BC };
        // Said: a, bc; tokenized anew: ab, c.
        for cached in [&[9, A, BC][..], &[9, A]] {
            assert_eq!(respelled(&[9, AB, C, 10, A, B], cached, &[said], bytes_of), [9, A, BC, 10, A, B]);
        }
    }

    #[test]
    fn a_reply_that_is_no_text_comes_back_in_its_own_tokens() {
        let said = Said { start: 1, n: 2, last: 0x80 };
        let cached = [9, A, 0x80];
        assert_eq!(respelled(&[9, A, 0xef, 0xbfbd, 10], &cached, &[said], bytes_of), [9, A, 0x80, 10]);
    }

    #[test]
    fn several_replies_come_back_and_what_lies_between_must_be_the_same() {
        let replies = [Said { start: 1, n: 2, last: BC }, Said { start: 5, n: 1, last: AB }];
        let cached = [9, A, BC, 10, 11, AB];
        assert_eq!(respelled(&[9, AB, C, 10, 11, A, B, 12], &cached, &replies, bytes_of), [9, A, BC, 10, 11, AB, 12]);
        assert_eq!(respelled(&[9, AB, C, 10, 7, A, B, 12], &cached, &replies, bytes_of), [9, A, BC, 10, 7, A, B, 12]);
    }

    #[test]
    fn other_text_stays_as_it_is() {
        let said = Said { start: 1, n: 2, last: BC };
        let cached = [9, A, BC];
        // Another beginning, another reply, one that ends within a token, one that is cut off, and nothing.
        for prompt in [&[8, AB, C][..], &[9, AB, B, 10], &[9, AB, 0x6364], &[9, AB], &[9], &[]] {
            assert_eq!(respelled(prompt, &cached, &[said], bytes_of), prompt);
        }
    }
}
