//! A fused plan gives the bits of the plan without fusion: prefill, decoding, training, on every instruction set.

mod decoder;

use std::sync::Mutex;

use decoder::{Decoder, Shape, numbers, weights};
use proptest::prelude::*;
use toolsmith_graphs::{
    Bindings, DiffOptions, Dim, Graph, KvCache, Options, Plan, Segment, Tensor, cpu::Isa, loss,
};

const T: Dim = Dim::Tokens;
const VOCAB: usize = 97;
const HIDDEN: usize = 48;
const HEAD: usize = 8;
const LAYERS: usize = 2;

static ISA: Mutex<()> = Mutex::new(());

/// Runs `test` once for each instruction set this machine has.
fn on_each_isa(mut test: impl FnMut()) {
    let _guard = ISA.lock().unwrap_or_else(|e| e.into_inner());
    for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
        Isa::force(Some(isa));
        test();
    }
    Isa::force(None);
}

/// What sets the family's models apart.
const SHAPES: [Shape; 3] = [shape(false, false), shape(true, false), shape(false, true)];

const fn shape(bias: bool, head_norm: bool) -> Shape {
    let kv_heads = 2;
    Shape {
        layers: LAYERS,
        hidden: HIDDEN,
        ffn: 80,
        heads: HIDDEN / HEAD,
        kv_heads,
        vocab: VOCAB,
        bias,
        head_norm,
    }
}

fn compile(graph: &Graph, outputs: &[&Tensor], options: Options, fuse: bool) -> Plan {
    let plan = if fuse { Plan::compile } else { Plan::compile_unfused };
    plan(graph, outputs, options).unwrap()
}

fn names(plan: &Plan) -> Vec<String> {
    plan.steps().map(|s| format!("{} {}", s.name, s.params.join(" ")).trim().to_owned()).collect()
}

/// Logits of a prefill, of a mixed batch and of decoding, and the cache they leave.
fn infer(shape: Shape, bf16: bool, fuse: bool) -> (Vec<Vec<f32>>, Vec<String>) {
    let mut model = Decoder::new(shape, true);
    let g = model.graph.clone();
    let x = model.layers().gather_rows(&g.u32_input("rows", &[Dim::Rows]));
    let x = model.norm(&x, "norm");
    let logits = x.linear(&model.param("head", &[VOCAB, HIDDEN]), None);
    let mut plan = compile(&g, &[&logits], Options { tokens: 50, rows: 4, bf16 }, fuse);
    let params = weights(&model.sizes, bf16);
    let inputs = ["ids", "positions", "rows"].map(|n| plan.u32_input(n).unwrap());
    let mut kv = KvCache::new(LAYERS, 3, 2, HEAD, bf16);
    let mut outputs = vec![];
    for spans in [
        vec![(0, 0, 37)],
        vec![(0, 37, 1)],
        vec![(0, 38, 1), (1, 0, 7), (2, 0, 40)],
        vec![(0, 39, 1), (1, 7, 1), (2, 40, 1)],
    ] {
        let (mut positions, mut rows, mut segments) = (vec![], vec![], vec![]);
        for &(slot, past, len) in &spans {
            let q_start = positions.len() as u32;
            segments.push(Segment { q_start, q_len: len, past, table: slot });
            positions.extend(past..past + len);
            rows.push(positions.len() as u32 - 1);
        }
        let ids: Vec<u32> = positions.iter().map(|p| p * 31 % VOCAB as u32).collect();
        let mut bindings =
            Bindings::new(ids.len(), rows.len()).params(&*params).kv(&mut kv, &[2, 0, 1]).segments(&segments);
        bindings = bindings.u32(inputs[0], &ids).u32(inputs[1], &positions).u32(inputs[2], &rows);
        plan.run(&mut bindings).unwrap();
        outputs.push(plan.output(0).to_vec());
    }
    (outputs, names(&plan))
}

/// Log-probabilities, the loss and the gradients of a pass over two sequences.
fn train(shape: Shape, bf16: bool, checkpoint: bool, fuse: bool) -> (Vec<Vec<f32>>, Vec<String>) {
    let mut model = Decoder::new(shape, false);
    let g = model.graph.clone();
    let x = model.layers();
    let x = model.norm(&x, "norm");
    let head = model.param("head", &[VOCAB, HIDDEN]);
    let l = x.token_logprob(&head, &g.u32_input("targets", &[T]), &g.constant(0.8));
    let loss = loss::cross_entropy(&l, &g.f32_input("weights", &[T]));
    g.differentiate(&loss, &[], DiffOptions { recompute: if checkpoint { usize::MAX } else { 0 } });
    let mut plan = compile(&g, &[&l, &loss], Options { tokens: 60, rows: 0, bf16 }, fuse);
    let params = weights(&model.sizes, bf16);
    let mut grads: Vec<Vec<f32>> = model.sizes.iter().map(|&n| vec![0.0; n]).collect();
    let (t, lens) = (52, [41, 11]);
    let positions: Vec<u32> = lens.iter().flat_map(|&n| 0..n).collect();
    let segments = [(0, 41), (41, 11)].map(|(start, len)| Segment::whole(start, len));
    let ids: Vec<u32> = (0..t).map(|i| i * 17 % VOCAB as u32).collect();
    let loss_weights = numbers(7, t as usize);
    let inputs = ["ids", "positions", "targets"].map(|n| plan.u32_input(n).unwrap());
    let weighed = plan.f32_input("weights").unwrap();
    let mut b = Bindings::new(t as usize, 0).params(&*params).grads(&mut grads).segments(&segments);
    b = b.u32(inputs[0], &ids).u32(inputs[1], &positions).u32(inputs[2], &ids).f32(weighed, &loss_weights);
    plan.run(&mut b).unwrap();
    grads.extend([plan.output(0).to_vec(), plan.output(1).to_vec()]);
    (grads, names(&plan))
}

#[track_caller]
fn same_bits(a: &[Vec<f32>], b: &[Vec<f32>], what: &str) {
    assert!(a.iter().flatten().all(|x| x.is_finite()), "{what}: not finite");
    let bits = |x: &[Vec<f32>]| x.iter().map(|x| x.iter().map(|x| x.to_bits()).collect()).collect();
    let (a, b): (Vec<Vec<u32>>, Vec<Vec<u32>>) = (bits(a), bits(b));
    for (i, (a, b)) in a.iter().zip(&b).enumerate() {
        assert!(a == b, "{what}, value {i}: bits differ ({:?})", Isa::current());
    }
}

#[test]
fn inference_has_the_same_bits_and_fewer_steps() {
    on_each_isa(|| {
        for shape in SHAPES {
            for bf16 in [false, true] {
                let (fused, steps) = infer(shape, bf16, true);
                let (single, _) = infer(shape, bf16, false);
                same_bits(&fused, &single, &format!("{shape:?}, bf16 {bf16}"));
                let norm = if shape.head_norm { "norm+" } else { "" };
                let layer = [
                    &format!("norm+linear+{norm}rope q k v"),
                    "cached_attention",
                    "linear+add o",
                    "norm+linear+swiglu gate up",
                    "linear+add down",
                ];
                assert_eq!(steps[1..6], layer);
                assert_eq!(steps[1 + 5 * LAYERS..], ["gather_rows", "norm+linear head"]);
            }
        }
    });
}

#[test]
fn training_has_the_same_bits() {
    on_each_isa(|| {
        for shape in SHAPES {
            for (bf16, checkpoint) in [(false, false), (true, false), (true, true)] {
                let (fused, steps) = train(shape, bf16, checkpoint, true);
                let (single, all) = train(shape, bf16, checkpoint, false);
                same_bits(&fused, &single, &format!("{shape:?}, bf16 {bf16}, checkpoint {checkpoint}"));
                assert!(steps.len() < all.len());
                assert!(steps.iter().any(|s| s == "mul+sum"), "the loss: {steps:#?}");
                // The backward pass computes the norms again: they are the layers' own.
                let count = |name: &str| steps.iter().filter(|s| *s == name).count();
                let forward = if checkpoint { 2 * LAYERS } else { LAYERS };
                assert_eq!(count("norm+linear+swiglu gate up"), forward, "{steps:#?}");
                // A bias's gradient reads what SwiGLU's gives.
                let swiglu = if shape.bias { "" } else { "+swiglu" };
                assert_eq!(count(&format!("norm+linear{swiglu}_backward+add up gate")), LAYERS, "{steps:#?}");
                assert_eq!(count("norm+linear_backward+add v k q"), LAYERS, "{steps:#?}");
                for layer in ["o", "down"] {
                    assert_eq!(count(&format!("linear_backward {layer}")), LAYERS, "{steps:#?}");
                }
            }
        }
    });
}

#[test]
fn threads_change_no_bit_of_a_fused_plan() {
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| infer(SHAPES[1], true, true).0)
    };
    let _guard = ISA.lock().unwrap_or_else(|e| e.into_inner());
    let one = run(1);
    same_bits(&one, &run(2), "2 threads");
    same_bits(&one, &run(3), "3 threads");
}

/// A random graph of elementwise primitives, sums and copies over a matrix, its rows, its columns and a scalar, and the values
/// read from it.
fn expressions(g: &Graph, choices: &[u32], width: usize) -> Vec<Tensor> {
    let dims = [T, width.into()];
    let (matrix, other) = (g.f32_input("matrix", &dims), g.f32_input("other", &dims));
    let column = g.f32_input("column", &[T]).expand(1, width);
    let row = g.param(0, "row", &[width]).expand(0, T);
    let scalar = g.f32_input("scalar", &[]).expand(0, T).expand(1, width);
    let mut values = vec![matrix, other, column, row, scalar];
    let mut sums: Vec<Tensor> = vec![];
    for choice in choices.chunks_exact(4) {
        // Recent values are likelier, so that chains grow long.
        let pick = |c: u32| {
            let n = values.len();
            values[n - 1 - (c % 256 * (c / 256 % 256)) as usize * n / 65536].clone()
        };
        let (a, b) = (pick(choice[1]), pick(choice[2]));
        let plain = a.contiguous();
        let value = match choice[0] % 14 {
            0..3 => a + b,
            3..5 => a * b,
            5 => a.less_than(&b),
            6 => a.rem(&b),
            7 => plain.recip(),
            8 => plain.sqrt(),
            9 => plain.exp2(),
            10 => plain.log2(),
            11 => plain.sin(),
            12 => a * (choice[3] % 7) as f32 - 0.0,
            _ => {
                let sum = plain.sum(1);
                sums.push(&sum * 0.5);
                sum.expand(1, width) + b
            }
        };
        values.push(value);
    }
    let last = values.last().expect("values").contiguous();
    let some = values[5..].iter().step_by(5).filter(|v| v.is_contiguous()).cloned();
    some.chain(sums).chain([last.sum(1).sum(0), last]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_expression_has_the_same_bits(
        choices in prop::collection::vec(any::<u32>(), 4..120), t in 0usize..300, width in 1usize..9, seed in 1usize..1000,
    ) {
        on_each_isa(|| {
            let g = Graph::new();
            let outputs = expressions(&g, &choices, width);
            let outputs: Vec<&Tensor> = outputs.iter().collect();
            let params = vec![numbers(seed, width)];
            let data = [t * width, t * width, t, 1].map(|n| numbers(seed + n, n));
            let run = |fuse| {
                let mut plan = compile(&g, &outputs, Options { tokens: 300, rows: 0, bf16: false }, fuse);
                let mut b = Bindings::new(t, 0).params(&params);
                for (name, data) in ["matrix", "other", "column", "scalar"].iter().zip(&data) {
                    b = b.f32(plan.f32_input(name).unwrap(), data);
                }
                // Twice: nothing may be left from the first time.
                plan.run(&mut b).unwrap();
                plan.run(&mut b).unwrap();
                // One NaN is as good as another.
                let bits = |x: &f32| if x.is_nan() { u32::MAX } else { x.to_bits() };
                let values = (0..outputs.len()).map(|i| plan.output(i).iter().map(bits).collect());
                (values.collect::<Vec<Vec<u32>>>(), plan.steps().len(), plan.to_text())
            };
            let ((fused, few, text), (single, many, _)) = (run(true), run(false));
            assert!(few <= many);
            for (i, (f, s)) in fused.iter().zip(&single).enumerate() {
                assert!(f == s, "output {i} ({:?}):\n{text}", Isa::current());
            }
        });
    }
}

#[test]
fn the_scalars_of_an_optimizer_are_a_few_steps() {
    let g = Graph::new();
    let [lr, norm] = ["lr", "norm"].map(|n| g.f32_input(n, &[]));
    let scale = (1.0 / &(norm.sqrt() + 1e-6)).min(&g.constant(1.0)) * &lr;
    let plan = compile(&g, &[&scale], Options::default(), true);
    assert_eq!(plan.steps().len(), 1, "{}", plan.to_text());
    assert!(plan.to_text().contains("recip((sqrt("), "{}", plan.to_text());
}
