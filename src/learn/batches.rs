//! From trajectories to micro-batches: which tokens the loss sees, how much each weighs, how they are packed.
//!
//! A weight is the mask divided by a denominator of the whole mini-batch, so the gradient of a mini-batch is the
//! sum of its micro-batches' however it is cut. Nothing is padded and no sequence is split.

use toolsmith_models::batch::TrainBatch;

use crate::config::Aggregation;

/// One sequence with what the objective wants to know of its tokens.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sequence {
    /// Token ids `[tokens]`.
    pub tokens: Vec<u32>,
    /// Tokens that are in the loss `[tokens]`; never the first, which nothing predicts.
    pub mask: Vec<bool>,
    /// The objective's columns, each `[tokens]`.
    pub columns: Vec<Vec<f32>>,
}

impl Sequence {
    /// A sequence without columns; the first token is taken out of the mask.
    pub fn new(tokens: Vec<u32>, mut mask: Vec<bool>) -> Self {
        if let Some(first) = mask.first_mut() {
            *first = false;
        }
        Self { tokens, mask, columns: Vec::new() }
    }
}

/// Weight of each token `[sequences][tokens]` under an aggregation over these sequences, one mini-batch.
///
/// Sequences without a token in the mask (truncated ones that were masked out) count in no denominator.
/// `max_completion_length` is the constant of [`Aggregation::SeqMeanTokenSumNorm`].
pub fn loss_weights(
    masks: &[&[bool]],
    aggregation: Aggregation,
    max_completion_length: usize,
) -> Vec<Vec<f64>> {
    let counts: Vec<usize> = masks.iter().map(|mask| mask.iter().filter(|m| **m).count()).collect();
    let tokens = counts.iter().sum::<usize>() as f64;
    let sequences = counts.iter().filter(|n| **n > 0).count() as f64;
    let weight = |count: usize| match aggregation {
        Aggregation::TokenMean => 1.0 / tokens,
        Aggregation::SeqMeanTokenMean => 1.0 / (sequences * count as f64),
        Aggregation::SeqMeanTokenSum => 1.0 / sequences,
        Aggregation::SeqMeanTokenSumNorm => 1.0 / (sequences * max_completion_length as f64),
    };
    let row = |(mask, count): (&&[bool], &usize)| {
        mask.iter().map(|&m| if m { weight(*count) } else { 0.0 }).collect()
    };
    masks.iter().zip(&counts).map(row).collect()
}

/// Micro-batches of at most `micro_batch_tokens` tokens, in the order given; a longer sequence stands alone.
///
/// With each comes the index of every sequence in it. Sequences without a token in the loss are left out.
/// All sequences must have the same number of columns.
pub fn pack(
    sequences: &[&Sequence],
    aggregation: Aggregation,
    max_completion_length: usize,
    micro_batch_tokens: usize,
) -> Vec<(TrainBatch, Vec<usize>)> {
    let masks: Vec<&[bool]> = sequences.iter().map(|s| s.mask.as_slice()).collect();
    let weights = loss_weights(&masks, aggregation, max_completion_length);
    let mut out: Vec<(TrainBatch, Vec<usize>)> = Vec::new();
    for (i, (sequence, weights)) in sequences.iter().zip(&weights).enumerate() {
        if !sequence.mask.contains(&true) {
            continue;
        }
        let fits = |batch: &TrainBatch| batch.tokens.len() + sequence.tokens.len() <= micro_batch_tokens;
        if !out.last().is_some_and(|(batch, _)| fits(batch)) {
            let columns = vec![Vec::new(); sequence.columns.len()];
            out.push((TrainBatch { columns, ..Default::default() }, Vec::new()));
        }
        let (batch, members) = out.last_mut().expect("one was just made");
        members.push(i);
        batch.tokens.extend_from_slice(&sequence.tokens);
        batch.lens.push(sequence.tokens.len());
        batch.weights.extend(weights.iter().map(|&w| w as f32));
        for (column, values) in batch.columns.iter_mut().zip(&sequence.columns) {
            column.extend_from_slice(values);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    const ALL: [Aggregation; 4] = [
        Aggregation::TokenMean,
        Aggregation::SeqMeanTokenMean,
        Aggregation::SeqMeanTokenSum,
        Aggregation::SeqMeanTokenSumNorm,
    ];

    /// Token losses under the clipped objective, to weigh with.
    fn policy_losses(case: &Value) -> (Vec<Vec<bool>>, Vec<Vec<f64>>) {
        let grid = |name: &str| -> Vec<Vec<f64>> { serde_json::from_value(case[name].clone()).unwrap() };
        let (new, old, advantages) = (grid("logprobs"), grid("old_logprobs"), grid("whitened"));
        let number = |name: &str| case[name].as_f64();
        let (low, high) = (1.0 - number("clip_low").unwrap(), 1.0 + number("clip_high").unwrap());
        let loss = |n: f64, o: f64, a: f64| {
            let ratio = (n - o).exp();
            let loss = (-a * ratio).max(-a * ratio.clamp(low, high));
            number("dual_clip").filter(|_| a < 0.0).map_or(loss, |c| loss.min(-a * c))
        };
        let row =
            |b: usize| (0..new[b].len()).map(|t| loss(new[b][t], old[b][t], advantages[b][t])).collect();
        let masks = grid("mask").iter().map(|r| r.iter().map(|m| *m != 0.0).collect()).collect();
        (masks, (0..new.len()).map(row).collect())
    }

    #[test]
    fn weights_reproduce_the_reference_aggregations() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/rl/ppo_interior.json");
        let cases: Vec<Value> = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        for case in &cases {
            let (masks, losses) = policy_losses(case);
            let masks: Vec<&[bool]> = masks.iter().map(Vec::as_slice).collect();
            for aggregation in ALL {
                let name = serde_json::to_value(aggregation).unwrap();
                let Some(expected) = case["policy"][name.as_str().unwrap()]["loss"].as_f64() else {
                    assert_eq!(aggregation, Aggregation::SeqMeanTokenSumNorm);
                    continue;
                };
                let weights = loss_weights(&masks, aggregation, 14);
                let loss: f64 =
                    weights.iter().flatten().zip(losses.iter().flatten()).map(|(w, l)| w * l).sum();
                assert!((loss - expected).abs() < 1e-6, "{name}: {loss} is not {expected}");
            }
        }
    }

    #[test]
    fn the_four_denominators() {
        let masks: [&[bool]; 3] = [&[false, true, true, true], &[false, true], &[false, false]];
        let sums = |aggregation| -> Vec<f64> {
            loss_weights(&masks, aggregation, 10).iter().map(|row| row.iter().sum()).collect()
        };
        assert_eq!(sums(Aggregation::TokenMean), [0.75, 0.25, 0.0]);
        assert_eq!(sums(Aggregation::SeqMeanTokenMean), [0.5, 0.5, 0.0]);
        assert_eq!(sums(Aggregation::SeqMeanTokenSum), [1.5, 0.5, 0.0]);
        let norm = sums(Aggregation::SeqMeanTokenSumNorm);
        assert!((norm[0] - 0.15).abs() < 1e-12 && (norm[1] - 0.05).abs() < 1e-12);
    }

    #[test]
    fn a_sequence_longer_than_a_micro_batch_stands_alone() {
        let sequence = |n: usize| Sequence::new(vec![7; n], vec![true; n]);
        let (a, b, c, empty) =
            (sequence(3), sequence(9), sequence(2), Sequence::new(vec![1, 2], vec![false; 2]));
        let packed = pack(&[&a, &b, &empty, &c], Aggregation::TokenMean, 1, 5);
        let lens: Vec<_> =
            packed.iter().map(|(batch, members)| (batch.lens.clone(), members.clone())).collect();
        assert_eq!(lens, [(vec![3], vec![0]), (vec![9], vec![1]), (vec![2], vec![3])]);
        assert!(packed.iter().all(|(batch, _)| batch.weights[0] == 0.0), "nothing predicts a first token");
    }

    proptest! {
        /// Cutting changes where a token is, never its weight or its columns: the union is the mini-batch.
        #[test]
        fn the_cut_changes_nothing_but_the_cut(
            shapes in prop::collection::vec(prop::collection::vec((any::<bool>(), 0..50u32), 1..12), 1..12),
            budget in 1..40usize,
            which in 0..4usize,
        ) {
            let sequences: Vec<Sequence> = shapes.iter().map(|tokens| {
                let mut s = Sequence::new(tokens.iter().map(|t| t.1).collect(), tokens.iter().map(|t| t.0).collect());
                s.columns = vec![s.tokens.iter().map(|t| *t as f32 * 0.5).collect()];
                s
            }).collect();
            let sequences: Vec<&Sequence> = sequences.iter().collect();
            let whole = pack(&sequences, ALL[which], 8, usize::MAX);
            let cut = pack(&sequences, ALL[which], 8, budget);
            prop_assert!(cut.iter().all(|(b, _)| b.tokens.len() <= budget || b.lens.len() == 1));
            prop_assert!(cut.iter().all(|(b, _)| b.lens.iter().sum::<usize>() == b.tokens.len()));
            let flat = |packed: &[(TrainBatch, Vec<usize>)]| {
                let mut all = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
                for (b, members) in packed {
                    all.0.extend_from_slice(&b.tokens);
                    all.1.extend(b.weights.iter().map(|w| w.to_bits()));
                    all.2.extend(b.columns[0].iter().map(|x| x.to_bits()));
                    all.3.extend_from_slice(members);
                }
                all
            };
            prop_assert_eq!(flat(&whole), flat(&cut));
        }
    }
}
