//! The notices of the crates that the binary is made of: `assets/THIRD-PARTY.txt` is what cargo says now. With
//! `WAYINFER_WRITE_NOTICES=1` this test writes the file: `WAYINFER_WRITE_NOTICES=1 cargo test --release --test licenses`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "a test says why it skips")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// What the notices are of. Other systems need a few crates more or fewer.
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Of licenses to choose from, the first one that is here is taken.
const PREFERRED: [&str; 6] = ["MIT", "ISC", "BSD-3-Clause", "Zlib", "Unicode-3.0", "Apache-2.0"];

const HEAD: &str = "WayInfer is made with the crates below, each under its own license. Where a crate offers several, the one whose text stands
here was chosen. The Rust standard library, which is part of every Rust program, is under MIT or Apache-2.0 (rust-lang.org).
Written by tests/licenses.rs for x86_64 Linux; do not change it by hand.
";

/// For crates that come without the text of their license.
const MIT: &str = r#"Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated documentation files (the "Software"), to deal in the Software without restriction, including without limitation the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"#;

fn cargo(arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new(env!("CARGO"));
    let output = command.args(arguments).arg("--locked").current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let output = output.map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(String::from_utf8(output.stdout).unwrap())
}

/// `(name, version)` of the crates that end up in the binary, without this one.
fn crates() -> Result<BTreeSet<(String, String)>, String> {
    let tree = cargo(&["tree", "-e", "normal", "--target", TARGET, "--prefix", "none", "--no-dedupe", "-f", "{p}"])?;
    let crates = tree.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let (name, version) = (words.next()?, words.next()?.strip_prefix('v')?);
        (name != "wayinfer").then(|| (name.to_owned(), version.to_owned()))
    });
    Ok(crates.collect())
}

/// The files in a crate that state the license that is chosen.
fn license_files(folder: &Path, license: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .filter(|path| {
            let name = path.file_name().unwrap().to_string_lossy().to_lowercase();
            ["license", "licence", "copying", "notice"].iter().any(|word| name.starts_with(word))
        })
        .collect();
    files.sort();
    // Where it may be chosen, the text of one license is enough; a notice stays with it.
    let choice = license.contains(" OR ") || license.contains('/');
    let named = |word: &str| {
        let is = |path: &&PathBuf| {
            let name = path.file_name().unwrap().to_string_lossy().to_lowercase();
            name.contains(&word.to_lowercase()) || name.starts_with("notice")
        };
        files.iter().filter(is).cloned().collect::<Vec<_>>()
    };
    let chosen =
        PREFERRED.iter().map(|license| named(license.split('-').next().unwrap())).find(|files| !files.is_empty());
    match chosen {
        Some(chosen) if choice => chosen,
        _ => files,
    }
}

/// Lines as they are, but for white space at their ends and empty lines around them.
fn tidy(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(str::trim_end).collect();
    lines.join("\n").trim_matches('\n').to_owned()
}

fn notices() -> Result<String, String> {
    let crates = crates()?;
    let metadata = cargo(&["metadata", "--format-version", "1", "--filter-platform", TARGET])?;
    let metadata: Value = serde_json::from_str(&metadata).unwrap();
    // Texts, and the crates they are of.
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut list = String::new();
    let text = |package: &Value, key: &str| package[key].as_str().unwrap_or_default().to_owned();
    for (name, version) in &crates {
        let packages = metadata["packages"].as_array().unwrap();
        let package = packages.iter().find(|p| p["name"] == **name && p["version"] == **version).unwrap();
        let (license, repository) = (text(package, "license"), text(package, "repository"));
        writeln!(list, "{name} {version}, {license}, {repository}").unwrap();
        let manifest = text(package, "manifest_path");
        let files = license_files(Path::new(&manifest).parent().unwrap(), &license);
        let mut found: Vec<_> =
            files.iter().map(|file| tidy(&String::from_utf8_lossy(&fs::read(file).unwrap()))).collect();
        if found.is_empty() {
            assert!(license.contains("MIT"), "{name} has no text of its license {license}");
            let authors = package["authors"].as_array().unwrap().iter().filter_map(Value::as_str).collect::<Vec<_>>();
            found.push(tidy(&format!("Copyright (c) {}\n\n{MIT}", authors.join(", "))));
        }
        found.into_iter().for_each(|text| texts.entry(text).or_default().push(name.clone()));
    }
    let mut texts: Vec<_> = texts.into_iter().map(|(text, crates)| (crates, text)).collect();
    texts.sort();
    let mut page = format!("{HEAD}\n{list}");
    for (crates, text) in texts {
        write!(page, "\n{}\n{}\n\n{text}\n", "=".repeat(80), crates.join(", ")).unwrap();
    }
    Ok(page)
}

#[test]
fn the_notices_are_those_of_the_crates_in_the_binary() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/THIRD-PARTY.txt");
    let notices = match notices() {
        Ok(notices) => notices,
        Err(why) => {
            println!("SKIP: cargo does not tell what the binary is made of: {why}");
            return;
        }
    };
    if std::env::var_os("WAYINFER_WRITE_NOTICES").is_some() {
        fs::write(&path, &notices).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap();
    let difference = notices.lines().zip(found.lines()).find(|(expected, found)| expected != found);
    let renew = "WAYINFER_WRITE_NOTICES=1 cargo test --release --test licenses writes them anew";
    assert!(difference.is_none() && notices.len() == found.len(), "{difference:?}; {renew}");
}

#[test]
fn the_notices_are_printed_behind_the_license() {
    let output = assert_cmd::Command::cargo_bin("wayinfer").unwrap().arg("licenses").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.starts_with("MIT License"), "{text:.200}");
    for name in [
        "\nratatui 0.",
        "\ntokenizers 0.",
        "Permission is hereby granted",
        "Mozilla Public License",
        "The syntaxes that code",
    ] {
        assert!(text.contains(name), "{name}");
    }
}
