//! The sampler and the trainer compute one number: bit for bit, whatever shares the batch.

mod common;

use common::{Tiny, packed, tiny_config};
use toolsmith_graphs::cpu;
use toolsmith_models::{
    Error,
    batch::{Batch, Decode, Objective, PolicyLoss},
    engine::{Engine, EngineOptions},
    trainer::{Activations, AdamW, Head, Trainer},
    weights::Precision,
};

fn tokens(n: usize, seed: usize) -> Vec<u32> {
    (0..n).map(|i| ((i * 31 + seed * 17 + i * i * 7) % 97) as u32).collect()
}

fn model(kind: &str, tied: bool, precision: Precision, head: Head) -> Tiny {
    Tiny::new(tiny_config(kind, tied, [97, 48, 80], [6, 2]), head, precision, Some(1.0))
}

fn trainer(model: &Tiny, activations: Activations) -> Trainer {
    model.trainer(400, activations, 1.0 / 0.7)
}

fn engine(model: &Tiny, slots: usize) -> Engine {
    Engine::new(&model.config, options(model, slots)).unwrap()
}

fn options(model: &Tiny, slots: usize) -> EngineOptions {
    let precision = model.state.precision();
    EngineOptions { slots, max_context: 160, max_batch_tokens: 320, kv_memory: None, precision }
}

/// Log-probability of every token after the first, decoded one at a time after a prefill of `prefill` tokens.
fn decoded(model: &Tiny, sequence: &[u32], prefill: usize) -> Vec<f32> {
    let mut engine = engine(model, 3);
    let weights = model.state.weights();
    let mut bound = engine.bind(&weights);
    let mut logprobs = vec![0.0; prefill];
    let mut batch = Batch::default();
    let mut past = 0;
    for i in prefill..sequence.len() {
        batch.clear();
        // Another sequence shares the batch, at another length each time.
        batch.push(0, 0, &tokens(1 + i % 5, i), false);
        batch.push(2, past, &sequence[past..i], true);
        past = i;
        let row = bound.forward(&batch).unwrap();
        logprobs.push(cpu::token_logprob_of(row, sequence[i], 1.0 / 0.7));
    }
    logprobs
}

#[test]
fn sampled_log_probabilities_are_the_trained_ones() {
    for (kind, tied) in [("llama", true), ("qwen2", false), ("qwen3", true)] {
        for precision in [Precision::Bf16, Precision::F32] {
            let model = model(kind, tied, precision, Head::Policy);
            let sequences = vec![tokens(7, 1), tokens(131, 2), tokens(40, 3)];
            let weights = model.state.weights();
            let mut trainer = trainer(&model, Activations::Keep);
            let all = trainer.forward(&weights, &packed(&sequences)).unwrap().to_vec();
            let alone = trainer.forward(&weights, &packed(&sequences[1..2])).unwrap();
            assert_eq!(all[7..138], alone[..], "{kind} {precision:?}: packing changed bits");
            assert!(alone[1..].iter().all(|l| *l < 0.0 && l.is_finite()));
            for prefill in [1, 9, 70] {
                let sampled = decoded(&model, &sequences[1], prefill);
                assert_eq!(sampled[prefill..], alone[prefill..], "{kind} {precision:?} prefill {prefill}");
            }
        }
    }
}

#[test]
fn a_shared_prefix_is_as_good_as_a_prefill() {
    let model = model("llama", true, Precision::Bf16, Head::Policy);
    let weights = model.state.weights();
    let (prompt, next) = (tokens(50, 4), tokens(3, 5));
    let mut engine = engine(&model, 3);
    let mut bound = engine.bind(&weights);
    let mut batch = Batch::default();
    batch.push(0, 0, &prompt, false);
    bound.forward(&batch).unwrap();
    bound.kv().share(0, 2, prompt.len());
    batch.clear();
    batch.push(2, prompt.len(), &next, true);
    let copied = bound.forward(&batch).unwrap().to_vec();
    batch.clear();
    batch.push(1, 0, &[prompt, next].concat(), true);
    assert_eq!(copied, bound.forward(&batch).unwrap());
}

/// 160 positions take 3 blocks of 64; a block is 2 layers of keys and values for 2 heads of 16 in bf16: 16,384 bytes.
#[test]
fn kv_memory_bounds_the_blocks_and_a_full_cache_is_an_error() {
    let model = model("llama", true, Precision::Bf16, Head::Policy);
    let engine = |kv_memory| {
        let options = EngineOptions { kv_memory: Some(kv_memory), ..options(&model, 3) };
        Engine::new(&model.config, options)
    };
    let Err(small) = engine(2 * 16_384) else { panic!("two blocks do not hold a context") };
    assert_eq!(
        small.to_string(),
        "kv_memory of 1 MB holds 2 blocks of 64 positions; a context of 160 takes 3: give it 1 MB or lower max_context"
    );
    let (weights, prompt) = (model.state.weights(), tokens(130, 6));
    let mut engine = engine(4 * 16_384).unwrap();
    let mut bound = engine.bind(&weights);
    let mut batch = Batch::default();
    batch.push(0, 0, &prompt, true);
    let alone = bound.forward(&batch).unwrap().to_vec();
    // What they share is held once; the block in which they part does not fit for three.
    bound.kv().share(0, 1, 129);
    bound.kv().share(0, 2, 129);
    batch.clear();
    batch.push(1, 129, &prompt[129..], true);
    assert_eq!(bound.forward(&batch).unwrap(), alone);
    batch.clear();
    batch.push(2, 129, &prompt[129..], true);
    let full = bound.forward(&batch).unwrap_err();
    let text = "the KV cache is full: 1 more blocks of 64 positions are needed, 0 are free";
    assert_eq!(full.to_string(), text);
    bound.kv().release(1);
    assert_eq!(bound.forward(&batch).unwrap(), alone);
}

#[test]
fn the_ratio_is_one_and_checkpointing_changes_no_bit() {
    for precision in [Precision::Bf16, Precision::F32] {
        let model = model("qwen3", true, precision, Head::Policy);
        let weights = model.state.weights();
        let mut batch = packed(&[tokens(30, 1), tokens(21, 2)]);
        batch.weights[12] = 0.0;
        let mut plain = trainer(&model, Activations::Keep);
        let old = plain.forward(&weights, &batch).unwrap().to_vec();
        let advantages = (0..51).map(|i| (i % 7) as f32 - 3.0).collect::<Vec<_>>();
        batch.columns = vec![old.clone(), advantages.clone()];
        let objective = Objective::Policy(PolicyLoss {
            clip_range_low: 0.2,
            clip_range_high: 0.28,
            dual_clip: Some(3.0),
            kl_coef: 0.0,
        });
        let out = plain.accumulate(&weights, &batch, &objective).unwrap();
        let loss = out.loss;
        assert_eq!(out.outputs, old);
        // At ratio 1 the loss is −Σ w·A over predicted tokens.
        let firsts = [0, 30];
        let expected: f64 = (0..51)
            .filter(|i| !firsts.contains(i))
            .map(|i| -f64::from(batch.weights[i]) * f64::from(advantages[i]))
            .sum();
        assert!((loss - expected).abs() < 1e-6, "{loss} {expected}");
        let kept = plain.prepare(&objective, Activations::Keep).unwrap();
        let mut thrifty = trainer(&model, Activations::Recompute);
        let least = thrifty.prepare(&objective, Activations::Recompute).unwrap();
        assert_eq!((kept.recomputed, least.recomputed), (0, least.layers));
        let mut within = trainer(&model, Activations::Keep);
        let some = within.prepare(&objective, Activations::Within(kept.bytes - 1)).unwrap();
        assert!(0 < some.recomputed && some.recomputed < some.layers && some.bytes < kept.bytes, "{some:?}");
        for trainer in [&mut thrifty, &mut within] {
            let again = trainer.accumulate(&weights, &batch, &objective).unwrap();
            assert_eq!((again.loss, again.outputs), (loss, &old[..]));
            for i in 0..plain.specs().len() {
                let name = &plain.specs()[i].name;
                assert_eq!(plain.gradient(i), trainer.gradient(i), "{name}");
                assert!(plain.gradient(i).iter().any(|g| *g != 0.0), "{name} has no gradient");
            }
        }
        let mut none = trainer(&model, Activations::Within(least.bytes - 1));
        let error = none.accumulate(&weights, &batch, &objective).unwrap_err();
        assert!(matches!(error, Error::Memory { least: l, given } if l == least.bytes && given == l - 1));
    }
}

#[test]
fn steps_descend_for_both_heads() {
    for (head, objective) in
        [(Head::Policy, Objective::CrossEntropy), (Head::Value, Objective::Value { clip_range: None })]
    {
        let mut model = model("llama", false, Precision::Bf16, head);
        let mut trainer = trainer(&model, Activations::Recompute);
        let mut batch = packed(&[tokens(30, 1), tokens(21, 2)]);
        batch.columns = vec![vec![0.0; 51], vec![1.0; 51]];
        let hyper = AdamW { lr: 3e-3, beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.0 };
        let mut losses = vec![];
        for _ in 0..30 {
            let out = trainer.accumulate(&model.state.weights(), &batch, &objective).unwrap();
            losses.push(out.loss);
            assert!(trainer.step(&mut model.state, &hyper, 1.0).unwrap() > 0.0);
        }
        assert_eq!(model.state.step(), 30);
        assert!(losses[29] < 0.3 * losses[0], "{head:?}: {losses:?}");
    }
}

#[test]
fn a_batch_that_does_not_fit_is_an_error() {
    let model = model("llama", true, Precision::F32, Head::Policy);
    let mut trainer = trainer(&model, Activations::Keep);
    let weights = model.state.weights();
    let too_many = trainer.forward(&weights, &packed(&[tokens(402, 1)])).unwrap_err();
    assert_eq!(too_many.to_string(), "batch: a batch of 401 tokens to run exceeds the trainer's 400");
    let mut wrong = packed(&[tokens(10, 1)]);
    wrong.lens = vec![9];
    assert!(trainer.forward(&weights, &wrong).is_err());
    let value = Objective::Value { clip_range: None };
    assert!(trainer.accumulate(&weights, &packed(&[tokens(10, 1)]), &value).is_err());
}
