//! A small model's batch is trained in parts, on any number of threads with the same bits.

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Tiny, floats, packed, tiny_config};
use toolsmith_graphs::{Params, cpu::Mat};
use toolsmith_models::{
    Error,
    batch::{Objective, TrainBatch},
    trainer::{Activations, AdamW, Head, Trainer},
    weights::Precision,
};

fn small(precision: Precision) -> Tiny {
    Tiny::new(tiny_config("qwen3", true, [61, 32, 48], [2, 1]), Head::Policy, precision, Some(1.0))
}

fn trainer(small: &Tiny) -> Trainer {
    small.trainer(2048, Activations::Keep, 1.0)
}

fn sequence(n: usize, seed: usize) -> Vec<u32> {
    (0..n).map(|i| ((i * 31 + seed * 17 + i * i * 7) % 61) as u32).collect()
}

/// `samples` of each of `prompts` prompts, one behind the other, what follows the prompt scored.
fn groups(prompts: usize, samples: usize, prompt: usize, sample: usize) -> TrainBatch {
    let of = |i: usize| [sequence(prompt, i / samples), sequence(sample, 7 * i + 1)].concat();
    let mut batch = packed(&(0..prompts * samples).map(of).collect::<Vec<_>>());
    for (i, weight) in batch.weights.iter_mut().enumerate() {
        *weight *= f32::from(u8::from(i % (prompt + sample) >= prompt));
    }
    batch
}

/// Batches that are parted: evenly, unevenly, with a sequence that only the first stream has room for.
fn batches() -> Vec<TrainBatch> {
    let even: Vec<_> = (0..40).map(|i| sequence(20 + i, i)).collect();
    let uneven: Vec<_> = [700, 3, 500, 40, 1, 300, 200].iter().map(|&n| sequence(n, n)).collect();
    let late = vec![sequence(30, 1), sequence(1500, 2), sequence(200, 3)];
    // The same sequence over and over: far more tokens to score than rows to run.
    let same = vec![sequence(60, 1); 30];
    let mut batches: Vec<_> = [even, uneven, late, same].iter().map(|sequences| packed(sequences)).collect();
    batches.extend([groups(12, 6, 21, 6), groups(1, 12, 400, 20), groups(3, 4, 300, 30)]);
    batches
}

#[test]
fn no_bit_depends_on_the_threads() {
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut small = small(Precision::Bf16);
            let mut trainer = trainer(&small);
            let mut seen = vec![];
            for batch in batches() {
                let weights = small.state.weights();
                let out = trainer.accumulate(&weights, &batch, &Objective::CrossEntropy).unwrap();
                seen.push((out.loss, out.outputs.to_vec()));
                seen.extend((0..trainer.specs().len()).map(|i| (0.0, trainer.gradient(i))));
                let hyper = AdamW { lr: 0.1, beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.0 };
                let norm = trainer.step(&mut small.state, &hyper, 1.0).unwrap();
                seen.push((f64::from(norm), vec![]));
            }
            let weights = small.state.weights();
            let bits = |i| match weights.get(i) {
                Mat::Bf16(w) => w.iter().map(|x| x.to_bits()).collect::<Vec<u16>>(),
                Mat::F32(_) => panic!("weights are bf16"),
            };
            (seen, (0..trainer.specs().len()).map(bits).collect::<Vec<_>>())
        })
    };
    let one = run(1);
    assert!(one.0.iter().all(|(x, v)| x.is_finite() && v.iter().all(|y| y.is_finite())));
    for threads in 2..=5 {
        assert!(run(threads) == one, "{threads} threads");
    }
}

#[test]
fn parts_come_to_what_the_sequences_come_to_alone() {
    let small = small(Precision::F32);
    let weights = small.state.weights();
    for batch in batches() {
        let (mut together, mut alone) = (trainer(&small), trainer(&small));
        let out = together.accumulate(&weights, &batch, &Objective::CrossEntropy).unwrap();
        let (loss, outputs) = (out.loss, out.outputs.to_vec());
        let (mut total, mut start) = (0.0, 0);
        for &len in &batch.lens {
            let own = start..start + len;
            let one = TrainBatch {
                tokens: batch.tokens[own.clone()].to_vec(),
                lens: vec![len],
                weights: batch.weights[own.clone()].to_vec(),
                columns: vec![],
            };
            let out = alone.accumulate(&weights, &one, &Objective::CrossEntropy).unwrap();
            assert_eq!(out.outputs, &outputs[own]);
            total += out.loss;
            start += len;
        }
        assert!((loss - total).abs() < 1e-5 * total.abs(), "{loss} {total}");
        for (i, spec) in together.specs().iter().enumerate() {
            let (sum, own) = (together.gradient(i), alone.gradient(i));
            let size = own.iter().fold(0.0, |a: f32, x| a.max(x.abs()));
            assert!(size > 0.0, "{} has no gradient", spec.name);
            let far = sum.iter().zip(&own).fold(0.0, |a: f32, (x, y)| a.max((x - y).abs()));
            // Only the order of sums differs.
            assert!(far <= 1e-4 * size, "{}: {far} of {size}", spec.name);
        }
    }
}

/// Cutting a batch costs few of the rows that samples of a prompt save.
#[test]
fn samples_of_a_prompt_stay_together() {
    let small = small(Precision::F32);
    let (mut trainer, weights) = (trainer(&small), small.state.weights());
    let mut rows = |batch| {
        trainer
            .forward(&weights, &batch)
            .map(|_| ())
            .and_then(|()| Ok(trainer.accumulate(&weights, &batch, &Objective::CrossEntropy)?.rows))
    };
    // Each without its last token. Of so short prompts each is run once.
    assert_eq!(rows(groups(12, 6, 21, 6)).unwrap(), 12 * (26 + 5 * 5));
    assert_eq!(rows(groups(3, 4, 300, 30)).unwrap(), 3 * (329 + 3 * 29));
    // A stream has room for 512 rows, one alone for all of them.
    assert_eq!(rows(groups(1, 12, 400, 20)).unwrap(), 419 + 11 * 19);
}

/// Weights of which one reading finds nothing, as if a file had been cut short for a moment.
struct Broken<'a> {
    weights: &'a dyn Params,
    reads: AtomicUsize,
    broken: usize,
}

impl Params for Broken<'_> {
    fn get(&self, index: usize) -> Mat<'_> {
        match self.reads.fetch_add(1, Ordering::Relaxed) == self.broken {
            true => Mat::F32(&[]),
            false => self.weights.get(index),
        }
    }
}

/// A batch that fails when parts of it have been through leaves nothing to the next step.
#[test]
fn a_step_after_a_failure_is_as_if_it_had_not_been() {
    let even: Vec<_> = (0..40).map(|i| sequence(20 + i, i)).collect();
    let part = packed(&even[..1]);
    // In one stream and in several.
    for batch in [packed(&even[..15]), packed(&even)] {
        let after = |fails: bool| {
            let mut small = small(Precision::F32);
            let (mut trainer, weights) = (trainer(&small), small.state.weights());
            if fails {
                let mut accumulate = |batch: &TrainBatch, broken: usize| {
                    let weights = Broken { weights: &weights, reads: AtomicUsize::new(0), broken };
                    let result = trainer.accumulate(&weights, batch, &Objective::CrossEntropy).map(|_| ());
                    (result, weights.reads.into_inner())
                };
                let (fine, reads) = accumulate(&part, usize::MAX);
                fine.unwrap();
                // As many in the batch's first part; the next is a look at the weights before the second.
                let (failed, all) = accumulate(&batch, reads);
                assert!(matches!(failed, Err(Error::Graph(_))), "{failed:?}");
                assert!(all > reads, "{all} {reads}");
                assert!((0..trainer.specs().len()).all(|i| trainer.gradient(i).iter().all(|&x| x == 0.0)));
            }
            trainer.accumulate(&weights, &batch, &Objective::CrossEntropy).unwrap();
            let hyper = AdamW { lr: 0.1, beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.0 };
            trainer.step(&mut small.state, &hyper, 1.0).unwrap();
            (0..trainer.specs().len()).map(|i| floats(small.state.weights().get(i))).collect::<Vec<_>>()
        };
        // On one thread the reads come in order.
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert!(pool.install(|| after(true)) == pool.install(|| after(false)));
    }
}

#[test]
fn a_token_outside_the_vocabulary_is_named() {
    let small = small(Precision::F32);
    let (mut trainer, weights) = (trainer(&small), small.state.weights());
    let mut batch = packed(&[sequence(30, 1), sequence(9, 2)]);
    batch.tokens[38] = 61;
    let failed = [
        trainer.accumulate(&weights, &batch, &Objective::CrossEntropy).map(|_| ()),
        trainer.forward(&weights, &batch).map(|_| ()),
    ];
    for result in failed {
        let message = result.unwrap_err().to_string();
        assert_eq!(message, "batch: token id 61 is not below 61, the size of the vocabulary");
    }
}
