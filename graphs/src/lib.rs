//! Luminal graphs with run-time shapes.
