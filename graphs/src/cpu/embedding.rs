//! Rows of a table by token id, and their gradient.

use super::Mat;
use super::elementwise::add_at;
use super::par::{self, Parts, Shared};
use super::simd::{Elem, L, multiversion, store};

multiversion! {
    unsafe fn gather<S, W: Elem>(row: *const W, y: *mut f32, h: usize) {
        let mut i = 0;
        while i < h {
            let n = (h - i).min(L);
            store::<S>(y.add(i), n, W::widen::<S>(row.add(i), n));
            i += L;
        }
    }
}

/// `y[t, h] = table[ids[t], h]`.
///
/// # Panics
/// If an id is not a row of the table.
pub fn embedding(ids: &[u32], table: Mat, y: &mut [f32], h: usize) {
    assert!(y.len() == ids.len() * h && table.len().is_multiple_of(h), "embedding: shapes do not match");
    let y = Parts::new(y);
    par::ranges(ids.len() * h / 8, ids.len(), 1, |r| {
        for t in r {
            let row = ids[t] as usize * h;
            // SAFETY: the slices below are checked to hold h values; tasks write different tokens.
            unsafe {
                let y = y.get(t * h..(t + 1) * h).as_mut_ptr();
                match table {
                    Mat::F32(w) => gather(w[row..row + h].as_ptr(), y, h),
                    Mat::Bf16(w) => gather(w[row..row + h].as_ptr(), y, h),
                }
            }
        }
    });
}

/// `dtable[ids[t], h] += dy[t, h]`, in the order of the tokens whatever the threads.
///
/// # Panics
/// If an id is not a row of the table.
pub fn embedding_backward(ids: &[u32], dy: &[f32], dtable: &mut [f32], h: usize) {
    assert!(
        dy.len() == ids.len() * h && dtable.len().is_multiple_of(h),
        "embedding_backward: shapes do not match"
    );
    let rows = dtable.len() / h;
    assert!(ids.iter().all(|&id| (id as usize) < rows), "embedding_backward: an id is not below {rows}");
    let (dtable, dy) = (Parts::new(dtable), Shared(dy.as_ptr()));
    // Threads share out columns, so that each adds its part of a row in token order.
    par::ranges(ids.len() * h / 4, h, 4 * L, |r| {
        for (t, &id) in ids.iter().enumerate() {
            // SAFETY: ids and sizes checked above; tasks write different columns.
            let (dst, src) = unsafe {
                let row = id as usize * h;
                let src = std::slice::from_raw_parts(dy.get().add(t * h + r.start), r.len());
                (dtable.get(row + r.start..row + r.end), src)
            };
            // SAFETY: both have `r.len()` values.
            unsafe { add_at(dst.as_ptr(), src.as_ptr(), dst.as_mut_ptr(), r.len()) };
        }
    });
}
