//! `toolsmith config`: prints a configuration as commented TOML.

use std::path::PathBuf;
use std::process::ExitCode;

use super::flags::{Everything, Flags};

/// Print a configuration: every key under its meaning, as TOML that `--config` reads.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Built-in values to start from: `default` (the embedded run), `quick` (the same in two minutes) or `model`
    /// (a run on an existing model).
    #[arg(long, default_value = "default")]
    preset: String,
    /// TOML file to lay over the preset.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    flags: Flags<Everything>,
}

/// Prints.
///
/// # Errors
/// If the configuration is no valid one.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    print!("{}", args.flags.load(args.config.as_deref(), &args.preset)?.to_commented_toml());
    Ok(ExitCode::SUCCESS)
}
