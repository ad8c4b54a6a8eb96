//! Rows of a table by token id.

use std::sync::Arc;

use super::{Backward, Composite, Io, Kernel, Work};
use crate::{
    cpu,
    graph::Graph,
    shape::{Dim, Shape},
    tensor::Tensor,
};

/// `ids[t]`, `table[vocab, h]` → `[t, h]`.
#[derive(Debug, Clone, Copy)]
pub struct Embedding {
    /// Rows of the table.
    pub vocab: usize,
    /// Width of a row.
    pub h: usize,
}

/// 1 where `ids[i] = v`: `[t, n]` for a table of `n` rows numbered by `numbers[n]`.
pub(super) fn one_hot(ids: &Tensor, numbers: &Tensor) -> Tensor {
    let (t, n) = (ids.dims()[0], numbers.dims()[0]);
    ids.expand(1, n).equals(&numbers.expand(0, t))
}

/// `0, 1, …` below `n`.
pub(super) fn count(g: &Graph, n: usize) -> Tensor {
    g.literal(&(0..n).map(|i| i as f32).collect::<Vec<_>>(), &[n])
}

/// Reading a row of `row` bytes for each id and writing `written` numbers.
pub(super) fn rows(ids: &[u32], row: usize, written: usize) -> Work {
    Work::default().reading(size_of_val(ids) + ids.len() * row).writing(written * size_of::<f32>())
}

impl Kernel for Embedding {
    fn work(&self, io: &Io<'_>) -> Work {
        rows(io.u32(0), io.mat(1).bytes() / self.vocab, io.output_len(0))
    }
    fn run(&self, io: &mut Io<'_>) {
        let y = io.take(0);
        cpu::embedding(io.u32(0), io.mat(1), y, self.h);
    }
}

impl Composite for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }
    fn infer(&self, inputs: &[Shape]) -> Vec<Shape> {
        vec![vec![inputs[0][0], self.h.into()]]
    }
    fn decompose(&self, g: &Graph, inputs: &[Tensor]) -> Vec<Tensor> {
        let (ids, table) = (&inputs[0], &inputs[1]);
        let hot = one_hot(ids, &count(g, self.vocab));
        vec![(hot.expand(2, self.h) * table.expand(0, ids.dims()[0])).sum(1)]
    }
    fn gradient(&self, node: &Backward<'_>) -> Vec<Option<Tensor>> {
        let op = EmbeddingDw { vocab: self.vocab, h: self.h };
        vec![None, Some(node.graph.composite(Arc::new(op), &[&node.inputs[0], node.grad()]).remove(0))]
    }
}

/// `ids[t]`, `dy[t, h]` → `dtable[vocab, h]`, added to.
#[derive(Debug, Clone, Copy)]
pub struct EmbeddingDw {
    /// Rows of the table.
    pub vocab: usize,
    /// Width of a row.
    pub h: usize,
}

impl Kernel for EmbeddingDw {
    fn accumulates(&self, _: usize) -> bool {
        true
    }
    fn work(&self, io: &Io<'_>) -> Work {
        let (ids, dy) = (io.u32(0), io.f32(1));
        // The rows of the table are read, added to and written.
        rows(ids, size_of::<f32>() * self.h, dy.len()).reading(size_of_val(dy)).flop(dy.len())
    }
    fn run(&self, io: &mut Io<'_>) {
        let table = io.take(0);
        cpu::embedding_backward(io.u32(0), io.f32(1), table, self.h);
    }
}

impl Composite for EmbeddingDw {
    fn name(&self) -> &'static str {
        "embedding_dw"
    }
    fn infer(&self, _: &[Shape]) -> Vec<Shape> {
        vec![vec![self.vocab.into(), self.h.into()]]
    }
    fn decompose(&self, g: &Graph, inputs: &[Tensor]) -> Vec<Tensor> {
        let hot = one_hot(&inputs[0], &count(g, self.vocab));
        vec![(hot.expand(2, self.h) * inputs[1].expand(1, self.vocab)).sum(0)]
    }
}

impl Tensor {
    /// Rows of this table `[vocab, h]` by `ids[t]` (a `u32` input): `[t, h]`.
    pub fn embedding(&self, ids: &Tensor) -> Tensor {
        let [Dim::Fixed(vocab), Dim::Fixed(h)] = self.dims()[..] else {
            panic!("an embedding table is [vocab, h], not {:?}", self.dims())
        };
        self.graph().composite(Arc::new(Embedding { vocab, h }), &[ids, self]).remove(0)
    }
}
