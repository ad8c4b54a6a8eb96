//! AdamW with global-norm clipping, as a graph over all parameters compiled to a plan.
//!
//! A gradient may come in several buffers, as streams that each ran a part of the batch leave it. They are added one after
//! the other in the pass that computes the norm; the pass that updates a weight leaves its gradient zero. So neither a sum nor
//! a memset takes a pass of its own.
//!
//! Learning-rate schedules are the caller's: gradients are clipped and applied as bound.

use std::sync::Arc;

use crate::{
    Error,
    graph::{Graph, LeafKind},
    ops::{AdamW, AdamWConstants, SumSquares},
    plan::{Bindings, F32Input, Options, ParamState, Plan},
    tensor::Tensor,
};

/// A parameter to train.
#[derive(Debug, Clone, PartialEq)]
pub struct Trained {
    /// Its index in gradients and state.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Whether weight decay applies to it.
    pub decay: bool,
}

/// Adds AdamW for `params` to `graph`. `lr`, `step` (1 is the first) and `grad_scale` (a factor of every gradient) are scalars;
/// with `max_norm` the scaled gradients' norm is clipped to it, as `torch.nn.utils.clip_grad_norm_` does.
/// If the norm is not finite, weights and moments stay as they are. Returns the norm before clipping.
pub fn adamw(
    graph: &Graph,
    params: &[Trained],
    constants: AdamWConstants,
    max_norm: Option<f32>,
    [lr, step, grad_scale]: [&Tensor; 3],
) -> Tensor {
    let leaf = |kind, p: &Trained| graph.param_state(kind, &p.name, &p.shape);
    let grads: Vec<Tensor> = params.iter().map(|p| leaf(LeafKind::Grad(p.index), p)).collect();
    let squares = params.iter().zip(&grads).map(|(p, g)| {
        let op = SumSquares { param: p.index, n: p.shape.iter().product() };
        graph.composite(Arc::new(op), &[g]).remove(0)
    });
    let sum = squares.reduce(|a, b| a + b).unwrap_or_else(|| graph.constant(0.0));
    let norm = sum.sqrt() * grad_scale;
    // Not a number if the norm isn't finite: such a step changes nothing.
    let finite = &norm * 0.0 + 1.0;
    let scale = match max_norm {
        Some(max) => (max / &(&norm + 1e-6)).min(&graph.constant(1.0)) * grad_scale,
        None => grad_scale.clone(),
    };
    let scale = scale * finite;
    for (p, g) in params.iter().zip(&grads) {
        let decay = if p.decay { constants.weight_decay } else { 0.0 };
        let op = AdamW { param: p.index, constants: AdamWConstants { weight_decay: decay, ..constants } };
        let w = graph.param(p.index, &p.name, &p.shape);
        let (m, v) = (leaf(LeafKind::Moment1(p.index), p), leaf(LeafKind::Moment2(p.index), p));
        graph.composite(Arc::new(op), &[&w, g, &m, &v, lr, step, &scale]);
    }
    norm
}

/// [`adamw`] compiled.
pub struct Optimizer {
    plan: Plan,
    scalars: [F32Input; 3],
}

impl Optimizer {
    /// Compiles an optimizer for `params`; without `max_norm` nothing is clipped.
    pub fn new(params: &[Trained], constants: AdamWConstants, max_norm: Option<f32>) -> Result<Self, Error> {
        let g = Graph::new();
        let names = ["lr", "step", "grad_scale"];
        let [lr, step, scale] = names.map(|n| g.f32_input(n, &[]));
        let norm = adamw(&g, params, constants, max_norm, [&lr, &step, &scale]);
        let plan = Plan::compile(&g, &[&norm], Options::default())?;
        let [lr, step, scale] = names.map(|n| plan.f32_input(n));
        Ok(Optimizer { plan, scalars: [lr?, step?, scale?] })
    }

    /// The plan, to look at.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Whether steps to come are recorded: see [`Plan::record`].
    pub fn record(&mut self, on: bool) {
        self.plan.record(on);
    }

    /// Applies one update to `state` in place; returns the norm of the gradients (times `grad_scale`) before clipping.
    /// `step` counts from 1. `grads` is `[buffers][parameters][elements]`: a parameter's gradient is the sum of its buffers, added
    /// in their order whatever the threads. All are zero afterwards. If the norm is not finite, `state` stays as it is.
    ///
    /// # Errors
    /// If there is no buffer, or one lacks a parameter or is of another size.
    pub fn step(
        &mut self,
        grads: &mut [Vec<Vec<f32>>],
        state: &mut dyn ParamState,
        lr: f32,
        step: u64,
        grad_scale: f32,
    ) -> Result<f32, Error> {
        let (lr, step, scale) = ([lr], [step as f32], [grad_scale]);
        let mut b = Bindings::new(0, 0)
            .summands(grads)
            .state(state)
            .f32(self.scalars[0], &lr)
            .f32(self.scalars[1], &step)
            .f32(self.scalars[2], &scale);
        self.plan.run(&mut b)?;
        Ok(self.plan.output(0)[0])
    }
}
