//! Runs one graph two ways: as a plan on kernels, and as primitives on luminal's executor.

use std::collections::BTreeMap;

use luminal::tensor::Tensor as Data;
use toolsmith_graphs::{
    Bindings, DiffOptions, Graph, Options, Plan, Segment, Tensor,
    graph::{LeafKind, Node, NodeIndex},
};

/// Numbers for everything a graph may be bound to.
#[derive(Clone, Default)]
pub struct Bound {
    pub tokens: usize,
    pub rows: usize,
    pub params: Vec<Vec<f32>>,
    pub f32s: Vec<(&'static str, Vec<f32>)>,
    pub u32s: Vec<(&'static str, Vec<u32>)>,
    /// Lengths of the packed sequences.
    pub lens: Vec<usize>,
}

impl Bound {
    pub fn segments(&self) -> Vec<Segment> {
        let mut start = 0;
        let segment = |&len: &usize| {
            let s = Segment::whole(start, len as u32);
            start += len as u32;
            s
        };
        self.lens.iter().map(segment).collect()
    }

    fn leaf(&self, kind: LeafKind, name: &str) -> Vec<f32> {
        match kind {
            LeafKind::Param(i) => self.params[i].clone(),
            LeafKind::F32(_) => self.f32s.iter().find(|(n, _)| *n == name).expect("bound").1.clone(),
            LeafKind::U32(_) => {
                let data = &self.u32s.iter().find(|(n, _)| *n == name).expect("bound").1;
                data.iter().map(|&x| x as f32).collect()
            }
            LeafKind::Segments => {
                let number = |(i, &len): (usize, &usize)| vec![i as f32; len];
                self.lens.iter().enumerate().flat_map(number).collect()
            }
            other => panic!("{other:?} is not bound"),
        }
    }
}

/// Compiles for somewhat more than needed and runs on kernels; returns outputs and gradients.
pub fn on_kernels(g: &Graph, outputs: &[&Tensor], b: &Bound) -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
    let options = Options { tokens: b.tokens + 3, rows: b.rows + 2, bf16: false };
    let mut plan = Plan::compile(g, outputs, options).expect("compiles");
    let mut grads: Vec<Vec<f32>> = b.params.iter().map(|p| vec![0.0; p.len()]).collect();
    let segments = b.segments();
    let mut bindings =
        Bindings::new(b.tokens, b.rows).params(&b.params).grads(&mut grads).segments(&segments);
    for (name, data) in &b.f32s {
        if let Ok(input) = plan.f32_input(name) {
            bindings = bindings.f32(input, data);
        }
    }
    for (name, data) in &b.u32s {
        if let Ok(input) = plan.u32_input(name) {
            bindings = bindings.u32(input, data);
        }
    }
    plan.run(&mut bindings).expect("runs");
    ((0..outputs.len()).map(|i| plan.output(i).to_vec()).collect(), grads)
}

/// Runs a graph without composites on luminal's executor.
pub fn on_luminal(g: &Graph, outputs: &[&Tensor], b: &Bound) -> Vec<Vec<f32>> {
    for i in 0..g.len() {
        let id = NodeIndex::new(i);
        if let Node::Leaf(l) = g.node(id) {
            let data = Data::new(b.leaf(l.kind, &l.name));
            g.with(|l| l.set_tensor(id, 0, data));
        }
    }
    g.with(|l| {
        l.set_dyn_dim('t', b.tokens);
        l.set_dyn_dim('r', b.rows);
        outputs.iter().for_each(|t| {
            l.no_delete.insert(t.id);
        });
        l.execute();
        let read = |t: &&Tensor| {
            let data = l.get_tensor_ref(t.id, t.out).expect("kept");
            data.data.as_any().downcast_ref::<Vec<f32>>().expect("f32").clone()
        };
        outputs.iter().map(read).collect()
    })
}

/// Decomposes and runs on luminal's executor; returns outputs and gradients.
pub fn on_primitives(g: &Graph, outputs: &[&Tensor], b: &Bound) -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
    let gradients = g.gradients();
    let all: Vec<&Tensor> = outputs.iter().copied().chain(gradients.iter().map(|(_, t)| t)).collect();
    let (graph, moved) = g.decompose(&all);
    let mut values = on_luminal(&graph, &moved.iter().collect::<Vec<_>>(), b);
    let sums = values.split_off(outputs.len());
    let mut grads: Vec<Vec<f32>> = b.params.iter().map(|p| vec![0.0; p.len()]).collect();
    for ((param, _), g) in gradients.iter().zip(sums) {
        grads[*param].iter_mut().zip(g).for_each(|(sum, g)| *sum += g);
    }
    (values, grads)
}

/// Largest difference relative to the largest reference value, which counts as at least `floor`.
fn error(found: &[f32], expected: &[f32], floor: f32) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(floor, |m, x| m.max(x.abs()));
    let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    worst.fold(0.0, |m: f32, d| if d.is_nan() { f32::INFINITY } else { m.max(d) }) / largest
}

#[track_caller]
pub fn close(found: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    close_above(found, expected, tolerance, 1e-20, what);
}

/// [`close`] where cancellation may leave nothing: values below `floor` are compared absolutely.
#[track_caller]
pub fn close_above(found: &[f32], expected: &[f32], tolerance: f32, floor: f32, what: &str) {
    let e = error(found, expected, floor);
    assert!(e <= tolerance, "{what}: error {e}\nfound    {found:?}\nexpected {expected:?}");
}

/// Compares an op's kernel with its decomposition: outputs, then gradients of `Σ output · cotangent` for parameters and
/// `f32` inputs by the op's own rule on kernels, the same rule decomposed, and autograd through the decomposition.
///
/// `build` gets the graph and the inputs by name, and returns outputs to compare and how many of them have gradients.
pub fn check(
    b: &Bound,
    shapes: &BTreeMap<&'static str, Vec<toolsmith_graphs::Dim>>,
    tolerance: f32,
    build: impl Fn(&Graph, &BTreeMap<&'static str, Tensor>) -> (Vec<Tensor>, usize),
) {
    let g = Graph::new();
    let mut inputs = BTreeMap::new();
    for (name, _) in &b.f32s {
        inputs.insert(*name, g.f32_input(name, &shapes[name]));
    }
    for (name, _) in &b.u32s {
        inputs.insert(*name, g.u32_input(name, &shapes[name]));
    }
    let (outputs, differentiable) = build(&g, &inputs);
    let all: Vec<&Tensor> = outputs.iter().collect();
    let (kernels, primitives) = (on_kernels(&g, &all, b).0, on_primitives(&g, &all, b).0);
    for (i, (k, p)) in kernels.iter().zip(&primitives).enumerate() {
        close_above(k, p, tolerance, 0.1, &format!("output {i}"));
    }
    if differentiable == 0 {
        return;
    }

    // A smooth scalar of the outputs whose gradient differs from element to element.
    let scalar = |outputs: &[Tensor]| {
        let sum = |t: &Tensor| {
            let mut s = (t * 1.7 + 0.3).sin();
            while !s.dims().is_empty() {
                s = s.sum(0);
            }
            s
        };
        outputs[..differentiable].iter().map(sum).reduce(|a, b| a + b).expect("an output")
    };
    let names: Vec<&'static str> = b.f32s.iter().map(|(n, _)| *n).collect();
    let of = |g: &Graph, outputs: &[Tensor], inputs: &[Tensor]| {
        let loss = scalar(outputs);
        g.differentiate(&loss, &inputs.iter().collect::<Vec<_>>(), DiffOptions::default())
    };

    let leaves: Vec<Tensor> = names.iter().map(|n| inputs[n].clone()).collect();
    let wanted: Vec<&Tensor> = outputs.iter().chain(&leaves).collect();
    let (lowered, moved) = g.decompose(&wanted);
    let (low_outputs, low_leaves) = moved.split_at(outputs.len());
    let through = of(&lowered, low_outputs, low_leaves);
    let through: Vec<&Tensor> = through.iter().flatten().collect();
    let expected = on_primitives(&lowered, &through, b);

    let by_rule = of(&g, &outputs, &leaves);
    let by_rule: Vec<&Tensor> = by_rule.iter().flatten().collect();
    assert_eq!(by_rule.len(), through.len(), "the rule reaches the same inputs");
    for (how, (inputs, params)) in
        [("kernels", on_kernels(&g, &by_rule, b)), ("decomposed rule", on_primitives(&g, &by_rule, b))]
    {
        for (i, (f, e)) in inputs.iter().zip(&expected.0).enumerate() {
            close_above(f, e, tolerance, 0.1, &format!("{how}: gradient of input {i}"));
        }
        for (i, (f, e)) in params.iter().zip(&expected.1).enumerate() {
            close_above(f, e, tolerance, 0.1, &format!("{how}: gradient of parameter {i}"));
        }
    }
}

/// Numbers around zero from a seed.
pub fn numbers(seed: u64, n: usize) -> Vec<f32> {
    let mut s = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        s ^= s << 13;
        s ^= s >> 7;
        s ^= s << 17;
        (s >> 40) as f32 / (1u64 << 24) as f32
    };
    (0..n).map(|_| 2.0 * next() - 1.0).collect()
}

/// Integers below `below` from a seed.
pub fn integers(seed: u64, n: usize, below: usize) -> Vec<u32> {
    numbers(seed, n).into_iter().map(|x| ((x + 1.0) / 2.0 * below as f32) as u32 % below as u32).collect()
}
