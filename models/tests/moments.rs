//! What moments in bf16 cost: a small model learns the same task with either, and the curves stay together.

use toolsmith_models::{
    batch::{Objective, TrainBatch},
    config::ModelConfig,
    live::{Format, TrainingState},
    trainer::{Activations, AdamW, Head, Trainer, TrainerOptions},
    weights::Precision,
};

const STEPS: usize = 400;

/// Sequences of eight digits, said twice: the second half can be learnt.
fn batch(step: usize) -> TrainBatch {
    let digit = |i: usize| ((step * 31 + i * 7919 + i * i * 104_729) / 13 % 10) as u32;
    let (n, len) = (16, 16);
    let tokens = (0..n * len).map(|i| digit(i / len * 8 + i % 8)).collect();
    let weight = |i: usize| if i % len >= 8 { 1.0 / (8 * n) as f32 } else { 0.0 };
    TrainBatch { tokens, lens: vec![len; n], weights: (0..n * len).map(weight).collect(), columns: vec![] }
}

/// Mean losses over each fifth of the steps.
fn curve(moments: Precision) -> [f64; 5] {
    let json = serde_json::json!({
        "model_type": "qwen3", "vocab_size": 32, "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "tie_word_embeddings": true,
    });
    let config = ModelConfig::from_json(&json, "config.json".as_ref()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let precision = Precision::Bf16;
    let (specs, format) = (Head::Policy.specs(&config), Format { precision, moments });
    let mut state = TrainingState::init_random(&dir.path().join("state"), specs, format, 1).unwrap();
    let options =
        TrainerOptions { max_tokens: 256, activations: Activations::Keep, inv_temperature: 1.0, precision };
    let mut trainer = Trainer::new(&config, Head::Policy, &options);
    let hyper = AdamW { lr: 3e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 };
    let mut fifths = [0.0; 5];
    for step in 0..STEPS {
        let out = trainer.accumulate(&state.weights(), &batch(step), &Objective::CrossEntropy).unwrap();
        fifths[step * 5 / STEPS] += out.loss * 5.0 / STEPS as f64;
        trainer.step(&mut state, &hyper, 1.0).unwrap();
    }
    fifths
}

#[test]
fn bf16_moments_learn_as_well() {
    let [exact, short] = [Precision::F32, Precision::Bf16].map(curve);
    println!("f32 moments {exact:.4?}\nbf16 moments {short:.4?}");
    assert!(exact[4] < 0.3 * exact[0], "nothing is learnt: {exact:?}");
    for (exact, short) in exact.iter().zip(&short) {
        assert!((short - exact).abs() < 0.1 * exact, "{short} is not {exact}");
    }
}
