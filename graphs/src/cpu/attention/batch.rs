//! Attention within a batch of whole sequences: their keys and values are packed into blocks once a call.

use half::bf16;

use super::{Attention, BLOCK, Outputs, Segment, Store, attend, forward, locate};
use crate::cpu::par::{self, Parts};
use crate::cpu::scratch::{Scratch, bytes_of};
use crate::cpu::simd::Elem;

/// Blocks held at a time beyond those of the batch as a single sequence: each sequence's last one may be partly used.
/// More sequences than that are taken in turns.
const SPARE: usize = 8;

fn blocks(t: usize) -> usize {
    t.div_ceil(BLOCK) + SPARE
}

/// Bytes of scratch for [`attention`] on `t` tokens.
pub fn attention_scratch(a: &Attention, t: usize, bf16: bool) -> usize {
    bytes_of::<u32>(blocks(t))
        + bytes_of::<u32>(blocks(t) * a.block_units(bf16))
        + bytes_of::<u32>(rayon::current_num_threads().max(1) * forward::work_units(a))
}

/// `out[t, heads * head_dim] = softmax(scale · q kᵀ) v` over whole sequences (`past = 0`), in the order of their rows;
/// `k, v [t, kv_heads * head_dim]` are rounded if `bf16`. `lse[t, heads]` gets the log of the softmax's denominator, for the
/// backward pass. Rows of no segment are left alone.
///
/// # Panics
/// If a segment has a past, names rows that `q` lacks, or begins before the one in front of it ends.
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
    a.check(q.len(), segs);
    let (t, kv) = (q.len() / (a.heads * a.head_dim), q.len() / a.heads * a.kv_heads);
    assert!(out.len() == q.len() && lse.len() == t * a.heads && k.len() == kv && v.len() == kv);
    assert!(segs.iter().all(|s| s.past == 0), "attention: a segment has a past");
    let ordered = segs.windows(2).all(|s| s[0].queries().end <= s[1].queries().start);
    assert!(ordered, "attention: segments are not in order");
    let outputs = Outputs { out: Parts::new(out), lse: Some(Parts::new(lse)) };
    let mut scratch = scratch.reborrow();
    let order = scratch.take::<u32>(blocks(t));
    order.iter_mut().zip(0..).for_each(|(x, i)| *x = i);
    let units = scratch.take::<u32>(blocks(t) * a.block_units(bf16));
    let work = scratch.take::<u32>(scratch.len() / size_of::<u32>());
    let store = Store { k, v, units: units.as_mut_ptr(), a };
    if bf16 {
        run::<bf16>(q, &store, order, segs, &outputs, work);
    } else {
        run::<f32>(q, &store, order, segs, &outputs, work);
    }
}

/// The first block of segment `i`: those before it have used no more, whatever their lengths.
fn first(segs: &[Segment], i: usize) -> usize {
    (segs[i].q_start - segs[0].q_start) as usize / BLOCK + i
}

fn run<E: Elem>(
    q: &[f32],
    store: &Store,
    order: &[u32],
    mut segs: &[Segment],
    outputs: &Outputs,
    work: &mut [u32],
) {
    let a = store.a;
    let of = |s: &Segment| s.written().len();
    while !segs.is_empty() {
        let fits = (0..segs.len()).take_while(|&i| first(segs, i) + of(&segs[i]) <= order.len()).count();
        let now;
        (now, segs) = segs.split_at(fits);
        let tasks = now.iter().map(of).sum::<usize>() * a.kv_heads;
        par::run(par::threads(tasks * BLOCK * a.head_dim / 4), tasks, |_, task| {
            let (index, n) = locate(now, task / a.kv_heads, of);
            let block = order[first(now, index) + n];
            // SAFETY: `fits` keeps blocks inside the scratch, and apart; a task is a head of one block.
            unsafe { store.rows::<E>(&now[index], n, block, task % a.kv_heads) };
        });
        // SAFETY: all blocks of these segments are stored.
        unsafe {
            let blocks = |i: usize| &order[first(now, i)..];
            attend::<E>(q, now, store.units, blocks, None, a, outputs, work);
        }
    }
}
