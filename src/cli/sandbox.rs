//! `toolsmith sandbox`: prepares the Python image, or runs a file as a tool call would.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use toolsmith_sandbox::{Image, Limits, Progress, Sandbox, Source, Stage};

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
    /// Run a Python file as a tool call would.
    Run {
        /// The program.
        file: PathBuf,
        #[command(flatten)]
        python: Python,
    },
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

/// Prepares or runs.
///
/// # Errors
/// If the image cannot be prepared or the file not be read.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Prepare(python) => {
            let image = prepared_image(&python.load()?)?;
            println!("the Python image is ready in {}", image.folder().display());
            Ok(ExitCode::SUCCESS)
        }
        Command::Run { file, python } => {
            let config = python.load()?;
            let source = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
            let image = prepared_image(&config)?;
            let mut python = Sandbox::builder().image(image).limits(Limits::from(&config)).build()?;
            let outcome = python.run(&source);
            let mut out = std::io::stdout().lock();
            out.write_all(outcome.feedback().as_bytes())?;
            out.write_all(b"\n")?;
            Ok(if outcome.ok() { ExitCode::SUCCESS } else { ExitCode::from(1) })
        }
    }
}

/// The configured image, prepared first where it is not yet: with a bar on a terminal, a line a stage elsewhere.
///
/// # Errors
/// If it cannot be fetched or compiled, or does not fit into `sandbox.memory_mb`.
pub fn prepared_image(config: &SandboxConfig) -> anyhow::Result<Image> {
    let name = |stage: Stage| match stage {
        Stage::Fetch => "fetching the Python image (98 MB, once)",
        Stage::Verify => "checking the Python image",
        Stage::Slim => "cutting the Python image down",
        Stage::Compile => "compiling Python (once)",
        Stage::Snapshot => "warming Python up",
    };
    let mut bar: Option<ProgressBar> = None;
    let mut last = None;
    let terminal = std::io::stderr().is_terminal();
    let mut show = |progress: Progress| {
        let text = name(progress.stage);
        if terminal {
            let bar = bar.get_or_insert_with(|| {
                let style = ProgressStyle::with_template("{spinner} {msg:42} {bar:24} {elapsed}");
                ProgressBar::new(1000).with_style(style.expect("the template is well formed"))
            });
            bar.set_message(text);
            bar.set_position((progress.fraction.unwrap_or(0.0) * 1000.0) as u64);
        } else if last != Some(progress.stage) {
            eprintln!("{text}");
        }
        last = Some(progress.stage);
    };
    let image = Image::prepare(&Image::default_cache(), &config.into(), &Source::default(), &mut show);
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    let image = image?;
    let least = image.least_memory_mb();
    if config.memory_mb < least {
        return Err(ConfigError::Value {
            key: "sandbox.memory_mb".into(),
            value: config.memory_mb.to_string(),
            why: format!("the interpreter by itself takes {least}"),
        }
        .into());
    }
    Ok(image)
}
