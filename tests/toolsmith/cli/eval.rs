//! `toolsmith eval`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;

use super::{refused, text, toolsmith};
use crate::support::tiny_model;

/// A tiny model and three problems.
struct Setting {
    dir: tempfile::TempDir,
    model: PathBuf,
    data: PathBuf,
}

impl Setting {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let model = tiny_model(dir.path());
        let data = dir.path().join("p.jsonl");
        let lines = [
            "{\"id\": \"a\", \"problem\": \"1+1\", \"answer\": 2}",
            "{\"question\": \"2+2\", \"answer\": \"4\", \"more\": [1]}",
            "{\"prompt\": \"half of one\", \"answer\": \"1/2\"}",
        ];
        fs::write(&data, lines.join("\n") + "\n").unwrap();
        Self { dir, model, data }
    }

    fn out(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn eval(&self, out: &Path, more: &[&str]) -> Output {
        toolsmith()
            .args([
                "eval",
                "--no-tool",
                "--json",
                "--prompt_template",
                "plain",
                "--max_completion_length",
                "12",
            ])
            .arg("--model")
            .arg(&self.model)
            .arg("--data")
            .arg(&self.data)
            .arg("--out")
            .arg(out)
            .args(more)
            .output()
            .unwrap()
    }

    fn ok(&self, out: &Path, more: &[&str]) -> Value {
        let output = self.eval(out, more);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

fn lines(path: &Path) -> BTreeSet<String> {
    fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn a_line_a_sample_and_a_summary() {
    let s = Setting::new();
    let out = s.out("r.jsonl");
    let summary = s.ok(&out, &["--samples", "2"]);
    assert_eq!((&summary["problems"], &summary["samples"]), (&3.into(), &6.into()));
    let all: Vec<Value> = lines(&out).iter().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(all.len(), 6);
    let ids: BTreeSet<&str> = all.iter().map(|l| l["id"].as_str().unwrap()).collect();
    assert_eq!(ids, BTreeSet::from(["a", "2", "3"]), "an id field, else the number of the problem");
    for line in &all {
        assert!((1..=12).contains(&line["tokens"].as_u64().unwrap()), "{line}");
        assert!(["token_budget", "end_of_turn"].contains(&line["end"].as_str().unwrap()), "{line}");
        assert_eq!(line["correct"], false, "a random model is not right");
    }
    let texts: BTreeSet<&str> = all.iter().map(|l| l["text"].as_str().unwrap()).collect();
    assert!(texts.len() > 1, "samples differ");

    let table = toolsmith()
        .args(["eval", "--no-tool", "--prompt_template", "plain", "--samples", "2", "--model"])
        .arg(&s.model)
        .arg("--data")
        .arg(&s.data)
        .output()
        .unwrap();
    let stdout = text(&table.stdout);
    assert!(stdout.contains("avg@2") && stdout.contains("pass@2"), "{stdout}");
    assert!(stdout.lines().all(|l| l.chars().count() <= 80), "{stdout}");
}

#[test]
fn goes_on_where_it_was_stopped() {
    let s = Setting::new();
    let (whole, torn) = (s.out("whole.jsonl"), s.out("torn.jsonl"));
    let summary = s.ok(&whole, &["--samples", "3"]);
    s.ok(&torn, &["--samples", "2"]);
    let bytes = fs::read(&torn).unwrap();
    fs::write(&torn, &bytes[..bytes.len() - 30]).unwrap();
    // The torn line is drawn again and a third sample added; neither changes what was there.
    assert_eq!(s.ok(&torn, &["--samples", "3"]), summary);
    assert_eq!(lines(&torn), lines(&whole));

    let before = fs::read(&torn).unwrap();
    assert_eq!(s.ok(&torn, &["--samples", "3"]), summary);
    assert_eq!(fs::read(&torn).unwrap(), before, "nothing was left to do");
    assert_eq!(s.ok(&torn, &["--samples", "1", "--limit", "2"])["samples"], 2);
    assert_eq!(fs::read(&torn).unwrap(), before);
}

#[test]
fn refuses_to_mix_settings() {
    let s = Setting::new();
    let out = s.out("r.jsonl");
    s.ok(&out, &[]);
    let before = fs::read(&out).unwrap();
    refused(&s.eval(&out, &["--temperature", "0.5"]), &["r.jsonl", "rollout.temperature", "0.5"]);
    refused(&s.eval(&out, &["--seed", "1"]), &["r.jsonl", "seed = 0, now 1"]);
    assert_eq!(fs::read(&out).unwrap(), before);
}

/// The configuration of a run says how it sampled; what training asks of sampling does not bind an evaluation.
#[test]
fn a_runs_configuration_can_be_evaluated_greedily() {
    let s = Setting::new();
    let config = s.out("config.toml");
    fs::write(&config, "[rl]\nsteps = 5\n[eval]\ntemperature = 0.0\nsamples = 2\n").unwrap();
    let config = config.to_str().unwrap();
    assert_eq!(s.ok(&s.out("a.jsonl"), &["--config", config])["samples"], 6);
    s.ok(&s.out("b.jsonl"), &["--config", config, "--temperature", "0"]);
    assert_eq!(lines(&s.out("a.jsonl")), lines(&s.out("b.jsonl")));
}

#[test]
fn leaves_a_file_of_something_else_alone() {
    let s = Setting::new();
    let notes = s.out("notes.txt");
    fs::write(&notes, "no line break").unwrap();
    refused(&s.eval(&notes, &[]), &["notes.txt", "--out"]);
    assert_eq!(fs::read_to_string(&notes).unwrap(), "no line break");
    refused(&s.eval(&s.out("r.jsonl"), &["--limit", "0"]), &["--limit"]);
}

/// Samples depend on the seed alone, not on what they were computed with.
#[test]
fn the_same_whatever_runs_beside() {
    let s = Setting::new();
    let (one, four) = (s.out("one.jsonl"), s.out("four.jsonl"));
    s.ok(&one, &["--samples", "3", "--concurrency", "1", "--threads", "1"]);
    s.ok(&four, &["--samples", "3", "--concurrency", "4", "--threads", "2"]);
    assert_eq!(lines(&one), lines(&four));
}
