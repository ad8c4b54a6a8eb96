//! Executing a plan again allocates nothing: decoding, prefill, a training pass, the optimizer's step; recorded or not.
//!
//! One test, since the counter is the process's.

mod counting;
mod decoder;

use std::sync::atomic::Ordering;

use counting::ALLOCATIONS;
use decoder::{Decoder, Shape, segments, weights};
use half::bf16;
use toolsmith_graphs::{
    Bindings, DiffOptions, Dim, KvCache, Options, Plan, loss,
    ops::AdamWConstants,
    optimizer::{Optimizer, Trained},
    plan::{Master, Moments, ParamState, Slot},
};

const T: Dim = Dim::Tokens;
const VOCAB: usize = 300;
const HIDDEN: usize = 64;
const SHAPE: Shape = Shape {
    layers: 2,
    hidden: HIDDEN,
    ffn: 96,
    heads: 4,
    kv_heads: 2,
    vocab: VOCAB,
    bias: false,
    head_norm: false,
};

/// Allocations while `f` runs.
fn count(f: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    f();
    ALLOCATIONS.load(Ordering::Relaxed) - before
}

/// Prefill and decode steps of one plan, each batch twice.
fn inference(bf16: bool, record: bool) {
    let mut model = Decoder::new(SHAPE, true);
    let g = model.graph.clone();
    let x = model.layers().gather_rows(&g.u32_input("rows", &[Dim::Rows]));
    let x = model.norm(&x, "norm");
    let logits = x.linear(&model.param("head", &[VOCAB, HIDDEN]), None);
    let params = weights(&model.sizes, bf16);
    let mut plan = Plan::compile(&g, &[&logits], Options { tokens: 40, rows: 4, bf16 }).unwrap();
    plan.record(record);
    let inputs = ["ids", "positions", "rows"].map(|n| plan.u32_input(n).unwrap());
    let mut kv = KvCache::new(SHAPE.layers, 4, SHAPE.kv_heads, HIDDEN / SHAPE.heads, bf16);
    for (what, sequences, len, past) in [("prefill", 1, 40, 0), ("decode", 1, 1, 40), ("decode", 4, 1, 41)] {
        let t = sequences * len;
        let ids = vec![7u32; t];
        let positions: Vec<u32> = (0..sequences).flat_map(|_| (past..past + len).map(|p| p as u32)).collect();
        let rows: Vec<u32> = (0..sequences).map(|i| ((i + 1) * len - 1) as u32).collect();
        let segments = segments(sequences, len, past, 1);
        let mut run = || {
            let mut b =
                Bindings::new(t, rows.len()).params(&*params).kv(&mut kv, &[2, 0, 3, 1]).segments(&segments);
            b = b.u32(inputs[0], &ids).u32(inputs[1], &positions).u32(inputs[2], &rows);
            plan.run(&mut b).unwrap();
        };
        run(); // lazily made things are made
        assert_eq!(count(run), 0, "{what} of {sequences}, bf16 {bf16}, recorded {record}");
    }
    assert!(plan.output(0).iter().all(|x| x.is_finite()));
    assert_eq!(plan.steps().all(|s| s.cost.is_some()), record);
}

/// A pass forward and backward, then its optimizer's step.
fn training(bf16: bool, recompute: usize) {
    let mut model = Decoder::new(SHAPE, false);
    let g = model.graph.clone();
    let x = model.layers();
    let x = model.norm(&x, "norm");
    let head = model.param("head", &[VOCAB, HIDDEN]);
    let l = x.token_logprob(&head, &g.u32_input("targets", &[T]), &g.constant(1.0));
    let loss = loss::cross_entropy(&l, &g.f32_input("weights", &[T]));
    g.differentiate(&loss, &[], DiffOptions { recompute });
    let mut plan = Plan::compile(&g, &[&loss], Options { tokens: 48, rows: 0, bf16 }).unwrap();
    let inputs = ["ids", "positions", "targets"].map(|n| plan.u32_input(n).unwrap());
    let input = plan.f32_input("weights").unwrap();
    let params = weights(&model.sizes, bf16);
    let mut grads: Vec<Vec<f32>> = model.sizes.iter().map(|&n| vec![0.0; n]).collect();
    let (ids, weights) = ((0..48).collect::<Vec<u32>>(), vec![0.02; 48]);
    let mut run = |sequences: usize, len: usize| {
        let t = sequences * len;
        let positions: Vec<u32> = (0..sequences).flat_map(|_| 0..len as u32).collect();
        let segments = segments(sequences, len, 0, 1);
        count(|| {
            let mut b = Bindings::new(t, 0).params(&*params).grads(&mut grads).segments(&segments);
            b = b.u32(inputs[0], &ids[..t]).u32(inputs[1], &positions).u32(inputs[2], &ids[..t]);
            plan.run(&mut b.f32(input, &weights[..t])).unwrap();
        })
    };
    run(3, 16);
    let again = [run(3, 16), run(1, 7), run(1, 1), run(2, 16)];
    assert_eq!(again, [0; 4], "training, bf16 {bf16}, recomputing {recompute}");
    assert!(plan.output(0)[0].is_finite());

    let trained: Vec<Trained> = model
        .sizes
        .iter()
        .enumerate()
        .map(|(index, &n)| Trained { index, name: index.to_string(), shape: vec![n], decay: true })
        .collect();
    let constants = AdamWConstants { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 };
    let mut optimizer = Optimizer::new(&trained, constants, Some(1.0)).unwrap();
    let mut state = State::new(bf16, &model.sizes);
    let mut buffers = [grads.clone(), grads.clone(), grads];
    let filled = buffers.clone();
    optimizer.step(&mut buffers, &mut state, 1e-3, 1, 1.0).unwrap();
    buffers = filled;
    let step = || assert!(optimizer.step(&mut buffers, &mut state, 1e-3, 2, 1.0).unwrap() > 0.0);
    assert_eq!(count(step), 0, "optimizer, bf16 {bf16}");
}

/// Master weights and moments, all zero.
struct State {
    bf16: bool,
    f32s: Vec<[Vec<f32>; 3]>,
    halves: Vec<(Vec<bf16>, Vec<i16>)>,
}

impl State {
    fn new(bf16: bool, sizes: &[usize]) -> Self {
        let zero = |&n: &usize| (vec![bf16::ZERO; n], vec![0; n]);
        let f32s = sizes.iter().map(|&n| [(); 3].map(|()| vec![0.0; n])).collect();
        State { bf16, f32s, halves: sizes.iter().map(zero).collect() }
    }
}

impl ParamState for State {
    fn slot(&mut self, index: usize) -> Slot<'_> {
        let ([w, m, v], (hi, lo)) = (&mut self.f32s[index], &mut self.halves[index]);
        let weights = if self.bf16 { Master::Bf16 { hi, lo } } else { Master::F32(w) };
        Slot { weights, moments: Moments::F32 { m, v } }
    }
    fn moment_bytes(&self, index: usize) -> usize {
        8 * self.f32s[index][0].len()
    }
}

#[test]
fn executing_a_plan_again_allocates_nothing() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    pool.install(|| {
        counting::wake();
        for bf16 in [false, true] {
            for on in [false, true] {
                inference(bf16, on);
                training(bf16, if on { 1 } else { 0 });
            }
        }
    });
}
