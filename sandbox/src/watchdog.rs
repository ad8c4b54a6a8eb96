//! The wall clock behind fuel: one thread a process that interrupts calls which outlive their time.
//!
//! An interrupt (SIGUSR1) that arrives between two instructions of the host is lost, so it is sent again until the call ends.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Condvar, LazyLock, Mutex, Weak};
use std::time::{Duration, Instant};

use wasmer::Interrupter;

/// How late an interrupt may be, and how long until it is sent again.
const TICK: Duration = Duration::from_millis(10);

/// Asked at every tick whether a call is to end. It stays true once it was.
pub(crate) type Stop = Arc<dyn Fn() -> bool + Send + Sync>;

/// One interpreter's running call.
#[derive(Default)]
pub(crate) struct Watch {
    call: Mutex<Option<Call>>,
    fired: AtomicBool,
}

struct Call {
    end: Instant,
    stop: Stop,
    interrupter: Interrupter,
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
    pub fn begin(&self, end: Instant, interrupter: Interrupter, stop: Stop) {
        self.fired.store(false, SeqCst);
        *self.call.lock().expect("the watchdog does not panic") = Some(Call { end, stop, interrupter });
        if WATCHES.parked.swap(false, SeqCst) {
            WATCHES.wake.notify_one();
        }
    }

    /// The call ended; whether it was interrupted, even if too late to be noticed.
    pub fn end(&self) -> bool {
        *self.call.lock().expect("the watchdog does not panic") = None;
        self.fired.load(SeqCst)
    }

    /// Interrupts the call if its time is over; whether there is a call.
    fn tick(&self, now: Instant) -> bool {
        let call = self.call.lock().expect("interrupting does not panic");
        if let Some(call) = &*call
            && (now >= call.end || (call.stop)())
        {
            self.fired.store(true, SeqCst);
            call.interrupter.interrupt();
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
    crate::signal::guard();
    let thread = std::thread::Builder::new().name("sandbox watchdog".into());
    thread.spawn(watch).expect("a thread can be started");
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
