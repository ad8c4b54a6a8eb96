//! Losses and their gradients against PyTorch in float64 and float32.

use serde_json::Value;
use toolsmith_graphs::{
    DiffOptions, Dim, Graph, Tensor,
    loss::{PolicyConstants, cross_entropy, policy, value},
};

use crate::harness::{Bound, close, close_above, on_kernels};

const INTERIOR: &str = include_str!("../fixtures/ppo_interior.json");

/// Value and gradient for the first input.
fn run(inputs: &[(&'static str, Vec<f32>)], build: impl Fn(&[Tensor]) -> Tensor) -> (f32, Vec<f32>) {
    let g = Graph::new();
    let tensors: Vec<Tensor> = inputs.iter().map(|(n, _)| g.f32_input(n, &[Dim::Tokens])).collect();
    let loss = build(&tensors);
    let grad = g.differentiate(&loss, &[&tensors[0]], DiffOptions::default()).remove(0).expect("a gradient");
    let bound = Bound { tokens: inputs[0].1.len(), f32s: inputs.to_vec(), ..Default::default() };
    let mut out = on_kernels(&g, &[&loss, &grad], &bound).0;
    (out[0][0], out.remove(1))
}

/// `[batch][time]` flattened.
fn flat(v: &Value) -> Vec<f32> {
    match v {
        Value::Array(list) => list.iter().flat_map(flat).collect(),
        number => vec![number.as_f64().expect("a number") as f32],
    }
}

/// Loss weights of an aggregation: the mask over the mini-batch's denominators.
fn weights(mask: &[f32], width: usize, aggregation: &str) -> Vec<f32> {
    let rows: Vec<f32> = mask.chunks(width).map(|r| r.iter().sum()).collect();
    let (n, batch) = (rows.iter().sum::<f32>(), rows.len() as f32);
    let weight = |(i, m): (usize, &f32)| match aggregation {
        "token-mean" => m / n,
        "seq-mean-token-sum" => m / batch,
        "seq-mean-token-mean" => m / (rows[i / width] * batch),
        "constant" => m / (batch * width as f32),
        other => panic!("{other}"),
    };
    mask.iter().enumerate().map(weight).collect()
}

#[test]
fn policy_and_value_losses_match_float64_with_tool_spans_inside() {
    let cases: Vec<Value> = serde_json::from_str(INTERIOR).unwrap();
    assert_eq!(cases.len(), 6);
    for (i, case) in cases.iter().enumerate() {
        let number = |k: &str| case[k].as_f64().unwrap() as f32;
        let (mask, width) = (flat(&case["mask"]), case["mask"][0].as_array().unwrap().len());
        let constants = PolicyConstants {
            clip_low: number("clip_low"),
            clip_high: number("clip_high"),
            dual_clip: case["dual_clip"].as_f64().map(|c| c as f32),
            kl_coef: 0.0,
        };
        for (aggregation, expected) in case["policy"].as_object().unwrap() {
            let inputs = [
                ("logprobs", flat(&case["logprobs"])),
                ("old", flat(&case["old_logprobs"])),
                ("advantages", flat(&case["whitened"])),
                ("weights", weights(&mask, width, aggregation)),
            ];
            let (loss, grad) = run(&inputs, |t| policy(&t[0], &t[1], &t[2], &t[3], None, &constants));
            let what = format!("case {i}, {aggregation}");
            // The loss is a sum that cancels: its error is relative to its terms.
            let terms = inputs[2].1.iter().zip(&inputs[3].1).map(|(a, w)| (a * w).abs()).sum();
            close_above(&[loss], &[expected["loss"].as_f64().unwrap() as f32], 1e-6, terms, &what);
            close(&grad, &flat(&expected["grad_logprobs"]), 1e-6, &what);
        }
        let inputs = [
            ("values", flat(&case["values"])),
            ("old", flat(&case["old_values"])),
            ("returns", flat(&case["returns"])),
            ("weights", weights(&mask, width, "token-mean")),
        ];
        let (loss, grad) = run(&inputs, |t| value(&t[0], &t[1], &t[2], &t[3], Some(number("value_clip"))));
        close(&[loss], &[number("value_loss")], 1e-6, &format!("case {i}, value"));
        close(&grad, &flat(&case["grad_values"]), 1e-6, &format!("case {i}, value"));
    }
}

/// A tensor of a safetensors file, f32.
fn tensor(file: &safetensors::SafeTensors, name: &str) -> Vec<f32> {
    let bytes = file.tensor(name).expect("in the fixture").data();
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

#[test]
fn ppo_losses_match_pytorch() {
    let file = safetensors::SafeTensors::deserialize(include_bytes!("../fixtures/ppo.safetensors")).unwrap();
    let get = |n: &str| tensor(&file, n);
    let w = weights(&get("mask"), 9, "token-mean");
    let constants = PolicyConstants { clip_low: 0.2, clip_high: 0.2, dual_clip: None, kl_coef: 0.0 };
    let inputs = [
        ("logprobs", get("logprobs")),
        ("old", get("old_logprobs")),
        ("advantages", get("whitened_advantages")),
        ("weights", w.clone()),
    ];
    let (loss, grad) = run(&inputs, |t| policy(&t[0], &t[1], &t[2], &t[3], None, &constants));
    close(&[loss], &get("pg_loss"), 2e-6, "policy loss");
    close(&grad, &get("grad_logprobs"), 1e-6, "policy gradient");
    let inputs =
        [("values", get("values")), ("old", get("old_values")), ("returns", get("returns")), ("weights", w)];
    let (loss, grad) = run(&inputs, |t| value(&t[0], &t[1], &t[2], &t[3], Some(0.2)));
    close(&[loss], &get("vf_loss"), 1e-6, "value loss");
    let scaled: Vec<f32> = grad.iter().map(|g| 0.1 * g).collect();
    close(&scaled, &get("grad_values"), 1e-6, "value gradient");
}

#[test]
fn grpo_losses_match_pytorch() {
    let file = safetensors::SafeTensors::deserialize(include_bytes!("../fixtures/grpo.safetensors")).unwrap();
    let get = |n: &str| tensor(&file, n);
    let constants = PolicyConstants { clip_low: 0.2, clip_high: 0.28, dual_clip: None, kl_coef: 0.04 };
    let advantages: Vec<f32> = get("advantages").iter().flat_map(|&a| [a; 6]).collect();
    for (name, aggregation) in
        [("grpo", "seq-mean-token-mean"), ("dapo", "token-mean"), ("dr_grpo", "constant")]
    {
        let inputs = [
            ("logprobs", get("logprobs")),
            ("old", get("old_logprobs")),
            ("advantages", advantages.clone()),
            ("weights", weights(&get("mask"), 6, aggregation)),
            ("reference", get("ref_logprobs")),
        ];
        let (loss, grad) = run(&inputs, |t| policy(&t[0], &t[1], &t[2], &t[3], Some(&t[4]), &constants));
        close(&[loss], &get(&format!("loss_{name}")), 2e-6, name);
        close(&grad, &get(&format!("grad_{name}")), 2e-6, name);
    }
}

#[test]
fn at_ratio_one_the_gradient_is_the_policy_gradient() {
    let inputs = [
        ("logprobs", vec![-1.0, -2.0]),
        ("old", vec![-1.0, -2.0]),
        ("advantages", vec![0.5, -0.25]),
        ("weights", vec![1.0, 2.0]),
    ];
    let constants = PolicyConstants { clip_low: 0.2, clip_high: 0.2, dual_clip: Some(3.0), kl_coef: 0.0 };
    let (loss, grad) = run(&inputs, |t| policy(&t[0], &t[1], &t[2], &t[3], None, &constants));
    close(&grad, &[-0.5, 0.5], 1e-6, "−w·A");
    assert_eq!(loss, 0.0);
}

#[test]
fn a_far_off_policy_stays_finite() {
    let inputs = [
        ("logprobs", vec![-1.0, -900.0]),
        ("old", vec![-900.0, -1.0]),
        ("advantages", vec![-1.0, 1.0]),
        ("weights", vec![1.0, 1.0]),
        ("reference", vec![-900.0, -1.0]),
    ];
    let constants = PolicyConstants { clip_low: 0.2, clip_high: 0.2, dual_clip: None, kl_coef: 0.1 };
    let (loss, grad) = run(&inputs, |t| policy(&t[0], &t[1], &t[2], &t[3], Some(&t[4]), &constants));
    assert!(loss.is_finite() && grad.iter().all(|g| g.is_finite()), "{loss} {grad:?}");
}

#[test]
fn cross_entropy_is_a_weighted_sum() {
    let inputs = [("logprobs", vec![-1.0, -2.0, -4.0]), ("weights", vec![0.5, 0.0, 0.25])];
    let (loss, grad) = run(&inputs, |t| cross_entropy(&t[0], &t[1]));
    assert_eq!((loss, grad), (1.5, vec![-0.5, 0.0, -0.25]));
}
