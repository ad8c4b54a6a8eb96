//! Numerics contract: a log-probability depends bit for bit on its own prefix and the weights. Sequences, how they are
//! cut, what shares a batch with them and the number of threads are drawn at random; SmolLM2-135M-Instruct (see
//! `common::smollm2`) and models small enough for many cases have to give the same bits each time.
//!
//! `PROPTEST_CASES=N cargo test --release -p toolsmith-models --test invariance` draws N cases of the real model.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::test_runner::{TestError, TestRunner};
use toolsmith_graphs::cpu;
use toolsmith_models::{
    batch::{Batch, Decode, Objective},
    config::ModelConfig,
    convert::ModelSource,
    engine::{Engine, EngineOptions},
    fetch,
    tokenizer::Specials,
    trainer::{Activations, Head, Trainer, TrainerOptions},
    weights::{Precision, Weights},
};

mod common;

use common::packed;

/// A model, and text for it.
struct Subject {
    config: ModelConfig,
    weights: Weights,
    precision: Precision,
    text: Vec<u32>,
}

/// What is drawn.
#[derive(Clone, Debug)]
struct Case {
    /// Tokens of the prompt that all sequences begin with, prefilled once where they are sampled.
    shared: usize,
    /// What follows it, each a place of the text and a length.
    sequences: Vec<(prop::sample::Index, usize)>,
    /// Lengths of the spans that sequences are fed in, one after the other, over and over.
    spans: Vec<usize>,
    /// Whether a sequence whose turn it is waits, one after the other, then never.
    waits: Vec<bool>,
    /// Threads of the kernels.
    threads: usize,
    /// Sequences of a micro-batch.
    micro_batch: usize,
    /// Recompute activations in the backward pass.
    checkpointing: bool,
}

fn cases(longest: usize) -> impl Strategy<Value = Case> {
    let sequence = (any::<prop::sample::Index>(), 2..=longest);
    // Single tokens as in decoding, a few as in feedback, many as in prefill.
    let span = prop_oneof![3 => Just(1), 2 => 2..=9usize, 2 => 10..=longest];
    (
        0..=longest / 2,
        prop::collection::vec(sequence, 1..=5),
        prop::collection::vec(span, 1..=7),
        prop::collection::vec(prop::bool::weighted(0.3), 0..=60),
        1..=5usize,
        1..=3usize,
        any::<bool>(),
    )
        .prop_map(|(shared, sequences, spans, waits, threads, micro_batch, checkpointing)| Case {
            shared,
            sequences,
            spans,
            waits,
            threads,
            micro_batch,
            checkpointing,
        })
}

impl Case {
    fn tokens(&self, text: &[u32]) -> Vec<Vec<u32>> {
        let sequence = |(at, len): &(prop::sample::Index, usize)| {
            let start = at.index(text.len() - len);
            [&text[..self.shared], &text[start..start + len]].concat()
        };
        self.sequences.iter().map(sequence).collect()
    }
}

fn in_pool<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
}

impl Subject {
    fn trainer(&self, max_tokens: usize, recompute: bool) -> Trainer {
        let options = TrainerOptions {
            max_tokens,
            activations: if recompute { Activations::Recompute } else { Activations::Keep },
            inv_temperature: 1.0,
            precision: self.precision,
        };
        Trainer::new(&self.config, Head::Policy, &options)
    }

    /// The reference: every sequence alone, on one thread; log-probabilities of its tokens.
    fn alone(&self, sequences: &[Vec<u32>]) -> Vec<Vec<f32>> {
        let longest = sequences.iter().map(Vec::len).max().unwrap_or_default();
        let mut trainer = self.trainer(longest, false);
        let weights = self.weights.view();
        let one =
            |s: &Vec<u32>| trainer.forward(&weights, &packed(std::slice::from_ref(s))).unwrap().to_vec();
        sequences.iter().map(one).collect()
    }

    /// The sampler's log-probabilities wherever the case asks for logits: `(sequence, token, log-probability)`.
    fn sampled(&self, case: &Case, sequences: &[Vec<u32>]) -> Vec<(usize, usize, f32)> {
        let n = sequences.len();
        let total = sequences.iter().map(Vec::len).sum();
        let max_context = sequences.iter().map(Vec::len).max().unwrap_or_default();
        let options = EngineOptions {
            slots: n,
            max_context,
            max_batch_tokens: total,
            kv_memory: None,
            precision: self.precision,
        };
        let mut engine = Engine::new(&self.config, options).unwrap();
        let view = self.weights.view();
        let mut bound = engine.bind(&view);
        let mut spans = case.spans.iter().cycle();
        let mut waits = case.waits.iter();
        let (mut past, mut found) = (vec![case.shared; n], vec![]);
        if case.shared > 0 {
            let mut prompt = Batch::default();
            prompt.push(n - 1, 0, &sequences[0][..case.shared], false);
            bound.forward(&prompt).unwrap();
            (0..n - 1).for_each(|slot| bound.kv().share(n - 1, slot, case.shared));
        }
        // The last token of a sequence is predicted, never fed.
        while (0..n).any(|i| past[i] + 1 < sequences[i].len()) {
            let mut batch = Batch::default();
            let mut asked = vec![];
            for i in 0..n {
                let left = sequences[i].len() - 1 - past[i];
                if left == 0 || waits.next() == Some(&true) {
                    continue;
                }
                let len = left.min(*spans.next().expect("a cycle"));
                batch.push(n - 1 - i, past[i], &sequences[i][past[i]..past[i] + len], true);
                past[i] += len;
                asked.push((i, past[i]));
            }
            if asked.is_empty() {
                continue;
            }
            let logits = bound.forward(&batch).unwrap();
            for (&(i, at), row) in asked.iter().zip(logits.chunks_exact(self.config.vocab_size)) {
                found.push((i, at, cpu::token_logprob_of(row, sequences[i][at], 1.0)));
            }
        }
        found
    }

    /// Log-probabilities from the training pass, and the gradients after all micro-batches.
    fn trained(
        &self,
        sequences: &[Vec<u32>],
        micro_batch: usize,
        checkpointing: bool,
    ) -> (Vec<f32>, Trainer) {
        let mut trainer = self.trainer(sequences.iter().map(Vec::len).sum(), checkpointing);
        let mut outputs = vec![];
        for batch in sequences.chunks(micro_batch) {
            let all = trainer.accumulate(&self.weights.view(), &packed(batch), &Objective::CrossEntropy);
            outputs.extend(all.unwrap().outputs);
        }
        (outputs, trainer)
    }

    fn holds(&self, case: &Case) -> Result<(), TestCaseError> {
        let sequences = case.tokens(&self.text);
        let alone = in_pool(1, || self.alone(&sequences));
        let (forward, sampled) = in_pool(case.threads, || {
            let total = sequences.iter().map(Vec::len).sum();
            let mut trainer = self.trainer(total, false);
            let forward = trainer.forward(&self.weights.view(), &packed(&sequences)).unwrap().to_vec();
            (forward, self.sampled(case, &sequences))
        });
        prop_assert!(alone.iter().flatten().all(|l| l.is_finite() && *l <= 0.0));
        prop_assert!(forward == alone.concat(), "packing or threads changed bits");
        for (i, at, logprob) in sampled {
            prop_assert_eq!(logprob, alone[i][at], "token {} of sequence {} as the sampler has it", at, i);
        }
        let (plain, one) = in_pool(1, || self.trained(&sequences, case.micro_batch, false));
        let (outputs, other) =
            in_pool(case.threads, || self.trained(&sequences, case.micro_batch, case.checkpointing));
        prop_assert!(plain == alone.concat(), "the pass that trains gives other outputs");
        prop_assert!(outputs == plain, "threads or recomputing changed outputs");
        for (i, spec) in one.specs().iter().enumerate() {
            prop_assert!(one.gradient(i) == other.gradient(i), "the gradient of {} changed", spec.name);
            prop_assert!(one.gradient(i).iter().any(|g| *g != 0.0), "{} has no gradient", spec.name);
        }
        Ok(())
    }

    fn check(&self, cases_of: impl Strategy<Value = Case>, cases: u32) {
        let config = ProptestConfig {
            cases,
            failure_persistence: None,
            max_shrink_iters: 40,
            ..ProptestConfig::default()
        };
        match TestRunner::new(config).run(&cases_of, |case| self.holds(&case)) {
            Ok(()) => {}
            Err(TestError::Fail(reason, case)) => panic!("{reason}: {case:?}"),
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn small_models_give_the_same_bits_however_they_run() {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tiny");
    let mut dirs: Vec<PathBuf> = tiny.read_dir().unwrap().map(|e| e.unwrap().path()).collect();
    dirs.sort();
    assert_eq!(dirs.len(), 6);
    for dir in dirs {
        for precision in [Precision::Bf16, Precision::F32] {
            let config = ModelConfig::read(&dir).unwrap();
            let weights = Weights::load(&dir, config.param_specs(), precision).unwrap();
            let text = (0..400).map(|i| (i * 31 + i * i * 7) % config.vocab_size as u32).collect();
            Subject { config, weights, precision, text }.check(cases(80), 12);
        }
    }
}

fn real(precision: Precision) {
    let Some(path) = common::smollm2() else { return };
    let model = ModelSource::open(&path, &fetch::default_cache()).unwrap();
    let text = model.tokenizer.encode(include_str!("../../README.md"), Specials::Plain).unwrap();
    let weights = model.weights(precision).unwrap();
    let cases_of = cases(128);
    let drawn = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(3);
    Subject { config: model.config, weights, precision, text }.check(cases_of, drawn);
}

#[test]
fn a_real_model_gives_the_same_bits_however_it_runs() {
    real(Precision::Bf16);
}

#[test]
fn in_f32_too() {
    real(Precision::F32);
}
