//! Threads that stay together for the length of a plan, so that a kernel of microseconds is worth sharing.
//!
//! Rayon's idle threads go to sleep at once, and waking one takes longer than a small kernel runs. A [`with`] takes
//! rayon's threads out of its hands for a while: they wait for the next kernel's tasks by spinning, then by
//! yielding, and sleep only where none come for a long time. Nothing is allocated.
//!
//! Each lane begins with tasks of its own, the same share of every kernel, and takes over others' when it is through:
//! kernels cut their rows alike, so a core mostly reads what it wrote itself.
//! Parts of a larger work that don't see each other run [`apart`], each on a team of its own.
//! Absent: teams within teams, and work of two kernels at once by one team.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

/// What tasks are made of: `f(lane, task)`.
type Body<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// Tasks on offer.
#[derive(Clone, Copy)]
struct Job {
    body: *const Body<'static>,
    lanes: usize,
    tasks: usize,
}

/// Bit of [`Team::state`] that says that tasks are on offer; below it the members at work are counted, above it the jobs.
const OPEN: u64 = 1 << 16;
const MEMBERS: u64 = OPEN - 1;
/// Looks at the state before a waiting thread offers its core to others, and before it goes to sleep.
const SPINS: usize = 2_000;
const YIELDS: usize = 200;

/// Most threads of a team.
const MAX_LANES: usize = 64;

/// A counter with a cache line of its own.
#[repr(align(64))]
struct Line(AtomicUsize);

/// One thread that has work and those that help it.
struct Team {
    /// Written by its owner while no member is at work, read by members at work.
    job: UnsafeCell<Option<Job>>,
    state: AtomicU64,
    /// Tasks begun of each lane's share.
    begun: [Line; MAX_LANES],
    over: AtomicBool,
    /// Members asleep; the lock is for their waking.
    asleep: AtomicUsize,
    lock: Mutex<()>,
    woken: Condvar,
    /// What a member's task panicked with.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `job` is written by the owner only while the state counts no member and is not open, and read by members
// only while they are counted; both sides synchronise through `state`.
unsafe impl Sync for Team {}

thread_local! {
    /// The team that this thread owns and that has nothing to do.
    static OWN: Cell<*const Team> = const { Cell::new(std::ptr::null()) };
    /// Threads for what this thread begins, 0 for the whole pool.
    static WIDTH: Cell<usize> = const { Cell::new(0) };
}

/// Threads for work that this thread begins, itself included.
pub(crate) fn width() -> usize {
    match WIDTH.get() {
        0 => rayon::current_num_threads(),
        n => n,
    }
}

/// Runs `f` on every part and what belongs to it (as many), on as many threads at once as there are, with as many to share
/// its work with as that leaves each. For work that comes out the same on any number of threads. Nothing is allocated.
pub fn apart<T: Send, U: Send>(parts: &mut [T], theirs: &mut [U], f: impl Fn(&mut T, &mut U) + Sync) {
    assert_eq!(parts.len(), theirs.len(), "apart: each part has something");
    let groups = width().min(parts.len()).max(1);
    if groups == 1 {
        return parts.iter_mut().zip(theirs).for_each(|(part, of)| f(part, of));
    }
    fork(groups, width() / groups, parts, theirs, &f);
}

fn fork<T: Send, U: Send>(
    groups: usize,
    threads: usize,
    parts: &mut [T],
    theirs: &mut [U],
    f: &(impl Fn(&mut T, &mut U) + Sync),
) {
    if groups == 1 {
        let _back = Width(WIDTH.replace(threads));
        return parts.iter_mut().zip(theirs).for_each(|(part, of)| f(part, of));
    }
    let (left, n) = (groups / 2, parts.len());
    let (a, b) = parts.split_at_mut(left * n / groups);
    let (of_a, of_b) = theirs.split_at_mut(left * n / groups);
    rayon::join(|| fork(left, threads, a, of_a, f), || fork(groups - left, threads, b, of_b, f));
}

/// Gives a thread its width back.
struct Width(usize);

impl Drop for Width {
    fn drop(&mut self) {
        WIDTH.set(self.0);
    }
}

/// Runs `f` with this thread's share of the rayon pool at hand for every [`share`] in it.
pub(crate) fn with<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    let members = width().min(MAX_LANES) - 1;
    if members == 0 || !OWN.get().is_null() {
        return f();
    }
    let team = Team {
        job: UnsafeCell::new(None),
        state: AtomicU64::new(0),
        begun: [const { Line(AtomicUsize::new(0)) }; MAX_LANES],
        over: AtomicBool::new(false),
        asleep: AtomicUsize::new(0),
        lock: Mutex::new(()),
        woken: Condvar::new(),
        panic: Mutex::new(None),
    };
    let team = &team;
    let own = move || {
        let _end = End(team, OWN.replace(team));
        f()
    };
    rayon::join(own, || team.help(1..members + 1)).0
}

/// Whether this thread has a team to share with.
pub(crate) fn at_hand() -> bool {
    !OWN.get().is_null()
}

/// Runs `body(lane, task)` for every task on at most `lanes` threads at once, each with its own `lane`; `false` if there
/// is no team and nothing was run.
pub(crate) fn share(lanes: usize, tasks: usize, body: &Body) -> bool {
    let team = OWN.replace(std::ptr::null());
    if team.is_null() {
        return false;
    }
    // SAFETY: it lives in the frame of `with`, further down this thread's stack, which clears `OWN` when it ends.
    let team = unsafe { &*team };
    let _back = Back(team);
    // SAFETY: only the lifetime changes; `lead` returns when no member uses it any more.
    let body = unsafe { std::mem::transmute::<*const Body, *const Body<'static>>(body) };
    team.lead(Job { body, lanes: lanes.min(MAX_LANES), tasks });
    true
}

/// Ends a team.
struct End<'a>(&'a Team, *const Team);

impl Drop for End<'_> {
    fn drop(&mut self) {
        OWN.set(self.1);
        self.0.over.store(true, Ordering::SeqCst);
        self.0.wake();
    }
}

/// Gives a team back to the thread that owns it.
struct Back<'a>(&'a Team);

impl Drop for Back<'_> {
    fn drop(&mut self) {
        OWN.set(self.0);
    }
}

/// Takes an offer back and waits for the members at work on it.
struct Close<'a>(&'a Team);

impl Drop for Close<'_> {
    fn drop(&mut self) {
        self.0.state.fetch_and(!OPEN, Ordering::Acquire);
        let mut wait = Wait::default();
        while self.0.state.load(Ordering::Acquire) & MEMBERS > 0 {
            wait.turn();
        }
    }
}

/// How long something has been waited for.
#[derive(Default)]
struct Wait(usize);

impl Wait {
    /// Waits a moment; whether it has been long.
    fn turn(&mut self) -> bool {
        self.0 += 1;
        if self.0 < SPINS {
            std::hint::spin_loop();
        } else {
            std::thread::yield_now();
        }
        self.0 > SPINS + YIELDS
    }
}

impl Team {
    fn lead(&self, job: Job) {
        // SAFETY: no offer is open, so no member looks.
        unsafe { *self.job.get() = Some(job) };
        self.begun.iter().take(job.lanes).for_each(|n| n.0.store(0, Ordering::Relaxed));
        {
            let _close = Close(self);
            let jobs = self.state.load(Ordering::Relaxed) / (2 * OPEN) + 1;
            self.state.store(jobs * 2 * OPEN + OPEN, Ordering::SeqCst);
            if self.asleep.load(Ordering::SeqCst) > 0 {
                self.wake();
            }
            self.work(0, &job);
        }
        let panic = self.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    fn work(&self, lane: usize, job: &Job) {
        // SAFETY: the owner is in `lead`, which does not return before this does.
        let body = unsafe { &*job.body };
        for turn in 0..job.lanes {
            let of = (lane + turn) % job.lanes;
            let (start, end) = (job.tasks * of / job.lanes, job.tasks * (of + 1) / job.lanes);
            loop {
                let task = start + self.begun[of].0.fetch_add(1, Ordering::Relaxed);
                if task >= end {
                    break;
                }
                body(lane, task);
            }
        }
    }

    /// What members do until the end, each on a thread of the pool.
    fn help(&self, lanes: std::ops::Range<usize>) {
        if lanes.len() > 1 {
            let mid = lanes.start + lanes.len() / 2;
            rayon::join(|| self.help(lanes.start..mid), || self.help(mid..lanes.end));
            return;
        }
        let mut seen = 0;
        while let Some(state) = self.offer(seen) {
            // SeqCst as the offer's: it may not be taken before it is seen.
            if self.state.compare_exchange(state, state + 1, Ordering::SeqCst, Ordering::Relaxed).is_err() {
                continue;
            }
            seen = state / OPEN;
            // SAFETY: counted in `state`, so the owner leaves it alone.
            let job = unsafe { *self.job.get() }.expect("an offer has a job");
            if lanes.start < job.lanes
                && let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.work(lanes.start, &job)))
            {
                *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
            }
            self.state.fetch_sub(1, Ordering::Release);
        }
    }

    /// The state once it has an offer other than `seen`; `None` at the end.
    fn offer(&self, seen: u64) -> Option<u64> {
        let look = || {
            let state = self.state.load(Ordering::SeqCst);
            (state & OPEN != 0 && state / OPEN != seen).then_some(state)
        };
        let mut wait = Wait::default();
        loop {
            if self.over.load(Ordering::SeqCst) {
                return None;
            }
            if let Some(state) = look() {
                return Some(state);
            }
            if wait.turn() {
                let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
                self.asleep.fetch_add(1, Ordering::SeqCst);
                while look().is_none() && !self.over.load(Ordering::SeqCst) {
                    guard = self.woken.wait(guard).unwrap_or_else(PoisonError::into_inner);
                }
                self.asleep.fetch_sub(1, Ordering::SeqCst);
                wait = Wait::default();
            }
        }
    }

    fn wake(&self) {
        drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
        self.woken.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::par;
    use std::sync::atomic::AtomicU32;
    use std::time::Duration;

    fn pool(threads: usize) -> rayon::ThreadPool {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
    }

    /// Runs kernels of many sizes; every task of each is done once, on a lane of its own.
    fn kernels(pauses: bool) {
        for round in 0..2_000usize {
            let (lanes, tasks) = (1 + round % 4, round * 7 % 40);
            let done: Vec<AtomicU32> = (0..tasks).map(|_| AtomicU32::new(0)).collect();
            let busy: Vec<AtomicBool> = (0..lanes).map(|_| AtomicBool::new(false)).collect();
            par::run(lanes, tasks, |lane, task| {
                assert!(!busy[lane].swap(true, Ordering::Relaxed), "a lane is used twice at once");
                done[task].fetch_add(1, Ordering::Relaxed);
                busy[lane].store(false, Ordering::Relaxed);
            });
            assert!(done.iter().all(|n| n.load(Ordering::Relaxed) == 1));
            if pauses && round % 500 == 0 {
                std::thread::sleep(Duration::from_millis(20)); // members fall asleep
            }
        }
    }

    #[test]
    fn every_task_is_done_once() {
        for threads in 1..=4 {
            pool(threads).install(|| with(|| kernels(threads == 2)));
        }
        pool(3).install(|| kernels(false));
    }

    #[test]
    fn a_task_may_share_work_of_its_own() {
        let sum = AtomicUsize::new(0);
        let inner = |_, task| {
            sum.fetch_add(task, Ordering::Relaxed);
        };
        pool(3).install(|| with(|| par::run(3, 8, |_, _| par::run(3, 5, inner))));
        assert_eq!(sum.into_inner(), 8 * 10);
    }

    #[test]
    fn a_panic_on_any_thread_comes_back_and_the_pool_goes_on() {
        let pool = pool(3);
        for victim in 0..6 {
            let run = || with(|| par::run(3, 6, |_, task| assert!(task != victim, "task {task}")));
            let caught = catch_unwind(AssertUnwindSafe(|| pool.install(run))).unwrap_err();
            assert_eq!(caught.downcast_ref::<String>().unwrap(), &format!("task {victim}"));
        }
        pool.install(|| with(|| kernels(false)));
    }

    #[test]
    fn parts_are_done_once_with_the_threads_that_are_left() {
        for threads in 1..=5 {
            for n in 0..=5 {
                let mut parts = vec![(0, 0); n];
                pool(threads).install(|| {
                    apart(&mut parts, &mut vec![1; n], |part, one| {
                        with(|| kernels(false));
                        *part = (part.0 + *one, width());
                    });
                    assert_eq!(width(), threads);
                });
                let each = if threads.min(n) < 2 { threads } else { threads / threads.min(n) };
                assert_eq!(parts, vec![(1, each); n], "{n} parts on {threads} threads");
            }
        }
    }

    #[test]
    fn two_teams_share_a_pool() {
        pool(2).install(|| rayon::join(|| with(|| kernels(false)), || with(|| kernels(false))));
    }
}
