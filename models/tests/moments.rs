//! What moments in bf16 cost: a small model learns the same task with either, and the curves stay together.

mod common;

use common::{Tiny, tiny_config};
use toolsmith_models::{
    batch::{Objective, TrainBatch},
    live::Format,
    trainer::{Activations, AdamW, Head},
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
    let format = Format { precision: Precision::Bf16, moments };
    let config = tiny_config("qwen3", true, [32, 64, 128], [4, 4]);
    let mut tiny = Tiny::new(config, Head::Policy, format, None);
    let mut trainer = tiny.trainer(256, Activations::Keep, 1.0);
    let hyper = AdamW { lr: 3e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 };
    let mut fifths = [0.0; 5];
    for step in 0..STEPS {
        let out = trainer.accumulate(&tiny.state.weights(), &batch(step), &Objective::CrossEntropy).unwrap();
        fifths[step * 5 / STEPS] += out.loss * 5.0 / STEPS as f64;
        trainer.step(&mut tiny.state, &hyper, 1.0).unwrap();
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
