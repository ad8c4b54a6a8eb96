use super::*;
use toolsmith_graphs::cpu::{Softmax, logsumexp, softmax_buckets, softmax_weights};

#[test]
fn blocks_weights_and_buckets_match_f64() {
    on_each_isa(|| {
        let mut rng = Rng(31);
        for n in [1, 7, 1024, 1025, 5000] {
            let mut row: Vec<f32> = (0..n).map(|_| 30.0 * rng.f32()).collect();
            row[n / 2] = f32::NEG_INFINITY;
            row[n / 3] = 31.0;
            for inv in [1.0f32, 0.5, 1.3] {
                let mut softmax = Softmax::default();
                assert!(!softmax.read(&[f32::NAN; 3], inv) && softmax.read(&row, inv));
                assert_eq!(softmax.log_sum().to_bits(), logsumexp(&row, inv).to_bits());
                assert_eq!(softmax.max(), 31.0 * inv);
                let gap = |x: f32| f64::from(softmax.max()) - f64::from(x * inv);
                let exact: Vec<f64> = row.iter().map(|&x| (-gap(x)).exp()).collect();
                let blocks = exact.chunks(Softmax::BLOCK).map(|block| block.iter().sum::<f64>());
                for (mass, want) in softmax.masses().zip(blocks) {
                    assert!((mass - want).abs() <= 1e-5 * want, "{mass} is not {want}");
                }
                assert_eq!(softmax.maxima().count(), n.div_ceil(Softmax::BLOCK));
                let mut weights = vec![f32::NAN; n];
                softmax_weights(&row, inv, softmax.max(), &mut weights);
                for (&w, want) in weights.iter().zip(&exact) {
                    assert!((f64::from(w) - want).abs() <= 4e-6 * want + 1e-37, "{w} is not {want}");
                }
                let mut buckets = vec![0; n];
                softmax_buckets(&row, inv, softmax.max(), 500, &mut buckets);
                for (&b, &x) in buckets.iter().zip(&row) {
                    let want = (16.0 * gap(x)).min(500.0);
                    assert!((f64::from(b) - want).abs() <= 0.5 + 1e-3, "{b} for {want}");
                }
            }
        }
    });
}

#[test]
fn rows_without_a_finite_maximum_are_refused() {
    on_each_isa(|| {
        let mut softmax = Softmax::default();
        for bad in [f32::NAN, f32::INFINITY] {
            for at in [0, 15, 40, 1030] {
                let mut row = vec![0.5f32; 1040];
                row[at] = bad;
                assert!(!softmax.read(&row, 1.0), "{bad} at {at}");
            }
        }
        assert!(!softmax.read(&[f32::NEG_INFINITY; 20], 1.0));
        assert!(!softmax.read(&[], 1.0));
        assert!(softmax.read(&[f32::NEG_INFINITY, -3.0], 1.0));
    });
}
