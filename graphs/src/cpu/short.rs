//! Products over short sums: `C[m, n] = A[m, k] · W[n, k]ᵀ` with lanes over the columns, as [`outer`](super::outer) sums.
//!
//! Adding up the lanes of an accumulator costs as much as a hundred products, so [`gemm`](super::gemm) reaches half of the peak where
//! sums have that length. Lanes over columns need no such sums and W turned: many rows are worth panels of it, a few
//! have it turned in registers on the way. Both add the units of a sum in the same order, so the number of rows shows in no bit.

use super::gemm::Nt;
use super::outer::{COLUMNS, KC, Lie, Outer, panels, units};
use super::par::{Parts, Shared};
use super::scratch::Lines;
use super::simd::{Elem, L, Simd, multiversion};
use super::{Mat, pack};
use half::bf16;

/// Units of the longest sum that is short. One rule for training and decoding: it decides the order of a sum.
const MOST: usize = 192;
/// Rows that don't pay for panels.
const FEW: usize = 16;
/// Rows taken at once where W is turned in registers.
const MR: usize = 8;

/// Whether sums over `k` elements are taken here.
pub(super) fn is_short<E: Elem>(k: usize) -> bool {
    k.is_multiple_of(E::R) && units::<E>(k) <= MOST
}

/// Units of the panels that make a product of `t` rows by `w[n, k]` faster; 0 for none.
pub(super) fn panel_units<E: Elem>(t: usize, n: usize, k: usize) -> usize {
    if t > FEW && is_short::<E>(k) { panels(n, units::<E>(k)) } else { 0 }
}

/// A weight as products over short sums read it, made once for many calls.
///
/// It is of no use for others: then it stays empty, and takes nothing.
#[derive(Debug)]
pub struct Panels {
    n: usize,
    k: usize,
    bf16: bool,
    /// Of its rows, for the layer's outputs.
    rows: Lines,
    /// Of its columns, for the gradient of the layer's input.
    columns: Lines,
    filled: bool,
}

impl Panels {
    /// For the layer `w[n, k]`, bf16 or not: for its outputs, and for the gradient of its input.
    pub fn new(n: usize, k: usize, bf16: bool, outputs: bool, gradient: bool) -> Self {
        let short = if bf16 { is_short::<bf16> } else { is_short::<f32> }(k);
        let deep = if bf16 { units::<bf16> } else { units::<f32> };
        let lines = |wanted: bool, of, p| {
            Lines::new(if wanted && short { size_of::<u32>() * panels(of, deep(p)) } else { 0 })
        };
        Panels { n, k, bf16, rows: lines(outputs, n, k), columns: lines(gradient, k, n), filled: false }
    }

    /// Bytes they take.
    pub fn bytes(&self) -> usize {
        self.rows.len() + self.columns.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes() == 0
    }

    /// Makes them of the layer's weight; a weight of the other element has none.
    ///
    /// # Panics
    /// If it has another size.
    pub fn fill(&mut self, w: Mat) {
        assert_eq!(w.len(), self.n * self.k, "panels are another weight's");
        self.filled = !self.is_empty() && w.is_bf16() == self.bf16;
        match w {
            _ if !self.filled => {}
            Mat::F32(w) => self.pack(w),
            Mat::Bf16(w) => self.pack(w),
        }
    }

    fn pack<E: Elem>(&mut self, w: &[E]) {
        let [rows, columns] =
            [&mut self.rows, &mut self.columns].map(|l| bytemuck::cast_slice_mut(l.get_mut()));
        if !rows.is_empty() {
            pack(w, self.k, rows);
        }
        if !columns.is_empty() {
            pack::pack_columns::<E, E>(w, self.n, self.k, COLUMNS, columns);
        }
    }

    /// Whether they are made.
    pub fn is_filled(&self) -> bool {
        self.filled
    }

    /// The units for the outputs of the layer `w`, if there are.
    pub(super) fn rows(&self, w: &Mat) -> Option<&[u32]> {
        self.of(w, &self.rows)
    }

    /// The units for the gradient of its input, if there are.
    pub(super) fn columns(&self, w: &Mat) -> Option<&[u32]> {
        self.of(w, &self.columns)
    }

    fn of<'a>(&self, w: &Mat, lines: &'a Lines) -> Option<&'a [u32]> {
        let fit = self.filled && w.len() == self.n * self.k && w.is_bf16() == self.bf16;
        assert!(fit, "panels are another weight's");
        (lines.len() > 0).then(|| bytemuck::cast_slice(lines.get()))
    }
}

/// Makes the panels of `w[n, k]`.
pub(super) fn pack<E: Elem>(w: &[E], k: usize, dst: &mut [u32]) {
    pack::pack_rows::<E>(w, w.len() / k, k, COLUMNS, dst);
}

/// `m` rows by `n` columns, of which the first begins one of `panels`, on the calling thread.
///
/// # Safety
/// As [`nt`](super::gemm::nt); `panels` begins with those of the first column.
pub(super) unsafe fn by_panels<E: Elem>(g: &Nt<E>, panels: *const u32, m: usize, n: usize) {
    // SAFETY: the caller's; rows hold whole units.
    unsafe {
        let c = Parts::from_raw(g.c, (m - 1) * g.ldc + n);
        let product = Outer {
            a: Shared(g.a.cast()),
            lie: Lie::Rows(g.lda / E::R),
            b: Shared(panels),
            c: &c,
            ldc: g.ldc,
            m,
            n,
            p: units::<E>(g.k),
            acc: false,
        };
        product.rectangle::<E>(0..m, 0..n);
        match g.bias {
            None => {}
            Some(Mat::F32(bias)) => add_bias(bias.as_ptr(), g.c, g.ldc, m, n),
            Some(Mat::Bf16(bias)) => add_bias(bias.as_ptr(), g.c, g.ldc, m, n),
        }
    }
}

multiversion! {
    unsafe fn add_bias<S, E: Elem>(bias: *const E, c: *mut f32, ldc: usize, m: usize, n: usize) {
        for j in (0..n).step_by(L) {
            let w = (n - j).min(L);
            let bias = E::widen::<S>(bias.add(j), w);
            for i in 0..m {
                let c = c.add(i * ldc + j);
                S::store_n(c, w, S::add(S::load_n(c, w), bias));
            }
        }
    }
}

multiversion! {
    /// `m` rows by `n` columns of W as stored, on the calling thread.
    ///
    /// # Safety
    /// As [`nt`](super::gemm::nt).
    pub(super) unsafe fn as_stored<S, E: Elem>(g: &Nt<'_, E>, m: usize, n: usize) {
        for j in (0..n).step_by(L) {
            let mut i = 0;
            while i < m {
                i += match m - i {
                    MR.. => turned::<S, E, MR>(g, i, j, n),
                    4.. => turned::<S, E, 4>(g, i, j, n),
                    2.. => turned::<S, E, 2>(g, i, j, n),
                    _ => turned::<S, E, 1>(g, i, j, n),
                };
            }
        }
    }
}

/// `M` rows from `i` against the 16 rows of W from `j`, those below `n`; gives `M`.
#[inline(always)]
unsafe fn turned<S: Simd, E: Elem, const M: usize>(g: &Nt<E>, i: usize, j: usize, n: usize) -> usize {
    // SAFETY: as `as_stored`; loads and stores of the last partial vectors are masked.
    unsafe {
        let (h, deep) = ((n - j).min(L), units::<E>(g.k));
        let mut total = [S::splat(0.0); M];
        for first in (0..deep).step_by(KC) {
            let last = (first + KC).min(deep);
            let mut acc = [S::splat(0.0); M];
            for p in (first..last).step_by(L) {
                let some = (last - p).min(L);
                let mut block = [S::splat_i(0); L];
                for (r, row) in block.iter_mut().enumerate().take(h) {
                    *row = E::load_tail::<S>(g.w.add((j + r) * g.ldw + p * E::R), some * E::R);
                }
                let block = S::transpose(block);
                for (u, &w) in block.iter().enumerate().take(some) {
                    for (r, acc) in acc.iter_mut().enumerate() {
                        let a = S::splat_i(*g.a.add((i + r) * g.lda).cast::<u32>().add(p + u));
                        *acc = E::mac::<S>(*acc, a, w);
                    }
                }
            }
            for (total, acc) in total.iter_mut().zip(acc) {
                *total = if first == 0 { acc } else { S::add(*total, acc) };
            }
        }
        let bias = match g.bias {
            None => None,
            Some(Mat::F32(bias)) => Some(<f32 as Elem>::widen::<S>(bias.as_ptr().add(j), h)),
            Some(Mat::Bf16(bias)) => Some(<bf16 as Elem>::widen::<S>(bias.as_ptr().add(j), h)),
        };
        for (r, &sum) in total.iter().enumerate() {
            let sum = match bias {
                None => sum,
                Some(bias) => S::add(sum, bias),
            };
            S::store_n(g.c.add((i + r) * g.ldc + j), h, sum);
        }
        M
    }
}
