//! What a person calls a model: text in, a repository's file or an address out.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::{PullError, RemoteFile, RemoteModel};

/// The most parts a split model is fetched in.
const MAX_PARTS: u64 = 1000;

/// What to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// `owner/repo`, `owner/repo@revision`, each with `:Q4_K_M` or `:file.gguf` behind it.
    Repository { owner: String, repo: String, revision: Option<String>, file: Option<String> },
    /// An address of a file, or of the first part of a split one.
    Url(String),
}

impl FromStr for Reference {
    type Err = PullError;

    fn from_str(text: &str) -> Result<Reference, PullError> {
        let refuse = |problem| PullError::Name { name: text.to_owned(), problem };
        let lower = text.to_ascii_lowercase();
        if lower.starts_with("https://") || lower.starts_with("http://") {
            return Ok(Reference::Url(text.to_owned()));
        }
        if text.contains("://") {
            return Err(refuse("only http and https addresses are fetched"));
        }
        let text_of_hub = text.strip_prefix("hf:").or_else(|| text.strip_prefix("hf.co/")).unwrap_or(text);
        let (name, file) = match text_of_hub.split_once(':') {
            Some((name, file)) if !file.is_empty() => (name, Some(file.to_owned())),
            Some(_) => return Err(refuse("nothing stands behind the colon")),
            None => (text_of_hub, None),
        };
        let (name, revision) = match name.split_once('@') {
            Some((name, revision)) => (name, Some(revision.to_owned())),
            None => (name, None),
        };
        let Some((owner, repo)) = name.split_once('/') else {
            return Err(refuse("it has no owner"));
        };
        let plain = |s: &str| {
            let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            !s.is_empty() && s.len() <= 96 && s.chars().all(fits) && !s.starts_with('.') && !s.contains("..")
        };
        if !plain(owner) || !plain(repo) {
            return Err(refuse("owner and repository are letters, digits, `-`, `_` and `.`"));
        }
        if revision.as_deref().is_some_and(|r| !plain(r)) {
            return Err(refuse("a revision is letters, digits, `-`, `_` and `.`"));
        }
        Ok(Reference::Repository { owner: owner.to_owned(), repo: repo.to_owned(), revision, file })
    }
}

/// The name a file gets here, of the last part of a path from outside: one component, nothing hidden, nothing that a
/// terminal takes for a command.
pub(super) fn file_name(path: &str) -> Option<&str> {
    let name = path.rsplit('/').next()?;
    let plain = !name.starts_with('.')
        && name.len() <= 200
        && !name.contains(|c: char| c.is_control() || "\\:*?\"<>|".contains(c));
    (plain && name.len() > ".gguf".len() && name.to_ascii_lowercase().ends_with(".gguf")).then_some(name)
}

/// The file of an address, and the other parts of one that is split.
pub(super) fn files_of_url(url: &str) -> Result<RemoteModel, PullError> {
    let refuse = |problem: &str| PullError::Address { url: url.to_owned(), problem: problem.to_owned() };
    let end = url.find(['?', '#']).unwrap_or(url.len());
    let (path, query) = url.split_at(end);
    let name = file_name(path).ok_or_else(|| refuse("its path does not end in the name of a .gguf file"))?;
    let file = |name: &str| {
        let folder = &path[..path.rfind('/').map_or(0, |at| at + 1)];
        RemoteFile { url: format!("{folder}{name}{query}"), name: name.to_owned(), bytes: None, sha256: None }
    };
    let files = match split_name(name) {
        None => vec![file(name)],
        Some((_, _, count)) if count > MAX_PARTS => return Err(refuse("it claims more than 1000 parts")),
        Some((stem, _, count)) => {
            (1..=count).map(|part| file(&format!("{stem}-{part:05}-of-{count:05}.gguf"))).collect()
        }
    };
    Ok(RemoteModel { folder: PathBuf::new(), files })
}

/// `STEM-00001-of-00003.gguf` as `(STEM, 1, 3)`.
pub(super) fn split_name(name: &str) -> Option<(&str, u64, u64)> {
    let (rest, count) = Path::new(name).file_stem()?.to_str()?.rsplit_once("-of-")?;
    let (stem, part) = rest.rsplit_once('-')?;
    let digits = |s: &str| (s.len() == 5 && s.bytes().all(|b| b.is_ascii_digit())).then(|| s.parse::<u64>().ok())?;
    let (part, count) = (digits(part)?, digits(count)?);
    (1..=count).contains(&part).then_some((stem, part, count))
}
