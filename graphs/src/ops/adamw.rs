//! AdamW (arXiv 1711.05101) and the norm its gradients are clipped by. Both take gradients through the bindings: the norm's
//! pass leaves in the first of a gradient's buffers their sum, and in the others zeros; the update leaves zeros in the first.

use super::{Composite, Io, Kernel, Work};
use crate::{
    cpu,
    graph::Graph,
    plan::{Master, Moments, Slot},
    shape::{Extent, Shape},
    tensor::Tensor,
};

/// `g[..]` of parameter `param` → `Σ g²`, a scalar.
#[derive(Debug, Clone, Copy)]
pub struct SumSquares {
    /// Index of the parameter.
    pub param: usize,
    /// Its elements.
    pub n: usize,
}

impl Kernel for SumSquares {
    fn scratch(&self, _: Extent, _: bool) -> usize {
        cpu::sum_squares_scratch(self.n)
    }
    fn takes_gradient(&self) -> Option<usize> {
        Some(self.param)
    }
    fn reads(&self, _: usize) -> bool {
        false
    }
    fn work(&self, io: &Io<'_>) -> Work {
        let (n, buffers) = (self.n, io.summands.len());
        let written = if buffers > 1 { buffers } else { 0 };
        self.operands(io).reading(4 * n * buffers).writing(4 * n * written).flop((buffers + 1) * n)
    }
    fn run(&self, io: &mut Io<'_>) {
        let mut scratch = io.scratch();
        let (sum, others) = io.summands.split_first_mut().expect("Plan::run checks that gradients are bound");
        let others = others.iter_mut().map(|buffer| &mut buffer[self.param][..]);
        io.take(0)[0] = cpu::sum_squares(&mut sum[self.param], others, &mut scratch) as f32;
    }
}

impl Composite for SumSquares {
    fn name(&self) -> &'static str {
        "sum_squares"
    }
    fn infer(&self, _: &[Shape]) -> Vec<Shape> {
        vec![vec![]]
    }
    fn decompose(&self, _: &Graph, inputs: &[Tensor]) -> Vec<Tensor> {
        let g = &inputs[0];
        vec![(0..g.dims().len()).fold(g.square(), |t, _| t.sum(0))]
    }
}

/// What doesn't change from step to step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWConstants {
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled: a weight shrinks by learning rate × this.
    pub weight_decay: f32,
}

/// `w`, `g`, `m`, `v` of parameter `param`, then three scalars: learning rate, step (1 is the first), factor of the gradient
/// → the new `w`, `m`, `v`, which the plan updates in place through [`crate::plan::ParamState`]; the gradient is zeroed. The
/// kernel does only that if the factor is not a number, which is how a step with gradients that aren't finite is left out.
#[derive(Debug, Clone, Copy)]
pub struct AdamW {
    /// Index of the parameter.
    pub param: usize,
    /// Constants.
    pub constants: AdamWConstants,
}

impl Kernel for AdamW {
    fn scratch(&self, _: Extent, _: bool) -> usize {
        0
    }
    fn is_sink(&self) -> bool {
        true
    }
    fn uses_state(&self) -> bool {
        true
    }
    fn takes_gradient(&self) -> Option<usize> {
        Some(self.param)
    }
    fn reads(&self, i: usize) -> bool {
        i > 3
    }
    fn work(&self, io: &Io<'_>) -> Work {
        let n = io.summands[0][self.param].len();
        let state = io.state.as_deref().expect("Plan::run checks that state is bound");
        // Gradients are read and zeroed.
        let bytes = 4 * n + 4 * n + state.moment_bytes(self.param);
        self.operands(io).reading(bytes).writing(bytes).flop(16 * n)
    }
    fn run(&self, io: &mut Io<'_>) {
        let c = self.constants;
        let step = cpu::AdamW {
            lr: io.f32(4)[0],
            beta1: c.beta1,
            beta2: c.beta2,
            eps: c.eps,
            weight_decay: c.weight_decay,
            step: io.f32(5)[0] as u64,
            grad_scale: io.f32(6)[0],
        };
        let g = &mut io.summands[0][self.param][..];
        if step.grad_scale.is_nan() {
            g.fill(0.0);
            return;
        }
        let state = io.state.as_deref_mut().expect("Plan::run checks that state is bound");
        let Slot { weights, moments } = state.slot(self.param);
        match (weights, moments) {
            (Master::F32(w), Moments::F32 { m, v }) => cpu::adamw_f32(w, g, m, v, &step),
            (Master::F32(w), Moments::Bf16 { m, v }) => cpu::adamw_f32(w, g, m, v, &step),
            (Master::Bf16 { hi, lo }, Moments::F32 { m, v }) => cpu::adamw_bf16(hi, lo, g, m, v, &step),
            (Master::Bf16 { hi, lo }, Moments::Bf16 { m, v }) => cpu::adamw_bf16(hi, lo, g, m, v, &step),
        }
    }
}

impl Composite for AdamW {
    fn name(&self) -> &'static str {
        "adamw"
    }
    fn infer(&self, inputs: &[Shape]) -> Vec<Shape> {
        vec![inputs[0].clone(); 3]
    }
    fn decompose(&self, _: &Graph, inputs: &[Tensor]) -> Vec<Tensor> {
        let [w, g, m, v, lr, step, scale] = inputs else { unreachable!("seven inputs") };
        let c = &self.constants;
        let g = g * scale;
        let m = m * c.beta1 + &g * (1.0 - c.beta1);
        let v = v * c.beta2 + g.square() * (1.0 - c.beta2);
        // 1 − βˢᵗᵉᵖ
        let correction = |beta: f32| 1.0 - (step * beta.log2()).exp2();
        let (m_hat, v_hat) = (&m / &correction(c.beta1), &v / &correction(c.beta2));
        let w = w * (1.0 - lr * c.weight_decay) - lr * &(m_hat / (v_hat.sqrt() + c.eps));
        vec![w, m, v]
    }
    fn differentiable(&self) -> bool {
        false
    }
}
