//! The tokenizer of a GGUF as the files of a Hugging Face directory.
//!
//! A GGUF holds tokens, merges and the *name* of the rule that splits text before merging; the rules themselves are
//! listed here. Deliberately absent: SentencePiece and WordPiece vocabularies.

use serde_json::{Map, Value as Json, json};

use super::{Gguf, Value};
use crate::error::{Error, Result};

/// A rebuilt tokenizer.
pub struct Vocab {
    /// `tokenizer.json`.
    pub tokenizer: Json,
    /// `tokenizer_config.json`.
    pub config: Json,
    /// `chat_template.jinja`.
    pub chat_template: Option<String>,
}

/// `tokenizer.ggml.token_type`: control tokens are special, user-defined ones are matched whole, and unused ones pad
/// the embedding.
const CONTROL: u64 = 3;
const USER_DEFINED: u64 = 4;
const UNUSED: u64 = 5;

/// Letters with one leading sign, digits in groups of at most `$digits`, runs of signs, line ends, spaces.
macro_rules! split_regex {
    ($digits:literal) => {
        concat!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
            $digits,
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )
    };
}

/// What surrounds the merges.
struct Rules {
    normalizer: Json,
    pre_tokenizer: Json,
    /// Tokens that are whole words are taken as they are, without merging.
    ignore_merges: bool,
}

fn byte_level(use_regex: bool) -> Json {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex})
}

fn rules(pre: &str) -> Option<Rules> {
    let split = |regex: &str| {
        json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false},
            byte_level(false)]})
    };
    Some(match pre {
        "smollm" => Rules {
            normalizer: Json::Null,
            pre_tokenizer: json!({"type": "Sequence", "pretokenizers": [
                {"type": "Digits", "individual_digits": true}, byte_level(true)]}),
            ignore_merges: false,
        },
        "qwen2" | "deepseek-r1-qwen" => Rules {
            normalizer: json!({"type": "NFC"}),
            pre_tokenizer: split(split_regex!("")),
            ignore_merges: false,
        },
        "llama-bpe" | "llama3" | "llama-v3" => {
            Rules { normalizer: Json::Null, pre_tokenizer: split(split_regex!("{1,3}")), ignore_merges: true }
        }
        "gpt-2" | "gpt2" | "default" => {
            Rules { normalizer: Json::Null, pre_tokenizer: byte_level(true), ignore_merges: false }
        }
        _ => return None,
    })
}

/// Rebuilds the tokenizer.
///
/// # Errors
/// A vocabulary that is not byte-level BPE, a pre-tokenizer without a rule here, missing or contradictory lists.
pub fn vocab(file: &Gguf) -> Result<Vocab> {
    let model = file.string("tokenizer.ggml.model").unwrap_or("missing");
    if model != "gpt2" {
        let message = format!(
            "tokenizer.ggml.model {model:?} is not supported, only gpt2 (byte-level BPE); use the model's Hugging Face directory"
        );
        return Err(Error::unsupported(file.path(), message));
    }
    let pre = file.string("tokenizer.ggml.pre").unwrap_or("default");
    let rules = rules(pre).ok_or_else(|| {
        let message = format!(
            "tokenizer.ggml.pre {pre:?} is not supported; smollm, qwen2, deepseek-r1-qwen, llama-bpe, gpt-2 and default are"
        );
        Error::unsupported(file.path(), message)
    })?;
    let tokens = strings(file, "tokenizer.ggml.tokens")?;
    let merges = strings(file, "tokenizer.ggml.merges")?;
    let types = file.array("tokenizer.ggml.token_type").unwrap_or(&[]);
    if !types.is_empty() && types.len() != tokens.len() {
        let message = format!("tokenizer.ggml.token_type: {} types for {} tokens", types.len(), tokens.len());
        return Err(Error::file(file.path(), message));
    }
    let kind = |id: usize| types.get(id).and_then(Value::as_unsigned).unwrap_or(1);

    let mut vocab = Map::new();
    let mut added = Vec::new();
    for (id, token) in tokens.iter().enumerate() {
        match kind(id) {
            UNUSED => continue,
            kind @ (CONTROL | USER_DEFINED) => added
                .push(json!({"id": id, "content": token, "single_word": false,
                "lstrip": false, "rstrip": false, "normalized": false, "special": kind == CONTROL})),
            _ => {}
        }
        if vocab.insert(token.to_string(), json!(id)).is_some() {
            let message = format!("tokenizer.ggml.tokens: token {id}, {token:?}, occurs twice");
            return Err(Error::file(file.path(), message));
        }
    }
    let named = |role: &str| {
        let id = file.unsigned(&format!("tokenizer.ggml.{role}_token_id"))?;
        tokens.get(usize::try_from(id).ok()?).copied()
    };
    let chat_template = file.string("tokenizer.chat_template").map(str::to_string);
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": file.flag("tokenizer.ggml.add_bos_token").unwrap_or(false),
        "bos_token": named("bos"),
        "eos_token": named("eos"),
        "pad_token": named("padding"),
        "unk_token": named("unknown"),
        "clean_up_tokenization_spaces": false,
        "chat_template": chat_template,
    });
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": added,
        "normalizer": rules.normalizer,
        "pre_tokenizer": rules.pre_tokenizer,
        "post_processor": null,
        "decoder": byte_level(true),
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": rules.ignore_merges, "vocab": vocab, "merges": merges},
    });
    Ok(Vocab { tokenizer, config, chat_template })
}

fn strings<'a>(file: &'a Gguf, key: &str) -> Result<Vec<&'a str>> {
    let list = file.array(key).and_then(|list| list.iter().map(Value::as_str).collect::<Option<Vec<_>>>());
    list.ok_or_else(|| Error::file(file.path(), format!("{key}: expected a list of strings")))
}
