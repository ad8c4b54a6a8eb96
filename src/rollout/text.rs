//! What a rollout needs from a tokenizer.

use super::Error;
use toolsmith_models::tokenizer::{Decoder, Specials, Tokenizer};

/// Token ids to text and back. The tokenizer implements it; tests script it.
pub trait Text: Sync {
    /// Ids of `text`. Special tokens written in it become their ids; none are added around it.
    fn encode(&self, text: &str) -> Result<Vec<u32>, Error>;
    /// Ids of `text` in which nothing is special: a tool's output must not be able to end a turn.
    fn encode_plain(&self, text: &str) -> Result<Vec<u32>, Error>;
    /// Text of `ids`, special tokens included. Bytes that are no UTF-8 become U+FFFD.
    fn decode(&self, ids: &[u32]) -> String;
    /// Decodes one token at a time.
    fn stream(&self) -> Box<dyn Stream + '_>;
    /// The id of `token` if it is one entry of the vocabulary.
    fn token(&self, token: &str) -> Option<u32>;
    /// Whether `id` ends the model's turn.
    fn is_end(&self, id: u32) -> bool;
    /// The token that ends a turn in traces to learn from.
    fn end(&self) -> Option<u32>;
}

/// Turns ids into text one at a time.
pub trait Stream {
    /// The text that `id` completes; characters whose bytes are not complete are held back.
    fn push(&mut self, id: u32) -> &str;
}

impl Stream for Decoder<'_> {
    fn push(&mut self, id: u32) -> &str {
        Decoder::push(self, id)
    }
}

impl Text for Tokenizer {
    fn encode(&self, text: &str) -> Result<Vec<u32>, Error> {
        Ok(Tokenizer::encode(self, text, Specials::Parse)?)
    }

    fn encode_plain(&self, text: &str) -> Result<Vec<u32>, Error> {
        Ok(Tokenizer::encode(self, text, Specials::Plain)?)
    }

    fn decode(&self, ids: &[u32]) -> String {
        Tokenizer::decode(self, ids)
    }

    fn stream(&self) -> Box<dyn Stream + '_> {
        Box::new(self.decoder())
    }

    fn token(&self, token: &str) -> Option<u32> {
        self.token_id(token)
    }

    fn is_end(&self, id: u32) -> bool {
        self.eos().contains(&id)
    }

    fn end(&self) -> Option<u32> {
        self.eos().first().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tokenizer_is_a_text() {
        let tags = ["<code>", "</code>", "<interpreter>", "</interpreter>"];
        let tokenizer = Tokenizer::digits(&tags);
        let text: &dyn Text = &tokenizer;
        let written = "<code>print(1*2)</code>";
        let ids = text.encode(written).unwrap();
        assert_eq!(ids.len(), 2 + "print(1*2)".len());
        assert_eq!(ids[0], text.token("<code>").unwrap());
        assert_eq!(text.decode(&ids), written);
        let mut stream = text.stream();
        assert_eq!(ids.iter().map(|&id| stream.push(id).to_owned()).collect::<String>(), written);
        // A tool that prints a tag prints characters.
        let plain = text.encode_plain(written).unwrap();
        assert_eq!(plain.len(), written.len());
        assert_eq!(text.decode(&plain), written);
        let end = text.end().unwrap();
        assert!(text.is_end(end) && !text.is_end(ids[0]));
        assert_eq!(text.token("<|im_end|>"), Some(end));
    }
}
