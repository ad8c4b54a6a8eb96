//! Segments after the beginning of another of their batch, against the sequences they stand for, run whole.

use super::attention::{backward, run, shapes};
use super::*;
use toolsmith_graphs::cpu::{Attention, Segment};

/// Numbers for `t` rows.
struct Rows {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    dout: Vec<f32>,
}

impl Rows {
    fn random(rng: &mut Rng, t: usize, a: &Attention) -> Self {
        let [q, k, v, dout] =
            [a.heads, a.kv_heads, a.kv_heads, a.heads].map(|heads| rng.vec(t * heads * a.head_dim));
        Rows { q, k, v, dout }
    }

    /// The rows named, in that order.
    fn pick(&self, rows: &[usize], a: &Attention) -> Self {
        let of = |x: &[f32], heads: usize| pick(x, rows, heads * a.head_dim);
        let (q, k, v) = (of(&self.q, a.heads), of(&self.k, a.kv_heads), of(&self.v, a.kv_heads));
        Rows { q, k, v, dout: of(&self.dout, a.heads) }
    }

    fn forward(&self, bf: bool, segs: &[Segment], a: &Attention) -> (Vec<f32>, Vec<f32>) {
        run([&self.q, &self.k, &self.v], bf, segs, a)
    }

    /// Outputs, and gradients for `dout`.
    fn both(&self, bf: bool, segs: &[Segment], a: &Attention) -> (Vec<f32>, [Vec<f32>; 3]) {
        let (out, lse) = self.forward(bf, segs, a);
        let grads = backward([&self.q, &self.k, &self.v], bf, (&out, &lse), &self.dout, segs, a);
        (out, grads)
    }
}

fn pick(x: &[f32], rows: &[usize], width: usize) -> Vec<f32> {
    rows.iter().flat_map(|&r| x[r * width..(r + 1) * width].to_vec()).collect()
}

/// Two roots with whole sequences between them and before their children, who take turns.
fn segments() -> Vec<Segment> {
    let mut start = 2;
    let mut segs: Vec<Segment> = vec![];
    // (tokens, past, place of the root)
    for (len, past, root) in [
        (3, 0, 0),
        (150, 0, 0),
        (70, 0, 0),
        (5, 1, 1),
        (40, 65, 2),
        (70, 63, 1),
        (1, 70, 2),
        (66, 0, 0),
        (1, 64, 1),
        (33, 150, 1),
        (130, 100, 1),
        (2, 150, 1),
    ] {
        segs.push(match past {
            0 => Segment::whole(start, len),
            _ => Segment::after(start, len, past, segs[root].q_start),
        });
        start += len + segs.len() as u32 % 2;
    }
    segs
}

/// Rows of the whole sequence that a segment is the end of.
fn sequence(s: &Segment) -> Vec<usize> {
    (s.table as usize..(s.table + s.past) as usize).chain(s.queries()).collect()
}

fn rows(segs: &[Segment]) -> usize {
    segs[segs.len() - 1].queries().end + 1
}

#[test]
fn a_query_after_a_beginning_has_the_bits_of_the_sequence_run_whole() {
    on_each_isa(|| {
        let mut rng = Rng(7);
        for (a, _) in shapes().into_iter().filter(|(a, _)| a.causal) {
            for bf in [false, true] {
                let segs = segments();
                let all = Rows::random(&mut rng, rows(&segs), &a);
                let (out, lse) = in_pool(2, || all.forward(bf, &segs, &a));
                for s in &segs {
                    let alone = all.pick(&sequence(s), &a);
                    let whole = [Segment::whole(0, s.positions() as u32)];
                    let (want, want_lse) = in_pool(1, || alone.forward(bf, &whole, &a));
                    for (got, want, w) in [(&out, &want, a.heads * a.head_dim), (&lse, &want_lse, a.heads)] {
                        let got = &got[s.queries().start * w..s.queries().end * w];
                        same_bits(got, &want[s.past as usize * w..], &format!("{a:?} bf16 {bf} {s:?}"));
                    }
                }
            }
        }
    });
}

/// The gradient of a beginning's row is the sum of its copies' where each sequence has its own.
#[test]
fn gradients_are_those_of_sequences_with_beginnings_of_their_own() {
    on_each_isa(|| {
        let mut rng = Rng(8);
        for (a, _) in shapes().into_iter().filter(|(a, _)| a.causal) {
            for bf in [false, true] {
                let segs = segments();
                let all = Rows::random(&mut rng, rows(&segs), &a);
                let (_, grads) = all.both(bf, &segs, &a);
                let (qw, width) = (a.heads * a.head_dim, a.kv_heads * a.head_dim);
                let mut want = [qw, width, width].map(|w| vec![0.0f64; rows(&segs) * w]);
                for s in &segs {
                    let places = sequence(s);
                    let mut alone = all.pick(&places, &a);
                    alone.dout[..s.past as usize * qw].fill(0.0);
                    let (_, own) = alone.both(bf, &[Segment::whole(0, s.positions() as u32)], &a);
                    for ((want, own), w) in want.iter_mut().zip(&own).zip([qw, width, width]) {
                        for (i, row) in places.iter().enumerate() {
                            for c in 0..w {
                                want[row * w + c] += own[i * w + c] as f64;
                            }
                        }
                    }
                }
                for ((got, want), w) in grads.iter().zip(&want).zip([qw, width, width]) {
                    for s in &segs {
                        let part = s.queries().start * w..s.queries().end * w;
                        let what = format!("{a:?} bf16 {bf} {s:?}");
                        close(&got[part.clone()], &want[part], if bf { 2e-5 } else { 5e-6 }, &what);
                    }
                    let mut none = (0..rows(&segs)).filter(|r| !segs.iter().any(|s| s.queries().contains(r)));
                    assert!(none.all(|r| got[r * w..(r + 1) * w].iter().all(|x| x.is_nan())));
                }
            }
        }
    });
}

/// A family's gradients on any threads, and with other sequences around it or none.
#[test]
fn a_familys_gradients_are_the_same_bits_in_any_batch() {
    on_each_isa(|| {
        let mut rng = Rng(9);
        for (a, _) in shapes().into_iter().filter(|(a, _)| a.causal) {
            let bf = rng.below(2) == 0;
            let segs = segments();
            let all = Rows::random(&mut rng, rows(&segs), &a);
            let (out, grads) = in_pool(3, || all.both(bf, &segs, &a));
            for root in segs.iter().filter(|s| s.past == 0) {
                let own = |s: &&Segment| **s == *root || s.past > 0 && s.table == root.q_start;
                let mut start = 0;
                let family: Vec<Segment> = segs.iter().filter(own).copied().collect();
                let places: Vec<usize> = family.iter().flat_map(|s| s.queries()).collect();
                let alone = family.iter().map(|s| {
                    start += s.q_len;
                    Segment { q_start: start - s.q_len, table: 0, ..*s }
                });
                let alone: Vec<Segment> = alone.collect();
                let (want_out, want) = in_pool(1, || all.pick(&places, &a).both(bf, &alone, &a));
                let what = format!("{a:?} bf16 {bf} after {root:?}");
                let (qw, width) = (a.heads * a.head_dim, a.kv_heads * a.head_dim);
                same_bits(&pick(&out, &places, qw), &want_out, &what);
                for ((got, want), w) in grads.iter().zip(&want).zip([qw, width, width]) {
                    same_bits(&pick(got, &places, w), want, &what);
                }
            }
        }
    });
}

/// More children than blocks are held for at a time.
#[test]
fn many_follow_one_beginning() {
    let a = shapes()[1].0;
    let mut segs = vec![Segment::whole(0, 130)];
    segs.extend((0..60).map(|i| Segment::after(130 + 2 * i, 2, 1 + 2 * i, 0)));
    let all = Rows::random(&mut Rng(10), 250, &a);
    let (out, _) = in_pool(2, || all.forward(true, &segs, &a));
    let w = a.heads * a.head_dim;
    for s in &segs {
        let (want, _) = all.pick(&sequence(s), &a).forward(true, &[Segment::whole(0, s.q_len + s.past)], &a);
        same_bits(&out[s.queries().start * w..s.queries().end * w], &want[s.past as usize * w..], "a child");
    }
}

fn refused(a: Attention, segs: &[Segment]) {
    Rows::random(&mut Rng(11), 12, &a).forward(true, segs, &a);
}

#[test]
#[should_panic(expected = "only causal attention allows")]
fn a_past_needs_causal_attention() {
    refused(
        Attention { causal: false, ..shapes()[0].0 },
        &[Segment::whole(0, 4), Segment::after(4, 4, 2, 0)],
    );
}

#[test]
#[should_panic(expected = "is not the beginning of a whole sequence before it")]
fn a_past_is_within_its_root() {
    refused(shapes()[0].0, &[Segment::whole(0, 4), Segment::after(4, 4, 5, 0)]);
}

#[test]
#[should_panic(expected = "is not the beginning of a whole sequence before it")]
fn a_past_begins_where_its_root_does() {
    refused(shapes()[0].0, &[Segment::whole(0, 4), Segment::after(4, 4, 2, 1)]);
}

#[test]
#[should_panic(expected = "is not the beginning of a whole sequence before it")]
fn children_have_no_children() {
    refused(shapes()[0].0, &[Segment::whole(0, 4), Segment::after(4, 4, 2, 0), Segment::after(8, 4, 2, 4)]);
}
