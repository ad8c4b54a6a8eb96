//! An allocator that counts, for the tests that executing a plan again allocates nothing. One test a binary, since the counter
//! is the process's.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

struct Counting;

/// Allocations so far.
pub static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: passes everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(p, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// From inside a pool of two threads: returns once both have worked. A thread's first steal allocates in crossbeam.
pub fn wake() {
    let (here, stolen) = (rayon::current_thread_index(), AtomicBool::new(false));
    let steal = || stolen.fetch_or(rayon::current_thread_index() != here, Ordering::Relaxed);
    while !stolen.load(Ordering::Relaxed) {
        rayon::join(|| std::thread::sleep(Duration::from_millis(1)), steal);
    }
}
