//! Reading `config.json`: every field checked, what is not computed refused by its name.

use std::path::Path;

use serde_json::{Map, Value};

use super::{Architecture, Llama3Rope, ModelConfig};
use crate::error::{Error, Result};
use crate::files;

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
