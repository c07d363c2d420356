//! A program in a pseudo-terminal, and what it has drawn there.

#![allow(clippy::unwrap_used, reason = "whatever fails here fails the test")]

use std::io::{Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use portable_pty::{Child, CommandBuilder, ExitStatus, MasterPty, PtySize, native_pty_system};
use vt100::{MouseProtocolMode, Parser, Screen};

const PATIENCE: Duration = Duration::from_secs(30);

/// What the terminal answers when it is asked what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(dead_code, reason = "each test binary uses its own part")]
pub enum Answers {
    /// Its attributes, as every terminal does.
    Plain,
    /// Also that it knows kitty's keyboard protocol.
    Kitty,
    Nothing,
}

struct State {
    parser: Parser,
    output: Vec<u8>,
}

#[allow(dead_code, reason = "each test binary uses its own part")]
pub struct Pty {
    master: Option<Box<dyn MasterPty + Send>>,
    child: Box<dyn Child + Send + Sync>,
    writer: Option<Arc<Mutex<Box<dyn Write + Send>>>>,
    state: Arc<Mutex<State>>,
    /// The thread that reads what the program writes, and the sign for it to stop with the next bytes.
    reader: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    /// The line settings before the program ran, in words.
    before: String,
}

fn size((columns, rows): (u16, u16)) -> PtySize {
    PtySize { rows, cols: columns, pixel_width: 0, pixel_height: 0 }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[allow(dead_code, reason = "each test binary uses its own part")]
impl Pty {
    pub fn start(command: CommandBuilder, columns_rows: (u16, u16), answers: Answers) -> Pty {
        let pair = native_pty_system().openpty(size(columns_rows)).unwrap();
        let before = format!("{:?}", pair.master.get_termios().unwrap());
        let child = pair.slave.spawn_command(command).unwrap();
        drop(pair.slave);
        let mut reader = pair.master.try_clone_reader().unwrap();
        let writer = Arc::new(Mutex::new(pair.master.take_writer().unwrap()));
        let parser = Parser::new(columns_rows.1, columns_rows.0, 0);
        let state = Arc::new(Mutex::new(State { parser, output: Vec::new() }));
        let (shared, answer_to) = (state.clone(), Arc::downgrade(&writer));
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            let mut bytes = [0; 8192];
            while let Ok(n @ 1..) = reader.read(&mut bytes) {
                if stopped.load(Relaxed) {
                    return;
                }
                let question = {
                    let mut state = lock(&shared);
                    // What the program drew for another size may cut a wide character of the emulator's screen in two, which it
                    // does not survive: a new one goes on, on the same alternate screen.
                    let (rows, columns) = state.parser.screen().size();
                    let process = AssertUnwindSafe(|| state.parser.process(&bytes[..n]));
                    if catch_unwind(process).is_err() {
                        state.parser = Parser::new(rows, columns, 0);
                        state.parser.process(b"\x1b[?1049h");
                    }
                    let seen = state.output.len().saturating_sub(2);
                    state.output.extend_from_slice(&bytes[..n]);
                    state.output[seen..].windows(3).any(|w| w == b"\x1b[c")
                };
                let answer = match answers {
                    Answers::Plain => "\x1b[?62;22c",
                    Answers::Kitty => "\x1b[?0u\x1b[?62;22c",
                    Answers::Nothing => continue,
                };
                if let (true, Some(writer)) = (question, answer_to.upgrade()) {
                    let _ = lock(&writer).write_all(answer.as_bytes());
                }
            }
        });
        let (master, writer, reader) = (Some(pair.master), Some(writer), Some(thread));
        Pty { master, child, writer, state, reader, stop, before }
    }

    pub fn send(&mut self, keys: &str) {
        let writer = self.writer.as_ref().unwrap();
        lock(writer).write_all(keys.as_bytes()).unwrap();
    }

    pub fn resize(&mut self, columns_rows: (u16, u16)) {
        let mut state = lock(&self.state);
        // The parser does not survive a smaller one.
        state.parser.screen_mut().set_size(columns_rows.1.max(5), columns_rows.0.max(20));
        self.master.as_ref().unwrap().resize(size(columns_rows)).unwrap();
    }

    /// What is on the screen, line by line.
    pub fn text(&self) -> String {
        lock(&self.state).parser.screen().contents()
    }

    pub fn on_screen<T>(&self, look: impl FnOnce(&Screen) -> T) -> T {
        look(lock(&self.state).parser.screen())
    }

    /// All that the program has written.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&lock(&self.state).output).into_owned()
    }

    /// How many bytes the program has written.
    pub fn written(&self) -> usize {
        lock(&self.state).output.len()
    }

    /// Whether `bytes` are among what was written after the first `from` bytes.
    pub fn has_written(&self, from: usize, bytes: &str) -> bool {
        let state = lock(&self.state);
        state.output[from..].windows(bytes.len()).any(|w| w == bytes.as_bytes())
    }

    #[track_caller]
    pub fn wait_for(&mut self, what: &str, is_there: impl Fn(&str) -> bool) {
        let begin = Instant::now();
        loop {
            let text = self.text();
            if is_there(&text) {
                return;
            }
            assert!(begin.elapsed() < PATIENCE, "waited in vain for {what}:\n{text}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[track_caller]
    pub fn wait_for_output(&mut self, what: &str, bytes: &str) {
        let begin = Instant::now();
        while !self.output().contains(bytes) {
            assert!(begin.elapsed() < PATIENCE, "waited in vain for {what}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends a signal to the program, by the name that `kill` knows.
    pub fn signal(&self, name: &str) {
        kill(name, self.child.process_id().unwrap());
    }

    /// Sends a signal to the program of this name that was started from this one.
    pub fn send_signal_to_child(&self, program: &str, name: &str) {
        let parent = self.child.process_id().unwrap().to_string();
        let out = std::process::Command::new("pgrep").args(["-P", &parent, program]).output().unwrap();
        let child = String::from_utf8(out.stdout).unwrap().trim().parse().unwrap();
        kill(name, child);
    }

    #[track_caller]
    pub fn wait_for_exit(&mut self) -> ExitStatus {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                // What it wrote last may still be on its way.
                thread::sleep(Duration::from_millis(50));
                return status;
            }
            assert!(begin.elapsed() < PATIENCE, "it does not end:\n{}", self.text());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Quits with Ctrl+C twice and checks that nothing is left behind.
    #[track_caller]
    pub fn quit(&mut self) {
        self.send("\x03\x03");
        let status = self.wait_for_exit();
        assert!(status.success(), "{status}");
        self.check_restored();
    }

    /// From the next bytes on, nothing that the program writes is taken.
    pub fn stop_reading(&mut self) {
        self.stop.store(true, Relaxed);
    }

    /// Takes the terminal away, while the program still echoes `keys`, and waits for it to end.
    #[track_caller]
    pub fn hang_up(&mut self, keys: &str) {
        // The reading thread holds the terminal open until there is something to read.
        self.stop_reading();
        self.send(keys);
        self.reader.take().unwrap().join().unwrap();
        self.writer = None;
        self.master = None;
        self.wait_for_exit();
    }

    fn termios(&self) -> String {
        format!("{:?}", self.master.as_ref().unwrap().get_termios().unwrap())
    }

    /// Whether the line shows what is typed by itself.
    pub fn has_echo(&self) -> bool {
        self.termios().contains("ECHO |")
    }

    /// Every mode is off, the cursor is seen, and the line is as it was before.
    #[track_caller]
    pub fn check_restored(&self) {
        self.check_modes_off();
        assert_eq!(self.termios(), self.before);
    }

    #[track_caller]
    pub fn check_modes_off(&self) {
        self.on_screen(|s| {
            assert!(!s.alternate_screen(), "the alternate screen is still on");
            assert!(!s.bracketed_paste(), "bracketed paste is still on");
            assert!(!s.hide_cursor(), "the cursor is still hidden");
            assert_eq!(s.mouse_protocol_mode(), MouseProtocolMode::None);
        });
        let on = modes_left_on(&self.output());
        assert!(on.is_empty(), "still on: {on:?}");
    }

    /// Takes the program away without a word.
    pub fn kill_9(&mut self) {
        self.child.kill().unwrap();
        let _ = self.child.wait();
    }

    /// What the last whole frame showed of a program that is gone, in a terminal of this size. A frame that came in part is one
    /// that nobody has seen.
    pub fn last_frame(&mut self, (columns, rows): (u16, u16)) -> String {
        const FRAME_END: &[u8] = b"\x1b[?2026l";
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        let output = &lock(&self.state).output;
        let end = output.windows(FRAME_END.len()).rposition(|w| w == FRAME_END).map_or(0, |at| at + FRAME_END.len());
        let mut parser = Parser::new(rows, columns, 0);
        parser.process(&output[..end]);
        parser.screen().contents()
    }

    /// Whether the program still runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

/// What was switched on by `output` and not off again: private modes by their numbers, kitty's keyboard protocol, a shape of
/// the cursor.
#[allow(dead_code, reason = "each test binary uses its own part")]
pub fn modes_left_on(output: &str) -> Vec<String> {
    let mut modes = std::collections::BTreeMap::new();
    let (mut keyboards, mut shape) = (0_i32, 0);
    for sequence in output.split("\x1b[").skip(1) {
        let Some(end) = sequence.find(|c: char| c.is_ascii_alphabetic()) else { continue };
        let (numbers, last) = (&sequence[..end], &sequence[end..=end]);
        match (numbers.split_at_checked(1), last) {
            (Some(("?", numbers)), "h" | "l") => {
                modes.extend(numbers.split(';').map(|mode| (mode.to_owned(), last == "h")));
            }
            (Some((">", _)), "u") => keyboards += 1,
            (Some(("<", _)), "u") => keyboards -= 1,
            (_, "q") if numbers.ends_with(' ') => shape = numbers.trim_end().parse().unwrap_or(0),
            _ => {}
        }
    }
    // The cursor is to be seen.
    let cursor_hidden = modes.insert("25".to_owned(), false) == Some(false);
    let on = modes.into_iter().filter(|(_, on)| *on).map(|(mode, _)| format!("mode {mode}"));
    let rest = [
        (cursor_hidden, "a hidden cursor".to_owned()),
        (keyboards > 0, "kitty's keyboard protocol".to_owned()),
        (shape != 0, format!("cursor shape {shape}")),
    ];
    on.chain(rest.into_iter().filter(|(on, _)| *on).map(|(_, what)| what)).collect()
}

impl Drop for Pty {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn kill(name: &str, process: u32) {
    let status = std::process::Command::new("kill").args(["-s", name, &process.to_string()]).status().unwrap();
    assert!(status.success(), "kill -s {name} {process}");
}
