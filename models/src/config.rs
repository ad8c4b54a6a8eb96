//! `config.json` of a Hugging Face model directory: [`ModelConfig`] mirrors the fields a Llama, Qwen2 or Qwen3
//! decoder needs, under their own names.
//!
//! Deliberately absent: sliding-window attention, `mlp_bias`, quantised checkpoints and rope variants other than
//! plain and Llama 3. Each is refused with its name rather than computed wrongly.

mod read;
#[cfg(test)]
mod tests;

use serde_json::{Value, json};

/// The decoder families that differ in what their attention projections carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// No biases unless `attention_bias`, which then is on q, k, v and o.
    Llama,
    /// Biases on q, k and v.
    Qwen2,
    /// RMS norm of every head of q and k before rope; biases as in Llama.
    Qwen3,
}

impl Architecture {
    /// `model_type` in `config.json`, and `general.architecture` in a GGUF.
    pub fn model_type(self) -> &'static str {
        match self {
            Architecture::Llama => "llama",
            Architecture::Qwen2 => "qwen2",
            Architecture::Qwen3 => "qwen3",
        }
    }

    /// The class name in `architectures`.
    fn class(self) -> &'static str {
        match self {
            Architecture::Llama => "LlamaForCausalLM",
            Architecture::Qwen2 => "Qwen2ForCausalLM",
            Architecture::Qwen3 => "Qwen3ForCausalLM",
        }
    }

    /// The architecture of that `model_type`.
    pub fn from_model_type(name: &str) -> Option<Architecture> {
        [Architecture::Llama, Architecture::Qwen2, Architecture::Qwen3]
            .into_iter()
            .find(|a| a.model_type() == name)
    }
}

/// `rope_type: "llama3"`: low frequencies are divided by `factor`, high ones kept, those between interpolated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Llama3Rope {
    /// How much longer the context became.
    pub factor: f64,
    /// Wavelengths longer than `original_max_position_embeddings / low_freq_factor` are divided by `factor`.
    pub low_freq_factor: f64,
    /// Wavelengths shorter than `original_max_position_embeddings / high_freq_factor` are kept.
    pub high_freq_factor: f64,
    /// The context length, in tokens, before it was extended.
    pub original_max_position_embeddings: usize,
}

/// One parameter of a model: its Hugging Face name and its shape as stored, matrices as `[out, in]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamSpec {
    pub name: String,
    pub shape: Vec<usize>,
}

impl ParamSpec {
    /// A parameter of that name and shape.
    pub fn new(name: impl Into<String>, shape: &[usize]) -> ParamSpec {
        ParamSpec { name: name.into(), shape: shape.to_vec() }
    }

    /// The number of its elements.
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }
}

/// A decoder's `config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    pub architecture: Architecture,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    /// Defaults to `hidden_size / num_attention_heads`.
    pub head_dim: usize,
    pub rms_norm_eps: f64,
    pub rope_theta: f64,
    /// `None` for plain rope.
    pub rope_scaling: Option<Llama3Rope>,
    /// The longest context, in tokens.
    pub max_position_embeddings: usize,
    /// The LM head is the embedding.
    pub tie_word_embeddings: bool,
    /// Biases on q, k, v and o (Llama, Qwen3). Qwen2 has them on q, k and v whatever this says.
    pub attention_bias: bool,
    pub bos_token_id: Option<u32>,
    /// Every id that ends a turn.
    pub eos_token_id: Vec<u32>,
    pub pad_token_id: Option<u32>,
    /// `float32`, `bfloat16` or `float16`: what the checkpoint stores.
    pub torch_dtype: String,
}

impl ModelConfig {
    /// The configuration as a `config.json` that `transformers` loads.
    pub fn to_json(&self) -> Value {
        let rope_scaling = self.rope_scaling.map_or(Value::Null, |r| {
            json!({
                "rope_type": "llama3",
                "factor": r.factor,
                "low_freq_factor": r.low_freq_factor,
                "high_freq_factor": r.high_freq_factor,
                "original_max_position_embeddings": r.original_max_position_embeddings,
            })
        });
        let eos = match self.eos_token_id.as_slice() {
            [] => Value::Null,
            [one] => json!(one),
            several => json!(several),
        };
        let mut out = json!({
            "architectures": [self.architecture.class()],
            "model_type": self.architecture.model_type(),
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "max_position_embeddings": self.max_position_embeddings,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_theta": self.rope_theta,
            "rope_scaling": rope_scaling,
            "tie_word_embeddings": self.tie_word_embeddings,
            "attention_dropout": 0.0,
            "initializer_range": 0.02,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": eos,
            "pad_token_id": self.pad_token_id,
            "torch_dtype": self.torch_dtype,
            "use_cache": true,
        });
        match self.architecture {
            Architecture::Llama => {
                out["attention_bias"] = json!(self.attention_bias);
                out["mlp_bias"] = json!(false);
            }
            Architecture::Qwen2 => out["use_sliding_window"] = json!(false),
            Architecture::Qwen3 => {
                out["attention_bias"] = json!(self.attention_bias);
                out["use_sliding_window"] = json!(false);
            }
        }
        out
    }

    /// Every parameter in the order all of this crate uses: embedding, layers, final norm, LM head if untied.
    pub fn param_specs(&self) -> Vec<ParamSpec> {
        let (hidden, ffn) = (self.hidden_size, self.intermediate_size);
        let (q, kv) = (self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim);
        let qkv_bias = self.attention_bias || self.architecture == Architecture::Qwen2;
        let mut specs = vec![ParamSpec::new("model.embed_tokens.weight", &[self.vocab_size, hidden])];
        for layer in 0..self.num_hidden_layers {
            let mut add = |name: &str, shape: &[usize]| {
                specs.push(ParamSpec::new(format!("model.layers.{layer}.{name}"), shape))
            };
            add("input_layernorm.weight", &[hidden]);
            for (proj, out) in [("q", q), ("k", kv), ("v", kv)] {
                add(&format!("self_attn.{proj}_proj.weight"), &[out, hidden]);
                if qkv_bias {
                    add(&format!("self_attn.{proj}_proj.bias"), &[out]);
                }
            }
            if self.architecture == Architecture::Qwen3 {
                add("self_attn.q_norm.weight", &[self.head_dim]);
                add("self_attn.k_norm.weight", &[self.head_dim]);
            }
            add("self_attn.o_proj.weight", &[hidden, q]);
            if self.attention_bias {
                add("self_attn.o_proj.bias", &[hidden]);
            }
            add("post_attention_layernorm.weight", &[hidden]);
            add("mlp.gate_proj.weight", &[ffn, hidden]);
            add("mlp.up_proj.weight", &[ffn, hidden]);
            add("mlp.down_proj.weight", &[hidden, ffn]);
        }
        specs.push(ParamSpec::new("model.norm.weight", &[hidden]));
        if !self.tie_word_embeddings {
            specs.push(ParamSpec::new("lm_head.weight", &[self.vocab_size, hidden]));
        }
        specs
    }

    /// Rope's inverse frequencies, `[head_dim / 2]`, in radians a position, with Llama 3 scaling applied.
    ///
    /// Computed in f32 in the order `transformers` computes them, so that the two agree to the last bit or nearly.
    pub fn inv_freq(&self) -> Vec<f32> {
        let dim = self.head_dim as f32;
        let plain = (0..self.head_dim / 2).map(|i| 1.0 / (self.rope_theta as f32).powf(2.0 * i as f32 / dim));
        match self.rope_scaling {
            None => plain.collect(),
            Some(scaling) => plain.map(|f| scaling.apply(f)).collect(),
        }
    }
}

impl Llama3Rope {
    /// One inverse frequency, scaled.
    pub fn apply(&self, inv_freq: f32) -> f32 {
        let old = self.original_max_position_embeddings as f32;
        let (factor, low, high) =
            (self.factor as f32, self.low_freq_factor as f32, self.high_freq_factor as f32);
        let wavelength = 2.0 * std::f32::consts::PI / inv_freq;
        if wavelength < old / high {
            inv_freq
        } else if wavelength > old / low {
            inv_freq / factor
        } else {
            let smooth = (old / wavelength - low) / (high - low);
            (1.0 - smooth) * inv_freq / factor + smooth * inv_freq
        }
    }
}
