//! Training: a decoder's forward and backward pass for an objective, and AdamW.
//!
//! A trainer holds compiled plans and gradient buffers, no weights: they are lent for each call, since the sampler
//! reads the same memory. Inside, a row predicts the token after it; outside, everything is aligned with the token
//! itself (see [`TrainBatch`]). This file does the shift and nothing else happens between.

use toolsmith_graphs::{
    Bindings, Dim, Graph, Options, Params, Plan, Segment, Tensor,
    autograd::DiffOptions,
    loss::{self, PolicyConstants},
    ops::AdamWConstants,
    optimizer::{Optimizer, Trained},
    plan::{F32Input, Master, ParamState, Slot, U32Input},
};

use crate::{
    Error, Result,
    batch::{Objective, TrainBatch, TrainOutput},
    config::{ModelConfig, ParamSpec},
    decoder::{Decoder, Keys, VALUE_HEAD},
    live::{ParamMut, TrainingState},
    weights::Precision,
};

pub use crate::decoder::Head;

/// Sizes and choices of a trainer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainerOptions {
    /// Tokens a [`TrainBatch`] may carry.
    pub max_tokens: usize,
    /// Recompute each layer's activations in the backward pass; the same numbers, bit for bit, in less memory.
    pub gradient_checkpointing: bool,
    /// 1 / temperature of the distribution whose log-probabilities are trained: the sampler's.
    pub inv_temperature: f32,
    /// Precision of weights and matmul inputs.
    pub precision: Precision,
}

/// Computes losses and gradients of one model and updates it.
pub struct Trainer {
    config: ModelConfig,
    head: Head,
    options: TrainerOptions,
    specs: Vec<ParamSpec>,
    grads: Vec<Vec<f32>>,
    forward: Option<Pass>,
    passes: Vec<(Objective, Pass)>,
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

/// A compiled objective: outputs are the per-row numbers `[t]` and, with an objective, the loss.
struct Pass {
    plan: Plan,
    ids: U32Input,
    positions: U32Input,
    targets: Option<U32Input>,
    inv_temperature: Option<F32Input>,
    weights: Option<F32Input>,
    columns: Vec<F32Input>,
}

impl Trainer {
    /// Makes a trainer; plans are compiled when an objective first occurs.
    pub fn new(config: &ModelConfig, head: Head, options: &TrainerOptions) -> Self {
        let specs = head.specs(config);
        Self {
            config: config.clone(),
            head,
            options: *options,
            grads: specs.iter().map(|s| vec![0.0; s.numel()]).collect(),
            specs,
            forward: None,
            passes: vec![],
            optimizer: None,
        }
    }

    /// The parameters, in the order of [`Trainer::gradient`].
    pub fn specs(&self) -> &[ParamSpec] {
        &self.specs
    }

    /// The gradient accumulated since the last step for parameter `i`, in the parameter's layout.
    pub fn gradient(&self, i: usize) -> &[f32] {
        &self.grads[i]
    }

    /// The plans compiled so far, to look at: one for each objective, the optimizer's last.
    pub fn plans(&self) -> impl Iterator<Item = &Plan> {
        let passes = self.passes.iter().map(|(_, pass)| &pass.plan);
        passes.chain(self.optimizer.iter().map(|(.., optimizer)| optimizer.plan()))
    }

    /// Whether executions to come of the plans compiled so far are recorded: see [`Plan::record`].
    pub fn record(&mut self, on: bool) {
        self.passes.iter_mut().for_each(|(_, pass)| pass.plan.record(on));
        self.optimizer.iter_mut().for_each(|(.., optimizer)| optimizer.record(on));
    }

    /// Forgets accumulated gradients.
    pub fn zero_gradients(&mut self) {
        self.grads.iter_mut().for_each(|g| g.fill(0.0));
    }

    /// Log-probabilities (policy) or values (critic) under `weights`, `[t]`; 0 for the first token of each sequence
    /// and for tokens of weight 0, for which nothing is computed.
    ///
    /// # Errors
    /// If the batch is larger than the trainer or its arrays don't fit.
    pub fn forward(&mut self, weights: &dyn Params, batch: &TrainBatch) -> Result<Vec<f32>> {
        check(batch, 0, &self.options)?;
        let pass = match &mut self.forward {
            Some(pass) => pass,
            empty => empty.insert(Pass::compile(&self.config, self.head, &self.options, None)?),
        };
        pass.run(weights, None, batch, self.options.inv_temperature)?;
        Ok(batch.to_tokens(pass.plan.output(0)))
    }

    /// Adds the gradient of the objective on `batch` to the buffers and returns its loss. Tokens of weight 0 cost
    /// nothing in the head and output 0.
    ///
    /// # Errors
    /// If the batch is larger than the trainer, its arrays don't fit, or the objective is not this head's.
    pub fn accumulate(
        &mut self,
        weights: &dyn Params,
        batch: &TrainBatch,
        objective: &Objective,
    ) -> Result<TrainOutput> {
        if matches!(objective, Objective::Value { .. }) != (self.head == Head::Value) {
            return Err(Error::Batch(format!("{objective:?} is no objective of a {:?} head", self.head)));
        }
        check(batch, objective.columns(), &self.options)?;
        let i = match self.passes.iter().position(|(o, _)| o == objective) {
            Some(i) => i,
            None => {
                let pass = Pass::compile(&self.config, self.head, &self.options, Some(objective))?;
                self.passes.push((objective.clone(), pass));
                self.passes.len() - 1
            }
        };
        let pass = &mut self.passes[i].1;
        pass.run(weights, Some(&mut self.grads), batch, self.options.inv_temperature)?;
        Ok(TrainOutput {
            loss: f64::from(pass.plan.output(1)[0]),
            outputs: batch.to_tokens(pass.plan.output(0)),
        })
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
        let (grads, mut masters) = (&mut self.grads, Masters(state.params_mut()));
        // Inside the pool once, rather than entering it for every kernel.
        let norm = rayon::scope(|_| optimizer.step(grads, &mut masters, hyper.lr, step, 1.0))?;
        state.set_step(step);
        self.zero_gradients();
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

/// Compares a batch's lengths with each other and with the trainer.
fn check(batch: &TrainBatch, columns: usize, options: &TrainerOptions) -> Result<()> {
    let t = batch.tokens.len();
    let fail = |message: String| Err(Error::Batch(message));
    if t > options.max_tokens {
        return fail(format!("a batch of {t} tokens exceeds the trainer's {}", options.max_tokens));
    }
    if batch.lens.iter().sum::<usize>() != t || batch.lens.contains(&0) {
        return fail(format!("sequence lengths {:?} do not make up {t} tokens", batch.lens));
    }
    if batch.columns.len() < columns {
        return fail(format!("the objective needs {columns} columns, the batch has {}", batch.columns.len()));
    }
    if batch.weights.len() != t || batch.columns.iter().any(|c| c.len() != t) {
        return fail(format!("weights or columns have not the batch's {t} tokens"));
    }
    Ok(())
}

impl Objective {
    /// Number of per-token columns the objective reads.
    pub fn columns(&self) -> usize {
        match self {
            Objective::CrossEntropy => 0,
            Objective::Policy(p) => 2 + usize::from(p.kl_coef != 0.0),
            Objective::Value { .. } => 2,
        }
    }
}

impl TrainBatch {
    /// From token alignment to row alignment: row i gets what belongs to token i + 1 of its sequence, and a
    /// sequence's last row `last`.
    fn to_rows<T: Copy>(&self, tokens: &[T], last: T) -> Vec<T> {
        let mut rows = Vec::with_capacity(tokens.len());
        let mut at = 0;
        for &len in &self.lens {
            rows.extend_from_slice(&tokens[at + 1..at + len]);
            rows.push(last);
            at += len;
        }
        rows
    }

    /// Back: token i + 1 gets what row i computed, a sequence's first token 0; so does a token of weight 0.
    fn to_tokens(&self, rows: &[f32]) -> Vec<f32> {
        let mut tokens = Vec::with_capacity(rows.len());
        let mut at = 0;
        for &len in &self.lens {
            tokens.push(0.0);
            tokens.extend_from_slice(&rows[at..at + len - 1]);
            at += len;
        }
        tokens.iter_mut().zip(&self.weights).filter(|(_, w)| **w == 0.0).for_each(|(t, _)| *t = 0.0);
        tokens
    }
}

impl Pass {
    fn compile(
        config: &ModelConfig,
        head: Head,
        options: &TrainerOptions,
        objective: Option<&Objective>,
    ) -> Result<Self> {
        let g = Graph::new();
        let decoder = Decoder::new(&g, config, head, Keys::Batch, true, options.max_tokens);
        let ids = g.u32_input("ids", &[Dim::Tokens]);
        let positions = g.u32_input("positions", &[Dim::Tokens]);
        let x = decoder.final_norm(&decoder.layers(&ids, &positions));
        let outputs = match head {
            Head::Policy => {
                let targets = g.u32_input("targets", &[Dim::Tokens]);
                let inv_temperature = g.f32_input("inv_temperature", &[]);
                x.token_logprob(&decoder.lm_head(), &targets, &inv_temperature)
            }
            Head::Value => x.linear(&decoder.param(VALUE_HEAD), None).reshape(&[Dim::Tokens]),
        };
        let loss = objective.map(|objective| {
            let column = |name: &str| g.f32_input(name, &[Dim::Tokens]);
            let weights = column("weights");
            let loss = objective_loss(objective, &outputs, &weights, column);
            let options = DiffOptions { checkpoint: options.gradient_checkpointing };
            g.differentiate(&loss, &[], options);
            loss
        });
        let wanted: Vec<&Tensor> = [&outputs].into_iter().chain(&loss).collect();
        let bf16 = options.precision == Precision::Bf16;
        let plan = Plan::compile(&g, &wanted, Options { tokens: options.max_tokens, rows: 0, bf16 })?;
        let names = objective.map_or(&[][..], column_names);
        let columns = objective.map_or(0, Objective::columns);
        Ok(Self {
            ids: plan.u32_input("ids")?,
            positions: plan.u32_input("positions")?,
            targets: plan.u32_input("targets").ok(),
            inv_temperature: plan.f32_input("inv_temperature").ok(),
            weights: plan.f32_input("weights").ok(),
            columns: names[..columns]
                .iter()
                .map(|n| plan.f32_input(n))
                .collect::<std::result::Result<_, _>>()?,
            plan,
        })
    }

    fn run(
        &mut self,
        params: &dyn Params,
        grads: Option<&mut Vec<Vec<f32>>>,
        batch: &TrainBatch,
        inv_temperature: f32,
    ) -> Result<()> {
        let t = batch.tokens.len();
        let (segments, positions) = pack(&batch.lens);
        // A token of weight 0 is no target: the head skips its row.
        let scored: Vec<u32> = batch
            .tokens
            .iter()
            .zip(&batch.weights)
            .map(|(&id, &w)| if w == 0.0 { u32::MAX } else { id })
            .collect();
        let targets = batch.to_rows(&scored, u32::MAX);
        let weights = batch.to_rows(&batch.weights, 0.0);
        let columns: Vec<Vec<f32>> = batch.columns.iter().map(|c| batch.to_rows(c, 0.0)).collect();
        let temperature = [inv_temperature];
        let mut b = Bindings::new(t, 0)
            .params(params)
            .segments(&segments)
            .u32(self.ids, &batch.tokens)
            .u32(self.positions, &positions);
        if let Some(grads) = grads {
            b = b.grads(grads);
        }
        if let Some(input) = self.targets {
            b = b.u32(input, &targets);
        }
        if let Some(input) = self.inv_temperature {
            b = b.f32(input, &temperature);
        }
        if let Some(input) = self.weights {
            b = b.f32(input, &weights);
        }
        for (&input, column) in self.columns.iter().zip(&columns) {
            b = b.f32(input, column);
        }
        let plan = &mut self.plan;
        // Inside the pool once, rather than entering it for every kernel.
        rayon::scope(|_| plan.run(&mut b))?;
        Ok(())
    }
}

/// Segments and positions of whole sequences, end to end.
fn pack(lens: &[usize]) -> (Vec<Segment>, Vec<u32>) {
    let (mut segments, mut positions) = (Vec::with_capacity(lens.len()), vec![]);
    for &len in lens {
        let start = positions.len() as u32;
        segments.push(Segment::whole(start, len as u32));
        positions.extend(0..len as u32);
    }
    (segments, positions)
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
    let x = decoder.final_norm(&decoder.layers(&ids, &positions));
    let logits = x.linear(&decoder.lm_head(), None);
    let bf16 = precision == Precision::Bf16;
    let mut plan = Plan::compile(&g, &[&logits], Options { tokens: t, rows: 0, bf16 })?;
    let (segments, positions) = pack(lens);
    let mut b = Bindings::new(t, 0)
        .params(weights)
        .segments(&segments)
        .u32(plan.u32_input("ids")?, tokens)
        .u32(plan.u32_input("positions")?, &positions);
    plan.run(&mut b)?;
    Ok(plan.output(0).to_vec())
}

fn column_names(objective: &Objective) -> &'static [&'static str] {
    match objective {
        Objective::CrossEntropy => &[],
        Objective::Policy(_) => &["old_logprobs", "advantages", "ref_logprobs"],
        Objective::Value { .. } => &["old_values", "returns"],
    }
}

fn objective_loss(
    objective: &Objective,
    outputs: &Tensor,
    weights: &Tensor,
    column: impl Fn(&str) -> Tensor,
) -> Tensor {
    let [first, second, third] = [0, 1, 2].map(|i| column_names(objective).get(i));
    match objective {
        Objective::CrossEntropy => loss::cross_entropy(outputs, weights),
        Objective::Policy(p) => {
            let constants = PolicyConstants {
                clip_low: p.clip_range_low,
                clip_high: p.clip_range_high,
                dual_clip: p.dual_clip,
                kl_coef: p.kl_coef,
            };
            let [old, advantages] = [first, second].map(|n| column(n.expect("a policy column")));
            let reference = third.filter(|_| p.kl_coef != 0.0).map(|n| column(n));
            loss::policy(outputs, &old, &advantages, weights, reference.as_ref(), &constants)
        }
        Objective::Value { clip_range } => {
            let [old, returns] = [first, second].map(|n| column(n.expect("a value column")));
            loss::value(outputs, &old, &returns, weights, *clip_range)
        }
    }
}

/// The training copy's parameters as the optimizer's graph takes them.
struct Masters<'a>(Vec<ParamMut<'a>>);

impl ParamState for Masters<'_> {
    fn slot(&mut self, index: usize) -> Slot<'_> {
        match &mut self.0[index] {
            ParamMut::Bf16 { hi, lo, m, v } => Slot { weights: Master::Bf16 { hi, lo }, m, v },
            ParamMut::F32 { w, m, v } => Slot { weights: Master::F32(w), m, v },
        }
    }
}
