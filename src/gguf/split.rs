//! Models split over several files, `NAME-00001-of-00003.gguf`: any one of the names in, all headers merged out.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::header::{self, Header};
use super::reader::Text;
use super::{Gguf, GgufError, SplitFile};

const MAX_PARTS: u64 = 1000;

const NO_KEY: &str = "split.no";
const COUNT_KEY: &str = "split.count";
const TENSORS_KEY: &str = "split.tensors.count";

/// Opens the model that `path` is, or is a part of.
pub(super) fn open(path: &Path, text: Text) -> Result<Gguf, GgufError> {
    let name = PartName::of(path);
    let (header, file) = open_file(path, text)?;
    let count = header.metadata.u64(COUNT_KEY).map_err(|e| e.in_file(path))?.unwrap_or(0);
    if count > MAX_PARTS {
        return Err(GgufError::SplitCount { found: count, limit: MAX_PARTS }.in_file(path));
    }
    match name {
        None | Some(PartName { part: 1, count: 1, .. }) if count <= 1 => Gguf::merge(vec![(header, file)]),
        None => {
            let part = header.metadata.u64(NO_KEY).map_err(|e| e.in_file(path))?.unwrap_or(0).saturating_add(1);
            Err(GgufError::SplitName { part, count }.in_file(path))
        }
        Some(name) => open_parts(&name, header, file, text),
    }
}

/// Opens the other parts of the one at `name`, and merges all of them.
fn open_parts(name: &PartName, header: Header, file: SplitFile, text: Text) -> Result<Gguf, GgufError> {
    name.check(&header).map_err(|e| e.in_file(&file.path))?;
    let mut opened = Some((header, file));
    let mut parts: Vec<(Header, SplitFile)> = Vec::with_capacity(name.count as usize);
    for part in 1..=name.count {
        let (header, file) = match opened.take_if(|_| part == name.part) {
            Some(part) => part,
            None => open_sibling(&name.sibling(part), text)?,
        };
        if let Some((first, _)) = parts.first() {
            check_same_model(first, &header).map_err(|e| e.in_file(&file.path))?;
        }
        parts.push((header, file));
    }
    let (first, first_file) = &parts[0];
    if let Some(expected) = first.metadata.u64(TENSORS_KEY).map_err(|e| e.in_file(&first_file.path))? {
        let found = parts.iter().map(|(header, _)| header.tensors.len() as u64).sum();
        if found != expected {
            return Err(GgufError::SplitTensors { found, expected }.in_file(&first_file.path));
        }
    }
    Gguf::merge(parts)
}

fn open_sibling(name: &PartName, text: Text) -> Result<(Header, SplitFile), GgufError> {
    let path = name.path();
    if !path.exists() {
        return Err(GgufError::SplitMissing { part: name.part, count: name.count }.in_file(path));
    }
    let (header, file) = open_file(&path, text)?;
    name.check(&header).map_err(|e| e.in_file(&path))?;
    Ok((header, file))
}

fn open_file(path: &Path, text: Text) -> Result<(Header, SplitFile), GgufError> {
    let open = || {
        // Asked before the file is opened: opening a pipe would wait for a writer.
        if !fs::metadata(path).map_err(GgufError::Open)?.is_file() {
            return Err(GgufError::NotAFile);
        }
        let file = File::open(path).map_err(GgufError::Open)?;
        let bytes = file.metadata().map_err(GgufError::Open)?.len();
        let header = header::read(file, bytes, text)?;
        Ok((header, SplitFile { path: path.to_owned(), bytes }))
    };
    open().map_err(|e| e.in_file(path))
}

/// Every entry that a part repeats of the first one must be the same, but for its own number and alignment.
fn check_same_model(first: &Header, other: &Header) -> Result<(), GgufError> {
    for (key, value) in other.metadata.iter() {
        let own = key == NO_KEY || key == header::ALIGNMENT_KEY;
        if !own && first.metadata.get(key).is_some_and(|v| v != value) {
            return Err(GgufError::SplitForeign { key: key.to_owned() });
        }
    }
    Ok(())
}

/// What the name of a part says: `FOLDER/STEM-PART-of-COUNT.gguf`, `part` from 1 to `count`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct PartName {
    folder: PathBuf,
    stem: String,
    part: u64,
    count: u64,
}

impl PartName {
    /// `None` where the path is not named as a part.
    fn of(path: &Path) -> Option<PartName> {
        let name = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
        let (name, count) = name.rsplit_once("-of-")?;
        let (stem, part) = name.rsplit_once('-')?;
        let (part, count) = (five_digits(part)?, five_digits(count)?);
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        (1..=count).contains(&part).then(|| PartName { folder, stem: stem.to_owned(), part, count })
    }

    fn path(&self) -> PathBuf {
        self.folder.join(format!("{}-{:05}-of-{:05}.gguf", self.stem, self.part, self.count))
    }

    fn sibling(&self, part: u64) -> PartName {
        PartName { part, ..self.clone() }
    }

    /// Refuses a part whose metadata contradicts its name.
    fn check(&self, header: &Header) -> Result<(), GgufError> {
        let (no, count) = (header.metadata.u64(NO_KEY)?, header.metadata.u64(COUNT_KEY)?);
        let found = match (no, count) {
            (Some(no), Some(count)) if (no.checked_add(1), count) == (Some(self.part), self.count) => return Ok(()),
            (Some(no), Some(count)) => format!("part {} of {count}", no.saturating_add(1)),
            (None, _) => format!("no `{NO_KEY}`"),
            (_, None) => format!("no `{COUNT_KEY}`"),
        };
        Err(GgufError::SplitMixedUp { named_part: self.part, named_count: self.count, found })
    }
}

fn five_digits(digits: &str) -> Option<u64> {
    (digits.len() == 5 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}
