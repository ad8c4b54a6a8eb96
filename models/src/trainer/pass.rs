//! One objective compiled: the decoder's forward pass, the loss, and its gradients, run on packed sequences.
//!
//! Inside, a row predicts the token after it; outside, everything is aligned with the token itself (see [`TrainBatch`]).
//! This file does the shift, into buffers that it keeps: running a pass again allocates nothing.

use toolsmith_graphs::{
    Bindings, Dim, Graph, Options, Params, Plan, Segment, Tensor,
    autograd::DiffOptions,
    loss::{self, PolicyConstants},
    plan::{F32Input, U32Input},
};

use super::TrainerOptions;
use crate::{
    Error, Result,
    batch::{Objective, TrainBatch, TrainOutput},
    config::ModelConfig,
    decoder::{Decoder, Head, Keys, VALUE_HEAD},
    weights::Precision,
};

/// A compiled objective: outputs are the per-row numbers `[t]` and, with an objective, the loss.
pub(super) struct Pass {
    pub plan: Plan,
    ids: U32Input,
    positions: U32Input,
    targets: Option<U32Input>,
    inv_temperature: Option<F32Input>,
    weights: Option<F32Input>,
    columns: Vec<F32Input>,
    rows: Rows,
}

/// A batch as the plan reads it, a row for the token before the one it speaks of.
#[derive(Default)]
struct Rows {
    segments: Vec<Segment>,
    positions: Vec<u32>,
    targets: Vec<u32>,
    weights: Vec<f32>,
    columns: Vec<Vec<f32>>,
    /// What came out, aligned with the tokens again.
    outputs: Vec<f32>,
}

impl Pass {
    /// Compiles the forward pass, and with an objective the backward pass, in which the first `recompute` layers compute
    /// their activations again.
    pub fn compile(
        config: &ModelConfig,
        head: Head,
        options: &TrainerOptions,
        objective: Option<&Objective>,
        recompute: usize,
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
            g.differentiate(&loss, &[], DiffOptions { recompute });
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
            rows: Rows::default(),
        })
    }

    /// Bytes of the plan's arena and scratch.
    pub fn memory(&self) -> usize {
        let (arena, scratch) = self.plan.memory();
        arena + scratch
    }

    /// The last run of a pass with an objective.
    pub fn output(&self) -> TrainOutput<'_> {
        TrainOutput { loss: self.plan.output(1)[0].into(), outputs: &self.rows.outputs }
    }

    /// Runs the pass, adding to `grads` if it has an objective, and returns what it computed for each token `[t]`.
    pub fn run(
        &mut self,
        params: &dyn Params,
        grads: Option<&mut Vec<Vec<f32>>>,
        batch: &TrainBatch,
        inv_temperature: f32,
    ) -> Result<&[f32]> {
        self.rows.fill(batch, self.columns.len());
        let Rows { segments, positions, targets, weights, columns, outputs } = &mut self.rows;
        let temperature = [inv_temperature];
        let mut b = Bindings::new(batch.tokens.len(), 0)
            .params(params)
            .segments(segments)
            .u32(self.ids, &batch.tokens)
            .u32(self.positions, positions);
        if let Some(grads) = grads {
            b = b.grads(grads);
        }
        if let Some(input) = self.targets {
            b = b.u32(input, targets);
        }
        if let Some(input) = self.inv_temperature {
            b = b.f32(input, &temperature);
        }
        if let Some(input) = self.weights {
            b = b.f32(input, weights);
        }
        for (&input, column) in self.columns.iter().zip(columns.iter()) {
            b = b.f32(input, column);
        }
        let plan = &mut self.plan;
        // Inside the pool once, rather than entering it for every kernel.
        rayon::scope(|_| plan.run(&mut b))?;
        batch.to_tokens(self.plan.output(0), outputs);
        Ok(outputs)
    }
}

impl Rows {
    fn fill(&mut self, batch: &TrainBatch, columns: usize) {
        pack(&batch.lens, &mut self.segments, &mut self.positions);
        // A token of weight 0 is no target: the head skips its row.
        let target = |i: usize| if batch.weights[i] == 0.0 { u32::MAX } else { batch.tokens[i] };
        batch.to_rows(target, u32::MAX, &mut self.targets);
        batch.to_rows(|i| batch.weights[i], 0.0, &mut self.weights);
        self.columns.resize_with(columns, Vec::new);
        for (rows, column) in self.columns.iter_mut().zip(&batch.columns) {
            batch.to_rows(|i| column[i], 0.0, rows);
        }
    }
}

impl TrainBatch {
    /// From token alignment to row alignment: row i gets what belongs to token i + 1 of its sequence, and a
    /// sequence's last row `last`.
    fn to_rows<T: Copy>(&self, token: impl Fn(usize) -> T, last: T, rows: &mut Vec<T>) {
        rows.clear();
        for &len in &self.lens {
            let at = rows.len();
            rows.extend((at + 1..at + len).map(&token));
            rows.push(last);
        }
    }

    /// Back: token i + 1 gets what row i computed, a sequence's first token 0; so does a token of weight 0.
    fn to_tokens(&self, rows: &[f32], tokens: &mut Vec<f32>) {
        tokens.clear();
        for &len in &self.lens {
            let at = tokens.len();
            tokens.push(0.0);
            tokens.extend_from_slice(&rows[at..at + len - 1]);
        }
        tokens.iter_mut().zip(&self.weights).filter(|(_, w)| **w == 0.0).for_each(|(t, _)| *t = 0.0);
    }

    /// Compares the lengths with each other and with the trainer.
    pub(super) fn check(&self, columns: usize, options: &TrainerOptions) -> Result<()> {
        let t = self.tokens.len();
        let fail = |message: String| Err(Error::Batch(message));
        if t > options.max_tokens {
            return fail(format!("a batch of {t} tokens exceeds the trainer's {}", options.max_tokens));
        }
        if self.lens.iter().sum::<usize>() != t || self.lens.contains(&0) {
            return fail(format!("sequence lengths {:?} do not make up {t} tokens", self.lens));
        }
        if self.columns.len() < columns {
            return fail(format!(
                "the objective needs {columns} columns, the batch has {}",
                self.columns.len()
            ));
        }
        if self.weights.len() != t || self.columns.iter().any(|c| c.len() != t) {
            return fail(format!("weights or columns have not the batch's {t} tokens"));
        }
        Ok(())
    }
}

/// Segments and positions of whole sequences, end to end.
pub(super) fn pack(lens: &[usize], segments: &mut Vec<Segment>, positions: &mut Vec<u32>) {
    segments.clear();
    positions.clear();
    for &len in lens {
        let start = positions.len() as u32;
        segments.push(Segment::whole(start, len as u32));
        positions.extend(0..len as u32);
    }
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
