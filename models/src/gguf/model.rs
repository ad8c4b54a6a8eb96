//! A llama, qwen2 or qwen3 GGUF as a Hugging Face model: its configuration, and its tensors under their Hugging Face
//! names with the rows in Hugging Face order.

use half::bf16;

use super::Gguf;
use crate::config::{Architecture, Llama3Rope, ModelConfig, ParamSpec};
use crate::error::{Error, Result};

/// What the file's metadata and tensor table say as a `config.json`.
///
/// # Errors
/// An architecture, a rope variant or a field that this program does not know how to compute with.
pub fn config(file: &Gguf) -> Result<ModelConfig> {
    let refuse = |message: String| Error::unsupported(file.path(), message);
    let name = file
        .string("general.architecture")
        .ok_or_else(|| Error::file(file.path(), "general.architecture: expected an architecture's name"))?;
    let architecture = Architecture::from_model_type(name).ok_or_else(|| {
        refuse(format!("architecture {name:?} is not supported; llama, qwen2 and qwen3 are"))
    })?;
    let f = Fields { file, architecture };
    if f.file.unsigned(&f.key("expert_count")).unwrap_or(0) > 0 {
        return Err(refuse("mixtures of experts are not supported".into()));
    }
    let scaling = file.string(&f.key("rope.scaling.type")).unwrap_or("none");
    let factor = file.number(&f.key("rope.scaling.factor")).unwrap_or(1.0);
    if !(scaling == "none" || scaling == "linear" && factor == 1.0) {
        return Err(refuse(format!("{}: {scaling:?} is not supported", f.key("rope.scaling.type"))));
    }
    let hidden_size = f.dim("embedding_length")?;
    let heads = f.dim("attention.head_count")?;
    let head_dim = f.dim_or("attention.key_length", (hidden_size / heads).max(1))?;
    if f.dim_or("rope.dimension_count", head_dim)? != head_dim {
        return Err(refuse(format!("{}: partial rope is not supported", f.key("rope.dimension_count"))));
    }
    let embedding = file
        .shape("token_embd.weight")
        .ok_or_else(|| Error::tensor(file.path(), "token_embd.weight", "is missing"))?;
    let token = |role: &str| {
        file.unsigned(&format!("tokenizer.ggml.{role}_token_id")).and_then(|id| u32::try_from(id).ok())
    };
    let mut eos_token_id: Vec<u32> = ["eos", "eot"].into_iter().filter_map(token).collect();
    eos_token_id.dedup();
    let rope_theta = f.positive("rope.freq_base", Some(10_000.0))?;
    let config = ModelConfig {
        architecture,
        vocab_size: embedding.first().copied().unwrap_or(0),
        hidden_size,
        intermediate_size: f.dim("feed_forward_length")?,
        num_hidden_layers: f.dim("block_count")?,
        num_attention_heads: heads,
        num_key_value_heads: f.dim_or("attention.head_count_kv", heads)?,
        head_dim,
        rms_norm_eps: f.positive("attention.layer_norm_rms_epsilon", None)?,
        rope_theta,
        rope_scaling: rope_scaling(file, rope_theta, head_dim)?,
        max_position_embeddings: f.dim_or("context_length", 2048)?,
        tie_word_embeddings: tied(file)?,
        attention_bias: architecture != Architecture::Qwen2 && file.shape("blk.0.attn_q.bias").is_some(),
        bos_token_id: token("bos"),
        eos_token_id,
        pad_token_id: token("padding"),
        torch_dtype: "bfloat16".to_string(),
    };
    config.validate(file.path())?;
    Ok(config)
}

/// The elements of one Hugging Face parameter, dequantised and rounded to bf16.
///
/// llama.cpp turns neighbouring elements of a head where Hugging Face turns the two halves of it, and so stores the
/// rows of Llama's q and k, and their biases, interleaved; they are put back. Qwen's are stored as they were.
pub fn tensor(file: &Gguf, config: &ModelConfig, spec: &ParamSpec) -> Result<Vec<bf16>> {
    let mut name = gguf_name(&spec.name)
        .ok_or_else(|| Error::tensor(file.path(), &spec.name, "has no counterpart in a GGUF"))?;
    // Of two quantisations of one matrix the head's is the finer.
    if config.tie_word_embeddings && name == "token_embd.weight" && file.shape("output.weight").is_some() {
        name = "output.weight".to_string();
    }
    let Some(shape) = file.shape(&name) else {
        return Err(Error::tensor(file.path(), &name, "is missing"));
    };
    if shape != spec.shape {
        let message = format!("has shape {shape:?} but the metadata ask for {:?}", spec.shape);
        return Err(Error::tensor(file.path(), &name, message));
    }
    let values = file.floats(&name)?;
    let row = values.len() / spec.shape[0];
    let interleaved = config.architecture == Architecture::Llama
        && (spec.name.contains(".q_proj.") || spec.name.contains(".k_proj."));
    let half = config.head_dim / 2;
    let source = |r: usize| match interleaved {
        true => {
            let (head, within) = (r / config.head_dim, r % config.head_dim);
            head * config.head_dim + within % half * 2 + within / half
        }
        false => r,
    };
    let mut out = Vec::with_capacity(values.len());
    for r in 0..spec.shape[0] {
        let from = source(r) * row;
        out.extend(values[from..from + row].iter().map(|x| bf16::from_f32(*x)));
    }
    Ok(out)
}

/// The name in a GGUF of a Hugging Face parameter.
fn gguf_name(name: &str) -> Option<String> {
    match name {
        "model.embed_tokens.weight" => return Some("token_embd.weight".into()),
        "model.norm.weight" => return Some("output_norm.weight".into()),
        "lm_head.weight" => return Some("output.weight".into()),
        _ => {}
    }
    let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let (module, suffix) = rest.rsplit_once('.')?;
    let kind = match module {
        "input_layernorm" => "attn_norm",
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.q_norm" => "attn_q_norm",
        "self_attn.k_norm" => "attn_k_norm",
        "self_attn.o_proj" => "attn_output",
        "post_attention_layernorm" => "ffn_norm",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        _ => return None,
    };
    Some(format!("blk.{layer}.{kind}.{suffix}"))
}

/// Whether the LM head is the embedding: it has no tensor of its own, or one that is the same matrix quantised
/// otherwise (some files of tied models hold both).
fn tied(file: &Gguf) -> Result<bool> {
    let (Some(head), Some(embedding)) = (file.shape("output.weight"), file.shape("token_embd.weight")) else {
        return Ok(true);
    };
    if head != embedding || head.len() != 2 {
        return Ok(false);
    }
    let (a, b) = (RowSample::new(file, "output.weight")?, RowSample::new(file, "token_embd.weight")?);
    // Quantisation to four bits leaves a cosine of about 0.995; unrelated rows have about 0.
    let (mut dot, mut aa, mut bb) = (0f64, 0f64, 0f64);
    for i in 0..64 {
        for (x, y) in a.row(i * head[0] / 64).into_iter().zip(b.row(i * head[0] / 64)) {
            let (x, y) = (x as f64, y as f64);
            dot += x * y;
            aa += x * x;
            bb += y * y;
        }
    }
    Ok(dot > 0.98 * (aa * bb).sqrt())
}

/// Rows of a matrix, dequantised one at a time.
struct RowSample<'a> {
    kind: super::dequant::TensorType,
    blocks: &'a [u8],
    row_bytes: usize,
}

impl<'a> RowSample<'a> {
    fn new(file: &'a Gguf, name: &str) -> Result<RowSample<'a>> {
        let (kind, blocks) = file.blocks(name)?;
        let rows = file.shape(name).map_or(1, |s| s[0]).max(1);
        Ok(RowSample { kind, blocks, row_bytes: blocks.len() / rows })
    }

    fn row(&self, r: usize) -> Vec<f32> {
        super::dequant::floats(self.kind, &self.blocks[r * self.row_bytes..(r + 1) * self.row_bytes])
    }
}

/// Llama 3.1 and later store what their rope scaling does to each frequency, not its parameters. Those were the same
/// in all of them but for `factor`, the largest of the divisors stored; what they give is compared with what is stored.
fn rope_scaling(file: &Gguf, theta: f64, head_dim: usize) -> Result<Option<Llama3Rope>> {
    const NAME: &str = "rope_freqs.weight";
    if file.shape(NAME).is_none() {
        return Ok(None);
    }
    let stored = file.floats(NAME)?;
    let scaling = Llama3Rope {
        factor: stored.iter().copied().fold(1.0, f32::max) as f64,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };
    let matches = stored.len() == head_dim / 2
        && stored.iter().enumerate().all(|(i, divisor)| {
            let plain = 1.0 / (theta as f32).powf(2.0 * i as f32 / head_dim as f32);
            (plain / scaling.apply(plain) - divisor).abs() <= 1e-3 * divisor
        });
    match matches {
        true if scaling.factor == 1.0 => Ok(None),
        true => Ok(Some(scaling)),
        false => Err(Error::Unsupported {
            path: file.path().to_owned(),
            message: format!(
                "tensor {NAME}: these rope frequencies are not those of Llama 3; no other are supported"
            ),
        }),
    }
}

/// Metadata under the architecture's prefix.
struct Fields<'a> {
    file: &'a Gguf,
    architecture: Architecture,
}

impl Fields<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture.model_type())
    }

    fn dim(&self, name: &str) -> Result<usize> {
        let key = self.key(name);
        let value = self.file.unsigned(&key).filter(|n| (1..=1 << 24).contains(n));
        value.map(|n| n as usize).ok_or_else(|| {
            Error::file(self.file.path(), format!("{key}: expected a whole number from 1 to 2^24"))
        })
    }

    fn dim_or(&self, name: &str, default: usize) -> Result<usize> {
        self.file.get(&self.key(name)).map_or(Ok(default), |_| self.dim(name))
    }

    /// A positive number; stored in f32, and meant as the shortest decimal that rounds to it (1e-5, not 9.99999975e-6).
    fn positive(&self, name: &str, default: Option<f64>) -> Result<f64> {
        let key = self.key(name);
        let value = match self.file.get(&key) {
            None => default,
            Some(_) => self.file.number(&key).and_then(|x| (x as f32).to_string().parse().ok()),
        };
        value
            .filter(|x: &f64| x.is_finite() && *x > 0.0)
            .ok_or_else(|| Error::file(self.file.path(), format!("{key}: expected a positive number")))
    }
}
