//! Training: a decoder's forward and backward pass for an objective, and AdamW.
//!
//! A trainer holds compiled plans and gradient buffers, no weights: they are lent for each call, since the sampler
//! reads the same memory.

mod pass;
mod rows;
mod streams;

use toolsmith_graphs::{
    Bindings, Dim, Graph, Options, Params, Plan, cpu,
    ops::AdamWConstants,
    optimizer::{Optimizer, Trained},
    plan::{Master, Moments, ParamState, Slot},
};

use crate::{
    Error, Result,
    batch::{Objective, TrainBatch, TrainOutput},
    config::{ModelConfig, ParamSpec},
    decoder::{Decoder, Keys},
    live::{ParamMut, TrainingState},
    weights::Precision,
};
use pass::pack;
use streams::Streams;

pub use crate::decoder::Head;

/// Sizes and choices of a trainer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainerOptions {
    /// Tokens of a [`TrainBatch`] that may be run, and that may be scored. A beginning that sequences share is run once.
    pub max_tokens: usize,
    /// What the backward pass finds of the forward pass. The gradients are the same, bit for bit.
    pub activations: Activations,
    /// 1 / temperature of the distribution whose log-probabilities are trained: the sampler's.
    pub inv_temperature: f32,
    /// Precision of weights and matmul inputs.
    pub precision: Precision,
}

/// Which layers keep their activations for the backward pass; the others compute them again there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activations {
    /// All.
    Keep,
    /// None: the least memory.
    Recompute,
    /// As many as fit, if the arena and the scratch of an objective's plan may take so many bytes.
    Within(usize),
}

/// What training for an objective takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Layers that compute their activations again, of all.
    pub recomputed: usize,
    /// Layers.
    pub layers: usize,
    /// Bytes of the plan's arena and scratch.
    pub bytes: usize,
}

/// Computes losses and gradients of one model and updates it.
pub struct Trainer {
    config: ModelConfig,
    head: Head,
    options: TrainerOptions,
    specs: Vec<ParamSpec>,
    /// Gradients by parameter, once a stream.
    grads: Vec<Vec<Vec<f32>>>,
    streams: usize,
    /// Streams with gradients of the present step.
    used: usize,
    forward: Option<Streams>,
    passes: Vec<(Objective, Streams, Footprint)>,
    /// Compiled for the constants beside it; a change of theirs compiles another.
    optimizer: Option<(AdamW, f32, Optimizer)>,
}

/// Constants of an AdamW step (arXiv 1711.05101), PyTorch's semantics. Weight decay applies to every parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate of this step.
    pub lr: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
}

impl Trainer {
    /// Makes a trainer; plans are compiled when an objective first occurs.
    pub fn new(config: &ModelConfig, head: Head, options: &TrainerOptions) -> Self {
        let specs = head.specs(config);
        let grads: Vec<Vec<f32>> = specs.iter().map(|s| vec![0.0; s.numel()]).collect();
        let streams = streams::most(grads.iter().map(|g| size_of_val(&g[..])).sum(), options.max_tokens);
        Self {
            config: config.clone(),
            head,
            options: *options,
            grads: vec![grads; streams.max(1)],
            streams,
            used: 1,
            specs,
            forward: None,
            passes: vec![],
            optimizer: None,
        }
    }

    /// A trainer without gradients, of which only [`Trainer::forward`] is used.
    pub fn scorer(config: &ModelConfig, head: Head, options: &TrainerOptions) -> Self {
        let mut scorer = Self::new(config, head, options);
        scorer.grads.iter_mut().for_each(|grads| *grads = vec![]);
        scorer
    }

    /// The parameters, in the order of [`Trainer::gradient`].
    pub fn specs(&self) -> &[ParamSpec] {
        &self.specs
    }

    /// Bytes of the gradients and of the plans compiled so far.
    pub fn memory(&self) -> usize {
        let grads = self.grads.iter().flatten().map(|g| size_of_val(&g[..])).sum::<usize>();
        let passes = self.passes.iter().map(|(_, pass, _)| pass).chain(&self.forward);
        grads + passes.map(Streams::memory).sum::<usize>()
    }

    /// The gradient accumulated since the last step for parameter `i`, in the parameter's layout.
    pub fn gradient(&self, i: usize) -> Vec<f32> {
        let (first, rest) = self.grads.split_first().expect("there is a stream");
        let mut sum = first[i].clone();
        rest.iter().for_each(|grads| cpu::add_assign(&mut sum, &grads[i]));
        sum
    }

    /// The plans compiled so far, to look at: one for each objective, the optimizer's last.
    pub fn plans(&self) -> impl Iterator<Item = &Plan> {
        let passes = self.passes.iter().map(|(_, pass, _)| pass.plan());
        passes.chain(self.optimizer.iter().map(|(.., optimizer)| optimizer.plan()))
    }

    /// Whether executions to come of the plans compiled so far are recorded: see [`Plan::record`].
    pub fn record(&mut self, on: bool) {
        self.passes.iter_mut().for_each(|(_, pass, _)| pass.record(on));
        self.optimizer.iter_mut().for_each(|(.., optimizer)| optimizer.record(on));
    }

    /// Forgets accumulated gradients.
    pub fn zero_gradients(&mut self) {
        self.grads.iter_mut().flatten().for_each(|g| g.fill(0.0));
        self.used = 1;
    }

    /// Log-probabilities (policy) or values (critic) under `weights`, `[t]`; 0 for the first token of each sequence
    /// and for tokens of weight 0, for which nothing is computed.
    ///
    /// # Errors
    /// If the batch is larger than the trainer or its arrays don't fit.
    pub fn forward(&mut self, weights: &dyn Params, batch: &TrainBatch) -> Result<&[f32]> {
        batch.check(0, self.config.vocab_size)?;
        self.prepare_forward()?;
        let pass = self.forward.as_mut().expect("just compiled");
        pass.run(weights, None, batch, self.options.inv_temperature)?;
        Ok(pass.output().outputs)
    }

    /// Compiles what [`Trainer::forward`] runs, if that has not happened.
    ///
    /// # Errors
    /// If the graph exceeds what a plan can bind.
    pub fn prepare_forward(&mut self) -> Result<()> {
        if self.forward.is_none() {
            self.forward = Some(self.compile(None, 0)?);
        }
        Ok(())
    }

    /// Compiles what [`Trainer::accumulate`] runs for `objective`, if that has not happened, with `activations` in place of
    /// the options': for [`Activations::Within`] the plan that recomputes the fewest layers and fits.
    ///
    /// # Errors
    /// [`Error::Memory`] if none fits; if the graph exceeds what a plan can bind.
    pub fn prepare(&mut self, objective: &Objective, activations: Activations) -> Result<Footprint> {
        self.options.activations = activations;
        let i = self.pass(objective)?;
        Ok(self.passes[i].2)
    }

    fn compile(&self, objective: Option<&Objective>, recompute: usize) -> Result<Streams> {
        Streams::compile(&self.config, self.head, &self.options, objective, recompute, self.streams)
    }

    fn pass(&mut self, objective: &Objective) -> Result<usize> {
        if let Some(i) = self.passes.iter().position(|(o, ..)| o == objective) {
            return Ok(i);
        }
        let layers = self.config.num_hidden_layers;
        let compile = |n| self.compile(Some(objective), n);
        let (recomputed, pass) = match self.options.activations {
            Activations::Keep => (0, compile(0)?),
            Activations::Recompute => (layers, compile(layers)?),
            Activations::Within(given) => {
                let all = compile(layers)?;
                if all.memory() > given {
                    return Err(Error::Memory { least: all.memory(), given });
                }
                // Each layer more takes less memory: the fewest that fit are from `least` to those.
                let (mut least, mut enough) = (0, (layers, all));
                while least < enough.0 {
                    let middle = (least + enough.0) / 2;
                    let pass = compile(middle)?;
                    match pass.memory() <= given {
                        true => enough = (middle, pass),
                        false => least = middle + 1,
                    }
                }
                enough
            }
        };
        let footprint = Footprint { recomputed, layers, bytes: pass.memory() };
        self.passes.push((objective.clone(), pass, footprint));
        Ok(self.passes.len() - 1)
    }

    /// Adds the gradient of the objective on `batch` to the buffers and returns its loss. Tokens of weight 0
    /// output 0; those behind a sequence's last scored token cost nothing, the others nothing behind the last layer's
    /// attention. Of sequences one behind the other that begin with the same tokens, these are computed once.
    ///
    /// # Errors
    /// If the batch is larger than the trainer, its arrays or token ids don't fit, or the objective is not this head's. All
    /// gradients of the step are then forgotten, since a part of the batch may have added its own.
    pub fn accumulate(
        &mut self,
        weights: &dyn Params,
        batch: &TrainBatch,
        objective: &Objective,
    ) -> Result<TrainOutput<'_>> {
        let i = self.add(weights, batch, objective).inspect_err(|_| self.zero_gradients())?;
        Ok(self.passes[i].1.output())
    }

    /// Adds the gradient of `batch` and returns which pass did.
    fn add(&mut self, weights: &dyn Params, batch: &TrainBatch, objective: &Objective) -> Result<usize> {
        if matches!(objective, Objective::Value { .. }) != (self.head == Head::Value) {
            return Err(Error::Batch(format!("{objective:?} is no objective of a {:?} head", self.head)));
        }
        batch.check(objective.columns(), self.config.vocab_size)?;
        let i = self.pass(objective)?;
        let pass = &mut self.passes[i].1;
        let used = pass.run(weights, Some(&mut self.grads), batch, self.options.inv_temperature)?;
        self.used = self.used.max(used);
        Ok(i)
    }

    /// Scales the gradients to the global norm `max_grad_norm` if they exceed it (0 leaves them), updates `state` by
    /// AdamW in place, zeroes the gradients and counts the step. Returns the norm before clipping.
    ///
    /// # Errors
    /// If `state` has other parameters than this trainer.
    pub fn step(&mut self, state: &mut TrainingState, hyper: &AdamW, max_grad_norm: f32) -> Result<f32> {
        if state.specs() != self.specs {
            return Err(Error::Batch(format!(
                "{}: has other parameters than the model being trained",
                state.path().display()
            )));
        }
        let step = state.step() + 1;
        let constants = AdamW { lr: 0.0, ..*hyper };
        let fits = |o: &(AdamW, f32, Optimizer)| o.0 == constants && o.1 == max_grad_norm;
        if !self.optimizer.as_ref().is_some_and(fits) {
            let optimizer = compile_optimizer(&self.specs, hyper, max_grad_norm)?;
            self.optimizer = Some((constants, max_grad_norm, optimizer));
        }
        let (.., optimizer) = self.optimizer.as_mut().expect("compiled above");
        let grads = &mut self.grads[..self.used];
        let mut masters = Masters(state.params_mut());
        // Inside the pool once, rather than entering it for every kernel.
        let norm = rayon::scope(|_| optimizer.step(grads, &mut masters, hyper.lr, step, 1.0))?;
        self.used = 1;
        state.set_step(step);
        Ok(norm)
    }
}

fn compile_optimizer(specs: &[ParamSpec], hyper: &AdamW, max_grad_norm: f32) -> Result<Optimizer> {
    let trained: Vec<Trained> = specs
        .iter()
        .enumerate()
        .map(|(index, s)| Trained { index, name: s.name.clone(), shape: s.shape.clone(), decay: true })
        .collect();
    let AdamW { beta1, beta2, eps, weight_decay, .. } = *hyper;
    let constants = AdamWConstants { beta1, beta2, eps, weight_decay };
    Ok(Optimizer::new(&trained, constants, (max_grad_norm > 0.0).then_some(max_grad_norm))?)
}

/// Logits of every position `[t, vocab]` of whole sequences, end to end with lengths `lens`. They are held whole and the
/// plan is compiled for the call: for comparison with references, not for running.
///
/// # Errors
/// If the lengths don't make up the tokens.
pub fn logits(
    config: &ModelConfig,
    precision: Precision,
    causal: bool,
    weights: &dyn Params,
    tokens: &[u32],
    lens: &[usize],
) -> Result<Vec<f32>> {
    let t = tokens.len();
    if lens.iter().sum::<usize>() != t {
        return Err(Error::Batch(format!("sequence lengths {lens:?} do not make up {t} tokens")));
    }
    let g = Graph::new();
    let decoder = Decoder::new(&g, config, Head::Policy, Keys::Batch, causal, t);
    let ids = g.u32_input("ids", &[Dim::Tokens]);
    let positions = g.u32_input("positions", &[Dim::Tokens]);
    let x = decoder.final_norm(&decoder.layers(&ids, &positions, None, None));
    let logits = x.linear(&decoder.lm_head(), None);
    let bf16 = precision == Precision::Bf16;
    let mut plan = Plan::compile(&g, &[&logits], Options { tokens: t, rows: 0, bf16 })?;
    let (mut segments, mut positions) = (vec![], vec![]);
    pack(lens, &mut segments, &mut positions);
    let mut b = Bindings::new(t, 0)
        .params(weights)
        .segments(&segments)
        .u32(plan.u32_input("ids")?, tokens)
        .u32(plan.u32_input("positions")?, &positions);
    plan.run(&mut b)?;
    Ok(plan.output(0).to_vec())
}

/// The training copy's parameters as the optimizer's graph takes them.
struct Masters<'a>(Vec<ParamMut<'a>>);

impl ParamState for Masters<'_> {
    fn slot(&mut self, index: usize) -> Slot<'_> {
        match &mut self.0[index] {
            ParamMut::Bf16 { hi, lo, moments } => {
                Slot { weights: Master::Bf16 { hi, lo }, moments: reborrow(moments) }
            }
            ParamMut::F32 { w, moments } => Slot { weights: Master::F32(w), moments: reborrow(moments) },
        }
    }

    fn moment_bytes(&self, index: usize) -> usize {
        let (ParamMut::Bf16 { moments, .. } | ParamMut::F32 { moments, .. }) = &self.0[index];
        moments.bytes()
    }
}

fn reborrow<'a>(moments: &'a mut Moments) -> Moments<'a> {
    match moments {
        Moments::F32 { m, v } => Moments::F32 { m, v },
        Moments::Bf16 { m, v } => Moments::Bf16 { m, v },
    }
}
