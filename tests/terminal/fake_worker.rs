//! An engine without a model: it speaks the worker's protocol and answers by a script, so that the screen can be tried.
//!
//! The last message steers the reply: `long N` says N words, `slow` takes its time, `fail` fails, `panic` panics,
//! `escapes` sends control sequences. Anything else gets sixty words. A token is a word.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use wayinfer::telemetry::{ExpertMap, Telemetry};
use wayinfer::transcript::{Message, Role};
use wayinfer::worker::{Command, Event, ModelSummary, ReplyStats, StopReason, WorkerHandle};

const LAYERS: usize = 48;
const EXPERTS: usize = 128;
const USED: usize = 8;
const CAPACITY: usize = 4096;
const GIB: u64 = 1 << 30;
const EXPERT_BYTES: u64 = 3 * 768 * 2048 * 9 / 16;

/// Starts the thread. It ends with [`Command::Quit`] or when the handle is dropped.
pub fn start() -> WorkerHandle {
    let (commands, inbox) = unbounded();
    let (outbox, events) = unbounded();
    // Nothing is pinned here.
    let pins = unbounded().0;
    let telemetry = Arc::new(Telemetry::default());
    let cancel = Arc::new(AtomicBool::new(false));
    let worker = Worker { outbox, telemetry: telemetry.clone(), cancel: cancel.clone(), random: 1 };
    thread::Builder::new().name("engine".into()).spawn(move || worker.serve(&inbox)).expect("no thread");
    WorkerHandle { commands, pins, events, telemetry, cancel }
}

struct Worker {
    outbox: Sender<Event>,
    telemetry: Arc<Telemetry>,
    cancel: Arc<AtomicBool>,
    random: u64,
}

impl Worker {
    fn serve(mut self, inbox: &Receiver<Command>) {
        while let Ok(command) = inbox.recv() {
            self.cancel.store(false, Relaxed);
            match command {
                Command::Load(path) => self.load(&path),
                Command::KeepKv(_) => {}
                Command::Generate { messages, .. } => self.generate(&messages),
                Command::Trace(_) => self.send(Event::Note("Nothing is recorded here".into())),
                Command::Quit => return,
            }
        }
    }

    fn send(&self, event: Event) {
        let _ = self.outbox.send(event);
    }

    fn load(&self, path: &Path) {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        if name.contains("broken") {
            let error = "it is not a GGUF file: it begins with `oops`, expected `GGUF`".to_owned();
            return self.send(Event::LoadFailed { path: path.to_owned(), error });
        }
        let t = &self.telemetry;
        t.file_bytes.set(18_556_685_824);
        t.memory_total.set(8 * GIB);
        t.memory_available.set(3 * GIB);
        t.resident_bytes.set(5 * GIB);
        t.rss_bytes.set(700 << 20);
        t.set_residency_source(Some("cachestat"));
        t.disk_read_bytes.set(0);
        t.major_faults.set(0);
        t.minor_faults.set(0);
        t.kv_capacity.set(CAPACITY as u64);
        t.kv_used.set(0);
        t.kv_bytes.set(192 << 20);
        let map = ExpertMap::new(LAYERS, EXPERTS);
        for layer in 0..LAYERS {
            for expert in 0..EXPERTS {
                let share = (layer * 7 + expert * 13) % 11;
                map.set_resident(
                    layer,
                    expert,
                    (share < 10).then(|| if share < 4 { 1.0 } else { share as f32 / 40.0 }),
                );
            }
        }
        t.set_experts(Some(Arc::new(map)));
        self.send(Event::Loaded(ModelSummary {
            name: "Fake 30B A3B".into(),
            path: path.to_owned(),
            architecture: "qwen3moe".into(),
            quantization: "Q4_K_M".into(),
            parameters: 30_532_122_624,
            file_bytes: 18_556_685_824,
            n_layers: LAYERS,
            n_experts: EXPERTS,
            n_experts_used: USED,
            context_length: CAPACITY,
        }));
        if name.contains("untemplated") {
            self.send(Event::Warning("The model has no chat template; ChatML is used.".into()));
        }
    }

    fn generate(&mut self, messages: &[Message]) {
        let words = |m: &Message| m.content.split_whitespace().count() + 4;
        let needed: usize = messages.iter().map(words).sum::<usize>() + 64;
        if needed > CAPACITY {
            let droppable_turns = droppable(messages, needed - CAPACITY, words);
            return self.send(Event::ContextFull { needed, capacity: CAPACITY, droppable_turns });
        }
        let question = messages.last().map_or("", |m| m.content.as_str()).to_owned();
        let prompt = messages.last().map_or(0, words);
        self.send(Event::ReplyStarted { prompt_tokens: needed - 64, reused_tokens: needed - 64 - prompt });
        let slow = question.contains("slow");
        let begin = Instant::now();
        if !self.prefill(prompt, slow) {
            let stats = ReplyStats { prompt_tokens: prompt, ..ReplyStats::default() };
            return self.send(Event::ReplyFinished { stop: StopReason::Cancelled, stats });
        }
        let prompt_seconds = begin.elapsed().as_secs_f64();
        if question.contains("fail") {
            return self.send(Event::ReplyFailed("tensor `blk.3.ffn_up_exps.weight` could not be read".into()));
        }
        assert!(!question.contains("panic"), "the script says so");
        let begin = Instant::now();
        let (stop, generated_tokens) = self.speak(&question, slow);
        let generate_seconds = begin.elapsed().as_secs_f64();
        let stats = ReplyStats { prompt_tokens: prompt, prompt_seconds, generated_tokens, generate_seconds };
        self.send(Event::ReplyFinished { stop, stats });
    }

    /// Reads the prompt; false where it was cancelled.
    fn prefill(&mut self, tokens: usize, slow: bool) -> bool {
        let t = self.telemetry.clone();
        t.prompt_total.set(tokens as u64);
        for done in (0..=tokens).step_by(8) {
            if self.cancel.load(Relaxed) {
                return false;
            }
            t.prompt_done.set(done as u64);
            t.prompt_milli_tok_s.set(41_200);
            self.pass();
            thread::sleep(Duration::from_millis(if slow { 200 } else { 1 }));
        }
        t.prompt_done.set(tokens as u64);
        true
    }

    fn speak(&mut self, question: &str, slow: bool) -> (StopReason, usize) {
        const WORDS: [&str; 12] =
            ["memory", "is", "a", "ladder", "of", "tiers,", "and", "every", "token", "climbs", "it", "again."];
        let asked = question.split_whitespace().skip_while(|w| *w != "long").nth(1).and_then(|n| n.parse().ok());
        let count: usize = asked.unwrap_or(60);
        if question.contains("escapes") {
            self.send(Event::Text {
                text: "before \u{1b}[2J\u{1b}[?1049l\u{1b}]0;title\u{7} after".into(),
                pass: None,
            });
        }
        let delay = Duration::from_micros(if slow {
            60_000
        } else if count > 1000 {
            20
        } else {
            3_000
        });
        for n in 0..count {
            if self.cancel.load(Relaxed) {
                return (StopReason::Cancelled, n);
            }
            self.pass();
            let end = if n % 24 == 23 { "\n\n" } else { " " };
            self.send(Event::Text { text: format!("{}{end}", WORDS[n % WORDS.len()]), pass: None });
            self.telemetry.generate_milli_tok_s.set(5_310);
            thread::sleep(delay);
        }
        (StopReason::EndOfTurn, count)
    }

    /// One forward pass, as the gauges see it.
    fn pass(&mut self) {
        let t = self.telemetry.clone();
        t.ticks.add(1);
        let tick = t.ticks.get();
        t.kv_used.set((t.kv_used.get().unwrap_or(0) + 1) % CAPACITY as u64);
        let Some(map) = t.experts() else { return };
        let mut read = 0;
        for layer in 0..LAYERS {
            for _ in 0..USED {
                // Squared, so that some experts are asked for more often than others.
                let draw = self.draw();
                let expert = ((draw * draw) * EXPERTS as f64) as usize;
                map.mark_used(layer, expert, tick, 1);
                if map.resident(layer, expert).is_none_or(|share| share < 1.0) {
                    map.set_resident(layer, expert, Some(1.0));
                    read += EXPERT_BYTES;
                }
            }
            let cold = (self.draw() * EXPERTS as f64) as usize;
            map.set_resident(layer, cold, Some(0.0));
        }
        t.disk_read_bytes.set(t.disk_read_bytes.get().unwrap_or(0) + read);
        t.major_faults.set(t.major_faults.get().unwrap_or(0) + read / (128 << 10));
        t.minor_faults.set(t.minor_faults.get().unwrap_or(0) + 900);
    }

    /// In 0..1, by a fixed linear congruence.
    fn draw(&mut self) -> f64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// How many of the oldest turns free at least `excess` tokens; the last turn stays.
fn droppable(messages: &[Message], excess: usize, words: impl Fn(&Message) -> usize) -> Option<usize> {
    let mut freed = 0;
    let mut turns = 0;
    for (i, message) in messages.iter().enumerate().filter(|(_, m)| m.role != Role::System) {
        if message.role == Role::User {
            if freed >= excess {
                return Some(turns);
            }
            if i + 1 == messages.len() {
                return None;
            }
            turns += 1;
        }
        freed += words(message);
    }
    None
}
