//! Work on files that the screen asks for and does not wait for: conversations listed, named, deleted and opened, texts
//! written, models looked for.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::catalog::{self, CatalogError, Folders};
use crate::disk;
use crate::embedded;
use crate::transcript::{SessionFile, TranscriptError, TranscriptWriter, library};

use super::app::{Answer, Work};
use super::theme;

/// Where things are.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// The conversations; `None`: they are not kept.
    pub sessions: Option<PathBuf>,
    pub models: Folders,
    /// The file of the model in the binary.
    pub embedded: Option<PathBuf>,
    /// The folder of theme files.
    pub themes: Option<PathBuf>,
}

/// What came of work on a thread.
#[derive(Debug)]
pub enum Outcome {
    Answer(Answer),
    Opened(Result<Box<SessionFile>, String>),
}

/// How long a conversation that this program has left may take to be closed.
const CLOSING: Duration = Duration::from_secs(2);

const NOT_KEPT: &str = "this chat keeps no conversations";

/// Does the work.
pub fn run(work: Work, places: &Places) -> Answer {
    match work {
        Work::List { query } => {
            let found = match &places.sessions {
                Some(dir) => library::list(dir, &query).map_err(|e| e.to_string()),
                None => Err(NOT_KEPT.to_owned()),
            };
            Answer::Listed { query, found }
        }
        Work::Rename { path, title } => {
            let done = library::rename(&path, &title).map(|()| format!("It is called: {title}"));
            Answer::Changed(done.map_err(|e| e.to_string()))
        }
        Work::Delete { path } => Answer::Changed(delete(&path)),
        Work::Write { file, text } => Answer::Told(write(&at_home(&file), &text)),
        Work::FindModel(name) => Answer::Model(find_model(&name, places)),
        Work::ReadTheme(name) => {
            Answer::Theme(theme::find(&name, places.themes.as_deref()).map(Box::new).map_err(|error| error.to_string()))
        }
    }
}

fn delete(path: &Path) -> Result<String, String> {
    library::delete(path).map(|()| format!("{} is deleted", path.display())).map_err(|e| e.to_string())
}

fn find_model(name: &str, places: &Places) -> Result<PathBuf, String> {
    match (catalog::resolve(&at_home(name), &places.models), &places.embedded) {
        (Ok(path), _) => Ok(path),
        (Err(CatalogError::Unknown { .. }), Some(path)) if name == embedded::NAME => Ok(path.clone()),
        (Err(error), _) => Err(error.to_string()),
    }
}

/// The path that a person means, who writes ~ for their home.
pub(super) fn at_home(file: &str) -> PathBuf {
    match (file.strip_prefix("~/"), std::env::home_dir()) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(file),
    }
}

/// Writes a new file, whole.
fn write(path: &Path, text: &str) -> Result<String, String> {
    match disk::write_new(path, text.as_bytes()) {
        Ok(()) => Ok(format!("Written to {}", std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display())),
        Err(error) => Err(format!("{} is not written: {error}", path.display())),
    }
}

/// Opens a conversation by its name, to go on with it. The one before is being closed meanwhile, and may be the same.
pub fn open(name: &str, places: &Places) -> Result<Box<SessionFile>, String> {
    let dir = places.sessions.as_deref().ok_or(NOT_KEPT)?;
    let listed = library::find(dir, name).map_err(|e| e.to_string())?;
    let began = Instant::now();
    loop {
        match SessionFile::open(&listed.path) {
            Err(TranscriptError::InUse { .. }) if began.elapsed() < CLOSING => thread::sleep(CLOSING / 100),
            opened => return opened.map(Box::new).map_err(|e| e.to_string()),
        }
    }
}

/// Lets a writer finish, and deletes its file where that is wished. What there is to tell comes out.
pub fn close(writer: TranscriptWriter, delete_it: Option<PathBuf>, patience: Duration) -> Option<Answer> {
    let saved = writer.finish(patience);
    if let Some(path) = delete_it {
        return Some(Answer::Changed(delete(&path)));
    }
    let error = saved.error?;
    let place = saved.rescued.map_or_else(String::new, |path| format!("; what is missing lies in {}", path.display()));
    Some(Answer::Told(Err(format!("the conversation before could not be saved: {error}{place}"))))
}
