//! The vocabulary of a model: every token's text and kind, read from the metadata of its file.

use crate::gguf::Metadata;

use super::TokenizerError;

/// More tokens than any model has (the largest published vocabularies hold about 262 thousand).
const MAX_TOKENS: usize = 1 << 24;

/// What a token is for; the numbers are those of `tokenizer.ggml.token_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    Normal,
    /// Stands for text that no token covers.
    Unknown,
    /// Steers the model, as BOS or the end of a turn do; never text of its own.
    Control,
    /// Text that is always one token, such as `<think>`.
    UserDefined,
    Unused,
    /// One raw byte, written `<0xXX>`.
    Byte,
}

/// All tokens by id.
#[derive(Debug)]
pub(super) struct Vocabulary {
    /// All texts, one behind the other.
    texts: String,
    /// Where each text ends; the first begins at 0.
    ends: Vec<usize>,
    kinds: Vec<TokenKind>,
}

impl Vocabulary {
    pub(super) fn from_metadata(metadata: &Metadata, warnings: &mut Vec<String>) -> Result<Self, TokenizerError> {
        const TOKENS: &str = "tokenizer.ggml.tokens";
        const TYPES: &str = "tokenizer.ggml.token_type";
        let tokens = metadata.strings(TOKENS)?.ok_or(TokenizerError::MissingKey { key: TOKENS })?;
        if tokens.is_empty() || tokens.len() > MAX_TOKENS {
            return Err(TokenizerError::VocabularySize { found: tokens.len(), limit: MAX_TOKENS });
        }
        let types = metadata.integers(TYPES)?.unwrap_or_default();
        if !types.is_empty() && types.len() != tokens.len() {
            return Err(TokenizerError::LengthMismatch { key: TYPES, found: types.len(), expected: tokens.len() });
        }
        let mut odd_types = 0;
        let mut kinds: Vec<TokenKind> = types
            .iter()
            .map(|number| {
                TokenKind::from_number(*number).unwrap_or_else(|| {
                    odd_types += 1;
                    TokenKind::Normal
                })
            })
            .collect();
        kinds.resize(tokens.len(), TokenKind::Normal);
        if odd_types > 0 {
            warnings
                .push(format!("{odd_types} tokens have an unknown type in `{TYPES}`; they are taken as normal text"));
        }
        let mut texts = String::with_capacity(tokens.iter().map(String::len).sum());
        let mut ends = Vec::with_capacity(tokens.len());
        for token in tokens {
            texts.push_str(token);
            ends.push(texts.len());
        }
        Ok(Vocabulary { texts, ends, kinds })
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The token's text as the file writes it, or `None` for an id out of range.
    pub(super) fn text(&self, id: u32) -> Option<&str> {
        let index = id as usize;
        let end = *self.ends.get(index)?;
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        Some(&self.texts[start..end])
    }

    pub(super) fn kind(&self, id: u32) -> Option<TokenKind> {
        self.kinds.get(id as usize).copied()
    }

    pub(super) fn set_kind(&mut self, id: u32, kind: TokenKind) {
        if let Some(slot) = self.kinds.get_mut(id as usize) {
            *slot = kind;
        }
    }

    /// Every id with its text and kind.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &str, TokenKind)> {
        let mut start = 0;
        self.ends.iter().zip(&self.kinds).enumerate().map(move |(id, (&end, &kind))| {
            let text = &self.texts[start..end];
            start = end;
            (id as u32, text, kind)
        })
    }
}

impl TokenKind {
    fn from_number(number: i64) -> Option<TokenKind> {
        Some(match number {
            // 0 is "undefined", which old converters wrote for plain text.
            0 | 1 => TokenKind::Normal,
            2 => TokenKind::Unknown,
            3 => TokenKind::Control,
            4 => TokenKind::UserDefined,
            5 => TokenKind::Unused,
            6 => TokenKind::Byte,
            _ => return None,
        })
    }
}
