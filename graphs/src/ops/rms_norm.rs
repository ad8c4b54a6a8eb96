//! RMSNorm (arXiv 1910.07467) over the last axis: `y = w · x / √(mean(x²) + eps)`, and its gradient.
//!
//! The last axis may be a whole row or, after a reshape to `[t, heads, head_dim]`, one head (Qwen3's q/k norm).

use std::sync::Arc;

use super::{Backward, Composite, Io, Kernel, Work};
use crate::{
    cpu,
    graph::Graph,
    shape::{Dim, Extent, Shape},
    tensor::Tensor,
};

/// `x[.., h]`, `w[h]` → `y[.., h]`.
#[derive(Debug, Clone, Copy)]
pub struct RmsNorm {
    /// Size of the normalised axis.
    pub h: usize,
    /// Added to the mean square.
    pub eps: f32,
}

impl RmsNorm {
    fn kernel<'a>(&self, io: &Io<'a>) -> cpu::RmsNorm<'a> {
        cpu::RmsNorm { w: io.mat(1), eps: self.eps, h: self.h }
    }
    /// `1/√(mean(x²) + eps)`, repeated along the last axis.
    fn scale(&self, x: &Tensor) -> Tensor {
        let last = x.dims().len() - 1;
        ((x.square().mean(last) + self.eps).sqrt().recip()).expand(last, self.h)
    }
}

/// `w[h]` with `x`'s leading axes.
fn spread(w: &Tensor, x: &Tensor) -> Tensor {
    let d = x.dims();
    d[..d.len() - 1].iter().enumerate().fold(w.clone(), |w, (i, &d)| w.expand(i, d))
}

impl Kernel for RmsNorm {
    fn work(&self, io: &Io<'_>) -> Work {
        self.operands(io).flop(4 * io.output_len(0))
    }
    fn run(&self, io: &mut Io<'_>) {
        let y = io.take(0);
        cpu::rms_norm(io.f32(0), &self.kernel(io), y);
    }
}

impl Composite for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }
    fn infer(&self, inputs: &[Shape]) -> Vec<Shape> {
        vec![inputs[0].clone()]
    }
    fn decompose(&self, _: &Graph, inputs: &[Tensor]) -> Vec<Tensor> {
        let (x, w) = (&inputs[0], &inputs[1]);
        vec![x * self.scale(x) * spread(w, x)]
    }
    fn gradient(&self, node: &Backward<'_>) -> Vec<Option<Tensor>> {
        let d = node.inputs[0].dims();
        let per_token = d[1..d.len() - 1].iter().map(|d| d.fixed()).product();
        let op = RmsNormBackward { norm: *self, per_token };
        let grads = node.graph.composite(Arc::new(op), &[&node.inputs[0], &node.inputs[1], node.grad()]);
        grads.into_iter().map(Some).collect()
    }
}

/// `x[.., h]`, `w[h]`, `dy[.., h]` → `dx[.., h]`, `dw[h]` (added to).
#[derive(Debug, Clone, Copy)]
pub struct RmsNormBackward {
    /// The forward op.
    pub norm: RmsNorm,
    /// Rows a token has, for instance its heads.
    pub per_token: usize,
}

impl Kernel for RmsNormBackward {
    fn scratch(&self, e: Extent, _: bool) -> usize {
        cpu::rms_norm_backward_scratch(e.tokens.max(e.rows) * self.per_token, self.norm.h)
    }
    fn accumulates(&self, out: usize) -> bool {
        out == 1
    }
    fn work(&self, io: &Io<'_>) -> Work {
        self.operands(io).flop(11 * io.output_len(0))
    }
    fn run(&self, io: &mut Io<'_>) {
        let (dx, dw, mut scratch) = (io.take(0), io.take(1), io.scratch());
        cpu::rms_norm_backward(io.f32(0), &self.norm.kernel(io), io.f32(2), dx, false, dw, &mut scratch);
    }
}

impl Composite for RmsNormBackward {
    fn name(&self) -> &'static str {
        "rms_norm_backward"
    }
    fn infer(&self, inputs: &[Shape]) -> Vec<Shape> {
        vec![inputs[0].clone(), vec![self.norm.h.into()]]
    }
    fn decompose(&self, _: &Graph, inputs: &[Tensor]) -> Vec<Tensor> {
        let [x, w, dy] = inputs else { unreachable!("three inputs") };
        let last = x.dims().len() - 1;
        let r = self.norm.scale(x);
        let normed = x * &r;
        let dn = dy * spread(w, x);
        let along = (&dn * &normed).mean(last).expand(last, self.norm.h);
        let dw = (0..last).fold(dy * &normed, |t, _| t.sum(0));
        vec![r * (dn - normed * along), dw]
    }
}

impl Tensor {
    /// RMSNorm over the last axis with `weight` of its size; `eps` is added to the mean square.
    pub fn rms_norm(&self, weight: &Tensor, eps: f32) -> Tensor {
        let h = self.width();
        assert_eq!(weight.dims(), [Dim::Fixed(h)], "rms_norm of {:?}", self.dims());
        self.graph().composite(Arc::new(RmsNorm { h, eps }), &[self, weight]).remove(0)
    }
}
