//! Luminal graphs with run-time shapes.
pub mod cpu;
