//! GGUF files made here, byte by byte: what they convert to, and what is refused.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use half::bf16;
use proptest::prelude::*;
use toolsmith_models::config::{Architecture, Llama3Rope, ModelConfig};
use toolsmith_models::convert::{ModelSource, convert};
use toolsmith_models::gguf::{Gguf, model, vocab};
use toolsmith_models::tokenizer::Specials;
use toolsmith_models::weights::{Mat, Precision, Weights};

/// A GGUF in the making.
#[derive(Clone)]
struct Draft {
    version: u32,
    metadata: Vec<(String, Vec<u8>)>,
    /// Name, dimensions as stored, type, data.
    tensors: Vec<(String, Vec<u64>, u32, Vec<u8>)>,
}

fn text(s: &str) -> Vec<u8> {
    [&(s.len() as u64).to_le_bytes()[..], s.as_bytes()].concat()
}

fn tagged(kind: u32, payload: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes(), payload].concat()
}

fn string(s: &str) -> Vec<u8> {
    tagged(8, &text(s))
}

fn uint(n: u32) -> Vec<u8> {
    tagged(4, &n.to_le_bytes())
}

fn float(x: f32) -> Vec<u8> {
    tagged(6, &x.to_le_bytes())
}

fn list(kind: u32, items: impl IntoIterator<Item = Vec<u8>>) -> Vec<u8> {
    let items: Vec<_> = items.into_iter().collect();
    tagged(9, &[&kind.to_le_bytes()[..], &(items.len() as u64).to_le_bytes(), &items.concat()].concat())
}

impl Draft {
    fn set(mut self, key: &str, value: Vec<u8>) -> Draft {
        self.metadata.retain(|(k, _)| k != key);
        self.metadata.push((key.into(), value));
        self
    }

    fn without(mut self, key: &str) -> Draft {
        self.metadata.retain(|(k, _)| k != key);
        self.tensors.retain(|(k, ..)| k != key);
        self
    }

    /// An f32 tensor whose shape is given as Hugging Face has it.
    fn tensor(mut self, name: &str, shape: &[u64], values: impl Fn(usize) -> f32) -> Draft {
        let numel = shape.iter().product::<u64>() as usize;
        let data = (0..numel).flat_map(|i| values(i).to_le_bytes()).collect();
        self.tensors.retain(|(n, ..)| n != name);
        self.tensors.push((name.into(), shape.iter().rev().copied().collect(), 0, data));
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            out.extend(text(key));
            out.extend(value);
        }
        let mut data: Vec<u8> = Vec::new();
        for (name, dims, kind, bytes) in &self.tensors {
            out.extend(text(name));
            out.extend((dims.len() as u32).to_le_bytes());
            out.extend(dims.iter().flat_map(|d| d.to_le_bytes()));
            out.extend(kind.to_le_bytes());
            out.extend((data.len() as u64).to_le_bytes());
            data.extend(bytes);
            data.resize(data.len().next_multiple_of(32), 0);
        }
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(data);
        out
    }

    fn save(&self, dir: &Path) -> PathBuf {
        let path = dir.join("model.gguf");
        fs::write(&path, self.bytes()).unwrap();
        path
    }
}

const VOCAB: u64 = 8;
const HIDDEN: u64 = 8;

/// A model of one layer: 2 heads of 4 elements, one of keys and values. Row `r` of q and k holds the number `r`.
fn draft(arch: &str) -> Draft {
    let tokens = ["a", "b", "ab", "Ġ", "1", "<|end|>", "<tool>", "[PAD7]"];
    let mut d = Draft { version: 3, metadata: vec![], tensors: vec![] }
        .set("general.architecture", string(arch))
        .set(&format!("{arch}.embedding_length"), uint(HIDDEN as u32))
        .set(&format!("{arch}.block_count"), uint(1))
        .set(&format!("{arch}.feed_forward_length"), uint(4))
        .set(&format!("{arch}.attention.head_count"), uint(2))
        .set(&format!("{arch}.attention.head_count_kv"), uint(1))
        .set(&format!("{arch}.attention.layer_norm_rms_epsilon"), float(1e-5))
        .set(&format!("{arch}.rope.freq_base"), float(500000.0))
        .set(&format!("{arch}.context_length"), uint(64))
        .set("tokenizer.ggml.model", string("gpt2"))
        .set("tokenizer.ggml.pre", string("smollm"))
        .set("tokenizer.ggml.tokens", list(8, tokens.map(text)))
        .set(
            "tokenizer.ggml.token_type",
            list(5, [1, 1, 1, 1, 1, 3, 4, 5].map(|t: i32| t.to_le_bytes().to_vec())),
        )
        .set("tokenizer.ggml.merges", list(8, [text("a b")]))
        .set("tokenizer.ggml.eos_token_id", uint(5))
        .set("tokenizer.chat_template", string("{{ messages }}"))
        .tensor("token_embd.weight", &[VOCAB, HIDDEN], |i| i as f32)
        .tensor("output_norm.weight", &[HIDDEN], |_| 1.0)
        .tensor("blk.0.attn_norm.weight", &[HIDDEN], |_| 1.0)
        .tensor("blk.0.ffn_norm.weight", &[HIDDEN], |_| 1.0)
        .tensor("blk.0.attn_q.weight", &[8, HIDDEN], |i| (i / 8) as f32)
        .tensor("blk.0.attn_k.weight", &[4, HIDDEN], |i| (i / 8) as f32)
        .tensor("blk.0.attn_v.weight", &[4, HIDDEN], |i| (i / 8) as f32)
        .tensor("blk.0.attn_output.weight", &[HIDDEN, 8], |i| (i / 8) as f32)
        .tensor("blk.0.ffn_gate.weight", &[4, HIDDEN], |i| i as f32)
        .tensor("blk.0.ffn_up.weight", &[4, HIDDEN], |i| i as f32)
        .tensor("blk.0.ffn_down.weight", &[HIDDEN, 4], |i| i as f32);
    if arch == "qwen2" {
        for (name, n) in [("q", 8), ("k", 4), ("v", 4)] {
            d = d.tensor(&format!("blk.0.attn_{name}.bias"), &[n], |i| i as f32);
        }
    }
    if arch == "qwen3" {
        d = d.tensor("blk.0.attn_q_norm.weight", &[4], |_| 1.0).tensor(
            "blk.0.attn_k_norm.weight",
            &[4],
            |_| 1.0,
        );
    }
    d
}

/// The first column of a converted parameter.
fn column(weights: &Weights, name: &str) -> Vec<f32> {
    let i = weights.view().index_of(name).unwrap();
    let width = weights.specs()[i].shape.get(1).copied().unwrap_or(1);
    match weights.get(i) {
        Mat::Bf16(x) => x.iter().step_by(width).map(|v| v.to_f32()).collect(),
        Mat::F32(_) => panic!("converted weights are bf16"),
    }
}

fn converted(draft: &Draft) -> (ModelConfig, Weights, ModelSource) {
    let dir = tempfile::tempdir().unwrap();
    let source = ModelSource::open(&draft.save(dir.path()), dir.path()).unwrap();
    let weights = source.weights(Precision::Bf16).unwrap();
    assert_eq!(weights.mapped(), weights.specs().len(), "all in place");
    (source.config.clone(), weights, source)
}

#[test]
fn opened_by_many_at_once_it_is_converted_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = draft("qwen3").save(dir.path());
    let open = || ModelSource::open(&path, dir.path()).unwrap().dir;
    for _ in 0..20 {
        let dirs: Vec<PathBuf> = std::thread::scope(|s| {
            let threads: Vec<_> = (0..8).map(|_| s.spawn(open)).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert!(dirs.iter().all(|d| d == &dirs[0] && d.join("model.safetensors").exists()));
        std::fs::remove_dir_all(&dirs[0]).unwrap();
    }
}

#[test]
fn llama_rows_come_back_to_hugging_face_order() {
    let mut d = draft("llama");
    for (name, n) in [("q", 8), ("k", 4), ("v", 4), ("output", 8)] {
        d = d.tensor(&format!("blk.0.attn_{name}.bias"), &[n], |i| i as f32);
    }
    let (config, weights, _) = converted(&d);
    assert_eq!((config.architecture, config.attention_bias), (Architecture::Llama, true));
    let layer = "model.layers.0.self_attn";
    for kind in ["weight", "bias"] {
        assert_eq!(column(&weights, &format!("{layer}.q_proj.{kind}")), [0., 2., 1., 3., 4., 6., 5., 7.]);
        assert_eq!(column(&weights, &format!("{layer}.k_proj.{kind}")), [0., 2., 1., 3.]);
        assert_eq!(column(&weights, &format!("{layer}.v_proj.{kind}")), [0., 1., 2., 3.]);
        assert_eq!(column(&weights, &format!("{layer}.o_proj.{kind}")), [0., 1., 2., 3., 4., 5., 6., 7.]);
    }
}

#[test]
fn qwen_rows_stay() {
    for arch in ["qwen2", "qwen3"] {
        let (config, weights, _) = converted(&draft(arch));
        assert_eq!(config.architecture.model_type(), arch);
        assert_eq!(
            column(&weights, "model.layers.0.self_attn.q_proj.weight"),
            [0., 1., 2., 3., 4., 5., 6., 7.]
        );
        assert_eq!(
            weights.view().index_of("model.layers.0.self_attn.q_norm.weight").is_some(),
            arch == "qwen3"
        );
    }
}

#[test]
fn the_configuration_is_the_metadata() {
    let (config, _, source) = converted(&draft("llama"));
    assert_eq!((config.rms_norm_eps, config.rope_theta, config.head_dim), (1e-5, 5e5, 4));
    assert_eq!((config.eos_token_id.as_slice(), config.vocab_size), (&[5][..], 8));
    assert_eq!((config.max_position_embeddings, config.rope_scaling), (64, None));
    assert_eq!(source.tokenizer.chat_template(), Some("{{ messages }}"));
    assert_eq!(source.tokenizer.eos(), [5]);
    let ids = source.tokenizer.encode("ab 11<|end|><tool>", Specials::Parse).unwrap();
    assert_eq!(ids, [2, 3, 4, 4, 5, 6]);
    assert_eq!(source.tokenizer.vocab_size(), 7, "padding rows are no tokens");
}

#[test]
fn a_head_of_its_own_or_the_embedding_again() {
    assert!(converted(&draft("llama")).0.tie_word_embeddings);
    let own =
        draft("llama").tensor("output.weight", &[VOCAB, HIDDEN], |i| if i % 3 == 0 { 1.0 } else { -1.0 });
    let (config, weights, _) = converted(&own);
    assert!(!config.tie_word_embeddings);
    assert_eq!(column(&weights, "lm_head.weight")[..4], [1., -1., -1., 1.]);
    // A second quantisation of the same matrix: tied, and the head's numbers are the ones used.
    let again = draft("llama").tensor("output.weight", &[VOCAB, HIDDEN], |i| i as f32 + 0.25);
    let (config, weights, _) = converted(&again);
    assert!(config.tie_word_embeddings);
    assert_eq!(column(&weights, "model.embed_tokens.weight")[1], 8.25);
}

#[test]
fn rope_frequencies_are_recognised_as_llama_3() {
    let scaling = Llama3Rope {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };
    // 64 frequencies: the two of a head of 4 are never slow.
    let divisor = |i: usize| {
        let plain = 1.0 / 500000f32.powf(2.0 * i as f32 / 128.0);
        plain / scaling.apply(plain)
    };
    let wide = |d: Draft| {
        d.set("llama.attention.key_length", uint(128))
            .tensor("blk.0.attn_q.weight", &[256, HIDDEN], |_| 0.0)
            .tensor("blk.0.attn_k.weight", &[128, HIDDEN], |_| 0.0)
            .tensor("blk.0.attn_v.weight", &[128, HIDDEN], |_| 0.0)
            .tensor("blk.0.attn_output.weight", &[HIDDEN, 256], |_| 0.0)
    };
    let (config, ..) = converted(&wide(draft("llama")).tensor("rope_freqs.weight", &[64], divisor));
    assert_eq!(config.rope_scaling, Some(scaling));

    let dir = tempfile::tempdir().unwrap();
    let other = wide(draft("llama")).tensor("rope_freqs.weight", &[64], |i| 1.0 + i as f32).save(dir.path());
    let message = model::config(&Gguf::open(&other).unwrap()).unwrap_err().to_string();
    assert!(message.contains("rope_freqs.weight"), "{message}");
}

#[test]
fn quantised_tensors_are_read_through_their_shape() {
    // Q8_0 rows of 32: scale 0.5, elements their position.
    let block: Vec<u8> =
        [&half::f16::from_f32(0.5).to_le_bytes()[..], &(0..32).collect::<Vec<u8>>()].concat();
    let mut d = draft("llama");
    d.tensors.push(("x".into(), vec![32, 2], 8, block.repeat(2)));
    let dir = tempfile::tempdir().unwrap();
    let file = Gguf::open(&d.save(dir.path())).unwrap();
    assert_eq!(file.shape("x").unwrap(), [2, 32]);
    let values = file.floats("x").unwrap();
    assert_eq!((values.len(), values[31], values[33]), (64, 15.5, 0.5));
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let d = || draft("llama");
    let mut iq = d();
    iq.tensors[0].2 = 20;
    let mut ragged = d();
    ragged.tensors[0].2 = 8;
    let mut beyond = d();
    beyond.tensors.last_mut().unwrap().1 = vec![4, 1 << 40];
    let mut twice = d();
    twice.tensors.push(twice.tensors[0].clone());
    let mut narrow = d();
    narrow.tensors[0].1 = vec![8, 6];
    let (mut flat, mut endless) = (d(), d());
    flat.tensors[0].1 = vec![];
    endless.tensors[0].1 = vec![8, 1 << 50];
    let mut old = d();
    old.version = 1;
    for (d, named) in [
        (d().set("general.architecture", string("mamba")), "architecture \"mamba\" is not supported"),
        (iq, "tensor token_embd.weight: has type IQ4_NL"),
        (ragged, "tensor token_embd.weight: has rows of 8 elements"),
        (beyond, "tensor blk.0.ffn_down.weight: has shape"),
        (twice, "tensor token_embd.weight: is listed twice"),
        (narrow, "the tokenizer has ids up to 6, the embedding 6 rows"),
        (flat, "vocab_size 0"),
        (endless, "vocab_size 1125899906842624"),
        (old, "version 1 is not supported"),
        (d().without("blk.0.ffn_up.weight"), "tensor blk.0.ffn_up.weight: is missing"),
        (d().without("token_embd.weight"), "tensor token_embd.weight: is missing"),
        (d().without("llama.block_count"), "llama.block_count"),
        (d().set("llama.block_count", uint(0)), "llama.block_count"),
        (d().set("llama.attention.head_count_kv", list(4, [])), "llama.attention.head_count_kv"),
        (d().set("llama.rope.scaling.type", string("yarn")), "yarn"),
        (d().set("llama.rope.dimension_count", uint(2)), "partial rope"),
        (d().set("llama.expert_count", uint(8)), "experts"),
        (d().set("general.alignment", uint(3)), "general.alignment"),
        (d().set("tokenizer.ggml.model", string("llama")), "tokenizer.ggml.model \"llama\""),
        (d().set("tokenizer.ggml.pre", string("tekken")), "tokenizer.ggml.pre \"tekken\""),
        (d().set("tokenizer.ggml.merges", uint(1)), "tokenizer.ggml.merges: expected a list"),
        (d().set("tokenizer.ggml.merges", list(8, [text("a zz")])), "not a tokenizer"),
        (d().set("tokenizer.ggml.tokens", list(8, [text("a"), text("a")])), "8 types for 2 tokens"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (path, out) = (d.save(dir.path()), dir.path().join("out"));
        let message = convert(&path, &out).unwrap_err().to_string();
        assert!(
            message.starts_with(path.to_str().unwrap()) && message.contains(named),
            "{message} / {named}"
        );
        assert_eq!(message.lines().count(), 1);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing half-written for {named}");
    }
}

#[test]
fn a_directory_is_converted_too() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    convert(&draft("qwen2").save(dir.path()), &one).unwrap();
    convert(&one, &two).unwrap();
    for name in ["model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"] {
        assert_eq!(fs::read(one.join(name)).unwrap(), fs::read(two.join(name)).unwrap(), "{name}");
    }
    let message = convert(&dir.path().join("none"), &two).unwrap_err().to_string();
    assert!(message.contains("none: No such file"), "{message}");
    fs::write(dir.path().join("text"), "hello, this is no model").unwrap();
    let message = convert(&dir.path().join("text"), &two).unwrap_err().to_string();
    assert!(message.ends_with("is not a GGUF file"), "{message}");
}

/// Every tensor type keeps bf16's digits when it can: values of few bits come through conversion exactly.
#[test]
fn conversion_rounds_to_nearest_even() {
    let (_, weights, _) =
        converted(&draft("llama").tensor("output_norm.weight", &[HIDDEN], |i| 1.0 + i as f32 / 256.0));
    let expected: Vec<f32> = (0..8).map(|i| bf16::from_f32(1.0 + i as f32 / 256.0).to_f32()).collect();
    assert_eq!(column(&weights, "model.norm.weight"), expected);
    assert_eq!(expected[1..4], [1.0, 1.0078125, 1.015625]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]
    /// Whatever bytes are changed or cut off, reading answers, and soon: no count is believed.
    #[test]
    fn damaged_files_never_panic(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4), cut in 0usize..3000) {
        static WHOLE: OnceLock<Vec<u8>> = OnceLock::new();
        let mut bytes = WHOLE.get_or_init(|| draft("qwen3").bytes()).clone();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if cut > 2000 {
            bytes.truncate(bytes.len() - (cut - 2000));
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.gguf");
        fs::write(&path, bytes).unwrap();
        if let Ok(file) = Gguf::open(&path) {
            let _ = vocab::vocab(&file);
            if let Ok(config) = model::config(&file) {
                for spec in config.param_specs() {
                    let _ = model::tensor(&file, &config, &spec);
                }
            }
        }
    }
}
