//! Gradients of linear layers of one input as one kernel, with what stands around them. The plan's fusion makes it.

use super::{Io, Kernel, Product, Work};
use crate::{
    cpu::{self, Dy, InputGrad, LayerGrad, RmsNorm, SwigluGrad},
    shape::Extent,
};

/// Reads `x[t, k]`, each layer's `w[n, k]`, then each layer's `dy[t, n]`, or gate, up and the gradient of SwiGLU's output, then,
/// where there are such, the norm's weight `[k]` and what is added to the gradient, `[t, k]`. Writes the gradients of `x`, of each
/// weight, and of the norm's; all but the first are added to.
#[derive(Debug, Clone)]
pub(crate) struct FusedGradients {
    /// Features of the input.
    pub k: usize,
    /// Outputs of each layer.
    pub layers: Vec<usize>,
    /// `eps` of the norm between `x` and the layers.
    pub norm: Option<f32>,
    /// SwiGLU follows the layers, of which this is the gate.
    pub gate: Option<usize>,
    /// Something is added to the gradient.
    pub plus: bool,
}

impl FusedGradients {
    /// The first of the inputs `dy`, or gate, up and `dy`.
    fn dys(&self) -> usize {
        1 + self.layers.len()
    }

    /// The first input after those.
    fn rest(&self) -> usize {
        self.dys() + if self.gate.is_some() { 3 } else { self.layers.len() }
    }

    fn plus(&self) -> Option<usize> {
        self.plus.then(|| self.rest() + usize::from(self.norm.is_some()))
    }
}

impl Kernel for FusedGradients {
    fn scratch(&self, e: Extent, bf16: bool) -> usize {
        cpu::linear_backward_scratch(e.tokens.max(e.rows), self.k, &self.layers, bf16)
    }
    fn accumulates(&self, out: usize) -> bool {
        out > 0
    }
    fn product_of(&self, i: usize) -> Option<Product> {
        let n = *self.layers.get(i.checked_sub(1)?)?;
        Some(Product { n, k: self.k, gradient: true })
    }
    fn in_place(&self, i: usize) -> Option<usize> {
        (self.plus() == Some(i)).then_some(0)
    }
    fn work(&self, io: &Io<'_>) -> Work {
        let t = io.f32(0).len() / self.k;
        // The norm itself once more, then its gradient.
        let norm = if self.norm.is_some() { (4 + 11) * t * self.k } else { 0 };
        let swiglu = self.gate.map_or(0, |gate| 11 * t * self.layers[gate]);
        let sums = (self.layers.len() - 1 + usize::from(self.plus)) * t * self.k;
        let work = self.operands(io).flop(norm + swiglu + sums);
        self.layers.iter().enumerate().fold(work, |work, (i, &n)| {
            let flops = 2 * t * n * self.k;
            work.product(flops, io.mat(1 + i).is_bf16()).product(flops, io.bf16)
        })
    }
    fn run(&self, io: &mut Io<'_>) {
        let (dx, mut scratch, dys) = (io.take(0), io.scratch(), self.dys());
        let norm = self.norm.map(|eps| {
            let norm = RmsNorm { w: io.mat(self.rest()), eps, h: self.k };
            (norm, io.take(1 + self.layers.len()))
        });
        let swiglu =
            self.gate.map(|_| SwigluGrad { gate: io.f32(dys), up: io.f32(dys + 1), dy: io.f32(dys + 2) });
        let input = InputGrad { x: io.f32(0), norm, plus: self.plus().map(|i| io.operand(i)), dx };
        let bf16 = io.bf16;
        let layers = (0..self.layers.len()).map(|i| {
            let dy = match self.gate {
                None => Dy::Given(io.f32(dys + i)),
                Some(gate) if gate == i => Dy::Gate,
                Some(_) => Dy::Up,
            };
            LayerGrad { w: io.mat(1 + i), panels: io.panels(1 + i), dy, dw: io.take(1 + i) }
        });
        cpu::linear_backward(input, layers, swiglu, bf16, self.k, &mut scratch);
    }
}
