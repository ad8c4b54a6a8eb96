//! One objective compiled: the decoder's forward pass, the loss, and its gradients, run on packed sequences.
//!
//! Inside, a row predicts the token after it (see [`Rows`]), and behind the last layer's attention rows that predict no
//! scored token are left out. Running a pass again allocates nothing.

use std::ops::Range;

use toolsmith_graphs::{
    Bindings, Dim, Graph, Options, Params, Plan, Segment, Tensor,
    autograd::DiffOptions,
    loss::{self, PolicyConstants},
    plan::{F32Input, U32Input},
};

use super::{TrainerOptions, rows::Rows};
use crate::{
    Result,
    batch::{Objective, TrainBatch},
    config::ModelConfig,
    decoder::{Decoder, Head, Keys, VALUE_HEAD},
    weights::Precision,
};

/// Tokens of a vocabulary so small that a batch holds the same ones many times: the first layer computes what depends on a token
/// alone once for each.
const FEW_TOKENS: usize = 512;

/// A compiled objective: outputs are the numbers of the scored tokens and, with an objective, the loss.
pub(super) struct Pass {
    pub plan: Plan,
    ids: U32Input,
    positions: U32Input,
    predicting: U32Input,
    /// The different tokens, and which of them each token is, where they are few.
    distinct: Option<(U32Input, U32Input)>,
    targets: Option<U32Input>,
    inv_temperature: Option<F32Input>,
    weights: Option<F32Input>,
    columns: Vec<F32Input>,
    rows: Rows,
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
        let rows = g.u32_input("rows", &[Dim::Rows]);
        let distinct = (config.vocab_size <= FEW_TOKENS.min(options.max_tokens)).then(|| {
            [("distinct", Dim::Distinct), ("which", Dim::Tokens)].map(|(name, n)| g.u32_input(name, &[n]))
        });
        let distinct = distinct.as_ref().map(|[ids, which]| [ids, which]);
        let x = decoder.final_norm(&decoder.layers(&ids, &positions, Some(&rows), distinct));
        let outputs = match head {
            Head::Policy => {
                let targets = g.u32_input("targets", &[Dim::Rows]);
                let inv_temperature = g.f32_input("inv_temperature", &[]);
                x.token_logprob(&decoder.lm_head(), &targets, &inv_temperature)
            }
            Head::Value => x.linear(&decoder.param(VALUE_HEAD), None).reshape(&[Dim::Rows]),
        };
        let loss = objective.map(|objective| {
            let column = |name: &str| g.f32_input(name, &[Dim::Rows]);
            let weights = column("weights");
            let loss = objective_loss(objective, &outputs, &weights, column);
            g.differentiate(&loss, &[], DiffOptions { recompute });
            loss
        });
        let wanted: Vec<&Tensor> = [&outputs].into_iter().chain(&loss).collect();
        let bf16 = options.precision == Precision::Bf16;
        let tokens = options.max_tokens;
        let plan = Plan::compile(&g, &wanted, Options { tokens, rows: tokens, bf16 })?;
        let names = objective.map_or(&[][..], column_names);
        let columns = objective.map_or(0, Objective::columns);
        Ok(Self {
            ids: plan.u32_input("ids")?,
            positions: plan.u32_input("positions")?,
            predicting: plan.u32_input("rows")?,
            distinct: plan.u32_input("distinct").ok().zip(plan.u32_input("which").ok()),
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

    /// Lays out some sequences of a batch, the first of which begins at token `start`.
    ///
    /// # Errors
    /// If they are more than the plan has memory for.
    pub fn lay_out(&mut self, batch: &TrainBatch, sequences: Range<usize>, start: usize) -> Result<()> {
        self.rows.fill(batch, sequences, start, self.columns.len());
        if self.distinct.is_some() {
            self.rows.find_distinct();
        }
        self.rows.check(self.plan.capacity().tokens)
    }

    /// Runs what was laid out, adding to `grads` if the pass has an objective, and returns its share of the loss.
    pub fn run(
        &mut self,
        params: &dyn Params,
        grads: Option<&mut Vec<Vec<f32>>>,
        inv_temperature: f32,
    ) -> Result<f64> {
        let objective = grads.is_some();
        if self.rows.scored.is_empty() {
            return Ok(0.0);
        }
        let Rows { ids, segments, positions, predicting, targets, weights, columns, distinct, which, .. } =
            &self.rows;
        let temperature = [inv_temperature];
        let mut b = Bindings::new(ids.len(), predicting.len())
            .params(params)
            .segments(segments)
            .u32(self.ids, ids)
            .u32(self.positions, positions)
            .u32(self.predicting, predicting);
        if let Some((ids, each)) = self.distinct {
            b = b.distinct(distinct.len()).u32(ids, distinct).u32(each, which);
        }
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
        self.plan.run(&mut b)?;
        Ok(if objective { self.plan.output(1)[0].into() } else { 0.0 })
    }

    /// Rows of what is laid out.
    pub fn rows(&self) -> usize {
        self.rows.ids.len()
    }

    /// What the last run computed: scored tokens, by their place in the batch, and the number of each.
    pub fn outputs(&self) -> impl Iterator<Item = (usize, f32)> {
        let scored = &self.rows.scored;
        let numbers = if scored.is_empty() { &[] } else { self.plan.output(0) };
        scored.iter().copied().zip(numbers.iter().copied())
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
