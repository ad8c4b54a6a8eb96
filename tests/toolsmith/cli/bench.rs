//! `toolsmith bench` and `toolsmith graph` on a tiny model. No time is asserted.

use std::path::Path;
use std::process::Output;

use serde_json::Value;

use super::{refused, text, toolsmith};
use crate::support::{files, tiny_model};

fn on(model: &Path, command: &str, more: &[&str]) -> Output {
    toolsmith().args([command, "--threads", "2", "--model"]).arg(model).args(more).output().unwrap()
}

fn printed(output: &Output) -> &str {
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let stdout = text(&output.stdout);
    assert!(stdout.lines().all(|l| l.chars().count() <= 80), "80 columns:\n{stdout}");
    stdout
}

#[test]
fn bench_measures_every_phase() {
    let dir = tempfile::tempdir().unwrap();
    let model = tiny_model(dir.path());
    let more = ["--prompt", "24", "--decode", "4", "--batch", "1,3", "--train", "2x8", "--repeat", "2"];
    let before = files(dir.path());
    let output = on(&model, "bench", &[&more[..], &["--json"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "", "no progress where there is no terminal");
    assert_eq!(files(dir.path()), before);
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    for field in ["model", "version", "cpu", "cpu_flags", "kernels", "load_average", "load_average_after"] {
        assert!(!json[field].is_null(), "{field} is missing: {json:#}");
    }
    assert_eq!((json["threads"].as_u64(), json["dtype"].as_str()), (Some(2), Some("bf16")));
    assert!(json["parameters"].as_u64().unwrap() > 10_000);
    for wall in ["dram_read", "f32_fma"] {
        let rate = &json["limits"][wall];
        assert!(rate["mean"].as_f64().unwrap() > 0.0, "{wall}: {rate}");
        assert_eq!(rate["runs"].as_array().unwrap().len(), 2);
    }
    let phases = json["phases"].as_array().unwrap();
    let names: Vec<_> = phases.iter().map(|p| p["phase"].as_str().unwrap()).collect();
    assert_eq!(names, ["prefill", "decode", "decode", "train"]);
    for phase in phases {
        for rate in ["bandwidth_share", "peak_share"] {
            assert!(phase[rate].as_f64().unwrap() > 0.0, "{rate}: {phase:#}");
        }
        assert!(phase["tokens_per_second"]["mean"].as_f64().unwrap() > 0.0, "{phase:#}");
        assert_eq!(phase["seconds"].as_array().unwrap().len(), 2);
        assert!(phase["bytes"].as_u64().unwrap() > 0 && phase["bf16_flops"].as_u64().unwrap() > 0);
        assert!(phase.get("peak_memory").is_some());
    }
    let flops = |i: usize| phases[i]["bf16_flops"].as_u64().unwrap();
    assert_eq!(flops(2), 3 * flops(1), "three sequences decode three times what one does");
    let bytes = |i: usize| phases[i]["bytes"].as_u64().unwrap();
    assert!(bytes(2) < 3 * bytes(1), "and read the weights once");

    let output = on(&model, "bench", &more);
    let stdout = printed(&output);
    for word in ["memory read", "± sd", "prefill 24", "decode 3 × 4 after 24", "train 2 × 8", "of peak"] {
        assert!(stdout.contains(word), "{word} is not in:\n{stdout}");
    }
}

#[test]
fn bench_compares_with_an_earlier_report() {
    let dir = tempfile::tempdir().unwrap();
    let model = tiny_model(dir.path());
    let more = ["--prompt", "8", "--decode", "2", "--batch", "1", "--train", "none", "--repeat", "1"];
    let saved = dir.path().join("before.json");
    let output = on(&model, "bench", &[&more[..], &["--json"]].concat());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let against = |scale: f64| {
        let mut before = report.clone();
        for phase in before["phases"].as_array_mut().unwrap() {
            let rate = &mut phase["tokens_per_second"]["runs"][0];
            *rate = (rate.as_f64().unwrap() * scale).into();
        }
        std::fs::write(&saved, before.to_string()).unwrap();
        on(&model, "bench", &[&more[..], &["--against", saved.to_str().unwrap()]].concat())
    };
    let stdout = against(1e-6);
    assert!(printed(&stdout).ends_with("0 of 2 phases lost more than 10 %\n"), "{}", printed(&stdout));
    let output = against(1e6);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(1), ""));
    assert!(
        text(&output.stdout).ends_with("2 of 2 phases lost more than 10 %\n"),
        "{}",
        text(&output.stdout)
    );

    let with = |more: &[&str]| on(&model, "bench", &[&["--against", saved.to_str().unwrap()], more].concat());
    refused(&with(&[&more[..], &["--dtype", "f32"]].concat()), &["before.json", "precision", "bf16", "f32"]);
    refused(
        &with(&["--prompt", "9", "--decode", "0", "--train", "none"]),
        &["before.json", "none of the phases"],
    );
    std::fs::write(&saved, "{}").unwrap();
    refused(&with(&[]), &["before.json", "toolsmith bench --json"]);
    std::fs::remove_file(&saved).unwrap();
    refused(&with(&[]), &["before.json"]);
}

#[test]
fn graph_lists_and_draws_a_plan() {
    let dir = tempfile::tempdir().unwrap();
    let model = tiny_model(dir.path());
    let svg = dir.path().join("plan.svg");
    let drawn = ["--svg", svg.to_str().unwrap()];
    for (phase, words) in [
        ("prefill", &["cached_attention", "24×64", "norm+linear+rope q k v ", "total"][..]),
        ("decode", &["cached_attention", "1×64", "bf16"]),
        ("train", &["attention_backward", "token_logprob_backward", "optimizer", "adamw", "2 × "]),
    ] {
        let output = on(&model, "graph", &[&["--phase", phase, "--prompt", "24"], &drawn[..]].concat());
        let stdout = printed(&output);
        for word in words {
            assert!(stdout.contains(word), "{phase}: {word} is not in:\n{stdout}");
        }
        let picture = std::fs::read_to_string(&svg).unwrap();
        assert!(picture.starts_with("<svg ") && picture.ends_with("</svg>\n"));
        assert!(picture.contains(">embedding</text>") && !picture.contains("NaN"), "{phase}");
        let f32 = on(&model, "graph", &["--phase", phase, "--prompt", "24", "--dtype", "f32"]);
        assert!(!printed(&f32).contains(" bf16 "), "{}", printed(&f32));
        let all = on(&model, "graph", &["--phase", phase, "--prompt", "24", "--all"]);
        let all = printed(&all);
        // Two layers repeat only where the last one computes all rows.
        let folded = all.lines().count() - stdout.lines().count();
        assert_eq!(folded > 0, phase == "train", "every layer is there:\n{all}");
        let steps: usize = all
            .lines()
            .filter_map(|l| l.split_once(" steps, "))
            .fold(0, |sum, (head, _)| sum + head.rsplit(' ').next().unwrap().parse::<usize>().unwrap());
        let plans = all.lines().filter(|l| l.contains(" steps, ")).count();
        // The first line; for each plan an empty line, a title, two of the table's head, the total.
        assert_eq!(all.lines().count(), 1 + 5 * plans + steps, "{all}");
    }
}

#[test]
fn samples_of_a_prompt_train_on_it_once() {
    let dir = tempfile::tempdir().unwrap();
    let model = tiny_model(dir.path());
    let flops = |train: &str| {
        let more = ["--prompt", "1", "--decode", "0", "--repeat", "1", "--json", "--train", train];
        let json: Value = serde_json::from_slice(&on(&model, "bench", &more).stdout).unwrap();
        json["phases"][1]["bf16_flops"].as_u64().unwrap()
    };
    assert!(2 * flops("4x48/40") < flops("4x48"));
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let model = tiny_model(dir.path());
    refused(&on(Path::new("no/such/model"), "bench", &[]), &["no/such/model"]);
    refused(&on(Path::new("no/such/model"), "graph", &["--phase", "decode"]), &["no/such/model"]);
    for (command, more, parts) in [
        ("bench", &["--prompt", "4000"][..], &["4000", "128"][..]),
        ("bench", &["--train", "4by512"], &["--train 4by512", "4x512"]),
        ("bench", &["--train", "2x1"], &["train 2 × 1", "at least 2"]),
        ("bench", &["--train", "2x8/8"], &["train 2 × 8, prompt 8", "nothing follows the prompt"]),
        ("bench", &["--batch", "1,0"], &["--batch"]),
        ("bench", &["--batch", "1,two"], &["two"]),
        ("bench", &["--repeat", "0"], &["--repeat 0"]),
        ("bench", &["--prompt", "0"], &["at least 1"]),
        ("graph", &["--phase", "decoding"], &["decoding"]),
        ("graph", &["--phase", "prefill", "--prompt", "129"], &["129", "128"]),
        ("graph", &["--phase", "train", "--batch", "0"], &["at least 1"]),
        (
            "graph",
            &["--phase", "decode", "--prompt", "9", "--svg", "/no/such/plan.svg"],
            &["/no/such/plan.svg"],
        ),
    ] {
        let output = on(&model, command, more);
        if more.contains(&"--svg") {
            assert_eq!(output.status.code(), Some(2));
            assert!(text(&output.stderr).contains(parts[0]), "{}", text(&output.stderr));
            continue;
        }
        refused(&output, parts);
    }
}
