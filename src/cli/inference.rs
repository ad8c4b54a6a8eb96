//! What `run` and `eval` share: a model, how it samples, and whether it may run code.

use std::path::PathBuf;

use super::flags::{Flags, Scope};
use crate::config::Config;

/// Keys about sampling and the sandbox; the others are training's.
#[derive(Clone, Debug)]
pub struct Sampling;

impl Scope for Sampling {
    const TABLES: &'static [&'static str] = &["rollout", "sandbox"];
    const TAKEN: &'static [&'static str] = &["model", "config", "seed", "threads", "dtype", "help"];
}

/// A model and how it samples.
#[derive(Debug, clap::Args)]
pub struct Inference {
    /// Hugging Face directory or .gguf file.
    #[arg(long, value_name = "MODEL")]
    pub model: PathBuf,
    /// TOML file of configuration keys, such as the config.toml of a run.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Do without Python: the model is not offered it, and a call ends its answer.
    #[arg(long)]
    pub no_tool: bool,
    /// Seed of the draws [default: 0].
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Threads for kernels; 0 means all cores [default: 0].
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Precision of weights and matmul inputs, bf16 or f32 [default: bf16].
    #[arg(long, value_name = "DTYPE")]
    dtype: Option<String>,
    #[command(flatten)]
    flags: Flags<Sampling>,
}

impl Inference {
    /// Whether a sampling key was set on the command line.
    pub fn sets(&self, key: &str) -> bool {
        self.flags.overrides.iter().any(|(k, _)| k == key)
    }

    /// The configuration: the file over the defaults for models, flags over both. Also sets the number of threads.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load(&self) -> anyhow::Result<Config> {
        let mut overrides = self.flags.overrides.clone();
        let own = [
            ("run.seed", self.seed.map(|n| n.to_string())),
            ("run.threads", self.threads.map(|n| n.to_string())),
            ("model.dtype", self.dtype.clone()),
        ];
        overrides.extend(own.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
        // A run's file is read for how it samples: what only training asks of it does not bind here.
        overrides.push(("rl.steps".into(), "0".into()));
        let mut config = Config::load(self.config.as_deref(), "model", &overrides)?;
        if self.no_tool {
            config.rollout.max_turns = 0;
        }
        config.rollout.prompt_template = config.rollout.template(true).to_owned();
        rayon::ThreadPoolBuilder::new().num_threads(config.run.threads).build_global()?;
        Ok(config)
    }
}
