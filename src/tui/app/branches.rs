//! The branches of a conversation: replies made again, messages put otherwise, and the ways between them. What is shown is
//! one way through the tree; the rest stays where it is.

use std::time::Instant;

use crate::session::StopReason;
use crate::transcript::{Entry, Record, Role};

use super::super::commands;
use super::super::conversation::{Kind, Line, Standing};
use super::super::sanitize::{one_line, pasted};
use super::{App, Effect, Engine, replies};

/// What a reply is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Way {
    /// The first answer to a message.
    First,
    /// The first answer to a message that was put otherwise. Should nothing come of it, the conversation is as `before`.
    Edited { before: Option<u64> },
    /// Another answer to a message.
    Again { before: Option<u64> },
    /// More of a reply that was stopped: of so many bytes, tokens and seconds.
    More { bytes: usize, tokens: usize, seconds: f64 },
}

/// What a wish came to, or why it cannot be.
pub(super) type Done = Result<Vec<Effect>, String>;

impl App {
    /// Takes note of a record and has it written.
    pub(super) fn record(&mut self, record: Record) -> Effect {
        self.told.note(record.clone());
        if let Record::User { .. } = record {
            self.drafted.0.clear();
        }
        Effect::Record(record)
    }

    /// Says why the conversation cannot be changed now, if it cannot.
    pub(super) fn check_idle(&self) -> Result<(), String> {
        match self.engine {
            Engine::Replying(_) => Err("A reply is under way; Esc stops it".into()),
            Engine::Loading { .. } => Err("A model is being opened; Esc stops that".into()),
            Engine::Absent | Engine::Ready | Engine::Gone => Ok(()),
        }
    }

    pub(super) fn check_ready(&self) -> Result<(), String> {
        self.check_idle()?;
        match self.engine {
            Engine::Ready if self.dialog.is_none() => Ok(()),
            _ => Err("No model is loaded; /model opens one".into()),
        }
    }

    /// Shows the conversation as the transcript has it now. What is the same as before stays as it is.
    pub(super) fn show_path(&mut self) {
        let path: Vec<Entry> = self.told.path().into_iter().cloned().collect();
        let mut rest = &path[..];
        let mut kept = 0;
        for (i, item) in self.conversation.items().iter().enumerate() {
            if item.id == 0 || item.standing == Standing::Withdrawn {
                continue;
            }
            match rest.split_first() {
                Some((entry, after)) if entry.id == item.id => (rest, kept) = (after, i + 1),
                _ => break,
            }
        }
        self.conversation.truncate(kept);
        for entry in rest {
            self.show_entry(entry);
        }
        self.conversation.follow();
    }

    /// Adds a message of the transcript to what is shown.
    pub(super) fn show_entry(&mut self, entry: &Entry) -> usize {
        let text = &entry.message.content;
        let item = match entry.message.role {
            Role::Assistant => {
                let label = one_line(entry.model.as_deref().unwrap_or("model"));
                let item = self.conversation.restore(entry.id, Kind::Reply, &label, text);
                self.conversation.set_foot(item, replies::restored_foot(entry.figures.as_ref()));
                item
            }
            Role::User | Role::System => self.conversation.restore(entry.id, Kind::User, "you", text),
        };
        if entry.dropped {
            self.conversation.set_standing(item, Standing::Dropped);
        }
        let branches = self.told.branches(entry.parent);
        if let Some(n) = branches.iter().position(|&id| id == entry.id) {
            self.mark_branch(item, n, branches.len());
        }
        item
    }

    /// Says at `item` that it is the `n`th of several, counted from 0.
    pub(super) fn mark_branch(&mut self, item: usize, n: usize, of: usize) {
        let mark = if of > 1 { format!("‹{}/{of}›", n + 1) } else { String::new() };
        self.conversation.set_mark(item, mark);
    }

    /// Where a message is shown.
    fn item_of(&self, id: u64) -> Option<usize> {
        self.conversation.items().iter().rposition(|item| item.id == id)
    }

    /// Asks for another reply to the message that the last one answers.
    pub(super) fn retry(&mut self, now: Instant) -> Done {
        self.check_ready()?;
        let before = self.told.head();
        let last = before.and_then(|id| self.told.get(id)).filter(|e| e.message.role == Role::Assistant);
        let question = last.and_then(|e| e.parent).and_then(|id| self.item_of(id));
        let question = question.ok_or("There is no reply yet to make again")?;
        self.conversation.truncate(question + 1);
        self.conversation.follow();
        if self.sampling.temperature == 0.0 {
            self.notify("At temperature 0 the reply will be the same; /temp changes it", now);
        }
        Ok(self.generate(question, Way::Again { before }, now))
    }

    /// Goes on with the last reply, where it was stopped.
    pub(super) fn continue_reply(&mut self, now: Instant) -> Done {
        self.check_ready()?;
        let last = self.told.head().and_then(|id| self.told.get(id)).filter(|e| e.message.role == Role::Assistant);
        let last = last.ok_or("There is no reply yet to go on with")?;
        let figures = last.figures.as_ref();
        if figures.is_some_and(|f| f.stop == StopReason::EndOfTurn.name()) {
            return Err("The reply came to its end; there is nothing to go on with".into());
        }
        let (tokens, seconds) = figures.map_or((0, 0.0), |f| (f.tokens, f.seconds));
        let way = Way::More { bytes: last.message.content.len(), tokens, seconds };
        let question = last.parent.and_then(|id| self.item_of(id)).ok_or("Its message is not shown")?;
        self.conversation.follow();
        Ok(self.generate(question, way, now))
    }

    /// Puts the `n`th message from the end into the input, to be put otherwise.
    pub(super) fn edit_turn(&mut self, n: usize, now: Instant) -> Done {
        self.check_idle()?;
        let path = self.told.path();
        let turns = path.iter().rev().filter(|e| e.message.role == Role::User);
        let turn = turns.clone().nth(n.saturating_sub(1));
        let Some(entry) = turn.filter(|_| n > 0) else {
            let there = turns.count();
            return Err(if there == 0 { "Nothing was said yet".into() } else { format!("There are {there} messages") });
        };
        let (id, text) = (entry.id, commands::escaped(&pasted(&entry.message.content)));
        // What was being typed is not lost: ↑ has it.
        if !self.composer.is_blank() && self.editing.is_none() {
            self.composer.take();
        }
        self.composer.set_text(&text);
        self.editing = Some(id);
        self.notify("Enter sends it on a branch of its own; sent empty, it stays as it was", now);
        Ok(Vec::new())
    }

    /// The key for it goes one message further back each time.
    pub(super) fn edit_earlier_turn(&mut self, now: Instant) -> Done {
        let path = self.told.path();
        let turns = path.iter().rev().filter(|e| e.message.role == Role::User);
        let at = turns.enumerate().find(|(_, e)| Some(e.id) == self.editing).map(|(i, _)| i + 1);
        let changed = self
            .editing
            .and_then(|id| self.told.get(id))
            .is_some_and(|e| commands::escaped(&pasted(&e.message.content)) != self.composer.text());
        if changed {
            return Err("This one is changed already; Enter sends it".into());
        }
        self.edit_turn(at.unwrap_or(0) + 1, now)
    }

    /// Sends `text` in the place of the message `id`, on a branch of its own.
    pub(super) fn send_edited(&mut self, id: u64, text: String, now: Instant) -> Vec<Effect> {
        let before = self.told.head();
        self.editing = None;
        match self.item_of(id) {
            Some(item) => self.conversation.truncate(item),
            None => return self.start(text, now),
        }
        let parent = self.told.get(id).and_then(|e| e.parent);
        let n = self.told.branches(parent).len();
        let question = self.conversation.add(Kind::User, "you", &text);
        self.mark_branch(question, n, n + 1);
        let id = self.conversation.items()[question].id;
        let mut effects = vec![self.record(Record::User { id, parent, text })];
        effects.extend(self.generate(question, Way::Edited { before }, now));
        effects
    }

    /// Takes back a reply that came to nothing.
    pub(super) fn give_up(&mut self, question: usize, way: Way, why: &str, now: Instant) -> Vec<Effect> {
        match way {
            // Templates want the speakers to alternate: the message is not sent again by itself.
            Way::First => {
                let id = self.withdraw(question, why);
                vec![self.record(Record::Withdrawn { id })]
            }
            Way::Edited { before } => {
                let item = &self.conversation.items()[question];
                let (id, text) = (item.id, commands::escaped(&item.raw));
                if self.composer.is_blank() {
                    self.composer.set_text(&pasted(&text));
                }
                let effects = vec![self.record(Record::Withdrawn { id }), self.record(Record::Branch { id: before })];
                self.show_path();
                self.notify(format!("The branch came to nothing: {why}"), now);
                effects
            }
            Way::Again { .. } | Way::More { .. } => {
                self.show_path();
                self.notify(format!("The reply is as it was: {why}"), now);
                Vec::new()
            }
        }
    }

    /// The message with several branches that the person most likely means: the last one in view, or above it.
    fn fork(&self) -> Option<u64> {
        let in_view = self.conversation.visible().filter_map(|line| match line {
            Line::Label(item) | Line::Foot(item) | Line::Text(item, ..) => Some(item.id).filter(|&id| id != 0),
            Line::Gap => None,
        });
        let last = in_view.last();
        let path = self.told.path();
        let seen = path.iter().rposition(|e| Some(e.id) == last).map_or(path.len(), |i| i + 1);
        let forks = |e: &&&Entry| self.told.branches(e.parent).len() > 1;
        let fork = path[..seen].iter().rev().find(forks).or_else(|| path.iter().rev().find(forks));
        fork.map(|e| e.id)
    }

    /// Goes on with another branch: `to` gives its place of so many, from the place of this one.
    pub(super) fn change_branch(&mut self, to: impl FnOnce(usize, usize) -> Option<usize>, now: Instant) -> Done {
        self.check_idle()?;
        let Some(fork) = self.fork() else {
            return Err("There is one branch; /retry and /edit make others".into());
        };
        let parent = self.told.get(fork).and_then(|e| e.parent);
        let branches = self.told.branches(parent);
        let at = branches.iter().position(|&id| id == fork).unwrap_or(0);
        let Some(&wanted) = to(at, branches.len()).and_then(|n| branches.get(n)) else {
            return Err(format!("There are {} branches here", branches.len()));
        };
        let id = Some(self.told.end_of_branch(wanted));
        self.editing = None;
        let effect = self.record(Record::Branch { id });
        self.show_path();
        let n = branches.iter().position(|&id| id == wanted).unwrap_or(0);
        self.notify(format!("Branch {} of {}", n + 1, branches.len()), now);
        Ok(vec![effect])
    }
}
