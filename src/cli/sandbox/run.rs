//! `toolsmith sandbox run`: one program, as a tool call would run it.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use toolsmith_sandbox::{Isolation, Limits, Sandbox};

use super::{Python, prepared_image};
use crate::cli::BadInput;

/// Run a Python program as a tool call would: exit status 0 where it ran to its end, 1 where it failed or met a limit.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The program; `-` reads it from standard input.
    file: PathBuf,
    /// Print the whole outcome as JSON: output, value, error, fuel, time, memory, the limit met.
    #[arg(long)]
    json: bool,
    /// Where the interpreter lives: a thread of this process, or a confined process of its own.
    #[arg(long, value_name = "WHERE", default_value = "thread", value_parser = isolation)]
    isolation: Isolation,
    #[command(flatten)]
    python: Python,
}

fn isolation(text: &str) -> Result<Isolation, String> {
    match text {
        "thread" => Ok(Isolation::Thread),
        "process" => Ok(Isolation::Process),
        _ => Err("it may be thread or process".into()),
    }
}

/// Runs it and prints what a model would see, or the outcome as JSON.
///
/// # Errors
/// If the file cannot be read or is not UTF-8, or no interpreter comes up.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let source = source(args)?;
    let config = args.python.load()?;
    let image = prepared_image(&config)?;
    let builder = Sandbox::builder().image(image).limits(Limits::from(&config));
    let outcome = builder.isolation(args.isolation).build()?.run(&source);
    let text = if args.json { serde_json::to_string_pretty(&outcome)? } else { outcome.feedback() };
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    if !text.is_empty() && !text.ends_with('\n') {
        out.write_all(b"\n")?;
    }
    Ok(ExitCode::from(u8::from(!outcome.ok())))
}

fn source(args: &Args) -> anyhow::Result<String> {
    let name = args.file.display().to_string();
    let bytes = if name == "-" {
        let mut bytes = Vec::new();
        std::io::stdin().lock().read_to_end(&mut bytes).context("standard input")?;
        bytes
    } else {
        std::fs::read(&args.file).with_context(|| name.clone())?
    };
    String::from_utf8(bytes).map_err(|e| {
        let line = 1 + e.as_bytes()[..e.utf8_error().valid_up_to()].iter().filter(|b| **b == b'\n').count();
        BadInput(format!("{name}: line {line} is not UTF-8")).into()
    })
}
