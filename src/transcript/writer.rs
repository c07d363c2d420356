//! Appends records to a transcript, on a thread of its own, so that who writes never waits for a disk.
//!
//! What is not yet safely on disk stays in memory: after a failed write (a full disk, a folder that went away) it is tried
//! again every few seconds, and the owner is told by [`Status`].

use std::collections::VecDeque;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};

use super::{Header, Line, Record};

const RETRY: Duration = Duration::from_secs(2);
/// How many names are tried where sessions of the same second meet.
const MAX_NAMES: u32 = 1000;

/// News of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// The file exists from now on.
    Created(PathBuf),
    /// Nothing could be written. What is not saved is kept and tried again.
    Failing(String),
    /// All that had failed is saved.
    Recovered,
}

/// How it ended: where the conversation lies, and what could not be saved.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Finished {
    /// The transcript; `None` where nothing was said.
    pub path: Option<PathBuf>,
    /// Why some of it could not be saved there.
    pub error: Option<String>,
    /// Where that rest was saved instead.
    pub rescued: Option<PathBuf>,
}

enum Job {
    Append(String, Kind),
    Finish(Sender<Finished>),
}

/// What a record means for the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Not worth a file of its own: the header, the model.
    Context,
    /// A piece of a reply.
    Piece,
    /// The end of a message: it must be on the disk.
    Message,
}

impl Kind {
    fn of(record: &Record) -> Kind {
        match record {
            Record::Header(_) | Record::Model { .. } => Kind::Context,
            Record::Partial { .. } => Kind::Piece,
            Record::User { .. }
            | Record::Reply { .. }
            | Record::Dropped { .. }
            | Record::Withdrawn { .. }
            | Record::Draft { .. } => Kind::Message,
        }
    }
}

/// The end that records go in at.
#[derive(Debug)]
pub struct TranscriptWriter {
    jobs: Sender<Job>,
    status: Receiver<Status>,
    thread: Option<JoinHandle<()>>,
}

impl TranscriptWriter {
    /// Starts the thread. The file, a new one in `dir`, is made with the first message, so that a chat in which nothing is
    /// said leaves none. Errors: the thread cannot be started.
    pub fn start(dir: PathBuf, header: Header) -> io::Result<TranscriptWriter> {
        let (jobs, inbox) = unbounded();
        let (status_sender, status) = unbounded();
        let thread = std::thread::Builder::new()
            .name("transcript".into())
            .spawn(move || Journal::new(dir).serve(&inbox, &status_sender))?;
        let writer = TranscriptWriter { jobs, status, thread: Some(thread) };
        writer.append(Record::Header(header));
        Ok(writer)
    }

    /// Takes a record. It is written soon; the end of a message is also synced.
    pub fn append(&self, record: Record) {
        let kind = Kind::of(&record);
        let line = Line { time: jiff::Timestamp::now().to_string(), record };
        if let Ok(mut text) = serde_json::to_string(&line) {
            text.push('\n');
            let _ = self.jobs.send(Job::Append(text, kind));
        }
    }

    /// News of the file, in order.
    pub fn status(&self) -> &Receiver<Status> {
        &self.status
    }

    /// Writes what is left and says where it lies. A disk that does not answer within `patience` is given up.
    pub fn finish(mut self, patience: Duration) -> Finished {
        let (sender, answer) = bounded(1);
        let _ = self.jobs.send(Job::Finish(sender));
        match answer.recv_timeout(patience) {
            Ok(finished) => {
                if let Some(thread) = self.thread.take() {
                    let _ = thread.join();
                }
                finished
            }
            Err(_) => Finished { error: Some("the disk did not answer in time".into()), ..Finished::default() },
        }
    }
}

/// The thread's side: the file, and the lines that are not yet synced to it.
struct Journal {
    dir: PathBuf,
    file: Option<(File, PathBuf)>,
    /// The header's line, to begin a rescue file with.
    header: String,
    lines: VecDeque<String>,
    /// How many of `lines` are written.
    written: usize,
    /// Bytes of the file that hold whole lines, and those of them that are synced.
    written_bytes: u64,
    synced_bytes: u64,
    has_message: bool,
    sync_due: bool,
}

impl Journal {
    fn new(dir: PathBuf) -> Journal {
        Journal {
            dir,
            file: None,
            header: String::new(),
            lines: VecDeque::new(),
            written: 0,
            written_bytes: 0,
            synced_bytes: 0,
            has_message: false,
            sync_due: false,
        }
    }

    fn serve(mut self, inbox: &Receiver<Job>, status: &Sender<Status>) {
        let mut failing: Option<String> = None;
        loop {
            let job = if failing.is_some() {
                inbox.recv_timeout(RETRY)
            } else {
                inbox.recv().map_err(|_| RecvTimeoutError::Disconnected)
            };
            let mut finish = None;
            let mut last = false;
            match job {
                Ok(job) => {
                    for job in std::iter::once(job).chain(inbox.try_iter()) {
                        match job {
                            Job::Append(line, kind) => self.push(line, kind),
                            Job::Finish(answer) => finish = Some(answer),
                        }
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => last = true,
            }
            let created_before = self.file.is_some();
            let result = self.save();
            if let (false, Some((_, path))) = (created_before, &self.file) {
                let _ = status.send(Status::Created(path.clone()));
            }
            match (result, failing.take()) {
                (Ok(()), None) => {}
                (Ok(()), Some(_)) => drop(status.send(Status::Recovered)),
                (Err(error), before) => {
                    let error = error.to_string();
                    if before.as_ref() != Some(&error) {
                        let _ = status.send(Status::Failing(error.clone()));
                    }
                    failing = Some(error);
                }
            }
            if last || finish.is_some() {
                let finished = self.finish(failing);
                if let Some(answer) = finish {
                    let _ = answer.send(finished);
                }
                return;
            }
        }
    }

    fn push(&mut self, line: String, kind: Kind) {
        if self.header.is_empty() {
            self.header.clone_from(&line);
        }
        self.has_message |= kind != Kind::Context;
        self.sync_due |= kind == Kind::Message;
        self.lines.push_back(line);
    }

    /// Brings the file up to date; after an error it holds whole lines only, and the next call goes on from there.
    fn save(&mut self) -> io::Result<()> {
        if !self.has_message || self.lines.is_empty() {
            return Ok(());
        }
        if self.file.is_none() {
            self.file = Some(create(&self.dir)?);
        }
        let Some((file, _)) = &mut self.file else { return Ok(()) };
        while let Some(line) = self.lines.get(self.written) {
            if let Err(error) = file.write_all(line.as_bytes()) {
                // Half a line may stand there now.
                file.set_len(self.written_bytes)?;
                return Err(error);
            }
            self.written += 1;
            self.written_bytes += line.len() as u64;
        }
        if self.sync_due {
            if let Err(error) = file.sync_data() {
                // What the kernel did not take is no longer certain to be in its cache: write it again.
                self.written = 0;
                self.written_bytes = self.synced_bytes;
                file.set_len(self.synced_bytes)?;
                return Err(error);
            }
            self.synced_bytes = self.written_bytes;
            self.sync_due = false;
            self.lines.clear();
            self.written = 0;
        }
        Ok(())
    }

    fn finish(self, failing: Option<String>) -> Finished {
        let path = self.file.as_ref().map(|(_, path)| path.clone());
        let Some(error) = failing else { return Finished { path, ..Finished::default() } };
        let rescued = self.rescue().ok();
        Finished { path, error: Some(error), rescued }
    }

    /// Saves the lines that did not reach the file in a file of the system's temporary folder.
    fn rescue(&self) -> io::Result<PathBuf> {
        let (mut file, path) = create(&std::env::temp_dir())?;
        if self.lines.front() != Some(&self.header) {
            file.write_all(self.header.as_bytes())?;
        }
        for line in &self.lines {
            file.write_all(line.as_bytes())?;
        }
        file.sync_data()?;
        Ok(path)
    }
}

/// Makes a new file, readable by its owner alone, named by the time and the process.
fn create(dir: &Path) -> io::Result<(File, PathBuf)> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    let mut options = OpenOptions::new();
    options.append(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
        builder.mode(0o700);
        options.mode(0o600);
    }
    builder.create(dir)?;
    let time = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
    for n in 0..MAX_NAMES {
        let name = match n {
            0 => format!("{time}-{}.jsonl", std::process::id()),
            n => format!("{time}-{}-{n}.jsonl", std::process::id()),
        };
        let path = dir.join(name);
        match options.open(&path) {
            Ok(file) => return Ok((file, path)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, "every name for this second is taken"))
}

#[cfg(test)]
mod tests {
    use super::super::{Message, Role, VERSION, read};
    use super::*;

    fn header() -> Header {
        Header { version: VERSION, program: "test".into(), ..Header::default() }
    }

    fn user(id: u64, text: &str) -> Record {
        Record::User { id, text: text.into() }
    }

    fn wait_for(writer: &TranscriptWriter, wanted: impl Fn(&Status) -> bool) -> Status {
        loop {
            let status = writer.status().recv_timeout(Duration::from_secs(10)).expect("no news of the file");
            if wanted(&status) {
                return status;
            }
        }
    }

    #[test]
    fn what_is_appended_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let writer = TranscriptWriter::start(dir.path().join("sessions"), header()).unwrap();
        writer.append(user(1, "Hi\nthere \u{1b}[31m"));
        writer.append(Record::Partial { id: 2, text: "Hel".into() });
        let reply = Record::Reply { id: 2, text: "Hello".into(), stop: "end_of_turn".into(), tokens: 2, seconds: 0.5 };
        writer.append(reply);
        writer.append(Record::Draft { text: "and".into() });
        let finished = writer.finish(Duration::from_secs(10));
        assert_eq!((&finished.error, &finished.rescued), (&None, &None));
        let t = read(&finished.path.unwrap()).unwrap();
        let messages = [
            Message { role: Role::User, content: "Hi\nthere \u{1b}[31m".into() },
            Message { role: Role::Assistant, content: "Hello".into() },
        ];
        assert_eq!(t.messages(), messages);
        assert_eq!(t.draft.as_deref(), Some("and"));
        assert_eq!(t.header, header());
    }

    #[test]
    fn a_chat_in_which_nothing_is_said_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let writer = TranscriptWriter::start(dir.path().to_owned(), header()).unwrap();
        writer.append(Record::Model { name: "m".into(), path: "p".into(), quantization: "q".into() });
        assert_eq!(writer.finish(Duration::from_secs(10)), Finished::default());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_reported_and_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let blocked = dir.path().join("sessions");
        std::fs::write(&blocked, "a file where the folder should be").unwrap();
        let writer = TranscriptWriter::start(blocked.clone(), header()).unwrap();
        writer.append(user(1, "kept"));
        wait_for(&writer, |s| matches!(s, Status::Failing(_)));
        std::fs::remove_file(&blocked).unwrap();
        writer.append(user(2, "also kept"));
        wait_for(&writer, |s| *s == Status::Recovered);
        let t = read(&writer.finish(Duration::from_secs(10)).path.unwrap()).unwrap();
        assert_eq!(t.entries.iter().map(|e| e.message.content.as_str()).collect::<Vec<_>>(), ["kept", "also kept"]);
    }

    #[test]
    fn what_cannot_be_saved_in_its_folder_is_rescued_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let blocked = dir.path().join("sessions");
        std::fs::write(&blocked, "").unwrap();
        let writer = TranscriptWriter::start(blocked, header()).unwrap();
        writer.append(user(1, "kept"));
        let finished = writer.finish(Duration::from_secs(10));
        assert!(finished.error.is_some());
        let rescued = finished.rescued.unwrap();
        assert_eq!(read(&rescued).unwrap().entries[0].message.content, "kept");
        std::fs::remove_file(rescued).unwrap();
    }

    #[test]
    fn a_failed_write_loses_nothing_and_leaves_whole_lines() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::new(dir.path().to_owned());
        journal.push("one\n".into(), Kind::Message);
        journal.save().unwrap();
        let (file, path) = journal.file.take().unwrap();
        // A handle that may only read refuses every write, as a full disk does.
        journal.file = Some((File::open(&path).unwrap(), path.clone()));
        journal.push("two\n".into(), Kind::Message);
        assert!(journal.save().is_err());
        journal.push("three\n".into(), Kind::Piece);
        assert!(journal.save().is_err());
        // Half a line that a full disk let through is cut off before the next try.
        std::fs::write(&path, "one\ntw").unwrap();
        file.set_len(journal.written_bytes).unwrap();
        journal.file = Some((file, path.clone()));
        journal.save().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\nthree\n");
    }
}
