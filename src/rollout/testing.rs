//! Scripted stand-ins for the tokenizer, the model and the sandbox: tests of the loop need to know exactly
//! what is asked of each.

use super::{Answer, Call, Error, Stream, Text, ToolOutput, ToolPool};
use crate::rng::Rng;
use std::cell::RefCell;
use std::time::Duration;
use toolsmith_graphs::plan::{BLOCK, blocks_for};
use toolsmith_models::batch::{Batch, Decode};
use toolsmith_models::blocks::KvBlocks;
use toolsmith_sandbox::Session;

/// ASCII characters are their own ids; special tokens follow from 128.
#[derive(Clone, Copy, Default)]
pub struct Ascii {
    special: &'static [&'static str],
}

impl Ascii {
    pub const END: u32 = 0;

    pub fn with_tags() -> Self {
        Self {
            special: &["<code>", "</code>", "<interpreter>", "</interpreter>", "<|im_start|>", "<|im_end|>"],
        }
    }
}

impl Text for Ascii {
    fn encode(&self, mut text: &str) -> Result<Vec<u32>, Error> {
        let mut ids = Vec::new();
        while let Some(c) = text.chars().next() {
            let special = self.special.iter().position(|s| text.starts_with(s));
            let len = special.map_or(c.len_utf8(), |i| self.special[i].len());
            match special {
                Some(i) => ids.push(128 + i as u32),
                None => ids.extend(self.encode_plain(&text[..len])?),
            }
            text = &text[len..];
        }
        Ok(ids)
    }

    fn encode_plain(&self, text: &str) -> Result<Vec<u32>, Error> {
        let id = |c: char| {
            if c.is_ascii() { Ok(c as u32) } else { Err(Error::Text(format!("no token for {c:?}"))) }
        };
        text.chars().map(id).collect()
    }

    fn decode(&self, ids: &[u32]) -> String {
        ids.iter()
            .map(|&i| {
                if i < 128 { char::from(i as u8).to_string() } else { self.special[i as usize - 128].into() }
            })
            .collect()
    }

    fn stream(&self) -> Box<dyn Stream + '_> {
        struct Shown(Ascii, String);
        impl Stream for Shown {
            fn push(&mut self, id: u32) -> &str {
                self.1 = self.0.decode(&[id]);
                &self.1
            }
        }
        Box::new(Shown(*self, String::new()))
    }

    fn token(&self, token: &str) -> Option<u32> {
        self.special.iter().position(|s| *s == token).map(|i| 128 + i as u32)
    }

    fn is_end(&self, id: u32) -> bool {
        id == Self::END
    }

    fn end(&self) -> Option<u32> {
        Some(Self::END)
    }
}

/// A model whose logits are a function of everything its slot holds, so that a wrong slot, position or
/// prefix changes what it says.
pub struct Scripted<F> {
    pub slots: usize,
    pub max_context: usize,
    pub max_batch_tokens: usize,
    pub vocab: usize,
    /// Writes a row for a sequence.
    pub row: F,
    pub forwards: usize,
    kv: KvBlocks,
    /// What each block holds.
    blocks: Vec<[u32; BLOCK]>,
    out: Vec<f32>,
}

impl<F: FnMut(&[u32], &mut [f32])> Scripted<F> {
    pub fn new(slots: usize, max_batch_tokens: usize, max_context: usize, row: F) -> Self {
        Self::with_blocks(slots, max_batch_tokens, max_context, slots * blocks_for(max_context), row)
    }

    /// With fewer blocks than all slots can fill.
    pub fn with_blocks(
        slots: usize,
        max_batch_tokens: usize,
        max_context: usize,
        blocks: usize,
        row: F,
    ) -> Self {
        let kv = KvBlocks::new(slots, max_context, blocks);
        let (blocks, out) = (vec![[u32::MAX; BLOCK]; blocks], Vec::new());
        Self { slots, max_context, max_batch_tokens, vocab: 134, row, forwards: 0, kv, blocks, out }
    }
}

impl<F: FnMut(&[u32], &mut [f32])> Decode for Scripted<F> {
    fn vocab_size(&self) -> usize {
        self.vocab
    }

    fn slots(&self) -> usize {
        self.slots
    }

    fn max_context(&self) -> usize {
        self.max_context
    }

    fn max_batch_tokens(&self) -> usize {
        self.max_batch_tokens
    }

    fn forward(&mut self, batch: &Batch) -> Result<&[f32], toolsmith_models::Error> {
        self.forwards += 1;
        assert!(batch.tokens.len() <= self.max_batch_tokens && !batch.tokens.is_empty());
        self.out.clear();
        for s in &batch.spans {
            assert!(s.past + s.len <= self.max_context, "{s:?}");
            self.kv.reserve(s.slot, s.past, s.len)?;
        }
        for (from, to) in self.kv.take_copies() {
            self.blocks[to as usize] = self.blocks[from as usize];
        }
        let mut tokens = batch.tokens.iter();
        for s in &batch.spans {
            let table = self.kv.table(s.slot);
            for position in s.past..s.past + s.len {
                let block = &mut self.blocks[table[position / BLOCK] as usize];
                block[position % BLOCK] = *tokens.next().expect("as many as the spans say");
            }
        }
        for s in batch.spans.iter().filter(|s| s.logits) {
            let table = self.kv.table(s.slot).iter();
            let held: Vec<u32> = table.flat_map(|&b| self.blocks[b as usize]).take(s.past + s.len).collect();
            assert!(!held.contains(&u32::MAX), "{s:?} after positions that were never written");
            let start = self.out.len();
            self.out.resize(start + self.vocab, f32::NEG_INFINITY);
            (self.row)(&held, &mut self.out[start..]);
        }
        Ok(&self.out)
    }

    fn kv(&mut self) -> &mut KvBlocks {
        &mut self.kv
    }
}

/// A policy that says `turns` whatever the prompt, each continuing where the last one stopped.
///
/// It counts its own characters: a context is read as prompt + script with tool output in between.
pub fn says(
    text: Ascii,
    prompt: &'static str,
    turns: &'static [&'static str],
) -> impl FnMut(&[u32], &mut [f32]) {
    move |kv, row| {
        let ids = |s: &str| text.encode(s).unwrap();
        let context = text.decode(kv);
        let mut rest = context.strip_prefix(prompt).expect("the prompt");
        for (i, turn) in turns.iter().enumerate() {
            if let Some(next) = turn.strip_prefix(rest) {
                row[*ids(next).first().unwrap_or(&Ascii::END) as usize] = 0.0;
                return;
            }
            rest = rest.strip_prefix(turn).unwrap_or_else(|| panic!("turn {i}: {rest:?}"));
            let close = |tag: &str| rest.find(tag).map(|at| at + tag.len());
            let end = close("</interpreter>").or(close("</tool_response>")).expect("feedback");
            rest = rest[end..].trim_start_matches('\n');
        }
        row[Ascii::END as usize] = 0.0;
    }
}

/// Answers with `run(code)`, in an order drawn from `seed`, and often with "nothing yet".
pub struct Shuffled<F> {
    waiting: RefCell<(Vec<(u64, Call)>, Rng)>,
    run: F,
}

impl<F: Fn(&str) -> ToolOutput> Shuffled<F> {
    pub fn new(seed: u64, run: F) -> Self {
        Self { waiting: RefCell::new((Vec::new(), Rng::new(seed, 0, 0))), run }
    }
}

impl<F: Fn(&str) -> ToolOutput> ToolPool for Shuffled<F> {
    fn submit(&self, id: u64, call: Call, _: Option<Session>) -> Result<(), Error> {
        self.waiting.borrow_mut().0.push((id, call));
        Ok(())
    }

    fn poll(&self, wait: Duration) -> Result<Option<Answer>, Error> {
        let (waiting, rng) = &mut *self.waiting.borrow_mut();
        if waiting.is_empty() || (wait.is_zero() && rng.below(3) > 0) {
            return Ok(None);
        }
        let i = rng.below(waiting.len() as u64) as usize;
        let (id, call) = waiting.swap_remove(i);
        let output = (self.run)(call.code().expect("Python is what is called"));
        Ok(Some(Answer { id, output, session: None }))
    }
}
