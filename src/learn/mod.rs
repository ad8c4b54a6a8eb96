//! Learning: supervised fine-tuning and reinforcement learning over trajectories.
//!
//! Everything here sees token ids, masks, log-probabilities, values and rewards, never text. What is computed
//! on tokens (losses, gradients, the optimizer) lives in the models crate behind [`Learner`]; what is computed on
//! rewards and values (advantages, weights, schedules) lives here, in f64.

use toolsmith_models::batch::{Objective, TrainBatch, TrainOutput};

use crate::{chat, rollout, run_dir, task};

pub mod advantages;
pub mod batches;
pub mod drift;
pub mod live;
pub mod memory;
pub mod ppo;
pub mod problems;
pub mod schedule;
pub mod sft;
pub mod stages;
#[cfg(test)]
mod tests;

/// Why training ended early.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error(transparent)]
    Model(#[from] toolsmith_models::Error),
    #[error(transparent)]
    Rollout(#[from] rollout::Error),
    #[error(transparent)]
    Run(#[from] run_dir::Error),
    #[error(transparent)]
    Chat(#[from] chat::Error),
    #[error(transparent)]
    Data(#[from] task::dataset::Error),
    #[error("{0}")]
    Unfit(String),
    #[error(
        "step {step}: the {what} is not finite; a lower learning rate or a smaller `max_grad_norm` may help"
    )]
    Diverged { step: usize, what: &'static str },
    #[error("interrupted")]
    Interrupted,
}

/// A model that scores tokens.
pub trait Scorer {
    /// Log-probabilities, or values where the model has a value head, `[t]`; no gradients.
    ///
    /// # Errors
    /// If the batch does not fit the model.
    fn score(&mut self, batch: &TrainBatch) -> Result<Vec<f32>, Error>;
}

/// A model in training: gradients are summed over micro-batches, then stepped along.
pub trait Learner: Scorer {
    /// Adds the gradient of this micro-batch's share of the mini-batch's loss.
    ///
    /// # Errors
    /// If the batch does not fit the model.
    fn accumulate(&mut self, batch: &TrainBatch, objective: &Objective) -> Result<TrainOutput<'_>, Error>;

    /// Takes an optimizer step along the summed gradients and clears them. Returns their global norm before
    /// clipping.
    ///
    /// # Errors
    /// If the optimizer fails.
    fn step(&mut self, learning_rate: f32) -> Result<f32, Error>;
}
