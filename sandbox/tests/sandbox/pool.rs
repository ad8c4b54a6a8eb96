//! Many programs, several workers, two isolations, one answer.

use std::collections::BTreeMap;
use std::time::Duration;

use toolsmith_sandbox::{Isolation, Limit, Limits, Outcome, Pool, SandboxError};

use crate::{image, kind, sandbox, timeless, worker};

fn drain(pool: &Pool, n: usize) -> BTreeMap<u64, Outcome> {
    let wait = Duration::from_secs(120);
    let next = || pool.completions().recv_timeout(wait).expect("an outcome");
    (0..n).map(|_| next()).map(|(id, o)| (id, timeless(o))).collect()
}

fn programs() -> Vec<String> {
    let kinds = [
        |i: u64| format!("print({i} ** 7)"),
        |i: u64| format!("import random\nprint(random.random(), {i})"),
        |i: u64| format!("[0] * {i}\nundefined_{i}"),
        |i: u64| format!("import os, time\nprint(os.urandom(4), time.time(), {i})"),
        |i: u64| format!("from sympy import *\nprint(factorint({i} + 10**6))"),
        |_| "import os\nos.abort()".to_string(),
        |_| "import builtins\nbuiltins.print = None".to_string(),
        |i: u64| format!("x = 0\nfor k in range({i} * 10): x += k\nx"),
    ];
    (0..96).map(|i| kinds[i as usize % kinds.len()](i)).collect()
}

/// The same bytes and the same fuel on every worker, in any order, in threads and in processes.
#[test]
fn outcomes_do_not_depend_on_the_worker() {
    let limits = Limits { fuel: 500_000_000, ..Limits::default() };
    let programs = programs();
    let mut alone = sandbox(&limits);
    let expected: Vec<_> = programs.iter().map(|p| timeless(alone.run(p))).collect();
    let threads = Pool::new(image(), &limits, 3, Isolation::Thread).unwrap();
    let processes = Pool::with_worker(image(), &limits, 2, worker()).unwrap();
    assert_eq!((threads.workers(), processes.workers()), (3, 2));
    for (pool, stride) in [(&threads, 37), (&processes, 53)] {
        for k in 0..programs.len() {
            let i = k * stride % programs.len();
            pool.submit(i as u64, programs[i].clone());
        }
        for (id, outcome) in drain(pool, programs.len()) {
            assert_eq!(outcome, expected[id as usize], "{}", programs[id as usize]);
        }
    }
}

#[cfg(target_os = "linux")]
fn children() -> Vec<i32> {
    let mut all = Vec::new();
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let path = task.unwrap().path().join("children");
        let list = std::fs::read_to_string(path).unwrap_or_default();
        all.extend(list.split_whitespace().filter_map(|p| p.parse::<i32>().ok()));
    }
    all
}

/// Workers of pools of other tests that run beside this one are told apart by the limits they were given.
#[cfg(target_os = "linux")]
#[test]
fn a_killed_worker_costs_its_call_and_is_replaced() {
    let before = children();
    let limits = Limits { fuel: u64::MAX, wall_ms: 60_000, ..Limits::default() };
    let pool = Pool::with_worker(image(), &limits, 1, worker()).unwrap();
    pool.submit(0, "print('up')".into());
    assert_eq!(drain(&pool, 1)[&0].stdout, "up\n");
    pool.submit(1, "while True: pass".into());
    pool.submit(2, "print('next')".into());
    std::thread::sleep(Duration::from_millis(300));
    let exe = worker().canonicalize().unwrap();
    let victims: Vec<i32> = children()
        .into_iter()
        .filter(|p| !before.contains(p))
        .filter(|p| std::fs::read_link(format!("/proc/{p}/exe")).is_ok_and(|e| e == exe))
        .filter(|p| {
            // The one that has been spinning: it alone burns its time.
            let stat = std::fs::read_to_string(format!("/proc/{p}/stat")).unwrap_or_default();
            stat.contains(") R ")
        })
        .collect();
    for pid in &victims {
        // SAFETY: a child of this process, found above.
        unsafe { libc::kill(*pid, libc::SIGKILL) };
    }
    let all = drain(&pool, 2);
    assert_eq!((all[&1].limit_hit, kind(&all[&1])), (Some(Limit::Lost), "SystemError"), "{victims:?}");
    assert_eq!(all[&2].stdout, "next\n");
    drop(pool);
    for pid in victims {
        assert!(!children().contains(&pid), "a zombie is left");
    }
}

#[test]
fn closing_ends_what_runs() {
    let limits = Limits { fuel: u64::MAX, wall_ms: 600_000, ..Limits::default() };
    for exe in [None, Some(worker())] {
        let pool = match exe {
            None => Pool::new(image(), &limits, 2, Isolation::Thread).unwrap(),
            Some(exe) => Pool::with_worker(image(), &limits, 2, exe).unwrap(),
        };
        for id in 0..5 {
            pool.submit(id, "while True: pass".into());
        }
        std::thread::sleep(Duration::from_millis(100));
        let started = std::time::Instant::now();
        drop(pool);
        assert!(started.elapsed() < Duration::from_secs(60));
    }
}

#[test]
fn a_worker_that_cannot_start_is_an_error() {
    for exe in ["/nonexistent/worker", "/bin/true"] {
        let made = Pool::with_worker(image(), &Limits::default(), 2, exe.as_ref());
        let Err(e) = made else { panic!("{exe} is no worker") };
        assert!(matches!(e, SandboxError::Worker { .. }), "{e}");
        assert!(e.to_string().contains(exe) && !e.to_string().contains('\n'), "{e}");
    }
}

/// What ends a process otherwise ends one call; the wall clock holds across the process too.
#[test]
fn limits_hold_in_processes() {
    let limits = Limits { fuel: 300_000_000, memory_mb: 256, ..Limits::default() };
    let pool = Pool::with_worker(image(), &limits, 2, worker()).unwrap();
    for (id, source) in
        ["while True: pass", "x = bytes(1 << 30)", "import os\nos.abort()", "print(1)"].iter().enumerate()
    {
        pool.submit(id as u64, source.to_string());
    }
    let all = drain(&pool, 4);
    let hit: Vec<_> = all.values().map(|o| o.limit_hit).collect();
    assert_eq!(hit, [Some(Limit::Fuel), Some(Limit::Memory), Some(Limit::Crash), None]);
    assert_eq!(all[&3].stdout, "1\n");
}
