//! The tokenizers and chat templates against the reference results in the shared folder beside the checkout.

use std::path::{Path, PathBuf};

use wayinfer::gguf::{Array, Metadata, Value};
use wayinfer::text::template::{ChatTemplate, GenerationPrompt, RenderOptions};
use wayinfer::text::tokenizer::{ControlText, Special, TokenStream, Tokenizer};

/// A folder of the reference results, or a word on why the test is skipped.
fn conformance(name: &str) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/conformance").join(name);
    if !folder.is_dir() {
        println!("SKIP: {} is not there", folder.display());
        return None;
    }
    Some(folder)
}

/// The metadata of a trusted GGUF file.
pub fn metadata(path: &Path) -> Metadata {
    struct Reader<'a>(&'a [u8]);
    impl Reader<'_> {
        fn take<const N: usize>(&mut self) -> [u8; N] {
            let (head, rest) = self.0.split_at(N);
            self.0 = rest;
            head.try_into().unwrap()
        }
        fn u32(&mut self) -> u32 {
            u32::from_le_bytes(self.take())
        }
        fn u64(&mut self) -> u64 {
            u64::from_le_bytes(self.take())
        }
        fn string(&mut self) -> String {
            let len = self.u64() as usize;
            let (head, rest) = self.0.split_at(len);
            self.0 = rest;
            String::from_utf8(head.to_vec()).unwrap()
        }
        fn value(&mut self, kind: u32) -> Value {
            match kind {
                0 => Value::U8(u8::from_le_bytes(self.take())),
                1 => Value::I8(i8::from_le_bytes(self.take())),
                2 => Value::U16(u16::from_le_bytes(self.take())),
                3 => Value::I16(i16::from_le_bytes(self.take())),
                4 => Value::U32(self.u32()),
                5 => Value::I32(i32::from_le_bytes(self.take())),
                6 => Value::F32(f32::from_le_bytes(self.take())),
                7 => Value::Bool(self.take::<1>()[0] != 0),
                8 => Value::String(self.string()),
                9 => {
                    let (kind, len) = (self.u32(), self.u64());
                    Value::Array(match kind {
                        4 => Array::U32((0..len).map(|_| self.u32()).collect()),
                        5 => Array::I32((0..len).map(|_| i32::from_le_bytes(self.take())).collect()),
                        6 => Array::F32((0..len).map(|_| f32::from_le_bytes(self.take())).collect()),
                        8 => Array::String((0..len).map(|_| self.string()).collect()),
                        other => panic!("array of type {other}"),
                    })
                }
                10 => Value::U64(self.u64()),
                11 => Value::I64(i64::from_le_bytes(self.take())),
                12 => Value::F64(f64::from_le_bytes(self.take())),
                other => panic!("value of type {other}"),
            }
        }
    }
    let mut head = Vec::new();
    // The header of a vocabulary is a few MiB; what follows are weights.
    std::io::Read::read_to_end(&mut std::io::Read::take(std::fs::File::open(path).unwrap(), 32 << 20), &mut head)
        .unwrap();
    let mut reader = Reader(&head);
    assert_eq!(&reader.take::<4>(), b"GGUF");
    let (_version, _tensors, keys) = (reader.u32(), reader.u64(), reader.u64());
    let mut metadata = Metadata::default();
    for _ in 0..keys {
        let key = reader.string();
        let kind = reader.u32();
        let value = reader.value(kind);
        metadata.insert(key, value).unwrap();
    }
    metadata
}

/// Every vocabulary with its texts and their expected ids.
fn vocabularies(folder: &Path) -> Vec<(String, Tokenizer, Vec<(String, Vec<u32>)>)> {
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
        (name, tokenizer, cases)
    };
    paths.into_iter().map(load).collect()
}

#[test]
fn every_reference_text_has_its_reference_ids_and_decodes_to_itself() {
    let Some(folder) = conformance("tokenizer") else { return };
    let mut checked = 0;
    for (name, tokenizer, cases) in vocabularies(&folder) {
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
    for (name, tokenizer, _) in vocabularies(&folder) {
        let mut state = 88_172_645_463_325_252_u64;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for round in 0..200 {
            // Rounds over the first ids, which are single bytes in most vocabularies, break up characters the most.
            let range = if round % 2 == 0 { tokenizer.n_vocab() as u64 } else { 300 };
            let ids: Vec<u32> = (0..40).map(|_| (random() % range) as u32).collect();
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

#[test]
fn every_template_renders_as_the_reference_does() {
    let Some(folder) = conformance("templates") else { return };
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let mut checked = 0;
    let mut failures = Vec::new();
    for path in paths {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let file: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let template = match ChatTemplate::new(file["source"].as_str().unwrap()) {
            Ok(template) => template,
            Err(e) => {
                failures.push(format!("{name}: {e}"));
                continue;
            }
        };
        for case in file["cases"].as_array().unwrap() {
            let add = case["add_generation_prompt"].as_bool().unwrap();
            let options = RenderOptions {
                messages: &case["messages"],
                generation_prompt: if add { GenerationPrompt::Add } else { GenerationPrompt::Omit },
                bos_token: case["bos_token"].as_str().unwrap(),
                eos_token: case["eos_token"].as_str().unwrap(),
                now: case["now"].as_str().unwrap().parse().unwrap(),
                tools: None,
                extra: serde_json::Map::new(),
            };
            let what = format!("{name}, {} (add_generation_prompt {add})", case["name"]);
            match (template.render(&options), case["expected"].as_str()) {
                (Ok(text), Some(expected)) if text == expected => checked += 1,
                (Err(_), None) => checked += 1,
                (Ok(text), Some(expected)) => {
                    failures.push(format!("{what}:\n   found {text:?}\nexpected {expected:?}"));
                }
                (Ok(text), None) => failures.push(format!("{what}: should fail, found {text:?}")),
                (Err(e), Some(_)) => failures.push(format!("{what}: {e}")),
            }
        }
    }
    println!("{checked} renderings");
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}
