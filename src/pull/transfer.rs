//! One file: asked about, fetched in ranges by one or several connections, checked and given its name. A connection takes
//! the first range that is missing; the checksum follows behind what is here without a gap. More connections are opened
//! only while they could help.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::http::{self, Answer, Client};
use super::state::{Done, State};
use super::{Origin, PullError, PullOptions, RemoteFile, record_origin, seconds_since_1970};
use crate::disk::{self, DiskError};

/// Bytes asked for at once.
const RANGE: u64 = 64 << 20;
/// Bytes read from a connection at once.
const BUFFER: usize = 256 << 10;
/// How often a file may be replaced on the server while it is fetched.
const MAX_CHANGES: usize = 3;
/// Above this many bytes a second another connection is not worth it.
const FAST: f64 = 150e6;
/// How long the connections there are get before another is opened.
const SETTLE: Duration = Duration::from_secs(2);
const PROGRESS_EVERY: Duration = Duration::from_millis(200);
const SAVE_EVERY: Duration = Duration::from_secs(1);
/// Span of the rate that is shown.
const RATE_OVER: Duration = Duration::from_secs(5);

/// A file whose length and version the server has told.
#[derive(Debug, Clone)]
pub(super) struct Target {
    url: String,
    path: PathBuf,
    pub(super) bytes: u64,
    version: Option<String>,
    sha256: Option<String>,
    /// The server gives ranges of it.
    ranges: bool,
    /// It is here already.
    present: bool,
}

/// How an attempt at the whole file ended.
enum Outcome {
    /// All bytes are here; their checksum, where one is expected.
    Whole(Option<String>),
    /// The server has another file now.
    Changed,
}

/// What keeps a connection from going on.
enum Fault {
    Error(PullError),
    Changed,
}

impl From<PullError> for Fault {
    fn from(error: PullError) -> Fault {
        Fault::Error(error)
    }
}

impl From<DiskError> for Fault {
    fn from(error: DiskError) -> Fault {
        Fault::Error(error.into())
    }
}

impl Target {
    /// Asks the server about `file`, which will be `path`.
    pub(super) fn probe(
        client: &Client,
        file: &RemoteFile,
        path: PathBuf,
        options: &PullOptions,
    ) -> Result<Target, PullError> {
        let url = &file.url;
        let (answer, begins) = client.persist(|| {
            let mut answer = client.get(url, Some((0, 3)), None)?;
            let mut begins = Vec::new();
            let read = answer.body.as_reader().take(4).read_to_end(&mut begins);
            read.map_err(|source| PullError::Broken { url: url.clone(), source })?;
            Ok((answer, begins))
        })?;
        if begins != *b"GGUF" {
            return Err(PullError::NotGguf { url: url.clone(), found: begins });
        }
        let protocol = |problem: &str| PullError::Protocol { url: url.clone(), problem: problem.to_owned() };
        let (bytes, ranges) = match (answer.status, answer.content_range()) {
            (206, Some((0, total))) => (total, true),
            (206, _) => return Err(protocol("a range without saying which")),
            _ => (answer.content_length().ok_or_else(|| protocol("no length of the file"))?, false),
        };
        if let Some(expected) = file.bytes.filter(|&expected| expected != bytes) {
            return Err(PullError::Length { url: url.clone(), found: bytes, expected });
        }
        let version = answer.version().map(str::to_owned);
        let sha256 = file.sha256.clone().or(answer.linked_sha256);
        let mut target = Target { url: url.clone(), path, bytes, version, sha256, ranges, present: false };
        if target.path.exists() {
            target.present = target.is_here()?;
            if !target.present && !options.force {
                return Err(PullError::Exists { path: target.path });
            }
        }
        Ok(target)
    }

    /// Whether the file at the path is this one: by its checksum where there is one, else by where it came from.
    fn is_here(&self) -> Result<bool, PullError> {
        let failed = |e| DiskError::io(&self.path, "cannot be read", e);
        if fs::metadata(&self.path).map_err(failed)?.len() != self.bytes {
            return Ok(false);
        }
        let origin = Origin::of(&self.path).filter(|origin| origin.bytes == self.bytes);
        let Some(expected) = &self.sha256 else {
            return Ok(origin.is_some_and(|origin| origin.url == self.url));
        };
        if let Some(recorded) = origin.and_then(|origin| origin.sha256) {
            return Ok(recorded == *expected);
        }
        let mut file = File::open(&self.path).map_err(failed)?;
        let mut hash = Sha256::new();
        io::copy(&mut file, &mut HashWriter(&mut hash)).map_err(failed)?;
        Ok(hex(hash) == *expected)
    }

    fn part(&self) -> PathBuf {
        disk::with_suffix(&self.path, ".part")
    }

    fn state_path(&self) -> PathBuf {
        disk::with_suffix(&self.path, ".part.json")
    }

    /// What an earlier attempt left of this very version.
    fn earlier(&self) -> Done {
        let same = |state: &State| {
            let known = |a: &Option<String>, b: &Option<String>| a.is_some() && a == b;
            state.bytes == self.bytes
                && (known(&state.sha256, &self.sha256)
                    || (state.url == self.url && known(&state.version, &self.version)))
        };
        let part = fs::metadata(self.part()).is_ok_and(|part| part.len() == self.bytes);
        State::load(&self.state_path())
            .filter(|state| part && same(state))
            .map(|state| state.done())
            .unwrap_or_default()
    }

    /// Bytes that have yet to come.
    pub(super) fn missing_bytes(&self) -> u64 {
        if self.present { 0 } else { self.bytes - self.earlier().bytes() }
    }

    /// Fetches what is missing, checks the whole and gives it its name. `progress` is told bytes here and the rate.
    pub(super) fn fetch(
        &self,
        client: &Client,
        options: &PullOptions,
        progress: &mut dyn FnMut(u64, Option<f64>),
    ) -> Result<(), PullError> {
        if self.present {
            progress(self.bytes, None);
            return Ok(());
        }
        let part = self.part();
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&part);
        let file = opened.map_err(|e| DiskError::io(&part, "cannot be created", e))?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => return Err(PullError::Busy { path: self.path.clone() }),
            // Where the system has no locks, nobody is kept out.
            Ok(()) | Err(TryLockError::Error(_)) => {}
        }
        let mut target = self.clone();
        for _ in 0..=MAX_CHANGES {
            match target.attempt(&file, client, options, progress)? {
                Outcome::Whole(found) => return target.finish(found),
                Outcome::Changed => {
                    let Target { url, sha256, path, .. } = target;
                    let file = RemoteFile { url, name: String::new(), bytes: None, sha256: sha256.clone() };
                    target = Target::probe(client, &file, path, options)?;
                }
            }
        }
        Err(PullError::Changing { url: target.url })
    }

    /// Checks the bytes that have come and gives them their name.
    fn finish(&self, found: Option<String>) -> Result<(), PullError> {
        let (part, state) = (self.part(), self.state_path());
        if let (Some(expected), Some(found)) = (&self.sha256, found)
            && *expected != found
        {
            for file in [&state, &part] {
                fs::remove_file(file).map_err(|e| DiskError::io(file, "is damaged and cannot be removed", e))?;
            }
            return Err(PullError::Checksum { path: self.path.clone(), expected: expected.clone(), found });
        }
        let (url, sha256) = (self.url.clone(), self.sha256.clone());
        record_origin(&self.path, &Origin { url, bytes: self.bytes, sha256, pulled: seconds_since_1970() })?;
        disk::rename(&part, &self.path)?;
        fs::remove_file(&state).map_err(|e| DiskError::io(&state, "cannot be removed", e))?;
        Ok(())
    }

    /// Fetches what is missing of this version.
    fn attempt(
        &self,
        file: &File,
        client: &Client,
        options: &PullOptions,
        progress: &mut dyn FnMut(u64, Option<f64>),
    ) -> Result<Outcome, PullError> {
        let done = self.earlier();
        file.set_len(self.bytes).map_err(|e| DiskError::io(&self.part(), "cannot be made as long as it must be", e))?;
        self.save(&done)?;
        let transfer = Transfer::new(self, client, done);
        let (found, saved) = std::thread::scope(|scope| {
            let hash = self.sha256.as_ref().map(|_| scope.spawn(|| transfer.follow_with_checksum()));
            let saver = scope.spawn(|| transfer.keep_saving(file));
            let mut workers = vec![scope.spawn(|| transfer.work())];
            let mut rates = Rates::new();
            let mut last_opened = Instant::now();
            while !workers.iter().all(|worker| worker.is_finished()) {
                let (done, waiting) = transfer.wait_for_news();
                let rate = rates.at(done.bytes());
                progress(done.bytes(), rate);
                let slow = rate.is_some_and(|rate| rate < FAST) && last_opened.elapsed() >= SETTLE;
                if slow && waiting > 0 && self.ranges && workers.len() < options.connections {
                    workers.push(scope.spawn(|| transfer.work()));
                    last_opened = Instant::now();
                }
            }
            transfer.end();
            let saved = saver.join().expect("the thread that saves does not panic");
            let hash = hash.map(|hash| hash.join().expect("the checksum's thread does not panic"));
            let here = transfer.lock().done.bytes();
            progress(here, rates.at(here));
            (hash, saved)
        });
        let progress = transfer.progress.into_inner().expect("no connection panicked");
        saved?;
        match progress.fault {
            Some(Fault::Changed) => {
                let state = self.state_path();
                fs::remove_file(&state).map_err(|e| DiskError::io(&state, "cannot be removed", e))?;
                Ok(Outcome::Changed)
            }
            Some(Fault::Error(error)) => Err(error),
            None => Ok(Outcome::Whole(found.transpose()?)),
        }
    }

    fn save(&self, done: &Done) -> Result<(), DiskError> {
        let (url, version, sha256) = (self.url.clone(), self.version.clone(), self.sha256.clone());
        State::new(url, version, sha256, self.bytes, done).save(&self.state_path())
    }
}

/// A file on its way, shared by its connections.
struct Transfer<'t> {
    target: &'t Target,
    client: &'t Client,
    part: PathBuf,
    progress: Mutex<Progress>,
    /// Told when bytes have come, a range is free, or it is over.
    news: Condvar,
    /// Where the last redirect led: asked first the next time.
    resolved: Mutex<Option<String>>,
}

struct Progress {
    /// Ranges that nobody has taken.
    waiting: VecDeque<(u64, u64)>,
    /// Connections that have a range.
    active: usize,
    done: Done,
    fault: Option<Fault>,
    /// No more bytes will come.
    ended: bool,
}

impl<'t> Transfer<'t> {
    fn new(target: &'t Target, client: &'t Client, done: Done) -> Transfer<'t> {
        let longest = if target.ranges { RANGE } else { u64::MAX };
        let waiting = done.missing(target.bytes, longest).into();
        let progress = Mutex::new(Progress { waiting, active: 0, done, fault: None, ended: false });
        let (part, news, resolved) = (target.part(), Condvar::new(), Mutex::new(None));
        Transfer { target, client, part, progress, news, resolved }
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().expect("no connection panics while it holds the lock")
    }

    /// What is here and how many ranges wait, after a moment.
    fn wait_for_news(&self) -> (Done, usize) {
        let running = |p: &mut Progress| p.fault.is_none() && (p.active > 0 || !p.waiting.is_empty());
        let waited = self.news.wait_timeout_while(self.lock(), PROGRESS_EVERY, running);
        let (progress, _) = waited.expect("no connection panics while it holds the lock");
        (progress.done.clone(), progress.waiting.len())
    }

    fn fail(&self, fault: Fault) {
        self.lock().fault.get_or_insert(fault);
        self.news.notify_all();
    }

    fn end(&self) {
        self.lock().ended = true;
        self.news.notify_all();
    }

    /// Writes down now and then, and at the end, what is here. Bytes are on the disk before it is said that they are: a
    /// machine that loses its power must not find holes where the state has none, nor in a file that has its name.
    fn keep_saving(&self, file: &File) -> Result<(), DiskError> {
        loop {
            let going_on = |p: &mut Progress| !p.ended;
            let waited = self.news.wait_timeout_while(self.lock(), SAVE_EVERY, going_on);
            let (progress, _) = waited.expect("no connection panics while it holds the lock");
            let (done, ended) = (progress.done.clone(), progress.ended);
            drop(progress);
            let synced = file.sync_data().map_err(|e| DiskError::io(&self.part, "cannot be brought to the disk", e));
            let saved = synced.and_then(|()| self.target.save(&done));
            if saved.is_err() {
                // Only ends the connections: the error is handed on by who began them.
                self.fail(Fault::Changed);
            }
            if ended || saved.is_err() {
                return saved;
            }
        }
    }

    /// Takes ranges until all are here or one cannot be had.
    fn work(&self) {
        while let Some((start, end)) = self.take() {
            let fetched = self.fetch_range(start, end);
            self.lock().active -= 1;
            if let Err(fault) = fetched {
                self.fail(fault);
            }
            self.news.notify_all();
        }
    }

    fn take(&self) -> Option<(u64, u64)> {
        let mut progress = self.lock();
        if progress.fault.is_some() {
            return None;
        }
        let range = progress.waiting.pop_front()?;
        progress.active += 1;
        Some(range)
    }

    /// Fetches `start..end`, with as many attempts in a row that bring nothing as faults are put up with.
    fn fetch_range(&self, start: u64, end: u64) -> Result<(), Fault> {
        let failed = |e| DiskError::io(&self.part, "cannot be written", e);
        let mut file = OpenOptions::new().write(true).open(&self.part).map_err(failed)?;
        file.seek(SeekFrom::Start(start)).map_err(failed)?;
        let (mut at, mut failures) = (start, 0);
        while at < end {
            let before = at;
            match self.stream(&mut file, &mut at, end) {
                Ok(()) => {}
                Err(Fault::Error(error)) if error.is_passing() => {
                    failures = if at > before { 1 } else { failures + 1 };
                    if failures >= self.client.patience().attempts {
                        return Err(error.into());
                    }
                    self.pause(self.client.wait(failures, &error));
                }
                Err(fault) => return Err(fault),
            }
            if self.lock().fault.is_some() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Waits, but not longer than anybody still wants the file.
    fn pause(&self, wait: Duration) {
        let unharmed = |p: &mut Progress| p.fault.is_none();
        drop(self.news.wait_timeout_while(self.lock(), wait, unharmed).expect("no connection panics"));
    }

    /// One request for `at..end`, written as it comes; `at` moves along.
    fn stream(&self, file: &mut File, at: &mut u64, end: u64) -> Result<(), Fault> {
        let answer = self.ask(*at, end)?;
        let url = answer.url.clone();
        let mut body = answer.body.into_with_config().limit(u64::MAX).reader();
        let broken = |source| PullError::Broken { url: url.clone(), source };
        if answer.status == 200 && *at > 0 {
            // The whole again, of which the beginning is here.
            let skipped = io::copy(&mut body.by_ref().take(*at), &mut io::sink()).map_err(broken)?;
            if skipped < *at {
                return Err(broken(io::ErrorKind::UnexpectedEof.into()).into());
            }
        }
        let mut buffer = vec![0; BUFFER];
        while *at < end {
            let n = buffer.len().min((end - *at) as usize);
            let n = match body.read(&mut buffer[..n]) {
                Ok(0) => return Err(broken(io::ErrorKind::UnexpectedEof.into()).into()),
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(broken(error).into()),
            };
            file.write_all(&buffer[..n]).map_err(|e| DiskError::io(&self.part, "cannot be written", e))?;
            let mut progress = self.lock();
            progress.done.add(*at, *at + n as u64);
            *at += n as u64;
            if progress.fault.is_some() {
                return Ok(());
            }
        }
        self.news.notify_all();
        // To the end of the answer, so that the connection can be used again; what a server adds is of no use.
        let _ = body.read(&mut buffer[..1]);
        Ok(())
    }

    /// An answer that holds `at..end`, or the whole file where the server knows no ranges.
    fn ask(&self, at: u64, end: u64) -> Result<Answer, Fault> {
        let target = self.target;
        let range = target.ranges.then_some((at, end - 1));
        let validator = target.version.as_deref().and_then(http::validator);
        let resolved = self.resolved.lock().expect("a string is only replaced").clone();
        let answer = match self.client.get(resolved.as_ref().unwrap_or(&target.url), range, validator) {
            // Such addresses are signed for a while: back to the one that does not age.
            Err(PullError::Status { status: 400..=499, .. }) if resolved.is_some() => {
                *self.resolved.lock().expect("a string is only replaced") = None;
                self.client.get(&target.url, range, validator)
            }
            answer => answer,
        };
        let answer = match answer {
            Err(PullError::Status { status: 416, .. }) => return Err(Fault::Changed),
            answer => answer?,
        };
        let known = answer.version().zip(target.version.as_deref());
        if known.is_some_and(|(found, expected)| found != expected) {
            return Err(Fault::Changed);
        }
        let protocol = |problem: &str| PullError::Protocol { url: answer.url.clone(), problem: problem.to_owned() };
        match (answer.status, answer.content_range()) {
            (206, Some((_, total))) if total != target.bytes => return Err(Fault::Changed),
            (206, Some((first, _))) if first == at => {}
            (206, _) => return Err(protocol("another range than it was asked for").into()),
            // The version that the range was asked of is gone.
            _ if target.ranges => return Err(Fault::Changed),
            _ if answer.content_length() != Some(target.bytes) => return Err(Fault::Changed),
            _ => {}
        }
        if answer.url != target.url {
            *self.resolved.lock().expect("a string is only replaced") = Some(answer.url.clone());
        }
        Ok(answer)
    }

    /// The SHA-256 of the file, read back behind the connections while it still is in memory. Of a file that does not
    /// become whole, of what there is.
    fn follow_with_checksum(&self) -> Result<String, DiskError> {
        let failed = |e| DiskError::io(&self.part, "cannot be read", e);
        let mut file = File::open(&self.part).map_err(failed)?;
        let mut hash = Sha256::new();
        let (mut at, mut buffer) = (0, vec![0; BUFFER]);
        loop {
            let behind = |p: &mut Progress| p.done.frontier() < at + BUFFER as u64 && !p.ended && p.fault.is_none();
            let progress = self.news.wait_timeout_while(self.lock(), PROGRESS_EVERY, behind);
            let (progress, _) = progress.expect("no connection panics while it holds the lock");
            let (frontier, ended) = (progress.done.frontier(), progress.ended || progress.fault.is_some());
            drop(progress);
            while at < frontier {
                let n = buffer.len().min((frontier - at) as usize);
                file.read_exact(&mut buffer[..n]).map_err(failed)?;
                hash.update(&buffer[..n]);
                at += n as u64;
            }
            if ended {
                return Ok(hex(hash));
            }
        }
    }
}

/// Bytes a second over the last [`RATE_OVER`].
struct Rates(VecDeque<(Instant, u64)>);

impl Rates {
    fn new() -> Rates {
        Rates(VecDeque::new())
    }

    fn at(&mut self, bytes: u64) -> Option<f64> {
        let now = Instant::now();
        self.0.push_back((now, bytes));
        while self.0.len() > 2 && now - self.0[1].0 > RATE_OVER {
            self.0.pop_front();
        }
        let (then, before) = self.0[0];
        let seconds = (now - then).as_secs_f64();
        (seconds > 0.15).then(|| (bytes - before) as f64 / seconds)
    }
}

/// Lets a hash be copied into.
struct HashWriter<'h>(&'h mut Sha256);

impl Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
