//! A decoder of composites, built as the family's models are, for the tests and benches of whole plans.

use std::sync::Arc;

use half::bf16;
use toolsmith_graphs::{AttentionShape, Dim, Graph, Params, RopeAngles, Segment, Tensor};

const T: Dim = Dim::Tokens;
/// Positions that angles are made for.
const CONTEXT: usize = 1024;

/// Its sizes, and what sets the family's models apart.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub layers: usize,
    pub hidden: usize,
    pub ffn: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub vocab: usize,
    /// Biases on projections to queries, keys, values and the gated layer.
    pub bias: bool,
    /// Queries and keys are normalised head by head.
    pub head_norm: bool,
}

/// A decoder being built. Parameter 0 is the embedding, the others come in the order in which they are named.
pub struct Decoder {
    pub graph: Graph,
    /// Elements of each parameter.
    pub sizes: Vec<usize>,
    shape: Shape,
    cached: bool,
}

impl Decoder {
    /// None of it yet; with `cached`, attention goes through the KV cache.
    pub fn new(shape: Shape, cached: bool) -> Self {
        Decoder { graph: Graph::new(), sizes: vec![], shape, cached }
    }

    pub fn param(&mut self, name: &str, shape: &[usize]) -> Tensor {
        self.sizes.push(shape.iter().product());
        self.graph.param(self.sizes.len() - 1, name, shape)
    }

    pub fn norm(&mut self, x: &Tensor, name: &str) -> Tensor {
        let w = self.param(name, &[x.width()]);
        x.rms_norm(&w, 1e-5)
    }

    /// The embedding and the layers, without the last norm.
    pub fn layers(&mut self) -> Tensor {
        let (s, g) = (self.shape, self.graph.clone());
        let (ids, positions) = (g.u32_input("ids", &[T]), g.u32_input("positions", &[T]));
        let segments = g.segments();
        let frequencies: Vec<f32> = (0..s.hidden / s.heads / 2).map(|i| 0.9f32.powi(i as i32)).collect();
        let angles = RopeAngles::new(CONTEXT, &frequencies, 1.0);
        let mut x = self.param("embed", &[s.vocab, s.hidden]).embedding(&ids);
        for layer in 0..s.layers {
            x = g.region(|| self.layer(x, layer, &segments, &positions, &angles));
        }
        x
    }

    fn layer(
        &mut self,
        x: Tensor,
        layer: usize,
        segments: &Tensor,
        positions: &Tensor,
        angles: &Arc<RopeAngles>,
    ) -> Tensor {
        let Shape { hidden, ffn, heads, kv_heads, bias, .. } = self.shape;
        let head_dim = hidden / heads;
        let scale = 1.0 / (head_dim as f32).sqrt();
        let shape = AttentionShape { heads, kv_heads, head_dim, scale, causal: true };
        let n = self.norm(&x, "norm1");
        let [q, k, v] = [("q", hidden), ("k", kv_heads * head_dim), ("v", kv_heads * head_dim)]
            .map(|(name, width)| self.linear(&n, name, width, bias));
        let q = self.turned(q, "q_norm", positions, angles);
        let k = self.turned(k, "k_norm", positions, angles);
        let y = if self.cached {
            q.cached_attention(&k, &v, segments, positions, shape, layer)
        } else {
            q.attention(&k, &v, segments, positions, shape)
        };
        let x = x + self.linear(&y, "o", hidden, false);
        let n = self.norm(&x, "norm2");
        let [gate, up] = ["gate", "up"].map(|name| self.linear(&n, name, ffn, bias));
        x + self.linear(&gate.swiglu(&up), "down", hidden, false)
    }

    fn linear(&mut self, x: &Tensor, name: &str, width: usize, bias: bool) -> Tensor {
        let w = self.param(name, &[width, x.width()]);
        let b = bias.then(|| self.param(&format!("{name}.bias"), &[width]));
        x.linear(&w, b.as_ref())
    }

    fn turned(&mut self, x: Tensor, name: &str, positions: &Tensor, angles: &Arc<RopeAngles>) -> Tensor {
        let x = if self.shape.head_norm {
            let (dims, head_dim) = (x.dims(), self.shape.hidden / self.shape.heads);
            let heads = x.reshape(&[T, (x.width() / head_dim).into(), head_dim.into()]);
            self.norm(&heads, name).reshape(&dims)
        } else {
            x
        };
        x.rope(positions, angles)
    }
}

/// Numbers between -1 and 1, the same for the same `seed`.
pub fn numbers(seed: usize, n: usize) -> Vec<f32> {
    let mut s = (seed as u64 * 0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        s ^= s << 13;
        s ^= s >> 7;
        s ^= s << 17;
        (s >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// Small weights for parameters of these `sizes`.
pub fn weights(sizes: &[usize], bf16: bool) -> Box<dyn Params> {
    let of = |(i, &n): (usize, &usize)| numbers(i + 1, n).into_iter().map(|x| 0.2 * x);
    if bf16 {
        let halves = |p| of(p).map(bf16::from_f32).collect();
        Box::new(sizes.iter().enumerate().map(halves).collect::<Vec<Vec<bf16>>>())
    } else {
        Box::new(sizes.iter().enumerate().map(|p| of(p).collect()).collect::<Vec<Vec<f32>>>())
    }
}

/// `sequences` of `len` tokens each, `past` tokens and `blocks` blocks in the cache.
#[allow(dead_code)] // Some batches have sequences of several lengths.
pub fn segments(sequences: usize, len: usize, past: usize, blocks: usize) -> Vec<Segment> {
    let segment = |i: usize| Segment {
        q_start: (i * len) as u32,
        q_len: len as u32,
        past: past as u32,
        table: (i * blocks) as u32,
    };
    (0..sequences).map(segment).collect()
}
