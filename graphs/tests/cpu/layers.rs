use super::*;
use toolsmith_graphs::cpu::*;

#[test]
fn exp_is_within_two_ulp() {
    on_each_isa(|| {
        let x: Vec<f32> = (-105_000..89_000).map(|i| i as f32 * 1e-3 + 3e-4).collect();
        let mut y = vec![0.0; x.len()];
        exp_slice(&x, &mut y);
        for (&x, &y) in x.iter().zip(&y) {
            let want = (x as f64).exp();
            let ulp = (f32::EPSILON as f64 * want).max(f32::from_bits(1) as f64);
            let exact = if want > f32::MAX as f64 {
                y == f32::INFINITY
            } else {
                (y as f64 - want).abs() <= 2.0 * ulp
            };
            assert!(exact, "exp({x}) = {y}, not {want}");
        }
        let edge = [f32::NEG_INFINITY, f32::INFINITY, f32::NAN, 0.0, -0.0, -200.0, 200.0];
        let mut y = [9.0; 7];
        exp_slice(&edge, &mut y);
        assert!(y[0] == 0.0 && y[1] == f32::INFINITY && y[2].is_nan() && y[3] == 1.0 && y[4] == 1.0, "{y:?}");
        assert!(y[5] == 0.0 && y[6] == f32::INFINITY, "{y:?}");
    });
}

#[test]
fn rms_norm_and_its_gradients_match_f64() {
    on_each_isa(|| {
        let mut rng = Rng(6);
        for (rows, h) in [(1, 1), (3, 33), (200, 64), (130, 129), (7, 576)] {
            for bf in [false, true] {
                let (x, dy) = (rng.vec(rows * h), rng.vec(rows * h));
                let w = Weight::random(&mut rng, h, bf);
                let norm = RmsNorm { w: w.mat(), eps: 1e-5, h };
                let mut y = vec![f32::NAN; rows * h];
                rms_norm(&x, &norm, &mut y);
                let wv = w.f64();
                let eps = 1e-5f32 as f64;
                let forward = |x: &[f64], w: &[f64]| -> Vec<f64> {
                    let rows = x.chunks(h).flat_map(|row| {
                        let r = 1.0 / (row.iter().map(|x| x * x).sum::<f64>() / h as f64 + eps).sqrt();
                        row.iter().zip(w).map(move |(x, w)| x * r * w)
                    });
                    rows.collect()
                };
                let xv: Vec<f64> = rounded(&x, false);
                close(&y, &forward(&xv, &wv), 1e-6, "rms_norm");
                let (dx0, dw0) = (rng.vec(rows * h), rng.vec(h));
                let (mut dx, mut dw) = (dx0.clone(), dw0.clone());
                let mut buf = scratch(rms_norm_backward_scratch(rows, h));
                rms_norm_backward(&x, &norm, &dy, &mut dx, true, &mut dw, &mut buf.get());
                let loss = |x: &[f64], w: &[f64]| {
                    forward(x, w).iter().zip(&dy).map(|(a, &b)| a * b as f64).sum::<f64>()
                };
                let step = 1e-5;
                for _ in 0..10 {
                    let i = rng.below(rows * h);
                    let at = |d: f64| {
                        let mut x = xv.clone();
                        x[i] += d;
                        loss(&x, &wv)
                    };
                    close(&[dx[i] - dx0[i]], &[(at(step) - at(-step)) / (2.0 * step)], 2e-4, "dx");
                    let i = rng.below(h);
                    let at = |d: f64| {
                        let mut w = wv.clone();
                        w[i] += d;
                        loss(&xv, &w)
                    };
                    close(&[dw[i] - dw0[i]], &[(at(step) - at(-step)) / (2.0 * step)], 2e-4, "dw");
                }
                let mut one = dw0.clone();
                in_pool(1, || rms_norm_backward(&x, &norm, &dy, &mut dx, false, &mut one, &mut buf.get()));
                same_bits(&one, &dw, "dw by threads");
            }
        }
    });
}

#[test]
fn rope_turns_and_its_inverse_turns_back() {
    on_each_isa(|| {
        let mut rng = Rng(7);
        for (heads, hd) in [(1, 2), (3, 64), (2, 20)] {
            let inv: Vec<f32> = (0..hd / 2).map(|i| 10_000f32.powf(-(2.0 * i as f32) / hd as f32)).collect();
            let table = RopeTable::new(300, &inv, 1.0);
            let positions = [0, 1, 299, 77];
            let x = rng.vec(positions.len() * heads * hd);
            let mut y = vec![f32::NAN; x.len()];
            rope(Operand::Slice(&x), &positions, &table, &mut y, heads, false);
            let want: Vec<f64> = (0..x.len())
                .map(|i| {
                    let (t, c) = (i / (heads * hd), i % hd);
                    let angle = (positions[t] as f32 * inv[c % (hd / 2)]) as f64;
                    let other = if c < hd / 2 { -(x[i + hd / 2] as f64) } else { x[i - hd / 2] as f64 };
                    x[i] as f64 * angle.cos() + other * angle.sin()
                })
                .collect();
            close(&y, &want, 1e-6, "rope");
            let mut same = x.clone();
            rope(Operand::Output, &positions, &table, &mut same, heads, false);
            same_bits(&same, &y, "in place");
            rope(Operand::Output, &positions, &table, &mut same, heads, true);
            close(&same, &rounded(&x, false), 1e-6, "inverse");
        }
    });
}

#[test]
fn swiglu_and_its_gradients_match_f64() {
    on_each_isa(|| {
        let mut rng = Rng(8);
        for n in [1, 15, 100, 70_001] {
            let scaled = |rng: &mut Rng| -> Vec<f32> { rng.vec(n).iter().map(|x| x * 20.0).collect() };
            let (g, u, dy) = (scaled(&mut rng), scaled(&mut rng), rng.vec(n));
            let mut y = vec![f32::NAN; n];
            swiglu(&g, &u, &mut y);
            let sig = |x: f32| 1.0 / (1.0 + (-x as f64).exp());
            let each = |f: &dyn Fn(usize) -> f64| (0..n).map(f).collect::<Vec<_>>();
            close(&y, &each(&|i| g[i] as f64 * sig(g[i]) * u[i] as f64), 1e-6, "swiglu");
            let (mut dg, mut du) = (vec![f32::NAN; n], vec![f32::NAN; n]);
            swiglu_backward(Operand::Slice(&g), Operand::Slice(&u), &dy, &mut dg, &mut du);
            let (mut in_g, mut in_u) = (g.clone(), u.clone());
            swiglu_backward(Operand::Output, Operand::Output, &dy, &mut in_g, &mut in_u);
            same_bits(&in_g, &dg, "dgate in place");
            same_bits(&in_u, &du, "dup in place");
            let slope = |x: f32| sig(x) * (1.0 + x as f64 * (1.0 - sig(x)));
            close(&dg, &each(&|i| dy[i] as f64 * u[i] as f64 * slope(g[i])), 1e-6, "dgate");
            close(&du, &each(&|i| dy[i] as f64 * g[i] as f64 * sig(g[i])), 1e-6, "dup");
            let mut sum = u.clone();
            add_assign(&mut sum, &g);
            let mut other = vec![0.0; n];
            add(&u, &g, &mut other);
            same_bits(&sum, &other, "sums");
            scale(&g, 0.5, &mut other);
            close(&other, &each(&|i| 0.5 * g[i] as f64), 0.0, "scale");
        }
    });
}

#[test]
fn embedding_gathers_and_scatters_in_token_order() {
    on_each_isa(|| {
        let mut rng = Rng(9);
        let (vocab, h, t) = (50, 70, 3000);
        let ids: Vec<u32> = (0..t).map(|_| rng.below(vocab) as u32).collect();
        for bf in [false, true] {
            let table = Weight::random(&mut rng, vocab * h, bf);
            let mut y = vec![f32::NAN; t * h];
            embedding(&ids, table.mat(), &mut y, h);
            let w = table.f64();
            let want: Vec<f64> = (0..t * h).map(|i| w[ids[i / h] as usize * h + i % h]).collect();
            close(&y, &want, 0.0, "embedding");
        }
        let dy = rng.vec(t * h);
        let start = rng.vec(vocab * h);
        let mut want = start.clone();
        for (i, &d) in dy.iter().enumerate() {
            want[ids[i / h] as usize * h + i % h] += d;
        }
        for threads in [1, 3] {
            let mut dtable = start.clone();
            in_pool(threads, || embedding_backward(&ids, &dy, &mut dtable, h));
            same_bits(&dtable, &want, "dtable");
        }
    });
}

#[test]
fn adamw_follows_pytorch_and_the_split_copy_is_exact() {
    on_each_isa(|| {
        let mut rng = Rng(10);
        let n = 5000;
        let w0 = rng.vec(n);
        let (mut w, mut m, mut v) = (w0.clone(), vec![0.0; n], vec![0.0; n]);
        let mut exact: Vec<f64> = rounded(&w0, false);
        let (mut em, mut ev) = (vec![0.0f64; n], vec![0.0f64; n]);
        let (mut hi, mut lo): (Vec<_>, Vec<_>) = w0.iter().map(|&w| split_master(w)).unzip();
        let (mut m2, mut v2) = (m.clone(), v.clone());
        for step in 1..=5 {
            let g = rng.vec(n);
            let o = AdamW {
                lr: 1e-2,
                beta1: 0.9,
                beta2: 0.999,
                eps: 1e-8,
                weight_decay: 0.1,
                step,
                grad_scale: 0.5,
            };
            let mut taken = [g.clone(), g.clone()];
            adamw_f32(&mut w, &mut taken[0], &mut m, &mut v, &o);
            adamw_bf16(&mut hi, &mut lo, &mut taken[1], &mut m2, &mut v2, &o);
            assert!(taken.iter().flatten().all(|&g| g == 0.0), "gradients are zeroed");
            for i in 0..n {
                let g = 0.5 * g[i] as f64;
                exact[i] -= 1e-2 * 0.1 * exact[i];
                em[i] = 0.9 * em[i] + 0.1 * g;
                ev[i] = 0.999 * ev[i] + 0.001 * g * g;
                let (b1, b2) = (1.0 - 0.9f64.powi(step as i32), 1.0 - 0.999f64.powi(step as i32));
                exact[i] -= 1e-2 / b1 * em[i] / ((ev[i] / b2).sqrt() + 1e-8);
            }
        }
        close(&w, &exact, 1e-5, "weights");
        let joined: Vec<f32> = hi.iter().zip(&lo).map(|(&h, &l)| join_master(h, l)).collect();
        same_bits(&joined, &w, "split weights");
        for x in w.into_iter().chain([0.0, -0.0, f32::MIN_POSITIVE, 1.0, -3.0e38]) {
            let (hi, lo) = split_master(x);
            assert_eq!(join_master(hi, lo).to_bits(), x.to_bits());
            let near = bf16::from_f32(x).to_f32();
            assert!((hi.to_f32() - x).abs() <= (near - x).abs() || !near.is_finite(), "{x}");
        }
    });
}

/// Moments in bf16 follow those in f32 for thousands of steps, whether they grow, shrink or stay, and are the same bits again.
#[test]
fn bf16_moments_follow_f32_ones() {
    on_each_isa(|| {
        let n = 256;
        let run = || {
            let (mut w, mut m, mut v) = (vec![0.0; n], vec![bf16::ZERO; n], vec![bf16::ZERO; n]);
            let (mut exact, mut em, mut ev) = (w.clone(), vec![0.0f32; n], vec![0.0f32; n]);
            let mut rng = Rng(12);
            for step in 1..=6000 {
                // Large, then a hundredth of it: the second moment falls by four orders of magnitude.
                let size = if step < 3000 { 1.0 } else { 0.01 };
                let g: Vec<f32> = (0..n).map(|i| size * (rng.f32() + 0.1 * (i % 3) as f32)).collect();
                let o = AdamW {
                    lr: 1e-3,
                    beta1: 0.9,
                    beta2: 0.999,
                    eps: 1e-8,
                    weight_decay: 0.0,
                    step,
                    grad_scale: 1.0,
                };
                adamw_f32(&mut w, &mut g.clone(), &mut m, &mut v, &o);
                adamw_f32(&mut exact, &mut g.clone(), &mut em, &mut ev, &o);
                if [2999, 6000].contains(&step) {
                    for (v, exact) in v.iter().zip(&ev) {
                        let off = v.to_f32() / exact - 1.0;
                        assert!(off.abs() < 0.15, "step {step}: {v} is not {exact}");
                    }
                    let mean = |x: &mut dyn Iterator<Item = f32>| x.sum::<f32>() / n as f32;
                    let off = mean(&mut v.iter().zip(&ev).map(|(v, e)| v.to_f32() / e - 1.0));
                    assert!(off.abs() < 0.01, "step {step}: second moments are {off} off on the whole");
                }
            }
            let off = w.iter().zip(&exact).map(|(w, e)| (w - e).abs()).fold(0.0, f32::max);
            let moved = exact.iter().fold(0.0f32, |most, e| most.max(e.abs()));
            assert!(off < 0.03 * moved, "weights that moved by {moved} are {off} apart");
            w
        };
        same_bits(&run(), &run(), "again");
    });
}

/// `Σ g²` as it is defined: leaves of 4096 elements in 16 lanes, then halves.
fn plain_squares(g: &[f32]) -> f64 {
    if g.len() > 4096 {
        let (a, b) = g.split_at((g.len() / 2).next_multiple_of(4096));
        return plain_squares(a) + plain_squares(b);
    }
    let lane = |i: usize| g.iter().skip(i).step_by(16).fold(0.0, |sum, &x| sum + x as f64 * x as f64);
    (0..8).map(|i| lane(2 * i) + lane(2 * i + 1)).sum()
}

#[test]
fn sum_of_squares_is_exact_enough_and_does_not_see_threads() {
    on_each_isa(|| {
        let mut rng = Rng(11);
        for (n, buffers) in [(0, 1), (1, 2), (9, 1), (5000, 12), (8193, 2), (40_961, 9), (300_001, 3)] {
            let summands: Vec<_> = (0..buffers).map(|_| rng.vec(n)).collect();
            let add = |mut a: Vec<f32>, b: &Vec<f32>| {
                a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
                a
            };
            let g = summands[1..].iter().fold(summands[0].clone(), add);
            let exact: f64 = g.iter().map(|&x| x as f64 * x as f64).sum();
            for threads in [1, 3] {
                let mut taken = summands.clone();
                let (sum, others) = taken.split_first_mut().unwrap();
                let mut buf = ScratchBuf::new(sum_squares_scratch(n));
                let found = in_pool(threads, || {
                    sum_squares(sum, others.iter_mut().map(|other| &mut other[..]), &mut buf.get())
                });
                assert!((found - exact).abs() <= 1e-12 * exact.max(1.0), "{found} {exact}");
                assert_eq!(found.to_bits(), plain_squares(&g).to_bits(), "{n} elements, {threads} threads");
                same_bits(sum, &g, "the sum of the buffers");
                assert!(others.iter().flatten().all(|&x| x == 0.0), "buffers added are zeroed");
            }
        }
    });
}
