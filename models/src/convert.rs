//! Any model this crate reads, as a Hugging Face directory in bf16; and a model named by a path, whatever it is.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use half::bf16;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::checkpoint::{Checkpoint, Dtype, TensorHeader, write_safetensors};
use crate::config::{ModelConfig, ParamSpec};
use crate::error::{Error, Result};
use crate::files;
use crate::gguf::{Gguf, model, vocab};
use crate::live::copy_tokenizer;
use crate::tokenizer::Tokenizer;
use crate::weights::{Mat, Precision, Weights, bytes_of, to_bf16};

/// Part of the key of cached conversions: raise it when a conversion's result changes.
const CONVERTER: u32 = 1;

/// Writes the model at `source`, a `.gguf` file or a Hugging Face directory, as a Hugging Face directory with bf16
/// weights in one file. `out` appears, or is replaced, only when all of it is written.
///
/// # Errors
/// Those of reading the source and of the file system.
pub fn convert(source: &Path, out: &Path) -> Result<()> {
    if source.is_dir() { convert_dir(source, out) } else { convert_gguf(source, out) }
}

fn convert_dir(source: &Path, out: &Path) -> Result<()> {
    let config = ModelConfig { torch_dtype: "bfloat16".into(), ..ModelConfig::read(source)? };
    let checkpoint = Checkpoint::open(source)?;
    files::write_dir(out, |dir| {
        write_weights(dir, &config.param_specs(), |spec| {
            Ok(to_bf16(&checkpoint.tensor_of_shape(&spec.name, &spec.shape)?))
        })?;
        files::write_json(&dir.join("config.json"), &config.to_json())?;
        copy_tokenizer(source, dir)
    })
}

fn convert_gguf(source: &Path, out: &Path) -> Result<()> {
    let file = Gguf::open(source)?;
    let config = model::config(&file)?;
    let text = vocab::vocab(&file)?;
    let tokenizer = Tokenizer::from_json(text.tokenizer.to_string(), text.config.clone(), source)?;
    tokenizer.check_embedding(config.vocab_size, source)?;
    files::write_dir(out, |dir| {
        write_weights(dir, &config.param_specs(), |spec| model::tensor(&file, &config, spec))?;
        files::write_json(&dir.join("config.json"), &config.to_json())?;
        let generation = json!({"bos_token_id": config.bos_token_id, "eos_token_id": config.eos_token_id,
            "pad_token_id": config.pad_token_id});
        files::write_json(&dir.join("generation_config.json"), &generation)?;
        files::write_json(&dir.join("tokenizer.json"), &text.tokenizer)?;
        files::write_json(&dir.join("tokenizer_config.json"), &text.config)?;
        match &text.chat_template {
            Some(template) => {
                files::write_file(&dir.join("chat_template.jinja"), |out| out.write_all(template.as_bytes()))
            }
            None => Ok(()),
        }
    })
}

/// Writes `model.safetensors`, one tensor in memory at a time.
fn write_weights(
    dir: &Path,
    specs: &[ParamSpec],
    mut tensor: impl FnMut(&ParamSpec) -> Result<Vec<bf16>>,
) -> Result<()> {
    let headers: Vec<_> =
        specs.iter().map(|s| TensorHeader { name: &s.name, dtype: Dtype::Bf16, shape: &s.shape }).collect();
    // The writer speaks of I/O; an error of the source passes through beside it.
    let mut failed = None;
    let written =
        write_safetensors(&dir.join("model.safetensors"), &headers, |i, out| match tensor(&specs[i]) {
            Ok(values) => out.write_all(bytes_of(Mat::Bf16(&values))),
            Err(e) => {
                failed = Some(e);
                Err(std::io::ErrorKind::InvalidData.into())
            }
        });
    failed.map_or(written, Err)
}

/// A model named by a path: what the rest of the program needs of it.
pub struct ModelSource {
    /// The Hugging Face directory: the one named, or the cached conversion of the `.gguf` named.
    pub dir: PathBuf,
    pub config: ModelConfig,
    pub tokenizer: Tokenizer,
}

impl ModelSource {
    /// Opens a Hugging Face directory or a `.gguf` file. A GGUF is converted once, into
    /// `<cache>/converted/<name>-<key>`, and mapped from there; the key changes with the file's size, modification
    /// time and first and last megabyte. Such directories may be deleted at any time.
    ///
    /// # Errors
    /// No such path, anything [`convert`] or [`Tokenizer::load`] refuses, a tokenizer larger than the embedding.
    pub fn open(path: &Path, cache: &Path) -> Result<ModelSource> {
        let dir = if path.is_dir() { path.to_owned() } else { converted(path, cache)? };
        let config = ModelConfig::read(&dir)?;
        let mut tokenizer = Tokenizer::load(&dir)?;
        tokenizer.check_embedding(config.vocab_size, path)?;
        tokenizer.add_eos(config.eos_token_id.iter().copied());
        Ok(ModelSource { dir, config, tokenizer })
    }

    /// The model's weights, in [`ModelConfig::param_specs`] order.
    pub fn weights(&self, precision: Precision) -> Result<Weights> {
        Weights::load(&self.dir, self.config.param_specs(), precision)
    }
}

fn converted(path: &Path, cache: &Path) -> Result<PathBuf> {
    let meta = path.metadata().map_err(Error::io(path))?;
    let map = files::map(path)?;
    let modified = meta.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    let edge = map.len().min(1 << 20);
    let mut key = Sha256::new();
    key.update(CONVERTER.to_le_bytes());
    key.update(meta.len().to_le_bytes());
    key.update(modified.as_nanos().to_le_bytes());
    key.update(&map[..edge]);
    key.update(&map[map.len() - edge..]);
    let key: String = key.finalize()[..8].iter().map(|b| format!("{b:02x}")).collect();
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let folder = cache.join("converted");
    let dir = folder.join(format!("{name}-{key}"));
    if !dir.exists() {
        // One of those that open it at once converts; the others find the directory when their turn comes.
        fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
        let lock = folder.join(format!("{name}-{key}.lock"));
        let held =
            File::create(&lock).and_then(|file| file.lock().map(|()| file)).map_err(Error::io(&lock))?;
        if !dir.exists() {
            convert_gguf(path, &dir)?;
        }
        drop(held);
    }
    Ok(dir)
}
