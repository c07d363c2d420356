//! Text to token ids and back, from the vocabulary that a GGUF file carries in its metadata.
//!
//! Two algorithms: byte-level BPE (`gpt2`) and SentencePiece BPE (`llama`). Before either runs, tokens that are matched as
//! whole texts are cut out: user-defined ones always, control ones only where the caller says that the text may steer the
//! model.

mod byte_level;
mod matcher;
mod pretokenizer;
mod spm;
mod stream;
mod vocab;

#[cfg(test)]
mod tests;

use crate::gguf::{GgufError, Metadata};

use byte_level::ByteLevelBpe;
use matcher::{Entry, TokenMatcher};
use spm::SentencePiece;
use vocab::Vocabulary;

pub use stream::TokenStream;
pub use vocab::TokenKind;

/// What stops a tokenizer from being built or used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    #[error(transparent)]
    Metadata(#[from] GgufError),
    #[error("the file has no `{key}`, which its tokenizer needs: convert the model again, with its tokenizer")]
    MissingKey { key: &'static str },
    #[error("`tokenizer.ggml.model` is `{found}`; known are `gpt2` (byte-level BPE) and `llama` (SentencePiece)")]
    UnknownModel { found: String },
    #[error("the vocabulary has {found} tokens, expected 1 to {limit}")]
    VocabularySize { found: usize, limit: usize },
    #[error("`{key}` has {found} elements, expected one for each of {expected} tokens")]
    LengthMismatch { key: &'static str, found: usize, expected: usize },
    #[error("the tokenizer library failed to {task}: {reason}")]
    Library { task: &'static str, reason: String },
    #[error("{bytes} bytes of text could not be cut into words: break up its longest run of white space")]
    WordTooLong { bytes: usize },
}

/// Whether the texts of control tokens in a string are those tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    /// They are: for a template's own text.
    Parse,
    /// They are plain text: for what a person typed.
    Plain,
}

/// Whether control tokens appear in decoded text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlText {
    Hide,
    Show,
}

/// The tokenizer of one model.
#[derive(Debug)]
pub struct Tokenizer {
    vocabulary: Vocabulary,
    algorithm: Algorithm,
    /// User-defined tokens: found in any text.
    user_defined: TokenMatcher,
    /// Control, unknown and user-defined tokens: found in text that may steer the model.
    special: TokenMatcher,
    /// Control and unknown tokens alone.
    control: TokenMatcher,
    bos: Option<u32>,
    eos: Option<u32>,
    add_bos: bool,
    add_eos: bool,
    /// Sorted.
    end_of_turn: Vec<u32>,
}

#[derive(Debug)]
enum Algorithm {
    ByteLevel(ByteLevelBpe),
    SentencePiece(SentencePiece),
}

/// Texts of tokens that end a turn (or a document) in the models that have them.
const END_OF_TURN: &[&str] = &[
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|calls|>",
    "<|flush|>",
    "<end_of_turn>",
    "<turn|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|end_of_turn|>",
    "<｜end▁of▁sentence｜>",
    "<end_of_utterance>",
    "</s>",
    "<eos>",
    "<EOT>",
    "[EOT]",
    "[EOS]",
    "[e~[",
    "<|fim_pad|>",
    "<fim_pad>",
    "<reponame>",
    "<|repo_name|>",
    "<|file_sep|>",
];

/// Other texts that steer a model. Converters have been seen to mark these and [`END_OF_TURN`] as user-defined; typed by a
/// person they must not become those tokens.
const START_OF_TURN: &[&str] = &["<|im_start|>", "<|start_header_id|>", "<|end_header_id|>", "<start_of_turn>"];

/// A longer text is not matched as a whole, which bounds the time of the search.
const MAX_SPECIAL_BYTES: usize = 512;

impl Tokenizer {
    /// Reads the tokenizer out of a file's metadata. The strings are warnings for the person at the screen.
    pub fn from_metadata(metadata: &Metadata) -> Result<(Tokenizer, Vec<String>), TokenizerError> {
        const MODEL: &str = "tokenizer.ggml.model";
        let model = metadata.str(MODEL)?.ok_or(TokenizerError::MissingKey { key: MODEL })?;
        let mut warnings = Vec::new();
        let mut vocabulary = Vocabulary::from_metadata(metadata, &mut warnings)?;
        let mut ids = NamedIds::read(metadata, &vocabulary, &mut warnings)?;
        let algorithm = match model {
            "gpt2" => {
                Algorithm::ByteLevel(ByteLevelBpe::from_metadata(metadata, &vocabulary, ids.unknown, &mut warnings)?)
            }
            "llama" => {
                ids.assume_sentence_piece(&vocabulary);
                let unknown = ids.unknown;
                Algorithm::SentencePiece(SentencePiece::from_metadata(metadata, &vocabulary, unknown, &mut warnings)?)
            }
            other => return Err(TokenizerError::UnknownModel { found: other.to_owned() }),
        };
        let end_of_turn = end_of_turn(&mut vocabulary, &ids);
        let add_bos_by_default = match &algorithm {
            Algorithm::ByteLevel(bpe) => bpe.pre_tokenizer.add_bos,
            Algorithm::SentencePiece(_) => true,
        };
        let matchers = Matchers::new(metadata, &vocabulary, &mut warnings);
        let tokenizer = Tokenizer {
            algorithm,
            user_defined: matchers.user_defined,
            special: matchers.special,
            control: matchers.control,
            bos: ids.bos,
            eos: ids.eos,
            add_bos: metadata.bool("tokenizer.ggml.add_bos_token")?.unwrap_or(add_bos_by_default),
            add_eos: metadata.bool("tokenizer.ggml.add_eos_token")?.unwrap_or(false),
            end_of_turn,
            vocabulary,
        };
        Ok((tokenizer, warnings))
    }

    /// The token ids of `text`, without BOS or EOS added.
    pub fn encode(&self, text: &str, special: Special) -> Result<Vec<u32>, TokenizerError> {
        let mut out = Vec::with_capacity(text.len() / 3 + 1);
        let mut after_control = true;
        match special {
            Special::Plain => self.encode_plain(text, &mut after_control, &mut out)?,
            Special::Parse => self.encode_parts(&self.special, text, &mut after_control, &mut out)?,
        }
        Ok(out)
    }

    /// As [`Tokenizer::encode`] with control tokens parsed, except those texts that `guard` is inserted in: the guard is
    /// taken out again and they stay plain text. A control token of a single character, which no guard can be inserted in,
    /// is plain text everywhere.
    pub fn encode_guarded(&self, text: &str, guard: char) -> Result<Vec<u32>, TokenizerError> {
        let mut out = Vec::with_capacity(text.len() / 3 + 1);
        let mut after_control = true;
        let mut plain = String::new();
        let mut done = 0;
        let mut from = 0;
        while let Some(found) = self.special.find(text, from) {
            from = found.end;
            let single = text[found.start..found.end].chars().nth(1).is_none();
            if single && self.kind_is_control(found.entry.id) {
                continue;
            }
            self.encode_unguarded(&text[done..found.start], guard, &mut plain, &mut after_control, &mut out)?;
            done = push_special(&found, text, &mut after_control, &mut out);
            from = done;
        }
        self.encode_unguarded(&text[done..], guard, &mut plain, &mut after_control, &mut out)?;
        Ok(out)
    }

    /// The text with `guard` inside every text of a control token, so that a template may carry it past
    /// [`Tokenizer::encode_guarded`]. The guard must not occur in `text`.
    pub fn guard(&self, text: &str, guard: char) -> String {
        let mut out = String::with_capacity(text.len() + 16);
        for (at, c) in text.char_indices() {
            out.push(c);
            if self.control.starts_at(text, at) {
                out.push(guard);
            }
        }
        out
    }

    /// The text of `ids`. Bytes that are not UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32], control: ControlText) -> String {
        let mut bytes = Vec::with_capacity(ids.len() * 4);
        for &id in ids {
            self.append_bytes(id, control, &mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The token that begins a sequence.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token that ends a sequence.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// Whether the model wants BOS before its input. True only where there is one.
    pub fn add_bos(&self) -> bool {
        self.add_bos && self.bos.is_some()
    }

    /// Whether the model wants EOS after its input. True only where there is one.
    pub fn add_eos(&self) -> bool {
        self.add_eos && self.eos.is_some()
    }

    pub fn n_vocab(&self) -> usize {
        self.vocabulary.len()
    }

    /// The token's text as the file writes it (`Ġthe`, `▁the`), or `None` for an id out of range.
    pub fn token_text(&self, id: u32) -> Option<&str> {
        self.vocabulary.text(id)
    }

    /// `None` for an id out of range.
    pub fn token_kind(&self, id: u32) -> Option<TokenKind> {
        self.vocabulary.kind(id)
    }

    /// The control or user-defined token of exactly this text.
    pub fn special_token(&self, text: &str) -> Option<u32> {
        self.special
            .find(text, 0)
            .filter(|found| (found.start, found.end) == (0, text.len()))
            .map(|found| found.entry.id)
    }

    /// Whether the token ends a reply.
    pub fn is_end_of_turn(&self, id: u32) -> bool {
        self.end_of_turn.binary_search(&id).is_ok()
    }

    fn kind_is_control(&self, id: u32) -> bool {
        matches!(self.vocabulary.kind(id), Some(TokenKind::Control | TokenKind::Unknown))
    }

    fn encode_unguarded(
        &self,
        text: &str,
        guard: char,
        plain: &mut String,
        after_control: &mut bool,
        out: &mut Vec<u32>,
    ) -> Result<(), TokenizerError> {
        plain.clear();
        plain.extend(text.chars().filter(|&c| c != guard));
        self.encode_plain(plain, after_control, out)
    }

    fn encode_plain(&self, text: &str, after_control: &mut bool, out: &mut Vec<u32>) -> Result<(), TokenizerError> {
        self.encode_parts(&self.user_defined, text, after_control, out)
    }

    /// Cuts the texts of `matcher` out and encodes what lies between them.
    fn encode_parts(
        &self,
        matcher: &TokenMatcher,
        text: &str,
        after_control: &mut bool,
        out: &mut Vec<u32>,
    ) -> Result<(), TokenizerError> {
        let mut done = 0;
        while let Some(found) = matcher.find(text, done) {
            self.encode_text(&text[done..found.start], after_control, out)?;
            done = push_special(&found, text, after_control, out);
        }
        self.encode_text(&text[done..], after_control, out)
    }

    fn encode_text(&self, text: &str, after_control: &mut bool, out: &mut Vec<u32>) -> Result<(), TokenizerError> {
        if text.is_empty() {
            return Ok(());
        }
        match &self.algorithm {
            Algorithm::ByteLevel(bpe) => bpe.encode(text, out)?,
            Algorithm::SentencePiece(spm) => spm.encode(text, *after_control, out),
        }
        *after_control = false;
        Ok(())
    }

    /// Appends the bytes that a token stands for.
    pub fn append_bytes(&self, id: u32, control: ControlText, out: &mut Vec<u8>) {
        let (Some(text), Some(kind)) = (self.vocabulary.text(id), self.vocabulary.kind(id)) else { return };
        match kind {
            TokenKind::Control | TokenKind::Unknown if control == ControlText::Hide => {}
            TokenKind::Byte if let Some(byte) = spm::byte_of(text) => out.push(byte),
            _ => match &self.algorithm {
                Algorithm::ByteLevel(_) => byte_level::decode(text, kind, out),
                Algorithm::SentencePiece(_) => spm::decode(text, kind, out),
            },
        }
    }
}

/// Appends a matched token and says where the text goes on.
fn push_special(found: &matcher::Match, text: &str, after_control: &mut bool, out: &mut Vec<u32>) -> usize {
    out.push(found.entry.id);
    *after_control = true;
    if found.entry.strip_right { text.len() - text[found.end..].trim_start().len() } else { found.end }
}

/// The ids that the metadata names.
struct NamedIds {
    bos: Option<u32>,
    eos: Option<u32>,
    eot: Option<u32>,
    eom: Option<u32>,
    unknown: Option<u32>,
}

impl NamedIds {
    fn read(metadata: &Metadata, vocabulary: &Vocabulary, warnings: &mut Vec<String>) -> Result<Self, TokenizerError> {
        let mut id = |name: &str| -> Result<Option<u32>, TokenizerError> {
            let key = format!("tokenizer.ggml.{name}_token_id");
            let Some(number) = metadata.u64(&key)? else { return Ok(None) };
            let id = u32::try_from(number).ok().filter(|&id| vocabulary.text(id).is_some());
            if id.is_none() {
                warnings.push(format!(
                    "`{key}` is {number}, but the vocabulary has {} tokens; it is ignored",
                    vocabulary.len()
                ));
            }
            Ok(id)
        };
        Ok(NamedIds { bos: id("bos")?, eos: id("eos")?, eot: id("eot")?, eom: id("eom")?, unknown: id("unknown")? })
    }

    /// A SentencePiece vocabulary of Llama begins with `<unk>`, `<s>` and `</s>`; old files do not say so.
    fn assume_sentence_piece(&mut self, vocabulary: &Vocabulary) {
        let at = |id: u32, text: &str| (vocabulary.text(id) == Some(text)).then_some(id);
        self.unknown = self.unknown.or_else(|| at(0, "<unk>"));
        self.bos = self.bos.or_else(|| at(1, "<s>"));
        self.eos = self.eos.or_else(|| at(2, "</s>"));
    }
}

/// The ids that end a reply, sorted. Known texts that the file marks as user-defined are made control tokens.
fn end_of_turn(vocabulary: &mut Vocabulary, ids: &NamedIds) -> Vec<u32> {
    let mut to_control = Vec::new();
    let mut ends: Vec<u32> = [ids.eos, ids.eot, ids.eom].into_iter().flatten().collect();
    let mut closes_message = None;
    let (mut has_return, mut has_call) = (false, false);
    for (id, text, kind) in vocabulary.iter() {
        let special = matches!(kind, TokenKind::Control | TokenKind::UserDefined);
        if !special || text.len() > MAX_SPECIAL_BYTES {
            continue;
        }
        let ends_turn = END_OF_TURN.contains(&text);
        if kind == TokenKind::UserDefined && (ends_turn || START_OF_TURN.contains(&text)) {
            to_control.push(id);
        }
        if !ends_turn {
            continue;
        }
        match text {
            "<|return|>" | "<|flush|>" => has_return = true,
            "<|call|>" | "<|calls|>" => has_call = true,
            "<|end|>" => closes_message = Some(id),
            _ => {}
        }
        ends.push(id);
    }
    // Where a reply is several messages (gpt-oss and its like), `<|end|>` closes one of them and not the reply.
    if has_return && has_call {
        ends.retain(|&id| Some(id) != closes_message || ids.eos == Some(id) || ids.eot == Some(id));
    }
    for id in to_control {
        vocabulary.set_kind(id, TokenKind::Control);
    }
    ends.sort_unstable();
    ends.dedup();
    ends
}

/// The three sets of tokens that are matched as whole texts.
struct Matchers {
    user_defined: TokenMatcher,
    special: TokenMatcher,
    control: TokenMatcher,
}

impl Matchers {
    fn new(metadata: &Metadata, vocabulary: &Vocabulary, warnings: &mut Vec<String>) -> Matchers {
        // Phi-3's tokenizer swallows the white space after its special tokens. The file does not carry this, only its name.
        let name = metadata.str("general.name").ok().flatten().unwrap_or_default().to_lowercase();
        let is_phi3 = name.contains("phi-3") || name.contains("phi3");
        let strips = |text: &str| is_phi3 && !matches!(text, "<unk>" | "<s>" | "<|endoftext|>");

        let mut too_long = 0;
        let (mut user_defined, mut control) = (Vec::new(), Vec::new());
        for (id, text, kind) in vocabulary.iter() {
            let set = match kind {
                TokenKind::UserDefined => &mut user_defined,
                TokenKind::Control | TokenKind::Unknown => &mut control,
                TokenKind::Normal | TokenKind::Unused | TokenKind::Byte => continue,
            };
            if text.len() > MAX_SPECIAL_BYTES {
                too_long += 1;
            } else {
                set.push((text, id));
            }
        }
        if too_long > 0 {
            warnings.push(format!(
                "{too_long} control or user-defined tokens are longer than {MAX_SPECIAL_BYTES} bytes; they are not looked for in text"
            ));
        }
        let matcher = |sets: &[&Vec<(&str, u32)>]| {
            TokenMatcher::new(sets.iter().copied().flatten().map(|&(text, id)| Entry::new(text, id, strips(text))))
        };
        Matchers {
            special: matcher(&[&user_defined, &control]),
            user_defined: matcher(&[&user_defined]),
            control: matcher(&[&control]),
        }
    }
}
