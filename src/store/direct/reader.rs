//! The reader's own queue: batches of file ranges are cut into requests, of which the kernel is given a few at a time,
//! demand before speculation; what ends is joined into one completion a batch.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::orders::{Completion, Extent, GivenUp, Piece, ReadError, ReaderOptions, Ticket, Urgency};
use super::source::{Finished, Request, Source, Wait, Way, open_direct};
use super::threads::Threads;
use super::{ALIGN, Arena, slot_bytes};
use crate::store::mapping::{ModelFile, StoreError};

/// Requests that may be in flight.
pub(super) const MAX_REQUESTS: usize = 64;
/// How often a request is tried that the system interrupts or that brings nothing.
const MAX_ATTEMPTS: u32 = 16;

/// Reads a model's files into an arena. It is called by one thread at a time, any.
#[derive(Debug)]
pub struct Reader {
    source: Box<dyn Source>,
    paths: Vec<PathBuf>,
    /// Bytes of the arena.
    arena_bytes: u64,
    options: ReaderOptions,
    demand: VecDeque<Span>,
    speculative: VecDeque<Span>,
    batches: HashMap<Ticket, Batch>,
    /// `[MAX_REQUESTS]`: by the requests' ids.
    flights: Vec<Option<Span>>,
    in_flight_bytes: u64,
    n_in_flight: usize,
    /// Batches that have ended and were not told of.
    ended: Vec<Completion>,
    read_bytes: u64,
    /// For reuse.
    requests: Vec<Request>,
    finished: Vec<Finished>,
}

/// Bytes to be read: a piece, what is left of one, or what of it one request reads.
#[derive(Debug, Clone, Copy)]
struct Span {
    ticket: Ticket,
    file: usize,
    /// A multiple of [`ALIGN`], as is `at`.
    offset: u64,
    at: u64,
    /// What is needed, in bytes from `offset`; what is read is rounded up.
    n_bytes: u64,
    /// How often it was tried in vain.
    attempts: u32,
}

#[derive(Debug)]
struct Batch {
    urgency: Urgency,
    /// Spans waiting or in flight.
    n_open: usize,
    /// Whether the kernel has had anything of it.
    started: bool,
    given_up: bool,
    read_bytes: u64,
    error: Option<ReadError>,
}

impl Reader {
    /// Opens each of the model's files again, to read past the page cache, and checks a read of each against the mapping.
    ///
    /// # Errors
    /// A model in memory; a file system without direct reads, or with wrong ones; a file replaced since it was mapped.
    pub fn new(model: &ModelFile, arena: Arc<Arena>) -> Result<Reader, StoreError> {
        Reader::with_options(model, arena, ReaderOptions::default())
    }

    /// # Errors
    /// Those of [`Reader::new`], and io_uring refused where it is asked for by name.
    pub fn with_options(model: &ModelFile, arena: Arc<Arena>, options: ReaderOptions) -> Result<Reader, StoreError> {
        let source = open_source(model, &arena, options)?;
        let paths = model.gguf().files.iter().map(|f| f.path.clone()).collect();
        Ok(Reader::with_source(source, paths, &arena, options))
    }

    /// A reader of files that are opened: `paths` are for errors.
    pub(super) fn with_source(
        source: Box<dyn Source>,
        paths: Vec<PathBuf>,
        arena: &Arena,
        options: ReaderOptions,
    ) -> Reader {
        assert!(options.request_bytes > 0 && u64::from(options.request_bytes) % ALIGN == 0, "{options:?}");
        Reader {
            source,
            paths,
            arena_bytes: arena.len(),
            options,
            demand: VecDeque::new(),
            speculative: VecDeque::new(),
            batches: HashMap::new(),
            flights: vec![None; MAX_REQUESTS],
            in_flight_bytes: 0,
            n_in_flight: 0,
            ended: Vec::new(),
            read_bytes: 0,
            requests: Vec::with_capacity(MAX_REQUESTS),
            finished: Vec::with_capacity(MAX_REQUESTS),
        }
    }

    pub fn way(&self) -> Way {
        self.source.way()
    }

    /// Has the pieces read. Returns at once; one completion follows when all of them have been.
    ///
    /// # Panics
    /// Where a piece is not within the arena or the model's files, or a batch of this ticket has not ended.
    pub fn submit(&mut self, ticket: Ticket, pieces: &[Piece], urgency: Urgency) {
        let batch = Batch { urgency, n_open: 0, started: false, given_up: false, read_bytes: 0, error: None };
        assert!(self.batches.insert(ticket, batch).is_none(), "{ticket:?} has not ended");
        let mut n_open = 0;
        for &Piece { range, at } in pieces.iter().filter(|p| p.range.n_bytes > 0) {
            let end = at.checked_add(slot_bytes(range));
            assert!(at % ALIGN == 0 && end.is_some_and(|end| end <= self.arena_bytes), "{range:?} at {at}");
            assert!(range.file < self.paths.len(), "{range:?} of {} files", self.paths.len());
            let before = range.offset % ALIGN;
            let (offset, n_bytes) = (range.offset - before, range.n_bytes + before);
            self.queue(urgency).push_back(Span { ticket, file: range.file, offset, at, n_bytes, attempts: 0 });
            n_open += 1;
        }
        self.batch(ticket).n_open = n_open;
        self.end_if_complete(ticket);
        self.issue();
    }

    /// Makes a speculative batch one of demand: behind what is demanded already. Of a batch that has ended, nothing.
    pub fn promote(&mut self, ticket: Ticket) {
        let Some(batch) = self.batches.get_mut(&ticket) else { return };
        if batch.urgency == Urgency::Speculative {
            batch.urgency = Urgency::Demand;
            self.demand.extend(self.speculative.iter().filter(|span| span.ticket == ticket));
            self.speculative.retain(|span| span.ticket != ticket);
            self.issue();
        }
    }

    /// Reads no more of a batch than what the kernel already has of it.
    pub fn give_up(&mut self, ticket: Ticket) -> GivenUp {
        let Some(batch) = self.batches.get(&ticket) else { return GivenUp::Unchanged };
        let (urgency, started) = (batch.urgency, batch.started);
        let n_dropped = self.drop_queued(urgency, ticket);
        if !started {
            self.batches.remove(&ticket);
            return GivenUp::Forgotten;
        }
        if n_dropped == 0 {
            return GivenUp::Unchanged;
        }
        self.batch(ticket).given_up = true;
        self.batch(ticket).n_open -= n_dropped;
        self.end_if_complete(ticket);
        GivenUp::Ending
    }

    /// Appends what has ended and has the kernel go on; waits for nothing, and where nothing has ended makes no system
    /// call.
    pub fn poll(&mut self, done: &mut Vec<Completion>) {
        self.reap(Wait::No);
        done.append(&mut self.ended);
    }

    /// As [`Reader::poll`], but waits until a batch has ended, unless there is none.
    pub fn wait(&mut self, done: &mut Vec<Completion>) {
        self.reap(Wait::No);
        while self.ended.is_empty() && self.n_in_flight > 0 {
            self.reap(Wait::One);
        }
        done.append(&mut self.ended);
    }

    /// Whether a speculative read would be started at once.
    pub fn takes_speculation(&self) -> bool {
        let full = self.in_flight_bytes + u64::from(self.options.request_bytes) > self.options.speculative_bytes;
        self.demand.is_empty() && self.speculative.is_empty() && (self.n_in_flight == 0 || !full)
    }

    /// Whether there is nothing left to read or to tell.
    pub fn idle(&self) -> bool {
        self.batches.is_empty() && self.ended.is_empty()
    }

    /// Bytes that have arrived from the disk, as requests asked for them.
    pub fn read_bytes(&self) -> u64 {
        self.read_bytes
    }

    /// Hands requests to the source, as many as may be in flight.
    fn issue(&mut self) {
        while let Some(urgency) = self.next_urgency() {
            let limit = match urgency {
                Urgency::Demand => self.options.demand_bytes,
                Urgency::Speculative => self.options.speculative_bytes,
            };
            // One may always be: a limit below a request's size would stop everything.
            if self.n_in_flight > 0 && self.in_flight_bytes + u64::from(self.options.request_bytes) > limit {
                break;
            }
            let Some(id) = self.flights.iter().position(Option::is_none) else { break };
            let span = self.cut(urgency);
            let n_bytes = span.read_bytes();
            let end = span.at + n_bytes;
            let clash = self.flights.iter().flatten().find(|f| f.at < end && span.at < f.at + f.read_bytes());
            assert!(clash.is_none(), "{span:?} goes where {clash:?} is in flight");
            self.flights[id] = Some(span);
            self.n_in_flight += 1;
            self.in_flight_bytes += n_bytes;
            let Span { file, offset, at, .. } = span;
            self.requests.push(Request { id: id as u32, file, offset, at, n_bytes: n_bytes as u32 });
        }
        if !self.requests.is_empty() {
            self.source.start(&self.requests);
            self.requests.clear();
        }
    }

    fn next_urgency(&self) -> Option<Urgency> {
        if !self.demand.is_empty() {
            Some(Urgency::Demand)
        } else if !self.speculative.is_empty() {
            Some(Urgency::Speculative)
        } else {
            None
        }
    }

    /// Takes what one request reads from a queue that is not empty.
    fn cut(&mut self, urgency: Urgency) -> Span {
        let request_bytes = u64::from(self.options.request_bytes);
        let queue = self.queue(urgency);
        let first = queue.front_mut().expect("the queue is not empty");
        let mut span = *first;
        if span.n_bytes > request_bytes {
            span.n_bytes = request_bytes;
            first.advance(request_bytes);
            self.batch(span.ticket).n_open += 1;
        } else {
            queue.pop_front();
        }
        self.batch(span.ticket).started = true;
        span
    }

    /// Sorts out what has ended and starts what may follow.
    fn reap(&mut self, wait: Wait) {
        if self.n_in_flight == 0 {
            return;
        }
        let mut finished = std::mem::take(&mut self.finished);
        self.source.reap(wait, &mut finished);
        let any = !finished.is_empty();
        for Finished { id, outcome } in finished.drain(..) {
            let span = self.flights[id as usize].take().expect("only what is in flight ends");
            self.n_in_flight -= 1;
            self.in_flight_bytes -= span.read_bytes();
            self.settle(span, outcome);
        }
        self.finished = finished;
        if any {
            self.issue();
        }
    }

    /// A request has ended: its batch has one less, or what is missing of it is queued again.
    fn settle(&mut self, mut span: Span, outcome: io::Result<u32>) {
        let failure = match outcome {
            Ok(n) => {
                let n = u64::from(n);
                self.read_bytes += n;
                self.batch(span.ticket).read_bytes += n;
                if n >= span.n_bytes {
                    self.batch(span.ticket).n_open -= 1;
                    return self.end_if_complete(span.ticket);
                }
                if n >= ALIGN {
                    span.advance(n / ALIGN * ALIGN);
                } else {
                    span.attempts += 1;
                }
                (span.attempts == MAX_ATTEMPTS).then_some(None)
            }
            Err(error) => {
                span.attempts += 1;
                let retry = passes(&error) && span.attempts < MAX_ATTEMPTS;
                (!retry).then_some(Some(error))
            }
        };
        match failure {
            _ if self.batch(span.ticket).is_over() => self.drop_span(span.ticket),
            None => {
                let urgency = self.batch(span.ticket).urgency;
                self.queue(urgency).push_front(span);
            }
            Some(error) => self.fail(span, error),
        }
    }

    /// Gives up what is queued of the span's batch, which ends when what is in flight of it has.
    fn fail(&mut self, span: Span, error: Option<io::Error>) {
        let Span { ticket, file, offset, n_bytes, .. } = span;
        let path = self.paths[file].clone();
        let error = match error {
            None => ReadError::Truncated { path, offset, n_bytes },
            Some(source) => ReadError::Io { path, offset, n_bytes, source },
        };
        let urgency = self.batch(ticket).urgency;
        let n_dropped = self.drop_queued(urgency, ticket);
        let batch = self.batch(ticket);
        batch.n_open -= n_dropped;
        batch.error = Some(error);
        self.drop_span(ticket);
    }

    /// Takes a batch's spans out of the queue; how many there were.
    fn drop_queued(&mut self, urgency: Urgency, ticket: Ticket) -> usize {
        let queue = self.queue(urgency);
        let before = queue.len();
        queue.retain(|span| span.ticket != ticket);
        before - queue.len()
    }

    fn drop_span(&mut self, ticket: Ticket) {
        self.batch(ticket).n_open -= 1;
        self.end_if_complete(ticket);
    }

    fn end_if_complete(&mut self, ticket: Ticket) {
        if self.batch(ticket).n_open == 0 {
            let batch = self.batches.remove(&ticket).expect("it is there");
            let extent = if batch.given_up { Extent::Part { read_bytes: batch.read_bytes } } else { Extent::Whole };
            self.ended.push(Completion { ticket, outcome: batch.error.map_or(Ok(extent), Err) });
        }
    }

    fn queue(&mut self, urgency: Urgency) -> &mut VecDeque<Span> {
        match urgency {
            Urgency::Demand => &mut self.demand,
            Urgency::Speculative => &mut self.speculative,
        }
    }

    fn batch(&mut self, ticket: Ticket) -> &mut Batch {
        self.batches.get_mut(&ticket).expect("a span's batch has not ended")
    }
}

impl Batch {
    /// Nothing more of it is to be read.
    fn is_over(&self) -> bool {
        self.given_up || self.error.is_some()
    }
}

impl Drop for Reader {
    /// Waits for what is in flight: the arena may live on and hold something else.
    fn drop(&mut self) {
        while self.n_in_flight > 0 {
            self.source.reap(Wait::One, &mut self.finished);
            self.n_in_flight -= self.finished.len();
            self.finished.clear();
        }
    }
}

impl Span {
    /// What a request for it reads.
    fn read_bytes(&self) -> u64 {
        self.n_bytes.next_multiple_of(ALIGN)
    }

    /// Its first `n` bytes have been seen to.
    fn advance(&mut self, n: u64) {
        self.offset += n;
        self.at += n;
        self.n_bytes -= n;
        self.attempts = 0;
    }
}

/// Whether the same read may succeed when it is tried again: it was interrupted, or the thread that began it has ended.
fn passes(error: &io::Error) -> bool {
    #[cfg(unix)]
    if error.raw_os_error() == Some(rustix::io::Errno::CANCELED.raw_os_error()) {
        return true;
    }
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
}

pub(super) fn open_source(
    model: &ModelFile,
    arena: &Arc<Arena>,
    options: ReaderOptions,
) -> Result<Box<dyn Source>, StoreError> {
    let files = open_direct(model)?;
    #[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
    if options.way != Some(Way::Threads) {
        use super::uring::Uring;
        match Uring::try_ring() {
            Ok(ring) => return Ok(Box::new(Uring::new(ring, files, arena.clone()))),
            Err(source) if options.way.is_some() => return Err(StoreError::Uring(source)),
            Err(error) => tracing::info!("io_uring is refused ({error}): experts are read by threads"),
        }
    }
    Ok(Box::new(Threads::new(files, arena, options.n_threads)?))
}
