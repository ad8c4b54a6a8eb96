//! `toolsmith convert`: any model as a Hugging Face directory.

use std::path::PathBuf;
use std::process::ExitCode;

use super::BadInput;

/// Write a model as a Hugging Face directory in bf16.
///
/// SRC is a .gguf file, whose weights are dequantised and whose tokenizer is rebuilt, or another Hugging Face
/// directory. OUT appears only when all of it is written.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// .gguf file or Hugging Face directory.
    #[arg(value_name = "SRC")]
    source: PathBuf,
    /// Directory to write.
    #[arg(value_name = "OUT")]
    out: PathBuf,
}

/// Converts.
///
/// # Errors
/// If the source cannot be read or the directory not be written.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    if args.out.exists() {
        return Err(BadInput(format!("{}: exists already; name a new directory", args.out.display())).into());
    }
    toolsmith_models::convert::convert(&args.source, &args.out)?;
    println!("{}", args.out.display());
    Ok(ExitCode::SUCCESS)
}
