//! AdamW as a graph: kernel against decomposition, clipping, both kinds of weights.

use half::bf16;
use toolsmith_graphs::{
    Graph, cpu,
    graph::{LeafKind, Node, NodeIndex},
    ops::AdamWConstants,
    optimizer::{Optimizer, Trained},
    plan::{Master, Moments, ParamState, Slot},
};

use crate::harness::{close, numbers};

const CONSTANTS: AdamWConstants = AdamWConstants { beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1 };

struct State {
    w: Vec<Vec<f32>>,
    m: Vec<Vec<f32>>,
    v: Vec<Vec<f32>>,
}

impl ParamState for State {
    fn slot(&mut self, i: usize) -> Slot<'_> {
        let moments = Moments::F32 { m: &mut self.m[i], v: &mut self.v[i] };
        Slot { weights: Master::F32(&mut self.w[i]), moments }
    }
    fn moment_bytes(&self, i: usize) -> usize {
        8 * self.w[i].len()
    }
}

fn params() -> Vec<Trained> {
    vec![
        Trained { index: 0, name: "matrix".into(), shape: vec![7, 5], decay: true },
        Trained { index: 1, name: "norm".into(), shape: vec![5], decay: false },
    ]
}

fn state() -> (State, Vec<Vec<f32>>) {
    let n = |seed, scale: f32| {
        let part = |s, n| numbers(s, n).iter().map(|x| scale * x).collect::<Vec<f32>>();
        vec![part(seed, 35), part(seed + 1, 5)]
    };
    let v = n(4, 1e-2).iter().map(|v| v.iter().map(|x| x.abs()).collect()).collect();
    (State { w: n(0, 1.0), m: n(2, 0.1), v }, n(6, 1.0))
}

/// The same update by the decomposed graph on luminal's executor.
fn on_primitives(
    s: &State,
    grads: &[Vec<f32>],
    scalars: [f32; 3],
    max_norm: Option<f32>,
) -> (f32, Vec<[Vec<f32>; 3]>) {
    let g = Graph::new();
    let [lr, step, scale] = ["lr", "step", "grad_scale"].map(|n| g.f32_input(n, &[]));
    let norm = toolsmith_graphs::optimizer::adamw(&g, &params(), CONSTANTS, max_norm, [&lr, &step, &scale]);
    let mut wanted = vec![norm];
    for i in 0..g.len() {
        let id = NodeIndex::new(i);
        if matches!(g.node(id), Node::Composite(c) if c.name() == "adamw") {
            wanted.extend((0..3).map(|o| toolsmith_graphs::Tensor::of_node(&g, id, o)));
        }
    }
    let (low, moved) = g.decompose(&wanted.iter().collect::<Vec<_>>());
    for i in 0..low.len() {
        let id = NodeIndex::new(i);
        let Node::Leaf(l) = low.node(id) else { continue };
        let data = match l.kind {
            LeafKind::Param(p) => s.w[p].clone(),
            LeafKind::Grad(p) => grads[p].clone(),
            LeafKind::Moment1(p) => s.m[p].clone(),
            LeafKind::Moment2(p) => s.v[p].clone(),
            LeafKind::F32(i) => vec![scalars[i]],
            other => panic!("{other:?}"),
        };
        low.with(|l| l.set_tensor(id, 0, luminal::tensor::Tensor::new(data)));
    }
    low.with(|l| {
        moved.iter().for_each(|t| {
            l.no_delete.insert(t.id);
        });
        l.execute();
        let read = |t: &toolsmith_graphs::Tensor| {
            l.get_tensor_ref(t.id, t.out).unwrap().data.as_any().downcast_ref::<Vec<f32>>().unwrap().clone()
        };
        let updates = moved[1..].chunks(3).map(|c| [read(&c[0]), read(&c[1]), read(&c[2])]).collect();
        (read(&moved[0])[0], updates)
    })
}

#[test]
fn the_kernel_does_what_the_primitives_say() {
    for (max_norm, scale) in [(None, 1.0), (Some(0.5), 1.0), (Some(1e6), 0.25)] {
        let (mut s, grads) = state();
        let (norm, expected) = on_primitives(&s, &grads, [0.01, 3.0, scale], max_norm);
        let mut optimizer = Optimizer::new(&params(), CONSTANTS, max_norm).unwrap();
        let mut grads = [grads];
        let found = optimizer.step(&mut grads, &mut s, 0.01, 3, scale).unwrap();
        assert!(grads.iter().flatten().flatten().all(|&g| g == 0.0), "gradients are taken");
        close(&[found], &[norm], 1e-6, "norm");
        for (p, [w, m, v]) in expected.iter().enumerate() {
            close(&s.w[p], w, 1e-5, "weights");
            close(&s.m[p], m, 1e-6, "first moment");
            close(&s.v[p], v, 1e-5, "second moment");
        }
    }
}

#[test]
fn clipping_limits_the_norm_and_decay_spares_norms() {
    let mut optimizer = Optimizer::new(&params(), CONSTANTS, Some(0.5)).unwrap();
    let (mut s, grads) = state();
    let norm = optimizer.step(&mut [grads.clone()], &mut s, 0.0, 1, 1.0).unwrap();
    let direct: f64 = grads.iter().flatten().map(|&g| f64::from(g).powi(2)).sum();
    close(&[norm], &[direct.sqrt() as f32], 1e-6, "norm");
    // With no gradient and no moments only decay is left.
    let (mut s, grads) = state();
    let zero: Vec<Vec<f32>> = grads.iter().map(|g| vec![0.0; g.len()]).collect();
    s.m.iter_mut().flatten().for_each(|m| *m = 0.0);
    let before = s.w.clone();
    optimizer.step(&mut [zero], &mut s, 0.1, 1, 1.0).unwrap();
    assert_eq!(s.w[1], before[1]);
    let shrunk: Vec<f32> = before[0].iter().map(|w| w * (1.0 - 0.1 * 0.1)).collect();
    close(&s.w[0], &shrunk, 1e-6, "decay");
}

#[test]
fn gradients_that_are_not_finite_change_nothing() {
    for (bad, max_norm) in [(f32::NAN, Some(1.0)), (f32::INFINITY, Some(1.0)), (f32::INFINITY, None)] {
        let mut optimizer = Optimizer::new(&params(), CONSTANTS, max_norm).unwrap();
        let ((mut s, mut grads), (before, _)) = (state(), state());
        grads[1][3] = bad;
        let mut grads = [grads.clone(), grads];
        let norm = optimizer.step(&mut grads, &mut s, 0.1, 1, 1.0).unwrap();
        assert!(!norm.is_finite());
        assert_eq!((s.w, s.m, s.v), (before.w, before.m, before.v));
        assert!(grads.iter().flatten().flatten().all(|&g| g == 0.0), "the next step starts anew");
    }
}

struct Split {
    hi: Vec<bf16>,
    lo: Vec<i16>,
    m: Vec<f32>,
    v: Vec<f32>,
}

impl ParamState for Split {
    fn slot(&mut self, _: usize) -> Slot<'_> {
        let moments = Moments::F32 { m: &mut self.m, v: &mut self.v };
        Slot { weights: Master::Bf16 { hi: &mut self.hi, lo: &mut self.lo }, moments }
    }
    fn moment_bytes(&self, _: usize) -> usize {
        8 * self.hi.len()
    }
}

#[test]
fn split_weights_take_the_same_steps_as_f32_ones() {
    let trained = &params()[..1];
    let (mut s, grads) = state();
    let grads = vec![grads[0].clone()];
    let (hi, lo) = s.w[0].iter().map(|&w| cpu::split_master(w)).unzip();
    let mut split = Split { hi, lo, m: s.m[0].clone(), v: s.v[0].clone() };
    let mut optimizer = Optimizer::new(trained, CONSTANTS, Some(1.0)).unwrap();
    for step in 1..6 {
        optimizer.step(&mut [grads.clone()], &mut s, 1e-3, step, 1.0).unwrap();
        optimizer.step(&mut [grads.clone()], &mut split, 1e-3, step, 1.0).unwrap();
    }
    let joined: Vec<f32> = split.hi.iter().zip(&split.lo).map(|(&h, &l)| cpu::join_master(h, l)).collect();
    assert_eq!(joined, s.w[0]);
}

#[test]
fn gradients_in_several_buffers_are_their_sum() {
    let buffer = |seed| vec![numbers(seed, 35), numbers(seed + 1, 5)];
    // More than one pass adds.
    for count in [2, 3, 20] {
        let mut buffers: Vec<_> = (0..count).map(|i| buffer(10 + 2 * i)).collect();
        let mut sum = buffers[0].clone();
        for other in &buffers[1..] {
            sum.iter_mut().flatten().zip(other.iter().flatten()).for_each(|(sum, g)| *sum += g);
        }
        let ((mut one, _), (mut many, _)) = (state(), state());
        let mut optimizer = Optimizer::new(&params(), CONSTANTS, Some(0.5)).unwrap();
        let norm = optimizer.step(&mut [sum], &mut one, 0.01, 3, 1.0).unwrap();
        assert_eq!(optimizer.step(&mut buffers, &mut many, 0.01, 3, 1.0).unwrap(), norm);
        assert_eq!((one.w, one.m, one.v), (many.w, many.m, many.v), "{count} buffers");
        assert!(buffers.iter().flatten().flatten().all(|&g| g == 0.0));
    }
}

#[test]
fn buffers_that_are_missing_or_too_small_are_errors() {
    let mut optimizer = Optimizer::new(&params(), CONSTANTS, None).unwrap();
    let (mut s, grads) = state();
    let none = optimizer.step(&mut [], &mut s, 0.01, 1, 1.0).unwrap_err();
    assert_eq!(none.to_string(), "the plan needs gradients to sum, which are not bound");
    let short = optimizer.step(&mut [grads.clone(), vec![grads[0].clone()]], &mut s, 0.01, 1, 1.0);
    let short = short.unwrap_err().to_string();
    assert_eq!(short, "input `gradient 1` has 0 elements where the batch needs 5");
}

#[test]
fn a_recorded_step_counts_the_bytes_of_the_state_that_it_has() {
    struct Short(Split, Vec<bf16>);
    impl ParamState for Short {
        fn slot(&mut self, _: usize) -> Slot<'_> {
            let moments = Moments::Bf16 { m: &mut self.1, v: &mut self.0.hi };
            Slot { weights: Master::F32(&mut self.0.m), moments }
        }
        fn moment_bytes(&self, _: usize) -> usize {
            4 * self.1.len()
        }
    }
    let (halves, zeros) = (vec![bf16::ZERO; 35], vec![0.0; 35]);
    let mut wide = Split { hi: halves.clone(), lo: vec![0; 35], m: zeros.clone(), v: zeros.clone() };
    let mut short =
        Short(Split { hi: halves.clone(), lo: vec![0; 35], m: zeros.clone(), v: zeros.clone() }, halves);
    let mut optimizer = Optimizer::new(&params()[..1], CONSTANTS, None).unwrap();
    optimizer.record(true);
    let mut bytes = |state: &mut dyn ParamState, buffers: usize| {
        optimizer.step(&mut vec![vec![zeros.clone()]; buffers], state, 0.1, 1, 1.0).unwrap();
        ["sum_squares", "adamw"].map(|name| {
            let step = optimizer.plan().steps().find(|s| s.name == name).unwrap();
            let work = step.cost.unwrap().work;
            (work.read, work.written)
        })
    };
    // A weight, its gradient and its moments; learning rate, step and scale; the norm.
    assert_eq!(bytes(&mut wide, 1), [(4 * 35, 4), (16 * 35 + 12, 16 * 35)]);
    assert_eq!(bytes(&mut short, 1), [(4 * 35, 4), (12 * 35 + 12, 12 * 35)]);
    assert_eq!(bytes(&mut short, 2), [(8 * 35, 8 * 35 + 4), (12 * 35 + 12, 12 * 35)]);
}
