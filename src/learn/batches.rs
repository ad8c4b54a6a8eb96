//! From trajectories to micro-batches: which tokens the loss sees, how much each weighs, how they are packed.
//!
//! A weight is the mask divided by a denominator of the whole mini-batch, so the gradient of a mini-batch is the
//! sum of its micro-batches' however it is cut. Nothing is padded and no sequence is split, nor, if it can be helped, the
//! samples of a prompt, which a trainer runs once for all of them that share a micro-batch.

use toolsmith_models::batch::{TrainBatch, alike};

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

/// What a trainer runs of a sequence.
struct Run<'a> {
    /// Its index.
    index: usize,
    /// The tokens before its last scored one.
    tokens: &'a [u32],
    /// Its scored tokens.
    scored: usize,
}

impl<'a> Run<'a> {
    /// `None` if no token is scored.
    fn of((index, sequence): (usize, &&'a Sequence)) -> Option<Self> {
        let last = sequence.mask.iter().rposition(|&m| m)?;
        let scored = sequence.mask.iter().filter(|m| **m).count();
        Some(Self { index, tokens: &sequence.tokens[..last], scored })
    }
}

/// Micro-batches in the order given, each with the index of every sequence in it. At most `micro_batch_tokens` tokens are run
/// and as many scored; a longer sequence stands alone.
///
/// Sequences one behind the other that begin alike are parted only where they don't fit a micro-batch together: what they
/// have in common is run, and counted, once. Sequences without a token in the loss are left out. All must have the same
/// number of columns.
pub fn pack(
    sequences: &[&Sequence],
    aggregation: Aggregation,
    max_completion_length: usize,
    micro_batch_tokens: usize,
) -> Vec<(TrainBatch, Vec<usize>)> {
    let masks: Vec<&[bool]> = sequences.iter().map(|s| s.mask.as_slice()).collect();
    let weights = loss_weights(&masks, aggregation, max_completion_length);
    let runs: Vec<Run> = sequences.iter().enumerate().filter_map(Run::of).collect();
    let mut out: Vec<(TrainBatch, Vec<usize>)> = Vec::new();
    // Of the last micro-batch: tokens run and scored.
    let mut used = None;
    let mut rest = &runs[..];
    while let Some(root) = rest.first() {
        let group: Vec<(&Run, usize)> = alike(rest, |run| run.tokens).collect();
        // How many of the group fit behind what is used, and what is used then.
        let fitting = |mut used: [usize; 2]| {
            let mut n = 0;
            for (run, shared) in &group {
                let next = [used[0] + run.tokens.len() - shared, used[1] + run.scored];
                if next.iter().any(|&x| x > micro_batch_tokens) && (n > 0 || used != [0; 2]) {
                    break;
                }
                (n, used) = (n + 1, next);
            }
            (n, used)
        };
        let (mut taken, alone) = (used.map_or((0, [0; 2]), &fitting), fitting([0; 2]));
        if taken.0 == 0 || (taken.0 < group.len() && alone.0 == group.len()) {
            let columns = vec![Vec::new(); sequences[root.index].columns.len()];
            out.push((TrainBatch { columns, ..Default::default() }, Vec::new()));
            taken = alone;
        }
        let (batch, members) = out.last_mut().expect("nothing fits where no batch is");
        for run in &rest[..taken.0] {
            let (sequence, weights) = (sequences[run.index], &weights[run.index]);
            members.push(run.index);
            batch.tokens.extend_from_slice(&sequence.tokens);
            batch.lens.push(sequence.tokens.len());
            batch.weights.extend(weights.iter().map(|&w| w as f32));
            for (column, values) in batch.columns.iter_mut().zip(&sequence.columns) {
                column.extend_from_slice(values);
            }
        }
        (rest, used) = (&rest[taken.0..], Some(taken.1));
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

    /// Lengths and members of each micro-batch.
    fn cut(sequences: &[&Sequence], budget: usize) -> Vec<(Vec<usize>, Vec<usize>)> {
        let packed = pack(sequences, Aggregation::TokenMean, 1, budget);
        assert!(packed.iter().all(|(batch, _)| batch.weights[0] == 0.0), "nothing predicts a first token");
        packed.into_iter().map(|(batch, members)| (batch.lens, members)).collect()
    }

    #[test]
    fn a_sequence_longer_than_a_micro_batch_stands_alone() {
        let sequence = |n: usize| Sequence::new(vec![n as u32; n], vec![true; n]);
        let (a, b, c, empty) =
            (sequence(3), sequence(9), sequence(2), Sequence::new(vec![1, 2], vec![false; 2]));
        let packed = cut(&[&a, &b, &empty, &c], 5);
        assert_eq!(packed, [(vec![3], vec![0]), (vec![9], vec![1]), (vec![2], vec![3])]);
    }

    #[test]
    fn samples_of_a_prompt_are_run_together() {
        // 20 tokens of a prompt and 11 of a completion, of which 30 are run.
        let sample = |prompt: u32, end: u32| {
            let tokens = (0..31).map(|i| if i < 20 { 100 * prompt + i } else { 10_000 + 100 * end + i });
            Sequence::new(tokens.collect(), (0..31).map(|i| i >= 20).collect())
        };
        let samples: Vec<Sequence> = (0..6).map(|i| sample(i / 3, i)).collect();
        let samples: Vec<&Sequence> = samples.iter().collect();
        let members = |budget| cut(&samples, budget).into_iter().map(|(_, m)| m).collect::<Vec<_>>();
        // A prompt's samples take 30 + 10 + 10 rows.
        assert_eq!(members(100), [[0, 1, 2, 3, 4, 5]]);
        assert_eq!(members(99), [[0, 1, 2], [3, 4, 5]]);
        assert_eq!(members(50), [[0, 1, 2], [3, 4, 5]]);
        assert_eq!(members(49), [vec![0, 1], vec![2], vec![3, 4], vec![5]]);
        assert_eq!(members(29), [[0], [1], [2], [3], [4], [5]]);
        // A prompt that does not fit in any case begins where there is room.
        let short = Sequence::new(vec![7; 12], vec![true; 12]);
        let packed = cut(&[&short, samples[0], samples[1], samples[2]], 45);
        assert_eq!(packed.into_iter().map(|(_, m)| m).collect::<Vec<_>>(), [[0, 1], [2, 3]]);
        // Scored tokens are counted as often as they are.
        let same: Vec<&Sequence> = vec![samples[0]; 4];
        assert_eq!(cut(&same, 33).iter().map(|(_, m)| m.len()).collect::<Vec<_>>(), [3, 1]);
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
            for (b, members) in &cut {
                let run = members.iter().filter_map(|&i| Run::of((i, &sequences[i])));
                let (run, scored) = run.fold((0, 0), |sum, r| (sum.0 + r.tokens.len(), sum.1 + r.scored));
                // Tokens below 50 in so short sequences have little in common.
                prop_assert!(run.max(scored) <= budget || b.lens.len() == 1);
            }
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
