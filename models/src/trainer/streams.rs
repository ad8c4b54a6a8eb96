//! A small model's batch in parts that cores work on apart, each with memory and gradients of its own.
//!
//! What a kernel of microseconds gains from a second core is lost in waiting and in fetching what the other wrote. Whole
//! sequences share nothing but weights: a stream takes some of them through the whole pass, and gradients meet once an
//! update, in the streams' order. How a batch is parted depends on the batch alone, so no bit of a result depends on threads.

use toolsmith_graphs::{Params, Plan, cpu::apart};

use super::{TrainerOptions, pass::Pass};
use crate::{
    Result,
    batch::{Objective, TrainBatch, TrainOutput},
    config::ModelConfig,
    decoder::Head,
};

/// Tokens for which gradients of their own pay.
const TOKENS: usize = 512;
/// Bytes of gradients that may exist once a stream: of a larger model, products are large enough to share.
const GRADIENTS: usize = 8 << 20;
/// Streams at most.
const MOST: usize = 4;

/// Streams of a trainer whose gradients take so many bytes.
pub(super) fn most(gradients: usize, max_tokens: usize) -> usize {
    if gradients > GRADIENTS { 1 } else { (max_tokens / TOKENS).clamp(1, MOST) }
}

/// One objective compiled, once a stream.
pub(super) struct Streams {
    passes: Vec<Stream>,
    /// Whether batches are not parted.
    whole: bool,
    loss: f64,
    rows: usize,
    /// What came out, aligned with the batch's tokens.
    outputs: Vec<f32>,
}

struct Stream {
    pass: Pass,
    loss: Result<f64>,
}

impl Streams {
    /// Compiles `n` passes, as [`Pass::compile`] does one. The first has memory for any batch.
    pub fn compile(
        config: &ModelConfig,
        head: Head,
        options: &TrainerOptions,
        objective: Option<&Objective>,
        recompute: usize,
        n: usize,
    ) -> Result<Self> {
        let stream = |i| {
            let all = options.max_tokens;
            let max_tokens = if i == 0 { all } else { all.div_ceil(n) * 5 / 4 };
            let options = TrainerOptions { max_tokens, ..*options };
            let pass = Pass::compile(config, head, &options, objective, recompute)?;
            Ok(Stream { pass, loss: Ok(0.0) })
        };
        Ok(Self {
            passes: (0..n).map(stream).collect::<Result<_>>()?,
            whole: false,
            loss: 0.0,
            rows: 0,
            outputs: vec![],
        })
    }

    /// Bytes of the plans' arenas and scratch.
    pub fn memory(&self) -> usize {
        self.passes.iter().map(|s| s.pass.memory()).sum()
    }

    /// The first stream's plan: the others' are like it.
    pub fn plan(&self) -> &Plan {
        &self.passes[0].pass.plan
    }

    /// Whether executions to come of the first stream's plan are recorded; batches then run whole, in it.
    pub fn record(&mut self, on: bool) {
        self.passes[0].pass.plan.record(on);
        self.whole = on;
    }

    /// Runs a batch, adding gradients to one buffer of `grads` a stream, if there are any. Returns how many streams it took.
    pub fn run(
        &mut self,
        params: &dyn Params,
        grads: Option<&mut [Vec<Vec<f32>>]>,
        batch: &TrainBatch,
        inv_temperature: f32,
    ) -> Result<usize> {
        let parts = self.lay_out(batch)?;
        let streams = &mut self.passes[..parts];
        let run = |stream: &mut Stream, grads: Option<&mut Vec<Vec<f32>>>| {
            stream.loss = stream.pass.run(params, grads, inv_temperature);
        };
        // Inside the pool once, rather than entering it for every kernel.
        rayon::scope(|_| match grads {
            Some(grads) => apart(streams, &mut grads[..parts], |stream, grads| run(stream, Some(grads))),
            None => apart(streams, &mut [(); MOST][..parts], |stream, ()| run(stream, None)),
        });
        (self.loss, self.rows) = (0.0, 0);
        self.outputs.clear();
        self.outputs.resize(batch.tokens.len(), 0.0);
        for stream in &mut self.passes[..parts] {
            self.loss += std::mem::replace(&mut stream.loss, Ok(0.0))?;
            self.rows += stream.pass.rows();
            stream.pass.outputs().for_each(|(i, x)| self.outputs[i] = x);
        }
        Ok(parts)
    }

    /// What the last batch came to.
    pub fn output(&self) -> TrainOutput<'_> {
        TrainOutput { loss: self.loss, outputs: &self.outputs, rows: self.rows }
    }

    /// Gives each stream its sequences, about as many tokens each; returns how many streams have some.
    fn lay_out(&mut self, batch: &TrainBatch) -> Result<usize> {
        let t = batch.tokens.len();
        let n = if self.whole { 1 } else { ((t + TOKENS / 2) / TOKENS).clamp(1, self.passes.len()) };
        let (mut sequence, mut token, mut fit) = (0, 0, true);
        for (i, stream) in self.passes[..n].iter_mut().enumerate() {
            let (first, start, end) = (sequence, token, (i + 1) * t / n);
            // A sequence belongs where more than half of it lies.
            while let Some(len) = batch.lens.get(sequence).filter(|&len| token + len / 2 < end) {
                (sequence, token) = (sequence + 1, token + len);
            }
            fit &= stream.pass.lay_out(batch, first..sequence, start).is_ok();
        }
        if fit {
            return Ok(n);
        }
        self.passes[0].pass.lay_out(batch, 0..batch.lens.len(), 0)?;
        Ok(1)
    }
}
