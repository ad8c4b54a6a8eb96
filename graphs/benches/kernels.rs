//! Speed of the CPU kernels at the shapes of a 135M-parameter model: `cargo bench -p toolsmith-graphs --bench kernels [-- FILTER]`.
//! Each line is the best of several runs, on one thread and on all.

use half::bf16;
use std::hint::black_box;
use std::time::Instant;
use toolsmith_graphs::cpu::*;
use toolsmith_graphs::{KvCache, plan::blocks_for};

fn values(n: usize) -> Vec<f32> {
    let mut s = 1u32;
    let mut next = || {
        s ^= s << 13;
        s ^= s >> 17;
        s ^= s << 5;
        s as f32 / 4e9 - 0.5
    };
    (0..n).map(|_| next()).collect()
}

fn halves(n: usize) -> Vec<bf16> {
    values(n).into_iter().map(bf16::from_f32).collect()
}

/// Seconds of the fastest of a few runs of `f`.
fn best(mut f: impl FnMut()) -> f64 {
    f();
    let start = Instant::now();
    f();
    let once = start.elapsed().as_secs_f64();
    let inner = ((5e-3 / once.max(1e-9)) as usize).clamp(1, 10_000);
    (0..12).fold(f64::MAX, |best, _| {
        let start = Instant::now();
        (0..inner).for_each(|_| f());
        best.min(start.elapsed().as_secs_f64() / inner as f64)
    })
}

struct Bench {
    filter: String,
    pools: Vec<rayon::ThreadPool>,
}

impl Bench {
    /// Measures `f`, which does `work` units (operations or bytes).
    fn line(&self, name: &str, work: f64, unit: &str, mut f: impl FnMut() + Send) {
        if !name.contains(&self.filter) {
            return;
        }
        let rates: Vec<String> = self
            .pools
            .iter()
            .map(|pool| pool.install(|| best(&mut f)))
            .map(|s| format!("{:8.1} {unit} ({:9.1} us)", work / s / 1e9, s * 1e6))
            .collect();
        println!("{name:44} {}", rates.join("  "));
    }
}

fn main() {
    let filter = std::env::args().skip(1).find(|a| !a.starts_with("--")).unwrap_or_default();
    let pool = |n| rayon::ThreadPoolBuilder::new().num_threads(n).build().expect("a thread pool");
    let all = std::thread::available_parallelism().map_or(1, |n| n.get());
    let bench = Bench { filter, pools: vec![pool(1), pool(all)] };
    println!("{:?}; 1 thread, then {all}", Isa::current());
    products(&bench);
    backward(&bench);
    gemv(&bench);
    attentions(&bench);
    head(&bench);
    layers(&bench);
}

fn products(bench: &Bench) {
    for (t, n, k) in [
        (1, 1536, 576),
        (2, 1536, 576),
        (4, 1536, 576),
        (512, 576, 576),
        (512, 1536, 576),
        (512, 576, 1536),
        (2048, 1536, 576),
        (16, 1536, 576),
        (32, 576, 1536),
        (8, 1536, 576),
        (64, 128, 128),
        (1300, 128, 128),
        (1300, 352, 128),
        (1300, 128, 352),
    ] {
        let d = Dims { t, n, k };
        let flops = 2.0 * (t * n * k) as f64;
        let (x, dy) = (values(t * k), values(t * n));
        let (w, wf) = (halves(n * k), values(n * k));
        let mut y = vec![0.0; t * n];
        let mut dx = vec![0.0; t * k];
        let mut dw = vec![0.0; n * k];
        let bytes = linear_scratch(d, true).max(linear_dx_scratch(d, true)).max(linear_dw_scratch(d, true));
        let mut buf =
            ScratchBuf::new(bytes.max(linear_dx_scratch(d, false)).max(linear_dw_scratch(d, false)));
        for (kind, w) in [("bf16", Mat::Bf16(&w)), ("f32", Mat::F32(&wf))] {
            let name = format!("linear {kind} {t}x{n}x{k}");
            bench.line(&name, flops, "GFLOP/s", || linear(black_box(&x), w, None, &mut y, d, &mut buf.get()));
            if t >= 64 {
                let name = format!("linear_dx {kind} {t}x{n}x{k}");
                bench.line(&name, flops, "GFLOP/s", || {
                    linear_dx(black_box(&dy), w, &mut dx, false, d, &mut buf.get())
                });
                let name = format!("linear_dw {kind} {t}x{n}x{k}");
                let half = kind == "bf16";
                bench.line(&name, flops, "GFLOP/s", || {
                    linear_dw(black_box(&x), &dy, &mut dw, half, d, &mut buf.get())
                });
            }
        }
    }
}

/// The gradients of layers of one input in one call, and by the kernels that stand alone.
fn backward(bench: &Bench) {
    for (t, k, n, count) in [
        (1056, 128, 352, 2),
        (1056, 128, 128, 3),
        (1056, 352, 128, 1),
        (1056, 128, 128, 1),
        (2048, 576, 1536, 2),
        (2048, 576, 576, 3),
    ] {
        // Two layers are gate and up; a layer alone has no norm.
        let (swiglu, normed) = (count == 2, count > 1);
        let (x, plus, w, norm) = (values(t * k), values(t * k), halves(n * k), halves(k));
        let outputs: Vec<Vec<f32>> = (0..3).map(|_| values(t * n)).collect();
        let norm = RmsNorm { w: Mat::Bf16(&norm), eps: 1e-5, h: k };
        let mut dws = vec![vec![0.0; n * k]; count];
        let (mut dx, mut norm_dw) = (vec![0.0; t * k], vec![0.0; k]);
        let flops = (4 * t * n * k * count) as f64;
        let name = format!("backward {count} x {t}x{n}x{k}");
        let mut buf = ScratchBuf::new(linear_backward_scratch(t, k, &vec![n; count], true));
        bench.line(&format!("{name} in one"), flops, "GFLOP/s", || {
            let input = InputGrad {
                x: black_box(&x),
                norm: normed.then_some((norm, &mut norm_dw)),
                plus: normed.then_some(Operand::Slice(&plus)),
                dx: &mut dx,
            };
            let layers = dws.iter_mut().zip(&outputs).enumerate().map(|(i, (dw, dy))| LayerGrad {
                panels: None,
                w: Mat::Bf16(&w),
                dy: if swiglu { [Dy::Gate, Dy::Up][i] } else { Dy::Given(dy) },
                dw,
            });
            let [gate, up, dy] = [0, 1, 2].map(|i| &outputs[i][..]);
            let swiglu = swiglu.then_some(SwigluGrad { gate, up, dy });
            linear_backward(input, layers, swiglu, true, k, &mut buf.get());
        });
        let d = Dims { t, n, k };
        let bytes = linear_dx_scratch(d, true).max(linear_dw_scratch(d, true));
        let mut buf = ScratchBuf::new(bytes.max(rms_norm_backward_scratch(t, k)));
        let (mut dgate, mut dup) = (vec![0.0; t * n], vec![0.0; t * n]);
        let (mut normed_x, mut sums) = (x.clone(), vec![vec![0.0; t * k]; count]);
        bench.line(&format!("{name} alone"), flops, "GFLOP/s", || {
            if normed {
                rms_norm(&x, &norm, &mut normed_x);
            }
            if swiglu {
                let (gate, up) = (Operand::Slice(&outputs[0]), Operand::Slice(&outputs[1]));
                swiglu_backward(gate, up, &outputs[2], &mut dgate, &mut dup);
            }
            let dys = if swiglu { [&dgate, &dup, &dup] } else { [0, 1, 2].map(|i| &outputs[i]) };
            for ((dy, dw), sum) in dys.into_iter().zip(&mut dws).zip(&mut sums) {
                linear_dx(dy, Mat::Bf16(&w), sum, false, d, &mut buf.get());
                linear_dw(&normed_x, dy, dw, true, d, &mut buf.get());
            }
            let (sum, others) = sums.split_first_mut().expect("a layer");
            others.iter().for_each(|other| add_assign(sum, other));
            if normed {
                rms_norm_backward(&x, &norm, sum, &mut dx, false, &mut norm_dw, &mut buf.get());
                add_assign(&mut dx, &plus);
            }
        });
    }
}

/// Weights larger than the caches, as in decoding.
fn gemv(bench: &Bench) {
    const LAYERS: usize = 120;
    let (n, k) = (1536, 576);
    let w = halves(n * k * LAYERS);
    for t in [1, 2, 4, 8, 16, 32] {
        let d = Dims { t, n, k };
        let x = values(t * k);
        let mut y = vec![0.0; t * n];
        let mut buf = ScratchBuf::new(linear_scratch(d, true));
        let name = format!("gemv bf16 from memory, {t} rows");
        bench.line(&name, (n * k * LAYERS * 2) as f64, "GB/s", || {
            for w in w.chunks_exact(n * k) {
                linear(black_box(&x), Mat::Bf16(w), None, &mut y, d, &mut buf.get());
            }
        });
    }
}

/// Forward and backward of `count` sequences of `n` tokens.
fn sequences(bench: &Bench, a: &Attention, n: u32, count: u32) {
    let (qw, width) = (a.heads * a.head_dim, a.kv_heads * a.head_dim);
    let segs: Vec<Segment> = (0..count).map(|i| Segment::whole(i * n, n)).collect();
    let t = (n * count) as usize;
    let mut buf = ScratchBuf::new(attention_scratch(a, t, true).max(attention_backward_scratch(a, t)));
    let pairs = (n as f64) * (n as f64 + 1.0) / 2.0 * count as f64;
    let (q, k, v, dout) = (values(t * qw), values(t * width), values(t * width), values(t * qw));
    let (mut out, mut lse) = (vec![0.0; t * qw], vec![0.0; t * a.heads]);
    let (flops, name) =
        (4.0 * pairs * qw as f64, format!("bf16 {count}x{n}, {} heads of {}", a.heads, a.head_dim));
    bench.line(&format!("attention {name} (causal pairs)"), flops, "GFLOP/s", || {
        attention(black_box(&q), &k, &v, true, &segs, a, &mut out, &mut lse, &mut buf.get());
    });
    attention(&q, &k, &v, true, &segs, a, &mut out, &mut lse, &mut buf.get());
    let (mut dq, mut dk, mut dv) = (vec![0.0; t * qw], vec![0.0; t * width], vec![0.0; t * width]);
    bench.line(&format!("attention_backward {name}"), 2.5 * flops, "GFLOP/s", || {
        let saved = AttentionSaved { q: &q, k: &k, v: &v, out: &out, lse: &lse };
        let grads = AttentionGrads { dq: &mut dq, dk: &mut dk, dv: &mut dv };
        attention_backward(&saved, true, black_box(&dout), &segs, a, grads, &mut buf.get());
    });
}

fn attentions(bench: &Bench) {
    // A small model's training pass, then a model of 135M parameters.
    let small = Attention { heads: 4, kv_heads: 4, head_dim: 32, causal: true, scale: 0.176_776_7 };
    let a = Attention { heads: 9, kv_heads: 3, head_dim: 64, causal: true, scale: 0.125 };
    for (a, n, count) in [(&small, 33, 32), (&a, 100, 8), (&a, 512, 1), (&a, 512, 4), (&a, 2048, 1)] {
        sequences(bench, a, n, count);
    }
    let (qw, width) = (a.heads * a.head_dim, a.kv_heads * a.head_dim);
    let mut buf = ScratchBuf::new(cached_attention_scratch(&a));
    // Decoding reads a cache larger than the processor's: 30 layers' worth.
    for (count, ctx) in [(1u32, 1024u32), (16, 512), (32, 1024)] {
        let layers = if count == 1 { 30 } else { 8 };
        let blocks = blocks_for(ctx as usize) as u32;
        let table: Vec<u32> = (0..count * blocks).collect();
        let mut cache = KvCache::new(layers, table.len(), a.kv_heads, a.head_dim, true);
        let segs: Vec<Segment> =
            (0..count).map(|i| Segment { q_start: i, q_len: 1, past: ctx - 1, table: i * blocks }).collect();
        let (q, kv) = (values(count as usize * qw), values(count as usize * width));
        let mut out = vec![0.0; q.len()];
        for layer in 0..layers {
            let units = cache.layer(layer).units;
            let random = values(units.len());
            // Any bits below 1 in both halves.
            units.iter_mut().zip(random).for_each(|(x, value)| *x = value.to_bits() & 0xbf3f_bf3f);
        }
        let bytes = (count * ctx) as usize * width * 4 * layers;
        bench.line(&format!("decode attention bf16, {count} x {ctx} keys"), bytes as f64, "GB/s", || {
            for layer in 0..layers {
                let (layer, buf) = (cache.layer(layer), &mut buf.get());
                cached_attention(black_box(&q), &kv, &kv, layer, &table, &segs, &a, &mut out, buf);
            }
        });
    }
}

fn head(bench: &Bench) {
    let (t, vocab, h) = (512, 49152, 576);
    let (x, w) = (values(t * h), halves(vocab * h));
    let targets: Vec<u32> = (0..t as u32).map(|i| i * 91).collect();
    let head = LmHead { w: Mat::Bf16(&w), vocab, h, inv_temperature: 1.0 };
    let (mut logprobs, mut lse, mut dx, mut dhead) =
        (vec![0.0; t], vec![0.0; t], vec![0.0; t * h], vec![0.0; vocab * h]);
    let bytes =
        token_logprob_scratch(t, vocab, h, true).max(token_logprob_backward_scratch(t, vocab, h, true));
    let mut buf = ScratchBuf::new(bytes);
    let flops = 2.0 * (t * vocab * h) as f64;
    bench.line("token_logprob bf16 512x49152x576", flops, "GFLOP/s", || {
        let out = TokenLogprobs { logprobs: &mut logprobs, entropy: None, lse: Some(&mut lse) };
        token_logprob(black_box(&x), &head, &targets, out, &mut buf.get());
    });
    let d = vec![1.0; t];
    bench.line("token_logprob_backward bf16 512x49152x576", 3.0 * flops, "GFLOP/s", || {
        let grad = TokenLogprobsGrad { dlogprobs: &d, dentropy: None, lse: Some(&lse), entropy: None };
        token_logprob_backward(
            black_box(&x),
            &head,
            &targets,
            &grad,
            &mut dx,
            Some(&mut dhead),
            &mut buf.get(),
        );
    });
    let row = values(vocab);
    bench.line("logsumexp 49152", vocab as f64, "Gelem/s", || {
        black_box(logsumexp(black_box(&row), 1.0));
    });
}

fn layers(bench: &Bench) {
    for (t, h) in [(512, 576), (1, 576), (64, 128), (4224, 32)] {
        let (x, dy, w) = (values(t * h), values(t * h), halves(h));
        let norm = RmsNorm { w: Mat::Bf16(&w), eps: 1e-5, h };
        let (mut y, mut dx, mut dw) = (vec![0.0; t * h], vec![0.0; t * h], vec![0.0; h]);
        let mut buf = ScratchBuf::new(rms_norm_backward_scratch(t, h));
        let n = (t * h) as f64;
        bench.line(&format!("rms_norm {t}x{h}"), n, "Gelem/s", || rms_norm(black_box(&x), &norm, &mut y));
        bench.line(&format!("rms_norm_backward {t}x{h}"), n, "Gelem/s", || {
            rms_norm_backward(black_box(&x), &norm, &dy, &mut dx, false, &mut dw, &mut buf.get());
        });
        bench.line(&format!("swiglu {t}x{h}"), n, "Gelem/s", || swiglu(black_box(&x), &dy, &mut y));
        bench.line(&format!("swiglu_backward {t}x{h}"), n, "Gelem/s", || {
            let mut up = std::mem::take(&mut dx);
            swiglu_backward(Operand::Slice(black_box(&x)), Operand::Slice(&dy), &dy, &mut y, &mut up);
            dx = up;
        });
        let head = h.min(64);
        let inv: Vec<f32> = (0..head as i32 / 2).map(|i| 0.8f32.powi(i)).collect();
        let table = RopeTable::new(t, &inv, 1.0);
        let positions: Vec<u32> = (0..t as u32).collect();
        bench.line(&format!("rope {t}x{h}"), n, "Gelem/s", || {
            rope(Operand::Slice(black_box(&x)), &positions, &table, &mut y, h / head, false)
        });
        bench.line(&format!("add {t}x{h}"), n, "Gelem/s", || add(black_box(&x), &dy, &mut y));
    }
    let n = 20_000_000;
    let (mut g, mut m, mut v) = (values(n), vec![0.0; n], vec![0.0; n]);
    let (mut hi, mut lo): (Vec<_>, Vec<_>) = values(n).into_iter().map(split_master).unzip();
    // The gradient is zero after the first time: so slow a decay that no moment becomes tiny.
    let o = AdamW {
        lr: 1e-3,
        beta1: 0.999_99,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.1,
        step: 1,
        grad_scale: 1.0,
    };
    bench.line("adamw_bf16 (32 bytes a weight)", n as f64 * 32.0, "GB/s", || {
        adamw_bf16(&mut hi, &mut lo, black_box(&mut g), &mut m, &mut v, &o);
    });
    let mut buf = ScratchBuf::new(sum_squares_scratch(n));
    bench.line("sum_squares", n as f64 * 4.0, "GB/s", || {
        black_box(sum_squares(black_box(&mut g), std::iter::empty(), &mut buf.get()));
    });
}
