//! Architectures and weights.
