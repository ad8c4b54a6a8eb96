//! Inference: a decoder over a KV cache of slots.
//!
//! One plan serves prefill, feedback and decode: a batch is packed tokens, whatever they are.
//! The final norm and the LM head run only on rows whose logits are wanted.

use toolsmith_graphs::{Bindings, Dim, Graph, KvCache, Options, Params, Plan, Segment, plan::U32Input};

use crate::{
    Result,
    batch::{Batch, Decode},
    config::ModelConfig,
    decoder::{Decoder, Head, Keys},
    weights::{Precision, WeightsView},
};

/// Sizes of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// KV slots: sequences held at a time.
    pub slots: usize,
    /// Positions a slot can hold.
    pub max_context: usize,
    /// Tokens a batch may carry.
    pub max_batch_tokens: usize,
    /// Precision of weights and matmul inputs.
    pub precision: Precision,
}

/// A compiled decoder with its KV cache. It holds no weights: [`Engine::bind`] lends them for a while, so that the
/// optimizer may write them in between.
pub struct Engine {
    plan: Plan,
    cache: KvCache,
    options: EngineOptions,
    vocab: usize,
    ids: U32Input,
    positions: U32Input,
    rows: U32Input,
    scratch: Scratch,
}

/// Per-batch numbers, kept for their memory.
#[derive(Default)]
struct Scratch {
    positions: Vec<u32>,
    rows: Vec<u32>,
    segments: Vec<Segment>,
}

impl Engine {
    /// Compiles the model for `options`.
    ///
    /// # Errors
    /// If the graph exceeds what a plan can bind.
    pub fn new(config: &ModelConfig, options: EngineOptions) -> Result<Self> {
        let graph = Graph::new();
        let decoder = Decoder::new(&graph, config, Head::Policy, Keys::Cache, true, options.max_context);
        let ids = graph.u32_input("ids", &[Dim::Tokens]);
        let positions = graph.u32_input("positions", &[Dim::Tokens]);
        let rows = graph.u32_input("rows", &[Dim::Rows]);
        let x = decoder.layers(&ids, &positions).gather_rows(&rows);
        let logits = decoder.final_norm(&x).linear(&decoder.lm_head(), None);
        let plan = Plan::compile(
            &graph,
            &[&logits],
            Options {
                tokens: options.max_batch_tokens,
                rows: options.slots,
                bf16: options.precision == Precision::Bf16,
            },
        )?;
        Ok(Self {
            ids: plan.u32_input("ids")?,
            positions: plan.u32_input("positions")?,
            rows: plan.u32_input("rows")?,
            plan,
            cache: KvCache::new(
                config.num_hidden_layers,
                options.slots * options.max_context,
                config.num_key_value_heads * config.head_dim,
                options.precision == Precision::Bf16,
            ),
            options,
            vocab: config.vocab_size,
            scratch: Scratch::default(),
        })
    }

    /// The engine with weights to read. The KV cache is kept; what it holds was computed with the weights of its time.
    pub fn bind<'a>(&'a mut self, weights: &'a WeightsView<'a>) -> Bound<'a> {
        Bound { engine: self, weights }
    }

    /// The plan that every batch runs, to look at.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Whether batches to come are recorded: see [`Plan::record`].
    pub fn record(&mut self, on: bool) {
        self.plan.record(on);
    }

    fn forward(&mut self, weights: &dyn Params, batch: &Batch) -> Result<&[f32]> {
        let Scratch { positions, rows, segments } = &mut self.scratch;
        positions.clear();
        rows.clear();
        segments.clear();
        let mut start = 0;
        for span in &batch.spans {
            assert!(
                span.slot < self.options.slots && span.past + span.len <= self.options.max_context,
                "{span:?} exceeds the cache: {:?}",
                self.options
            );
            positions.extend((span.past..span.past + span.len).map(|p| p as u32));
            segments.push(Segment {
                q_start: start as u32,
                q_len: span.len as u32,
                kv_row: (span.slot * self.options.max_context) as u32,
                past: span.past as u32,
            });
            start += span.len;
            if span.logits {
                rows.push(start as u32 - 1);
            }
        }
        let mut bindings = Bindings::new(batch.tokens.len(), rows.len())
            .params(weights)
            .kv(&mut self.cache)
            .segments(segments)
            .u32(self.ids, &batch.tokens)
            .u32(self.positions, positions)
            .u32(self.rows, rows);
        let plan = &mut self.plan;
        // Inside the pool once, rather than entering it for every kernel.
        rayon::scope(|_| plan.run(&mut bindings))?;
        Ok(self.plan.output(0))
    }
}

/// An [`Engine`] with its weights: what a rollout drives.
pub struct Bound<'a> {
    engine: &'a mut Engine,
    weights: &'a WeightsView<'a>,
}

impl Decode for Bound<'_> {
    fn vocab_size(&self) -> usize {
        self.engine.vocab
    }
    fn slots(&self) -> usize {
        self.engine.options.slots
    }
    fn max_context(&self) -> usize {
        self.engine.options.max_context
    }
    fn max_batch_tokens(&self) -> usize {
        self.engine.options.max_batch_tokens
    }
    fn forward(&mut self, batch: &Batch) -> Result<&[f32]> {
        self.engine.forward(self.weights, batch)
    }
    fn copy_prefix(&mut self, from: usize, to: usize, len: usize) {
        let n = self.engine.options.max_context;
        self.engine.cache.copy_rows(from * n, to * n, len);
    }
}
