//! What a model is asked to compute: packed tokens, no padding, plain data.
//!
//! Two requests exist. A [`Batch`] advances sequences that live in slots of a KV cache and wants the
//! logits of a few rows; a [`TrainBatch`] is whole sequences end to end and wants a loss.
//! Neither knows text, sampling or rewards.

use crate::blocks::KvBlocks;

/// Consecutive tokens of one sequence inside a [`Batch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// KV slot that holds the sequence.
    pub slot: usize,
    /// How many tokens of the sequence the slot holds already; the span's first token has this position.
    pub past: usize,
    /// Tokens in this span, at least 1.
    pub len: usize,
    /// Whether the logits after the span's last token are wanted.
    pub logits: bool,
}

/// One forward step over several sequences: prefill, feedback and decode mixed as they come.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Token ids of all spans, end to end, `[t]`.
    pub tokens: Vec<u32>,
    /// Spans in the order of `tokens`; no slot occurs twice.
    pub spans: Vec<Span>,
}

impl Batch {
    /// Appends a span of `tokens`.
    pub fn push(&mut self, slot: usize, past: usize, tokens: &[u32], logits: bool) {
        self.tokens.extend_from_slice(tokens);
        self.spans.push(Span { slot, past, len: tokens.len(), logits });
    }

    /// Empties the batch, keeping its memory.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.spans.clear();
    }
}

/// A language model that continues sequences held in KV slots.
///
/// The engine implements it; tests script it.
pub trait Decode {
    /// Width of a logit row.
    fn vocab_size(&self) -> usize;
    /// Number of KV slots.
    fn slots(&self) -> usize;
    /// Positions a slot can hold.
    fn max_context(&self) -> usize;
    /// Tokens a batch may carry.
    fn max_batch_tokens(&self) -> usize;
    /// Runs the batch and returns the logits of the spans that asked, in order: `[spans with logits, vocab]`.
    ///
    /// A row depends bit for bit on its own sequence only, whatever else is in the batch. Slots grow as needed.
    ///
    /// # Errors
    /// If the cache has too few free blocks, or the model cannot compute.
    fn forward(&mut self, batch: &Batch) -> Result<&[f32], crate::Error>;
    /// The cache's blocks, to share what sequences have in common and to give back what is not needed any more.
    fn kv(&mut self) -> &mut KvBlocks;
}

/// Whole sequences packed end to end for a loss.
///
/// Put sequences that begin alike (samples of one prompt) one behind the other: what they have in common is computed once.
///
/// Every per-token array is `[t]` and aligned with the token it speaks of: `old_logprobs[i]` is
/// log p(token i | tokens before i in its sequence), `values[i]` the critic's estimate before token i is
/// chosen. The first token of a sequence is never scored; its weight must be 0.
#[derive(Clone, Debug, Default)]
pub struct TrainBatch {
    /// Token ids, `[t]`, each below the size of the vocabulary.
    pub tokens: Vec<u32>,
    /// Length of each sequence; they sum to t.
    pub lens: Vec<usize>,
    /// Loss weight of each token: mask divided by the denominator of the whole mini-batch, `[t]`.
    /// 0 leaves a token out of the loss.
    pub weights: Vec<f32>,
    /// Per-token inputs of the objective, in the order its documentation gives, each `[t]`.
    pub columns: Vec<Vec<f32>>,
}

/// Fewer tokens in common are not worth a segment that goes on after them.
const SHARED: usize = 8;

/// Of sequences one behind the other, those that a pass can run together: the first, the *root*, whole, and of each next one
/// what comes after the tokens that it has in common with the root. Each with the number of these, 0 for the root; the first
/// that has too few ends them. `tokens` gives those of a sequence.
pub fn alike<'a, T>(
    sequences: impl IntoIterator<Item = T>,
    tokens: impl Fn(&T) -> &'a [u32],
) -> impl Iterator<Item = (T, usize)> {
    let mut root: Option<&[u32]> = None;
    sequences.into_iter().map_while(move |sequence| {
        let own = tokens(&sequence);
        let Some(root) = root else {
            root = Some(own);
            return Some((sequence, 0));
        };
        let shared = root.iter().zip(own).take_while(|(a, b)| a == b).count();
        (shared >= SHARED).then_some((sequence, shared))
    })
}

/// What a [`TrainBatch`] is trained on.
#[derive(Clone, Debug, PartialEq)]
pub enum Objective {
    /// Σ w·(−ℓ): masked cross-entropy. No columns.
    CrossEntropy,
    /// Clipped policy loss of PPO (arXiv 1707.06347, equation 7). Columns: old log-probabilities, advantages and, if
    /// `kl_coef` is not 0, reference log-probabilities.
    Policy(PolicyLoss),
    /// Clipped value loss. Columns: old values, returns. Only for a model with a value head.
    Value {
        /// Half-width of the clip around the old value (`cliprange_value`); `None` leaves it unclipped.
        clip_range: Option<f32>,
    },
}

/// Constants of the policy loss: max(−Aρ, −A·clip(ρ, 1−low, 1+high)) + kl_coef·k3.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyLoss {
    /// ε_low: the ratio is clipped from below at 1 − ε_low.
    pub clip_range_low: f32,
    /// ε_high: the ratio is clipped from above at 1 + ε_high.
    pub clip_range_high: f32,
    /// Dual clip c > 1 (arXiv 1912.09729): for A < 0 the loss is at most −A·c.
    pub dual_clip: Option<f32>,
    /// Weight of the k3 estimate of KL(π‖π_ref) added to the loss of each token.
    pub kl_coef: f32,
}

/// What one pass over a [`TrainBatch`] computed; it lies in the trainer's memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct TrainOutput<'a> {
    /// Σ over tokens of weight × loss: this micro-batch's share of the mini-batch's loss.
    pub loss: f64,
    /// Log-probabilities (policy, cross-entropy) or values (value) under the present weights, `[t]`;
    /// 0 for the first token of each sequence.
    pub outputs: &'a [f32],
    /// Rows computed: the tokens that scored ones depend on, those of a shared beginning once.
    pub rows: usize,
}
