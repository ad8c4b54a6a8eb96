//! Inference: a decoder over a KV cache of blocks.
//!
//! A sequence lives in a slot, which grows block by block; [`KvBlocks`] says which.
//! One plan serves prefill, feedback and decode: a batch is packed tokens, whatever they are.
//! Behind the attention of the last layer, only rows whose logits are wanted are computed.

use toolsmith_graphs::{
    Bindings, Dim, Graph, KvCache, Options, Params, Plan, Segment,
    plan::{BLOCK, PanelStore, U32Input, blocks_for},
};

use crate::{
    Error, Result,
    batch::{Batch, Decode},
    blocks::KvBlocks,
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
    /// Bytes of the KV cache, at least a whole context's; `None`: enough for every slot to hold one.
    pub kv_memory: Option<u64>,
    /// Precision of weights and matmul inputs.
    pub precision: Precision,
}

/// A compiled decoder with its KV cache. It holds no weights: [`Engine::bind`] lends them for a while, so that the
/// optimizer may write them in between.
pub struct Engine {
    plan: Plan,
    panels: PanelStore,
    cache: KvCache,
    kv: KvBlocks,
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
    blocks: Vec<u32>,
}

impl Engine {
    /// Compiles the model for `options`.
    ///
    /// # Errors
    /// If the graph exceeds what a plan can bind, or `kv_memory` is less than one context takes.
    pub fn new(config: &ModelConfig, options: EngineOptions) -> Result<Self> {
        let bf16 = options.precision == Precision::Bf16;
        let graph = Graph::new();
        let decoder = Decoder::new(&graph, config, Head::Policy, Keys::Cache, true, options.max_context);
        let ids = graph.u32_input("ids", &[Dim::Tokens]);
        let positions = graph.u32_input("positions", &[Dim::Tokens]);
        let rows = graph.u32_input("rows", &[Dim::Rows]);
        let x = decoder.layers(&ids, &positions, Some(&rows), None);
        let logits = decoder.final_norm(&x).linear(&decoder.lm_head(), None);
        let plan = Plan::compile(
            &graph,
            &[&logits],
            Options { tokens: options.max_batch_tokens, rows: options.slots, bf16 },
        )?;
        let (layers, heads, head_dim) =
            (config.num_hidden_layers, config.num_key_value_heads, config.head_dim);
        let blocks = blocks(&options, KvCache::block_bytes(layers, heads, head_dim, bf16))?;
        Ok(Self {
            ids: plan.u32_input("ids")?,
            positions: plan.u32_input("positions")?,
            rows: plan.u32_input("rows")?,
            panels: PanelStore::new(&plan),
            plan,
            cache: KvCache::new(layers, blocks, heads, head_dim, bf16),
            kv: KvBlocks::new(options.slots, options.max_context, blocks),
            options,
            vocab: config.vocab_size,
            scratch: Scratch::default(),
        })
    }

    /// The engine with weights to read. The KV cache is kept; what it holds was computed with the weights of its time.
    pub fn bind<'a>(&'a mut self, weights: &'a WeightsView<'a>) -> Bound<'a> {
        self.panels.fill(weights);
        Bound { engine: self, weights }
    }

    /// The plan that every batch runs, to look at.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Bytes of the plan's arena and scratch, of the panels of weights, and of the KV cache.
    pub fn memory(&self) -> usize {
        let (arena, scratch) = self.plan.memory();
        arena + scratch + self.panels.bytes() + self.cache.bytes()
    }

    /// Whether batches to come are recorded: see [`Plan::record`].
    pub fn record(&mut self, on: bool) {
        self.plan.record(on);
    }

    fn forward(&mut self, weights: &dyn Params, batch: &Batch) -> Result<&[f32]> {
        let Scratch { positions, rows, segments, blocks } = &mut self.scratch;
        positions.clear();
        rows.clear();
        segments.clear();
        blocks.clear();
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
                past: span.past as u32,
                table: blocks.len() as u32,
            });
            self.kv.reserve(span.slot, span.past, span.len)?;
            blocks.extend_from_slice(self.kv.table(span.slot));
            start += span.len;
            if span.logits {
                rows.push(start as u32 - 1);
            }
        }
        self.kv.take_copies().for_each(|(from, to)| self.cache.copy_block(from, to));
        let weights = self.panels.beside(weights);
        let mut bindings = Bindings::new(batch.tokens.len(), rows.len())
            .params(&weights)
            .kv(&mut self.cache, blocks)
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
    fn kv(&mut self) -> &mut KvBlocks {
        &mut self.engine.kv
    }
}

/// Blocks of the cache, at `bytes` each.
fn blocks(options: &EngineOptions, bytes: usize) -> Result<usize> {
    let context = blocks_for(options.max_context);
    let Some(memory) = options.kv_memory else { return Ok(options.slots * context) };
    // More than every slot can use would lie idle.
    let blocks = usize::try_from(memory).unwrap_or(usize::MAX) / bytes;
    if blocks < context {
        let mb = |bytes: u64| bytes.div_ceil(1_000_000);
        return Err(Error::KvMemory(format!(
            "kv_memory of {} MB holds {blocks} blocks of {BLOCK} positions; a context of {} takes {context}: give it {} MB or \
             lower max_context",
            mb(memory),
            options.max_context,
            mb((context * bytes) as u64)
        )));
    }
    Ok(blocks.min(options.slots * context))
}
