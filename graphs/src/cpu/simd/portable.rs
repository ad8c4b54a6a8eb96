//! [`Simd`] in plain Rust: loops over arrays, for the compiler to vectorise as it can.

use super::{L, Simd};
use half::bf16;
use std::array::from_fn;

/// Sixteen lanes as an array. Products and sums are rounded one by one (no FMA).
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Portable;

type F = [f32; L];
type I = [u32; L];

#[inline(always)]
fn zip(a: F, b: F, f: impl Fn(f32, f32) -> f32) -> F {
    from_fn(|i| f(a[i], b[i]))
}

/// Round to nearest even as the hardware does, subnormals included.
#[inline(always)]
fn narrow(x: f32) -> u16 {
    bf16::from_f32(x).to_bits()
}

#[inline(always)]
fn widen(x: u16) -> f32 {
    f32::from_bits((x as u32) << 16)
}

// SAFETY: no special instructions; pointers are the caller's.
unsafe impl Simd for Portable {
    type F = F;
    type I = I;
    const ROWS: usize = 3;
    const OUTER: (usize, usize) = (4, 1);

    #[inline(always)]
    unsafe fn splat(x: f32) -> F {
        [x; L]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> F {
        unsafe { p.cast::<F>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_n(p: *const f32, n: usize) -> F {
        from_fn(|i| if i < n { unsafe { p.add(i).read() } } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, x: F) {
        unsafe { p.cast::<F>().write_unaligned(x) }
    }
    #[inline(always)]
    unsafe fn store_n(p: *mut f32, n: usize, x: F) {
        for (i, x) in x.into_iter().enumerate().take(n) {
            unsafe { p.add(i).write(x) }
        }
    }
    #[inline(always)]
    unsafe fn add(a: F, b: F) -> F {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(a: F, b: F) -> F {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(a: F, b: F) -> F {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(a: F, b: F) -> F {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn fma(a: F, b: F, c: F) -> F {
        from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn max(a: F, b: F) -> F {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn min(a: F, b: F) -> F {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    unsafe fn round(a: F) -> F {
        // Exact for |a| < 2^22, which is all `exp` asks for, and needs no library call.
        const MAGIC: f32 = 12_582_912.0;
        a.map(|a| (a + MAGIC) - MAGIC)
    }
    #[inline(always)]
    unsafe fn scale2(a: F, n: F) -> F {
        from_fn(|i| {
            let n = n[i] as i32;
            let pow = |n: i32| f32::from_bits(((n + 127) as u32) << 23);
            a[i] * pow(n >> 1) * pow(n - (n >> 1))
        })
    }
    #[inline(always)]
    unsafe fn keep(n: usize, a: F, b: F) -> F {
        from_fn(|i| if i < n { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn sums(x: [F; 16]) -> F {
        from_fn(|i| unsafe { Self::sum(x[4 * (i % 4) + i / 4]) })
    }
    #[inline(always)]
    unsafe fn sum(x: F) -> f32 {
        let h: [f32; 8] = from_fn(|i| x[i] + x[i + 8]);
        let q: [f32; 4] = from_fn(|i| h[i] + h[i + 4]);
        (q[0] + q[1]) + (q[2] + q[3])
    }
    #[inline(always)]
    unsafe fn max_lane(x: F) -> f32 {
        x.into_iter().fold(f32::NEG_INFINITY, |m, x| if m > x { m } else { x })
    }

    #[inline(always)]
    unsafe fn load_i(p: *const u32) -> I {
        unsafe { p.cast::<I>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_i_n(p: *const u32, n: usize) -> I {
        from_fn(|i| if i < n { unsafe { p.add(i).read_unaligned() } } else { 0 })
    }
    #[inline(always)]
    unsafe fn load_h_n(p: *const u16, n: usize) -> I {
        let h = |i: usize| if i < n { unsafe { p.add(i).read() as u32 } } else { 0 };
        from_fn(|i| h(2 * i) | h(2 * i + 1) << 16)
    }
    #[inline(always)]
    unsafe fn store_i(p: *mut u32, x: I) {
        unsafe { p.cast::<I>().write_unaligned(x) }
    }
    #[inline(always)]
    unsafe fn splat_i(x: u32) -> I {
        [x; L]
    }
    #[inline(always)]
    unsafe fn as_f(x: I) -> F {
        x.map(f32::from_bits)
    }
    #[inline(always)]
    unsafe fn as_i(x: F) -> I {
        x.map(f32::to_bits)
    }
    #[inline(always)]
    unsafe fn transpose(x: [I; 16]) -> [I; 16] {
        from_fn(|i| from_fn(|j| x[j][i]))
    }
    #[inline(always)]
    unsafe fn dot2(acc: F, a: I, b: I) -> F {
        let hi = |x: u32| f32::from_bits(x & 0xffff_0000);
        let lo = |x: u32| f32::from_bits(x << 16);
        from_fn(|i| acc[i] + hi(a[i]) * hi(b[i]) + lo(a[i]) * lo(b[i]))
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> F {
        unsafe { p.cast::<[u16; L]>().read_unaligned() }.map(widen)
    }
    #[inline(always)]
    unsafe fn load_bf16_n(p: *const u16, n: usize) -> F {
        from_fn(|i| if i < n { widen(unsafe { p.add(i).read() }) } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn store_bf16(p: *mut u16, x: F) {
        unsafe { p.cast::<[u16; L]>().write_unaligned(x.map(narrow)) }
    }
    #[inline(always)]
    unsafe fn store_bf16_n(p: *mut u16, n: usize, x: F) {
        for (i, x) in x.into_iter().enumerate().take(n) {
            unsafe { p.add(i).write(narrow(x)) }
        }
    }
    #[inline(always)]
    unsafe fn pair_bf16(a: F, b: F) -> I {
        from_fn(|i| narrow(a[i]) as u32 | (narrow(b[i]) as u32) << 16)
    }
    #[inline(always)]
    unsafe fn pair_high(a: F, b: F) -> I {
        from_fn(|i| a[i].to_bits() >> 16 | (b[i].to_bits() & 0xffff_0000))
    }
    #[inline(always)]
    unsafe fn prefetch(_: *const u8) {}
    #[inline(always)]
    unsafe fn prefetch_far(_: *const u8) {}
}
