//! RMSNorm, forward and backward (Zhang & Sennrich, arXiv 1910.07467).

use super::Mat;
use super::linear_grad::bias_grad;
use super::pack::panel_width;
use super::par::{self, Parts, Shared};
use super::scratch::{Scratch, bytes_of};
use super::simd::{Elem, L, Simd, load, multiversion, store};

use half::bf16;
use std::ops::Range;

/// Rows whose weight gradients are summed before they meet the other rows'.
pub(super) const CHUNK: usize = 64;

/// A norm over rows of `h` values with weight `w[h]`. For a norm per head, rows are `t * heads` and `h` is the head's size.
#[derive(Clone, Copy, Debug)]
pub struct RmsNorm<'a> {
    pub w: Mat<'a>,
    pub eps: f32,
    pub h: usize,
}

/// Vectors whose products are summed apart, so that one sum need not wait for another.
const SLOTS: usize = 4;

#[inline(always)]
unsafe fn together<S: Simd>(x: [S::F; SLOTS]) -> S::F {
    // SAFETY: lane arithmetic.
    unsafe { S::add(S::add(x[0], x[1]), S::add(x[2], x[3])) }
}

/// Vectors whose lanes add up to `Σ x²` and, with `W` values `w` and gradients `dy`, to `Σ x w dy`, over `h` values.
#[inline(always)]
unsafe fn sums<S: Simd, W: Elem>(
    x: *const f32,
    other: Option<(*const W, *const f32)>,
    h: usize,
) -> [S::F; 2] {
    // SAFETY: the caller's pointers hold `h` values.
    unsafe {
        let mut squares = [S::splat(0.0); SLOTS];
        let mut dots = squares;
        let mut first = 0;
        while first < h {
            for slot in 0..SLOTS {
                let i = first + slot * L;
                if i < h {
                    let n = (h - i).min(L);
                    let x = load::<S>(x.add(i), n);
                    squares[slot] = S::fma(x, x, squares[slot]);
                    if let Some((w, dy)) = other {
                        let x = S::mul(x, W::widen::<S>(w.add(i), n));
                        dots[slot] = S::fma(x, load::<S>(dy.add(i), n), dots[slot]);
                    }
                }
            }
            first += SLOTS * L;
        }
        [together::<S>(squares), together::<S>(dots)]
    }
}

fn inverse(squares: f32, eps: f32, h: usize) -> f32 {
    1.0 / (squares / h as f32 + eps).sqrt()
}

#[inline(always)]
unsafe fn inverse_rms<S: Simd>(x: *const f32, eps: f32, h: usize) -> f32 {
    // SAFETY: `x` holds `h` values.
    inverse(unsafe { S::sum(sums::<S, f32>(x, None, h)[0]) }, eps, h)
}

multiversion! {
    /// `x` may be `y`.
    unsafe fn forward_rows<S, W: Elem, D: Elem>(x: *const f32, w: *const W, eps: f32, y: *mut D, rows: usize, h: usize) {
        for r in 0..rows {
            let (x, y) = (x.add(r * h), y.add(r * h));
            let scale = S::splat(inverse_rms::<S>(x, eps, h));
            let mut i = 0;
            while i < h {
                let n = (h - i).min(L);
                let v = S::mul(load::<S>(x.add(i), n), scale);
                D::narrow::<S>(y.add(i), n, S::mul(W::widen::<S>(w.add(i), n), v));
                i += L;
            }
        }
    }
}

/// `y = w · x / √(mean(x²) + eps)` for each row of `x[rows, h]`.
pub fn rms_norm(x: &[f32], norm: &RmsNorm, y: &mut [f32]) {
    norm_rows(x, norm, y);
}

/// [`rms_norm`] rounded to the element.
pub(super) fn norm_rows<D: Elem>(x: &[f32], norm: &RmsNorm, y: &mut [D]) {
    let h = norm.h;
    assert!(
        x.len() == y.len() && norm.w.len() == h && x.len().is_multiple_of(h),
        "rms_norm: shapes do not match"
    );
    let y = Parts::new(y);
    par::ranges(x.len() / 12, x.len() / h, 1, |r| {
        let rows = r.start * h..r.end * h;
        // SAFETY: sizes checked above; tasks write different rows.
        unsafe {
            let (x, y) = (x[rows.clone()].as_ptr(), y.get(rows).as_mut_ptr());
            match norm.w {
                Mat::F32(w) => forward_rows(x, w.as_ptr(), norm.eps, y, r.len(), h),
                Mat::Bf16(w) => forward_rows(x, w.as_ptr(), norm.eps, y, r.len(), h),
            }
        }
    });
}

/// [`rms_norm`] of `rows` rows from `x` on, in place.
///
/// # Safety
/// The rows are there and nobody else uses them; the norm's weight has its size.
pub(super) unsafe fn head_norms(norm: &RmsNorm, x: *mut f32, rows: usize) {
    // SAFETY: the caller's.
    unsafe {
        match norm.w {
            Mat::F32(w) => forward_rows(x, w.as_ptr(), norm.eps, x, rows, norm.h),
            Mat::Bf16(w) => forward_rows(x, w.as_ptr(), norm.eps, x, rows, norm.h),
        }
    }
}

multiversion! {
    unsafe fn columns_range<S, W: Elem, P: Elem>(
        x: *const f32, w: *const W, eps: f32, r0: usize, r1: usize, h: usize, width: usize, dst: *mut u32, depth: usize,
    ) {
        let mut r = r0;
        while r < r1 {
            let second = P::R == 2 && r + 1 < r1;
            let x = x.add(r * h);
            // A row that is missing is zero.
            let other = if second { x.add(h) } else { x };
            let scale = S::splat(inverse_rms::<S>(x, eps, h));
            let other_scale = S::splat(if second { inverse_rms::<S>(other, eps, h) } else { 0.0 });
            let mut c = 0;
            while c < h {
                let n = (h - c).min(L);
                let wv = W::widen::<S>(w.add(c), n);
                let first = S::mul(wv, S::mul(load::<S>(x.add(c), n), scale));
                let next = if second { S::mul(wv, S::mul(load::<S>(other.add(c), n), other_scale)) } else { S::splat(0.0) };
                let to = c / width * width * depth + r / P::R * panel_width(h, width, c) + c % width;
                S::store_i(dst.add(to), P::unit::<S>(first, next));
                c += L;
            }
            r += P::R;
        }
    }
}

/// The rows `rows` (the first begins a unit) of [`rms_norm`], as [`pack_columns_to`](super::pack::pack_columns_to) would pack them.
///
/// # Safety
/// `x` holds the rows of the norm's size, `dst` their panels, `depth` units deep; nobody else uses these rows' part.
pub(super) unsafe fn normed_columns<P: Elem>(
    x: *const f32,
    norm: &RmsNorm,
    rows: Range<usize>,
    width: usize,
    dst: *mut u32,
    depth: usize,
) {
    let (r0, r1, h) = (rows.start, rows.end, norm.h);
    // SAFETY: the caller's.
    unsafe {
        match norm.w {
            Mat::F32(w) => columns_range::<f32, P>(x, w.as_ptr(), norm.eps, r0, r1, h, width, dst, depth),
            Mat::Bf16(w) => columns_range::<bf16, P>(x, w.as_ptr(), norm.eps, r0, r1, h, width, dst, depth),
        }
    }
}

multiversion! {
    /// Gradients of `rows` rows, with those of `plus` added unless it is null; it may be `dx`. The weight's goes to `dw[h]`, replaced.
    unsafe fn backward_rows<S, W: Elem>(
        x: *const f32, w: *const W, eps: f32, dy: *const f32, plus: *const f32, dx: *mut f32, dw: *mut f32, rows: usize, h: usize,
    ) {
        std::slice::from_raw_parts_mut(dw, h).fill(0.0);
        let mut r = 0;
        while r < rows {
            let (x, dy, dx) = (x.add(r * h), dy.add(r * h), dx.add(r * h));
            let plus = if plus.is_null() { plus } else { plus.add(r * h) };
            r += match rows - r {
                ROWS.. => backward_some::<S, W, ROWS>(x, w, eps, dy, plus, dx, dw, h),
                _ => backward_some::<S, W, 1>(x, w, eps, dy, plus, dx, dw, h),
            };
        }
    }
}

/// Rows whose gradients are computed together: their sums don't wait for each other.
const ROWS: usize = 4;

/// [`backward_rows`] of `N` rows, at most [`ROWS`], where the weight's is added to; gives `N`.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn backward_some<S: Simd, W: Elem, const N: usize>(
    x: *const f32,
    w: *const W,
    eps: f32,
    dy: *const f32,
    plus: *const f32,
    dx: *mut f32,
    dw: *mut f32,
    h: usize,
) -> usize {
    // SAFETY: the caller's pointers hold `N` rows, `w` and `dw` one.
    unsafe {
        let mut vectors = [S::splat(0.0); 16];
        for r in 0..N {
            [vectors[r], vectors[ROWS + r]] = sums::<S, W>(x.add(r * h), Some((w, dy.add(r * h))), h);
        }
        // Lane 4 r holds a row's squares, the next its dots.
        let mut lanes = [0.0; 16];
        S::store(lanes.as_mut_ptr(), S::sums(vectors));
        let (mut inv, mut back) = ([S::splat(0.0); N], [S::splat(0.0); N]);
        for r in 0..N {
            let one = inverse(lanes[4 * r], eps, h);
            inv[r] = S::splat(one);
            back[r] = S::splat(one * one * one * lanes[4 * r + 1] / h as f32);
        }
        let mut i = 0;
        while i < h {
            let n = (h - i).min(L);
            let (wv, mut sum) = (W::widen::<S>(w.add(i), n), load::<S>(dw.add(i), n));
            for r in 0..N {
                let at = r * h + i;
                let xv = load::<S>(x.add(at), n);
                let g = S::mul(load::<S>(dy.add(at), n), inv[r]);
                let mut d = S::sub(S::mul(wv, g), S::mul(xv, back[r]));
                if !plus.is_null() {
                    d = S::add(d, load::<S>(plus.add(at), n));
                }
                store::<S>(dx.add(at), n, d);
                sum = S::fma(g, xv, sum);
            }
            store::<S>(dw.add(i), n, sum);
            i += L;
        }
        N
    }
}

/// Gradients of the rows `x` for those of the norm's output, with `plus` added unless it is null. The weight's is replaced.
///
/// # Safety
/// `x`, `dy` and `plus` hold as many numbers as `dx`, whole rows of the norm's size; `plus` may be `dx`.
pub(super) unsafe fn backward_block(
    norm: &RmsNorm,
    x: *const f32,
    dy: *const f32,
    plus: *const f32,
    dx: &mut [f32],
    dw: &mut [f32],
) {
    let (rows, h) = (dx.len() / norm.h, norm.h);
    let (dx, dw) = (dx.as_mut_ptr(), dw.as_mut_ptr());
    // SAFETY: the caller's.
    unsafe {
        match norm.w {
            Mat::F32(w) => backward_rows(x, w.as_ptr(), norm.eps, dy, plus, dx, dw, rows, h),
            Mat::Bf16(w) => backward_rows(x, w.as_ptr(), norm.eps, dy, plus, dx, dw, rows, h),
        }
    }
}

/// Bytes of scratch for [`rms_norm_backward`] on `rows` rows of `h`.
pub fn rms_norm_backward_scratch(rows: usize, h: usize) -> usize {
    bytes_of::<f32>(rows.div_ceil(CHUNK) * h)
}

/// Gradients of [`rms_norm`]: `dx` (=, or += if `acc`) and `dw[h]` (+=) from `dy[rows, h]`.
pub fn rms_norm_backward(
    x: &[f32],
    norm: &RmsNorm,
    dy: &[f32],
    dx: &mut [f32],
    acc: bool,
    dw: &mut [f32],
    scratch: &mut Scratch,
) {
    let h = norm.h;
    let ok = x.len() == dy.len() && x.len() == dx.len() && norm.w.len() == h && dw.len() == h;
    assert!(ok && x.len().is_multiple_of(h), "rms_norm_backward: shapes do not match");
    let rows = x.len() / h;
    let chunks = rows.div_ceil(CHUNK);
    let mut scratch = scratch.reborrow();
    let sums = scratch.take::<f32>(chunks * h);
    let (dx, parts) = (Parts::new(dx), Parts::new(sums));
    let (x, dy) = (Shared(x.as_ptr()), Shared(dy.as_ptr()));
    par::run(par::threads(rows * h / 4), chunks, |_, c| {
        let (first, n) = (c * CHUNK, CHUNK.min(rows - c * CHUNK));
        // SAFETY: sizes checked above; tasks write different rows and different sums.
        unsafe {
            let (x, dy) = (x.get().add(first * h), dy.get().add(first * h));
            let (dx, dw) = (dx.get(first * h..(first + n) * h), parts.get(c * h..(c + 1) * h));
            let plus = if acc { dx.as_ptr() } else { std::ptr::null() };
            backward_block(norm, x, dy, plus, dx, dw);
        }
    });
    bias_grad(sums, dw, chunks, h);
}
