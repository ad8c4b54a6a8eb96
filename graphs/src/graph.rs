//! Graphs under construction: a luminal graph, the leaves we add to it, and how its nodes are read back by passes.
//!
//! What can be written with it is in [`crate::tensor`] and [`crate::ops`].

use std::{cell::RefCell, ops::Range, rc::Rc, sync::Arc};

use luminal::{
    op::{self, Constant, ConstantValue, InputTensor, Operator},
    shape::tracker::ShapeTracker,
    tensor::Tensor as Data,
};

pub use luminal::graph::NodeIndex;

use crate::{
    ops::{Composite, CompositeOp},
    shape::{self, Dim, Shape},
    tensor::Tensor,
};

/// A value from outside the graph, bound when a plan runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeafKind {
    /// Parameter by index.
    Param(usize),
    /// Gradient buffer of the parameter, as an input (optimizer graphs).
    Grad(usize),
    /// First moment of the parameter.
    Moment1(usize),
    /// Second moment of the parameter.
    Moment2(usize),
    /// The n-th `f32` input.
    F32(usize),
    /// The n-th `u32` input.
    U32(usize),
    /// The batch's segments. To primitives: the number of the segment each token is in, `[t]`.
    Segments,
}

/// The luminal node of a [`LeafKind`].
#[derive(Clone, Debug, PartialEq)]
pub struct Leaf {
    /// What is bound here.
    pub kind: LeafKind,
    /// Name for messages and look-ups.
    pub name: String,
    /// Dimensions.
    pub dims: Shape,
}

impl Operator for Leaf {
    fn process(&mut self, _: Vec<(InputTensor, ShapeTracker)>) -> Vec<Data> {
        panic!("set a tensor for {} before executing the graph", self.name)
    }
    fn custom(&mut self, key: &str, _: Box<dyn std::any::Any>) -> Option<Box<dyn std::any::Any>> {
        (key == "leaf").then(|| Box::new(self.clone()) as _)
    }
}

/// Constant data, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Literal {
    /// The numbers.
    pub data: Arc<[f32]>,
    /// Dimensions, all constant.
    pub dims: Shape,
}

impl Operator for Literal {
    fn process(&mut self, _: Vec<(InputTensor, ShapeTracker)>) -> Vec<Data> {
        vec![Data::new(self.data.to_vec())]
    }
}

/// The numbers 0, 1, 2 … along one dimension of its input; what a slice index is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Iota(pub usize);

impl Operator for Iota {
    fn process(&mut self, inp: Vec<(InputTensor, ShapeTracker)>) -> Vec<Data> {
        let n = inp[0].1.shape()[self.0].to_usize().expect("dimensions are resolved at execution");
        vec![Data::new((0..n).map(|i| i as f32).collect::<Vec<_>>())]
    }
}

/// What a node of the graph is.
#[derive(Clone, Debug)]
pub enum Node {
    /// A bound value.
    Leaf(Leaf),
    /// Constant data.
    Literal(Literal),
    /// A constant scalar.
    Constant(f32),
    /// One of luminal's primitives.
    Primitive(Primitive),
    /// One of ours.
    Composite(Arc<dyn Composite>),
}

/// luminal's primitives with more than no inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Primitive {
    Log2,
    Exp2,
    Sin,
    Sqrt,
    Recip,
    Contiguous,
    Add,
    Mul,
    Mod,
    LessThan,
    SumReduce(usize),
    MaxReduce(usize),
    Iota(usize),
}

impl Primitive {
    /// Whether it runs over the buffer behind its input and keeps the view, as luminal's unary operators do.
    pub(crate) fn is_unary(self) -> bool {
        use Primitive::*;
        matches!(self, Log2 | Exp2 | Sin | Sqrt | Recip)
    }
}

/// A graph under construction: a cheap handle, shared by its tensors.
///
/// It stays on its thread, as luminal's graph does; a compiled [`crate::plan::Plan`] may move.
#[derive(Clone, Default)]
pub struct Graph(Rc<Inner>);

#[derive(Default)]
struct Inner {
    luminal: RefCell<luminal::graph::Graph>,
    regions: RefCell<Vec<Range<usize>>>,
}

impl Graph {
    /// An empty graph.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs `f` on the luminal graph.
    ///
    /// No `Tensor` method may be called inside.
    pub fn with<R>(&self, f: impl FnOnce(&mut luminal::graph::Graph) -> R) -> R {
        f(&mut self.0.luminal.borrow_mut())
    }

    /// Takes over a luminal graph for the time of a pass; [`Graph::release`] gives it back.
    ///
    /// Moving is sound because every `Constant` here is a number: none points at the graph's `dyn_map`.
    pub(crate) fn adopt(lum: luminal::graph::Graph) -> Self {
        Graph(Rc::new(Inner { luminal: RefCell::new(lum), regions: RefCell::default() }))
    }

    pub(crate) fn release(&self) -> luminal::graph::Graph {
        self.0.luminal.take()
    }

    pub(crate) fn same(&self, other: &Graph) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }

    /// Marks the nodes `f` adds as one region, the unit of activation checkpointing; usually a layer.
    /// Regions don't nest. Tensors made inside and used outside are the region's outputs.
    pub fn region<R>(&self, f: impl FnOnce() -> R) -> R {
        let start = self.len();
        let r = f();
        self.0.regions.borrow_mut().push(start..self.len());
        r
    }

    pub(crate) fn regions(&self) -> Vec<Range<usize>> {
        self.0.regions.borrow().clone()
    }

    /// Number of nodes; they are numbered in the order they were added, inputs first.
    pub fn len(&self) -> usize {
        self.0.luminal.borrow().graph.node_count()
    }

    /// Whether nothing was added yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn leaf(&self, kind: LeafKind, name: &str, dims: &[Dim]) -> Tensor {
        let leaf = Leaf { kind, name: name.to_string(), dims: dims.to_vec() };
        self.add(leaf, &[], dims)
    }

    fn count(&self, f: impl Fn(LeafKind) -> bool) -> usize {
        (0..self.len())
            .filter(|&i| matches!(self.node(NodeIndex::new(i)), Node::Leaf(l) if f(l.kind)))
            .count()
    }

    /// Parameter `index` of constant shape `dims`, called `name` in messages.
    ///
    /// Use the same index again for a tied weight: both nodes read it, and gradients of both add up.
    pub fn param(&self, index: usize, name: &str, dims: &[usize]) -> Tensor {
        let dims: Vec<Dim> = dims.iter().map(|&d| d.into()).collect();
        self.leaf(LeafKind::Param(index), name, &dims)
    }

    /// State of parameter `index` that an optimizer graph reads beside its value.
    pub(crate) fn param_state(&self, kind: LeafKind, name: &str, dims: &[usize]) -> Tensor {
        let dims: Vec<Dim> = dims.iter().map(|&d| d.into()).collect();
        self.leaf(kind, name, &dims)
    }

    /// An `f32` input; `[]` is a scalar. Bound through [`crate::plan::Bindings`] by its name.
    pub fn f32_input(&self, name: &str, dims: &[Dim]) -> Tensor {
        let n = self.count(|k| matches!(k, LeafKind::F32(_)));
        self.leaf(LeafKind::F32(n), name, dims)
    }

    /// A `u32` input (token ids, positions, row numbers).
    pub fn u32_input(&self, name: &str, dims: &[Dim]) -> Tensor {
        let n = self.count(|k| matches!(k, LeafKind::U32(_)));
        self.leaf(LeafKind::U32(n), name, dims)
    }

    /// The batch's segments, an input of attention.
    pub fn segments(&self) -> Tensor {
        self.leaf(LeafKind::Segments, "segments", &[Dim::Tokens])
    }

    /// A constant scalar.
    pub fn constant(&self, value: f32) -> Tensor {
        // A float constant never reads the pointer.
        self.add(Constant(ConstantValue::Float(value), std::ptr::null()), &[], &[])
    }

    /// Constant data of constant shape, row-major.
    pub fn literal(&self, data: &[f32], dims: &[usize]) -> Tensor {
        assert_eq!(data.len(), dims.iter().product::<usize>(), "literal of shape {dims:?}");
        let dims: Shape = dims.iter().map(|&d| d.into()).collect();
        self.add(Literal { data: data.into(), dims: dims.clone() }, &[], &dims)
    }

    fn add<O: Operator + 'static>(&self, op: O, inputs: &[&Tensor], dims: &[Dim]) -> Tensor {
        let mut lum = self.0.luminal.borrow_mut();
        let mut new = lum.add_op(op);
        for t in inputs {
            debug_assert!(self.same(t.graph()), "tensors of two graphs");
            new = new.input(t.id, t.out, t.shape);
        }
        let id = new.finish();
        self.output(id, 0, dims)
    }

    /// Adds a composite op and returns its outputs. Inputs are made contiguous first.
    pub fn composite(&self, op: Arc<dyn Composite>, inputs: &[&Tensor]) -> Vec<Tensor> {
        let inputs: Vec<Tensor> = inputs.iter().map(|t| t.contiguous()).collect();
        let shapes = op.infer(&inputs.iter().map(Tensor::dims).collect::<Vec<_>>());
        let first = self.add(CompositeOp(op), &inputs.iter().collect::<Vec<_>>(), &[]);
        let out = |(i, dims): (usize, &Shape)| self.output(first.id, i as u8, dims);
        shapes.iter().enumerate().map(out).collect()
    }

    /// Output `out` of node `id`, which has the contiguous shape `dims`.
    pub(crate) fn output(&self, id: NodeIndex, out: u8, dims: &[Dim]) -> Tensor {
        self.view(id, out, shape::tracker(dims))
    }

    pub(crate) fn view(&self, id: NodeIndex, out: u8, shape: ShapeTracker) -> Tensor {
        Tensor { id, out, shape, graph: self.clone() }
    }

    /// What node `id` is.
    ///
    /// Panics on an operator this crate doesn't know.
    pub fn node(&self, id: NodeIndex) -> Node {
        let mut lum = self.0.luminal.borrow_mut();
        if let Some(leaf) = lum.node_custom::<Leaf, _>(id, "leaf", ()) {
            return Node::Leaf(leaf);
        }
        if let Some(c) = lum.node_custom::<Arc<dyn Composite>, _>(id, "composite", ()) {
            return Node::Composite(c);
        }
        let op = (**lum.graph.node_weight(id).expect("node exists")).as_any();
        macro_rules! known {
            ($($t:ident),*) => { $(if op.is::<op::$t>() { return Node::Primitive(Primitive::$t); })* };
        }
        known!(Log2, Exp2, Sin, Sqrt, Recip, Contiguous, Add, Mul, Mod, LessThan);
        if let Some(r) = op.downcast_ref::<op::SumReduce>() {
            return Node::Primitive(Primitive::SumReduce(r.0));
        }
        if let Some(r) = op.downcast_ref::<op::MaxReduce>() {
            return Node::Primitive(Primitive::MaxReduce(r.0));
        }
        if let Some(i) = op.downcast_ref::<Iota>() {
            return Node::Primitive(Primitive::Iota(i.0));
        }
        if let Some(l) = op.downcast_ref::<Literal>() {
            return Node::Literal(l.clone());
        }
        match op.downcast_ref::<Constant>() {
            Some(Constant(ConstantValue::Float(v), _)) => Node::Constant(*v),
            _ => panic!("unknown operator at node {}", id.index()),
        }
    }

    /// The inputs of node `id` in order.
    pub fn inputs(&self, id: NodeIndex) -> Vec<Tensor> {
        let sources = self.0.luminal.borrow().get_sources(id);
        sources.into_iter().map(|(id, out, shape)| self.view(id, out, shape)).collect()
    }

    /// The shapes of the buffers node `id` writes, one an output.
    pub fn outputs(&self, id: NodeIndex) -> Vec<Shape> {
        let inputs = self.inputs(id);
        match self.node(id) {
            Node::Leaf(l) => vec![l.dims],
            Node::Literal(l) => vec![l.dims],
            Node::Constant(_) => vec![vec![]],
            Node::Composite(c) => c.infer(&inputs.iter().map(Tensor::dims).collect::<Vec<_>>()),
            Node::Primitive(p) => vec![match p {
                p if p.is_unary() => shape::stored(&inputs[0].shape),
                Primitive::SumReduce(axis) | Primitive::MaxReduce(axis) => {
                    let mut d = inputs[0].dims();
                    d.remove(axis);
                    d
                }
                Primitive::Iota(axis) => vec![inputs[0].dims()[axis]],
                _ => inputs[0].dims(),
            }],
        }
    }

    /// Adds a node like `node` that reads `inputs`.
    pub(crate) fn copy_node(&self, node: Node, inputs: &[Tensor]) -> NodeIndex {
        let inputs: Vec<&Tensor> = inputs.iter().collect();
        match node {
            Node::Leaf(l) => self.add(l, &[], &[]).id,
            Node::Literal(l) => self.add(l, &[], &[]).id,
            Node::Constant(v) => self.constant(v).id,
            Node::Composite(c) => self.add(CompositeOp(c), &inputs, &[]).id,
            Node::Primitive(p) => self.primitive(p, &inputs, &[]).id,
        }
    }

    pub(crate) fn primitive(&self, p: Primitive, inputs: &[&Tensor], dims: &[Dim]) -> Tensor {
        match p {
            Primitive::Log2 => self.add(op::Log2, inputs, dims),
            Primitive::Exp2 => self.add(op::Exp2, inputs, dims),
            Primitive::Sin => self.add(op::Sin, inputs, dims),
            Primitive::Sqrt => self.add(op::Sqrt, inputs, dims),
            Primitive::Recip => self.add(op::Recip, inputs, dims),
            Primitive::Contiguous => self.add(op::Contiguous, inputs, dims),
            Primitive::Add => self.add(op::Add, inputs, dims),
            Primitive::Mul => self.add(op::Mul, inputs, dims),
            Primitive::Mod => self.add(op::Mod, inputs, dims),
            Primitive::LessThan => self.add(op::LessThan, inputs, dims),
            Primitive::SumReduce(a) => self.add(op::SumReduce(a), inputs, dims),
            Primitive::MaxReduce(a) => self.add(op::MaxReduce(a), inputs, dims),
            Primitive::Iota(a) => self.add(Iota(a), inputs, dims),
        }
    }
}
