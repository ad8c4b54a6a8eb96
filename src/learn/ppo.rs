//! One reinforcement step, top to bottom, for PPO and GRPO.
//!
//! Problems → rollout → reward → critic values and reference log-probabilities → advantages →
//! `num_iterations` passes over `num_mini_batches` mini-batches of whole problems, each cut into micro-batches → optimizer
//! steps.
//!
//! PPO (arXiv 1707.06347) learns a critic beside the policy and uses GAE; GRPO (arXiv 2402.03300) has none and
//! compares the samples of one problem. Both end in the same clipped loss. The old log-probabilities are the
//! sampler's own: it and the trainer agree bit for bit, so there is no pass to recompute them, and the ratio of a
//! step's first mini-batch is exactly 1 (`val/logprob_gap` says so in every line of the metrics).
//!
//! Deliberately absent: several epochs with early stopping on the KL, an entropy bonus (the sampler's temperature
//! decides), rewards for each token, and shared trunks for policy and critic.

use std::time::Instant;

use serde::Serialize;
use toolsmith_models::batch::{Objective, PolicyLoss, TrainBatch, TrainOutput};

use super::advantages::{explained_variance, gae, group_advantages, outcome_rewards, whiten};
use super::batches::{Sequence, pack};
use super::drift::Drift;
use super::schedule::learning_rate;
use super::{Error, Learner, Scorer};
use crate::config::{Aggregation, Algorithm, Config, RlConfig};
use crate::rng::{Rng, derive};
use crate::rollout::{Request, RolloutStats, Source, ToolCall, Trajectory};
use crate::run_dir::Metrics;

/// Tag of the seed that orders mini-batches.
const ORDER: u64 = 0x6f72_6465_7200;

/// What a step learns from: asks and judges.
pub trait Task {
    /// The prompts of step `step` (counted from 0), `num_generations` samples of each.
    ///
    /// # Errors
    /// If a prompt cannot be made.
    fn requests(&mut self, step: usize) -> Result<Vec<Request>, Error>;

    /// The outcome reward of a trajectory of the last requests, and whether it counts as correct.
    fn reward(&self, trajectory: &Trajectory) -> (f64, bool);

    /// The text of token ids, for the record of a rollout.
    fn text(&self, ids: &[u32]) -> String;
}

/// A policy: it samples, and it learns.
pub trait Actor: Learner {
    /// Trajectories in the order of the requests, samples ascending.
    ///
    /// # Errors
    /// If the model or the sandbox fails; [`Error::Interrupted`] if the user stopped it.
    fn rollout(&mut self, requests: &[Request]) -> Result<(Vec<Trajectory>, RolloutStats), Error>;
}

/// A line of `rollouts/step-N.jsonl`.
#[derive(Debug, Serialize)]
pub struct Episode {
    /// The problem.
    pub problem: usize,
    /// The sample.
    pub sample: usize,
    /// Prompt, response and tool output.
    pub text: String,
    /// Token ids `[tokens]`.
    pub tokens: Vec<u32>,
    /// Who wrote them, as runs of (source, tokens).
    pub sources: Vec<(Source, usize)>,
    /// Log-probabilities under the sampling policy `[tokens]`; 0 where not sampled.
    pub logprobs: Vec<f32>,
    /// Outcome reward.
    pub reward: f64,
    /// Whether the answer is right.
    pub correct: bool,
    /// Advantages as the loss saw them `[tokens]`.
    pub advantages: Vec<f32>,
    /// Tool calls.
    pub calls: Vec<ToolCall>,
    /// Why it ended.
    pub end: crate::rollout::EndReason,
}

/// Runs step `step` (counted from 0): samples, judges and updates. The critic is there exactly for PPO, the
/// reference exactly if `kl_coef` is not 0.
///
/// # Errors
/// Those of the parts; [`Error::Interrupted`] only before any weight has changed.
pub fn step(
    config: &Config,
    step: usize,
    task: &mut dyn Task,
    policy: &mut dyn Actor,
    mut critic: Option<&mut dyn Learner>,
    reference: Option<&mut dyn Scorer>,
) -> Result<(Metrics, Vec<Episode>), Error> {
    let rl = &config.rl;
    let mut metrics = Metrics::default();

    // Sample and judge.
    let requests = task.requests(step)?;
    let (trajectories, stats) = policy.rollout(&requests)?;
    let judged: Vec<(f64, bool)> = trajectories.iter().map(|t| task.reward(t)).collect();
    let rewards: Vec<f64> = judged.iter().map(|(reward, _)| *reward).collect();
    rollout_metrics(&mut metrics, &trajectories, &judged, &stats);
    let update = Instant::now();

    // What the loss may see.
    let masks: Vec<Vec<bool>> = trajectories
        .iter()
        .map(|t| {
            let kept = !(rl.mask_truncated_completions && t.end.truncated());
            t.mask().map(|model| model && kept).collect()
        })
        .collect();
    let mut policy_view: Vec<Sequence> = trajectories
        .iter()
        .zip(&masks)
        .map(|(t, mask)| Sequence::new(t.tokens.iter().map(|t| t.id).collect(), mask.clone()))
        .collect();

    // Advantages, and for the critic the returns.
    let mut critic_view = Vec::new();
    let advantages = match (rl.algorithm, critic.as_deref_mut()) {
        (Algorithm::Ppo, Some(critic)) => {
            let values = score(critic, &policy_view, rl.micro_batch_tokens)?;
            let (mut advantages, returns) = ppo_advantages(rl, &masks, &rewards, &values);
            let kept = |rows: &[Vec<f64>]| -> Vec<f64> {
                let tokens = rows.iter().zip(&masks).flat_map(|(row, mask)| row.iter().zip(mask));
                tokens.filter(|(_, m)| **m).map(|(x, _)| *x).collect()
            };
            let wide: Vec<Vec<f64>> = values.iter().map(|v| v.iter().map(|&v| v.into()).collect()).collect();
            metrics.put("explained_variance", explained_variance(&kept(&wide), &kept(&returns)));
            if rl.whiten_advantages {
                whiten(&mut advantages, &masks);
            }
            critic_view = policy_view.clone();
            for ((view, values), returns) in critic_view.iter_mut().zip(values).zip(returns) {
                view.columns = vec![values, narrow(&returns)];
            }
            advantages
        }
        (Algorithm::Grpo, None) => {
            let group = group_advantages(&rewards, rl.num_generations, rl.scale_rewards);
            let row =
                |(&a, mask): (&f64, &Vec<bool>)| mask.iter().map(|&m| if m { a } else { 0.0 }).collect();
            group.iter().zip(&masks).map(row).collect()
        }
        _ => unreachable!("PPO has a critic and GRPO has none"),
    };
    for ((view, t), advantages) in policy_view.iter_mut().zip(&trajectories).zip(&advantages) {
        view.columns = vec![t.tokens.iter().map(|t| t.logprob).collect(), narrow(advantages)];
    }
    if let Some(reference) = reference {
        let logprobs = score(reference, &policy_view, rl.micro_batch_tokens)?;
        metrics.put("objective/kl", mean_kl(&policy_view, &logprobs));
        policy_view.iter_mut().zip(logprobs).for_each(|(view, logprobs)| view.columns.push(logprobs));
    }

    // Update.
    let (objective, value_objective) = objectives(rl);
    let lr = learning_rate(&rl.optimizer, step, rl.steps);
    let critic_lr = learning_rate(&rl.critic_optimizer, step, rl.steps);
    let critic_only = critic.is_some() && step < rl.critic_warmup;
    let mut sums = Sums::default();
    let mut value_sums = Sums::default();
    for iteration in 0..rl.num_iterations {
        let rng = Rng::new(derive(config.run.seed, ORDER), step as u32, iteration as u32);
        for mini_batch in mini_batches(rl, requests.len(), rng) {
            if !critic_only {
                let aggregation = rl.loss_aggregation;
                descend(config, policy, &policy_view, &mini_batch, aggregation, &objective, lr, &mut sums)?;
            }
            if let Some(critic) = critic.as_deref_mut() {
                let (aggregation, sums) = (Aggregation::TokenMean, &mut value_sums);
                descend(
                    config,
                    critic,
                    &critic_view,
                    &mini_batch,
                    aggregation,
                    &value_objective,
                    critic_lr,
                    sums,
                )?;
            }
        }
    }
    if !sums.grad_norm.is_finite() || !value_sums.grad_norm.is_finite() {
        return Err(Error::Diverged { step: step + 1, what: "gradient" });
    }
    if !critic_only {
        sums.policy_metrics(&mut metrics);
    }
    if critic.is_some() {
        metrics.put("losses/value", value_sums.loss / value_sums.mini_batches);
        metrics.put("critic_grad_norm", value_sums.grad_norm / value_sums.mini_batches);
        metrics.put("critic_lr", f64::from(critic_lr));
    }
    metrics.put("lr", if critic_only { 0.0 } else { f64::from(lr) });
    metrics.put("perf/update_s", update.elapsed().as_secs_f64());

    let episode = |((t, (reward, correct)), advantages): ((Trajectory, (f64, bool)), Vec<f64>)| Episode {
        problem: t.problem,
        sample: t.sample,
        text: task.text(&t.tokens.iter().map(|t| t.id).collect::<Vec<_>>()),
        tokens: t.tokens.iter().map(|t| t.id).collect(),
        sources: t
            .tokens
            .chunk_by(|a, b| a.source == b.source)
            .map(|run| (run[0].source, run.len()))
            .collect(),
        logprobs: t.tokens.iter().map(|t| t.logprob).collect(),
        reward,
        correct,
        advantages: narrow(&advantages),
        calls: t.calls,
        end: t.end,
    };
    Ok((metrics, trajectories.into_iter().zip(judged).zip(advantages).map(episode).collect()))
}

/// What the policy and the critic learn by.
pub(super) fn objectives(rl: &RlConfig) -> (Objective, Objective) {
    let policy = PolicyLoss {
        clip_range_low: rl.clip_range_low,
        clip_range_high: rl.clip_range_high,
        dual_clip: (rl.dual_clip > 0.0).then_some(rl.dual_clip),
        kl_coef: rl.kl_coef,
    };
    let clip_range = (rl.cliprange_value > 0.0).then_some(rl.cliprange_value);
    (Objective::Policy(policy), Objective::Value { clip_range })
}

/// GAE and returns of each trajectory `[trajectories][tokens]`, the outcome reward on its last token in the mask.
fn ppo_advantages(
    rl: &RlConfig,
    masks: &[Vec<bool>],
    rewards: &[f64],
    values: &[Vec<f32>],
) -> (Vec<Vec<f64>>, Vec<Vec<f64>>) {
    let one = |((mask, &reward), values): ((&Vec<bool>, &f64), &Vec<f32>)| {
        let values: Vec<f64> = values.iter().map(|&v| v.into()).collect();
        let out = gae(mask, &outcome_rewards(mask, reward), &values, rl.gamma.into(), rl.lam.into());
        (out.advantages, out.returns)
    };
    masks.iter().zip(rewards).zip(values).map(one).unzip()
}

/// One optimizer step on the sequences that `mini_batch` names; none if the loss sees no token of them.
#[allow(clippy::too_many_arguments)]
fn descend<L: Learner + ?Sized>(
    config: &Config,
    model: &mut L,
    sequences: &[Sequence],
    mini_batch: &[usize],
    aggregation: Aggregation,
    objective: &Objective,
    lr: f32,
    sums: &mut Sums,
) -> Result<(), Error> {
    let chosen: Vec<&Sequence> = mini_batch.iter().map(|&i| &sequences[i]).collect();
    let budget = config.rl.micro_batch_tokens;
    let micro_batches = pack(&chosen, aggregation, config.rollout.max_completion_length, budget);
    if micro_batches.is_empty() {
        return Ok(());
    }
    for (batch, _) in &micro_batches {
        let out = model.accumulate(batch, objective)?;
        sums.loss += out.loss;
        sums.rows += out.rows as f64;
        sums.tokens += batch.tokens.len() as f64;
        if let Objective::Policy(loss) = objective {
            sums.add_tokens(batch, &out, loss);
        }
    }
    sums.grad_norm += f64::from(model.step(lr)?);
    sums.mini_batches += 1.0;
    Ok(())
}

/// Scores of every sequence `[sequences][tokens]`; zeros for those without a token in the mask.
fn score<S: Scorer + ?Sized>(
    model: &mut S,
    sequences: &[Sequence],
    budget: usize,
) -> Result<Vec<Vec<f32>>, Error> {
    let mut scores: Vec<Vec<f32>> = sequences.iter().map(|s| vec![0.0; s.tokens.len()]).collect();
    let all: Vec<&Sequence> = sequences.iter().collect();
    for (batch, members) in pack(&all, Aggregation::TokenMean, 1, budget) {
        let out = model.score(&batch)?;
        let mut rest = out.as_slice();
        for i in members {
            let (own, after) = rest.split_at(sequences[i].tokens.len());
            scores[i].copy_from_slice(own);
            rest = after;
        }
    }
    Ok(scores)
}

/// Mean over the mask of the k3 estimate of KL(π_old‖π_ref), π_old in the first column.
fn mean_kl(sequences: &[Sequence], reference: &[Vec<f32>]) -> f64 {
    let (mut sum, mut n) = (0.0, 0.0);
    for (s, reference) in sequences.iter().zip(reference) {
        for t in (0..s.tokens.len()).filter(|&t| s.mask[t]) {
            let d = f64::from(reference[t]) - f64::from(s.columns[0][t]);
            sum += d.exp() - d - 1.0;
            n += 1.0;
        }
    }
    sum / f64::max(n, 1.0)
}

/// What is reported of the updates of a step: sums over mini-batches and over their tokens.
#[derive(Default)]
struct Sums {
    loss: f64,
    grad_norm: f64,
    mini_batches: f64,
    /// Tokens of the sequences, and rows that were computed for them.
    tokens: f64,
    rows: f64,
    drift: Drift,
    /// Largest |ℓ − ℓ_old| in the first mini-batch, before any update of this step.
    gap: f64,
}

impl Sums {
    fn add_tokens(&mut self, batch: &TrainBatch, out: &TrainOutput, loss: &PolicyLoss) {
        for t in (0..batch.tokens.len()).filter(|&t| batch.weights[t] != 0.0) {
            let (logprob, old) = (out.outputs[t], batch.columns[0][t]);
            self.drift.add(logprob, old, batch.columns[1][t], [loss.clip_range_low, loss.clip_range_high]);
            if self.mini_batches == 0.0 {
                self.gap = self.gap.max((f64::from(logprob) - f64::from(old)).abs());
            }
        }
    }

    fn policy_metrics(&self, metrics: &mut Metrics) {
        metrics.put("losses/policy", self.loss / self.mini_batches);
        metrics.put("losses/approx_kl", self.drift.kl_k3());
        metrics.put("losses/clipfrac", self.drift.clip_fraction());
        metrics.put("val/ratio", self.drift.ratio());
        metrics.put("val/logprob_gap", self.gap);
        metrics.put("perf/rows_per_token", self.rows / self.tokens);
        metrics.put("grad_norm", self.grad_norm / self.mini_batches);
    }
}

/// Rewards, tool use and speed of a rollout.
pub(super) fn rollout_metrics(
    metrics: &mut Metrics,
    trajectories: &[Trajectory],
    judged: &[(f64, bool)],
    stats: &RolloutStats,
) {
    let n = trajectories.len() as f64;
    let share = |count: usize| count as f64 / n;
    let sampled = || trajectories.iter().flat_map(|t| &t.tokens).filter(|t| t.source == Source::Model);
    let tokens = sampled().count() as f64;
    let calls = || trajectories.iter().flat_map(|t| &t.calls);
    metrics.put("objective/reward", judged.iter().map(|(reward, _)| reward).sum::<f64>() / n);
    metrics.put("objective/accuracy", share(judged.iter().filter(|(_, correct)| *correct).count()));
    metrics.put("objective/entropy", -sampled().map(|t| f64::from(t.logprob)).sum::<f64>() / tokens);
    metrics.put("rollout/code_share", share(trajectories.iter().filter(|t| !t.calls.is_empty()).count()));
    metrics.put("rollout/code_pass_rate", calls().filter(|c| c.ok).count() as f64 / calls().count() as f64);
    metrics.put("rollout/tokens", stats.generated_tokens);
    metrics.put("rollout/mean_length", tokens / n);
    metrics.put("rollout/truncated", share(trajectories.iter().filter(|t| t.end.truncated()).count()));
    metrics.put("perf/tokens_per_s", stats.generated_tokens as f64 / stats.wall_s);
    metrics.put("perf/decode_idle", stats.decode_idle_s / stats.wall_s);
    metrics.put("perf/kv_blocks_peak", stats.kv_blocks_peak);
    metrics.put("perf/preemptions", stats.preemptions);
    metrics.put("perf/rollout_s", stats.wall_s);
}

/// The trajectories of each of a pass's mini-batches: about as many of the `problems` each, drawn by `rng`, with all their
/// samples one behind the other. What these have in common is then run once.
pub(super) fn mini_batches(
    rl: &RlConfig,
    problems: usize,
    mut rng: Rng,
) -> impl Iterator<Item = Vec<usize>> + use<> {
    let (n, samples) = (rl.num_mini_batches, rl.num_generations);
    let mut order: Vec<usize> = (0..problems).collect();
    rng.shuffle(&mut order);
    (0..n).map(move |i| {
        let mut problems = order[order.len() * i / n..order.len() * (i + 1) / n].to_vec();
        problems.sort_unstable();
        problems.into_iter().flat_map(|problem| problem * samples..(problem + 1) * samples).collect()
    })
}

fn narrow(row: &[f64]) -> Vec<f32> {
    row.iter().map(|&x| x as f32).collect()
}
