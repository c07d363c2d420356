//! Conversations that outlive the program: their words in a file, their KV cache beside it. Saved and loaded, damaged in
//! every way, killed at any moment, on a full disk and from two processes at once.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking and says why it skips")]

mod common;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use wayinfer::kernel::{Isa, KvFormat};
use wayinfer::session::{self, EngineOptions, KvFile, LoadError, SaveError, Section, Session, Watch};
use wayinfer::transcript::{self, Role};

const MIXTRAL: &str = "mixtral-Q4_K_M.gguf";
const QWEN: &str = "qwen2-Q4_K_M.gguf";

/// Gives `test` a session of a tiny model and the file of its KV cache.
fn with_session<T>(
    model: &str,
    options: &EngineOptions,
    path: &Path,
    test: impl FnOnce(&mut Session<'_>, &KvFile, &Watch) -> T,
) -> T {
    let name = common::data(model);
    let compute = options.compute().unwrap();
    let file = session::open_file(&name).unwrap();
    let model = session::bind_model(&name, &file, options).unwrap();
    let watch = Watch::unattended(&file, &model, options.prefetch);
    let mut session = Session::new(&model, &compute, options.kv_for(&model)).unwrap();
    test(&mut session, &KvFile::new(path.to_owned(), &file, &model), &watch)
}

fn options(kv: KvFormat) -> EngineOptions {
    EngineOptions { kv, isa: Some(Isa::Scalar), threads: Some(1), context: Some(512), ..EngineOptions::default() }
}

/// `n` token ids, always the same.
fn ids(n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| (i * 7919 + 13) % 500).collect()
}

fn yes() -> bool {
    true
}

/// A saved cache of `n` tokens, as bytes.
fn saved(n: usize) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kv");
    with_session(MIXTRAL, &options(KvFormat::F16), &path, |session, kv, watch| {
        session.feed(&ids(n), watch.control()).unwrap();
        kv.save(session, &yes).unwrap();
    });
    fs::read(path).unwrap()
}

/// What becomes of a file with these bytes.
fn load(bytes: &[u8], options: &EngineOptions) -> Result<usize, LoadError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kv");
    fs::write(&path, bytes).unwrap();
    with_session(MIXTRAL, options, &path, |session, kv, watch| {
        let loaded = kv.load(session);
        // Whatever came of it, the session can be used.
        assert_eq!(session.cached().len(), *loaded.as_ref().unwrap_or(&0));
        session.feed(&[1], watch.control()).unwrap();
        loaded
    })
}

#[test]
fn a_loaded_cache_goes_on_with_the_same_bits_as_one_that_was_never_saved() {
    for format in KvFormat::ALL {
        // Within a tile of positions, within a plane, at the end of one, and after it.
        for n in [1, 5, 16, 255, 256, 300] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("kv");
            let after = ids(400);
            let steps = |session: &mut Session<'_>, watch: &Watch| -> Vec<Vec<f32>> {
                let mut logits = vec![session.feed(&after[n..n + 20], watch.control()).unwrap().to_vec()];
                for token in &after[n + 20..n + 23] {
                    logits.push(session.feed(&[*token], watch.control()).unwrap().to_vec());
                }
                logits
            };
            let expected = with_session(MIXTRAL, &options(format), &path, |session, kv, watch| {
                session.feed(&after[..n], watch.control()).unwrap();
                kv.save(session, &yes).unwrap();
                steps(session, watch)
            });
            let found = with_session(MIXTRAL, &options(format), &path, |session, kv, watch| {
                // What was in the session before does not matter.
                session.feed(&[3; 7], watch.control()).unwrap();
                assert_eq!(kv.load(session).unwrap(), n);
                assert_eq!(session.cached(), &after[..n]);
                steps(session, watch)
            });
            let bits = |logits: &[Vec<f32>]| logits.iter().flatten().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert!(bits(&expected) == bits(&found), "{format}, {n} tokens");
        }
    }
}

#[test]
fn a_file_that_does_not_fit_is_refused_by_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kv");
    let bytes = saved(40);
    fs::write(&path, &bytes).unwrap();
    let refused = |model: &str, options: &EngineOptions| {
        with_session(model, options, &path, |session, kv, _| kv.load(session).unwrap_err())
    };
    let other = refused(QWEN, &options(KvFormat::F16));
    assert!(matches!(other, LoadError::OtherModel), "{other}");
    let other = refused(MIXTRAL, &options(KvFormat::Q8_0));
    assert!(matches!(other, LoadError::OtherFormat { found: KvFormat::F16, expected: KvFormat::Q8_0 }), "{other}");
    let short = refused(MIXTRAL, &EngineOptions { context: Some(39), ..options(KvFormat::F16) });
    assert!(matches!(short, LoadError::TooLong { found: 40, capacity: 39 }), "{short}");
    let mut newer = bytes.clone();
    newer[8] = 99;
    assert!(matches!(load(&newer, &options(KvFormat::F16)), Err(LoadError::Version { found: 99 })));
    for foreign in [&b""[..], b"x", b"{\"type\":\"header\"}", &[0; 5000]] {
        assert!(matches!(load(foreign, &options(KvFormat::F16)), Err(LoadError::Foreign)));
    }
    fs::remove_file(&path).unwrap();
    assert!(matches!(refused(MIXTRAL, &options(KvFormat::F16)), LoadError::Absent));
    fs::create_dir(&path).unwrap();
    assert!(matches!(refused(MIXTRAL, &options(KvFormat::F16)), LoadError::Foreign | LoadError::Io(_)));
}

/// A model of the same shape and metadata with other weights must not be answered with.
#[test]
fn a_model_whose_weights_were_replaced_is_another_one() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (dir.path().join("kv"), dir.path().join("model.gguf"));
    fs::write(&path, saved(10)).unwrap();
    let mut bytes = fs::read(common::data(MIXTRAL)).unwrap();
    let replaced = |bytes: &[u8]| {
        fs::write(&copy, bytes).unwrap();
        with_session(copy.to_str().unwrap(), &options(KvFormat::F16), &path, |session, kv, _| kv.load(session))
    };
    assert_eq!(replaced(&bytes).unwrap(), 10);
    let half = bytes.len() / 2;
    bytes[half..].iter_mut().for_each(|b| *b = b.wrapping_add(1));
    assert!(matches!(replaced(&bytes), Err(LoadError::OtherModel)));
}

#[test]
fn every_flipped_byte_is_found_and_every_cut() {
    let whole = saved(20);
    assert_eq!(load(&whole, &options(KvFormat::F16)).unwrap(), 20);
    let path = tempfile::NamedTempFile::new().unwrap();
    with_session(MIXTRAL, &options(KvFormat::F16), path.path(), |session, kv, _| {
        let mut refused = |bytes: &[u8]| {
            fs::write(path.path(), bytes).unwrap();
            let error = kv.load(session).unwrap_err();
            assert!(session.cached().is_empty());
            error
        };
        // All of the header, the tokens and the replies with their frames, then every so many.
        let sections = 64 + 2 * 24 + 20 * 4 + 24;
        let spots = (0..sections).chain((sections..whole.len()).step_by(211)).chain(whole.len() - 20..whole.len());
        for at in spots {
            for flip in [1, 0x80] {
                let mut bytes = whole.clone();
                bytes[at] ^= flip;
                refused(&bytes);
            }
        }
        for cut in (0..sections).chain((sections..whole.len()).step_by(997)) {
            let error = refused(&whole[..cut]);
            let expected =
                if cut == 0 { matches!(error, LoadError::Foreign) } else { matches!(error, LoadError::Length { .. }) };
            assert!(expected, "cut at {cut}: {error}");
        }
        assert!(matches!(refused(&[&whole[..], b"more"].concat()), LoadError::Length { .. }));
        let mut layer = whole.clone();
        let last = layer.len() - 100;
        layer[last] ^= 4;
        assert!(matches!(refused(&layer), LoadError::Damaged { section: Section::Layer(_) }));
    });
}

/// XXH3 over what the format says, so that a file can lie and still be sealed.
fn seal(bytes: &mut [u8], from: usize, to: usize) {
    let sum = twox_hash::XxHash3_64::oneshot(&bytes[from..to]);
    bytes[to..to + 8].copy_from_slice(&sum.to_le_bytes());
}

#[test]
fn a_hostile_file_with_right_checksums_is_refused_without_taking_its_word_for_anything() {
    let whole = saved(20);
    let (tokens, replies) = (64 + 16, 64 + 16 + 80 + 8 + 16);
    let put = |at: usize, value: u32| {
        let mut bytes = whole.clone();
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        seal(&mut bytes, 0, 56);
        seal(&mut bytes, tokens - 16, tokens + 80);
        seal(&mut bytes, replies - 16, replies);
        bytes
    };
    // Counts of tokens and of replies, the shape, the format, lengths of sections, and a token outside the vocabulary.
    for at in [48, 52, 32, 36, 40, 44, 12, tokens - 8, tokens - 4, replies - 8, replies - 4, tokens] {
        for value in [1 << 9, 1 << 16, 1 << 31, u32::MAX - 1, u32::MAX] {
            let error = load(&put(at, value), &options(KvFormat::F16)).unwrap_err();
            assert!(!matches!(error, LoadError::Io(_)), "{value} at {at}: {error}");
        }
    }
    // Replies that overlap, are empty, lie outside, or say what is no token.
    for list in [[(0, 0, 1), (5, 1, 1)], [(0, 9, 1), (8, 1, 1)], [(0, 1, 1), (20, 2, 1)], [(0, 1, 1), (4, 1, 1 << 20)]]
    {
        let mut bytes = whole[..replies].to_vec();
        bytes[52] = 2;
        seal(&mut bytes, 0, 56);
        bytes[replies - 8] = 24;
        list.iter().for_each(|(a, b, c): &(u32, u32, u32)| {
            [a, b, c].iter().for_each(|n| bytes.extend(n.to_le_bytes()));
        });
        bytes.extend([0; 8]);
        seal(&mut bytes, replies - 16, replies + 24);
        bytes.extend(&whole[replies + 8..]);
        let error = load(&bytes, &options(KvFormat::F16)).unwrap_err();
        assert!(matches!(error, LoadError::Damaged { section: Section::Replies }), "{list:?}: {error}");
    }
}

#[test]
fn a_save_that_fails_or_is_stopped_leaves_the_old_file_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kv");
    let before = saved(10);
    fs::write(&path, &before).unwrap();
    with_session(MIXTRAL, &options(KvFormat::F16), &path, |session, kv, watch| {
        session.feed(&ids(30), watch.control()).unwrap();
        let asked = std::cell::Cell::new(0);
        let stopped = kv.save(session, &|| asked.replace(asked.get() + 1) == 0);
        assert!(matches!(stopped, Err(SaveError::Stopped)));
        assert_eq!(fs::read(&path).unwrap(), before);
        // What a killed process left is in nobody's way.
        fs::write(dir.path().join("kv.tmp"), "half").unwrap();
        kv.save(session, &yes).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!(kv.load(session).unwrap(), 30);
    });
    let nowhere = dir.path().join("absent/kv");
    with_session(MIXTRAL, &options(KvFormat::F16), &nowhere, |session, kv, _| {
        let error = kv.save(session, &yes).unwrap_err();
        assert!(error.to_string().contains("absent"), "{error}");
    });
}

/// What a killed child of this test binary does: it saves in turn 40 and 300 tokens, for ever.
#[test]
#[ignore = "a part of the test below"]
fn saving_for_ever() {
    let path = PathBuf::from(std::env::var_os("WAYINFER_TEST_KV").unwrap());
    with_session(MIXTRAL, &options(KvFormat::F16), &path, |long, kv, watch| {
        long.feed(&ids(300), watch.control()).unwrap();
        with_session(MIXTRAL, &options(KvFormat::F16), &path, |short, _, watch| {
            short.feed(&ids(40), watch.control()).unwrap();
            loop {
                kv.save(long, &yes).unwrap();
                kv.save(short, &yes).unwrap();
            }
        });
    });
}

#[test]
fn a_save_that_is_killed_at_any_moment_leaves_a_whole_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kv");
    let mut seen = [0; 2];
    for round in 0..40 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "saving_for_ever", "--ignored"])
            .env("WAYINFER_TEST_KV", &path)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        while !path.exists() {
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(Duration::from_micros(771 * round));
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        with_session(MIXTRAL, &options(KvFormat::F16), &path, |session, kv, _| {
            let n = kv.load(session).unwrap();
            assert!(session.cached() == &ids(300)[..n] && [40, 300].contains(&n), "{n} tokens");
            seen[usize::from(n == 300)] += 1;
        });
        fs::remove_file(&path).unwrap();
    }
    assert!(seen.iter().all(|&n| n > 0), "it was always killed at the same place: {seen:?}");
}

fn wayinfer(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wayinfer"));
    command.args(arguments).stdin(Stdio::null()).envs(common::STRANGE_HOME);
    command
}

fn run_arguments<'a>(model: &'a str, session: &'a Path, prompt: &'a str) -> Vec<&'a str> {
    let session = session.to_str().unwrap();
    let greedy = ["--greedy", "--max-tokens", "12", "--ctx", "512", "--threads", "1", "--isa", "scalar", "--json"];
    [&["run", model, "--session", session, "-p", prompt][..], &greedy].concat()
}

fn run(session: &Path, prompt: &str, more: &[&str]) -> Output {
    let model = common::data(MIXTRAL);
    let arguments = [&run_arguments(model.to_str().unwrap(), session, prompt)[..], more].concat();
    wayinfer(&arguments).output().unwrap()
}

fn report(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn kv_of(session: &Path) -> PathBuf {
    session.with_extension("jsonl.kv")
}

fn tokens(report: &Value, key: &str) -> u64 {
    report["prompt"][key].as_u64().unwrap()
}

#[test]
fn the_second_turn_reads_only_what_is_new_and_says_the_same() {
    for format in ["f16", "q8_0", "q4_0"] {
        let dir = tempfile::tempdir().unwrap();
        let (kept, read_again) = (dir.path().join("kept.jsonl"), dir.path().join("again.jsonl"));
        let first = report(&run(&kept, "hello there", &["--kv", format]));
        fs::copy(&kept, &read_again).unwrap();
        let with_kv = report(&run(&kept, "and more of it", &["--kv", format]));
        let output = run(&read_again, "and more of it", &["--kv", format]);
        assert!(stderr(&output).contains("there is none"), "{}", stderr(&output));
        let without = report(&output);
        // All of the first turn but perhaps its last token was computed before.
        let said = tokens(&first, "tokens") + first["generate"]["tokens"].as_u64().unwrap();
        let reused = tokens(&with_kv, "reused_tokens");
        assert!(reused == said || reused == said - 1, "{reused} of {said}");
        // Without the cache the reply is tokenized anew, perhaps otherwise.
        let close = tokens(&without, "tokens").abs_diff(reused + tokens(&with_kv, "tokens"));
        assert!(tokens(&without, "reused_tokens") == 0 && close <= 12, "{with_kv} {without}");
        let t = transcript::read(&kept).unwrap();
        let said: Vec<_> = t.path().iter().map(|e| (e.message.role, e.id, e.parent)).collect();
        let (you, it) = (Role::User, Role::Assistant);
        assert_eq!(said, [(you, 1, None), (it, 2, Some(1)), (you, 3, Some(2)), (it, 4, Some(3))]);
        assert_eq!(t.entries[3].message.content, with_kv["text"].as_str().unwrap());
        assert_eq!(
            t.entries[3].figures.as_ref().unwrap().tokens as u64,
            with_kv["generate"]["tokens"].as_u64().unwrap()
        );
    }
}

#[test]
fn a_cache_that_does_not_fit_is_told_and_the_conversation_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("chat.jsonl");
    report(&run(&path, "hello there", &[]));
    let other = run(&path, "more", &["--kv", "q8_0"]);
    assert_eq!(tokens(&report(&other), "reused_tokens"), 0);
    assert!(stderr(&other).contains("f16") && stderr(&other).contains("--kv q8_0"), "{}", stderr(&other));
    // It was built anew.
    assert!(tokens(&report(&run(&path, "more", &["--kv", "q8_0"])), "reused_tokens") > 0);
    let mut bytes = fs::read(kv_of(&path)).unwrap();
    let half = bytes.len() / 2;
    bytes[half] ^= 1;
    fs::write(kv_of(&path), bytes).unwrap();
    let damaged = run(&path, "more", &["--kv", "q8_0"]);
    assert_eq!(tokens(&report(&damaged), "reused_tokens"), 0);
    assert!(stderr(&damaged).contains("damaged"), "{}", stderr(&damaged));
    assert_eq!(transcript::read(&path).unwrap().path().len(), 8);
}

#[test]
fn a_session_is_one_process_at_a_time_and_what_is_none_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("chat.jsonl");
    let held = transcript::SessionFile::open(&path).unwrap();
    let second = run(&path, "hello", &[]);
    assert_eq!((second.status.code(), second.stdout.len()), (Some(1), 0));
    assert!(stderr(&second).contains("in use by another process"), "{}", stderr(&second));
    drop(held);
    report(&run(&path, "hello", &["--system", "Be kind."]));
    let system = run(&path, "more", &["--system", "Be terse."]);
    assert_eq!(system.status.code(), Some(2));
    report(&run(&path, "more", &["--system", "Be kind."]));
    fs::write(dir.path().join("notes.txt"), "dear diary\n").unwrap();
    let foreign = run(&dir.path().join("notes.txt"), "hello", &[]);
    assert_eq!(foreign.status.code(), Some(1));
    assert!(stderr(&foreign).contains("not a transcript"), "{}", stderr(&foreign));
    assert_eq!(fs::read_to_string(dir.path().join("notes.txt")).unwrap(), "dear diary\n");
}

/// The words so far, whatever happened.
fn said(path: &Path) -> Vec<String> {
    transcript::read(path).unwrap().messages().into_iter().map(|m| m.content).collect()
}

#[test]
fn a_limit_on_file_sizes_like_a_full_disk_keeps_the_old_cache_and_the_reply() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("chat.jsonl");
    report(&run(&path, "hello there", &[]));
    let before = fs::read(kv_of(&path)).unwrap();
    let model = common::data(MIXTRAL);
    let arguments = run_arguments(model.to_str().unwrap(), &path, "and more");
    // In blocks of 1 KiB: enough for the words and not for the cache. Ignored, the signal becomes an error of the write.
    let limit = format!("trap '' XFSZ; ulimit -f {}; exec \"$0\" \"$@\"", before.len() / 1024 - 1);
    let mut limited = Command::new("bash");
    limited.args(["-c", &limit, env!("CARGO_BIN_EXE_wayinfer")]).args(&arguments);
    let output = limited.envs(common::STRANGE_HOME).output().unwrap();
    report(&output);
    assert!(stderr(&output).contains("the KV cache could not be saved"), "{}", stderr(&output));
    assert_eq!((fs::read(kv_of(&path)).unwrap() == before, said(&path).len()), (true, 4));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    // What of it still is said is not read again.
    assert!(tokens(&report(&run(&path, "third", &[])), "reused_tokens") > 0);
}

#[test]
fn a_full_disk_is_told_with_its_numbers_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let model = common::data(MIXTRAL);
    let disk = dir.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let path = disk.join("chat.jsonl");
    // A disk of 1 MB in a name space of its own, where this system lets everybody have one.
    let script = "mount -t tmpfs -o size=1000k none \"$DISK\" && exec \"$0\" \"$@\"; exit 77";
    let arguments = run_arguments(model.to_str().unwrap(), &path, "hello");
    let output = Command::new("unshare")
        .args(["-rm", "bash", "-c", script, env!("CARGO_BIN_EXE_wayinfer")])
        .args(&arguments)
        .envs(common::STRANGE_HOME)
        .env("DISK", &disk)
        .output();
    let Some(output) = output.ok().filter(|o| o.status.success()) else {
        println!("SKIP a_full_disk_is_told_with_its_numbers_before_anything_is_written: no disk can be mounted here");
        return;
    };
    assert!(stderr(&output).contains("bytes free and"), "{}", stderr(&output));
    assert!(!report(&output)["text"].as_str().unwrap().is_empty());
}

fn killed_after(mut child: Child, time: Duration) {
    thread::sleep(time);
    let _ = child.kill();
    child.wait().unwrap();
}

#[test]
fn a_run_that_is_killed_at_any_moment_leaves_a_session_that_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("chat.jsonl");
    let began = std::time::Instant::now();
    report(&run(&path, "first", &[]));
    let whole = began.elapsed();
    let model = common::data(MIXTRAL);
    let mut answered = said(&path);
    for round in 0..24 {
        let prompt = format!("question {round}");
        let arguments = run_arguments(model.to_str().unwrap(), &path, &prompt);
        let child = wayinfer(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        killed_after(child, whole * round / 20);
        let now = said(&path);
        assert!(now.starts_with(&answered) && now.len() % 2 == 0, "{answered:?} became {now:?}");
        answered = now;
        if round % 6 == 5 {
            // Short, so that the context lasts.
            fs::remove_file(&path).unwrap();
            report(&run(&path, "first", &[]));
            answered = said(&path);
        }
    }
    let last = run(&path, "the end", &[]);
    report(&last);
    assert!(!stderr(&last).contains("damaged"), "{}", stderr(&last));
}
