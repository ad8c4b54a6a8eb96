//! Linear layers, forward.
//!
//! With bf16 weights both operands of each product are rounded to bf16 (nearest even) and summed in f32;
//! with f32 weights nothing is rounded. `x` and `y` are f32 in both.

use super::Mat;
use super::gemm::{Nt, nt};
use super::pack::{convert, stride};
use super::par::{Parts, Shared};
use super::scratch::{Scratch, bytes_of};
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
