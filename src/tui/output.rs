//! The way to the screen: a thread that writes, so that a terminal which takes its time holds up nobody, and the bytes of
//! a frame, which leave as one write.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Write};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

const SYNC_BEGIN: &[u8] = b"\x1b[?2026h";
const SYNC_END: &[u8] = b"\x1b[?2026l";

enum Job {
    Write(Vec<u8>),
    /// Answered when all before it is written.
    Report(Sender<()>),
}

/// What the thread tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// All is written: a frame may come.
    Idle,
    /// The terminal takes no more bytes.
    Failed,
}

/// The end that bytes go in at. Clones share the thread, which ends with the last of them.
#[derive(Debug, Clone)]
pub struct Output {
    jobs: Sender<Job>,
    pending: Arc<AtomicUsize>,
}

impl Output {
    /// Starts a thread that writes to `file`.
    pub fn start(file: File) -> io::Result<(Output, Receiver<Progress>)> {
        let (jobs, inbox) = unbounded();
        let (outbox, progress) = unbounded();
        let pending = Arc::new(AtomicUsize::new(0));
        let counted = pending.clone();
        thread::Builder::new().name("terminal output".into()).spawn(move || serve(file, &inbox, &outbox, &counted))?;
        Ok((Output { jobs, pending }, progress))
    }

    /// Writes `bytes` after all before them, without waiting.
    pub fn write(&self, bytes: Vec<u8>) {
        self.pending.fetch_add(1, SeqCst);
        let _ = self.jobs.send(Job::Write(bytes));
    }

    /// Whether all is written.
    pub fn is_idle(&self) -> bool {
        self.pending.load(SeqCst) == 0
    }

    /// Waits until all is written; false where that takes longer than `patience`.
    pub fn drain(&self, patience: Duration) -> bool {
        let (sender, report) = bounded(1);
        self.jobs.send(Job::Report(sender)).is_ok() && report.recv_timeout(patience).is_ok()
    }
}

fn serve(mut file: File, inbox: &Receiver<Job>, outbox: &Sender<Progress>, pending: &AtomicUsize) {
    while let Ok(job) = inbox.recv() {
        match job {
            Job::Write(bytes) => {
                let failed = write_all(&mut file, &bytes).is_err();
                let left = pending.fetch_sub(1, SeqCst) - 1;
                if failed || left == 0 {
                    let _ = outbox.send(if failed { Progress::Failed } else { Progress::Idle });
                }
            }
            Job::Report(answer) => drop(answer.send(())),
        }
    }
}

/// Another program may have set the terminal to non-blocking: a full buffer is waited for then too.
fn write_all(file: &mut File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => bytes = &bytes[n..],
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(1)),
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Whether a frame is wrapped in the marks of a synchronized update (DEC mode 2026), which keeps it from being shown half
/// drawn. Terminals without it ignore the marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Synchronized {
    On,
    Off,
}

/// Collects a frame's bytes. Clones share them: one goes to the backend.
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

    #[cfg(unix)]
    #[test]
    fn a_reader_that_does_not_read_holds_up_nobody_and_gets_all_in_order_when_it_does() {
        use std::io::Read;
        use std::os::fd::OwnedFd;
        let (mut reader, writer) = std::os::unix::net::UnixStream::pair().unwrap();
        let (output, progress) = Output::start(File::from(OwnedFd::from(writer))).unwrap();
        let piece = vec![b'x'; 1 << 20];
        for _ in 0..8 {
            output.write(piece.clone());
        }
        output.write(b"end".to_vec());
        assert!(!output.is_idle());
        assert!(!output.drain(Duration::from_millis(20)));
        let mut read = vec![0; 8 * piece.len() + 3];
        reader.read_exact(&mut read).unwrap();
        assert!(read.ends_with(b"xend"));
        assert!(output.drain(Duration::from_secs(10)));
        assert_eq!(progress.recv_timeout(Duration::from_secs(10)), Ok(Progress::Idle));
        drop(reader);
        output.write(piece);
        assert_eq!(progress.recv_timeout(Duration::from_secs(10)), Ok(Progress::Failed));
    }
}
