//! `toolsmith run`, `convert` and `doctor`.

use std::io::Write;
use std::path::Path;
use std::process::{Output, Stdio};

use super::{refused, text, toolsmith};
use crate::support::{files, tiny_model};

/// A module that describes itself.
pub const COLLATZ: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/tools/collatz.wat");

fn run(model: &Path, more: &[&str], stdin: &str) -> Output {
    let mut child = toolsmith()
        .args(["run", "--no-tool", "--prompt_template", "plain", "--max_completion_length", "16", "--model"])
        .arg(model)
        .args(more)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn streams_an_answer() {
    let dir = tempfile::tempdir().unwrap();
    let model = tiny_model(dir.path());
    let output = run(&model, &["What is 2+2?"], "");
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(stdout.ends_with("no answer: the model closed no \\boxed{…}\n"), "{stdout}");
    assert!(!stdout.contains('\x1b'), "no colours where there is no terminal");
    assert!(stderr.contains("tok/s") && stderr.lines().count() == 1, "{stderr}");
    assert_eq!(run(&model, &["-"], "What is 2+2?\n").stdout, output.stdout, "the prompt from standard input");
    assert_eq!(run(&model, &["What is 2+2?", "--seed", "9"], "").stdout, output.stdout, "greedy");

    let warm = |seed| run(&model, &["What is 2+2?", "--temperature", "1", "--seed", seed], "").stdout;
    assert_eq!(warm("1"), warm("1"));
    assert_ne!(text(&warm("1")), text(&warm("2")));
}

#[test]
fn a_prompt_beyond_the_context_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let output = run(&tiny_model(dir.path()), &[&"7".repeat(200)], "");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("200 tokens"), "{}", text(&output.stderr));
}

#[test]
fn help_names_every_command() {
    let output = toolsmith().arg("--help").output().unwrap();
    for command in
        ["train", "run", "eval", "config", "check", "bench", "graph", "convert", "fetch", "sandbox", "doctor"]
    {
        assert!(text(&output.stdout).contains(&format!("\n  {command}")), "{command}");
    }
}

#[test]
fn convert_writes_a_directory_once() {
    let dir = tempfile::tempdir().unwrap();
    let (model, out) = (tiny_model(dir.path()), dir.path().join("out"));
    let convert = || toolsmith().arg("convert").args([&model, &out]).output().unwrap();
    let output = convert();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(run(&out, &["hi"], "").status.code(), Some(0), "what was written runs");
    let before = files(&out);
    refused(&convert(), &["out", "exists already"]);
    assert_eq!(files(&out), before);
}

#[test]
fn doctor_says_what_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let doctor = |args: &[&str]| {
        toolsmith().arg("doctor").args(args).env("TOOLSMITH_CACHE", dir.path()).output().unwrap()
    };
    for (args, words) in [
        (&[][..], ["Python image  math, not ready", "seccomp", "`toolsmith sandbox prepare` makes"]),
        (
            &["--image", "full", "--preimport", "scipy,pandas"],
            [
                "Python image  full, not ready",
                "free in the cache",
                "prepare --image full --preimport scipy,pandas`",
            ],
        ),
    ] {
        let output = doctor(args);
        let stdout = text(&output.stdout);
        assert_eq!(output.status.code(), Some(0));
        for word in ["kernels", "threads"].iter().chain(&words) {
            assert!(stdout.contains(word), "{word} is not in:\n{stdout}");
        }
    }
    refused(&doctor(&["--image", "huge"]), &["`sandbox.image`", "one of math, full"]);
    assert_eq!(files(dir.path()), [], "looking changes nothing");
}

/// Needs the Python image; it is prepared here if it is not there yet.
#[test]
fn a_module_can_be_offered() {
    let dir = tempfile::tempdir().unwrap();
    let model = tiny_model(dir.path());
    let run = |more: &[&str]| {
        let run = ["run", "--max_completion_length", "8", "--prompt_template", "plain", "--model"];
        let output = toolsmith().args(run).arg(&model).args(more).arg("hi").output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        output.stdout
    };
    let config = dir.path().join("run.toml");
    std::fs::write(&config, format!("[rollout]\ntools = [{COLLATZ:?}]\ntemperature = 0.0\n")).unwrap();
    let offered = run(&["--tool", COLLATZ]);
    assert_eq!(run(&["--config", config.to_str().unwrap()]), offered);
}
