//! The gradients of linear layers that read one value become one step: of q, k and v, of gate and up, of a layer alone, with
//! the sum over the layers, the gradient of the norm before them, the sum with the residual's gradient, and the gradient of
//! SwiGLU behind gate and up.
//!
//! The norm's output is then computed again and need not be kept, nor written where the layers' forward step takes the norm in.
//! A step stands where its last one stood: what it writes is read later, but for the nodes that add a weight's gradient
//! to the bound one, which the planner removes.

use std::{collections::BTreeSet, sync::Arc};

use super::super::{
    draft::{Draft, Key, Uses},
    primitive::PrimitiveKernel,
};
use crate::{
    cpu::MAX_LAYERS,
    graph::Primitive,
    ops::{FusedGradients, LinearDw, LinearDx, RmsNorm, RmsNormBackward, SwigluBackward},
};

pub fn run(drafts: Vec<Draft>, kept: &BTreeSet<Key>) -> Vec<Draft> {
    let uses = Uses::of(&drafts, kept);
    let mut drafts: Vec<Option<Draft>> = drafts.into_iter().map(Some).collect();
    for at in 0..drafts.len() {
        let pass = Pass { drafts: &drafts, uses: &uses };
        let Some(group) = pass.group(at) else { continue };
        let Some(fused) = group.fuse(&pass) else { continue };
        group.steps.iter().for_each(|&i| drafts[i] = None);
        let last = *group.steps.last().expect("a group has steps");
        drafts[last] = Some(fused);
    }
    drafts.into_iter().flatten().collect()
}

/// Steps that were fused before are gone.
struct Pass<'a> {
    drafts: &'a [Option<Draft>],
    uses: &'a Uses,
}

impl Pass<'_> {
    fn is<K: crate::ops::Kernel>(&self, i: usize) -> Option<(&Draft, &K)> {
        let draft = self.drafts.get(i)?.as_ref()?;
        Some((draft, draft.is()?))
    }

    /// The parameter to whose gradient `key` is added, if nothing else reads it.
    fn gradient(&self, key: Key) -> Option<usize> {
        self.drafts[self.uses.only_reader(key)?].as_ref()?.gradient
    }

    /// The sum that alone reads `key`: its step, its other operand and its value.
    fn sum(&self, key: Key) -> Option<(usize, Key, Key)> {
        let i = self.uses.only_reader(key)?;
        let (draft, _) = self.is(i).filter(|(_, p): &(_, &PrimitiveKernel)| p.is_plain(Primitive::Add))?;
        Some((i, *draft.inputs.iter().find(|k| **k != key)?, draft.outputs[0].0))
    }

    /// The layer whose input's gradient step `i` computes; its weight's comes next.
    fn layer(&self, i: usize) -> Option<Layer> {
        let (dx, &LinearDx { k, n }) = self.is(i)?;
        let (dw, _) = self.is(i + 1).filter(|(_, d): &(_, &LinearDw)| (d.k, d.n) == (k, n))?;
        let [dy, w] = dx.inputs[..] else { return None };
        let param = self.gradient(dw.outputs[0].0).filter(|_| dw.inputs[0] == dy)?;
        Some(Layer { k, n, x: dw.inputs[1], w, dy, dx: dx.outputs[0].0, dw: dw.outputs[0].0, param })
    }

    /// What can be one step with the layer at `at`, the first of those whose gradients are summed.
    fn group(&self, at: usize) -> Option<Group> {
        let first = self.layer(at)?;
        let steps = BTreeSet::from([at, at + 1]);
        let (k, x, dx) = (first.k, first.x, first.dx);
        let mut group = Group { k, x, dx, layers: vec![first], norm: None, swiglu: None, plus: None, steps };
        while group.layers.len() < MAX_LAYERS && group.take_layer(self).is_some() {}
        group.take_swiglu(self);
        group.take_norm(self);
        if let Some((add, other, sum)) = self.sum(group.dx) {
            (group.plus, group.dx) = (Some(other), sum);
            group.steps.insert(add);
        }
        Some(group)
    }
}

/// A layer's gradients.
struct Layer {
    k: usize,
    n: usize,
    x: Key,
    w: Key,
    dy: Key,
    dx: Key,
    dw: Key,
    /// The parameter to whose gradient `dw` is added.
    param: usize,
}

/// The norm of the input: its weight, `eps`, the gradient of the weight and the parameter to whose gradient that is added.
struct Norm {
    w: Key,
    eps: f32,
    dw: Key,
    param: usize,
}

/// Layers of one input, in the order in which their gradients of it are summed.
struct Group {
    k: usize,
    x: Key,
    /// The gradient written last.
    dx: Key,
    layers: Vec<Layer>,
    norm: Option<Norm>,
    /// Gate, up and the gradient of their product, and which layer is the gate.
    swiglu: Option<([Key; 3], usize)>,
    /// What is added to the gradient.
    plus: Option<Key>,
    /// Steps that the group replaces.
    steps: BTreeSet<usize>,
}

impl Group {
    /// Takes in the layer whose gradient of the same input is added to those here.
    fn take_layer(&mut self, pass: &Pass) -> Option<()> {
        let (add, other, sum) = pass.sum(self.dx)?;
        let i = pass.uses.writer(other).filter(|_| pass.uses.only_reader(other) == Some(add))?;
        let layer = pass.layer(i).filter(|l| (l.k, l.x) == (self.k, self.x))?;
        self.layers.push(layer);
        self.dx = sum;
        self.steps.extend([i, i + 1, add]);
        Some(())
    }

    /// Takes in the gradient of SwiGLU, if the two layers are all that reads it.
    fn take_swiglu(&mut self, pass: &Pass) -> Option<()> {
        let [a, b] = &self.layers[..] else { return None };
        let i = pass.uses.writer(a.dy)?;
        let (swiglu, _) = pass.is::<SwigluBackward>(i)?;
        let [gate, up] = swiglu.outputs[..].iter().map(|o| o.0).collect::<Vec<_>>()[..] else { return None };
        let gate = [a.dy, b.dy].iter().position(|&dy| dy == gate).filter(|g| [b.dy, a.dy][*g] == up)?;
        let ours =
            |k: &Key| pass.uses.readers(*k).iter().all(|r| self.steps.contains(r)) && !pass.uses.kept(*k);
        let from = swiglu.inputs[..].try_into().ok().filter(|_| [a.dy, b.dy].iter().all(ours))?;
        self.swiglu = Some((from, gate));
        self.steps.insert(i);
        Some(())
    }

    /// Takes in the gradient of the norm that writes the input.
    fn take_norm(&mut self, pass: &Pass) -> Option<()> {
        let (forward, &RmsNorm { h, eps }) = pass.is(pass.uses.writer(self.x)?)?;
        let i = pass.uses.only_reader(self.dx)?;
        let (backward, _) = pass
            .is(i)
            .filter(|(_, b): &(_, &RmsNormBackward)| h == self.k && b.norm.h == h && b.norm.eps == eps)?;
        let (x, w) = (forward.inputs[0], forward.inputs[1]);
        let [dx, dw] = [0, 1].map(|o| backward.outputs[o].0);
        let param = pass.gradient(dw).filter(|_| backward.inputs[..] == [x, w, self.dx])?;
        (self.x, self.dx) = (x, dx);
        self.norm = Some(Norm { w, eps, dw, param });
        self.steps.insert(i);
        Some(())
    }

    /// The fused step, if it may stand where its last one stood.
    fn fuse(&self, pass: &Pass) -> Option<Draft> {
        let mut params: Vec<usize> = self.layers.iter().map(|l| l.param).collect();
        params.extend(self.norm.as_ref().map(|n| n.param));
        let distinct = params.iter().collect::<BTreeSet<_>>().len() == params.len();
        let later = |r: &usize| Some(r) > self.steps.last();
        if !distinct || !pass.uses.readers(self.dx).iter().all(later) {
            return None;
        }
        let shape = |key: Key| {
            let writer = pass.drafts[pass.uses.writer(key).expect("a step's output")].as_ref();
            let outputs = &writer.expect("not fused before").outputs;
            outputs.iter().find(|(k, _)| *k == key).expect("its output").clone()
        };
        let dws = self.layers.iter().map(|l| l.dw).chain(self.norm.as_ref().map(|n| n.dw));
        let outputs = [self.dx].into_iter().chain(dws).map(shape).collect();
        let mut inputs = vec![self.x];
        inputs.extend(self.layers.iter().map(|l| l.w));
        match &self.swiglu {
            Some((from, _)) => inputs.extend(from),
            None => inputs.extend(self.layers.iter().map(|l| l.dy)),
        }
        inputs.extend(self.norm.as_ref().map(|n| n.w));
        inputs.extend(self.plus);
        let kernel = FusedGradients {
            k: self.k,
            layers: self.layers.iter().map(|l| l.n).collect(),
            norm: self.norm.as_ref().map(|n| n.eps),
            gate: self.swiglu.map(|s| s.1),
            plus: self.plus.is_some(),
        };
        let shown = (1..=self.layers.len()).collect();
        Some(Draft { name: name(&kernel), kernel: Arc::new(kernel), inputs, outputs, shown, gradient: None })
    }
}

/// What the kernel takes the gradient of, in the forward order, and the sum after it: `norm+linear+swiglu_backward+add`.
fn name(kernel: &FusedGradients) -> String {
    let words = [
        ("norm+", kernel.norm.is_some()),
        ("linear", true),
        ("+swiglu", kernel.gate.is_some()),
        ("_backward", true),
        ("+add", kernel.plus),
    ];
    words.into_iter().filter(|w| w.1).map(|w| w.0).collect()
}
