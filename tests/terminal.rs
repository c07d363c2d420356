//! The chat in a real pseudo-terminal: typed into, resized, killed in every way, and afterwards the terminal is as it was.

#![allow(clippy::unwrap_used, reason = "whatever fails here fails the test")]

#[path = "terminal/pty.rs"]
mod pty;

use std::path::{Path, PathBuf};
use std::time::Duration;

use portable_pty::CommandBuilder;
use pty::{Answers, Pty};
use vt100::MouseProtocolMode;
use wayinfer::transcript::{self, Role, Transcript};

/// The example with the scripted engine; cargo builds it with the tests.
fn fake_chat() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let path = exe.parent().unwrap().with_file_name("examples").join("fake_chat");
    assert!(path.exists(), "{} is missing: build it with `cargo build --release --example fake_chat`", path.display());
    path
}

fn command(args: &[&str]) -> CommandBuilder {
    let mut command = CommandBuilder::new(fake_chat());
    command.args(args);
    command.env("TERM", "xterm-256color");
    command.env("COLORTERM", "truecolor");
    command.env_remove("NO_COLOR");
    command
}

/// A chat whose model is loaded.
fn chat(args: &[&str]) -> Pty {
    let mut pty = Pty::start(command(args), (80, 24), Answers::Plain);
    pty.wait_for("the model is loaded", |s| s.contains("Fake 30B A3B · ready"));
    pty
}

fn only_transcript(dir: &Path) -> Transcript {
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    transcript::read(&files.remove(0)).unwrap()
}

fn said(transcript: &Transcript) -> Vec<(Role, &str)> {
    transcript.entries.iter().map(|e| (e.message.role, e.message.content.as_str())).collect()
}

#[test]
fn a_message_is_typed_and_answered_and_control_d_leaves_the_terminal_as_it_was() {
    let mut pty = chat(&["model.gguf"]);
    pty.on_screen(|s| {
        assert!(s.alternate_screen() && s.bracketed_paste());
        assert_eq!(s.mouse_protocol_mode(), MouseProtocolMode::PressRelease);
    });
    assert!(!pty.has_echo());
    pty.send("hello there\r");
    pty.wait_for("the reply", |s| s.contains("hello there") && s.contains("end of turn"));
    pty.send("\x04");
    let status = pty.wait_for_exit();
    assert!(status.success(), "{status}");
    pty.check_restored();
    pty.wait_for("the last words", |s| s.contains("exit: Quit"));
}

#[test]
fn escape_stops_a_reply_and_only_that() {
    let mut pty = chat(&["model.gguf"]);
    pty.send("slow long 500\r");
    pty.wait_for("text", |s| s.contains("memory is"));
    pty.send("typed meanwhile");
    pty.wait_for("what was typed", |s| s.contains("› typed meanwhile"));
    pty.send("\x1b");
    pty.wait_for("the stop", |s| s.contains("· stopped"));
    pty.send("\x1b");
    pty.wait_for("the notice", |s| s.contains("Nothing to stop") && s.contains("› typed meanwhile"));
    pty.quit();
}

#[test]
fn keys_and_the_wheel_scroll() {
    let mut pty = chat(&["model.gguf"]);
    pty.send("long 2000\r");
    pty.wait_for("the reply", |s| s.contains("2000 tokens"));
    pty.send("\x1b[5~");
    pty.wait_for("what is below", |s| s.contains("lines below") && !s.contains("2000 tokens"));
    pty.send("\x1b[F");
    pty.wait_for("the end", |s| s.contains("2000 tokens") && !s.contains("below"));
    pty.send("\x1b[<64;10;5M");
    pty.wait_for("three lines up", |s| s.contains("3 lines below"));
    pty.send("\x1b[<65;10;5M");
    pty.wait_for("the end again", |s| !s.contains("below"));
    pty.send("\x1b[H");
    pty.wait_for("the beginning", |s| s.starts_with("you"));
    pty.quit();
}

#[test]
fn the_mouse_can_be_left_to_the_terminal() {
    let mut pty = chat(&["model.gguf"]);
    pty.send("\x14");
    pty.wait_for("selecting", |s| s.contains("The mouse selects text") && !s.contains("│"));
    pty.on_screen(|s| assert_eq!(s.mouse_protocol_mode(), MouseProtocolMode::None));
    pty.send("\x14");
    pty.wait_for("scrolling", |s| s.contains("The wheel scrolls"));
    pty.on_screen(|s| assert_eq!(s.mouse_protocol_mode(), MouseProtocolMode::PressRelease));
    pty.quit();
}

#[test]
fn a_storm_of_sizes_breaks_nothing() {
    let mut pty = chat(&["model.gguf"]);
    pty.send("slow long 400\r");
    for round in 0..60 {
        let size = [(20, 5), (500, 200), (80, 24), (1, 1), (30, 8), (133, 7), (24, 60)][round % 7];
        pty.resize(size);
        std::thread::sleep(Duration::from_millis(5));
    }
    pty.resize((20, 5));
    pty.wait_for("the note", |s| s.contains("too small"));
    pty.resize((500, 200));
    pty.wait_for("everything", |s| s.contains("replying") && s.contains("in memory"));
    pty.resize((100, 30));
    pty.wait_for("the chat", |s| s.contains("slow long 400") && s.contains("replying"));
    pty.send("\x1b");
    pty.wait_for("the stop", |s| s.contains("· stopped"));
    pty.quit();
}

#[test]
fn a_paste_does_not_send_and_a_long_one_without_brackets_arrives_whole() {
    let mut pty = chat(&["model.gguf"]);
    pty.send("\x1b[200~one\rtwo\x1b[201~");
    pty.wait_for("both lines", |s| s.contains("› one") && s.contains("  two"));
    pty.send("\r");
    pty.wait_for("the reply", |s| s.contains("end of turn"));
    pty.send(&format!("{}THEEND", "x".repeat(6000)));
    pty.wait_for("its end", |s| s.replace(['\n', ' '], "").contains("THEEND"));
    pty.send("\x15\x15\x15");
    pty.quit();
}

#[test]
fn control_sequences_in_a_reply_are_shown_and_not_done() {
    let mut pty = chat(&["model.gguf"]);
    pty.send("escapes\r");
    pty.wait_for("the reply", |s| s.contains("end of turn"));
    pty.on_screen(|s| assert!(s.alternate_screen()));
    pty.wait_for("the escapes", |s| s.contains("before \u{241b}[2J\u{241b}[?1049l\u{241b}]0;title\u{2407} after"));
    assert!(!pty.output().contains("\x1b]0;"));
    pty.quit();
}

#[test]
fn a_terminal_with_kittys_protocol_gets_it_and_loses_it_again() {
    let mut pty = Pty::start(command(&["model.gguf"]), (80, 24), Answers::Kitty);
    pty.wait_for("the model is loaded", |s| s.contains("· ready"));
    pty.wait_for_output("the protocol", "\x1b[>1u");
    pty.send("one\x1b[13;2utwo");
    pty.wait_for("two lines", |s| s.contains("› one") && s.contains("  two"));
    // Ctrl+C, twice.
    pty.send("\x1b[99;5u\x1b[99;5u");
    assert!(pty.wait_for_exit().success());
    pty.check_restored();
}

#[test]
fn a_terminal_that_answers_no_question_can_be_typed_into() {
    let mut pty = Pty::start(command(&["model.gguf"]), (80, 24), Answers::Nothing);
    pty.wait_for("the model is loaded", |s| s.contains("· ready"));
    pty.send("hello\r");
    pty.wait_for("the reply", |s| s.contains("end of turn"));
    assert!(!pty.output().contains("\x1b[>1u"));
    pty.quit();
}

#[test]
fn frames_are_synchronized_unless_switched_off() {
    let mut on = chat(&["model.gguf"]);
    assert!(on.output().contains("\x1b[?2026h"));
    on.quit();
    let mut off = chat(&["--no-sync", "model.gguf"]);
    off.quit();
    assert!(!off.output().contains("\x1b[?2026h"));
}

#[test]
fn no_color_sends_no_color() {
    let mut command = command(&["model.gguf"]);
    command.env("NO_COLOR", "1");
    let mut pty = Pty::start(command, (80, 24), Answers::Plain);
    pty.wait_for("the model is loaded", |s| s.contains("· ready"));
    pty.send("hi\r");
    pty.wait_for("the reply", |s| s.contains("end of turn"));
    pty.quit();
    let output = pty.output();
    let styles = output.split("\x1b[").filter_map(|s| s.split_once('m')).map(|(numbers, _)| numbers);
    let styles = styles.filter(|s| s.bytes().all(|b| b.is_ascii_digit() || b == b';'));
    for number in styles.flat_map(|s| s.split(';')).filter_map(|n| n.parse::<u8>().ok()) {
        // 39 and 49 are the terminal's own colours.
        assert!(!matches!(number, 30..=38 | 40..=48 | 90..=107), "{number}");
    }
}

#[test]
fn signals_end_it_with_the_terminal_restored_and_everything_saved() {
    for (signal, name) in [("TERM", "Terminated"), ("HUP", "Hangup"), ("INT", "Interrupt"), ("QUIT", "Quit")] {
        let dir = tempfile::tempdir().unwrap();
        let mut pty = chat(&["--sessions", dir.path().to_str().unwrap(), "model.gguf"]);
        pty.send("first\r");
        pty.wait_for("the reply", |s| s.contains("end of turn"));
        pty.send("slow long 500\r");
        pty.wait_for("text", |s| s.contains("tok/s · 1 s"));
        pty.send("waits\tand this is not sent");
        pty.wait_for("what was typed", |s| s.contains("› and this is not sent"));
        pty.signal(signal);
        let status = pty.wait_for_exit();
        assert!(status.to_string().contains(name), "{signal}: {status}");
        pty.check_restored();
        let transcript = only_transcript(dir.path());
        let said = said(&transcript);
        assert_eq!(said.len(), 4, "{said:?}");
        assert_eq!((said[0], said[2]), ((Role::User, "first"), (Role::User, "slow long 500")));
        assert!(said[1].1.ends_with("again. ") && said[3].1.starts_with("memory is a ladder"), "{said:?}");
        assert_eq!(transcript.draft.as_deref(), Some("waits\nand this is not sent"));
    }
}

#[test]
fn kill_9_loses_no_finished_message_and_at_most_a_second_of_a_reply() {
    let dir = tempfile::tempdir().unwrap();
    let mut pty = chat(&["--sessions", dir.path().to_str().unwrap(), "model.gguf"]);
    pty.send("first\r");
    pty.wait_for("the reply", |s| s.contains("end of turn"));
    pty.send("slow long 500\r");
    pty.wait_for("two seconds of text", |s| s.contains("tok/s · 2 s"));
    pty.signal("KILL");
    pty.wait_for_exit();
    let transcript = only_transcript(dir.path());
    let said = said(&transcript);
    assert_eq!(said.len(), 4, "{said:?}");
    assert_eq!(transcript.entries[1].figures.as_ref().unwrap().stop, "end_of_turn");
    assert_eq!(transcript.entries[3].figures, None);
    assert!(said[3].1.split_whitespace().count() >= 8, "{said:?}");
}

#[test]
fn a_panic_of_the_screen_restores_the_terminal_before_it_is_printed() {
    let mut pty = Pty::start(command(&["--panic"]), (80, 24), Answers::Plain);
    let status = pty.wait_for_exit();
    assert_eq!(status.exit_code(), 101);
    pty.check_restored();
    pty.wait_for("the message", |s| s.contains("the screen's thread fell over"));
}

#[test]
fn a_panic_of_the_engine_is_shown_in_the_chat() {
    let mut pty = chat(&["model.gguf"]);
    pty.send("panic\r");
    pty.wait_for("the reason", |s| {
        s.contains("`engine`") && s.contains("the script says so") && s.contains("The engine has stopped")
    });
    pty.on_screen(|s| assert!(s.alternate_screen()));
    pty.quit();
}

/// An interactive shell in which the chat runs as a job.
fn shell() -> Pty {
    let mut command = CommandBuilder::new("bash");
    command.args(["--norc", "--noprofile", "-i"]);
    command.env("PS1", "shell> ");
    // The shell itself should not touch the terminal's modes.
    command.env("TERM", "dumb");
    command.env("CHAT", fake_chat());
    let mut pty = Pty::start(command, (80, 24), Answers::Plain);
    pty.wait_for("the prompt", |s| s.contains("shell> "));
    pty
}

#[test]
fn control_z_goes_to_the_shell_and_fg_comes_back() {
    // Run directly, and by a script, which is then the job's leader.
    for run in ["TERM=xterm \"$CHAT\" model.gguf\r", "TERM=xterm bash -c '\"$CHAT\" model.gguf; true'\r"] {
        let mut pty = shell();
        pty.send(run);
        pty.wait_for("the chat", |s| s.contains("· ready"));
        pty.send("half typed");
        for round in 0..2 {
            pty.wait_for("the chat", |s| s.contains("› half typed"));
            pty.send("\x1a");
            pty.wait_for("the shell", |s| s.contains("Stopped") && s.contains("shell> "));
            pty.check_modes_off();
            pty.send("echo mark$((1+1))\r");
            pty.wait_for("the shell's answer", |s| s.contains("mark2"));
            pty.send("fg\r");
            pty.wait_for("the chat again", |s| s.contains("› half typed") && !s.contains("shell> "));
            pty.on_screen(|s| assert!(s.alternate_screen() && s.bracketed_paste(), "round {round}"));
        }
        pty.send("\r");
        pty.wait_for("the reply", |s| s.contains("end of turn"));
        pty.send("\x04");
        pty.wait_for("the shell", |s| s.contains("exit: Quit"));
        pty.check_modes_off();
        pty.send("exit\r");
        pty.wait_for_exit();
    }
}

#[test]
fn a_stop_signal_from_elsewhere_restores_the_terminal_too() {
    let mut pty = shell();
    pty.send("TERM=xterm \"$CHAT\" model.gguf\r");
    pty.wait_for("the chat", |s| s.contains("· ready"));
    pty.send_signal_to_child("fake_chat", "TSTP");
    pty.wait_for("the shell", |s| s.contains("Stopped"));
    pty.check_modes_off();
    pty.send("fg\r");
    pty.wait_for("the chat again", |s| s.contains("· ready") && !s.contains("shell> "));
    pty.send("\x04");
    pty.wait_for("the shell", |s| s.contains("exit: Quit"));
    pty.send("exit\r");
    pty.wait_for_exit();
}

#[test]
fn without_a_shell_control_z_says_so() {
    let mut pty = chat(&["model.gguf"]);
    pty.send("\x1a");
    pty.wait_for("the notice", |s| s.contains("no shell to go back to"));
    pty.quit();
}

#[test]
fn a_terminal_that_goes_away_ends_it_also_when_hangups_are_ignored() {
    for ignore in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let mut command = CommandBuilder::new("bash");
        let trap = if ignore { "trap '' HUP; " } else { "" };
        let script = format!("{trap}exec \"$CHAT\" --sessions \"$DIR\" model.gguf");
        command.args(["-c", &script]);
        command.env("CHAT", fake_chat());
        command.env("DIR", dir.path());
        command.env("TERM", "xterm-256color");
        let mut pty = Pty::start(command, (80, 24), Answers::Plain);
        pty.wait_for("the model is loaded", |s| s.contains("· ready"));
        pty.send("first\r");
        pty.wait_for("the reply", |s| s.contains("end of turn"));
        pty.send("not");
        pty.wait_for("what was typed", |s| s.contains("› not"));
        pty.hang_up(" sent");
        let transcript = only_transcript(dir.path());
        assert_eq!(said(&transcript).len(), 2);
        // The terminal's writer sends an end of line of its own when it is dropped; whether that is read is a race.
        assert_eq!(transcript.draft.as_deref().map(str::trim_end), Some("not sent"));
    }
}

#[test]
fn a_terminal_that_takes_nothing_does_not_keep_it_from_saving_and_ending() {
    let dir = tempfile::tempdir().unwrap();
    let mut pty = chat(&["--sessions", dir.path().to_str().unwrap(), "model.gguf"]);
    pty.resize((200, 60));
    pty.stop_reading();
    pty.send("long 20000\r");
    std::thread::sleep(Duration::from_secs(2));
    pty.send("typed blindly");
    std::thread::sleep(Duration::from_millis(200));
    pty.signal("TERM");
    assert!(pty.wait_for_exit().to_string().contains("Terminated"));
    let transcript = only_transcript(dir.path());
    assert_eq!(said(&transcript)[0], (Role::User, "long 20000"));
    assert!(said(&transcript)[1].1.len() > 1000);
    assert_eq!(transcript.draft.as_deref(), Some("typed blindly"));
}

#[test]
fn a_folder_that_cannot_be_written_is_told_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let blocked = dir.path().join("sessions");
    std::fs::write(&blocked, "").unwrap();
    let mut pty = chat(&["--sessions", blocked.to_str().unwrap(), "model.gguf"]);
    pty.send("first\r");
    pty.wait_for("the warning", |s| s.contains("cannot be saved"));
    std::fs::remove_file(&blocked).unwrap();
    pty.wait_for("the recovery", |s| s.contains("saved again") && s.contains("end of turn"));
    pty.quit();
    assert_eq!(said(&only_transcript(&blocked)).len(), 2);
}

#[test]
fn a_model_is_picked_from_the_list_and_a_broken_one_leads_back() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["broken.gguf", "untemplated.gguf"] {
        std::fs::write(dir.path().join(name), "GGUF").unwrap();
    }
    let args = ["--models", dir.path().to_str().unwrap()];
    let mut pty = Pty::start(command(&args), (80, 24), Answers::Plain);
    pty.wait_for("the list", |s| s.contains("broken") && s.contains("untemplated"));
    pty.send("\r");
    pty.wait_for("the reason", |s| s.contains("It could not be opened. broken.gguf"));
    pty.send("\x1b[B\r");
    pty.wait_for("the model", |s| s.contains("Warning: The model has no chat template") && s.contains("· ready"));
    pty.quit();
}

#[test]
fn a_full_context_asks_and_goes_on_without_the_oldest_turn() {
    let mut pty = chat(&["model.gguf"]);
    for question in ["long 2500\r", "long 1400\r"] {
        pty.send(question);
        let tokens = format!("{} tokens", question.trim().trim_start_matches("long "));
        pty.wait_for("the reply", |s| s.contains(&tokens));
    }
    pty.send("\x1b[200~");
    pty.send(&"word ".repeat(200));
    pty.send("\x1b[201~\r");
    pty.wait_for("the question", |s| s.contains("The context is full") && s.contains("drop the oldest turn"));
    pty.send("d");
    pty.wait_for("the reply", |s| s.contains("60 tokens") && s.contains("end of turn"));
    pty.send("\x1b[H");
    pty.wait_for("the mark", |s| s.contains("no longer sent"));
    pty.quit();
}

#[test]
fn a_session_is_resumed_on_screen_with_its_draft_and_killed_again_loses_no_finished_message() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("chat.jsonl");
    let args = ["--session", path.to_str().unwrap(), "model.gguf"];
    let mut pty = chat(&args);
    pty.send("the first thing\r");
    pty.wait_for("the reply", |s| s.contains("end of turn"));
    pty.send("half a thought");
    pty.wait_for("what was typed", |s| s.contains("› half a thought"));
    pty.quit();
    let mut pty = chat(&args);
    pty.wait_for("all of it", |s| {
        s.contains("the first thing") && s.contains("end of turn") && s.contains("› half a thought")
    });
    pty.send("\x15the second\r");
    pty.wait_for("the second reply", |s| {
        s.rsplit_once("the second").is_some_and(|(_, after)| after.contains("end of turn"))
    });
    pty.signal("KILL");
    pty.wait_for_exit();
    let t = transcript::read(&path).unwrap();
    let said = t.path();
    assert_eq!(said.iter().map(|e| e.message.role).collect::<Vec<_>>(), [Role::User, Role::Assistant].repeat(2));
    assert!(t.entries.iter().all(|e| e.message.role == Role::User || e.figures.is_some()), "{t:?}");
    assert_eq!((&t.draft, said[2].message.content.as_str()), (&None, "the second"));
    // Cut off before it was answered, a message is shown and not sent.
    let mut pty = chat(&args);
    pty.send("slow unanswered\r");
    pty.wait_for("the message on the disk", |_| {
        transcript::read(&path).is_ok_and(|t| t.entries.iter().any(|e| e.message.content == "slow unanswered"))
    });
    pty.signal("KILL");
    pty.wait_for_exit();
    let mut pty = chat(&args);
    pty.wait_for("the mark", |s| s.contains("not sent: the program ended before it was"));
    pty.quit();
}

#[test]
fn finished_messages_are_on_the_disk_at_whatever_moment_it_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("chat.jsonl");
    let mut finished = 0;
    for round in 0..30 {
        let mut pty = chat(&["--session", path.to_str().unwrap(), "model.gguf"]);
        pty.send(&format!("long {}\r", 3 + round % 5));
        std::thread::sleep(Duration::from_micros(3_137 * round));
        // What is seen to be finished must be there.
        let seen = pty.text().matches("end of turn").count();
        pty.signal("KILL");
        pty.wait_for_exit();
        // Killed before there was anything to keep.
        let Ok(t) = transcript::read(&path) else {
            assert_eq!((finished, seen), (0, 0));
            continue;
        };
        let now = t.entries.iter().filter(|e| e.figures.is_some()).count();
        assert!(now >= finished && (finished + 1 >= now), "{finished} became {now}");
        assert!(seen == 0 || now > 0, "{seen} were seen");
        (_, finished) = (seen, now);
    }
    assert!(finished > 3, "it was always killed before the reply");
}
