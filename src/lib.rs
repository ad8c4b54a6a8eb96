//! Toolsmith.

pub mod cli;
pub mod config;
pub mod learn;
