//! Reads by a few threads that block, where the kernel's queue is refused or there is none.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::Arena;
use super::source::{Finished, Request, Source, Wait, Way, read_at};
use crate::store::StoreError;

#[derive(Debug)]
pub(super) struct Threads {
    /// `None` only while it is dropped.
    requests: Option<Sender<Request>>,
    finished: Receiver<Finished>,
    threads: Vec<JoinHandle<()>>,
}

impl Threads {
    /// # Errors
    /// Where not one thread can be started.
    pub(super) fn new(files: Vec<File>, arena: &Arc<Arena>, n_threads: usize) -> Result<Threads, StoreError> {
        let (requests, waiting) = unbounded::<Request>();
        let (done, finished) = unbounded();
        let files: Arc<[File]> = files.into();
        let start = |n: usize| {
            let (files, arena, waiting, done) = (files.clone(), arena.clone(), waiting.clone(), done.clone());
            let read = move || {
                for Request { id, file, offset, at, n_bytes } in waiting {
                    let outcome = read_at(&files[file], offset, &arena, at, n_bytes);
                    if done.send(Finished { id, outcome }).is_err() {
                        break;
                    }
                }
            };
            Builder::new().name(format!("read-{n}")).spawn(read)
        };
        let started: Vec<_> = (0..n_threads).map(start).collect();
        let (threads, refused): (Vec<_>, Vec<_>) = started.into_iter().partition(Result::is_ok);
        match refused.into_iter().find_map(io::Result::err) {
            Some(error) if threads.is_empty() => Err(StoreError::Threads(error)),
            _ => Ok(Threads { requests: Some(requests), finished, threads: threads.into_iter().flatten().collect() }),
        }
    }
}

impl Source for Threads {
    fn way(&self) -> Way {
        Way::Threads
    }

    fn start(&mut self, requests: &[Request]) {
        let sender = self.requests.as_ref().expect("it is there until the drop");
        for &request in requests {
            sender.send(request).expect("the threads live as long as their sender");
        }
    }

    fn reap(&mut self, wait: Wait, finished: &mut Vec<Finished>) {
        if wait == Wait::One {
            finished.push(self.finished.recv().expect("the threads live as long as their sender"));
        }
        finished.extend(self.finished.try_iter());
    }
}

impl Drop for Threads {
    /// Ends the threads, each after the read it is in.
    fn drop(&mut self) {
        self.requests = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
