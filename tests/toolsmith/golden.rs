//! The program's numbers against references made with PyTorch and transformers.

use toolsmith::check::{Report, model, rl};

use crate::support::fixture;

/// The rows above `tolerance`, for a readable failure.
fn above(report: &Report, tolerance: f64) -> Vec<String> {
    let rows = report.rows.iter().filter(|r| r.error > tolerance);
    rows.map(|r| format!("{} {:.1e}", r.quantity, r.error)).collect()
}

fn names(report: &Report) -> Vec<&str> {
    report.rows.iter().map(|r| r.quantity.as_str()).collect()
}

fn tiny(name: &str) {
    let report = model::check(&fixture("tiny").join(name)).unwrap();
    for quantity in ["logits", "token_logprobs", "loss", "grad_norm", "loss_after_step"] {
        assert!(names(&report).contains(&quantity), "{quantity} was compared");
    }
    let gradients = names(&report).iter().filter(|n| n.starts_with("grad.")).count();
    assert!(gradients >= 20, "{gradients} gradients were compared");
    assert_eq!(names(&report).contains(&"logits_bidirectional"), name.ends_with("untied"));
    assert_eq!(above(&report, 1e-4), Vec::<String>::new(), "{name}");
}

#[test]
fn llama_tied() {
    tiny("tiny-llama-tied");
}

#[test]
fn llama_untied() {
    tiny("tiny-llama-untied");
}

#[test]
fn qwen2_tied() {
    tiny("tiny-qwen2-tied");
}

#[test]
fn qwen2_untied() {
    tiny("tiny-qwen2-untied");
}

#[test]
fn qwen3_tied() {
    tiny("tiny-qwen3-tied");
}

#[test]
fn qwen3_untied() {
    tiny("tiny-qwen3-untied");
}

#[test]
fn ppo_with_tool_spans() {
    let report = rl::check(&fixture("rl/ppo_interior.json")).unwrap();
    assert_eq!(report.rows.iter().find(|r| r.quantity == "whitened").unwrap().count, 6 * 5 * 14);
    for quantity in ["advantages", "returns", "value_loss", "grad_values", "clipfrac", "approx_kl_k1"] {
        assert!(names(&report).contains(&quantity), "{quantity} was compared");
    }
    let policy = names(&report).iter().filter(|n| n.starts_with("policy.")).count();
    assert_eq!(policy, 6, "a loss and a gradient for each of three aggregations");
    assert_eq!(above(&report, 1e-6), Vec::<String>::new());
}
