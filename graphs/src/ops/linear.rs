//! `y = x · Wᵀ (+ b)` with `W[out, in]` as stored in a checkpoint, and its three gradients.

use std::sync::Arc;

use super::{Backward, Composite, Io, Kernel, Product, Work};
use crate::{
    cpu::{self, Dims},
    graph::Graph,
    shape::{Dim, Extent, Shape, Size},
    tensor::Tensor,
};

fn swap_last(shape: &Shape, width: usize) -> Shape {
    let mut s = shape.clone();
    *s.last_mut().expect("rows and a width") = Dim::Fixed(width);
    s
}

fn rows(shape_len: usize, width: usize) -> usize {
    shape_len / width
}

/// Rows of a tensor at most, from its capacity: linear layers run on `[tokens, k]` or `[rows, k]`.
fn most(e: Extent) -> usize {
    e.tokens.max(e.rows)
}

/// `x[.., k]`, `w[n, k]`, optional `b[n]` → `y[.., n]`.
#[derive(Debug, Clone, Copy)]
pub struct Linear {
    /// Input features.
    pub k: usize,
    /// Output features.
    pub n: usize,
}

impl Linear {
    fn dims(&self, t: usize) -> Dims {
        Dims { t, n: self.n, k: self.k }
    }
}

impl Kernel for Linear {
    fn scratch(&self, e: Extent, bf16: bool) -> usize {
        cpu::linear_scratch(self.dims(most(e)), bf16)
    }
    fn work(&self, io: &Io<'_>) -> Work {
        let t = rows(io.f32(0).len(), self.k);
        let bias = if io.optional_mat(2).is_some() { t * self.n } else { 0 };
        self.operands(io).product(2 * t * self.n * self.k, io.mat(1).is_bf16()).flop(bias)
    }
    fn run(&self, io: &mut Io<'_>) {
        let (x, y, mut scratch) = (io.f32(0), io.take(0), io.scratch());
        let layer = cpu::Layer { w: io.mat(1), bias: io.optional_mat(2), panels: io.panels(1) };
        cpu::linears(x, None, self.k, &[Some(cpu::Job::linear(layer, y))], &mut scratch);
    }
    fn product_of(&self, i: usize) -> Option<Product> {
        (i == 1).then_some(Product { n: self.n, k: self.k, gradient: false })
    }
}

impl Composite for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }
    fn infer(&self, inputs: &[Shape]) -> Vec<Shape> {
        vec![swap_last(&inputs[0], self.n)]
    }
    fn decompose(&self, _: &Graph, inputs: &[Tensor]) -> Vec<Tensor> {
        let (x, w) = (&inputs[0], &inputs[1]);
        let (t, k, n) = (x.dims()[0], self.k, self.n);
        let y = (x.expand(1, n) * w.expand(0, t)).sum(2);
        debug_assert_eq!(w.dims(), [n.into(), k.into()]);
        vec![match inputs.get(2) {
            Some(b) => y + b.expand(0, t),
            None => y,
        }]
    }
    fn gradient(&self, node: &Backward<'_>) -> Vec<Option<Tensor>> {
        let (dy, x, w) = (node.grad(), &node.inputs[0], &node.inputs[1]);
        let g = node.graph;
        let one = |op: Arc<dyn Composite>, inputs: &[&Tensor]| g.composite(op, inputs).remove(0);
        let (k, n) = (self.k, self.n);
        let mut grads = vec![
            node.needs[0].then(|| one(Arc::new(LinearDx { k, n }), &[dy, w])),
            node.needs[1].then(|| one(Arc::new(LinearDw { k, n }), &[dy, x])),
        ];
        if let Some(&needs) = node.needs.get(2) {
            grads.push(needs.then(|| one(Arc::new(BiasGrad { n }), &[dy])));
        }
        grads
    }
}

/// `dy[.., n]`, `w[n, k]` → `dx[.., k]`.
#[derive(Debug, Clone, Copy)]
pub struct LinearDx {
    /// Input features of the layer.
    pub k: usize,
    /// Output features of the layer.
    pub n: usize,
}

impl Kernel for LinearDx {
    fn scratch(&self, e: Extent, bf16: bool) -> usize {
        cpu::linear_dx_scratch(Dims { t: most(e), n: self.n, k: self.k }, bf16)
    }
    fn work(&self, io: &Io<'_>) -> Work {
        let t = rows(io.f32(0).len(), self.n);
        self.operands(io).product(2 * t * self.n * self.k, io.mat(1).is_bf16())
    }
    fn run(&self, io: &mut Io<'_>) {
        let (dy, dx, mut scratch) = (io.f32(0), io.take(0), io.scratch());
        let d = Dims { t: rows(dy.len(), self.n), n: self.n, k: self.k };
        cpu::linear_dx(dy, io.mat(1), dx, false, d, &mut scratch);
    }
}

impl Composite for LinearDx {
    fn name(&self) -> &'static str {
        "linear_dx"
    }
    fn infer(&self, inputs: &[Shape]) -> Vec<Shape> {
        vec![swap_last(&inputs[0], self.k)]
    }
    fn decompose(&self, _: &Graph, inputs: &[Tensor]) -> Vec<Tensor> {
        let (dy, w) = (&inputs[0], &inputs[1]);
        vec![(dy.expand(2, self.k) * w.expand(0, dy.dims()[0])).sum(1)]
    }
}

/// `dy[.., n]`, `x[.., k]` → `dw[n, k]`, added to.
#[derive(Debug, Clone, Copy)]
pub struct LinearDw {
    /// Input features of the layer.
    pub k: usize,
    /// Output features of the layer.
    pub n: usize,
}

impl Kernel for LinearDw {
    fn scratch(&self, e: Extent, bf16: bool) -> usize {
        cpu::linear_dw_scratch(Dims { t: most(e), n: self.n, k: self.k }, bf16)
    }
    fn accumulates(&self, _: usize) -> bool {
        true
    }
    fn work(&self, io: &Io<'_>) -> Work {
        let t = rows(io.f32(0).len(), self.n);
        self.operands(io).product(2 * t * self.n * self.k, io.bf16)
    }
    fn run(&self, io: &mut Io<'_>) {
        let (dy, x, dw, mut scratch) = (io.f32(0), io.f32(1), io.take(0), io.scratch());
        let d = Dims { t: rows(dy.len(), self.n), n: self.n, k: self.k };
        cpu::linear_dw(x, dy, dw, io.bf16, d, &mut scratch);
    }
}

impl Composite for LinearDw {
    fn name(&self) -> &'static str {
        "linear_dw"
    }
    fn infer(&self, _: &[Shape]) -> Vec<Shape> {
        vec![vec![self.n.into(), self.k.into()]]
    }
    fn decompose(&self, _: &Graph, inputs: &[Tensor]) -> Vec<Tensor> {
        let (dy, x) = (&inputs[0], &inputs[1]);
        vec![(dy.expand(2, self.k) * x.expand(1, self.n)).sum(0)]
    }
}

/// `dy[.., n]` → `db[n]`, added to.
#[derive(Debug, Clone, Copy)]
pub struct BiasGrad {
    /// Output features of the layer.
    pub n: usize,
}

impl Kernel for BiasGrad {
    fn accumulates(&self, _: usize) -> bool {
        true
    }
    fn work(&self, io: &Io<'_>) -> Work {
        self.operands(io).flop(io.f32(0).len())
    }
    fn run(&self, io: &mut Io<'_>) {
        let dy = io.f32(0);
        cpu::bias_grad(dy, io.take(0), rows(dy.len(), self.n), self.n);
    }
}

impl Composite for BiasGrad {
    fn name(&self) -> &'static str {
        "bias_grad"
    }
    fn infer(&self, _: &[Shape]) -> Vec<Shape> {
        vec![vec![self.n.into()]]
    }
    fn decompose(&self, _: &Graph, inputs: &[Tensor]) -> Vec<Tensor> {
        vec![inputs[0].sum(0)]
    }
}

impl Tensor {
    /// `self[t, k] · weightᵀ (+ bias)`, `weight[n, k]`, `bias[n]` → `[t, n]`.
    pub fn linear(&self, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
        let (w, x) = (weight.dims(), self.dims());
        assert_eq!(x.len(), 2, "linear wants [rows, features], got {x:?}");
        let (n, k) = (w[0].fixed(), w[1].fixed());
        assert_eq!(x[1], Dim::Fixed(k), "linear of {x:?} with a weight {w:?}");
        debug_assert!(bias.is_none_or(|b| Size::of(&b.dims()) == Size::of(&[n.into()])));
        let mut inputs = vec![self, weight];
        inputs.extend(bias);
        self.graph().composite(Arc::new(Linear { k, n }), &inputs).remove(0)
    }
}
