//! A step before its memory is placed: what the passes of [`super::fuse`] rewrite.

use std::{
    any::Any,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{ops::Kernel, shape::Shape};

/// A value of the graph: a node's output.
pub(super) type Key = (usize, u8);

/// A kernel call with the values it reads and writes.
pub(super) struct Draft {
    pub name: String,
    pub kernel: Arc<dyn Kernel>,
    pub inputs: Vec<Key>,
    pub outputs: Vec<(Key, Shape)>,
    /// Inputs it is shown with, if they are parameters. Empty: the first parameter.
    pub shown: Vec<usize>,
    /// Parameter whose gradient output 0 is, for an accumulate node.
    pub gradient: Option<usize>,
}

impl Draft {
    /// The kernel, if it is a `K`.
    pub fn is<K: Kernel>(&self) -> Option<&K> {
        (self.kernel.as_ref() as &dyn Any).downcast_ref()
    }
}

/// Who writes and who reads each value, by place in the schedule.
pub(super) struct Uses {
    writer: BTreeMap<Key, usize>,
    readers: BTreeMap<Key, Vec<usize>>,
    kept: BTreeSet<Key>,
}

impl Uses {
    /// Of a schedule whose values `kept` are read from outside.
    pub fn of(drafts: &[Draft], kept: &BTreeSet<Key>) -> Self {
        let mut uses = Uses { writer: BTreeMap::new(), readers: BTreeMap::new(), kept: kept.clone() };
        for (i, d) in drafts.iter().enumerate() {
            d.inputs.iter().for_each(|&k| uses.readers.entry(k).or_default().push(i));
            d.outputs.iter().for_each(|(k, _)| {
                uses.writer.insert(*k, i);
            });
        }
        uses
    }

    /// The step that writes `key`; none writes a leaf.
    pub fn writer(&self, key: Key) -> Option<usize> {
        self.writer.get(&key).copied()
    }

    /// Whether `key` is there before step `i`.
    pub fn before(&self, key: Key, i: usize) -> bool {
        self.writer(key).is_none_or(|w| w < i)
    }

    /// The steps that read `key`, in order, one as often as it reads.
    pub fn readers(&self, key: Key) -> &[usize] {
        self.readers.get(&key).map_or(&[], Vec::as_slice)
    }

    /// Whether `key` is read from outside.
    pub fn kept(&self, key: Key) -> bool {
        self.kept.contains(&key)
    }

    /// The step that alone reads `key`, once.
    pub fn only_reader(&self, key: Key) -> Option<usize> {
        match self.readers(key) {
            &[i] if !self.kept(key) => Some(i),
            _ => None,
        }
    }
}
