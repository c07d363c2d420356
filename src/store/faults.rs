//! Reads that fail under a mapping: SIGBUS in, a note of file and offset out, so that a truncated file or a failing disk
//! ends a pass with an error and not the program. The page that could not be read becomes one of zeros, which lets the
//! thread go on; whoever computes looks at the note before using what came of it. Linux only.

#![allow(unsafe_code, reason = "a signal handler, and a mapping over a page that cannot be read")]

/// A registered mapping; unregistered when dropped, which must be before it is unmapped.
#[derive(Debug)]
pub(super) struct Guard {
    /// `None` where the system has no such signal, or too many mappings are watched: then it is as without a guard.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "nothing is watched on other systems"))]
    slot: Option<usize>,
}

#[cfg(not(target_os = "linux"))]
impl Guard {
    pub(super) fn new(_: &[u8]) -> Guard {
        Guard { slot: None }
    }

    pub(super) fn fault(&self) -> Option<u64> {
        None
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::ffi::c_int;
    use std::mem::MaybeUninit;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::sync::{Mutex, Once, OnceLock, PoisonError};

    use super::Guard;

    /// Files of models that may be open at once.
    const MAX_MAPPINGS: usize = 1024;

    /// A watched mapping. Plain atomics, since the handler reads them.
    struct Mapping {
        start: AtomicUsize,
        /// One past the last byte; 0: the slot is free.
        end: AtomicUsize,
        /// Offset of the first page that could not be read, plus 1; 0: none.
        fault: AtomicUsize,
    }

    static MAPPINGS: [Mapping; MAX_MAPPINGS] =
        [const { Mapping { start: AtomicUsize::new(0), end: AtomicUsize::new(0), fault: AtomicUsize::new(0) } };
            MAX_MAPPINGS];
    static REGISTERING: Mutex<()> = Mutex::new(());
    static PAGE_BYTES: AtomicUsize = AtomicUsize::new(0);
    /// What was done about SIGBUS before; set before the handler is.
    static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

    impl Guard {
        pub(in crate::store) fn new(bytes: &[u8]) -> Guard {
            static INSTALLED: Once = Once::new();
            INSTALLED.call_once(install);
            let _one_at_a_time = REGISTERING.lock().unwrap_or_else(PoisonError::into_inner);
            let slot = MAPPINGS.iter().position(|m| m.end.load(SeqCst) == 0);
            if let Some(slot) = slot {
                let mapping = &MAPPINGS[slot];
                mapping.fault.store(0, SeqCst);
                mapping.start.store(bytes.as_ptr().expose_provenance(), SeqCst);
                mapping.end.store(bytes.as_ptr().addr() + bytes.len(), SeqCst);
            }
            Guard { slot }
        }

        /// Where the first page that could not be read begins.
        pub(in crate::store) fn fault(&self) -> Option<u64> {
            let fault = MAPPINGS[self.slot?].fault.load(SeqCst);
            Some(fault.checked_sub(1)? as u64)
        }
    }

    impl Drop for Guard {
        fn drop(&mut self) {
            if let Some(slot) = self.slot {
                MAPPINGS[slot].end.store(0, SeqCst);
            }
        }
    }

    fn install() {
        PAGE_BYTES.store(rustix::param::page_size(), SeqCst);
        let mut previous = MaybeUninit::<libc::sigaction>::uninit();
        // SAFETY: without a new action, this fills in the one there is, and only then it is taken as filled in.
        let previous = unsafe {
            if libc::sigaction(libc::SIGBUS, std::ptr::null(), previous.as_mut_ptr()) != 0 {
                return;
            }
            previous.assume_init()
        };
        if PREVIOUS.set(previous).is_err() {
            return;
        }
        let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_sigbus;
        // SAFETY: zeros are a valid action with an empty mask; the handler has the signature that SA_SIGINFO promises and
        // does nothing that a signal handler may not: atomics and system calls.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut());
        }
    }

    extern "C" fn on_sigbus(signal: c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
        // SAFETY: the kernel gives a valid siginfo to a handler of SA_SIGINFO; of SIGBUS by a fault it has the address.
        let (code, address) = unsafe { ((*info).si_code, (*info).si_addr().addr()) };
        let by_a_fault = code > 0;
        if by_a_fault && replace_page(address) {
            return;
        }
        // None of ours: the action from before takes it, when the instruction is tried again or the signal sent again.
        if let Some(previous) = PREVIOUS.get() {
            // SAFETY: `previous` is the action that the system gave; both calls are allowed in a handler.
            unsafe {
                libc::sigaction(signal, previous, std::ptr::null_mut());
                if !by_a_fault {
                    libc::raise(signal);
                }
            }
        }
    }

    /// Puts a page of zeros where a watched mapping cannot be read, and notes it. `false`: not watched, or refused.
    fn replace_page(address: usize) -> bool {
        let watched = |m: &&Mapping| (m.start.load(SeqCst)..m.end.load(SeqCst)).contains(&address);
        let Some(mapping) = MAPPINGS.iter().find(watched) else { return false };
        let page_bytes = PAGE_BYTES.load(SeqCst);
        let page = address - address % page_bytes;
        // The note comes first: no other thread may see the zeros without it.
        let offset = page - mapping.start.load(SeqCst);
        let _ = mapping.fault.compare_exchange(0, offset + 1, SeqCst, SeqCst);
        // SAFETY: errno is this thread's own, and is put back. The page lies in a mapping of this process that is only
        // read, as plain numbers, and stays mapped: its guard lives as long as it does. MAP_FIXED puts zeros in its place.
        unsafe {
            let errno = libc::__errno_location();
            let before = *errno;
            let flags = libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let at = std::ptr::with_exposed_provenance_mut(page);
            let mapped = libc::mmap(at, page_bytes, libc::PROT_READ, flags, -1, 0);
            *errno = before;
            mapped != libc::MAP_FAILED
        }
    }
}
