//! What several of these test binaries share; each uses a part.

#![allow(dead_code)]

use std::path::PathBuf;

use toolsmith_models::{
    batch::TrainBatch,
    config::ModelConfig,
    fetch,
    live::{Format, TrainingState},
    trainer::{Activations, Head, Trainer, TrainerOptions},
    weights::Mat,
};

/// SmolLM2-135M-Instruct: `$TOOLSMITH_SMOLLM2`, or the file that `toolsmith fetch smollm2` gets. Where there is none, says
/// so and gives nothing.
pub fn smollm2() -> Option<PathBuf> {
    let path = match std::env::var_os("TOOLSMITH_SMOLLM2") {
        Some(path) => PathBuf::from(path),
        None => fetch::smollm2_path(&fetch::default_cache()),
    };
    if !path.exists() {
        eprintln!("skipped: {} is not there; `toolsmith fetch smollm2` gets it", path.display());
    }
    path.exists().then_some(path)
}

/// `sequences` one behind the other, each token with the same weight.
pub fn packed(sequences: &[Vec<u32>]) -> TrainBatch {
    let tokens = sequences.concat();
    TrainBatch {
        weights: vec![1.0 / tokens.len() as f32; tokens.len()],
        lens: sequences.iter().map(Vec::len).collect(),
        tokens,
        columns: vec![],
    }
}

/// A parameter's numbers.
pub fn floats(mat: Mat) -> Vec<f32> {
    match mat {
        Mat::F32(x) => x.to_vec(),
        Mat::Bf16(x) => x.iter().map(|v| v.to_f32()).collect(),
    }
}

/// Two layers of heads that are 16 wide: sizes of vocabulary, hidden state and MLP, and heads of queries and of keys.
pub fn tiny_config(kind: &str, tied: bool, sizes: [usize; 3], heads: [usize; 2]) -> ModelConfig {
    let json = serde_json::json!({
        "model_type": kind, "vocab_size": sizes[0], "hidden_size": sizes[1], "intermediate_size": sizes[2],
        "num_hidden_layers": 2, "num_attention_heads": heads[0], "num_key_value_heads": heads[1], "head_dim": 16,
        "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "tie_word_embeddings": tied,
    });
    ModelConfig::from_json(&json, "config.json".as_ref()).unwrap()
}

/// A small model to train, and the directory of its state.
pub struct Tiny {
    pub config: ModelConfig,
    pub head: Head,
    pub state: TrainingState,
    _dir: tempfile::TempDir,
}

impl Tiny {
    /// With weights evenly over a range around 0 as wide as `spread`: the usual deviation of 0.02, in which they are without,
    /// leaves so small a model nearly uniform.
    pub fn new(config: ModelConfig, head: Head, format: impl Into<Format>, spread: Option<f32>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let mut state = TrainingState::init_random(&path, head.specs(&config), format, 5).unwrap();
        if let Some(spread) = spread {
            for p in &mut state.params_mut() {
                p.set(|i| (((i * 2654435761) % 1000) as f32 / 1000.0 - 0.5) * spread);
            }
        }
        Self { config, head, state, _dir: dir }
    }

    /// A trainer of it for so many tokens.
    pub fn trainer(&self, max_tokens: usize, activations: Activations, inv_temperature: f32) -> Trainer {
        let precision = self.state.precision();
        let options = TrainerOptions { max_tokens, activations, inv_temperature, precision };
        Trainer::new(&self.config, self.head, &options)
    }
}
