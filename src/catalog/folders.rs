//! Where models lie: the environment in, the folders of WayInfer and of other programs out.

use std::path::{Path, PathBuf};

use super::Owner;

/// Folders to look for models in.
#[derive(Debug, Clone, Default)]
pub struct Folders {
    /// In the order in which names are looked up.
    pub roots: Vec<(Owner, PathBuf)>,
    /// Where it is kept when a model was last used; `None`: nowhere.
    pub data: Option<PathBuf>,
}

impl Folders {
    /// WayInfer's own in its `data` folder, and those of other programs where their variables or customs put them.
    pub fn from_environment(data: &Path) -> Folders {
        let home = std::env::home_dir();
        Folders::with(data, home.as_deref(), &|key| std::env::var_os(key).map(PathBuf::from))
    }

    /// As [`Folders::from_environment`], for another environment.
    pub(super) fn with(data: &Path, home: Option<&Path>, variable: &dyn Fn(&str) -> Option<PathBuf>) -> Folders {
        let set = |key: &str| variable(key).filter(|path| !path.as_os_str().is_empty());
        let at_home = |path: &str| home.map(|home| home.join(path));
        let caches = if cfg!(target_os = "macos") { at_home("Library/Caches") } else { at_home(".cache") };
        let cache = set("XDG_CACHE_HOME").or(caches);
        let in_cache = |path: &str| cache.as_ref().map(|cache| cache.join(path));
        // The hub's tools keep to .cache on every system.
        let hub_home = set("HF_HOME").or_else(|| set("XDG_CACHE_HOME").map(|c| c.join("huggingface")));
        let hub_home = hub_home.or_else(|| at_home(".cache/huggingface"));
        let hub =
            set("HF_HUB_CACHE").or_else(|| set("HUGGINGFACE_HUB_CACHE")).or(hub_home.map(|home| home.join("hub")));
        let ollama = match set("OLLAMA_MODELS") {
            Some(models) => vec![Some(models)],
            None => vec![at_home(".ollama/models"), Some("/usr/share/ollama/.ollama/models".into())],
        };
        let roots = [
            (Owner::WayInfer, Some(data.join("models"))),
            (Owner::HuggingFace, hub),
            (Owner::LlamaCpp, set("LLAMA_CACHE").or_else(|| in_cache("llama.cpp"))),
            (Owner::LmStudio, at_home(".lmstudio/models")),
            (Owner::LmStudio, at_home(".cache/lm-studio/models")),
        ];
        let ollama = ollama.into_iter().map(|root| (Owner::Ollama, root));
        let roots = roots.into_iter().chain(ollama).filter_map(|(owner, root)| Some((owner, root?))).collect();
        Folders { roots, data: Some(data.to_owned()) }
    }
}
