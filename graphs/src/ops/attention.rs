//! Grouped-query attention over packed segments, causal or bidirectional.
//!
//! The training form attends within the batch, where a segment may follow the beginning of another ([`Segment::after`]); the
//! cached form first stores the batch's keys and values in the KV cache bound at run time and attends over the sequence's whole
//! past there. Both run one kernel with one order of summation, and in bf16 mode both round keys and values to bf16, so that a
//! token's output is the same bits either way.

use std::sync::Arc;

use super::{Backward, Composite, Io, Kernel, Work};
use crate::{
    cpu,
    graph::Graph,
    plan::Segment,
    shape::{Dim, Extent, Shape},
    tensor::Tensor,
};

/// Sizes and kind of an attention.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; divides `heads`.
    pub kv_heads: usize,
    /// Size of a head.
    pub head_dim: usize,
    /// Scores are multiplied by this, usually `1/√head_dim`.
    pub scale: f32,
    /// Whether a token sees only itself and what came before.
    pub causal: bool,
}

impl AttentionShape {
    /// In primitives: softmax weights `[kv, group, i, j]` of token i on token j, and their log-sum-exp `[kv, group, i]`.
    fn weights(&self, q: &Tensor, k: &Tensor, segments: &Tensor, positions: &Tensor) -> (Tensor, Tensor) {
        let t = q.dims()[0];
        let scores = (self.queries(q).expand(3, t) * self.keys(k)).sum(4) * self.scale;
        let mut seen = segments.expand(1, t).equals(&segments.expand(0, t));
        if self.causal {
            // position of j ≤ position of i
            seen = seen * (1.0 - positions.expand(1, t).less_than(&positions.expand(0, t)));
        }
        let seen = seen.expand(0, self.kv_heads).expand(1, self.group());
        // −1e9 is far below any score, and finite: its exponential is 0.
        let scores = &seen * scores + (1.0 - &seen) * -1e9;
        let max = scores.max_reduce(3);
        let exp = (scores - max.expand(3, t)).exp();
        let sum = exp.sum(3);
        (exp * sum.recip().expand(3, t), max + sum.ln())
    }
    /// Adds `n` products of every query with every key it sees.
    fn products(&self, work: Work, io: &Io, n: usize) -> Work {
        let seen = |s: &Segment| {
            let (len, past) = (s.q_len as usize, s.past as usize);
            if self.causal { len * past + len * (len + 1) / 2 } else { len * (past + len) }
        };
        let pairs: usize = io.segments(3).iter().map(seen).sum();
        work.product(n * 2 * pairs * self.heads * self.head_dim, io.bf16)
    }
    fn kernel(&self) -> cpu::Attention {
        let AttentionShape { heads, kv_heads, head_dim, scale, causal } = *self;
        cpu::Attention { heads, kv_heads, head_dim, causal, scale }
    }
    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }
    /// `[t, heads · d]` as `[kv, group, t, d]`.
    fn queries(&self, q: &Tensor) -> Tensor {
        let d = [q.dims()[0], self.kv_heads.into(), self.group().into(), self.head_dim.into()];
        q.reshape(&d).permute(&[1, 2, 0, 3])
    }
    /// `[t, kv · d]` as `[kv, group, i, j, d]`.
    fn keys(&self, k: &Tensor) -> Tensor {
        let t = k.dims()[0];
        let d = [t, self.kv_heads.into(), self.head_dim.into()];
        k.reshape(&d).permute(&[1, 0, 2]).expand(1, self.group()).expand(2, t)
    }
    /// Back from `[kv, group, t, d]` to `[t, heads · d]`.
    fn rows(&self, y: &Tensor) -> Tensor {
        y.permute(&[2, 0, 1, 3]).reshape(&[y.dims()[2], Dim::Fixed(self.heads * self.head_dim)])
    }
    /// `[kv, j, d]` as `[t, kv · d]`.
    fn kv_rows(&self, y: &Tensor) -> Tensor {
        y.permute(&[1, 0, 2]).reshape(&[y.dims()[1], Dim::Fixed(self.kv_heads * self.head_dim)])
    }
}

/// `q[t, heads · d]`, `k[t, kv · d]`, `v[t, kv · d]`, segments, `positions[t]` → `[t, heads · d]`, log-sum-exps `[t, heads]`.
///
/// The kernel knows positions from the segments; the decomposition needs both, and holds for segments without a past.
#[derive(Debug, Clone, Copy)]
pub struct Attention(pub AttentionShape);

impl AttentionShape {
    fn infer(&self, inputs: &[Shape]) -> Vec<Shape> {
        vec![inputs[0].clone(), vec![inputs[0][0], self.heads.into()]]
    }
    fn decompose(&self, inputs: &[Tensor]) -> Vec<Tensor> {
        let [q, k, v, segments, positions] = inputs else { unreachable!("five inputs") };
        let t = q.dims()[0];
        let (p, lse) = self.weights(q, k, segments, positions);
        let y = (p.expand(4, self.head_dim) * self.keys(v)).sum(3);
        let lse = lse.permute(&[2, 0, 1]).reshape(&[t, self.heads.into()]);
        vec![self.rows(&y), lse]
    }
}

impl Kernel for Attention {
    fn scratch(&self, e: Extent, bf16: bool) -> usize {
        cpu::attention_scratch(&self.0.kernel(), e.tokens, bf16)
    }
    fn reads(&self, i: usize) -> bool {
        i < 4
    }
    fn work(&self, io: &Io<'_>) -> Work {
        self.0.products(self.operands(io), io, 2)
    }
    fn run(&self, io: &mut Io<'_>) {
        let (out, lse) = (io.take(0), io.take(1));
        let (q, k, v, segments) = (io.f32(0), io.f32(1), io.f32(2), io.segments(3));
        let (a, scratch) = (self.0.kernel(), &mut io.scratch());
        cpu::attention(q, k, v, io.bf16, segments, &a, out, lse, scratch);
    }
}

impl Composite for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }
    fn infer(&self, inputs: &[Shape]) -> Vec<Shape> {
        self.0.infer(inputs)
    }
    fn decompose(&self, _: &Graph, inputs: &[Tensor]) -> Vec<Tensor> {
        self.0.decompose(inputs)
    }
    fn gradient(&self, node: &Backward<'_>) -> Vec<Option<Tensor>> {
        let inputs = node.inputs.iter().chain(node.outputs).chain([node.grad()]).collect::<Vec<_>>();
        let grads = node.graph.composite(Arc::new(AttentionBackward(self.0)), &inputs);
        grads.into_iter().map(Some).chain([None, None]).collect()
    }
}

/// The inputs and outputs of [`Attention`], `dy[t, heads · d]` → `dq`, `dk`, `dv`.
#[derive(Debug, Clone, Copy)]
pub struct AttentionBackward(pub AttentionShape);

impl Kernel for AttentionBackward {
    fn scratch(&self, e: Extent, _: bool) -> usize {
        cpu::attention_backward_scratch(&self.0.kernel(), e.tokens)
    }
    fn reads(&self, i: usize) -> bool {
        i != 4
    }
    fn work(&self, io: &Io<'_>) -> Work {
        // Scores again, then the gradients of v, of the weights, of q and of k.
        self.0.products(self.operands(io), io, 5)
    }
    fn run(&self, io: &mut Io<'_>) {
        let grads = cpu::AttentionGrads { dq: io.take(0), dk: io.take(1), dv: io.take(2) };
        let [q, k, v, out, lse] = [0, 1, 2, 5, 6].map(|i| io.f32(i));
        let saved = cpu::AttentionSaved { q, k, v, out, lse };
        let (dout, segments, a) = (io.f32(7), io.segments(3), self.0.kernel());
        cpu::attention_backward(&saved, io.bf16, dout, segments, &a, grads, &mut io.scratch());
    }
}

impl Composite for AttentionBackward {
    fn name(&self) -> &'static str {
        "attention_backward"
    }
    fn infer(&self, inputs: &[Shape]) -> Vec<Shape> {
        inputs[..3].to_vec()
    }
    fn decompose(&self, _: &Graph, inputs: &[Tensor]) -> Vec<Tensor> {
        let [q, k, v, segments, positions, _, _, dy] = inputs else { unreachable!("eight inputs") };
        let (s, t, d) = (&self.0, q.dims()[0], self.0.head_dim);
        let (p, _) = s.weights(q, k, segments, positions);
        let dy = s.queries(dy).expand(3, t); // [kv, group, i, j, d]
        let dv = (p.expand(4, d) * &dy).sum(2).sum(1);
        let dp = (dy * s.keys(v)).sum(4);
        // Softmax backward: p ∘ (dp − Σ_j p dp).
        let along = (&p * &dp).sum(3).expand(3, t);
        let ds = (p * (dp - along) * s.scale).expand(4, d);
        let dq = (&ds * s.keys(k)).sum(3);
        let dk = (ds * s.queries(q).expand(3, t)).sum(2).sum(1);
        vec![s.rows(&dq), s.kv_rows(&dk), s.kv_rows(&dv)]
    }
}

/// As [`Attention`], over the KV cache: stores `k` and `v` in the blocks of layer `layer` that the segments name, and
/// attends over each sequence's past and present there. No gradient.
///
/// The decomposition knows no cache: it holds for segments without a past.
#[derive(Debug, Clone, Copy)]
pub struct CachedAttention {
    /// Sizes.
    pub shape: AttentionShape,
    /// Layer of the cache.
    pub layer: usize,
}

impl Kernel for CachedAttention {
    fn reads(&self, i: usize) -> bool {
        i < 4
    }
    fn uses_kv(&self) -> bool {
        true
    }
    fn scratch(&self, _: Extent, _: bool) -> usize {
        cpu::cached_attention_scratch(&self.shape.kernel())
    }
    fn work(&self, io: &Io<'_>) -> Work {
        let cache = io.kv.as_deref().expect("Plan::run checks that a cache is bound");
        let row = cache.row_bytes();
        let seen: usize = io.segments(3).iter().map(Segment::positions).sum();
        let new: usize = io.segments(3).iter().map(|s| s.q_len as usize).sum();
        let work = self.operands(io).reading(seen * row).writing(new * row);
        self.shape.products(work, io, 2)
    }
    fn run(&self, io: &mut Io<'_>) {
        let (out, mut scratch) = (io.take(0), io.scratch());
        let (q, k, v, segments) = (io.f32(0), io.f32(1), io.f32(2), io.segments(3));
        let cache = io.kv.as_deref_mut().expect("Plan::run checks that a cache is bound");
        let (layer, a) = (cache.layer(self.layer), self.shape.kernel());
        cpu::cached_attention(q, k, v, layer, io.blocks, segments, &a, out, &mut scratch);
    }
}

impl Composite for CachedAttention {
    fn name(&self) -> &'static str {
        "cached_attention"
    }
    fn infer(&self, inputs: &[Shape]) -> Vec<Shape> {
        vec![inputs[0].clone()]
    }
    fn decompose(&self, _: &Graph, inputs: &[Tensor]) -> Vec<Tensor> {
        self.shape.decompose(inputs)[..1].to_vec()
    }
    fn differentiable(&self) -> bool {
        false
    }
}

impl Tensor {
    /// Attention of queries `self[t, heads · d]` on `k`, `v[t, kv_heads · d]` within each segment of the batch.
    /// `segments` is [`Graph::segments`], `positions[t]` the `u32` input of positions. Gives `[t, heads · d]`.
    pub fn attention(
        &self,
        k: &Tensor,
        v: &Tensor,
        segments: &Tensor,
        positions: &Tensor,
        shape: AttentionShape,
    ) -> Tensor {
        self.check_attention(k, v, &shape);
        self.graph().composite(Arc::new(Attention(shape)), &[self, k, v, segments, positions]).remove(0)
    }

    /// [`Tensor::attention`] through layer `layer` of the KV cache bound at run time.
    pub fn cached_attention(
        &self,
        k: &Tensor,
        v: &Tensor,
        segments: &Tensor,
        positions: &Tensor,
        shape: AttentionShape,
        layer: usize,
    ) -> Tensor {
        self.check_attention(k, v, &shape);
        let op = CachedAttention { shape, layer };
        self.graph().composite(Arc::new(op), &[self, k, v, segments, positions]).remove(0)
    }

    fn check_attention(&self, k: &Tensor, v: &Tensor, s: &AttentionShape) {
        assert!(s.kv_heads > 0 && s.heads.is_multiple_of(s.kv_heads), "{s:?}");
        assert_eq!(self.width(), s.heads * s.head_dim, "attention queries for {s:?}");
        assert_eq!(
            (k.width(), v.width()),
            (s.kv_heads * s.head_dim, s.kv_heads * s.head_dim),
            "attention keys for {s:?}"
        );
    }
}
