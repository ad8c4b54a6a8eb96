//! SwiGLU and the sums between layers.

use super::Operand;
use super::pack::Rounded;
use super::par::{self, Parts, Shared};
use super::simd::{L, Simd, exp, load, multiversion, store};

/// Defines a kernel of one output, `y[i] = body(x_0[i], x_1[i], ..)`, that does about `per_ns` elements a nanosecond, and what
/// it does to `n` numbers on one thread, where an output may be an input.
macro_rules! map {
    ($(#[$meta:meta])* $name:ident, $at:ident($($x:ident),+; $($c:ident),*) -> $y:ident, per_ns $ns:literal, $body:expr) => {
        multiversion! {
            pub(super) unsafe fn $at<S>($($x: *const f32,)+ $($c: f32,)* out: *mut f32, n: usize) {
                $(let $c = S::splat($c);)*
                let mut i = 0;
                while i < n {
                    let w = (n - i).min(L);
                    $(let $x = load::<S>($x.add(i), w);)+
                    store::<S>(out.add(i), w, $body);
                    i += L;
                }
            }
        }

        $(#[$meta])*
        pub fn $name($($x: &[f32],)+ $($c: f32,)* $y: &mut [f32]) {
            assert!($($x.len() == $y.len())&&+, concat!(stringify!($name), ": lengths do not match"));
            let out = Parts::new($y);
            par::ranges(out.len() / $ns, out.len(), 256, |r| {
                // SAFETY: equal lengths; tasks write different ranges.
                unsafe { $at($($x[r.clone()].as_ptr(),)+ $($c,)* out.get(r.clone()).as_mut_ptr(), r.len()) }
            });
        }
    };
}

#[inline(always)]
unsafe fn sigmoid<S: Simd>(x: S::F) -> S::F {
    // SAFETY: lane arithmetic.
    unsafe {
        let one = S::splat(1.0);
        S::div(one, S::add(one, exp::<S>(S::sub(S::splat(0.0), x))))
    }
}

map! {
    /// `y = silu(gate) · up`, with `silu(x) = x / (1 + e^-x)` (Shazeer, arXiv 2002.05202).
    swiglu, swiglu_at(gate, up;) -> y, per_ns 2, S::mul(S::mul(gate, sigmoid::<S>(gate)), up)
}

map! {
    /// `y = a + b`.
    add, add_at(a, b;) -> y, per_ns 8, S::add(a, b)
}

map! {
    /// `y = e^x`, within 2 ulp; the same bits wherever in the slice a value stands.
    exp_slice, exp_slice_at(x;) -> y, per_ns 3, exp::<S>(x)
}

map! {
    /// `y = c · x`.
    scale, scale_at(x; c) -> y, per_ns 10, S::mul(c, x)
}

multiversion! {
    unsafe fn accumulate<S>(y: *mut f32, x: *const f32, n: usize) {
        let mut i = 0;
        while i < n {
            let w = (n - i).min(L);
            let sum = S::add(load::<S>(y.add(i), w), load::<S>(x.add(i), w));
            store::<S>(y.add(i), w, sum);
            i += L;
        }
    }
}

/// `y += x`.
pub fn add_assign(y: &mut [f32], x: &[f32]) {
    assert_eq!(x.len(), y.len(), "add_assign: lengths do not match");
    let y = Parts::new(y);
    par::ranges(x.len() / 8, x.len(), 256, |r| {
        // SAFETY: equal lengths; tasks write different ranges.
        unsafe { accumulate(y.get(r.clone()).as_mut_ptr(), x[r.clone()].as_ptr(), r.len()) }
    });
}

/// Gradients of the gate and of `up` for the gradient `d` of SwiGLU's output.
#[inline(always)]
unsafe fn slopes<S: Simd>(gate: S::F, up: S::F, d: S::F) -> (S::F, S::F) {
    // SAFETY: lane arithmetic.
    unsafe {
        // silu' = sig (1 + g (1 - sig)), with 1 - sig = e sig free of cancellation and of ∞ · 0.
        let one = S::splat(1.0);
        let e = exp::<S>(S::min(S::splat(80.0), S::sub(S::splat(0.0), gate)));
        let sig = S::div(one, S::add(one, e));
        let silu = S::mul(gate, sig);
        let slope = S::mul(sig, S::fma(silu, e, one));
        (S::mul(d, S::mul(up, slope)), S::mul(d, silu))
    }
}

multiversion! {
    /// Both gradients, rounded, for the rows `r0..r1` of gate, up and the output's gradient.
    pub(super) unsafe fn swiglu_rounded<S>(from: &[*const f32; 3], r0: usize, r1: usize, dgate: &Rounded, dup: &Rounded) {
        let ([gate, up, dy], n) = (*from, dgate.n);
        for r in r0..r1 {
            let mut c = 0;
            while c < n {
                let (at, w) = (r * n + c, (n - c).min(L));
                let (g, u) = (load::<S>(gate.add(at), w), load::<S>(up.add(at), w));
                let (dg, du) = slopes::<S>(g, u, load::<S>(dy.add(at), w));
                dgate.put::<S>(r, c, dg);
                dup.put::<S>(r, c, du);
                c += L;
            }
        }
    }
}

multiversion! {
    unsafe fn swiglu_gradients<S>(
        gate: *const f32, up: *const f32, dy: *const f32, dgate: *mut f32, dup: *mut f32, n: usize,
    ) {
        let mut i = 0;
        while i < n {
            let w = (n - i).min(L);
            let (g, u, d) = (load::<S>(gate.add(i), w), load::<S>(up.add(i), w), load::<S>(dy.add(i), w));
            let (dg, du) = slopes::<S>(g, u, d);
            store::<S>(dgate.add(i), w, dg);
            store::<S>(dup.add(i), w, du);
            i += L;
        }
    }
}

/// Gradients of [`swiglu`], both replaced; `dgate` may be what holds the gate, `dup` what holds up.
pub fn swiglu_backward(gate: Operand, up: Operand, dy: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
    let n = dy.len();
    assert!([dgate.len(), dup.len()] == [n; 2], "swiglu_backward: lengths do not match");
    let (gate, up) = (Shared(gate.pointer(dgate)), Shared(up.pointer(dup)));
    let (dgate, dup) = (Parts::new(dgate), Parts::new(dup));
    par::ranges(n / 2, n, 256, |r| {
        // SAFETY: equal lengths; tasks write different ranges.
        unsafe {
            let (dg, du) = (dgate.as_ptr().add(r.start), dup.as_ptr().add(r.start));
            let at = |x: Shared<f32>| x.get().add(r.start);
            swiglu_gradients(at(gate), at(up), dy[r.clone()].as_ptr(), dg, du, r.len())
        }
    });
}
