//! The person's own editor for a long message: text in, and out again what was made of it. It runs while the engine goes on;
//! the terminal is its own meanwhile.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::composer::MAX_BYTES;

/// How many names are tried for the file.
const MAX_NAMES: u32 = 1000;

/// What the environment names, or the one that every Unix has.
pub fn command(variable: impl Fn(&str) -> Option<String>) -> String {
    let named = ["VISUAL", "EDITOR"].into_iter().find_map(|name| variable(name).filter(|text| !text.trim().is_empty()));
    named.unwrap_or_else(|| "vi".to_owned())
}

/// Runs the editor on `text` and waits for it. `None`: the text is as it was. Errors: nothing was made of it; whatever the
/// editor left lies where the error says.
pub fn edit(editor: &str, text: &str) -> Result<Option<String>, String> {
    let path = write(text).map_err(|e| format!("a file for the editor cannot be written: {e}"))?;
    // The variable is a command line, as for every program that reads it.
    let status = Command::new("sh").arg("-c").arg(format!("{editor} \"$@\"")).arg("sh").arg(&path).status();
    let left = read(&path);
    let failed = match status {
        Err(error) => Some(format!("the editor `{editor}` cannot be run: {error}")),
        Ok(status) if !status.success() => Some(format!(
            "the editor `{editor}` ended with {status}; what was typed is as it was. VISUAL or EDITOR names another"
        )),
        Ok(_) => None,
    };
    let outcome = match (failed, left) {
        (None, Ok(left)) => {
            let left = left.strip_suffix('\n').unwrap_or(&left);
            Ok((left != text).then(|| left.to_owned()))
        }
        (None, Err(why)) => Err(format!("what the editor left is not taken: {why}; it lies in {}", path.display())),
        (Some(why), Ok(left)) if left.trim_end() == text.trim_end() => Err(why),
        (Some(why), _) => Err(format!("{why}; what it left lies in {}", path.display())),
    };
    if !matches!(&outcome, Err(why) if why.contains("lies in")) {
        let _ = fs::remove_file(&path);
    }
    outcome
}

fn read(path: &Path) -> Result<String, String> {
    let file = fs::File::open(path).map_err(|e| e.to_string())?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if bytes.len() > MAX_BYTES {
        return Err("it has more than 1 MiB".into());
    }
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8".into())
}

/// A new file with `text` that its owner alone reads.
fn write(text: &str) -> io::Result<PathBuf> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    for n in 0..MAX_NAMES {
        let path = std::env::temp_dir().join(format!("wayinfer-{}-{n}.md", std::process::id()));
        match options.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
            Ok(mut file) => {
                file.write_all(text.as_bytes())?;
                return Ok(path);
            }
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_visual_editor_comes_before_the_other_and_empty_names_are_none() {
        let with = |visual: &str, editor: &str| {
            command(|name| Some(if name == "VISUAL" { visual } else { editor }.to_owned()))
        };
        assert_eq!((with("a -w", "b"), with(" ", "b"), command(|_| None)), ("a -w".into(), "b".into(), "vi".into()));
    }

    #[test]
    fn what_the_editor_makes_of_a_text_comes_back() {
        assert_eq!(edit("sed -i s/one/two/", "one\nline").unwrap().as_deref(), Some("two\nline"));
        assert_eq!(edit("true", "as it was").unwrap(), None);
    }

    #[test]
    fn an_editor_that_fails_leaves_the_text_and_what_it_wrote_can_be_found() {
        for editor in ["false", "no-such-editor-anywhere 2>/dev/null"] {
            let why = edit(editor, "text").unwrap_err();
            assert!(why.contains(editor.split(' ').next().unwrap()) && !why.contains("lies in"), "{why}");
        }
        for editor in ["f() { echo more >> \"$1\"; false; }; f", "f() { printf '\\377' > \"$1\"; }; f"] {
            let why = edit(editor, "text").unwrap_err();
            let path = why.rsplit_once("lies in ").unwrap().1;
            fs::remove_file(path).unwrap();
        }
    }
}
