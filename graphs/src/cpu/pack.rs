//! Copies into the layouts products read: rounded rows, and panels of units for [`outer`](super::outer).

use super::outer::units;
use super::par::{self, Parts, Shared};
use super::simd::{Elem, L, Simd, load, multiversion};

use half::bf16;

/// Row stride, in elements, of a packed matrix with `k` columns: whole cache lines, and no power of two
/// that would put all rows into the same cache sets.
pub(super) fn stride<E: Elem>(k: usize) -> usize {
    let line = 64 / size_of::<E>();
    let ld = k.next_multiple_of(line);
    if (ld * size_of::<E>()).is_multiple_of(1024) { ld + line } else { ld }
}

multiversion! {
    /// `dst[i] = src[i]`, rounded to the element.
    unsafe fn convert_range<S, D: Elem>(src: *const f32, dst: *mut D, n: usize) {
        let mut i = 0;
        while i < n {
            let w = (n - i).min(L);
            D::narrow::<S>(dst.add(i), w, load::<S>(src.add(i), w));
            i += L;
        }
    }
}

/// `dst = src`, rounded to the element.
pub(super) fn convert<D: Elem>(src: &[f32], dst: &mut [D]) {
    assert_eq!(src.len(), dst.len());
    let parts = Parts::new(dst);
    par::ranges(src.len() / 12, src.len(), 1024, |r| {
        // SAFETY: equal lengths; ranges don't overlap.
        unsafe { convert_range::<D>(src[r.clone()].as_ptr(), parts.get(r.clone()).as_mut_ptr(), r.len()) }
    });
}

multiversion! {
    /// `rows` rows of `cols` values each, `ld` values apart, rounded to rows of units, `to` units apart. A last unit begun is
    /// filled with zero, what is beyond it is not written.
    pub(super) unsafe fn round_to<S, D: Elem>(
        src: *const f32, ld: usize, rows: usize, cols: usize, dst: *mut u32, to: usize,
    ) {
        let whole = cols.next_multiple_of(D::R);
        for r in 0..rows {
            let (src, dst) = (src.add(r * ld), dst.add(r * to).cast::<D>());
            let mut c = 0;
            while c < cols {
                D::narrow::<S>(dst.add(c), (whole - c).min(L), load::<S>(src.add(c), (cols - c).min(L)));
                c += L;
            }
        }
    }
}

/// `dst = src[rows, cols]` as rows of units, `to` apart, rounded to `D`.
pub(super) fn round_rows<D: Elem>(src: &[f32], rows: usize, cols: usize, dst: &mut [u32], to: usize) {
    assert!(src.len() >= rows * cols && dst.len() >= rows * to && to >= units::<D>(cols));
    let (src, dst) = (Shared(src.as_ptr()), Parts::new(dst));
    par::ranges(rows * cols / 12, rows, 8, |r| {
        // SAFETY: sizes checked above; tasks write different rows.
        unsafe {
            let (src, dst) = (src.get().add(r.start * cols), dst.as_ptr().add(r.start * to));
            round_to::<D>(src, cols, r.len(), cols, dst, to)
        }
    });
}

/// Rows of `n` columns rounded to what a product wants: `ld` units apart, a last unit begun filled with zero.
pub(super) struct Rounded {
    pub n: usize,
    /// To bf16, else kept.
    pub half: bool,
    pub rows: *mut u32,
    pub ld: usize,
}

impl Rounded {
    /// The 16 columns of row `r` from column `c` on; those beyond the last are zero.
    #[inline(always)]
    pub unsafe fn put<S: Simd>(&self, r: usize, c: usize, x: S::F) {
        // SAFETY: the caller's row and column are there.
        unsafe {
            let to = self.rows.add(r * self.ld);
            if self.half {
                bf16::narrow::<S>(to.cast::<bf16>().add(c), (self.n.next_multiple_of(2) - c).min(L), x);
            } else {
                f32::narrow::<S>(to.cast::<f32>().add(c), (self.n - c).min(L), x);
            }
        }
    }
}

/// Width of the panel that column `c` of `n` falls in, where all but the last are `width` wide.
#[inline(always)]
pub(super) fn panel_width(n: usize, width: usize, c: usize) -> usize {
    (n - c / width * width).min(width).next_multiple_of(L)
}

multiversion! {
    /// The rows `r0..r1` (`r0` begins a unit) of [`pack_columns`], `ld` values apart, into panels `depth` units deep.
    pub(super) unsafe fn pack_columns_to<S, T: Elem, D: Elem>(
        src: *const T, ld: usize, r0: usize, r1: usize, cols: usize, width: usize, dst: *mut u32, depth: usize,
    ) {
        let mut c = 0;
        while c < cols {
            let (w, own) = ((cols - c).min(L), panel_width(cols, width, c));
            let mut to = dst.add(c / width * width * depth + r0 / D::R * own + c % width);
            let mut r = r0;
            while r < r1 {
                let from = src.add(r * ld + c);
                let first = T::widen::<S>(from, w);
                let second = if D::R == 2 && r + 1 < r1 { T::widen::<S>(from.add(ld), w) } else { S::splat(0.0) };
                S::store_i(to, D::unit::<S>(first, second));
                (to, r) = (to.add(own), r + D::R);
            }
            c += L;
        }
    }
}

/// The units of each column of `src[rows, cols]`, rounded to `D`, in panels of `width` columns (a multiple of 16):
/// `dst[panel][unit][column]`, the last panel as wide as it needs in whole vectors. What is missing is zero.
pub(super) fn pack_columns<T: Elem, D: Elem>(
    src: &[T],
    rows: usize,
    cols: usize,
    width: usize,
    dst: &mut [u32],
) {
    let depth = units::<D>(rows);
    assert!(src.len() >= rows * cols && dst.len() >= super::outer::panels(cols, depth));
    let (src, dst) = (Shared(src.as_ptr()), Parts::new(dst));
    par::ranges(rows * cols / 12, depth, 8, |p| {
        let (r0, r1) = (p.start * D::R, (p.end * D::R).min(rows));
        // SAFETY: sizes checked above; tasks write different units.
        unsafe { pack_columns_to::<T, D>(src.get(), cols, r0, r1, cols, width, dst.as_ptr(), depth) }
    });
}

multiversion! {
    /// Columns `r0..r1`, rows of `src`, of [`pack_rows`].
    unsafe fn pack_rows_range<S, T: Elem>(
        src: *const T, rows: usize, cols: usize, width: usize, dst: *mut u32, r0: usize, r1: usize,
    ) {
        let depth = units::<T>(cols);
        let mut r = r0;
        while r < r1 {
            let (h, own) = ((r1 - r).min(L), panel_width(rows, width, r));
            let to = dst.add(r / width * width * depth + r % width);
            let mut p = 0;
            while p < depth {
                let n = (cols - p * T::R).min(L * T::R);
                let mut block = [S::splat_i(0); L];
                for (i, row) in block.iter_mut().enumerate().take(h) {
                    *row = T::load_tail::<S>(src.add((r + i) * cols + p * T::R), n);
                }
                let block = S::transpose(block);
                for (i, &unit) in block.iter().enumerate().take((depth - p).min(L)) {
                    S::store_i(to.add((p + i) * own), unit);
                }
                p += L;
            }
            r += L;
        }
    }
}

/// As [`pack_columns`] for the columns of `srcᵀ`: the units of each row of `src[rows, cols]`, in panels of `width` rows.
pub(super) fn pack_rows<T: Elem>(src: &[T], rows: usize, cols: usize, width: usize, dst: &mut [u32]) {
    assert!(src.len() >= rows * cols && dst.len() >= super::outer::panels(rows, units::<T>(cols)));
    let (src, dst) = (Shared(src.as_ptr()), Parts::new(dst));
    par::ranges(rows * cols / 4, rows, L, |r| {
        // SAFETY: sizes checked above; tasks write different columns.
        unsafe { pack_rows_range::<T>(src.get(), rows, cols, width, dst.as_ptr(), r.start, r.end) }
    });
}
