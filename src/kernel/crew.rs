//! The crew: threads that wait for work with their eyes open. A leader publishes a job, the members that are awake join
//! it within a fraction of a microsecond, and it ends when the leader and those that joined have nothing left to take.
//! A member that sleeps is not waited for, so a job is never slower than the leader alone would be.
//!
//! Work is cut into numbered pieces. Every member has a share of neighbouring pieces, which it takes in order, as memory
//! likes it, and helps with the shares of others when its own is used up.

#![allow(unsafe_code, reason = "a job is handed to threads that outlive it, and a slice is cut up between them")]

use std::any::Any;
use std::cell::UnsafeCell;
use std::fmt;
use std::hint::spin_loop;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a member looks out for the next job before it sleeps: longer than the steps between two jobs of a pass,
/// shorter than anyone would notice.
const LOOK_OUT: Duration = Duration::from_micros(100);

/// How long a leader looks out for members that are still at work before it lets other threads run, and before it sleeps.
const PATIENCE: [Duration; 2] = [Duration::from_micros(20), Duration::from_micros(200)];

/// What a job makes every member that joins it do, by the member's number.
type Work<'w> = &'w (dyn Fn(usize) + Sync);

/// A value on cache lines of its own; two, since lines are fetched in pairs.
#[repr(align(128))]
struct Line<T>(T);

/// A slice whose elements go to several threads, each to one of them.
struct Elements<T>(*mut T);

// SAFETY: it is used to give every element to one thread only.
unsafe impl<T: Send> Sync for Elements<T> {}

impl<T> Elements<T> {
    /// # Safety
    /// The range is within the slice, and no other reference to its elements is alive.
    #[allow(clippy::mut_from_ref, reason = "the caller promises that the parts are disjoint")]
    unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(range.start), range.len()) }
    }
}

/// Parts of the state word: members at work on the job, whether more may join, whether the leader sleeps until they are
/// done, and above these the job's number.
const AT_WORK: u64 = 0xFFFF;
const OPEN: u64 = 1 << 16;
const LEADER_SLEEPS: u64 = 1 << 17;
const JOB: u32 = 32;

/// Threads that take part in the jobs of one leader at a time.
pub struct Crew {
    state: Line<AtomicU64>,
    /// Written by the leader while no job is open and no member at work, read by members that have joined a job.
    work: UnsafeCell<Work<'static>>,
    /// `[members]`: the next piece of each member's share.
    shares: Box<[Line<AtomicUsize>]>,
    is_led: AtomicBool,
    is_dismissed: AtomicBool,
    sleepers: AtomicUsize,
    /// Held by those who go to sleep and by those who wake them.
    door: Mutex<()>,
    new_job: Condvar,
    all_done: Condvar,
    /// What the first member that panicked said.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `work` is the only field that is not `Sync`; a leader writes it while it holds `is_led`, no job is open and no
// member is at work, and members read it between joining an open job and leaving it.
unsafe impl Sync for Crew {}

// SAFETY: what `work` refers to is `Sync`, and it is dead outside a job.
unsafe impl Send for Crew {}

impl fmt::Debug for Crew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Crew").field("members", &self.n_members()).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Crew {
    /// A crew of `n_members`, the leader, who is member 0, among them; 1 to 65535. The others must call [`Crew::serve`].
    pub fn new(n_members: usize) -> Crew {
        assert!((1..=AT_WORK as usize).contains(&n_members), "a crew of {n_members}");
        Crew {
            state: Line(AtomicU64::new(0)),
            work: UnsafeCell::new(&|_| {}),
            shares: (0..n_members).map(|_| Line(AtomicUsize::new(0))).collect(),
            is_led: AtomicBool::new(false),
            is_dismissed: AtomicBool::new(false),
            sleepers: AtomicUsize::new(0),
            door: Mutex::new(()),
            new_job: Condvar::new(),
            all_done: Condvar::new(),
            panic: Mutex::new(None),
        }
    }

    pub fn n_members(&self) -> usize {
        self.shares.len()
    }

    /// Calls `work` over `0..n`, cut into ranges of `grain` (the last one shorter), each once. A call from within a job,
    /// or while another thread leads, does all of it alone.
    pub fn for_ranges(&self, n: usize, grain: usize, work: impl Fn(Range<usize>) + Sync) {
        self.for_lens(n, grain, |_| grain, work);
    }

    /// Calls `work` over `0..n`, cut at multiples of `unit` where every member's share is cut into ranges of `len(what is
    /// left of it)`, which is a multiple of `unit`.
    fn for_lens(&self, n: usize, unit: usize, len: impl Fn(usize) -> usize + Sync, work: impl Fn(Range<usize>) + Sync) {
        assert!(unit > 0, "ranges of no length");
        let members = self.n_members();
        if n <= unit || members == 1 || self.is_led.swap(true, Acquire) {
            let mut at = 0;
            while at < n {
                let end = n.min(at + len(n - at));
                work(at..end);
                at = end;
            }
            return;
        }
        let share = |member: usize| n.min(member * n.div_ceil(unit) / members * unit);
        for (member, next) in self.shares.iter().enumerate() {
            next.0.store(share(member), Relaxed);
        }
        let outcome = self.lead(&|member| {
            for owner in (member..members).chain(0..member) {
                let (next, end) = (&self.shares[owner].0, share(owner + 1));
                let mut at = next.load(Relaxed);
                while at < end {
                    let stop = end.min(at + len(end - at));
                    match next.compare_exchange_weak(at, stop, Relaxed, Relaxed) {
                        Ok(_) => {
                            work(at..stop);
                            at = next.load(Relaxed);
                        }
                        Err(now) => at = now,
                    }
                }
            }
        });
        self.is_led.store(false, Release);
        if let Err(panic) = outcome {
            resume_unwind(panic);
        }
    }

    /// Calls `work(i, chunk)` for every chunk `i` of `len` elements of `slice` (the last one shorter), each once.
    pub fn for_chunks<T: Send>(&self, slice: &mut [T], len: usize, work: impl Fn(usize, &mut [T]) + Sync) {
        let elements = Elements(slice.as_mut_ptr());
        self.for_ranges(slice.len(), len, |range| {
            let i = range.start / len;
            // SAFETY: `for_ranges` calls with disjoint ranges of `0..slice.len()`, each once, and `slice` is borrowed
            // until it returns.
            work(i, unsafe { elements.part(range) });
        });
    }

    /// Calls `work(start, part)` for parts of `slice`, which together are all of it, with where they start: multiples of
    /// `unit`. Of each member's share a part is half of what is left, but at most `most`, so that members end together.
    pub fn for_parts<T: Send>(&self, slice: &mut [T], unit: usize, most: usize, work: impl Fn(usize, &mut [T]) + Sync) {
        let elements = Elements(slice.as_mut_ptr());
        let most = (most / unit * unit).max(unit);
        let len = |left: usize| (left / 2).next_multiple_of(unit).clamp(unit, most);
        self.for_lens(slice.len(), unit, len, |range| {
            let start = range.start;
            // SAFETY: as for `for_chunks`.
            work(start, unsafe { elements.part(range) });
        });
    }

    /// Publishes a job, takes part in it, and returns when nobody is at work on it any more. The caller holds `is_led`.
    fn lead(&self, work: Work<'_>) -> Result<(), Box<dyn Any + Send>> {
        // SAFETY: the borrow is only used by members at work on this job, and this function does not return, nor unwind,
        // before there are none and none can join.
        let work: Work<'static> = unsafe { std::mem::transmute::<Work<'_>, Work<'static>>(work) };
        // SAFETY: the caller holds `is_led`, and the last job was closed and left by all before that was given up.
        unsafe { *self.work.get() = work };
        let job = (self.state.0.load(Relaxed) >> JOB).wrapping_add(1) << JOB;
        self.state.0.store(job | OPEN, SeqCst);
        self.rouse();
        let mut outcome = catch_unwind(AssertUnwindSafe(|| work(0)));
        let closed = self.state.0.fetch_and(!OPEN, AcqRel);
        if closed & AT_WORK != 0 {
            self.wait_for_members();
        }
        if outcome.is_ok()
            && let Some(panic) = lock(&self.panic).take()
        {
            outcome = Err(panic);
        }
        outcome
    }

    /// Returns when no member is at work on the closed job.
    fn wait_for_members(&self) {
        let is_done = || self.state.0.load(Acquire) & AT_WORK == 0;
        let began = Instant::now();
        loop {
            for _ in 0..16 {
                if is_done() {
                    return;
                }
                spin_loop();
            }
            let waited = began.elapsed();
            if waited > PATIENCE[1] {
                break;
            }
            if waited > PATIENCE[0] {
                std::thread::yield_now();
            }
        }
        let mut door = lock(&self.door);
        self.state.0.fetch_or(LEADER_SLEEPS, AcqRel);
        while !is_done() {
            door = self.all_done.wait(door).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Wakes the members that sleep, since there is or will soon be a job.
    pub fn rouse(&self) {
        if self.sleepers.load(SeqCst) > 0 {
            // Whoever has counted itself as a sleeper holds the door until it hears the call.
            drop(lock(&self.door));
            self.new_job.notify_all();
        }
    }

    /// Ends [`Crew::serve`] on all members.
    pub fn dismiss(&self) {
        self.is_dismissed.store(true, SeqCst);
        drop(lock(&self.door));
        self.new_job.notify_all();
    }

    /// Takes part in jobs as `member`, 1 to one less than the number of members, until the crew is dismissed.
    pub fn serve(&self, member: usize) {
        assert!((1..self.n_members()).contains(&member), "member {member} of {}", self.n_members());
        let mut last_job = 0;
        let mut idle_since = Instant::now();
        loop {
            let state = self.state.0.load(Acquire);
            if state & OPEN != 0 && state >> JOB != last_job {
                if self.state.0.compare_exchange_weak(state, state + 1, AcqRel, Relaxed).is_ok() {
                    last_job = state >> JOB;
                    self.take_part(member);
                    idle_since = Instant::now();
                }
                continue;
            }
            for _ in 0..16 {
                if self.state.0.load(Relaxed) != state {
                    break;
                }
                spin_loop();
            }
            if idle_since.elapsed() > LOOK_OUT {
                if self.is_dismissed.load(Relaxed) {
                    return;
                }
                self.sleep(last_job);
                idle_since = Instant::now();
            }
        }
    }

    /// Works on the job that the calling member has joined, and leaves it.
    fn take_part(&self, member: usize) {
        // SAFETY: the job was open when the member joined, so the leader wrote `work` before, and does not return before
        // the member has left.
        let work = unsafe { *self.work.get() };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| work(member))) {
            lock(&self.panic).get_or_insert(panic);
        }
        let before = self.state.0.fetch_sub(1, AcqRel);
        if before & LEADER_SLEEPS != 0 && before & AT_WORK == 1 {
            drop(lock(&self.door));
            self.all_done.notify_one();
        }
    }

    /// Sleeps until there is a job after `last_job`, or a call.
    fn sleep(&self, last_job: u64) {
        let door = lock(&self.door);
        self.sleepers.fetch_add(1, SeqCst);
        let state = self.state.0.load(SeqCst);
        let has_job = state & OPEN != 0 && state >> JOB != last_job;
        if !has_job && !self.is_dismissed.load(SeqCst) {
            // Waking for nothing does no harm: the member looks out again.
            drop(self.new_job.wait(door).unwrap_or_else(PoisonError::into_inner));
        }
        self.sleepers.fetch_sub(1, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;

    /// Runs `test` with a crew that has `n` members, and joins them.
    fn with_crew(n: usize, test: impl FnOnce(&Crew)) {
        let crew = Arc::new(Crew::new(n));
        let members: Vec<_> = (1..n)
            .map(|i| {
                thread::spawn({
                    let crew = crew.clone();
                    move || crew.serve(i)
                })
            })
            .collect();
        let outcome = catch_unwind(AssertUnwindSafe(|| test(&crew)));
        crew.dismiss();
        members.into_iter().for_each(|m| m.join().unwrap());
        outcome.unwrap_or_else(|panic| resume_unwind(panic));
    }

    #[test]
    fn every_index_is_visited_once_over_thousands_of_jobs() {
        for n_members in [1, 2, 3, 5] {
            with_crew(n_members, |crew| {
                for job in 0..2000 {
                    let (n, grain) = (job % 97, 1 + job % 7);
                    let seen: Vec<AtomicUsize> = (0..n).map(|_| AtomicUsize::new(0)).collect();
                    crew.for_ranges(n, grain, |r| r.for_each(|i| _ = seen[i].fetch_add(1, Relaxed)));
                    assert!(seen.iter().all(|s| s.load(Relaxed) == 1), "{n_members} members, job {job}");
                }
            });
        }
    }

    #[test]
    fn members_that_fell_asleep_take_part_again() {
        with_crew(2, |crew| {
            for _ in 0..20 {
                thread::sleep(LOOK_OUT * 3);
                let threads = Mutex::new(std::collections::HashSet::new());
                // The job ends when two threads are in it, so both must come.
                crew.for_ranges(2, 1, |_| {
                    lock(&threads).insert(thread::current().id());
                    let began = Instant::now();
                    while lock(&threads).len() < 2 && began.elapsed() < Duration::from_secs(20) {
                        thread::yield_now();
                    }
                });
                assert_eq!(lock(&threads).len(), 2);
            }
        });
    }

    #[test]
    fn a_leader_that_has_to_wait_long_is_woken() {
        with_crew(2, |crew| {
            let leader = thread::current().id();
            for _ in 0..5 {
                crew.for_ranges(2, 1, |_| {
                    let long = if thread::current().id() == leader { 1 } else { 20 };
                    thread::sleep(Duration::from_millis(long));
                });
            }
        });
    }

    #[test]
    fn a_panic_reaches_the_leader_and_the_crew_works_on() {
        with_crew(3, |crew| {
            for bad in 0..50 {
                let outcome = catch_unwind(AssertUnwindSafe(|| {
                    crew.for_ranges(50, 1, |r| assert!(!r.contains(&bad), "piece {bad} is bad"));
                }));
                let panic = outcome.unwrap_err();
                let text = panic.downcast_ref::<String>().unwrap();
                assert!(text.contains("is bad"), "{text}");
                let sum = AtomicUsize::new(0);
                crew.for_ranges(50, 1, |r| _ = sum.fetch_add(r.start, Relaxed));
                assert_eq!(sum.into_inner(), 1225);
            }
        });
    }

    #[test]
    fn jobs_within_jobs_and_of_several_leaders_are_done_whole() {
        with_crew(2, |crew| {
            let sum = AtomicUsize::new(0);
            thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| {
                        for _ in 0..200 {
                            crew.for_ranges(4, 1, |_| crew.for_ranges(10, 3, |r| _ = sum.fetch_add(r.len(), Relaxed)));
                        }
                    });
                }
            });
            assert_eq!(sum.into_inner(), 3 * 200 * 40);
        });
    }

    #[test]
    fn chunks_cover_a_slice_once() {
        with_crew(2, |crew| {
            let mut slice = vec![0usize; 1003];
            crew.for_chunks(&mut slice, 10, |i, chunk| {
                for (j, x) in chunk.iter_mut().enumerate() {
                    *x += i * 10 + j + 1;
                }
            });
            assert!(slice.iter().enumerate().all(|(i, &x)| x == i + 1));
        });
    }

    #[test]
    fn parts_cover_a_slice_once_and_begin_at_multiples() {
        for n_members in [1, 2, 3] {
            with_crew(n_members, |crew| {
                for (n, unit, most) in [(0, 4, 8), (3, 4, 8), (1003, 4, 70), (1003, 1, 2000), (64, 16, 3)] {
                    let mut slice = vec![0usize; n];
                    crew.for_parts(&mut slice, unit, most, |start, part| {
                        assert!(start.is_multiple_of(unit) && part.len() <= most.max(unit), "{start} {}", part.len());
                        part.iter_mut().enumerate().for_each(|(i, x)| *x += start + i + 1);
                    });
                    assert!(slice.iter().enumerate().all(|(i, &x)| x == i + 1), "{n} {unit} {most}");
                }
            });
        }
    }
}
