//! A block of queries of one sequence and one key head, over all keys they see.

use std::mem::MaybeUninit;

use super::super::simd::{Elem, L, Simd, exp2, multiversion, store};
use super::tile::{BK, GROUPS, Panel, product, row_tile, update};
use super::{Attention, Segment};

/// Rows (queries times heads of the group) in a block.
pub const ROWS: usize = 64;
/// Rows taken together.
const MR: usize = 4;

/// Queries `first..last` of a segment for one key head.
pub struct Job<'a> {
    pub q: *const f32,
    /// Where the blocks of keys and values lie, and the head's part of each.
    pub units: *const u32,
    pub block_units: usize,
    /// The sequence's blocks, in order.
    pub blocks: &'a [u32],
    pub out: *mut f32,
    /// Null if not wanted.
    pub lse: *mut f32,
    pub a: &'a Attention,
    pub seg: &'a Segment,
    pub head: usize,
    pub first: usize,
    pub last: usize,
}

/// Rows in a block, at least a whole group.
fn rows(a: &Attention) -> usize {
    ROWS.max(a.heads / a.kv_heads)
}

/// Units of 32 bits that [`block`] works in: queries, output and softmax state.
pub fn work_units(a: &Attention) -> usize {
    rows(a) * (a.head_dim + a.head_dim.next_multiple_of(L) + L + 1).next_multiple_of(L)
}

multiversion! {
    pub unsafe fn block<S, E: Elem>(job: &Job<'_>, work: *mut u32) {
        let a = job.a;
        let (hd, group, width) = (a.head_dim, a.heads / a.kv_heads, a.head_dim.next_multiple_of(L));
        let (units, rows) = (hd / E::R, (job.last - job.first) * group);
        let (out, rest) = (work.cast::<f32>(), work.cast::<f32>().add(rows * width));
        let (sum, rest) = (rest, rest.add(rows * L));
        let (max, qp) = (rest, rest.add(rows).cast::<u32>());
        // Row r is query first + r / group of head head * group + r % group.
        let place = |r: usize| {
            let token = job.seg.q_start as usize + job.first + r / group;
            token * a.heads + job.head * group + r % group
        };
        for r in 0..rows {
            row_tile::<S, E>(job.q.add(place(r) * hd), hd, qp.add(r * units));
            *max.add(r) = f32::MIN;
        }
        std::slice::from_raw_parts_mut(out, rows * (width + L)).fill(0.0);
        let past = job.seg.past as usize;
        // Keys that row r sees.
        let seen = |r: usize| past + if a.causal { job.first + r / group + 1 } else { job.seg.q_len as usize };
        let all = seen(rows - 1);
        let at = |i: usize| {
            let head = job.blocks[i] as usize * a.kv_heads + job.head;
            job.units.add(head * (job.block_units / a.kv_heads))
        };
        for i in 0..all.div_ceil(BK) {
            let (key, keys) = (i * BK, at(i));
            let next = if key + BK < all { at(i + 1) } else { std::ptr::null() };
            let mut r = 0;
            while r < rows {
                let m = (rows - r).min(MR);
                if seen(r + m - 1) > key {
                    let mut visible = [0; MR];
                    for (i, x) in visible.iter_mut().enumerate().take(m) {
                        *x = seen(r + i).saturating_sub(key).min(BK);
                    }
                    // The first strip fetches the next block for all.
                    let next = if r == 0 { next } else { std::ptr::null() };
                    let values = if next.is_null() { next } else { next.add(BK * units) };
                    let strip = Strip {
                        q: qp.add(r * units), units, width,
                        keys: Panel::of_keys(keys, units, next),
                        values: Panel::of_columns(keys.add(BK * units), width, values),
                        out: out.add(r * width), max: max.add(r), sum: sum.add(r * L), visible,
                        scale: a.scale * std::f32::consts::LOG2_E,
                    };
                    match (m, visible[0] == BK) {
                        (4, true) => strip.step::<S, E, 4, true>(),
                        (3, true) => strip.step::<S, E, 3, true>(),
                        (2, true) => strip.step::<S, E, 2, true>(),
                        (1, true) => strip.step::<S, E, 1, true>(),
                        (4, false) => strip.step::<S, E, 4, false>(),
                        (3, false) => strip.step::<S, E, 3, false>(),
                        (2, false) => strip.step::<S, E, 2, false>(),
                        _ => strip.step::<S, E, 1, false>(),
                    }
                }
                r += MR;
            }
        }
        for r in 0..rows {
            let sum = S::sum(S::load(sum.add(r * L)));
            let inv = S::splat(1.0 / sum);
            let dst = job.out.add(place(r) * hd);
            for c in (0..hd).step_by(L) {
                store::<S>(dst.add(c), (hd - c).min(L), S::mul(S::load(out.add(r * width + c)), inv));
            }
            if !job.lse.is_null() {
                *job.lse.add(place(r)) = *max.add(r) * a.scale + (sum as f64).ln() as f32;
            }
        }
    }
}

/// A few rows against one block of keys.
struct Strip {
    q: *const u32,
    units: usize,
    width: usize,
    keys: Panel,
    values: Panel,
    out: *mut f32,
    /// Largest product of each row so far, before scaling.
    max: *mut f32,
    /// Sums of the exponentials, one a lane: keys 16 apart.
    sum: *mut f32,
    /// Keys of the block that each row sees, ascending.
    visible: [usize; MR],
    /// Of exponents of 2.
    scale: f32,
}

impl Strip {
    /// One step of the online softmax. `FULL`: every row sees the whole block; else groups and pairs of keys that no row
    /// sees are not touched.
    #[inline(always)]
    unsafe fn step<S: Simd, E: Elem, const M: usize, const FULL: bool>(&self) {
        // SAFETY: `block` sets up tiles of the sizes named.
        unsafe {
            let seen = if FULL { BK } else { self.visible[M - 1] };
            let mut score = [[S::splat(f32::NEG_INFINITY); GROUPS]; M];
            if FULL {
                score = [[S::splat(0.0); GROUPS]; M];
                product::<S, E, M, GROUPS>(&mut score, (self.q, self.units), self.keys, self.units);
            } else {
                for key in (0..seen).step_by(L) {
                    let (v, mut one) = (key / L, [[S::splat(0.0)]; M]);
                    product::<S, E, M, 1>(&mut one, (self.q, self.units), self.keys.from(v), self.units);
                    for (r, one) in one.into_iter().enumerate() {
                        let shown = self.visible[r].saturating_sub(key).min(L);
                        score[r][v] = S::keep(shown, one[0], S::splat(f32::NEG_INFINITY));
                    }
                }
            }
            let (mut old, mut new) = ([0.0f32; L], [0.0f32; L]);
            for r in 0..M {
                let mut top = score[r][0];
                for &s in &score[r][1..] {
                    top = S::max(s, top);
                }
                let top = S::max_lane(top);
                old[r] = *self.max.add(r);
                new[r] = if top > old[r] { top } else { old[r] };
                *self.max.add(r) = new[r];
            }
            let scale = S::splat(self.scale);
            let mut shrink = [0.0f32; L];
            let fall = S::sub(S::load(old.as_ptr()), S::load(new.as_ptr()));
            S::store(shrink.as_mut_ptr(), exp2::<S>(S::mul(fall, scale)));
            // Every number that is read below is written first: `seen` keys, rounded up to a vector.
            let mut p = [[MaybeUninit::<E>::uninit(); BK]; M];
            for r in 0..M {
                let offset = S::splat(-new[r] * self.scale);
                let mut total = S::mul(S::load(self.sum.add(r * L)), S::splat(shrink[r]));
                for (v, &s) in score[r].iter().enumerate() {
                    if FULL || v * L < seen {
                        let e = exp2::<S>(S::fma(s, scale, offset));
                        total = S::add(total, e);
                        E::narrow::<S>(p[r].as_mut_ptr().add(v * L).cast(), L, e);
                    }
                }
                S::store(self.sum.add(r * L), total);
            }
            let p = (p.as_ptr().cast::<u32>(), BK / E::R);
            let out = (self.out, self.width);
            update::<S, E, M>(out, Some(&shrink), p, self.values, seen.div_ceil(E::R), self.width);
        }
    }
}
