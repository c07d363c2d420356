//! What happens when the bytes under a mapping are gone: the file was truncated, or the disk could not read a page. The
//! kernel then sends SIGBUS to the thread that touches it, which would end the program. Here the page is replaced by
//! zeros, so that the thread goes on, and the fault is noted, so that nothing of what it computes is used.
//!
//! Bus errors outside the mappings of models go where they went before.

#![allow(unsafe_code, reason = "a signal handler, and pages replaced under a mapping")]

use memmap2::Mmap;

/// A mapping that is watched for lost pages, until this is dropped. Dropped before the mapping itself.
#[derive(Debug)]
pub(super) struct Guard {
    /// `None` where faults cannot be caught.
    place: Option<usize>,
}

#[cfg(unix)]
impl Guard {
    pub(super) fn new(map: &Mmap) -> Guard {
        Guard { place: imp::watch(map.as_ptr() as usize, map.len()) }
    }

    /// The offset of a page that was lost; `None`: none so far.
    pub(super) fn lost_at(&self) -> Option<u64> {
        imp::lost_at(self.place?)
    }
}

#[cfg(not(unix))]
impl Guard {
    pub(super) fn new(_: &Mmap) -> Guard {
        Guard { place: None }
    }

    pub(super) fn lost_at(&self) -> Option<u64> {
        None
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        #[cfg(unix)]
        if let Some(place) = self.place {
            imp::forget(place);
        }
    }
}

#[cfg(unix)]
mod imp {
    use std::mem::MaybeUninit;
    use std::ptr::{null, null_mut};
    use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
    use std::sync::atomic::{AtomicU64, AtomicUsize};
    use std::sync::{Mutex, OnceLock, PoisonError};

    /// Mappings that can be watched at once: a model may be split over many files.
    const PLACES: usize = 512;

    /// No page was lost.
    const NONE: u64 = u64::MAX;

    /// A watched mapping. `len` is written last and read first: 0 is a free place.
    struct Place {
        start: AtomicUsize,
        len: AtomicUsize,
        lost: AtomicU64,
    }

    static WATCHED: [Place; PLACES] =
        [const { Place { start: AtomicUsize::new(0), len: AtomicUsize::new(0), lost: AtomicU64::new(NONE) } }; PLACES];

    /// Held while a place is taken.
    static TAKING: Mutex<()> = Mutex::new(());

    static PAGE_BYTES: AtomicUsize = AtomicUsize::new(0);

    /// What was done about bus errors before; set once, before the handler is installed.
    static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

    pub(super) fn watch(start: usize, len: usize) -> Option<usize> {
        let _taking = TAKING.lock().unwrap_or_else(PoisonError::into_inner);
        if BEFORE.get().is_none() && !install() {
            return None;
        }
        let place = WATCHED.iter().position(|place| place.len.load(Acquire) == 0)?;
        WATCHED[place].lost.store(NONE, Relaxed);
        WATCHED[place].start.store(start, Relaxed);
        WATCHED[place].len.store(len, Release);
        Some(place)
    }

    pub(super) fn forget(place: usize) {
        WATCHED[place].len.store(0, Release);
    }

    pub(super) fn lost_at(place: usize) -> Option<u64> {
        Some(WATCHED[place].lost.load(Acquire)).filter(|&offset| offset != NONE)
    }

    /// Installs the handler; whether it is there.
    fn install() -> bool {
        PAGE_BYTES.store(rustix::param::page_size(), Relaxed);
        let mut before = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: asking for the action alone changes nothing; all zeros is a value of the struct.
        if unsafe { libc::sigaction(libc::SIGBUS, null(), before.as_mut_ptr()) } != 0 {
            return false;
        }
        // SAFETY: the call has filled it in.
        BEFORE.get_or_init(|| unsafe { before.assume_init() });
        let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_bus_error;
        // SAFETY: all zeros is a value of the struct, an empty mask among it.
        let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: the handler has the signature that SA_SIGINFO wants, and does only what a signal handler may.
        unsafe { libc::sigaction(libc::SIGBUS, &raw const action, null_mut()) == 0 }
    }

    /// Replaces a lost page of a model by zeros and notes it. Nothing here allocates, locks or unwinds.
    extern "C" fn on_bus_error(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
        // SAFETY: the kernel passes a valid description, whose address is set for a bus error.
        let at = unsafe { (*info).si_addr() } as usize;
        if !replace_page(at) {
            hand_on(signal, info, context);
        }
    }

    /// Whether the address is of a watched mapping, whose page is now zeros.
    fn replace_page(at: usize) -> bool {
        for place in &WATCHED {
            let (len, start) = (place.len.load(Acquire), place.start.load(Relaxed));
            if len == 0 || !(start..start + len).contains(&at) {
                continue;
            }
            let page = PAGE_BYTES.load(Relaxed);
            let first = at / page * page;
            // SAFETY: the page is one of a mapping that is alive, since its place is not free; all that is read of it
            // afterwards are plain numbers, for which zeros are valid.
            let mapped = unsafe {
                libc::mmap(
                    first as *mut libc::c_void,
                    page,
                    libc::PROT_READ,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
                    -1,
                    0,
                )
            };
            if mapped == libc::MAP_FAILED {
                return false;
            }
            // The first one is told.
            let _ = place.lost.compare_exchange(NONE, (first - start) as u64, AcqRel, Relaxed);
            return true;
        }
        false
    }

    /// Does what was done before there was a guard.
    fn hand_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
        let before = BEFORE.get();
        if let Some(before) = before.filter(|b| b.sa_sigaction != libc::SIG_DFL && b.sa_sigaction != libc::SIG_IGN) {
            if before.sa_flags & libc::SA_SIGINFO != 0 {
                type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);
                // SAFETY: with this flag the action is a function of this signature.
                let handler = unsafe { std::mem::transmute::<usize, Handler>(before.sa_sigaction) };
                return handler(signal, info, context);
            }
            // SAFETY: without it, of this one.
            let handler = unsafe { std::mem::transmute::<usize, extern "C" fn(libc::c_int)>(before.sa_sigaction) };
            return handler(signal);
        }
        // SAFETY: with the default restored, the access that is tried again ends the process as it always did.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    const PAGE: usize = 4096;

    #[test]
    fn a_page_lost_to_truncation_is_zeros_and_noted() {
        let file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut &file, &vec![7; 16 * PAGE]).unwrap();
        // SAFETY: nobody else has this file; what happens to it is the test.
        let map = unsafe { Mmap::map(&file) }.unwrap();
        let guard = Guard::new(&map);
        assert_eq!((map[0], map[9 * PAGE + 5], guard.lost_at()), (7, 7, None));
        file.set_len(8 * PAGE as u64).unwrap();
        // A compiler may not read these once and for all: the file has changed under them.
        // SAFETY: within the mapping, whose lost pages the guard replaces.
        let read = |at: usize| unsafe { map.as_ptr().add(at).read_volatile() };
        assert_eq!((read(7 * PAGE), guard.lost_at()), (7, None));
        assert_eq!((read(9 * PAGE + 5), guard.lost_at()), (0, Some(9 * PAGE as u64)));
        assert_eq!((read(12 * PAGE), guard.lost_at()), (0, Some(9 * PAGE as u64)), "the first loss is told");
    }

    #[test]
    fn guards_of_several_mappings_do_not_mix_and_places_come_free() {
        let maps: Vec<_> = (0..600)
            .map(|_| {
                let file = tempfile::tempfile().unwrap();
                file.set_len(2 * PAGE as u64).unwrap();
                // SAFETY: as above.
                let map = unsafe { Mmap::map(&file) }.unwrap();
                (file, map)
            })
            .collect();
        for (file, map) in &maps {
            let guard = Guard::new(map);
            assert_eq!(guard.lost_at(), None);
            file.set_len(0).unwrap();
            // SAFETY: as above.
            assert_eq!(unsafe { map.as_ptr().add(PAGE).read_volatile() }, 0);
            assert_eq!(guard.lost_at(), Some(PAGE as u64));
        }
    }
}
