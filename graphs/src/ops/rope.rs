//! Rotary position embedding (arXiv 2104.09864) in the half-split layout of Hugging Face models.

use std::sync::Arc;

use super::{Backward, Composite, Io, Kernel, Work};
use crate::{
    cpu,
    graph::Graph,
    shape::{Dim, Shape},
    tensor::Tensor,
};

/// The angles of a model: `position · inv_freq[i]` turns the pair `(i, i + head_dim/2)`.
#[derive(Debug, Clone)]
pub struct RopeAngles {
    table: cpu::RopeTable,
    inv_freq: Vec<f32>,
    scaling: f32,
}

impl RopeAngles {
    /// For positions below `positions`, from `inv_freq[head_dim / 2]` with any scaling of frequencies applied;
    /// `scaling` multiplies sines and cosines (1 unless YaRN).
    pub fn new(positions: usize, inv_freq: &[f32], scaling: f32) -> Arc<Self> {
        let table = cpu::RopeTable::new(positions, inv_freq, scaling);
        Arc::new(RopeAngles { table, inv_freq: inv_freq.to_vec(), scaling })
    }

    pub(crate) fn table(&self) -> &cpu::RopeTable {
        &self.table
    }
}

/// `x[t, heads · head_dim]`, `positions[t]` → the same shape, turned; turned back if `inverse`, which is the gradient.
#[derive(Debug, Clone)]
pub struct Rope {
    /// Angles.
    pub angles: Arc<RopeAngles>,
    /// Heads in a row.
    pub heads: usize,
    /// Direction.
    pub inverse: bool,
}

impl Kernel for Rope {
    fn in_place(&self, i: usize) -> Option<usize> {
        (i == 0).then_some(0)
    }
    fn work(&self, io: &Io<'_>) -> Work {
        // A pair turned: four multiplications, two additions.
        self.operands(io).flop(3 * io.output_len(0))
    }
    fn run(&self, io: &mut Io<'_>) {
        let y = io.take(0);
        cpu::rope(io.operand(0), io.u32(1), &self.angles.table, y, self.heads, self.inverse);
    }
}

impl Composite for Rope {
    fn name(&self) -> &'static str {
        if self.inverse { "rope_inverse" } else { "rope" }
    }
    fn infer(&self, inputs: &[Shape]) -> Vec<Shape> {
        vec![inputs[0].clone()]
    }
    fn decompose(&self, g: &Graph, inputs: &[Tensor]) -> Vec<Tensor> {
        let (x, positions) = (&inputs[0], &inputs[1]);
        let (dims, half) = (x.dims(), self.angles.inv_freq.len());
        let t = dims[0];
        let angle = positions.expand(1, half) * g.literal(&self.angles.inv_freq, &[half]).expand(0, t);
        let sign = if self.inverse { -1.0 } else { 1.0 };
        // Each pair (a, b) becomes (a cos − b sin, b cos + a sin): a 2 × 2 matrix of out and in.
        let [cos, sin] = [angle.cos(), angle.sin()].map(|f| {
            let f = f * self.angles.scaling;
            f.expand(1, self.heads).expand(2, 2).expand(3, 2) // [t, heads, out, in, half]
        });
        let spread = |m: [f32; 4]| g.literal(&m, &[2, 2]).expand(0, t).expand(1, self.heads).expand(4, half);
        let turn = cos * spread([1.0, 0.0, 0.0, 1.0]) + sin * spread([0.0, -sign, sign, 0.0]);
        let pairs = x.reshape(&[t, self.heads.into(), Dim::Fixed(2), half.into()]).expand(2, 2);
        vec![(turn * pairs).sum(3).reshape(&dims)]
    }
    fn gradient(&self, node: &Backward<'_>) -> Vec<Option<Tensor>> {
        let back = Rope { inverse: !self.inverse, ..self.clone() };
        let dx = node.graph.composite(Arc::new(back), &[node.grad(), &node.inputs[1]]).remove(0);
        vec![Some(dx), None]
    }
}

impl Tensor {
    /// Turns the heads of `self[t, heads · head_dim]` by each token's `positions[t]` (a `u32` input).
    pub fn rope(&self, positions: &Tensor, angles: &Arc<RopeAngles>) -> Tensor {
        let (width, head) = (self.width(), angles.table.head_dim());
        assert!(width.is_multiple_of(head), "rope of width {width} with heads of {head}");
        let op = Rope { angles: angles.clone(), heads: width / head, inverse: false };
        self.graph().composite(Arc::new(op), &[self, positions]).remove(0)
    }
}
