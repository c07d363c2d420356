//! The engine's events: replies as they come, and what ends them.

use std::time::Instant;

use crate::embedded;
use crate::sampler::SamplingParams;
use crate::transcript::{Figures, Record};
use crate::worker::{Command, Event, ModelSummary, ReplyStats, StopReason, model_record};

use super::super::conversation::Kind;
use super::super::sanitize::one_line;
use super::super::units;
use super::{App, ContextFull, Effect, Engine, FLUSH_TIME, Reply, Way};

/// Holds the place of the line below a reply while it runs; what is drawn there is live.
const LIVE: &str = "…";
/// What stands below a reply of which it is not known that it is whole.
const CUT_OFF: &str = "cut off";

impl App {
    pub(super) fn on_worker(&mut self, event: Event, now: Instant) -> Vec<Effect> {
        match event {
            Event::Loaded(mut summary) => {
                summary.name = one_line(&summary.name);
                summary.architecture = one_line(&summary.architecture);
                summary.quantization = one_line(&summary.quantization);
                let record = model_record(&summary);
                if self.embedded.as_ref() == Some(&summary.path) {
                    self.conversation.add(Kind::Note, "", embedded::NOTICE);
                }
                self.change_usual_temperature(&summary);
                self.forget_tokens();
                self.model = Some(summary);
                self.engine = Engine::Ready;
                let mut effects = vec![self.record(record)];
                effects.extend(self.send_queued(now));
                effects
            }
            Event::LoadFailed { path, error } => {
                self.engine = Engine::Absent;
                self.model = None;
                self.forget_tokens();
                self.unqueue();
                let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
                self.open_picker(Some(format!("{}: {}", one_line(&name), one_line(&error))))
            }
            Event::Warning(text) => {
                let again =
                    self.conversation.items().last().is_some_and(|i| i.kind == Kind::Warning && i.raw.ends_with(&text));
                if !again {
                    self.add_notice(Kind::Warning, &text);
                }
                Vec::new()
            }
            Event::Note(text) => {
                self.add_notice(Kind::Note, &text);
                Vec::new()
            }
            Event::PinRefused(why) => {
                self.notify(one_line(&why), now);
                Vec::new()
            }
            Event::ReplyStarted { prompt_tokens, reused_tokens } => {
                if let Engine::Replying(reply) = &mut self.engine {
                    reply.prompt = Some((prompt_tokens, reused_tokens));
                }
                Vec::new()
            }
            Event::Text { text, pass } => {
                if let Engine::Replying(reply) = &mut self.engine {
                    reply.text_since.get_or_insert(now);
                    self.conversation.append(reply.item, &text, pass, now);
                }
                Vec::new()
            }
            Event::ThinkingBegun => {
                if let Engine::Replying(reply) = self.engine {
                    self.conversation.begin_thinking(reply.item, now);
                }
                Vec::new()
            }
            Event::ReplyFinished { stop, stats } => self.reply_finished(stop, stats, now),
            Event::ReplyFailed(error) => self.reply_failed(&error, now),
            Event::ContextFull { needed, capacity, droppable_turns } => {
                let Engine::Replying(reply) = self.engine else { return Vec::new() };
                self.engine = Engine::Ready;
                let Reply { question, way, .. } = reply;
                match way {
                    Way::More { .. } => self.conversation.set_foot(reply.item, CUT_OFF.into()),
                    Way::First | Way::Edited { .. } | Way::Again { .. } => self.conversation.remove_last(),
                }
                // Dropping no turn would ask the same again.
                let droppable_turns = droppable_turns.filter(|&n| n > 0);
                self.dialog = Some(ContextFull { needed, capacity, droppable_turns, question, way });
                Vec::new()
            }
        }
    }

    /// The model in the binary has a temperature of its own. Nobody has set another: the one of the next model holds.
    fn change_usual_temperature(&mut self, next: &ModelSummary) {
        let usual = |model: Option<&ModelSummary>| match model {
            Some(model) if self.embedded.as_ref() == Some(&model.path) => embedded::sampling().temperature,
            _ => SamplingParams::default().temperature,
        };
        let (before, after) = (usual(self.model.as_ref()), usual(Some(next)));
        if self.asked_sampling.is_none() && self.sampling.temperature == before {
            self.sampling.temperature = after;
        }
    }

    /// Asks the engine to answer `question`, the last message, or to go on with its answer.
    pub(super) fn generate(&mut self, question: usize, way: Way, now: Instant) -> Vec<Effect> {
        let messages = self.conversation.messages(self.system.as_deref());
        let last_reply = || self.conversation.items().iter().rposition(|item| item.kind == Kind::Reply);
        let (item, recorded) = match way {
            Way::More { bytes, .. } => (last_reply().expect("a reply is gone on with"), bytes),
            Way::First | Way::Edited { .. } | Way::Again { .. } => (self.add_reply(Some(question)), 0),
        };
        self.conversation.set_foot(item, LIVE.into());
        self.engine = Engine::Replying(Reply {
            item,
            question,
            way,
            since: now,
            text_since: None,
            prompt: None,
            stopping: false,
            recorded,
            recorded_at: now,
        });
        let mut sampling = self.sampling.clone();
        if let (Some(seed), Way::Again { .. }) = (sampling.seed, way) {
            // The same seed would give the same reply.
            let parent = Some(self.conversation.items()[question].id);
            sampling.seed = Some(seed.wrapping_add(self.told.branches(parent).len() as u64));
        }
        vec![Effect::Send(Command::Generate { messages, sampling, max_tokens: self.max_tokens })]
    }

    /// Adds a notice. A reply that has no text yet stays last, since it may still be taken away again.
    pub(super) fn add_notice(&mut self, kind: Kind, text: &str) {
        let empty = self.reply().is_some_and(|reply| self.conversation.items()[reply.item].raw.is_empty());
        if !empty {
            self.conversation.add(kind, "", text);
            return;
        }
        self.conversation.remove_last();
        self.conversation.add(kind, "", text);
        let question = self.reply().map(|reply| reply.question);
        let item = self.add_reply(question);
        if let Engine::Replying(reply) = &mut self.engine {
            reply.item = item;
        }
    }

    fn add_reply(&mut self, question: Option<usize>) -> usize {
        let label = self.model.as_ref().map_or("model", |m| m.name.as_str());
        let item = self.conversation.add(Kind::Reply, label, "");
        self.conversation.set_foot(item, LIVE.into());
        if let Some(question) = question {
            let n = self.told.branches(Some(self.conversation.items()[question].id)).len();
            self.mark_branch(item, n, n + 1);
        }
        item
    }

    /// Whether the reply has said anything yet: more than what it goes on with.
    fn has_text(&self, reply: &Reply) -> bool {
        let before = if let Way::More { bytes, .. } = reply.way { bytes } else { 0 };
        self.conversation.items()[reply.item].raw.len() > before
    }

    fn reply_finished(&mut self, stop: StopReason, stats: ReplyStats, now: Instant) -> Vec<Effect> {
        let Engine::Replying(reply) = self.engine else { return Vec::new() };
        self.conversation.finish(reply.item);
        self.end_passes();
        self.engine = Engine::Ready;
        let mut effects = Vec::new();
        if !self.has_text(&reply) && stop == StopReason::Cancelled {
            effects.extend(self.withdraw_turn(&reply, "stopped before the first word", now));
        } else {
            let stats = together(reply.way, &stats);
            self.conversation.set_foot(reply.item, foot(stop, &stats, reply.prompt));
            effects.push(self.record_reply(&reply, stop.name(), &stats));
        }
        if stop == StopReason::Cancelled {
            self.unqueue();
        } else {
            effects.extend(self.send_queued(now));
        }
        effects
    }

    fn reply_failed(&mut self, error: &str, now: Instant) -> Vec<Effect> {
        let Engine::Replying(reply) = self.engine else {
            self.conversation.add(Kind::Error, "", error);
            return Vec::new();
        };
        self.conversation.finish(reply.item);
        self.end_passes();
        self.engine = Engine::Ready;
        let mut effects = Vec::new();
        if self.has_text(&reply) {
            self.conversation.set_foot(reply.item, CUT_OFF.into());
            effects.push(self.record_reply(&reply, "failed", &ReplyStats::default()));
        } else {
            effects.extend(self.withdraw_turn(&reply, "the reply failed", now));
        }
        self.conversation.add(Kind::Error, "", error);
        self.unqueue();
        effects
    }

    /// Takes away a reply that has said nothing.
    fn withdraw_turn(&mut self, reply: &Reply, why: &str, now: Instant) -> Vec<Effect> {
        match reply.way {
            Way::More { .. } => {
                let entry = self.told.get(self.conversation.items()[reply.item].id);
                let foot = restored_foot(entry.and_then(|e| e.figures.as_ref()));
                self.conversation.set_foot(reply.item, foot);
            }
            Way::First | Way::Edited { .. } | Way::Again { .. } => self.conversation.remove_last(),
        }
        self.give_up(reply.question, reply.way, why, now)
    }

    fn record_reply(&mut self, reply: &Reply, stop: &str, stats: &ReplyStats) -> Effect {
        let items = self.conversation.items();
        let item = &items[reply.item];
        self.record(Record::Reply {
            id: item.id,
            parent: Some(items[reply.question].id),
            text: item.raw.clone(),
            stop: stop.to_owned(),
            tokens: stats.generated_tokens,
            seconds: stats.generate_seconds,
        })
    }

    /// What has come of the reply since the last piece, for the transcript: when it is due, or at once without `now`.
    pub(super) fn record_piece(&mut self, now: Option<Instant>) -> Option<Effect> {
        let Engine::Replying(reply) = &mut self.engine else { return None };
        if now.is_some_and(|now| now.saturating_duration_since(reply.recorded_at) < FLUSH_TIME) {
            return None;
        }
        let items = self.conversation.items();
        let item = &items[reply.item];
        let parent = Some(items[reply.question].id);
        let text = item.raw[reply.recorded..].to_owned();
        reply.recorded = item.raw.len();
        reply.recorded_at = now.unwrap_or(reply.recorded_at);
        let id = item.id;
        (!text.is_empty()).then(|| self.record(Record::Partial { id, parent, text }))
    }

    /// Saves the text of a reply that goes no further.
    pub(super) fn save_unfinished(&mut self) -> Option<Effect> {
        let Engine::Replying(reply) = self.engine else { return None };
        let stats = together(reply.way, &ReplyStats::default());
        self.has_text(&reply).then(|| self.record_reply(&reply, StopReason::Cancelled.name(), &stats))
    }

    pub(super) fn on_worker_gone(&mut self, now: Instant) -> Vec<Effect> {
        if let Engine::Gone = self.engine {
            return Vec::new();
        }
        let mut effects: Vec<Effect> = self.save_unfinished().into_iter().collect();
        if let Engine::Replying(reply) = self.engine {
            self.conversation.finish(reply.item);
            if effects.is_empty() {
                effects.extend(self.withdraw_turn(&reply, "the engine has stopped", now));
            } else {
                self.conversation.set_foot(reply.item, CUT_OFF.into());
            }
        }
        self.engine = Engine::Gone;
        self.picker = None;
        self.dialog = None;
        self.unqueue();
        let text = "The engine has stopped. What was said is saved; quit and start again to go on.";
        self.conversation.add(Kind::Error, "", text);
        effects
    }

    fn send_queued(&mut self, now: Instant) -> Vec<Effect> {
        match self.queue.pop_front() {
            Some(text) => self.start(text, now),
            None => Vec::new(),
        }
    }
}

/// The figures of a reply that may have begun before.
fn together(way: Way, stats: &ReplyStats) -> ReplyStats {
    let (tokens, seconds) = if let Way::More { tokens, seconds, .. } = way { (tokens, seconds) } else { (0, 0.0) };
    ReplyStats {
        generated_tokens: stats.generated_tokens + tokens,
        generate_seconds: stats.generate_seconds + seconds,
        ..*stats
    }
}

/// The line below a reply, what matters most first: tokens, speed, why it ended, the prompt.
fn foot(stop: StopReason, stats: &ReplyStats, prompt: Option<(usize, usize)>) -> String {
    let mut parts = figures(stats.generated_tokens, stats.generate_seconds);
    parts.push(why(stop).into());
    if stats.prompt_tokens > 0 {
        let time = units::seconds(stats.prompt_seconds);
        parts.push(format!("{} in {time}", units::plural(stats.prompt_tokens, "prompt token")));
    }
    if let Some((_, reused)) = prompt.filter(|p| p.1 > 0) {
        parts.push(format!("{reused} reused"));
    }
    parts.join(" · ")
}

/// The line below a reply of an earlier sitting.
pub(super) fn restored_foot(known: Option<&Figures>) -> String {
    let Some(known) = known else { return CUT_OFF.into() };
    let mut parts = figures(known.tokens, known.seconds);
    let stop = StopReason::ALL.into_iter().find(|stop| stop.name() == known.stop);
    parts.push(stop.map_or(CUT_OFF, why).into());
    parts.join(" · ")
}

fn figures(tokens: usize, seconds: f64) -> Vec<String> {
    let mut parts = vec![units::plural(tokens, "token")];
    if tokens > 0 && seconds > 0.0 {
        parts.push(format!("{} tok/s", units::speed(tokens as f64 / seconds)));
    }
    parts
}

fn why(stop: StopReason) -> &'static str {
    match stop {
        StopReason::EndOfTurn => "end of turn",
        StopReason::MaxTokens => "token limit",
        StopReason::ContextFull => "the context is full",
        StopReason::Cancelled => "stopped",
    }
}
