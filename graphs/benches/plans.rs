//! Speed of whole plans, a decoder built of composites with random weights:
//! `cargo bench -p toolsmith-graphs --bench plans [-- small|135m]`.
//! Compilation, decode steps, prefill, and a training pass with and without checkpointing. Plans with fusion and without take
//! turns; each figure is the median of several runs and, in brackets, the least time of processors: where other programs run,
//! compare that, with `RAYON_NUM_THREADS=1`, or threads wait for each other.

use std::time::Instant;

use half::bf16;
use toolsmith_graphs::{
    AttentionShape, Bindings, DiffOptions, Dim, Graph, KvCache, Options, Plan, RopeAngles, Segment, Tensor,
    loss,
};

const T: Dim = Dim::Tokens;

#[derive(Clone, Copy)]
struct Size {
    name: &'static str,
    layers: usize,
    hidden: usize,
    ffn: usize,
    heads: usize,
    kv_heads: usize,
    vocab: usize,
}

const SIZES: [Size; 2] = [
    Size { name: "small", layers: 4, hidden: 128, ffn: 384, heads: 4, kv_heads: 2, vocab: 64 },
    Size { name: "135m", layers: 30, hidden: 576, ffn: 1536, heads: 9, kv_heads: 3, vocab: 49152 },
];

struct Model {
    size: Size,
    sizes: Vec<usize>,
}

impl Model {
    fn param(&mut self, g: &Graph, index: usize, shape: &[usize]) -> Tensor {
        self.sizes.resize(self.sizes.len().max(index + 1), 0);
        self.sizes[index] = shape.iter().product();
        g.param(index, &format!("p{index}"), shape)
    }

    fn layers(&mut self, g: &Graph, cached: bool) -> Tensor {
        let s = self.size;
        let (h, d) = (s.hidden, s.hidden / s.heads);
        let kv = s.kv_heads * d;
        let shape = AttentionShape {
            heads: s.heads,
            kv_heads: s.kv_heads,
            head_dim: d,
            scale: 1.0 / (d as f32).sqrt(),
            causal: true,
        };
        let angles =
            RopeAngles::new(2048, &(0..d / 2).map(|i| 0.9f32.powi(i as i32)).collect::<Vec<_>>(), 1.0);
        let (positions, segments) = (g.u32_input("positions", &[T]), g.segments());
        let mut x = self.param(g, 0, &[s.vocab, h]).embedding(&g.u32_input("ids", &[T]));
        for layer in 0..s.layers {
            let mut p = |i: usize, shape: &[usize]| self.param(g, 2 + 9 * layer + i, shape);
            x = g.region(|| {
                let n = x.rms_norm(&p(0, &[h]), 1e-5);
                let q = n.linear(&p(1, &[h, h]), None).rope(&positions, &angles);
                let k = n.linear(&p(2, &[kv, h]), None).rope(&positions, &angles);
                let v = n.linear(&p(3, &[kv, h]), None);
                let y = if cached {
                    q.cached_attention(&k, &v, &segments, &positions, shape, layer)
                } else {
                    q.attention(&k, &v, &segments, &positions, shape)
                };
                let x = &x + y.linear(&p(4, &[h, h]), None);
                let n = x.rms_norm(&p(5, &[h]), 1e-5);
                let (gate, up) = (n.linear(&p(6, &[s.ffn, h]), None), n.linear(&p(7, &[s.ffn, h]), None));
                x + gate.swiglu(&up).linear(&p(8, &[h, s.ffn]), None)
            });
        }
        x
    }

    fn infer(&mut self) -> Vec<Plan> {
        let g = Graph::new();
        let x = self.layers(&g, true).gather_rows(&g.u32_input("rows", &[Dim::Rows]));
        let x = x.rms_norm(&self.param(&g, 1, &[self.size.hidden]), 1e-5);
        let logits = x.linear(&self.param(&g, 0, &[self.size.vocab, self.size.hidden]), None);
        let options = Options { tokens: 512, rows: 32, bf16: true };
        let decode = Options { tokens: 32, ..options };
        let plans = [Plan::compile(&g, &[&logits], options), Plan::compile_unfused(&g, &[&logits], options)];
        plans.into_iter().chain([Plan::compile(&g, &[&logits], decode)]).map(Result::unwrap).collect()
    }

    fn train(&mut self, recompute: usize, tokens: usize) -> Vec<Plan> {
        let g = Graph::new();
        let x = self.layers(&g, false).rms_norm(&self.param(&g, 1, &[self.size.hidden]), 1e-5);
        let head = self.param(&g, 0, &[self.size.vocab, self.size.hidden]);
        let l = x.token_logprob(&head, &g.u32_input("targets", &[T]), &g.constant(1.0));
        let loss = loss::cross_entropy(&l, &g.f32_input("weights", &[T]));
        g.differentiate(&loss, &[], DiffOptions { recompute });
        let options = Options { tokens, rows: 0, bf16: true };
        let plans = [Plan::compile(&g, &[&loss], options), Plan::compile_unfused(&g, &[&loss], options)];
        plans.map(Result::unwrap).into()
    }
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

/// `sequences` of `len` tokens each, `past` tokens in the cache.
fn segments(sequences: usize, len: usize, past: usize) -> Vec<Segment> {
    let segment = |i: usize| Segment {
        q_start: (i * len) as u32,
        q_len: len as u32,
        past: past as u32,
        table: (i * BLOCKS) as u32,
    };
    (0..sequences).map(segment).collect()
}

fn bench(size: Size) {
    let mut model = Model { size, sizes: vec![] };
    let start = Instant::now();
    let mut plans = model.infer();
    describe(size.name, "inference", start, &plans);
    let mut s = 1u32;
    let mut next = || {
        s ^= s << 13;
        s ^= s >> 17;
        s ^= s << 5;
        bf16::from_f32((s as f32 / u32::MAX as f32 - 0.5) * 0.1)
    };
    let params: Vec<Vec<bf16>> = model.sizes.iter().map(|&n| (0..n).map(|_| next()).collect()).collect();
    let mut kv = KvCache::new(size.layers, 32 * BLOCKS, size.kv_heads, size.hidden / size.heads, true);
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
        let segments = segments(sequences, len, past);
        let inputs = ["ids", "positions", "rows"].map(|n| plans[0].u32_input(n).unwrap());
        let runs = if t > 100 { 15 } else { 60 };
        compare(&format!("{} {name}", size.name), t, runs, &mut plans, |plan| {
            let mut b = Bindings::new(t, rows.len()).params(&params).kv(&mut kv, &table).segments(&segments);
            b = b.u32(inputs[0], &ids).u32(inputs[1], &positions).u32(inputs[2], &rows);
            rayon::scope(|_| plan.run(&mut b)).unwrap();
        });
    }
    drop(plans);
    for recompute in [0, usize::MAX] {
        let t = 512;
        let start = Instant::now();
        let mut plans = model.train(recompute, t);
        describe(size.name, "training", start, &plans);
        let mut grads: Vec<Vec<f32>> = model.sizes.iter().map(|&n| vec![0.0; n]).collect();
        let ids: Vec<u32> = (0..t as u32).map(|i| i % size.vocab as u32).collect();
        let positions: Vec<u32> = (0..4).flat_map(|_| 0..t as u32 / 4).collect();
        let (weights, segments) = (vec![1.0 / t as f32; t], segments(4, t / 4, 0));
        let inputs = ["ids", "positions", "targets"].map(|n| plans[0].u32_input(n).unwrap());
        let input = plans[0].f32_input("weights").unwrap();
        let name = format!("{} train, recomputing {recompute}", size.name);
        compare(&name, t, 5, &mut plans, |plan| {
            let mut b = Bindings::new(t, 0)
                .params(&params)
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
    for size in SIZES {
        if filter.is_empty() || filter.iter().any(|f| f == size.name) {
            bench(size);
        }
    }
}
