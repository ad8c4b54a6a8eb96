//! Vocabularies of single characters, encoded without the general machinery, which takes ten times as long: a small
//! policy learns from so many short texts that it shows.
//!
//! What [`Characters::encode`] gives is what the library gives, id for id. Absent: whatever else a `tokenizer.json` may
//! ask for, normalizers and merges first; such a vocabulary is left to the library.

use tokenizers::{AddedToken, ModelWrapper};

use super::Specials;

/// A token for each of some ASCII characters, and words that are special tokens.
pub(super) struct Characters {
    /// What may begin with each ASCII character.
    starts: Vec<Start>,
    /// Stands for every other character; without it they are left out.
    unknown: Option<u32>,
}

#[derive(Clone, Default)]
struct Start {
    character: Option<u32>,
    /// The longest first.
    words: Vec<(String, u32)>,
}

impl Characters {
    /// The vocabulary of `tokenizer`, whose model has `merges`; `None` if it takes more than looking up characters.
    pub fn of(tokenizer: &tokenizers::Tokenizer, merges: usize) -> Option<Self> {
        let ModelWrapper::BPE(bpe) = tokenizer.get_model() else { return None };
        let bare = tokenizer.get_normalizer().is_none()
            && tokenizer.get_pre_tokenizer().is_none()
            && tokenizer.get_post_processor().is_none()
            && tokenizer.get_truncation().is_none()
            && tokenizer.get_padding().is_none()
            && bpe.dropout.is_none()
            && bpe.continuing_subword_prefix.is_none()
            && bpe.end_of_word_suffix.is_none()
            && !(bpe.fuse_unk || bpe.byte_fallback || bpe.ignore_merges);
        if merges > 0 || !bare {
            return None;
        }
        let vocab = bpe.get_vocab();
        let unknown = match &bpe.unk_token {
            Some(token) => Some(*vocab.get(token)?),
            None => None,
        };
        let mut starts = vec![Start::default(); 128];
        for (token, id) in &vocab {
            let mut characters = token.chars();
            if let (Some(c), None) = (characters.next(), characters.next()) {
                starts.get_mut(c as usize)?.character = Some(*id);
            }
        }
        for (id, AddedToken { content, single_word, lstrip, rstrip, normalized, special }) in
            tokenizer.get_added_tokens_decoder()
        {
            if single_word || lstrip || rstrip || normalized || !special {
                return None;
            }
            let first = content.chars().next()?;
            starts.get_mut(first as usize)?.words.push((content, id));
        }
        starts.iter_mut().for_each(|s| s.words.sort_by_key(|(word, _)| std::cmp::Reverse(word.len())));
        Some(Self { starts, unknown })
    }

    /// The ids of `text`.
    pub fn encode(&self, text: &str, specials: Specials) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len());
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let start = self.starts.get(c as usize);
            let words = start.filter(|_| specials == Specials::Parse).map_or(&[][..], |s| &s.words);
            let (length, id) = match words.iter().find(|(word, _)| rest.starts_with(word)) {
                Some((word, id)) => (word.len(), Some(*id)),
                None => (c.len_utf8(), start.and_then(|s| s.character).or(self.unknown)),
            };
            ids.extend(id);
            rest = &rest[length..];
        }
        ids
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::super::Tokenizer;
    use super::*;

    /// A tokenizer of four characters with `words` added and `change` made to its `tokenizer.json`.
    fn tokenizer(words: &[&str], change: impl FnOnce(&mut Value)) -> Tokenizer {
        let word = |(i, content): (usize, &&str)| {
            json!({"id": 5 + i, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true})
        };
        let mut json = json!({"version": "1.0", "decoder": {"type": "Fuse"},
            "added_tokens": words.iter().enumerate().map(word).collect::<Vec<_>>(),
            "model": {"type": "BPE", "unk_token": "<unk>", "merges": [],
                "vocab": {"a": 0, "b": 1, "<": 2, ">": 3, "<unk>": 4}}});
        change(&mut json);
        Tokenizer::from_json(json.to_string(), json!({}), Path::new("t")).unwrap()
    }

    /// `text` as the library encodes it.
    fn general(tokenizer: &Tokenizer, text: &str, specials: Specials) -> Vec<u32> {
        let mut inner = tokenizer.inner.clone();
        inner.set_encode_special_tokens(specials == Specials::Plain);
        inner.encode_fast(text, false).unwrap().get_ids().to_vec()
    }

    proptest! {
        #[test]
        fn the_library_gives_the_same(
            words in prop::collection::btree_set("[ab<>]{1,3}", 0..5),
            text in "[ab<>xé🙂]{0,24}",
            unknown in any::<bool>(),
        ) {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let t = tokenizer(&words, |json| {
                if !unknown {
                    json["model"]["unk_token"] = Value::Null;
                }
            });
            let characters = t.characters.as_ref().expect("a vocabulary of characters");
            for specials in [Specials::Parse, Specials::Plain] {
                prop_assert_eq!(characters.encode(&text, specials), general(&t, &text, specials));
            }
        }
    }

    #[test]
    fn what_takes_more_is_left_to_the_library() {
        assert!(Tokenizer::digits(&["<code>"]).characters.is_some());
        let word = |key: &'static str, value: bool| {
            move |json: &mut Value| json["added_tokens"][0][key] = value.into()
        };
        let model = |key: &'static str, value: Value| move |json: &mut Value| json["model"][key] = value;
        type Change = Box<dyn FnOnce(&mut Value)>;
        let general: [Change; 9] = [
            Box::new(word("special", false)),
            Box::new(word("lstrip", true)),
            Box::new(word("normalized", true)),
            Box::new(model("byte_fallback", true.into())),
            Box::new(model("fuse_unk", true.into())),
            Box::new(model("end_of_word_suffix", "</w>".into())),
            Box::new(model("vocab", json!({"a": 0, "é": 1, "<unk>": 2}))),
            Box::new(|json| json["normalizer"] = json!({"type": "Lowercase"})),
            Box::new(|json| {
                json["model"]["vocab"]["ab"] = 9.into();
                json["model"]["merges"] = json!(["a b"]);
            }),
        ];
        for change in general {
            assert!(tokenizer(&["<b>"], change).characters.is_none());
        }
    }
}
