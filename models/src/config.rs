//! `config.json` of a Hugging Face model directory: [`ModelConfig`] mirrors the fields a Llama, Qwen2 or Qwen3
//! decoder needs, under their own names.
//!
//! Deliberately absent: sliding-window attention, `mlp_bias`, quantised checkpoints and rope variants other than
//! plain and Llama 3. Each is refused with its name rather than computed wrongly.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::files;

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

/// No dimension of a model that fits a machine exceeds this; products of a few of them fit `usize`.
const MAX_DIM: u64 = 1 << 24;
const MAX_LAYERS: usize = 4096;

/// Reads fields of a JSON object, naming the file and the field in its errors.
struct Fields<'a> {
    path: &'a Path,
    map: &'a Map<String, Value>,
}

impl Fields<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    fn wrong(&self, key: &str, expected: &str) -> Error {
        let got = self.map.get(key).map_or("nothing".to_string(), Value::to_string);
        Error::file(self.path, format!("{key}: expected {expected}, got {got}"))
    }

    fn dim_or(&self, key: &str, default: Option<usize>) -> Result<usize> {
        match (self.get(key), default) {
            (None, Some(default)) => Ok(default),
            (value, _) => value
                .and_then(Value::as_u64)
                .filter(|n| (1..=MAX_DIM).contains(n))
                .map(|n| n as usize)
                .ok_or_else(|| self.wrong(key, "a whole number from 1 to 2^24")),
        }
    }

    fn dim(&self, key: &str) -> Result<usize> {
        self.dim_or(key, None)
    }

    fn positive_or(&self, key: &str, default: Option<f64>) -> Result<f64> {
        match (self.get(key), default) {
            (None, Some(default)) => Ok(default),
            (value, _) => value
                .and_then(Value::as_f64)
                .filter(|x| x.is_finite() && *x > 0.0)
                .ok_or_else(|| self.wrong(key, "a positive number")),
        }
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => value.as_bool().ok_or_else(|| self.wrong(key, "true or false")),
        }
    }

    fn id(&self, key: &str) -> Result<Option<u32>> {
        Ok(self.ids(key)?.first().copied())
    }

    /// An id or a list of ids.
    fn ids(&self, key: &str) -> Result<Vec<u32>> {
        let one = |v: &Value| {
            v.as_u64()
                .and_then(|id| u32::try_from(id).ok())
                .ok_or_else(|| self.wrong(key, "a token id or a list of them"))
        };
        match self.get(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => list.iter().map(one).collect(),
            Some(value) => Ok(vec![one(value)?]),
        }
    }
}

impl ModelConfig {
    /// Reads `config.json` (or a directory that holds it).
    ///
    /// # Errors
    /// A missing or malformed file or field, an unsupported architecture or feature.
    pub fn read(path: &Path) -> Result<ModelConfig> {
        let path = if path.is_dir() { path.join("config.json") } else { path.to_owned() };
        ModelConfig::from_json(&files::read_json(&path)?, &path)
    }

    /// The configuration in a parsed `config.json`; `path` names it in errors.
    pub fn from_json(json: &Value, path: &Path) -> Result<ModelConfig> {
        let map = json.as_object().ok_or_else(|| Error::file(path, "expected a JSON object"))?;
        let f = Fields { path, map };
        let architecture = architecture(&f)?;
        refuse_unsupported(&f, architecture)?;
        let hidden_size = f.dim("hidden_size")?;
        let num_attention_heads = f.dim("num_attention_heads")?;
        let (rope_theta, rope_scaling) = rope(&f)?;
        let config = ModelConfig {
            architecture,
            vocab_size: f.dim("vocab_size")?,
            hidden_size,
            intermediate_size: f.dim("intermediate_size")?,
            num_hidden_layers: f.dim("num_hidden_layers")?,
            num_attention_heads,
            num_key_value_heads: f.dim_or("num_key_value_heads", Some(num_attention_heads))?,
            head_dim: f.dim_or("head_dim", Some((hidden_size / num_attention_heads).max(1)))?,
            rms_norm_eps: f.positive_or("rms_norm_eps", Some(1e-6))?,
            rope_theta,
            rope_scaling,
            max_position_embeddings: f.dim_or("max_position_embeddings", Some(2048))?,
            tie_word_embeddings: f.flag("tie_word_embeddings", false)?,
            attention_bias: f.flag("attention_bias", false)? && architecture != Architecture::Qwen2,
            bos_token_id: f.id("bos_token_id")?,
            eos_token_id: f.ids("eos_token_id")?,
            pad_token_id: f.id("pad_token_id")?,
            torch_dtype: f
                .get("dtype")
                .or(f.get("torch_dtype"))
                .and_then(Value::as_str)
                .unwrap_or("float32")
                .to_string(),
        };
        config.validate(path)?;
        Ok(config)
    }

    /// Checks what the fields must satisfy together; `path` names the file in errors.
    pub(crate) fn validate(&self, path: &Path) -> Result<()> {
        let fail = |message: String| Err(Error::file(path, message));
        if !(1..=MAX_DIM).contains(&(self.vocab_size as u64)) {
            return fail(format!("vocab_size {} is not from 1 to 2^24", self.vocab_size));
        }
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            return fail(format!(
                "num_attention_heads {} is not a multiple of num_key_value_heads {}",
                self.num_attention_heads, self.num_key_value_heads
            ));
        }
        if !self.head_dim.is_multiple_of(2) {
            return fail(format!("head_dim {} is odd; rope needs pairs", self.head_dim));
        }
        if self.num_hidden_layers > MAX_LAYERS {
            return fail(format!("num_hidden_layers {} exceeds {MAX_LAYERS}", self.num_hidden_layers));
        }
        let widest = self.num_attention_heads.checked_mul(self.head_dim);
        if widest.is_none_or(|n| n as u64 > MAX_DIM) {
            return fail("num_attention_heads × head_dim exceeds 2^24".to_string());
        }
        Ok(())
    }

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

fn architecture(f: &Fields) -> Result<Architecture> {
    let name = f
        .get("model_type")
        .and_then(Value::as_str)
        .ok_or_else(|| f.wrong("model_type", "an architecture's name"))?;
    Architecture::from_model_type(name).ok_or_else(|| {
        Error::unsupported(
            f.path,
            format!("model_type {name:?} is not supported; llama, qwen2 and qwen3 are"),
        )
    })
}

fn refuse_unsupported(f: &Fields, architecture: Architecture) -> Result<()> {
    let refuse = |what: String| Err(Error::unsupported(f.path, what));
    if f.flag("use_sliding_window", false)? {
        return refuse("use_sliding_window: sliding-window attention is not supported".into());
    }
    if architecture == Architecture::Llama && f.get("sliding_window").is_some() {
        return refuse("sliding_window: sliding-window attention is not supported".into());
    }
    if let Some(kinds) = f.get("layer_types").and_then(Value::as_array)
        && let Some(kind) = kinds.iter().find(|k| k.as_str() != Some("full_attention"))
    {
        return refuse(format!("layer_types: {kind} is not supported; full_attention is"));
    }
    if f.flag("mlp_bias", false)? {
        return refuse("mlp_bias: biases in the MLP are not supported".into());
    }
    if f.get("quantization_config").is_some() {
        return refuse("quantization_config: quantised checkpoints are not supported; use the unquantised one or a .gguf".into());
    }
    match f.get("hidden_act") {
        Some(act) if act != "silu" => {
            return refuse(format!("hidden_act {act} is not supported; \"silu\" is"));
        }
        _ => {}
    }
    match f.get("partial_rotary_factor").and_then(Value::as_f64) {
        Some(part) if part != 1.0 => refuse(format!("partial_rotary_factor {part} is not supported; 1 is")),
        _ => Ok(()),
    }
}

/// `rope_theta` and `rope_scaling`, or both within `rope_parameters` as transformers 5 writes them.
fn rope(f: &Fields) -> Result<(f64, Option<Llama3Rope>)> {
    let section = ["rope_parameters", "rope_scaling"].into_iter().find_map(|key| Some((key, f.get(key)?)));
    let Some((key, value)) = section else {
        return Ok((f.positive_or("rope_theta", Some(10_000.0))?, None));
    };
    let map = value.as_object().ok_or_else(|| f.wrong(key, "an object"))?;
    let inner = Fields { path: f.path, map };
    let theta = match inner.get("rope_theta") {
        Some(_) => inner.positive_or("rope_theta", None)?,
        None => f.positive_or("rope_theta", Some(10_000.0))?,
    };
    let kind = inner.get("rope_type").or(inner.get("type")).and_then(Value::as_str).unwrap_or("default");
    match kind {
        "default" => Ok((theta, None)),
        "llama3" => {
            let scaling = Llama3Rope {
                factor: inner.positive_or("factor", None)?,
                low_freq_factor: inner.positive_or("low_freq_factor", None)?,
                high_freq_factor: inner.positive_or("high_freq_factor", None)?,
                original_max_position_embeddings: inner.dim("original_max_position_embeddings")?,
            };
            if scaling.high_freq_factor <= scaling.low_freq_factor {
                return Err(Error::file(
                    f.path,
                    format!("{key}: high_freq_factor must exceed low_freq_factor"),
                ));
            }
            Ok((theta, Some(scaling)))
        }
        other => Err(Error::unsupported(
            f.path,
            format!("{key}: rope type {other:?} is not supported; \"default\" and \"llama3\" are"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
