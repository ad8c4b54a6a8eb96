//! Toolsmith teaches a language model to use a Python tool by reinforcement learning, then runs and evaluates it.
//!
//! # Where to begin
//! - A program that wants a model with tools: [`Agent`]; the tools: [`tool`].
//! - Rollouts of many sequences, for training or search: [`rollout`](mod@rollout).
//! - Training: [`learn`], a step of which is [`learn::ppo`]; a whole run is [`learn::stages`].
//! - Speed, and where a plan's time goes: [`bench`](mod@bench).
//! - Grading and figures: [`eval`]; problems and exact answers: [`task`].
//!
//! # How it is built
//! Four crates, each of which knows less than the next:
//! `toolsmith_graphs` builds, differentiates and compiles graphs and knows no files, tokens or text;
//! `toolsmith_models` knows architectures and weights and no sampling; `toolsmith_sandbox` runs Python and
//! other tools and knows no language model; this crate puts them together.
//!
//! # Invariants
//! - Only [`cli`] prints or ends the process. Everything else returns typed errors of one line each.
//! - Token ids are the only state of a conversation; text is never tokenised again.
//! - Losses see token ids, masks, log-probabilities, values and rewards, never text.
//! - The sampler's log-probabilities and the trainer's come from one graph and one set of kernels, and are equal
//!   bit for bit, whatever else is in a batch.
//! - Whatever is random is drawn by a counter from a seed ([`rng`]): nothing depends on threads or on order.

pub mod agent;
pub mod bench;
pub mod chat;
pub mod check;
pub mod cli;
pub mod config;
pub mod eval;
pub mod learn;
pub mod rng;
pub mod rollout;
pub mod run_dir;
pub mod task;

pub use agent::{Agent, AgentEvent, random_model};
pub use toolsmith_sandbox::{Limits, tool};

/// The README's example, compiled with the documentation's tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
