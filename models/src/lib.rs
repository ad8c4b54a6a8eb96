//! Language models for Toolsmith: what they are made of, where their weights lie, and how they run and learn.
//!
//! - From files: [`convert::ModelSource`] opens what a user calls a model, a Hugging Face directory or a `.gguf` file.
//!   [`config`] is its shape, [`weights`] its parameters (mapped, in place), [`tokenizer`] its text.
//! - In training: [`live`] is the one mapped file that the optimizer writes and the sampler reads.
//! - At work: [`decoder`] is the architecture as a graph, [`engine`] generates with a KV cache, whose [`blocks`] sequences share;
//!   [`trainer`] learns.
//!
//! Invariants: this crate samples nothing, knows no sandbox, and prints nothing. Parameters have one order everywhere,
//! that of [`config::ModelConfig::param_specs`]. What lies on disk is replaced whole or not at all ([`files`]), and no
//! number in a file that somebody else wrote is believed before it is checked.

#[cfg(target_endian = "big")]
compile_error!("weights are used as they lie in little-endian files");

pub mod batch;
pub mod blocks;
pub mod checkpoint;
pub mod config;
pub mod convert;
pub mod decoder;
pub mod engine;
pub mod error;
pub mod fetch;
pub mod files;
pub mod gguf;
pub mod live;
pub mod tokenizer;
pub mod trainer;
pub mod weights;

pub use error::{Error, Result};
