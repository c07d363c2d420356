//! `--session FILE`: a conversation that outlives the program, its words in the file and its KV cache beside it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;

use super::output::{self, usage};
use crate::sampler::SamplingParams;
use crate::session::{Chat, KvFile, LoadError, ReplyStats, StopReason};
use crate::transcript::{Header, Message, Record, Role, SessionFile, TranscriptWriter};

/// How long the end of a conversation may take to reach the disk.
const PATIENCE: Duration = Duration::from_secs(60);
/// The text of a reply under way goes to the file this often.
const FLUSH_TIME: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct SessionArg {
    /// Go on with the conversation in this file, or begin one there; its KV cache is kept beside it as FILE.kv
    #[arg(long, value_name = "FILE")]
    session: Option<PathBuf>,
}

impl SessionArg {
    pub(super) fn is_named(&self) -> bool {
        self.session.is_some()
    }

    /// Opens the session, if one is named. `system` is the system message asked for: a conversation keeps the one that it
    /// began with.
    pub(super) fn open(&self, system: Option<&str>) -> anyhow::Result<Option<SessionFile>> {
        let Some(path) = &self.session else { return Ok(None) };
        let file = SessionFile::open(path)?;
        if let (Some(asked), Some(transcript)) = (system, file.transcript())
            && transcript.header.system.as_deref() != Some(asked)
        {
            return Err(usage(
                "the session has a system message of its own; leave --system out, or begin another session",
            ));
        }
        Ok(Some(file))
    }
}

/// A conversation that is one turn longer when the program ends.
pub(super) struct Turn {
    writer: TranscriptWriter,
    kv: KvFile,
    question: u64,
    /// The text of the reply, how much of it the file has, and since when.
    said: String,
    recorded: usize,
    recorded_at: Instant,
}

impl Turn {
    /// Begins a turn with what the person asks, which is on the disk when this returns. Also returns all that the model is
    /// to read. What is kept of the KV cache is in `chat` then, or the reason why not on stderr.
    pub(super) fn begin(
        session: SessionFile,
        kv: KvFile,
        chat: &mut Chat<'_>,
        model: Record,
        sampling: &SamplingParams,
        (system, text): (Option<String>, String),
    ) -> anyhow::Result<(Turn, Vec<Message>)> {
        let earlier = session.transcript();
        let mut messages = match earlier {
            Some(transcript) => transcript.messages(),
            None => system.iter().map(|text| Message { role: Role::System, content: text.clone() }).collect(),
        };
        match kv.load(&mut chat.session) {
            Ok(_) => {}
            Err(LoadError::Absent) if !messages.iter().any(|m| m.role == Role::User) => {}
            Err(error) => output::warn(&format!("{}: {error}; the conversation is read again", kv.path().display())),
        }
        messages.push(Message { role: Role::User, content: text.clone() });
        let unanswered = earlier.and_then(|t| t.unanswered());
        let parent = earlier.and_then(|t| t.path().iter().rev().find(|e| Some(e.id) != unanswered).map(|e| e.id));
        let question = earlier.map_or(1, |t| t.next_id());
        let writer = TranscriptWriter::resume(session, Header::new(system, sampling.json()))?;
        writer.append(model);
        writer.append(Record::User { id: question, parent, text });
        let turn = Turn { writer, kv, question, said: String::new(), recorded: 0, recorded_at: Instant::now() };
        turn.wait();
        Ok((turn, messages))
    }

    /// Waits until all so far is on the disk, or has been tried.
    fn wait(&self) {
        let (done, wait) = crossbeam_channel::bounded::<()>(0);
        self.writer.after_saving(move || drop(done));
        let _ = wait.recv_timeout(PATIENCE);
    }

    /// Takes more of the reply.
    pub(super) fn push(&mut self, text: &str) {
        self.said.push_str(text);
        if self.recorded_at.elapsed() >= FLUSH_TIME {
            let text = self.said[self.recorded..].to_owned();
            self.writer.append(Record::Partial { id: self.question + 1, parent: Some(self.question), text });
            self.recorded = self.said.len();
            self.recorded_at = Instant::now();
        }
    }

    /// Ends the turn with the reply, or without one, and saves the KV cache. An error is that words are lost; without the
    /// KV cache the conversation is only read again.
    pub(super) fn end(self, reply: Option<(StopReason, &ReplyStats)>, chat: &Chat<'_>) -> anyhow::Result<()> {
        let (id, parent) = (self.question + 1, Some(self.question));
        match reply {
            Some((stop, stats)) => {
                let (tokens, seconds) = (stats.generated_tokens, stats.generate_seconds);
                let (text, stop) = (self.said, stop.name().to_owned());
                self.writer.append(Record::Reply { id, parent, text, stop, tokens, seconds });
            }
            None => self.writer.append(Record::Withdrawn { id: self.question }),
        }
        let saved = self.writer.finish(PATIENCE);
        if reply.is_some()
            && let Err(error) = self.kv.save(&chat.session, &|| true)
        {
            let effect = "the conversation is kept, and read again the next time";
            output::warn(&format!("the KV cache could not be saved: {error}; {effect}"));
        }
        match (saved.error, saved.rescued) {
            (None, _) => Ok(()),
            (Some(error), Some(path)) => {
                anyhow::bail!("the session could not be saved: {error}; what is not in it lies in {}", path.display())
            }
            (Some(error), None) => anyhow::bail!("the session could not be saved: {error}"),
        }
    }
}
