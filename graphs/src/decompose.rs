//! The pass that replaces composites by their decompositions, until only luminal's primitives are left.
//!
//! What remains is what luminal's own executor can run: the meaning every kernel is tested against. It is far too slow
//! for anything but small shapes.

use std::collections::BTreeMap;

use luminal::{
    compiler_utils::{Compiler, ToIdsMut},
    graph::NodeIndex,
};

use crate::graph::{Graph, Node};
use crate::tensor::Tensor;

/// Where the values of the old graph are in the new one.
type Moves = BTreeMap<(usize, u8), Tensor>;

/// The pass. Values other than a node's first output are found through [`Graph::decompose`] only.
#[derive(Debug, Default, Clone, Copy)]
pub struct Decompose;

impl Compiler for Decompose {
    fn compile<T: ToIdsMut>(&self, luminal: &mut luminal::graph::Graph, mut remap: T) {
        let old = Graph::adopt(std::mem::take(luminal));
        let (new, moves) = full(&old);
        let old = old.release();
        *luminal = new.release();
        let moved = |id: NodeIndex| moves.get(&(id.index(), 0)).map_or(id, |t| t.id);
        remap.to_ids_mut().into_iter().for_each(|id| *id = moved(*id));
        luminal.no_delete = old.no_delete.into_iter().map(moved).collect();
        luminal.to_retrieve = old.to_retrieve.into_iter().map(moved).collect();
        luminal.dyn_map = old.dyn_map;
    }
}

impl Graph {
    /// A copy of this graph in primitives only, and where `tensors` are in it.
    pub fn decompose(&self, tensors: &[&Tensor]) -> (Graph, Vec<Tensor>) {
        let (graph, moves) = full(self);
        let tensors = tensors.iter().map(|t| follow(&graph, &moves, t)).collect();
        (graph, tensors)
    }
}

/// Replaces composites until none is left: decompositions may be made of simpler ones.
fn full(graph: &Graph) -> (Graph, Moves) {
    let (mut graph, mut moves) = once(graph);
    while (0..graph.len()).any(|i| matches!(graph.node(NodeIndex::new(i)), Node::Composite(_))) {
        let (next, further) = once(&graph);
        moves.values_mut().for_each(|t| *t = follow(&next, &further, t));
        graph = next;
    }
    (graph, moves)
}

fn once(old: &Graph) -> (Graph, Moves) {
    let new = Graph::new();
    let mut moves = Moves::new();
    for i in 0..old.len() {
        let id = NodeIndex::new(i);
        let inputs: Vec<Tensor> = old.inputs(id).iter().map(|t| follow(&new, &moves, t)).collect();
        let outputs = match old.node(id) {
            Node::Composite(c) => c.decompose(&new, &inputs),
            node => vec![new.output(new.copy_node(node, &inputs), 0, &old.outputs(id)[0])],
        };
        for (out, t) in outputs.into_iter().enumerate() {
            moves.insert((i, out as u8), t.contiguous());
        }
    }
    (new, moves)
}

/// The same view of the moved value.
fn follow(new: &Graph, moves: &Moves, t: &Tensor) -> Tensor {
    let value = &moves[&(t.id.index(), t.out)];
    new.view(value.id, value.out, t.shape)
}
