//! Gradients of attention, with the probabilities recomputed from the saved log-sum-exp (Dao, arXiv 2307.08691, §3.1.2).
//!
//! One task is one *family*, a whole sequence with those after beginnings of it, and one key head: it alone writes that head's
//! `dk` and `dv` and its group's `dq`, so nothing is shared and the order of every sum is that of the blocks, for keys of the
//! common beginning first over the whole sequence's queries, then over the others' in their order.

use std::f32::consts::LOG2_E;

use half::bf16;

use super::super::simd::{Elem, L, Simd, exp2, in_order, load, multiversion, store};
use super::tile::{BK, Panel, Rows, Start, panel_of_keys, panel_of_rows, product, tile_and_panel, update};
use super::{Attention, Segment, locate};
use crate::cpu::par::{self, Parts, Shared};
use crate::cpu::scratch::{Scratch, bytes_of};

/// What the forward pass saved.
#[derive(Clone, Copy)]
pub struct AttentionSaved<'a> {
    /// `[t, heads * head_dim]`
    pub q: &'a [f32],
    /// `[t, kv_heads * head_dim]`
    pub k: &'a [f32],
    pub v: &'a [f32],
    /// `[t, heads * head_dim]`
    pub out: &'a [f32],
    /// `[t, heads]`
    pub lse: &'a [f32],
}

/// Gradients to write; rows of no segment are left alone.
pub struct AttentionGrads<'a> {
    /// `[t, heads * head_dim]`
    pub dq: &'a mut [f32],
    /// `[t, kv_heads * head_dim]`
    pub dk: &'a mut [f32],
    pub dv: &'a mut [f32],
}

/// Rows taken together.
const MR: usize = 4;

fn work_units(a: &Attention) -> usize {
    let width = a.head_dim.next_multiple_of(L);
    BK * (4 * a.head_dim + 5 * width + 2 * BK) + MR * (width + BK)
}

/// Bytes of scratch for [`attention_backward`] on `t` tokens.
pub fn attention_backward_scratch(a: &Attention, t: usize) -> usize {
    bytes_of::<f32>(t * a.heads) + rayon::current_num_threads().max(1) * bytes_of::<u32>(work_units(a))
}

/// Gradients of [`attention`](super::attention) over the segments it was given, all replaced; `bf16` as there.
///
/// # Panics
/// As [`attention`](super::attention).
pub fn attention_backward(
    saved: &AttentionSaved,
    bf16: bool,
    dout: &[f32],
    segs: &[Segment],
    a: &Attention,
    grads: AttentionGrads,
    scratch: &mut Scratch,
) {
    if bf16 {
        differentiate::<bf16>(saved, dout, segs, a, grads, scratch.reborrow());
    } else {
        differentiate::<f32>(saved, dout, segs, a, grads, scratch.reborrow());
    }
}

fn differentiate<E: Elem>(
    saved: &AttentionSaved,
    dout: &[f32],
    segs: &[Segment],
    a: &Attention,
    grads: AttentionGrads,
    mut scratch: Scratch,
) {
    let &AttentionSaved { q, k, v, out, lse } = saved;
    a.check_batch(q.len(), segs);
    let (t, kv_width) = (q.len() / (a.heads * a.head_dim), a.kv_heads * a.head_dim);
    assert!(
        out.len() == q.len()
            && dout.len() == q.len()
            && grads.dq.len() == q.len()
            && lse.len() == t * a.heads
    );
    assert!([k, v, grads.dk, grads.dv].iter().all(|x| x.len() == t * kv_width));
    let dots = scratch.take::<f32>(t * a.heads);
    let parts = Parts::new(&mut *dots);
    par::ranges(q.len() / 12, t * a.heads, 1, |r| {
        // SAFETY: one dot a row of head_dim; tasks write different rows.
        unsafe { row_dots(out.as_ptr(), dout.as_ptr(), parts.as_ptr(), r.start, r.end, a.head_dim) }
    });
    let is_root = |s: &Segment| (s.past == 0) as usize;
    let families = segs.iter().map(is_root).sum::<usize>();
    let tasks = families * a.kv_heads;
    let pairs: usize = segs.iter().map(|s| s.q_len as usize * s.positions()).sum();
    let unit = work_units(a);
    let stride = bytes_of::<u32>(unit) / size_of::<u32>();
    let lanes =
        par::threads(a.head_dim * pairs * a.heads / 16).min(scratch.len() / bytes_of::<u32>(unit)).max(1);
    let work = Parts::new(scratch.take::<u32>(lanes * stride));
    let (dq, dk, dv) = (Parts::new(grads.dq), Parts::new(grads.dk), Parts::new(grads.dv));
    let dots = Shared(dots.as_ptr());
    par::run(lanes, tasks, |lane, task| {
        let (root, _) = locate(segs, task / a.kv_heads, is_root);
        let alone = families == segs.len();
        let job = Job {
            q: q.as_ptr(),
            k: k.as_ptr(),
            v: v.as_ptr(),
            dout: dout.as_ptr(),
            lse: lse.as_ptr(),
            dots: dots.get(),
            dq: dq.as_ptr(),
            dk: dk.as_ptr(),
            dv: dv.as_ptr(),
            a,
            segs: if alone { &segs[root..=root] } else { &segs[root..] },
            head: task % a.kv_heads,
        };
        // SAFETY: rows checked above; tasks write different families or heads; each lane has its own work.
        unsafe { family::<E>(&job, work.get(lane * stride..lane * stride + unit).as_mut_ptr()) }
    });
}

multiversion! {
    /// `dots[r] = out[r] · dout[r]` for rows of `n`.
    unsafe fn row_dots<S>(out: *const f32, dout: *const f32, dots: *mut f32, r0: usize, r1: usize, n: usize) {
        for first in (r0..r1).step_by(L) {
            let (rows, mut x) = ((r1 - first).min(L), [S::splat(0.0); L]);
            for (i, sum) in x.iter_mut().enumerate().take(rows) {
                for c in (0..n).step_by(L) {
                    let (at, w) = ((first + i) * n + c, (n - c).min(L));
                    *sum = S::fma(load::<S>(out.add(at), w), load::<S>(dout.add(at), w), *sum);
                }
            }
            store::<S>(dots.add(first), rows, in_order::<S>(S::sums(x)));
        }
    }
}

struct Job<'a> {
    q: *const f32,
    k: *const f32,
    v: *const f32,
    dout: *const f32,
    lse: *const f32,
    dots: *const f32,
    dq: *mut f32,
    dk: *mut f32,
    dv: *mut f32,
    a: &'a Attention,
    /// The family's whole sequence, then segments of which some may be after beginnings of it.
    segs: &'a [Segment],
    head: usize,
}

impl Job<'_> {
    /// The whole sequence, 0, and those after it, by their places in `segs`.
    fn members(&self) -> impl Iterator<Item = usize> {
        let root = self.segs[0].q_start;
        let after = move |&i: &usize| self.segs[i].past > 0 && self.segs[i].table == root;
        std::iter::once(0).chain((1..self.segs.len()).filter(after))
    }
}

/// A block of keys against a block of queries.
struct Pair<'a> {
    /// The queries' segment, their first, their number, and the query head.
    seg: &'a Segment,
    query: usize,
    n: usize,
    head: usize,
    /// Keys of the block that the first query sees, were there so many, and how many more each next one does: 0 or 1.
    seen: usize,
    more: usize,
    /// Keys in the block.
    keys: usize,
    /// Whether nothing has been added to the block's `dk` and `dv` yet, and to the queries' `dq`.
    first_of_keys: bool,
    first_of_queries: bool,
}

impl Pair<'_> {
    /// Keys that query `r` sees.
    #[inline(always)]
    fn visible(&self, r: usize) -> usize {
        (self.seen + self.more * r).min(self.keys)
    }

    /// The first query that sees key `r`, which the last one does.
    #[inline(always)]
    fn from(&self, r: usize) -> usize {
        self.more * (r + 1).saturating_sub(self.seen)
    }
}

/// Tiles of one task, in units of 32 bits.
struct Tiles {
    /// Panels over head_dim with keys as lanes.
    keys: *mut u32,
    values: *mut u32,
    /// Panel over keys with head_dim as lanes.
    key_rows: *mut u32,
    /// Row tiles and panels of a block of queries.
    q: *mut u32,
    dout: *mut u32,
    q_rows: *mut u32,
    dout_rows: *mut u32,
    /// Probabilities and score gradients, `[units of queries][keys]`: what products read as rows of keys.
    p: *mut u32,
    ds: *mut u32,
    /// Sums over queries.
    dk: *mut f32,
    dv: *mut f32,
    /// Of a strip of queries: score gradients as a row tile, and their sums over keys.
    ds_rows: *mut u32,
    dq: *mut f32,
}

multiversion! {
    unsafe fn family<S, E: Elem>(job: &Job<'_>, work: *mut u32) {
        let a = job.a;
        let (hd, width) = (a.head_dim, a.head_dim.next_multiple_of(L));
        let mut next = work;
        let mut take = |n: usize| {
            let p = next;
            next = next.add(n);
            p
        };
        let (tile, panel, block) = (BK * hd / E::R, BK * width / E::R, BK * BK / E::R);
        let t = Tiles {
            keys: take(tile), values: take(tile), q: take(tile), dout: take(tile),
            key_rows: take(panel), q_rows: take(panel), dout_rows: take(panel),
            p: take(block), ds: take(block),
            dk: take(BK * width).cast(), dv: take(BK * width).cast(),
            ds_rows: take(MR * BK / E::R), dq: take(MR * width).cast(),
        };
        let group = a.heads / a.kv_heads;
        let (ld, whole) = (a.kv_heads * hd, hd - hd % L);
        for owner in job.members() {
            let own = &job.segs[owner];
            for key in (0..own.q_len as usize).step_by(BK) {
                let keys = (own.q_len as usize - key).min(BK);
                let at = (own.q_start as usize + key) * ld + job.head * hd;
                panel_of_keys::<S, E>(job.k.add(at), ld, keys, hd, t.keys);
                panel_of_keys::<S, E>(job.v.add(at), ld, keys, hd, t.values);
                panel_of_rows::<S, E>((job.k.add(at), ld), keys, hd, (t.key_rows, keys.div_ceil(E::R)), width);
                let mut first_of_keys = true;
                for reader in job.members() {
                    let seg = &job.segs[reader];
                    // The first query of the segment that sees the block, and how many of its keys.
                    let (first, seen, more) = match () {
                        _ if reader == owner && a.causal => (key, 1, 1),
                        _ if reader == owner => (0, keys, 0),
                        _ if owner == 0 && seg.past as usize > key => (0, seg.past as usize - key, 0),
                        _ => continue,
                    };
                    for head in job.head * group..(job.head + 1) * group {
                        for query in (first..seg.q_len as usize).step_by(BK) {
                            let n = (seg.q_len as usize - query).min(BK);
                            let seen = seen + more * (query - first);
                            let first_of_queries = owner == 0 && key == 0;
                            let pair = Pair { seg, query, n, head, seen, more, keys, first_of_keys, first_of_queries };
                            gradients::<S, E>(job, &t, &pair);
                            first_of_keys = false;
                        }
                    }
                }
                for (sums, grads) in [(t.dk, job.dk.add(at)), (t.dv, job.dv.add(at))] {
                    for r in 0..keys {
                        let (from, to) = (sums.add(r * width), grads.add(r * ld));
                        for c in (0..whole).step_by(L) {
                            S::store(to.add(c), S::load(from.add(c)));
                        }
                        if whole < hd {
                            store::<S>(to.add(whole), hd - whole, S::load(from.add(whole)));
                        }
                    }
                }
            }
        }
    }
}

/// What a pair of blocks adds to the gradients. What no query sees is not touched, in groups of 16 keys and units of queries.
#[inline(always)]
unsafe fn gradients<S: Simd, E: Elem>(job: &Job, t: &Tiles, pair: &Pair) {
    // SAFETY: as `family`. The first pair of a block of keys is its own segment's and shows every key to some query.
    unsafe {
        let (n, width) = (pair.n, job.a.head_dim.next_multiple_of(L));
        let row = (pair.seg.q_start as usize + pair.query) * job.a.heads + pair.head;
        queries::<S, E>(job, t, row, n);
        for r in (0..n).step_by(MR) {
            let all = r + MR <= n && pair.visible(r) == BK;
            match pair.visible(r + MR - 1).div_ceil(L) {
                1 => weigh::<S, E, 1, true>(job, t, pair, row, r),
                2 => weigh::<S, E, 2, true>(job, t, pair, row, r),
                3 => weigh::<S, E, 3, true>(job, t, pair, row, r),
                _ if all => weigh::<S, E, 4, false>(job, t, pair, row, r),
                _ => weigh::<S, E, 4, true>(job, t, pair, row, r),
            }
            add_dq::<S, E>(job, t, pair, row, r);
        }
        let start = if pair.first_of_keys { Start::Zero } else { Start::Kept };
        for r in (0..pair.visible(n - 1)).step_by(MR) {
            let first = pair.from(r) / E::R;
            let units = n.div_ceil(E::R) - first;
            for (sum, rows, panel) in [(t.dv, t.p, t.dout_rows), (t.dk, t.ds, t.q_rows)] {
                let rows = Rows { at: rows.add(first * BK + r), row: 1, unit: BK };
                let panel = Panel::of_columns(panel.add(first * width), width, std::ptr::null());
                update::<S, E, MR>((sum.add(r * width), width), start, rows, panel, units, width);
            }
        }
    }
}

/// Packs `n` queries and their `dout`, the first at row `row` of `lse`; zeros complete the last strip's.
#[inline(always)]
unsafe fn queries<S: Simd, E: Elem>(job: &Job, t: &Tiles, row: usize, n: usize) {
    // SAFETY: as `family`.
    unsafe {
        let (hd, ld) = (job.a.head_dim, job.a.heads * job.a.head_dim);
        let (width, units) = (hd.next_multiple_of(L), hd / E::R);
        for (src, tile, panel) in [(job.q, t.q, t.q_rows), (job.dout, t.dout, t.dout_rows)] {
            tile_and_panel::<S, E>((src.add(row * hd), ld), n, hd, (tile, panel), width);
            let rest = n.next_multiple_of(MR) - n;
            std::slice::from_raw_parts_mut(tile.add(n * units), rest * units).fill(0);
        }
    }
}

/// Probabilities and score gradients of rows `r..r + MR` of a pair on its first `N` groups of keys, zero where a row doesn't
/// see a key; `MASKED` unless there is none such. `row` is the place of the pair's first query in `lse`.
#[inline(always)]
unsafe fn weigh<S: Simd, E: Elem, const N: usize, const MASKED: bool>(
    job: &Job,
    t: &Tiles,
    pair: &Pair,
    row: usize,
    r: usize,
) {
    // SAFETY: as `family`.
    unsafe {
        let (hd, heads, rows) = (job.a.head_dim, job.a.heads, (pair.n - r).min(MR));
        let units = hd / E::R;
        let tile = |x: *mut u32| Rows::of_tile(x.add(r * units), units);
        let keys = |panel: *mut u32| Panel::of_keys(panel, units, std::ptr::null());
        let (mut p, mut ds) = ([[S::splat(0.0); N]; MR], [[S::splat(0.0); N]; MR]);
        product::<S, E, MR, N>(&mut p, tile(t.q), keys(t.keys), units);
        product::<S, E, MR, N>(&mut ds, tile(t.dout), keys(t.values), units);
        let (scale, power) = (S::splat(job.a.scale), S::splat(job.a.scale * LOG2_E));
        for i in 0..MR {
            let at = row + (r + i.min(rows - 1)) * heads;
            let (lse, dot) = (S::splat(-*job.lse.add(at) * LOG2_E), S::splat(*job.dots.add(at)));
            let visible = if i < rows { pair.visible(r + i) } else { 0 };
            for v in 0..N {
                let mut x = exp2::<S>(S::fma(p[i][v], power, lse));
                if MASKED {
                    x = S::keep(visible.saturating_sub(v * L).min(L), x, S::splat(0.0));
                }
                let y = S::mul(S::mul(x, S::sub(ds[i][v], dot)), scale);
                E::narrow::<S>(t.ds_rows.cast::<E>().add(i * BK + v * L), L, y);
                (p[i][v], ds[i][v]) = (x, y);
            }
        }
        for i in (0..MR).step_by(E::R) {
            for v in 0..N {
                let at = (r + i) / E::R * BK + v * L;
                S::store_i(t.p.add(at), E::unit::<S>(p[i][v], p[i + E::R - 1][v]));
                S::store_i(t.ds.add(at), E::unit::<S>(ds[i][v], ds[i + E::R - 1][v]));
            }
        }
    }
}

/// `dq (=, or += unless first) ds · keys` for rows `r..r + MR` of a pair.
#[inline(always)]
unsafe fn add_dq<S: Simd, E: Elem>(job: &Job, t: &Tiles, pair: &Pair, row: usize, r: usize) {
    // SAFETY: as `family`.
    unsafe {
        let (hd, heads, rows) = (job.a.head_dim, job.a.heads, (pair.n - r).min(MR));
        let width = hd.next_multiple_of(L);
        let ds_rows = Rows::of_tile(t.ds_rows, BK / E::R);
        let key_rows = Panel::of_columns(t.key_rows, width, std::ptr::null());
        let units = pair.visible(r + rows - 1).div_ceil(E::R);
        update::<S, E, MR>((t.dq, width), Start::Zero, ds_rows, key_rows, units, width);
        for i in 0..rows {
            let dq = job.dq.add((row + (r + i) * heads) * hd);
            for c in (0..hd).step_by(L) {
                let w = (hd - c).min(L);
                let x = S::load(t.dq.add(i * width + c));
                let x = if pair.first_of_queries { x } else { S::add(load::<S>(dq.add(c), w), x) };
                store::<S>(dq.add(c), w, x);
            }
        }
    }
}
