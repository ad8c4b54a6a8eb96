//! Toolsmith.

pub mod agent;
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
