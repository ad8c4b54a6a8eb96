//! Work spread over rayon's threads, without allocation and without waiting for sleepers.
//!
//! A kernel cuts its output into tasks by shape alone; threads take tasks from a counter. Which thread
//! runs a task never shows in a result. Within a plan the threads are a [`team`], at hand in a fraction of a
//! microsecond; elsewhere rayon wakes them. Work too small for either stays on the calling thread.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::team;

/// Estimated nanoseconds under which waking another thread costs more than it brings.
const WAKE_NS: usize = 12_000;
/// Estimated nanoseconds under which sharing with a thread that waits for it does.
const SHARE_NS: usize = 3_000;

/// Estimated nanoseconds that another thread is worth.
fn small() -> usize {
    if team::at_hand() { SHARE_NS } else { WAKE_NS }
}

/// Threads that may take part in work of about `ns` nanoseconds.
pub(super) fn threads(ns: usize) -> usize {
    if ns < small() { 1 } else { team::width() }
}

/// Runs `f(lane, task)` for every task, on at most `lanes` threads at once, each with its own `lane`.
pub(crate) fn run(lanes: usize, tasks: usize, f: impl Fn(usize, usize) + Sync) {
    if lanes <= 1 || tasks <= 1 {
        (0..tasks).for_each(|task| f(0, task));
        return;
    }
    let lanes = lanes.min(tasks);
    if team::share(lanes, tasks, &f) {
        return;
    }
    let next = AtomicUsize::new(0);
    fan(0..lanes, &|lane| {
        loop {
            let task = next.fetch_add(1, Ordering::Relaxed);
            if task >= tasks {
                return;
            }
            f(lane, task);
        }
    });
}

fn fan(lanes: Range<usize>, f: &(impl Fn(usize) + Sync)) {
    if lanes.len() == 1 {
        return f(lanes.start);
    }
    let mid = lanes.start + lanes.len() / 2;
    rayon::join(|| fan(lanes.start..mid, f), || fan(mid..lanes.end, f));
}

/// Cuts `0..n` into pieces of a multiple of `unit`, a few a thread, for work of about `ns` nanoseconds in
/// all, and runs `f` on each. For kernels whose elements don't see each other.
pub(crate) fn ranges(ns: usize, n: usize, unit: usize, f: impl Fn(Range<usize>) + Sync) {
    let threads = threads(ns);
    // A whole number for each thread, so that all kernels part the rows alike.
    let pieces = if threads == 1 { 1 } else { (ns / small() / threads).clamp(1, 4) * threads };
    let len = n.div_ceil(pieces).next_multiple_of(unit).max(unit);
    run(threads, n.div_ceil(len), |_, task| f(task * len..((task + 1) * len).min(n)));
}

/// A mutable slice from which tasks take parts that don't overlap.
pub(crate) struct Parts<'a, T>(*mut T, usize, PhantomData<&'a mut [T]>);

// SAFETY: access goes through `get`, whose callers keep the parts disjoint.
unsafe impl<T: Send> Sync for Parts<'_, T> {}
// SAFETY: as a `&mut [T]`.
unsafe impl<T: Send> Send for Parts<'_, T> {}

impl<'a, T> Parts<'a, T> {
    pub fn new(slice: &'a mut [T]) -> Self {
        Parts(slice.as_mut_ptr(), slice.len(), PhantomData)
    }

    /// The `len` values from `start` on.
    ///
    /// # Safety
    /// They are there for `'a`, and are written only by those that know of these parts.
    pub unsafe fn from_raw(start: *mut T, len: usize) -> Self {
        Parts(start, len, PhantomData)
    }

    /// The part `range`.
    ///
    /// # Safety
    /// No two parts alive at once may overlap.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn get(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.1, "part {range:?} of {}", self.1);
        // SAFETY: inside the slice, and the caller keeps parts disjoint.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(range.start), range.len()) }
    }

    pub fn len(&self) -> usize {
        self.1
    }

    /// The start of the slice, for kernels that write a strided part of it.
    pub fn as_ptr(&self) -> *mut T {
        self.0
    }
}

/// A pointer that tasks may share to read.
#[derive(Clone, Copy)]
pub(super) struct Shared<T>(pub *const T);

// SAFETY: only read through, while the slice it came from is borrowed.
unsafe impl<T: Sync> Sync for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Send for Shared<T> {}

impl<T> Shared<T> {
    pub fn get(&self) -> *const T {
        self.0
    }
}
