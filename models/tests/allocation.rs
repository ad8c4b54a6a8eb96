//! An engine's second batch of a size allocates nothing: prefill, one sequence, several; nor does a trainer's second step.
//!
//! One test, since the counter is the process's.

#[path = "../../graphs/tests/counting/mod.rs"]
mod counting;

use std::sync::atomic::Ordering;

use counting::ALLOCATIONS;
use toolsmith_models::{
    batch::{Batch, Decode, Objective, PolicyLoss, TrainBatch},
    config::ModelConfig,
    engine::{Engine, EngineOptions},
    live::TrainingState,
    trainer::{Activations, Head, Trainer, TrainerOptions},
    weights::Precision,
};

#[test]
fn the_second_time_allocates_nothing() {
    let json = serde_json::json!({
        "model_type": "qwen3", "vocab_size": 97, "hidden_size": 48, "intermediate_size": 80,
        "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 16,
        "max_position_embeddings": 256, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "tie_word_embeddings": true,
    });
    let config = ModelConfig::from_json(&json, "config.json".as_ref()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let precision = Precision::Bf16;
    let specs = Head::Policy.specs(&config);
    let state = TrainingState::init_random(&dir.path().join("state"), specs, precision, 5).unwrap();
    let weights = state.weights();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    pool.install(|| {
        counting::wake();
        let options =
            EngineOptions { slots: 4, max_context: 64, max_batch_tokens: 40, kv_memory: None, precision };
        let mut engine = Engine::new(&config, options).unwrap();
        let mut bound = engine.bind(&weights);
        for (sequences, len, past) in [(1, 40, 0), (1, 1, 40), (4, 1, 0), (4, 7, 1)] {
            let mut batch = Batch::default();
            (0..sequences).for_each(|slot| batch.push(slot, past, &[7; 40][..len], true));
            let mut count = || {
                let before = ALLOCATIONS.load(Ordering::Relaxed);
                assert!(bound.forward(&batch).unwrap().iter().all(|x| x.is_finite()));
                ALLOCATIONS.load(Ordering::Relaxed) - before
            };
            count(); // lazily made things are made
            assert_eq!(count(), 0, "{sequences} sequences of {len} after {past}");
        }
        train(&config, &state);
    });
}

/// Micro-batches of a policy and of a critic, and scores.
fn train(config: &ModelConfig, policy: &TrainingState) {
    let dir = tempfile::tempdir().unwrap();
    let specs = Head::Value.specs(config);
    let critic = TrainingState::init_random(&dir.path().join("critic"), specs, Precision::Bf16, 6).unwrap();
    let options = TrainerOptions {
        max_tokens: 64,
        activations: Activations::Recompute,
        inv_temperature: 1.0,
        precision: Precision::Bf16,
    };
    let batch = TrainBatch {
        tokens: (0..60).collect(),
        lens: vec![20, 30, 10],
        weights: (0..60).map(|i| (i % 3) as f32 / 60.0).collect(),
        columns: vec![vec![-4.0; 60], vec![1.0; 60]],
    };
    let policy_loss = PolicyLoss { clip_range_low: 0.2, clip_range_high: 0.2, dual_clip: None, kl_coef: 0.0 };
    for (head, state, objective) in [
        (Head::Policy, policy, Objective::Policy(policy_loss)),
        (Head::Value, &critic, Objective::Value { clip_range: Some(0.2) }),
    ] {
        let (weights, mut trainer) = (state.weights(), Trainer::new(config, head, &options));
        let mut count = || {
            let before = ALLOCATIONS.load(Ordering::Relaxed);
            assert!(trainer.accumulate(&weights, &batch, &objective).unwrap().loss.is_finite());
            assert!(trainer.forward(&weights, &batch).unwrap().iter().all(|x| x.is_finite()));
            ALLOCATIONS.load(Ordering::Relaxed) - before
        };
        count();
        assert_eq!(count(), 0, "{head:?}");
    }
}
