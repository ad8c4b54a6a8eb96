//! From a row of logits to a token and its log-probability.
//!
//! Temperature, then top-k, then top-p over what top-k left (the order of transformers and vLLM). Both
//! filters find one threshold entry by partial selection, O(vocab), and the draw walks the row in index
//! order; nothing sorts the vocabulary. Ties rank by index, lower first.
//! Penalties, min-p and grammars are deliberately absent: the stored log-probability has to be the
//! trainer's.

use crate::config::RolloutConfig;
use toolsmith_graphs::cpu::token_logprob_of;

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

impl Sampling {
    /// The factor on logits whose log-softmax is stored.
    pub fn inv_temperature(&self) -> f32 {
        if self.temperature > 0.0 { self.temperature.recip() } else { 1.0 }
    }

    /// Chooses from `row` `[vocab]` by the uniform number `u` in `[0, 1)`.
    ///
    /// `None` if the row has no finite maximum or holds a NaN: the weights have diverged.
    pub fn choose(&self, row: &[f32], u: f64) -> Option<Choice> {
        let best = argmax(row)?;
        let id = if self.temperature > 0.0 { self.draw(row, row[best], u) } else { best } as u32;
        Some(Choice { id, logprob: token_logprob_of(row, id, self.inv_temperature()) })
    }

    /// Inverse transform over the kept tokens in index order.
    fn draw(&self, row: &[f32], max: f32, u: f64) -> usize {
        let inv = self.inv_temperature();
        let weights: Vec<f32> = row.iter().map(|&x| ((x - max) * inv).exp()).collect();
        let threshold = self.threshold(&weights);
        let kept = |(i, &w): (usize, &f32)| match threshold {
            Some(t) if !ranks_with(&weights, i, t) => 0.0,
            _ => f64::from(w),
        };
        let total: f64 = weights.iter().enumerate().map(kept).sum();
        let mut left = u * total;
        let mut last = 0;
        for (i, w) in weights.iter().enumerate().map(|e| (e.0, kept(e))).filter(|&(_, w)| w > 0.0) {
            if left < w {
                return i;
            }
            left -= w;
            last = i;
        }
        last // rounding ran past the end
    }

    /// The lowest-ranking token that top-k and top-p keep; `None` if they keep all.
    fn threshold(&self, weights: &[f32]) -> Option<usize> {
        let k = if self.top_k == 0 { weights.len() } else { self.top_k.min(weights.len()) };
        if k == weights.len() && self.top_p >= 1.0 {
            return None;
        }
        let mut order: Vec<u32> = (0..weights.len() as u32).collect();
        let by_rank = |a: &u32, b: &u32| {
            let (x, y) = (weights[*a as usize], weights[*b as usize]);
            y.total_cmp(&x).then(a.cmp(b))
        };
        if k < order.len() {
            order.select_nth_unstable_by(k - 1, by_rank);
            order.truncate(k);
        }
        let mass = |ids: &[u32]| ids.iter().map(|&i| f64::from(weights[i as usize])).sum::<f64>();
        let mut need = if self.top_p < 1.0 { f64::from(self.top_p) * mass(&order) } else { f64::INFINITY };
        // Quickselect on mass: halve the range that holds the entry at which the cumulated mass reaches `need`.
        let mut range = &mut order[..];
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
        range.first().map(|&i| i as usize)
    }
}

/// Whether token `i` ranks at or above token `t`.
fn ranks_with(weights: &[f32], i: usize, t: usize) -> bool {
    weights[i] > weights[t] || (weights[i] == weights[t] && i <= t)
}

/// Index of the largest entry, the first of equals; `None` without a finite maximum or with a NaN.
fn argmax(row: &[f32]) -> Option<usize> {
    let (mut best, mut nan) = (0, false);
    for (i, &x) in row.iter().enumerate() {
        nan |= x.is_nan();
        if x > row[best] {
            best = i;
        }
    }
    (!nan && row.get(best)?.is_finite()).then_some(best)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use proptest::prelude::*;

    /// Sort everything, filter, draw: what the partial selection has to agree with.
    fn naive(row: &[f32], s: Sampling, u: f64) -> usize {
        let max = row.iter().copied().fold(f32::MIN, f32::max);
        let mut all: Vec<(f32, usize)> =
            row.iter().map(|&x| ((x - max) / s.temperature).exp()).zip(0..).collect();
        all.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        all.truncate(if s.top_k == 0 { all.len() } else { s.top_k });
        let total: f64 = all.iter().map(|e| f64::from(e.0)).sum();
        let mut seen = 0.0;
        if s.top_p < 1.0 {
            let n = all.iter().position(|e| {
                seen += f64::from(e.0);
                seen >= f64::from(s.top_p) * total
            });
            all.truncate(n.map_or(all.len(), |n| n + 1));
        }
        all.sort_by_key(|e| e.1);
        let total: f64 = all.iter().map(|e| f64::from(e.0)).sum();
        let mut left = u * total;
        for e in &all {
            if left < f64::from(e.0) {
                return e.1;
            }
            left -= f64::from(e.0);
        }
        all.last().unwrap().1
    }

    proptest! {
        #[test]
        fn agrees_with_sorting(
            // Quarter steps make ties; a temperature that is a power of two keeps 1/t exact.
            row in prop::collection::vec((-20i8..20).prop_map(|x| f32::from(x) / 4.0), 1..60),
            t in prop::sample::select(vec![0.5f32, 1.0, 2.0]),
            k in 0usize..12, p in prop::sample::select(vec![0.05f32, 0.3, 0.5, 0.9, 1.0]), u in 0.0f64..1.0,
        ) {
            let s = Sampling { temperature: t, top_k: k, top_p: p };
            let got = s.choose(&row, u).unwrap();
            prop_assert_eq!(got.id as usize, naive(&row, s, u));
            prop_assert_eq!(got.logprob.to_bits(), token_logprob_of(&row, got.id, t.recip()).to_bits());
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
