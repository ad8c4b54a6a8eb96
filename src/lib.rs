//! Toolsmith.

pub mod config;
pub mod learn;
