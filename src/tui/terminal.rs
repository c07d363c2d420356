//! The terminal's modes: switched on by [`Guard::enter`], put back on drop, on a panic and, by the event loop, on a signal.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Duration;

use crossbeam_channel::Receiver;
use crossterm::terminal::{disable_raw_mode, enable_raw_mode};

use super::output::{Output, Progress};

/// The alternate screen, cleared, and bracketed paste.
const ENTER: &str = "\x1b[?1049h\x1b[2J\x1b[H\x1b[?2004h";
/// Everything that may be on, off, in whatever state a frame was left: the end of a synchronized update, the keyboard
/// protocol, the mouse, bracketed paste, colours, the cursor, the alternate screen. A handler that may only write bytes (of
/// SIGBUS, say) can write this one.
pub const LEAVE: &str =
    concat!("\x1b[?2026l", "\x1b[<u", "\x1b[?1006l\x1b[?1000l", "\x1b[?2004l", "\x1b[0m", "\x1b[?25h", "\x1b[?1049l");
/// Buttons and the wheel, in coordinates without a limit; not motion, which would flood a slow line.
const MOUSE_ON: &str = "\x1b[?1000h\x1b[?1006h";
const MOUSE_OFF: &str = "\x1b[?1006l\x1b[?1000l";
/// Tells Shift+Enter from Enter and a lone Esc from the start of a sequence (kitty's protocol, level 1).
const KEYBOARD_ON: &str = "\x1b[>1u";

/// How long a terminal may take to be put back before that is done without waiting.
const LEAVE_PATIENCE: Duration = Duration::from_secs(1);

/// What is switched on, for whoever must switch it off: the guard or the panic hook.
struct Active {
    output: Output,
    thread: ThreadId,
}

static ACTIVE: Mutex<Option<Active>> = Mutex::new(None);
static PANIC: Mutex<Option<String>> = Mutex::new(None);
static HOOK: Once = Once::new();

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Holds the terminal in the modes of the chat. There is one at a time.
#[derive(Debug)]
pub struct Guard {
    output: Output,
    progress: Receiver<Progress>,
    mouse: bool,
    keyboard: bool,
}

impl Guard {
    /// Takes the terminal. Errors: standard output is no terminal, or it refuses.
    pub fn enter() -> io::Result<Guard> {
        if !io::stdout().is_terminal() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "standard output is not a terminal"));
        }
        install_hook();
        let (output, progress) = Output::start(open_output()?)?;
        let mut guard = Guard { output, progress, mouse: false, keyboard: false };
        guard.resume()?;
        Ok(guard)
    }

    /// Switches the modes on, again after [`Guard::leave`].
    pub fn resume(&mut self) -> io::Result<()> {
        *lock(&ACTIVE) = Some(Active { output: self.output.clone(), thread: thread::current().id() });
        enable_raw_mode()?;
        self.write(ENTER);
        if self.mouse {
            self.write(MOUSE_ON);
        }
        if self.keyboard {
            self.write(KEYBOARD_ON);
        }
        Ok(())
    }

    /// Puts everything back as it was. Does nothing where that has been done.
    pub fn leave(&mut self) {
        restore();
    }

    /// Whether the terminal reports the mouse. While it does, it selects no text by itself.
    pub fn set_mouse(&mut self, on: bool) {
        self.mouse = on;
        self.switch(if on { MOUSE_ON } else { MOUSE_OFF });
    }

    /// Asks for unambiguous keys. For a terminal that has said that it can.
    pub fn enable_keyboard_protocol(&mut self) {
        self.keyboard = true;
        self.switch(KEYBOARD_ON);
    }

    /// Writes what switches a mode, unless the terminal is in other hands: it is switched when it comes back.
    fn switch(&self, bytes: &str) {
        if lock(&ACTIVE).is_some() {
            self.write(bytes);
        }
    }

    /// Writes without waiting.
    pub fn write(&self, bytes: impl Into<Vec<u8>>) {
        self.output.write(bytes.into());
    }

    /// Whether the terminal has taken all that was written.
    pub fn is_idle(&self) -> bool {
        self.output.is_idle()
    }

    /// Tells when it has, and when it takes no more.
    pub fn progress(&self) -> &Receiver<Progress> {
        &self.progress
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        restore();
    }
}

/// Standard output without the buffer and the lock that others may hold.
fn open_output() -> io::Result<File> {
    Ok(File::from(io::stdout().as_fd().try_clone_to_owned()?))
}

/// Whoever comes first restores; later calls find nothing to do. Errors have nobody left to be told.
fn restore() {
    let Some(active) = lock(&ACTIVE).take() else { return };
    active.output.write(LEAVE.into());
    if active.output.drain(LEAVE_PATIENCE) {
        let _ = disable_raw_mode();
    } else {
        restore_without_waiting();
    }
}

/// The last resort where the terminal takes no bytes: what it will not take at once is left out.
pub fn restore_without_waiting() {
    let _ = disable_raw_mode();
    let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    if let Ok(mut tty) = OpenOptions::new().write(true).custom_flags(flags).open("/dev/tty") {
        let _ = tty.write(LEAVE.as_bytes());
    }
}

/// Before a panic of the screen's thread is printed, the terminal is put back. A panic of another thread must not disturb
/// the screen: it is kept for [`take_panic`] instead of printed.
fn install_hook() {
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let elsewhere = lock(&ACTIVE).as_ref().is_some_and(|active| active.thread != thread::current().id());
            if elsewhere {
                let thread = thread::current();
                let name = thread.name().unwrap_or("a thread").to_owned();
                let payload = info.payload();
                let what = payload.downcast_ref::<&str>().copied();
                let what = what.or(payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
                let place = info.location().map_or_else(String::new, |l| format!(" ({l})"));
                *lock(&PANIC) = Some(format!("`{name}` panicked: {what}{place}"));
            } else {
                restore();
                before(info);
            }
        }));
    });
}

/// What the last panic of another thread said, once.
pub fn take_panic() -> Option<String> {
    lock(&PANIC).take()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_can_be_switched_on_is_switched_off() {
        for on in [ENTER, MOUSE_ON] {
            for mode in on.split('\x1b').filter(|s| s.starts_with("[?") && s.ends_with('h')) {
                let off = format!("\x1b{}l", mode.trim_end_matches('h'));
                assert!(LEAVE.contains(&off), "{off:?}");
            }
        }
        assert!(KEYBOARD_ON.contains("[>1u") && LEAVE.contains("\x1b[<u"));
        assert!(
            LEAVE.find("\x1b[<u") < LEAVE.find("\x1b[?1049l"),
            "the keyboard's stack is the alternate screen's own"
        );
    }
}
