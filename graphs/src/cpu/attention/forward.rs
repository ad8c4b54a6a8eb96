//! A block of queries of one sequence and one key head, over all keys they see.

use std::mem::MaybeUninit;

use super::super::simd::{Elem, L, Simd, exp2, multiversion, store};
use super::tile::{BK, GROUPS, Panel, Rows, Start, product, row_tile, update};
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

/// Units of 32 bits that [`block`] works in: queries, what they see, output and softmax state.
pub fn work_units(a: &Attention) -> usize {
    rows(a) * (a.head_dim + a.head_dim.next_multiple_of(L) + L + 2).next_multiple_of(L)
}

multiversion! {
    pub unsafe fn block<S, E: Elem>(job: &Job<'_>, work: *mut u32) {
        let a = job.a;
        let (hd, group, width) = (a.head_dim, a.heads / a.kv_heads, a.head_dim.next_multiple_of(L));
        let (units, tokens) = (hd / E::R, job.last - job.first);
        // A token's rows, one a head of the group, stand behind one another.
        let rows = tokens * group;
        let place = |token: usize| (job.seg.q_start as usize + job.first + token) * a.heads + job.head * group;
        let (out, rest) = (work.cast::<f32>(), work.cast::<f32>().add(rows * width));
        let (sum, rest) = (rest, rest.add(rows * L));
        let (max, rest) = (rest, rest.add(rows).cast::<u32>());
        // Keys that each row sees.
        let (ends, qp) = (rest, rest.add(rows));
        std::slice::from_raw_parts_mut(out, rows * (width + L)).fill(0.0);
        std::slice::from_raw_parts_mut(max, rows).fill(f32::MIN);
        for token in 0..tokens {
            let end = job.seg.past as usize + if a.causal { job.first + token + 1 } else { job.seg.q_len as usize };
            std::slice::from_raw_parts_mut(ends.add(token * group), group).fill(end as u32);
            row_tile::<S, E>(job.q.add(place(token) * hd), group * hd, qp.add(token * group * units));
        }
        let seen = |r: usize| *ends.add(r) as usize;
        let all = seen(rows - 1);
        let at = |i: usize| {
            let head = job.blocks[i] as usize * a.kv_heads + job.head;
            job.units.add(head * (job.block_units / a.kv_heads))
        };
        for i in 0..all.div_ceil(BK) {
            let (key, keys) = (i * BK, at(i));
            let next = if key + BK < all { at(i + 1) } else { std::ptr::null() };
            for r in (0..rows).step_by(MR) {
                let m = (rows - r).min(MR);
                if seen(r + m - 1) <= key {
                    continue;
                }
                // The first strip fetches the next block for all.
                let next = if r == 0 { next } else { std::ptr::null() };
                let values = if next.is_null() { next } else { next.add(BK * units) };
                let strip = Strip {
                    q: qp.add(r * units), units, width,
                    keys: Panel::of_keys(keys, units, next),
                    values: Panel::of_columns(keys.add(BK * units), width, values),
                    out: out.add(r * width), max: max.add(r), sum: sum.add(r * L), ends: ends.add(r), key,
                    scale: a.scale * std::f32::consts::LOG2_E,
                };
                match m {
                    4 => strip.step::<S, E, 4>(),
                    3 => strip.step::<S, E, 3>(),
                    2 => strip.step::<S, E, 2>(),
                    _ => strip.step::<S, E, 1>(),
                }
            }
        }
        for token in 0..tokens {
            for g in 0..group {
                let (r, place) = (token * group + g, place(token) + g);
                let sum = S::sum(S::load(sum.add(r * L)));
                let inv = S::splat(1.0 / sum);
                let dst = job.out.add(place * hd);
                for c in (0..hd).step_by(L) {
                    store::<S>(dst.add(c), (hd - c).min(L), S::mul(S::load(out.add(r * width + c)), inv));
                }
                if !job.lse.is_null() {
                    *job.lse.add(place) = *max.add(r) * a.scale + sum.ln();
                }
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
    /// Keys that each row sees, ascending, and how many come before the block.
    ends: *const u32,
    key: usize,
    /// Of exponents of 2.
    scale: f32,
}

/// Of `M` rows and a block of keys.
type Weights<E, const M: usize> = [[MaybeUninit<E>; BK]; M];

impl Strip {
    /// One step of the online softmax. Groups and pairs of keys that no row sees are not touched.
    #[inline(always)]
    unsafe fn step<S: Simd, E: Elem, const M: usize>(&self) {
        // SAFETY: `block` sets up tiles of the sizes named.
        unsafe {
            // Keys of the block that each row sees. The number of rows is a constant: computed for a variable one as a vector,
            // it would wait for a masked store before every strip.
            let mut visible = [0; M];
            for (r, x) in visible.iter_mut().enumerate() {
                *x = (*self.ends.add(r) as usize).saturating_sub(self.key).min(BK);
            }
            let seen = visible[M - 1];
            // Every number that is read below is written first: `seen` keys, rounded up to a vector.
            let mut p = [[MaybeUninit::<E>::uninit(); BK]; M];
            let shrink = match seen.div_ceil(L) {
                _ if visible[0] == BK => self.weigh::<S, E, M, GROUPS, false>(&visible, &mut p),
                1 => self.weigh::<S, E, M, 1, true>(&visible, &mut p),
                2 => self.weigh::<S, E, M, 2, true>(&visible, &mut p),
                3 => self.weigh::<S, E, M, 3, true>(&visible, &mut p),
                _ => self.weigh::<S, E, M, GROUPS, true>(&visible, &mut p),
            };
            let (out, p) = ((self.out, self.width), Rows::of_tile(p.as_ptr().cast(), BK / E::R));
            update::<S, E, M>(out, Start::Scaled(&shrink), p, self.values, seen.div_ceil(E::R), self.width);
        }
    }

    /// Weights of the first `N` groups of keys, relative to the new maximum; gives by what each row's sums so far shrink.
    /// `MASKED` unless every row sees all of them.
    #[inline(always)]
    unsafe fn weigh<S: Simd, E: Elem, const M: usize, const N: usize, const MASKED: bool>(
        &self,
        visible: &[usize; M],
        p: &mut Weights<E, M>,
    ) -> [f32; L] {
        // SAFETY: as `step`.
        unsafe {
            let mut score = [[S::splat(0.0); N]; M];
            product::<S, E, M, N>(&mut score, Rows::of_tile(self.q, self.units), self.keys, self.units);
            let (mut old, mut new) = ([0.0f32; L], [0.0f32; L]);
            for r in 0..M {
                if MASKED {
                    for (v, s) in score[r].iter_mut().enumerate() {
                        let shown = visible[r].saturating_sub(v * L).min(L);
                        *s = S::keep(shown, *s, S::splat(f32::NEG_INFINITY));
                    }
                }
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
            for r in 0..M {
                let offset = S::splat(-new[r] * self.scale);
                let mut total = S::mul(S::load(self.sum.add(r * L)), S::splat(shrink[r]));
                for (v, &s) in score[r].iter().enumerate() {
                    let e = exp2::<S>(S::fma(s, scale, offset));
                    total = S::add(total, e);
                    E::narrow::<S>(p[r].as_mut_ptr().add(v * L).cast(), L, e);
                }
                S::store(self.sum.add(r * L), total);
            }
            shrink
        }
    }
}
