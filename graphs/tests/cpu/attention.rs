use super::*;
use toolsmith_graphs::KvCache;
use toolsmith_graphs::cpu::{
    Attention, AttentionGrads, AttentionSaved, BLOCK, Segment, attention, attention_backward,
    attention_backward_scratch, attention_scratch, cached_attention, cached_attention_scratch,
};

/// Textbook attention over whole sequences in f64; `out` and `lse`.
fn reference(q: &[f64], k: &[f64], v: &[f64], segs: &[Segment], a: &Attention) -> (Vec<f64>, Vec<f64>) {
    let (h, d, group) = (a.heads, a.head_dim, a.heads / a.kv_heads);
    let (mut out, mut lse) = (vec![0.0; q.len()], vec![0.0; q.len() / d]);
    for s in segs {
        for (i, t) in s.queries().enumerate() {
            for head in 0..h {
                let row = |x: &[f64], j: usize, c: usize| {
                    x[((s.queries().start + j) * a.kv_heads + head / group) * d + c]
                };
                let seen = if a.causal { i + 1 } else { s.q_len as usize };
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
        start += n as u32;
        Segment::whole(start - n as u32, n as u32)
    });
    each.collect()
}

pub fn run(qkv: [&[f32]; 3], bf: bool, segs: &[Segment], a: &Attention) -> (Vec<f32>, Vec<f32>) {
    let [q, k, v] = qkv;
    let (mut out, mut lse) = (vec![0.0; q.len()], vec![0.0; q.len() / a.head_dim]);
    let mut buf = scratch(attention_scratch(a, lse.len() / a.heads, bf));
    attention(q, k, v, bf, segs, a, &mut out, &mut lse, &mut buf.get());
    (out, lse)
}

/// `dq`, `dk`, `dv`; rows of no segment are NaN.
pub fn backward(
    qkv: [&[f32]; 3],
    bf: bool,
    (out, lse): (&[f32], &[f32]),
    dout: &[f32],
    segs: &[Segment],
    a: &Attention,
) -> [Vec<f32>; 3] {
    let [q, k, v] = qkv;
    let mut grads = qkv.map(|x| vec![f32::NAN; x.len()]);
    let [dq, dk, dv] = &mut grads;
    let mut buf = scratch(attention_backward_scratch(a, lse.len() / a.heads));
    let saved = AttentionSaved { q, k, v, out, lse };
    attention_backward(&saved, bf, dout, segs, a, AttentionGrads { dq, dk, dv }, &mut buf.get());
    grads
}

pub fn shapes() -> Vec<(Attention, Vec<usize>)> {
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
                let (out, lse) = run([&q, &k, &v], bf, &segs, &a);
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
                let (out, lse) = run([&q, &k, &v], bf, &segs, &a);
                let grads = backward([&q, &k, &v], bf, (&out, &lse), &dout, &segs, &a);
                let inputs = [rounded(&q, bf), rounded(&k, bf), rounded(&v, bf)];
                let dots: Vec<f64> = dout.iter().map(|&x| x as f64).collect();
                let loss = |x: &[Vec<f64>; 3]| {
                    let (out, _) = reference(&x[0], &x[1], &x[2], &segs, &a);
                    out.iter().zip(&dots).map(|(a, b)| a * b).sum::<f64>()
                };
                let (mut got, mut want) = (vec![], vec![]);
                for (which, grad) in grads.iter().enumerate() {
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

/// A cache full of what must not be looked at, and a sequence's blocks in it.
fn cache(blocks: usize, a: &Attention, bf: bool) -> KvCache {
    let mut cache = KvCache::new(1, blocks, a.kv_heads, a.head_dim, bf);
    cache.layer(0).units.fill(0x7fc0_7fc0); // NaN, as one f32 and as two bf16
    cache
}

/// Blocks in no order.
fn shuffled(rng: &mut Rng, n: usize) -> Vec<u32> {
    let mut blocks: Vec<u32> = (0..n as u32).collect();
    (1..n).for_each(|i| blocks.swap(i, rng.below(i + 1)));
    blocks
}

/// Prefill, chunks of any size, one token at a time, packed with others, in any blocks, some of them shared, on any
/// threads: the same bits as whole sequences without a cache.
#[test]
fn a_query_is_the_same_bits_however_it_is_reached() {
    on_each_isa(|| {
        let mut rng = Rng(5);
        for (case, (a, _)) in shapes().into_iter().filter(|(a, _)| a.causal).cycle().take(12).enumerate() {
            let bf = case % 2 == 0;
            let (width, qw) = (a.kv_heads * a.head_dim, a.heads * a.head_dim);
            // Two sequences with one beginning, the first past several blocks.
            let most = if case % 3 == 2 { 600 } else { 220 };
            let (long, short, shared) = (130 + rng.below(most), 66 + rng.below(30), 1 + rng.below(65));
            let [q, k, v] = [qw, width, width].map(|w| {
                let first = rng.vec(long * w);
                let second = [&first[..shared * w], &rng.vec((short - shared) * w)].concat();
                [first, second]
            });
            let row = |x: &[Vec<f32>; 2], w: usize, s: &[(usize, usize, usize)]| -> Vec<f32> {
                s.iter().flat_map(|&(i, past, len)| x[i][past * w..(past + len) * w].to_vec()).collect()
            };
            let expected: Vec<_> = [0, 1]
                .map(|i| {
                    let whole = packed(&[q[i].len() / qw]);
                    in_pool(1, || run([&q[i], &k[i], &v[i]], bf, &whole, &a).0)
                })
                .into();
            let both =
                run([&q.concat(), &k.concat(), &v.concat()].map(|x| &x[..]), bf, &packed(&[long, short]), &a);
            same_bits(&both.0, &expected.concat(), "packed");

            let each = (long + 1).div_ceil(BLOCK);
            let blocks = shuffled(&mut rng, 2 * each);
            let mut cache = cache(2 * each, &a, bf);
            let mut table = blocks.clone();
            let mut held = [0, 0];
            while held != [long, short] {
                // The second sequence begins where the first has computed what they share.
                if held[1] == 0 && held[0] >= shared {
                    let whole = shared / BLOCK;
                    table.copy_within(..whole, each);
                    cache.copy_block(table[whole], table[each + whole]);
                    held[1] = shared;
                }
                let ends = [long, if held[0] >= shared { short } else { 0 }];
                let mut spans = vec![];
                for (i, end) in ends.into_iter().enumerate() {
                    let most = [1, 7, 64, 100][rng.below(4)];
                    let len = most.min(end.saturating_sub(held[i]));
                    if len > 0 {
                        spans.push((i, held[i], len));
                        held[i] += len;
                    }
                }
                let mut start = 0;
                let segs: Vec<Segment> = spans
                    .iter()
                    .map(|&(i, past, len)| {
                        start += len as u32;
                        let table = (i * each) as u32;
                        Segment { q_start: start - len as u32, q_len: len as u32, past: past as u32, table }
                    })
                    .collect();
                let (qs, ks, vs) = (row(&q, qw, &spans), row(&k, width, &spans), row(&v, width, &spans));
                let mut out = vec![0.0; qs.len()];
                in_pool(1 + rng.below(3), || {
                    let mut buf = scratch(cached_attention_scratch(&a));
                    let layer = cache.layer(0);
                    cached_attention(&qs, &ks, &vs, layer, &table, &segs, &a, &mut out, &mut buf.get());
                });
                for (&(i, past, len), s) in spans.iter().zip(&segs) {
                    let got = &out[s.queries().start * qw..s.queries().end * qw];
                    let what = format!("{a:?} bf16 {bf} sequence {i} from {past}");
                    same_bits(got, &expected[i][past * qw..(past + len) * qw], &what);
                }
            }
        }
    });
}

/// More sequences than blocks are held for at a time.
#[test]
fn many_short_sequences_are_attended_in_turns() {
    let (a, mut rng) = (shapes()[1].0, Rng(6));
    for bf in [false, true] {
        let lengths: Vec<usize> = (0..100).map(|i| 1 + i % 3).collect();
        let segs = packed(&lengths);
        let t = segs[99].queries().end;
        let [q, k, v] = [a.heads, a.kv_heads, a.kv_heads].map(|h| rng.vec(t * h * a.head_dim));
        let (all, _) = in_pool(2, || run([&q, &k, &v], bf, &segs, &a));
        for s in segs {
            let part = |x: &[f32], h: usize| {
                let w = h * a.head_dim;
                x[s.queries().start * w..s.queries().end * w].to_vec()
            };
            let (q, k, v) = (part(&q, a.heads), part(&k, a.kv_heads), part(&v, a.kv_heads));
            let (alone, _) = run([&q, &k, &v], bf, &[Segment::whole(0, s.q_len)], &a);
            same_bits(&part(&all, a.heads), &alone, "one of many");
        }
    }
}

#[test]
#[should_panic(expected = "block 1 is written while another sequence reads it")]
fn a_block_is_not_written_under_a_reader() {
    let a = shapes()[0].0;
    let table = [1, 0, 1];
    let segs = [
        Segment { q_start: 0, q_len: 1, past: 64, table: 0 },
        Segment { q_start: 1, q_len: 1, past: 3, table: 2 },
    ];
    let (x, mut out, mut cache) = ([0.0; 4], [0.0; 4], cache(2, &a, true));
    let mut buf = scratch(cached_attention_scratch(&a));
    cached_attention(&x, &x, &x, cache.layer(0), &table, &segs, &a, &mut out, &mut buf.get());
}
