//! The KV cache of an inference plan: blocks of positions, for each layer a part.
//!
//! Which sequence has which blocks, and in which order, is their owner's business: the table of blocks bound beside the cache
//! says it.

use std::fmt;

use crate::cpu::{Attention, BLOCK, Claims, KvLayer, Lines};

/// Keys and values of all layers in blocks of [`BLOCK`] positions, in bf16 where the weights are.
///
/// A block that was never written is not backed by memory.
pub struct KvCache {
    layers: Vec<Lines>,
    claims: Claims,
    blocks: usize,
    block_units: usize,
    /// Numbers of a row of keys.
    width: usize,
    bf16: bool,
}

impl fmt::Debug for KvCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KvCache of {} blocks, {} layers", self.blocks, self.layers.len())
    }
}

impl KvCache {
    /// A zeroed cache of `blocks` blocks for `layers` layers with `kv_heads` key heads of `head_dim` (even) numbers.
    pub fn new(layers: usize, blocks: usize, kv_heads: usize, head_dim: usize, bf16: bool) -> Self {
        let block_units = block_units(kv_heads, head_dim, bf16);
        let layer = |_| Lines::new(blocks * block_units * size_of::<u32>());
        KvCache {
            layers: (0..layers).map(layer).collect(),
            claims: Claims::new(blocks),
            blocks,
            block_units,
            width: kv_heads * head_dim,
            bf16,
        }
    }

    /// Bytes of one block in all layers.
    pub fn block_bytes(layers: usize, kv_heads: usize, head_dim: usize, bf16: bool) -> usize {
        layers * block_units(kv_heads, head_dim, bf16) * size_of::<u32>()
    }

    /// Bytes of all blocks.
    pub fn bytes(&self) -> usize {
        self.layers.iter().map(Lines::len).sum()
    }

    /// Blocks of [`BLOCK`] positions.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// Bytes of a position's key and value in one layer.
    pub fn row_bytes(&self) -> usize {
        2 * self.width * if self.bf16 { 2 } else { 4 }
    }

    /// A layer, to attend through.
    pub fn layer(&mut self, layer: usize) -> KvLayer<'_> {
        let units = bytemuck::cast_slice_mut(self.layers[layer].get_mut());
        KvLayer { units, claims: &mut self.claims, bf16: self.bf16 }
    }

    /// Copies block `from` to block `to` in every layer.
    ///
    /// # Panics
    /// If either is not there.
    pub fn copy_block(&mut self, from: u32, to: u32) {
        let (from, to) = (from as usize, to as usize);
        assert!(from < self.blocks && to < self.blocks, "block {from} or {to} of {}", self.blocks);
        let n = self.block_units * size_of::<u32>();
        for layer in &mut self.layers {
            layer.get_mut().copy_within(from * n..(from + 1) * n, to * n);
        }
    }
}

fn block_units(kv_heads: usize, head_dim: usize, bf16: bool) -> usize {
    Attention { heads: kv_heads, kv_heads, head_dim, causal: true, scale: 1.0 }.block_units(bf16)
}

/// Blocks that hold `positions` positions.
pub fn blocks_for(positions: usize) -> usize {
    positions.div_ceil(BLOCK)
}
