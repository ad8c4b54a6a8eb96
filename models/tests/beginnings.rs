//! Sequences of a batch that begin alike share what they have in common: fewer rows, the same outputs bit for bit, the same
//! gradients but for the order of sums.

use std::path::{Path, PathBuf};

mod common;

use common::Tiny;
use toolsmith_models::{
    batch::{Objective, PolicyLoss, TrainBatch},
    config::ModelConfig,
    trainer::{Activations, Head, Trainer},
    weights::Precision,
};

/// `n` tokens below 90, others for each `seed`.
fn text(n: usize, seed: usize) -> Vec<u32> {
    (0..n).map(|i| ((i * 31 + seed * 17 + i * i * (7 + seed)) % 89) as u32).collect()
}

/// A sequence whose tokens from `from` on are scored.
struct Sequence(Vec<u32>, usize);

impl Sequence {
    fn new(parts: &[&[u32]], from: usize) -> Self {
        Sequence(parts.concat(), from)
    }
}

/// The sequences in one batch, columns and weights from their places; `skip` is the place of the first.
fn batch(sequences: &[Sequence], skip: usize) -> TrainBatch {
    let mut batch = TrainBatch { columns: vec![vec![], vec![]], ..TrainBatch::default() };
    for (i, Sequence(tokens, from)) in sequences.iter().enumerate() {
        let i = i + skip;
        batch.tokens.extend(tokens);
        batch.lens.push(tokens.len());
        for t in 0..tokens.len() {
            let scored = t >= (*from).max(1) && (t + i) % 5 != 4;
            batch.weights.push(if scored { 0.01 + 0.002 * i as f32 } else { 0.0 });
            batch.columns[0].push(-1.0 - 0.1 * ((t + i) % 7) as f32);
            batch.columns[1].push(((3 * t + i) % 5) as f32 - 1.8);
        }
    }
    batch
}

/// Samples of two prompts with a system prompt in common, with every kind of end, and sequences that share too little.
fn sequences() -> Vec<Sequence> {
    let (system, a, b, c) = (&text(9, 1)[..], &text(80, 2)[..], &text(20, 3)[..], &text(12, 4)[..]);
    let part = |n, seed| text(n, seed);
    vec![
        Sequence::new(&[system, a, &part(30, 5)], 60),
        // Longer than the root, and parts from it behind a block's end.
        Sequence::new(&[system, a, &part(50, 6)], 89),
        // Equal to the root; scored from the first token on.
        Sequence::new(&[system, a, &part(30, 5)], 0),
        // The beginning of the root, scored inside of it.
        Sequence::new(&[system, &a[..40]], 5),
        // Parts inside the prompt.
        Sequence::new(&[system, &a[..10], &part(70, 7)], 3),
        Sequence::new(&[system, b, &part(5, 8)], 29),
        Sequence::new(&[system, b, &part(6, 9)], 29),
        Sequence::new(&[c, &part(9, 10)], 4),
        // Seven tokens in common.
        Sequence::new(&[&c[..7], &part(9, 11)], 4),
        // Nothing scored.
        Sequence::new(&[c, &part(3, 12)], 100),
    ]
}

fn trainer(model: &Tiny) -> Trainer {
    model.trainer(700, Activations::Keep, 1.0)
}

fn objective(head: Head) -> Objective {
    match head {
        Head::Policy => Objective::Policy(PolicyLoss {
            clip_range_low: 0.2,
            clip_range_high: 0.3,
            dual_clip: None,
            kl_coef: 0.0,
        }),
        Head::Value => Objective::Value { clip_range: None },
    }
}

/// The six small architectures with random weights, both heads, in both precisions.
fn models() -> impl Iterator<Item = Tiny> {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tiny");
    let mut dirs: Vec<PathBuf> = tiny.read_dir().unwrap().map(|e| e.unwrap().path()).collect();
    dirs.sort();
    assert_eq!(dirs.len(), 6);
    let kinds = [Head::Policy, Head::Value]
        .into_iter()
        .flat_map(|head| [Precision::Bf16, Precision::F32].map(|precision| (head, precision)));
    let all = dirs.into_iter().flat_map(move |dir| kinds.clone().map(move |kind| (dir.clone(), kind)));
    all.map(|(dir, (head, precision))| {
        // In wider ranges the gradient of a key's bias, which softmax cancels, is little but rounding.
        Tiny::new(ModelConfig::read(&dir).unwrap(), head, precision, Some(0.5))
    })
}

fn in_pool<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
}

/// Outputs, gradients, loss and rows of some batches.
fn accumulated(model: &Tiny, batches: &[TrainBatch]) -> (Vec<f32>, Vec<Vec<f32>>, f64, usize) {
    let (mut trainer, weights) = (trainer(model), model.state.weights());
    let (mut outputs, mut loss, mut rows) = (vec![], 0.0, 0);
    for batch in batches {
        let out = trainer.accumulate(&weights, batch, &objective(model.head)).unwrap();
        outputs.extend(out.outputs);
        (loss, rows) = (loss + out.loss, rows + out.rows);
    }
    let grads = (0..trainer.specs().len()).map(|i| trainer.gradient(i).to_vec()).collect();
    (outputs, grads, loss, rows)
}

#[test]
fn sharing_saves_rows_and_changes_no_output() {
    for model in models() {
        let what = format!("{:?} {:?} {:?}", model.config.architecture, model.head, model.state.precision());
        let sequences = sequences();
        let shared = batch(&sequences, 0);
        let alone: Vec<TrainBatch> = (0..sequences.len())
            .map(|i| batch(&sequences[i..i + 1], i))
            .filter(|b| b.weights.iter().any(|w| *w != 0.0))
            .collect();
        let (outputs, expected, loss, _) = in_pool(1, || accumulated(&model, &alone));
        let (found, grads, shared_loss, _) =
            in_pool(1, || accumulated(&model, std::slice::from_ref(&shared)));
        // The last sequence was left out.
        assert!(found[..outputs.len()] == outputs, "{what}: outputs");
        assert!((loss - shared_loss).abs() < 1e-5 * loss.abs().max(1.0), "{what}: {loss} {shared_loss}");
        let mut trainer = trainer(&model);
        let scores = trainer.forward(&model.state.weights(), &shared).unwrap();
        assert!(scores == found, "{what}: the pass that only scores");
        let tolerance = if model.state.precision() == Precision::F32 { 1e-5 } else { 2e-2 };
        for (i, (a, b)) in expected.iter().zip(&grads).enumerate() {
            let name = &trainer.specs()[i].name;
            let norm = |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
            let off = norm(&mut a.iter().zip(b).map(|(a, b)| a - b));
            let size = norm(&mut a.iter().copied());
            assert!(
                size > 0.0 && off < tolerance * size,
                "{what}: the gradient of {name} is {off} of {size} off"
            );
        }
        let three = in_pool(3, || accumulated(&model, std::slice::from_ref(&shared)));
        assert!(three.0 == found && three.1 == grads, "{what}: threads changed bits");
    }
}

/// Rows of a batch with every token but the first of each sequence scored.
fn rows(sequences: &[Vec<u32>]) -> usize {
    let model = models().next().unwrap();
    let tokens = sequences.concat();
    let mut batch = TrainBatch {
        weights: vec![0.01; tokens.len()],
        lens: sequences.iter().map(Vec::len).collect(),
        columns: vec![vec![0.0; tokens.len()]; 2],
        tokens,
    };
    let mut start = 0;
    for len in &batch.lens {
        batch.weights[start] = 0.0;
        start += len;
    }
    accumulated(&model, &[batch]).3
}

#[test]
fn the_fewest_rows_are_run() {
    let join = |parts: &[&[u32]]| parts.concat();
    let (system, a, b) = (&text(10, 1)[..], &text(30, 2)[..], &text(40, 3)[..]);
    let sample = |prompt: &[u32], seed| join(&[system, prompt, &text(5, seed)]);
    // Each without its last token: a whole sequence, then what comes after the prompt.
    assert_eq!(rows(&[sample(a, 4), sample(a, 5), sample(a, 6)]), 44 + 4 + 4);
    // A single sample of another prompt has the system prompt in common; two are better off with their own.
    assert_eq!(rows(&[sample(a, 4), sample(a, 5), sample(b, 6)]), 44 + 4 + 44);
    assert_eq!(rows(&[sample(a, 4), sample(a, 5), sample(b, 6), sample(b, 7)]), 44 + 4 + 54 + 4);
    // The same sequence again takes no row, nor does its beginning.
    assert_eq!(rows(&[sample(a, 4), sample(a, 4), sample(a, 4)[..30].to_vec()]), 44);
    // What parts the samples of a prompt, or too little in common, shares nothing.
    assert_eq!(rows(&[sample(a, 4), text(12, 9), sample(a, 5)]), 44 + 11 + 44);
    assert_eq!(rows(&[join(&[&a[..7], b]), join(&[&a[..7], &text(20, 9)])]), 46 + 26);
    assert_eq!(rows(&[join(&[&a[..8], b]), join(&[&a[..8], &text(20, 9)])]), 47 + 19);
}

#[test]
fn what_is_run_and_what_is_scored_have_to_fit() {
    let model = models().next().unwrap();
    let long = Sequence::new(&[&text(400, 1)], 0);
    let again = |n| (0..n).map(|_| Sequence(long.0.clone(), long.1)).collect::<Vec<_>>();
    // 1,200 tokens, but 399 rows; 320 scored tokens each.
    let mut trainer = trainer(&model);
    let weights = model.state.weights();
    assert_eq!(trainer.accumulate(&weights, &batch(&again(2), 0), &objective(model.head)).unwrap().rows, 399);
    let error = trainer.forward(&weights, &batch(&again(3), 0)).unwrap_err();
    assert_eq!(error.to_string(), "batch: a batch of 957 scored tokens exceeds the trainer's 700");
}
