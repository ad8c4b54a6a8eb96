//! What a worker process cannot do, even if every wall inside it had fallen.
#![cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};

use toolsmith_sandbox::{Limit, Limits};

use crate::{builder, image, worker};

/// Confines a process as a worker is, has a look at it, and has it try `what`.
fn probe(what: &str, look: impl Fn(u32)) -> ExitStatus {
    image();
    let mut process = Command::new(worker());
    let process =
        process.args(["probe", what]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut process = process.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "confined\n");
    look(process.id());
    process.stdin.take().unwrap().write_all(b"\n").unwrap();
    process.wait().unwrap()
}

/// The lines of `/proc/PID/task/*/status` that begin with `key`.
fn of_threads(pid: u32, key: &str) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let of = |task: fs::DirEntry| fs::read_to_string(task.path().join("status")).unwrap();
    let value = |text: String| text.lines().find_map(|l| l.strip_prefix(key).map(|v| v.trim().to_string()));
    tasks.map(|task| value(of(task.unwrap())).unwrap()).collect()
}

fn confined(pid: u32) {
    for (key, value) in [("NoNewPrivs:", "1"), ("Seccomp:", "2")] {
        let all = of_threads(pid, key);
        assert!(all.len() >= 2, "the call's thread and the watchdog's");
        assert!(all.iter().all(|v| v == value), "{key} {all:?}");
    }
}

#[test]
fn a_confined_process_computes_and_does_nothing_else() {
    let status = probe("nothing", confined);
    assert_eq!(status.code(), Some(0), "{status}");
    for what in [
        "open",
        "socket",
        "fork",
        "thread",
        "execve",
        "kill",
        "unlink",
        "map code",
        "make code",
        "write elsewhere",
        "raise a limit",
        "ioctl",
    ] {
        let status = probe(what, |_| ());
        assert_eq!(status.signal(), Some(libc::SIGSYS), "{what}: {status}");
    }
    // The one that is refused and not fatal: std asks before it reads a file.
    assert_eq!(probe("stat", |_| ()).code(), Some(0));
}

/// The zygote has to open files and to fork. What else it may not do fails.
#[test]
fn a_confined_zygote_prepares_forks_and_does_nothing_else() {
    let output = Command::new(worker()).arg("probe-zygote").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "confined\n", "what comes after got through");
    assert!(output.status.success(), "{}", output.status);
}

/// A real worker: confined, and with nothing open but its pipes, standard error, the image and the page map.
#[test]
fn a_worker_is_confined_and_inherits_nothing() {
    let secret = tempfile::tempfile().unwrap();
    // SAFETY: duplicates a descriptor of ours, which the child would inherit.
    let leaked = unsafe { libc::dup2(secret.as_raw_fd(), 77) };
    assert_eq!(leaked, 77);
    let mut python = builder(&Limits::default()).worker(worker()).build().unwrap();
    assert_eq!(python.run("import os\nos.abort()").limit_hit, Some(Limit::Crash));
    assert_eq!(python.run("1").error, None, "another worker");
    let pid = python.process_id().unwrap();
    confined(pid);
    // SAFETY: the duplicate made above.
    unsafe { libc::close(leaked) };
    let open =
        fs::read_dir(format!("/proc/{pid}/fd")).unwrap().map(|fd| fs::read_link(fd.unwrap().path()).unwrap());
    let folder = image().folder().canonicalize().unwrap();
    let beside: Vec<_> = open
        .filter(|to| !to.starts_with(&folder) && !to.to_string_lossy().starts_with("pipe:"))
        .filter(|to| !to.ends_with("pagemap") && fs::read_link("/proc/self/fd/2").unwrap() != *to)
        .collect();
    assert!(beside.is_empty(), "{beside:?}");
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let file_size = limits.lines().find(|l| l.starts_with("Max file size")).unwrap();
    assert!(file_size.split_whitespace().nth(3) == Some("0"), "{file_size}");
}
