//! The hub that models lie on: a repository's name in, its GGUF files with their sizes and checksums out, and the choice
//! among them.

use std::path::PathBuf;

use serde::Deserialize;

use super::http::Client;
use super::reference::{file_name, split_name};
use super::{PullError, RemoteFile, RemoteModel};

/// The hub asked where `HF_ENDPOINT` names no mirror.
pub const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// Formats tried in this order where none is named: the usual balance of size and quality first.
const PREFERRED: [&str; 6] = ["Q4_K_M", "Q4_K_S", "MXFP4", "Q4_0", "Q5_K_M", "Q8_0"];

/// The GGUF files of a repository.
#[derive(Debug)]
pub(super) struct Listing {
    owner: String,
    repo: String,
    files: Vec<ListedFile>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct ListedFile {
    /// In the repository, folders included.
    path: String,
    remote: RemoteFile,
}

/// What the hub's answer holds for us.
#[derive(Debug, Deserialize)]
struct ModelInfo {
    /// The commit that the listing is of.
    sha: Option<String>,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Debug, Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    lfs: Option<Lfs>,
}

#[derive(Debug, Deserialize)]
struct Lfs {
    sha256: Option<String>,
    size: Option<u64>,
}

/// Asks for the files of `owner/repo` at `revision`, or at its newest.
pub(super) fn list(client: &Client, owner: &str, repo: &str, revision: Option<&str>) -> Result<Listing, PullError> {
    let endpoint = client.endpoint();
    let at = revision.map_or(String::new(), |r| format!("/revision/{r}"));
    let url = format!("{endpoint}/api/models/{owner}/{repo}{at}?blobs=true");
    let text = client.get_text(&url)?;
    let info: ModelInfo = serde_json::from_str(&text)
        .map_err(|e| PullError::Protocol { url: url.clone(), problem: format!("what is no listing of files ({e})") })?;
    // Files of one commit, whatever is pushed meanwhile.
    let commit = info.sha.as_deref().filter(|sha| sha.bytes().all(|b| b.is_ascii_hexdigit()));
    let revision = commit.or(revision).unwrap_or("main");
    let listed = |sibling: Sibling| {
        let name = file_name(&sibling.rfilename)?.to_owned();
        // A vision projector is no model of its own.
        if name.to_ascii_lowercase().starts_with("mmproj") {
            return None;
        }
        let (lfs_sha, lfs_size) = sibling.lfs.map_or((None, None), |lfs| (lfs.sha256, lfs.size));
        let sha256 = lfs_sha.map(|s| s.to_ascii_lowercase()).filter(|s| is_sha256(s));
        let url = format!("{endpoint}/{owner}/{repo}/resolve/{revision}/{}", escape(&sibling.rfilename));
        let remote = RemoteFile { url, name, bytes: lfs_size.or(sibling.size), sha256 };
        Some(ListedFile { path: sibling.rfilename, remote })
    };
    let mut files: Vec<_> = info.siblings.into_iter().filter_map(listed).collect();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(Listing { owner: owner.to_owned(), repo: repo.to_owned(), files })
}

/// 64 hexadecimal digits.
pub(super) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// A path as it stands in an address.
fn escape(path: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~/".contains(&b);
    path.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

impl Listing {
    fn repository(&self) -> String {
        format!("{}/{}", self.owner, self.repo)
    }

    /// The files of the model that `wanted` names: a file, any part of a split one, a format; where nothing is wanted,
    /// a usual format or the only model there is.
    pub(super) fn choose(&self, wanted: Option<&str>) -> Result<RemoteModel, PullError> {
        let models = self.models();
        let names = || models.iter().map(|m| self.name_of(m)).collect::<Vec<_>>();
        let none = || PullError::NoFile {
            repository: self.repository(),
            wanted: wanted.map(str::to_owned),
            available: names(),
        };
        let several = |wanted: &str, found: &[&Vec<usize>]| PullError::Ambiguous {
            repository: self.repository(),
            wanted: wanted.to_owned(),
            candidates: found.iter().map(|m| self.name_of(m)).collect(),
        };
        let of_format = |format: &str| -> Vec<&Vec<usize>> {
            models.iter().filter(|m| has_word(&self.files[m[0]].path, format)).collect()
        };
        let found = match wanted {
            Some(wanted) => {
                let named = |&i: &usize| {
                    let file = &self.files[i];
                    file.path == wanted || file.remote.name == wanted
                };
                let by_name: Vec<_> = models.iter().filter(|m| m.iter().any(named)).collect();
                if by_name.is_empty() { of_format(wanted) } else { by_name }
            }
            None if models.len() == 1 => models.iter().collect(),
            None => PREFERRED.iter().map(|f| of_format(f)).find(|found| !found.is_empty()).unwrap_or_default(),
        };
        let model = match found[..] {
            [] => return Err(none()),
            [model] => model,
            _ => return Err(several(wanted.unwrap_or("the usual format"), &found)),
        };
        let files: Vec<_> = model.iter().map(|&i| self.files[i].remote.clone()).collect();
        if let Some((_, _, count)) = split_name(&files[0].name)
            && count != files.len() as u64
        {
            let problem = format!("{} of the {count} parts of {}", files.len(), files[0].name);
            return Err(PullError::Protocol { url: self.repository(), problem });
        }
        Ok(RemoteModel { folder: PathBuf::from(&self.owner).join(&self.repo), files })
    }

    /// The files of each model, parts in order.
    fn models(&self) -> Vec<Vec<usize>> {
        let mut models: Vec<Vec<usize>> = Vec::new();
        let key = |i: usize| {
            let file = &self.files[i];
            let folder = file.path.strip_suffix(&file.remote.name).unwrap_or("");
            split_name(&file.remote.name).map(|(stem, _, count)| (folder.to_owned(), stem.to_owned(), count))
        };
        for i in 0..self.files.len() {
            match models.last_mut() {
                Some(model) if key(i).is_some() && key(model[0]) == key(i) => model.push(i),
                _ => models.push(vec![i]),
            }
        }
        models
    }

    fn name_of(&self, model: &[usize]) -> String {
        self.files[model[0]].remote.name.clone()
    }
}

/// Whether `word` stands in `path` on its own, in any case: `Q4_K` is not in `x-Q4_K_M.gguf`.
pub fn has_word(path: &str, word: &str) -> bool {
    let (path, word) = (path.to_ascii_lowercase(), word.to_ascii_lowercase());
    let inside = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
    path.match_indices(&word)
        .any(|(at, _)| !inside(path[..at].chars().next_back()) && !inside(path[at + word.len()..].chars().next()))
}
