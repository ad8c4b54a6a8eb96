use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::error::Result;

fn base() -> Value {
    json!({
        "model_type": "llama", "vocab_size": 256, "hidden_size": 64, "intermediate_size": 32,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "eos_token_id": [1, 2],
    })
}

fn parse(json: &Value) -> Result<ModelConfig> {
    ModelConfig::from_json(json, Path::new("config.json"))
}

fn with(key: &str, value: Value) -> Value {
    let mut json = base();
    json[key] = value;
    json
}

#[test]
fn survives_its_own_json() {
    let llama3 = json!({"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192});
    for kind in ["llama", "qwen2", "qwen3"] {
        let mut json = with("rope_scaling", llama3.clone());
        json["model_type"] = json!(kind);
        let config = parse(&json).unwrap();
        assert_eq!(config.head_dim, 16);
        assert_eq!(config.eos_token_id, [1, 2]);
        assert_eq!(parse(&config.to_json()).unwrap(), config);
    }
}

#[test]
fn reads_rope_parameters_of_transformers_5() {
    let mut json = with("rope_parameters", json!({"rope_type": "default", "rope_theta": 5e5}));
    json.as_object_mut().unwrap().remove("rope_theta");
    let config = parse(&json).unwrap();
    assert_eq!((config.rope_theta, config.rope_scaling), (5e5, None));
}

#[test]
fn refuses_by_name_what_it_does_not_compute() {
    for (key, value, named) in [
        ("model_type", json!("mamba"), "mamba"),
        ("rope_scaling", json!({"rope_type": "yarn", "factor": 4.0}), "yarn"),
        ("rope_scaling", json!({"type": "linear", "factor": 4.0}), "linear"),
        ("use_sliding_window", json!(true), "use_sliding_window"),
        ("sliding_window", json!(4096), "sliding_window"),
        ("layer_types", json!(["full_attention", "sliding_attention"]), "sliding_attention"),
        ("mlp_bias", json!(true), "mlp_bias"),
        ("hidden_act", json!("gelu"), "gelu"),
        ("quantization_config", json!({}), "quantization_config"),
        ("partial_rotary_factor", json!(0.5), "partial_rotary_factor"),
        ("hidden_size", json!(-1), "hidden_size"),
        ("hidden_size", json!("wide"), "hidden_size"),
        ("vocab_size", Value::Null, "vocab_size"),
        ("num_hidden_layers", json!(1_000_000), "num_hidden_layers"),
        ("num_key_value_heads", json!(3), "num_key_value_heads"),
        ("head_dim", json!(15), "head_dim"),
        ("rms_norm_eps", json!(0.0), "rms_norm_eps"),
        ("eos_token_id", json!("x"), "eos_token_id"),
    ] {
        let message = parse(&with(key, value)).unwrap_err().to_string();
        assert!(message.starts_with("config.json: ") && message.contains(named), "{message}");
        assert_eq!(message.lines().count(), 1);
    }
}

#[test]
fn specs_follow_the_architecture() {
    let names = |kind: &str, tied: bool, bias: bool| -> Vec<String> {
        let mut json = with("model_type", json!(kind));
        json["tie_word_embeddings"] = json!(tied);
        json["attention_bias"] = json!(bias);
        parse(&json).unwrap().param_specs().into_iter().map(|s| s.name).collect()
    };
    assert_eq!(names("llama", true, false).len(), 1 + 2 * 9 + 1);
    assert_eq!(names("llama", false, false).last().unwrap(), "lm_head.weight");
    assert_eq!(names("qwen2", true, false).len(), 1 + 2 * 12 + 1);
    assert_eq!(names("qwen3", true, false).len(), 1 + 2 * 11 + 1);
    assert_eq!(names("llama", true, true).len(), 1 + 2 * 13 + 1);
    assert!(names("qwen2", true, true).iter().all(|n| n != "model.layers.0.self_attn.o_proj.bias"));
}

/// Llama 3.2 1B's frequencies: kept at the fast end, divided by 32 at the slow end, between them in the middle.
#[test]
fn llama3_rope_scales_only_slow_frequencies() {
    let mut json = with(
        "rope_scaling",
        json!({"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}),
    );
    json["rope_theta"] = json!(500000.0);
    json["head_dim"] = json!(64);
    let scaled = parse(&json).unwrap();
    let plain = ModelConfig { rope_scaling: None, ..scaled.clone() };
    let ratio: Vec<f32> = plain.inv_freq().iter().zip(scaled.inv_freq()).map(|(a, b)| a / b).collect();
    assert_eq!(ratio.len(), 32);
    assert!(ratio[..15].iter().all(|r| *r == 1.0), "{ratio:?}");
    assert!(ratio[18..].iter().all(|r| (r - 32.0).abs() < 1e-3), "{ratio:?}");
    // What transformers 5 computes for them around the interpolated stretch, and at the end.
    let theirs = [
        (14, 3.211_446e-3),
        (15, 1.290_548e-3),
        (16, 4.295_567e-4),
        (17, 9.708_286e-5),
        (18, 1.946_164e-5),
        (31, 9.418_306e-8),
    ];
    for (i, expected) in theirs {
        let found = scaled.inv_freq()[i];
        assert!((found / expected - 1.0).abs() < 1e-6, "frequency {i}: {found}, not {expected}");
    }
}
