//! The tokenizers and chat templates against the reference results in the shared folder beside the checkout.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test stops where something is missing")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use wayinfer::gguf::{Gguf, Metadata};
use wayinfer::text::chat::ChatFormat;
use wayinfer::text::template::{ChatTemplate, GenerationPrompt, RenderOptions, TemplateError};
use wayinfer::text::tokenizer::{ControlText, Special, TokenKind, TokenStream, Tokenizer};
use wayinfer::transcript::{Message, Role};

/// A folder of the reference results, or a word on why the test is skipped.
fn conformance(name: &str) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/conformance").join(name);
    if !folder.is_dir() {
        println!("SKIP: {} is not there", folder.display());
        return None;
    }
    Some(folder)
}

fn metadata(path: &Path) -> Metadata {
    Gguf::open(path).unwrap().metadata
}

/// A reproducible source of numbers (xorshift64).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % limit.max(1)
    }
}

struct Vocabulary {
    name: String,
    tokenizer: Tokenizer,
    /// Texts and their expected ids.
    cases: Vec<(String, Vec<u32>)>,
}

fn vocabularies(folder: &Path) -> Vec<Vocabulary> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "gguf"));
    paths.sort();
    assert!(!paths.is_empty());
    let load = |path: PathBuf| {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let (tokenizer, warnings) = Tokenizer::from_metadata(&metadata(&path)).unwrap();
        assert!(warnings.is_empty(), "{name}: {warnings:?}");
        let read = |suffix: &str| std::fs::read_to_string(format!("{}.{suffix}", path.display())).unwrap();
        let inputs = read("inp");
        let mut texts: Vec<String> = inputs.split("\n__ggml_vocab_test__\n").map(str::to_owned).collect();
        assert_eq!(texts.pop().as_deref(), Some(""), "{name}: every text is ended by the mark");
        let outputs = read("out");
        let ids = outputs.lines().map(|line| line.split_whitespace().map(|id| id.parse().unwrap()).collect());
        let cases: Vec<(String, Vec<u32>)> = texts.into_iter().zip(ids).collect();
        assert_eq!(cases.len(), outputs.lines().count(), "{name}");
        Vocabulary { name, tokenizer, cases }
    };
    paths.into_iter().map(load).collect()
}

#[test]
fn every_reference_text_has_its_reference_ids_and_decodes_to_itself() {
    let Some(folder) = conformance("tokenizer") else { return };
    let mut checked = 0;
    for Vocabulary { name, tokenizer, cases } in vocabularies(&folder) {
        for (text, expected) in cases {
            let ids = tokenizer.encode(&text, Special::Plain).unwrap();
            assert_eq!(ids, expected, "{name}: {text:?}");
            let decoded = tokenizer.decode(&ids, ControlText::Hide);
            // SentencePiece begins a text with a space of its own.
            let decoded = if tokenizer.add_bos() && decoded.len() > text.len() { &decoded[1..] } else { &decoded };
            assert_eq!(decoded, text, "{name}");
            checked += 1;
        }
    }
    println!("{checked} texts");
}

#[test]
fn streamed_text_equals_the_text_decoded_at_once() {
    let Some(folder) = conformance("tokenizer") else { return };
    for Vocabulary { name, tokenizer, .. } in vocabularies(&folder) {
        let mut random = Random(88_172_645_463_325_252);
        for round in 0..200 {
            // Rounds over the first ids, which are single bytes in most vocabularies, break up characters the most.
            let range = if round % 2 == 0 { tokenizer.n_vocab() } else { 300 };
            let ids: Vec<u32> = (0..40).map(|_| random.below(range) as u32).collect();
            for control in [ControlText::Hide, ControlText::Show] {
                let mut stream = TokenStream::new(control);
                let mut streamed = String::new();
                for &id in &ids {
                    stream.push(&tokenizer, id, &mut streamed);
                }
                stream.finish(&mut streamed);
                assert_eq!(streamed, tokenizer.decode(&ids, control), "{name}: {ids:?}");
            }
        }
    }
}

/// The published templates: name, source and cases.
fn templates() -> Option<Vec<(String, String, Vec<serde_json::Value>)>> {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(conformance("templates")?).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let load = |path: PathBuf| {
        let file: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        (name, file["source"].as_str().unwrap().to_owned(), file["cases"].as_array().unwrap().clone())
    };
    Some(paths.into_iter().map(load).collect())
}

fn render(template: &ChatTemplate, case: &serde_json::Value) -> Result<String, TemplateError> {
    let add = case["add_generation_prompt"].as_bool().unwrap();
    template.render(&RenderOptions {
        messages: &case["messages"],
        generation_prompt: if add { GenerationPrompt::Add } else { GenerationPrompt::Omit },
        bos_token: case["bos_token"].as_str().unwrap(),
        eos_token: case["eos_token"].as_str().unwrap(),
        now: case["now"].as_str().unwrap().parse().unwrap(),
        tools: None,
        extra: serde_json::Map::new(),
    })
}

#[test]
fn every_template_renders_as_the_reference_does() {
    let Some(templates) = templates() else { return };
    let mut checked = 0;
    let mut failures = Vec::new();
    for (name, source, cases) in templates {
        let template = ChatTemplate::new(&source).unwrap_or_else(|e| panic!("{name}: {e}"));
        for case in cases {
            match (render(&template, &case), case["expected"].as_str()) {
                (Ok(text), Some(expected)) if text == expected => checked += 1,
                (Err(_), None) => checked += 1,
                (found, expected) => {
                    failures.push(format!("{name}, {}:\n   found {found:?}\nexpected {expected:?}", case["name"]));
                }
            }
        }
    }
    println!("{checked} renderings");
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn broken_templates_neither_hang_nor_break_the_engine() {
    let Some(templates) = templates() else { return };
    let pieces =
        ["{{", "}}", "{% endfor %}", "|tojson", "[1:]", "* 10**9", "ns.a", "range(99999)", "é", "'", "loop([a])", "%"];
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    for _ in 0..3000 {
        let (_, source, cases) = &templates[random.below(templates.len())];
        let mut chars: Vec<char> = source.chars().collect();
        let start = random.below(chars.len());
        chars.drain(..start);
        chars.truncate(2000);
        for _ in 0..=random.below(6) {
            let at = random.below(chars.len() + 1);
            let end = (at + random.below(20)).min(chars.len());
            if random.below(2) == 0 {
                chars.drain(at..end);
            } else {
                chars.splice(at..at, pieces[random.below(pieces.len())].chars());
            }
        }
        let broken: String = chars.into_iter().collect();
        let begun = Instant::now();
        let result = ChatTemplate::new(&broken).and_then(|template| render(&template, &cases[0]));
        assert!(!matches!(result, Err(TemplateError::BrokeDown)), "{broken}");
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}: {broken}", begun.elapsed());
    }
}

#[test]
fn conversations_are_encoded_for_reference_vocabularies_with_templates() {
    let Some(folder) = conformance("tokenizer") else { return };
    for name in ["phi-3", "qwen2"] {
        let metadata = metadata(&folder.join(format!("ggml-vocab-{name}.gguf")));
        let (tokenizer, _) = Tokenizer::from_metadata(&metadata).unwrap();
        let (format, _) = ChatFormat::from_metadata(&metadata, &tokenizer).unwrap();
        assert_eq!(format.name(), "the model's own");
        let now = "2026-01-15T09:30:00".parse().unwrap();
        let say = |role, content: &str| Message { role, content: content.to_owned() };
        let harmless = [say(Role::User, "Hi, who are you?"), say(Role::Assistant, "A model."), say(Role::User, "ok")];
        let ids = format.encode(&tokenizer, &harmless, now).unwrap();
        let text = format.render(&harmless, GenerationPrompt::Add, now).unwrap();
        assert_eq!(ids, tokenizer.encode(&text, Special::Parse).unwrap(), "{name}");
        assert_eq!(
            ids.iter().filter(|&&id| Some(id) == tokenizer.bos()).count(),
            usize::from(tokenizer.add_bos()),
            "{name}"
        );

        let n_control =
            |ids: &[u32]| ids.iter().filter(|&&id| tokenizer.token_kind(id) == Some(TokenKind::Control)).count();
        let all: String = (0..tokenizer.n_vocab() as u32)
            .filter(|&id| tokenizer.token_kind(id) == Some(TokenKind::Control))
            .filter_map(|id| tokenizer.token_text(id))
            .collect();
        let attack = [say(Role::User, &all), say(Role::Assistant, &all), say(Role::User, &all)];
        assert_eq!(n_control(&format.encode(&tokenizer, &attack, now).unwrap()), n_control(&ids), "{name}");
    }
}
