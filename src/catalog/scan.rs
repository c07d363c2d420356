//! The GGUF files of a folder and of the folders in it: a path in, models with their sizes out. Names are as the disk has
//! them.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};

const MAX_DEPTH: usize = 6;
const MAX_ENTRIES: usize = 20_000;
const MAX_MODELS: usize = 2000;

/// A model file, or the first file of one that is split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub path: PathBuf,
    /// The file's name without its ending and, if split, its number.
    pub name: String,
    /// The folder it lies in, below the folder searched; empty for that one itself.
    pub folder: String,
    /// Of all its files that are there.
    pub bytes: u64,
    /// `(files there, files that there should be)`, for a model that is split.
    pub splits: Option<(usize, usize)>,
}

/// One file of a model that is split.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct SplitFile {
    number: usize,
    count: usize,
    path: PathBuf,
    bytes: u64,
}

/// What was found in a folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scan {
    /// By folder and name.
    pub models: Vec<Candidate>,
    /// There is more than was looked at.
    pub cut: bool,
    /// Why the folder could not be read; that it does not exist is no error.
    pub error: Option<String>,
}

/// Splits `name` into what the files of one model share, and its number and their count: `m-00001-of-00003` is
/// `("m", 1, 3)`.
pub(super) fn split_of(stem: &str) -> Option<(&str, usize, usize)> {
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (base, number) = rest.rsplit_once('-')?;
    let digits = |s: &str| (s.len() == 5 && s.bytes().all(|b| b.is_ascii_digit())).then(|| s.parse().ok())?;
    Some((base, digits(number)?, digits(count)?))
}

/// Looks for models in `root`, links followed, to a limited depth and number.
pub fn scan(root: &Path) -> Scan {
    let mut scan = Scan::default();
    let mut queue = VecDeque::from([(root.to_owned(), 0)]);
    let mut seen = HashSet::new();
    let mut entries = 0;
    // A split model's files by folder and base name.
    let mut splits: BTreeMap<(PathBuf, String), Vec<SplitFile>> = BTreeMap::new();
    while let Some((dir, depth)) = queue.pop_front() {
        // A link that leads back up would be walked again and again.
        if dir.canonicalize().is_ok_and(|real| !seen.insert(real)) {
            continue;
        }
        let list = match std::fs::read_dir(&dir) {
            Ok(list) => list,
            Err(error) => {
                if depth == 0 && error.kind() != std::io::ErrorKind::NotFound {
                    scan.error = Some(error.to_string());
                }
                continue;
            }
        };
        for entry in list.flatten() {
            entries += 1;
            if entries > MAX_ENTRIES || scan.models.len() >= MAX_MODELS {
                scan.cut = true;
                queue.clear();
                break;
            }
            let path = entry.path();
            let Ok(metadata) = std::fs::metadata(&path) else { continue };
            if metadata.is_dir() {
                if depth < MAX_DEPTH {
                    queue.push_back((path, depth + 1));
                } else {
                    scan.cut = true;
                }
                continue;
            }
            let is_model = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
            let Some(stem) = path.file_stem().filter(|_| is_model && metadata.is_file()) else { continue };
            let stem = stem.to_string_lossy();
            match split_of(&stem) {
                Some((base, number, count)) => {
                    let file = SplitFile { number, count, path: path.clone(), bytes: metadata.len() };
                    splits.entry((dir.clone(), base.to_owned())).or_default().push(file);
                }
                None => scan.models.push(candidate(root, &path, &stem, metadata.len(), None)),
            }
        }
    }
    for ((_, base), mut files) in splits {
        files.sort();
        let first = &files[0];
        let bytes = files.iter().map(|f| f.bytes).sum();
        scan.models.push(candidate(root, &first.path, &base, bytes, Some((files.len(), first.count))));
    }
    scan.models.sort_by(|a, b| (&a.folder, &a.name).cmp(&(&b.folder, &b.name)));
    scan
}

fn candidate(root: &Path, path: &Path, name: &str, bytes: u64, splits: Option<(usize, usize)>) -> Candidate {
    let folder = path.parent().and_then(|p| p.strip_prefix(root).ok()).unwrap_or(Path::new(""));
    let folder = folder.to_string_lossy().into_owned();
    Candidate { path: path.to_owned(), name: name.to_owned(), folder, bytes, splits }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(dir: &Path, name: &str, bytes: usize) {
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, vec![0; bytes]).unwrap();
    }

    #[test]
    fn models_are_found_in_folders_and_splits_are_one() {
        let dir = tempfile::tempdir().unwrap();
        touch(dir.path(), "b.gguf", 3);
        touch(dir.path(), "a/deep/x.GGUF", 5);
        touch(dir.path(), "a/note.txt", 5);
        for (n, bytes) in [(1, 10), (3, 30), (2, 20)] {
            touch(dir.path(), &format!("a/big-{n:05}-of-00003.gguf"), bytes);
        }
        touch(dir.path(), "half-00002-of-00009.gguf", 7);
        let found = scan(dir.path());
        let rows: Vec<_> =
            found.models.iter().map(|m| (m.folder.as_str(), m.name.as_str(), m.bytes, m.splits)).collect();
        assert_eq!(
            rows,
            [
                ("", "b", 3, None),
                ("", "half", 7, Some((1, 9))),
                ("a", "big", 60, Some((3, 3))),
                ("a/deep", "x", 5, None)
            ]
        );
        assert!(found.models[2].path.ends_with("big-00001-of-00003.gguf"));
        assert_eq!((found.cut, found.error), (false, None));
    }

    #[test]
    fn a_folder_that_is_not_there_is_empty() {
        assert_eq!(scan(Path::new("/nowhere/at/all")), Scan::default());
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_and_circles_end() {
        let dir = tempfile::tempdir().unwrap();
        touch(dir.path(), "sub/real.gguf", 1);
        std::os::unix::fs::symlink(dir.path(), dir.path().join("sub/up")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("sub/real.gguf"), dir.path().join("link.gguf")).unwrap();
        let found = scan(dir.path());
        assert_eq!(found.models.iter().map(|m| m.name.as_str()).collect::<Vec<_>>(), ["link", "real"]);
    }

    #[test]
    fn only_the_exact_form_is_a_split() {
        assert_eq!(split_of("m-00001-of-00003"), Some(("m", 1, 3)));
        for other in ["m-1-of-3", "m", "one-of-a-kind", "m-00001-of-0000x"] {
            assert_eq!(split_of(other), None, "{other}");
        }
    }
}
