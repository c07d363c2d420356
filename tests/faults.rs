//! Model files that change or fail while they are in use, through the library and through the program: no wrong weights
//! are computed with, and the error says what to do.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking and says why it skips")]

mod common;

use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin;
use wayinfer::model::{Model, PlanOptions, Prefetch};
use wayinfer::sampler::{Sampler, SamplingParams};
use wayinfer::session::{EngineOptions, ReplyRequest, Session, SessionError, Watch, open_file};
use wayinfer::store::{ModelFile, PagingChoice};

/// A copy of a tiny model that may be spoilt, on a disk, as this test is.
fn copy() -> (tempfile::TempDir, PathBuf) {
    let beside = std::env::current_exe().unwrap();
    let folder = tempfile::tempdir_in(beside.parent().unwrap()).unwrap();
    let path = folder.path().join("model.gguf");
    std::fs::copy(common::data("mixtral-Q4_K_M.gguf"), &path).unwrap();
    std::fs::File::open(&path).unwrap().sync_all().unwrap();
    (folder, path)
}

fn truncate(path: &Path) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
}

/// Writes the same length of other bytes over the end.
fn write_in_place(path: &Path) {
    // The clock of a file system may tick only every few milliseconds.
    std::thread::sleep(Duration::from_millis(50));
    let mut file = OpenOptions::new().write(true).open(path).unwrap();
    file.seek(SeekFrom::End(-4096)).unwrap();
    file.write_all(&[0x55; 4096]).unwrap();
}

/// Puts another file in the place of this one.
fn replace(path: &Path) {
    let other = path.with_extension("other");
    std::fs::write(&other, "another model").unwrap();
    std::fs::rename(&other, path).unwrap();
}

/// Says a few tokens with a sixth of the experts in memory, spoils the file after the fifth, and gives how many came and
/// what ended the reply, and then another one.
fn reply_while(paging: PagingChoice, spoil: fn(&Path)) -> (usize, [Result<(), SessionError>; 2]) {
    let (_folder, path) = copy();
    let compute = EngineOptions::default().compute().unwrap();
    let file = open_file(&path).unwrap();
    let total = Model::new(&file, paging, &PlanOptions::for_experts(u64::MAX)).unwrap().experts().total_bytes();
    let options = PlanOptions { context: Some(256), ..PlanOptions::for_experts(total / 6) };
    let model = Model::new(&file, paging, &options).unwrap();
    let watch = Watch::unattended(&file, &model, Prefetch::On);
    let kv = EngineOptions::default().kv_for(&model);
    let mut session = Session::new(&model, &compute, kv).unwrap();
    let mut n_tokens = 0;
    let request = ReplyRequest {
        prompt: &[1, 2, 3],
        max_tokens: Some(40),
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
    let first = session.reply(request, &mut sampler, watch.control()).map(|_| ());
    let second = session.feed(&[1], watch.control()).map(|_| ());
    (n_tokens, [first, second])
}

#[test]
fn a_reply_ends_with_an_error_where_its_file_is_truncated_or_written_to() {
    for paging in [PagingChoice::Mapped, PagingChoice::Direct] {
        for spoil in [truncate as fn(&Path), write_in_place] {
            let (n_tokens, errors) = reply_while(paging, spoil);
            assert_eq!(n_tokens, 5, "tokens that were right are kept, and none follows");
            for error in errors {
                let error = error.expect_err("the model is of no use until it is opened again").to_string();
                assert!(error.contains("model.gguf") && error.contains("again"), "{paging:?}: {error}");
            }
        }
    }
}

#[test]
fn a_file_that_another_took_the_place_of_goes_on() {
    for paging in [PagingChoice::Mapped, PagingChoice::Direct] {
        let (n_tokens, outcomes) = reply_while(paging, replace);
        assert_eq!(n_tokens, 40, "{paging:?}: {outcomes:?}");
        outcomes.into_iter().for_each(|outcome| outcome.unwrap());
    }
    // The way past the page cache opens the file a second time.
    let (_folder, path) = copy();
    let file = ModelFile::open(&path).unwrap();
    replace(&path);
    let direct = Model::new(&file, PagingChoice::Direct, &PlanOptions::for_experts(1 << 20));
    let error = direct.expect_err("it is another file").to_string();
    assert!(error.contains("was replaced by another file"), "{error}");
    Model::new(&file, PagingChoice::Auto, &PlanOptions::for_experts(1 << 20)).unwrap();
}

/// What the program says of a model that is spoilt while it reads a long text.
#[cfg(target_os = "linux")]
fn program_while(spoil: fn(&Path)) -> (std::process::ExitStatus, String) {
    let (folder, path) = copy();
    let text = folder.path().join("text");
    std::fs::write(&text, "the quick brown fox jumps over the lazy dog. ".repeat(40_000)).unwrap();
    let child = std::process::Command::new(cargo_bin("wayinfer"))
        .envs(common::STRANGE_HOME)
        .args(["perplexity", path.to_str().unwrap(), text.to_str().unwrap(), "--threads", "1", "--isa", "scalar"])
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
    std::thread::sleep(Duration::from_millis(200));
    spoil(&path);
    let output = child.wait_with_output().unwrap();
    (output.status, String::from_utf8_lossy(&output.stderr).into_owned())
}

#[cfg(target_os = "linux")]
#[test]
fn the_program_ends_with_exit_code_1_and_the_file_s_name() {
    for spoil in [truncate as fn(&Path), write_in_place] {
        let (status, error) = program_while(spoil);
        assert_eq!(status.code(), Some(1), "{status} {error}");
        assert!(error.contains("model.gguf") && error.contains("again"), "{error}");
    }
}
