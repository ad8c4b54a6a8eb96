//! The command line: one file a subcommand. Nothing outside this folder prints or ends the process.
//!
//! A subcommand is a clap `Args` struct and a `run` that returns an exit code. Errors come back as values and are
//! printed here, on one line, with the exit status their kind asks for: 2 for bad input, 130 for Ctrl-C, 1 otherwise.

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Parser, Subcommand};

use crate::check::CheckError;
use crate::config::{ConfigError, nearest_key};
use crate::eval::ResultsError;
use crate::{agent, chat, learn, rollout, run_dir, task};

mod bench;
mod check;
mod config;
mod convert;
mod doctor;
mod eval;
mod fetch;
pub mod flags;
mod graph;
mod inference;
mod run;
pub mod sandbox;
mod table;
pub mod tools;
mod train;
mod transcript;

/// Teaches a language model to use a Python tool by reinforcement learning, then runs and evaluates it.
#[derive(Parser)]
#[command(name = "toolsmith", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Train(train::Args),
    Run(run::Args),
    Eval(eval::Args),
    Config(config::Args),
    Check(check::Args),
    Bench(bench::Args),
    Graph(graph::Args),
    Convert(convert::Args),
    Fetch(fetch::Args),
    Sandbox(sandbox::Args),
    Doctor(doctor::Args),
}

/// Input that cannot be used, said in one line: exit status 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadInput(pub String);

/// The user stopped the program by Ctrl-C; what there was to keep is kept: exit status 130.
#[derive(Debug, thiserror::Error)]
#[error("interrupted{}", .0.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default())]
pub struct Interrupted(pub Option<String>);

/// The program as it was started, for commands that it suggests: `cargo run` starts it by a path.
fn program() -> String {
    std::env::args().next().filter(|name| name.contains('/')).unwrap_or_else(|| "toolsmith".into())
}

/// Parses the arguments (the program's name first), runs the subcommand and prints its error, if any.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let result = match cli.command {
        Command::Train(args) => train::run(args),
        Command::Run(args) => run::run(args),
        Command::Eval(args) => eval::run(args),
        Command::Config(args) => config::run(args),
        Command::Check(args) => check::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Graph(args) => graph::run(args),
        Command::Convert(args) => convert::run(args),
        Command::Fetch(args) => fetch::run(args),
        Command::Sandbox(args) => sandbox::run(args),
        Command::Doctor(args) => doctor::run(args),
    };
    result.unwrap_or_else(|error| {
        // A reader that has gone away (`toolsmith config | head`) is no error to report.
        if error
            .chain()
            .any(|e| e.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe))
        {
            return ExitCode::SUCCESS;
        }
        eprintln!("toolsmith: error: {}", one_line(&error));
        ExitCode::from(status(&error))
    })
}

/// The error and its causes on one line, without what was said already: our errors quote their causes.
fn one_line(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !text.contains(&cause) {
            let colon = if text.is_empty() { "" } else { ": " };
            text = format!("{text}{colon}{cause}");
        }
    }
    text.lines().map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join("; ")
}

/// The exit status of an error: 130 for Ctrl-C, 2 for what the caller can mend (input that cannot be used, no
/// network, a full disk), 1 for what went wrong on the way.
fn status(error: &anyhow::Error) -> u8 {
    for cause in error.chain() {
        if cause.is::<Interrupted>() {
            return 130;
        }
        if let Some(e) = cause.downcast_ref::<learn::Error>() {
            return match e {
                learn::Error::Rollout(e) => rollout_status(e),
                learn::Error::Diverged { .. } => 1,
                _ => 2,
            };
        }
        match cause.downcast_ref::<agent::Error>() {
            Some(agent::Error::Rollout(e)) => return rollout_status(e),
            Some(_) => return 2,
            None => {}
        }
        match cause.downcast_ref::<crate::eval::Error>() {
            Some(crate::eval::Error::Rollout(e)) => return rollout_status(e),
            Some(_) => return 2,
            None => {}
        }
        if cause.is::<BadInput>()
            || cause.is::<ConfigError>()
            || cause.is::<toolsmith_models::Error>()
            || cause.is::<toolsmith_sandbox::SandboxError>()
            || cause.is::<toolsmith_sandbox::tool::ToolError>()
            || cause.is::<task::dataset::Error>()
            || cause.is::<chat::Error>()
            || cause.is::<run_dir::Error>()
            || cause.is::<CheckError>()
            || cause.is::<ResultsError>()
        {
            return 2;
        }
        if let Some(e) = cause.downcast_ref::<io::Error>() {
            return if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) {
                2
            } else {
                1
            };
        }
    }
    1
}

/// A prompt that cannot be made is the caller's; a model or a sandbox that fails on the way is not.
fn rollout_status(error: &rollout::Error) -> u8 {
    match error {
        rollout::Error::Text(_) | rollout::Error::EmptyPrompt(_) => 2,
        _ => 1,
    }
}

/// Help and version as clap writes them; a wrong argument on one line, with the nearest right one.
fn usage(error: &clap::Error) -> ExitCode {
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    ) {
        let _ = error.print();
        return ExitCode::from(error.exit_code() as u8);
    }
    let text = error.to_string();
    let mut line = text
        .lines()
        .next()
        .unwrap_or_default()
        .trim_start_matches("error: ")
        .trim_end_matches('.')
        .to_string();
    let missing = text.lines().skip(1).take_while(|l| l.starts_with("  ")).map(str::trim);
    if error.kind() == ErrorKind::MissingRequiredArgument {
        line = format!("{line} {}", missing.collect::<Vec<_>>().join(" "));
    }
    let one = |kind| match error.get(kind) {
        Some(ContextValue::String(one)) => Some(one.clone()),
        Some(ContextValue::Strings(all)) => all.first().cloned(),
        _ => None,
    };
    // Keys lie in tables, which clap's measure of likeness does not know.
    let flag = one(ContextKind::InvalidArg).filter(|flag| flag.contains('.'));
    let key = flag.as_deref().and_then(|flag| {
        let key = flag.trim_start_matches('-');
        nearest_key(key).filter(|near| *near != key).map(|near| format!("--{near}"))
    });
    let suggestion = key
        .or_else(|| one(ContextKind::SuggestedArg))
        .or_else(|| one(ContextKind::SuggestedSubcommand))
        .or_else(|| one(ContextKind::SuggestedValue));
    if let Some(suggestion) = suggestion {
        line = format!("{line}; did you mean `{suggestion}`?");
    } else if let Some(ContextValue::Strings(valid)) = error.get(ContextKind::ValidValue)
        && !valid.is_empty()
    {
        line = format!("{line}; it may be {}", valid.join(", "));
    }
    eprintln!("toolsmith: error: {line}");
    ExitCode::from(2)
}

/// A flag that the first Ctrl-C sets; the second one ends the process at once with status 130.
///
/// # Errors
/// If the handler cannot be installed.
pub fn stop_on_ctrl_c() -> anyhow::Result<&'static AtomicBool> {
    static STOP: AtomicBool = AtomicBool::new(false);
    ctrlc::set_handler(|| {
        if STOP.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
        eprintln!("\nstopping after this step; once more to stop at once");
    })?;
    Ok(&STOP)
}
