//! Thousands of calls, some of whose workers are killed. In a process of its own, since the tests look at everything it has:
//! children, descriptors, temporary files, memory. One test at a time.
#![cfg(target_os = "linux")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use toolsmith_sandbox::corpus::programs;
use toolsmith_sandbox::{
    Builder, Completion, Image, Job, Limit, Limits, Outcome, Pool, Recipe, Sandbox, Source,
};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Keeps other tests out, and sees that this one leaves nothing: no child, no descriptor, no file.
struct Tidy {
    temporary: tempfile::TempDir,
    cache: BTreeSet<PathBuf>,
    descriptors: usize,
    _alone: MutexGuard<'static, ()>,
}

fn tidy() -> Tidy {
    let alone = ONE_AT_A_TIME.lock().unwrap_or_else(|e| e.into_inner());
    // What a process opens once, it opens now.
    builder().build().unwrap().run("1");
    let temporary = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    // SAFETY: the other tests wait, and what reads it here is Rust.
    unsafe { std::env::set_var("TMPDIR", temporary.path()) };
    Tidy { temporary, cache: cached(), descriptors: descriptors(), _alone: alone }
}

impl Tidy {
    fn check(&self) {
        assert_eq!(children(), Vec::<i32>::new(), "children are left, as zombies or alive");
        assert_eq!(descriptors(), self.descriptors, "descriptors are left");
        assert_eq!(fs::read_dir(self.temporary.path()).unwrap().count(), 0, "temporary files are left");
        assert_eq!(cached(), self.cache, "files are left in the cache");
    }
}

fn builder() -> Builder {
    let (cache, recipe) = (Image::default_cache(), Recipe::default());
    let image = Image::prepare(&cache, &recipe, &Source::default(), &mut |_| {});
    Sandbox::builder().image(image.unwrap_or_else(|e| panic!("{e}")))
}

fn worker() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_toolsmith-sandbox-worker"))
}

/// All children of this process: whoever starts one, reaped or not.
fn children() -> Vec<i32> {
    children_of("self")
}

fn children_of(process: &str) -> Vec<i32> {
    let mut all = Vec::new();
    for task in fs::read_dir(format!("/proc/{process}/task")).unwrap().flatten() {
        let list = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        all.extend(list.split_whitespace().filter_map(|p| p.parse::<i32>().ok()));
    }
    all
}

/// The children that run calls.
fn workers() -> Vec<i32> {
    named("sandbox-worker")
}

/// The one that those are forked from.
fn zygote() -> i32 {
    named("sandbox-zygote")[0]
}

fn named(name: &str) -> Vec<i32> {
    let is = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|n| n.trim() == name);
    children().into_iter().filter(is).collect()
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// What is being made in the cache; images, which another process may add, are to stay.
fn cached() -> BTreeSet<PathBuf> {
    let all = fs::read_dir(Image::default_cache().join("python")).unwrap().map(|e| e.unwrap());
    all.filter(|e| e.file_name().to_string_lossy().starts_with('.')).map(|e| e.path()).collect()
}

/// Kills a worker in the middle of a call: one that is up, and when it is stopped is found to compute, not to wait in a system
/// call.
fn kill_one_that_computes(first: usize) {
    let has = |pid: i32, key, value| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().filter_map(|l| l.strip_prefix(key)).any(|v: &str| v.trim().starts_with(value))
    };
    let started = Instant::now();
    for n in first.. {
        assert!(started.elapsed() < Duration::from_secs(60), "none computes");
        let all = workers();
        let Some(pid) = all.get(n % all.len().max(1)).copied().filter(|p| has(*p, "Seccomp:", "2")) else {
            continue;
        };
        send(pid, libc::SIGSTOP);
        until(|| !["R", "S", "D"].iter().any(|state| has(pid, "State:", state)));
        if fs::read_to_string(format!("/proc/{pid}/syscall")).is_ok_and(|s| s.starts_with("-1")) {
            return send(pid, libc::SIGKILL);
        }
        send(pid, libc::SIGCONT);
        std::thread::sleep(Duration::from_micros(300));
    }
}

fn send(pid: i32, signal: i32) {
    // SAFETY: a child of this process. Where it has died meanwhile it is a zombie until its pool reaps it.
    unsafe { libc::kill(pid, signal) };
}

fn kill(pid: i32) {
    send(pid, libc::SIGKILL);
}

/// Private memory of a process in KiB.
fn resident(pid: u32) -> i64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

fn next(pool: &Pool) -> Completion {
    pool.completions().recv_timeout(Duration::from_secs(120)).expect("a completion")
}

fn until(what: impl Fn() -> bool) {
    let started = Instant::now();
    while !what() {
        assert!(started.elapsed() < Duration::from_secs(60), "it never came");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn is_lost(outcome: &Outcome) -> bool {
    let error = outcome.error.as_ref();
    let dead = error.is_some_and(|e| e.kind == "SystemError" && e.message.contains("signal 9"));
    assert_eq!(outcome.limit_hit == Some(Limit::Lost), dead, "{outcome:?}");
    dead
}

/// Each is answered once; a killed worker's call is lost or, where that was asked for, run again; the pool stays at strength.
#[test]
fn ten_thousand_calls_and_a_hundred_killed_workers() {
    let tidy = tidy();
    let (calls, kills, strength) = (10_000, 100, 2);
    let pool = builder().worker(worker()).queue(calls).pool(strength).unwrap();
    let steady = descriptors();
    for id in 0..calls as u64 {
        let source = format!("x = {id}\nfor i in range(x % 6000): x += 1\nprint(x)");
        pool.submit(Job { retry: id % 2 == 0, ..Job::new(id, source) }).unwrap();
    }
    let mut answers: BTreeMap<u64, Outcome> = BTreeMap::new();
    for n in 0..calls {
        if n % (calls / kills) == 0 {
            kill_one_that_computes(n / (calls / kills));
        }
        let done = next(&pool);
        assert!(answers.insert(done.id, done.outcome).is_none(), "{} was answered twice", done.id);
    }
    let lost: Vec<_> = answers.iter().filter(|(_, o)| is_lost(o)).map(|(id, _)| *id).collect();
    for (id, outcome) in answers.iter().filter(|(id, _)| !lost.contains(id)) {
        assert_eq!(outcome.stdout, format!("{}\n", id + id % 6000), "{outcome:?}");
    }
    println!("{kills} workers killed, {} calls lost", lost.len());
    // Even ones were run again; to be lost they must have met two kills. Odd ones were not.
    assert!((kills / 4..=kills).contains(&lost.len()), "{} of {kills}", lost.len());
    assert!(lost.iter().filter(|id| *id % 2 == 0).count() <= kills / 20, "{lost:?}");
    until(|| workers().len() == strength);
    assert_eq!(children().len(), strength + 1, "and the zygote");
    assert_eq!(descriptors(), steady);
    drop(pool);
    tidy.check();
}

#[test]
fn a_killed_worker_costs_the_call_it_was_in() {
    let tidy = tidy();
    let limits = Limits { fuel: u64::MAX, ..Limits::default() };
    for retry in [false, true] {
        let pool = builder().limits(limits.clone()).worker(worker()).pool(1).unwrap();
        let slow = "x = 0\nfor i in range(10**7): x += 1\nx";
        pool.submit(Job { retry, session: Some(Default::default()), ..Job::new(0, slow) }).unwrap();
        pool.submit(Job::new(1, "print('next')")).unwrap();
        std::thread::sleep(Duration::from_millis(200));
        let victim = workers()[0];
        kill(victim);
        let first = next(&pool);
        assert_eq!(first.session.unwrap().blocks(), u32::from(retry), "the block was not run");
        match retry {
            true => assert_eq!(first.outcome.value.as_deref(), Some("10000000")),
            false => assert!(is_lost(&first.outcome)),
        }
        assert_eq!(next(&pool).outcome.stdout, "next\n");
        // One that idles costs nothing.
        let idle = workers()[0];
        assert_ne!(idle, victim);
        kill(idle);
        pool.submit(Job::new(2, "print('still')")).unwrap();
        let still = next(&pool).outcome;
        assert_eq!(still.stdout, "still\n", "{still:?}");
        assert!(!children().contains(&idle) && !children().contains(&victim));
    }
    tidy.check();
}

/// Workers whose executable is gone leave their jobs to the others; the last of them says why none is done; and once it is
/// back, so are they.
#[test]
fn workers_that_cannot_be_started_again_hang_nothing() {
    let tidy = tidy();
    let folder = tempfile::tempdir().unwrap();
    let (exe, away) = (folder.path().join("worker"), folder.path().join("away"));
    fs::copy(worker(), &exe).unwrap();
    let pool = builder().worker(&exe).pool(2).unwrap();
    fs::rename(&exe, &away).unwrap();
    kill(zygote());
    kill(workers()[0]);
    let run = |n: u64| {
        (0..n).for_each(|id| pool.submit(Job::new(id, "print(1)")).unwrap());
        (0..n).map(|_| next(&pool).outcome).collect::<Vec<_>>()
    };
    run(20).iter().for_each(|o| assert_eq!(o.stdout, "1\n", "the other worker runs it: {o:?}"));
    kill(workers()[0]);
    for o in run(5) {
        assert_eq!(o.limit_hit, Some(Limit::Lost));
        assert!(o.feedback().contains("cannot start the sandbox worker"), "{o:?}");
    }
    fs::rename(&away, &exe).unwrap();
    run(20).iter().for_each(|o| assert_eq!(o.stdout, "1\n", "{o:?}"));
    until(|| workers().len() == 2);
    drop(pool);
    drop(folder);
    tidy.check();
}

/// A zygote that dies costs no call, whatever it is in the middle of; the next worker has another one.
#[test]
fn killed_zygotes_cost_nothing() {
    let tidy = tidy();
    let pool = builder().worker(worker()).pool(2).unwrap();
    let steady = descriptors();
    let first = zygote();
    kill(first);
    pool.submit(Job::new(0, "print(1)")).unwrap();
    assert_eq!(next(&pool).outcome.stdout, "1\n", "workers live on");
    for round in 0..60 {
        let workers = workers();
        // By turns before the zygote is asked for a fork, and while it makes one.
        named("sandbox-zygote").into_iter().filter(|_| round % 2 == 0).for_each(kill);
        workers.into_iter().for_each(kill);
        std::thread::sleep(Duration::from_micros(100 * round));
        named("sandbox-zygote").into_iter().filter(|_| round % 2 == 1).for_each(kill);
        for id in 0..2 {
            pool.submit(Job { retry: true, ..Job::new(id, format!("print({id})")) }).unwrap();
        }
        for _ in 0..2 {
            let done = next(&pool);
            assert_eq!(done.outcome.stdout, format!("{}\n", done.id), "{:?}", done.outcome);
        }
    }
    until(|| workers().len() == 2);
    assert_ne!(zygote(), first);
    assert_eq!((children().len(), descriptors()), (3, steady));
    drop(pool);
    tidy.check();
}

/// What a worker has of its own once it has run many programs: the rest is its siblings' as well.
#[test]
fn a_further_worker_takes_ten_megabytes_at_most() {
    let tidy = tidy();
    let programs: Vec<_> = programs().into_iter().filter(|p| p.held_out()).collect();
    let sizes = [1, 3].map(|workers| {
        let limits = Limits { fuel: 20_000_000_000, ..Limits::default() };
        let pool = builder().limits(limits).worker(worker()).pool(workers).unwrap();
        // Among so many each gets its share.
        let jobs = programs.iter().cycle().take(programs.len() * workers);
        let count =
            jobs.enumerate().map(|(id, p)| pool.submit(Job::new(id as u64, p.source)).unwrap()).count();
        (0..count).for_each(|_| drop(next(&pool)));
        let pss = |pid: i32| {
            let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
            let line = text.lines().find_map(|l| l.strip_prefix("Pss:")).unwrap();
            line.split_whitespace().next().unwrap().parse::<i64>().unwrap()
        };
        until(|| self::workers().len() == workers);
        children().into_iter().map(pss).sum::<i64>()
    });
    let further = (sizes[1] - sizes[0]) / 2;
    println!("{sizes:?} KiB with one worker and with three: {further} KiB for one more");
    assert!(further < 10_000_000 / 1024, "{sizes:?}");
    tidy.check();
}

/// A killed parent leaves nobody to end its workers, not even one in the middle of an endless call.
#[test]
fn workers_do_not_outlive_their_parent() {
    let tidy = tidy();
    let mut parent = Command::new(worker()).arg("parent").stdout(Stdio::piped()).spawn().unwrap();
    let mut pid = String::new();
    BufReader::new(parent.stdout.take().unwrap()).read_line(&mut pid).unwrap();
    let state = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    std::thread::sleep(Duration::from_millis(100));
    let all = children_of(&parent.id().to_string());
    assert_eq!(all.len(), 2, "the worker and its zygote");
    let worker = pid.trim().parse().unwrap();
    assert!(all.contains(&worker) && state(&worker).contains("(sandbox-worker)"), "{}", state(&worker));
    parent.kill().unwrap();
    parent.wait().unwrap();
    // Whoever adopts them may not reap them at once.
    until(|| all.iter().map(state).all(|s| s.is_empty() || s.contains(") Z ")));
    tidy.check();
}

const MIX: &[&str] = &[
    "print(2**100)",
    "1 / 0",
    "for i in range(100):\n    try:\n        {}['x']\n    except KeyError: pass",
    "def f(n): return f(n + 1)\nf(0)",
    "x = [0] * 10**6\nlen(x)",
    "from sympy import *\nx = symbols('x')\nsolve(x**2 - 2, x)",
    "import numpy as np\nnp.linalg.inv(np.zeros((2, 2)))",
    "import os\nos.abort()",
    "while True: pass",
    "print('x' * 10**5)",
];

/// Private memory of both ends after each tenth of the calls, the first left out: it may not trend upwards.
fn flat(calls: usize) {
    let tidy = tidy();
    let mut python = builder().fuel(4_000_000).worker(worker()).build().unwrap();
    let mut alone = builder().fuel(4_000_000).build().unwrap();
    let zygote = zygote();
    let (mut here, mut there) = (Vec::new(), Vec::new());
    for n in 0..calls {
        // A trap costs the worker, so that a run of calls without one comes first and reaches its own end.
        let source = MIX[if n % 2500 < 1500 { n % 3 } else { n % MIX.len() }];
        let (a, b) = (python.run(source), alone.run(source));
        assert_eq!((a.stdout, a.fuel, a.limit_hit), (b.stdout, b.fuel, b.limit_hit), "{source}");
        if (n + 1) % (calls / 10) == 0 {
            // One that is up: the last call may have ended it.
            python.run("1");
            there.push(resident(python.process_id().unwrap()));
            here.push(resident(std::process::id()));
        }
    }
    println!("KiB after each tenth of {calls} calls: worker {there:?}, here {here:?}");
    assert_eq!(self::zygote(), zygote, "it lived through all of them");
    for all in [there, here] {
        let (first, last) = (all[1..5].iter().max().unwrap(), all[5..].iter().max().unwrap());
        assert!(last - first < 8 << 10, "it grows: {all:?}");
    }
    drop((python, alone));
    tidy.check();
}

#[test]
fn memory_is_flat_over_five_thousand_calls() {
    flat(5000);
}

#[test]
#[ignore = "some minutes"]
fn memory_is_flat_over_a_hundred_thousand_calls() {
    flat(100_000);
}

/// wasmer keeps what is thrown until a store goes; it goes with every thousandth call, and its process with it.
#[test]
fn exceptions_do_not_stay() {
    let tidy = tidy();
    let mut python = builder().worker(worker()).build().unwrap();
    let size = |python: &mut Sandbox| {
        python.run("1");
        resident(python.process_id().unwrap())
    };
    let mut sizes = Vec::new();
    for n in 0..10_000 {
        assert_eq!(python.run("raise ValueError('no')").feedback(), "ValueError: no");
        if n % 2500 == 2499 {
            sizes.push(size(&mut python));
        }
    }
    // And those of one call, caught or not, in Python and in the middle of C.
    for source in [
        "for i in range(10**5):\n    try: 1 / 0\n    except ZeroDivisionError: pass",
        "for i in range(10**5):\n    try: int('x')\n    except ValueError: pass",
        "sum(1 for i in range(10**5) if not hasattr(i, 'x'))",
        "import numpy as np\nfor i in range(2000):\n    try: np.linalg.inv(np.zeros((2, 2)))\n    except Exception: pass",
    ] {
        assert_eq!(python.run(source).error, None, "{source}");
        sizes.push(size(&mut python));
    }
    println!("KiB after each 2500 exceptions, and after each of four calls with thousands: {sizes:?}");
    assert!(sizes.iter().max().unwrap() - sizes[0] < 4 << 10, "{sizes:?}");
    drop(python);
    tidy.check();
}
