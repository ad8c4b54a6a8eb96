use super::*;
use toolsmith_graphs::cpu::*;

struct Case {
    x: Vec<f32>,
    w: Weight,
    targets: Vec<u32>,
    vocab: usize,
    h: usize,
    bf: bool,
}

impl Case {
    fn new(rng: &mut Rng, t: usize, vocab: usize, h: usize, bf: bool) -> Self {
        let target = |rng: &mut Rng| if rng.below(4) == 0 { SKIP } else { rng.below(vocab) as u32 };
        let targets = (0..t).map(|_| target(rng)).collect();
        Case { x: rng.vec(t * h), w: Weight::random(rng, vocab * h, bf), targets, vocab, h, bf }
    }
    fn head(&self) -> LmHead<'_> {
        LmHead { w: self.w.mat(), vocab: self.vocab, h: self.h, inv_temperature: 1.0 / 0.7 }
    }
    fn t(&self) -> usize {
        self.targets.len()
    }
    fn run(&self) -> [Vec<f32>; 3] {
        let [mut logprobs, mut entropy, mut lse] = [(); 3].map(|_| vec![f32::NAN; self.t()]);
        let mut buf = scratch(token_logprob_scratch(self.t(), self.vocab, self.h, self.bf));
        let out = TokenLogprobs { logprobs: &mut logprobs, entropy: Some(&mut entropy), lse: Some(&mut lse) };
        token_logprob(&self.x, &self.head(), &self.targets, out, &mut buf.get());
        [logprobs, entropy, lse]
    }
    /// Log-probability and entropy of each row in f64.
    fn reference(&self, x: &[f64], w: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let rows = self.targets.iter().enumerate().map(|(t, &target)| {
            if target == SKIP {
                return (0.0, 0.0);
            }
            let logit = |v: usize| {
                (0..self.h).map(|i| x[t * self.h + i] * w[v * self.h + i]).sum::<f64>() / 0.7f32 as f64
            };
            let z: Vec<f64> = (0..self.vocab).map(logit).collect();
            let lse = z.iter().map(|z| z.exp()).sum::<f64>().ln();
            (z[target as usize] - lse, -z.iter().map(|z| (z - lse).exp() * (z - lse)).sum::<f64>())
        });
        rows.unzip()
    }
}

#[test]
fn forward_matches_f64_and_whole_rows_bit_for_bit() {
    on_each_isa(|| {
        let mut rng = Rng(20);
        for (t, vocab, h) in [(1, 3, 5), (7, 1024, 32), (9, 2500, 33), (530, 70, 16)] {
            for bf in [false, true] {
                let case = Case::new(&mut rng, t, vocab, h, bf);
                let [logprobs, entropies, lse] = case.run();
                let (want, want_entropy) = case.reference(&rounded(&case.x, bf), &case.w.f64());
                close(&logprobs, &want, 2e-6, "logprob");
                close(&entropies, &want_entropy, 2e-6, "entropy");
                // What a sampler does: whole rows of logits, one sequence at a time.
                for (t, &target) in case.targets.iter().enumerate().filter(|(_, t)| **t != SKIP) {
                    let d = Dims { t: 1, n: vocab, k: h };
                    let mut row = vec![0.0; vocab];
                    let mut buf = scratch(linear_scratch(d, bf));
                    linear(&case.x[t * h..(t + 1) * h], case.w.mat(), None, &mut row, d, &mut buf.get());
                    let inv = case.head().inv_temperature;
                    let got = [token_logprob_of(&row, target, inv), entropy(&row, inv), logsumexp(&row, inv)];
                    same_bits(&got, &[logprobs[t], entropies[t], lse[t]], "row");
                }
            }
        }
    });
}

#[test]
fn backward_matches_finite_differences() {
    on_each_isa(|| {
        let mut rng = Rng(21);
        for (t, vocab, h) in [(1, 3, 5), (9, 1100, 33), (530, 20, 8), (190, 1001, 9)] {
            for (bf, with_entropy) in [(false, true), (false, false), (true, true)] {
                let case = Case::new(&mut rng, t, vocab, h, bf);
                let [_, entropy, lse] = case.run();
                let (dlogprobs, dentropy) = (rng.vec(t), rng.vec(t));
                let (mut dx, mut dhead) = (vec![f32::NAN; t * h], vec![0.0; vocab * h]);
                let mut buf = scratch(token_logprob_backward_scratch(t, vocab, h, bf));
                let dentropy = with_entropy.then_some(&dentropy[..]);
                let saved = TokenLogprobsGrad {
                    dlogprobs: &dlogprobs,
                    dentropy,
                    lse: Some(&lse),
                    entropy: Some(&entropy),
                };
                let mut run = |grad: &TokenLogprobsGrad, dx: &mut [f32], dhead: &mut [f32]| {
                    token_logprob_backward(
                        &case.x,
                        &case.head(),
                        &case.targets,
                        grad,
                        dx,
                        Some(dhead),
                        &mut buf.get(),
                    );
                };
                run(&saved, &mut dx, &mut dhead);
                let (mut dx2, mut dhead2) = (vec![f32::NAN; t * h], vec![0.0; vocab * h]);
                run(&TokenLogprobsGrad { lse: None, entropy: None, ..saved }, &mut dx2, &mut dhead2);
                same_bits(&dx2, &dx, "dx without saved lse");
                same_bits(&dhead2, &dhead, "dhead without saved lse");

                let (x, w) = (rounded(&case.x, bf), case.w.f64());
                let loss = |x: &[f64], w: &[f64]| {
                    let (l, e) = case.reference(x, w);
                    let de = |t: usize| dentropy.map_or(0.0, |d| d[t] as f64);
                    (0..t).map(|t| l[t] * dlogprobs[t] as f64 + e[t] * de(t)).sum::<f64>()
                };
                let difference = |i: usize, of_x: bool| {
                    let at = |d: f64| {
                        let (mut x, mut w) = (x.clone(), w.clone());
                        if of_x {
                            x[i] += d
                        } else {
                            w[i] += d
                        }
                        loss(&x, &w)
                    };
                    (at(1e-5) - at(-1e-5)) / 2e-5
                };
                let tol = if bf { 2e-2 } else { 1e-4 };
                let some: Vec<usize> = (0..6).map(|_| rng.below(t * h)).collect();
                let want: Vec<f64> = some.iter().map(|&i| difference(i, true)).collect();
                close(&some.iter().map(|&i| dx[i]).collect::<Vec<_>>(), &want, tol, "dx");
                let row = case.targets.iter().find(|&&t| t != SKIP).map_or(0, |&t| t as usize * h);
                let some: Vec<usize> =
                    (0..6).map(|_| rng.below(vocab * h)).chain([row, row + h - 1]).collect();
                let want: Vec<f64> = some.iter().map(|&i| difference(i, false)).collect();
                close(&some.iter().map(|&i| dhead[i]).collect::<Vec<_>>(), &want, tol, "dhead");
            }
        }
    });
}

/// Rows, vocabulary and threads are cut into pieces; what a piece is part of never shows.
#[test]
fn gradients_are_the_same_bits_on_any_threads() {
    on_each_isa(|| {
        let mut rng = Rng(22);
        for bf in [false, true] {
            let (t, vocab, h) = (301, 1100, 33);
            let case = Case::new(&mut rng, t, vocab, h, bf);
            let dlogprobs = rng.vec(t);
            let run = |threads: usize| {
                let (mut dx, mut dhead) = (vec![f32::NAN; t * h], vec![0.0; vocab * h]);
                in_pool(threads, || {
                    let mut buf = scratch(token_logprob_backward_scratch(t, vocab, h, bf));
                    let grad =
                        TokenLogprobsGrad { dlogprobs: &dlogprobs, dentropy: None, lse: None, entropy: None };
                    let (head, dhead) = (case.head(), Some(&mut dhead[..]));
                    token_logprob_backward(
                        &case.x,
                        &head,
                        &case.targets,
                        &grad,
                        &mut dx,
                        dhead,
                        &mut buf.get(),
                    );
                });
                (dx, dhead)
            };
            let (one, three) = (run(1), run(3));
            same_bits(&one.0, &three.0, "dx");
            same_bits(&one.1, &three.1, "dhead");
        }
    });
}
