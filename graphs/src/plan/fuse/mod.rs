//! Fusion: passes over the schedule that let one kernel do what several steps did, with the same bits.
//!
//! The graph stays as it was built: autograd and decompositions see single nodes. A pass takes the drafts in their order and
//! gives back fewer; a fused step stands where one of its steps stood, so that all it reads is there by then and all
//! that reads it comes later.

mod elementwise;
mod gradients;
mod linear;

use std::collections::{BTreeMap, BTreeSet};

use super::draft::{Draft, Key};

/// All passes. Values `kept` are read after the plan ran; `constants` are the scalars known by now.
pub(super) fn run(drafts: Vec<Draft>, kept: &BTreeSet<Key>, constants: &BTreeMap<Key, f32>) -> Vec<Draft> {
    // First: a norm that is computed again is read by its layers alone.
    let drafts = gradients::run(drafts, kept);
    let drafts = linear::run(drafts, kept);
    elementwise::run(drafts, kept, constants)
}
