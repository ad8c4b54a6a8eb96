//! The batch that both tests of exactness train on.

use toolsmith_models::batch::TrainBatch;

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
