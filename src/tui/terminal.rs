//! The terminal's modes: switched on by [`Guard::enter`], put back on drop, on a panic and, by the event loop, on a signal.
//! It also holds the way to the screen: a frame leaves as one write ([`FrameBuffer`]).

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::rc::Rc;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use crossterm::terminal::{disable_raw_mode, enable_raw_mode};

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

const SYNC_BEGIN: &[u8] = b"\x1b[?2026h";
const SYNC_END: &[u8] = b"\x1b[?2026l";

/// How long a terminal may refuse bytes (flow control) before a write counts as failed.
const WRITE_PATIENCE: Duration = Duration::from_secs(10);

/// What is switched on, for whoever must switch it off: the guard or the panic hook.
struct Active {
    output: File,
    thread: ThreadId,
}

static ACTIVE: Mutex<Option<Active>> = Mutex::new(None);
static PANIC: Mutex<Option<String>> = Mutex::new(None);
static HOOK: Once = Once::new();

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Which modes are wanted besides the alternate screen and bracketed paste.
#[derive(Debug, Clone, Copy, Default)]
struct Modes {
    mouse: bool,
    keyboard: bool,
}

/// Holds the terminal in the modes of the chat. There is one at a time.
#[derive(Debug)]
pub struct Guard {
    output: File,
    modes: Modes,
}

impl Guard {
    /// Takes the terminal. Errors: standard output is no terminal, or it refuses.
    pub fn enter() -> io::Result<Guard> {
        if !io::stdout().is_terminal() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "standard output is not a terminal"));
        }
        install_hook();
        let mut guard = Guard { output: open_output()?, modes: Modes::default() };
        guard.resume()?;
        Ok(guard)
    }

    /// Switches the modes on, again after [`Guard::leave`].
    pub fn resume(&mut self) -> io::Result<()> {
        *lock(&ACTIVE) = Some(Active { output: self.output.try_clone()?, thread: thread::current().id() });
        enable_raw_mode()?;
        let mut sequence = String::from(ENTER);
        if self.modes.mouse {
            sequence.push_str(MOUSE_ON);
        }
        if self.modes.keyboard {
            sequence.push_str(KEYBOARD_ON);
        }
        self.write(sequence.as_bytes())
    }

    /// Puts everything back as it was. Does nothing where that has been done.
    pub fn leave(&mut self) {
        restore();
    }

    /// Whether the terminal reports the mouse. While it does, it selects no text by itself.
    pub fn set_mouse(&mut self, on: bool) -> io::Result<()> {
        self.modes.mouse = on;
        self.write(if on { MOUSE_ON } else { MOUSE_OFF }.as_bytes())
    }

    /// Asks for unambiguous keys. For a terminal that has said that it can.
    pub fn enable_keyboard_protocol(&mut self) -> io::Result<()> {
        self.modes.keyboard = true;
        self.write(KEYBOARD_ON.as_bytes())
    }

    /// Writes all of `bytes`, at once where the terminal takes them.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        write_patiently(&mut self.output, bytes)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        restore();
    }
}

/// Standard output without the buffer and the lock that others may hold.
#[cfg(unix)]
fn open_output() -> io::Result<File> {
    use std::os::fd::AsFd;
    Ok(File::from(io::stdout().as_fd().try_clone_to_owned()?))
}

#[cfg(windows)]
fn open_output() -> io::Result<File> {
    use std::os::windows::io::AsHandle;
    Ok(File::from(io::stdout().as_handle().try_clone_to_owned()?))
}

/// Another program may have set the terminal to non-blocking: a full buffer is waited for then too.
fn write_patiently(output: &mut File, mut bytes: &[u8]) -> io::Result<()> {
    let begin = Instant::now();
    while !bytes.is_empty() {
        match output.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => bytes = &bytes[n..],
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && begin.elapsed() < WRITE_PATIENCE => {
                thread::sleep(Duration::from_millis(1));
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Whoever comes first restores; later calls find nothing to do. Errors have nobody left to be told.
fn restore() {
    let Some(mut active) = lock(&ACTIVE).take() else { return };
    let _ = write_patiently(&mut active.output, LEAVE.as_bytes());
    let _ = disable_raw_mode();
}

/// The last resort of a process that must end while the screen's thread is stuck, perhaps in a write: nothing here waits.
pub fn restore_without_waiting() {
    let _ = disable_raw_mode();
    let mut options = std::fs::OpenOptions::new();
    options.write(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32);
    }
    if let Ok(mut tty) = options.open("/dev/tty") {
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
                let what = info.payload_as_str().unwrap_or("no message");
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

/// Whether a frame is wrapped in the marks of a synchronized update (DEC mode 2026), which keeps it from being shown half
/// drawn. Terminals without it ignore the marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Synchronized {
    On,
    Off,
}

/// Collects a frame's bytes, so that it can leave as one write. Clones share the bytes: one goes to the backend.
#[derive(Debug, Clone, Default)]
pub struct FrameBuffer {
    bytes: Rc<RefCell<Vec<u8>>>,
    last: Vec<u8>,
}

impl FrameBuffer {
    /// The bytes to write for the frame just drawn; empty where it would change nothing. Every position and style in a frame
    /// is absolute, so the same bytes twice in a row do nothing the second time.
    pub fn take(&mut self, synchronized: Synchronized) -> Vec<u8> {
        let frame = std::mem::take(&mut *self.bytes.borrow_mut());
        if frame == self.last {
            return Vec::new();
        }
        let out = match synchronized {
            Synchronized::On => [SYNC_BEGIN, &frame, SYNC_END].concat(),
            Synchronized::Off => frame.clone(),
        };
        self.last = frame;
        out
    }

    /// Forgets the last frame: the screen is not as it left it.
    pub fn forget(&mut self) {
        self.last.clear();
    }
}

impl Write for FrameBuffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
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

    #[test]
    fn a_frame_that_repeats_the_last_one_writes_nothing() {
        let mut buffer = FrameBuffer::default();
        let mut backend = buffer.clone();
        backend.write_all(b"\x1b[1;1Hhi").unwrap();
        assert_eq!(buffer.take(Synchronized::On), b"\x1b[?2026h\x1b[1;1Hhi\x1b[?2026l");
        backend.write_all(b"\x1b[1;1Hhi").unwrap();
        assert_eq!(buffer.take(Synchronized::On), b"");
        buffer.forget();
        backend.write_all(b"\x1b[1;1Hhi").unwrap();
        assert_eq!(buffer.take(Synchronized::Off), b"\x1b[1;1Hhi");
    }
}
