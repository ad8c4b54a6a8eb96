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

/// Rows as [`product`] reads them: unit `u` of row `r` is at `at + r * row + u * unit`.
#[derive(Clone, Copy)]
pub struct Rows {
    pub at: *const u32,
    pub row: usize,
    pub unit: usize,
}

impl Rows {
    /// A row tile of `units` to a row.
    pub fn of_tile(at: *const u32, units: usize) -> Self {
        Rows { at, row: units, unit: 1 }
    }
}

/// What a sum begins from.
#[derive(Clone, Copy)]
pub enum Start<'a> {
    Zero,
    /// What is there.
    Kept,
    /// What is there, times a factor a row.
    Scaled(&'a [f32]),
}

/// `acc[r][v] += Σ_u a[r, u] · b[u, v]` for `units` units of the rows `a` and the panel `b`.
#[inline(always)]
pub unsafe fn product<S: Simd, E: Elem, const M: usize, const N: usize>(
    acc: &mut [[S::F; N]; M],
    a: Rows,
    b: Panel,
    units: usize,
) {
    // SAFETY: the caller's tiles hold the sizes named; prefetching touches no memory.
    unsafe {
        let mut sum = *acc;
        let (mut a_at, mut b_at) = (a.at, b.at);
        let ahead = b.next.addr().wrapping_sub(b.at.addr()) as isize;
        macro_rules! step {
            () => {{
                let mut bv = [S::splat_i(0); N];
                for (v, x) in bv.iter_mut().enumerate() {
                    *x = S::load_i(b_at.add(v * b.vector));
                }
                if !b.next.is_null() {
                    for v in 0..N {
                        S::prefetch(b_at.wrapping_byte_offset(ahead).wrapping_add(v * b.vector).cast());
                    }
                }
                for (r, sum) in sum.iter_mut().enumerate() {
                    let av = S::splat_i(*a_at.add(r * a.row));
                    for (sum, &bv) in sum.iter_mut().zip(&bv) {
                        *sum = E::mac::<S>(*sum, av, bv);
                    }
                }
            }};
        }
        for _ in 0..units / 2 {
            step!();
            (a_at, b_at) = (a_at.wrapping_add(a.unit), b_at.wrapping_add(b.unit));
            step!();
            (a_at, b_at) = (a_at.wrapping_add(a.unit), b_at.wrapping_add(b.unit));
        }
        if !units.is_multiple_of(2) {
            step!();
        }
        *acc = sum;
    }
}

/// `c[r] = start + Σ_u a[r, u] · b[u]` over `width` lanes (a multiple of 16), in place.
#[inline(always)]
pub unsafe fn update<S: Simd, E: Elem, const M: usize>(
    (c, ldc): (*mut f32, usize),
    start: Start,
    a: Rows,
    b: Panel,
    units: usize,
    width: usize,
) {
    // SAFETY: the caller's tiles hold the sizes named.
    unsafe {
        let mut j = 0;
        macro_rules! step {
            ($n:literal) => {{
                let mut acc = [[S::splat(0.0); $n]; M];
                for r in 0..M {
                    for v in 0..$n {
                        let at = c.add(r * ldc + j + v * L);
                        match start {
                            Start::Zero => {}
                            Start::Kept => acc[r][v] = S::load(at),
                            Start::Scaled(s) => acc[r][v] = S::mul(S::load(at), S::splat(s[r])),
                        }
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
        while j < width {
            match (width - j) / L {
                1 => step!(1),
                2 | 3 => step!(2),
                // Registers hold 16 sums.
                _ if M > 4 => step!(2),
                _ => step!(4),
            }
        }
    }
}

/// Sixteen units of the numbers from `src` on.
#[inline(always)]
unsafe fn units_at<S: Simd, E: Elem>(src: *const f32) -> S::I {
    // SAFETY: `src` holds `16 R` numbers.
    unsafe {
        match E::R {
            1 => S::as_i(S::load(src)),
            _ => S::join_bf16(S::load(src), S::load(src.add(L))),
        }
    }
}

/// The first units of those of `cols` numbers at `src`, the rest zero.
#[inline(always)]
unsafe fn first_units<S: Simd, E: Elem>(src: *const f32, cols: usize) -> S::I {
    // SAFETY: `src` holds `cols` numbers.
    unsafe {
        if cols >= L * E::R {
            return units_at::<S, E>(src);
        }
        let mut row = [0u32; L];
        row_tile::<S, E>(src, cols, row.as_mut_ptr());
        S::load_i(row.as_ptr())
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
            let (at, cols) = (src.add(u * E::R), cols - u * E::R);
            let mut block = [S::splat_i(0); L];
            if n == L && cols >= L * E::R {
                for (i, x) in block.iter_mut().enumerate() {
                    *x = units_at::<S, E>(at.add(i * ld));
                }
            } else {
                for (i, x) in block.iter_mut().enumerate().take(n) {
                    *x = first_units::<S, E>(at.add(i * ld), cols);
                }
            }
            for (i, &x) in S::transpose(block).iter().enumerate().take(units - u) {
                S::store_i(dst.add((u + i) * L), x);
            }
        }
    }
}

/// `n <= BK` rows of `src` as the groups of a panel over keys that they take; what is missing of the last is zero.
#[inline(always)]
pub unsafe fn panel_of_keys<S: Simd, E: Elem>(
    src: *const f32,
    ld: usize,
    n: usize,
    cols: usize,
    dst: *mut u32,
) {
    for first in (0..n).step_by(L) {
        // SAFETY: as `group_of_keys`; `dst` holds as many of them.
        unsafe {
            let at = src.add(first * ld);
            group_of_keys::<S, E>(at, ld, (n - first).min(L), cols, dst.add(first * (cols / E::R)));
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
            let (src, dst) = (src.wrapping_add(first * ld), dst.add(u * width));
            let whole = if rows == E::R { cols - cols % L } else { 0 };
            for c in (0..whole).step_by(L) {
                let (a, b) = (S::load(src.add(c)), S::load(src.add((E::R - 1) * ld + c)));
                S::store_i(dst.add(c), E::unit::<S>(a, b));
            }
            for c in (whole..width).step_by(L) {
                let w = cols.saturating_sub(c).min(L);
                let mut pair = [S::splat(0.0); 2];
                for (i, x) in pair.iter_mut().enumerate().take(rows) {
                    *x = load::<S>(src.wrapping_add(i * ld + c), w);
                }
                S::store_i(dst.add(c), E::unit::<S>(pair[0], pair[1]));
            }
        }
    }
}

/// `n` rows of `cols` numbers as a row tile and as a panel over columns, `width` of them, in one go.
#[inline(always)]
pub unsafe fn tile_and_panel<S: Simd, E: Elem>(
    (src, ld): (*const f32, usize),
    n: usize,
    cols: usize,
    (tile, panel): (*mut u32, *mut u32),
    width: usize,
) {
    // SAFETY: `src` has `n` rows of `cols`; the tile and the panel hold them.
    unsafe {
        let (units, pairs) = (cols / E::R, if cols.is_multiple_of(2 * L) { n / E::R } else { 0 });
        for u in 0..pairs {
            let (a, b) = (src.add(u * E::R * ld), src.add((u * E::R + E::R - 1) * ld));
            let (rows, panel) = (tile.add(u * E::R * units), panel.add(u * width));
            for c in (0..cols).step_by(2 * L) {
                let (a0, a1) = (S::load(a.add(c)), S::load(a.add(c + L)));
                let (b0, b1) = (S::load(b.add(c)), S::load(b.add(c + L)));
                if E::R == 1 {
                    S::store(rows.add(c).cast(), a0);
                    S::store(rows.add(c + L).cast(), a1);
                } else {
                    S::store_i(rows.add(c / 2), S::join_bf16(a0, a1));
                    S::store_i(rows.add(units + c / 2), S::join_bf16(b0, b1));
                }
                S::store_i(panel.add(c), E::unit::<S>(a0, b0));
                S::store_i(panel.add(c + L), E::unit::<S>(a1, b1));
            }
        }
        let (done, src) = (pairs * E::R, src.wrapping_add(pairs * E::R * ld));
        for r in done..n {
            row_tile::<S, E>(src.add((r - done) * ld), cols, tile.add(r * units));
        }
        let rest = (n - done).div_ceil(E::R);
        panel_of_rows::<S, E>((src, ld), n - done, cols, (panel.add(pairs * width), rest), width);
    }
}

/// `cols` numbers as units of a row tile; several rows of an even number each, one behind the other, are one.
#[inline(always)]
pub unsafe fn row_tile<S: Simd, E: Elem>(src: *const f32, cols: usize, dst: *mut u32) {
    // SAFETY: `src` holds `cols` values and `dst` their units.
    unsafe {
        let whole = cols - cols % (L * E::R);
        for c in (0..whole).step_by(L * E::R) {
            S::store_i(dst.add(c / E::R), units_at::<S, E>(src.add(c)));
        }
        for c in (whole..cols).step_by(L) {
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
            // From its first lane on, a group may be written whole: what comes after is not there yet.
            if lane == 0 && rows >= 4 {
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
