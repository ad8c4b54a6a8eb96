//! What a rollout needs from a tokenizer.

use super::Error;

/// Token ids to text and back. The tokenizer implements it; tests script it.
pub trait Text: Sync {
    /// Ids of `text`. Special tokens written in it become their ids; none are added around it.
    fn encode(&self, text: &str) -> Result<Vec<u32>, Error>;
    /// Ids of `text` in which nothing is special: a tool's output must not be able to end a turn.
    fn encode_plain(&self, text: &str) -> Result<Vec<u32>, Error>;
    /// Text of `ids`, special tokens included. Bytes that are no UTF-8 become U+FFFD.
    fn decode(&self, ids: &[u32]) -> String;
    /// The id of `token` if it is one entry of the vocabulary that text cannot be split across
    /// (a special or added token).
    fn special(&self, token: &str) -> Option<u32>;
    /// Whether `id` ends the model's turn.
    fn is_end(&self, id: u32) -> bool;
}

/// Turns ids into text one at a time, holding back characters whose bytes are not complete.
///
/// Decodes a short window twice and takes the difference, because what a token reads as depends on its
/// neighbours (byte-level pieces, SentencePiece's leading space).
#[derive(Clone, Debug, Default)]
pub struct Stream {
    ids: Vec<u32>,
    /// Start of the window.
    from: usize,
    /// End of what was returned.
    shown: usize,
}

impl Stream {
    /// The text that `id` completes; empty while a character is incomplete.
    pub fn push(&mut self, text: &dyn Text, id: u32) -> String {
        self.ids.push(id);
        let before = text.decode(&self.ids[self.from..self.shown]);
        let now = text.decode(&self.ids[self.from..]);
        // Four bytes make a character at most; what is still broken after them stays broken.
        if now.ends_with('\u{fffd}') && self.ids.len() - self.shown < 4 {
            return String::new();
        }
        (self.from, self.shown) = (self.shown, self.ids.len());
        now.strip_prefix(before.as_str()).unwrap_or(&now).to_owned()
    }
}
