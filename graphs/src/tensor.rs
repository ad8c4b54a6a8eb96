//! Symbolic tensors with run-time shapes over a luminal graph.
//!
//! luminal's own `GraphTensor<S>` fixes shapes at compile time; [`Tensor`] carries a `ShapeTracker` instead and
//! adds the same twelve primitives. Movement is tracker arithmetic: permute, expand, and reshape of contiguous data.
//! Slices and padding are deliberately absent, and so is any evaluation: see [`crate::plan`].

use std::{
    cell::RefCell,
    ops::{Add, Div, Mul, Neg, Range, Sub},
    rc::Rc,
    sync::Arc,
};

use luminal::{
    op::{self, Constant, ConstantValue, InputTensor, Operator},
    shape::tracker::ShapeTracker,
    tensor::Tensor as Data,
};

pub use luminal::graph::NodeIndex;

use crate::{
    ops::{Composite, CompositeOp},
    shape::{self, Dim, Shape},
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

/// A node's output seen through a shape.
#[derive(Clone)]
pub struct Tensor {
    /// Node in the luminal graph.
    pub id: NodeIndex,
    /// Which of the node's outputs.
    pub out: u8,
    /// The view.
    pub shape: ShapeTracker,
    graph: Graph,
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "%{}.{} {:?}", self.id.index(), self.out, self.dims())
    }
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
            debug_assert!(self.same(&t.graph), "tensors of two graphs");
            new = new.input(t.id, t.out, t.shape);
        }
        let id = new.finish();
        Tensor { id, out: 0, shape: shape::tracker(dims), graph: self.clone() }
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
        Tensor { id, out, shape: shape::tracker(dims), graph: self.clone() }
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

impl Tensor {
    /// Output `out` of node `id`.
    pub fn of_node(graph: &Graph, id: NodeIndex, out: u8) -> Tensor {
        graph.output(id, out, &graph.outputs(id)[out as usize])
    }

    /// The graph the tensor belongs to.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Logical dimensions.
    pub fn dims(&self) -> Shape {
        shape::dims(&self.shape)
    }

    /// Size of the last axis, which must be constant.
    pub fn width(&self) -> usize {
        self.dims().last().expect("a tensor with axes").fixed()
    }

    fn unary(&self, p: Primitive) -> Tensor {
        Tensor { shape: self.shape, ..self.graph.primitive(p, &[self], &[]) }
    }

    fn binary(&self, p: Primitive, rhs: &Tensor) -> Tensor {
        let (a, b) = (self.dims(), rhs.dims());
        if a.is_empty() && !b.is_empty() {
            return self.expand_scalar(&b).binary(p, rhs);
        }
        if b.is_empty() && !a.is_empty() {
            return self.binary(p, &rhs.expand_scalar(&a));
        }
        assert_eq!(a, b, "{p:?} of two shapes");
        self.graph.primitive(p, &[self, rhs], &a)
    }

    fn reduce(&self, p: Primitive, axis: usize) -> Tensor {
        let mut d = self.dims();
        d.remove(axis);
        self.graph.primitive(p, &[self], &d)
    }

    /// log₂ x.
    pub fn log2(&self) -> Tensor {
        self.unary(Primitive::Log2)
    }
    /// 2ˣ.
    pub fn exp2(&self) -> Tensor {
        self.unary(Primitive::Exp2)
    }
    /// sin x.
    pub fn sin(&self) -> Tensor {
        self.unary(Primitive::Sin)
    }
    /// √x.
    pub fn sqrt(&self) -> Tensor {
        self.unary(Primitive::Sqrt)
    }
    /// 1/x.
    pub fn recip(&self) -> Tensor {
        self.unary(Primitive::Recip)
    }
    /// eˣ.
    pub fn exp(&self) -> Tensor {
        (self * std::f32::consts::LOG2_E).exp2()
    }
    /// ln x.
    pub fn ln(&self) -> Tensor {
        self.log2() * std::f32::consts::LN_2
    }
    /// cos x.
    pub fn cos(&self) -> Tensor {
        (-self + std::f32::consts::FRAC_PI_2).sin()
    }
    /// x².
    pub fn square(&self) -> Tensor {
        self * self
    }
    /// Remainder of x / y with the sign of x.
    pub fn rem(&self, rhs: &Tensor) -> Tensor {
        self.binary(Primitive::Mod, rhs)
    }
    /// 1 where x < y, else 0. It has no gradient.
    pub fn less_than(&self, rhs: &Tensor) -> Tensor {
        self.binary(Primitive::LessThan, rhs)
    }
    /// 1 where x = y, else 0. It has no gradient.
    pub fn equals(&self, rhs: &Tensor) -> Tensor {
        (1.0 - &self.less_than(rhs)) * (1.0 - &rhs.less_than(self))
    }
    /// `a` where the mask is 1, `b` where it is 0. Both must be finite.
    pub fn select(&self, a: &Tensor, b: &Tensor) -> Tensor {
        self * a + (1.0 - self) * b
    }
    /// The larger one. At a tie the value and the gradient are those of `self`.
    pub fn max(&self, rhs: &Tensor) -> Tensor {
        self.less_than(rhs).select(rhs, self)
    }
    /// The smaller one. At a tie the value and the gradient are those of `self`.
    pub fn min(&self, rhs: &Tensor) -> Tensor {
        rhs.less_than(self).select(rhs, self)
    }
    /// x limited to `[low, high]`.
    pub fn clamp(&self, low: f32, high: f32) -> Tensor {
        let g = &self.graph;
        self.max(&g.constant(low)).min(&g.constant(high))
    }
    /// Sum over an axis, which disappears.
    pub fn sum(&self, axis: usize) -> Tensor {
        self.reduce(Primitive::SumReduce(axis), axis)
    }
    /// Largest along an axis, which disappears.
    pub fn max_reduce(&self, axis: usize) -> Tensor {
        self.reduce(Primitive::MaxReduce(axis), axis)
    }
    /// Mean over an axis of constant size, which disappears.
    pub fn mean(&self, axis: usize) -> Tensor {
        let n = self.dims()[axis].fixed();
        self.sum(axis) * (1.0 / n as f32)
    }
    /// 0, 1, 2 … along an axis of this tensor: `[that axis]`.
    pub fn iota(&self, axis: usize) -> Tensor {
        let d = self.dims()[axis];
        self.graph.primitive(Primitive::Iota(axis), &[self], &[d])
    }

    /// Whether the view is the buffer in its order.
    pub fn is_contiguous(&self) -> bool {
        self.shape.is_contiguous()
    }

    /// The same numbers laid out in order; a copy only if they aren't yet.
    pub fn contiguous(&self) -> Tensor {
        if self.is_contiguous() {
            return self.clone();
        }
        self.graph.primitive(Primitive::Contiguous, &[self], &self.dims())
    }

    /// Axes in a new order: axis `i` of the result is axis `axes[i]` of this.
    pub fn permute(&self, axes: &[usize]) -> Tensor {
        let mut t = self.clone();
        t.shape.permute(axes);
        t
    }

    /// A new axis before `axis`, along which the numbers repeat.
    pub fn expand(&self, axis: usize, dim: impl Into<Dim>) -> Tensor {
        let mut t = self.clone();
        t.shape.expand(axis, dim.into().expression());
        t
    }

    fn expand_scalar(&self, dims: &[Dim]) -> Tensor {
        dims.iter().enumerate().fold(self.clone(), |t, (i, &d)| t.expand(i, d))
    }

    /// The same numbers under another shape with as many elements.
    pub fn reshape(&self, dims: &[Dim]) -> Tensor {
        let t = self.contiguous();
        assert_eq!(
            shape::Size::of(&t.dims()),
            shape::Size::of(dims),
            "reshape of {:?} to {dims:?}",
            t.dims()
        );
        Tensor { shape: shape::tracker(dims), ..t }
    }
}

macro_rules! operator {
    ($trait:ident, $method:ident, |$a:ident, $b:ident| $tensor:expr, |$x:ident, $c:ident| $right:expr, |$d:ident, $y:ident| $left:expr) => {
        impl $trait<&Tensor> for &Tensor {
            type Output = Tensor;
            fn $method(self, rhs: &Tensor) -> Tensor {
                let ($a, $b) = (self, rhs);
                $tensor
            }
        }
        impl $trait<Tensor> for &Tensor {
            type Output = Tensor;
            fn $method(self, rhs: Tensor) -> Tensor {
                $trait::$method(self, &rhs)
            }
        }
        impl $trait<&Tensor> for Tensor {
            type Output = Tensor;
            fn $method(self, rhs: &Tensor) -> Tensor {
                $trait::$method(&self, rhs)
            }
        }
        impl $trait<Tensor> for Tensor {
            type Output = Tensor;
            fn $method(self, rhs: Tensor) -> Tensor {
                $trait::$method(&self, &rhs)
            }
        }
        impl $trait<f32> for &Tensor {
            type Output = Tensor;
            fn $method(self, rhs: f32) -> Tensor {
                let ($x, $c) = (self, rhs);
                $right
            }
        }
        impl $trait<f32> for Tensor {
            type Output = Tensor;
            fn $method(self, rhs: f32) -> Tensor {
                $trait::$method(&self, rhs)
            }
        }
        impl $trait<&Tensor> for f32 {
            type Output = Tensor;
            fn $method(self, rhs: &Tensor) -> Tensor {
                let ($d, $y) = (self, rhs);
                $left
            }
        }
        impl $trait<Tensor> for f32 {
            type Output = Tensor;
            fn $method(self, rhs: Tensor) -> Tensor {
                $trait::$method(self, &rhs)
            }
        }
    };
}

operator!(Add, add, |a, b| a.binary(Primitive::Add, b), |x, c| x + &x.graph.constant(c), |c, x| x + c);
operator!(Mul, mul, |a, b| a.binary(Primitive::Mul, b), |x, c| x * &x.graph.constant(c), |c, x| x * c);
operator!(Sub, sub, |a, b| a + &(-b), |x, c| x + (-c), |c, x| &(-x) + c);
operator!(Div, div, |a, b| a * &b.recip(), |x, c| x * (1.0 / c), |c, x| &x.recip() * c);

impl Neg for &Tensor {
    type Output = Tensor;
    fn neg(self) -> Tensor {
        self * -1.0
    }
}
impl Neg for Tensor {
    type Output = Tensor;
    fn neg(self) -> Tensor {
        -&self
    }
}
