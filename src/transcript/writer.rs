//! Appends records to a transcript, on a thread of its own, so that who writes never waits for a disk.
//!
//! What is not yet safely on disk stays in memory: after a failed write (a full disk, a folder that went away) it is tried
//! again every few seconds, and the owner is told by [`Status`].

use std::collections::VecDeque;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};

use super::{Header, Line, Record, SessionFile, Transcript};

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
    /// To be done when the kernel has all before it, or has been tried: whatever becomes of the program then, it is kept.
    Written(Box<dyn FnOnce() + Send>),
    /// To be done when all before it is on the disk, or has been tried.
    Then(Box<dyn FnOnce() + Send>),
    Finish(Sender<Finished>),
}

/// What a record means for the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Not worth a file of its own: the header, the model.
    Context,
    /// Not worth a file of its own, but to be kept where there is one: what the conversation is called, how it goes on.
    Change,
    /// A piece of a reply.
    Piece,
    /// The end of a message: it must be on the disk.
    Message,
}

impl Kind {
    fn of(record: &Record) -> Kind {
        match record {
            Record::Header(_) | Record::Model { .. } => Kind::Context,
            Record::Branch { .. } | Record::Settings { .. } | Record::Title { .. } => Kind::Change,
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
        let header = Line::text(Record::Header(header));
        TranscriptWriter::spawn(Journal::new(Place::In(dir), header))
    }

    /// Starts the thread on the file of a session. `header` begins it where it is new; where nothing is said, a new file is
    /// taken away again. A message that was not answered before the program ended is withdrawn with the next one. Errors: the thread cannot be started.
    pub fn resume(session: SessionFile, header: Header) -> io::Result<TranscriptWriter> {
        let header = session.header_line(header);
        let (bytes, unanswered) = (session.bytes, session.transcript().and_then(Transcript::unanswered));
        let mut journal = Journal::new(Place::At(session), header);
        (journal.written_bytes, journal.synced_bytes) = (bytes, bytes);
        let withdrawn = unanswered.map(|id| Line::text(Record::Withdrawn { id }));
        journal.lines.extend(withdrawn);
        TranscriptWriter::spawn(journal)
    }

    fn spawn(journal: Journal) -> io::Result<TranscriptWriter> {
        let (jobs, inbox) = unbounded();
        let (status_sender, status) = unbounded();
        let thread = std::thread::Builder::new()
            .name("transcript".into())
            .spawn(move || journal.serve(&inbox, &status_sender))?;
        Ok(TranscriptWriter { jobs, status, thread: Some(thread) })
    }

    /// Takes a record. It is written soon; the end of a message is also synced.
    pub fn append(&self, record: Record) {
        let kind = Kind::of(&record);
        let _ = self.jobs.send(Job::Append(Line::text(record), kind));
    }

    /// Does something on the writer's thread once all that was appended is on the disk. Where that fails it is done all the
    /// same: the records stay in memory, and the news says so.
    pub fn after_saving(&self, then: impl FnOnce() + Send + 'static) {
        let _ = self.jobs.send(Job::Then(Box::new(then)));
    }

    /// The same, as soon as the kernel has all that was appended: it outlives the program, but not yet the machine.
    pub fn after_writing(&self, then: impl FnOnce() + Send + 'static) {
        let _ = self.jobs.send(Job::Written(Box::new(then)));
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

/// Where the lines go.
enum Place {
    /// Into a new file of this folder.
    In(PathBuf),
    /// Into the file of a session.
    At(SessionFile),
}

/// The thread's side: the file, and the lines that are not yet synced to it.
struct Journal {
    place: Place,
    /// The header's line, to begin a file with.
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
    fn new(place: Place, header: String) -> Journal {
        Journal {
            place,
            header,
            lines: VecDeque::new(),
            written: 0,
            written_bytes: 0,
            synced_bytes: 0,
            has_message: false,
            sync_due: false,
        }
    }

    /// The file, where there is one.
    fn path(&self) -> Option<&Path> {
        match &self.place {
            Place::In(_) => None,
            Place::At(session) => Some(&session.path),
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
            let (mut written, mut then) = (Vec::new(), Vec::new());
            match job {
                Ok(job) => {
                    for job in std::iter::once(job).chain(inbox.try_iter()) {
                        match job {
                            Job::Append(line, kind) => self.push(line, kind),
                            Job::Written(work) => written.push(work),
                            Job::Then(work) => then.push(work),
                            Job::Finish(answer) => finish = Some(answer),
                        }
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => last = true,
            }
            let created_before = self.path().is_some();
            let result = self.write();
            written.into_iter().for_each(|work| work());
            let result = result.and_then(|()| self.sync());
            if let (false, Some(path)) = (created_before, self.path()) {
                let _ = status.send(Status::Created(path.to_owned()));
            }
            then.into_iter().for_each(|work| work());
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
        let counts = match kind {
            Kind::Context => false,
            Kind::Change => self.written_bytes > 0,
            Kind::Piece | Kind::Message => true,
        };
        self.has_message |= counts;
        self.sync_due |= counts && kind != Kind::Piece;
        self.lines.push_back(line);
    }

    /// Gives the kernel what it does not have yet; after an error the file holds whole lines only, and the next call goes on
    /// from there.
    fn write(&mut self) -> io::Result<()> {
        if !self.has_message || self.lines.is_empty() {
            return Ok(());
        }
        let file = match &mut self.place {
            Place::At(session) => &mut session.file,
            Place::In(dir) => {
                self.place = Place::At(create(dir)?);
                return self.write();
            }
        };
        if self.written_bytes == 0 && self.lines.front() != Some(&self.header) {
            self.lines.push_front(self.header.clone());
        }
        while let Some(line) = self.lines.get(self.written) {
            if let Err(error) = file.write_all(line.as_bytes()) {
                // Half a line may stand there now.
                file.set_len(self.written_bytes)?;
                return Err(error);
            }
            self.written += 1;
            self.written_bytes += line.len() as u64;
        }
        Ok(())
    }

    /// Has the kernel put on the disk what was written, where the end of a message is among it.
    fn sync(&mut self) -> io::Result<()> {
        let (true, Place::At(session)) = (self.sync_due && self.written > 0, &self.place) else { return Ok(()) };
        if let Err(error) = session.file.sync_data() {
            // What the kernel did not take is no longer certain to be in its cache: write it again.
            self.written = 0;
            self.written_bytes = self.synced_bytes;
            session.file.set_len(self.synced_bytes)?;
            return Err(error);
        }
        self.synced_bytes = self.written_bytes;
        self.sync_due = false;
        self.lines.clear();
        self.written = 0;
        Ok(())
    }

    fn finish(self, failing: Option<String>) -> Finished {
        if let Place::At(session) = &self.place
            && !self.has_message
        {
            let path = if session.bytes == 0 {
                let _ = std::fs::remove_file(&session.path);
                None
            } else {
                Some(session.path.clone())
            };
            return Finished { path, ..Finished::default() };
        }
        let path = self.path().map(Path::to_owned);
        let Some(error) = failing else { return Finished { path, ..Finished::default() } };
        let rescued = self.rescue().ok();
        Finished { path, error: Some(error), rescued }
    }

    /// Saves the lines that did not reach the file in a file of the system's temporary folder.
    fn rescue(&self) -> io::Result<PathBuf> {
        let SessionFile { mut file, path, .. } = create(&std::env::temp_dir())?;
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
pub(super) fn create(dir: &Path) -> io::Result<SessionFile> {
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
            Ok(file) => return Ok(SessionFile::created(file, path)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, "every name for this second is taken"))
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::super::{Message, Role, VERSION, read};
    use super::*;

    fn header() -> Header {
        Header { version: VERSION, program: "test".into(), ..Header::default() }
    }

    fn user(id: u64, text: &str) -> Record {
        Record::User { id, parent: None, text: text.into() }
    }

    fn wait_for(writer: &TranscriptWriter, wanted: impl Fn(&Status) -> bool) -> Status {
        loop {
            let status = writer.status().recv_timeout(Duration::from_secs(10)).expect("no news of the file");
            if wanted(&status) {
                return status;
            }
        }
    }

    fn save(journal: &mut Journal) -> io::Result<()> {
        journal.write().and_then(|()| journal.sync())
    }

    #[test]
    fn what_is_appended_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let writer = TranscriptWriter::start(dir.path().join("sessions"), header()).unwrap();
        writer.append(user(1, "Hi\nthere \u{1b}[31m"));
        let parent = Some(1);
        writer.append(Record::Partial { id: 2, parent, text: "Hel".into() });
        let (text, stop) = ("Hello".into(), "end_of_turn".into());
        writer.append(Record::Reply { id: 2, parent, text, stop, tokens: 2, seconds: 0.5 });
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
        let mut journal = Journal::new(Place::In(dir.path().to_owned()), "header\n".into());
        journal.push("one\n".into(), Kind::Message);
        save(&mut journal).unwrap();
        let path = journal.path().unwrap().to_owned();
        // A handle that may only read refuses every write, as a full disk does.
        let read_only = SessionFile::created(File::open(&path).unwrap(), path.clone());
        let Place::At(session) = std::mem::replace(&mut journal.place, Place::At(read_only)) else { panic!("no file") };
        journal.push("two\n".into(), Kind::Message);
        assert!(save(&mut journal).is_err());
        journal.push("three\n".into(), Kind::Piece);
        assert!(save(&mut journal).is_err());
        // Half a line that a full disk let through is cut off before the next try.
        std::fs::write(&path, "header\none\ntw").unwrap();
        session.file.set_len(journal.written_bytes).unwrap();
        journal.place = Place::At(session);
        save(&mut journal).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "header\none\ntwo\nthree\n");
    }

    #[test]
    fn what_comes_after_saving_finds_all_before_it_on_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("chat.jsonl");
        let writer = TranscriptWriter::resume(SessionFile::open(&path).unwrap(), header()).unwrap();
        let (sender, found) = unbounded();
        for id in 1..=20 {
            writer.append(user(id, "said"));
            let (sender, path) = (sender.clone(), path.clone());
            writer.after_saving(move || sender.send((id, read(&path).unwrap().entries.len())).unwrap());
        }
        for id in 1..=20 {
            let (of, n) = found.recv_timeout(Duration::from_secs(10)).unwrap();
            assert!(of == id && n as u64 >= id, "{n} messages after {of}");
        }
        writer.finish(Duration::from_secs(10));
    }
}
