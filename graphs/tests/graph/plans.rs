//! What a plan promises: capacity, reuse of memory, errors, equal bits from cache and batch.

use toolsmith_graphs::{
    AttentionShape, Bindings, DiffOptions, Dim, Error, Graph, KvCache, Options, Plan, RopeAngles, Segment,
    Tensor,
};

use crate::{
    autograd::{decoder, decoder_bound},
    harness::{numbers, on_kernels},
};

const T: Dim = Dim::Tokens;

#[test]
fn inputs_are_checked_by_name_and_length() {
    let g = Graph::new();
    let (x, w) = (g.f32_input("x", &[T, 4.into()]), g.param(0, "w", &[2, 4]));
    let y = x.linear(&w, None);
    let mut plan = Plan::compile(&g, &[&y], Options { tokens: 4, rows: 0, bf16: false }).unwrap();
    let x = plan.f32_input("x").unwrap();
    assert!(matches!(plan.f32_input("y"), Err(Error::UnknownInput { .. })));
    assert!(plan.u32_input("x").is_err());
    let (params, data) = (vec![vec![1.0; 8]], [1.0; 20]);
    let run =
        |plan: &mut Plan, t: usize, data| plan.run(&mut Bindings::new(t, 0).params(&params).f32(x, data));
    assert_eq!(run(&mut plan, 3, &data[..12]), Ok(()));
    assert_eq!(plan.output(0), [4.0; 6]);
    assert!(matches!(run(&mut plan, 3, &data[..8]), Err(Error::Length { expected: 12, found: 8, .. })));
    assert!(matches!(run(&mut plan, 5, &data[..20]), Err(Error::Capacity { .. })));
    let unbound = plan.run(&mut Bindings::new(3, 0).f32(x, &data[..12]));
    assert_eq!(unbound, Err(Error::Unbound("parameters")));
    let wrong = vec![vec![1.0; 7]];
    let short = plan.run(&mut Bindings::new(3, 0).params(&wrong).f32(x, &data[..12]));
    assert_eq!(short, Err(Error::Length { input: "parameter 0".into(), expected: 8, found: 7 }));
    let bf16 = vec![vec![half::bf16::ONE; 8]];
    let rounded = plan.run(&mut Bindings::new(3, 0).params(&bf16).f32(x, &data[..12]));
    assert_eq!(rounded, Err(Error::Precision { param: 0 }));
    assert!(plan.to_text().contains("linear"));
}

#[test]
fn only_what_outputs_need_is_run_and_memory_is_reused() {
    let g = Graph::new();
    let mut x = g.f32_input("x", &[T]);
    let unused = x.sin();
    for _ in 0..50 {
        x = x * 0.5 + 1.0;
    }
    let options = Options { tokens: 1000, ..Default::default() };
    let plan = Plan::compile_unfused(&g, &[&x], options).unwrap();
    assert_eq!(plan.steps().len(), 100);
    assert!(plan.memory().0 <= 3 * 4096, "{} bytes", plan.memory().0);
    let plan = Plan::compile(&g, &[&x], options).unwrap();
    assert!(plan.steps().len() <= 2 && plan.memory().0 <= 4096, "{}", plan.to_text());
    assert_eq!(unused.dims(), [T]);
}

#[test]
fn an_output_is_written_over_an_input_that_dies() {
    let run = |keep: bool| {
        let g = Graph::new();
        let angles = RopeAngles::new(8, &[0.5, 0.25], 1.0);
        let (x, positions) = (g.f32_input("x", &[T, 4.into()]), g.u32_input("positions", &[T]));
        let first = x.rope(&positions, &angles);
        let last = first.rope(&positions, &angles).rope(&positions, &angles);
        let outputs = [&last, &first];
        let outputs = &outputs[..1 + usize::from(keep)];
        let mut plan = Plan::compile(&g, outputs, Options { tokens: 8, ..Default::default() }).unwrap();
        let (x, positions) = (plan.f32_input("x").unwrap(), plan.u32_input("positions").unwrap());
        let data = numbers(1, 12);
        plan.run(&mut Bindings::new(3, 0).f32(x, &data).u32(positions, &[3, 1, 2])).unwrap();
        (plan.output(0).to_vec(), plan.memory().0, plan.to_text().matches("output 0").count())
    };
    let ((alone, small, in_place), (beside, large, fewer)) = (run(false), run(true));
    assert_eq!(alone, beside);
    assert_eq!((in_place, fewer), (2, 1), "an output of the plan stays");
    assert_eq!((small, large), (128, 256), "bytes of one and of two buffers");
}

#[test]
fn a_batch_may_be_empty_or_want_no_rows() {
    let g = Graph::new();
    let x = g.param(0, "table", &[5, 4]).embedding(&g.u32_input("ids", &[T]));
    let rows = x.gather_rows(&g.u32_input("rows", &[Dim::Rows])).rms_norm(&g.param(1, "norm", &[4]), 1e-5);
    let y = (rows.linear(&g.param(2, "w", &[3, 4]), None) + 1.0).exp();
    let mut plan = Plan::compile(&g, &[&y], Options { tokens: 4, rows: 2, bf16: false }).unwrap();
    let (ids, rows) = (plan.u32_input("ids").unwrap(), plan.u32_input("rows").unwrap());
    let params = vec![vec![0.5; 20], vec![1.0; 4], vec![0.1; 12]];
    for (t, r) in [(4, 2), (4, 0), (0, 0), (1, 1)] {
        let mut b = Bindings::new(t, r).params(&params).u32(ids, &[1, 2, 3, 4][..t]).u32(rows, &[0, 3][..r]);
        plan.run(&mut b).unwrap();
        assert_eq!(plan.output(0).len(), 3 * r);
    }
}

#[test]
fn a_plan_moves_to_another_thread() {
    let g = Graph::new();
    let y = g.f32_input("x", &[T]) * 2.0;
    let mut plan = Plan::compile(&g, &[&y], Options { tokens: 4, ..Default::default() }).unwrap();
    let found = std::thread::spawn(move || {
        let x = plan.f32_input("x").unwrap();
        plan.run(&mut Bindings::new(2, 0).f32(x, &[1.0, 2.0])).unwrap();
        plan.output(0).to_vec()
    });
    assert_eq!(found.join().unwrap(), [2.0, 4.0]);
}

#[test]
fn a_sequences_loss_does_not_depend_on_its_neighbours() {
    let (v, h, f) = (40, 32, 48);
    let run = |lens: &[usize], only: usize| {
        let mut b = decoder_bound(9, v, h, f, lens);
        // The same first sequence everywhere; only it is weighed.
        let alone = decoder_bound(9, v, h, f, &[only]);
        for (all, first) in b.u32s.iter_mut().zip(&alone.u32s) {
            all.1[..only].copy_from_slice(&first.1);
        }
        b.f32s[0]
            .1
            .iter_mut()
            .enumerate()
            .for_each(|(i, w)| *w = if i < only { alone.f32s[0].1[i] } else { 0.0 });
        let g = Graph::new();
        let loss = decoder(&g, v, h, f);
        on_kernels(&g, &[&loss], &b).0
    };
    assert_eq!(run(&[6], 6), run(&[6, 17, 3], 6));
}

/// A layer of attention with the parts around it that matter for equality.
fn layer(x: &Tensor, attend: impl Fn(&Tensor, &Tensor, &Tensor) -> Tensor) -> Tensor {
    let g = x.graph();
    let q = x.linear(&g.param(0, "wq", &[16, 16]), None);
    let k = x.linear(&g.param(1, "wk", &[8, 16]), None);
    let v = x.linear(&g.param(2, "wv", &[8, 16]), None);
    x + attend(&q, &k, &v).linear(&g.param(3, "wo", &[16, 16]), None)
}

#[test]
fn decoding_through_the_cache_gives_the_training_graphs_bits() {
    let shape = AttentionShape { heads: 4, kv_heads: 2, head_dim: 4, scale: 0.5, causal: true };
    let t = 83;
    let weights: Vec<Vec<f32>> =
        [256, 128, 128, 256].iter().enumerate().map(|(i, &n)| numbers(i as u64, n)).collect();
    let rounded: Vec<Vec<half::bf16>> =
        weights.iter().map(|w| w.iter().map(|&x| half::bf16::from_f32(x)).collect()).collect();
    let data = numbers(9, t * 16);
    for bf16 in [false, true] {
        let params: &dyn toolsmith_graphs::Params = if bf16 { &rounded } else { &weights };
        let options = Options { tokens: 96, rows: 0, bf16 };
        let build = |cached: bool| {
            let g = Graph::new();
            let x = g.f32_input("x", &[T, 16.into()]);
            let (positions, s) = (g.u32_input("positions", &[T]), g.segments());
            let y = layer(&x, |q, k, v| {
                if cached {
                    q.cached_attention(k, v, &s, &positions, shape, 0)
                } else {
                    q.attention(k, v, &s, &positions, shape)
                }
            });
            Plan::compile(&g, &[&y], options).unwrap()
        };
        let (mut whole, mut cached) = (build(false), build(true));
        let positions: Vec<u32> = (0..t as u32).collect();
        let run = |plan: &mut Plan, s: Segment, from: usize, kv: Option<(&mut KvCache, &[u32])>| {
            let n = s.q_len as usize;
            let (x, p) = (plan.f32_input("x").unwrap(), plan.u32_input("positions").unwrap());
            let segments = [s];
            let mut b = Bindings::new(n, 0).params(params).segments(&segments);
            b = b.f32(x, &data[from * 16..(from + n) * 16]).u32(p, &positions[from..from + n]);
            if let Some((kv, blocks)) = kv {
                b = b.kv(kv, blocks);
            }
            plan.run(&mut b).unwrap();
            plan.output(0).to_vec()
        };
        let segment =
            |len: usize, past: usize| Segment { q_len: len as u32, past: past as u32, ..Segment::default() };
        let expected = run(&mut whole, segment(t, 0), 0, None);
        let mut kv = KvCache::new(1, 3, 2, 4, bf16);
        let mut found = run(&mut cached, segment(71, 0), 0, Some((&mut kv, &[2, 1])));
        // Its prefix, the first block shared and the second copied, continues there.
        kv.copy_block(1, 0);
        for i in 71..t {
            found.extend(run(&mut cached, segment(1, i), i, Some((&mut kv, &[2, 0]))));
        }
        assert_eq!(found, expected, "bf16: {bf16}");
    }
}

#[test]
fn the_samplers_logprobs_are_the_trainers() {
    let (t, h, v, beta) = (9, 32, 200, 1.0 / 0.7);
    let weights = [numbers(1, h), numbers(2, v * h)];
    let params: Vec<Vec<half::bf16>> =
        weights.iter().map(|w| w.iter().map(|&x| half::bf16::from_f32(x)).collect()).collect();
    let data = numbers(3, t * h);
    let targets: Vec<u32> = (0..t as u32).map(|i| 20 * i).collect();
    let hidden = |g: &Graph| g.f32_input("x", &[T, h.into()]).rms_norm(&g.param(0, "norm", &[h]), 1e-5);
    let options = Options { tokens: 16, rows: 4, bf16: true };

    let g = Graph::new();
    let beta_in = g.f32_input("beta", &[]);
    let l = hidden(&g).token_logprob(&g.param(1, "head", &[v, h]), &g.u32_input("targets", &[T]), &beta_in);
    let mut trainer = Plan::compile(&g, &[&l], options).unwrap();
    let (x, b) = (trainer.f32_input("x").unwrap(), trainer.f32_input("beta").unwrap());
    let target = trainer.u32_input("targets").unwrap();
    trainer
        .run(&mut Bindings::new(t, 0).params(&params).f32(x, &data).f32(b, &[beta]).u32(target, &targets))
        .unwrap();

    let g = Graph::new();
    let rows = hidden(&g).gather_rows(&g.u32_input("rows", &[Dim::Rows]));
    let mut sampler =
        Plan::compile(&g, &[&rows.linear(&g.param(1, "head", &[v, h]), None)], options).unwrap();
    let (x, rows) = (sampler.f32_input("x").unwrap(), sampler.u32_input("rows").unwrap());
    for pick in [vec![0], vec![3, 8], vec![5, 1, 2, 7]] {
        let mut b = Bindings::new(t, pick.len()).params(&params).f32(x, &data).u32(rows, &pick);
        sampler.run(&mut b).unwrap();
        for (&row, logits) in pick.iter().zip(sampler.output(0).chunks(v)) {
            let sampled = toolsmith_graphs::cpu::token_logprob_of(logits, targets[row as usize], beta);
            assert_eq!(sampled, trainer.output(0)[row as usize], "row {row}");
        }
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let (v, h, f) = (300, 64, 96);
    let bound = decoder_bound(4, v, h, f, &[70, 9, 41]);
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let bound = &bound;
        pool.install(|| {
            let g = Graph::new();
            let loss = decoder(&g, v, h, f);
            g.differentiate(&loss, &[], DiffOptions::default());
            on_kernels(&g, &[&loss], bound)
        })
    };
    let one = run(1);
    assert_eq!(one, run(2));
    assert_eq!(one, run(3));
}

#[test]
fn a_recorded_execution_says_what_each_step_had_to_do() {
    let (t, k, n) = (6, 32, 10);
    let g = Graph::new();
    let x = g.f32_input("x", &[T, k.into()]).rms_norm(&g.param(0, "norm", &[k]), 1e-5);
    let y = x.linear(&g.param(1, "w", &[n, k]), None);
    let mut plan = Plan::compile_unfused(&g, &[&y], Options { tokens: 8, rows: 0, bf16: true }).unwrap();
    let x = plan.f32_input("x").unwrap();
    let params: Vec<Vec<half::bf16>> = vec![vec![half::bf16::ONE; k], vec![half::bf16::ONE; n * k]];
    let data = numbers(1, t * k);
    let run = |plan: &mut Plan| plan.run(&mut Bindings::new(t, 0).params(&params).f32(x, &data)).unwrap();
    run(&mut plan);
    assert!(plan.steps().all(|s| s.cost.is_none()), "nothing is recorded unasked");
    plan.record(true);
    run(&mut plan);
    run(&mut plan);
    let steps: Vec<_> = plan.steps().collect();
    assert_eq!(
        steps.iter().map(|s| (s.name, s.params.join(" "))).collect::<Vec<_>>(),
        [("rms_norm", "norm".to_owned()), ("linear", "w".to_owned())]
    );
    assert_eq!(
        (steps[1].inputs, steps[1].outputs),
        (&[vec![T, k.into()], vec![n.into(), k.into()]][..], &[vec![T, n.into()]][..])
    );
    assert_eq!(plan.extent().resolve(&steps[1].outputs[0]), [t, n]);
    let [norm, linear] = [0, 1].map(|i| steps[i].cost.expect("recorded"));
    assert!(norm.bf16 && linear.bf16);
    assert_eq!((norm.work.bf16_flops, norm.work.f32_flops), (0, (4 * t * k) as u64));
    assert_eq!(linear.work.read as usize, 4 * t * k + 2 * n * k);
    assert_eq!(linear.work.written as usize, 4 * t * n);
    assert_eq!((linear.work.bf16_flops as usize, linear.work.f32_flops), (2 * t * n * k, 0));
}

/// Products of a training pass: each weight's three times on every token, attention's seven on every pair.
#[test]
fn the_work_of_a_training_pass_adds_up() {
    let (v, h, f) = (40, 32, 48);
    let bound = decoder_bound(3, v, h, f, &[5, 9, 2]);
    let g = Graph::new();
    let loss = decoder(&g, v, h, f);
    g.differentiate(&loss, &[], DiffOptions::default());
    let mut plan = Plan::compile_unfused(&g, &[&loss], Options { tokens: 16, rows: 0, bf16: false }).unwrap();
    plan.record(true);
    let mut grads: Vec<Vec<f32>> = bound.params.iter().map(|p| vec![0.0; p.len()]).collect();
    let segments = bound.segments();
    let mut b = Bindings::new(16, 0).params(&bound.params).grads(&mut grads).segments(&segments);
    for (name, data) in &bound.u32s {
        b = b.u32(plan.u32_input(name).unwrap(), data);
    }
    b = b.f32(plan.f32_input("weights").unwrap(), &bound.f32s[0].1);
    plan.run(&mut b).unwrap();
    let flops = |names: &[&str]| -> u64 {
        let named = plan.steps().filter(|s| names.contains(&s.name));
        named.map(|s| s.cost.expect("recorded").work.flops()).sum()
    };
    let (layers, bias) = (2, 16 * h as u64);
    let weights = layers * (h * h + 2 * (h / 2 * h) + h * h + 2 * f * h + h * f);
    let linear = flops(&["linear", "linear_dx", "linear_dw"]);
    assert_eq!(linear, 3 * 2 * 16 * weights as u64 + layers as u64 * bias);
    let pairs = 5 * 6 / 2 + 9 * 10 / 2 + 2 * 3 / 2;
    assert_eq!(flops(&["attention", "attention_backward"]), (layers * 7 * 2 * pairs * h) as u64);
    let logits = 16 * v;
    let head = flops(&["token_logprob", "token_logprob_backward"]);
    assert_eq!(head, (4 * 2 * logits * h + 2 * 3 * logits) as u64);
}

#[test]
fn a_fused_step_computes_as_much_and_moves_each_operand_once() {
    let (t, k, n) = (6, 32, 10);
    let g = Graph::new();
    let x = g.f32_input("x", &[T, k.into()]);
    let [norm, gate, up] = [("norm", &[k][..]), ("gate", &[n, k]), ("up", &[n, k])]
        .iter()
        .enumerate()
        .map(|(i, (name, dims))| g.param(i, name, dims))
        .collect::<Vec<_>>()
        .try_into()
        .unwrap();
    let h = x.rms_norm(&norm, 1e-5);
    let y = h.linear(&gate, None).swiglu(&h.linear(&up, None));
    let params: Vec<Vec<half::bf16>> = [k, n * k, n * k].map(|n| vec![half::bf16::ONE; n]).into();
    let data = numbers(1, t * k);
    let run = |compile: fn(&Graph, &[&Tensor], Options) -> Result<Plan, Error>| {
        let mut plan = compile(&g, &[&y], Options { tokens: 8, rows: 0, bf16: true }).unwrap();
        plan.record(true);
        let x = plan.f32_input("x").unwrap();
        plan.run(&mut Bindings::new(t, 0).params(&params).f32(x, &data)).unwrap();
        let work: toolsmith_graphs::ops::Work = plan.steps().map(|s| s.cost.expect("recorded").work).sum();
        (plan.steps().len(), work)
    };
    let ((steps, fused), (all, single)) = (run(Plan::compile), run(Plan::compile_unfused));
    assert_eq!((steps, all), (1, 4));
    assert_eq!((fused.bf16_flops, fused.f32_flops), (single.bf16_flops, single.f32_flops));
    assert_eq!(fused.read as usize, 4 * t * k + 2 * (k + 2 * n * k));
    assert_eq!(fused.written as usize, 4 * t * n);
}
