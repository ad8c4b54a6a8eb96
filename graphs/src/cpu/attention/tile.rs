//! Packed tiles and the product of a few rows with a panel, shared by forward and backward.
//!
//! A *row tile* holds units along the reduction, `[row][unit]`. A *panel* holds for each unit what its lanes
//! read: over keys in *groups* of 16, `[group][unit][16]`, or over the columns of rows, `[unit][width]`. Reductions run unit by
//! unit, so their order is that of the tile.

use super::super::simd::{Elem, L, Simd, load, multiversion};

/// Keys in a block.
pub const BK: usize = 64;
/// Vectors that hold a number a key of a block.
pub const GROUPS: usize = BK / L;

/// A panel as [`product`] reads it: vector `v` of unit `u` is at `at + u * unit + v * vector`.
#[derive(Clone, Copy)]
pub struct Panel {
    pub at: *const u32,
    pub unit: usize,
    pub vector: usize,
    /// A panel of the same form to fetch meanwhile, or null.
    pub next: *const u32,
}

impl Panel {
    /// Keys as lanes, `units` to a key.
    pub fn of_keys(at: *const u32, units: usize, next: *const u32) -> Self {
        Panel { at, unit: L, vector: units * L, next }
    }

    /// Columns as lanes, `width` of them.
    pub fn of_columns(at: *const u32, width: usize, next: *const u32) -> Self {
        Panel { at, unit: width, vector: L, next }
    }

    /// The panel from vector `v` on.
    #[inline(always)]
    pub fn from(&self, v: usize) -> Self {
        let skip = v * self.vector;
        let next = if self.next.is_null() { self.next } else { self.next.wrapping_add(skip) };
        Panel { at: self.at.wrapping_add(skip), next, ..*self }
    }
}

/// `acc[r][v] += Σ_u a[r, u] · b[u, v]` for `units` units of the row tile `a` and the panel `b`.
#[inline(always)]
pub unsafe fn product<S: Simd, E: Elem, const M: usize, const N: usize>(
    acc: &mut [[S::F; N]; M],
    (a, lda): (*const u32, usize),
    b: Panel,
    units: usize,
) {
    // SAFETY: the caller's tiles hold the sizes named; prefetching touches no memory.
    unsafe {
        let mut sum = *acc;
        for u in 0..units {
            let mut bv = [S::splat_i(0); N];
            for (v, x) in bv.iter_mut().enumerate() {
                *x = S::load_i(b.at.add(u * b.unit + v * b.vector));
            }
            if !b.next.is_null() {
                for v in 0..N {
                    S::prefetch(b.next.wrapping_add(u * b.unit + v * b.vector).cast());
                }
            }
            for (r, sum) in sum.iter_mut().enumerate() {
                let av = S::splat_i(*a.add(r * lda + u));
                for (sum, &bv) in sum.iter_mut().zip(&bv) {
                    *sum = E::mac::<S>(*sum, av, bv);
                }
            }
        }
        *acc = sum;
    }
}

/// `c[r] = c[r] · scale[r] + Σ_u a[r, u] · b[u]` over `width` lanes (a multiple of 16), in place.
#[inline(always)]
pub unsafe fn update<S: Simd, E: Elem, const M: usize>(
    (c, ldc): (*mut f32, usize),
    scale: Option<&[f32]>,
    a: (*const u32, usize),
    b: Panel,
    units: usize,
    width: usize,
) {
    // SAFETY: the caller's tiles hold the sizes named.
    unsafe {
        let mut j = 0;
        while j < width {
            macro_rules! step {
                ($n:literal) => {{
                    let mut acc = [[S::splat(0.0); $n]; M];
                    for r in 0..M {
                        for v in 0..$n {
                            let x = S::load(c.add(r * ldc + j + v * L));
                            acc[r][v] = match scale {
                                Some(s) => S::mul(x, S::splat(s[r])),
                                None => x,
                            };
                        }
                    }
                    product::<S, E, M, $n>(&mut acc, a, b.from(j / L), units);
                    for r in 0..M {
                        for v in 0..$n {
                            S::store(c.add(r * ldc + j + v * L), acc[r][v]);
                        }
                    }
                    j += $n * L;
                }};
            }
            if j + 4 * L <= width { step!(4) } else { step!(1) }
        }
    }
}

/// `n <= 16` rows of `cols` numbers as one group of a panel over keys, its lanes from 0; missing lanes are zero.
#[inline(always)]
pub unsafe fn group_of_keys<S: Simd, E: Elem>(
    src: *const f32,
    ld: usize,
    n: usize,
    cols: usize,
    dst: *mut u32,
) {
    // SAFETY: `src` has `n` rows of `cols`; `dst` holds `cols / R` units of 16 lanes.
    unsafe {
        let units = cols / E::R;
        for u in (0..units).step_by(L) {
            let mut rows = [[0u32; L]; L];
            for (i, row) in rows.iter_mut().enumerate().take(n) {
                let (at, w) = (src.add(i * ld + u * E::R), (cols - u * E::R).min(L * E::R));
                row_tile::<S, E>(at, w, row.as_mut_ptr());
            }
            let mut block = [S::splat_i(0); L];
            for (x, row) in block.iter_mut().zip(&rows) {
                *x = S::load_i(row.as_ptr());
            }
            for (i, &x) in S::transpose(block).iter().enumerate().take(units - u) {
                S::store_i(dst.add((u + i) * L), x);
            }
        }
    }
}

/// `n <= BK` rows of `src` as a panel over keys; missing ones are zero.
#[inline(always)]
pub unsafe fn panel_of_keys<S: Simd, E: Elem>(
    src: *const f32,
    ld: usize,
    n: usize,
    cols: usize,
    dst: *mut u32,
) {
    for first in (0..BK).step_by(L) {
        let rows = n.saturating_sub(first).min(L);
        // SAFETY: as `group_of_keys`; `dst` holds `GROUPS` of them.
        unsafe {
            let at = src.wrapping_add(first * ld);
            group_of_keys::<S, E>(at, ld, rows, cols, dst.add(first * (cols / E::R)));
        }
    }
}

/// `n` rows of `src` as `units` units of a panel over columns, `width` (a multiple of 16) of them; what is missing is zero.
#[inline(always)]
pub unsafe fn panel_of_rows<S: Simd, E: Elem>(
    (src, ld): (*const f32, usize),
    n: usize,
    cols: usize,
    (dst, units): (*mut u32, usize),
    width: usize,
) {
    // SAFETY: `src` has `n` rows of `cols`; `dst` holds `units` units of `width` lanes.
    unsafe {
        for u in 0..units {
            let (first, rows) = (u * E::R, n.saturating_sub(u * E::R).min(E::R));
            for c in (0..width).step_by(L) {
                let w = cols.saturating_sub(c).min(L);
                let at = src.wrapping_add(first * ld + c);
                let mut pair = [S::splat(0.0); 2];
                for (i, x) in pair.iter_mut().enumerate().take(rows) {
                    *x = load::<S>(at.wrapping_add(i * ld), w);
                }
                let x = if E::R == 1 { S::as_i(pair[0]) } else { S::pair_bf16(pair[0], pair[1]) };
                S::store_i(dst.add(u * width + c), x);
            }
        }
    }
}

/// One row of `cols` values as units of a row tile.
#[inline(always)]
pub unsafe fn row_tile<S: Simd, E: Elem>(src: *const f32, cols: usize, dst: *mut u32) {
    // SAFETY: `src` holds `cols` values and `dst` their units.
    unsafe {
        for c in (0..cols).step_by(L) {
            let w = (cols - c).min(L);
            E::narrow::<S>(dst.cast::<E>().add(c), w, load::<S>(src.add(c), w));
        }
    }
}

multiversion! {
    /// Writes `n` keys and values (`[n, ld]` from `k` and `v` on, `cols` of a row) to positions `first..first + n` of one
    /// head's part of a block: a panel of keys, then one of the values' columns. `k` and `v` may lie in a whole row.
    pub unsafe fn store_rows<S, E: Elem>(
        k: *const f32, v: *const f32, ld: usize, n: usize, cols: usize, first: usize, dst: *mut u32,
    ) {
        let (units, width, end) = (cols / E::R, cols.next_multiple_of(L), first + n);
        let mut at = first;
        while at < end {
            let (group, lane) = (dst.add(at / L * L * units), at % L);
            let rows = (end - at).min(L - lane);
            let src = k.add((at - first) * ld);
            if lane == 0 && rows == L {
                group_of_keys::<S, E>(src, ld, rows, cols, group);
            } else {
                for i in 0..rows {
                    for u in (0..units).step_by(L) {
                        let mut row = [0u32; L];
                        let w = (cols - u * E::R).min(L * E::R);
                        row_tile::<S, E>(src.add(i * ld + u * E::R), w, row.as_mut_ptr());
                        for (j, &x) in row.iter().enumerate().take(units - u) {
                            *group.add((u + j) * L + lane + i) = x;
                        }
                    }
                }
            }
            at += rows;
        }
        let (values, mut v, mut n, mut first) = (dst.add(BK * units), v, n, first);
        if !first.is_multiple_of(E::R) {
            // The other half of a pair whose first half is there.
            let pair = values.add(first / E::R * width).cast::<E>();
            for c in (0..cols).step_by(L) {
                let (w, mut x) = ((cols - c).min(L), [E::default(); L]);
                E::narrow::<S>(x.as_mut_ptr(), w, load::<S>(v.add(c), w));
                for (j, &x) in x.iter().enumerate().take(w) {
                    *pair.add((c + j) * E::R + 1) = x;
                }
            }
            (v, n, first) = (v.wrapping_add(ld), n - 1, first + 1);
        }
        panel_of_rows::<S, E>((v, ld), n, cols, (values.add(first / E::R * width), n.div_ceil(E::R)), width);
    }
}
