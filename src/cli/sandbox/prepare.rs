//! `toolsmith sandbox prepare`, and preparing on the way to something else.

use std::io::IsTerminal;
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};
use toolsmith_sandbox::{Image, Progress, Source, Stage};

use super::Python;
use crate::config::{ConfigError, SandboxConfig};

/// Prepares it and says where it is.
///
/// # Errors
/// If it cannot be fetched or compiled.
pub fn run(python: &Python) -> anyhow::Result<ExitCode> {
    let image = prepared_image(&python.load()?)?;
    println!("the Python image is ready in {}", image.folder().display());
    Ok(ExitCode::SUCCESS)
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
