//! Every limit, and that the next call is as if nothing had happened.

use std::time::Instant;

use toolsmith_sandbox::{Limit, Limits, SandboxError};

use crate::{builder, kind, run, sandbox};

fn small() -> Limits {
    Limits { fuel: 300_000_000, memory_mb: 256, ..Limits::default() }
}

fn ends(source: &str, limit: Limit, error: &str) {
    let mut s = sandbox(&small());
    let o = s.run(source);
    assert_eq!((o.limit_hit, kind(&o)), (Some(limit), error), "{source}: {o:?}");
    assert!(o.feedback().contains(error), "{o:?}");
    assert_eq!(s.run("print(6 * 7)").stdout, "42\n", "after {source}");
}

#[test]
fn loops_run_out_of_fuel() {
    for source in [
        "while True: pass",
        "def f():\n    while True: yield\nfor _ in f(): pass",
        "try:\n    while True: pass\nexcept BaseException:\n    print('caught')",
        "class A:\n    def __del__(self):\n        while True: pass\na = A()\ndel a",
        "import atexit\ndef f():\n    while True: pass\natexit.register(f)",
        "import itertools\nsum(itertools.count())",
        "import re\nre.match(r'(a+)+$', 'a' * 40 + 'b')",
        "import time\nwhile time.time() < 2**40: pass",
        "int('9' * 4000) ** 300000",
    ] {
        ends(source, Limit::Fuel, "TimeoutError");
    }
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
fn memory_runs_out_as_an_error() {
    for source in [
        "x = 'a' * (1 << 30)",
        "x = bytearray(400 << 20)",
        "x = []\nwhile True: x.append(bytes(1 << 20))",
        "x = list(range(10**8))",
        "[0] * 10**9",
        "x = [()]\nwhile True: x = [x] * 1000 + [dict.fromkeys(range(1000))] ",
    ] {
        ends(source, Limit::Memory, "MemoryError");
    }
    let o = sandbox(&small()).run("try:\n    x = bytes(1 << 30)\nexcept MemoryError:\n    print('fine')");
    assert_eq!((o.stdout.as_str(), o.limit_hit), ("fine\n", None));
    assert!(run("1").memory_peak > 1 << 24);
}

#[test]
fn floods_are_kept_small() {
    let o = sandbox(&small()).run("while True: print('x' * 1000)");
    assert_eq!(o.limit_hit, Some(Limit::Fuel));
    assert!(o.stdout.len() < 20_000 && o.truncated > 0);
}

#[test]
fn recursion_ends() {
    assert_eq!(kind(&run("def f(): return f()\nf()")), "RecursionError");
    for source in [
        "import sys\nsys.setrecursionlimit(10**9)\ndef f(n): return f(n + 1) + 1\nf(0)",
        "import sys\nsys.setrecursionlimit(10**9)\nx = []\nfor _ in range(10**6): x = [x]\nrepr(x)",
        "eval('(' * 10000 + ')' * 10000)",
        "eval('-' * 100000 + '1')",
    ] {
        let mut s = sandbox(&small());
        let o = s.run(source);
        assert!(!o.ok(), "{source}: {o:?}");
        assert_eq!(s.run("1 + 1").feedback(), "2", "after {source}");
    }
}

#[test]
fn crashes_cost_their_own_call() {
    for source in [
        "import os\nos.abort()",
        "import types\ndef f(): pass\nf.__code__ = f.__code__.replace(co_code=b'\\xff' * 64, co_stacksize=0)\nf()",
        "import faulthandler\nfaulthandler._sigsegv()",
    ] {
        let mut s = sandbox(&small());
        let o = s.run(source);
        assert!(!o.ok(), "{source}: {o:?}");
        assert_eq!(s.run("print(6 * 7)").stdout, "42\n", "after {source}");
    }
    let o = run("import os\nos.abort()");
    assert_eq!((o.limit_hit, kind(&o)), (Some(Limit::Crash), "SystemError"), "{o:?}");
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
