//! Attention within a batch of sequences: their keys and values are packed into blocks once a call, those of a shared beginning
//! once for each sequence that has it.

use half::bf16;

use super::{Attention, BLOCK, Outputs, Segment, Store, attend, forward};
use crate::cpu::par::Parts;
use crate::cpu::scratch::{Scratch, bytes_of};
use crate::cpu::simd::Elem;

/// Blocks held at a time beyond those of the batch as a single sequence: each sequence's last one may be partly used.
/// More blocks than that are taken in turns. A sequence always fits: its past and its own are different rows of the batch.
const SPARE: usize = 8;

fn blocks(t: usize) -> usize {
    t.div_ceil(BLOCK) + SPARE
}

/// Bytes of scratch for [`attention`] on `t` tokens.
pub fn attention_scratch(a: &Attention, t: usize, bf16: bool) -> usize {
    2 * bytes_of::<u32>(blocks(t))
        + bytes_of::<u32>(blocks(t) * a.block_units(bf16))
        + bytes_of::<u32>(rayon::current_num_threads().max(1) * forward::work_units(a))
}

/// `out[t, heads * head_dim] = softmax(scale · q kᵀ) v` over whole sequences and ones after beginnings of those
/// ([`Segment::after`]), in the order of their rows; `k, v [t, kv_heads * head_dim]` are rounded if `bf16`. `lse[t, heads]` gets
/// the log of the softmax's denominator, for the backward pass. Rows of no segment are left alone.
///
/// # Panics
/// If a segment names rows that `q` lacks, or begins before the one in front of it ends, or if its past is not the beginning of a
/// whole sequence before it, or attention with a past is not causal.
#[allow(clippy::too_many_arguments)]
pub fn attention(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    bf16: bool,
    segs: &[Segment],
    a: &Attention,
    out: &mut [f32],
    lse: &mut [f32],
    scratch: &mut Scratch,
) {
    a.check_batch(q.len(), segs);
    let (t, kv) = (q.len() / (a.heads * a.head_dim), q.len() / a.heads * a.kv_heads);
    assert!(out.len() == q.len() && lse.len() == t * a.heads && k.len() == kv && v.len() == kv);
    let outputs = Outputs { out: Parts::new(out), lse: Some(Parts::new(lse)) };
    let mut scratch = scratch.reborrow();
    let order = scratch.take::<u32>(blocks(t));
    order.iter_mut().zip(0..).for_each(|(x, i)| *x = i);
    let firsts = scratch.take::<u32>(blocks(t));
    let units = scratch.take::<u32>(blocks(t) * a.block_units(bf16));
    let work = scratch.take::<u32>(scratch.len() / size_of::<u32>());
    let store = Store { k, v, past: true, units: units.as_mut_ptr(), a };
    if bf16 {
        run::<bf16>(q, &store, (order, firsts), segs, &outputs, work);
    } else {
        run::<f32>(q, &store, (order, firsts), segs, &outputs, work);
    }
}

/// In turns of as many segments as blocks in `order` hold; `firsts` is for the first block of each.
fn run<E: Elem>(
    q: &[f32],
    store: &Store,
    (order, firsts): (&[u32], &mut [u32]),
    mut segs: &[Segment],
    outputs: &Outputs,
    work: &mut [u32],
) {
    while !segs.is_empty() {
        let (mut count, mut used) = (0, 0);
        for (first, seg) in firsts.iter_mut().zip(segs) {
            let own = store.written(seg).len();
            if used + own > order.len() {
                break;
            }
            *first = used as u32;
            (count, used) = (count + 1, used + own);
        }
        let (now, blocks) = (&segs[..count], |i: usize| &order[firsts[i] as usize..]);
        // SAFETY: rows are checked; blocks are inside the scratch, and apart.
        unsafe { attend::<E>(q, now, blocks, store, outputs, work) };
        segs = &segs[count..];
    }
}
