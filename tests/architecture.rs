//! The floors of `ARCHITECTURE.md`, checked: a module imports only from floors below its own, `unsafe` stays in its
//! rooms, printing in its own, and no file of the project names a place of one machine.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

/// Modules by floor; a module may use those of lower floors, and its own.
const FLOORS: [(&str, u32); 20] = [
    ("quant", 0),
    ("telemetry", 0),
    ("disk", 0),
    ("store", 1),
    ("gguf", 1),
    ("kernel", 1),
    ("pool", 1),
    ("model", 2),
    ("quantize", 2),
    ("session", 3),
    ("sampler", 3),
    ("text", 3),
    ("transcript", 3),
    ("pull", 3),
    ("catalog", 3),
    ("embedded", 3),
    ("worker", 4),
    ("tui", 5),
    ("cli", 6),
    ("main", 6),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust files of `src` but unit tests, with their text.
fn sources() -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    let mut folders = vec![root().join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") && !is_unit_test(&path) {
                let text = fs::read_to_string(&path).unwrap();
                files.push((path.strip_prefix(root().join("src")).unwrap().to_owned(), text));
            }
        }
    }
    assert!(files.len() > 30, "the sources were not found");
    files
}

fn is_unit_test(path: &Path) -> bool {
    path.components().any(|part| {
        ["tests", "tests.rs"].contains(&part.as_os_str().to_str().unwrap_or_default())
            && path.strip_prefix(root().join("src")).is_ok()
    })
}

/// The module a file belongs to: its first folder, or its own name.
fn module(path: &Path) -> String {
    let first = path.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

fn floor(module: &str) -> Option<u32> {
    FLOORS.iter().find(|(name, _)| *name == module).map(|(_, floor)| *floor)
}

/// Lines of code before the unit tests at the file's end, without comments.
fn code(text: &str) -> impl Iterator<Item = &str> {
    let end = text.find("#[cfg(test)]").unwrap_or(text.len());
    text[..end].lines().map(str::trim).filter(|line| !line.starts_with("//"))
}

/// The modules named right after `crate::` in a line, braces included: `use crate::{a::B, c};` names a and c.
fn imports(line: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in line.match_indices("crate::") {
        let rest = &line[at + "crate::".len()..];
        let names: Vec<&str> = match rest.strip_prefix('{') {
            Some(list) => list.split(',').collect(),
            None => vec![rest],
        };
        for name in names {
            let name: String = name.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if floor(&name).is_some() {
                found.push(name);
            }
        }
    }
    found
}

#[test]
fn a_floor_imports_only_from_floors_below_it() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let own = module(&path);
        if own == "lib" {
            continue;
        }
        let own_floor = floor(&own).unwrap_or_else(|| panic!("{} is on no floor", path.display()));
        for line in code(&text) {
            for other in imports(line) {
                let other_floor = floor(&other).unwrap();
                // Neighbours of a floor may know each other where they are one room of the design: the store reads
                // gguf's tables, the session the sampler and the words.
                if other_floor > own_floor {
                    wrong.push(format!("{}: {line}", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "imports from above:\n{}", wrong.join("\n"));
}

#[test]
fn unsafe_code_is_only_in_store_and_kernel_and_every_block_says_why() {
    for (path, text) in sources() {
        let allowed = ["store", "kernel"].contains(&module(&path).as_str());
        let uses = code(&text).any(|line| line.contains("unsafe {") || line.contains("unsafe fn"));
        assert!(allowed || !uses, "{} holds unsafe code", path.display());
        if uses {
            assert!(text.contains("SAFETY:"), "{} has unsafe code without its reason", path.display());
            // The reason stands in the file, or for all of a folder in its `mod.rs`.
            let says_why =
                |path: &Path| fs::read_to_string(path).is_ok_and(|text| text.contains("#![allow(unsafe_code, reason"));
            let file = root().join("src").join(&path);
            assert!(says_why(&file) || says_why(&file.with_file_name("mod.rs")), "{} does not say why", path.display());
        }
    }
}

#[test]
fn only_the_command_line_prints_exits_or_uses_anyhow() {
    for (path, text) in sources() {
        if ["cli", "main"].contains(&module(&path).as_str()) {
            continue;
        }
        for line in code(&text) {
            for word in ["println!", "eprintln!", "print!(", "process::exit", "anyhow::"] {
                assert!(!line.contains(word), "{}: {line}", path.display());
            }
        }
    }
}

#[test]
fn every_source_file_opens_with_what_it_is() {
    for (path, text) in sources() {
        assert!(text.starts_with("//!"), "{} does not say what it is", path.display());
    }
}
