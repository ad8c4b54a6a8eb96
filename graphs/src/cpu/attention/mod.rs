//! Softmax attention with grouped queries over a cache of keys and values, forward and backward.
//!
//! Keys are taken in blocks of 64 counted from position 0 of the sequence, with an online softmax between
//! blocks (Milakov & Gimelshein, arXiv 1805.02867; Dao, arXiv 2307.08691); masked positions contribute exact zeros. A score is
//! summed along head_dim with one lane a key, an output along the keys with one lane a column. So a query's
//! result is the same bits in prefill, in decoding token by token, and in a packed batch.
//!
//! Keys and values lie as products read them, for any number of queries: a block of a layer holds for each key head a panel of
//! its keys `[4 groups of 16][head_dim][16 keys]`, then one of its values `[keys][head_dim]`, in bf16 with pairs along the sum
//! interleaved. A cache keeps such blocks for good; without one they are made once a call.
//!
//! A batch without a cache may hold a sequence's beginning once for several: a segment's past is then the first rows of a whole
//! sequence before it. Its queries still get the bits of the sequence run whole.
//!
//! In bf16 mode, what is rounded to bf16: `q`, `k`, `v` and the probabilities relative to the running maximum
//! (`exp(s − max)`, before the division by their unrounded sum); backward also `dout`, the probabilities themselves
//! and the gradient of the scores. In f32 mode, nothing.

mod backward;
mod batch;
mod cached;
mod forward;
mod tile;

use std::ops::Range;

use super::par::{self, Parts};
use super::simd::{Elem, L};
pub use backward::{AttentionGrads, AttentionSaved, attention_backward, attention_backward_scratch};
pub use batch::{attention, attention_scratch};
pub use cached::{Claims, KvLayer, cached_attention, cached_attention_scratch};

/// Positions in a block of keys and values.
pub const BLOCK: usize = tile::BK;

/// Consecutive new tokens of one sequence in a packed batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// First row in `q` (and in `out`).
    pub q_start: u32,
    /// New tokens.
    pub q_len: u32,
    /// Positions before the first new token: in the cache, or without one in the rows from `table` on.
    pub past: u32,
    /// In a cache, where the sequence's blocks begin in the table of blocks, position 0 in the first. In a batch without one, the
    /// row of position 0 if there is a past.
    pub table: u32,
}

impl Segment {
    /// A whole sequence, in no cache.
    pub fn whole(q_start: u32, q_len: u32) -> Self {
        Segment { q_start, q_len, ..Segment::default() }
    }

    /// The `q_len` tokens from row `q_start` on of a batch without a cache, after the first `past > 0` tokens of the whole sequence
    /// that begins at row `root`. That sequence, the *root*, stands before this segment and has at least `past` tokens; any number
    /// of segments may follow after one root, each from where it likes, but none after such a segment. Causal attention only.
    pub fn after(q_start: u32, q_len: u32, past: u32, root: u32) -> Self {
        Segment { q_start, q_len, past, table: root }
    }

    /// Rows of `q`.
    pub fn queries(&self) -> Range<usize> {
        self.q_start as usize..(self.q_start + self.q_len) as usize
    }

    /// Positions once the new tokens are there.
    pub fn positions(&self) -> usize {
        (self.past + self.q_len) as usize
    }

    /// Blocks that the new tokens go to, of the sequence's own.
    fn written(&self) -> Range<usize> {
        self.past as usize / BLOCK..self.positions().div_ceil(BLOCK)
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
    /// Factor of the scores, positive; as a rule `1 / √head_dim`.
    pub scale: f32,
}

impl Attention {
    /// Units of 32 bits that a block of one layer takes, all key heads.
    pub fn block_units(&self, bf16: bool) -> usize {
        let (r, width) = (if bf16 { 2 } else { 1 }, self.head_dim.next_multiple_of(L));
        self.kv_heads * BLOCK / r * (self.head_dim + width)
    }

    /// Checks the shape and that `q` queries hold the segments' rows.
    fn check(&self, q: usize, segs: &[Segment]) {
        let Attention { heads, kv_heads, head_dim, scale, .. } = *self;
        let ok = heads.is_multiple_of(kv_heads) && head_dim.is_multiple_of(2) && scale > 0.0;
        assert!(ok, "attention: bad shape {self:?}");
        let rows = q / (heads * head_dim);
        assert!(segs.iter().all(|s| s.queries().end <= rows), "attention: {segs:?} of {rows} queries");
    }

    /// Checks the segments of a batch without a cache: their rows don't overlap, and each past is a whole one's beginning.
    fn check_batch(&self, q: usize, segs: &[Segment]) {
        self.check(q, segs);
        let ordered = segs.windows(2).all(|s| s[0].queries().end <= s[1].queries().start);
        assert!(ordered, "attention: segments are not in order");
        for (i, seg) in segs.iter().enumerate().filter(|(_, s)| s.past > 0) {
            assert!(self.causal, "attention: {seg:?} has a past, which only causal attention allows");
            let begun = segs[..i].partition_point(|s| s.q_start <= seg.table);
            let root = begun.checked_sub(1).map(|i| segs[i]);
            let ok = root.is_some_and(|r| r.q_start == seg.table && r.past == 0 && seg.past <= r.q_len);
            assert!(ok, "attention: the past of {seg:?} is not the beginning of a whole sequence before it");
        }
    }
}

/// Which of the pieces of several segments piece `n` is, if segment s has `of(s)` of them.
fn locate(segs: &[Segment], mut n: usize, of: impl Fn(&Segment) -> usize) -> (usize, usize) {
    for (i, seg) in segs.iter().enumerate() {
        match n.checked_sub(of(seg)) {
            Some(rest) => n = rest,
            None => return (i, n),
        }
    }
    unreachable!("as many pieces as counted")
}

/// Keys and values of a batch and the blocks they go to.
struct Store<'a> {
    /// `[t, kv_heads * head_dim]`
    k: &'a [f32],
    v: &'a [f32],
    /// Whether a segment's past is rows of the batch, too, and not in the blocks already.
    past: bool,
    units: *mut u32,
    a: &'a Attention,
}

// SAFETY: tasks write different heads of different blocks; see `Store::block`.
unsafe impl Sync for Store<'_> {}

impl Store<'_> {
    /// Blocks of a sequence that are written.
    fn written(&self, seg: &Segment) -> Range<usize> {
        let all = seg.positions().div_ceil(BLOCK);
        if self.past { 0..all } else { seg.written() }
    }

    /// Writes what belongs to a segment's block `i`, which is block `block` of the layer.
    ///
    /// # Safety
    /// The segment's rows are there, the layer has the block, and nobody else uses this head's part of it meanwhile.
    unsafe fn block<E: Elem>(&self, seg: &Segment, i: usize, block: u32, head: usize) {
        // SAFETY: as here.
        unsafe {
            if self.past {
                self.rows::<E>(0..seg.past as usize, seg.table, i, block, head);
            }
            self.rows::<E>(seg.past as usize..seg.positions(), seg.q_start, i, block, head);
        }
    }

    /// Writes those of the sequence's `positions`, the rows from `row` on, that belong to its block `i`, which is block `block` of
    /// the layer.
    ///
    /// # Safety
    /// As [`Store::block`].
    unsafe fn rows<E: Elem>(&self, positions: Range<usize>, row: u32, i: usize, block: u32, head: usize) {
        let a = self.a;
        let ld = a.kv_heads * a.head_dim;
        let (first, last) = (positions.start.max(i * BLOCK), positions.end.min((i + 1) * BLOCK));
        if first >= last {
            return;
        }
        let at = (row as usize + first - positions.start) * ld + head * a.head_dim;
        let part = a.block_units(E::R == 2) / a.kv_heads;
        // SAFETY: rows and block are the caller's.
        unsafe {
            let dst = self.units.add((block as usize * a.kv_heads + head) * part);
            let (k, v) = (self.k.as_ptr().add(at), self.v.as_ptr().add(at));
            tile::store_rows::<E>(k, v, ld, last - first, a.head_dim, first % BLOCK, dst);
        }
    }
}

/// Where the outputs go.
struct Outputs<'a> {
    out: Parts<'a, f32>,
    lse: Option<Parts<'a, f32>>,
}

/// Stores keys and values of `segs` in their blocks, which `blocks` names by the segment's index, and attends with every query.
///
/// # Safety
/// Rows and blocks are there, no block is written for one segment and used by another, and those of a past that isn't in the batch
/// hold it; `work` has `work_units` for each lane.
unsafe fn attend<'b, E: Elem>(
    q: &[f32],
    segs: &[Segment],
    blocks: impl Fn(usize) -> &'b [u32] + Sync,
    store: &Store,
    outputs: &Outputs,
    work: &mut [u32],
) {
    let a = store.a;
    let block = rows_of_task(a);
    let of = |s: &Segment| (s.q_len as usize).div_ceil(block);
    // A sequence that several tasks attend for is stored before any of them starts, another by its task.
    let before = |s: &Segment| if of(s) > 1 { store.written(s).len() } else { 0 };
    let stores = segs.iter().map(before).sum::<usize>() * a.kv_heads;
    par::run(par::threads(stores * BLOCK * a.head_dim / 4), stores, |_, task| {
        let ((index, n), head) = (locate(segs, task / a.kv_heads, before), task % a.kv_heads);
        let i = store.written(&segs[index]).start + n;
        // SAFETY: the caller's; a task is a head of one block.
        unsafe { store.block::<E>(&segs[index], i, blocks(index)[i], head) };
    });
    let tasks = segs.iter().map(of).sum::<usize>() * a.kv_heads;
    let pairs: usize = segs.iter().map(|s| s.q_len as usize * s.positions()).sum();
    let reads: usize = segs.iter().map(Segment::positions).sum::<usize>() * a.kv_heads;
    let unit = forward::work_units(a);
    let lanes = par::threads(a.head_dim * (pairs * a.heads / 40 + reads * size_of::<E>() / 8));
    let lanes = lanes.min(work.len() / unit).max(1);
    let work = Parts::new(work);
    par::run(lanes, tasks, |lane, task| {
        // In the order of the rows, as every kernel: a thread then mostly reads what it wrote.
        let ((index, n), head) = (locate(segs, task / a.kv_heads, of), task % a.kv_heads);
        let (seg, blocks, first) = (&segs[index], blocks(index), n * block);
        if of(seg) == 1 {
            for i in store.written(seg) {
                // SAFETY: this is the only task of this segment and head; others have other blocks.
                unsafe { store.block::<E>(seg, i, blocks[i], head) };
            }
        }
        let job = forward::Job {
            q: q.as_ptr(),
            units: store.units,
            block_units: a.block_units(E::R == 2),
            blocks,
            out: outputs.out.as_ptr(),
            lse: outputs.lse.as_ref().map_or(std::ptr::null_mut(), Parts::as_ptr),
            a,
            seg,
            head,
            first,
            last: (first + block).min(seg.q_len as usize),
        };
        // SAFETY: rows are checked; tasks write different rows and heads; each lane has its own work.
        unsafe { forward::block::<E>(&job, work.get(lane * unit..(lane + 1) * unit).as_mut_ptr()) }
    });
}

/// Queries of a task.
fn rows_of_task(a: &Attention) -> usize {
    (forward::ROWS / (a.heads / a.kv_heads)).max(1)
}
