//! SwiGLU (arXiv 2002.05202): `silu(gate) · up`, elementwise.

use std::sync::Arc;

use super::{Backward, Composite, Io, Kernel, Work};
use crate::{cpu, graph::Graph, shape::Shape, tensor::Tensor};

/// `gate[..]`, `up[..]` → `gate · σ(gate) · up`.
#[derive(Debug, Clone, Copy)]
pub struct Swiglu;

fn sigmoid(x: &Tensor) -> Tensor {
    ((-x).exp() + 1.0).recip()
}

impl Kernel for Swiglu {
    fn work(&self, io: &Io<'_>) -> Work {
        self.operands(io).flop(5 * io.output_len(0))
    }
    fn run(&self, io: &mut Io<'_>) {
        let y = io.take(0);
        cpu::swiglu(io.f32(0), io.f32(1), y);
    }
}

impl Composite for Swiglu {
    fn name(&self) -> &'static str {
        "swiglu"
    }
    fn infer(&self, inputs: &[Shape]) -> Vec<Shape> {
        vec![inputs[0].clone()]
    }
    fn decompose(&self, _: &Graph, inputs: &[Tensor]) -> Vec<Tensor> {
        vec![&inputs[0] * sigmoid(&inputs[0]) * &inputs[1]]
    }
    fn gradient(&self, node: &Backward<'_>) -> Vec<Option<Tensor>> {
        let inputs = [&node.inputs[0], &node.inputs[1], node.grad()];
        node.graph.composite(Arc::new(SwigluBackward), &inputs).into_iter().map(Some).collect()
    }
}

/// `gate[..]`, `up[..]`, `dy[..]` → `dgate[..]`, `dup[..]`.
#[derive(Debug, Clone, Copy)]
pub struct SwigluBackward;

impl Kernel for SwigluBackward {
    fn in_place(&self, i: usize) -> Option<usize> {
        (i < 2).then_some(i)
    }
    fn work(&self, io: &Io<'_>) -> Work {
        self.operands(io).flop(11 * io.output_len(0))
    }
    fn run(&self, io: &mut Io<'_>) {
        let (dgate, dup) = (io.take(0), io.take(1));
        cpu::swiglu_backward(io.operand(0), io.operand(1), io.f32(2), dgate, dup);
    }
}

impl Composite for SwigluBackward {
    fn name(&self) -> &'static str {
        "swiglu_backward"
    }
    fn infer(&self, inputs: &[Shape]) -> Vec<Shape> {
        vec![inputs[0].clone(), inputs[0].clone()]
    }
    fn decompose(&self, _: &Graph, inputs: &[Tensor]) -> Vec<Tensor> {
        let [gate, up, dy] = inputs else { unreachable!("three inputs") };
        let s = sigmoid(gate);
        let slope = &s * (1.0 + gate * (1.0 - &s));
        vec![dy * up * slope, dy * gate * s]
    }
}

impl Tensor {
    /// `silu(self) · up`.
    pub fn swiglu(&self, up: &Tensor) -> Tensor {
        assert_eq!(self.dims(), up.dims(), "swiglu of two shapes");
        self.graph().composite(Arc::new(Swiglu), &[self, up]).remove(0)
    }
}
