//! A small model's batch in streams that cores work on apart, each a chunk at a time.
//!
//! What a kernel of microseconds gains from a second core is lost in waiting and in fetching what the other wrote. Whole
//! sequences share nothing but weights: a stream takes some of them through the whole pass, with gradients of its own that
//! meet once an update, in the streams' order. And it takes a few at a time, in the same memory, so that what the forward
//! pass keeps is still in a cache when the backward pass wants it. How a batch is cut depends on the batch alone, so no bit
//! of a result depends on threads.

use std::ops::Range;

use toolsmith_graphs::{Params, Plan, cpu::apart, plan::PanelStore};

use super::{TrainerOptions, pass::Pass};
use crate::{
    Result,
    batch::{Objective, TrainBatch, TrainOutput, alike},
    config::ModelConfig,
    decoder::Head,
};

/// Rows for which gradients of their own pay.
const STREAM: usize = 512;
/// Rows taken through the whole pass at once: a few megabytes of activations.
const CHUNK: usize = 192;
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
    panels: PanelStore,
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
    /// At most as many are run and as many tokens scored.
    rows: usize,
}

impl Share {
    fn whole(batch: &TrainBatch, room: usize) -> Self {
        let mut all = Share { sequences: 0..batch.lens.len(), start: 0, tokens: batch.tokens.len(), rows: 0 };
        all.rows = Units { batch, rest: all.clone(), room }.map(|unit| unit.rows).sum();
        all
    }

    /// Cut between units into `n` of about as many rows each.
    fn cut(self, batch: &TrainBatch, room: usize, n: usize) -> impl Iterator<Item = Share> {
        let all = self.rows;
        let (mut units, mut taken) = (Units { batch, rest: self, room }.peekable(), 0);
        (1..=n).map(move |i| {
            let next = units.peek().cloned().unwrap_or_default();
            let mut share = Share { sequences: next.sequences.start..next.sequences.start, ..next };
            (share.tokens, share.rows) = (0, 0);
            // A unit belongs where more than half of it lies.
            while let Some(unit) = units.next_if(|unit| i == n || taken + unit.rows / 2 < i * all / n) {
                taken += unit.rows;
                share.sequences.end = unit.sequences.end;
                (share.tokens, share.rows) = (share.tokens + unit.tokens, share.rows + unit.rows);
            }
            share
        })
    }
}

/// The parts of a share that are not cut: sequences that begin alike, of which a pass runs the beginning once. So long a row
/// of them that the beginning is a small part, or that there is no `room` for more, is cut all the same.
struct Units<'a> {
    batch: &'a TrainBatch,
    rest: Share,
    room: usize,
}

impl Iterator for Units<'_> {
    type Item = Share;

    fn next(&mut self) -> Option<Share> {
        let (batch, rest) = (self.batch, &mut self.rest);
        let mut unit = Share { sequences: rest.sequences.start..rest.sequences.start, ..rest.clone() };
        (unit.tokens, unit.rows) = (0, 0);
        let mut end = rest.start;
        let sequences = batch.lens[rest.sequences.clone()].iter().map(|len| {
            end += len;
            end - len..end
        });
        for (own, shared) in alike(sequences, |own| &batch.tokens[own.clone()]) {
            let scored = batch.weights[own.clone()].iter().filter(|&&w| w != 0.0).count();
            let rows = unit.rows + (own.len() - shared).max(scored);
            if unit.rows > 0 && (rows > self.room || unit.rows > (CHUNK / 2).max(4 * shared)) {
                break;
            }
            unit.sequences.end += 1;
            (unit.tokens, unit.rows) = (unit.tokens + own.len(), rows);
        }
        (rest.sequences.start, rest.start) = (unit.sequences.end, unit.start + unit.tokens);
        (unit.rows > 0).then_some(unit)
    }
}

impl Stream {
    fn run(
        &mut self,
        params: &dyn Params,
        mut grads: Option<&mut Vec<Vec<f32>>>,
        batch: &TrainBatch,
        inv_temperature: f32,
        (chunk, room): (usize, usize),
    ) -> Result<()> {
        (self.loss, self.rows) = (0.0, 0);
        self.outputs.clear();
        let chunks = ((self.share.rows + chunk / 2) / chunk).max(1);
        for Share { sequences, start, .. } in self.share.clone().cut(batch, room, chunks) {
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
        let streams = (0..n.max(1)).map(stream).collect::<Result<Vec<_>>>()?;
        let panels = PanelStore::new(&streams[0].pass.plan);
        Ok(Self { streams, panels, whole: n == 0, recorded: false, loss: 0.0, rows: 0, outputs: vec![] })
    }

    /// Bytes of the plans' arenas and scratch, and of the panels of weights.
    pub fn memory(&self) -> usize {
        self.panels.bytes() + self.streams.iter().map(|s| s.pass.memory()).sum::<usize>()
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
        let (n, sizes) = self.share_out(batch)?;
        self.panels.fill(params);
        let params = &self.panels.beside(params);
        let streams = &mut self.streams[..n];
        let run = |stream: &mut Stream, grads: Option<&mut Vec<Vec<f32>>>| {
            stream.result = stream.run(params, grads, batch, inv_temperature, sizes);
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

    /// Gives streams their sequences. Returns how many have some, how many rows they take at once, and for how many of one unit
    /// there is room.
    fn share_out(&mut self, batch: &TrainBatch) -> Result<(usize, (usize, usize))> {
        // A chunk is at most so long: half a chunk more where there is one, half a unit more on each side.
        let room = |stream: &Stream| stream.pass.plan.capacity().tokens.saturating_sub(2 * CHUNK);
        let least = self.streams.iter().map(room).min().unwrap_or(0);
        let (parted, first) = (Share::whole(batch, least), room(&self.streams[0]));
        let together = Share::whole(batch, first);
        let fits =
            |share: &Share, room| Units { batch, rest: share.clone(), room }.all(|unit| unit.rows <= room);
        // The first stream has more room. Alone it may run so many rows less that it is as fast.
        let (whole, n, room) = if fits(&parted, least) && 4 * parted.rows <= 5 * together.rows {
            let n = ((parted.rows + STREAM / 2) / STREAM).clamp(1, self.streams.len());
            (parted, n, least)
        } else {
            (together, 1, first)
        };
        if self.whole || self.recorded || !fits(&whole, room) {
            self.streams[0].share = whole;
            self.streams[0].pass.lay_out(batch, 0..batch.lens.len(), 0)?;
            return Ok((1, (usize::MAX, usize::MAX)));
        }
        let shares = whole.cut(batch, room, n);
        self.streams.iter_mut().zip(shares).for_each(|(stream, share)| stream.share = share);
        Ok((n, (CHUNK, room)))
    }
}
