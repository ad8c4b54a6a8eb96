//! Interpreters that remember, parked and moved about.

use toolsmith_sandbox::{Limit, Limits, Session, Spill};

use crate::{kind, sandbox, timeless};

#[test]
fn a_session_remembers_from_block_to_block() {
    let mut s = sandbox(&Limits::default());
    let mut session = s.session();
    let mut next = |source: &str| s.run_in(&mut session, source).feedback();
    assert_eq!(next("x = 3\nimport sympy\ndef f(n): return n * x"), "");
    assert_eq!(next("f(14)"), "42");
    assert_eq!(next("x = 5; f(2)"), "10");
    assert_eq!(next("def g():\n    return undefined\n\nclass A: pass"), "");
    assert_eq!(next("g()"), "NameError: name 'undefined' is not defined");
    assert_eq!(next("big = list(range(10**6)); len(big)"), "1000000");
    assert_eq!(next("big[-1] + x"), "1000004");
    assert_eq!(next("import random; random.seed(1); a = random.random()"), "");
    assert_eq!(next("random.seed(1); random.random() == a"), "True");
    assert_eq!(next("import __main__; __main__.x, A.__module__"), "(5, '__main__')");
    assert_eq!(session.blocks(), 10);
    // And nobody else does.
    assert_eq!(s.run("x").feedback(), "NameError: name 'x' is not defined");
    assert_eq!(s.run_in(&mut Session::default(), "x").feedback(), "NameError: name 'x' is not defined");
}

#[test]
fn errors_name_lines_of_their_own_block() {
    let mut s = sandbox(&Limits { traceback: true, ..Limits::default() });
    let mut session = s.session();
    s.run_in(&mut session, "\n\n\ndef f(n):\n    return 1 / n");
    let o = s.run_in(&mut session, "y = 1\nf(0)");
    assert_eq!(o.error.as_ref().unwrap().line, Some(2));
    let text = o.feedback();
    assert!(text.contains("\"block 2\", line 2") && text.contains("\"block 1\", line 5"), "{text}");
    assert!(text.contains("return 1 / n"), "{text}");
}

/// A fuel limit, a crash, an exit and a memory limit met by C: what was there before is there after.
#[test]
fn a_block_that_is_cut_off_leaves_the_session_as_it_was() {
    let mut s = sandbox(&Limits { fuel: 100_000_000, memory_mb: 256, ..Limits::default() });
    let mut session = s.session();
    s.run_in(&mut session, "x = 1");
    for (source, limit) in [
        ("x = 2\nwhile True: pass", Some(Limit::Fuel)),
        ("x = 2\nimport os\nos.abort()", Some(Limit::Crash)),
        ("x = 2\nimport os\nos._exit(0)", None),
    ] {
        assert_eq!(s.run_in(&mut session, source).limit_hit, limit, "{source}");
        assert_eq!(s.run_in(&mut session, "x").feedback(), "1", "after {source}");
    }
    // An error is no cut: what ran before it counts.
    let o = s.run_in(&mut session, "x = 7\ny = bytes(1 << 30)");
    assert_eq!((o.limit_hit, kind(&o)), (Some(Limit::Memory), "MemoryError"));
    assert_eq!(s.run_in(&mut session, "x").feedback(), "7");
}

/// Thousands of them, each on whichever interpreter, through bytes, through a disk, forked: as if each had one of its own.
#[test]
fn where_a_session_is_parked_does_not_show() {
    let (mut a, mut b) = (sandbox(&Limits::default()), sandbox(&Limits::default()));
    let dir = tempfile::tempdir().unwrap();
    let spill = Spill::new(dir.path()).unwrap();
    let blocks = |i: usize| {
        [
            format!("v = [{i}] * {}", i % 7 * 1000 + 1),
            "v[0] += 1; import time, random".to_string(),
            "print(v[0], len(v), time.time(), random.random(), id(v) % 16)".to_string(),
        ]
    };
    let n = 40;
    let alone: Vec<_> = (0..n)
        .map(|i| {
            let mut s = sandbox(&Limits::default());
            let mut session = s.session();
            blocks(i).map(|block| timeless(s.run_in(&mut session, &block)))
        })
        .collect();
    let mut all: Vec<Session> = vec![Session::default(); n];
    for (step, k) in (0..3).flat_map(|step| (0..n).map(move |k| (step, k))) {
        let i = k * 7 % n;
        let s = if (i + step) % 2 == 0 { &mut a } else { &mut b };
        let o = timeless(s.run_in(&mut all[i], &blocks(i)[step]));
        assert_eq!(o, alone[i][step], "session {i}, block {step}");
        match i % 3 {
            0 => all[i].spill(&spill).unwrap(),
            1 => all[i] = Session::from_bytes(&all[i].to_bytes().unwrap()).unwrap(),
            _ => all[i] = all[i].clone(),
        }
    }
}

/// A parked session costs the pages it wrote and little else; a fork costs nothing.
#[test]
fn a_parked_session_is_its_dirty_pages() {
    let mut s = sandbox(&Limits::default());
    let mut small = s.session();
    s.run_in(&mut small, "x = 1");
    let few = small.bytes();
    let mut large = small.clone();
    s.run_in(&mut large, "y = b'1' * (8 << 20)");
    let more = large.bytes() - few;
    assert!((8 << 20..9 << 20).contains(&more), "{more} bytes for 8 MiB");
    assert!(few < 128 << 10, "{few} bytes for an assignment");
    assert_eq!(s.run_in(&mut small, "x").feedback(), "1");
    assert_eq!(s.run_in(&mut large, "len(y), x").feedback(), "(8388608, 1)");
}

#[test]
fn a_session_that_does_not_fit_is_refused() {
    let mut s = sandbox(&Limits::default());
    let mut session = s.session();
    s.run_in(&mut session, "y = b'1' * (300 << 20)");
    let mut tight = sandbox(&Limits { memory_mb: 160, ..Limits::default() });
    let o = tight.run_in(&mut session, "1");
    assert!(o.feedback().contains("memory_mb"), "{o:?}");
    assert_eq!(tight.run("1").feedback(), "1");
    assert_eq!(s.run_in(&mut session, "len(y)").feedback(), "314572800");
}

/// Two thousand conversations wait beside one interpreter, and then go on.
#[test]
fn thousands_wait_at_once() {
    let n = 2000;
    let mut s = sandbox(&Limits::default());
    let mut all: Vec<Session> = vec![Session::default(); n];
    for (i, session) in all.iter_mut().enumerate() {
        assert!(s.run_in(session, &format!("x = {i}")).ok());
    }
    let bytes: usize = all.iter().map(Session::bytes).sum();
    assert!(bytes / n < 64 << 10, "{} bytes a session", bytes / n);
    for (i, session) in all.iter_mut().enumerate().step_by(97).rev() {
        assert_eq!(s.run_in(session, "x + 1").value, Some((i + 1).to_string()));
    }
}
