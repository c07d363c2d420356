//! SentencePiece BPE (`tokenizer.ggml.model` = `llama`): neighbouring pieces merge, the best score first, for as long as
//! a token has their joint text; what no token covers falls back to bytes.
//!
//! The BPE of the `tokenizers` crate ranks pairs of tokens. Here the score belongs to the merged text, ties go to the
//! leftmost pair, and a character without a token of its own can still be part of one, so the merging is done here, in
//! O(n log n).

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use tokenizers::models::bpe::Vocab;

use crate::gguf::Metadata;

use super::TokenizerError;
use super::byte_level::text_to_id;
use super::vocab::{TokenKind, Vocabulary};

/// What SentencePiece writes for a space.
const SPACE: char = '▁';

/// The encoder of one vocabulary.
#[derive(Debug)]
pub(super) struct SentencePiece {
    ids: Vocab,
    /// By id; a higher score merges first.
    scores: Vec<f32>,
    /// The token of each byte.
    bytes: Vec<Option<u32>>,
    unknown: Option<u32>,
    /// The longest token text in bytes: no longer text needs to be looked up.
    longest: usize,
    /// A space is added before text that begins the input or follows a control token.
    pub(super) add_space_prefix: bool,
}

/// A run of the text that is one piece so far; merged away where `len` is 0.
struct Piece {
    start: usize,
    len: usize,
    previous: usize,
    next: usize,
}

/// No neighbour.
const NONE: usize = usize::MAX;

/// Two neighbours whose joint text is a token.
struct Pair {
    score: f32,
    left: usize,
    right: usize,
    /// The joint length in bytes when the pair was found; another length now means that it is out of date.
    len: usize,
}

impl SentencePiece {
    pub(super) fn from_metadata(
        metadata: &Metadata,
        vocabulary: &Vocabulary,
        unknown: Option<u32>,
        warnings: &mut Vec<String>,
    ) -> Result<SentencePiece, TokenizerError> {
        const SCORES: &str = "tokenizer.ggml.scores";
        let scores = metadata.f32s(SCORES)?.ok_or(TokenizerError::MissingKey { key: SCORES })?;
        if scores.len() != vocabulary.len() {
            return Err(TokenizerError::LengthMismatch {
                key: SCORES,
                found: scores.len(),
                expected: vocabulary.len(),
            });
        }
        if scores.iter().any(|score| score.is_nan()) {
            warnings.push(format!("some of `{SCORES}` are not numbers; those tokens merge last"));
        }
        // Adding zero makes the two zeros equal in the total order.
        let scores = scores.iter().map(|&s| if s.is_nan() { f32::NEG_INFINITY } else { s + 0.0 }).collect();

        let ids = text_to_id(vocabulary, warnings);
        let mut bytes = vec![None; 256];
        for (byte, slot) in (0..=255_u8).zip(&mut bytes) {
            let raw = char::from(byte).to_string();
            *slot = ids.get(&format!("<0x{byte:02X}>")).or_else(|| ids.get(&raw).filter(|_| byte < 0x80)).copied();
        }
        let missing = bytes.iter().filter(|id| id.is_none()).count();
        if missing > 0 {
            let fate = if unknown.is_some() { "becomes the unknown token" } else { "is lost" };
            warnings.push(format!("the vocabulary has no token for {missing} of 256 bytes: rare text {fate}"));
        }
        let longest = vocabulary.iter().map(|(_, text, _)| text.len()).max().unwrap_or(0);
        let add_space_prefix = metadata.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
        Ok(SentencePiece { ids, scores, bytes, unknown, longest, add_space_prefix })
    }

    /// Appends the tokens of `text`, in which no whole-text token is looked for. `after_control`: the text begins the
    /// input or follows a control token.
    pub(super) fn encode(&self, text: &str, after_control: bool, out: &mut Vec<u32>) {
        let mut escaped = String::with_capacity(text.len() + text.len() / 4 + SPACE.len_utf8());
        if self.add_space_prefix && after_control {
            escaped.push(SPACE);
        }
        escaped.extend(text.chars().map(|c| if c == ' ' { SPACE } else { c }));
        let pieces = self.merge(&escaped);
        let mut at = 0;
        while let Some(piece) = pieces.get(at) {
            self.push_piece(&escaped[piece.start..piece.start + piece.len], out);
            at = piece.next;
        }
    }

    fn push_piece(&self, text: &str, out: &mut Vec<u32>) {
        match self.ids.get(text) {
            Some(&id) => out.push(id),
            None => out.extend(text.bytes().filter_map(|byte| self.bytes[usize::from(byte)].or(self.unknown))),
        }
    }

    /// The pieces left when nothing merges any more, linked from the first through `next`.
    fn merge(&self, text: &str) -> Vec<Piece> {
        let mut pieces: Vec<Piece> = text
            .char_indices()
            .enumerate()
            .map(|(i, (start, c))| Piece { start, len: c.len_utf8(), previous: i.wrapping_sub(1), next: i + 1 })
            .collect();
        if let Some(last) = pieces.last_mut() {
            last.next = NONE;
        }
        let mut queue: BinaryHeap<Pair> =
            (1..pieces.len()).filter_map(|right| self.pair(text, &pieces, right - 1, right)).collect();
        while let Some(Pair { left, right, len, .. }) = queue.pop() {
            if pieces[left].len == 0 || pieces[right].len == 0 || pieces[left].len + pieces[right].len != len {
                continue;
            }
            let next = pieces[right].next;
            pieces[left].len = len;
            pieces[left].next = next;
            pieces[right].len = 0;
            if let Some(after) = pieces.get_mut(next) {
                after.previous = left;
            }
            queue.extend(self.pair(text, &pieces, pieces[left].previous, left));
            queue.extend(self.pair(text, &pieces, left, next));
        }
        pieces
    }

    /// The pair of two neighbours (either may be [`NONE`]), where their joint text is a token.
    fn pair(&self, text: &str, pieces: &[Piece], left: usize, right: usize) -> Option<Pair> {
        let len = pieces.get(left)?.len + pieces.get(right)?.len;
        if len > self.longest {
            return None;
        }
        let start = pieces[left].start;
        let id = *self.ids.get(&text[start..start + len])?;
        Some(Pair { score: self.scores[id as usize], left, right, len })
    }
}

impl Ord for Pair {
    /// The greatest pair merges first: the best score, then the leftmost.
    fn cmp(&self, other: &Pair) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Pair) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Pair) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Pair {}

/// Appends the bytes of a token's text.
pub(super) fn decode(text: &str, kind: TokenKind, out: &mut Vec<u8>) {
    if matches!(kind, TokenKind::Control | TokenKind::Unknown) {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    let mut parts = text.split(SPACE);
    out.extend_from_slice(parts.next().unwrap_or_default().as_bytes());
    for part in parts {
        out.push(b' ');
        out.extend_from_slice(part.as_bytes());
    }
}

/// The byte of a text like `<0x0A>`.
pub(super) fn byte_of(text: &str) -> Option<u8> {
    let hex = text.strip_prefix("<0x")?.strip_suffix('>')?;
    (hex.len() == 2).then(|| u8::from_str_radix(hex, 16).ok()).flatten()
}
