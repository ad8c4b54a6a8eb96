use super::*;
use toolsmith_graphs::cpu::{
    Dims, Job, Layer, Panels, bias_grad, linear, linear_dw, linear_dw_scratch, linear_dx, linear_dx_scratch,
    linear_scratch, linears,
};

fn shapes(rng: &mut Rng) -> Vec<Dims> {
    let mut shapes: Vec<Dims> =
        [(1, 1, 1), (1, 9, 33), (2, 17, 31), (3, 4, 64), (7, 5, 130), (13, 50, 96), (40, 33, 4133)]
            .map(|(t, n, k)| Dims { t, n, k })
            .into();
    shapes.extend((0..12).map(|_| Dims {
        t: 1 + rng.below(30),
        n: 1 + rng.below(70),
        k: 1 + rng.below(200),
    }));
    shapes
}

#[test]
fn forward_and_gradients_match_f64() {
    on_each_isa(|| {
        let mut rng = Rng(1);
        for d in shapes(&mut rng) {
            for bf in [false, true] {
                let (t, n, k) = (d.t, d.n, d.k);
                let (x, dy) = (rng.vec(t * k), rng.vec(t * n));
                let (w, b) = (Weight::random(&mut rng, n * k, bf), Weight::random(&mut rng, n, bf));
                let (xr, dyr, wr, br) = (rounded(&x, bf), rounded(&dy, bf), w.f64(), b.f64());
                let mut y = vec![f32::NAN; t * n];
                let mut buf = scratch(linear_scratch(d, bf));
                linear(&x, w.mat(), Some(b.mat()), &mut y, d, &mut buf.get());
                let want: Vec<f64> = (0..t * n)
                    .map(|i| br[i % n] + (0..k).map(|l| xr[i / n * k + l] * wr[i % n * k + l]).sum::<f64>())
                    .collect();
                close(&y, &want, 3e-6, &format!("y {d:?} bf16 {bf}"));

                let mut dx = rng.vec(t * k);
                let want: Vec<f64> = (0..t * k)
                    .map(|i| {
                        dx[i] as f64 + (0..n).map(|j| dyr[i / k * n + j] * wr[j * k + i % k]).sum::<f64>()
                    })
                    .collect();
                let mut buf = scratch(linear_dx_scratch(d, bf));
                linear_dx(&dy, w.mat(), &mut dx, true, d, &mut buf.get());
                close(&dx, &want, 3e-6, &format!("dx {d:?} bf16 {bf}"));

                let mut dw = rng.vec(n * k);
                let want: Vec<f64> = (0..n * k)
                    .map(|i| {
                        dw[i] as f64 + (0..t).map(|r| dyr[r * n + i / k] * xr[r * k + i % k]).sum::<f64>()
                    })
                    .collect();
                let mut buf = scratch(linear_dw_scratch(d, bf));
                linear_dw(&x, &dy, &mut dw, bf, d, &mut buf.get());
                close(&dw, &want, 3e-6, &format!("dw {d:?} bf16 {bf}"));

                let mut db = rng.vec(n);
                let want: Vec<f64> = (0..n)
                    .map(|j| db[j] as f64 + (0..t).map(|r| dy[r * n + j] as f64).sum::<f64>())
                    .collect();
                bias_grad(&dy, &mut db, t, n);
                close(&db, &want, 1e-6, "db");
            }
        }
    });
}

/// The contract that sampling and training rest on: a row's result is the same bits in any batch, on any threads.
#[test]
fn a_row_is_the_same_bits_in_any_batch_and_pool() {
    on_each_isa(|| {
        let mut rng = Rng(2);
        // The last three are short sums: panels for many rows, none for few.
        for (n, k) in [(64, 576), (576, 1536), (77, 45), (300, 5000), (128, 128), (352, 384), (77, 46)] {
            for bf in [false, true] {
                let d = Dims { t: 97, n, k };
                let x = rng.vec(d.t * k);
                let w = Weight::random(&mut rng, n * k, bf);
                let run = |x: &[f32], threads: usize| {
                    let d = Dims { t: x.len() / k, ..d };
                    let mut y = vec![0.0; d.t * n];
                    let mut buf = scratch(linear_scratch(d, bf));
                    in_pool(threads, || linear(x, w.mat(), None, &mut y, d, &mut buf.get()));
                    y
                };
                let all = run(&x, 1);
                same_bits(&all, &run(&x, 3), "threads");
                for (i, rows) in [(0, 1), (96, 1), (5, 2), (40, 3), (41, 7), (13, 16), (60, 17), (11, 48)] {
                    same_bits(&run(&x[i * k..(i + rows) * k], 2), &all[i * n..(i + rows) * n], "rows");
                }
            }
        }
    });
}

#[test]
fn panels_made_before_change_no_bit() {
    on_each_isa(|| {
        let mut rng = Rng(4);
        for (n, k) in [(64, 96), (50, 130), (352, 128), (7, 384), (9, 576)] {
            for bf in [false, true] {
                let w = Weight::random(&mut rng, n * k, bf);
                let mut panels = Panels::new(n, k, bf, true, false);
                panels.fill(w.mat());
                assert_eq!(panels.is_filled(), k / if bf { 2 } else { 1 } <= 192, "{n} {k}");
                for t in [1, 5, 40, 300] {
                    let (d, x) = (Dims { t, n, k }, rng.vec(t * k));
                    let mut buf = scratch(linear_scratch(d, bf));
                    let (mut y, mut with) = (vec![0.0; t * n], vec![0.0; t * n]);
                    linear(&x, w.mat(), None, &mut y, d, &mut buf.get());
                    let layer = Layer { w: w.mat(), bias: None, panels: Some(&panels) };
                    let layer = Layer { panels: layer.panels.filter(|p| p.is_filled()), ..layer };
                    linears(&x, None, k, &[Some(Job::linear(layer, &mut with))], &mut buf.get());
                    same_bits(&y, &with, "panels");
                }
            }
        }
    });
}

#[test]
fn gradients_are_the_same_bits_on_any_threads() {
    on_each_isa(|| {
        let mut rng = Rng(3);
        for (t, n, k) in [(97, 200, 176), (700, 45, 130)] {
            for bf in [false, true] {
                let d = Dims { t, n, k };
                let (x, dy, w) = (rng.vec(t * k), rng.vec(t * n), Weight::random(&mut rng, n * k, bf));
                let run = |threads: usize| {
                    let (mut dx, mut dw) = (vec![0.0; t * k], vec![0.0; n * k]);
                    let mut buf = scratch(linear_dx_scratch(d, bf).max(linear_dw_scratch(d, bf)));
                    in_pool(threads, || {
                        linear_dx(&dy, w.mat(), &mut dx, false, d, &mut buf.get());
                        linear_dw(&x, &dy, &mut dw, bf, d, &mut buf.get());
                    });
                    (dx, dw)
                };
                let (one, three) = (run(1), run(3));
                same_bits(&one.0, &three.0, "dx");
                same_bits(&one.1, &three.1, "dw");
            }
        }
    });
}
