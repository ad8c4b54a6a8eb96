//! The other product: `C[m, n] = Σ_p A[m, p] · B[p, n]` with lanes over the columns, for gradients and for
//! layers with [short](super::short) sums.
//!
//! A sum runs over *units*, which hold one f32 or a pair of bf16 that are neighbours in the sum. B comes as panels in
//! which the units of 48 columns lie side by side, so that a tile broadcasts units of A against vectors of B and needs
//! no sum over lanes: that costs [`gemm`](super::gemm) a third of its time or more where sums are short, and gradients have no
//! decoding step to agree with. Panels are made on the way from f32, when the operand has to be rounded anyway.
//!
//! Every output is summed in blocks of [`KC`] units, in order: it depends on the length of the sum alone.

use super::pack::stride;
use super::par::{self, Parts, Shared};
use super::simd::{Elem, L, Simd, multiversion};

use std::ops::Range;

/// Columns of a panel of B: three vectors, which with [`MR`] rows of A make 24 accumulators of 32 registers.
pub(super) const COLUMNS: usize = 3 * L;
/// Rows of a panel of A, and the multiple in which rows are shared out.
pub(super) const ROWS: usize = L;
/// Rows of A in the largest tile.
const MR: usize = 8;
/// Units summed before C is touched: a panel of B then takes 24 KB of the first-level cache.
pub(super) const KC: usize = 128;
/// Rows of A whose units of a block stay in the second-level cache.
const ROWS_MOST: usize = 512;
/// Rows for which fetching a panel of B is worth it.
const ROWS_LEAST: usize = 128;

/// Units that `n` elements in a row make.
pub(super) const fn units<E: Elem>(n: usize) -> usize {
    n.div_ceil(E::R)
}

/// Units from one row of an operand in rows to the next: whole cache lines, spread over the cache's sets.
pub(super) fn row<E: Elem>(n: usize) -> usize {
    stride::<E>(n) / E::R
}

/// Units of a whole operand of `n` columns in panels, `p` units deep.
pub(super) const fn panels(n: usize, p: usize) -> usize {
    n.next_multiple_of(L) * p
}

/// How the units of A lie.
#[derive(Clone, Copy)]
pub(super) enum Lie {
    /// Row after row, so many units apart.
    Rows(usize),
    /// In panels of [`ROWS`] rows, as [`pack_columns`](super::pack::pack_columns) makes them.
    Panels,
}

/// The operands of a product.
#[derive(Clone, Copy)]
pub(super) struct Outer<'a> {
    pub a: Shared<u32>,
    pub lie: Lie,
    /// Panels of [`COLUMNS`] columns; the last is narrower, a whole number of vectors.
    pub b: Shared<u32>,
    pub c: &'a Parts<'a, f32>,
    pub ldc: usize,
    pub m: usize,
    pub n: usize,
    /// Units summed over.
    pub p: usize,
    /// Add to what C holds instead of replacing it.
    pub acc: bool,
}

impl Outer<'_> {
    /// The product, on as many threads as it is worth.
    ///
    /// # Safety
    /// A, B and C hold what the sizes name, and no one else uses C.
    pub unsafe fn run<E: Elem>(&self) {
        let ns = self.m * self.n * self.p / 64;
        let threads = par::threads(ns);
        let want = if threads == 1 { 1 } else { (8 * threads).min(ns / 8_000 + threads) };
        let rows = self.m.div_ceil(ROWS_MOST).max(want.min(self.m.div_ceil(ROWS_LEAST))).max(1);
        let mc = self.m.div_ceil(rows).next_multiple_of(ROWS);
        let rows = self.m.div_ceil(mc.max(1));
        let nc = self.n.div_ceil(want.div_ceil(rows.max(1))).next_multiple_of(COLUMNS);
        let columns = self.n.div_ceil(nc.max(1));
        par::run(threads, rows * columns, |_, task| {
            let (i, j) = (task / columns * mc, task % columns * nc);
            // SAFETY: the caller's; tasks write different rectangles.
            unsafe { self.rectangle::<E>(i..(i + mc).min(self.m), j..(j + nc).min(self.n)) }
        });
    }

    /// The rectangle `rows × columns` of the product, which start at multiples of [`ROWS`] and [`COLUMNS`].
    ///
    /// # Safety
    /// As [`run`](Outer::run), for this rectangle of C.
    pub unsafe fn rectangle<E: Elem>(&self, rows: Range<usize>, columns: Range<usize>) {
        debug_assert!(rows.start.is_multiple_of(ROWS) && columns.start.is_multiple_of(COLUMNS));
        // SAFETY: the caller's.
        unsafe { rectangle::<E>(self, rows.start, rows.end, columns.start, columns.end) }
    }
}

multiversion! {
    unsafe fn rectangle<S, E: Elem>(g: &Outer<'_>, i0: usize, i1: usize, j0: usize, j1: usize) {
        let mut p0 = 0;
        while p0 == 0 || p0 < g.p {
            let p = p0..(p0 + KC).min(g.p);
            let mut j = j0;
            while j < j1 {
                let vectors = (j1 - j).min(COLUMNS).div_ceil(L);
                let mut v = 0;
                while v < vectors {
                    match (vectors - v).min(S::OUTER.1) {
                        3 => strip::<S, E, 3>(g, i0..i1, j, v, p.clone()),
                        2 => strip::<S, E, 2>(g, i0..i1, j, v, p.clone()),
                        _ => strip::<S, E, 1>(g, i0..i1, j, v, p.clone()),
                    }
                    v += S::OUTER.1;
                }
                j += COLUMNS;
            }
            p0 += KC;
        }
    }
}

/// `V` vectors of the panel at column `j`, from vector `v` on, against `rows`.
#[inline(always)]
unsafe fn strip<S: Simd, E: Elem, const V: usize>(
    g: &Outer,
    rows: Range<usize>,
    j: usize,
    v: usize,
    p: Range<usize>,
) {
    // SAFETY: as `Outer::run`.
    unsafe {
        let mut i = rows.start;
        while i < rows.end {
            let left = rows.end - i;
            i += match left {
                MR.. if S::OUTER.0 == MR => tile::<S, E, MR, V>(g, i, j, v, p.clone()),
                4.. => tile::<S, E, 4, V>(g, i, j, v, p.clone()),
                2.. => tile::<S, E, 2, V>(g, i, j, v, p.clone()),
                _ => tile::<S, E, 1, V>(g, i, j, v, p.clone()),
            };
        }
    }
}

/// `M` rows from `i`, which lie in one panel of A, against `V` vectors; gives `M`.
#[inline(always)]
unsafe fn tile<S: Simd, E: Elem, const M: usize, const V: usize>(
    g: &Outer,
    i: usize,
    j: usize,
    v: usize,
    p: Range<usize>,
) -> usize {
    // SAFETY: as `Outer::run`; the last vector of a panel is padded, and stored in part.
    unsafe {
        let (start, rs, ps) = match g.lie {
            Lie::Rows(ld) => (i * ld, ld, 1),
            Lie::Panels => (i / ROWS * ROWS * g.p + i % ROWS, 1, ROWS),
        };
        let a: [*const u32; M] = std::array::from_fn(|r| g.a.get().add(start + r * rs + p.start * ps));
        let width = (g.n - j).min(COLUMNS).next_multiple_of(L);
        let mut b = g.b.get().add(j * g.p + p.start * width + v * L);
        let mut acc = [[S::splat(0.0); V]; M];
        let mut at = 0;
        for _ in p.clone() {
            let mut bv = [S::splat_i(0); V];
            for (x, bv) in bv.iter_mut().enumerate() {
                *bv = S::load_i(b.add(x * L));
            }
            for r in 0..M {
                let av = S::splat_i(*a[r].add(at));
                for x in 0..V {
                    acc[r][x] = E::mac::<S>(acc[r][x], av, bv[x]);
                }
            }
            at += ps;
            b = b.add(width);
        }
        // Loops without branches, which are unrolled: a sum that is reached by an index lives on the stack from the start.
        let column = |x: usize| j + (v + x) * L;
        let widths: [usize; V] = std::array::from_fn(|x| (g.n - column(x)).min(L));
        let c = g.c.as_ptr().add(i * g.ldc + column(0));
        if g.acc || p.start > 0 {
            for (r, sums) in acc.iter().enumerate() {
                for (x, (&sum, &w)) in sums.iter().zip(&widths).enumerate() {
                    let c = c.add(r * g.ldc + x * L);
                    S::store_n(c, w, S::add(S::load_n(c, w), sum));
                }
            }
        } else {
            for (r, sums) in acc.iter().enumerate() {
                for (x, (&sum, &w)) in sums.iter().zip(&widths).enumerate() {
                    S::store_n(c.add(r * g.ldc + x * L), w, sum);
                }
            }
        }
        M
    }
}
