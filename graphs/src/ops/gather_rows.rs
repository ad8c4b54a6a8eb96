//! Some rows of a computed tensor, for instance those whose logits are wanted.

use std::sync::Arc;

use super::{
    Backward, Composite, Io, Kernel, Work,
    embedding::{one_hot, rows},
};
use crate::{
    cpu::{self, Mat},
    graph::Graph,
    shape::{Dim, Shape},
    tensor::Tensor,
};

/// `x[n, h]`, `rows[r]` → `[r, h]`.
#[derive(Debug, Clone, Copy)]
pub struct GatherRows {
    /// Width of a row.
    pub h: usize,
}

impl Kernel for GatherRows {
    fn work(&self, io: &Io<'_>) -> Work {
        rows(io.u32(1), size_of::<f32>() * self.h, io.output_len(0))
    }
    fn run(&self, io: &mut Io<'_>) {
        let y = io.take(0);
        cpu::embedding(io.u32(1), Mat::F32(io.f32(0)), y, self.h);
    }
}

impl Composite for GatherRows {
    fn name(&self) -> &'static str {
        "gather_rows"
    }
    fn infer(&self, inputs: &[Shape]) -> Vec<Shape> {
        vec![vec![inputs[1][0], self.h.into()]]
    }
    fn decompose(&self, _: &Graph, inputs: &[Tensor]) -> Vec<Tensor> {
        let (x, rows) = (&inputs[0], &inputs[1]);
        let hot = one_hot(rows, &x.iota(0));
        vec![(hot.expand(2, self.h) * x.expand(0, rows.dims()[0])).sum(1)]
    }
    fn gradient(&self, node: &Backward<'_>) -> Vec<Option<Tensor>> {
        let (x, rows) = (&node.inputs[0], &node.inputs[1]);
        let op = ScatterRows { h: self.h, rows: x.dims()[0] };
        // `x` gives the decomposition its row numbers; the kernel doesn't read it.
        vec![Some(node.graph.composite(Arc::new(op), &[node.grad(), rows, x]).remove(0)), None]
    }
}

/// `dy[r, h]`, `rows[r]`, `x[n, h]` → `dx[n, h]`, 0 in rows not named; rows named twice add up.
#[derive(Debug, Clone, Copy)]
pub struct ScatterRows {
    /// Width of a row.
    pub h: usize,
    /// n.
    pub rows: Dim,
}

impl Kernel for ScatterRows {
    fn accumulates(&self, _: usize) -> bool {
        true
    }
    fn reads(&self, i: usize) -> bool {
        i < 2
    }
    fn work(&self, io: &Io<'_>) -> Work {
        self.operands(io).flop(io.f32(0).len())
    }
    fn run(&self, io: &mut Io<'_>) {
        let dx = io.take(0);
        cpu::embedding_backward(io.u32(1), io.f32(0), dx, self.h);
    }
}

impl Composite for ScatterRows {
    fn name(&self) -> &'static str {
        "scatter_rows"
    }
    fn infer(&self, _: &[Shape]) -> Vec<Shape> {
        vec![vec![self.rows, self.h.into()]]
    }
    fn decompose(&self, _: &Graph, inputs: &[Tensor]) -> Vec<Tensor> {
        let [dy, rows, x] = inputs else { unreachable!("three inputs") };
        let hot = one_hot(rows, &x.iota(0));
        vec![(hot.expand(2, self.h) * dy.expand(1, self.rows)).sum(0)]
    }
}

impl Tensor {
    /// Rows `rows[r]` (a `u32` input) of this `[n, h]`: `[r, h]`.
    pub fn gather_rows(&self, rows: &Tensor) -> Tensor {
        let h = self.width();
        self.graph().composite(Arc::new(GatherRows { h }), &[self, rows]).remove(0)
    }
}
