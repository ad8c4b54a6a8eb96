//! The decoder as a graph: Llama, Qwen2 and Qwen3 are one family.
//!
//! `x += o(attention(rope(norm?(q)), rope(norm?(k)), v)); x += down(swiglu(gate, up))`, each on the RMSNorm of x.
//! Qwen2 adds biases to q, k and v; Qwen3 an RMSNorm over each head of q and k.
//!
//! Training and inference build the same nodes; only attention differs in where its keys lie. That, and kernels
//! that sum in one order, is why the sampler's log-probabilities are the trainer's, bit for bit.
//! Deliberately absent: sliding windows, mixtures of experts, dropout.

use std::sync::Arc;

use toolsmith_graphs::{AttentionShape, Graph, RopeAngles, Tensor};

use crate::config::{ModelConfig, ParamSpec};

/// Name of the value head, `[1, hidden]`, that a critic has in place of the LM head.
pub const VALUE_HEAD: &str = "value_head.weight";

/// What stands on the last hidden state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// The LM head: log-probabilities of tokens.
    Policy,
    /// One number a position: the critic.
    Value,
}

impl Head {
    /// Parameters of a decoder with this head, in the order plans index them.
    pub fn specs(self, config: &ModelConfig) -> Vec<ParamSpec> {
        let mut specs = config.param_specs();
        if self == Head::Value {
            specs.retain(|s| s.name != "lm_head.weight");
            specs.push(ParamSpec::new(VALUE_HEAD, &[1, config.hidden_size]));
        }
        specs
    }
}

/// Where attention finds keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// In the batch itself: whole sequences, in training.
    Batch,
    /// In the KV cache bound at run time.
    Cache,
}

/// Builds the nodes of one model into a graph.
pub struct Decoder<'a> {
    config: &'a ModelConfig,
    specs: Vec<ParamSpec>,
    graph: Graph,
    keys: Keys,
    shape: AttentionShape,
    angles: Arc<RopeAngles>,
}

impl<'a> Decoder<'a> {
    /// A decoder with `head` for positions below `positions`; `causal` is false only for bidirectional models.
    pub fn new(
        graph: &Graph,
        config: &'a ModelConfig,
        head: Head,
        keys: Keys,
        causal: bool,
        positions: usize,
    ) -> Self {
        let shape = AttentionShape {
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            scale: (config.head_dim as f32).sqrt().recip(),
            causal,
        };
        let angles = RopeAngles::new(positions, &config.inv_freq(), 1.0);
        Self { config, specs: head.specs(config), graph: graph.clone(), keys, shape, angles }
    }

    /// The parameter called `name`; it has to exist.
    pub fn param(&self, name: &str) -> Tensor {
        self.optional(name).unwrap_or_else(|| panic!("{name} is no parameter of this model"))
    }

    fn optional(&self, name: &str) -> Option<Tensor> {
        let i = self.specs.iter().position(|s| s.name == name)?;
        Some(self.graph.param(i, name, &self.specs[i].shape))
    }

    /// The LM head `[vocab, hidden]`: the embedding if they are tied.
    pub fn lm_head(&self) -> Tensor {
        self.optional("lm_head.weight").unwrap_or_else(|| self.param("model.embed_tokens.weight"))
    }

    /// `x · Wᵀ (+ b)` with the parameters `name.weight` and, if the model has it, `name.bias`.
    fn linear(&self, x: &Tensor, name: &str) -> Tensor {
        let bias = self.optional(&format!("{name}.bias"));
        x.linear(&self.param(&format!("{name}.weight")), bias.as_ref())
    }

    fn norm(&self, x: &Tensor, name: &str) -> Tensor {
        x.rms_norm(&self.param(&format!("{name}.weight")), self.config.rms_norm_eps as f32)
    }

    /// RMSNorm over each head of `x[t, heads · head_dim]`, where the model has one.
    fn head_norm(&self, x: Tensor, name: &str) -> Tensor {
        let Some(weight) = self.optional(&format!("{name}.weight")) else { return x };
        let dims = x.dims();
        let d = self.config.head_dim;
        let heads = x.width() / d;
        x.reshape(&[dims[0], heads.into(), d.into()])
            .rms_norm(&weight, self.config.rms_norm_eps as f32)
            .reshape(&dims)
    }

    /// Queries, keys and values of `x` as they are at any position: before RoPE.
    fn qkv(&self, x: &Tensor, layer: usize) -> [Tensor; 3] {
        let at = |name: &str| format!("model.layers.{layer}.{name}");
        let h = self.norm(x, &at("input_layernorm"));
        let [q, k, v] = ["q", "k", "v"].map(|p| self.linear(&h, &at(&format!("self_attn.{p}_proj"))));
        [self.head_norm(q, &at("self_attn.q_norm")), self.head_norm(k, &at("self_attn.k_norm")), v]
    }

    fn layer(
        &self,
        x: Tensor,
        layer: usize,
        qkv: Option<[Tensor; 3]>,
        segments: &Tensor,
        positions: &Tensor,
        rows: Option<&Tensor>,
    ) -> Tensor {
        let at = |name: &str| format!("model.layers.{layer}.{name}");
        let [q, k, v] = qkv.unwrap_or_else(|| self.qkv(&x, layer));
        let [q, k] = [q, k].map(|x| x.rope(positions, &self.angles));
        let y = match self.keys {
            Keys::Batch => q.attention(&k, &v, segments, positions, self.shape),
            Keys::Cache => q.cached_attention(&k, &v, segments, positions, self.shape, layer),
        };
        // The others have given their keys and values.
        let [x, y] = [x, y].map(|t| rows.map_or(t.clone(), |rows| t.gather_rows(rows)));
        let x = x + self.linear(&y, &at("self_attn.o_proj"));
        let h = self.norm(&x, &at("post_attention_layernorm"));
        let [gate, up] = ["gate", "up"].map(|p| self.linear(&h, &at(&format!("mlp.{p}_proj"))));
        x + self.linear(&gate.swiglu(&up), &at("mlp.down_proj"))
    }

    /// The residual stream after the last layer for `ids[t]` at `positions[t]`: `[t, hidden]`, or `[r, hidden]` of `rows[r]`
    /// alone. Each layer is a region of activation checkpointing.
    ///
    /// With `distinct`, the different ids `[d]` and which of them each token is `[t]`, the first layer's queries, keys and values,
    /// which depend on a token alone until they are turned by its position, are computed once for each id. They are the same bits.
    pub fn layers(
        &self,
        ids: &Tensor,
        positions: &Tensor,
        rows: Option<&Tensor>,
        distinct: Option<[&Tensor; 2]>,
    ) -> Tensor {
        let segments = self.graph.segments();
        let table = self.param("model.embed_tokens.weight");
        let mut x = table.embedding(ids);
        let last = self.config.num_hidden_layers - 1;
        for layer in 0..=last {
            let rows = rows.filter(|_| layer == last);
            x = self.graph.region(|| {
                let qkv = distinct.filter(|_| layer == 0).map(|[ids, which]| {
                    self.qkv(&table.embedding(ids), layer).map(|of| of.gather_rows(which))
                });
                self.layer(x, layer, qkv, &segments, positions, rows)
            });
        }
        x
    }

    /// The final norm of `x[rows, hidden]`.
    pub fn final_norm(&self, x: &Tensor) -> Tensor {
        self.norm(x, "model.norm")
    }
}
