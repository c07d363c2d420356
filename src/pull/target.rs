//! One file: asked about, fetched by a [`Transfer`], checked and given its name.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::http::Client;
use super::state::{Done, State};
use super::transfer::{Fault, Transfer, hex};
use super::{Origin, PullError, PullOptions, RemoteFile, record_origin, seconds_since_1970};
use crate::disk::{self, DiskError};

/// How often a file may be replaced on the server while it is fetched.
const MAX_CHANGES: usize = 3;
/// Above this many bytes a second another connection is not worth it.
const FAST: f64 = 150e6;
/// How long the connections there are get before another is opened.
const SETTLE: Duration = Duration::from_secs(2);
/// Span of the rate that is shown.
const RATE_OVER: Duration = Duration::from_secs(5);

/// A file whose length and version the server has told.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) url: String,
    path: PathBuf,
    pub(super) bytes: u64,
    pub(super) version: Option<String>,
    sha256: Option<String>,
    /// The server gives ranges of it.
    pub(super) ranges: bool,
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

    pub(super) fn part(&self) -> PathBuf {
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
            let here = transfer.bytes();
            progress(here, rates.at(here));
            (hash, saved)
        });
        saved?;
        match transfer.into_fault() {
            Some(Fault::Changed) => {
                let state = self.state_path();
                fs::remove_file(&state).map_err(|e| DiskError::io(&state, "cannot be removed", e))?;
                Ok(Outcome::Changed)
            }
            Some(Fault::Error(error)) => Err(error),
            None => Ok(Outcome::Whole(found.transpose()?)),
        }
    }

    pub(super) fn save(&self, done: &Done) -> Result<(), DiskError> {
        let (url, version, sha256) = (self.url.clone(), self.version.clone(), self.sha256.clone());
        State::new(url, version, sha256, self.bytes, done).save(&self.state_path())
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
