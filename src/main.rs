//! The `toolsmith` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Sandbox workers are this program, run again; this must come before anything else.
    toolsmith_sandbox::worker_main_if_asked();
    toolsmith::cli::main(std::env::args_os())
}
