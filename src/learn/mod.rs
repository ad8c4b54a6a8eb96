//! Learning: supervised fine-tuning and reinforcement learning over trajectories.
//!
//! Everything here sees token ids, masks, log-probabilities, values and rewards, never text. What is computed
//! on tokens (losses, gradients, the optimizer) lives in the models crate; what is computed on rewards and
//! values (advantages, weights, schedules) lives here, in f64.

pub mod advantages;
pub mod batches;
pub mod schedule;
