//! Where a gradient leaves the graph: added to the buffer bound for its parameter.

use super::{Composite, Io, Kernel, Work};
use crate::{graph::Graph, shape::Shape, tensor::Tensor};

/// `g[..]` → added to the gradient of parameter `param`.
///
/// The plan usually removes it: a kernel that accumulates writes into the gradient itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Accumulate {
    pub param: usize,
}

impl Kernel for Accumulate {
    fn accumulates(&self, _: usize) -> bool {
        true
    }
    fn is_sink(&self) -> bool {
        true
    }
    fn work(&self, io: &Io<'_>) -> Work {
        self.operands(io).flop(io.f32(0).len())
    }
    fn run(&self, io: &mut Io<'_>) {
        for (sum, g) in io.take(0).iter_mut().zip(io.f32(0)) {
            *sum += g;
        }
    }
}

impl Composite for Accumulate {
    fn name(&self) -> &'static str {
        "accumulate"
    }
    fn infer(&self, inputs: &[Shape]) -> Vec<Shape> {
        vec![inputs[0].clone()]
    }
    fn decompose(&self, _: &Graph, inputs: &[Tensor]) -> Vec<Tensor> {
        vec![inputs[0].clone()]
    }
    fn gradient_of(&self) -> Option<usize> {
        Some(self.param)
    }
}
