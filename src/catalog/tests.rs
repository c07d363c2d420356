use std::collections::HashMap;

use super::*;
use crate::gguf::writer::{TensorPlan, Writer};
use crate::gguf::{Metadata, Value};

/// A model file with a header worth listing.
fn write_model(path: &Path, file_type: u32) {
    let mut metadata = Metadata::default();
    metadata.insert("general.architecture".into(), Value::String("qwen3moe".into())).unwrap();
    metadata.insert("general.file_type".into(), Value::U32(file_type)).unwrap();
    metadata.insert("qwen3moe.expert_count".into(), Value::U32(8)).unwrap();
    let plans = [TensorPlan { name: "x.weight".into(), shape: vec![64], ty: GgmlType::Q8_0 }];
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut writer = Writer::new(fs::File::create(path).unwrap(), &metadata, &plans).unwrap();
    writer.write("x.weight", &[0; 68]).unwrap();
    writer.finish().unwrap();
}

/// The folders of a user whose home is `home`, and who has set these variables.
fn folders(home: &Path, variables: &[(&str, &str)]) -> Folders {
    let variables: HashMap<_, _> = variables.iter().map(|(key, path)| (*key, home.join(path))).collect();
    let mut folders = Folders::with(&home.join("data"), Some(home), &|key| variables.get(key).cloned());
    folders.roots.retain(|(_, root)| root.starts_with(home));
    folders
}

fn write_manifest(root: &Path, place: &str, digest: &str) {
    let path = root.join("manifests").join(place);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let layers = serde_json::json!({ "layers": [
        { "mediaType": "application/vnd.ollama.image.license", "digest": "sha256:00" },
        { "mediaType": "application/vnd.ollama.image.model", "digest": digest, "size": 1 },
    ]});
    fs::write(path, layers.to_string()).unwrap();
}

/// The models of the folders alone.
fn found(folders: &Folders) -> Vec<Model> {
    list(folders, Path::new("/nowhere/demo.gguf")).into_iter().filter(|m| m.owner != Owner::BuiltIn).collect()
}

#[test]
fn the_model_in_the_binary_is_listed_first_and_its_use_is_remembered() {
    let home = tempfile::tempdir().unwrap();
    let folders = folders(home.path(), &[]);
    let path = home.path().join("demo.gguf");
    let models = list(&folders, &path);
    assert_eq!((models.len(), models[0].name.as_str(), models[0].used), (1, "demo", None));
    let facts = models[0].facts.as_ref().unwrap();
    assert!(models[0].bytes == embedded::bytes() && facts.n_experts.is_some_and(|n| n > 1), "{facts:?}");
    fs::write(&path, "").unwrap();
    remember_use(folders.data.as_deref().unwrap(), &path).unwrap();
    assert!(list(&folders, &path)[0].used.is_some());
    // A model of that name in the own folder is another one, and may go.
    write_model(&home.path().join("data/models/demo.gguf"), 7);
    assert!(removable("demo", &folders).is_ok());
}

#[test]
fn models_of_every_program_are_found_where_it_keeps_them() {
    let home = tempfile::tempdir().unwrap();
    let at = |path: &str| home.path().join(path);
    write_model(&at("data/models/o/r/own-Q4_K_M.gguf"), 15);
    write_model(&at("data/models/flat.gguf"), 7);
    write_model(&at(".cache/huggingface/hub/models--hub--repo/snapshots/abc/h-Q8_0.gguf"), 7);
    write_model(&at(".cache/llama.cpp/hub_repo_l.gguf"), 999);
    write_model(&at(".lmstudio/models/studio/repo/s.gguf"), 15);
    let digest = "a".repeat(64);
    write_model(&at(&format!(".ollama/models/blobs/sha256-{digest}")), 2);
    write_manifest(&at(".ollama/models"), "host/library/qwen3/30b", &format!("sha256:{digest}"));
    let models = found(&folders(home.path(), &[]));
    let rows: Vec<_> = models
        .iter()
        .map(|m| (m.owner, m.name.as_str(), m.repository.as_deref(), m.facts.as_ref().unwrap().format.as_str()))
        .collect();
    assert_eq!(
        rows,
        [
            (Owner::WayInfer, "flat", None, "Q8_0"),
            (Owner::WayInfer, "own-Q4_K_M", Some("o/r"), "Q4_K_M"),
            (Owner::HuggingFace, "h-Q8_0", Some("hub/repo"), "Q8_0"),
            (Owner::LlamaCpp, "hub_repo_l", None, "Q8_0"),
            (Owner::LmStudio, "s", Some("studio/repo"), "Q4_K_M"),
            (Owner::Ollama, "qwen3:30b", None, "Q4_0"),
        ]
    );
    let facts = models[0].facts.as_ref().unwrap();
    assert_eq!((facts.architecture.as_str(), facts.parameters, facts.n_experts), ("qwen3moe", 64, Some(8)));
}

#[test]
fn variables_say_where_programs_keep_their_models() {
    let home = tempfile::tempdir().unwrap();
    let at = |path: &str| home.path().join(path);
    for (variable, value, file) in [
        ("LLAMA_CACHE", "x", "x/m.gguf"),
        ("XDG_CACHE_HOME", "x", "x/llama.cpp/m.gguf"),
        ("XDG_CACHE_HOME", "x", "x/huggingface/hub/models--a--b/snapshots/c/m.gguf"),
        ("HF_HOME", "x", "x/hub/models--a--b/snapshots/c/m.gguf"),
        ("HF_HUB_CACHE", "x", "x/models--a--b/snapshots/c/m.gguf"),
    ] {
        write_model(&at(file), 7);
        assert_eq!(find(&folders(home.path(), &[(variable, value)])).len(), 1, "{variable}");
        assert_eq!(find(&folders(home.path(), &[])).len(), 0, "{variable}");
        fs::remove_dir_all(at("x")).unwrap();
    }
    let digest = "b".repeat(64);
    write_model(&at(&format!("x/blobs/sha256-{digest}")), 7);
    write_manifest(&at("x"), "host/me/m/latest", &format!("sha256:{digest}"));
    let found = find(&folders(home.path(), &[("OLLAMA_MODELS", "x")]));
    assert_eq!(found[0].name, "me/m:latest");
}

#[cfg(unix)]
#[test]
fn a_file_that_several_folders_link_to_is_listed_once() {
    let home = tempfile::tempdir().unwrap();
    let hub = home.path().join(".cache/huggingface/hub/models--a--b");
    write_model(&hub.join("blobs/1234"), 7);
    for commit in ["c1", "c2"] {
        let snapshot = hub.join("snapshots").join(commit);
        fs::create_dir_all(&snapshot).unwrap();
        std::os::unix::fs::symlink("../../blobs/1234", snapshot.join("m.gguf")).unwrap();
    }
    let models = found(&folders(home.path(), &[]));
    assert_eq!(models.len(), 1);
    assert!(models[0].facts.is_ok(), "{:?}", models[0].facts);
}

#[test]
fn damaged_files_and_hostile_manifests_do_no_harm() {
    let home = tempfile::tempdir().unwrap();
    let at = |path: &str| home.path().join(path);
    write_model(&at("data/models/good.gguf"), 7);
    fs::write(at("data/models/bad.gguf"), b"GGUF\x03\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff").unwrap();
    write_model(&at("secret"), 7);
    let root = at(".ollama/models");
    let deep = "host/library/m/tag";
    for digest in ["sha256:../../../secret", "sha256:", "", "md5:x", &format!("sha256:{}", "c".repeat(64))] {
        write_manifest(&root, deep, digest);
        assert!(ollama::models(&root).is_empty(), "{digest}");
    }
    for text in ["", "[]", "{\"layers\": 3}", "{\"layers\": [{}]}", &"[".repeat(100_000)] {
        fs::write(root.join("manifests").join(deep), text).unwrap();
        assert!(ollama::models(&root).is_empty());
    }
    let models = found(&folders(home.path(), &[]));
    let broken: Vec<_> = models.iter().filter(|m| m.facts.is_err()).map(|m| m.name.as_str()).collect();
    assert_eq!((models.len(), broken), (2, vec!["bad"]));
}

#[test]
fn a_name_means_a_path_first_and_then_the_only_model_of_that_name() {
    let home = tempfile::tempdir().unwrap();
    let at = |path: &str| home.path().join(path);
    write_model(&at("data/models/o/r/x-Q4_K_M.gguf"), 15);
    write_model(&at("data/models/o/r/x-Q8_0.gguf"), 7);
    write_model(&at("data/models/p/q/y.gguf"), 7);
    write_model(&at(".lmstudio/models/s/t/y.gguf"), 7);
    let digest = "d".repeat(64);
    write_model(&at(&format!(".ollama/models/blobs/sha256-{digest}")), 2);
    write_manifest(&at(".ollama/models"), "host/library/z/latest", &format!("sha256:{digest}"));
    let folders = folders(home.path(), &[]);
    let resolved = |name: &str| resolve(Path::new(name), &folders);
    for (name, file) in [
        ("x-q4_k_m", "data/models/o/r/x-Q4_K_M.gguf"),
        ("x-Q8_0.gguf", "data/models/o/r/x-Q8_0.gguf"),
        ("O/R:q8_0", "data/models/o/r/x-Q8_0.gguf"),
        ("p/q", "data/models/p/q/y.gguf"),
        ("s/t:y.gguf", ".lmstudio/models/s/t/y.gguf"),
        ("z", &format!(".ollama/models/blobs/sha256-{digest}")),
        ("z:latest", &format!(".ollama/models/blobs/sha256-{digest}")),
    ] {
        assert_eq!(resolved(name).unwrap(), at(file), "{name}");
    }
    let path = at("data/models/p/q/y.gguf");
    assert_eq!(resolve(&path, &folders).unwrap(), path);
    for name in ["o/r", "y", "y.gguf"] {
        let error = resolved(name).unwrap_err();
        assert!(
            matches!(&error, CatalogError::Ambiguous { candidates, .. } if candidates.len() == 2),
            "{name}: {error}"
        );
    }
    for name in ["", "none", "o/r:Q4_K", "o/r:Q2_K", ":", "z:1b"] {
        assert!(matches!(resolved(name), Err(CatalogError::Unknown { .. })), "{name}");
    }
}

#[test]
fn only_own_models_are_removed_with_all_their_parts() {
    let home = tempfile::tempdir().unwrap();
    let at = |path: &str| home.path().join(path);
    write_model(&at("data/models/keep.gguf"), 7);
    for part in 1..=2 {
        write_model(&at(&format!("data/models/o/r/m-{part:05}-of-00002.gguf")), 7);
    }
    fs::write(at("data/models/o/r/m-00001-of-00002.gguf.origin.json"), "{}").unwrap();
    write_model(&at(".lmstudio/models/s/t/y.gguf"), 7);
    let folders = folders(home.path(), &[]);
    assert!(matches!(removable("y", &folders), Err(CatalogError::Foreign { .. })));
    assert!(matches!(removable("none", &folders), Err(CatalogError::Unknown { .. })));
    assert!(matches!(removable("demo", &folders), Err(CatalogError::BuiltIn { .. })));
    let model = removable("m", &folders).unwrap();
    assert!(model.bytes() > 0 && model.path().ends_with("m-00001-of-00002.gguf"));
    remove(&model).unwrap();
    assert_eq!(fs::read_dir(at("data/models/o/r")).unwrap().count(), 0);
    assert_eq!(find(&folders).len(), 2);
}

#[test]
fn use_is_remembered_by_path() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("data/models/m.gguf");
    write_model(&path, 7);
    let folders = folders(home.path(), &[]);
    assert_eq!(found(&folders)[0].used, None);
    remember_use(folders.data.as_deref().unwrap(), &path).unwrap();
    let age = found(&folders)[0].used.unwrap().elapsed().unwrap();
    assert!(age.as_secs() < 60);
    fs::write(home.path().join("data/used.json"), "nonsense").unwrap();
    assert_eq!(found(&folders)[0].used, None);
}

#[test]
fn every_suggestion_can_be_pulled_by_its_name() {
    for suggestion in suggestions::ALL {
        let reference: crate::pull::Reference = suggestion.name.parse().unwrap();
        assert!(matches!(reference, crate::pull::Reference::Repository { file: Some(_), .. }), "{}", suggestion.name);
        assert!(suggestion.parameters.1 <= suggestion.parameters.0);
    }
    assert!(suggestions::ALL.is_sorted_by_key(|s| (s.disk_gb * 10.0) as u32));
}
