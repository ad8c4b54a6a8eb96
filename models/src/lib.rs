//! Architectures and weights.

pub mod batch;
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
