//! `toolsmith sandbox run`. Those that run a program need the Python image, which is prepared here if it is not there yet.

use std::io::Write;
use std::process::{Output, Stdio};

use serde_json::Value;

use super::{refused, text, toolsmith};

/// `toolsmith sandbox run` with `source` as the program.
fn run(source: &str, flags: &[&str]) -> Output {
    let mut command = toolsmith();
    command.args(["sandbox", "run", "-"]).args(flags);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(source.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn prints_what_a_model_would_see() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p.py");
    std::fs::write(&path, "import sympy\nsympy.factorint(7919**3 - 1)").unwrap();
    let output = toolsmith().args(["sandbox", "run"]).arg(&path).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "{2: 1, 7: 2, 37: 1, 107: 1, 1279969: 1}\n");
    let output = run("print('before')\n1/0", &[]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stdout), "before\nZeroDivisionError: division by zero\n");
    let output = run("1/0", &["--traceback", "true"]);
    assert!(
        text(&output.stdout).starts_with("Traceback (most recent call last):"),
        "{}",
        text(&output.stdout)
    );
    let output = run("x = 1", &[]);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), ""));
}

#[test]
fn the_outcome_as_json_is_the_same_from_both_isolations() {
    let outcome = |where_: &str| {
        let output = run("print('é')\nundefined", &["--json", "--isolation", where_]);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
        let mut outcome: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(outcome["wall"].take().as_f64().unwrap() > 0.0);
        outcome
    };
    let thread = outcome("thread");
    assert_eq!(thread["stdout"], "é\n");
    assert_eq!((&thread["error"]["type"], &thread["error"]["line"]), (&"NameError".into(), &2.into()));
    assert!(thread["fuel"].as_u64().unwrap() > 0);
    assert_eq!(thread, outcome("process"));
}

#[test]
fn limits_are_flags() {
    let limited = |source: &str, flags: &[&str]| {
        let output = run(source, &[flags, &["--json"]].concat());
        let outcome: Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code().unwrap(), outcome["limit_hit"].as_str().unwrap_or("none").to_owned())
    };
    assert_eq!(limited("while True: pass", &["--fuel", "5000000"]), (1, "fuel".into()));
    assert_eq!(limited("len(bytes(200 << 20))", &["--memory_mb", "200"]), (1, "memory".into()));
    assert_eq!(limited("len(bytes(200 << 20))", &["--memory_mb", "400"]), (0, "none".into()));
    assert_eq!(limited("print('x' * 5000)", &["--output_bytes", "100"]), (0, "output".into()));
}

#[test]
fn what_cannot_be_run_is_bad_input() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p.py");
    refused(&toolsmith().args(["sandbox", "run"]).arg(&path).output().unwrap(), &["p.py", "No such file"]);
    std::fs::write(&path, b"x = 1\ny = '\xff'\n").unwrap();
    refused(
        &toolsmith().args(["sandbox", "run"]).arg(&path).output().unwrap(),
        &["p.py: line 2 is not UTF-8"],
    );
    refused(&run("1", &["--isolation", "planet"]), &["--isolation", "thread or process"]);
    refused(&run("1", &["--image", "maths"]), &["image", "math"]);
    refused(
        &run("1", &["--memory_mb", "64"]),
        &["`sandbox.memory_mb` = 64: the interpreter by itself takes "],
    );
}
