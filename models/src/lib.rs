//! Architectures and weights.

pub mod checkpoint;
pub mod config;
pub mod error;
pub mod files;
pub mod live;
pub mod weights;

pub use error::{Error, Result};
