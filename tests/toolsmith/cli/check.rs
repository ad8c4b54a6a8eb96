//! `toolsmith check`.

use std::fs;

use super::{refused, text, toolsmith};
use crate::support::fixture;

#[test]
fn prints_a_table_and_ends_with_0_or_1() {
    let path = fixture("rl/ppo_interior.json");
    let output = toolsmith().arg("check").arg(&path).output().unwrap();
    let stdout = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{stdout}{}", text(&output.stderr));
    assert!(stdout.contains("policy.token-mean.loss"), "{stdout}");
    assert!(stdout.contains("all within 1e-6"), "{stdout}");
    assert!(stdout.lines().all(|l| l.chars().count() <= 80), "80 columns:\n{stdout}");

    let output = toolsmith().arg("check").arg(&path).args(["--tolerance", "1e-12"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("ABOVE"));
}

#[test]
fn finds_a_number_that_is_off() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("off.json");
    let mut cases: serde_json::Value =
        serde_json::from_slice(&fs::read(fixture("rl/ppo_interior.json")).unwrap()).unwrap();
    let loss = cases[3]["value_loss"].as_f64().unwrap();
    cases[3]["value_loss"] = (loss * 1.001).into();
    fs::write(&path, cases.to_string()).unwrap();
    let output = toolsmith().args(["check", "--json"]).arg(&path).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = report["rows"].as_array().unwrap();
    let above: Vec<_> = rows.iter().filter(|r| r["error"].as_f64().unwrap() > 1e-6).collect();
    assert_eq!(above.len(), 1, "{above:?}");
    assert_eq!(above[0]["quantity"], "value_loss");
}

#[test]
fn a_model_directory() {
    let output = toolsmith().arg("check").arg(fixture("tiny/tiny-qwen3-untied")).output().unwrap();
    let stdout = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{stdout}{}", text(&output.stderr));
    assert!(stdout.contains("all within 1e-4"), "{stdout}");
    assert!(stdout.lines().all(|l| l.chars().count() <= 80), "80 columns:\n{stdout}");
}

#[test]
fn what_is_no_reference() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.json");
    fs::write(&path, "[{\"gamma\": 1.0}]").unwrap();
    refused(
        &toolsmith().arg("check").arg(&path).output().unwrap(),
        &["x.json", "missing field `lam`", "line 1"],
    );
    refused(&toolsmith().args(["check", "no/such.json"]).output().unwrap(), &["no/such.json"]);
    refused(&toolsmith().arg("check").arg(dir.path()).output().unwrap(), &["golden.safetensors"]);
}
