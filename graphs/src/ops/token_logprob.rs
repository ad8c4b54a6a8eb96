//! The log-probability of each row's target token: LM head, log-softmax and gather in one, in chunks of the vocabulary,
//! so that `[t, vocab]` logits never exist.

use std::sync::Arc;

use super::{
    Backward, Composite, Io, Kernel, Work,
    embedding::{count, one_hot},
};
use crate::{
    cpu::{self, LmHead, TokenLogprobs, TokenLogprobsGrad},
    graph::Graph,
    shape::{Dim, Extent, Shape},
    tensor::Tensor,
};

/// `x[t, h]`, `head[vocab, h]`, `targets[t]`, inverse temperature `[]` → `[t]` each: log-probabilities, log-sum-exps and, if
/// wanted, entropies in nats. A target of [`cpu::SKIP`] costs nothing and gets 0.
#[derive(Debug, Clone, Copy)]
pub struct TokenLogprob {
    /// Width of a row.
    pub h: usize,
    /// Rows of the head.
    pub vocab: usize,
    /// Whether entropies are an output.
    pub entropy: bool,
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

impl TokenLogprob {
    /// Adds `n` products with the head and the softmax over the logits, of the rows that have a target.
    fn products(&self, work: Work, io: &Io, n: usize) -> Work {
        let logits = io.u32(2).iter().filter(|t| **t != cpu::SKIP).count() * self.vocab;
        work.product(n * 2 * logits * self.h, io.mat(1).is_bf16()).flop(3 * logits)
    }
    fn head<'a>(&self, io: &Io<'a>) -> LmHead<'a> {
        LmHead { w: io.mat(1), vocab: self.vocab, h: self.h, inv_temperature: io.f32(3)[0] }
    }
}

impl Kernel for TokenLogprob {
    fn scratch(&self, e: Extent, bf16: bool) -> usize {
        cpu::token_logprob_scratch(e.tokens.max(e.rows), self.vocab, self.h, bf16)
    }
    fn work(&self, io: &Io<'_>) -> Work {
        self.products(self.operands(io), io, 1)
    }
    fn run(&self, io: &mut Io<'_>) {
        let (logprobs, lse) = (io.take(0), Some(io.take(1)));
        let out = TokenLogprobs { logprobs, lse, entropy: self.entropy.then(|| io.take(2)) };
        cpu::token_logprob(io.f32(0), &self.head(io), io.u32(2), out, &mut io.scratch());
    }
}

impl Composite for TokenLogprob {
    fn name(&self) -> &'static str {
        "token_logprob"
    }
    fn infer(&self, inputs: &[Shape]) -> Vec<Shape> {
        vec![inputs[2].clone(); if self.entropy { 3 } else { 2 }]
    }
    fn decompose(&self, g: &Graph, inputs: &[Tensor]) -> Vec<Tensor> {
        let [x, head, targets, beta] = inputs else { unreachable!("four inputs") };
        let [logits, lse, hot] = self.logits(g, x, head, targets, beta);
        let mut outputs = vec![(hot * &logits).sum(1) - &lse, lse.clone()];
        if self.entropy {
            let p = (&logits - lse.expand(1, self.vocab)).exp();
            outputs.push(lse - (p * logits).sum(1));
        }
        outputs
    }
    fn gradient(&self, node: &Backward<'_>) -> Vec<Option<Tensor>> {
        let [x, head, targets, beta] = node.inputs else { unreachable!("four inputs") };
        assert!(node.grads[1].is_none(), "log-sum-exps have no gradient");
        let zero = || 0.0 * &node.outputs[0];
        let dlogprobs = node.grads[0].clone().unwrap_or_else(zero);
        let mut inputs = vec![x, head, targets, beta, &node.outputs[1], &dlogprobs];
        let dentropy = node.grads.get(2).and_then(Option::as_ref);
        if let Some(dentropy) = dentropy {
            inputs.extend([&node.outputs[2], dentropy]);
        }
        let op = TokenLogprobBackward(TokenLogprob { entropy: dentropy.is_some(), ..*self });
        let grads = node.graph.composite(Arc::new(op), &inputs);
        grads.into_iter().map(Some).chain([None, None]).collect()
    }
}

/// The inputs of [`TokenLogprob`], its log-sum-exps, `dlogprobs[t]`, with entropy also that and its gradient `[t]`
/// → `dx[t, h]`, `dhead[vocab, h]` (added to).
#[derive(Debug, Clone, Copy)]
pub struct TokenLogprobBackward(pub TokenLogprob);

impl Kernel for TokenLogprobBackward {
    fn scratch(&self, e: Extent, bf16: bool) -> usize {
        cpu::token_logprob_backward_scratch(e.tokens.max(e.rows), self.0.vocab, self.0.h, bf16)
    }
    fn accumulates(&self, out: usize) -> bool {
        out == 1
    }
    fn work(&self, io: &Io<'_>) -> Work {
        // Logits again, then the gradients of x and of the head.
        self.0.products(self.operands(io), io, 3)
    }
    fn run(&self, io: &mut Io<'_>) {
        let (dx, dhead) = (io.take(0), io.take(1));
        let of = |i| self.0.entropy.then(|| io.f32(i));
        let grad =
            TokenLogprobsGrad { dlogprobs: io.f32(5), lse: Some(io.f32(4)), entropy: of(6), dentropy: of(7) };
        let (x, targets, head) = (io.f32(0), io.u32(2), self.0.head(io));
        cpu::token_logprob_backward(x, &head, targets, &grad, dx, Some(dhead), &mut io.scratch());
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
        let [x, head, targets, beta, lse, dy, entropy @ ..] = inputs else {
            unreachable!("six or eight inputs")
        };
        let (t, v) = (x.dims()[0], self.0.vocab);
        let [logits, _, hot] = self.0.logits(g, x, head, targets, beta);
        let log_p = logits - lse.expand(1, v);
        let p = log_p.exp();
        let mut dlogits = (hot - &p) * dy.expand(1, v);
        if let [h, dh] = entropy {
            // ∂H/∂zᵢ = −pᵢ (ln pᵢ + H)
            dlogits = dlogits - p * (log_p + h.expand(1, v)) * dh.expand(1, v);
        }
        let dlogits = (dlogits * beta).expand(2, self.0.h);
        let dx = (&dlogits * head.expand(0, t)).sum(1);
        vec![dx, (dlogits * x.expand(1, v)).sum(0)]
    }
}

impl Tensor {
    /// Log-probability of `targets[t]` under `softmax(inv_temperature · self · headᵀ)`, for `self[t, h]` and
    /// `head[vocab, h]`: `[t]`. `targets` is a `u32` input, `inv_temperature` a scalar (constant or input).
    /// A target of [`cpu::SKIP`] costs nothing and gets 0.
    pub fn token_logprob(&self, head: &Tensor, targets: &Tensor, inv_temperature: &Tensor) -> Tensor {
        self.token_logprobs(head, targets, inv_temperature, false).remove(0)
    }

    /// [`Tensor::token_logprob`] and the entropies of the distributions in nats, `[t]` each.
    pub fn token_logprob_entropy(
        &self,
        head: &Tensor,
        targets: &Tensor,
        inv_temperature: &Tensor,
    ) -> (Tensor, Tensor) {
        let mut out = self.token_logprobs(head, targets, inv_temperature, true);
        (out.remove(0), out.remove(1))
    }

    fn token_logprobs(&self, head: &Tensor, targets: &Tensor, beta: &Tensor, entropy: bool) -> Vec<Tensor> {
        let [Dim::Fixed(vocab), Dim::Fixed(h)] = head.dims()[..] else {
            panic!("an LM head is [vocab, h], not {:?}", head.dims())
        };
        assert_eq!(self.width(), h, "token_logprob of {:?}", self.dims());
        self.graph().composite(Arc::new(TokenLogprob { h, vocab, entropy }), &[self, head, targets, beta])
    }
}
