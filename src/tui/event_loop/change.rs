//! From one conversation to another: whose file is written to, and whose KV cache is kept.

use std::path::PathBuf;
use std::time::Instant;

use crate::transcript::{Header, SessionFile, TranscriptWriter};
use crate::worker::Command;

use super::super::app::{Answer, Msg};
use super::super::work::{self, Outcome};
use super::{SAVE_PATIENCE, Screen};

impl Screen<'_> {
    /// Leaves the conversation for that of `session`.
    pub(super) fn go_on_with(&mut self, session: SessionFile) {
        self.dirty = true;
        let now = Instant::now();
        if self.app.is_busy() {
            self.app.notify("A reply is under way: the conversation is not changed", now);
            return;
        }
        let (path, kv_path) = (session.path().to_owned(), session.kv_path());
        let transcript = session.transcript().cloned().unwrap_or_default();
        match TranscriptWriter::resume(session, transcript.header.clone()) {
            Ok(writer) => self.change_writer(Some(writer), None),
            Err(error) => {
                let error = format!("a thread of the chat cannot be started: {error}");
                return self.tell(Msg::Answer(Answer::Told(Err(error))));
            }
        }
        let _ = self.handle.commands.send(Command::KeepKv(kv_path.exists().then_some(kv_path)));
        let effects = self.app.change_session(path, &transcript, now);
        self.carry_out(effects);
    }

    pub(super) fn begin(&mut self, header: Header, delete: Option<PathBuf>) {
        let writer = self.places.sessions.clone().map(|dir| TranscriptWriter::start(dir, header)).transpose();
        let writer = writer.unwrap_or_else(|error| {
            let text = format!("the conversation is not saved: a thread cannot be started: {error}");
            let _ = self.outcomes.0.send(Outcome::Answer(Answer::Told(Err(text))));
            None
        });
        self.change_writer(writer, delete);
        let _ = self.handle.commands.send(Command::KeepKv(None));
    }

    /// Writes elsewhere from now on. The writer before finishes by itself; `delete`: its file goes then.
    fn change_writer(&mut self, writer: Option<TranscriptWriter>, delete: Option<PathBuf>) {
        if let Some(before) = std::mem::replace(self.writer, writer) {
            self.on_a_thread(move || work::close(before, delete, SAVE_PATIENCE).map(Outcome::Answer));
        }
    }
}
