//! A model's phases made ready to run: compiled, bound, with made-up tokens.

use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use toolsmith_graphs::{Plan, ops::Work};
use toolsmith_models::batch::{Batch, Decode, Objective, TrainBatch};
use toolsmith_models::convert::ModelSource;
use toolsmith_models::engine::{Engine, EngineOptions};
use toolsmith_models::live::TrainingState;
use toolsmith_models::trainer::{Activations, AdamW, Head, Trainer, TrainerOptions};
use toolsmith_models::weights::{Precision, Weights};
use toolsmith_models::{Error, Result};

/// What is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "lowercase")]
pub enum Phase {
    /// Prompts of `tokens` each in one batch.
    Prefill { sequences: usize, tokens: usize },
    /// `tokens` steps, each a token of every sequence, after `past` tokens of each.
    Decode { sequences: usize, past: usize, tokens: usize },
    /// Forward, backward and AdamW on sequences of `tokens` each, which begin with the same `prompt` tokens; what follows
    /// them is scored. As many layers keep their activations as [`Options::memory_limit`](super::Options::memory_limit) lets them.
    Train {
        sequences: usize,
        tokens: usize,
        #[serde(default)]
        prompt: usize,
    },
}

impl Phase {
    /// Tokens of a run's sequences; a prompt in common counts for each.
    pub fn tokens(&self) -> usize {
        let (Phase::Prefill { sequences, tokens }
        | Phase::Decode { sequences, tokens, .. }
        | Phase::Train { sequences, tokens, .. }) = *self;
        sequences * tokens
    }

    /// Positions a sequence of it takes.
    pub fn context(&self) -> usize {
        match *self {
            Phase::Prefill { tokens, .. } | Phase::Train { tokens, .. } => tokens,
            Phase::Decode { past, tokens, .. } => past + tokens,
        }
    }
}

fn token(i: usize, vocab: usize) -> u32 {
    (i * 7919 % vocab) as u32
}

fn work(plan: &Plan) -> Work {
    plan.steps().filter_map(|s| s.cost).map(|c| c.work).sum()
}

/// An engine large enough for some phases, its cache filled as they need it.
pub struct Inference {
    weights: Weights,
    engine: Engine,
    vocab: usize,
}

impl Inference {
    /// Compiles for the phases of `phases` that are not training, and fills the cache with what decoding follows.
    ///
    /// # Errors
    /// Weights that cannot be read.
    pub fn new(model: &ModelSource, phases: &[Phase], precision: Precision) -> Result<Inference> {
        let (mut slots, mut max_context, mut batch, mut past) = (1, 1, 1, 0);
        for phase in phases {
            let (n, len) = match *phase {
                Phase::Prefill { sequences, tokens } => (sequences, sequences * tokens),
                Phase::Decode { sequences, past: p, .. } => {
                    past = past.max(p);
                    (sequences, sequences.max(p))
                }
                Phase::Train { .. } => continue,
            };
            (slots, batch) = (slots.max(n), batch.max(len));
            max_context = max_context.max(phase.context());
        }
        let options =
            EngineOptions { slots, max_context, max_batch_tokens: batch, kv_memory: None, precision };
        let weights = model.weights(precision)?;
        let engine = Engine::new(&model.config, options)?;
        let mut this = Inference { weights, engine, vocab: model.config.vocab_size };
        if past > 0 {
            this.run(Phase::Prefill { sequences: 1, tokens: past })?;
            let view = this.weights.view();
            let mut bound = this.engine.bind(&view);
            let kv = bound.kv();
            for slot in 1..slots {
                kv.share(0, slot, past);
                // In memory of its own: shared blocks would be read from the processor's cache.
                kv.reserve(slot, 0, past)?;
            }
        }
        Ok(this)
    }

    /// Runs a phase once and says how long its batches took.
    ///
    /// # Errors
    /// A phase this was not made for.
    pub fn run(&mut self, phase: Phase) -> Result<Duration> {
        match phase {
            Phase::Prefill { sequences, tokens } => {
                let ids: Vec<u32> = (0..tokens).map(|i| token(i, self.vocab)).collect();
                let mut batch = Batch::default();
                (0..sequences).for_each(|slot| batch.push(slot, 0, &ids, true));
                self.forward(&batch)
            }
            Phase::Decode { sequences, past, tokens } => {
                (past..past + tokens).map(|past| self.step(sequences, past)).sum()
            }
            Phase::Train { .. } => Err(Error::Batch("training is not inference".into())),
        }
    }

    /// What a run of the phase has to do. Runs a part of it.
    ///
    /// # Errors
    /// As [`Inference::run`].
    pub fn work(&mut self, phase: Phase) -> Result<Work> {
        self.engine.record(true);
        let work = match phase {
            // A step's work grows with its past by the same amount each: the mean is that of the first and the last.
            Phase::Decode { sequences, past, tokens } => {
                let mut at = |past| {
                    self.step(sequences, past)?;
                    Ok::<_, Error>(work(self.engine.plan()))
                };
                let (first, last) = (at(past)?, at(past + tokens - 1)?);
                let mean = |a: u64, b: u64| (a + b) * tokens as u64 / 2;
                Work {
                    read: mean(first.read, last.read),
                    written: mean(first.written, last.written),
                    bf16_flops: mean(first.bf16_flops, last.bf16_flops),
                    f32_flops: mean(first.f32_flops, last.f32_flops),
                }
            }
            phase => {
                self.run(phase)?;
                work(self.engine.plan())
            }
        };
        self.engine.record(false);
        Ok(work)
    }

    /// Runs one batch of the phase twice, the second time recorded, and returns its plan.
    ///
    /// # Errors
    /// As [`Inference::run`].
    pub fn record(&mut self, phase: Phase) -> Result<&Plan> {
        let one = match phase {
            Phase::Decode { sequences, past, .. } => Phase::Decode { sequences, past, tokens: 1 },
            phase => phase,
        };
        self.run(one)?;
        self.engine.record(true);
        self.run(one)?;
        Ok(self.engine.plan())
    }

    fn step(&mut self, sequences: usize, past: usize) -> Result<Duration> {
        let mut batch = Batch::default();
        (0..sequences).for_each(|s| batch.push(s, past, &[token(s + past, self.vocab)], true));
        self.forward(&batch)
    }

    fn forward(&mut self, batch: &Batch) -> Result<Duration> {
        let view = self.weights.view();
        let mut bound = self.engine.bind(&view);
        let start = Instant::now();
        std::hint::black_box(bound.forward(batch)?);
        Ok(start.elapsed())
    }
}

/// A training copy of the model in a temporary file, and a trainer.
pub struct Training {
    trainer: Trainer,
    state: TrainingState,
    batch: TrainBatch,
    _dir: tempfile::TempDir,
}

impl Training {
    /// Copies the weights and compiles the pass for sequences of `tokens` each after `prompt` tokens in common, as
    /// [`Phase::Train`] says. Within `memory_limit` bytes it keeps as many activations as fit, and none if nothing fits.
    ///
    /// # Errors
    /// Weights that cannot be read, a full disk.
    pub fn new(
        model: &ModelSource,
        [sequences, tokens, prompt]: [usize; 3],
        precision: Precision,
        memory_limit: usize,
    ) -> Result<Training> {
        let (n, vocab) = (sequences * tokens, model.config.vocab_size);
        let dir = tempfile::tempdir().map_err(Error::io(Path::new("a temporary directory")))?;
        let weights = model.weights(precision)?;
        let specs = Head::Policy.specs(&model.config);
        let state = TrainingState::create(&dir.path().join("state"), specs, precision, &weights.view())?;
        let options = TrainerOptions {
            max_tokens: n,
            activations: Activations::Recompute,
            inv_temperature: 1.0,
            precision,
        };
        let batch = TrainBatch {
            tokens: (0..n).map(|i| token(if i % tokens < prompt { i % tokens } else { i }, vocab)).collect(),
            lens: vec![tokens; sequences],
            weights: (0..n).map(|i| if i % tokens < prompt { 0.0 } else { 1.0 / n as f32 }).collect(),
            columns: vec![],
        };
        let mut trainer = Trainer::new(&model.config, Head::Policy, &options);
        let left = memory_limit.saturating_sub(state.bytes() + trainer.memory());
        match trainer.prepare(&Objective::CrossEntropy, Activations::Within(left)) {
            Err(Error::Memory { .. }) => trainer.prepare(&Objective::CrossEntropy, Activations::Recompute)?,
            prepared => prepared?,
        };
        Ok(Training { trainer, state, batch, _dir: dir })
    }

    /// One step: forward, backward, AdamW.
    ///
    /// # Errors
    /// None that a small model has.
    pub fn run(&mut self) -> Result<Duration> {
        let hyper = AdamW { lr: 1e-6, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 };
        let start = Instant::now();
        self.trainer.accumulate(&self.state.weights(), &self.batch, &Objective::CrossEntropy)?;
        self.trainer.step(&mut self.state, &hyper, 1.0)?;
        Ok(start.elapsed())
    }

    /// Runs two steps, the second one recorded, and returns the plans: of the pass, of the optimizer.
    ///
    /// # Errors
    /// As [`Training::run`].
    pub fn record(&mut self) -> Result<impl Iterator<Item = &Plan>> {
        self.run()?;
        self.trainer.record(true);
        self.run()?;
        Ok(self.trainer.plans())
    }

    /// What a step has to do. Runs two.
    ///
    /// # Errors
    /// As [`Training::run`].
    pub fn work(&mut self) -> Result<Work> {
        let work = self.record()?.map(work).sum();
        self.trainer.record(false);
        Ok(work)
    }
}
