//! Packed tiles and the product of a few rows with a panel, shared by forward and backward.
//!
//! A *row tile* holds units along the reduction, `[row][unit]`. A *panel* holds `[unit][lane]`: what 16 lanes
//! read for one unit. Reductions run unit by unit, so their order is that of the tile.

use super::super::simd::{Elem, L, Simd, load};

/// Keys in a block.
pub const BK: usize = 64;

/// `acc[r][v] += Σ_u a[r, u] · b[u, v]` for `units` units of the row tile `a` and the panel `b`.
#[inline(always)]
pub unsafe fn product<S: Simd, E: Elem, const M: usize, const N: usize>(
    acc: &mut [[S::F; N]; M],
    (a, lda): (*const u32, usize),
    (b, ldb): (*const u32, usize),
    units: usize,
) {
    // SAFETY: the caller's tiles hold the sizes named.
    unsafe {
        let mut sum = *acc;
        for u in 0..units {
            let mut bv = [S::splat_i(0); N];
            for (v, x) in bv.iter_mut().enumerate() {
                *x = S::load_i(b.add(u * ldb + v * L));
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
    scale: Option<&[f32; M]>,
    a: (*const u32, usize),
    (b, ldb): (*const u32, usize),
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
                    product::<S, E, M, $n>(&mut acc, a, (b.add(j), ldb), units);
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

/// The columns of `n <= BK` rows of `src` as a panel whose lanes are the rows; missing rows are zero. Fetches the next block.
#[inline(always)]
pub unsafe fn panel_of_columns<S: Simd, E: Elem>(
    src: *const E,
    ld: usize,
    n: usize,
    cols: usize,
    dst: *mut u32,
) {
    // SAFETY: `src` has `n` rows of `cols`; `dst` holds `cols / R` units of `BK` lanes.
    unsafe {
        let (width, units) = (L * E::R, cols.div_ceil(E::R));
        for j in (0..BK).step_by(L) {
            for u in (0..units).step_by(L) {
                let w = (cols - u * E::R).min(width);
                let at = src.wrapping_add(j * ld + u * E::R);
                let mut block = [S::splat_i(0); 16];
                if w == width && j + L <= n {
                    for (i, row) in block.iter_mut().enumerate() {
                        *row = S::load_i(at.add(i * ld).cast());
                        S::prefetch(at.wrapping_add((BK + i) * ld).cast());
                    }
                } else {
                    for (i, row) in block.iter_mut().enumerate().take(n.saturating_sub(j)) {
                        *row = E::load_tail::<S>(at.add(i * ld), w);
                    }
                }
                let block = S::transpose(block);
                if u + L <= units {
                    for (i, &x) in block.iter().enumerate() {
                        S::store_i(dst.add((u + i) * BK + j), x);
                    }
                } else {
                    for (i, &x) in block.iter().enumerate().take(units - u) {
                        S::store_i(dst.add((u + i) * BK + j), x);
                    }
                }
            }
        }
    }
}

/// `n <= BK` rows of `src` as a panel whose lanes are the columns, `width` (a multiple of 16) of them; what is missing
/// is zero. Fetches the next block.
#[inline(always)]
pub unsafe fn panel_of_rows<S: Simd, T: Elem, E: Elem>(
    (src, ld): (*const T, usize),
    n: usize,
    cols: usize,
    dst: *mut u32,
    width: usize,
) {
    // SAFETY: `src` has `n` rows of `cols`; `dst` holds `BK / R` units of `width` lanes.
    unsafe {
        for u in 0..BK / E::R {
            let (first, rows) = (u * E::R, n.saturating_sub(u * E::R).min(E::R));
            for c in (0..width).step_by(L) {
                let (w, at) = (cols.saturating_sub(c).min(L), src.wrapping_add(first * ld + c));
                let mut pair = [S::splat(0.0); 2];
                if rows == E::R && w == L {
                    for (i, x) in pair.iter_mut().enumerate().take(E::R) {
                        *x = T::widen::<S>(at.add(i * ld), L);
                        S::prefetch(at.wrapping_add((BK + i) * ld).cast());
                    }
                } else if w > 0 {
                    for (i, x) in pair.iter_mut().enumerate().take(rows) {
                        *x = T::widen::<S>(at.add(i * ld), w);
                    }
                }
                let x = if E::R == 1 {
                    S::as_i(pair[0])
                } else if T::R == E::R {
                    S::pair_high(pair[0], pair[1])
                } else {
                    S::pair_bf16(pair[0], pair[1])
                };
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
