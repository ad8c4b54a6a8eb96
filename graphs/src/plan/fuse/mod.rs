//! Fusion: passes over the schedule that let one kernel do what several steps did, with the same bits.
//!
//! The graph stays as it was built: autograd and decompositions see single nodes. A pass takes the drafts in their order and
//! gives back fewer; a fused step stands where the first of its steps stood, so everything it reads must be there by then.

mod linear;

use std::collections::BTreeSet;

use super::draft::{Draft, Key};

/// All passes. Values `kept` are read after the plan ran.
pub(super) fn run(drafts: Vec<Draft>, kept: &BTreeSet<Key>) -> Vec<Draft> {
    linear::run(drafts, kept)
}
