use super::*;
use toolsmith_graphs::cpu::{
    Attention, AttentionGrads, AttentionSaved, Kv, KvMut, Segment, attention, attention_backward,
    attention_backward_scratch, attention_scratch, store_kv,
};

/// Keys and values as the cache holds them.
enum Cache {
    F32(Vec<f32>, Vec<f32>),
    Bf16(Vec<bf16>, Vec<bf16>),
}

impl Cache {
    fn new(rows: usize, width: usize, bf: bool) -> Self {
        let n = rows * width;
        if bf {
            Cache::Bf16(vec![bf16::NAN; n], vec![bf16::NAN; n])
        } else {
            Cache::F32(vec![f32::NAN; n], vec![f32::NAN; n])
        }
    }
    fn kv(&self) -> Kv<'_> {
        match self {
            Cache::F32(k, v) => Kv::F32 { k, v },
            Cache::Bf16(k, v) => Kv::Bf16 { k, v },
        }
    }
    fn store(&mut self, k: &[f32], v: &[f32], segs: &[Segment], width: usize) {
        let cache = match self {
            Cache::F32(k, v) => KvMut::F32 { k, v },
            Cache::Bf16(k, v) => KvMut::Bf16 { k, v },
        };
        store_kv(k, v, cache, segs, width);
    }
}

/// Textbook attention over whole sequences in f64; `out` and `lse`.
fn reference(q: &[f64], k: &[f64], v: &[f64], segs: &[Segment], a: &Attention) -> (Vec<f64>, Vec<f64>) {
    let (h, d, group) = (a.heads, a.head_dim, a.heads / a.kv_heads);
    let (mut out, mut lse) = (vec![0.0; q.len()], vec![0.0; q.len() / d]);
    for s in segs {
        for (i, t) in s.queries().enumerate() {
            for head in 0..h {
                let row = |x: &[f64], j: usize, c: usize| {
                    x[((s.kv_row as usize + j) * a.kv_heads + head / group) * d + c]
                };
                let seen = s.past as usize + if a.causal { i + 1 } else { s.q_len as usize };
                let at = (t * h + head) * d;
                let score: Vec<f64> = (0..seen)
                    .map(|j| (0..d).map(|c| q[at + c] * row(k, j, c)).sum::<f64>() * a.scale as f64)
                    .collect();
                let max = score.iter().fold(f64::MIN, |m, &x| m.max(x));
                let sum: f64 = score.iter().map(|s| (s - max).exp()).sum();
                lse[t * h + head] = max + sum.ln();
                for c in 0..d {
                    out[at + c] = (0..seen).map(|j| (score[j] - max).exp() / sum * row(v, j, c)).sum();
                }
            }
        }
    }
    (out, lse)
}

fn packed(lengths: &[usize]) -> Vec<Segment> {
    let mut start = 0;
    let each = lengths.iter().map(|&n| {
        let s = Segment { q_start: start, q_len: n as u32, kv_row: start, past: 0 };
        start += n as u32;
        s
    });
    each.collect()
}

fn run(q: &[f32], kv: Kv, segs: &[Segment], a: &Attention) -> (Vec<f32>, Vec<f32>) {
    let (mut out, mut lse) = (vec![0.0; q.len()], vec![0.0; q.len() / a.head_dim]);
    let mut buf = scratch(attention_scratch(a));
    attention(q, kv, segs, a, &mut out, Some(&mut lse), &mut buf.get());
    (out, lse)
}

fn shapes() -> Vec<(Attention, Vec<usize>)> {
    let a = |heads, kv_heads, head_dim, causal| {
        let scale = 1.0 / (head_dim as f32).sqrt();
        Attention { heads, kv_heads, head_dim, causal, scale }
    };
    vec![
        (a(1, 1, 2, true), vec![1, 3]),
        (a(4, 2, 16, true), vec![5, 1, 70]),
        (a(6, 2, 64, true), vec![130, 3]),
        (a(14, 2, 64, true), vec![66]),
        (a(2, 2, 20, false), vec![33, 65]),
        (a(3, 1, 80, false), vec![129]),
    ]
}

#[test]
fn forward_matches_f64() {
    on_each_isa(|| {
        let mut rng = Rng(3);
        for (a, lengths) in shapes() {
            for bf in [false, true] {
                let segs = packed(&lengths);
                let t: usize = lengths.iter().sum();
                let width = a.kv_heads * a.head_dim;
                let (q, k, v) = (rng.vec(t * a.heads * a.head_dim), rng.vec(t * width), rng.vec(t * width));
                let mut cache = Cache::new(t, width, bf);
                cache.store(&k, &v, &segs, width);
                let (out, lse) = run(&q, cache.kv(), &segs, &a);
                let (want, want_lse) =
                    reference(&rounded(&q, bf), &rounded(&k, bf), &rounded(&v, bf), &segs, &a);
                close(&out, &want, if bf { 4e-3 } else { 3e-6 }, &format!("out {a:?}"));
                close(&lse, &want_lse, 3e-6, &format!("lse {a:?}"));
            }
        }
    });
}

/// Gradients against central differences of the f64 reference.
#[test]
fn backward_matches_finite_differences() {
    on_each_isa(|| {
        let mut rng = Rng(4);
        for (a, lengths) in shapes() {
            for bf in [false, true] {
                let segs = packed(&lengths);
                let t: usize = lengths.iter().sum();
                let width = a.kv_heads * a.head_dim;
                let (q, k, v) = (rng.vec(t * a.heads * a.head_dim), rng.vec(t * width), rng.vec(t * width));
                let dout = rng.vec(q.len());
                let mut cache = Cache::new(t, width, bf);
                cache.store(&k, &v, &segs, width);
                let (out, lse) = run(&q, cache.kv(), &segs, &a);
                let (mut dq, mut dk, mut dv) =
                    (vec![f32::NAN; q.len()], vec![f32::NAN; k.len()], vec![f32::NAN; v.len()]);
                let mut buf = scratch(attention_backward_scratch(&a, t));
                let saved = AttentionSaved { q: &q, kv: cache.kv(), out: &out, lse: &lse };
                let grads = AttentionGrads { dq: &mut dq, dk: &mut dk, dv: &mut dv };
                attention_backward(&saved, &dout, &segs, &a, grads, &mut buf.get());
                let inputs = [rounded(&q, bf), rounded(&k, bf), rounded(&v, bf)];
                let dots: Vec<f64> = dout.iter().map(|&x| x as f64).collect();
                let loss = |x: &[Vec<f64>; 3]| {
                    let (out, _) = reference(&x[0], &x[1], &x[2], &segs, &a);
                    out.iter().zip(&dots).map(|(a, b)| a * b).sum::<f64>()
                };
                let (mut got, mut want) = (vec![], vec![]);
                for (which, grad) in [&dq, &dk, &dv].into_iter().enumerate() {
                    assert!(grad.iter().all(|x| x.is_finite()));
                    for _ in 0..if t > 100 { 2 } else { 12 } {
                        let i = rng.below(grad.len());
                        let mut x = inputs.clone();
                        let h = 1e-4;
                        x[which][i] += h;
                        let up = loss(&x);
                        x[which][i] -= 2.0 * h;
                        want.push((up - loss(&x)) / (2.0 * h));
                        got.push(grad[i]);
                    }
                }
                close(&got, &want, if bf { 2e-2 } else { 1e-5 }, &format!("gradient {a:?} bf16 {bf}"));
            }
        }
    });
}

/// Prefill, chunks of any size, one token at a time, packed with others, on any threads: the same bits.
#[test]
fn a_query_is_the_same_bits_however_it_is_reached() {
    on_each_isa(|| {
        let mut rng = Rng(5);
        for (a, _) in shapes().into_iter().filter(|(a, _)| a.causal) {
            for bf in [false, true] {
                let (n, width, qw) = (150, a.kv_heads * a.head_dim, a.heads * a.head_dim);
                let (q, k, v) = (rng.vec(n * qw), rng.vec(n * width), rng.vec(n * width));
                let whole = packed(&[n]);
                let mut cache = Cache::new(n, width, bf);
                cache.store(&k, &v, &whole, width);
                let (all, all_lse) = in_pool(1, || run(&q, cache.kv(), &whole, &a));
                // In chunks, at another place of a larger cache, beside a second sequence.
                for chunk in [1, 7, 64, 100] {
                    let mut cache = Cache::new(2 * n + 5, width, bf);
                    let mut past = 0;
                    while past < n {
                        let len = chunk.min(n - past);
                        let part = |kv_row, q_start| Segment {
                            q_start,
                            q_len: len as u32,
                            kv_row,
                            past: past as u32,
                        };
                        let segs = [part(n as u32 + 5, 0), part(2, len as u32)];
                        let twice = |x: &[f32], w: usize| [&x[past * w..(past + len) * w]; 2].concat();
                        cache.store(&twice(&k, width), &twice(&v, width), &segs, width);
                        let (out, lse) = in_pool(2, || run(&twice(&q, qw), cache.kv(), &segs, &a));
                        let (out, lse) = (out.chunks(len * qw), lse.chunks(len * a.heads));
                        for (out, lse) in out.zip(lse) {
                            same_bits(out, &all[past * qw..(past + len) * qw], "out");
                            same_bits(lse, &all_lse[past * a.heads..(past + len) * a.heads], "lse");
                        }
                        past += len;
                    }
                }
            }
        }
    });
}
