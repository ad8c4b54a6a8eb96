//! Every composite's kernel against its decomposition, forward and backward, over random shapes.

use std::collections::BTreeMap;

use proptest::prelude::*;
use toolsmith_graphs::{AttentionShape, Dim, RopeAngles};

use crate::harness::{Bound, check, integers, numbers};

const T: Dim = Dim::Tokens;

fn shapes<const N: usize>(list: [(&'static str, Vec<Dim>); N]) -> BTreeMap<&'static str, Vec<Dim>> {
    BTreeMap::from(list)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..Default::default() })]

    #[test]
    fn linear(t in 1usize..6, k in 1usize..20, n in 1usize..9, bias: bool, seed: u64) {
        let b = Bound {
            tokens: t,
            params: vec![numbers(seed, n * k), numbers(seed ^ 1, n)],
            f32s: vec![("x", numbers(seed ^ 2, t * k))],
            ..Default::default()
        };
        check(&b, &shapes([("x", vec![T, k.into()])]), 2e-5, |g, i| {
            let (w, c) = (g.param(0, "w", &[n, k]), g.param(1, "b", &[n]));
            (vec![i["x"].linear(&w, bias.then_some(&c))], 1)
        });
    }

    #[test]
    fn rms_norm(t in 1usize..5, heads in 1usize..4, h in 1usize..20, seed: u64) {
        let b = Bound {
            tokens: t,
            params: vec![numbers(seed, h)],
            f32s: vec![("x", numbers(seed ^ 1, t * heads * h))],
            ..Default::default()
        };
        check(&b, &shapes([("x", vec![T, heads.into(), h.into()])]), 5e-5, |g, i| {
            (vec![i["x"].rms_norm(&g.param(0, "w", &[h]), 1e-3)], 1)
        });
    }

    #[test]
    fn rope(t in 1usize..5, heads in 1usize..4, half in 1usize..9, seed: u64) {
        let b = Bound {
            tokens: t,
            f32s: vec![("x", numbers(seed, t * heads * 2 * half))],
            u32s: vec![("positions", integers(seed ^ 1, t, 16))],
            ..Default::default()
        };
        let inv_freq: Vec<f32> = (0..half).map(|i| 0.7f32.powi(i as i32)).collect();
        let angles = RopeAngles::new(16, &inv_freq, 1.25);
        check(&b, &shapes([("x", vec![T, (heads * 2 * half).into()]), ("positions", vec![T])]), 2e-5, |_, i| {
            (vec![i["x"].rope(&i["positions"], &angles)], 1)
        });
    }

    #[test]
    fn swiglu(t in 1usize..6, n in 1usize..40, seed: u64) {
        let x = |s: u64| numbers(seed ^ s, t * n).iter().map(|x| 4.0 * x).collect();
        let b = Bound { tokens: t, f32s: vec![("gate", x(0)), ("up", x(1))], ..Default::default() };
        check(&b, &shapes([("gate", vec![T, n.into()]), ("up", vec![T, n.into()])]), 2e-5, |_, i| {
            (vec![i["gate"].swiglu(&i["up"])], 1)
        });
    }

    #[test]
    fn embedding_and_rows(t in 1usize..7, r in 1usize..5, v in 1usize..12, h in 1usize..20, seed: u64) {
        let b = Bound {
            tokens: t,
            rows: r,
            params: vec![numbers(seed, v * h)],
            u32s: vec![("ids", integers(seed ^ 1, t, v)), ("rows", integers(seed ^ 2, r, t))],
            ..Default::default()
        };
        check(&b, &shapes([("ids", vec![T]), ("rows", vec![Dim::Rows])]), 1e-5, |g, i| {
            let x = g.param(0, "table", &[v, h]).embedding(&i["ids"]);
            (vec![x.gather_rows(&i["rows"])], 1)
        });
    }

    #[test]
    fn attention(
        lens in prop::collection::vec(1usize..5, 1..4),
        kv in 1usize..3, group in 1usize..3, half in 1usize..5, causal: bool, seed: u64,
    ) {
        let (t, d, heads) = (lens.iter().sum(), 2 * half, kv * group);
        let b = Bound {
            tokens: t,
            f32s: vec![
                ("q", numbers(seed, t * heads * d)),
                ("k", numbers(seed ^ 1, t * kv * d)),
                ("v", numbers(seed ^ 2, t * kv * d)),
            ],
            u32s: vec![("positions", lens.iter().flat_map(|&n| 0..n as u32).collect())],
            lens,
            ..Default::default()
        };
        let width = |n: usize| vec![T, (n * d).into()];
        let dims = shapes([("q", width(heads)), ("k", width(kv)), ("v", width(kv)), ("positions", vec![T])]);
        let shape = AttentionShape { heads, kv_heads: kv, head_dim: d, scale: 1.3, causal };
        check(&b, &dims, 5e-5, |g, i| {
            let s = g.segments();
            (vec![i["q"].attention(&i["k"], &i["v"], &s, &i["positions"], shape)], 1)
        });
    }

    #[test]
    fn token_logprob(t in 1usize..6, h in 1usize..12, v in 1usize..30, entropy: bool, seed: u64) {
        let b = Bound {
            tokens: t,
            params: vec![numbers(seed, v * h)],
            f32s: vec![("x", numbers(seed ^ 1, t * h).iter().map(|x| 3.0 * x).collect())],
            u32s: vec![("targets", integers(seed ^ 2, t, v))],
            ..Default::default()
        };
        check(&b, &shapes([("x", vec![T, h.into()]), ("targets", vec![T])]), 1e-4, |g, i| {
            let (head, beta) = (g.param(0, "head", &[v, h]), g.constant(0.8));
            if entropy {
                let (l, e) = i["x"].token_logprob_entropy(&head, &i["targets"], &beta);
                (vec![l, e], 2)
            } else {
                (vec![i["x"].token_logprob(&head, &i["targets"], &beta)], 1)
            }
        });
    }
}
