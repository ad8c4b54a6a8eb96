//! Copies into the layouts products read: rounded rows, and blocked transposes.

use super::par::{self, Parts, Shared};
use super::simd::{Elem, L, load, multiversion};

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
    /// Rows `r0..r1` (a multiple of 16 from the start, but for the end) of `src[rows, cols]` into the
    /// columns `r0..r1` of `dst[cols, ld]`.
    unsafe fn transpose_rows<S, T: Elem, D: Elem>(
        src: *const T, ld_src: usize, dst: *mut D, ld: usize, r0: usize, r1: usize, cols: usize,
    ) {
        let mut r = r0;
        while r < r1 {
            let h = (r1 - r).min(L);
            let mut c = 0;
            while c < cols {
                let w = (cols - c).min(L);
                let mut block = [S::splat_i(0); 16];
                for (i, row) in block.iter_mut().enumerate().take(h) {
                    *row = S::as_i(T::widen::<S>(src.add((r + i) * ld_src + c), w));
                }
                let block = S::transpose(block);
                for (i, &column) in block.iter().enumerate().take(w) {
                    D::narrow::<S>(dst.add((c + i) * ld + r), h, S::as_f(column));
                }
                c += L;
            }
            r += L;
        }
    }
}

/// `dst[cols, ld] = src[rows, cols]ᵀ`, rounded to the element; columns of `dst` beyond `rows` are not written.
pub(super) fn transpose<T: Elem, D: Elem>(src: &[T], rows: usize, cols: usize, dst: &mut [D], ld: usize) {
    assert!(src.len() >= rows * cols && dst.len() >= cols * ld && ld >= rows);
    let dst = Parts::new(dst);
    let src = Shared(src.as_ptr());
    par::ranges(rows * cols / 4, rows, 4 * L, |r| {
        // SAFETY: sizes checked above; tasks write different columns.
        unsafe { transpose_rows::<T, D>(src.get(), cols, dst.as_ptr(), ld, r.start, r.end, cols) }
    });
}
