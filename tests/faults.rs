//! Model files that change while they are in use: no wrong weights are computed with, and the error says what to do.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs::OpenOptions;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin;
use wayinfer::sampler::{Sampler, SamplingParams};
use wayinfer::session::{EngineOptions, ReplyRequest, Session, SessionError, Watch, bind_model, open_file};
use wayinfer::store::{FaultError, ModelFile};

/// A copy of a tiny model that may be spoilt.
fn copy(folder: &tempfile::TempDir) -> PathBuf {
    let path = folder.path().join("model.gguf");
    std::fs::copy(common::data("mixtral-Q4_K_M.gguf"), &path).unwrap();
    path
}

fn truncate(path: &Path) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
}

/// Writes the same length of other bytes over the end.
fn write_in_place(path: &Path) {
    use std::io::{Seek, SeekFrom, Write};
    // The clock of a file system may tick only every few milliseconds.
    std::thread::sleep(Duration::from_millis(50));
    let mut file = OpenOptions::new().write(true).open(path).unwrap();
    file.seek(SeekFrom::End(-4096)).unwrap();
    file.write_all(&[0x55; 4096]).unwrap();
}

#[cfg(target_os = "linux")]
#[test]
fn bytes_that_cannot_be_read_are_zeros_with_a_note_of_file_and_offset() {
    let folder = tempfile::tempdir().unwrap();
    let path = copy(&folder);
    let file = ModelFile::open(&path).unwrap();
    file.check_reads().unwrap();
    truncate(&path);
    let end = std::fs::metadata(&path).unwrap().len();
    let last = file.gguf().tensors.iter().max_by_key(|t| t.offset).unwrap();
    assert!(last.offset > end, "the last tensor is cut off");
    assert!(file.tensor_bytes(last).iter().all(|&byte| byte == 0));
    let Err(FaultError::Read { path: named, offset }) = file.check_reads() else { panic!("the fault was not noticed") };
    assert_eq!(named, path);
    assert!((end..=last.offset).contains(&offset), "{offset}");
    // Another model is not touched by it.
    ModelFile::open(common::data("mixtral-Q4_K_M.gguf")).unwrap().check_unchanged().unwrap();
}

/// Says a few tokens, spoils the file, and gives how many came and what ended the reply, twice.
fn reply_while(spoil: fn(&Path)) -> (usize, [SessionError; 2]) {
    let folder = tempfile::tempdir().unwrap();
    let path = copy(&folder);
    let options = EngineOptions { context: Some(256), ..EngineOptions::default() };
    let compute = options.compute().unwrap();
    let file = open_file(&path).unwrap();
    let model = bind_model(&path, &file, &options).unwrap();
    let watch = Watch::unattended(&file, &model, options.prefetch);
    let mut session = Session::new(&model, &compute, options.kv_for(&model)).unwrap();
    let mut n_tokens = 0;
    let request = ReplyRequest {
        prompt: &[1, 2, 3],
        max_tokens: Some(100),
        is_end: &|_| false,
        on_prompt: &mut |_| {},
        on_token: &mut |_| {
            n_tokens += 1;
            if n_tokens == 5 {
                spoil(&path);
            }
            ControlFlow::Continue(())
        },
    };
    let mut sampler = Sampler::new(SamplingParams::greedy());
    let first = session.reply(request, &mut sampler, watch.control()).unwrap_err();
    let second = session.feed(&[1], watch.control()).unwrap_err();
    (n_tokens, [first, second])
}

#[test]
fn a_reply_ends_with_an_error_where_its_file_is_truncated_or_written_to() {
    for spoil in [truncate as fn(&Path), write_in_place] {
        let (n_tokens, errors) = reply_while(spoil);
        assert_eq!(n_tokens, 5, "tokens that were right are kept, and none follows");
        let [first, second] = errors.map(|error| error.to_string());
        assert!(first.contains("model.gguf") && first.contains("open it again"), "{first}");
        assert_eq!(first, second, "the model is of no use until it is opened again");
    }
}

#[test]
fn a_file_that_another_took_the_place_of_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = copy(&folder);
    let file = ModelFile::open(&path).unwrap();
    let other = folder.path().join("other");
    std::fs::write(&other, "another model").unwrap();
    std::fs::rename(&other, &path).unwrap();
    file.check_unchanged().unwrap();
    assert!(file.gguf().tensors.iter().all(|t| !file.tensor_bytes(t).is_empty()));
}

#[cfg(target_os = "linux")]
#[test]
fn the_program_ends_with_exit_code_1_and_the_file_s_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = copy(&folder);
    let text = folder.path().join("text");
    std::fs::write(&text, "the quick brown fox jumps over the lazy dog. ".repeat(100_000)).unwrap();
    let child = std::process::Command::new(cargo_bin("wayinfer"))
        .args(["perplexity", path.to_str().unwrap(), text.to_str().unwrap(), "--threads", "1"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // Its mappings are listed as soon as they are there.
    let maps = format!("/proc/{}/maps", child.id());
    let began = Instant::now();
    while !std::fs::read_to_string(&maps).is_ok_and(|maps| maps.contains("model.gguf")) {
        assert!(began.elapsed() < Duration::from_secs(30), "the model was not mapped");
        std::thread::sleep(Duration::from_millis(10));
    }
    std::thread::sleep(Duration::from_millis(300));
    truncate(&path);
    let output = child.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{} {error}", output.status);
    assert!(error.contains("model.gguf") && error.contains("open it again"), "{error}");
}
