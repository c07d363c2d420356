//! Pre-tokenizers of byte-level BPE: the regular expressions that cut a text into words before any pair is merged.
//! The name in `tokenizer.ggml.pre` in, ranges of the text out.
//!
//! The expressions are those of the models' own `tokenizer.json`; the names are those that GGUF converters write.

use std::ops::Range;

use tokenizers::utils::SysRegex;

use super::TokenizerError;

/// Cuts words as one `tokenizer.ggml.pre` says.
#[derive(Debug)]
pub(super) struct PreTokenizer {
    steps: Vec<Step>,
    /// A word that is a token as it stands is not merged from its bytes.
    pub(super) ignore_merges: bool,
    /// Whether BOS is added where the file does not say.
    pub(super) add_bos: bool,
}

#[derive(Debug)]
struct Step {
    regex: SysRegex,
    /// The expression matches any white space, so white space that it leaves over means that its engine gave up.
    covers_white_space: bool,
}

struct Preset {
    names: &'static [&'static str],
    regexes: &'static [&'static str],
    ignore_merges: bool,
    add_bos: bool,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;
const DEEPSEEK_LETTERS: &str = r"\s?[A-Za-z\u{b5}\u{c0}-\u{d6}\u{d8}-\u{f6}\u{f8}-\u{1ba}\u{1bc}-\u{1bf}\u{1c4}-\u{293}\u{295}-\u{2af}\u{370}-\u{373}\u{376}\u{377}\u{37b}-\u{37d}\u{37f}\u{386}\u{388}-\u{38a}\u{38c}\u{38e}-\u{3a1}\u{3a3}-\u{3f5}\u{3f7}-\u{481}\u{48a}-\u{52f}\u{531}-\u{556}\u{10a0}-\u{10c5}\u{13a0}-\u{13f5}\u{13f8}-\u{13fd}\u{1c90}-\u{1cba}\u{1cbd}-\u{1cbf}\u{1d00}-\u{1d2b}\u{1d6b}-\u{1d77}\u{1d79}-\u{1d9a}\u{1e00}-\u{1f15}\u{1f18}-\u{1f1d}\u{1f20}-\u{1f45}\u{1f48}-\u{1f4d}\u{1f50}-\u{1f57}\u{1f59}\u{1f5b}\u{1f5d}\u{1f5f}-\u{1f7d}\u{1f80}-\u{1fb4}\u{1fb6}-\u{1fbc}\u{1fbe}\u{1fc2}-\u{1fc4}\u{1fc6}-\u{1fcc}\u{1fd0}-\u{1fd3}\u{1fd6}-\u{1fdb}\u{1fe0}-\u{1fec}\u{1ff2}-\u{1ff4}\u{1ff6}-\u{1ffc}\u{2102}\u{2107}\u{210a}-\u{2113}\u{2115}\u{2119}-\u{211d}\u{2124}\u{2126}\u{2128}\u{212a}-\u{212d}\u{212f}-\u{2134}\u{2139}\u{213c}-\u{213f}\u{2145}-\u{2149}\u{214e}\u{2183}\u{2184}\u{2c00}-\u{2c7b}\u{2c7e}-\u{2ce4}\u{2ceb}-\u{2cee}\u{2cf2}\u{2cf3}\u{a640}-\u{a66d}\u{a680}-\u{a69b}\u{a722}-\u{a76f}\u{a771}-\u{a787}\u{a78b}-\u{a78e}\u{ab70}-\u{abbf}\u{fb00}-\u{fb06}\u{fb13}-\u{fb17}\u{ff21}-\u{ff3a}\u{ff41}-\u{ff5a}\u{10400}-\u{1044f}\u{104b0}-\u{104d3}\u{104d8}-\u{104fb}\u{10c80}-\u{10cb2}\u{10cc0}-\u{10cf2}\u{118a0}-\u{118df}\u{1e900}-\u{1e943}]+";
const DEEPSEEK_PUNCTUATION: &str = r"\s?[!-/:-~\u{ff01}-\u{ff0f}\u{ff1a}-\u{ff5e}\u{2018}-\u{201f}\u{3000}-\u{3002}]+";
const DEEPSEEK_CJK: &str = r"[\u{4e00}-\u{9fa5}\u{800}-\u{4e00}\u{ac00}-\u{d7ff}]+";

/// Every known name. A name that is not here gets [`DEFAULT`] and a warning.
const PRESETS: &[Preset] = &[
    Preset {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"],
        regexes: &[LLAMA3],
        ignore_merges: true,
        add_bos: true,
    },
    Preset { names: &["glm4"], regexes: &[LLAMA3], ignore_merges: true, add_bos: false },
    Preset { names: &["chatglm-bpe", "dbrx", "smaug-bpe"], regexes: &[LLAMA3], ignore_merges: false, add_bos: false },
    Preset {
        names: &[
            "qwen2",
            "deepseek-r1-qwen",
            "megrez",
            "stablelm2",
            "hunyuan",
            "grok-2",
            "solar-open",
            "kormo",
            "f2llmv2",
        ],
        regexes: &[QWEN2],
        ignore_merges: false,
        add_bos: false,
    },
    Preset { names: &["qwen35"], regexes: &[QWEN35], ignore_merges: false, add_bos: false },
    Preset {
        names: &["gpt-2", "phi-2", "gigachat", "a.x-4.0", "mellum", "exaone4", "olmo", "mpt", "jais", "trillion"],
        regexes: &[GPT2],
        ignore_merges: false,
        add_bos: false,
    },
    Preset {
        names: &["starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2"],
        regexes: &[r"\p{N}", GPT2],
        ignore_merges: false,
        add_bos: false,
    },
    Preset { names: &["tekken"], regexes: &[TEKKEN], ignore_merges: true, add_bos: true },
    Preset {
        names: &["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"],
        regexes: &[GPT4O],
        ignore_merges: false,
        add_bos: false,
    },
    Preset {
        names: &["deepseek-llm"],
        regexes: &[r"[\r\n]", DEEPSEEK_LETTERS, DEEPSEEK_PUNCTUATION, r"\s+$", DEEPSEEK_CJK, r"\p{N}+"],
        ignore_merges: false,
        add_bos: false,
    },
    Preset {
        names: &["deepseek-coder"],
        regexes: &[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", DEEPSEEK_CJK, r"\p{N}"],
        ignore_merges: false,
        add_bos: false,
    },
    Preset {
        names: &["deepseek-v3", "hunyuan-dense", "joyai-llm"],
        regexes: &[r"\p{N}{1,3}", r"[\u{4e00}-\u{9fa5}\u{3040}-\u{309f}\u{30a0}-\u{30ff}]+", DEEPSEEK3],
        ignore_merges: false,
        add_bos: false,
    },
    Preset {
        names: &["falcon"],
        regexes: &[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, r"[0-9][0-9][0-9]"],
        ignore_merges: false,
        add_bos: false,
    },
    DEFAULT,
];

const DEFAULT: Preset = Preset {
    names: &["default"],
    regexes: &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"],
    ignore_merges: false,
    add_bos: false,
};

impl PreTokenizer {
    /// The pre-tokenizer of this name, or the default one where the name is missing or unknown (the second value is false).
    pub(super) fn by_name(name: Option<&str>) -> Result<(PreTokenizer, bool), TokenizerError> {
        let known = name.and_then(|name| PRESETS.iter().find(|preset| preset.names.contains(&name)));
        let preset = known.unwrap_or(&DEFAULT);
        let steps = preset.regexes.iter().map(|regex| Step::new(regex)).collect::<Result<_, _>>()?;
        let pre_tokenizer = PreTokenizer { steps, ignore_merges: preset.ignore_merges, add_bos: preset.add_bos };
        Ok((pre_tokenizer, known.is_some()))
    }

    /// The words of `text`, in order, with nothing left out.
    pub(super) fn split(&self, text: &str) -> Result<Vec<Range<usize>>, TokenizerError> {
        let mut words = Vec::with_capacity(text.len() / 4 + 1);
        words.push(0..text.len());
        for step in &self.steps {
            let mut finer = Vec::with_capacity(words.len());
            for word in words {
                step.split(text, word, &mut finer)?;
            }
            words = finer;
        }
        Ok(words)
    }
}

impl Step {
    fn new(regex: &str) -> Result<Step, TokenizerError> {
        let covers_white_space = regex.ends_with(r"|\s+");
        let regex = SysRegex::new(regex)
            .map_err(|e| TokenizerError::Library { task: "compile a pre-tokenizer", reason: e.to_string() })?;
        Ok(Step { regex, covers_white_space })
    }

    /// Matches and what lies between them become words of their own.
    fn split(&self, text: &str, word: Range<usize>, out: &mut Vec<Range<usize>>) -> Result<(), TokenizerError> {
        let mut done = word.start;
        for (start, end) in self.regex.find_iter(&text[word.clone()]) {
            let (start, end) = (word.start + start, word.start + end);
            if done < start {
                out.push(done..start);
            }
            if start < end {
                out.push(start..end);
            }
            done = end;
        }
        if done < word.end {
            if self.covers_white_space && text[done..].starts_with(char::is_whitespace) {
                return Err(TokenizerError::WordTooLong { bytes: word.end - done });
            }
            out.push(done..word.end);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words<'a>(name: &str, text: &'a str) -> Vec<&'a str> {
        let (pre, known) = PreTokenizer::by_name(Some(name)).unwrap();
        assert!(known, "{name}");
        pre.split(text).unwrap().into_iter().map(|range| &text[range]).collect()
    }

    #[test]
    fn every_expression_compiles_and_every_name_is_there_once() {
        let mut seen = std::collections::HashSet::new();
        for preset in PRESETS {
            for name in preset.names {
                assert!(seen.insert(name), "{name} twice");
                PreTokenizer::by_name(Some(name)).unwrap();
            }
        }
    }

    #[test]
    fn words_of_every_pre_tokenizer_join_to_the_text() {
        let text = " \u{a0}\tIt's 12345 x=y|`~ ÀÉ日本語 e\u{301} 'LL \r\n\n  end \u{2003} ";
        for preset in PRESETS {
            for name in preset.names {
                assert_eq!(words(name, text).concat(), text, "{name}");
            }
        }
    }

    #[test]
    fn digits_and_contractions_are_cut_as_the_names_say() {
        assert_eq!(words("llama-bpe", "I'LL 12345"), ["I", "'LL", " ", "123", "45"]);
        assert_eq!(words("qwen2", "I'm 123"), ["I", "'m", " ", "1", "2", "3"]);
        assert_eq!(words("gpt-2", "I'LL 123  x"), ["I", "'", "LL", " 123", " ", " x"]);
        assert_eq!(words("smollm", "a 12"), ["a", " ", "1", "2"]);
        assert_eq!(words("falcon", "12345"), ["123", "45"]);
        assert_eq!(words("tekken", "HelloWorld/"), ["Hello", "World", "/"]);
    }

    #[test]
    fn a_name_that_is_unknown_or_missing_says_so() {
        assert!(!PreTokenizer::by_name(Some("no-such-thing")).unwrap().1);
        assert!(!PreTokenizer::by_name(None).unwrap().1);
    }

    #[test]
    fn endless_white_space_is_split_or_refused_but_never_swallowed() {
        let (pre, _) = PreTokenizer::by_name(Some("llama-bpe")).unwrap();
        let text = " ".repeat(100_000) + "x";
        assert_eq!(pre.split(&text).unwrap(), [0..99_999, 99_999..100_001]);
        let text = " ".repeat(3_000_000) + "x";
        assert!(matches!(pre.split(&text), Err(TokenizerError::WordTooLong { .. })));
    }
}
