//! Elementwise primitives that feed each other become one step: their values are computed block by block and only those that
//! other steps read are stored. A sum over the last axis may end such a step.
//!
//! A step stands where its last one stood. An earlier one is taken in if all that reads its value is in the step too or comes
//! later. Values of one size are fused whatever their shape, since they lie in the same order.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::super::{
    draft::{Draft, Key, Uses},
    primitive::PrimitiveKernel,
};
use crate::{
    expr::{Expr, Node, View},
    ops::FusedElementwise,
    shape::Size,
};

pub fn run(drafts: Vec<Draft>, kept: &BTreeSet<Key>, constants: &BTreeMap<Key, f32>) -> Vec<Draft> {
    let uses = Uses::of(&drafts, kept);
    let mut pass = Pass { drafts: &drafts, uses: &uses, constants, at: (0..drafts.len()).collect() };
    let mut fused: BTreeMap<usize, Draft> = BTreeMap::new();
    let mut gone = vec![false; drafts.len()];
    for root in (0..drafts.len()).rev() {
        if gone[root] {
            continue;
        }
        let Some((members, draft)) = pass.group(root, &gone) else { continue };
        for i in members {
            pass.at[i] = root;
            gone[i] = true;
        }
        fused.insert(root, draft);
    }
    let rest = drafts.into_iter().enumerate().filter(|(i, _)| !gone[*i]);
    fused.extend(rest);
    fused.into_values().collect()
}

struct Pass<'a> {
    drafts: &'a [Draft],
    uses: &'a Uses,
    constants: &'a BTreeMap<Key, f32>,
    /// Where each step will stand.
    at: Vec<usize>,
}

impl Pass<'_> {
    fn kernel(&self, i: usize) -> Option<&PrimitiveKernel> {
        self.drafts[i].is()
    }

    fn output(&self, i: usize) -> Key {
        self.drafts[i].outputs[0].0
    }

    /// The steps fused with `root`, and what they become.
    fn group(&self, root: usize, gone: &[bool]) -> Option<(Vec<usize>, Draft)> {
        let size = self.kernel(root)?.elements()?;
        let mut members = BTreeSet::from([root]);
        let mut best = self.build(&members, size)?;
        loop {
            let sources = members.iter().flat_map(|&m| {
                let views = self.kernel(m).expect("a primitive").views();
                let keys = self.drafts[m].inputs.iter().zip(views);
                keys.filter(|(_, view)| *view == View::Flat).filter_map(|(&k, _)| self.uses.writer(k))
            });
            let fits = |w: &usize| {
                !gone[*w]
                    && !members.contains(w)
                    && self.kernel(*w).is_some_and(|k| k.elements() == Some(size) && !k.is_sum())
                    && self.later(*w, root, &members)
            };
            let candidates: BTreeSet<usize> = sources.filter(fits).collect();
            let grown = candidates.into_iter().rev().find_map(|w| {
                let mut more = members.clone();
                more.insert(w);
                self.build(&more, size).map(|draft| (more, draft))
            });
            match grown {
                Some(grown) => (members, best) = grown,
                None => break,
            }
        }
        // One primitive that copies or sums has loops of its own.
        let plain = members.len() > 1 || self.kernel(root)?.computes();
        plain.then(|| (members.into_iter().collect(), best))
    }

    /// Whether the value of step `w` is read in the group or after it only.
    fn later(&self, w: usize, root: usize, members: &BTreeSet<usize>) -> bool {
        self.uses.readers(self.output(w)).iter().all(|r| members.contains(r) || self.at[*r] > root)
    }

    fn build(&self, members: &BTreeSet<usize>, size: Size) -> Option<Draft> {
        let root = *members.last().expect("a root");
        let mut expr = Expr::default();
        let mut loads: Vec<(Key, View)> = vec![];
        let mut nodes: BTreeMap<Key, usize> = BTreeMap::new();
        let mut words = vec![];
        for &m in members {
            let kernel = self.kernel(m).expect("a primitive");
            let mut operands = vec![];
            for (&key, view) in self.drafts[m].inputs.iter().zip(kernel.views()) {
                let inside = nodes.get(&key).copied().filter(|_| view == View::Flat);
                operands.push(match (inside, self.constants.get(&key)) {
                    (Some(node), _) => node,
                    (None, Some(&c)) => expr.push(Node::Constant(c)),
                    (None, None) => {
                        // A value computed here is not stored yet.
                        if nodes.contains_key(&key) {
                            return None;
                        }
                        let load = (key, view);
                        let i = loads.iter().position(|l| *l == load).unwrap_or_else(|| {
                            loads.push(load);
                            loads.len() - 1
                        });
                        expr.push(Node::Load(i))
                    }
                });
            }
            let node = kernel.node(&operands).map_or(operands[0], |node| expr.push(node));
            nodes.insert(self.output(m), node);
            words.extend(kernel.word());
        }
        let key = self.output(root);
        let sum = self.kernel(root)?.sum_row().map(|row| (nodes[&key], row));
        let read_outside = |&&m: &&usize| {
            let key = self.output(m);
            self.uses.kept(key) || self.uses.readers(key).iter().any(|r| !members.contains(r))
        };
        let stored = members.iter().filter(read_outside).filter(|m| sum.is_none() || **m != root);
        let stored: Vec<usize> = stored.copied().collect();
        let summed = sum.map(|_| root);
        let outputs = summed.iter().chain(&stored).map(|&m| self.drafts[m].outputs[0].clone()).collect();
        let stored = stored.iter().map(|&m| nodes[&self.output(m)]).collect();
        let (inputs, views): (Vec<Key>, Vec<View>) = loads.into_iter().unzip();
        let name = match words.len() {
            0..=3 => words.join("+"),
            n => format!("elementwise×{n}"),
        };
        let kernel = Arc::new(FusedElementwise::new(expr, views, size, sum, stored)?);
        Some(Draft { name, kernel, inputs, outputs, shown: vec![], gradient: None })
    }
}
