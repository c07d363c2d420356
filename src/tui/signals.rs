//! Signals as messages. The screen's thread acts on them, since it owns the terminal; should it be stuck when the process
//! is told to end, the thread here restores the terminal and ends the process itself.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGWINCH};
use signal_hook::iterator::{Handle, Signals};
use signal_hook::low_level::emulate_default_handler;

use super::terminal;

/// How long the screen's thread has to save what was typed and to end by itself.
const PATIENCE: Duration = Duration::from_secs(8);

/// What the system asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// End, as after this signal.
    End(i32),
    /// Stop until continued.
    Stop,
    /// Continued after a stop.
    Continued,
    /// The terminal has another size.
    Resized,
}

/// Listens while it lives.
pub struct SignalThread {
    notices: Receiver<Notice>,
    /// Another program has the terminal: what its keys send is meant for that one.
    keys_elsewhere: Arc<AtomicBool>,
    handle: Handle,
    done: Sender<()>,
    thread: Option<JoinHandle<()>>,
}

impl SignalThread {
    pub fn start() -> io::Result<SignalThread> {
        let mut signals = Signals::new([SIGTERM, SIGHUP, SIGINT, SIGQUIT, SIGTSTP, SIGCONT, SIGWINCH])?;
        let handle = signals.handle();
        let (sender, notices) = unbounded();
        let (done, is_done) = bounded(1);
        let keys_elsewhere = Arc::new(AtomicBool::new(false));
        let elsewhere = Arc::clone(&keys_elsewhere);
        let thread = std::thread::Builder::new().name("signals".into()).spawn(move || {
            for signal in signals.forever() {
                if elsewhere.load(Ordering::Relaxed) && [SIGINT, SIGQUIT].contains(&signal) {
                    continue;
                }
                let notice = match signal {
                    SIGTSTP => Notice::Stop,
                    SIGCONT => Notice::Continued,
                    SIGWINCH => Notice::Resized,
                    signal => Notice::End(signal),
                };
                if sender.send(notice).is_err() {
                    return;
                }
                if let Notice::End(signal) = notice {
                    if is_done.recv_timeout(PATIENCE).is_ok() {
                        return;
                    }
                    terminal::restore_without_waiting();
                    let _ = emulate_default_handler(signal);
                }
            }
        })?;
        Ok(SignalThread { notices, keys_elsewhere, handle, done, thread: Some(thread) })
    }

    /// Whether the signals of the terminal's keys are for another program.
    pub fn set_keys_elsewhere(&self, elsewhere: bool) {
        self.keys_elsewhere.store(elsewhere, Ordering::Relaxed);
    }

    pub fn notices(&self) -> &Receiver<Notice> {
        &self.notices
    }
}

impl Drop for SignalThread {
    fn drop(&mut self) {
        let _ = self.done.try_send(());
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Stops until continued, as the signal would have done by itself: not where nobody could continue it.
pub fn stop() {
    if !is_alone() {
        let _ = emulate_default_handler(SIGTSTP);
    }
}

/// Nobody could continue this process if it stopped: it leads a session of its own.
pub fn is_alone() -> bool {
    rustix::process::getsid(None).is_ok_and(|session| session == rustix::process::getpid())
}
