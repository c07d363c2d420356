//! Downloads: a model's name or address in, its GGUF files on disk out, whole and checked. A download that is cut off,
//! by a fault or by being killed, goes on where it was; a file has its name only once all of it is there.

mod error;
mod http;
mod hub;
mod reference;
mod state;
mod target;
mod transfer;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub use error::PullError;
pub use hub::{DEFAULT_ENDPOINT, has_word};
pub use reference::Reference;
use serde::{Deserialize, Serialize};

use crate::disk::{self, DiskError};
use http::Client;

/// What is behind a model file's name, in the file beside it that says where it came from.
const ORIGIN_SUFFIX: &str = ".origin.json";

/// How a download behaves.
#[derive(Debug, Clone)]
pub struct PullOptions {
    /// Where models go, each repository in a folder of its own.
    pub folder: PathBuf,
    /// The hub or its mirror, for names of the form `owner/repo`.
    pub endpoint: String,
    /// Sent to the endpoint's host, and to no other.
    pub token: Option<String>,
    /// The most connections at once.
    pub connections: usize,
    /// Write over a file that is there and differs.
    pub force: bool,
    pub patience: Patience,
}

/// How long a fault is put up with.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Without a byte for so long, a connection is given up.
    pub stall: Duration,
    /// Before the second attempt; doubled for each one more, up to [`Patience::longest_wait`].
    pub first_wait: Duration,
    /// The longest wait between attempts, whatever a server asks for.
    pub longest_wait: Duration,
    /// Attempts in a row that bring nothing.
    pub attempts: u32,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            stall: Duration::from_secs(30),
            first_wait: Duration::from_millis(500),
            longest_wait: Duration::from_secs(120),
            attempts: 8,
        }
    }
}

impl PullOptions {
    /// Models into `folder`, all else as the environment says: `HF_ENDPOINT`, `HF_TOKEN` or the token file that the hub's
    /// own tools write.
    pub fn from_environment(folder: PathBuf) -> PullOptions {
        let set = |key: &str| std::env::var(key).ok().map(|v| v.trim().to_owned()).filter(|v| !v.is_empty());
        let token_file = set("HF_TOKEN_PATH").map(PathBuf::from).or_else(|| {
            let home = std::env::home_dir()?;
            Some(set("HF_HOME").map_or_else(|| home.join(".cache/huggingface"), PathBuf::from).join("token"))
        });
        let from_file = || fs::read_to_string(token_file?).ok().map(|t| t.trim().to_owned()).filter(|t| !t.is_empty());
        PullOptions {
            folder,
            endpoint: set("HF_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned()),
            token: set("HF_TOKEN").or_else(from_file),
            connections: 4,
            force: false,
            patience: Patience::default(),
        }
    }
}

/// How far a download has come.
#[derive(Debug, Clone, Copy)]
pub struct PullProgress<'a> {
    /// Name of the file that is being fetched.
    pub file: &'a str,
    /// Its number, from 1, and how many there are.
    pub part: (usize, usize),
    /// Bytes of all files that are here, those of an earlier attempt included.
    pub done: u64,
    pub total: u64,
    /// Bytes a second over the last seconds; `None` at first.
    pub rate: Option<f64>,
}

/// A file to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
struct RemoteFile {
    url: String,
    /// The file's name here: one plain component.
    name: String,
    /// As the hub's listing says; `None` for an address alone.
    bytes: Option<u64>,
    sha256: Option<String>,
}

/// A model's files, all in one folder of [`PullOptions::folder`].
#[derive(Debug, Clone, PartialEq, Eq)]
struct RemoteModel {
    /// Below the models folder: `owner/repo`, or nothing.
    folder: PathBuf,
    /// The first one names the model.
    files: Vec<RemoteFile>,
}

/// Where a file came from, kept beside it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Origin {
    pub url: String,
    pub bytes: u64,
    pub sha256: Option<String>,
    /// Seconds since 1970.
    pub pulled: u64,
}

impl Origin {
    /// Where the file at `path` came from; `None` where it was not pulled, or nobody can tell.
    pub fn of(path: &Path) -> Option<Origin> {
        let text = fs::read(disk::with_suffix(path, ORIGIN_SUFFIX)).ok().filter(|text| text.len() < 64 << 10)?;
        serde_json::from_slice(&text).ok()
    }

    /// The file that says so.
    pub fn path_of(path: &Path) -> PathBuf {
        disk::with_suffix(path, ORIGIN_SUFFIX)
    }
}

/// Fetches a model and gives the path of its (first) file. `progress` is told about five times a second.
///
/// # Errors
/// What the name, the server, the network or the disk has against it; what has come so far is kept for the next attempt.
pub fn pull(
    reference: &Reference,
    options: &PullOptions,
    progress: &mut dyn FnMut(PullProgress),
) -> Result<PathBuf, PullError> {
    let client = Client::new(options)?;
    let model = match reference {
        Reference::Url(url) => reference::files_of_url(url)?,
        Reference::Repository { owner, repo, revision, file } => {
            hub::list(&client, owner, repo, revision.as_deref())?.choose(file.as_deref())?
        }
    };
    let folder = options.folder.join(&model.folder);
    fs::create_dir_all(&folder).map_err(|e| DiskError::io(&folder, "cannot be created", e))?;
    // What an address alone does not tell is asked now, so that room is checked for all files before the first.
    let mut files = Vec::with_capacity(model.files.len());
    for file in &model.files {
        files.push(target::Target::probe(&client, file, folder.join(&file.name), options)?);
    }
    let needed = files.iter().map(target::Target::missing_bytes).sum();
    disk::check_room(&folder, needed)?;

    let total: u64 = files.iter().map(|f| f.bytes).sum();
    let (mut before, n) = (0, files.len());
    for (i, file) in files.iter().enumerate() {
        let name = &model.files[i].name;
        file.fetch(&client, options, &mut |done, rate| {
            progress(PullProgress { file: name, part: (i + 1, n), done: before + done, total, rate });
        })?;
        before += file.bytes;
    }
    Ok(folder.join(&model.files[0].name))
}

/// Writes where the file at `path` came from beside it.
fn record_origin(path: &Path, origin: &Origin) -> Result<(), PullError> {
    let path = Origin::path_of(path);
    let text = serde_json::to_vec_pretty(origin).expect("strings and numbers are JSON");
    fs::write(&path, text).map_err(|e| DiskError::io(&path, "cannot be written", e).into())
}

fn seconds_since_1970() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
