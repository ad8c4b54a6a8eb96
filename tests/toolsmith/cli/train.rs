//! `toolsmith train`: stopped, killed, resumed, and on a full disk.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::{refused, text, toolsmith};

/// A run of a very small policy that never calls the tool: a few seconds, a checkpoint every second step.
fn train(out: &Path) -> Command {
    let mut command = toolsmith();
    command.args(["train", "--preset", "quick", "--out"]).arg(out);
    for (key, value) in [
        ("model.hidden_size", "32"),
        ("model.intermediate_size", "32"),
        ("model.num_hidden_layers", "1"),
        ("model.num_attention_heads", "2"),
        ("model.num_key_value_heads", "2"),
        ("rollout.max_turns", "0"),
        ("sft.steps", "60"),
        ("sft.batch_size", "4"),
        ("rl.steps", "4"),
        ("rl.prompts_per_step", "4"),
        ("data.eval_size", "4"),
        ("run.save_steps", "2"),
        ("run.seed", "3"),
    ] {
        command.arg(format!("--{key}")).arg(value);
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn resume(out: &Path) -> Output {
    toolsmith().args(["train", "--resume"]).arg(out).output().unwrap()
}

fn done(output: &Output) {
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}

fn weights(out: &Path) -> Vec<u8> {
    fs::read(out.join("model/model.safetensors")).unwrap()
}

fn checkpoints(out: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(out.join("checkpoints")).into_iter().flatten();
    entries.map(|e| e.unwrap().path()).collect()
}

/// Starts a run and waits for its first checkpoint.
fn until_checkpoint(command: &mut Command, out: &Path) -> Child {
    let child = command.spawn().unwrap();
    let start = Instant::now();
    while !checkpoints(out).iter().any(|c| !c.file_name().unwrap().to_string_lossy().starts_with('.')) {
        assert!(start.elapsed() < Duration::from_secs(120), "no checkpoint was written");
        std::thread::sleep(Duration::from_millis(1));
    }
    child
}

fn signal(child: &Child, signal: i32) {
    // SAFETY: a plain system call on a process that this test started and has not waited for.
    assert_eq!(unsafe { libc::kill(child.id() as libc::pid_t, signal) }, 0);
}

#[test]
fn stopped_or_killed_and_resumed_it_ends_in_the_same_weights() {
    let dir = tempfile::tempdir().unwrap();
    let [whole, stopped, killed] = ["whole", "stopped", "killed"].map(|name| dir.path().join(name));
    let output = train(&whole).output().unwrap();
    done(&output);
    assert!(text(&output.stdout).contains("accuracy") && text(&output.stdout).contains("toolsmith run"));
    assert!(text(&output.stdout).lines().filter(|l| !l.contains('/')).all(|l| l.chars().count() <= 80));

    let child = until_checkpoint(&mut train(&stopped), &stopped);
    signal(&child, libc::SIGINT);
    let output = child.wait_with_output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(stderr.lines().last().unwrap().contains("--resume"), "says how to go on: {stderr}");
    done(&resume(&stopped));

    let child = until_checkpoint(&mut train(&killed), &killed);
    signal(&child, libc::SIGKILL);
    child.wait_with_output().unwrap();
    done(&resume(&killed));

    assert!(weights(&stopped) == weights(&whole), "stopped and resumed");
    assert!(weights(&killed) == weights(&whole), "killed and resumed");
    refused(&train(&whole).output().unwrap(), &["whole", "--resume"]);
}

#[test]
fn a_full_disk_leaves_the_last_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let mut command = train(&out);
    // SAFETY: only a system call between fork and exec. A write beyond the limit set below becomes an error like
    // a full disk's, not a signal.
    unsafe {
        command.pre_exec(|| {
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            Ok(())
        })
    };
    let child = until_checkpoint(&mut command, &out);
    let limit = libc::rlimit { rlim_cur: 16 << 10, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: a system call on a child that has not been waited for, with a limit that outlives it.
    let set =
        unsafe { libc::prlimit(child.id() as libc::pid_t, libc::RLIMIT_FSIZE, &limit, std::ptr::null_mut()) };
    assert_eq!(set, 0);
    let output = child.wait_with_output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.lines().last().unwrap().contains("free some space"), "{stderr}");
    let left = checkpoints(&out);
    assert!(!left.is_empty(), "the last good checkpoint stays");
    for path in &left {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(name.starts_with("sft-") && path.join("policy.state").exists(), "{name} is whole");
    }
    done(&resume(&out));
}
