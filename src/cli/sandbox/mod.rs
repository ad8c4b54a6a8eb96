//! `toolsmith sandbox`: prepares the Python image, runs a file as a tool call would, and measures.

mod bench;
mod prepare;
mod run;

use std::path::PathBuf;
use std::process::ExitCode;

pub use prepare::prepared_image;

use super::flags::{Flags, Scope};
use crate::config::{ConfigError, SandboxConfig};

/// The Python sandbox.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Fetch, check, compile and cache the Python image (once; everything that needs it does so by itself).
    Prepare(Python),
    Run(run::Args),
    Bench(bench::Args),
}

/// Prepares, runs or measures.
///
/// # Errors
/// If the image cannot be prepared, the file not be read or a worker not be started.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Prepare(args) => prepare::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Bench(args) => bench::run(&args),
    }
}

/// The keys of Python and its limits.
#[derive(Clone, Debug)]
pub struct Keys;

impl Scope for Keys {
    const TABLES: &'static [&'static str] = &["sandbox"];
    const TAKEN: &'static [&'static str] = &["config", "help"];
}

/// Which Python, and within which limits.
#[derive(Debug, clap::Args)]
pub struct Python {
    /// TOML file of configuration keys, such as the config.toml of a run.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    flags: Flags<Keys>,
}

impl Python {
    /// The file over the defaults, flags over both.
    ///
    /// # Errors
    /// As [`Config::load`](crate::config::Config::load).
    pub fn load(&self) -> Result<SandboxConfig, ConfigError> {
        Ok(self.flags.load(self.config.as_deref(), "model")?.sandbox)
    }
}
