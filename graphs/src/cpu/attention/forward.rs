//! A block of queries of one sequence and one key head, over all keys they see.

use super::super::simd::{Elem, L, Simd, exp, multiversion, store};
use super::tile::{BK, panel_of_columns, panel_of_rows, product, row_tile, update};
use super::{Attention, Segment};

/// Rows (queries times heads of the group) in a block.
pub const ROWS: usize = 64;
/// Rows taken together.
const MR: usize = 4;
const LANES: usize = BK / L;

/// Queries `first..last` of a segment for one key head.
pub struct Job<'a, E> {
    pub q: *const f32,
    pub k: *const E,
    pub v: *const E,
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

/// Units of 32 bits that [`block`] works in: queries, keys, values, output and softmax state.
pub fn work_units(a: &Attention) -> usize {
    let width = a.head_dim.next_multiple_of(L);
    rows(a) * (a.head_dim + width + 2) + BK * (a.head_dim + width)
}

multiversion! {
    pub unsafe fn block<S, E: Elem>(job: &Job<'_, E>, work: *mut u32) {
        let a = job.a;
        let (hd, group, width) = (a.head_dim, a.heads / a.kv_heads, a.head_dim.next_multiple_of(L));
        let (units, rows) = (hd / E::R, (job.last - job.first) * group);
        let (qp, rest) = (work, work.add(self::rows(a) * hd));
        let (keys, rest) = (rest, rest.add(BK * hd));
        let (values, rest) = (rest, rest.add(BK * width));
        let (out, rest) = (rest.cast::<f32>(), rest.cast::<f32>().add(self::rows(a) * width));
        let (max, sum) = (rest, rest.add(self::rows(a)));
        // Row r is query first + r / group of head head * group + r % group.
        let place = |r: usize| {
            let token = job.seg.q_start as usize + job.first + r / group;
            token * a.heads + job.head * group + r % group
        };
        for r in 0..rows {
            row_tile::<S, E>(job.q.add(place(r) * hd), hd, qp.add(r * units));
            *max.add(r) = f32::MIN;
            *sum.add(r) = 0.0;
        }
        std::slice::from_raw_parts_mut(out, rows * width).fill(0.0);
        let past = job.seg.past as usize;
        // Keys that row r sees.
        let seen = |r: usize| past + if a.causal { job.first + r / group + 1 } else { job.seg.q_len as usize };
        let all = seen(rows - 1);
        let ld = a.kv_heads * hd;
        let start = job.seg.kv_row as usize * ld + job.head * hd;
        let mut key = 0;
        while key < all {
            let n = (all - key).min(BK);
            let at = start + key * ld;
            panel_of_columns::<S, E>(job.k.add(at), ld, n, hd, keys);
            panel_of_rows::<S, E, E>((job.v.add(at), ld), n, hd, values, width);
            let mut r = 0;
            while r < rows {
                let m = (rows - r).min(MR);
                if seen(r + m - 1) > key {
                    let mut visible = [0; MR];
                    for (i, x) in visible.iter_mut().enumerate().take(m) {
                        *x = seen(r + i).saturating_sub(key).min(BK);
                    }
                    let strip = Strip {
                        q: qp.add(r * units), units, keys, values, width,
                        out: out.add(r * width), max: max.add(r), sum: sum.add(r), visible, scale: a.scale,
                    };
                    match m {
                        4 => strip.step::<S, E, 4>(),
                        3 => strip.step::<S, E, 3>(),
                        2 => strip.step::<S, E, 2>(),
                        _ => strip.step::<S, E, 1>(),
                    }
                }
                r += MR;
            }
            key += BK;
        }
        for r in 0..rows {
            let inv = S::splat(1.0 / *sum.add(r));
            let dst = job.out.add(place(r) * hd);
            for c in (0..hd).step_by(L) {
                store::<S>(dst.add(c), (hd - c).min(L), S::mul(S::load(out.add(r * width + c)), inv));
            }
            if !job.lse.is_null() {
                *job.lse.add(place(r)) = *max.add(r) + (*sum.add(r) as f64).ln() as f32;
            }
        }
    }
}

/// A few rows against one block of keys.
struct Strip {
    q: *const u32,
    units: usize,
    keys: *const u32,
    values: *const u32,
    width: usize,
    out: *mut f32,
    max: *mut f32,
    sum: *mut f32,
    visible: [usize; MR],
    scale: f32,
}

impl Strip {
    /// One step of the online softmax.
    #[inline(always)]
    unsafe fn step<S: Simd, E: Elem, const M: usize>(&self) {
        // SAFETY: `block` sets up tiles of the sizes named.
        unsafe {
            let mut score = [[S::splat(0.0); LANES]; M];
            product::<S, E, M, LANES>(&mut score, (self.q, self.units), (self.keys, BK), self.units);
            let mut p = [[E::default(); BK]; M];
            let mut shrink = [1.0f32; M];
            for r in 0..M {
                let scale = S::splat(self.scale);
                let mut top = S::splat(f32::MIN);
                for (v, s) in score[r].iter_mut().enumerate() {
                    let shown = self.visible[r].saturating_sub(v * L).min(L);
                    *s = S::keep(shown, S::mul(*s, scale), S::splat(f32::NEG_INFINITY));
                    top = S::max(*s, top);
                }
                let old = *self.max.add(r);
                let new = if S::max_lane(top) > old { S::max_lane(top) } else { old };
                let mut total = S::splat(0.0);
                for (v, s) in score[r].iter().enumerate() {
                    let e = exp::<S>(S::sub(*s, S::splat(new)));
                    total = S::add(total, e);
                    E::narrow::<S>(p[r].as_mut_ptr().add(v * L), L, e);
                }
                shrink[r] = first_lane::<S>(exp::<S>(S::splat(old - new)));
                *self.max.add(r) = new;
                *self.sum.add(r) = *self.sum.add(r) * shrink[r] + S::sum(total);
            }
            let p = (p.as_ptr().cast::<u32>(), BK / E::R);
            update::<S, E, M>(
                (self.out, self.width),
                Some(&shrink),
                p,
                (self.values, self.width),
                BK / E::R,
                self.width,
            );
        }
    }
}

#[inline(always)]
unsafe fn first_lane<S: Simd>(x: S::F) -> f32 {
    let mut lane = 0.0;
    // SAFETY: one lane to one f32.
    unsafe { S::store_n(&mut lane, 1, x) };
    lane
}
