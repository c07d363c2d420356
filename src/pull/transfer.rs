//! The bytes of one file on their way, in ranges, by one or several connections. A connection takes the first range that is
//! missing; the checksum follows behind what is here without a gap.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::PullError;
use super::http::{self, Answer, Client};
use super::state::Done;
use super::target::Target;
use crate::disk::DiskError;

/// Bytes asked for at once.
const RANGE: u64 = 64 << 20;
/// Bytes read from a connection at once.
const BUFFER: usize = 256 << 10;
const PROGRESS_EVERY: Duration = Duration::from_millis(200);
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// What keeps a connection from going on.
pub(super) enum Fault {
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

/// A file on its way, shared by its connections.
pub(super) struct Transfer<'t> {
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
    pub(super) fn new(target: &'t Target, client: &'t Client, done: Done) -> Transfer<'t> {
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
    pub(super) fn wait_for_news(&self) -> (Done, usize) {
        let running = |p: &mut Progress| p.fault.is_none() && (p.active > 0 || !p.waiting.is_empty());
        let waited = self.news.wait_timeout_while(self.lock(), PROGRESS_EVERY, running);
        let (progress, _) = waited.expect("no connection panics while it holds the lock");
        (progress.done.clone(), progress.waiting.len())
    }

    /// Bytes that are here.
    pub(super) fn bytes(&self) -> u64 {
        self.lock().done.bytes()
    }

    /// What has kept it from its end.
    pub(super) fn into_fault(self) -> Option<Fault> {
        self.progress.into_inner().expect("no connection panicked").fault
    }

    fn fail(&self, fault: Fault) {
        self.lock().fault.get_or_insert(fault);
        self.news.notify_all();
    }

    pub(super) fn end(&self) {
        self.lock().ended = true;
        self.news.notify_all();
    }

    /// Writes down now and then, and at the end, what is here. Bytes are on the disk before it is said that they are: a
    /// machine that loses its power must not find holes where the state has none, nor in a file that has its name.
    pub(super) fn keep_saving(&self, file: &File) -> Result<(), DiskError> {
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
    pub(super) fn work(&self) {
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
    pub(super) fn follow_with_checksum(&self) -> Result<String, DiskError> {
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

pub(super) fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
