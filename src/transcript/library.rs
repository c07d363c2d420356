//! The folder of conversations: what is in it, looked through and put in order. Paths and words in, lists, texts and files
//! out. What is no conversation is told as such and never touched.

mod exchange;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

pub use exchange::{Format, ImportError, export, import};

use super::reader::read_file;
use super::{Header, Line, Record, Role, SessionFile, Transcript, TranscriptError};

/// More files than this are not looked at; the latest are.
const MOST_FILES: usize = 10_000;
/// Characters of a message shown around what was looked for.
const EXCERPT: usize = 30;

/// A file of the folder.
#[derive(Debug, Clone, PartialEq)]
pub struct Listed {
    pub path: PathBuf,
    /// What it holds, or why it is no conversation.
    pub what: Result<Summary, String>,
    /// Where the text that was looked for stands, with what is around it; empty where nothing was.
    pub excerpt: String,
    changed: SystemTime,
}

/// A conversation at a glance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Its title, or the beginning of its first message.
    pub name: String,
    /// When its last message was said. RFC 3339.
    pub time: String,
    /// The models that spoke, the last one first.
    pub models: Vec<String>,
    /// Messages of the person, on all branches.
    pub turns: usize,
}

impl Listed {
    /// The file's name without its ending: what it is called on the command line.
    pub fn id(&self) -> String {
        self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The name to show: of the conversation, or of the file.
    pub fn name(&self) -> String {
        self.what.as_ref().map_or_else(|_| self.id(), |summary| summary.name.clone())
    }
}

impl Summary {
    fn of(transcript: &Transcript) -> Summary {
        let mut models: Vec<String> = Vec::new();
        for model in transcript.entries.iter().rev().filter_map(|e| e.model.as_ref()) {
            if !models.contains(model) {
                models.push(model.clone());
            }
        }
        Summary {
            name: transcript.name(),
            time: transcript.entries.last().map(|e| e.time.clone()).unwrap_or_default(),
            models,
            turns: transcript.entries.iter().filter(|e| e.message.role == Role::User).count(),
        }
    }

    /// The day and the minute of its last message here, where that can be told.
    pub fn local_time(&self) -> String {
        let zoned = self.time.parse::<jiff::Timestamp>().map(|time| time.to_zoned(jiff::tz::TimeZone::system()));
        zoned.map_or_else(|_| String::new(), |time| time.strftime("%Y-%m-%d %H:%M").to_string())
    }
}

/// What can be wrong with a wish.
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    #[error(transparent)]
    Transcript(#[from] TranscriptError),
    #[error("the folder of conversations `{}` cannot be read: {source}", path.display())]
    Folder { path: PathBuf, source: std::io::Error },
    #[error("there is no conversation `{name}`; `wayinfer sessions` lists them")]
    Unknown { name: String },
    #[error("`{name}` can mean {}; write more of the name, or the file's", names.join(", "))]
    Ambiguous { name: String, names: Vec<String> },
    #[error("the conversation `{}` cannot be deleted: {source}", path.display())]
    Delete { path: PathBuf, source: std::io::Error },
}

/// The conversations in `dir` that hold `text`, in any case, in their names or messages; the latest first. An empty text is
/// held by all, and by what is no conversation too. No folder is an empty one.
pub fn list(dir: &Path, text: &str) -> Result<Vec<Listed>, LibraryError> {
    let failed = |source| LibraryError::Folder { path: dir.to_owned(), source };
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut files: Vec<(SystemTime, PathBuf)> = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        // A pipe by that name would keep us waiting.
        if let (true, Ok(metadata)) = (path.extension().is_some_and(|e| e == "jsonl"), fs::metadata(&path))
            && metadata.is_file()
        {
            files.push((metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH), path));
        }
    }
    files.sort_by(|a, b| b.cmp(a));
    files.truncate(MOST_FILES);
    let wanted = text.trim().to_lowercase();
    Ok(files.into_iter().filter_map(|(changed, path)| look(path, changed, &wanted)).collect())
}

/// The file, where it holds what is `wanted`.
fn look(path: PathBuf, changed: SystemTime, wanted: &str) -> Option<Listed> {
    let read = File::open(&path)
        .map_err(|source| TranscriptError::Read { path: path.clone(), source })
        .and_then(|file| read_file(&file, &path));
    let (what, excerpt) = match read {
        // Made by a chat that has not said anything yet, or was ended before it did.
        Err(TranscriptError::NoHeader { .. }) if fs::metadata(&path).is_ok_and(|m| m.len() == 0) => {
            (Err("it is empty".into()), String::new())
        }
        Err(error) => (Err(error.to_string()), String::new()),
        Ok(transcript) => {
            let name = transcript.name();
            let said = transcript.entries.iter().map(|e| e.message.content.as_str());
            let excerpt = said.chain([name.as_str()]).find_map(|said| excerpt(said, wanted));
            (Ok(Summary::of(&transcript)), if wanted.is_empty() { String::new() } else { excerpt? })
        }
    };
    let listed = Listed { path, what, excerpt, changed };
    (wanted.is_empty() || listed.what.is_ok()).then_some(listed)
}

/// What stands around the first place of `wanted`, which is in lower case, on one line.
fn excerpt(text: &str, wanted: &str) -> Option<String> {
    let lower = text.to_lowercase();
    let at = lower.find(wanted)?;
    // Lower case may differ in length: characters are counted, which is near enough to show the place.
    let before = lower[..at].chars().count();
    let start = before.saturating_sub(EXCERPT);
    let around: String = text.chars().skip(start).take(2 * EXCERPT + wanted.chars().count()).collect();
    Some(around.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// The one that `name` means: a path, a file's name, the number in the list, a name, or a part of one that no other has.
pub fn find(dir: &Path, name: &str) -> Result<Listed, LibraryError> {
    let unknown = || LibraryError::Unknown { name: name.to_owned() };
    let path = Path::new(name);
    if path.is_file() {
        let changed = SystemTime::UNIX_EPOCH;
        return look(path.to_owned(), changed, "").ok_or_else(unknown);
    }
    let listed = list(dir, "")?;
    if let Ok(n) = name.parse::<usize>()
        && let Some(found) = n.checked_sub(1).and_then(|i| listed.get(i))
    {
        return Ok(found.clone());
    }
    let wanted = name.to_lowercase();
    let tests: [&dyn Fn(&Listed) -> bool; 4] =
        [&|l| l.id() == name, &|l| l.name().to_lowercase() == wanted, &|l| l.id().starts_with(name), &|l| {
            l.name().to_lowercase().contains(&wanted)
        }];
    for test in tests {
        let found: Vec<&Listed> = listed.iter().filter(|l| test(l)).collect();
        match found[..] {
            [] => {}
            [one] => return Ok(one.clone()),
            _ => {
                let names = found.iter().take(5).map(|l| format!("`{}`", l.id())).collect();
                return Err(LibraryError::Ambiguous { name: name.to_owned(), names });
            }
        }
    }
    Err(unknown())
}

/// Deletes a conversation and its KV cache. One that a process has open, and what is no conversation, stays.
pub fn delete(path: &Path) -> Result<(), LibraryError> {
    let failed = |source| LibraryError::Delete { path: path.to_owned(), source };
    // Opening it could make a file where there is none.
    fs::metadata(path).map_err(failed)?;
    let session = SessionFile::open(path)?;
    let kv = session.kv_path();
    fs::remove_file(path).map_err(failed)?;
    match fs::remove_file(&kv) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed(error)),
        _ => Ok(()),
    }
}

/// Gives a conversation another name; an empty one gives it back its own.
pub fn rename(path: &Path, title: &str) -> Result<(), LibraryError> {
    let failed = |source| TranscriptError::Write { path: path.to_owned(), source };
    fs::metadata(path).map_err(failed)?;
    let mut session = SessionFile::open(path)?;
    let title = Record::Title { text: title.to_owned() };
    let line = match session.transcript() {
        Some(_) => Line::text(title),
        None => Line::text(Record::Header(Header::new(None, serde_json::Value::Null))) + &Line::text(title),
    };
    session.file.write_all(line.as_bytes()).and_then(|()| session.file.sync_data()).map_err(failed)?;
    Ok(())
}

#[cfg(test)]
mod tests;
