//! What a download that was cut off leaves behind: which bytes are here, and of which version of the file.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::disk::DiskError;

/// Bytes of a state file.
const MAX_STATE: u64 = 4 << 20;

/// Ranges of bytes that are here: start to end, none touching another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Done(BTreeMap<u64, u64>);

impl Done {
    /// Adds `start..end`, which overlaps nothing that is here.
    pub(super) fn add(&mut self, mut start: u64, mut end: u64) {
        if let Some((&before, &before_end)) = self.0.range(..=start).next_back()
            && before_end >= start
        {
            (start, end) = (before, end.max(before_end));
        }
        if let Some(after_end) = self.0.remove(&end) {
            end = after_end;
        }
        self.0.insert(start, end);
    }

    /// Bytes here.
    pub(super) fn bytes(&self) -> u64 {
        self.0.iter().map(|(start, end)| end - start).sum()
    }

    /// How far the file is here without a gap.
    pub(super) fn frontier(&self) -> u64 {
        self.0.get(&0).copied().unwrap_or(0)
    }

    /// What is missing of `bytes`, cut into ranges of at most `longest`.
    pub(super) fn missing(&self, bytes: u64, longest: u64) -> Vec<(u64, u64)> {
        let mut missing = Vec::new();
        let mut at = 0;
        for (&start, &end) in self.0.iter().chain([(&bytes, &bytes)]) {
            while at < start {
                let next = start.min(at.saturating_add(longest));
                missing.push((at, next));
                at = next;
            }
            at = end;
        }
        missing
    }
}

/// A download's state, as it is kept beside the part that is here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) url: String,
    /// The server's name for this version of the file.
    pub(super) version: Option<String>,
    pub(super) sha256: Option<String>,
    pub(super) bytes: u64,
    done: Vec<(u64, u64)>,
}

impl State {
    pub(super) fn new(url: String, version: Option<String>, sha256: Option<String>, bytes: u64, done: &Done) -> State {
        State { url, version, sha256, bytes, done: done.0.iter().map(|(&start, &end)| (start, end)).collect() }
    }

    /// The state in the file at `path`; `None` where there is none that makes sense.
    pub(super) fn load(path: &Path) -> Option<State> {
        let mut text = Vec::new();
        fs::File::open(path).ok()?.take(MAX_STATE).read_to_end(&mut text).ok()?;
        let state: State = serde_json::from_slice(&text).ok()?;
        let ends = state.done.iter().flat_map(|&(start, end)| [start, end]);
        let ordered = ends.chain([state.bytes]).is_sorted() && state.done.iter().all(|(start, end)| start < end);
        ordered.then_some(state)
    }

    /// Writes it so that a reader sees the old state or the new one.
    pub(super) fn save(&self, path: &Path) -> Result<(), DiskError> {
        let text = serde_json::to_vec(self).expect("strings and numbers are JSON");
        let fresh = crate::disk::with_suffix(path, ".new");
        let written = fs::write(&fresh, text).and_then(|()| fs::rename(&fresh, path));
        written.map_err(|e| DiskError::io(path, "cannot be written", e))
    }

    pub(super) fn done(&self) -> Done {
        let mut done = Done::default();
        self.done.iter().for_each(|&(start, end)| done.add(start, end));
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_grow_together_and_what_is_missing_is_the_rest() {
        let mut done = Done::default();
        assert_eq!(done.missing(10, 4), [(0, 4), (4, 8), (8, 10)]);
        done.add(4, 6);
        done.add(8, 10);
        assert_eq!((done.frontier(), done.bytes()), (0, 4));
        assert_eq!(done.missing(12, 100), [(0, 4), (6, 8), (10, 12)]);
        done.add(6, 8);
        done.add(0, 1);
        assert_eq!((done.frontier(), done.bytes()), (1, 7));
        done.add(1, 4);
        assert_eq!((done.frontier(), done.missing(12, 100)), (10, vec![(10, 12)]));
        done.add(10, 12);
        assert_eq!((done.0.len(), done.missing(12, 1)), (1, vec![]));
        assert_eq!(Done::default().missing(0, 4), []);
    }

    #[test]
    fn a_state_comes_back_as_it_was_and_nonsense_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let mut done = Done::default();
        done.add(0, 5);
        done.add(7, 9);
        let state = State::new("http://x/y.gguf".into(), Some("\"v\"".into()), None, 9, &done);
        state.save(&path).unwrap();
        assert_eq!(State::load(&path), Some(state.clone()));
        assert_eq!(state.done(), done);
        for ranges in ["[[0,10]]", "[[5,2]]", "[[3,3]]", "[[4,6],[2,3]]", "[[-1,2]]", "7"] {
            fs::write(&path, format!(r#"{{"url":"u","version":null,"sha256":null,"bytes":9,"done":{ranges}}}"#))
                .unwrap();
            assert_eq!(State::load(&path), None, "{ranges}");
        }
        assert_eq!(State::load(folder.path()), None);
    }
}
