//! Tokens a second of a real model: prefill, decode and training, beside what the machine can read.
//!
//! `TOOLSMITH_MODEL=DIR cargo bench -p toolsmith-models --bench throughput`, DIR a Hugging Face directory (what
//! `toolsmith convert` writes). Times are the best of several runs, so that a busy machine disturbs them least;
//! the DRAM rate is taken between them.

use std::{hint::black_box, path::Path, time::Instant};

use rayon::prelude::*;
use toolsmith_models::{
    batch::{Batch, Decode, Objective, TrainBatch},
    config::ModelConfig,
    engine::{Engine, EngineOptions},
    live::TrainingState,
    trainer::{AdamW, Head, Trainer, TrainerOptions},
    weights::{Precision, Weights},
};

/// Seconds of the fastest of `n` runs.
fn best(n: usize, mut f: impl FnMut()) -> f64 {
    (0..n)
        .map(|_| {
            let start = Instant::now();
            f();
            start.elapsed().as_secs_f64()
        })
        .fold(f64::INFINITY, f64::min)
}

/// Bytes a second that all cores read from memory: eight streams a core, since one does not fill its queues.
fn dram() -> f64 {
    let data = vec![1u64; 64 << 20];
    let read = |part: &[u64]| {
        let streams: Vec<&[[u64; 8]]> = part.chunks(part.len() / 8).map(|s| s.as_chunks().0).collect();
        let mut sums = [[0u64; 8]; 8];
        for i in 0..streams[0].len() {
            for (sum, stream) in sums.iter_mut().zip(&streams) {
                (0..8).for_each(|lane| sum[lane] ^= stream[i][lane]);
            }
        }
        black_box(sums);
    };
    let part = data.len() / rayon::current_num_threads();
    (data.len() * 8) as f64 / best(5, || data.par_chunks(part).for_each(read))
}

fn main() {
    let Ok(dir) = std::env::var("TOOLSMITH_MODEL") else {
        println!("set TOOLSMITH_MODEL to a model directory to measure it");
        return;
    };
    let dir = Path::new(&dir);
    let config = ModelConfig::read(&dir.join("config.json")).expect("a model directory");
    let precision = Precision::Bf16;
    let weights = Weights::load(dir, config.param_specs(), precision).expect("weights");
    let view = weights.view();
    let params: usize = config.param_specs().iter().map(|s| s.numel()).sum();
    let id = |i: usize| (i * 7919 % config.vocab_size) as u32;
    println!(
        "{}: {:.1} M parameters, {} threads",
        dir.display(),
        params as f64 / 1e6,
        rayon::current_num_threads()
    );
    let bandwidth = dram();
    println!("memory read               {:8.1} GB/s", bandwidth / 1e9);

    let options = EngineOptions { slots: 32, max_context: 1024, max_batch_tokens: 512, precision };
    let mut engine = Engine::new(&config, options).expect("an engine");
    let mut bound = engine.bind(&view);
    let prompt: Vec<u32> = (0..512).map(id).collect();
    let mut batch = Batch::default();
    batch.push(0, 0, &prompt, true);
    let seconds = best(3, || {
        black_box(bound.forward(&batch).expect("prefill").len());
    });
    println!("prefill 512               {:8.1} tok/s", 512.0 / seconds);
    for slot in 1..32 {
        bound.copy_prefix(0, slot, 512);
    }
    for sequences in [1, 16, 32] {
        let mut past = 512;
        let seconds = best(24, || {
            batch.clear();
            (0..sequences).for_each(|s| batch.push(s, past, &[id(s + past)], true));
            past += 1;
            black_box(bound.forward(&batch).expect("decode").len());
        });
        let wall = bandwidth / (2 * params) as f64;
        let note = if sequences == 1 {
            format!(", {:.0} % of what memory allows", 100.0 / seconds / wall)
        } else {
            String::new()
        };
        println!("decode {sequences:2} at 512+          {:8.1} tok/s{note}", sequences as f64 / seconds);
    }
    drop(engine);

    let temp = tempfile::tempdir().expect("a temporary directory");
    let specs = Head::Policy.specs(&config);
    let mut state =
        TrainingState::create(&temp.path().join("state"), specs, precision, &view).expect("a training copy");
    let options =
        TrainerOptions { max_tokens: 2048, gradient_checkpointing: true, inv_temperature: 1.0, precision };
    let mut trainer = Trainer::new(&config, Head::Policy, &options);
    let tokens: Vec<u32> = (0..2048).map(id).collect();
    let batch = TrainBatch { weights: vec![1.0 / 2048.0; 2048], lens: vec![512; 4], tokens, columns: vec![] };
    let hyper = AdamW { lr: 1e-6, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 };
    let seconds = best(2, || {
        trainer.accumulate(&state.weights(), &batch, &Objective::CrossEntropy).expect("a gradient");
        trainer.step(&mut state, &hyper, 1.0).expect("a step");
    });
    println!("train step 4x512          {:8.1} tok/s", 2048.0 / seconds);
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if let Some(line) = status.lines().find(|l| l.starts_with("VmHWM")) {
        println!("peak memory           {}", line.trim_start_matches("VmHWM:").trim());
    }
}
