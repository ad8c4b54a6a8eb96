//! Toolsmith.
