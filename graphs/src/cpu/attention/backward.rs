//! Gradients of attention, with the probabilities recomputed from the saved log-sum-exp (Dao, arXiv 2307.08691, §3.1.2).
//!
//! One task is one *family*, a whole sequence with those after beginnings of it, and one key head: it alone writes that head's
//! `dk` and `dv` and its group's `dq`, so nothing is shared and the order of every sum is that of the blocks, for keys of the
//! common beginning first over the whole sequence's queries, then over the others' in their order.

use std::f32::consts::LOG2_E;

use half::bf16;

use super::super::simd::{Elem, L, Simd, exp2, load, multiversion, store};
use super::tile::{BK, GROUPS, Panel, panel_of_keys, panel_of_rows, product, row_tile, update};
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
    BK * (4 * a.head_dim + 5 * width + 3 * BK)
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
        for r in r0..r1 {
            let mut sum = S::splat(0.0);
            for c in (0..n).step_by(L) {
                let (at, w) = (r * n + c, (n - c).min(L));
                sum = S::fma(load::<S>(out.add(at), w), load::<S>(dout.add(at), w), sum);
            }
            *dots.add(r) = S::sum(sum);
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
    /// Keys of the block that the first query sees, were there so many, and how many more each next one does.
    seen: usize,
    more: usize,
    /// Keys in the block.
    keys: usize,
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
    /// Probabilities and score gradients: `[query, key]` f32, then `[key, query]` row tiles.
    p: *mut f32,
    ds: *mut f32,
    turned: *mut u32,
    /// Sums over queries.
    dk: *mut f32,
    dv: *mut f32,
}

multiversion! {
    unsafe fn family<S, E: Elem>(job: &Job<'_>, work: *mut u32) {
        let a = job.a;
        let (hd, width) = (a.head_dim, a.head_dim.next_multiple_of(L));
        let mut next = work;
        let mut take = |n: usize| {
            let p = next;
            next = next.add(BK * n);
            p
        };
        let t = Tiles {
            keys: take(hd), values: take(hd), q: take(hd), dout: take(hd),
            key_rows: take(width), q_rows: take(width), dout_rows: take(width),
            dk: take(width).cast(), dv: take(width).cast(),
            p: take(BK).cast(), ds: take(BK).cast(), turned: take(BK),
        };
        let group = a.heads / a.kv_heads;
        let ld = a.kv_heads * hd;
        for owner in job.members() {
            let own = &job.segs[owner];
            for key in (0..own.q_len as usize).step_by(BK) {
                let keys = (own.q_len as usize - key).min(BK);
                let at = (own.q_start as usize + key) * ld + job.head * hd;
                panel_of_keys::<S, E>(job.k.add(at), ld, keys, hd, t.keys);
                panel_of_keys::<S, E>(job.v.add(at), ld, keys, hd, t.values);
                panel_of_rows::<S, E>((job.k.add(at), ld), keys, hd, (t.key_rows, BK / E::R), width);
                std::slice::from_raw_parts_mut(t.dk, BK * width).fill(0.0);
                std::slice::from_raw_parts_mut(t.dv, BK * width).fill(0.0);
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
                            let pair = Pair { seg, query, n, head, seen, more, keys };
                            gradients::<S, E>(job, &t, &pair, owner == 0 && key == 0);
                        }
                    }
                }
                for r in 0..keys {
                    std::ptr::copy_nonoverlapping(t.dk.add(r * width), job.dk.add(at + r * ld), hd);
                    std::ptr::copy_nonoverlapping(t.dv.add(r * width), job.dv.add(at + r * ld), hd);
                }
            }
        }
    }
}

/// What a pair of blocks adds to the gradients; `first` if `dq` is not there yet.
#[inline(always)]
unsafe fn gradients<S: Simd, E: Elem>(job: &Job, t: &Tiles, pair: &Pair, first: bool) {
    // SAFETY: as `family`.
    unsafe {
        let (n, width) = (pair.n, job.a.head_dim.next_multiple_of(L));
        let row = (pair.seg.q_start as usize + pair.query) * job.a.heads + pair.head;
        queries::<S, E>(job, t, row, n);
        for r in (0..n).step_by(MR) {
            match (n - r).min(MR) {
                4 => scores::<S, E, 4>(job, t, pair, row, r),
                3 => scores::<S, E, 3>(job, t, pair, row, r),
                2 => scores::<S, E, 2>(job, t, pair, row, r),
                _ => scores::<S, E, 1>(job, t, pair, row, r),
            }
        }
        std::slice::from_raw_parts_mut(t.p.add(n * BK), (BK - n) * BK).fill(0.0);
        std::slice::from_raw_parts_mut(t.ds.add(n * BK), (BK - n) * BK).fill(0.0);
        turn::<S, E>(t.p, t.turned);
        rows_by_panel::<S, E>(t.turned, t.dout_rows, t.dv, width);
        turn::<S, E>(t.ds, t.turned);
        rows_by_panel::<S, E>(t.turned, t.q_rows, t.dk, width);
        add_dq::<S, E>(job, t, row, n, width, first);
    }
}

/// Packs `n` queries and their `dout`, the first at row `row` of `lse`.
#[inline(always)]
unsafe fn queries<S: Simd, E: Elem>(job: &Job, t: &Tiles, row: usize, n: usize) {
    // SAFETY: as `family`.
    unsafe {
        let (hd, ld) = (job.a.head_dim, job.a.heads * job.a.head_dim);
        let width = hd.next_multiple_of(L);
        let (q, dout) = (job.q.add(row * hd), job.dout.add(row * hd));
        for r in 0..n {
            row_tile::<S, E>(q.add(r * ld), hd, t.q.add(r * hd / E::R));
            row_tile::<S, E>(dout.add(r * ld), hd, t.dout.add(r * hd / E::R));
        }
        panel_of_rows::<S, E>((q, ld), n, hd, (t.q_rows, BK / E::R), width);
        panel_of_rows::<S, E>((dout, ld), n, hd, (t.dout_rows, BK / E::R), width);
    }
}

/// Probabilities and score gradients of rows `r..r + M` of a block whose first row of `lse` is `row`.
#[inline(always)]
unsafe fn scores<S: Simd, E: Elem, const M: usize>(job: &Job, t: &Tiles, pair: &Pair, row: usize, r: usize) {
    // SAFETY: as `family`.
    unsafe {
        let units = job.a.head_dim / E::R;
        let keys = |panel: *mut u32| Panel::of_keys(panel, units, std::ptr::null());
        let mut score = [[S::splat(0.0); GROUPS]; M];
        let mut dp = [[S::splat(0.0); GROUPS]; M];
        product::<S, E, M, GROUPS>(&mut score, (t.q.add(r * units), units), keys(t.keys), units);
        product::<S, E, M, GROUPS>(&mut dp, (t.dout.add(r * units), units), keys(t.values), units);
        let scale = S::splat(job.a.scale);
        let power = S::splat(job.a.scale * LOG2_E);
        for i in 0..M {
            let at = row + (r + i) * job.a.heads;
            let (lse, dot) = (S::splat(-*job.lse.add(at) * LOG2_E), S::splat(*job.dots.add(at)));
            let visible = (pair.seen + pair.more * (r + i)).min(pair.keys);
            for v in 0..GROUPS {
                let shown = visible.saturating_sub(v * L).min(L);
                let p = exp2::<S>(S::fma(score[i][v], power, lse));
                let p = S::keep(shown, p, S::splat(0.0));
                let ds = S::mul(S::mul(p, S::sub(dp[i][v], dot)), scale);
                S::store(t.p.add((r + i) * BK + v * L), p);
                S::store(t.ds.add((r + i) * BK + v * L), ds);
            }
        }
    }
}

/// A `[query, key]` block as row tiles `[key, query]`.
#[inline(always)]
unsafe fn turn<S: Simd, E: Elem>(src: *const f32, dst: *mut u32) {
    // SAFETY: blocks are BK by BK.
    unsafe {
        for r in (0..BK).step_by(L) {
            for c in (0..BK).step_by(L) {
                let mut block = [S::splat_i(0); 16];
                for (i, x) in block.iter_mut().enumerate() {
                    *x = S::as_i(S::load(src.add((r + i) * BK + c)));
                }
                for (i, &x) in S::transpose(block).iter().enumerate() {
                    E::narrow::<S>(dst.cast::<E>().add((c + i) * BK + r), L, S::as_f(x));
                }
            }
        }
    }
}

/// `sum[row, lane] += Σ_u a[row, u] b[u, lane]` over a whole block.
#[inline(always)]
unsafe fn rows_by_panel<S: Simd, E: Elem>(a: *const u32, b: *const u32, sum: *mut f32, width: usize) {
    // SAFETY: tiles of a block.
    unsafe {
        let units = BK / E::R;
        for r in (0..BK).step_by(MR) {
            update::<S, E, MR>(
                (sum.add(r * width), width),
                None,
                (a.add(r * units), units),
                Panel::of_columns(b, width, std::ptr::null()),
                units,
                width,
            );
        }
    }
}

/// `dq (=, or += unless first) ds · keys` for the `n` queries of a block.
#[inline(always)]
unsafe fn add_dq<S: Simd, E: Elem>(job: &Job, t: &Tiles, row: usize, n: usize, width: usize, first: bool) {
    // SAFETY: as `family`; `turned` and the panels of the queries are free by now.
    unsafe {
        let (hd, units) = (job.a.head_dim, BK / E::R);
        for r in 0..BK {
            row_tile::<S, E>(t.ds.add(r * BK), BK, t.turned.add(r * units));
        }
        // The queries' panels are used up: they hold the sums.
        let sum = t.dout_rows.cast::<f32>();
        std::slice::from_raw_parts_mut(sum, BK * width).fill(0.0);
        rows_by_panel::<S, E>(t.turned, t.key_rows, sum, width);
        for r in 0..n {
            let dq = job.dq.add((row + r * job.a.heads) * hd);
            for c in (0..hd).step_by(L) {
                let w = (hd - c).min(L);
                let x = S::load(sum.add(r * width + c));
                let x = if first { x } else { S::add(load::<S>(dq.add(c), w), x) };
                store::<S>(dq.add(c), w, x);
            }
        }
    }
}
