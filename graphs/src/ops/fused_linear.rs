//! Linear layers of one input as one kernel, with the norm before them and what follows each. The plan's fusion makes it.

use std::sync::Arc;

use super::{Io, Kernel, MAX_OUTPUTS, Product, RopeAngles, Work};
use crate::{
    cpu::{self, Heads, Job},
    shape::Extent,
};

/// The norm of the input, then the layers. `I` names an input: by its value while a plan is made, then by its number.
#[derive(Debug, Clone)]
pub(crate) struct FusedLinear<I> {
    /// Features of the input.
    pub k: usize,
    /// Norm of the input's rows.
    pub norm: Option<Norm<I>>,
    /// At most [`MAX_OUTPUTS`] outputs in all.
    pub parts: Vec<Part<I>>,
}

/// RMSNorm.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Norm<I> {
    pub w: I,
    pub eps: f32,
    pub h: usize,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Layer<I> {
    pub n: usize,
    pub w: I,
    pub bias: Option<I>,
}

/// A layer and what follows it.
#[derive(Debug, Clone)]
pub(crate) struct Part<I> {
    pub layer: Layer<I>,
    pub then: Then<I>,
}

/// What follows a layer.
#[derive(Debug, Clone)]
pub(crate) enum Then<I> {
    Nothing,
    /// A sum with another value.
    Add(I),
    /// A norm of each head, RoPE at positions, or both.
    Heads {
        head_dim: usize,
        norm: Option<Norm<I>>,
        rope: Option<(Arc<RopeAngles>, I)>,
    },
    /// The layer is the gate. With `kept`, gate and up are outputs before SwiGLU's own.
    Swiglu {
        up: Layer<I>,
        kept: bool,
    },
}

impl<I: Copy> FusedLinear<I> {
    /// With other names of inputs: `f` is called for each layer's weight first.
    pub fn map<J>(&self, mut f: impl FnMut(I) -> J) -> FusedLinear<J> {
        let mut weights: Vec<J> = self.layers().map(|l| f(l.w)).rev().collect();
        let norm = |n: &Norm<I>, f: &mut dyn FnMut(I) -> J| Norm { w: f(n.w), eps: n.eps, h: n.h };
        let mut layer = |l: &Layer<I>, f: &mut dyn FnMut(I) -> J| Layer {
            n: l.n,
            w: weights.pop().expect("one a layer"),
            bias: l.bias.map(f),
        };
        let parts = self.parts.iter().map(|p| Part {
            layer: layer(&p.layer, &mut f),
            then: match &p.then {
                Then::Nothing => Then::Nothing,
                Then::Add(x) => Then::Add(f(*x)),
                Then::Heads { head_dim, norm: n, rope } => Then::Heads {
                    head_dim: *head_dim,
                    norm: n.as_ref().map(|n| norm(n, &mut f)),
                    rope: rope.as_ref().map(|(angles, at)| (angles.clone(), f(*at))),
                },
                Then::Swiglu { up, kept } => Then::Swiglu { up: layer(up, &mut f), kept: *kept },
            },
        });
        let parts = parts.collect();
        FusedLinear { k: self.k, norm: self.norm.as_ref().map(|n| norm(n, &mut f)), parts }
    }

    /// All layers in order.
    pub fn layers(&self) -> impl DoubleEndedIterator<Item = &Layer<I>> {
        self.parts.iter().flat_map(|p| {
            let up = match &p.then {
                Then::Swiglu { up, .. } => Some(up),
                _ => None,
            };
            [&p.layer].into_iter().chain(up)
        })
    }
}

impl Norm<usize> {
    fn kernel<'a>(&self, io: &Io<'a>) -> cpu::RmsNorm<'a> {
        cpu::RmsNorm { w: io.mat(self.w), eps: self.eps, h: self.h }
    }
}

impl Layer<usize> {
    fn kernel<'a>(&self, io: &Io<'a>) -> cpu::Layer<'a> {
        cpu::Layer { w: io.mat(self.w), bias: self.bias.map(|b| io.mat(b)), panels: io.panels(self.w) }
    }
}

impl Part<usize> {
    /// Takes outputs from number `out` on.
    fn job<'b, 'a: 'b>(&'b self, io: &mut Io<'a>, out: &mut usize) -> Job<'b> {
        let mut take = |io: &mut Io<'a>| {
            *out += 1;
            io.take(*out - 1)
        };
        let layer = self.layer.kernel(io);
        match &self.then {
            Then::Nothing => Job::linear(layer, take(io)),
            Then::Add(x) => Job::add(layer, io.operand(*x), take(io)),
            Then::Heads { head_dim, norm, rope } => {
                let heads = Heads {
                    head_dim: *head_dim,
                    norm: norm.as_ref().map(|n| n.kernel(io)),
                    rope: rope.as_ref().map(|(angles, at)| (angles.table(), io.u32(*at))),
                };
                Job::heads(layer, heads, take(io))
            }
            Then::Swiglu { up, kept } => {
                let kept = kept.then(|| [take(io), take(io)]);
                Job::swiglu(layer, up.kernel(io), kept, take(io))
            }
        }
    }

    /// Outputs.
    fn outputs(&self) -> usize {
        if matches!(self.then, Then::Swiglu { kept: true, .. }) { 3 } else { 1 }
    }

    /// Operations beside the product, for each of its numbers.
    fn flops(&self) -> usize {
        let bias = |l: &Layer<usize>| usize::from(l.bias.is_some());
        bias(&self.layer)
            + match &self.then {
                Then::Nothing => 0,
                Then::Add(_) => 1,
                Then::Heads { norm, rope, .. } => {
                    4 * usize::from(norm.is_some()) + 3 * usize::from(rope.is_some())
                }
                Then::Swiglu { up, .. } => 5 + bias(up),
            }
    }
}

impl Kernel for FusedLinear<usize> {
    fn scratch(&self, e: Extent, bf16: bool) -> usize {
        let ns = self.layers().map(|l| l.n);
        cpu::linears_scratch(e.tokens.max(e.rows), ns, self.k, self.norm.is_some(), bf16)
    }
    fn product_of(&self, i: usize) -> Option<Product> {
        self.layers().find(|l| l.w == i).map(|l| Product { n: l.n, k: self.k, gradient: false })
    }
    fn in_place(&self, i: usize) -> Option<usize> {
        let part = self.parts.iter().position(|p| matches!(p.then, Then::Add(x) if x == i))?;
        Some(self.parts[..part].iter().map(Part::outputs).sum())
    }
    fn work(&self, io: &Io<'_>) -> Work {
        let t = io.f32(0).len() / self.k;
        let norm = if self.norm.is_some() { 4 * t * self.k } else { 0 };
        let after: usize = self.parts.iter().map(|p| t * p.layer.n * p.flops()).sum();
        let work = self.operands(io).flop(norm + after);
        self.layers().fold(work, |work, l| work.product(2 * t * l.n * self.k, io.mat(l.w).is_bf16()))
    }
    fn run(&self, io: &mut Io<'_>) {
        let norm = self.norm.as_ref().map(|n| n.kernel(io));
        let mut jobs = [const { None }; MAX_OUTPUTS];
        let mut out = 0;
        for (job, part) in jobs.iter_mut().zip(&self.parts) {
            *job = Some(part.job(io, &mut out));
        }
        cpu::linears(io.f32(0), norm.as_ref(), self.k, &jobs, &mut io.scratch());
    }
}
