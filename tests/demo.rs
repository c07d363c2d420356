//! The demonstration model speaks: its answers to 50 prompts for a reader (`--nocapture`), and rules that a random or
//! broken model fails. `assets/README.md` says how the model was made and what its figures are.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking and prints for a reader")]

mod common;

use std::collections::HashSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use jiff::civil::{DateTime, date};
use serde::Deserialize;
use wayinfer::gguf::Gguf;
use wayinfer::sampler::SamplingParams;
use wayinfer::session::{EngineOptions, ReplySink, Session, Watch, Words, bind_model, chat, open_file};
use wayinfer::text::tokenizer::{Special, Tokenizer};
use wayinfer::transcript::{Message, Role};

/// The stated bound on the perplexity of the assistant's turns in the held-out dialogues.
const PERPLEXITY_BOUND: f64 = 1.4;
/// The least share of a layer's tokens that an expert may have.
const LEAST_USE: f64 = 0.02;
/// The least share of answers that are English sentences.
const LEAST_ENGLISH: f64 = 0.94;
/// The least share of known words in an answer that is English.
const LEAST_KNOWN: f64 = 0.9;
/// The least share of different word pairs in all answers together; one answer said 50 times comes to 0.02.
const LEAST_DISTINCT: f64 = 0.4;
/// The least share of prompts with a known answer that get it.
const LEAST_RIGHT: f64 = 0.85;
/// What any visitor tries first has to be right.
const MUST_BE_RIGHT: [&str; 4] = ["Hello", "What are you?", "What is 2+2?", "Tell me a short story."];

#[derive(Debug, Deserialize)]
struct Prompt {
    category: String,
    /// What the person says, one message a turn.
    turns: Vec<String>,
    /// The last answer needs one text of every group.
    contains: Vec<Vec<String>>,
    /// Whether these words were among the trained questions.
    trained: bool,
}

/// What the rules look at.
#[derive(Debug)]
struct Report {
    perplexity: f64,
    /// Share of a layer's tokens, the least over all experts and layers.
    least_use: f64,
    english: f64,
    distinct: f64,
    right: f64,
    /// Those of [`MUST_BE_RIGHT`] that were wrong, with what was said.
    wrong: Vec<String>,
}

impl Report {
    /// The rules that are broken, a line each.
    fn broken(&self) -> Vec<String> {
        let mut broken = Vec::new();
        let mut rule = |holds: bool, text: String| {
            if !holds {
                broken.push(text);
            }
        };
        rule(
            self.perplexity <= PERPLEXITY_BOUND,
            format!("the held-out perplexity is {:.3}, above {PERPLEXITY_BOUND}", self.perplexity),
        );
        let least = [
            ("use of the least used expert", self.least_use, LEAST_USE),
            ("share of answers that are English", self.english, LEAST_ENGLISH),
            ("share of different word pairs", self.distinct, LEAST_DISTINCT),
            ("share of right answers", self.right, LEAST_RIGHT),
        ];
        for (name, found, bound) in least {
            rule(found >= bound, format!("the {name} is {found:.3}, below {bound}"));
        }
        rule(self.wrong.is_empty(), format!("wrong: {:?}", self.wrong));
        broken
    }
}

fn demo() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo.gguf"))
}

fn json<T: serde::de::DeserializeOwned>(name: &str) -> T {
    serde_json::from_slice(&std::fs::read(common::data(name)).unwrap()).unwrap()
}

/// Everything about the model in `path`.
fn report(path: &Path) -> Report {
    let options = EngineOptions { context: Some(1024), ..EngineOptions::default() };
    let compute = options.compute().unwrap();
    let file = open_file(path).unwrap();
    let model = bind_model(path, &file, &options).unwrap();
    let words = Words::read(path, &file, model.hyperparameters().n_vocab).unwrap();
    assert!(words.warnings.is_empty(), "{:?}", words.warnings);
    let watch = Watch::unattended(&file, &model, options.prefetch);

    let mut session = Session::new(&model, &compute, options.kv_for(&model)).unwrap();
    let perplexity = perplexity(&mut session, &words.tokenizer, &watch);
    let map = &watch.experts;
    let mut least_use = f64::INFINITY;
    for layer in 0..map.n_layers() {
        let uses: Vec<u64> = (0..map.n_experts()).map(|expert| map.uses(layer, expert)).collect();
        let total: u64 = uses.iter().sum();
        let shares: Vec<f64> = uses.iter().map(|&n| n as f64 / total as f64).collect();
        println!(
            "layer {layer}: use of experts in percent {:.1?}",
            shares.iter().map(|s| s * 100.0).collect::<Vec<_>>()
        );
        least_use = shares.into_iter().fold(least_use, f64::min);
    }

    let prompts: Vec<Prompt> = json("demo_prompts.json");
    let mut chat = chat(&model, &compute, &words, &options).unwrap();
    let answers: Vec<String> = prompts.iter().map(|prompt| last_answer(&mut chat, &watch, prompt)).collect();
    println!("held-out perplexity {perplexity:.3}");
    judge(&prompts, &answers, perplexity, least_use)
}

/// Perplexity of the assistant's turns in the held-out dialogues, with the token that ends each of them.
fn perplexity(session: &mut Session<'_>, tokenizer: &Tokenizer, watch: &Watch) -> f64 {
    let (mut sum, mut n) = (0.0, 0u32);
    for turns in json::<Vec<Vec<String>>>("demo_heldout.json") {
        let mut ids = Vec::new();
        let mut counted = Vec::new();
        for (i, turn) in turns.iter().enumerate() {
            let speaker = if i % 2 == 0 { "<|user|>" } else { "<|assistant|>" };
            ids.extend(tokenizer.encode(speaker, Special::Parse).unwrap());
            let first = ids.len();
            ids.extend(tokenizer.encode(turn, Special::Plain).unwrap());
            ids.extend(tokenizer.encode("<|end|>", Special::Parse).unwrap());
            if i % 2 == 1 {
                counted.extend(first..ids.len());
            }
        }
        let counted: HashSet<usize> = counted.into_iter().collect();
        session
            .all_logits(&ids, watch.control(), &mut |position, rows| {
                for (i, row) in rows.chunks_exact(tokenizer.n_vocab()).enumerate() {
                    if counted.contains(&(position + i + 1)) {
                        sum += surprise(row, ids[position + i + 1]);
                        n += 1;
                    }
                }
            })
            .unwrap();
    }
    (sum / f64::from(n)).exp()
}

/// The negative log likelihood of `id`.
fn surprise(logits: &[f32], id: u32) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&x| f64::from(x - max).exp()).sum();
    sum.ln() - f64::from(logits[id as usize] - max)
}

/// The greedy answer to the last turn; the answers to those before are part of the conversation.
fn last_answer(chat: &mut wayinfer::session::Chat<'_>, watch: &Watch, prompt: &Prompt) -> String {
    let now = DateTime::from(date(2026, 1, 1));
    let mut messages = Vec::new();
    let mut answer = String::new();
    for turn in &prompt.turns {
        messages.push(Message { role: Role::User, content: turn.clone() });
        let ids = chat.prompt(&messages, now).unwrap();
        answer.clear();
        let sink = ReplySink { on_prompt: &mut |_| {}, on_text: &mut |text| answer.push_str(text) };
        chat.reply(&ids, &SamplingParams::greedy(), Some(250), watch.control(), sink).unwrap();
        messages.push(Message { role: Role::Assistant, content: answer.clone() });
    }
    answer
}

/// Prints the answers and looks at them.
fn judge(prompts: &[Prompt], answers: &[String], perplexity: f64, least_use: f64) -> Report {
    let text = std::fs::read_to_string(common::data("demo_words.txt")).unwrap();
    let known: HashSet<&str> = text.split_whitespace().collect();
    let (mut english, mut asked, mut right, mut wrong) = (0, 0, 0, Vec::new());
    let (mut pairs, mut different) = (0, HashSet::new());
    for (prompt, answer) in prompts.iter().zip(answers) {
        let is_right = prompt.contains.iter().all(|group| group.iter().any(|text| answer.contains(text)));
        let is_english = is_english(answer, &known);
        english += usize::from(is_english);
        asked += usize::from(!prompt.contains.is_empty());
        right += usize::from(!prompt.contains.is_empty() && is_right);
        let last = prompt.turns.last().unwrap();
        let is_story = last.contains("story") && words(answer).len() < 30;
        if MUST_BE_RIGHT.contains(&last.as_str()) && (!is_right || !is_english || is_story) {
            wrong.push(format!("{last} {answer}"));
        }
        let words = words(answer);
        pairs += words.len().saturating_sub(1);
        different.extend(words.windows(2).map(|pair| (pair[0].clone(), pair[1].clone())));
        print_answer(prompt, answer, is_right, is_english);
    }
    let share = |n: usize, of: usize| n as f64 / of.max(1) as f64;
    Report {
        perplexity,
        least_use,
        english: share(english, prompts.len()),
        distinct: share(different.len(), pairs),
        right: share(right, asked),
        wrong,
    }
}

fn print_answer(prompt: &Prompt, answer: &str, is_right: bool, is_english: bool) {
    let mut notes = String::new();
    if !prompt.trained {
        notes.push_str(" (never trained)");
    }
    if !is_right {
        let _ = write!(notes, " WRONG, expected {:?}", prompt.contains);
    }
    if !is_english {
        notes.push_str(" NOT ENGLISH");
    }
    println!("[{}]{notes} {}\n    {answer}", prompt.category, prompt.turns.join(" / "));
}

fn words(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_lowercase).collect()
}

/// Whether an answer is made of known words and numbers, ends as a sentence does, and does not go round in circles.
fn is_english(answer: &str, known: &HashSet<&str>) -> bool {
    let words = words(answer);
    let of_known = words.iter().filter(|w| known.contains(w.as_str()) || w.bytes().any(|b| b.is_ascii_digit()));
    let triples: HashSet<&[String]> = words.windows(3).collect();
    let n_triples = words.len().saturating_sub(2);
    !words.is_empty()
        && of_known.count() as f64 >= LEAST_KNOWN * words.len() as f64
        && answer.trim_end().ends_with(['.', '!', '?', '"'])
        && triples.len() as f64 >= 0.7 * n_triples as f64
}

/// A copy of the model in which the rows of every matrix of attention and experts have changed places.
fn shuffled(folder: &Path) -> PathBuf {
    let mut bytes = std::fs::read(demo()).unwrap();
    let gguf = Gguf::open(demo()).unwrap();
    for tensor in gguf.tensors.iter().filter(|t| t.name.starts_with("blk.") && !t.name.contains("norm")) {
        let rows = tensor.shape.iter().skip(1).product::<u64>();
        let (start, size) = (tensor.offset as usize, tensor.n_bytes as usize);
        let row = size / rows as usize;
        bytes[start..start + size].rotate_left(row * (rows as usize / 3));
    }
    let path = folder.join("shuffled.gguf");
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn the_demonstration_model_answers_in_english_and_uses_all_its_experts() {
    let report = report(&demo());
    println!("{report:#?}");
    assert!(report.broken().is_empty(), "{}", report.broken().join("\n"));
}

#[test]
fn the_same_rules_reject_the_model_with_shuffled_weights() {
    let folder = tempfile::tempdir().unwrap();
    let report = report(&shuffled(folder.path()));
    let broken = report.broken();
    println!("{}", broken.join("\n"));
    assert!(report.perplexity > 4.0 * PERPLEXITY_BOUND, "the perplexity is only {:.2}", report.perplexity);
    assert!(report.right < LEAST_RIGHT && !report.wrong.is_empty(), "{report:#?}");
}
