//! The models that ollama holds: manifests at `manifests/HOST/NAMESPACE/NAME/TAG`, each naming the blob that is the GGUF
//! file, `blobs/sha256-DIGEST`.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Model, Owner, new_model};

const MAX_MANIFESTS: usize = 2000;
const MAX_ENTRIES: usize = 20_000;
const MAX_MANIFEST_BYTES: u64 = 1 << 20;
/// Folders between `manifests` and a tag.
const DEPTH: usize = 3;
/// The layer that is the model; others hold its template, parameters and license.
const MODEL_LAYER: &str = "application/vnd.ollama.image.model";
/// The namespace that is not written.
const DEFAULT_NAMESPACE: &str = "library";

#[derive(Debug, Deserialize)]
struct Manifest {
    #[serde(default)]
    layers: Vec<Layer>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Layer {
    media_type: String,
    digest: String,
}

/// The models of ollama's folder `root`.
pub(super) fn models(root: &Path) -> Vec<Model> {
    let manifests = root.join("manifests");
    let mut models = Vec::new();
    let mut entries = 0;
    let mut folders = vec![(manifests.clone(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        let Ok(list) = fs::read_dir(folder) else { continue };
        for entry in list.flatten() {
            entries += 1;
            if entries > MAX_ENTRIES || models.len() >= MAX_MANIFESTS {
                return models;
            }
            let (path, Ok(ty)) = (entry.path(), entry.file_type()) else { continue };
            if ty.is_dir() && depth < DEPTH {
                folders.push((path, depth + 1));
            } else if ty.is_file() && depth == DEPTH {
                models.extend(model(root, &manifests, &path));
            }
        }
    }
    models
}

/// The model of one manifest.
fn model(root: &Path, manifests: &Path, manifest: &Path) -> Option<Model> {
    let parts = manifest.strip_prefix(manifests).ok()?.to_str()?.split(['/', '\\']);
    let [_host, namespace, name, tag] = parts.collect::<Vec<_>>().try_into().ok()?;
    if fs::metadata(manifest).ok()?.len() > MAX_MANIFEST_BYTES {
        return None;
    }
    let text: Manifest = serde_json::from_slice(&fs::read(manifest).ok()?).ok()?;
    let blob = text.layers.iter().find(|layer| layer.media_type == MODEL_LAYER).and_then(|layer| blob(root, layer))?;
    let bytes = fs::metadata(&blob).ok().filter(|blob| blob.is_file())?.len();
    let namespace = if namespace == DEFAULT_NAMESPACE { String::new() } else { format!("{namespace}/") };
    Some(new_model(Owner::Ollama, format!("{namespace}{name}:{tag}"), None, blob, bytes))
}

fn blob(root: &Path, layer: &Layer) -> Option<PathBuf> {
    let digest = layer.digest.strip_prefix("sha256:")?;
    let plain = digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit());
    plain.then(|| root.join("blobs").join(format!("sha256-{digest}")))
}
