//! Gradients of linear layers: of the input, of the weight, of the bias.
//!
//! With bf16 weights both operands of each product are rounded to bf16 (nearest even) and summed in f32;
//! with f32 weights nothing is rounded. `x`, `dy`, `dx` and gradients are f32 in both.

use super::Mat;
use super::linear::Dims;
use super::outer::{COLUMNS, Lie, Outer, ROWS, panels, row, units};
use super::pack::{pack_columns, round_rows};
use super::par::{self, Parts, Shared};
use super::scratch::{Scratch, bytes_of};
use super::simd::{Elem, L, multiversion};
use half::bf16;

/// Bytes of scratch for [`linear_dx`].
pub fn linear_dx_scratch(d: Dims, bf16_weights: bool) -> usize {
    if bf16_weights {
        bytes_of::<u32>(panels(d.k, units::<bf16>(d.n))) + bytes_of::<u32>(d.t * row::<bf16>(d.n))
    } else {
        bytes_of::<u32>(panels(d.k, d.n))
    }
}

/// `dx[t, k] (=, or += if acc) dy[t, n] · w[n, k]`.
pub fn linear_dx(dy: &[f32], w: Mat, dx: &mut [f32], acc: bool, d: Dims, scratch: &mut Scratch) {
    let Dims { t, n, k } = d;
    assert!(
        dy.len() == t * n && w.len() == n * k && dx.len() == t * k,
        "linear_dx: shapes do not match {d:?}"
    );
    let mut scratch = scratch.reborrow();
    let dx = Parts::new(dx);
    match w {
        Mat::F32(w) => {
            let b = scratch.take::<u32>(panels(k, n));
            pack_columns::<f32, f32>(w, n, k, COLUMNS, b);
            // SAFETY: lengths checked above.
            unsafe { dx_product(Shared(dy.as_ptr().cast()), n, n, b, &dx, acc, d).run::<f32>() }
        }
        Mat::Bf16(w) => {
            let (p, ld) = (units::<bf16>(n), row::<bf16>(n));
            let b = scratch.take::<u32>(panels(k, p));
            pack_columns::<bf16, bf16>(w, n, k, COLUMNS, b);
            let rounded = scratch.take::<u32>(t * ld);
            round_rows::<bf16>(dy, t, n, rounded, ld);
            // SAFETY: lengths checked above.
            unsafe { dx_product(Shared(rounded.as_ptr()), ld, p, b, &dx, acc, d).run::<bf16>() }
        }
    }
}

/// The product of [`linear_dx`]: rows of `dy`, `ld` units apart, by the packed weight, over `p` units.
fn dx_product<'a>(
    dy: Shared<u32>,
    ld: usize,
    p: usize,
    b: &[u32],
    dx: &'a Parts<'a, f32>,
    acc: bool,
    d: Dims,
) -> Outer<'a> {
    let b = Shared(b.as_ptr());
    Outer { a: dy, lie: Lie::Rows(ld), b, c: dx, ldc: d.k, m: d.t, n: d.k, p, acc }
}

/// Bytes of scratch for [`linear_dw`].
pub fn linear_dw_scratch(d: Dims, bf16_inputs: bool) -> usize {
    let p = if bf16_inputs { units::<bf16>(d.t) } else { d.t };
    bytes_of::<u32>(panels(d.n, p)) + bytes_of::<u32>(panels(d.k, p))
}

/// `dw[n, k] += dy[t, n]ᵀ · x[t, k]`, both rounded to bf16 first if `bf16_inputs`.
pub fn linear_dw(x: &[f32], dy: &[f32], dw: &mut [f32], bf16_inputs: bool, d: Dims, scratch: &mut Scratch) {
    let ok = x.len() == d.t * d.k && dy.len() == d.t * d.n && dw.len() == d.n * d.k;
    assert!(ok, "linear_dw: shapes do not match {d:?}");
    if bf16_inputs {
        dw_as::<bf16>(x, dy, dw, d, scratch.reborrow())
    } else {
        dw_as::<f32>(x, dy, dw, d, scratch.reborrow())
    }
}

fn dw_as<E: Elem>(x: &[f32], dy: &[f32], dw: &mut [f32], d: Dims, mut scratch: Scratch) {
    let Dims { t, n, k } = d;
    let p = units::<E>(t);
    let (a, b) = (scratch.take::<u32>(panels(n, p)), scratch.take::<u32>(panels(k, p)));
    pack_columns::<f32, E>(dy, t, n, ROWS, a);
    pack_columns::<f32, E>(x, t, k, COLUMNS, b);
    let (a, b, dw) = (Shared(a.as_ptr()), Shared(b.as_ptr()), Parts::new(dw));
    let g = Outer { a, lie: Lie::Panels, b, c: &dw, ldc: k, m: n, n: k, p, acc: true };
    // SAFETY: lengths checked by the caller.
    unsafe { g.run::<E>() }
}

multiversion! {
    unsafe fn column_sums<S>(dy: *const f32, out: *mut f32, t: usize, n: usize, j0: usize, j1: usize) {
        let mut j = j0;
        while j < j1 {
            let w = (j1 - j).min(L);
            let mut sum = S::load_n(out.add(j), w);
            for i in 0..t {
                sum = S::add(sum, S::load_n(dy.add(i * n + j), w));
            }
            S::store_n(out.add(j), w, sum);
            j += L;
        }
    }
}

/// `dbias[n] += Σ_t dy[t, n]`.
pub fn bias_grad(dy: &[f32], dbias: &mut [f32], t: usize, n: usize) {
    assert!(dy.len() == t * n && dbias.len() == n, "bias_grad: shapes do not match [{t}, {n}]");
    let (dbias, dy) = (Parts::new(dbias), Shared(dy.as_ptr()));
    par::ranges(t * n / 4, n, 4 * L, |r| {
        // SAFETY: lengths checked above; tasks write different columns.
        unsafe { column_sums(dy.get(), dbias.as_ptr(), t, n, r.start, r.end) }
    });
}
