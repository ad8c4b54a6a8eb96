//! Language-model head, log-softmax and gather in one: log-probabilities of given tokens without `[tokens, vocab]` logits.
//!
//! Logits exist for a few hundred rows and one block of the vocabulary at a time. A logit is summed as in [`linear`], and the
//! softmax in the blocks of [`logsumexp`](super::logsumexp), so the results equal those of whole rows of logits, bit for bit.

use super::Mat;
use super::linear::{Dims, linear, linear_scratch};
use super::par::{self, Parts};
use super::scratch::{Scratch, bytes_of};
use super::softmax::{BLOCK, Denominator};
use std::ops::Range;

/// Tokens taken together, so that a block of logits stays in the second-level cache.
const ROWS: usize = 256;
/// A target that asks for nothing: the row costs no work.
pub const SKIP: u32 = u32::MAX;

/// The head and the temperature of the distribution.
#[derive(Clone, Copy, Debug)]
pub struct LmHead<'a> {
    /// `[vocab, h]`
    pub w: Mat<'a>,
    pub vocab: usize,
    pub h: usize,
    pub inv_temperature: f32,
}

/// Results a row; those of skipped rows are 0.
pub struct TokenLogprobs<'a> {
    /// `[t]`
    pub logprobs: &'a mut [f32],
    /// `[t]`, of the whole distribution, in nats.
    pub entropy: Option<&'a mut [f32]>,
    /// `[t]`, log of the softmax's denominator, which spares the backward pass a product.
    pub lse: Option<&'a mut [f32]>,
}

impl<'a> LmHead<'a> {
    fn block(&self, vocab: &Range<usize>) -> Mat<'a> {
        let r = vocab.start * self.h..vocab.end * self.h;
        match self.w {
            Mat::F32(w) => Mat::F32(&w[r]),
            Mat::Bf16(w) => Mat::Bf16(&w[r]),
        }
    }

    fn blocks(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let vocab = self.vocab;
        (0..vocab).step_by(BLOCK).map(move |v| v..(v + BLOCK).min(vocab))
    }

    fn dims(&self, rows: usize) -> Dims {
        Dims { t: rows, n: BLOCK.min(self.vocab), k: self.h }
    }

    pub(super) fn check(&self, x: &[f32], targets: &[u32]) {
        assert!(
            self.w.len() == self.vocab * self.h && x.len() == targets.len() * self.h,
            "token_logprob: shapes do not match"
        );
        let known = targets.iter().all(|&t| t == SKIP || (t as usize) < self.vocab);
        assert!(known, "token_logprob: a target is not below {}", self.vocab);
    }
}

/// Rows that have a target, gathered.
pub(super) struct Active<'a> {
    pub rows: &'a mut [u32],
    pub x: &'a mut [f32],
}

impl<'a> Active<'a> {
    pub fn bytes(rows: usize, h: usize) -> usize {
        bytes_of::<u32>(rows) + bytes_of::<f32>(rows * h)
    }

    pub fn new(scratch: &mut Scratch<'a>, h: usize, rows: usize) -> Self {
        Active { rows: scratch.take(rows), x: scratch.take(rows * h) }
    }

    /// The next rows with a target from `from` on: how many, and where to go on.
    pub fn gather(&mut self, x: &[f32], targets: &[u32], h: usize, from: usize) -> (usize, usize) {
        let (mut n, mut t) = (0, from);
        while t < targets.len() && n < self.rows.len() {
            if targets[t] != SKIP {
                self.rows[n] = t as u32;
                self.x[n * h..(n + 1) * h].copy_from_slice(&x[t * h..(t + 1) * h]);
                n += 1;
            }
            t += 1;
        }
        (n, t)
    }
}

/// Bytes of scratch for [`token_logprob`] on `t` tokens.
pub fn token_logprob_scratch(t: usize, vocab: usize, h: usize, bf16_weights: bool) -> usize {
    let rows = t.min(ROWS);
    let d = Dims { t: rows, n: BLOCK.min(vocab), k: h };
    Active::bytes(rows, h)
        + bytes_of::<f32>(rows * d.n)
        + bytes_of::<f32>(rows)
        + bytes_of::<Denominator>(rows)
        + linear_scratch(d, bf16_weights)
}

/// `logprobs[t] = ln softmax(x · wᵀ / T)[targets[t]]` for `x[t, h]`; rows whose target is [`SKIP`] get 0 and cost nothing.
///
/// # Panics
/// If a target is not in the vocabulary.
pub fn token_logprob(
    x: &[f32],
    head: &LmHead,
    targets: &[u32],
    mut out: TokenLogprobs,
    scratch: &mut Scratch,
) {
    head.check(x, targets);
    let t = targets.len();
    let entropy = out.entropy.is_some();
    assert!(out.logprobs.len() == t && out.entropy.as_ref().is_none_or(|e| e.len() == t));
    assert!(out.lse.as_ref().is_none_or(|l| l.len() == t), "token_logprob: shapes do not match");
    out.logprobs.fill(0.0);
    [&mut out.entropy, &mut out.lse].into_iter().flatten().for_each(|x| x.fill(0.0));
    let mut scratch = scratch.reborrow();
    let rows = t.min(ROWS);
    let d = head.dims(rows);
    let mut active = Active::new(&mut scratch, head.h, rows);
    let logits = scratch.take::<f32>(rows * d.n);
    let target_logits = scratch.take::<f32>(rows);
    let sums = scratch.take::<Denominator>(rows);
    let mut from = 0;
    while from < t {
        let (n, next) = active.gather(x, targets, head.h, from);
        from = next;
        sums[..n].fill(Denominator::EMPTY);
        for vocab in head.blocks() {
            let width = vocab.len();
            let logits = &mut logits[..n * width];
            let d = Dims { t: n, n: width, ..d };
            linear(&active.x[..n * head.h], head.block(&vocab), None, logits, d, &mut scratch);
            let (sums, picked) = (Parts::new(&mut sums[..n]), Parts::new(&mut target_logits[..n]));
            par::ranges(n * width, n, 1, |r| {
                for i in r {
                    let row = &logits[i * width..(i + 1) * width];
                    // SAFETY: tasks take different rows.
                    let (sum, picked) = unsafe { (&mut sums.get(i..i + 1)[0], &mut picked.get(i..i + 1)[0]) };
                    sum.push(row, head.inv_temperature, entropy);
                    let target = targets[active.rows[i] as usize] as usize;
                    if vocab.contains(&target) {
                        *picked = row[target - vocab.start];
                    }
                }
            });
        }
        for (i, &row) in active.rows[..n].iter().enumerate() {
            let (row, lse) = (row as usize, sums[i].log());
            out.logprobs[row] = target_logits[i] * head.inv_temperature - lse;
            if let Some(e) = out.entropy.as_deref_mut() {
                e[row] = sums[i].entropy();
            }
            if let Some(l) = out.lse.as_deref_mut() {
                l[row] = lse;
            }
        }
    }
}
