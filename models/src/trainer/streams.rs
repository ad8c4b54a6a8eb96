//! A small model's batch in streams that cores work on apart, each a chunk at a time.
//!
//! What a kernel of microseconds gains from a second core is lost in waiting and in fetching what the other wrote. Whole
//! sequences share nothing but weights: a stream takes some of them through the whole pass, with gradients of its own that
//! meet once an update, in the streams' order. And it takes a few at a time, in the same memory, so that what the forward
//! pass keeps is still in a cache when the backward pass wants it. How a batch is cut depends on the batch alone, so no bit
//! of a result depends on threads.

use std::ops::Range;

use toolsmith_graphs::{Params, Plan, cpu::apart};

use super::{TrainerOptions, pass::Pass};
use crate::{
    Result,
    batch::{Objective, TrainBatch, TrainOutput},
    config::ModelConfig,
    decoder::Head,
};

/// Tokens for which gradients of their own pay.
const STREAM: usize = 512;
/// Tokens taken through the whole pass at once: a few megabytes of activations.
const CHUNK: usize = 256;
/// Bytes of gradients that may exist once a stream. A larger model's batch stays whole: its products are large enough to share,
/// and reading its weights is what costs.
const GRADIENTS: usize = 8 << 20;
/// Streams at most.
const MOST: usize = 4;

/// Streams of a trainer whose gradients take so many bytes; 0 if its batches stay whole.
pub(super) fn most(gradients: usize, max_tokens: usize) -> usize {
    if gradients > GRADIENTS { 0 } else { (max_tokens / STREAM).clamp(1, MOST) }
}

/// One objective compiled, once a stream.
pub(super) struct Streams {
    streams: Vec<Stream>,
    /// Whether batches are not cut.
    whole: bool,
    recorded: bool,
    loss: f64,
    rows: usize,
    /// What came out, aligned with the batch's tokens.
    outputs: Vec<f32>,
}

struct Stream {
    pass: Pass,
    share: Share,
    /// Scored tokens of its share, by their place in the batch, and the number of each.
    outputs: Vec<(usize, f32)>,
    loss: f64,
    rows: usize,
    result: Result<()>,
}

/// Sequences side by side in a batch.
#[derive(Clone, Default)]
struct Share {
    sequences: Range<usize>,
    /// The first one's first token.
    start: usize,
    tokens: usize,
}

impl Share {
    fn whole(batch: &TrainBatch) -> Self {
        Share { sequences: 0..batch.lens.len(), start: 0, tokens: batch.tokens.len() }
    }

    /// Cut into `n` of about as many tokens each.
    fn cut(&self, batch: &TrainBatch, n: usize) -> impl Iterator<Item = Share> {
        let all = self.clone();
        let (mut sequence, mut token) = (all.sequences.start, all.start);
        (1..=n).map(move |i| {
            let (first, start, end) = (sequence, token, all.start + i * all.tokens / n);
            // A sequence belongs where more than half of it lies.
            while sequence < all.sequences.end && token + batch.lens[sequence] / 2 < end {
                token += batch.lens[sequence];
                sequence += 1;
            }
            Share { sequences: first..sequence, start, tokens: token - start }
        })
    }
}

impl Stream {
    fn run(
        &mut self,
        params: &dyn Params,
        mut grads: Option<&mut Vec<Vec<f32>>>,
        batch: &TrainBatch,
        inv_temperature: f32,
        chunk: usize,
    ) -> Result<()> {
        (self.loss, self.rows) = (0.0, 0);
        self.outputs.clear();
        let chunks = ((self.share.tokens + chunk / 2) / chunk).max(1);
        for Share { sequences, start, .. } in self.share.cut(batch, chunks) {
            self.pass.lay_out(batch, sequences, start)?;
            self.loss += self.pass.run(params, grads.as_deref_mut(), inv_temperature)?;
            self.rows += self.pass.rows();
            self.outputs.extend(self.pass.outputs());
        }
        Ok(())
    }
}

impl Streams {
    /// Compiles `n` passes, as [`Pass::compile`] does one; for 0 one, and batches stay whole. The first has memory for any
    /// batch.
    pub fn compile(
        config: &ModelConfig,
        head: Head,
        options: &TrainerOptions,
        objective: Option<&Objective>,
        recompute: usize,
        n: usize,
    ) -> Result<Self> {
        let all = options.max_tokens;
        let stream = |i| {
            let max_tokens = if i == 0 { all } else { all.div_ceil(n).max(4 * CHUNK).min(all) };
            let options = TrainerOptions { max_tokens, ..*options };
            let pass = Pass::compile(config, head, &options, objective, recompute)?;
            let (share, result) = (Share::default(), Ok(()));
            Ok(Stream { pass, share, outputs: vec![], loss: 0.0, rows: 0, result })
        };
        let streams = (0..n.max(1)).map(stream).collect::<Result<_>>()?;
        Ok(Self { streams, whole: n == 0, recorded: false, loss: 0.0, rows: 0, outputs: vec![] })
    }

    /// Bytes of the plans' arenas and scratch.
    pub fn memory(&self) -> usize {
        self.streams.iter().map(|s| s.pass.memory()).sum()
    }

    /// The first stream's plan: the others' are like it.
    pub fn plan(&self) -> &Plan {
        &self.streams[0].pass.plan
    }

    /// Whether executions to come of the first stream's plan are recorded; batches are then not cut.
    pub fn record(&mut self, on: bool) {
        self.streams[0].pass.plan.record(on);
        self.recorded = on;
    }

    /// Runs a batch, adding gradients to one buffer of `grads` a stream, if there are any. Returns how many streams it took.
    ///
    /// # Errors
    /// If a sequence is longer than there is memory for; then nothing has been run.
    pub fn run(
        &mut self,
        params: &dyn Params,
        grads: Option<&mut [Vec<Vec<f32>>]>,
        batch: &TrainBatch,
        inv_temperature: f32,
    ) -> Result<usize> {
        let (n, chunk) = self.share_out(batch)?;
        let streams = &mut self.streams[..n];
        let run = |stream: &mut Stream, grads: Option<&mut Vec<Vec<f32>>>| {
            stream.result = stream.run(params, grads, batch, inv_temperature, chunk);
        };
        // Inside the pool once, rather than entering it for every kernel.
        rayon::scope(|_| match grads {
            Some(grads) => apart(streams, &mut grads[..n], |stream, grads| run(stream, Some(grads))),
            None => apart(streams, &mut [(); MOST][..n], |stream, ()| run(stream, None)),
        });
        (self.loss, self.rows) = (0.0, 0);
        self.outputs.clear();
        self.outputs.resize(batch.tokens.len(), 0.0);
        for stream in streams {
            std::mem::replace(&mut stream.result, Ok(()))?;
            self.loss += stream.loss;
            self.rows += stream.rows;
            stream.outputs.iter().for_each(|&(i, x)| self.outputs[i] = x);
        }
        Ok(n)
    }

    /// What the last batch came to.
    pub fn output(&self) -> TrainOutput<'_> {
        TrainOutput { loss: self.loss, outputs: &self.outputs, rows: self.rows }
    }

    /// Gives streams their sequences: how many have some, and how many tokens they take at once.
    fn share_out(&mut self, batch: &TrainBatch) -> Result<(usize, usize)> {
        let whole = Share::whole(batch);
        // A chunk is at most so long: half a chunk more where there is one, half a sequence more on each side.
        let longest = batch.lens.iter().max().copied().unwrap_or(0);
        let fits = |stream: &Stream| longest + 2 * CHUNK <= stream.pass.plan.capacity().tokens;
        if self.whole || self.recorded || !fits(&self.streams[0]) {
            self.streams[0].share = whole;
            self.streams[0].pass.lay_out(batch, 0..batch.lens.len(), 0)?;
            return Ok((1, usize::MAX));
        }
        let n = match self.streams.iter().all(fits) {
            true => ((whole.tokens + STREAM / 2) / STREAM).clamp(1, self.streams.len()),
            false => 1,
        };
        let shares = whole.cut(batch, n);
        self.streams.iter_mut().zip(shares).for_each(|(stream, share)| stream.share = share);
        Ok((n, CHUNK))
    }
}
