//! avg@k and pass@k over graded samples, and what the tool calls did.
//!
//! Everything is computed from counts a problem, in the order the problems come, so a table made from a
//! resumed results file equals the one a single run prints.

use serde::Serialize;

use super::Sample;

/// Probability that at least one of `k` samples drawn without replacement from `n`, of which `c` are
/// correct, is correct: 1 − C(n−c, k) / C(n, k), the unbiased estimator of Chen et al. 2021
/// (arXiv 2107.03374, equation 1). `None` if `k` is 0 or more than `n`.
pub fn pass_at_k(n: usize, c: usize, k: usize) -> Option<f64> {
    if k == 0 || k > n || c > n {
        return None;
    }
    // C(n−c, k) / C(n, k) = Π (1 − k/i) for i in n−c+1 ..= n; a factor is 0 where fewer than k are wrong.
    Some(1.0 - (n - c + 1..=n).map(|i| 1.0 - k as f64 / i as f64).product::<f64>().max(0.0))
}

/// A share with the counts it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PassAt {
    /// Samples drawn.
    pub k: usize,
    /// Mean over problems of [`pass_at_k`].
    pub value: f64,
}

/// What an evaluation measured. Shares are in 0..=1.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Problems with at least one sample.
    pub problems: usize,
    /// Samples in all.
    pub samples: usize,
    /// Mean over problems of the share of correct samples (avg@k, k = samples a problem).
    pub avg: f64,
    /// Standard error of `avg` over problems; 0 for fewer than two.
    pub stderr: f64,
    /// pass@k for k = 1, 2, 4, … and the samples a problem.
    pub pass: Vec<PassAt>,
    /// Samples that gave an answer at all.
    pub answered: f64,
    /// Samples that made at least one tool call.
    pub code_share: f64,
    /// Tool calls that ran without an error, of all; 0 where none was made.
    pub code_pass: f64,
    /// Tool calls a sample.
    pub calls: f64,
    /// Tokens the model wrote a sample.
    pub tokens: f64,
    /// Samples that a budget cut off.
    pub truncated: f64,
}

impl Summary {
    /// Summarises samples in any order. Problems are told apart by `Sample::problem`.
    pub fn of(samples: &[Sample]) -> Self {
        let total = samples.len();
        if total == 0 {
            return Self::default();
        }
        let mut counts = std::collections::BTreeMap::<usize, (usize, usize)>::new();
        for s in samples {
            let (n, c) = counts.entry(s.problem).or_default();
            *n += 1;
            *c += usize::from(s.correct);
        }
        let problems = counts.len();
        let share = |f: fn(&Sample) -> bool| samples.iter().filter(|s| f(s)).count() as f64 / total as f64;
        let rates: Vec<f64> = counts.values().map(|&(n, c)| c as f64 / n as f64).collect();
        let avg = mean(&rates);
        let stderr = match problems {
            0 | 1 => 0.0,
            p => (rates.iter().map(|r| (r - avg).powi(2)).sum::<f64>() / (p as f64 * (p - 1) as f64)).sqrt(),
        };
        let fewest = counts.values().map(|&(n, _)| n).min().unwrap_or(0);
        let pass = ks(fewest)
            .into_iter()
            .map(|k| {
                let each: Vec<f64> = counts.values().filter_map(|&(n, c)| pass_at_k(n, c, k)).collect();
                PassAt { k, value: mean(&each) }
            })
            .collect();
        let (made, ok) = samples.iter().fold((0, 0), |(m, o), s| (m + s.calls, o + s.calls_ok));
        Self {
            problems,
            samples: total,
            avg,
            stderr,
            pass,
            answered: share(|s| s.answer.is_some()),
            code_share: share(|s| s.calls > 0),
            code_pass: if made == 0 { 0.0 } else { ok as f64 / made as f64 },
            calls: made as f64 / total as f64,
            tokens: samples.iter().map(|s| s.tokens as f64).sum::<f64>() / total as f64,
            truncated: share(|s| s.end.truncated()),
        }
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// 1, 2, 4, … below `n`, then `n` itself.
fn ks(n: usize) -> Vec<usize> {
    let mut ks: Vec<usize> = std::iter::successors(Some(1), |k| Some(k * 2)).take_while(|&k| k < n).collect();
    if n > 0 {
        ks.push(n);
    }
    ks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::EndReason;

    /// Share of the k-subsets of n samples, the first c of them correct, that hold a correct one.
    fn by_enumeration(n: usize, c: usize, k: usize) -> f64 {
        let subsets = (0u32..1 << n).filter(|m| m.count_ones() as usize == k);
        let (mut all, mut hit) = (0, 0);
        for m in subsets {
            all += 1;
            hit += usize::from(m & ((1 << c) - 1) != 0);
        }
        hit as f64 / all as f64
    }

    #[test]
    fn pass_at_k_counts_subsets() {
        for n in 1..=9 {
            for c in 0..=n {
                for k in 1..=n {
                    let (got, want) = (pass_at_k(n, c, k).unwrap(), by_enumeration(n, c, k));
                    assert!((got - want).abs() < 1e-12, "n={n} c={c} k={k}: {got} {want}");
                }
            }
        }
        assert_eq!(pass_at_k(4, 1, 5), None);
        assert_eq!(pass_at_k(4, 1, 0), None);
    }

    #[test]
    fn powers_of_two_then_all() {
        assert_eq!(ks(0), Vec::<usize>::new());
        assert_eq!(ks(1), [1]);
        assert_eq!(ks(8), [1, 2, 4, 8]);
        assert_eq!(ks(12), [1, 2, 4, 8, 12]);
    }

    fn sample(problem: usize, correct: bool, calls: usize, calls_ok: usize) -> Sample {
        Sample { correct, calls, calls_ok, tokens: 10, ..Sample::blank(problem, EndReason::EndOfTurn) }
    }

    #[test]
    fn summary_averages_over_problems_not_samples() {
        // One problem sampled twice and right once, one sampled four times and never right.
        let mut samples = vec![sample(0, true, 2, 1), sample(0, false, 0, 0)];
        samples.extend((0..4).map(|_| sample(1, false, 1, 1)));
        let s = Summary::of(&samples);
        assert_eq!((s.problems, s.samples), (2, 6));
        assert_eq!(s.avg, 0.25);
        assert_eq!(s.stderr, 0.25);
        assert_eq!(s.pass, [PassAt { k: 1, value: 0.25 }, PassAt { k: 2, value: 0.5 }]);
        assert_eq!(s.code_share, 5.0 / 6.0);
        assert_eq!(s.code_pass, 5.0 / 6.0);
        assert_eq!(s.calls, 1.0);
        assert_eq!(s.tokens, 10.0);
    }

    #[test]
    fn no_samples_no_shares() {
        assert_eq!(Summary::of(&[]), Summary::default());
    }
}
