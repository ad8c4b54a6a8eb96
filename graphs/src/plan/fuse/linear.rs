//! Linear layers of one input become one step, with the norm before them and what follows each: q, k and v with RoPE, gate and
//! up with SwiGLU, an output projection with the residual sum.
//!
//! A norm is taken in if these layers are all that reads it; what follows a layer, if it alone reads the layer. In training
//! the backward pass reads gate and up again: then both are written beside SwiGLU's output.

use std::{collections::BTreeSet, sync::Arc};

use super::super::{
    draft::{Draft, Key, Uses},
    primitive::PrimitiveKernel,
};
use crate::{
    graph::Primitive,
    ops::{FusedLinear, Layer, Linear, MAX_INPUTS, MAX_OUTPUTS, Norm, Part, RmsNorm, Rope, Swiglu, Then},
};

/// Largest head normalised behind a layer: a task does whole heads.
const MAX_HEAD: usize = 256;

pub fn run(drafts: Vec<Draft>, kept: &BTreeSet<Key>) -> Vec<Draft> {
    let uses = Uses::of(&drafts, kept);
    let mut drafts: Vec<Option<Draft>> = drafts.into_iter().map(Some).collect();
    for at in 0..drafts.len() {
        let pass = Pass { at, drafts: &drafts, uses: &uses };
        let Some((fused, steps)) = pass.group().and_then(|g| g.fuse(&pass)) else { continue };
        steps.iter().for_each(|&i| drafts[i] = None);
        drafts[at] = Some(fused);
    }
    drafts.into_iter().flatten().collect()
}

/// Fusion around the step `at`. Steps that were fused before are gone.
struct Pass<'a> {
    at: usize,
    drafts: &'a [Option<Draft>],
    uses: &'a Uses,
}

impl Pass<'_> {
    /// Step `i` if it is there, from `at` on, and all it reads but `from` is there before `at`.
    fn ready(&self, i: usize, from: &[Key]) -> Option<&Draft> {
        let draft = self.drafts[i].as_ref().filter(|_| i >= self.at)?;
        let ready = |k: &Key| from.contains(k) || self.uses.before(*k, self.at);
        draft.inputs.iter().all(ready).then_some(draft)
    }

    /// The layers that read what step `at`, a layer, reads.
    fn group(&self) -> Option<Group> {
        let first = self.drafts[self.at].as_ref()?;
        let (k, x) = (first.is::<Linear>()?.k, first.inputs[0]);
        let mut group = Group { k, x, norm: None, members: vec![], steps: vec![] };
        for &i in self.uses.readers(x) {
            let Some(draft) = self.ready(i, &[]).filter(|_| group.members.len() < MAX_OUTPUTS) else {
                continue;
            };
            let Some(&Linear { n, .. }) = draft.is().filter(|l: &&Linear| l.k == k && draft.inputs[0] == x)
            else {
                continue;
            };
            let layer = Layer { n, w: draft.inputs[1], bias: draft.inputs.get(2).copied() };
            let mut member = Member { layer, then: Then::Nothing, outputs: vec![draft.outputs[0].0] };
            group.steps.push(i);
            while let Some(next) =
                self.uses.only_reader(member.outputs[0]).filter(|&i| member.follow(self, i))
            {
                group.steps.push(next);
            }
            group.members.push(member);
        }
        group.pair(self);
        group.take_norm(self);
        Some(group)
    }
}

/// A layer, what follows it, and the values written.
struct Member {
    layer: Layer<Key>,
    then: Then<Key>,
    outputs: Vec<Key>,
}

impl Member {
    /// Takes in step `i`, the only reader of the output, if it can.
    fn follow(&mut self, pass: &Pass, i: usize) -> bool {
        let y = self.outputs[0];
        let Some(draft) = pass.ready(i, &[y]) else { return false };
        let n = self.layer.n;
        self.then = match &self.then {
            Then::Nothing => {
                if let Some(norm) = norm(draft).filter(|norm| norm.h <= MAX_HEAD && n.is_multiple_of(norm.h))
                {
                    Then::Heads { head_dim: norm.h, norm: Some(norm), rope: None }
                } else if let Some(rope) = rope(draft) {
                    Then::Heads { head_dim: rope.0.table().head_dim(), norm: None, rope: Some(rope) }
                } else if draft.is().is_some_and(|p: &PrimitiveKernel| p.is_plain(Primitive::Add)) {
                    let other = draft.inputs.iter().find(|k| **k != y);
                    let Some(&other) = other else { return false };
                    Then::Add(other)
                } else {
                    return false;
                }
            }
            Then::Heads { head_dim, norm, rope: None } => match rope(draft) {
                Some(rope) if rope.0.table().head_dim() == *head_dim => {
                    Then::Heads { head_dim: *head_dim, norm: *norm, rope: Some(rope) }
                }
                _ => return false,
            },
            _ => return false,
        };
        self.outputs = vec![draft.outputs[0].0];
        true
    }
}

fn norm(draft: &Draft) -> Option<Norm<Key>> {
    draft.is().map(|&RmsNorm { h, eps }| Norm { w: draft.inputs[1], eps, h })
}

fn rope(draft: &Draft) -> Option<(Arc<crate::RopeAngles>, Key)> {
    let rope: &Rope = draft.is().filter(|r: &&Rope| !r.inverse)?;
    Some((rope.angles.clone(), draft.inputs[1]))
}

/// Layers of one input.
struct Group {
    k: usize,
    x: Key,
    norm: Option<Norm<Key>>,
    members: Vec<Member>,
    /// Steps that the group replaces.
    steps: Vec<usize>,
}

impl Group {
    /// Joins gate and up with the SwiGLU that reads them.
    fn pair(&mut self, pass: &Pass) {
        let bare = |m: &&Member| matches!(m.then, Then::Nothing);
        let outputs: usize = self.members.iter().map(|m| m.outputs.len()).sum();
        for g in 0..self.members.len() {
            let Some(gate) = self.members.get(g).filter(bare) else { continue };
            let found = pass.uses.readers(gate.outputs[0]).iter().find_map(|&i| {
                let up = |u: &usize| {
                    let up = &self.members[*u];
                    let read = [gate.outputs[0], up.outputs[0]];
                    *u != g && bare(&up) && pass.ready(i, &read).is_some_and(|d| d.inputs == read)
                };
                pass.drafts[i].as_ref()?.is::<Swiglu>()?;
                Some((i, (0..self.members.len()).find(up)?))
            });
            let Some((i, u)) = found else { continue };
            let read = [gate.outputs[0], self.members[u].outputs[0]];
            let kept = read.iter().any(|&k| pass.uses.only_reader(k).is_none());
            if kept && outputs == MAX_OUTPUTS {
                continue;
            }
            let up = self.members[u].layer;
            let gate = &mut self.members[g];
            gate.then = Then::Swiglu { up, kept };
            gate.outputs = if kept { read.to_vec() } else { vec![] };
            gate.outputs.extend(pass.drafts[i].iter().map(|d| d.outputs[0].0));
            self.members.remove(u);
            self.steps.push(i);
        }
    }

    /// Takes in the norm that writes the input.
    fn take_norm(&mut self, pass: &Pass) {
        let Some(writer) = pass.uses.writer(self.x) else { return };
        let Some(draft) = &pass.drafts[writer] else { return };
        let Some(norm) = norm(draft).filter(|n| n.h == self.k) else { return };
        let ours = |i: &usize| self.steps.contains(i);
        if !pass.uses.kept(self.x) && pass.uses.readers(self.x).iter().all(ours) {
            self.norm = Some(norm);
            self.x = draft.inputs[0];
            self.steps.push(writer);
        }
    }

    /// The fused step and the steps it replaces, if that is worth it and the operands are not too many.
    fn fuse(self, pass: &Pass) -> Option<(Draft, Vec<usize>)> {
        let Group { k, x, norm, members, steps } = self;
        if steps.len() == 1 {
            return None;
        }
        let shape = |key: &Key| {
            let writer = pass.drafts[pass.uses.writer(*key).expect("a step's output")].as_ref();
            let outputs = &writer.expect("not fused before").outputs;
            outputs.iter().find(|(k, _)| k == key).expect("its output").clone()
        };
        let outputs = members.iter().flat_map(|m| &m.outputs).map(shape).collect();
        let parts = members.into_iter().map(|m| Part { layer: m.layer, then: m.then }).collect();
        let values = FusedLinear { k, norm, parts };
        let mut inputs = vec![x];
        let kernel = values.map(|key| {
            let known = inputs.iter().position(|&k| k == key).filter(|&i| i > 0);
            known.unwrap_or_else(|| {
                inputs.push(key);
                inputs.len() - 1
            })
        });
        if inputs.len() > MAX_INPUTS {
            return None;
        }
        let shown = kernel.layers().map(|l| l.w).collect();
        let draft =
            Draft { name: name(&kernel), kernel: Arc::new(kernel), inputs, outputs, shown, gradient: None };
        Some((draft, steps))
    }
}

/// What the kernel does, in order: `norm+linear+rope`.
fn name(kernel: &FusedLinear<usize>) -> String {
    let has = |f: fn(&Then<usize>) -> bool| kernel.parts.iter().any(|p| f(&p.then));
    let words = [
        ("norm", kernel.norm.is_some()),
        ("linear", true),
        ("norm", has(|t| matches!(t, Then::Heads { norm: Some(_), .. }))),
        ("rope", has(|t| matches!(t, Then::Heads { rope: Some(_), .. }))),
        ("swiglu", has(|t| matches!(t, Then::Swiglu { .. }))),
        ("add", has(|t| matches!(t, Then::Add(_)))),
    ];
    let words: Vec<&str> = words.into_iter().filter(|w| w.1).map(|w| w.0).collect();
    words.join("+")
}
