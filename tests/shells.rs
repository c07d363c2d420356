//! What shells and `man` make of the completion scripts and the man page. A shell that is not installed is skipped.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "a test says why it skips")]

use std::path::Path;
use std::process::{Command, Stdio};

fn wayinfer(arguments: &[&str]) -> String {
    let output = assert_cmd::Command::cargo_bin("wayinfer").unwrap().args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn is_installed(program: &str) -> bool {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !found {
        println!("SKIP: {program} is not installed");
    }
    found
}

/// What `program` prints, which must complain of nothing. It finds no start-up files and writes none.
fn output(program: &str, arguments: &[&str], home: &Path) -> String {
    let mut command = Command::new(program);
    command.args(arguments).env("HOME", home).env("XDG_CONFIG_HOME", home).env("XDG_DATA_HOME", home);
    command.env("LC_ALL", "C.UTF-8").env("TERM", "dumb").env("MANWIDTH", "100").stdin(Stdio::null());
    let output = command.output().unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && complaints.is_empty(), "{program}: {complaints}");
    String::from_utf8(output.stdout).unwrap()
}

/// The completion script for `shell` in a file.
fn script(shell: &str, folder: &Path) -> String {
    let path = folder.join("script");
    std::fs::write(&path, wayinfer(&["completions", shell])).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn bash_completes_commands_options_and_values() {
    if !is_installed("bash") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let script = script("bash", folder.path());
    let complete = |words: &str| {
        let line = format!(
            "source {script}; complete -p wayinfer >/dev/null || exit 1; COMP_WORDS=(wayinfer {words}); \
             COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _wayinfer wayinfer \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD - 1]}}\"; \
             echo \"${{COMPREPLY[*]}}\""
        );
        output("bash", &["--noprofile", "--norc", "-c", &line], folder.path())
    };
    assert_eq!(complete("quan").trim(), "quantize");
    assert_eq!(complete("run --max").trim(), "--max-tokens");
    assert_eq!(complete("run --isa avx").trim(), "avx2 avx512");
}

#[test]
fn zsh_takes_the_script() {
    if !is_installed("zsh") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let functions = folder.path().join("functions");
    std::fs::create_dir(&functions).unwrap();
    std::fs::write(functions.join("_wayinfer"), wayinfer(&["completions", "zsh"])).unwrap();
    let line = format!(
        "fpath=({} $fpath); autoload -U compinit; compinit -u -D; print ${{_comps[wayinfer]}}; \
         autoload +X _wayinfer; whence -w _wayinfer; zmodload zsh/parameter; print ${{#functions[_wayinfer]}}",
        functions.display()
    );
    let printed = output("zsh", &["-f", "-c", &line], folder.path());
    let lines: Vec<_> = printed.lines().collect();
    assert_eq!(lines[..2], ["_wayinfer", "_wayinfer: function"]);
    assert!(lines[2].parse::<usize>().unwrap() > 1000, "the function was not read: {printed}");
}

#[test]
fn fish_completes_commands_and_options() {
    if !is_installed("fish") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let script = script("fish", folder.path());
    let complete = |words: &str| {
        output(
            "fish",
            &["--no-config", "-c", &format!("source {script}; complete -C 'wayinfer {words}'")],
            folder.path(),
        )
    };
    assert!(complete("quan").starts_with("quantize\t"));
    assert!(complete("run --max").starts_with("--max-tokens\t"));
    assert!(complete("run --isa avx5").starts_with("avx512"));
}

#[test]
fn man_reads_the_page_without_complaint() {
    if !is_installed("man") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("wayinfer.1");
    std::fs::write(&page, wayinfer(&["man"])).unwrap();
    let page = page.to_str().unwrap();
    let text = output("man", &["--warnings=all", "-P", "cat", "-l", page], folder.path());
    // A word may be struck over itself to make it bold.
    let mut plain = String::new();
    for c in text.chars() {
        match c {
            '\u{8}' => _ = plain.pop(),
            c => plain.push(c),
        }
    }
    for words in ["wayinfer - Chat with", "WAYINFER RUN", "--max-tokens", "WAYINFER PULL", "EXIT STATUS", "HF_ENDPOINT"]
    {
        assert!(plain.contains(words), "{words}");
    }
}
