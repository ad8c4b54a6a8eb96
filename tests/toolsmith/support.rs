//! Small models and files that the tests feed to the program.

use std::fs;
use std::path::{Path, PathBuf};

use toolsmith_models::tokenizer::Tokenizer;

/// A committed fixture.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A copy of a tiny random model with a tokenizer that fits it, in `dir/model`.
pub fn tiny_model(dir: &Path) -> PathBuf {
    let model = dir.join("model");
    fs::create_dir(&model).unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(fixture("tiny/tiny-llama-tied").join(name), model.join(name)).unwrap();
    }
    tokenizer(256).save(&model).unwrap();
    model
}

/// The default run's tokenizer with filler up to `vocab` entries.
pub fn tokenizer(vocab: usize) -> Tokenizer {
    let tags = ["<code>", "</code>", "<interpreter>", "</interpreter>"].map(str::to_owned);
    let base = Tokenizer::digits(&[]).vocab_size() + tags.len();
    let names: Vec<String> = tags.into_iter().chain((base..vocab).map(|i| format!("<{i}>"))).collect();
    Tokenizer::digits(&names.iter().map(String::as_str).collect::<Vec<_>>())
}

/// The smallest llama GGUF with one tensor, of type `kind` (its number in the format).
pub fn gguf_with_tensor_type(kind: u32) -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    let string = |out: &mut Vec<u8>, s: &str| {
        out.extend((s.len() as u64).to_le_bytes());
        out.extend(s.as_bytes());
    };
    let numbers = [
        ("llama.block_count", 1u32),
        ("llama.embedding_length", 256),
        ("llama.feed_forward_length", 256),
        ("llama.attention.head_count", 4),
        ("llama.attention.head_count_kv", 4),
        ("llama.context_length", 128),
        ("general.alignment", 32),
    ];
    out.extend(3u32.to_le_bytes());
    out.extend(1u64.to_le_bytes());
    out.extend((numbers.len() as u64 + 5).to_le_bytes());
    for (key, value) in [("general.architecture", "llama"), ("tokenizer.ggml.model", "gpt2")] {
        string(&mut out, key);
        out.extend(8u32.to_le_bytes());
        string(&mut out, value);
    }
    for (key, count) in [("tokenizer.ggml.tokens", 256), ("tokenizer.ggml.merges", 0)] {
        string(&mut out, key);
        out.extend(9u32.to_le_bytes());
        out.extend(8u32.to_le_bytes());
        out.extend(u64::to_le_bytes(count));
        (0..count).for_each(|i| string(&mut out, &format!("t{i}")));
    }
    for (key, value) in numbers {
        string(&mut out, key);
        out.extend(4u32.to_le_bytes());
        out.extend(value.to_le_bytes());
    }
    string(&mut out, "llama.attention.layer_norm_rms_epsilon");
    out.extend(6u32.to_le_bytes());
    out.extend(1e-5f32.to_le_bytes());
    string(&mut out, "token_embd.weight");
    out.extend(2u32.to_le_bytes());
    out.extend(256u64.to_le_bytes());
    out.extend(256u64.to_le_bytes());
    out.extend(kind.to_le_bytes());
    out.extend(0u64.to_le_bytes());
    out.resize(out.len().next_multiple_of(32) + 256 * 256 * 4, 0);
    out
}

/// Every file under `dir`, with its size: what "nothing half-written" is checked with.
pub fn files(dir: &Path) -> Vec<(PathBuf, u64)> {
    let mut out = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let entry = entry.unwrap();
            match entry.metadata().unwrap() {
                m if m.is_dir() => folders.push(entry.path()),
                m => out.push((entry.path(), m.len())),
            }
        }
    }
    out.sort();
    out
}
