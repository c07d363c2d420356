//! A source that fails when told to: it changes what becomes of the requests of a real one.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};

use crate::store::direct::source::{Finished, Request, Source, Wait, Way};
use crate::store::direct::{Arena, Reader, ReaderOptions};
use crate::store::{FileRange, ModelFile, StoreError};

/// What goes wrong, and what was seen; shared with the source that does it.
#[derive(Debug, Default)]
pub(in crate::store) struct Faults {
    /// Requests that touch this offset of file 0 end with this error of the system, this many times.
    pub(in crate::store) error: Option<(u64, i32, usize)>,
    /// No more bytes than this arrive for a request; the others are poisoned.
    pub(in crate::store) short: Option<u32>,
    /// Nothing ends while this is set, for `poll`; `wait` would never return.
    pub(in crate::store) hold: bool,
    /// What was started, in order.
    pub(in crate::store) started: Vec<FileRange>,
    /// Bytes in flight, and the most they have been.
    pub(in crate::store) in_flight_bytes: u64,
    pub(in crate::store) most_in_flight_bytes: u64,
}

/// A reader whose requests pass through the faults.
pub(in crate::store) fn faulty_reader(
    model: &ModelFile,
    arena: &Arc<Arena>,
    options: ReaderOptions,
) -> Result<(Reader, Arc<Mutex<Faults>>), StoreError> {
    let faults = Arc::<Mutex<Faults>>::default();
    let inner = super::super::reader::open_source(model, arena, options)?;
    let source = Faulty { inner, arena: arena.clone(), faults: faults.clone(), requests: HashMap::new(), held: vec![] };
    let paths = model.gguf().files.iter().map(|f| f.path.clone()).collect();
    Ok((Reader::with_source(Box::new(source), paths, arena, options), faults))
}

#[derive(Debug)]
struct Faulty {
    inner: Box<dyn Source>,
    arena: Arc<Arena>,
    faults: Arc<Mutex<Faults>>,
    /// In flight, by id.
    requests: HashMap<u32, Request>,
    held: Vec<Finished>,
}

impl Source for Faulty {
    fn way(&self) -> Way {
        self.inner.way()
    }

    fn start(&mut self, requests: &[Request]) {
        let mut faults = self.faults.lock().unwrap();
        for request in requests {
            let &Request { id, file, offset, n_bytes, .. } = request;
            assert!(self.requests.insert(id, *request).is_none(), "{request:?} is in flight already");
            faults.started.push(FileRange { file, offset, n_bytes: n_bytes.into() });
            faults.in_flight_bytes += u64::from(n_bytes);
            faults.most_in_flight_bytes = faults.most_in_flight_bytes.max(faults.in_flight_bytes);
        }
        self.inner.start(requests);
    }

    fn reap(&mut self, wait: Wait, finished: &mut Vec<Finished>) {
        let wait = if self.held.is_empty() { wait } else { Wait::No };
        self.inner.reap(wait, &mut self.held);
        let mut faults = self.faults.lock().unwrap();
        if faults.hold {
            assert_eq!(wait, Wait::No, "nothing will end");
            return;
        }
        for ended in self.held.drain(..) {
            let request = self.requests.remove(&ended.id).expect("only what is in flight ends");
            faults.in_flight_bytes -= u64::from(request.n_bytes);
            let outcome = ended.outcome.and_then(|n| faults.change(&request, n, &self.arena));
            finished.push(Finished { id: ended.id, outcome });
        }
    }
}

impl Faults {
    fn change(&mut self, request: &Request, n: u32, arena: &Arena) -> io::Result<u32> {
        let Request { file, offset, at, n_bytes, .. } = *request;
        if let Some((wrong, code, times)) = &mut self.error
            && file == 0
            && *times > 0
            && (offset..offset + u64::from(n_bytes)).contains(wrong)
        {
            *times -= 1;
            return Err(io::Error::from_raw_os_error(*code));
        }
        let Some(short) = self.short.filter(|&short| short < n) else { return Ok(n) };
        let rest = n - short;
        // SAFETY: The read has ended and its bytes have not been told of: they are still the source's.
        unsafe { arena.target(at + u64::from(short), rest.into()).write_bytes(0xEE, rest as usize) };
        Ok(short)
    }
}
