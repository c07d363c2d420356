//! Reads through the kernel's own queue, io_uring: no thread has to run for the next read to begin. The ring has the
//! default completion mode: the kernel interrupts the thread that submitted a read to post its completion, even while
//! that thread computes, and posts it in memory that is read without a system call.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use io_uring::{IoUring, Probe, opcode, types};

use super::Arena;
use super::reader::MAX_REQUESTS;
use super::source::{Finished, Request, Source, Wait, Way};

pub(super) struct Uring {
    ring: IoUring,
    files: Vec<File>,
    arena: Arc<Arena>,
    /// Requests in the ring that the kernel has not taken yet, in order.
    untaken: VecDeque<u32>,
    /// Why the kernel takes no more; for good.
    refused: Option<io::ErrorKind>,
}

impl Uring {
    /// # Errors
    /// Where this kernel has no io_uring or does not let this process have it.
    pub(super) fn new() -> io::Result<IoUring> {
        let mut ring = IoUring::new(MAX_REQUESTS as u32)?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        if !probe.is_supported(opcode::Read::CODE) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        // A filter of system calls may let a ring be made and not be used.
        // SAFETY: The operation has no operands.
        unsafe { ring.submission().push(&opcode::Nop::new().build()) }.expect("the ring is empty");
        ring.submit_and_wait(1)?;
        ring.completion().next().ok_or(io::ErrorKind::Unsupported)?;
        Ok(ring)
    }

    pub(super) fn with_ring(ring: IoUring, files: Vec<File>, arena: Arc<Arena>) -> Uring {
        Uring { ring, files, arena, untaken: VecDeque::with_capacity(MAX_REQUESTS), refused: None }
    }

    /// Hands what is in the ring to the kernel, and waits for `n` completions.
    fn enter(&mut self, n: usize) {
        if self.refused.is_some() {
            return;
        }
        if let Err(error) = self.ring.submit_and_wait(n) {
            // The kernel was interrupted or is short of memory: the next call tries again.
            let passing = [libc::EINTR, libc::EAGAIN, libc::EBUSY, libc::ENOMEM];
            if !error.raw_os_error().is_some_and(|code| passing.contains(&code)) {
                self.refused = Some(error.kind());
            }
        }
        let left = self.ring.submission().len();
        self.untaken.drain(..self.untaken.len() - left);
    }
}

impl Source for Uring {
    fn way(&self) -> Way {
        Way::Uring
    }

    fn start(&mut self, requests: &[Request]) {
        for &Request { id, file, offset, at, n_bytes } in requests {
            let target = self.arena.target(at, u64::from(n_bytes));
            let read = opcode::Read::new(types::Fd(self.files[file].as_raw_fd()), target, n_bytes);
            let entry = read.offset(offset).build().user_data(id.into());
            // SAFETY: The file is open and the bytes are in the arena until the request has ended: both live as long as
            // the ring, and who drops it has waited for what is in flight. Nobody else uses the bytes: requests in flight
            // do not overlap, and who takes a slice of the arena has promised that none is in flight there.
            unsafe { self.ring.submission().push(&entry) }.expect("the ring has room for all that may be in flight");
            self.untaken.push_back(id);
        }
        self.enter(0);
    }

    fn reap(&mut self, wait: Wait, finished: &mut Vec<Finished>) {
        let before = finished.len();
        loop {
            let ended = self.ring.completion().map(|entry| Finished {
                id: entry.user_data() as u32,
                outcome: u32::try_from(entry.result()).map_err(|_| io::Error::from_raw_os_error(-entry.result())),
            });
            finished.extend(ended);
            if let Some(kind) = self.refused {
                let refused = |id| Finished { id, outcome: Err(kind.into()) };
                finished.extend(self.untaken.drain(..).map(refused));
            }
            if wait == Wait::No || finished.len() > before {
                break;
            }
            match self.refused {
                None => self.enter(1),
                // What the kernel has taken ends all the same.
                Some(_) => std::thread::sleep(std::time::Duration::from_millis(1)),
            }
        }
        if !self.untaken.is_empty() {
            self.enter(0);
        }
    }
}

impl fmt::Debug for Uring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uring").field("untaken", &self.untaken).field("refused", &self.refused).finish_non_exhaustive()
    }
}
