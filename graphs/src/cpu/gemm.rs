//! One product: `C[m, n] = A[m, k] · W[n, k]ᵀ`, both operands with k contiguous, rows as stored.
//!
//! Lanes run over k, and every output is summed the same way whatever tile, row or thread it falls in:
//! in blocks of [`KC_BYTES`], each by one 16-lane accumulator, a fixed tree over its lanes, and the blocks added
//! in order. So a product of one row equals, bit for bit, the same row of a product of many.
//! Sums so short that their trees cost as much as their products are taken by [`short`](super::short) instead, from panels of W;
//! for longer ones panels would save little and cost a copy after every update of the weights.

use super::Mat;
use super::par;
use super::simd::{Elem, L, Simd, multiversion};

use std::ops::Range;

/// Bytes of a row summed in one accumulator before its lanes are added: a tile's rows then fit the first-level cache.
const KC_BYTES: usize = 4096;
/// Rows of A in the largest tile: with [`NR`] rows of W, 24 accumulators of 32 registers.
const MR: usize = 6;
/// Rows of W in the largest tile.
const NR: usize = 4;
/// Rows of W read at once when few rows of A leave memory the bottleneck.
const STREAMS: usize = 8;

/// Least bytes from a tile of W to what is fetched meanwhile: memory takes as long as a few tiles do.
const FETCH: usize = 32 * 1024;

/// The operands of a product. `lda`, `ldw`, `ldc` are row strides in elements.
#[derive(Clone, Copy)]
pub(super) struct Nt<'a, E> {
    pub a: *const E,
    pub lda: usize,
    pub w: *const E,
    pub ldw: usize,
    pub c: *mut f32,
    pub ldc: usize,
    pub k: usize,
    pub bias: Option<Mat<'a>>,
}

/// How a product is shared out: tasks of `mc` rows by `nc` columns.
#[derive(Clone, Copy)]
pub(super) struct Cut {
    pub threads: usize,
    pub mc: usize,
    pub nc: usize,
}

impl Cut {
    /// For `m` rows, `n` columns and sums of `k` elements of `size` bytes.
    pub fn new(m: usize, n: usize, k: usize, size: usize) -> Self {
        let (bytes, flops) = (n * k * size, 2 * m * n * k);
        let ns = (bytes / 25).max(flops * size / (128 * size_of::<f32>()));
        let threads = par::threads(ns);
        // Rows of A that stay in the second-level cache, then enough pieces of W to share out.
        let row = (k * size).clamp(1, KC_BYTES);
        let rows = m.div_ceil((384 * 1024 / row).max(8 * MR));
        // Many rows are shared out as rows, as by every other kernel: a thread then finds in its cache what it wrote.
        let rows = if threads > 1 && m >= 16 * MR * threads { rows.max(4 * threads) } else { rows };
        let mc = m.div_ceil(rows).next_multiple_of(MR);
        let want = if threads == 1 { 1 } else { (8 * threads).div_ceil(rows).min(ns / 8_000 + threads) };
        Cut { threads, mc, nc: n.div_ceil(want).next_multiple_of(16) }
    }
}

multiversion! {
    /// The product of the first `m` rows of A and the first `n` of W, on the calling thread.
    ///
    /// # Safety
    /// A, W and C hold the rows that the sizes and strides name, and no one else uses C.
    pub(super) unsafe fn nt<S, E: Elem>(g: &Nt<'_, E>, m: usize, n: usize) {
        let kc = KC_BYTES / size_of::<E>();
        let mut k0 = 0;
        while k0 == 0 || k0 < g.k {
            let k = k0..(k0 + kc).min(g.k);
            if m < 3 {
                stream::<S, E>(g, 0..m, 0..n, k);
            } else {
                panel::<S, E>(g, 0..m, 0..n, k);
            }
            k0 += kc;
        }
    }
}

/// One block of columns of a rectangle.
#[inline(always)]
unsafe fn panel<S: Simd, E: Elem>(g: &Nt<E>, rows: Range<usize>, cols: Range<usize>, k: Range<usize>) {
    // SAFETY: as `nt`.
    unsafe {
        let row = (k.len() * size_of::<E>()).max(1);
        let strips = rows.len().div_ceil(S::TILE.0);
        let whole = rows.len() * row <= 40 * 1024;
        // Rows of W that stay in the first-level cache while the rows of A pass; if they are too few, let A's tile
        // stay there and W come from the second level. If all of A stays there, each tile of W passes once.
        let fit = 28 * 1024 / row / NR * NR;
        let nb = if whole {
            S::TILE.1
        } else if fit < 12 {
            64
        } else {
            fit.min(64)
        };
        let mut j = cols.start;
        while j < cols.end {
            let jb = (j + nb).min(cols.end);
            for s in 0..strips {
                let i = rows.start + s * S::TILE.0;
                // While few rows of A make memory the bottleneck, the strips share in fetching the next rows of W.
                let ahead = (nb * g.ldw).max(FETCH / size_of::<E>());
                let fetch = if strips <= 8 { Fetch { ahead, part: s, of: strips } } else { Fetch::NONE };
                match (rows.end - i).min(S::TILE.0) {
                    6 => strip::<S, E, 6>(g, i, j..jb, k.clone(), fetch),
                    5 => strip::<S, E, 5>(g, i, j..jb, k.clone(), fetch),
                    4 => strip::<S, E, 4>(g, i, j..jb, k.clone(), fetch),
                    3 => strip::<S, E, 3>(g, i, j..jb, k.clone(), fetch),
                    2 => strip::<S, E, 2>(g, i, j..jb, k.clone(), fetch),
                    _ => strip::<S, E, 1>(g, i, j..jb, k.clone(), fetch),
                }
            }
            j = jb;
        }
    }
}

/// Prefetch of W, `ahead` elements on: part `part` of `of` of a tile's rows.
#[derive(Clone, Copy)]
struct Fetch {
    ahead: usize,
    part: usize,
    of: usize,
}

impl Fetch {
    const NONE: Fetch = Fetch { ahead: 0, part: 0, of: usize::MAX };
}

/// One or two rows of A: W comes from memory, which is fastest from several distant places at once.
#[inline(always)]
unsafe fn stream<S: Simd, E: Elem>(g: &Nt<E>, rows: Range<usize>, cols: Range<usize>, k: Range<usize>) {
    let step = cols.len() / STREAMS;
    // SAFETY: as `nt`.
    unsafe {
        for j in cols.start..cols.start + step {
            match rows.len() {
                1 => tile::<S, E, 1, STREAMS>(g, rows.start, j, step, k.clone(), Fetch::NONE),
                _ => tile::<S, E, 2, STREAMS>(g, rows.start, j, step, k.clone(), Fetch::NONE),
            }
        }
        let rest = cols.start + step * STREAMS..cols.end;
        match rows.len() {
            1 => strip::<S, E, 1>(g, rows.start, rest, k, Fetch::NONE),
            _ => strip::<S, E, 2>(g, rows.start, rest, k, Fetch::NONE),
        }
    }
}

/// `M` rows of A against the rows `cols` of W.
#[inline(always)]
unsafe fn strip<S: Simd, E: Elem, const M: usize>(
    g: &Nt<E>,
    i: usize,
    cols: Range<usize>,
    k: Range<usize>,
    fetch: Fetch,
) {
    // SAFETY: as `nt`.
    unsafe {
        let mut j = cols.start;
        while j + S::TILE.1 <= cols.end {
            match S::TILE.1 {
                NR => tile::<S, E, M, NR>(g, i, j, 1, k.clone(), fetch),
                _ => tile::<S, E, M, 2>(g, i, j, 1, k.clone(), fetch),
            }
            j += S::TILE.1;
        }
        while j < cols.end {
            tile::<S, E, M, 1>(g, i, j, 1, k.clone(), Fetch::NONE);
            j += 1;
        }
    }
}

/// `M` rows of A from `i` against `N` rows of W (`j`, `j + step`, …), over the columns `k`.
#[inline(always)]
unsafe fn tile<S: Simd, E: Elem, const M: usize, const N: usize>(
    g: &Nt<E>,
    i: usize,
    j: usize,
    step: usize,
    cols: Range<usize>,
    fetch: Fetch,
) {
    // SAFETY: as `nt`; loads of the last partial vector are masked.
    unsafe {
        let a: [*const E; M] = std::array::from_fn(|r| g.a.add((i + r) * g.lda));
        let w = g.w.add(j * g.ldw);
        let ws = step * g.ldw;
        let lanes = L * E::R;
        let fetched = fetch.part * N / fetch.of..(fetch.part + 1) * N / fetch.of;
        let mut acc = [[S::splat(0.0); N]; M];
        let mut k = cols.start;
        while k + lanes <= cols.end {
            let mut wv = [S::splat_i(0); N];
            for (c, x) in wv.iter_mut().enumerate() {
                *x = S::load_i(w.add(c * ws + k).cast());
            }
            for c in fetched.clone() {
                S::prefetch(w.wrapping_add(c * ws + k + fetch.ahead).cast());
            }
            for r in 0..M {
                let av = S::load_i(a[r].add(k).cast());
                for c in 0..N {
                    acc[r][c] = E::mac::<S>(acc[r][c], av, wv[c]);
                }
            }
            k += lanes;
        }
        if k < cols.end {
            let n = cols.end - k;
            let mut wv = [S::splat_i(0); N];
            for (c, x) in wv.iter_mut().enumerate() {
                *x = E::load_tail::<S>(w.add(c * ws + k), n);
            }
            for r in 0..M {
                let av = E::load_tail::<S>(a[r].add(k), n);
                for c in 0..N {
                    acc[r][c] = E::mac::<S>(acc[r][c], av, wv[c]);
                }
            }
        }
        let mut total = [[0.0f32; N]; M];
        lane_sums::<S, M, N>(&acc, &mut total);
        let add = cols.start > 0;
        let bias = g.bias.filter(|_| cols.end == g.k);
        for (r, total) in total.iter().enumerate() {
            let c = g.c.add((i + r) * g.ldc + j);
            for (s, &x) in total.iter().enumerate() {
                let c = c.add(s * step);
                let x = if add { *c + x } else { x };
                *c = match bias {
                    None => x,
                    Some(Mat::F32(b)) => x + b[j + s * step],
                    Some(Mat::Bf16(b)) => x + b[j + s * step].to_f32(),
                };
            }
        }
    }
}

/// The lanes of each accumulator summed, four rows by four columns at a time.
#[inline(always)]
unsafe fn lane_sums<S: Simd, const M: usize, const N: usize>(
    acc: &[[S::F; N]; M],
    total: &mut [[f32; N]; M],
) {
    // SAFETY: only lane arithmetic.
    unsafe {
        if N.is_multiple_of(4) && M > 1 {
            for r in (0..M).step_by(4) {
                for c in (0..N).step_by(4) {
                    // A missing row repeats the last one, which costs the same or less.
                    let x: [S::F; 16] = std::array::from_fn(|i| acc[(r + i % 4).min(M - 1)][c + i / 4]);
                    let mut sums = [0.0; 16];
                    S::store(sums.as_mut_ptr(), S::sums(x));
                    for (i, &s) in sums.iter().enumerate().take(4 * (M - r).min(4)) {
                        total[r + i / 4][c + i % 4] = s;
                    }
                }
            }
        } else if N == 8 {
            let x: [S::F; 16] = std::array::from_fn(|i| acc[0][(4 * (i % 2) + i / 4) % N]);
            let mut sums = [0.0; 16];
            S::store(sums.as_mut_ptr(), S::sums(x));
            total[0].copy_from_slice(&sums[..N]);
        } else {
            for (total, acc) in total.iter_mut().zip(acc) {
                for (total, &x) in total.iter_mut().zip(acc) {
                    *total = S::sum(x);
                }
            }
        }
    }
}
