//! From rewards to advantages, in f64.
//!
//! A trajectory is a row of tokens of which only those the policy wrote count (the mask). Tool output lies
//! between them and is no decision of the policy: GAE carries value and advantage across it, which gives the
//! numbers of the same trajectory with those tokens deleted.

/// Advantages and returns of one trajectory, each `[tokens]`, 0 where masked out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gae {
    /// Â of each token.
    pub advantages: Vec<f64>,
    /// What the critic should have said: Â + V.
    pub returns: Vec<f64>,
}

/// Generalised advantage estimation (arXiv 1506.02438, eq. 16) over the masked-in tokens of one trajectory.
///
/// `mask`, `rewards` and `values` are `[tokens]`. The value after the last masked-in token is 0, since
/// trajectories end. Rewards on masked-out tokens are not read.
///
/// # Panics
/// If the three slices differ in length.
pub fn gae(mask: &[bool], rewards: &[f64], values: &[f64], gamma: f64, lam: f64) -> Gae {
    assert!(mask.len() == rewards.len() && mask.len() == values.len(), "one mask, reward and value a token");
    let mut out = Gae { advantages: vec![0.0; mask.len()], returns: vec![0.0; mask.len()] };
    let (mut next_value, mut next_advantage) = (0.0, 0.0);
    for t in (0..mask.len()).rev().filter(|&t| mask[t]) {
        let delta = rewards[t] + gamma * next_value - values[t];
        next_advantage = delta + gamma * lam * next_advantage;
        next_value = values[t];
        out.advantages[t] = next_advantage;
        out.returns[t] = next_advantage + values[t];
    }
    out
}

/// An outcome reward as per-token rewards `[tokens]`: all of it on the last masked-in token.
pub fn outcome_rewards(mask: &[bool], reward: f64) -> Vec<f64> {
    let mut rewards = vec![0.0; mask.len()];
    if let Some(last) = mask.iter().rposition(|&m| m) {
        rewards[last] = reward;
    }
    rewards
}

/// Shifts and scales the masked-in advantages of a whole step to mean 0 and variance 1 (Bessel-corrected,
/// 1e-8 added to the variance); the others become 0. Fewer than two advantages have no variance and stay.
///
/// `advantages` and `masks` are `[trajectories][tokens]`.
pub fn whiten(advantages: &mut [Vec<f64>], masks: &[Vec<bool>]) {
    let pairs = |advantages: &[Vec<f64>]| -> Vec<f64> {
        let flat = advantages.iter().zip(masks).flat_map(|(a, m)| a.iter().zip(m));
        flat.filter(|(_, m)| **m).map(|(a, _)| *a).collect()
    };
    let kept = pairs(advantages);
    if kept.len() < 2 {
        return;
    }
    let mean = kept.iter().sum::<f64>() / kept.len() as f64;
    let variance = kept.iter().map(|a| (a - mean).powi(2)).sum::<f64>() / (kept.len() - 1) as f64;
    let scale = 1.0 / (variance + 1e-8).sqrt();
    for (row, mask) in advantages.iter_mut().zip(masks) {
        for (a, &m) in row.iter_mut().zip(mask) {
            *a = if m { (*a - mean) * scale } else { 0.0 };
        }
    }
}

/// Advantages relative to the group: consecutive runs of `num_generations` rewards are samples of one problem.
///
/// (r − mean) / (σ + 1e-4) with the unbiased deviation (GRPO, arXiv 2402.03300), or r − mean where `scale` is
/// off (Dr. GRPO, arXiv 2503.20783).
///
/// # Panics
/// If `num_generations` is below 2 or does not divide the number of rewards.
pub fn group_advantages(rewards: &[f64], num_generations: usize, scale: bool) -> Vec<f64> {
    assert!(
        num_generations > 1 && rewards.len().is_multiple_of(num_generations),
        "whole groups of at least two"
    );
    let group = |rewards: &[f64]| -> Vec<f64> {
        let n = rewards.len() as f64;
        let mean = rewards.iter().sum::<f64>() / n;
        let deviation = (rewards.iter().map(|r| (r - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
        let divisor = if scale { deviation + 1e-4 } else { 1.0 };
        rewards.iter().map(|r| (r - mean) / divisor).collect()
    };
    rewards.chunks(num_generations).flat_map(group).collect()
}

/// 1 − Var(R − V) / Var(R) over the masked-in tokens: how much of the returns the critic foresaw. 0 where the
/// returns do not vary.
pub fn explained_variance(values: &[f64], returns: &[f64]) -> f64 {
    let variance = |x: &mut dyn Iterator<Item = f64>| {
        let x: Vec<f64> = x.collect();
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        x.iter().map(|v| (v - mean).powi(2)).sum::<f64>()
    };
    let total = variance(&mut returns.iter().copied());
    let rest = variance(&mut returns.iter().zip(values).map(|(r, v)| r - v));
    if total > 0.0 { 1.0 - rest / total } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use safetensors::SafeTensors;
    use serde_json::Value;

    use super::*;

    fn grid(value: &Value) -> Vec<Vec<f64>> {
        serde_json::from_value(value.clone()).unwrap()
    }

    fn booleans(grid: &[Vec<f64>]) -> Vec<Vec<bool>> {
        grid.iter().map(|row| row.iter().map(|&m| m != 0.0).collect()).collect()
    }

    /// A tensor of f32 as rows of `width`.
    fn rows(file: &SafeTensors, name: &str) -> Vec<Vec<f64>> {
        let tensor = file.tensor(name).unwrap();
        let flat: Vec<f64> = tensor
            .data()
            .chunks_exact(4)
            .map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap())))
            .collect();
        flat.chunks(*tensor.shape().last().unwrap()).map(<[f64]>::to_vec).collect()
    }

    fn near(found: &[Vec<f64>], expected: &[Vec<f64>], what: &str) {
        for (f, e) in found.iter().flatten().zip(expected.iter().flatten()) {
            assert!((f - e).abs() <= 1e-6 * e.abs().max(1.0), "{what}: {f} is not {e}");
        }
        assert_eq!(found.iter().flatten().count(), expected.iter().flatten().count());
    }

    fn fixture(name: &str) -> Vec<u8> {
        std::fs::read(format!("{}/tests/fixtures/rl/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
    }

    #[test]
    fn matches_pytorch_with_tool_spans_inside() {
        let cases: Vec<Value> = serde_json::from_slice(&fixture("ppo_interior.json")).unwrap();
        assert_eq!(cases.len(), 6);
        for case in &cases {
            let masks = booleans(&grid(&case["mask"]));
            let scores: Vec<f64> = serde_json::from_value(case["scores"].clone()).unwrap();
            let values = grid(&case["old_values"]);
            let [gamma, lam] = ["gamma", "lam"].map(|k| case[k].as_f64().unwrap());
            let all: Vec<Gae> = (0..masks.len())
                .map(|b| gae(&masks[b], &outcome_rewards(&masks[b], scores[b]), &values[b], gamma, lam))
                .collect();
            let mut advantages: Vec<_> = all.iter().map(|g| g.advantages.clone()).collect();
            let returns: Vec<_> = all.iter().map(|g| g.returns.clone()).collect();
            near(&advantages, &grid(&case["advantages"]), "advantages");
            near(&returns, &grid(&case["returns"]), "returns");
            whiten(&mut advantages, &masks);
            near(&advantages, &grid(&case["whitened"]), "whitened");
        }
    }

    #[test]
    fn matches_pytorch_with_rewards_on_every_token() {
        let bytes = fixture("ppo.safetensors");
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let (masks, rewards) = (booleans(&rows(&file, "mask")), rows(&file, "rewards"));
        let values = rows(&file, "old_values");
        let all: Vec<Gae> =
            (0..masks.len()).map(|b| gae(&masks[b], &rewards[b], &values[b], 0.99, 0.95)).collect();
        let mut advantages: Vec<_> = all.iter().map(|g| g.advantages.clone()).collect();
        near(&advantages, &rows(&file, "advantages"), "advantages");
        let returns: Vec<_> = all.iter().map(|g| g.returns.clone()).collect();
        near(&returns, &rows(&file, "returns"), "returns");
        whiten(&mut advantages, &masks);
        near(&advantages, &rows(&file, "whitened_advantages"), "whitened");
    }

    #[test]
    fn group_advantages_match_pytorch() {
        let bytes = fixture("grpo.safetensors");
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let rewards = rows(&file, "rewards").concat();
        near(&[group_advantages(&rewards, 4, true)], &rows(&file, "advantages"), "advantages");
    }

    #[test]
    fn without_scale_only_the_mean_goes() {
        assert_eq!(
            group_advantages(&[1.0, 0.0, 0.0, 1.0, 1.0, 1.0], 2, false),
            [0.5, -0.5, -0.5, 0.5, 0.0, 0.0]
        );
        assert_eq!(group_advantages(&[1.0, 1.0], 2, true), [0.0, 0.0]);
    }

    #[test]
    fn a_single_advantage_is_left_alone() {
        let mut advantages = vec![vec![0.0, 3.0]];
        whiten(&mut advantages, &[vec![false, true]]);
        assert_eq!(advantages, [vec![0.0, 3.0]]);
    }

    #[test]
    fn explained_variance_of_a_perfect_and_a_constant_critic() {
        assert_eq!(explained_variance(&[1.0, -1.0, 2.0], &[1.0, -1.0, 2.0]), 1.0);
        assert_eq!(explained_variance(&[0.5, 0.5], &[1.0, -1.0]), 0.0);
        assert_eq!(explained_variance(&[0.5, 0.7], &[1.0, 1.0]), 0.0);
    }

    proptest! {
        #[test]
        fn masked_tokens_are_as_if_deleted(
            tokens in prop::collection::vec((any::<bool>(), -2.0..2.0f64, -2.0..2.0f64), 1..40),
            gamma in 0.5..1.0f64,
            lam in 0.0..1.0f64,
        ) {
            let mask: Vec<bool> = tokens.iter().map(|t| t.0).collect();
            let rewards: Vec<f64> = tokens.iter().map(|t| t.1).collect();
            let values: Vec<f64> = tokens.iter().map(|t| t.2).collect();
            let keep = |x: &[f64]| -> Vec<f64> { x.iter().zip(&mask).filter(|(_, m)| **m).map(|(x, _)| *x).collect() };
            let whole = gae(&mask, &rewards, &values, gamma, lam);
            let short = gae(&vec![true; keep(&values).len()], &keep(&rewards), &keep(&values), gamma, lam);
            // The same operations in the same order: equal, not near.
            prop_assert_eq!(keep(&whole.advantages), short.advantages);
            prop_assert_eq!(keep(&whole.returns), short.returns);
            prop_assert!(whole.advantages.iter().zip(&mask).all(|(a, m)| *m || *a == 0.0));
        }

        #[test]
        fn whitened_advantages_have_mean_0_and_variance_1(
            rows in prop::collection::vec(prop::collection::vec((any::<bool>(), -5.0..5.0f64), 1..20), 2..6),
        ) {
            let masks: Vec<Vec<bool>> = rows.iter().map(|r| r.iter().map(|t| t.0).collect()).collect();
            let mut advantages: Vec<Vec<f64>> = rows.iter().map(|r| r.iter().map(|t| t.1).collect()).collect();
            let kept = masks.iter().flatten().filter(|m| **m).count();
            prop_assume!(kept > 2);
            whiten(&mut advantages, &masks);
            let n = kept as f64;
            let sum: f64 = advantages.iter().flatten().sum();
            let square: f64 = advantages.iter().flatten().map(|a| a * a).sum();
            prop_assert!((sum / n).abs() < 1e-9);
            prop_assert!((square / (n - 1.0) - 1.0).abs() < 1e-4);
        }

        #[test]
        fn gamma_and_lambda_of_1_give_reward_minus_value(
            values in prop::collection::vec(-1.0..1.0f64, 1..20),
            reward in -1.0..1.0f64,
        ) {
            let mask = vec![true; values.len()];
            let out = gae(&mask, &outcome_rewards(&mask, reward), &values, 1.0, 1.0);
            for (a, v) in out.advantages.iter().zip(&values) {
                prop_assert!((a - (reward - v)).abs() < 1e-12);
            }
        }
    }
}
