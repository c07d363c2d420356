//! Small vocabularies made by hand, right and wrong. The reference vocabularies are in `tests/text.rs`.

use super::*;
use crate::gguf::{Array, Value};

fn metadata(entries: Vec<(&str, Value)>) -> Metadata {
    let mut metadata = Metadata::default();
    for (key, value) in entries {
        let key = if key.contains('.') { key.to_owned() } else { format!("tokenizer.ggml.{key}") };
        metadata.insert(key, value).unwrap();
    }
    metadata
}

fn text(text: &str) -> Value {
    Value::String(text.to_owned())
}

fn texts(texts: &[&str]) -> Value {
    Value::Array(Array::String(texts.iter().map(|&text| text.to_owned()).collect()))
}

fn types(types: &[i32]) -> Value {
    Value::Array(Array::I32(types.to_vec()))
}

/// All bytes, then `he`, `hel`, `lo`, `hello`, a control token and a user-defined one.
fn byte_level(extra: Vec<(&str, Value)>) -> Vec<(&str, Value)> {
    let mut tokens: Vec<String> = (0..=255).map(|byte| byte_level::byte_to_char(byte).to_string()).collect();
    tokens.extend(["he", "hel", "lo", "hello", "<|im_end|>", "<think>"].map(str::to_owned));
    let mut kinds = vec![1; tokens.len()];
    kinds[260] = 3;
    kinds[261] = 4;
    let mut entries = vec![
        ("model", text("gpt2")),
        ("pre", text("qwen2")),
        ("tokens", Value::Array(Array::String(tokens))),
        ("token_type", types(&kinds)),
        ("merges", texts(&["h e", "he l", "l o", "hel lo"])),
        ("eos_token_id", Value::U32(260)),
    ];
    entries.retain(|(key, _)| extra.iter().all(|(other, _)| other != key));
    entries.extend(extra.into_iter().filter(|(_, value)| *value != text("absent")));
    entries
}

fn sentence_piece(extra: Vec<(&str, Value)>) -> Vec<(&str, Value)> {
    let tokens = ["<unk>", "<s>", "</s>", "<0xC3>", "<0xA9>", "▁", "a", "b", "ab", "▁a", "abb", "<u>"];
    let scores = vec![0.0, 0.0, 0.0, 0.0, 0.0, -9.0, -8.0, -7.0, -2.0, -1.0, -3.0, 0.0];
    let mut entries = vec![
        ("model", text("llama")),
        ("tokens", texts(&tokens)),
        ("scores", Value::Array(Array::F32(scores))),
        ("token_type", types(&[2, 3, 3, 6, 6, 1, 1, 1, 1, 1, 1, 4])),
    ];
    entries.retain(|(key, _)| extra.iter().all(|(other, _)| other != key));
    entries.extend(extra.into_iter().filter(|(_, value)| *value != text("absent")));
    entries
}

fn build(entries: Vec<(&str, Value)>) -> Result<(Tokenizer, Vec<String>), TokenizerError> {
    Tokenizer::from_metadata(&metadata(entries))
}

fn good(entries: Vec<(&str, Value)>) -> Tokenizer {
    build(entries).unwrap().0
}

#[test]
fn byte_level_text_merges_by_rank_and_comes_back() {
    let (tokenizer, warnings) = build(byte_level(vec![])).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(tokenizer.encode("hello", Special::Plain).unwrap(), [259]);
    assert_eq!(tokenizer.encode("helo", Special::Plain).unwrap(), [257, u32::from(b'o')]);
    let text = "hello wörld\n\t🙂";
    assert_eq!(tokenizer.decode(&tokenizer.encode(text, Special::Plain).unwrap(), ControlText::Hide), text);
}

#[test]
fn control_tokens_come_from_parsed_text_alone_and_user_defined_ones_from_any() {
    let tokenizer = good(byte_level(vec![]));
    let text = "<think>hello<|im_end|>";
    assert_eq!(tokenizer.encode(text, Special::Parse).unwrap(), [261, 259, 260]);
    let plain = tokenizer.encode(text, Special::Plain).unwrap();
    assert_eq!(plain[..2], [261, 259]);
    assert!(!plain.contains(&260));
    assert_eq!(tokenizer.decode(&plain, ControlText::Hide), text);
    assert_eq!(tokenizer.decode(&[261, 260], ControlText::Hide), "<think>");
    assert_eq!(tokenizer.decode(&[261, 260], ControlText::Show), "<think><|im_end|>");
}

#[test]
fn guarded_text_never_becomes_a_control_token() {
    const GUARD: char = '\u{fdd0}';
    let tokenizer = good(byte_level(vec![]));
    let typed = "<|im_end|>hello<<|im_end|>|im_end|><think>";
    let text = format!("{}<|im_end|>", tokenizer.guard(typed, GUARD));
    let ids = tokenizer.encode_guarded(&text, GUARD).unwrap();
    assert_eq!(ids.iter().filter(|&&id| id == 260).count(), 1);
    assert_eq!(ids.last(), Some(&260));
    assert!(ids.contains(&261), "user-defined tokens are what they are");
    assert_eq!(tokenizer.decode(&ids, ControlText::Show), format!("{typed}<|im_end|>"));
}

#[test]
fn a_control_token_of_one_character_is_plain_in_guarded_text() {
    let mut kinds = vec![1; 262];
    kinds[usize::from(b'~')] = 3;
    let tokenizer = good(byte_level(vec![("token_type", types(&kinds))]));
    assert_eq!(tokenizer.encode("~", Special::Parse).unwrap(), [u32::from(b'~')]);
    assert_eq!(tokenizer.encode_guarded("a~b", '\u{fdd0}').unwrap().len(), 3);
}

#[test]
fn sentence_piece_merges_the_best_score_first() {
    let tokenizer = good(sentence_piece(vec![]));
    let ids = |text: &str| tokenizer.encode(text, Special::Plain).unwrap();
    // `▁a` has a better score than `ab`, though `abb` would be longer.
    assert_eq!(ids("abb"), [9, 7, 7]);
    assert_eq!(ids("babb"), [5, 7, 10]);
    assert_eq!(ids("é"), [5, 3, 4]);
    assert_eq!(ids("z"), [5, 0], "a byte without a token is unknown");
    assert!(ids("").is_empty());
    assert!(tokenizer.add_bos());
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(1), Some(2)));
}

#[test]
fn a_space_is_added_where_text_begins_and_after_a_whole_token() {
    let tokenizer = good(sentence_piece(vec![]));
    assert_eq!(tokenizer.encode("a<u>a</s>b", Special::Parse).unwrap(), [9, 11, 9, 2, 5, 7]);
    let tokenizer = good(sentence_piece(vec![("add_space_prefix", Value::Bool(false))]));
    assert_eq!(tokenizer.encode("a<u>a</s>b", Special::Parse).unwrap(), [6, 11, 6, 2, 7]);
    assert_eq!(tokenizer.decode(&[9, 5, 3, 4], ControlText::Hide), " a é");
}

#[test]
fn a_long_text_without_a_break_is_tokenized_in_good_time() {
    let start = std::time::Instant::now();
    let text = "ab".repeat(100_000);
    assert_eq!(good(sentence_piece(vec![])).encode(&text, Special::Plain).unwrap().len(), 100_000 + 1);
    assert_eq!(good(byte_level(vec![])).encode(&"hello".repeat(40_000), Special::Plain).unwrap().len(), 40_000);
    assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
}

#[test]
fn unusable_metadata_is_an_error_that_names_it() {
    let error = |entries| build(entries).unwrap_err().to_string();
    assert!(error(byte_level(vec![("model", text("bert"))])).contains("`bert`"));
    assert!(error(byte_level(vec![("model", text("absent"))])).contains("tokenizer.ggml.model"));
    assert!(error(byte_level(vec![("tokens", texts(&[])), ("token_type", types(&[]))])).contains("0 tokens"));
    assert!(error(byte_level(vec![("token_type", types(&[1]))])).contains("token_type"));
    assert!(error(byte_level(vec![("merges", text("absent"))])).contains("merges"));
    assert!(error(byte_level(vec![("tokens", Value::U32(3))])).contains("tokens"));
    assert!(error(sentence_piece(vec![("scores", text("absent"))])).contains("scores"));
    assert!(error(sentence_piece(vec![("scores", Value::Array(Array::F32(vec![1.0])))])).contains("scores"));
}

#[test]
fn odd_metadata_is_a_warning_and_the_rest_works() {
    let warned = |entries, word: &str| {
        let (tokenizer, warnings) = build(entries).unwrap();
        assert!(warnings.iter().any(|warning| warning.contains(word)), "{word}: {warnings:?}");
        tokenizer
    };
    warned(byte_level(vec![("pre", text("no-such-cut"))]), "`no-such-cut`");
    warned(byte_level(vec![("pre", text("absent"))]), "missing");
    // The last merge makes a text longer than any token.
    let merges = texts(&["h e", "he l", "l o", "hel lo", "x y", "q", "", " ", "hello <|im_end|>"]);
    let tokenizer = warned(byte_level(vec![("merges", merges)]), "5 of 9 merges");
    assert_eq!(tokenizer.encode("hello", Special::Plain).unwrap(), [259]);
    let tokenizer = warned(byte_level(vec![("bos_token_id", Value::U32(9_999))]), "9999");
    assert_eq!(tokenizer.bos(), None);
    assert_eq!(tokenizer.token_text(9_999), None);
    assert_eq!(tokenizer.decode(&[9_999], ControlText::Show), "");
    let tokens = ["a", "b", "a", "", "a"];
    warned(byte_level(vec![("tokens", texts(&tokens)), ("token_type", types(&[1, 1, 3, 3, 99]))]), "earlier");
    let scores = Value::Array(Array::F32(vec![f32::NAN; 12]));
    warned(sentence_piece(vec![("scores", scores)]), "not numbers").encode("abba", Special::Plain).unwrap();
}

#[test]
fn ends_of_turn_are_known_by_id_and_by_text() {
    let ends = |tokens: &[&str], kinds: &[i32], eos: u32| {
        let entries = vec![("tokens", texts(tokens)), ("token_type", types(kinds)), ("eos_token_id", Value::U32(eos))];
        let tokenizer = good(byte_level(entries));
        (0..tokens.len() as u32).filter(|&id| tokenizer.is_end_of_turn(id)).collect::<Vec<_>>()
    };
    assert_eq!(ends(&["a", "<|eot_id|>", "</s>", "<|im_end|>", "b"], &[1, 3, 1, 4, 1], 4), [1, 3, 4]);
    // Where a reply is several messages, the end of one of them is not the end of the reply.
    assert_eq!(ends(&["<|end|>", "<|return|>", "<|call|>"], &[3, 3, 3], 1), [1, 2]);
    assert_eq!(ends(&["<|end|>", "x"], &[3, 1], 1), [0, 1]);
}

#[test]
fn control_texts_marked_as_user_defined_are_control_tokens() {
    let mut kinds = vec![1; 262];
    kinds[260] = 4;
    let tokenizer = good(byte_level(vec![("token_type", types(&kinds))]));
    assert_eq!(tokenizer.token_kind(260), Some(TokenKind::Control));
    assert!(!tokenizer.encode("<|im_end|>", Special::Plain).unwrap().contains(&260));
}

#[test]
fn white_space_after_a_special_token_of_phi_3_is_its_own() {
    let tokenizer = good(byte_level(vec![("general.name", text("Phi-3-mini"))]));
    assert_eq!(tokenizer.encode("<|im_end|>\n hello", Special::Parse).unwrap(), [260, 259]);
}

#[test]
fn a_stream_shows_whole_characters_and_loses_none() {
    let tokenizer = good(byte_level(vec![]));
    let mut stream = TokenStream::new(ControlText::Hide);
    let mut shown = Vec::new();
    let text = "a🙂\u{fffd}é";
    for id in tokenizer.encode(text, Special::Plain).unwrap() {
        let mut out = String::new();
        stream.push(&tokenizer, id, &mut out);
        shown.push(out);
    }
    assert_eq!(shown, ["a", "", "", "", "🙂", "", "", "\u{fffd}", "", "é"]);
    let mut rest = String::new();
    stream.push(&tokenizer, 0xF0, &mut rest);
    stream.push(&tokenizer, 0x9F, &mut rest);
    assert_eq!(rest, "");
    stream.push(&tokenizer, u32::from(b'x'), &mut rest);
    assert_eq!(rest, "\u{fffd}x", "what cannot become a character any more is shown as such");
    stream.push(&tokenizer, 0xF0, &mut rest);
    stream.finish(&mut rest);
    assert_eq!(rest, "\u{fffd}x\u{fffd}");
}
