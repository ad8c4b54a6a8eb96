//! Supervised fine-tuning: masked cross-entropy over traces, the cold start of a run.
//!
//! A trace is a trajectory that nobody sampled: tokens with their sources, of which the loss sees those a policy
//! would have written. Tool output stands in the context and not in the loss, exactly as in reinforcement learning.

use std::time::Instant;

use toolsmith_models::batch::Objective;

use super::batches::{Sequence, pack};
use super::schedule::learning_rate;
use super::{Error, Learner};
use crate::config::{Aggregation, Config};
use crate::run_dir::Metrics;

/// One optimizer step on the traces of step `step` (counted from 0).
///
/// # Errors
/// Those of the model; a loss or gradient that is not finite.
pub fn step(
    config: &Config,
    step: usize,
    traces: &[Sequence],
    model: &mut dyn Learner,
) -> Result<Metrics, Error> {
    let start = Instant::now();
    let lr = learning_rate(&config.sft.optimizer, step, config.sft.steps);
    let traces: Vec<&Sequence> = traces.iter().collect();
    let mut loss = 0.0;
    let mut tokens = 0;
    for (batch, _) in pack(&traces, Aggregation::TokenMean, 1, config.rl.micro_batch_tokens) {
        loss += model.accumulate(&batch, &Objective::CrossEntropy)?.loss;
        tokens += batch.tokens.len();
    }
    if tokens == 0 {
        return Err(Error::Unfit("no trace has a token to learn from".into()));
    }
    let grad_norm = f64::from(model.step(lr)?);
    if !loss.is_finite() || !grad_norm.is_finite() {
        return Err(Error::Diverged { step: step + 1, what: "loss or its gradient" });
    }
    let mut metrics = Metrics::default();
    metrics.put("losses/cross_entropy", loss);
    metrics.put("grad_norm", grad_norm);
    metrics.put("lr", f64::from(lr));
    metrics.put("perf/train_tokens_per_s", tokens as f64 / start.elapsed().as_secs_f64());
    Ok(metrics)
}
