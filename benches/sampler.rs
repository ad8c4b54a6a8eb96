//! Speed of choosing a token: `cargo bench --bench sampler`.
//!
//! Microseconds a row on one thread, best of several runs, at the vocabularies of SmolLM2 and Qwen2.5: the sampler, and two
//! that it must beat, selection over the whole row with one scalar exponential a logit (what it replaced) and a full sort.

use std::hint::black_box;
use std::time::Instant;

use toolsmith::rollout::Sampling;

/// Logits like a language model's: most far below the largest, a few near it.
fn logits(vocab: usize) -> Vec<f32> {
    let mut s = 1u32;
    let mut uniform = || {
        s ^= s << 13;
        s ^= s >> 17;
        s ^= s << 5;
        f64::from(s) / f64::from(u32::MAX) + 1e-9
    };
    let mut normal = || (-2.0 * uniform().ln()).sqrt() * (6.3 * uniform()).cos();
    (0..vocab).map(|_| 3.0 * normal() as f32).collect()
}

fn weights(row: &[f32], s: &Sampling) -> Vec<f32> {
    let max = row.iter().copied().fold(f32::MIN, f32::max);
    row.iter().map(|&x| ((x - max) / s.temperature).exp()).collect()
}

fn keep(s: &Sampling, weights: &[f32], ranked: &[u32]) -> usize {
    let k = if s.top_k == 0 { ranked.len() } else { s.top_k };
    let mass = |i: &u32| f64::from(weights[*i as usize]);
    let need = f64::from(s.top_p) * ranked[..k].iter().map(mass).sum::<f64>();
    let mut seen = 0.0;
    let reached = ranked[..k].iter().position(|i| {
        seen += mass(i);
        seen >= need
    });
    reached.map_or(k, |n| n + 1)
}

fn draw(weights: &[f32], kept: &mut [u32], u: f64) -> u32 {
    kept.sort_unstable();
    let mut left = u * kept.iter().map(|&i| f64::from(weights[i as usize])).sum::<f64>();
    let at = kept.iter().position(|&i| {
        left -= f64::from(weights[i as usize]);
        left < 0.0
    });
    kept[at.unwrap_or(kept.len() - 1)]
}

/// Ranks everything.
fn sorted(row: &[f32], s: &Sampling, u: f64) -> u32 {
    let weights = weights(row, s);
    let mut ranked: Vec<u32> = (0..row.len() as u32).collect();
    ranked.sort_unstable_by(|a, b| weights[*b as usize].total_cmp(&weights[*a as usize]).then(a.cmp(b)));
    let n = keep(s, &weights, &ranked);
    draw(&weights, &mut ranked[..n], u)
}

/// Ranks what a selection leaves: the k most likely, or for top-p alone those above a thousandth of the largest.
fn selected(row: &[f32], s: &Sampling, u: f64) -> u32 {
    let weights = weights(row, s);
    let by_rank = |a: &u32, b: &u32| weights[*b as usize].total_cmp(&weights[*a as usize]).then(a.cmp(b));
    let mut ranked: Vec<u32> = (0..row.len() as u32).collect();
    if s.top_k > 0 {
        ranked.select_nth_unstable_by(s.top_k - 1, by_rank);
        ranked.truncate(s.top_k);
        ranked.sort_unstable_by(by_rank);
        let n = keep(s, &weights, &ranked);
        ranked.truncate(n);
    } else if s.top_p < 1.0 {
        let need = f64::from(s.top_p) * weights.iter().map(|&w| f64::from(w)).sum::<f64>();
        let (mut low, mut high, mut above) = (0, ranked.len(), 0.0);
        while high - low > 1 {
            let mid = low + (high - low) / 2;
            ranked[low..high].select_nth_unstable_by(mid - low, by_rank);
            let upper: f64 = ranked[low..mid].iter().map(|&i| f64::from(weights[i as usize])).sum();
            if above + upper >= need {
                high = mid;
            } else {
                above += upper;
                low = mid;
            }
        }
        ranked.truncate(low + 1);
    }
    draw(&weights, &mut ranked, u)
}

/// Microseconds of the fastest of a few runs of `f`.
fn best(mut f: impl FnMut()) -> f64 {
    let run = |f: &mut dyn FnMut(), n: u32| {
        let start = Instant::now();
        (0..n).for_each(|_| f());
        start.elapsed().as_secs_f64() / f64::from(n)
    };
    let n = (0.01 / run(&mut f, 2)).clamp(1.0, 1e4) as u32;
    (0..10).map(|_| run(&mut f, n)).fold(f64::MAX, f64::min) * 1e6
}

fn main() {
    let kinds = [("temperature", 0, 1.0), ("top-k 50", 50, 1.0), ("top-p 0.95", 0, 0.95), ("both", 50, 0.95)];
    println!("{:14} {:>7} {:>10} {:>10} {:>10}", "us a row", "vocab", "sampler", "selection", "sort");
    for vocab in [49_152, 151_936] {
        let row = logits(vocab);
        for (name, top_k, top_p) in kinds {
            let s = Sampling { temperature: 0.8, top_k, top_p };
            let mut n = 0;
            let mut u = move || {
                n = (n + 37) % 100;
                f64::from(n) / 100.0 + 0.005
            };
            let times = [
                best(|| _ = black_box(s.choose(black_box(&row), u()))),
                best(|| _ = black_box(selected(black_box(&row), &s, u()))),
                best(|| _ = black_box(sorted(black_box(&row), &s, u()))),
            ];
            println!("{name:14} {vocab:7} {:10.1} {:10.1} {:10.1}", times[0], times[1], times[2]);
        }
    }
}
