//! Reverse-mode differentiation as a luminal compiler pass: a rule for each primitive, each composite brings its own.
//!
//! Gradients are ordinary nodes added after the forward ones. A parameter's gradient ends in an accumulate node
//! for every use of the parameter, so tied weights need nothing special.
//!
//! **Checkpointing.** With [`DiffOptions::recompute`], the forward nodes of the first regions (see [`Graph::region`]) are
//! copied just before their backward pass, which then reads the copies. The originals die early, only the regions' inputs
//! stay, and the copies run the same kernels on the same numbers: the gradients are bitwise the same. The first, since
//! their backward pass comes last, when what the others kept is gone.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
};

use luminal::{
    compiler_utils::{Compiler, ToIdsMut},
    graph::NodeIndex,
};

use crate::{
    graph::{Graph, LeafKind, Node, Primitive},
    ops::{Accumulate, Backward},
    shape::{self, Shape},
    tensor::Tensor,
};

/// A value of the graph: a node's output.
type Key = (usize, u8);

/// The pass. Use it through [`Graph::differentiate`].
#[derive(Debug)]
pub struct Autograd {
    loss: Key,
    wrt: Vec<(Key, Shape)>,
    recompute: usize,
    regions: Vec<Range<usize>>,
    results: RefCell<Vec<Option<(Key, Shape)>>>,
}

/// How to differentiate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiffOptions {
    /// How many regions, from the first on, compute their forward pass again in the backward pass instead of keeping it;
    /// `usize::MAX` for all.
    pub recompute: usize,
}

impl Graph {
    /// Adds the gradient of the scalar `loss` for every parameter it depends on, to be added to the gradient buffers
    /// bound at run time; returns the gradients of `wrt` (inputs or computed values), `None` where there is none.
    pub fn differentiate(&self, loss: &Tensor, wrt: &[&Tensor], options: DiffOptions) -> Vec<Option<Tensor>> {
        assert!(
            shape::Size::of(&loss.dims()) == shape::Size::ONE,
            "the loss is a scalar, not {:?}",
            loss.dims()
        );
        let pass = Autograd {
            loss: (loss.id.index(), loss.out),
            wrt: wrt.iter().map(|t| ((t.id.index(), t.out), t.dims())).collect(),
            recompute: options.recompute,
            regions: self.regions(),
            results: RefCell::default(),
        };
        self.with(|g| pass.compile(g, ()));
        let found = pass.results.take();
        found.into_iter().map(|r| r.map(|((id, out), d)| self.output(NodeIndex::new(id), out, &d))).collect()
    }
}

impl Graph {
    /// The parameter gradients the graph computes, a term for every use of a parameter, with the parameter's index.
    pub fn gradients(&self) -> Vec<(usize, Tensor)> {
        let term = |id: NodeIndex| match self.node(id) {
            Node::Composite(c) => c.gradient_of().map(|p| (p, self.output(id, 0, &self.outputs(id)[0]))),
            _ => None,
        };
        (0..self.len()).filter_map(|i| term(NodeIndex::new(i))).collect()
    }
}

impl Compiler for Autograd {
    fn compile<T: ToIdsMut>(&self, luminal: &mut luminal::graph::Graph, _: T) {
        let graph = Graph::adopt(std::mem::take(luminal));
        let grads = Reverse::new(&graph, self).run();
        *self.results.borrow_mut() = self
            .wrt
            .iter()
            .map(|(key, dims)| {
                grads.get(key).map(|g| {
                    let g = g.reshape(dims);
                    ((g.id.index(), g.out), dims.clone())
                })
            })
            .collect();
        *luminal = graph.release();
    }
}

struct Reverse<'a> {
    graph: &'a Graph,
    pass: &'a Autograd,
    /// Whether a gradient has to reach the value.
    needs: BTreeSet<Key>,
    grads: BTreeMap<Key, Tensor>,
    /// Recomputed copies of forward nodes.
    copies: BTreeMap<usize, NodeIndex>,
}

impl<'a> Reverse<'a> {
    fn new(graph: &'a Graph, pass: &'a Autograd) -> Self {
        let mut needs: BTreeSet<Key> = pass.wrt.iter().map(|w| w.0).collect();
        for i in 0..=pass.loss.0 {
            let id = NodeIndex::new(i);
            let reached = || graph.inputs(id).iter().any(|t| needs.contains(&(t.id.index(), t.out)));
            let (needed, outputs) = match graph.node(id) {
                Node::Leaf(l) => (matches!(l.kind, LeafKind::Param(_)), 1),
                Node::Literal(_) | Node::Constant(_) => (false, 1),
                Node::Primitive(Primitive::LessThan | Primitive::Iota(_)) => (false, 1),
                Node::Primitive(_) => (reached(), 1),
                Node::Composite(c) => (c.differentiable() && reached(), graph.outputs(id).len()),
            };
            if needed {
                needs.extend((0..outputs).map(|o| (i, o as u8)));
            }
        }
        Reverse { graph, pass, needs, grads: BTreeMap::new(), copies: BTreeMap::new() }
    }

    fn run(mut self) -> BTreeMap<Key, Tensor> {
        let (loss, out) = self.pass.loss;
        let dims = &self.graph.outputs(NodeIndex::new(loss))[out as usize];
        let one = self.graph.constant(1.0);
        let seed = dims.iter().enumerate().fold(one, |t, (i, &d)| t.expand(i, d));
        self.grads.insert((loss, out), seed);
        for i in (0..=loss).rev() {
            self.step(i);
        }
        self.grads
    }

    fn step(&mut self, i: usize) {
        let id = NodeIndex::new(i);
        let shapes = self.graph.outputs(id);
        let keys = (0..shapes.len()).map(|o| (i, o as u8));
        let grads: Vec<Option<Tensor>> = keys.map(|k| self.grads.get(&k).cloned()).collect();
        if grads.iter().all(Option::is_none) {
            return;
        }
        let node = self.graph.node(id);
        if let Node::Leaf(_) | Node::Literal(_) | Node::Constant(_) = node {
            return;
        }
        let mut sources = self.graph.inputs(id);
        if let Node::Primitive(p) = &node
            && p.is_unary()
        {
            // They run over the buffer behind the view, and so does their gradient.
            let t = &sources[0];
            sources[0] = self.graph.output(t.id, t.out, &shape::stored(&t.shape));
        }
        let needs: Vec<bool> = sources.iter().map(|t| self.needs.contains(&(t.id.index(), t.out))).collect();
        if !needs.contains(&true) {
            return;
        }
        self.recompute(i);
        let inputs: Vec<Tensor> = sources.iter().map(|t| self.latest(t)).collect();
        let at = self.copies.get(&i).copied().unwrap_or(id);
        let outputs: Vec<Tensor> =
            shapes.iter().enumerate().map(|(o, d)| self.graph.output(at, o as u8, d)).collect();
        let results = match node {
            Node::Composite(c) => c.gradient(&Backward {
                graph: self.graph,
                inputs: &inputs,
                outputs: &outputs,
                grads: &grads,
                needs: &needs,
            }),
            Node::Primitive(p) => primitive(p, &inputs, &outputs[0], grads[0].as_ref().expect("one output")),
            _ => unreachable!("leaves were handled"),
        };
        for ((source, grad), needed) in sources.iter().zip(results).zip(needs) {
            if let (Some(grad), true) = (grad, needed) {
                self.collect(source, grad);
            }
        }
    }

    /// Adds the gradient of the view `source` to that of the value behind it.
    fn collect(&mut self, source: &Tensor, grad: Tensor) {
        let key = (source.id.index(), source.out);
        let dims = &self.graph.outputs(source.id)[source.out as usize];
        let grad = to_storage(source, &grad).reshape(dims);
        if let Node::Leaf(leaf) = self.graph.node(source.id)
            && let LeafKind::Param(param) = leaf.kind
        {
            self.graph.composite(Arc::new(Accumulate { param }), &[&grad]);
            if !self.pass.wrt.iter().any(|w| w.0 == key) {
                return;
            }
        }
        let sum = match self.grads.get(&key) {
            Some(sum) => sum + &grad,
            None => grad,
        };
        self.grads.insert(key, sum);
    }

    /// Before the first backward step of a region: copies its forward nodes.
    fn recompute(&mut self, i: usize) {
        if self.copies.contains_key(&i) {
            return;
        }
        let mut recomputed = self.pass.regions.iter().take(self.pass.recompute);
        let Some(region) = recomputed.find(|r| r.contains(&i)).cloned() else { return };
        for j in region {
            let id = NodeIndex::new(j);
            let node = self.graph.node(id);
            if !matches!(node, Node::Primitive(_) | Node::Composite(_)) {
                continue;
            }
            let inputs: Vec<Tensor> = self.graph.inputs(id).iter().map(|t| self.latest(t)).collect();
            self.copies.insert(j, self.graph.copy_node(node, &inputs));
        }
    }

    /// The recomputed copy of a value if there is one.
    ///
    /// Only nodes of the region at hand see copies of its own: a later region reads an earlier one's outputs before
    /// that one is copied.
    fn latest(&self, t: &Tensor) -> Tensor {
        match self.copies.get(&t.id.index()) {
            Some(&copy) => self.graph.view(copy, t.out, t.shape),
            None => t.clone(),
        }
    }
}

/// Turns the gradient of a view into that of the buffer behind it: sums over expanded axes, then undoes the permutation.
fn to_storage(view: &Tensor, grad: &Tensor) -> Tensor {
    let storage = shape::axis_storage(&view.shape);
    let mut g = grad.clone();
    for axis in (0..storage.len()).rev().filter(|&a| storage[a].is_none()) {
        g = g.sum(axis);
    }
    let order: Vec<usize> = storage.into_iter().flatten().collect();
    let mut axes = vec![0; order.len()];
    order.iter().enumerate().for_each(|(axis, &stored)| axes[stored] = axis);
    g.permute(&axes)
}

/// Gradients of a primitive's inputs, as seen through their views.
fn primitive(p: Primitive, x: &[Tensor], y: &Tensor, dy: &Tensor) -> Vec<Option<Tensor>> {
    use std::f32::consts::{LN_2, LOG2_E};
    match p {
        Primitive::Log2 => vec![Some(dy * x[0].recip() * LOG2_E)],
        Primitive::Exp2 => vec![Some(dy * y * LN_2)],
        Primitive::Sin => vec![Some(dy * x[0].cos())],
        Primitive::Sqrt => vec![Some(dy * y.recip() * 0.5)],
        Primitive::Recip => vec![Some(-(dy * y.square()))],
        Primitive::Contiguous => vec![Some(dy.clone())],
        Primitive::Add => vec![Some(dy.clone()), Some(dy.clone())],
        Primitive::Mul => vec![Some(dy * &x[1]), Some(dy * &x[0])],
        // a − b·trunc(a/b)
        Primitive::Mod => vec![Some(dy.clone()), Some(dy * &((y - &x[0]) / &x[1]))],
        Primitive::SumReduce(axis) => vec![Some(dy.expand(axis, x[0].dims()[axis]))],
        Primitive::MaxReduce(axis) => {
            // Shared equally between ties, as PyTorch's amax does.
            let n = x[0].dims()[axis];
            let largest = 1.0 - &x[0].less_than(&y.expand(axis, n));
            let share = dy / &largest.sum(axis);
            vec![Some(largest * share.expand(axis, n))]
        }
        Primitive::LessThan => vec![None, None],
        Primitive::Iota(_) => vec![None],
    }
}
