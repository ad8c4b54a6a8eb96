//! Attention through a KV cache of blocks.

use half::bf16;

use super::{Attention, BLOCK, Outputs, Segment, Store, attend, forward};
use crate::cpu::par::Parts;
use crate::cpu::scratch::{Scratch, bytes_of};

/// One layer of a KV cache.
pub struct KvLayer<'a> {
    /// `Attention::block_units` a block.
    pub units: &'a mut [u32],
    /// Of all blocks.
    pub claims: &'a mut Claims,
    /// What it holds.
    pub bf16: bool,
}

/// Who writes which block in a call: no block may be written for one sequence and used by another at once.
#[derive(Clone, Debug)]
pub struct Claims {
    /// The last call in which a block was written.
    written: Vec<u32>,
    call: u32,
}

impl Claims {
    /// For so many blocks.
    pub fn new(blocks: usize) -> Self {
        Claims { written: vec![0; blocks], call: 0 }
    }

    /// Checks that every segment has its blocks, that they exist, and that what one writes no other uses.
    fn check(&mut self, blocks: &[u32], segs: &[Segment]) {
        self.call = self.call.wrapping_add(1);
        if self.call == 0 {
            self.written.fill(0);
            self.call = 1;
        }
        let of = |s: &Segment| blocks.get(s.table as usize..s.table as usize + s.positions().div_ceil(BLOCK));
        for seg in segs {
            let own = of(seg).unwrap_or_else(|| panic!("attention: {seg:?} of {} blocks", blocks.len()));
            for &block in &own[seg.written()] {
                let call =
                    self.written.get_mut(block as usize).expect("attention: a block outside the cache");
                assert!(*call != self.call, "attention: block {block} is written twice");
                *call = self.call;
            }
        }
        for seg in segs {
            let own = of(seg).expect("checked above");
            for &block in &own[..seg.written().start] {
                let call = self.written.get(block as usize).expect("attention: a block outside the cache");
                assert!(
                    *call != self.call,
                    "attention: block {block} is written while another sequence reads it"
                );
            }
        }
    }
}

/// Bytes of scratch for [`cached_attention`], with any segments.
pub fn cached_attention_scratch(a: &Attention) -> usize {
    bytes_of::<u32>(rayon::current_num_threads().max(1) * forward::work_units(a))
}

/// Stores the new rows `k, v [t, kv_heads * head_dim]` of every segment in its blocks, rounded if they are bf16, then
/// `out[t, heads * head_dim] = softmax(scale · q kᵀ) v`, query row `i` of a segment at position `past + i` of its sequence.
/// A segment's blocks are those of `blocks` from `table` on. Rows of no segment are left alone.
///
/// # Panics
/// If a segment names rows or blocks that are not there, or a block that another segment writes.
#[allow(clippy::too_many_arguments)]
pub fn cached_attention(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    layer: KvLayer,
    blocks: &[u32],
    segs: &[Segment],
    a: &Attention,
    out: &mut [f32],
    scratch: &mut Scratch,
) {
    a.check(q.len(), segs);
    layer.claims.check(blocks, segs);
    let kv = q.len() / a.heads * a.kv_heads;
    assert!(out.len() == q.len() && k.len() == kv && v.len() == kv, "cached_attention: lengths differ");
    assert!(layer.units.len() >= layer.claims.written.len() * a.block_units(layer.bf16));
    let store = Store { k, v, past: false, units: layer.units.as_mut_ptr(), a };
    let outputs = Outputs { out: Parts::new(out), lse: None };
    let mut scratch = scratch.reborrow();
    let work = scratch.take::<u32>(scratch.len() / size_of::<u32>());
    let own = |i: usize| &blocks[segs[i].table as usize..];
    // SAFETY: rows are checked, and that blocks are there and written by one segment; earlier calls stored the pasts.
    unsafe {
        if layer.bf16 {
            attend::<bf16>(q, segs, own, &store, &outputs, work);
        } else {
            attend::<f32>(q, segs, own, &store, &outputs, work);
        }
    }
}
