//! One product: `C[m, n] = A[m, k] · W[n, k]ᵀ`, both operands with k contiguous, rows as stored.
//!
//! Lanes run over k, and every output is summed the same way whatever tile, row or thread it falls in:
//! in blocks of [`KC`] columns, each by one 16-lane accumulator, a fixed tree over its lanes, and the blocks added
//! in order. So a product of one row equals, bit for bit, the same row of a product of many.
//! Packing panels of W would save the trees and cost a copy after every update of the weights; it is absent.

use super::Mat;
use super::par::{self, Parts, Shared};
use super::simd::{Elem, L, Simd, multiversion};

use std::ops::Range;

/// Columns summed in one accumulator before its lanes are added.
const KC: usize = 4096;
/// Rows of A in a tile: with [`NR`] rows of W, 24 accumulators of the 32 registers.
const MR: usize = 6;
/// Rows of W in a tile.
const NR: usize = 4;
/// Rows of W read at once when few rows of A leave memory the bottleneck.
const STREAMS: usize = 8;

/// The operands of a product. `lda`, `ldw`, `ldc` are row strides in elements.
#[derive(Clone, Copy)]
pub(super) struct Nt<'a, E> {
    pub a: Shared<E>,
    pub lda: usize,
    pub w: Shared<E>,
    pub ldw: usize,
    pub c: &'a Parts<'a, f32>,
    pub ldc: usize,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    /// Add to what C holds instead of replacing it.
    pub acc: bool,
    pub bias: Option<Mat<'a>>,
}

/// The product, on as many threads as it is worth.
///
/// # Safety
/// A, W and C hold the rows that the sizes and strides name, and no one else uses C.
pub(super) unsafe fn nt<E: Elem>(g: Nt<E>) {
    if g.m == 0 || g.n == 0 {
        return;
    }
    let bytes = g.n * g.k * size_of::<E>();
    let flops = 2 * g.m * g.n * g.k;
    let threads = par::threads((bytes / 25).max(flops / (128 * E::R)));
    if threads == 1 {
        // SAFETY: the caller's.
        return unsafe { block(&g, 0, g.m, 0, g.n) };
    }
    // Rows of A that stay in the second-level cache, then enough pieces of W to share out.
    let mc = (384 * 1024 / (g.k * size_of::<E>()).max(1)).max(8 * MR).next_multiple_of(MR);
    let rows = g.m.div_ceil(mc);
    let mc = g.m.div_ceil(rows).next_multiple_of(MR);
    let want = (8 * threads).div_ceil(rows).min(flops.max(8 * bytes) / 1_000_000 + threads);
    let nc = g.n.div_ceil(want.max(1)).next_multiple_of(16);
    let cols = g.n.div_ceil(nc);
    par::run(threads, rows * cols, |_, task| {
        let (i, j) = (task / cols * mc, task % cols * nc);
        // SAFETY: the caller's; tasks write different rectangles.
        unsafe { block(&g, i, (i + mc).min(g.m), j, (j + nc).min(g.n)) }
    });
}

multiversion! {
    /// The rectangle `i0..i1 × j0..j1` of the product.
    unsafe fn block<S, E: Elem>(g: &Nt<'_, E>, i0: usize, i1: usize, j0: usize, j1: usize) {
        if i1 - i0 < 3 {
            stream::<S, E>(g, i0..i1, j0..j1);
            return;
        }
        // Rows of W that stay in the first-level cache while the rows of A pass.
        let nb = (20 * 1024 / (g.k * size_of::<E>()).max(1) / NR * NR).clamp(NR, 64);
        let few = i1 - i0 <= 8 * MR;
        let mut j = j0;
        while j < j1 {
            let jb = (j + nb).min(j1);
            let mut i = i0;
            while i < i1 {
                let rows = (i1 - i).min(MR);
                let ahead = few && i == i0;
                match rows {
                    6 => strip::<S, E, 6>(g, i, j..jb, ahead),
                    5 => strip::<S, E, 5>(g, i, j..jb, ahead),
                    4 => strip::<S, E, 4>(g, i, j..jb, ahead),
                    3 => strip::<S, E, 3>(g, i, j..jb, ahead),
                    2 => strip::<S, E, 2>(g, i, j..jb, ahead),
                    _ => strip::<S, E, 1>(g, i, j..jb, ahead),
                }
                i += MR;
            }
            j = jb;
        }
    }
}

/// One or two rows of A: W comes from memory, which is fastest from several distant places at once.
#[inline(always)]
unsafe fn stream<S: Simd, E: Elem>(g: &Nt<E>, rows: Range<usize>, cols: Range<usize>) {
    let step = cols.len() / STREAMS;
    // SAFETY: as `nt`.
    unsafe {
        for j in cols.start..cols.start + step {
            match rows.len() {
                1 => tile::<S, E, 1, STREAMS>(g, rows.start, j, step, 0),
                _ => tile::<S, E, 2, STREAMS>(g, rows.start, j, step, 0),
            }
        }
        let rest = cols.start + step * STREAMS..cols.end;
        match rows.len() {
            1 => strip::<S, E, 1>(g, rows.start, rest, false),
            _ => strip::<S, E, 2>(g, rows.start, rest, false),
        }
    }
}

/// `M` rows of A against the rows `cols` of W. `ahead`: these rows of W are met for the first time.
#[inline(always)]
unsafe fn strip<S: Simd, E: Elem, const M: usize>(g: &Nt<E>, i: usize, cols: Range<usize>, ahead: bool) {
    // SAFETY: as `nt`.
    unsafe {
        let fetch = if ahead { NR * g.ldw } else { 0 };
        let mut j = cols.start;
        while j + NR <= cols.end {
            tile::<S, E, M, NR>(g, i, j, 1, fetch);
            j += NR;
        }
        while j < cols.end {
            tile::<S, E, M, 1>(g, i, j, 1, 0);
            j += 1;
        }
    }
}

/// `M` rows of A from `i` against `N` rows of W: `j`, `j + step`, … . `fetch`: elements ahead of W to prefetch.
#[inline(always)]
unsafe fn tile<S: Simd, E: Elem, const M: usize, const N: usize>(
    g: &Nt<E>,
    i: usize,
    j: usize,
    step: usize,
    fetch: usize,
) {
    // SAFETY: as `nt`; loads of the last partial unit are masked.
    unsafe {
        let a: [*const E; M] = std::array::from_fn(|r| g.a.get().add((i + r) * g.lda));
        let w = g.w.get().add(j * g.ldw);
        let ws = step * g.ldw;
        let lanes = L * E::R;
        let mut total = [[0.0f32; N]; M];
        let mut k0 = 0;
        while k0 < g.k {
            let k1 = (k0 + KC).min(g.k);
            let mut acc = [[S::splat(0.0); N]; M];
            let mut k = k0;
            while k + lanes <= k1 {
                let wv: [S::I; N] = std::array::from_fn(|c| S::load_i(w.add(c * ws + k).cast()));
                if fetch > 0 {
                    for c in 0..N {
                        S::prefetch(w.wrapping_add(c * ws + k + fetch).cast());
                    }
                }
                for r in 0..M {
                    let av = S::load_i(a[r].add(k).cast());
                    for c in 0..N {
                        acc[r][c] = E::mac::<S>(acc[r][c], av, wv[c]);
                    }
                }
                k += lanes;
            }
            if k < k1 {
                let wv: [S::I; N] = std::array::from_fn(|c| E::load_tail::<S>(w.add(c * ws + k), k1 - k));
                for r in 0..M {
                    let av = E::load_tail::<S>(a[r].add(k), k1 - k);
                    for c in 0..N {
                        acc[r][c] = E::mac::<S>(acc[r][c], av, wv[c]);
                    }
                }
            }
            lane_sums::<S, M, N>(&acc, &mut total, k0 == 0);
            k0 = k1;
        }
        for (r, total) in total.iter().enumerate() {
            let c = g.c.as_ptr().add((i + r) * g.ldc + j);
            for (s, &x) in total.iter().enumerate() {
                let c = c.add(s * step);
                let x = if g.acc { *c + x } else { x };
                *c = match g.bias {
                    None => x,
                    Some(Mat::F32(b)) => x + b[j + s * step],
                    Some(Mat::Bf16(b)) => x + b[j + s * step].to_f32(),
                };
            }
        }
    }
}

/// `total (=, or += unless first) Σ lanes of acc`, four rows by four columns at a time.
#[inline(always)]
unsafe fn lane_sums<S: Simd, const M: usize, const N: usize>(
    acc: &[[S::F; N]; M],
    total: &mut [[f32; N]; M],
    first: bool,
) {
    // SAFETY: only lane arithmetic.
    unsafe {
        let mut put = |r: usize, c: usize, x: f32| total[r][c] = if first { x } else { total[r][c] + x };
        if N.is_multiple_of(4) && M > 1 {
            for r in (0..M).step_by(4) {
                for c in (0..N).step_by(4) {
                    // A missing row repeats the last one, which costs the same or less.
                    let x: [S::F; 16] = std::array::from_fn(|i| acc[(r + i % 4).min(M - 1)][c + i / 4]);
                    let mut sums = [0.0; 16];
                    S::store(sums.as_mut_ptr(), S::sums(x));
                    for (i, &s) in sums.iter().enumerate().take(4 * (M - r).min(4)) {
                        put(r + i / 4, c + i % 4, s);
                    }
                }
            }
        } else if N == 8 {
            let x: [S::F; 16] = std::array::from_fn(|i| acc[0][(4 * (i % 2) + i / 4) % N]);
            let mut sums = [0.0; 16];
            S::store(sums.as_mut_ptr(), S::sums(x));
            for (i, &s) in sums.iter().enumerate().take(8) {
                put(0, i, s);
            }
        } else {
            for (r, acc) in acc.iter().enumerate() {
                for (c, &x) in acc.iter().enumerate() {
                    put(r, c, S::sum(x));
                }
            }
        }
    }
}
