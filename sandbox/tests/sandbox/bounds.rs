//! Every limit, and that the next call is as if nothing had happened.

use std::time::Instant;

use toolsmith_sandbox::{Limit, Limits, SandboxError};

use crate::{builder, kind, run, sandbox, timeless};

fn small() -> Limits {
    Limits { fuel: 300_000_000, memory_mb: 256, ..Limits::default() }
}

#[test]
fn what_was_printed_before_a_time_out_is_kept() {
    let o = sandbox(&small()).run("print('first', flush=True)\nwhile True: pass");
    assert!(o.feedback().starts_with("first\nTimeoutError: the program ran too long"));
    assert_eq!(o.fuel, small().fuel);
}

#[test]
fn sleeping_takes_no_time() {
    let started = Instant::now();
    let o = run("import time\nt = time.time()\ntime.sleep(3600)\nprint(round(time.time() - t))");
    assert_eq!(o.stdout, "3600\n");
    assert!(started.elapsed().as_secs() < 600);
}

#[test]
fn the_wall_clock_stands_behind_fuel() {
    let limits = Limits { wall_ms: 300, fuel: u64::MAX, ..Limits::default() };
    let mut s = sandbox(&limits);
    for source in ["while True: pass", "x = bytearray(50 << 20)\nwhile True: y = x[:]", "7 ** (10 ** 9)"] {
        let started = Instant::now();
        let o = s.run(source);
        assert_eq!((o.limit_hit, kind(&o)), (Some(Limit::Wall), "TimeoutError"), "{source}: {o:?}");
        assert!(started.elapsed().as_secs() < 60, "{source}");
    }
    let mut s = sandbox(&Limits::default());
    assert_eq!(s.run("1 + 1").feedback(), "2");
}

/// Interrupts come at any instruction: in compiled code, in the host, while memory grows, at the very end of a call.
#[test]
fn an_interrupt_may_come_anywhere() {
    let mut s = sandbox(&Limits::default());
    let clean = timeless(s.run("import gc\nprint(gc.get_count())"));
    for (n, wall_ms) in [1, 2, 3, 5, 11, 20, 12, 13].into_iter().cycle().take(64).enumerate() {
        let limits = Limits { wall_ms, fuel: u64::MAX, ..Limits::default() };
        let source = [
            "while True: pass",
            "import time\nwhile True: time.time()",
            "import os\nwhile True: os.urandom(100000)",
            "while True: x = bytearray(300 << 20)",
            "while True:\n    try: bytes(1 << 30)\n    except MemoryError: pass",
            "while True: print('x' * 1000)",
            "import numpy as np\na = np.ones((200, 200))\nwhile True: a @ a",
            "for i in range(20000 * 7): pass",
        ][n % 8];
        let mut interrupted = sandbox(&limits);
        let o = interrupted.run(source);
        assert!(o.ok() || o.limit_hit == Some(Limit::Wall), "{source}: {o:?}");
        assert_eq!(timeless(s.run("import gc\nprint(gc.get_count())")), clean, "after {source}");
    }
}

#[test]
fn a_thousand_exceptions_and_calls() {
    let mut s = sandbox(&Limits::default());
    let many = "n = 0\nfor i in range(10000):\n    try: int('x')\n    except ValueError: n += 1\nprint(n)";
    assert_eq!(s.run(many).stdout, "10000\n");
    for i in 0..1100 {
        assert_eq!(s.run(&format!("{i} + 1")).feedback(), (i + 1).to_string());
    }
}

#[test]
fn limits_that_cannot_hold_are_refused() {
    for limits in [
        Limits { memory_mb: 1, ..Limits::default() },
        Limits { memory_mb: 5000, ..Limits::default() },
        Limits { fuel: 0, ..Limits::default() },
        Limits { wall_ms: 0, ..Limits::default() },
    ] {
        let Err(e) = builder(&limits).build() else { panic!("{limits:?} was taken") };
        assert!(matches!(e, SandboxError::Limits { .. }) && e.to_string().starts_with("limits."), "{e}");
    }
    assert!(serde_json::from_str::<Limits>("{\"fule\": 1}").is_err());
    assert_eq!(serde_json::from_str::<Limits>("{}").unwrap(), Limits::default());
}
