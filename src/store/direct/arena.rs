//! Anonymous memory for expert bytes, cut by the caller: a size in, slices of what was read into it out.

use memmap2::{MmapOptions, MmapRaw};

use super::ALIGN;
use crate::store::StoreError;

/// Page-aligned memory that takes none of the machine's before it is written to.
#[derive(Debug)]
pub struct Arena {
    map: MmapRaw,
}

impl Arena {
    /// An arena of `bytes`, rounded up to [`ALIGN`].
    ///
    /// # Errors
    /// Where the system refuses that much.
    pub fn new(bytes: u64) -> Result<Arena, StoreError> {
        let refused = |source| StoreError::Arena { bytes, source };
        let length = bytes.max(1).checked_next_multiple_of(ALIGN).and_then(|b| isize::try_from(b).ok());
        let length = length.ok_or_else(|| refused(std::io::ErrorKind::OutOfMemory.into()))?;
        // It may well be larger than the machine's memory, which is why experts come and go: a system that counts what might
        // be written to must not count it.
        let map = MmapOptions::new().len(length as usize).no_reserve_swap().map_anon().map_err(refused)?;
        // Large pages lie together in memory: reads into them have few parts, which disks and processors are quicker
        // with. A system that has none gives small ones.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(Arena { map: map.into() })
    }

    /// Its bytes, a multiple of [`ALIGN`].
    #[expect(clippy::len_without_is_empty, reason = "an arena is never empty")]
    pub fn len(&self) -> u64 {
        self.map.len() as u64
    }

    /// Takes memory for a range, so that who writes to it first need not. What it holds stays. Where the system cannot
    /// (Linux before 5.14, other systems), it does nothing.
    ///
    /// # Panics
    /// Where the range is not within the arena.
    pub fn populate(&self, at: u64, n: u64) {
        self.check(at, n);
        #[cfg(target_os = "linux")]
        let _ = self.map.advise_range(memmap2::Advice::PopulateWrite, at as usize, n as usize);
    }

    /// Gives the memory of the whole pages in a range back to the system; they read as zeros then. Linux only: elsewhere
    /// the memory stays taken.
    ///
    /// # Panics
    /// Where the range is not within the arena.
    pub fn discard(&self, at: u64, n: u64) {
        self.check(at, n);
        #[cfg(target_os = "linux")]
        {
            let page = rustix::param::page_size() as u64;
            let (start, end) = (at.next_multiple_of(page), (at + n) / page * page);
            if start < end {
                self.split_large_pages(start, end);
                let advice = memmap2::UncheckedAdvice::DontNeed;
                // SAFETY: The pages are within this anonymous private mapping and stay mapped: they turn to zeros, any
                // value is valid in them, and by the contract of `bytes` no slice of them lives.
                let _ = unsafe { self.map.unchecked_advise_range(advice, start as usize, (end - start) as usize) };
            }
        }
    }

    /// Cuts the large pages at both ends of a range into small ones: the kernel would else keep the memory of what is
    /// given back of them for as long as the rest is in use. Saying that a part of one is free cuts it.
    #[cfg(target_os = "linux")]
    fn split_large_pages(&self, start: u64, end: u64) {
        const LARGE: u64 = 2 << 20;
        // Pages lie by their address, not by their place in the arena.
        let base = self.map.as_ptr() as u64 % LARGE;
        let (first, last) = ((base + start) / LARGE, (base + end) / LARGE);
        let begins_within = (base + start) % LARGE != 0;
        let ends_within = (base + end) % LARGE != 0;
        let head = begins_within.then(|| (start, end.min((first + 1) * LARGE - base)));
        let tail = (ends_within && (last > first || !begins_within))
            .then(|| (start.max((last * LARGE).saturating_sub(base)), end));
        for (from, to) in head.into_iter().chain(tail) {
            // SAFETY: As for what is given back, of which these pages are a part.
            let _ = unsafe {
                let advice = memmap2::UncheckedAdvice::Free;
                self.map.unchecked_advise_range(advice, from as usize, (to - from) as usize)
            };
        }
    }

    /// The `n` bytes at `at`.
    ///
    /// # Safety
    /// While the slice lives, no read into the range may be in flight or start, and the range may not be discarded.
    ///
    /// # Panics
    /// Where the range is not within the arena.
    pub unsafe fn bytes(&self, at: u64, n: usize) -> &[u8] {
        self.check(at, n as u64);
        // SAFETY: The range is within the mapping, which lives as long as the arena, is initialized (with zeros at
        // first) and is not written to while the slice lives, as the caller has promised.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(at as usize), n) }
    }

    /// Where the `n` bytes at `at` lie, for a read into them.
    ///
    /// # Panics
    /// Where the range is not within the arena.
    pub(super) fn target(&self, at: u64, n: u64) -> *mut u8 {
        self.check(at, n);
        // SAFETY: The offset is within the mapping.
        unsafe { self.map.as_mut_ptr().add(at as usize) }
    }

    fn check(&self, at: u64, n: u64) {
        let end = at.checked_add(n);
        assert!(end.is_some_and(|end| end <= self.len()), "{n} bytes at {at} of an arena of {}", self.len());
    }
}
