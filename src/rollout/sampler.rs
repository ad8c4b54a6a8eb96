//! From a row of logits to a token and its log-probability.
//!
//! Temperature, then top-k, then top-p over what top-k left (the order of transformers and vLLM), then a draw in
//! index order. Nothing sorts the vocabulary. Without a filter the softmax's blocks are summed once, in vectors, and the draw
//! walks one of them. A filter finds its threshold entry in a histogram of how far logits lie below the largest: only
//! the bucket in which it falls is looked at closer. Ties rank by index, lower first.
//! Penalties, min-p and grammars are deliberately absent: the stored log-probability has to be the
//! trainer's.

use std::cell::RefCell;

use rayon::prelude::*;
use toolsmith_graphs::cpu::{Softmax, softmax_buckets, softmax_weights};

use crate::config::RolloutConfig;

/// Buckets of the histogram, of 1/16 nat each; what lies further below the maximum is in the last.
const BUCKETS: usize = 1024;
/// Logits from which rows are shared between threads.
const SHARED: usize = 1 << 15;

/// How a token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Softmax temperature; 0 takes the most likely token.
    pub temperature: f32,
    /// Keep the k most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the smallest set of most likely tokens with at least this probability; 1 keeps all.
    pub top_p: f32,
}

impl From<&RolloutConfig> for Sampling {
    fn from(c: &RolloutConfig) -> Self {
        Self { temperature: c.temperature, top_k: c.top_k, top_p: c.top_p }
    }
}

/// A chosen token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// Vocabulary index.
    pub id: u32,
    /// Log-probability under the temperature-scaled distribution, before top-k and top-p
    /// (at temperature 0, under the distribution at temperature 1).
    pub logprob: f32,
}

/// What a thread keeps for the next row.
#[derive(Default)]
struct Scratch {
    softmax: Softmax,
    weights: Vec<f32>,
    buckets: Vec<u32>,
    counts: Vec<usize>,
    masses: Vec<f64>,
    members: Vec<u32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Sampling {
    /// The factor on logits whose log-softmax is stored.
    pub fn inv_temperature(&self) -> f32 {
        if self.temperature > 0.0 { self.temperature.recip() } else { 1.0 }
    }

    /// Chooses from each row of `logits` `[rows, vocab]` by the uniform number of the same place.
    pub fn choose_all(&self, logits: &[f32], vocab: usize, draws: &[f64]) -> Vec<Option<Choice>> {
        let one = |(row, &u): (&[f32], &f64)| self.choose(row, u);
        if logits.len() < SHARED {
            logits.chunks_exact(vocab).zip(draws).map(one).collect()
        } else {
            logits.par_chunks_exact(vocab).zip(draws).map(one).collect()
        }
    }

    /// Chooses from `row` `[vocab]` by the uniform number `u` in `[0, 1)`.
    ///
    /// `None` if the row has no finite maximum or holds a NaN: the weights have diverged.
    pub fn choose(&self, row: &[f32], u: f64) -> Option<Choice> {
        let inv = self.inv_temperature();
        SCRATCH.with_borrow_mut(|scratch| {
            if !scratch.softmax.read(row, inv) {
                return None;
            }
            let k = if self.top_k == 0 { row.len() } else { self.top_k.min(row.len()) };
            let id = if self.temperature <= 0.0 {
                most_likely(row, &scratch.softmax)
            } else if k == row.len() && self.top_p >= 1.0 {
                draw(row, inv, scratch, u)
            } else {
                draw_filtered(row, inv, scratch, k, self.top_p, u)
            };
            Some(Choice { id: id as u32, logprob: row[id] * inv - scratch.softmax.log_sum() })
        })
    }
}

/// The first of the largest; at temperature 0 logits are not scaled.
fn most_likely(row: &[f32], softmax: &Softmax) -> usize {
    let max = softmax.max();
    let block = softmax.maxima().position(|m| m == max).expect("a block has the maximum");
    let start = block * Softmax::BLOCK;
    start + row[start..].iter().position(|&x| x == max).expect("it is in its block")
}

/// Inverse transform over the whole row in index order.
fn draw(row: &[f32], inv: f32, s: &mut Scratch, u: f64) -> usize {
    let mut left = u * s.softmax.masses().sum::<f64>();
    let mut block = 0;
    for (i, mass) in s.softmax.masses().enumerate().filter(|&(_, mass)| mass > 0.0) {
        block = i;
        if left < mass {
            break;
        }
        left -= mass;
    }
    let start = block * Softmax::BLOCK;
    let logits = &row[start..(start + Softmax::BLOCK).min(row.len())];
    s.weights.resize(logits.len(), 0.0);
    softmax_weights(logits, inv, s.softmax.max(), &mut s.weights);
    start + walk(s.weights.iter().copied(), left)
}

/// Inverse transform over what top-k, then top-p keep, in index order.
fn draw_filtered(row: &[f32], inv: f32, s: &mut Scratch, k: usize, top_p: f32, u: f64) -> usize {
    s.weights.resize(row.len(), 0.0);
    softmax_weights(row, inv, s.softmax.max(), &mut s.weights);
    let last = threshold(row, inv, s, k, top_p);
    let kept = || {
        let weights = s.weights.iter().enumerate();
        weights.map(|(i, &w)| if ranks_with(row, i, last) { w } else { 0.0 })
    };
    walk(kept(), u * kept().map(f64::from).sum::<f64>())
}

/// The entry at which the running sum passes `left`; the last one of some weight if rounding runs past the end.
fn walk(weights: impl Iterator<Item = f32>, mut left: f64) -> usize {
    let mut last = 0;
    for (i, w) in weights.enumerate().filter(|&(_, w)| w > 0.0) {
        if left < f64::from(w) {
            return i;
        }
        left -= f64::from(w);
        last = i;
    }
    last
}

/// The lowest-ranking token that top-k, then top-p keep.
fn threshold(row: &[f32], inv: f32, s: &mut Scratch, k: usize, top_p: f32) -> usize {
    s.buckets.resize(row.len(), 0);
    softmax_buckets(row, inv, s.softmax.max(), BUCKETS as u32 - 1, &mut s.buckets);
    s.counts.clear();
    s.counts.resize(BUCKETS, 0);
    s.masses.clear();
    s.masses.resize(BUCKETS, 0.0);
    for (&b, &w) in s.buckets.iter().zip(&s.weights) {
        s.counts[b as usize] += 1;
        s.masses[b as usize] += f64::from(w);
    }
    let by_rank = |a: &u32, b: &u32| {
        let (x, y) = (row[*a as usize], row[*b as usize]);
        y.partial_cmp(&x).expect("no NaN").then(a.cmp(b))
    };
    let mass = |ids: &[u32]| ids.iter().map(|&i| f64::from(s.weights[i as usize])).sum::<f64>();
    let members = |of: usize, ids: &mut Vec<u32>| {
        ids.clear();
        ids.extend((0..row.len() as u32).filter(|&i| s.buckets[i as usize] as usize == of));
    };

    // The bucket of the k-th token, and how many of it are kept.
    let (mut count, mut bucket) = (0, 0);
    while count + s.counts[bucket] < k {
        count += s.counts[bucket];
        bucket += 1;
    }
    let mut ids = std::mem::take(&mut s.members);
    members(bucket, &mut ids);
    if k - count < ids.len() {
        ids.select_nth_unstable_by(k - count - 1, by_rank);
        ids.truncate(k - count);
    }
    let mut need = f64::INFINITY;
    if top_p < 1.0 {
        // The bucket in which the mass that top-p asks of those k is reached.
        let (above, own) = (s.masses[..bucket].iter().sum::<f64>(), mass(&ids));
        need = f64::from(top_p) * (above + own);
        let reached = (0..bucket).find(|&b| {
            let here = s.counts[b] > 0 && need <= s.masses[b];
            if !here {
                need -= s.masses[b];
            }
            here
        });
        if let Some(reached) = reached {
            members(reached, &mut ids);
        }
    }
    // Quickselect on mass: halve the range that holds the entry at which the cumulated mass reaches `need`.
    let mut range = &mut ids[..];
    while range.len() > 1 {
        let mid = range.len() / 2;
        range.select_nth_unstable_by(mid, by_rank);
        let upper = mass(&range[..mid]);
        if upper >= need {
            range = &mut range[..mid];
        } else {
            need -= upper;
            range = &mut range[mid..];
        }
    }
    let last = range[0] as usize;
    s.members = ids;
    last
}

/// Whether token `i` ranks at or above token `t`.
fn ranks_with(row: &[f32], i: usize, t: usize) -> bool {
    row[i] > row[t] || (row[i] == row[t] && i <= t)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use proptest::prelude::*;
    use toolsmith_graphs::cpu::token_logprob_of;

    /// Sort everything, filter, draw: what the histogram has to agree with.
    fn naive(row: &[f32], s: Sampling, u: f64) -> usize {
        let max = row.iter().copied().fold(f32::MIN, f32::max);
        let mut all: Vec<usize> = (0..row.len()).collect();
        all.sort_by(|&a, &b| row[b].total_cmp(&row[a]).then(a.cmp(&b)));
        if s.temperature == 0.0 {
            return all[0];
        }
        let weight = |i: usize| f64::from(((row[i] - max) / s.temperature).exp());
        all.truncate(if s.top_k == 0 { all.len() } else { s.top_k });
        let total: f64 = all.iter().map(|&i| weight(i)).sum();
        let mut seen = 0.0;
        if s.top_p < 1.0 {
            let n = all.iter().position(|&i| {
                seen += weight(i);
                seen >= f64::from(s.top_p) * total
            });
            all.truncate(n.map_or(all.len(), |n| n + 1));
        }
        all.sort_unstable();
        let total: f64 = all.iter().map(|&i| weight(i)).sum();
        let mut left = u * total;
        for &i in &all {
            if left < weight(i) {
                return i;
            }
            left -= weight(i);
        }
        all[all.len() - 1]
    }

    fn check(row: &[f32], s: Sampling, u: f64) {
        let got = s.choose(row, u).unwrap();
        assert_eq!(got.id as usize, naive(row, s, u), "{s:?} of {} at {u}", row.len());
        let logprob = token_logprob_of(row, got.id, s.inv_temperature());
        assert_eq!(got.logprob.to_bits(), logprob.to_bits());
    }

    proptest! {
        #[test]
        fn agrees_with_sorting(
            // Quarter steps make ties; a temperature that is a power of two keeps 1/t exact.
            row in prop::collection::vec((-20i8..20).prop_map(|x| f32::from(x) / 4.0), 1..60),
            t in prop::sample::select(vec![0.0f32, 0.5, 1.0, 2.0]),
            k in 0usize..12, p in prop::sample::select(vec![0.05f32, 0.3, 0.5, 0.9, 1.0]), u in 0.0f64..1.0,
        ) {
            check(&row, Sampling { temperature: t, top_k: k, top_p: p }, u);
        }

        /// Rows of several blocks, logits of many buckets and far below the last.
        #[test]
        fn agrees_with_sorting_on_a_vocabulary(
            row in prop::collection::vec(
                prop_oneof![8 => -9.0f32..9.0, 2 => -400.0f32..0.0, 1 => Just(3.0f32), 1 => Just(f32::NEG_INFINITY)], 900..5000),
            peak in -9.0f32..20.0,
            t in prop::sample::select(vec![0.25f32, 0.5, 1.0, 4.0]),
            k in prop::sample::select(vec![0usize, 1, 2, 50, 700, 4000]),
            p in prop::sample::select(vec![0.0f32, 0.1, 0.7, 0.95, 0.999_999, 1.0]), u in 0.0f64..1.0,
        ) {
            let mut row = row;
            row[17] = peak;
            check(&row, Sampling { temperature: t, top_k: k, top_p: p }, u);
        }
    }

    #[test]
    fn rows_choose_alike_on_any_number_of_threads() {
        let (vocab, rows) = (5_000, 20);
        let rng = Rng::new(9, 0, 0);
        let logits: Vec<f32> = (0..vocab * rows).map(|i| rng.unit_at(i as u64) as f32 * 12.0).collect();
        assert!(logits.len() >= SHARED);
        let draws: Vec<f64> = (0..rows).map(|i| rng.unit_at((vocab * rows + i) as u64)).collect();
        for (top_k, top_p) in [(0, 1.0), (40, 1.0), (0, 0.9), (300, 0.5)] {
            let s = Sampling { temperature: 0.8, top_k, top_p };
            let alone: Vec<_> = logits.chunks(vocab).zip(&draws).map(|(row, &u)| s.choose(row, u)).collect();
            for threads in [1, 2, 5] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                assert_eq!(pool.install(|| s.choose_all(&logits, vocab, &draws)), alone);
            }
        }
    }

    #[test]
    fn greedy_takes_the_first_of_equals() {
        let s = Sampling { temperature: 0.0, top_k: 0, top_p: 1.0 };
        let c = s.choose(&[1.0, 3.0, 3.0, 0.0], 0.99).unwrap();
        assert_eq!(c.id, 1);
        let z: f32 = [1.0f32, 3.0, 3.0, 0.0].iter().map(|x| (x - 3.0).exp()).sum();
        assert!((c.logprob + z.ln()).abs() < 1e-6);
    }

    #[test]
    fn uniform_halves() {
        let s = Sampling { temperature: 1.0, top_k: 0, top_p: 0.5 };
        let ids: Vec<u32> = (0..100).map(|i| s.choose(&[0.0; 4], f64::from(i) / 100.0).unwrap().id).collect();
        assert!(ids.iter().all(|&i| i < 2) && ids.contains(&0) && ids.contains(&1));
    }

    #[test]
    fn frequencies_follow_the_softmax() {
        let (row, s) =
            ([0.0f32, 1.0, 2.0, f32::NEG_INFINITY], Sampling { temperature: 1.0, top_k: 0, top_p: 1.0 });
        let rng = Rng::new(3, 0, 0);
        let mut n = [0f64; 4];
        (0..20_000).for_each(|i| n[s.choose(&row, rng.unit_at(i)).unwrap().id as usize] += 1.0 / 20_000.0);
        let z: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
        for (f, x) in n.iter().zip(row) {
            assert!((f - f64::from(x).exp() / z).abs() < 0.01, "{n:?}");
        }
    }

    #[test]
    fn diverged_rows_are_refused() {
        let s = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0 };
        assert_eq!(s.choose(&[0.0, f32::NAN], 0.5), None);
        assert_eq!(s.choose(&[f32::NAN, 0.0], 0.5), None);
        assert_eq!(s.choose(&[f32::NEG_INFINITY; 2], 0.5), None);
        assert_eq!(s.choose(&[f32::INFINITY, 0.0], 0.5), None);
        assert_eq!(s.choose(&[], 0.5), None);
    }
}
