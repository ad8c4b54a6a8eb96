//! Linear layers: forward, gradient of the input, gradient of the weight.
//!
//! With bf16 weights both operands of each product are rounded to bf16 (nearest even) and summed in f32;
//! with f32 weights nothing is rounded. `x`, `dy`, `dx` and gradients are f32 in both.

use super::Mat;
use super::gemm::{Nt, nt};
use super::pack::{convert, stride, transpose};
use super::par::{self, Parts, Shared};
use super::scratch::{Plain, Scratch, bytes_of};
use super::simd::{Elem, L, multiversion};
use half::bf16;

/// Sizes of a linear layer on `t` rows: `x[t, k]`, `w[n, k]`, `y[t, n]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dims {
    /// Rows (packed tokens).
    pub t: usize,
    /// Output features.
    pub n: usize,
    /// Input features.
    pub k: usize,
}

/// Bytes of scratch for [`linear`].
pub fn linear_scratch(d: Dims, bf16_weights: bool) -> usize {
    if bf16_weights { bytes_of::<bf16>(d.t * stride::<bf16>(d.k)) } else { 0 }
}

/// `y[t, n] = x[t, k] · wᵀ (+ bias)`, with `w[n, k]` as stored in a checkpoint.
pub fn linear(x: &[f32], w: Mat, bias: Option<Mat>, y: &mut [f32], d: Dims, scratch: &mut Scratch) {
    let Dims { t, n, k } = d;
    assert!(x.len() == t * k && w.len() == n * k && y.len() == t * n, "linear: shapes do not match {d:?}");
    assert!(bias.is_none_or(|b| b.len() == n), "linear: bias is not [{n}]");
    let y = Parts::new(y);
    match w {
        // SAFETY: lengths checked above.
        Mat::F32(w) => unsafe {
            nt(Nt {
                a: Shared(x.as_ptr()),
                lda: k,
                w: Shared(w.as_ptr()),
                ldw: k,
                c: &y,
                ldc: n,
                m: t,
                n,
                k,
                acc: false,
                bias,
            })
        },
        Mat::Bf16(w) => {
            let mut scratch = scratch.reborrow();
            let rounded = scratch.take::<bf16>(t * k);
            convert(x, rounded);
            let g = Nt {
                a: Shared(rounded.as_ptr()),
                lda: k,
                w: Shared(w.as_ptr()),
                ldw: k,
                c: &y,
                ldc: n,
                m: t,
                n,
                k,
                acc: false,
                bias,
            };
            // SAFETY: lengths checked above.
            unsafe { nt(g) }
        }
    }
}

/// Bytes of scratch for [`linear_dx`].
pub fn linear_dx_scratch(d: Dims, bf16_weights: bool) -> usize {
    if bf16_weights {
        bytes_of::<bf16>(d.k * stride::<bf16>(d.n)) + bytes_of::<bf16>(d.t * d.n)
    } else {
        bytes_of::<f32>(d.k * stride::<f32>(d.n))
    }
}

/// The product of [`linear_dx`]: `dy[t, n]` by the transposed weight `wt[k, n]`, whose rows lie `ld` apart.
fn dx_product<'a, E>(
    dy: &[E],
    wt: &[E],
    ld: usize,
    dx: &'a Parts<'a, f32>,
    acc: bool,
    Dims { t, n, k }: Dims,
) -> Nt<'a, E> {
    Nt {
        a: Shared(dy.as_ptr()),
        lda: n,
        w: Shared(wt.as_ptr()),
        ldw: ld,
        c: dx,
        ldc: k,
        m: t,
        n: k,
        k: n,
        acc,
        bias: None,
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
            let ld = stride::<f32>(n);
            let wt = scratch.take::<f32>(k * ld);
            transpose(w, n, k, wt, ld);
            // SAFETY: lengths checked above.
            unsafe { nt(dx_product(dy, wt, ld, &dx, acc, d)) }
        }
        Mat::Bf16(w) => {
            let ld = stride::<bf16>(n);
            let wt = scratch.take::<bf16>(k * ld);
            transpose(w, n, k, wt, ld);
            let rounded = scratch.take::<bf16>(t * n);
            convert(dy, rounded);
            // SAFETY: lengths checked above.
            unsafe { nt(dx_product(rounded, wt, ld, &dx, acc, d)) }
        }
    }
}

/// Bytes of scratch for [`linear_dw`].
pub fn linear_dw_scratch(d: Dims, bf16_inputs: bool) -> usize {
    fn of<E: Elem>(d: Dims) -> usize {
        let ld = stride::<E>(d.t);
        bytes_of::<E>(d.n * ld) + bytes_of::<E>(d.k * ld)
    }
    if bf16_inputs { of::<bf16>(d) } else { of::<f32>(d) }
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

fn dw_as<E: Elem + Plain>(x: &[f32], dy: &[f32], dw: &mut [f32], d: Dims, mut scratch: Scratch) {
    let Dims { t, n, k } = d;
    let ld = stride::<E>(t);
    let (dyt, xt) = (scratch.take::<E>(n * ld), scratch.take::<E>(k * ld));
    transpose(dy, t, n, dyt, ld);
    transpose(x, t, k, xt, ld);
    let dw = Parts::new(dw);
    // SAFETY: lengths checked by the caller; the product reads only the first t columns.
    unsafe {
        nt(Nt {
            a: Shared(dyt.as_ptr()),
            lda: ld,
            w: Shared(xt.as_ptr()),
            ldw: ld,
            c: &dw,
            ldc: k,
            m: n,
            n: k,
            k: t,
            acc: true,
            bias: None,
        })
    }
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
