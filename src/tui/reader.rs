//! Reads the terminal's input on a thread of its own: keys, pastes and the mouse come out as messages.
//!
//! crossterm parses the bytes, but it is only asked when there are some: by itself it would not notice a terminal that has
//! gone away.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use crossterm::event::{self, Event};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::theme::{Answer, Ground, GroundQuestion};

/// Between the parts of a terminal's answer there is less time than this.
const ANSWER_PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// What comes from the terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    Event(Event),
    /// The terminal can tell keys apart that others cannot (kitty's keyboard protocol).
    KeyboardProtocol,
    /// The terminal has told its background.
    Ground(Ground),
    /// The terminal has gone away.
    Closed,
}

/// What the terminal is asked at the start, which no one waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Questions {
    /// Asked here: whether it can tell more keys apart.
    pub keyboard: bool,
    /// Asked already: what its background is. The answer comes among what is typed.
    pub ground: bool,
}

impl Questions {
    pub const NONE: Questions = Questions { keyboard: false, ground: false };
}

/// Reads while it lives.
pub struct Reader {
    inputs: Receiver<Input>,
    sender: Sender<Input>,
    /// Closing it wakes the thread.
    wake: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    /// Starts reading; raw mode must be on.
    pub fn start(questions: Questions) -> io::Result<Reader> {
        let (sender, inputs) = unbounded();
        let mut reader = Reader { inputs, sender, wake: None, thread: None };
        reader.resume(questions)?;
        Ok(reader)
    }

    /// Reads again after [`Reader::pause`].
    pub fn resume(&mut self, questions: Questions) -> io::Result<()> {
        let terminal = open_terminal()?;
        let (wake, woken) = UnixStream::pair()?;
        let sender = self.sender.clone();
        let thread = std::thread::Builder::new().name("terminal input".into()).spawn(move || {
            if questions.keyboard && matches!(crossterm::terminal::supports_keyboard_enhancement(), Ok(true)) {
                let _ = sender.send(Input::KeyboardProtocol);
            }
            if read_until_woken(&terminal, &woken, &sender, questions).is_err() {
                let _ = sender.send(Input::Closed);
            }
        })?;
        (self.wake, self.thread) = (Some(wake), Some(thread));
        Ok(())
    }

    /// Leaves what is typed to others.
    pub fn pause(&mut self) {
        const PATIENCE: Duration = Duration::from_millis(200);
        drop(self.wake.take());
        let Some(thread) = self.thread.take() else { return };
        let began = std::time::Instant::now();
        while !thread.is_finished() && began.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(1));
        }
        // A thread that is in the middle of a key's sequence may wait for its rest: it is left behind then.
        if thread.is_finished() {
            let _ = thread.join();
        }
    }

    pub fn inputs(&self) -> &Receiver<Input> {
        &self.inputs
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        drop(self.wake.take());
        if let Some(thread) = self.thread.take()
            && thread.is_finished()
        {
            let _ = thread.join();
        }
    }
}

/// The terminal that crossterm reads: standard input, or else the controlling terminal.
fn open_terminal() -> io::Result<OwnedFd> {
    let stdin = io::stdin();
    if io::IsTerminal::is_terminal(&stdin) {
        return stdin.as_fd().try_clone_to_owned();
    }
    Ok(std::fs::File::open("/dev/tty")?.into())
}

/// Returns when `woken` closes. Errors: the terminal has gone away.
fn read_until_woken(
    terminal: &OwnedFd,
    woken: &UnixStream,
    sender: &Sender<Input>,
    questions: Questions,
) -> io::Result<()> {
    // How long crossterm is given to make events of bytes that have arrived. It looks at none where that time is over before
    // it begins, as it can be on a busy machine: it is asked until it has had nothing so often in a row.
    const TAKE: Duration = Duration::from_millis(5);
    const EMPTY: u32 = 2;
    let mut patience = TAKE;
    let mut question = questions.ground.then(GroundQuestion::default);
    let send = |input| sender.send(input).is_ok();
    loop {
        // First come the events that crossterm holds already, as after the question about the keyboard.
        let mut empty = 0;
        while empty < EMPTY {
            if !event::poll(patience)? {
                empty += 1;
                continue;
            }
            empty = 0;
            let event = event::read()?;
            let sent = match question.as_mut().map(|question| question.take(event.clone())) {
                None => send(Input::Event(event)),
                Some(Answer::Held) => true,
                Some(Answer::Ground(ground)) => {
                    question = None;
                    send(Input::Ground(ground))
                }
                Some(Answer::Typed(events)) => events.into_iter().all(|event| send(Input::Event(event))),
            };
            if !sent {
                return Ok(());
            }
        }
        let mut fds = [PollFd::new(terminal, PollFlags::IN), PollFd::new(woken, PollFlags::IN)];
        let held = question.as_mut().filter(|question| question.is_holding());
        match poll(&mut fds, held.is_some().then_some(&ANSWER_PAUSE)) {
            Ok(0) => {
                // What was held back was typed after all.
                let typed = held.map(GroundQuestion::give_up).unwrap_or_default();
                if !typed.into_iter().all(|event| send(Input::Event(event))) {
                    return Ok(());
                }
                continue;
            }
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(e) => return Err(e.into()),
        }
        if !fds[1].revents().is_empty() {
            return Ok(());
        }
        if fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // Some systems cannot poll a terminal: there, crossterm waits for bytes by itself.
        patience = if fds[0].revents().contains(PollFlags::NVAL) { Duration::from_millis(250) } else { TAKE };
    }
}
