//! Speed of whole plans, a decoder built of composites with random weights:
//! `cargo bench -p toolsmith-graphs --bench plans [-- small|135m]`.
//! Compilation, decode steps, prefill, and a training pass with and without checkpointing. Plans with fusion and without take
//! turns; each figure is the median of several runs and, in brackets, the least time of processors: where other programs run,
//! compare that, with `RAYON_NUM_THREADS=1`, or threads wait for each other.

#[path = "../tests/decoder/mod.rs"]
mod decoder;

use std::time::Instant;

use decoder::{Decoder, Shape, segments, weights};
use toolsmith_graphs::{Bindings, DiffOptions, Dim, KvCache, Options, Plan, loss};

const T: Dim = Dim::Tokens;

const SHAPES: [(&str, Shape); 2] = [
    ("small", Shape { layers: 4, hidden: 128, ffn: 384, heads: 4, kv_heads: 2, vocab: 64, ..PLAIN }),
    ("135m", Shape { layers: 30, hidden: 576, ffn: 1536, heads: 9, kv_heads: 3, vocab: 49152, ..PLAIN }),
];
const PLAIN: Shape =
    Shape { layers: 0, hidden: 0, ffn: 0, heads: 0, kv_heads: 0, vocab: 0, bias: false, head_norm: false };

/// Plans that give the logits of some rows, and elements of the parameters.
fn infer(shape: Shape) -> (Vec<Plan>, Vec<usize>) {
    let mut model = Decoder::new(shape, true);
    let g = model.graph.clone();
    let x = model.layers().gather_rows(&g.u32_input("rows", &[Dim::Rows]));
    let logits = model.norm(&x, "norm").linear(&g.param(0, "embed", &[shape.vocab, shape.hidden]), None);
    let options = Options { tokens: 512, rows: 32, bf16: true };
    let decode = Options { tokens: 32, ..options };
    let plans = [Plan::compile(&g, &[&logits], options), Plan::compile_unfused(&g, &[&logits], options)];
    let plans = plans.into_iter().chain([Plan::compile(&g, &[&logits], decode)]).map(Result::unwrap);
    (plans.collect(), model.sizes)
}

/// Plans of a pass forward and backward.
fn train(shape: Shape, recompute: usize, tokens: usize) -> Vec<Plan> {
    let mut model = Decoder::new(shape, false);
    let g = model.graph.clone();
    let x = model.layers();
    let head = g.param(0, "embed", &[shape.vocab, shape.hidden]);
    let l = model.norm(&x, "norm").token_logprob(&head, &g.u32_input("targets", &[T]), &g.constant(1.0));
    let loss = loss::cross_entropy(&l, &g.f32_input("weights", &[T]));
    g.differentiate(&loss, &[], DiffOptions { recompute });
    let options = Options { tokens, rows: 0, bf16: true };
    let plans = [Plan::compile(&g, &[&loss], options), Plan::compile_unfused(&g, &[&loss], options)];
    plans.map(Result::unwrap).into()
}

/// What the plans of a graph are, in order.
const PLANS: [&str; 3] = ["fused", "without fusion", "fused, for 32 tokens"];

/// Seconds that processors have worked for this program.
fn processor_time() -> f64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    t.tv_sec as f64 + t.tv_nsec as f64 * 1e-9
}

/// Runs the plans that have room in turns and prints what `t` tokens took, and how much longer than with the first.
fn compare(name: &str, t: usize, runs: usize, plans: &mut [Plan], mut f: impl FnMut(&mut Plan)) {
    let mut times = vec![vec![]; plans.len()];
    for run in 0..=runs {
        for (plan, times) in plans.iter_mut().zip(&mut times).filter(|(p, _)| p.capacity().tokens >= t) {
            let (start, worked) = (Instant::now(), processor_time());
            f(plan);
            if run > 0 {
                times.push((start.elapsed().as_secs_f64(), processor_time() - worked));
            }
        }
    }
    let mut first = None;
    for (mut times, what) in times.into_iter().zip(PLANS).filter(|(times, _)| !times.is_empty()) {
        times.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (median, best) = (times[runs / 2].0, times.iter().map(|t| t.1).fold(f64::MAX, f64::min));
        let (m, b) = *first.get_or_insert((median, best));
        println!(
            "{name:28} {what:20} {:8.3} ms [{:8.3}] {:6.0} tok/s, ratio {:.3} [{:.3}]",
            median * 1e3,
            best * 1e3,
            t as f64 / median,
            median / m,
            best / b
        );
    }
}

/// Blocks of the cache that a sequence has.
const BLOCKS: usize = 10;

fn bench(model: &str, shape: Shape) {
    let start = Instant::now();
    let (mut plans, sizes) = infer(shape);
    describe(model, "inference", start, &plans);
    let params = weights(&sizes, true);
    let mut kv = KvCache::new(shape.layers, 32 * BLOCKS, shape.kv_heads, shape.hidden / shape.heads, true);
    let table: Vec<u32> = (0..32 * BLOCKS as u32).collect();
    for (name, sequences, len, past) in [
        ("decode 1", 1, 1, 128),
        ("decode 16", 16, 1, 128),
        ("decode 32", 32, 1, 128),
        ("prefill 512", 1, 512, 0),
    ] {
        let t = sequences * len;
        let ids = vec![1u32; t];
        let positions: Vec<u32> = (0..sequences).flat_map(|_| (past..past + len).map(|p| p as u32)).collect();
        let rows: Vec<u32> = (0..sequences).map(|i| ((i + 1) * len - 1) as u32).collect();
        let segments = segments(sequences, len, past, BLOCKS);
        let inputs = ["ids", "positions", "rows"].map(|n| plans[0].u32_input(n).unwrap());
        let runs = if t > 100 { 15 } else { 60 };
        compare(&format!("{model} {name}"), t, runs, &mut plans, |plan| {
            let mut b = Bindings::new(t, rows.len()).params(&*params).kv(&mut kv, &table).segments(&segments);
            b = b.u32(inputs[0], &ids).u32(inputs[1], &positions).u32(inputs[2], &rows);
            rayon::scope(|_| plan.run(&mut b)).unwrap();
        });
    }
    drop(plans);
    for recompute in [0, usize::MAX] {
        let t = 512;
        let start = Instant::now();
        let mut plans = train(shape, recompute, t);
        describe(model, "training", start, &plans);
        let mut grads: Vec<Vec<f32>> = sizes.iter().map(|&n| vec![0.0; n]).collect();
        let ids: Vec<u32> = (0..t as u32).map(|i| i % shape.vocab as u32).collect();
        let positions: Vec<u32> = (0..4).flat_map(|_| 0..t as u32 / 4).collect();
        let (weights, segments) = (vec![1.0 / t as f32; t], segments(4, t / 4, 0, BLOCKS));
        let inputs = ["ids", "positions", "targets"].map(|n| plans[0].u32_input(n).unwrap());
        let input = plans[0].f32_input("weights").unwrap();
        let name = format!("{model} train, recomputing {recompute}");
        compare(&name, t, 5, &mut plans, |plan| {
            let mut b = Bindings::new(t, 0)
                .params(&*params)
                .grads(&mut grads)
                .segments(&segments)
                .f32(input, &weights);
            b = b.u32(inputs[0], &ids).u32(inputs[1], &positions).u32(inputs[2], &ids);
            rayon::scope(|_| plan.run(&mut b)).unwrap();
        });
    }
}

fn describe(size: &str, what: &str, start: Instant, plans: &[Plan]) {
    let took = start.elapsed().as_secs_f64() * 1e3 / plans.len() as f64;
    println!("{size}: compile {what} {took:.1} ms");
    for (plan, how) in plans.iter().zip(PLANS) {
        let (arena, scratch) = plan.memory();
        println!("{size}: {how}: {} steps, {arena} bytes of arena, {scratch} of scratch", plan.steps().len());
    }
}

fn main() {
    let filter: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    for (model, shape) in SHAPES {
        if filter.is_empty() || filter.iter().any(|f| f == model) {
            bench(model, shape);
        }
    }
}
