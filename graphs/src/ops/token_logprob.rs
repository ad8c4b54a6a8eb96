//! The log-probability of each row's target token: LM head, log-softmax and gather in one, in chunks of the vocabulary,
//! so that `[t, vocab]` logits never exist.

use std::sync::Arc;

use super::{
    Backward, Composite, Io, Kernel,
    embedding::{count, one_hot},
};
use crate::{
    shape::{Dim, Extent, Shape},
    tensor::{Graph, Tensor},
};

/// `x[t, h]`, `head[vocab, h]`, `targets[t]`, inverse temperature `[]` → log-probabilities `[t]`, log-sum-exps `[t]`.
#[derive(Debug, Clone, Copy)]
pub struct TokenLogprob {
    /// Width of a row.
    pub h: usize,
    /// Rows of the head.
    pub vocab: usize,
}

impl TokenLogprob {
    /// Scaled logits `[t, vocab]`, their log-sum-exp and the mask of the targets, in primitives.
    fn logits(&self, g: &Graph, x: &Tensor, head: &Tensor, targets: &Tensor, beta: &Tensor) -> [Tensor; 3] {
        let t = x.dims()[0];
        let logits = x.linear(head, None) * beta;
        let max = logits.max_reduce(1);
        let lse = (&logits - max.expand(1, self.vocab)).exp().sum(1).ln() + max;
        debug_assert_eq!(targets.dims(), [t]);
        [logits, lse, one_hot(targets, &count(g, self.vocab))]
    }
}

impl Kernel for TokenLogprob {
    fn scratch(&self, _e: Extent, _bf16: bool) -> usize {
        0
    }
    fn run(&self, _: &mut Io<'_>) {
        todo!()
    }
}

impl Composite for TokenLogprob {
    fn name(&self) -> &'static str {
        "token_logprob"
    }
    fn infer(&self, inputs: &[Shape]) -> Vec<Shape> {
        vec![inputs[2].clone(), inputs[2].clone()]
    }
    fn decompose(&self, g: &Graph, inputs: &[Tensor]) -> Vec<Tensor> {
        let [x, head, targets, beta] = inputs else { unreachable!("four inputs") };
        let [logits, lse, hot] = self.logits(g, x, head, targets, beta);
        vec![(hot * logits).sum(1) - &lse, lse]
    }
    fn gradient(&self, node: &Backward<'_>) -> Vec<Option<Tensor>> {
        let [x, head, targets, beta] = node.inputs else { unreachable!("four inputs") };
        let inputs = [x, head, targets, beta, &node.outputs[1], node.grad()];
        let grads = node.graph.composite(Arc::new(TokenLogprobBackward(*self)), &inputs);
        grads.into_iter().map(Some).chain([None, None]).collect()
    }
}

/// The inputs of [`TokenLogprob`], its log-sum-exps, `dlogprobs[t]` → `dx[t, h]`, `dhead[vocab, h]` (added to).
#[derive(Debug, Clone, Copy)]
pub struct TokenLogprobBackward(pub TokenLogprob);

impl Kernel for TokenLogprobBackward {
    fn accumulates(&self, out: usize) -> bool {
        out == 1
    }
    fn run(&self, _: &mut Io<'_>) {
        todo!()
    }
}

impl Composite for TokenLogprobBackward {
    fn name(&self) -> &'static str {
        "token_logprob_backward"
    }
    fn infer(&self, inputs: &[Shape]) -> Vec<Shape> {
        inputs[..2].to_vec()
    }
    fn decompose(&self, g: &Graph, inputs: &[Tensor]) -> Vec<Tensor> {
        let [x, head, targets, beta, lse, dy] = inputs else { unreachable!("six inputs") };
        let (t, v) = (x.dims()[0], self.0.vocab);
        let [logits, _, hot] = self.0.logits(g, x, head, targets, beta);
        let p = (logits - lse.expand(1, v)).exp();
        let dlogits = (hot - p) * dy.expand(1, v) * beta;
        let dx = (dlogits.expand(2, self.0.h) * head.expand(0, t)).sum(1);
        vec![dx, (dlogits.expand(2, self.0.h) * x.expand(1, v)).sum(0)]
    }
}

impl Tensor {
    /// Log-probability of `targets[t]` under `softmax(inv_temperature · self · headᵀ)`, for `self[t, h]` and
    /// `head[vocab, h]`: `[t]`. `targets` is a `u32` input, `inv_temperature` a scalar (constant or input).
    pub fn token_logprob(&self, head: &Tensor, targets: &Tensor, inv_temperature: &Tensor) -> Tensor {
        let [Dim::Fixed(vocab), Dim::Fixed(h)] = head.dims()[..] else {
            panic!("an LM head is [vocab, h], not {:?}", head.dims())
        };
        assert_eq!(self.width(), h, "token_logprob of {:?}", self.dims());
        let inputs = [self, head, targets, inv_temperature];
        self.graph().composite(Arc::new(TokenLogprob { h, vocab }), &inputs).remove(0)
    }
}
