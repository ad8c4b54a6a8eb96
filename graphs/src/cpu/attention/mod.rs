//! Softmax attention with grouped queries over a cache of keys and values, forward and backward.
//!
//! Keys are taken in blocks of 64 counted from position 0 of the sequence, with an online softmax between
//! blocks (Milakov & Gimelshein, arXiv 1805.02867; Dao, arXiv 2307.08691); masked positions contribute exact zeros. So a query's
//! result is the same bits in prefill, in decoding token by token, and in a packed batch.
//!
//! With a bf16 cache, what is rounded to bf16: `q`, `k`, `v` and the probabilities relative to the running maximum
//! (`exp(s − max)`, before the division by their unrounded sum); backward also `dout`, the probabilities themselves
//! and the gradient of the scores. With an f32 cache, nothing.

mod backward;
mod forward;
mod tile;

use super::par::{self, Parts};
use super::scratch::{Plain, Scratch, bytes_of};
use super::simd::Elem;
use crate::cpu::pack::convert;
pub use backward::{AttentionGrads, AttentionSaved, attention_backward, attention_backward_scratch};
use half::bf16;

/// Consecutive new tokens of one sequence in a packed batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// First row in `q` (and in `out`).
    pub q_start: u32,
    /// New tokens.
    pub q_len: u32,
    /// Row of the sequence's position 0 in the cache.
    pub kv_row: u32,
    /// Positions before the first new token, already in the cache.
    pub past: u32,
}

impl Segment {
    /// Rows of `q`.
    pub fn queries(&self) -> std::ops::Range<usize> {
        self.q_start as usize..(self.q_start + self.q_len) as usize
    }

    /// Rows of the cache once the new tokens are in it.
    pub fn rows(&self) -> std::ops::Range<usize> {
        self.kv_row as usize..(self.kv_row + self.past + self.q_len) as usize
    }
}

/// The shape of an attention layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Query heads, a multiple of `kv_heads`.
    pub heads: usize,
    pub kv_heads: usize,
    /// Size of a head; even.
    pub head_dim: usize,
    /// Whether a query sees its own position and those before it only, or all of its sequence.
    pub causal: bool,
    /// Factor of the scores, as a rule `1 / √head_dim`.
    pub scale: f32,
}

/// Keys and values, rows of `[kv_heads * head_dim]`.
#[derive(Clone, Copy, Debug)]
pub enum Kv<'a> {
    F32 { k: &'a [f32], v: &'a [f32] },
    Bf16 { k: &'a [bf16], v: &'a [bf16] },
}

/// One layer's keys or values to write: f32 or bf16.
pub enum KvMut<'a> {
    F32 { k: &'a mut [f32], v: &'a mut [f32] },
    Bf16 { k: &'a mut [bf16], v: &'a mut [bf16] },
}

/// Writes the new rows `k, v [t, width]` of every segment to the cache, rounded if it is bf16.
pub fn store_kv(k: &[f32], v: &[f32], cache: KvMut, segs: &[Segment], width: usize) {
    fn store<E: Elem>(src: &[f32], dst: &mut [E], segs: &[Segment], width: usize) {
        for seg in segs {
            let first = (seg.kv_row + seg.past) as usize * width;
            let new = &src[seg.queries().start * width..seg.queries().end * width];
            convert(new, &mut dst[first..first + new.len()]);
        }
    }
    match cache {
        KvMut::F32 { k: kc, v: vc } => {
            store(k, kc, segs, width);
            store(v, vc, segs, width);
        }
        KvMut::Bf16 { k: kc, v: vc } => {
            store(k, kc, segs, width);
            store(v, vc, segs, width);
        }
    }
}

/// Bytes of scratch for [`attention`], with any segments.
pub fn attention_scratch(a: &Attention) -> usize {
    rayon::current_num_threads().max(1) * bytes_of::<u32>(forward::work_units(a))
}

/// `out[t, heads * head_dim] = softmax(scale · q kᵀ) v`, query row `i` of a segment at position `past + i`
/// of the sequence whose keys and values start at cache row `kv_row`. `lse[t, heads]` gets the log of the softmax's
/// denominator, for the backward pass. Rows of no segment are left alone.
///
/// # Panics
/// If a segment names rows that `q` or the cache lacks.
pub fn attention(
    q: &[f32],
    kv: Kv,
    segs: &[Segment],
    a: &Attention,
    out: &mut [f32],
    lse: Option<&mut [f32]>,
    scratch: &mut Scratch,
) {
    match kv {
        Kv::F32 { k, v } => attend(q, k, v, segs, a, out, lse, scratch.reborrow()),
        Kv::Bf16 { k, v } => attend(q, k, v, segs, a, out, lse, scratch.reborrow()),
    }
}

/// Checks that every row a kernel will touch is there.
fn check(q: usize, k: usize, v: usize, segs: &[Segment], a: &Attention) {
    assert!(a.heads.is_multiple_of(a.kv_heads) && a.head_dim.is_multiple_of(2), "attention: bad shape {a:?}");
    let (q, kv) = (q / (a.heads * a.head_dim), k.min(v) / (a.kv_heads * a.head_dim));
    for seg in segs {
        assert!(
            seg.queries().end <= q && seg.rows().end <= kv,
            "attention: {seg:?} of {q} queries, {kv} cache rows"
        );
    }
}

#[allow(clippy::too_many_arguments)]
fn attend<E: Elem + Plain>(
    q: &[f32],
    k: &[E],
    v: &[E],
    segs: &[Segment],
    a: &Attention,
    out: &mut [f32],
    lse: Option<&mut [f32]>,
    mut scratch: Scratch,
) {
    check(q.len(), k.len(), v.len(), segs, a);
    assert!(out.len() == q.len() && lse.as_ref().is_none_or(|l| l.len() == q.len() / a.head_dim));
    let out = Parts::new(out);
    let lse = lse.map(Parts::new);
    let group = a.heads / a.kv_heads;
    let block = (forward::ROWS / group).max(1);
    let tasks = segs.iter().map(|s| (s.q_len as usize).div_ceil(block)).sum::<usize>() * a.kv_heads;
    let pairs: usize = segs.iter().map(|s| s.q_len as usize * (s.past + s.q_len) as usize).sum();
    let reads: usize = segs.iter().map(|s| s.rows().len()).sum::<usize>() * a.kv_heads;
    let lanes = par::threads(a.head_dim * (pairs * a.heads / 40 + reads * size_of::<E>() / 8));
    let unit = forward::work_units(a);
    let lanes = lanes.min(scratch.len() / bytes_of::<u32>(unit)).max(1);
    let stride = bytes_of::<u32>(unit) / size_of::<u32>();
    let work = Parts::new(scratch.take::<u32>(lanes * stride));
    par::run(lanes, tasks, |lane, task| {
        // Later blocks of a sequence see more keys: take them first.
        let (mut block_no, head) = ((tasks - 1 - task) / a.kv_heads, task % a.kv_heads);
        let of = |s: &Segment| (s.q_len as usize).div_ceil(block);
        let seg = segs.iter().find(|s| match block_no.checked_sub(of(s)) {
            Some(rest) => {
                block_no = rest;
                false
            }
            None => true,
        });
        let seg = seg.expect("as many tasks as blocks");
        let first = block_no * block;
        let job = forward::Job {
            q: q.as_ptr(),
            k: k.as_ptr(),
            v: v.as_ptr(),
            out: out.as_ptr(),
            lse: lse.as_ref().map_or(std::ptr::null_mut(), Parts::as_ptr),
            a,
            seg,
            head,
            first,
            last: (first + block).min(seg.q_len as usize),
        };
        // SAFETY: `check` covers every row; tasks write different rows and heads; each lane has its own work.
        unsafe { forward::block(&job, work.get(lane * stride..lane * stride + unit).as_mut_ptr()) }
    });
}
