//! The same source, limits and image give the same bytes and the same fuel: on any worker, after any other program, at any
//! load. Hundreds of programs, clean, dirty, failing and cut off, in orders drawn from a seed.

use std::collections::BTreeMap;
use std::time::Duration;

use toolsmith_sandbox::corpus;
use toolsmith_sandbox::{Job, Limits, Outcome, Pool};

use crate::{builder, hostile, leftovers, sandbox, timeless, worker};

/// Enough for most programs; the others are cut off, which is to happen at the same step each time.
fn limits() -> Limits {
    Limits { fuel: 20_000_000, memory_mb: 192, output_bytes: 2000, traceback: true, ..Limits::default() }
}

/// What a program could see change: clocks, random numbers, addresses, hashes, the order of sets, counters.
const PROBES: [&str; 12] = [
    "import time, datetime\nprint(time.time_ns(), time.monotonic(), time.perf_counter(), time.process_time(), time.thread_time(), time.localtime(), time.tzname, datetime.datetime.now(), datetime.datetime.now(datetime.UTC))",
    "import random, secrets, os, uuid\nprint(random.random(), random.SystemRandom().random(), secrets.token_hex(), os.urandom(9), uuid.uuid1(), uuid.uuid4(), random.Random().random())",
    "import numpy as np\nprint(np.random.rand(3), np.random.default_rng().random(3), np.random.SeedSequence().entropy)",
    "print({'b', 'a', 'c'}, {object() for _ in range(9)}, hash('x'), hash(None), hash(object()), id(object()), hash(b'y'), hash(1.5))",
    "class A: pass\nprint([A() for _ in range(9)], A, sorted([A(), A()], key=id), lambda: 0)",
    "import tempfile, threading, os, sys, platform\nprint(next(tempfile._get_candidate_names()), threading.get_ident(), os.getpid(), sys.hash_info, platform.platform())",
    "import gc, sys\nprint(gc.get_count(), gc.get_stats(), sys.getallocatedblocks(), sys.getrefcount(None), len(gc.get_objects()))",
    "from sympy import *\nx, y = symbols('x y')\nprint(factor(x**6 - y**6), solve([x + y - 3, x*y - 2]), Symbol('q').__hash__(), Dummy())",
    "import networkx as nx\nprint(nx.gnp_random_graph(9, 0.5).edges, nx.spring_layout(nx.path_graph(3)))",
    "def f(n): return f(n + 1)\nf(0)",
    "f = open('/usr/local/lib/python315.zip', 'rb')\nprint(f.fileno(), f.read(99)[:4], f.seek(0, 2) > 0, f.tell() > 99)",
    "import itertools\nfor i in itertools.count(): print(i, {str(i), i, object()})",
];

/// A generator of one's own (SplitMix64), for orders and numbers.
struct Seed(u64);

impl Seed {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let x = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let x = (x ^ x >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((x ^ x >> 31) % n as u64) as usize
    }

    /// 0 to `n` - 1 in some order.
    fn order(&mut self, n: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..n).collect();
        (1..n).rev().for_each(|i| all.swap(i, self.below(i + 1)));
        all
    }
}

fn programs() -> Vec<String> {
    let mut seed = Seed(1);
    let mut all: Vec<String> = hostile::programs().iter().map(|p| p.source.to_string()).collect();
    all.extend(corpus::programs().iter().step_by(7).map(|p| p.source.to_string()));
    all.extend(leftovers::DIRT.iter().chain(&PROBES).map(|s| s.to_string()));
    for _ in 0..60 {
        let (a, b) = (seed.below(1 << 20), seed.below(90));
        all.push(match seed.below(6) {
            0 => format!("print({a} ** {b})"),
            1 => format!("x = [0] * {a}\nx[{b}], len(x)"),
            2 => format!("from sympy import *\nfactorint({a} + 10**9), divisors({b} + 1)"),
            3 => format!("d = {{i: str(i) for i in range({b} * 100)}}\nd[{a}]"),
            4 => format!("import random\nrandom.seed({a})\n[random.random() for _ in range({b})]"),
            _ => format!("total = 0\nfor i in range({a}): total += i % {}\ntotal", b + 1),
        });
    }
    all
}

fn drain(pool: &Pool, n: usize) -> BTreeMap<u64, Outcome> {
    let next = || pool.completions().recv_timeout(Duration::from_secs(300)).expect("an outcome");
    (0..n).map(|_| next()).map(|done| (done.id, timeless(done.outcome))).collect()
}

#[test]
fn outcomes_depend_on_nothing_but_the_program() {
    let (limits, programs) = (limits(), programs());
    assert!(programs.len() > 300);
    // More workers than this machine has cores, so that each waits for the others all the time.
    let queued = || builder(&limits).queue(programs.len());
    let threads = queued().pool(3).unwrap();
    let processes = queued().worker(worker()).pool(3).unwrap();
    let mut seed = Seed(2);
    for pool in [&threads, &processes] {
        for i in seed.order(programs.len()) {
            pool.submit(Job::new(i as u64, programs[i].clone())).unwrap();
        }
    }
    // Meanwhile, each in an interpreter that has run nothing before.
    let fresh = |source: &String| timeless(sandbox(&limits).run(source));
    let expected: Vec<Outcome> = programs.iter().map(fresh).collect();
    for pool in [&threads, &processes] {
        let all = drain(pool, programs.len());
        assert_eq!(all.len(), programs.len());
        for (id, outcome) in all {
            assert_eq!(outcome, expected[id as usize], "{}", programs[id as usize]);
        }
    }
    // And in two that take turns, whose memory is compared with the snapshot's now and then.
    let mut two = [sandbox(&limits), sandbox(&limits)];
    let clean = two[0].digest().unwrap();
    for (n, i) in seed.order(programs.len()).into_iter().enumerate() {
        let which = seed.below(2);
        assert_eq!(timeless(two[which].run(&programs[i])), expected[i], "{}", programs[i]);
        if n % 8 == 0 {
            assert_eq!(two[which].digest().unwrap(), clean, "after {}", programs[i]);
        }
    }
    let cut_off = expected.iter().filter(|o| o.limit_hit.is_some()).count();
    let failed = expected.iter().filter(|o| !o.ok()).count();
    let clean = expected.iter().filter(|o| o.ok()).count();
    assert!(cut_off > 80 && failed > 150 && clean > 80, "{cut_off} cut off, {failed} failed, {clean} clean");
}

/// The clock stands where it stood for everyone, and moves as it is read.
#[test]
fn every_program_begins_at_the_same_time() {
    let o = sandbox(&limits())
        .run("import datetime, time\nt = time.time()\nprint(datetime.date.today(), time.time() > t)");
    assert_eq!(o.stdout, "2024-01-01 True\n");
}
