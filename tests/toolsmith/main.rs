//! Integration tests, one module a topic, in one binary: it links once.

mod cli;
mod golden;
mod readme;
mod support;
