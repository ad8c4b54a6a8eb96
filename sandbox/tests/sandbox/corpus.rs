//! The corpus, program by program, against what a native Python made of it (`corpus/record.py`).

use std::collections::BTreeMap;

use serde::Deserialize;
use toolsmith_sandbox::corpus::{Program, differing, programs};
use toolsmith_sandbox::{Limits, Outcome};

use crate::{run, sandbox};

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Expected {
    stdout: String,
    value: Option<String>,
    error: Option<Failure>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Failure {
    kind: String,
    message: String,
    line: Option<u32>,
}

fn expected() -> BTreeMap<String, Expected> {
    serde_json::from_str(include_str!("../../corpus/expected.json")).unwrap()
}

/// As the recording would write it down.
fn seen(outcome: Outcome) -> Expected {
    let error = outcome.error.map(|e| Failure { kind: e.kind, message: e.message, line: e.line });
    Expected { stdout: outcome.stdout, value: outcome.value, error }
}

fn full_name(program: &Program) -> String {
    format!("{}/{}", program.subject, program.name)
}

#[test]
fn answers_are_a_native_pythons() {
    let mut expected = expected();
    let limits = Limits { fuel: 20_000_000_000, output_bytes: 1 << 20, ..Limits::default() };
    let mut python = sandbox(&limits);
    let mut wrong = Vec::new();
    for program in programs() {
        let name = full_name(&program);
        let should = expected.remove(&name).unwrap_or_else(|| panic!("{name} was not recorded"));
        let is = seen(python.run(program.source));
        if is != should {
            wrong.push(format!("{name}:\n  native  {should:?}\n  sandbox {is:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} programs differ:\n{}", wrong.len(), wrong.join("\n"));
    expected.retain(|name, _| !name.starts_with("differs/"));
    assert!(expected.is_empty(), "recorded, but no programs: {:?}", expected.keys());
}

/// `corpus/README.md` tells of these. One that comes to agree belongs among the others.
#[test]
fn the_known_differences_are_as_documented() {
    let images = [
        ("default_integer", "int32 int32\n"),
        ("squares_overflow", "1626540144\n"),
        ("product_overflows", "np.int32(-2102132736)"),
        ("integer_too_large", "OverflowError: Python int too large to convert to C long"),
        ("length_of_a_range", "OverflowError: Python int too large to convert to C ssize_t"),
        ("maxsize", "2147483647\n"),
    ];
    let mut expected = expected();
    let differing = differing();
    assert_eq!(differing.iter().map(|p| p.name).collect::<Vec<_>>(), images.map(|(name, _)| name));
    for (program, (_, image)) in differing.iter().zip(images) {
        let native = expected.remove(&full_name(program)).unwrap();
        let outcome = run(program.source);
        assert_eq!(outcome.feedback(), image, "{}", program.name);
        assert_ne!(seen(outcome), native, "{}", program.name);
    }
}

#[test]
fn a_third_is_held_out() {
    let all = programs();
    let held_out = all.iter().filter(|p| p.held_out()).count();
    assert!(all.len() >= 220 && held_out >= 70, "{held_out} of {}", all.len());
    assert!((all.len() / 4..all.len() * 2 / 5).contains(&held_out), "{held_out} of {}", all.len());
}

/// A line a program: what tells where the warm-up still misses something.
/// `cargo test --release -p toolsmith-sandbox corpus::costs -- --ignored --nocapture`
#[test]
#[ignore = "prints costs; asserts nothing about them"]
fn costs() {
    let limits = Limits { fuel: 20_000_000_000, output_bytes: 1 << 20, ..Limits::default() };
    let mut python = sandbox(&limits);
    python.run("1");
    println!("fuel faults ms held-out name");
    for program in programs() {
        let before = minor_faults();
        let outcome = python.run(program.source);
        let faults = minor_faults() - before;
        let held_out = if program.held_out() { "held-out" } else { "warmed" };
        let ms = outcome.wall * 1e3;
        println!("{} {faults} {ms:.2} {held_out} {}", outcome.fuel, full_name(&program));
    }
}

fn minor_faults() -> i64 {
    // SAFETY: a zeroed rusage is a valid one, and the call fills it.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    unsafe { libc::getrusage(libc::RUSAGE_THREAD, &mut usage) };
    usage.ru_minflt
}
