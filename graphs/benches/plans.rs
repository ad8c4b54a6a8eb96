//! Speed of whole plans, a decoder built of composites with random weights:
//! `cargo bench -p toolsmith-graphs --bench plans [-- small|135m]`.
//! Compilation, decode steps, prefill, and a training pass with and without checkpointing; medians of several runs.

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

    fn infer(&mut self) -> Plan {
        let g = Graph::new();
        let x = self.layers(&g, true).gather_rows(&g.u32_input("rows", &[Dim::Rows]));
        let x = x.rms_norm(&self.param(&g, 1, &[self.size.hidden]), 1e-5);
        let logits = x.linear(&self.param(&g, 0, &[self.size.vocab, self.size.hidden]), None);
        Plan::compile(&g, &[&logits], Options { tokens: 512, rows: 32, bf16: true }).unwrap()
    }

    fn train(&mut self, checkpoint: bool, tokens: usize) -> Plan {
        let g = Graph::new();
        let x = self.layers(&g, false).rms_norm(&self.param(&g, 1, &[self.size.hidden]), 1e-5);
        let head = self.param(&g, 0, &[self.size.vocab, self.size.hidden]);
        let l = x.token_logprob(&head, &g.u32_input("targets", &[T]), &g.constant(1.0));
        let loss = loss::cross_entropy(&l, &g.f32_input("weights", &[T]));
        g.differentiate(&loss, &[], DiffOptions { checkpoint });
        Plan::compile(&g, &[&loss], Options { tokens, rows: 0, bf16: true }).unwrap()
    }
}

fn median(runs: usize, mut f: impl FnMut()) -> f64 {
    f();
    let mut times: Vec<f64> = (0..runs)
        .map(|_| {
            let start = Instant::now();
            f();
            start.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[runs / 2]
}

/// `sequences` of `len` tokens each, `past` tokens in the cache.
fn segments(sequences: usize, len: usize, past: usize, stride: usize) -> Vec<Segment> {
    let segment = |i: usize| Segment {
        q_start: (i * len) as u32,
        q_len: len as u32,
        kv_row: (i * stride) as u32,
        past: past as u32,
    };
    (0..sequences).map(segment).collect()
}

fn bench(size: Size) {
    let mut model = Model { size, sizes: vec![] };
    let start = Instant::now();
    let mut plan = model.infer();
    println!(
        "{}: compile inference {:.1} ms, {} steps, {:?} bytes of arena and scratch",
        size.name,
        start.elapsed().as_secs_f64() * 1e3,
        plan.steps().len(),
        plan.memory()
    );
    let mut s = 1u32;
    let mut next = || {
        s ^= s << 13;
        s ^= s >> 17;
        s ^= s << 5;
        bf16::from_f32((s as f32 / u32::MAX as f32 - 0.5) * 0.1)
    };
    let params: Vec<Vec<bf16>> = model.sizes.iter().map(|&n| (0..n).map(|_| next()).collect()).collect();
    let mut kv = KvCache::new(size.layers, 32 * 640, size.kv_heads * size.hidden / size.heads, true);
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
        let segments = segments(sequences, len, past, 640);
        let inputs = ["ids", "positions", "rows"].map(|n| plan.u32_input(n).unwrap());
        let seconds = median(9, || {
            let mut b = Bindings::new(t, rows.len()).params(&params).kv(&mut kv).segments(&segments);
            b = b.u32(inputs[0], &ids).u32(inputs[1], &positions).u32(inputs[2], &rows);
            rayon::scope(|_| plan.run(&mut b)).unwrap();
        });
        println!("{}: {name}: {:.3} ms, {:.0} tok/s", size.name, seconds * 1e3, t as f64 / seconds);
    }
    drop(plan);
    for checkpoint in [false, true] {
        let t = 512;
        let start = Instant::now();
        let mut plan = model.train(checkpoint, t);
        println!(
            "{}: compile training (checkpoint {checkpoint}) {:.1} ms, {} steps, {:?} bytes",
            size.name,
            start.elapsed().as_secs_f64() * 1e3,
            plan.steps().len(),
            plan.memory()
        );
        let mut grads: Vec<Vec<f32>> = model.sizes.iter().map(|&n| vec![0.0; n]).collect();
        let ids: Vec<u32> = (0..t as u32).map(|i| i % size.vocab as u32).collect();
        let positions: Vec<u32> = (0..4).flat_map(|_| 0..t as u32 / 4).collect();
        let (weights, segments) = (vec![1.0 / t as f32; t], segments(4, t / 4, 0, t / 4));
        let inputs = ["ids", "positions", "targets"].map(|n| plan.u32_input(n).unwrap());
        let input = plan.f32_input("weights").unwrap();
        let seconds = median(3, || {
            let mut b = Bindings::new(t, 0)
                .params(&params)
                .grads(&mut grads)
                .segments(&segments)
                .f32(input, &weights);
            b = b.u32(inputs[0], &ids).u32(inputs[1], &positions).u32(inputs[2], &ids);
            rayon::scope(|_| plan.run(&mut b)).unwrap();
        });
        println!(
            "{}: train {t} tokens (checkpoint {checkpoint}): {:.1} ms, {:.0} tok/s",
            size.name,
            seconds * 1e3,
            t as f64 / seconds
        );
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
