//! When models were last opened: one small file, path by path.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::disk::{DiskError, PartFile};

const FILE: &str = "used.json";
const MAX_BYTES: u64 = 1 << 20;
const MAX_MODELS: usize = 1000;

/// Seconds since 1970 by path.
type Seconds = BTreeMap<PathBuf, u64>;

fn read_seconds(data: &Path) -> Seconds {
    let path = data.join(FILE);
    let small = fs::metadata(&path).is_ok_and(|file| file.len() <= MAX_BYTES);
    let text = small.then(|| fs::read(&path).ok()).flatten();
    text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

/// When each model was last opened; nothing where nobody wrote it down.
pub(super) fn read(data: &Path) -> HashMap<PathBuf, SystemTime> {
    let time = |seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
    read_seconds(data).into_iter().filter_map(|(path, seconds)| Some((path, time(seconds)?))).collect()
}

/// Notes in the folder `data` that the model at `path` is being opened.
///
/// # Errors
/// The note cannot be written.
pub fn remember_use(data: &Path, path: &Path) -> Result<(), DiskError> {
    let mut seconds = read_seconds(data);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    seconds.insert(path.canonicalize().unwrap_or_else(|_| path.to_owned()), now);
    while seconds.len() > MAX_MODELS {
        let oldest = seconds.iter().min_by_key(|(_, when)| **when).map(|(path, _)| path.clone());
        oldest.and_then(|path| seconds.remove(&path));
    }
    fs::create_dir_all(data).map_err(|e| DiskError::io(data, "cannot be created", e))?;
    let part = PartFile::create(&data.join(FILE))?;
    serde_json::to_writer(part.file(), &seconds)
        .map_err(|e| DiskError::io(&data.join(FILE), "cannot be written", e.into()))?;
    part.finish()
}
