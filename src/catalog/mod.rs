//! The models on this machine: the folders of WayInfer and of other programs in, a list with what each file is out. Other
//! programs' folders are read only, headers alone, and a damaged file is listed with what is wrong with it.

mod folders;
mod ollama;
mod scan;
pub mod suggestions;
#[cfg(test)]
mod tests;
mod used;

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

pub use folders::Folders;
pub use scan::{Candidate, Scan, scan};
pub use used::remember_use;

use crate::disk::{self, DiskError};
use crate::embedded;
use crate::gguf::Gguf;
use crate::pull::Origin;
use crate::quant::GgmlType;
use crate::quantize::Mix;

/// Whose folder a model lies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// The program itself: it is part of the binary.
    BuiltIn,
    WayInfer,
    HuggingFace,
    LlamaCpp,
    LmStudio,
    Ollama,
}

impl Owner {
    pub fn name(self) -> &'static str {
        match self {
            Owner::BuiltIn => "built in",
            Owner::WayInfer => "wayinfer",
            Owner::HuggingFace => "hugging face",
            Owner::LlamaCpp => "llama.cpp",
            Owner::LmStudio => "lm studio",
            Owner::Ollama => "ollama",
        }
    }
}

/// A model on this machine.
#[derive(Debug, Clone)]
pub struct Model {
    /// The file's name without its ending, or ollama's `name:tag`.
    pub name: String,
    pub owner: Owner,
    /// `owner/repo`, where the folders say so.
    pub repository: Option<String>,
    /// The (first) file.
    pub path: PathBuf,
    /// Of all its files that are there.
    pub bytes: u64,
    /// What its header says, or why it cannot be read.
    pub facts: Result<Facts, String>,
    /// Where it was pulled from.
    pub origin: Option<Origin>,
    /// When WayInfer last opened it.
    pub used: Option<SystemTime>,
}

/// What a model's header says about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    pub architecture: String,
    /// `Q4_K_M`, or the format of most of its bytes.
    pub format: String,
    pub parameters: u64,
    /// `None` for a dense model.
    pub n_experts: Option<u64>,
}

/// What keeps a name from being a model's, or a model from being removed.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    #[error(
        "there is no file and no model `{name}`; `wayinfer models` lists those that are here, `wayinfer pull` fetches more"
    )]
    Unknown { name: String },
    #[error("`{name}` could be {}; give the path of one", paths(candidates))]
    Ambiguous { name: String, candidates: Vec<PathBuf> },
    #[error("{} belongs to {}; remove it there", path.display(), owner.name())]
    Foreign { path: PathBuf, owner: Owner },
    #[error("`{name}` is built into the program; it cannot be removed")]
    BuiltIn { name: String },
    #[error(transparent)]
    Disk(#[from] DiskError),
}

fn paths(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" or ")
}

/// All models: the one in the binary, whose file is or will be at `embedded`, and those in the folders, those of WayInfer
/// first. A file that several folders link to is listed once.
pub fn list(folders: &Folders, embedded: &Path) -> Vec<Model> {
    let used = folders.data.as_deref().map(used::read).unwrap_or_default();
    let mut models = vec![built_in(embedded)];
    models.extend(find(folders).into_iter().map(|mut model| {
        model.facts = facts(&model.path);
        model.origin = Origin::of(&model.path);
        model
    }));
    for model in &mut models {
        model.used = model.path.canonicalize().ok().and_then(|path| used.get(&path).copied());
    }
    models
}

/// The model in the binary.
fn built_in(path: &Path) -> Model {
    let facts = embedded::header().as_ref().map(facts_of).map_err(ToString::to_string);
    Model { facts, ..new_model(Owner::BuiltIn, embedded::NAME.to_owned(), None, path.to_owned(), embedded::bytes()) }
}

/// The models in the folders, by what the folders alone say.
fn find(folders: &Folders) -> Vec<Model> {
    let mut models = Vec::new();
    let mut seen = HashSet::new();
    for (owner, root) in &folders.roots {
        let found = match owner {
            Owner::Ollama => ollama::models(root),
            _ => scan(root).models.into_iter().map(|candidate| of_candidate(*owner, candidate)).collect(),
        };
        models.extend(found.into_iter().filter(|model| {
            let real = model.path.canonicalize().unwrap_or_else(|_| model.path.clone());
            seen.insert(real)
        }));
    }
    models.sort_by(|a, b| (a.owner, &a.repository, &a.name).cmp(&(b.owner, &b.repository, &b.name)));
    models
}

fn of_candidate(owner: Owner, candidate: Candidate) -> Model {
    let Candidate { path, name, folder, bytes, .. } = candidate;
    let mut parts = folder.split(['/', '\\']).filter(|part| !part.is_empty());
    let repository = match owner {
        // models--OWNER--REPO/snapshots/COMMIT
        Owner::HuggingFace => parts.next().and_then(|part| part.strip_prefix("models--")?.split_once("--")),
        _ => parts.next().zip(parts.next()),
    };
    let repository = repository.map(|(owner, repo)| format!("{owner}/{repo}"));
    new_model(owner, name, repository, path, bytes)
}

fn new_model(owner: Owner, name: String, repository: Option<String>, path: PathBuf, bytes: u64) -> Model {
    let facts = Err("its header has not been read".to_owned());
    Model { name, owner, repository, path, bytes, facts, origin: None, used: None }
}

fn facts(path: &Path) -> Result<Facts, String> {
    Ok(facts_of(&Gguf::open(path).map_err(|error| error.to_string())?))
}

/// What a header says of its model.
pub fn facts_of(gguf: &Gguf) -> Facts {
    let architecture = gguf.metadata.str("general.architecture").ok().flatten().unwrap_or("unknown").to_owned();
    let file_type = gguf.metadata.u32("general.file_type").ok().flatten();
    let mix = file_type.and_then(|ty| Mix::ALL.into_iter().find(|mix| mix.file_type == ty));
    let mut by_type: BTreeMap<GgmlType, u64> = BTreeMap::new();
    for tensor in &gguf.tensors {
        *by_type.entry(tensor.ty).or_default() += tensor.n_bytes;
    }
    let most = by_type.into_iter().max_by_key(|&(_, bytes)| bytes).map(|(ty, _)| ty.name());
    let n_experts = gguf.metadata.u64(&format!("{architecture}.expert_count")).ok().flatten().filter(|&n| n > 0);
    let format = mix.map(|mix| mix.name).or(most).unwrap_or("empty").to_owned();
    Facts { architecture, format, parameters: gguf.parameters(), n_experts }
}

/// The file that `name` means: a path that exists, or the only model of that name.
///
/// # Errors
/// No model of that name, or several.
pub fn resolve(name: &Path, folders: &Folders) -> Result<PathBuf, CatalogError> {
    // A folder may have the name of a model; it is none.
    if name.is_file() {
        return Ok(name.to_owned());
    }
    let unknown = || CatalogError::Unknown { name: name.display().to_string() };
    let text = name.to_str().ok_or_else(unknown)?;
    only(text, &find(folders)).map(|model| model.path.clone())
}

/// The only model that `name` means.
fn only<'m>(name: &str, models: &'m [Model]) -> Result<&'m Model, CatalogError> {
    let found: Vec<_> = models.iter().filter(|model| model.is_called(name)).collect();
    match found[..] {
        [] => Err(CatalogError::Unknown { name: name.to_owned() }),
        [model] => Ok(model),
        _ => {
            let candidates = found.iter().map(|model| model.path.clone()).collect();
            Err(CatalogError::Ambiguous { name: name.to_owned(), candidates })
        }
    }
}

impl Model {
    /// Whether `name` means this model, in any case: its name, its file, `owner/repo`, each of the last with `:format` or
    /// `:file` behind it; ollama's tag may be left out where it is `latest`.
    fn is_called(&self, name: &str) -> bool {
        let same = |a: &str, b: &str| a.eq_ignore_ascii_case(b);
        let file = self.path.file_name().and_then(|file| file.to_str()).unwrap_or_default();
        if same(name, &self.name) || same(name, file) {
            return true;
        }
        if self.owner == Owner::Ollama {
            return same(&format!("{name}:latest"), &self.name);
        }
        let (repository, wanted) = name.split_once(':').map_or((name, None), |(name, wanted)| (name, Some(wanted)));
        let of_format = |wanted: &str| same(wanted, file) || crate::pull::has_word(&self.name, wanted);
        self.repository.as_deref().is_some_and(|own| same(own, repository)) && wanted.is_none_or(of_format)
    }
}

/// A model that may be removed.
#[derive(Debug)]
pub struct Removable(Model);

/// The model of WayInfer's own folder that `name` means.
///
/// # Errors
/// No such model, several, the one in the binary, or one of another program.
pub fn removable(name: &str, folders: &Folders) -> Result<Removable, CatalogError> {
    let models = find(folders);
    let by_path = models.iter().find(|model| model.path == Path::new(name));
    let model = match by_path.map_or_else(|| only(name, &models), Ok) {
        Err(CatalogError::Unknown { name }) if name == embedded::NAME => return Err(CatalogError::BuiltIn { name }),
        found => found?,
    };
    if model.owner != Owner::WayInfer {
        return Err(CatalogError::Foreign { path: model.path.clone(), owner: model.owner });
    }
    Ok(Removable(model.clone()))
}

impl Removable {
    /// Of all its files.
    pub fn bytes(&self) -> u64 {
        self.0.bytes
    }

    /// Its first file.
    pub fn path(&self) -> &Path {
        &self.0.path
    }
}

/// Removes a model, all its parts and what was noted about them.
///
/// # Errors
/// A file that cannot be removed.
pub fn remove(Removable(model): &Removable) -> Result<(), CatalogError> {
    for file in files_of(model) {
        fs::remove_file(&file).map_err(|e| DiskError::io(&file, "cannot be removed", e))?;
        let origin = Origin::path_of(&file);
        if origin.exists() {
            fs::remove_file(&origin).map_err(|e| DiskError::io(&origin, "cannot be removed", e))?;
        }
    }
    Ok(())
}

/// The files of a model: one, or its parts that are there.
fn files_of(model: &Model) -> Vec<PathBuf> {
    let folder = disk::folder_of(&model.path);
    let stem = |path: &Path| path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let own = stem(&model.path);
    let Some((base, _, count)) = scan::split_of(&own) else { return vec![model.path.clone()] };
    let parts = (1..=count).map(|part| folder.join(format!("{base}-{part:05}-of-{count:05}.gguf")));
    parts.filter(|path| path.exists()).collect()
}
