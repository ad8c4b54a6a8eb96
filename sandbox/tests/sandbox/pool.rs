//! Many programs, several workers, two isolations, one answer.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use toolsmith_sandbox::{Builder, Completion, Job, Limit, Limits, Outcome, Pool, Refused, SandboxError};

use crate::{builder, kind, sandbox, timeless, worker};

/// The same sandbox in threads and in processes.
fn both(limits: &Limits) -> [Builder; 2] {
    [builder(limits), builder(limits).worker(worker())]
}

fn next(pool: &Pool) -> Completion {
    pool.completions().recv_timeout(Duration::from_secs(120)).expect("a completion")
}

fn drain(pool: &Pool, n: usize) -> BTreeMap<u64, Outcome> {
    (0..n).map(|_| next(pool)).map(|done| (done.id, timeless(done.outcome))).collect()
}

fn endless() -> Limits {
    Limits { fuel: u64::MAX, wall_ms: 600_000, ..Limits::default() }
}

const FOREVER: &str = "while True: pass";

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
    for (builder, workers) in both(&limits).into_iter().zip([3, 2]) {
        let pool = builder.pool(workers).unwrap();
        assert_eq!(pool.workers(), workers);
        for k in 0..programs.len() {
            let i = k * 37 % programs.len();
            pool.submit(Job::new(i as u64, programs[i].clone())).unwrap();
        }
        for (id, outcome) in drain(&pool, programs.len()) {
            assert_eq!(outcome, expected[id as usize], "{}", programs[id as usize]);
        }
    }
}

/// A session goes from worker to worker, and from process to process, as if it had one of its own.
#[test]
fn sessions_travel_with_their_jobs() {
    let mut alone = sandbox(&Limits::default());
    let blocks = ["x = [1]", "x += [len(x)] * 3\nprint(x)", "import os\nos.abort()", "sum(x)"];
    let mut session = alone.session();
    let expected: Vec<_> = blocks.iter().map(|b| timeless(alone.run_in(&mut session, b))).collect();
    for builder in both(&Limits::default()) {
        let pool = builder.pool(2).unwrap();
        let submit = |id, step: usize, session| {
            let job = Job { session: Some(session), ..Job::new(id, blocks[step]) };
            pool.submit(job).unwrap();
        };
        (0..4).for_each(|id| submit(id, 0, Default::default()));
        for _ in 0..4 * blocks.len() {
            let done = next(&pool);
            let session = done.session.unwrap();
            let step = session.blocks() as usize;
            assert_eq!(timeless(done.outcome), expected[step - 1]);
            if step < blocks.len() {
                submit(done.id, step, session);
            }
        }
    }
}

#[test]
fn a_stateful_sandbox_goes_on_where_it_was() {
    for builder in both(&Limits::default()) {
        let mut python = builder.stateful(true).build().unwrap();
        assert_eq!(python.run("x = 41").feedback(), "");
        assert_eq!(python.run("import os\nos.abort()").limit_hit, Some(Limit::Crash));
        assert_eq!(python.run("x + 1").value.as_deref(), Some("42"));
    }
}

#[test]
fn a_full_or_closed_queue_hands_the_job_back() {
    let pool = builder(&endless()).queue(1).pool(1).unwrap();
    pool.submit(Job::new(0, FOREVER)).unwrap();
    while pool.submit(Job::new(1, "print(1)")).is_err() {
        std::thread::yield_now();
    }
    let refused = loop {
        // Until the worker has taken the first there is a place more.
        match pool.submit(Job::new(2, "print(2)")) {
            Ok(()) => assert!(pool.cancel(2), "it waits"),
            Err(refused) => break refused,
        }
    };
    assert!(matches!(refused, Refused::Full(_)), "{refused}");
    assert_eq!(refused.into_job().source, "print(2)");
    pool.close();
    let refused = pool.submit(Job::new(3, "print(3)")).unwrap_err();
    assert!(matches!(refused, Refused::Closed(_)), "{refused}");
    assert!(pool.cancel(0));
    let all: Vec<_> = pool.shutdown().iter().filter(|done| done.id != 2).map(|d| (d.id, d.outcome)).collect();
    assert_eq!((all[0].0, all[0].1.limit_hit), (0, Some(Limit::Cancelled)));
    assert_eq!((all[1].0, all[1].1.stdout.as_str(), all.len()), (1, "1\n", 2));
}

/// Waiting or running, in a thread or in a process: it ends soon, its worker and its session stay.
#[test]
fn a_cancelled_job_ends_and_nothing_else_does() {
    for builder in both(&endless()) {
        let pool = builder.pool(1).unwrap();
        pool.submit(Job { session: Some(Default::default()), ..Job::new(0, "x = 7") }).unwrap();
        let session = next(&pool).session;
        pool.submit(Job { session, ..Job::new(1, format!("x = 8\n{FOREVER}")) }).unwrap();
        pool.submit(Job::new(2, "print(2)")).unwrap();
        pool.submit(Job::new(3, "print(3)")).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        assert!(pool.cancel(2) && !pool.cancel(2) && !pool.cancel(99));
        let done = next(&pool);
        assert_eq!((done.id, done.outcome), (2, cancelled()));
        let started = Instant::now();
        assert!(pool.cancel(1));
        let done = next(&pool);
        assert_eq!((done.id, done.outcome.limit_hit), (1, Some(Limit::Cancelled)));
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
        assert_eq!(next(&pool).outcome.stdout, "3\n");
        pool.submit(Job { session: done.session, ..Job::new(4, "x") }).unwrap();
        assert_eq!(next(&pool).outcome.value.as_deref(), Some("7"));
        assert!(!pool.cancel(4), "it has ended");
    }
}

fn cancelled() -> Outcome {
    let json = serde_json::json!({
        "stdout": "", "stderr": "", "value": null, "fuel": 0, "wall": 0.0, "memory_peak": 0, "truncated": 0,
        "limit_hit": "cancelled", "error": {"type": "CancelledError", "message": "the call was cancelled",
            "line": null, "traceback": "CancelledError: the call was cancelled"},
    });
    serde_json::from_value(json).unwrap()
}

#[test]
fn a_sandbox_stops_when_it_is_told() {
    for builder in both(&endless()) {
        let mut python = builder.build().unwrap();
        let started = Instant::now();
        let late = move || started.elapsed() > Duration::from_millis(50);
        let o = python.run_until(&format!("print('on')\n{FOREVER}"), late);
        assert_eq!(
            (o.limit_hit, kind(&o), o.stdout.as_str()),
            (Some(Limit::Cancelled), "CancelledError", "on\n")
        );
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
        assert_eq!(timeless(python.run_until("1", || true)), cancelled());
        assert_eq!(python.run("1").value.as_deref(), Some("1"));
    }
}

#[test]
fn shutting_down_finishes_what_was_taken() {
    for builder in both(&Limits::default()) {
        let pool = builder.pool(2).unwrap();
        (0..40).for_each(|id| pool.submit(Job::new(id, format!("print({id})"))).unwrap());
        let all: BTreeMap<_, _> = pool.shutdown().iter().map(|d| (d.id, d.outcome.stdout)).collect();
        assert_eq!(all, (0..40).map(|id| (id, format!("{id}\n"))).collect());
    }
}

#[test]
fn dropping_ends_what_runs() {
    for builder in both(&endless()) {
        let pool = builder.pool(2).unwrap();
        let completions = pool.completions().clone();
        (0..5).for_each(|id| pool.submit(Job::new(id, FOREVER)).unwrap());
        std::thread::sleep(Duration::from_millis(100));
        let started = Instant::now();
        drop(pool);
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
        let ended: Vec<_> = completions.iter().map(|done| done.outcome.limit_hit).collect();
        assert_eq!(ended, [Some(Limit::Cancelled); 2], "those that ran, and none that waited");
    }
}

#[test]
fn a_worker_that_cannot_start_is_an_error() {
    for exe in ["/nonexistent/worker", "/bin/true"] {
        let made = builder(&Limits::default()).worker(exe).pool(2);
        let Err(e) = made else { panic!("{exe} is no worker") };
        assert!(matches!(e, SandboxError::Worker { .. }), "{e}");
        assert!(e.to_string().contains(exe) && !e.to_string().contains('\n'), "{e}");
    }
}

/// What ends a process otherwise ends one call; the limits hold across the process too.
#[test]
fn limits_hold_in_processes() {
    let limits = Limits { fuel: 300_000_000, memory_mb: 256, ..Limits::default() };
    let pool = builder(&limits).worker(worker()).pool(2).unwrap();
    for (id, source) in
        [FOREVER, "x = bytes(1 << 30)", "import os\nos.abort()", "print(1)"].iter().enumerate()
    {
        pool.submit(Job::new(id as u64, *source)).unwrap();
    }
    let all = drain(&pool, 4);
    let hit: Vec<_> = all.values().map(|o| o.limit_hit).collect();
    assert_eq!(hit, [Some(Limit::Fuel), Some(Limit::Memory), Some(Limit::Crash), None]);
    assert_eq!(all[&3].stdout, "1\n");
    let pool = builder(&Limits { wall_ms: 300, ..endless() }).worker(worker()).pool(1).unwrap();
    pool.submit(Job::new(0, FOREVER)).unwrap();
    assert_eq!(drain(&pool, 1)[&0].limit_hit, Some(Limit::Wall));
}
