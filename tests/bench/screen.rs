//! What the chat's screen costs, measured on the program itself in a pseudo-terminal: `cargo bench --bench screen`.
//!
//! - a frame: time of the screen's thread, a conversation of 100k tokens and the panel open at 200x60, while a reply streams;
//! - an echo: a key goes in, and comes out on the screen, while the engine keeps every core busy;
//! - a token: bytes that the terminal gets for each, with the panel and without.
//!
//! `WAYINFER_BENCH_MODEL` names the model that echoes and tokens are measured with; without it that is the one in the binary.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prints its figures and fails where it cannot"
)]

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use portable_pty::{Child, MasterPty, PtySize, native_pty_system};
use vt100::Parser;

#[path = "../terminal/program.rs"]
mod program;

/// How long the program may take for anything.
const PATIENCE: Duration = Duration::from_secs(120);
/// What ends each frame.
const FRAME_END: &[u8] = b"\x1b[?2026l";
const ECHOES: usize = 200;

/// The program, and what it writes with the time at which it came.
struct Chat {
    child: Box<dyn Child + Send + Sync>,
    _master: Box<dyn MasterPty + Send>,
    writer: Box<dyn Write + Send>,
    output: Receiver<(Instant, Vec<u8>)>,
    screen: Parser,
    bytes: usize,
    frames: usize,
}

impl Chat {
    fn start(home: &Path, arguments: &[&str], (columns, rows): (u16, u16)) -> Chat {
        let size = PtySize { rows, cols: columns, pixel_width: 0, pixel_height: 0 };
        let pair = native_pty_system().openpty(size).unwrap();
        let command = program::at_home(home, arguments);
        let child = pair.slave.spawn_command(command).unwrap();
        drop(pair.slave);
        let mut reader = pair.master.try_clone_reader().unwrap();
        let (sender, output) = channel();
        thread::spawn(move || {
            let mut bytes = vec![0; 1 << 16];
            while let Ok(n @ 1..) = reader.read(&mut bytes) {
                if sender.send((Instant::now(), bytes[..n].to_vec())).is_err() {
                    return;
                }
            }
        });
        let writer = pair.master.take_writer().unwrap();
        let screen = Parser::new(rows, columns, 0);
        Chat { child, _master: pair.master, writer, output, screen, bytes: 0, frames: 0 }
    }

    fn send(&mut self, keys: &str) {
        self.writer.write_all(keys.as_bytes()).unwrap();
    }

    /// Takes what comes until `is_there`; when it came.
    fn wait(&mut self, what: &str, is_there: impl Fn(&str) -> bool) -> Instant {
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            if let Some(at) = self.take(Duration::from_millis(50))
                && is_there(&self.screen.screen().contents())
            {
                return at;
            }
            if is_there(&self.screen.screen().contents()) {
                return Instant::now();
            }
        }
        panic!("waited in vain for {what}:\n{}", self.screen.screen().contents());
    }

    /// Takes one piece of what comes; when it came.
    fn take(&mut self, patience: Duration) -> Option<Instant> {
        let (at, bytes) = self.output.recv_timeout(patience).ok()?;
        self.screen.process(&bytes);
        self.bytes += bytes.len();
        self.frames += bytes.windows(FRAME_END.len()).filter(|w| *w == FRAME_END).count();
        Some(at)
    }

    fn pass(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            self.take(left.min(Duration::from_millis(20)));
        }
    }

    /// Time that the thread of the screen has computed.
    fn screen_time(&self) -> Duration {
        let process = self.child.process_id().unwrap();
        let text = std::fs::read_to_string(format!("/proc/{process}/task/{process}/schedstat"));
        let text = text.expect("the kernel counts the time of threads");
        Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
    }

    fn quit(mut self) {
        self.send("\x03\x03");
        let begin = Instant::now();
        while self.child.try_wait().unwrap().is_none() && begin.elapsed() < PATIENCE {
            self.take(Duration::from_millis(10));
        }
    }
}

fn median(mut values: Vec<f64>) -> (f64, f64) {
    values.sort_by(f64::total_cmp);
    (values[values.len() / 2], values[values.len() * 95 / 100])
}

/// A session of about 100k tokens, as a file.
fn long_session(path: &Path) {
    const TURNS: usize = 140;
    let head =
        r#"{"time":"2020-01-01T00:00:00Z","type":"header","version":2,"program":"w","system":null,"sampling":{}}"#;
    let mut text = format!("{head}\n");
    let paragraph = "The quick **brown** fox jumps over the lazy dog, and `memory` is a ladder of tiers. ".repeat(8);
    let reply = format!(
        "## On foxes\\n\\n{paragraph}\\n\\n```rust\\nfn fox() -> usize {{ 42 }}\\n```\\n\\n- {paragraph}\\n- {paragraph}\\n\\n{paragraph}"
    );
    for turn in 0..TURNS {
        let (id, parent) = (2 * turn + 1, if turn == 0 { "null".into() } else { (2 * turn).to_string() });
        let time = "2020-01-01T00:00:01Z";
        let _ =
            writeln!(text, r#"{{"time":"{time}","type":"user","id":{id},"parent":{parent},"text":"go on {turn}"}}"#);
        let _ = writeln!(
            text,
            r#"{{"time":"{time}","type":"reply","id":{},"parent":{id},"text":"{reply}","stop":"end_of_turn","tokens":714,"seconds":9.0}}"#,
            id + 1
        );
    }
    std::fs::write(path, text).unwrap();
}

fn frames(home: &Path) {
    let path = home.join("long.jsonl");
    long_session(&path);
    let options = ["--greedy", "--frequency-penalty=-10", "--threads", "1", "--ctx", "8192", "--session"];
    let mut chat =
        Chat::start(home, &[&[program::tiny_model()], &options[..], &[path.to_str().unwrap()]].concat(), (200, 60));
    let begin = Instant::now();
    chat.wait("the conversation", |s| s.contains("· ready") && s.contains("tok/s · end of turn"));
    println!("a session of 100k tokens opened in {:.0} ms", begin.elapsed().as_secs_f64() * 1e3);
    chat.send("and on\r");
    chat.wait("the question", |s| s.contains("The context is full"));
    chat.send("d");
    chat.wait("the reply", |s| s.contains("replying"));
    chat.pass(Duration::from_secs(1));
    let mut costs = Vec::new();
    for _ in 0..30 {
        let (time, frames) = (chat.screen_time(), chat.frames);
        chat.pass(Duration::from_millis(200));
        let frames = chat.frames - frames;
        if frames > 0 {
            costs.push(chat.screen_time().saturating_sub(time).as_secs_f64() * 1e3 / frames as f64);
        }
    }
    let (median, p95) = median(costs);
    println!("a frame, 100k tokens, panel open, 200x60: {median:.2} ms in the median, {p95:.2} ms at 95 % (asked: 4)");
    chat.quit();
}

fn with_model(home: &Path, size: (u16, u16)) -> Chat {
    let model = std::env::var("WAYINFER_BENCH_MODEL").unwrap_or_else(|_| "demo".into());
    let mut chat = Chat::start(home, &[&model, "--ctx", "8192", "--temp", "1"], size);
    chat.wait("the model", |s| s.contains("· ready"));
    chat
}

/// Asks for something long, and waits until it comes.
fn ask(chat: &mut Chat) {
    chat.send("Write a very long story about the sea, in many chapters.\r");
    chat.wait("the reply", |s| s.contains("replying"));
    chat.pass(Duration::from_millis(500));
}

fn echoes(home: &Path) {
    let mut chat = with_model(home, (200, 60));
    ask(&mut chat);
    let mut times = Vec::new();
    let mut typed = String::new();
    while times.len() < ECHOES {
        if !chat.screen.screen().contents().contains("replying") {
            chat.send(&"\x15".repeat(2));
            typed.clear();
            ask(&mut chat);
        }
        typed.push(char::from(b'a' + (times.len() % 26) as u8));
        let shown = format!("› {typed}");
        let sent = Instant::now();
        chat.send(&typed[typed.len() - 1..]);
        let came = chat.wait("the letter", |s| s.contains(&shown));
        times.push(came.duration_since(sent).as_secs_f64() * 1e3);
        if typed.len() == 60 {
            chat.send("\x15");
            typed.clear();
            chat.wait("an empty input", |s| !s.contains(&shown));
        }
        chat.pass(Duration::from_millis(23 + (times.len() % 7) as u64 * 5));
    }
    let (median, p95) = median(times);
    println!("an echo while the engine computes: {median:.1} ms in the median, {p95:.1} ms at 95 % (asked: 16)");
    chat.quit();
}

fn bytes(home: &Path) {
    for (what, keys) in [("chat alone", "\x1bOQ\x1bOQ"), ("with the panel", "")] {
        for size in [(80, 24), (200, 60)] {
            let mut chat = with_model(home, size);
            chat.send(keys);
            chat.send("/max-tokens 200\r");
            chat.wait("the limit", |s| s.contains("of a reply is 200"));
            chat.pass(Duration::from_millis(1500));
            chat.send("Tell a long story about the sea.\r");
            chat.wait("the reply", |s| s.contains("replying"));
            let (bytes, begin) = (chat.bytes, Instant::now());
            chat.wait("its end", |s| s.contains("token limit") || s.contains("end of turn"));
            let (bytes, seconds) = (chat.bytes - bytes, begin.elapsed().as_secs_f64());
            let text = chat.screen.screen().contents();
            let tokens = text.lines().find_map(|line| line.split_once(" tokens · ")?.0.trim().parse::<f64>().ok());
            let tokens = tokens.expect("how many tokens it has");
            let (a_token, rate) = (bytes as f64 / tokens, bytes as f64 / seconds / 1024.0);
            println!(
                "{what}, {}x{}: {a_token:.0} bytes a token, {rate:.1} KiB/s at {:.0} tok/s",
                size.0,
                size.1,
                tokens / seconds
            );
            chat.quit();
        }
    }
}

fn main() {
    let home = tempfile::tempdir().unwrap();
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    for (name, measure) in [("frames", frames as fn(&Path)), ("echoes", echoes), ("bytes", bytes)] {
        if wanted.is_empty() || wanted.iter().any(|w| w == name) {
            measure(home.path());
        }
    }
}
