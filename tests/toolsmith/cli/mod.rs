//! The program as a user runs it.

use std::process::{Command, Output};

mod bad_input;
mod bench;
mod check;
mod eval;
mod run;
mod sandbox;
mod train;

/// The built program.
fn toolsmith() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_toolsmith"));
    command.env_remove("TOOLSMITH_CACHE");
    command
}

/// What the program printed, for assertions.
fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("output is UTF-8")
}

/// Asserts the bad-input contract: status 2, nothing on stdout, one line on stderr with all of `parts`.
fn refused(output: &Output, parts: &[&str]) {
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "exit status; stderr:\n{stderr}");
    assert_eq!(text(&output.stdout), "", "nothing on stdout");
    assert_eq!(stderr.lines().count(), 1, "one line on stderr:\n{stderr}");
    for part in parts {
        assert!(stderr.contains(part), "{part:?} is not in: {stderr}");
    }
}
