//! The program itself in hard times: terminals of any size, sizes that change in a storm, random keys, kill -9 at any moment,
//! a disk that takes no more. Afterwards the terminal is as it was and what was said is in the file.

#![allow(clippy::unwrap_used, reason = "whatever fails here fails the test")]

#[path = "terminal/program.rs"]
mod program;
#[path = "terminal/pty.rs"]
mod pty;
#[path = "terminal/random.rs"]
mod random;

use std::path::{Path, PathBuf};
use std::time::Duration;

use program::{ENDLESS, at_home, tiny_model};
use pty::{Answers, Pty};
use random::Random;
use wayinfer::transcript::{self, Role, Transcript};
use wayinfer::tui::keys;

const SEED: u64 = 0x5EED_0006;

/// A chat with a real worker on a tiny model, whose replies go on until they are stopped.
fn endless(home: &Path, size: (u16, u16)) -> Pty {
    let command = at_home(home, &[&[tiny_model()], &ENDLESS[..], &["100000"]].concat());
    let mut pty = Pty::start(command, size, Answers::Kitty);
    pty.wait_for("the model", |s| s.contains("· ready") || s.contains("too small"));
    pty
}

fn transcripts(home: &Path) -> Vec<Transcript> {
    let folder = home.join("data/wayinfer/sessions");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|e| e == "jsonl")).map(|p| transcript::read(&p).unwrap()).collect()
}

#[test]
fn a_resumed_conversation_goes_on_with_its_model_where_that_is_still_there() {
    let home = tempfile::tempdir().unwrap();
    let models = home.path().join("data/wayinfer/models");
    std::fs::create_dir_all(&models).unwrap();
    // Another model, so that there is something to choose from.
    std::fs::copy(tiny_model(), models.join("another.gguf")).unwrap();
    let own = home.path().join("own.gguf");
    std::fs::copy(tiny_model(), &own).unwrap();
    let start = |args: &[&str]| Pty::start(at_home(home.path(), args), (100, 30), Answers::Kitty);
    let mut pty = start(&["own.gguf"]);
    pty.wait_for("the model", |s| s.contains("· ready"));
    pty.send("/max-tokens 4\rhello\r");
    pty.wait_for("the reply", |s| s.contains("4 tokens"));
    pty.quit();
    let mut pty = start(&["--resume"]);
    pty.wait_for("its model", |s| s.contains("hello") && s.contains("· ready"));
    pty.quit();
    std::fs::remove_file(own).unwrap();
    let mut pty = start(&["--resume"]);
    pty.wait_for("a choice", |s| s.contains("Choose a model") && s.contains("another"));
    pty.quit();
}

#[test]
fn a_terminal_of_20_by_5_and_one_of_500_by_200_break_nothing() {
    for (first, then) in [((20, 5), (500, 200)), ((500, 200), (20, 5))] {
        let home = tempfile::tempdir().unwrap();
        let mut pty = endless(home.path(), first);
        pty.send("asked in between\r");
        pty.resize((500, 200));
        pty.wait_for("everything", |s| s.contains("asked in between") && s.contains("2 layers × 8 experts, 2 used"));
        pty.resize((20, 5));
        pty.wait_for("the note", |s| s.contains("too small"));
        pty.send("typed blindly");
        pty.resize(then);
        pty.resize((120, 40));
        pty.wait_for("all of it", |s| s.contains("› typed blindly") && s.contains("asked in between"));
        pty.resize(then);
        pty.quit();
        let kept = transcripts(home.path()).remove(0);
        assert_eq!(kept.entries[0].message.content, "asked in between");
        assert_eq!(kept.draft.as_deref(), Some("typed blindly"));
    }
}

#[test]
fn two_hundred_sizes_while_a_reply_streams_break_nothing() {
    let home = tempfile::tempdir().unwrap();
    let mut pty = endless(home.path(), (80, 24));
    let mut random = Random(SEED);
    pty.send("go on and on\r");
    pty.wait_for("the reply", |s| s.contains("replying"));
    for round in 0..200 {
        let size = match round % 10 {
            0 => (1, 1),
            1 => (500, 200),
            2 => (24, 6),
            _ => (1 + random.below(260) as u16, 1 + random.below(80) as u16),
        };
        pty.resize(size);
        std::thread::sleep(Duration::from_millis(random.below(12)));
    }
    pty.resize((100, 30));
    pty.wait_for("the chat, whole", |s| s.contains("replying") && s.contains("experts, 2 used"));
    pty.send("\x1b[27u");
    pty.wait_for("the stop", |s| s.contains("· stopped") && s.contains("· ready"));
    // Drawn anew, the screen is the same: nothing is left over from other sizes.
    let before = pty.text();
    let written = pty.written();
    pty.send("\x0c");
    pty.wait_for("another frame", |_| true);
    let begin = std::time::Instant::now();
    while !pty.has_written(written, "\x1b[2J") {
        assert!(begin.elapsed() < Duration::from_secs(10), "it is not drawn anew");
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(100));
    // The last line's figures come with the next reading.
    let conversation =
        |text: &str| text.lines().take(29).map(|l| l.chars().take(60).collect::<String>()).collect::<Vec<_>>();
    assert_eq!(conversation(&before), conversation(&pty.text()));
    pty.quit();
}

#[test]
fn the_log_goes_to_its_file_and_not_to_the_screen() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("chat.log");
    let command = at_home(home.path(), &[tiny_model(), "--debug", "--log", path.to_str().unwrap()]);
    let mut pty = Pty::start(command, (100, 30), Answers::Plain);
    pty.wait_for("the model", |s| s.contains("· ready"));
    pty.quit();
    let log = std::fs::read_to_string(&path).unwrap();
    let first = log.lines().next().unwrap_or_default();
    assert!(first.contains("wayinfer"), "{log}");
    let said = first.rsplit(": ").next().unwrap();
    assert!(!pty.output().contains(said), "`{said}` is on the screen");
}

/// Keys that are pressed at random: all but those that quit.
fn harmless_keys() -> Vec<String> {
    let quits = ["\x03", "\x04"];
    keys::all()
        .map(|(.., key)| program::bytes(key))
        .filter(|key| !quits.contains(&key.as_str()) && key != "q")
        .collect()
}

#[test]
fn control_z_in_an_editor_does_not_stop_a_program_that_nobody_could_continue() {
    let home = tempfile::tempdir().unwrap();
    let mut command = at_home(home.path(), &[tiny_model()]);
    command.env("VISUAL", "echo the editor has it; sleep 1; true");
    let mut pty = Pty::start(command, (100, 30), Answers::Plain);
    pty.wait_for("the model", |s| s.contains("· ready"));
    pty.send("\x07");
    pty.wait_for("the editor", |s| s.contains("the editor has it"));
    pty.send("\x1a");
    pty.wait_for("the chat again", |s| s.contains("· ready"));
    pty.quit();
}

#[test]
fn two_thousand_random_events_leave_a_program_that_quits_and_a_terminal_as_it_was() {
    let home = tempfile::tempdir().unwrap();
    let mut command = at_home(home.path(), &[&[tiny_model()], &ENDLESS[..], &["100000"]].concat());
    command.env("VISUAL", "true");
    let mut pty = Pty::start(command, (100, 30), Answers::Kitty);
    pty.wait_for("the model", |s| s.contains("· ready"));
    let (mut random, keys) = (Random(SEED), harmless_keys());
    let mut sent = Vec::new();
    for n in 0..2000 {
        let event = match random.below(20) {
            0..9 => random.of(&keys).clone(),
            9..13 => (*random.of(&["a", "é", "日本", "e\u{301}", "שלום", "👩‍👩‍👧", " ", "word ", "/", "?"])).to_owned(),
            13 => (*random.of(&["\r", "/retry\r", "/new\r", "/branch\r", "/sessions\r"])).to_owned(),
            14 => format!(
                "\x1b[200~{}\x1b[201~",
                random.of(&["one\rtwo", "\x1b[2J\x1b]0;x\x07", "日\u{202e}x\0", "\x1b[200~"])
            ),
            15..18 => {
                let (button, column, row) = (random.of(&[64, 65, 0, 32, 2]), random.below(120), random.below(40));
                format!("\x1b[<{button};{};{}{}", column + 1, row + 1, random.of(&["M", "m"]))
            }
            18 => (*random.of(&["\x1b[I", "\x1b[O"])).to_owned(),
            _ => {
                pty.resize((1 + random.below(160) as u16, 1 + random.below(60) as u16));
                continue;
            }
        };
        pty.send(&event);
        sent.push(event);
        if n % 25 == 0 {
            std::thread::sleep(Duration::from_millis(10));
            let last = &sent[sent.len().saturating_sub(60)..];
            assert!(pty.runs(), "seed {SEED:#x}, event {n}: it ended after {last:?}:\n{}", pty.text());
        }
    }
    pty.resize((100, 30));
    pty.send(&"\x1b[27u".repeat(8));
    pty.quit();
    for transcript in transcripts(home.path()) {
        assert_eq!((transcript.skipped, transcript.torn), (0, false), "{transcript:?}");
    }
}

/// A chat with the model that is in the binary, in the session at `path`.
fn embedded(home: &Path, path: &Path) -> Pty {
    let arguments = ["demo", "--threads", "1", "--ctx", "2048", "--session", path.to_str().unwrap()];
    Pty::start(at_home(home, &arguments), (80, 24), Answers::Plain)
}

/// What a person can see to be finished, and what the file has of it.
#[derive(Debug, Default)]
struct Kept {
    sent: Vec<String>,
    finished: usize,
}

/// Kills the program `rounds` times, at moments that `random` chooses, and checks after each what is in the file.
fn kill_at_random(home: &Path, thread: u64, rounds: u64) -> (u64, u64) {
    const SITTING: u64 = 6;
    const FOOT: &str = " tok/s · end of turn";
    let mut random = Random(SEED ^ (thread + 1));
    let (mut kept, mut n_finished, mut n_drafts) = (Kept::default(), 0, 0);
    let mut path = PathBuf::new();
    for round in 0..rounds {
        if round % SITTING == 0 {
            path = home.join(format!("{thread}-{round}.jsonl"));
            kept = Kept::default();
        }
        let mut pty = embedded(home, &path);
        pty.wait_for("the model", |s| s.contains("· ready"));
        let text = format!("tell me {thread} {round}");
        // What was typed before the last kill may have been saved as a draft.
        pty.send(&format!("\x15\x15{text}"));
        pty.wait_for("what is typed", |s| s.contains(&format!("› {text}")));
        pty.send("\r");
        // Every tenth round a draft is left to be saved.
        let draft = (round % 10 == 9).then(|| format!("unsent {round}"));
        if let Some(draft) = &draft {
            pty.wait_for("the reply", |s| s.contains("· ready") && s.contains(&text));
            pty.send(draft);
            std::thread::sleep(Duration::from_millis(4600));
        } else {
            std::thread::sleep(Duration::from_micros(random.below(90_000)));
        }
        pty.kill_9();
        let seen = pty.last_frame((80, 24));
        // On the screen, and no longer in the input: then it was sent.
        let is_sent = seen.contains(&text) && !seen.contains(&format!("› {text}"));
        let answered = is_sent && {
            let after = seen.rsplit(&text).next().unwrap_or_default();
            after.contains(FOOT) || after.contains("token limit")
        };
        let Ok(found) = transcript::read(&path) else {
            assert!(!is_sent && kept.sent.is_empty(), "{thread}, round {round}: nothing is saved of\n{seen}");
            continue;
        };
        let said: Vec<&str> =
            found.entries.iter().filter(|e| e.message.role == Role::User).map(|e| e.message.content.as_str()).collect();
        let finished = found.entries.iter().filter(|e| e.figures.is_some()).count();
        for earlier in &kept.sent {
            assert!(said.contains(&earlier.as_str()), "{thread}, round {round}: `{earlier}` is gone from {said:?}");
        }
        assert!(finished >= kept.finished + usize::from(answered), "{thread}, round {round}: {found:?}\n{seen}");
        if is_sent {
            assert!(said.contains(&text.as_str()), "{thread}, round {round}: `{text}` is not in {said:?}\n{seen}");
        }
        if let Some(draft) = &draft {
            assert_eq!(found.draft.as_ref(), Some(draft), "{thread}, round {round}");
            n_drafts += 1;
        }
        n_finished += u64::from(answered);
        kept = Kept { sent: said.into_iter().map(str::to_owned).collect(), finished };
    }
    (n_finished, n_drafts)
}

#[test]
fn two_hundred_kills_at_random_moments_lose_no_finished_message_and_no_draft() {
    const THREADS: u64 = 4;
    let home = tempfile::tempdir().unwrap();
    // The model is written out once.
    let mut first = embedded(home.path(), &home.path().join("first.jsonl"));
    first.wait_for("the model", |s| s.contains("· ready"));
    first.quit();
    let results: Vec<(u64, u64)> = std::thread::scope(|scope| {
        let kill = |thread| {
            let home = home.path();
            move || kill_at_random(home, thread, 200 / THREADS)
        };
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(kill(thread))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let (finished, drafts) = results.iter().fold((0, 0), |sum, r| (sum.0 + r.0, sum.1 + r.1));
    assert!((20..200).contains(&finished), "{finished} replies were finished: the moments are badly chosen");
    assert!(drafts >= 16, "{drafts}");
    // Gone on with, all of it is there.
    let path = home.path().join("0-0.jsonl");
    let before = transcript::read(&path).unwrap();
    let mut pty = embedded(home.path(), &path);
    let last = before.path().iter().rev().find(|e| e.message.role == Role::User).unwrap().message.content.clone();
    pty.wait_for("what was said", |s| s.contains(&last));
    pty.quit();
}

#[test]
fn a_disk_that_takes_no_more_is_told_and_what_it_took_is_whole() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("full.jsonl");
    // Files that already lie there may be read, and none may grow beyond this.
    let script = "trap '' XFSZ; ulimit -f 8; exec \"$0\" \"$@\"";
    let program = env!("CARGO_BIN_EXE_wayinfer");
    let arguments = ["--threads", "1", "--greedy", "--frequency-penalty=-10", "--ctx", "100000"];
    let mut command = at_home(home.path(), &[]);
    *command.get_argv_mut() =
        [&["bash", "-c", script, program, tiny_model(), "--session", path.to_str().unwrap()], &arguments[..]]
            .concat()
            .into_iter()
            .map(Into::into)
            .collect();
    let mut pty = Pty::start(command, (120, 40), Answers::Plain);
    pty.wait_for("the model", |s| s.contains("· ready"));
    pty.send("/max-tokens 4\r");
    pty.wait_for("the limit", |s| s.contains("of a reply is 4"));
    for n in 0..12 {
        let words = "many words ".repeat(60);
        pty.send(&format!("\x1b[200~number {n} {words}\x1b[201~\r"));
        let last = format!("number {n} ");
        pty.wait_for("the reply", |s| {
            let full = s.contains("cannot be saved");
            full || s.split(&last).nth(1).is_some_and(|after| after.contains("token limit"))
        });
        if pty.text().contains("cannot be saved") {
            break;
        }
    }
    pty.wait_for("the warning", |s| s.contains("cannot be saved") && s.contains("kept in memory"));
    pty.send("\x03\x03");
    pty.wait_for_exit();
    pty.check_restored();
    pty.wait_for("what is not saved", |s| s.contains("could not be saved"));
    let kept = transcript::read(&path).unwrap();
    assert!(kept.entries.len() >= 6, "{kept:?}");
    for (n, entry) in kept.entries.iter().filter(|e| e.message.role == Role::User).enumerate() {
        assert!(entry.message.content.starts_with(&format!("number {n} many words")), "{entry:?}");
    }
}

fn only_transcript(folder: &Path) -> Transcript {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    transcript::read(&files.remove(0)).unwrap()
}

fn said(transcript: &Transcript) -> Vec<(Role, &str)> {
    transcript.entries.iter().map(|e| (e.message.role, e.message.content.as_str())).collect()
}

/// The program itself on a tiny model, at home in `home`. What was said grows likelier and the context is long, so that
/// replies repeat themselves until they are stopped.
fn real_chat(home: &Path, size: (u16, u16)) -> Pty {
    let mut pty = start_real_chat(home, size, &[]);
    pty.wait_for("the model is loaded", |s| s.contains("· ready"));
    pty
}

fn start_real_chat(home: &Path, size: (u16, u16), more: &[&str]) -> Pty {
    let options = ["--greedy", "--frequency-penalty=-10", "--ctx", "100000", "--isa", "scalar", "--threads", "1"];
    let command = at_home(home, &[&[tiny_model()], &options[..], more].concat());
    Pty::start(command, size, Answers::Plain)
}

fn sessions(home: &Path) -> PathBuf {
    home.join("data/wayinfer/sessions")
}

#[test]
fn the_real_engine_answers_stops_and_remembers() {
    let home = tempfile::tempdir().unwrap();
    let mut pty = real_chat(home.path(), (120, 40));
    pty.send("hello there\r");
    pty.wait_for("a reply under way", |s| s.contains("replying ·"));
    pty.wait_for("the experts of the panel", |s| s.contains("8 experts, 2 used"));
    pty.resize((80, 24));
    pty.resize((200, 60));
    pty.send("\x1b");
    pty.wait_for("the stop", |s| s.contains("stopped"));
    pty.send("and again\r");
    pty.wait_for("the second reply", |s| s.contains("replying ·"));
    pty.send("\x1b");
    pty.wait_for("the second stop", |s| s.matches("· stopped").count() >= 2);
    pty.quit();
    let transcript = only_transcript(&sessions(home.path()));
    let said = said(&transcript);
    assert_eq!(said.len(), 4, "{said:?}");
    assert_eq!((said[0], said[2]), ((Role::User, "hello there"), (Role::User, "and again")));
    assert!(said.iter().all(|(_, text)| !text.is_empty()), "{said:?}");
}

#[test]
fn a_signal_while_the_real_engine_computes_leaves_the_terminal_whole() {
    for signal in ["TERM", "HUP"] {
        let home = tempfile::tempdir().unwrap();
        let mut pty = real_chat(home.path(), (80, 24));
        pty.send("hello there\r");
        pty.wait_for("a reply under way", |s| s.contains("replying ·"));
        pty.signal(signal);
        pty.wait_for_exit();
        pty.check_restored();
        let transcript = only_transcript(&sessions(home.path()));
        let said = said(&transcript);
        assert_eq!((said.len(), said[0]), (2, (Role::User, "hello there")), "{said:?}");
    }
}

#[test]
fn the_real_engine_goes_on_with_a_session_where_it_was() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("chat.jsonl");
    let args = ["--session", path.to_str().unwrap()];
    for round in 1..=3 {
        // Wide enough for what a slow machine's figures make of the line below a reply.
        let mut pty = start_real_chat(home.path(), (160, 40), &args);
        pty.wait_for("the model is loaded", |s| s.contains("· ready"));
        pty.send(&format!("hello {round}\r"));
        pty.wait_for("a reply under way", |s| s.contains("replying ·"));
        pty.send("\x1b");
        pty.wait_for("the stop", |s| s.matches("· stopped").count() >= round.min(2) && s.contains("· ready"));
        if round > 1 {
            pty.wait_for("what was not read again", |s| s.contains(" reused"));
        }
        pty.quit();
    }
    assert!(home.path().join("chat.jsonl.kv").exists() && !sessions(home.path()).exists());
    // Another one at the same time is told so, before the screen is taken.
    let held = transcript::SessionFile::open(&path).unwrap();
    let mut pty = start_real_chat(home.path(), (120, 40), &args);
    assert_eq!(pty.wait_for_exit().exit_code(), 1);
    pty.wait_for("the reason", |s| s.contains("in use by another process"));
    drop(held);
}

#[test]
fn a_model_that_is_truncated_while_it_is_in_use_ends_the_reply_and_not_the_chat() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("tiny.gguf");
    std::fs::copy(tiny_model(), &model).unwrap();
    let command = at_home(folder.path(), &[model.to_str().unwrap(), "--threads", "1"]);
    let mut pty = Pty::start(command, (240, 30), Answers::Plain);
    pty.wait_for("the model is loaded", |s| s.contains("· ready"));
    std::fs::OpenOptions::new().write(true).open(&model).unwrap().set_len(500_000).unwrap();
    pty.send("hello there\r");
    pty.wait_for("the error", |s| s.contains("open the model again"));
    pty.on_screen(|s| assert!(s.alternate_screen() && s.contents().contains("hello there")));
    pty.send("\x04");
    let status = pty.wait_for_exit();
    assert!(status.success(), "{status}");
    pty.check_restored();
}

#[test]
fn the_program_at_home_reads_no_settings_of_the_person_who_tests() {
    let home = tempfile::tempdir().unwrap();
    let command = at_home(home.path(), &["config"]);
    let mut pty = Pty::start(command, (200, 60), Answers::Nothing);
    assert!(pty.wait_for_exit().success());
    let folder = home.path().to_str().unwrap().to_owned();
    pty.wait_for("its own home", |s| s.contains(&folder));
}
