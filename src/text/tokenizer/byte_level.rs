//! Byte-level BPE (`tokenizer.ggml.model` = `gpt2`): text is cut into words, each byte of a word becomes one printable
//! character, and pairs merge by rank, which the `tokenizers` crate does.

use tokenizers::Model as _;
use tokenizers::models::bpe::{BPE, Vocab};

use crate::gguf::Metadata;

use super::TokenizerError;
use super::pretokenizer::PreTokenizer;
use super::vocab::{TokenKind, Vocabulary};

/// The encoder of one vocabulary.
#[derive(Debug)]
pub(super) struct ByteLevelBpe {
    pub(super) pre_tokenizer: PreTokenizer,
    model: BPE,
}

impl ByteLevelBpe {
    pub(super) fn from_metadata(
        metadata: &Metadata,
        vocabulary: &Vocabulary,
        unknown: Option<u32>,
        warnings: &mut Vec<String>,
    ) -> Result<ByteLevelBpe, TokenizerError> {
        const PRE: &str = "tokenizer.ggml.pre";
        const MERGES: &str = "tokenizer.ggml.merges";
        let pre = metadata.str(PRE)?;
        let (pre_tokenizer, known) = PreTokenizer::by_name(pre)?;
        if !known {
            let what = pre.map_or_else(|| "is missing".to_owned(), |name| format!("`{name}` is unknown"));
            warnings.push(format!(
                "the pre-tokenizer (`{PRE}`) {what}: words are cut in the default way, and answers may be worse for it"
            ));
        }

        let vocab = text_to_id(vocabulary, warnings);
        warn_of_missing_bytes(&vocab, unknown, warnings);
        let merges = metadata.strings(MERGES)?.ok_or(TokenizerError::MissingKey { key: MERGES })?;
        let merges = usable_merges(merges, &vocab, warnings);
        let mut builder = BPE::builder()
            .vocab_and_merges(vocab, merges)
            .ignore_merges(pre_tokenizer.ignore_merges)
            // The library's cache is a thread's own and outlives the model it was filled from.
            .cache_capacity(0);
        if let Some(text) = unknown.and_then(|id| vocabulary.text(id)) {
            builder = builder.unk_token(text.to_owned());
        }
        let model = builder
            .build()
            .map_err(|e| TokenizerError::Library { task: "build the BPE merges", reason: e.to_string() })?;
        Ok(ByteLevelBpe { pre_tokenizer, model })
    }

    /// Appends the tokens of `text`, in which no whole-text token is looked for.
    pub(super) fn encode(&self, text: &str, out: &mut Vec<u32>) -> Result<(), TokenizerError> {
        let mut word = String::new();
        for range in self.pre_tokenizer.split(text)? {
            word.clear();
            word.extend(text.as_bytes()[range].iter().map(|&byte| byte_to_char(byte)));
            let tokens = self
                .model
                .tokenize(&word)
                .map_err(|e| TokenizerError::Library { task: "tokenize", reason: e.to_string() })?;
            out.extend(tokens.iter().map(|token| token.id));
        }
        Ok(())
    }
}

/// Of tokens with the same text the first counts.
pub(super) fn text_to_id(vocabulary: &Vocabulary, warnings: &mut Vec<String>) -> Vocab {
    let mut vocab = Vocab::with_capacity(vocabulary.len());
    let mut repeated = 0;
    let mut example = String::new();
    for (id, text, _) in vocabulary.iter() {
        if text.is_empty() {
            continue;
        }
        if vocab.contains_key(text) {
            repeated += 1;
            if example.is_empty() {
                text.clone_into(&mut example);
            }
        } else {
            vocab.insert(text.to_owned(), id);
        }
    }
    if repeated > 0 {
        let example: String = example.chars().take(40).collect();
        warnings.push(format!(
            "{repeated} tokens have the text of an earlier one (the first is {example:?}) and will not be produced from text"
        ));
    }
    vocab
}

/// The merges as pairs, without those that the vocabulary cannot carry out.
fn usable_merges(merges: &[String], vocab: &Vocab, warnings: &mut Vec<String>) -> Vec<(String, String)> {
    let mut merged = String::new();
    let pairs: Vec<_> = merges
        .iter()
        .filter_map(|merge| {
            // A space as the first character is the left token itself.
            let (cut, _) = merge.char_indices().skip(1).find(|&(_, c)| c == ' ')?;
            let (left, right) = (&merge[..cut], &merge[cut + 1..]);
            merged.clear();
            merged.push_str(left);
            merged.push_str(right);
            let usable = [left, right, &merged].iter().all(|text| vocab.contains_key(*text));
            usable.then(|| (left.to_owned(), right.to_owned()))
        })
        .collect();
    let unusable = merges.len() - pairs.len();
    if unusable > 0 {
        warnings.push(format!(
            "{unusable} of {} merges name tokens that the vocabulary lacks; they are left out",
            merges.len()
        ));
    }
    pairs
}

fn warn_of_missing_bytes(vocab: &Vocab, unknown: Option<u32>, warnings: &mut Vec<String>) {
    // Real vocabularies lack bytes that written text never has: control characters and the leads of unassigned planes.
    let occurs = |byte: u8| matches!(byte, b'\t' | b'\n' | b' '..=b'~' | 0x80..=0xBF | 0xC2..=0xF0);
    let mut buffer = [0; 4];
    let missing = (0..=255)
        .filter(|&byte| occurs(byte) && !vocab.contains_key(&*byte_to_char(byte).encode_utf8(&mut buffer)))
        .count();
    if missing > 0 {
        let fate = if unknown.is_some() { "becomes the unknown token" } else { "is lost" };
        warnings.push(format!(
            "the vocabulary has no token for {missing} of the bytes of written text: text with them {fate}"
        ));
    }
}

/// The printable character that stands for a byte in a byte-level vocabulary (as GPT-2 defined it).
pub(super) fn byte_to_char(byte: u8) -> char {
    const CHARS: [char; 256] = byte_chars();
    CHARS[usize::from(byte)]
}

/// The byte that a character stands for, or `None` where it stands for none.
fn char_to_byte(c: char) -> Option<u8> {
    const BYTES: [Option<u8>; 0x144] = byte_of_char();
    BYTES.get(c as usize).copied().flatten()
}

/// Printable Latin-1 characters stand for themselves; the other 68 bytes, in order, for U+0100 and up.
const fn byte_chars() -> [char; 256] {
    let mut chars = ['\0'; 256];
    let mut next = 0x100;
    let mut byte = 0;
    while byte < 256 {
        let stands_for_itself = matches!(byte as u8, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
        let code = if stands_for_itself { byte as u32 } else { next };
        if !stands_for_itself {
            next += 1;
        }
        chars[byte] = match char::from_u32(code) {
            Some(c) => c,
            None => panic!("no code below U+0144 is a surrogate"),
        };
        byte += 1;
    }
    chars
}

const fn byte_of_char() -> [Option<u8>; 0x144] {
    let chars = byte_chars();
    let mut bytes = [None; 0x144];
    let mut byte = 0;
    while byte < 256 {
        bytes[chars[byte] as usize] = Some(byte as u8);
        byte += 1;
    }
    bytes
}

/// Appends the bytes of a token's text. A text with a character that stands for no byte is taken as it is.
pub(super) fn decode(text: &str, kind: TokenKind, out: &mut Vec<u8>) {
    let start = out.len();
    if matches!(kind, TokenKind::Normal | TokenKind::Unused) {
        for c in text.chars() {
            let Some(byte) = char_to_byte(c) else {
                out.truncate(start);
                break;
            };
            out.push(byte);
        }
    }
    if out.len() == start {
        out.extend_from_slice(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_characters_map_one_to_one() {
        for byte in 0..=255 {
            assert_eq!(char_to_byte(byte_to_char(byte)), Some(byte));
        }
        assert_eq!((byte_to_char(b' '), byte_to_char(b'\n'), byte_to_char(0xAD)), ('Ġ', 'Ċ', 'Ń'));
        assert_eq!(char_to_byte(' '), None);
        assert_eq!(char_to_byte('▁'), None);
    }

    #[test]
    fn a_text_that_is_not_byte_level_decodes_as_it_is() {
        let bytes = |text, kind| {
            let mut out = vec![b'x'];
            decode(text, kind, &mut out);
            out
        };
        assert_eq!(bytes("Ġhi", TokenKind::Normal), b"x hi");
        assert_eq!(bytes("Ġ<|x y|>", TokenKind::Normal), "xĠ<|x y|>".as_bytes());
        assert_eq!(bytes("Ġ", TokenKind::UserDefined), "xĠ".as_bytes());
    }
}
