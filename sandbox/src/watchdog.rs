//! The wall clock behind fuel: one thread a process that takes the fuel from calls which outlive their time.
//!
//! A call without fuel ends at its next charge: in compiled code, where it can end at any time. (A signal comes anywhere; one
//! that ends a guest which is just about to call the host leaves wasmer's own books open, and the process aborts over them.)
//! The guest counts as well, without waiting for anybody, so what it stores may undo the theft. The watchdog therefore takes
//! the fuel again at each tick, until the call ends.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Barrier, Condvar, LazyLock, Mutex, Weak};
use std::time::{Duration, Instant};

use wasmer::{AsStoreMut, Extern, Global};

/// How late an interrupt may be, and how long until the next.
const TICK: Duration = Duration::from_millis(10);
/// What a call is left with: less than it can owe by itself.
const DRAINED: i64 = i64::MIN / 2;

/// Where an instance counts its fuel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tank(NonNull<AtomicI64>);

// SAFETY: an address; what is done with it is `Watch::begin`'s to promise.
unsafe impl Send for Tank {}

impl Tank {
    /// Of the exported counter, an i64 global.
    pub fn of(counter: &Global, store: &mut impl AsStoreMut) -> Option<Tank> {
        let global = Extern::Global(counter.clone()).to_vm_extern().unwrap_sys();
        let wasmer_vm::VMExtern::Global(global) = global else { return None };
        Some(Tank(global.get(store.objects_mut().as_sys()).vmglobal().cast()))
    }
}

/// Asked at every tick whether a call is to end. It stays true once it was.
pub(crate) type Stop = Arc<dyn Fn() -> bool + Send + Sync>;

/// One interpreter's running call.
#[derive(Default)]
pub(crate) struct Watch {
    call: Mutex<Option<Call>>,
}

struct Call {
    end: Instant,
    stop: Stop,
    tank: Tank,
    /// What was left when its time was over.
    left: Option<i64>,
}

/// A call that the watchdog watches until this is dropped.
pub(crate) struct Running<'a>(&'a Watch);

impl Running<'_> {
    /// The call ended; the fuel that was left to it when it was interrupted, if it was, even if too late to be noticed.
    pub fn end(self) -> Option<i64> {
        self.0.call.lock().expect("the watchdog does not panic").take().and_then(|call| call.left)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Ok(mut call) = self.0.call.lock() {
            *call = None;
        }
    }
}

impl Watch {
    pub fn new() -> Arc<Watch> {
        let watch = Arc::new(Watch::default());
        let mut all = WATCHES.lock.lock().expect("the watchdog does not panic");
        all.retain(|w| w.strong_count() > 0);
        all.push(Arc::downgrade(&watch));
        watch
    }

    /// A call begins that may last until `end`, or until `stop` says so.
    ///
    /// # Safety
    /// The instance that `tank` belongs to outlives the guard, and only the thread that runs it uses it otherwise.
    pub unsafe fn begin(&self, end: Instant, tank: Tank, stop: Stop) -> Running<'_> {
        *self.call.lock().expect("the watchdog does not panic") = Some(Call { end, stop, tank, left: None });
        if WATCHES.parked.swap(false, SeqCst) {
            WATCHES.wake.notify_one();
        }
        Running(self)
    }

    /// Interrupts the call if its time is over; whether there is a call.
    fn tick(&self, now: Instant) -> bool {
        let mut call = self.call.lock().expect("interrupting does not panic");
        if let Some(call) = &mut *call
            && (now >= call.end || (call.stop)())
        {
            // SAFETY: `begin`'s promise: the counter is there as long as the call is. Compiled code reads and writes it in
            // single aligned accesses.
            let left = unsafe { call.tank.0.as_ref() }.swap(DRAINED, Relaxed);
            call.left.get_or_insert(left);
        }
        call.is_some()
    }
}

struct Watches {
    lock: Mutex<Vec<Weak<Watch>>>,
    wake: Condvar,
    /// The thread sleeps until a call begins.
    parked: AtomicBool,
}

static WATCHES: LazyLock<Watches> = LazyLock::new(|| {
    let up = Arc::new(Barrier::new(2));
    let here = up.clone();
    let run = move || {
        up.wait();
        watch();
    };
    let thread = std::thread::Builder::new().name("sandbox watchdog".into());
    thread.spawn(run).expect("a thread can be started");
    // The process may be confined next, and a thread on its way up does what a confined one may not.
    here.wait();
    Watches { lock: Mutex::default(), wake: Condvar::new(), parked: AtomicBool::new(false) }
});

fn watch() {
    let mut idle = 0;
    loop {
        let mut all = WATCHES.lock.lock().expect("nothing panics with it held");
        // A call that begins between this and the wait finds `parked` and wakes the thread; the time-out covers the gap.
        WATCHES.parked.store(idle > 100, SeqCst);
        let pause = if idle > 100 { Duration::from_secs(1) } else { TICK };
        (all, _) = WATCHES.wake.wait_timeout(all, pause).expect("as above");
        let now = Instant::now();
        let running = all.iter().filter_map(Weak::upgrade).filter(|w| w.tick(now)).count();
        idle = if running > 0 { 0 } else { idle + 1 };
    }
}
