//! An engine's second batch of a size allocates nothing: prefill, one sequence, several; nor does a trainer's second step.
//!
//! One test, since the counter is the process's.

mod common;
#[path = "../../graphs/tests/counting/mod.rs"]
mod counting;

use std::sync::atomic::Ordering;

use common::{Tiny, tiny_config};
use counting::ALLOCATIONS;
use toolsmith_models::{
    batch::{Batch, Decode, Objective, PolicyLoss, TrainBatch},
    engine::{Engine, EngineOptions},
    trainer::{Activations, Head},
    weights::Precision,
};

#[test]
fn the_second_time_allocates_nothing() {
    let precision = Precision::Bf16;
    let tiny = |head| Tiny::new(tiny_config("qwen3", true, [97, 48, 80], [6, 2]), head, precision, None);
    let policy = tiny(Head::Policy);
    let weights = policy.state.weights();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    pool.install(|| {
        counting::wake();
        let options =
            EngineOptions { slots: 4, max_context: 64, max_batch_tokens: 40, kv_memory: None, precision };
        let mut engine = Engine::new(&policy.config, options).unwrap();
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
        train(&policy, &tiny(Head::Value));
    });
}

/// Micro-batches of a policy and of a critic, and scores.
fn train(policy: &Tiny, critic: &Tiny) {
    let batch = TrainBatch {
        tokens: (0..60).collect(),
        lens: vec![20, 30, 10],
        weights: (0..60).map(|i| (i % 3) as f32 / 60.0).collect(),
        columns: vec![vec![-4.0; 60], vec![1.0; 60]],
    };
    let policy_loss = PolicyLoss { clip_range_low: 0.2, clip_range_high: 0.2, dual_clip: None, kl_coef: 0.0 };
    for (tiny, objective) in
        [(policy, Objective::Policy(policy_loss)), (critic, Objective::Value { clip_range: Some(0.2) })]
    {
        let (weights, mut trainer) = (tiny.state.weights(), tiny.trainer(64, Activations::Recompute, 1.0));
        let mut count = || {
            let before = ALLOCATIONS.load(Ordering::Relaxed);
            assert!(trainer.accumulate(&weights, &batch, &objective).unwrap().loss.is_finite());
            assert!(trainer.forward(&weights, &batch).unwrap().iter().all(|x| x.is_finite()));
            ALLOCATIONS.load(Ordering::Relaxed) - before
        };
        count();
        assert_eq!(count(), 0, "{:?}", tiny.head);
    }
}
