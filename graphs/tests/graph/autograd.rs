//! Gradient rules of primitives against finite differences; checkpointing and tied weights.

use std::sync::Arc;

use toolsmith_graphs::{AttentionShape, DiffOptions, Dim, Graph, Options, Plan, RopeAngles, Tensor};

use crate::harness::{Bound, close, integers, numbers, on_kernels, on_luminal};

const T: Dim = Dim::Tokens;

/// Compares the gradient of `Σ f(x, y) · c` for `x[t, 3]`, `y[t, 3]` with central differences.
fn finite(name: &str, f: impl Fn(&Tensor, &Tensor) -> Tensor) {
    let t = 4;
    // Away from 0 and from each other's multiples, so that no kink lies within a step.
    let x: Vec<f32> = numbers(7, 3 * t).iter().map(|x| 1.5 + x).collect();
    let y: Vec<f32> = numbers(8, 3 * t).iter().map(|x| 1.6 + 0.9 * x).collect();
    let g = Graph::new();
    let (a, b) = (g.f32_input("x", &[T, 3.into()]), g.f32_input("y", &[T, 3.into()]));
    let mut loss = f(&a, &b);
    loss = &loss * 0.7 + loss.square() * 0.1;
    while !loss.dims().is_empty() {
        loss = loss.sum(0);
    }
    let grads = g.differentiate(&loss, &[&a, &b], DiffOptions::default());
    let grads: Vec<Tensor> = grads.into_iter().map(|d| d.unwrap_or_else(|| a.clone() * 0.0)).collect();
    let bound = |x: &[f32], y: &[f32]| Bound {
        tokens: t,
        f32s: vec![("x", x.to_vec()), ("y", y.to_vec())],
        ..Default::default()
    };
    let found = on_kernels(&g, &[&grads[0], &grads[1]], &bound(&x, &y)).0;
    let on_executor = on_luminal(&g, &[&grads[0], &grads[1]], &bound(&x, &y));
    let at = |x: &[f32], y: &[f32]| f64::from(on_kernels(&g, &[&loss], &bound(x, y)).0[0][0]);
    for (which, values) in [&x, &y].into_iter().enumerate() {
        let slope = |i: usize| {
            let step = |d: f32| {
                let mut v = values.clone();
                v[i] += d;
                if which == 0 { at(&v, &y) } else { at(&x, &v) }
            };
            ((step(4e-3) - step(-4e-3)) / 8e-3) as f32
        };
        let expected: Vec<f32> = (0..values.len()).map(slope).collect();
        let largest = expected.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        if largest > 1e-3 {
            close(&found[which], &expected, 5e-3, &format!("{name}, input {which}"));
        } else {
            assert!(found[which].iter().all(|g| g.abs() < 1e-6), "{name}, input {which}: {:?}", found[which]);
        }
        close(&found[which], &on_executor[which], 1e-5, &format!("{name}: plan and executor"));
    }
}

#[test]
fn primitive_rules_match_finite_differences() {
    finite("log2", |x, _| x.log2());
    finite("exp2", |x, _| x.exp2());
    finite("sin", |x, _| x.sin());
    finite("cos", |x, _| x.cos());
    finite("sqrt", |x, _| x.sqrt());
    finite("recip", |x, _| x.recip());
    finite("add, mul", |x, y| x + x * y);
    finite("sub, div", |x, y| x - y / x);
    finite("rem", |x, y| (x * 3.0).rem(y));
    finite("max, min", |x, y| x.max(y) + x.min(&(y * 0.8)) * 2.0);
    finite("clamp", |x, _| x.clamp(1.0, 2.0));
    finite("less_than", |x, y| x.less_than(y) * x);
    finite("sums", |x, y| x.sum(0) * y.sum(0));
    finite("max_reduce", |x, y| x.max_reduce(1) * y.mean(1));
    finite("views", |x, y| {
        let turned = x.permute(&[1, 0]).exp2().expand(1, 2); // [3, 2, t]
        (turned * y.permute(&[1, 0]).expand(1, 2)).sum(1).permute(&[1, 0]).contiguous()
    });
    finite("unary of an expansion", |x, y| x.sum(1).expand(1, 3).sin() * y);
    finite("scalar", |x, y| {
        x * &y.sum(0).sum(0) + x.reshape(&[T, 1.into(), 3.into()]).reshape(&[T, 3.into()])
    });
}

#[test]
fn a_tie_of_max_gives_its_gradient_to_the_left() {
    let g = Graph::new();
    let (a, b) = (g.f32_input("a", &[T]), g.f32_input("b", &[T]));
    let loss = a.max(&b).sum(0) + a.min(&b).sum(0) * 10.0;
    let grads = g.differentiate(&loss, &[&a, &b], DiffOptions::default());
    let bound =
        Bound { tokens: 2, f32s: vec![("a", vec![1.0, 2.0]), ("b", vec![1.0, 3.0])], ..Default::default() };
    let found = on_kernels(&g, &[grads[0].as_ref().unwrap(), grads[1].as_ref().unwrap()], &bound).0;
    assert_eq!(found, [[11.0, 10.0], [0.0, 1.0]]);
}

#[test]
fn ties_of_max_reduce_share_the_gradient() {
    let g = Graph::new();
    let a = g.f32_input("a", &[T, 3.into()]);
    let loss = a.max_reduce(1).sum(0);
    let da = g.differentiate(&loss, &[&a], DiffOptions::default()).remove(0).unwrap();
    let bound = Bound { tokens: 1, f32s: vec![("a", vec![2.0, 1.0, 2.0])], ..Default::default() };
    assert_eq!(on_kernels(&g, &[&da], &bound).0, [[0.5, 0.0, 0.5]]);
}

/// A decoder in miniature: two layers with everything, tied embeddings; returns the loss.
pub fn decoder(g: &Graph, v: usize, h: usize, f: usize) -> Tensor {
    let shape = AttentionShape { heads: 2, kv_heads: 1, head_dim: h / 2, scale: 0.5, causal: true };
    let angles = RopeAngles::new(128, &(0..h / 4).map(|i| 0.5f32.powi(i as i32)).collect::<Vec<_>>(), 1.0);
    let (ids, targets) = (g.u32_input("ids", &[T]), g.u32_input("targets", &[T]));
    let (positions, segments) = (g.u32_input("positions", &[T]), g.segments());
    let weights = g.f32_input("weights", &[T]);
    let mut x = g.param(0, "embed", &[v, h]).embedding(&ids);
    for layer in 0..2 {
        x = g.region(|| {
            let p = |i: usize, name: &str, shape: &[usize]| g.param(1 + 9 * layer + i, name, shape);
            let n = x.rms_norm(&p(0, "norm1", &[h]), 1e-5);
            let bias = p(8, "bq", &[h]);
            let q = n.linear(&p(1, "wq", &[h, h]), Some(&bias)).rope(&positions, &angles);
            let k = n.linear(&p(2, "wk", &[h / 2, h]), None).rope(&positions, &angles);
            let v = n.linear(&p(3, "wv", &[h / 2, h]), None);
            let y = q.attention(&k, &v, &segments, &positions, shape);
            let x = &x + y.linear(&p(4, "wo", &[h, h]), None);
            let n = x.rms_norm(&p(5, "norm2", &[h]), 1e-5);
            let up = n.linear(&p(6, "up", &[2 * f, h]), None).reshape(&[T, 2.into(), f.into()]);
            // gate and up in one matrix, taken apart by a mask: movement and primitives inside a layer.
            let pick = |i: f32| {
                let mask = g.literal(&[1.0 - i, i], &[2]).expand(0, T).expand(2, f);
                (&up * mask).sum(1)
            };
            &x + pick(0.0).swiglu(&pick(1.0)).linear(&p(7, "down", &[h, f]), None)
        });
    }
    let norm = g.param(19, "norm", &[h]);
    let head = g.param(0, "embed", &[v, h]);
    let l = x.rms_norm(&norm, 1e-5).token_logprob(&head, &targets, &g.constant(1.0));
    toolsmith_graphs::loss::cross_entropy(&l, &weights)
}

pub fn decoder_bound(seed: u64, v: usize, h: usize, f: usize, lens: &[usize]) -> Bound {
    let t: usize = lens.iter().sum();
    let layer = [h, h * h, h / 2 * h, h / 2 * h, h * h, h, 2 * f * h, h * f, h];
    let sizes = [v * h].into_iter().chain(layer).chain(layer).chain([h]);
    Bound {
        tokens: t,
        params: sizes.enumerate().map(|(i, n)| numbers(seed + i as u64, n)).collect(),
        f32s: vec![("weights", numbers(seed + 50, t))],
        u32s: vec![
            ("ids", integers(seed + 51, t, v)),
            ("targets", integers(seed + 52, t, v)),
            ("positions", lens.iter().flat_map(|&n| 0..n as u32).collect()),
        ],
        lens: lens.to_vec(),
        ..Default::default()
    }
}

#[test]
fn checkpointing_changes_memory_but_not_a_bit() {
    let (v, h, f) = (40, 32, 48);
    let bound = decoder_bound(3, v, h, f, &[5, 9, 2]);
    let run = |recompute| {
        let g = Graph::new();
        let loss = decoder(&g, v, h, f);
        g.differentiate(&loss, &[], DiffOptions { recompute });
        let plan = Plan::compile(&g, &[&loss], Options { tokens: 512, rows: 0, bf16: false }).unwrap();
        (on_kernels(&g, &[&loss], &bound), plan.memory().0)
    };
    let [(kept, kept_bytes), (some, some_bytes), (again, again_bytes)] = [0, 1, usize::MAX].map(run);
    assert!(kept.1.iter().all(|g| g.iter().any(|x| *x != 0.0)), "every parameter has a gradient");
    assert_eq!(kept, some);
    assert_eq!(kept, again);
    assert!(again_bytes < kept_bytes * 3 / 4, "{again_bytes} bytes against {kept_bytes}");
    assert!(some_bytes < kept_bytes, "{some_bytes} bytes against {kept_bytes}");
}

#[test]
fn a_whole_decoder_matches_its_primitives() {
    let (v, h, f) = (11, 8, 6);
    let bound = decoder_bound(5, v, h, f, &[3, 2]);
    let g = Graph::new();
    let loss = decoder(&g, v, h, f);
    let (lowered, moved) = g.decompose(&[&loss]);
    lowered.differentiate(&moved[0], &[], DiffOptions::default());
    let expected = crate::harness::on_primitives(&lowered, &[&moved[0]], &bound);
    g.differentiate(&loss, &[], DiffOptions { recompute: usize::MAX });
    let kernels = on_kernels(&g, &[&loss], &bound);
    // A plan runs primitives too, as a backend without kernels would.
    let lowered = on_kernels(&lowered, &[&moved[0]], &bound);
    for (how, found) in [("kernels", kernels), ("plan of primitives", lowered)] {
        close(&found.0[0], &expected.0[0], 1e-5, &format!("{how}: loss"));
        for (i, (f, e)) in found.1.iter().zip(&expected.1).enumerate() {
            close(f, e, 1e-4, &format!("{how}: gradient of parameter {i}"));
        }
    }
}

#[test]
fn composites_answer_through_luminals_hook() {
    let g = Graph::new();
    let x = g.f32_input("x", &[T, 4.into()]);
    let y = x.swiglu(&x);
    let op = g.with(|l| l.node_custom::<Arc<dyn toolsmith_graphs::ops::Composite>, _>(y.id, "composite", ()));
    assert_eq!(op.expect("a composite").name(), "swiglu");
}

#[test]
fn decompose_is_a_luminal_pass() {
    let g = Graph::new();
    let (x, y) = (g.f32_input("x", &[T]), g.f32_input("y", &[T]));
    let z = (x.swiglu(&y) + 1.0).swiglu(&y);
    let mut ids = [x.id, y.id, z.id];
    g.with(|l| {
        l.no_delete.insert(z.id);
        let [a, b, c] = &mut ids;
        l.compile(toolsmith_graphs::decompose::Decompose, (a, b, c));
        l.set_dyn_dim('t', 2);
        l.set_tensor(ids[0], 0, luminal::tensor::Tensor::new(vec![0.0, 1.0]));
        l.set_tensor(ids[1], 0, luminal::tensor::Tensor::new(vec![3.0, 2.0]));
        l.execute();
        let z = l.get_tensor_ref(ids[2], 0).expect("kept").data.as_any().downcast_ref::<Vec<f32>>().unwrap();
        let swiglu = |a: f32, b: f32| a / (1.0 + (-a).exp()) * b;
        close(z, &[swiglu(1.0, 3.0), swiglu(swiglu(1.0, 2.0) + 1.0, 2.0)], 1e-6, "swiglu twice");
    });
    assert!((0..g.len()).all(|i| !matches!(
        g.node(toolsmith_graphs::graph::NodeIndex::new(i)),
        toolsmith_graphs::graph::Node::Composite(_)
    )));
}
