//! Tokenizers: the built-in one, streaming, what a model directory adds, and the rebuilt one of a real model.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};
use toolsmith_models::tokenizer::{Specials, Tokenizer};

const TOOL: [&str; 4] = ["<code>", "</code>", "<interpreter>", "</interpreter>"];

/// A byte-level BPE of the 256 bytes: `Ġ` and its like, spelled by the library itself, and one merge.
fn bytes() -> Tokenizer {
    let alphabet = ByteLevelAlphabet::new();
    let mut vocab = serde_json::Map::new();
    for c in alphabet.0 {
        vocab.insert(c.to_string(), json!(vocab.len()));
    }
    vocab.insert("he".into(), json!(256));
    let byte_level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let json = json!({"version": "1.0", "added_tokens": [
            {"id": 257, "content": "<|im_end|>", "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true},
            {"id": 258, "content": "<é>", "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": false}],
        "pre_tokenizer": byte_level, "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": ["h e"]}});
    Tokenizer::from_json(json.to_string(), json!({"eos_token": {"content": "<|im_end|>"}}), Path::new("t"))
        .unwrap()
}

/// GPT-2's alphabet, in byte order, written down independently of the crate's.
struct ByteLevelAlphabet(Vec<char>);

impl ByteLevelAlphabet {
    fn new() -> Self {
        let mut next = 0x100;
        let spell = |b: u32| {
            if (0x21..0x7f).contains(&b) || (0xa1..0xad).contains(&b) || b >= 0xae {
                return char::from_u32(b).unwrap();
            }
            next += 1;
            char::from_u32(next - 1).unwrap()
        };
        Self((0..256).map(spell).collect())
    }
}

#[test]
fn the_built_in_tokenizer_has_a_token_a_character() {
    let t = Tokenizer::digits(&TOOL);
    assert_eq!(t.vocab_size(), 96 + 4 + 4);
    let text = "<|im_start|>12 * 3 =\n<code>print(12*3)</code><interpreter>36</interpreter><|im_end|>";
    let ids = t.encode(text, Specials::Parse).unwrap();
    assert_eq!(ids.len(), 1 + 9 + 1 + 11 + 2 + 2 + 2);
    assert_eq!(t.decode(&ids), text);
    assert_eq!(t.encode("0123456789", Specials::Parse).unwrap(), (0..10).collect::<Vec<u32>>());
    assert_eq!(t.eos(), [t.token_id("<|im_end|>").unwrap()]);
    assert_eq!(t.encode("é", Specials::Parse).unwrap(), [t.token_id("<unk>").unwrap()]);
    assert!(t.is_special(t.token_id("</code>").unwrap()) && !t.is_special(0));

    // What a program prints cannot close its own block.
    let plain = t.encode("</interpreter>", Specials::Plain).unwrap();
    assert_eq!((plain.len(), t.decode(&plain)), (14, "</interpreter>".to_string()));

    let dir = tempfile::tempdir().unwrap();
    t.save(dir.path()).unwrap();
    let loaded = Tokenizer::load(dir.path()).unwrap();
    assert_eq!(loaded.encode(text, Specials::Parse).unwrap(), ids);
    assert_eq!((loaded.eos(), loaded.vocab_size()), (t.eos(), t.vocab_size()));
}

#[test]
fn a_stream_shows_whole_characters_only() {
    let t = bytes();
    let ids = t.encode("he é🙂<|im_end|>", Specials::Parse).unwrap();
    let mut decoder = t.decoder();
    let shown: Vec<String> = ids.iter().map(|id| decoder.push(*id).to_string()).collect();
    assert_eq!(shown, ["he", " ", "", "é", "", "", "", "🙂", "<|im_end|>"]);
    assert_eq!(decoder.finish(), "");

    let smile = t.encode("🙂", Specials::Parse).unwrap();
    let mut decoder = t.decoder();
    assert_eq!(decoder.push(smile[0]), "");
    assert_eq!(decoder.finish(), "\u{fffd}");
    // Broken by a letter: shown as broken at once, and the letter kept.
    assert_eq!(t.decode(&[smile[0], smile[1], 256]), "\u{fffd}he");
    assert_eq!(t.decode(&[258]), "<é>", "an added token stands for its own text");
    assert_eq!(t.decode(&[9999]), "");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    /// Any text survives; any ids decode as their bytes do, however they are cut.
    #[test]
    fn decoding_is_lossless_and_never_panics(text in "\\PC*", ids in prop::collection::vec(0u32..260, 0..40)) {
        let t = bytes();
        prop_assert_eq!(t.decode(&t.encode(&text, Specials::Plain).unwrap()), text.as_str());
        prop_assert_eq!(t.decode(&t.encode(&text, Specials::Parse).unwrap()), text);
        let raw: Vec<u8> = ids.iter().flat_map(|id| t.token_bytes(*id)).collect();
        prop_assert_eq!(t.decode(&ids), String::from_utf8_lossy(&raw));
    }
}

#[test]
fn a_sentencepiece_vocabulary_is_decoded() {
    let json = json!({"version": "1.0", "added_tokens": [],
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "byte_fallback": true, "vocab": {"▁a": 0, "b": 1, "<0xC3>": 2, "<0xA9>": 3}, "merges": []}});
    let t = Tokenizer::from_json(json.to_string(), json!({}), Path::new("t")).unwrap();
    assert_eq!(t.decode(&[0, 1, 0, 2, 3]), "ab aé");
}

#[test]
fn a_directory_adds_template_and_ends() {
    let dir = tempfile::tempdir().unwrap();
    Tokenizer::digits(&TOOL).save(dir.path()).unwrap();
    let write = |name: &str, json: Value| fs::write(dir.path().join(name), json.to_string()).unwrap();
    write("generation_config.json", json!({"eos_token_id": [3, 5]}));
    write(
        "tokenizer_config.json",
        json!({"eos_token": {"content": "<|im_end|>"}, "bos_token": "<|im_start|>",
        "chat_template": [{"name": "tool", "template": "t"}, {"name": "default", "template": "d"}]}),
    );
    let t = Tokenizer::load(dir.path()).unwrap();
    assert_eq!((t.eos(), t.bos(), t.chat_template()), (&[99, 3, 5][..], Some(98), Some("d")));
    fs::write(dir.path().join("chat_template.jinja"), "file").unwrap();
    assert_eq!(Tokenizer::load(dir.path()).unwrap().chat_template(), Some("file"));
}

#[test]
fn bad_tokenizers_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.json");
    let refusal = || Tokenizer::load(dir.path()).map(drop).unwrap_err().to_string();
    assert!(refusal().starts_with(path.to_str().unwrap()));
    for (text, named) in [
        ("{", "not a tokenizer"),
        (r#"{"model": {"type": "Nonesuch"}}"#, "not a tokenizer"),
        (
            r#"{"version":"1.0","added_tokens":[],"decoder":{"type":"CTC","pad_token":"p","word_delimiter_token":"|","cleanup":true},"model":{"type":"BPE","vocab":{"a":0},"merges":[]}}"#,
            "CTC",
        ),
    ] {
        fs::write(&path, text).unwrap();
        let message = refusal();
        assert!(message.starts_with(path.to_str().unwrap()) && message.contains(named), "{message}");
        assert_eq!(message.lines().count(), 1);
    }
    let t = Tokenizer::digits(&[]);
    assert!(t.check_embedding(100, Path::new("m")).is_ok());
    let message = t.check_embedding(99, Path::new("m")).unwrap_err().to_string();
    assert_eq!(message, "m: the tokenizer has ids up to 99, the embedding 99 rows");
}
