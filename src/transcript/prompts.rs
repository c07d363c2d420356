//! What a person asked in all conversations, for looking it up again: texts in, the latest of them out. A file of JSON
//! strings, one a line, that grows and is cut now and then.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Prompts that are kept when the file is cut, and offered.
const MOST: usize = 1000;
/// A file of more bytes is cut.
const CUT_AT: u64 = 4 << 20;
/// Bytes that are looked at of a file that is longer.
const MOST_BYTES: u64 = 16 << 20;
/// A longer prompt is not kept: it is in its conversation.
const LONGEST: usize = 64 << 10;

/// The file of earlier prompts.
#[derive(Debug, Clone)]
pub struct PromptHistory {
    path: PathBuf,
}

impl PromptHistory {
    pub fn new(path: PathBuf) -> PromptHistory {
        PromptHistory { path }
    }

    /// The latest prompts, the oldest first. Lines that are no prompts are passed over; no file is no prompts.
    pub fn read(&self) -> Vec<String> {
        let Ok(text) = tail(&self.path) else { return Vec::new() };
        let mut prompts: Vec<String> = Vec::new();
        for line in text.split(|&b| b == b'\n').rev() {
            if let Ok(prompt) = serde_json::from_slice::<String>(line) {
                prompts.push(prompt);
            }
            if prompts.len() == MOST {
                break;
            }
        }
        prompts.reverse();
        prompts
    }

    /// Adds a prompt. Errors: the file cannot be written.
    pub fn add(&self, prompt: &str) -> io::Result<()> {
        if prompt.is_empty() || prompt.len() > LONGEST {
            return Ok(());
        }
        if fs::metadata(&self.path).is_ok_and(|m| m.len() > CUT_AT) {
            self.cut()?;
        }
        let line = serde_json::to_string(prompt).expect("a text is JSON") + "\n";
        options().append(true).open(&self.path)?.write_all(line.as_bytes())
    }

    /// Leaves the latest prompts only. Another process that adds one meanwhile may lose it here, not in its conversation.
    fn cut(&self) -> io::Result<()> {
        let prompts = self.read();
        let kept = &prompts[prompts.len() / 2..];
        let lines = kept.iter().map(|prompt| serde_json::to_string(prompt).expect("a text is JSON") + "\n");
        let beside = crate::disk::with_suffix(&self.path, &format!(".{}.part", std::process::id()));
        let written = options().write(true).truncate(true).open(&beside).and_then(|mut file| {
            file.write_all(lines.collect::<String>().as_bytes())?;
            fs::rename(&beside, &self.path)
        });
        if written.is_err() {
            let _ = fs::remove_file(&beside);
        }
        written
    }
}

/// For a file that its owner alone reads.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

fn tail(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = fs::File::open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    file.seek(SeekFrom::Start(metadata.len().saturating_sub(MOST_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(MOST_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_come_back_in_their_order_and_what_is_none_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let history = PromptHistory::new(dir.path().join("prompts.jsonl"));
        assert_eq!(history.read(), [""; 0]);
        for prompt in ["one", "two\nlines \u{1b}[2J", "", &"x".repeat(LONGEST + 1)] {
            history.add(prompt).unwrap();
        }
        fs::write(&history.path, [&fs::read(&history.path).unwrap()[..], b"{}\n\xff\n\"three\"\n\"cut o"].concat())
            .unwrap();
        assert_eq!(history.read(), ["one", "two\nlines \u{1b}[2J", "three"]);
    }

    #[test]
    fn a_file_that_has_grown_is_cut_to_its_latest_prompts() {
        let dir = tempfile::tempdir().unwrap();
        let history = PromptHistory::new(dir.path().join("prompts.jsonl"));
        for n in 0..200 {
            history.add(&format!("{n} {}", "x".repeat(60_000))).unwrap();
        }
        assert!(fs::metadata(&history.path).unwrap().len() < CUT_AT + (1 << 20));
        assert!(history.read().last().unwrap().starts_with("199 "));
    }
}
