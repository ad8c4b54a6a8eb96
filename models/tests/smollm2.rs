//! A real model against PyTorch and transformers: SmolLM2-135M-Instruct, from the file that `toolsmith fetch smollm2`
//! gets (or that `$TOOLSMITH_SMOLLM2` names). Where there is none, these tests say so and pass.

use serde_json::Value;
use toolsmith_graphs::cpu;
use toolsmith_models::{
    batch::{Batch, Decode, TrainBatch},
    convert::ModelSource,
    engine::{Engine, EngineOptions},
    fetch,
    gguf::{Gguf, vocab},
    tokenizer::{Specials, Tokenizer},
    trainer::{Activations, Head, Trainer, TrainerOptions},
    weights::{Precision, WeightsView},
};

mod common;
use common::smollm2;

fn model() -> Option<ModelSource> {
    Some(ModelSource::open(&smollm2()?, &fetch::default_cache()).unwrap())
}

fn golden() -> Value {
    serde_json::from_str(include_str!("fixtures/smollm2_golden.json")).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

fn floats(value: &Value) -> Vec<f32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// Log-probabilities of `continuation` after `prompt`, one token at a time.
fn sampled(engine: &mut Engine, weights: &WeightsView, prompt: &[u32], continuation: &[u32]) -> Vec<f32> {
    let mut bound = engine.bind(weights);
    let mut batch = Batch::default();
    batch.push(0, 0, prompt, true);
    let mut logprobs = vec![];
    for (i, &id) in continuation.iter().enumerate() {
        logprobs.push(cpu::token_logprob_of(bound.forward(&batch).unwrap(), id, 1.0));
        batch.clear();
        batch.push(0, prompt.len() + i, &[id], true);
    }
    logprobs
}

/// The same from the training graph.
fn trained(
    model: &ModelSource,
    weights: &WeightsView,
    precision: Precision,
    ids: &[u32],
    n: usize,
) -> Vec<f32> {
    let options = TrainerOptions {
        max_tokens: ids.len(),
        activations: Activations::Recompute,
        inv_temperature: 1.0,
        precision,
    };
    let batch = TrainBatch {
        tokens: ids.to_vec(),
        lens: vec![ids.len()],
        weights: vec![1.0; ids.len()],
        columns: vec![],
    };
    let mut trainer = Trainer::new(&model.config, Head::Policy, &options);
    let all = trainer.forward(weights, &batch).unwrap();
    all[ids.len() - n..].to_vec()
}

#[test]
fn the_rebuilt_tokenizer_is_the_original() {
    let Some(path) = smollm2() else { return };
    let file = Gguf::open(&path).unwrap();
    let text = vocab::vocab(&file).unwrap();
    let t = Tokenizer::from_json(text.tokenizer.to_string(), text.config, &path).unwrap();
    let cases: Vec<Value> =
        serde_json::from_str(include_str!("fixtures/smollm2_tokenizer_cases.json")).unwrap();
    for case in &cases {
        let ids = ids(&case["ids"]);
        assert_eq!(t.encode(case["text"].as_str().unwrap(), Specials::Parse).unwrap(), ids, "{case}");
        assert_eq!(t.decode(&ids), case["decoded"].as_str().unwrap());
    }
    assert_eq!((cases.len(), t.vocab_size(), t.eos(), t.bos()), (24, 49152, &[2][..], Some(1)));
    assert!(text.chat_template.unwrap().contains("<|im_start|>"));
}

#[test]
fn it_is_converted_once_and_then_mapped() {
    let Some(path) = smollm2() else { return };
    let cache = tempfile::tempdir().unwrap();
    let first = ModelSource::open(&path, cache.path()).unwrap();
    let stamp = || std::fs::metadata(first.dir.join("config.json")).unwrap().modified().unwrap();
    let before = stamp();
    let again = ModelSource::open(&path, cache.path()).unwrap();
    assert_eq!((&again.dir, stamp()), (&first.dir, before));
    assert_eq!(again.config.param_specs().iter().map(|s| s.numel()).sum::<usize>(), 134_515_008);
}

#[test]
fn greedy_tokens_and_logits_are_the_references_in_f32() {
    let Some(model) = model() else { return };
    let weights = model.weights(Precision::F32).unwrap();
    let view = weights.view();
    let options = EngineOptions {
        slots: 4,
        max_context: 160,
        max_batch_tokens: 160,
        kv_memory: None,
        precision: Precision::F32,
    };
    let mut engine = Engine::new(&model.config, options).unwrap();
    let golden = golden();
    for (slot, prompt) in golden["prompts"].as_array().unwrap().iter().enumerate() {
        let name = prompt["name"].as_str().unwrap();
        let prompt_ids = ids(&prompt["ids"]);
        let text = prompt["text"].as_str().unwrap();
        assert_eq!(model.tokenizer.encode(text, Specials::Parse).unwrap(), prompt_ids, "{name}");
        let mut bound = engine.bind(&view);
        let mut batch = Batch::default();
        batch.push(slot, 0, &prompt_ids, true);
        let greedy = ids(&prompt["greedy64_ids"]);
        let margins = floats(&prompt["greedy64_top2_margin"]);
        for (i, (&expected, &margin)) in greedy.iter().zip(&margins).enumerate() {
            let row = bound.forward(&batch).unwrap();
            if i == 0 {
                for (&id, logit) in ids(&prompt["top20_ids"]).iter().zip(floats(&prompt["top20_logits"])) {
                    let error = (row[id as usize] - logit).abs();
                    assert!(error < 5e-4, "{name}: logit of {id} is off by {error}");
                }
                let lse = prompt["logsumexp"].as_f64().unwrap();
                assert!((f64::from(cpu::logsumexp(row, 1.0)) - lse).abs() < 5e-4, "{name}");
            }
            let best = (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap() as u32;
            // Two candidates this close may change places between two correct computations.
            assert!(best == expected || margin < 0.03, "{name}: token {i} is {best}, not {expected}");
            batch.clear();
            batch.push(slot, prompt_ids.len() + i, &[expected], true);
        }
    }
    let continuation = &golden["continuation"];
    let (prompt, next) = (ids(&continuation["prompt_ids"]), ids(&continuation["ids"]));
    let sampled = sampled(&mut engine, &view, &prompt, &next);
    for (ours, theirs) in sampled.iter().zip(floats(&continuation["logprobs"])) {
        assert!((ours - theirs).abs() < 5e-4, "{ours} {theirs}");
    }
    assert_eq!(sampled, trained(&model, &view, Precision::F32, &[prompt, next.clone()].concat(), next.len()));
}

#[test]
fn bf16_samples_what_it_trains() {
    let Some(model) = model() else { return };
    let weights = model.weights(Precision::Bf16).unwrap();
    assert_eq!(weights.mapped(), model.config.param_specs().len(), "bf16 weights are used in place");
    let view = weights.view();
    let options = EngineOptions {
        slots: 1,
        max_context: 128,
        max_batch_tokens: 64,
        kv_memory: None,
        precision: Precision::Bf16,
    };
    let mut engine = Engine::new(&model.config, options).unwrap();
    let continuation = &golden()["continuation"];
    let (prompt, next) = (ids(&continuation["prompt_ids"]), ids(&continuation["ids"]));
    let sampled = sampled(&mut engine, &view, &prompt, &next);
    assert_eq!(
        sampled,
        trained(&model, &view, Precision::Bf16, &[prompt, next.clone()].concat(), next.len())
    );
    // Rounding the inputs of products to bf16 costs what it costs PyTorch: about 0.2 a logit.
    let theirs = floats(&continuation["logprobs"]);
    let mean = sampled.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).sum::<f32>() / theirs.len() as f32;
    assert!(mean < 0.25, "{mean}");
}
