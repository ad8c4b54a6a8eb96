//! A block of queries of one sequence and one key head, over all keys they see.

use std::mem::MaybeUninit;

use super::super::simd::{Elem, L, Simd, exp2, in_order, multiversion, store};
use super::tile::{BK, GROUPS, Panel, Rows, Start, product, row_tile, update};
use super::{Attention, Segment};

/// Rows (queries times heads of the group) in a block.
pub const ROWS: usize = 64;
/// Rows taken together, and where they see few keys.
const MR: usize = 4;
const WIDE: usize = 8;

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
        let (first, heads) = ((job.seg.q_start as usize + job.first) * a.heads + job.head * group, a.heads);
        let (out, rest) = (work.cast::<f32>(), work.cast::<f32>().add(rows * width));
        let (sum, rest) = (rest, rest.add(rows * L));
        let (max, rest) = (rest, rest.add(rows).cast::<u32>());
        // Keys that each row sees.
        let (ends, qp) = (rest, rest.add(rows));
        std::slice::from_raw_parts_mut(max, rows).fill(f32::MIN);
        let (q, past) = (job.q.add(first * hd), job.seg.past as usize);
        for token in 0..tokens {
            let end = past + if a.causal { job.first + token + 1 } else { job.seg.q_len as usize };
            std::slice::from_raw_parts_mut(ends.add(token * group), group).fill(end as u32);
            row_tile::<S, E>(q.add(token * heads * hd), group * hd, qp.add(token * group * units));
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
            let mut r = 0;
            while r < rows {
                let wide = r + WIDE <= rows && seen(r + WIDE - 1) <= key + 2 * L;
                let (m, this) = (if wide { WIDE } else { (rows - r).min(MR) }, r);
                r += m;
                if seen(r - 1) <= key {
                    continue;
                }
                // The first strip fetches the next block for all.
                let next = if this == 0 { next } else { std::ptr::null() };
                let values = if next.is_null() { next } else { next.add(BK * units) };
                let strip = Strip {
                    q: qp.add(this * units), units, width,
                    keys: Panel::of_keys(keys, units, next),
                    values: Panel::of_columns(keys.add(BK * units), width, values),
                    out: out.add(this * width), max: max.add(this), sum: sum.add(this * L), ends: ends.add(this), key,
                    scale: a.scale * std::f32::consts::LOG2_E,
                };
                match m {
                    WIDE => strip.step::<S, E, WIDE>(),
                    4 => strip.step::<S, E, 4>(),
                    3 => strip.step::<S, E, 3>(),
                    2 => strip.step::<S, E, 2>(),
                    _ => strip.step::<S, E, 1>(),
                }
            }
        }
        // The sums of 16 rows at once; nobody needs `ends` any more.
        let total = ends.cast::<f32>();
        for first in (0..rows).step_by(L) {
            let mut x = [S::splat(0.0); L];
            for (i, x) in x.iter_mut().enumerate().take(rows - first) {
                *x = S::load(sum.add((first + i) * L));
            }
            store::<S>(total.add(first), L.min(rows - first), in_order::<S>(S::sums(x)));
        }
        let (dst, whole) = (job.out.add(first * hd), hd - hd % L);
        for token in 0..tokens {
            for g in 0..group {
                let r = token * group + g;
                let (from, to) = (out.add(r * width), dst.add((token * heads + g) * hd));
                let inv = S::splat(1.0 / *total.add(r));
                for c in (0..whole).step_by(L) {
                    S::store(to.add(c), S::mul(S::load(from.add(c)), inv));
                }
                if whole < hd {
                    store::<S>(to.add(whole), hd - whole, S::mul(S::load(from.add(whole)), inv));
                }
            }
        }
        if !job.lse.is_null() {
            let (lse, scale) = (job.lse.add(first), a.scale);
            for r in 0..rows {
                *total.add(r) = *max.add(r) * scale + ln(*total.add(r));
            }
            for token in 0..tokens {
                for g in 0..group {
                    *lse.add(token * heads + g) = *total.add(token * group + g);
                }
            }
        }
    }
}

/// Natural logarithm of a normal number, within 2 ulp (the reduction and coefficients of Cephes `logf`). Arithmetic alone, so that
/// it is computed for many rows at once and the same on every instruction set.
#[inline(always)]
fn ln(x: f32) -> f32 {
    // x = m · 2^n with m in [√½, √2).
    let shifted = x.to_bits().wrapping_sub(std::f32::consts::FRAC_1_SQRT_2.to_bits());
    let n = (shifted as i32 >> 23) as f32;
    let m = f32::from_bits((shifted & 0x007f_ffff) + std::f32::consts::FRAC_1_SQRT_2.to_bits()) - 1.0;
    let mut p = 7.037_683_6e-2;
    for c in [
        -1.151_461e-1,
        1.167_699_9e-1,
        -1.242_014_1e-1,
        1.424_932_3e-1,
        -1.666_805_7e-1,
        2.000_071_5e-1,
        -2.499_999_4e-1,
        3.333_333e-1,
    ] {
        p = p * m + c;
    }
    let square = m * m;
    let tail = p * m * square + n * -2.121_944_4e-4 - 0.5 * square;
    m + tail + n * 0.693_359_4
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
    /// Keys that each row sees, ascending, and how many come before the block. Where none do, no sum is there yet.
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
                _ if M < WIDE && visible[0] == BK => self.weigh::<S, E, M, GROUPS, false>(&visible, &mut p),
                1 => self.weigh::<S, E, M, 1, true>(&visible, &mut p),
                2 => self.weigh::<S, E, M, 2, true>(&visible, &mut p),
                _ if M == WIDE => unreachable!("of two groups at most"),
                3 => self.weigh::<S, E, M, 3, true>(&visible, &mut p),
                _ => self.weigh::<S, E, M, GROUPS, true>(&visible, &mut p),
            };
            let (out, p) = ((self.out, self.width), Rows::of_tile(p.as_ptr().cast(), BK / E::R));
            let start = if self.key == 0 { Start::Zero } else { Start::Scaled(&shrink) };
            update::<S, E, M>(out, start, p, self.values, seen.div_ceil(E::R), self.width);
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
            // A block that is not whole is the last one of most rows: nothing to fetch.
            let next = if MASKED { std::ptr::null() } else { self.keys.next };
            let keys = Panel { next, ..self.keys };
            product::<S, E, M, N>(&mut score, Rows::of_tile(self.q, self.units), keys, self.units);
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
            if self.key > 0 {
                let fall = S::sub(S::load(old.as_ptr()), S::load(new.as_ptr()));
                S::store(shrink.as_mut_ptr(), exp2::<S>(S::mul(fall, scale)));
            }
            for r in 0..M {
                let offset = S::splat(-new[r] * self.scale);
                let mut total = S::splat(0.0);
                if self.key > 0 {
                    total = S::mul(S::load(self.sum.add(r * L)), S::splat(shrink[r]));
                }
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
