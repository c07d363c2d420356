//! Token ids to text, as they come: a character whose bytes arrive in several tokens is shown when it is whole.

use super::{ControlText, Tokenizer};

/// The state of a streaming detokenizer: bytes that are not a whole character yet.
///
/// What it has given out, in any cutting, is what [`Tokenizer::decode`] gives for all ids at once.
#[derive(Debug, Clone)]
pub struct TokenStream {
    control: ControlText,
    /// Fewer than four bytes between two calls: the beginning of a character.
    pending: Vec<u8>,
}

impl TokenStream {
    pub fn new(control: ControlText) -> TokenStream {
        // Room for a usual token, so that a stream rarely allocates while it runs.
        TokenStream { control, pending: Vec::with_capacity(64) }
    }

    /// Appends to `out` what can be shown now that `id` has come. An id out of range adds nothing.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32, out: &mut String) {
        tokenizer.append_bytes(id, self.control, &mut self.pending);
        let mut kept = 0;
        let mut chunks = self.pending.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            out.push_str(chunk.valid());
            let invalid = chunk.invalid();
            // At the end, bytes whose error has no length are the beginning of a character.
            let begins_character = std::str::from_utf8(invalid).is_err_and(|e| e.error_len().is_none());
            if begins_character && chunks.peek().is_none() {
                kept = invalid.len();
            } else if !invalid.is_empty() {
                out.push(char::REPLACEMENT_CHARACTER);
            }
        }
        let shown = self.pending.len() - kept;
        self.pending.drain(..shown);
    }

    /// Appends what is still held back, the beginning of a character, as U+FFFD. The stream may be used again.
    pub fn finish(&mut self, out: &mut String) {
        if !self.pending.is_empty() {
            out.push(char::REPLACEMENT_CHARACTER);
            self.pending.clear();
        }
    }
}
