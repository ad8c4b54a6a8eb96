//! Text to token ids and back: a wrapper over `tokenizers` that decodes a token at a time, and the character-level
//! tokenizer of the embedded default run.
//!
//! Decoding works on bytes ([`Tokenizer::token_bytes`]), not through the library's own stream, so that a stop string
//! found in the text can be cut at a token boundary, and a character spread over tokens is never shown in halves.
//!
//! Deliberately absent: padding, truncation, pairs, and templates (chat templates are rendered elsewhere).

mod characters;

use std::collections::HashMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::sync::OnceLock;

use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};

use self::characters::Characters;
use crate::error::{Error, Result};
use crate::files;

/// What special tokens spelled out in a text mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Specials {
    /// `<|im_end|>` in the text is that token: for templates and training traces.
    Parse,
    /// It is nine characters: for what a user or a program wrote.
    Plain,
}

/// How a vocabulary spells bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spelling {
    /// GPT-2's: one printable character a byte.
    ByteLevel,
    /// SentencePiece's: `▁` is a space, `<0x0A>` a byte; whether the text's first space is dropped.
    SentencePiece { strip: bool },
    /// As it is.
    Verbatim,
}

/// A tokenizer and what goes with it in a model directory.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The same with special tokens read as text; made when first needed.
    plain: OnceLock<tokenizers::Tokenizer>,
    /// Encodes instead of both, where the vocabulary is that simple.
    characters: Option<Characters>,
    added: HashMap<u32, Added>,
    spelling: Spelling,
    vocab_size: usize,
    bos: Option<u32>,
    eos: Vec<u32>,
    chat_template: Option<String>,
    /// `tokenizer.json` as read, and `tokenizer_config.json`: what [`Tokenizer::save`] writes.
    json: String,
    config: Value,
}

/// What is read of a `tokenizer.json` beside the library: not the vocabulary, which is most of it.
#[derive(serde::Deserialize)]
struct Parts {
    #[serde(default)]
    decoder: Value,
    model: Model,
}

#[derive(serde::Deserialize)]
struct Model {
    /// Only counted.
    #[serde(default)]
    merges: Vec<IgnoredAny>,
}

struct Added {
    content: String,
    special: bool,
}

impl Tokenizer {
    /// Reads `tokenizer.json` of a model directory, and where present `tokenizer_config.json`,
    /// `generation_config.json` and `chat_template.jinja`.
    ///
    /// # Errors
    /// A missing or malformed file.
    pub fn load(dir: &Path) -> Result<Tokenizer> {
        let path = dir.join("tokenizer.json");
        let config =
            files::read_json_if_present(&dir.join("tokenizer_config.json"))?.unwrap_or_else(|| json!({}));
        let mut tokenizer = Tokenizer::from_json(files::read_text(&path)?, config, &path)?;
        let template = dir.join("chat_template.jinja");
        if template.exists() {
            tokenizer.chat_template = Some(files::read_text(&template)?);
        }
        if let Some(generation) = files::read_json_if_present(&dir.join("generation_config.json"))? {
            tokenizer.add_eos(ids(&generation["eos_token_id"]));
        }
        Ok(tokenizer)
    }

    /// A tokenizer from the text of a `tokenizer.json` and a parsed `tokenizer_config.json`; `path` names the
    /// former in errors.
    pub fn from_json(json: String, config: Value, path: &Path) -> Result<Tokenizer> {
        let fail = |e: &dyn std::fmt::Display| Error::file(path, format!("not a tokenizer: {e}"));
        let parsed: Parts = serde_json::from_str(&json).map_err(|e| fail(&e))?;
        let inner = tokenizers::Tokenizer::from_bytes(&json).map_err(|e| fail(&e))?;
        let spelling = spelling(&parsed.decoder)
            .map_err(|kind| Error::unsupported(path, format!("decoder {kind:?} is not supported")))?;
        let added: HashMap<u32, Added> = inner
            .get_added_tokens_decoder()
            .into_iter()
            .map(|(id, token)| (id, Added { content: token.content, special: token.special }))
            .collect();
        let largest = inner.get_vocab(true).into_values().max();
        let named = |key: &str| {
            let token = &config[key];
            let text = token.as_str().or(token["content"].as_str())?;
            inner.token_to_id(text)
        };
        Ok(Tokenizer {
            plain: OnceLock::new(),
            characters: Characters::of(&inner, parsed.model.merges.len()),
            spelling,
            vocab_size: largest.map_or(0, |id| id as usize + 1),
            bos: named("bos_token"),
            eos: named("eos_token").into_iter().collect(),
            chat_template: chat_template(&config["chat_template"]),
            added,
            inner,
            json,
            config,
        })
    }

    /// The tokenizer of the default run: a token for each printable ASCII character and the newline, then `<pad>`,
    /// `<unk>`, `<|im_start|>`, `<|im_end|>` (the end of a turn) and `extra_specials`, in that order. Digits get the
    /// lowest ids. Other characters become `<unk>`.
    pub fn digits(extra_specials: &[&str]) -> Tokenizer {
        let characters = ('0'..='9').chain('\n'..='\n').chain((' '..='~').filter(|c| !c.is_ascii_digit()));
        let specials = ["<pad>", "<unk>", "<|im_start|>", "<|im_end|>"].iter().chain(extra_specials);
        let mut vocab = Map::new();
        for c in characters {
            vocab.insert(c.to_string(), json!(vocab.len()));
        }
        let mut added = Vec::new();
        for special in specials {
            let id = vocab.len();
            if vocab.insert(special.to_string(), json!(id)).is_none() {
                added.push(json!({"id": id, "content": special, "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": false, "special": true}));
            }
        }
        // BPE without merges is a lookup of characters; Fuse decodes it by concatenation.
        let json = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
            "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": {"type": "Fuse"},
            "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                "vocab": vocab, "merges": []},
        });
        let config = json!({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>",
            "pad_token": "<pad>", "unk_token": "<unk>", "clean_up_tokenization_spaces": false});
        Tokenizer::from_json(json.to_string(), config, Path::new("tokenizer.json"))
            .expect("the tokenizer made here is well formed")
    }

    /// Writes `tokenizer.json`, `tokenizer_config.json` and, if there is one, `chat_template.jinja` into `dir`.
    pub fn save(&self, dir: &Path) -> Result<()> {
        fs::create_dir_all(dir).map_err(Error::io(dir))?;
        let text = |name: &str, text: &str| files::write_file(&dir.join(name), |out| write!(out, "{text}"));
        text("tokenizer.json", &self.json)?;
        files::write_json(&dir.join("tokenizer_config.json"), &self.config)?;
        self.chat_template.as_ref().map_or(Ok(()), |template| text("chat_template.jinja", template))
    }

    /// The ids of `text`, without any that a template would add before or after.
    ///
    /// # Errors
    /// A character the vocabulary has no way to spell, in a tokenizer without an unknown token.
    pub fn encode(&self, text: &str, specials: Specials) -> Result<Vec<u32>> {
        if let Some(characters) = &self.characters {
            return Ok(characters.encode(text, specials));
        }
        let inner = match specials {
            Specials::Parse => &self.inner,
            Specials::Plain => self.plain.get_or_init(|| {
                let mut plain = self.inner.clone();
                plain.set_encode_special_tokens(true);
                plain
            }),
        };
        let encoding = inner.encode_fast(text, false).map_err(|e| Error::Tokenizer(e.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of `ids`, special tokens spelled out. Bytes that are no UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut decoder = self.decoder();
        let mut text = String::new();
        for &id in ids {
            text.push_str(decoder.push(id));
        }
        text.push_str(decoder.finish());
        text
    }

    /// Decodes a stream, a token at a time.
    pub fn decoder(&self) -> Decoder<'_> {
        Decoder { tokenizer: self, pending: Vec::new(), text: String::new(), started: false }
    }

    /// The bytes that token `id` stands for within a text; none for an id that is no token.
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        if let Some(added) = self.added.get(&id) {
            return added.content.clone().into_bytes();
        }
        let Some(token) = self.inner.id_to_token(id) else {
            return Vec::new();
        };
        match self.spelling {
            Spelling::Verbatim => token.into_bytes(),
            Spelling::ByteLevel => {
                // A token with a character outside the alphabet stands for itself, as in the library's decoder.
                let bytes: Option<Vec<u8>> = token.chars().map(byte_of).collect();
                bytes.unwrap_or_else(|| token.into_bytes())
            }
            Spelling::SentencePiece { .. } => {
                let byte = token.strip_prefix("<0x").and_then(|t| t.strip_suffix('>'));
                match byte.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
                    Some(byte) => vec![byte],
                    None => token.replace('\u{2581}', " ").into_bytes(),
                }
            }
        }
    }

    /// The id of the token spelled `token` in the vocabulary, added tokens included.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Whether `id` is a special token.
    pub fn is_special(&self, id: u32) -> bool {
        self.added.get(&id).is_some_and(|a| a.special)
    }

    /// One more than the largest id.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Checks that an embedding of `rows` rows has one for every token; `path` names the model in the error.
    pub fn check_embedding(&self, rows: usize, path: &Path) -> Result<()> {
        if self.vocab_size > rows {
            let message =
                format!("the tokenizer has ids up to {}, the embedding {rows} rows", self.vocab_size - 1);
            return Err(Error::file(path, message));
        }
        Ok(())
    }

    /// The token before a text, where the model was trained with one.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// Every token that ends a turn.
    pub fn eos(&self) -> &[u32] {
        &self.eos
    }

    /// Adds ids that end a turn (those of `config.json`, say).
    pub fn add_eos(&mut self, ids: impl IntoIterator<Item = u32>) {
        for id in ids {
            if !self.eos.contains(&id) {
                self.eos.push(id);
            }
        }
    }

    /// The Jinja source of the model's chat template.
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    /// Gives the tokenizer a chat template, to be saved with it.
    pub fn set_chat_template(&mut self, template: impl Into<String>) {
        self.chat_template = Some(template.into());
    }

    /// `tokenizer_config.json` as parsed: chat templates read `bos_token` and the like from it.
    pub fn config(&self) -> &Value {
        &self.config
    }
}

/// Turns a stream of ids into text as soon as it is whole characters.
pub struct Decoder<'a> {
    tokenizer: &'a Tokenizer,
    pending: Vec<u8>,
    text: String,
    started: bool,
}

impl Decoder<'_> {
    /// Takes the next token; gives the text that became certain with it, which may be empty.
    pub fn push(&mut self, id: u32) -> &str {
        let bytes = self.tokenizer.token_bytes(id);
        let mut bytes = bytes.as_slice();
        if !self.started && !bytes.is_empty() {
            self.started = true;
            if self.tokenizer.spelling == (Spelling::SentencePiece { strip: true }) {
                bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
            }
        }
        self.pending.extend_from_slice(bytes);
        self.text.clear();
        let mut rest = self.pending.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    self.text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(e) => {
                    let (valid, after) = rest.split_at(e.valid_up_to());
                    self.text.push_str(&String::from_utf8_lossy(valid));
                    // Bytes that no continuation can complete are shown as broken; an unfinished character waits.
                    let Some(bad) = e.error_len() else {
                        rest = after;
                        break;
                    };
                    self.text.push(char::REPLACEMENT_CHARACTER);
                    rest = &after[bad..];
                }
            }
        }
        let done = self.pending.len() - rest.len();
        self.pending.drain(..done);
        &self.text
    }

    /// Ends the stream; gives what was left unfinished, as U+FFFD.
    pub fn finish(&mut self) -> &str {
        self.text = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        &self.text
    }
}

/// How tokens spell bytes, from the `decoder` section; the name of a decoder that is not understood as the error.
fn spelling(decoder: &Value) -> std::result::Result<Spelling, String> {
    let parts: Vec<&Value> = match decoder["decoders"].as_array() {
        Some(list) => list.iter().collect(),
        None => vec![decoder],
    };
    let mut found = Spelling::Verbatim;
    for part in parts {
        found = match (part["type"].as_str(), found) {
            (Some("ByteLevel"), _) => Spelling::ByteLevel,
            (Some("Metaspace"), _) => {
                let kept = part["prepend_scheme"] == "never" || part["add_prefix_space"] == false;
                Spelling::SentencePiece { strip: !kept }
            }
            (Some("Replace"), Spelling::Verbatim) if part["pattern"]["String"] == "\u{2581}" => {
                Spelling::SentencePiece { strip: false }
            }
            (Some("Strip"), Spelling::SentencePiece { .. }) => Spelling::SentencePiece { strip: true },
            (Some("ByteFallback" | "Fuse") | None, found) => found,
            (Some(kind), _) => return Err(kind.to_string()),
        };
    }
    Ok(found)
}

/// The byte that a character of GPT-2's byte-level alphabet stands for: printable Latin-1 for itself, the other 68
/// bytes, in order, for U+0100 and up.
fn byte_of(c: char) -> Option<u8> {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    match u32::from(c) {
        code @ 0..=0xff => Some(code as u8).filter(|b| printable(*b)),
        code @ 0x100..=0x143 => (0..=255).filter(|b| !printable(*b)).nth((code - 0x100) as usize),
        _ => None,
    }
}

/// `chat_template` of a `tokenizer_config.json`: a text, or a list of named ones of which the default is taken.
fn chat_template(value: &Value) -> Option<String> {
    let named =
        |list: &Vec<Value>| list.iter().find(|t| t["name"] == "default").map(|t| t["template"].clone());
    let template = value.as_array().map_or_else(|| Some(value.clone()), named)?;
    template.as_str().map(str::to_string)
}

/// An id or a list of ids.
fn ids(value: &Value) -> Vec<u32> {
    let one = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok());
    value
        .as_array()
        .map_or_else(|| one(value).into_iter().collect(), |list| list.iter().filter_map(one).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_byte_alphabet_is_a_bijection() {
        let mut seen: Vec<u8> = (0..0x200).filter_map(char::from_u32).filter_map(byte_of).collect();
        assert_eq!(seen.len(), 256);
        seen.sort();
        assert!(seen.iter().enumerate().all(|(i, b)| i == *b as usize));
        assert_eq!((byte_of('Ġ'), byte_of('Ċ'), byte_of('a')), (Some(b' '), Some(b'\n'), Some(b'a')));
    }

    #[test]
    fn decoders_are_told_apart() {
        let llama2 = json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]});
        assert_eq!(spelling(&llama2), Ok(Spelling::SentencePiece { strip: true }));
        assert_eq!(spelling(&json!({"type": "ByteLevel"})), Ok(Spelling::ByteLevel));
        assert_eq!(spelling(&Value::Null), Ok(Spelling::Verbatim));
        assert_eq!(spelling(&json!({"type": "WordPiece"})), Err("WordPiece".to_string()));
    }
}
