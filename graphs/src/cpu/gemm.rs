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
/// Rows of A in the largest tile, and of W in any: its sums are the 16 that one tree over lanes adds up.
const MR: usize = 8;
const NR: usize = 2;
/// Rows of W read at once when few rows of A leave memory the bottleneck.
const STREAMS: usize = 8;

/// Bytes from a tile of W to what is fetched meanwhile, where it goes to the first-level cache.
const NEXT: usize = 12 * 1024;
/// Bytes from what is fetched to pages that are touched, whose addresses are then known when their lines are fetched. Found by
/// measuring: looking them up bounds what two cores read of small pages.
const PAGES: usize = 256 * 1024;
/// A page, at least.
const PAGE: usize = 4096;

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
        let rows = m.div_ceil((384 * 1024 / row).max(6 * MR));
        // Many rows are shared out as rows, as by every other kernel: a thread then finds in its cache what it wrote.
        let rows = if threads > 1 && m >= 12 * MR * threads { rows.max(4 * threads) } else { rows };
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

/// Three rows of A or more: W passes in blocks, and each block once for every strip of A.
#[inline(always)]
unsafe fn panel<S: Simd, E: Elem>(g: &Nt<E>, rows: Range<usize>, cols: Range<usize>, k: Range<usize>) {
    let (size, strips) = (size_of::<E>(), rows.len().div_ceil(S::ROWS));
    let row = (k.len() * size).max(1);
    // Rows of W that stay in the first-level cache while the rows of A pass; if they are too few, let A's strip
    // stay there and W come from the second level. If all of A stays there, each tile of W passes once.
    let fit = 28 * 1024 / row / NR * NR;
    let near = rows.len() * row <= 32 * 1024;
    let nb = if near {
        NR
    } else if fit < 12 {
        64
    } else {
        fit.min(64)
    };
    // Rows that are summed in one block lie one behind the other.
    let whole = k.len() == g.ldw;
    // While few rows of A make memory the bottleneck, the strips share in fetching the next rows of W.
    let ahead = if near { NEXT } else { (nb * g.ldw * size).max(8 * NEXT) };
    let mut j = cols.start;
    while j < cols.end {
        let jb = (j + nb).min(cols.end);
        for s in 0..strips {
            let i = rows.start + s * S::ROWS;
            let fetch = match strips {
                1 => Fetch { ahead, rows: NR, pages: whole },
                2..=8 if s < NR => Fetch { ahead: ahead + s * g.ldw * size, rows: 1, pages: whole && s == 0 },
                _ => Fetch::NONE,
            };
            // SAFETY: as `nt`.
            unsafe {
                match ((rows.end - i).min(S::ROWS), near || !whole) {
                    (8, true) => strip::<S, E, 8, true>(g, i, j..jb, k.clone(), fetch),
                    (8, false) => strip::<S, E, 8, false>(g, i, j..jb, k.clone(), fetch),
                    (7, _) => strip::<S, E, 7, true>(g, i, j..jb, k.clone(), fetch),
                    (6, _) => strip::<S, E, 6, true>(g, i, j..jb, k.clone(), fetch),
                    (5, _) => strip::<S, E, 5, true>(g, i, j..jb, k.clone(), fetch),
                    (4, _) => strip::<S, E, 4, true>(g, i, j..jb, k.clone(), fetch),
                    (3, _) => strip::<S, E, 3, true>(g, i, j..jb, k.clone(), fetch),
                    (2, _) => strip::<S, E, 2, true>(g, i, j..jb, k.clone(), fetch),
                    _ => strip::<S, E, 1, true>(g, i, j..jb, k.clone(), fetch),
                }
            }
        }
        j = jb;
    }
}

/// Of W, while a strip is computed: `rows` rows for each tile, `ahead` bytes on, and their `pages` or not.
#[derive(Clone, Copy)]
struct Fetch {
    ahead: usize,
    rows: usize,
    pages: bool,
}

impl Fetch {
    const NONE: Fetch = Fetch { ahead: 0, rows: 0, pages: false };
}

/// `M` rows of A against the rows `cols` of W; those that are fetched go to the first-level cache if they are `NEAR`.
#[inline(always)]
unsafe fn strip<S: Simd, E: Elem, const M: usize, const NEAR: bool>(
    g: &Nt<E>,
    i: usize,
    cols: Range<usize>,
    k: Range<usize>,
    fetch: Fetch,
) {
    // SAFETY: as `nt`.
    unsafe {
        let mut j = cols.start;
        while j + NR <= cols.end {
            let next = g.w.wrapping_add(j * g.ldw).wrapping_byte_add(fetch.ahead);
            if fetch.pages {
                touch::<S>(next.wrapping_byte_add(PAGES).cast(), NR * g.ldw * size_of::<E>());
            }
            match fetch.rows {
                0 => tile::<S, E, M, NR, 0, NEAR>(g, i, j, 1, k.clone(), next),
                1 => tile::<S, E, M, NR, 1, NEAR>(g, i, j, 1, k.clone(), next),
                _ => tile::<S, E, M, NR, 2, NEAR>(g, i, j, 1, k.clone(), next),
            }
            j += NR;
        }
        if j < cols.end {
            tile::<S, E, M, 1, 0, NEAR>(g, i, j, 1, k, std::ptr::null());
        }
    }
}

/// Fetches a line of each page that begins in the `bytes` from `p` on.
#[inline(always)]
unsafe fn touch<S: Simd>(p: *const u8, bytes: usize) {
    let mut at = p.addr().next_multiple_of(PAGE) - p.addr();
    while at < bytes {
        // SAFETY: fetching touches no memory.
        unsafe { S::prefetch(p.wrapping_add(at)) };
        at += PAGE;
    }
}

/// One or two rows of A: W comes from memory, which is fastest from several distant places at once.
#[inline(always)]
unsafe fn stream<S: Simd, E: Elem>(g: &Nt<E>, rows: Range<usize>, cols: Range<usize>, k: Range<usize>) {
    let (step, none) = (cols.len() / STREAMS, std::ptr::null());
    // SAFETY: as `nt`.
    unsafe {
        for j in cols.start..cols.start + step {
            match rows.len() {
                1 => tile::<S, E, 1, STREAMS, 0, true>(g, rows.start, j, step, k.clone(), none),
                _ => tile::<S, E, 2, STREAMS, 0, true>(g, rows.start, j, step, k.clone(), none),
            }
        }
        for j in cols.start + step * STREAMS..cols.end {
            match rows.len() {
                1 => tile::<S, E, 1, 1, 0, true>(g, rows.start, j, 1, k.clone(), none),
                _ => tile::<S, E, 2, 1, 0, true>(g, rows.start, j, 1, k.clone(), none),
            }
        }
    }
}

/// `M` rows of A from `i` against `N` rows of W (`j`, `j + step`, …), over the columns `k`. Meanwhile fetches those columns of
/// `F` rows from `next` on, if they are `NEAR` to the first-level cache.
#[inline(always)]
unsafe fn tile<S: Simd, E: Elem, const M: usize, const N: usize, const F: usize, const NEAR: bool>(
    g: &Nt<E>,
    i: usize,
    j: usize,
    step: usize,
    cols: Range<usize>,
    next: *const E,
) {
    // SAFETY: as `nt`; loads of the last partial vector are masked.
    unsafe {
        let a: [*const E; M] = std::array::from_fn(|r| g.a.add((i + r) * g.lda));
        let w = g.w.add(j * g.ldw);
        let ws = step * g.ldw;
        let lanes = L * E::R;
        let mut acc = [[S::splat(0.0); N]; M];
        let mut k = cols.start;
        while k + lanes <= cols.end {
            let mut wv = [S::splat_i(0); N];
            for (c, x) in wv.iter_mut().enumerate() {
                *x = S::load_i(w.add(c * ws + k).cast());
            }
            for f in 0..F {
                let line = next.wrapping_add(f * g.ldw + k).cast();
                if NEAR { S::prefetch(line) } else { S::prefetch_far(line) }
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
        let c = g.c.add(i * g.ldc + j);
        let add = cols.start > 0;
        let bias = g.bias.filter(|_| cols.end == g.k);
        let mut total = [[0.0f32; N]; M];
        if M * N >= L / 2 {
            let sums = lane_sums::<S, M, N>(&acc);
            // Not through memory where it can be helped: what is read back waits until every store before it is done.
            if !add && bias.is_none() {
                for r in 0..M {
                    S::store_apart::<N>(c.add(r * g.ldc), step, sums, r * N);
                }
                return;
            }
            S::store_n(total.as_mut_ptr().cast(), M * N, sums);
        } else {
            for (total, acc) in total.iter_mut().zip(&acc) {
                for (total, &x) in total.iter_mut().zip(acc) {
                    *total = S::sum(x);
                }
            }
        }
        for (r, total) in total.iter().enumerate() {
            for (s, &x) in total.iter().enumerate() {
                let (c, j) = (c.add(r * g.ldc + s * step), j + s * step);
                let x = if add { *c + x } else { x };
                *c = match bias {
                    None => x,
                    Some(Mat::F32(b)) => x + b[j],
                    Some(Mat::Bf16(b)) => x + b[j].to_f32(),
                };
            }
        }
    }
}

/// The lanes of each accumulator summed, of 8 to 16, row by row.
#[inline(always)]
unsafe fn lane_sums<S: Simd, const M: usize, const N: usize>(acc: &[[S::F; N]; M]) -> S::F {
    // Named one by one: indexed in a loop, accumulators would go through memory. What is missing repeats the last one.
    macro_rules! in_places {
        ($($i:literal)*) => {
            [$({
                let place = (4 * ($i % 4) + $i / 4).min(M * N - 1);
                acc[place / N][place % N]
            }),*]
        };
    }
    // SAFETY: only lane arithmetic.
    unsafe { S::sums(in_places!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)) }
}
