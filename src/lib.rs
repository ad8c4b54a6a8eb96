//! Toolsmith.

pub mod agent;
pub mod chat;
pub mod cli;
pub mod config;
pub mod learn;
pub mod rng;
pub mod rollout;
pub mod run_dir;
pub mod task;
