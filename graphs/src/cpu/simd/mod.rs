//! Sixteen f32 lanes on each instruction set, and the few operations kernels are written in.
//!
//! A kernel is one generic function over [`Simd`]; `multiversion!` compiles it for every [`Isa`] and
//! picks one at run time. Kernels keep vector operations out of closures: a closure that the compiler does not inline is compiled
//! without the features and calls each operation. Absent on purpose: lane counts other than 16, and any operation whose
//! result could depend on the lane it happens in.
//!
//! [`Isa`]: super::Isa

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

#[cfg(target_arch = "x86_64")]
pub(super) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(super) use avx512::Avx512;
pub(super) use portable::Portable;

/// Lanes of a vector.
pub(super) const L: usize = 16;

/// Sixteen lanes of f32 (`F`) or of 32 bits read as one f32 or as two bf16 (`I`).
///
/// # Safety
/// Every method needs a processor that has the implementor's instructions, and pointers valid for the
/// lanes they touch (no alignment needed). `multiversion!` establishes the first.
pub(super) unsafe trait Simd: Copy {
    type F: Copy;
    type I: Copy;
    /// Rows of a product's tile with two columns, such that its accumulators stay in registers: 8 or 3.
    const ROWS: usize;
    /// Rows and vectors of columns in a tile of outer products: 8 or 4, and at most 3.
    const OUTER: (usize, usize);

    unsafe fn splat(x: f32) -> Self::F;
    unsafe fn load(p: *const f32) -> Self::F;
    /// The first `n <= 16` lanes, the rest zero.
    unsafe fn load_n(p: *const f32, n: usize) -> Self::F;
    unsafe fn store(p: *mut f32, x: Self::F);
    unsafe fn store_n(p: *mut f32, n: usize, x: Self::F);
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, fused where the set has it.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The larger; `b` where either is NaN.
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    /// The smaller; `b` where either is NaN.
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F;
    /// Nearest integer, ties to even.
    unsafe fn round(a: Self::F) -> Self::F;
    /// `a * 2^n` for integral `-160 < n < 160`.
    unsafe fn scale2(a: Self::F, n: Self::F) -> Self::F;
    /// Lanes below `n` of `a`, the others of `b`.
    unsafe fn keep(n: usize, a: Self::F, b: Self::F) -> Self::F;
    /// The lanes of each of 16 vectors summed: lane `4 r + c` is the sum of `x[4 c + r]`.
    unsafe fn sums(x: [Self::F; 16]) -> Self::F;
    /// The sum of the lanes, in the order of [`sums`](Simd::sums).
    unsafe fn sum(x: Self::F) -> f32;
    unsafe fn max_lane(x: Self::F) -> f32;
    /// `N` lanes of `x` from lane `first` on, `step` values apart from `p` on. `first` is known when this is compiled.
    #[inline(always)]
    unsafe fn store_apart<const N: usize>(p: *mut f32, step: usize, x: Self::F, first: usize) {
        let mut lanes = [0.0; L];
        // SAFETY: lanes have room; the places are the caller's.
        unsafe {
            Self::store(lanes.as_mut_ptr(), x);
            for i in 0..N {
                *p.add(i * step) = lanes[first + i];
            }
        }
    }

    unsafe fn load_i(p: *const u32) -> Self::I;
    unsafe fn load_i_n(p: *const u32, n: usize) -> Self::I;
    /// The first `n <= 32` half-words, the rest zero.
    unsafe fn load_h_n(p: *const u16, n: usize) -> Self::I;
    unsafe fn store_i(p: *mut u32, x: Self::I);
    unsafe fn splat_i(x: u32) -> Self::I;
    unsafe fn as_f(x: Self::I) -> Self::F;
    unsafe fn as_i(x: Self::F) -> Self::I;
    /// Sixteen vectors as the rows of a matrix, transposed.
    unsafe fn transpose(x: [Self::I; 16]) -> [Self::I; 16];
    /// `acc + a[2i+1] b[2i+1] + a[2i] b[2i]` over bf16 pairs.
    unsafe fn dot2(acc: Self::F, a: Self::I, b: Self::I) -> Self::F;
    /// Sixteen bf16, widened.
    unsafe fn load_bf16(p: *const u16) -> Self::F;
    unsafe fn load_bf16_n(p: *const u16, n: usize) -> Self::F;
    /// Rounded to nearest, ties to even.
    unsafe fn store_bf16(p: *mut u16, x: Self::F);
    unsafe fn store_bf16_n(p: *mut u16, n: usize, x: Self::F);
    /// `(a, b)` rounded to bf16 and interleaved: lane `i` holds `a[i]` below `b[i]`.
    unsafe fn pair_bf16(a: Self::F, b: Self::F) -> Self::I;
    /// The lanes of `a`, then those of `b`, rounded to bf16.
    #[inline(always)]
    unsafe fn join_bf16(a: Self::F, b: Self::F) -> Self::I {
        let mut x = [0u32; L];
        // SAFETY: 32 bf16 have room.
        unsafe {
            Self::store_bf16(x.as_mut_ptr().cast(), a);
            Self::store_bf16(x.as_mut_ptr().cast::<u16>().add(L), b);
            Self::load_i(x.as_ptr())
        }
    }
    /// As `pair_bf16` for values that are bf16 already.
    unsafe fn pair_high(a: Self::F, b: Self::F) -> Self::I;
    /// Fetches the cache line of `p`, which may be any address.
    unsafe fn prefetch(p: *const u8);
    /// As `prefetch`, but only to the second-level cache.
    unsafe fn prefetch_far(p: *const u8);
}

/// Compiles `unsafe fn name<S: Simd, ..>(..)` for each instruction set and calls the current one.
macro_rules! multiversion {
    ($(#[$meta:meta])* $vis:vis unsafe fn $name:ident<S $(, $g:ident : $b:path)*>
     ($($a:ident : $t:ty),* $(,)?) $(-> $r:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis unsafe fn $name<$($g: $b),*>($($a: $t),*) $(-> $r)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            unsafe fn body<S: $crate::cpu::simd::Simd $(, $g: $b)*>($($a: $t),*) $(-> $r)? {
                // SAFETY: the caller keeps the contract of the multiversioned function.
                unsafe { $body }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            unsafe fn avx512<$($g: $b),*>($($a: $t),*) $(-> $r)? {
                // SAFETY: as above, with the features enabled.
                unsafe { body::<$crate::cpu::simd::Avx512<true> $(, $g)*>($($a),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            unsafe fn avx512_widening<$($g: $b),*>($($a: $t),*) $(-> $r)? {
                // SAFETY: as above, with the features enabled.
                unsafe { body::<$crate::cpu::simd::Avx512<false> $(, $g)*>($($a),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            unsafe fn avx2<$($g: $b),*>($($a: $t),*) $(-> $r)? {
                // SAFETY: as above, with the features enabled.
                unsafe { body::<$crate::cpu::simd::Avx2 $(, $g)*>($($a),*) }
            }
            // SAFETY: `Isa::current` names only sets this machine has.
            unsafe {
                match $crate::cpu::Isa::current() {
                    #[cfg(target_arch = "x86_64")]
                    $crate::cpu::Isa::Avx512Bf16 => avx512::<$($g),*>($($a),*),
                    #[cfg(target_arch = "x86_64")]
                    $crate::cpu::Isa::Avx512 => avx512_widening::<$($g),*>($($a),*),
                    #[cfg(target_arch = "x86_64")]
                    $crate::cpu::Isa::Avx2 => avx2::<$($g),*>($($a),*),
                    _ => body::<$crate::cpu::simd::Portable $(, $g)*>($($a),*),
                }
            }
        }
    };
}
pub(super) use multiversion;

/// A matrix element: f32, or bf16 taken in pairs. A *unit* is the 32 bits that hold one f32 or two bf16.
pub(super) trait Elem: Copy + Default + Send + Sync + 'static {
    /// Elements in a unit.
    const R: usize;
    /// Sixteen units starting at `p`, of which only the first `n` elements (`n <= 16 R`) are read.
    unsafe fn load_tail<S: Simd>(p: *const Self, n: usize) -> S::I;
    /// `acc + a * b`, unit by unit.
    unsafe fn mac<S: Simd>(acc: S::F, a: S::I, b: S::I) -> S::F;
    /// The first `n <= 16` elements, as f32.
    unsafe fn widen<S: Simd>(p: *const Self, n: usize) -> S::F;
    /// Stores the first `n <= 16` lanes, rounded to the element.
    unsafe fn narrow<S: Simd>(p: *mut Self, n: usize, x: S::F);
    /// Units of the elements of `a` and, where a unit holds two, those of `b` after them.
    unsafe fn unit<S: Simd>(a: S::F, b: S::F) -> S::I;
}

impl Elem for f32 {
    const R: usize = 1;
    #[inline(always)]
    unsafe fn load_tail<S: Simd>(p: *const Self, n: usize) -> S::I {
        unsafe { S::load_i_n(p.cast(), n) }
    }
    #[inline(always)]
    unsafe fn mac<S: Simd>(acc: S::F, a: S::I, b: S::I) -> S::F {
        unsafe { S::fma(S::as_f(a), S::as_f(b), acc) }
    }
    #[inline(always)]
    unsafe fn widen<S: Simd>(p: *const Self, n: usize) -> S::F {
        unsafe { if n == L { S::load(p) } else { S::load_n(p, n) } }
    }
    #[inline(always)]
    unsafe fn narrow<S: Simd>(p: *mut Self, n: usize, x: S::F) {
        unsafe { if n == L { S::store(p, x) } else { S::store_n(p, n, x) } }
    }
    #[inline(always)]
    unsafe fn unit<S: Simd>(a: S::F, _: S::F) -> S::I {
        unsafe { S::as_i(a) }
    }
}

impl Elem for half::bf16 {
    const R: usize = 2;
    #[inline(always)]
    unsafe fn load_tail<S: Simd>(p: *const Self, n: usize) -> S::I {
        unsafe { S::load_h_n(p.cast(), n) }
    }
    #[inline(always)]
    unsafe fn mac<S: Simd>(acc: S::F, a: S::I, b: S::I) -> S::F {
        unsafe { S::dot2(acc, a, b) }
    }
    #[inline(always)]
    unsafe fn widen<S: Simd>(p: *const Self, n: usize) -> S::F {
        unsafe { if n == L { S::load_bf16(p.cast()) } else { S::load_bf16_n(p.cast(), n) } }
    }
    #[inline(always)]
    unsafe fn narrow<S: Simd>(p: *mut Self, n: usize, x: S::F) {
        unsafe { if n == L { S::store_bf16(p.cast(), x) } else { S::store_bf16_n(p.cast(), n, x) } }
    }
    #[inline(always)]
    unsafe fn unit<S: Simd>(a: S::F, b: S::F) -> S::I {
        unsafe { S::pair_bf16(a, b) }
    }
}

/// The first `n <= 16` values at `p`, the rest zero.
#[inline(always)]
pub(super) unsafe fn load<S: Simd>(p: *const f32, n: usize) -> S::F {
    unsafe { <f32 as Elem>::widen::<S>(p, n) }
}

/// The first `n <= 16` lanes to `p`.
#[inline(always)]
pub(super) unsafe fn store<S: Simd>(p: *mut f32, n: usize, x: S::F) {
    unsafe { <f32 as Elem>::narrow::<S>(p, n, x) }
}

/// What [`Simd::sums`] gives, the sum of `x[i]` in lane `i`.
#[inline(always)]
pub(super) unsafe fn in_order<S: Simd>(sums: S::F) -> S::F {
    let (mut lanes, mut ordered) = ([0.0f32; L], [0.0f32; L]);
    // SAFETY: vectors have room.
    unsafe {
        S::store(lanes.as_mut_ptr(), sums);
        for (i, x) in ordered.iter_mut().enumerate() {
            *x = lanes[4 * (i % 4) + i / 4];
        }
        S::load(ordered.as_ptr())
    }
}

/// `e^x`: Cody–Waite reduction and a polynomial of degree 7 (the coefficients of Cephes `expf`),
/// within 2 ulp; exactly 0 below −104, infinite above 88.73, NaN for NaN.
#[inline(always)]
pub(super) unsafe fn exp<S: Simd>(x: S::F) -> S::F {
    unsafe {
        let x = S::min(S::splat(89.0), S::max(S::splat(-105.0), x));
        let n = S::round(S::mul(x, S::splat(std::f32::consts::LOG2_E)));
        let r = S::fma(n, S::splat(-0.693_359_4), x);
        let r = S::fma(n, S::splat(2.121_944_4e-4), r);
        let mut p = S::splat(1.987_569_1e-4);
        for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
            p = S::fma(p, r, S::splat(c));
        }
        let p = S::fma(p, S::mul(r, r), S::add(r, S::splat(1.0)));
        S::scale2(p, n)
    }
}

/// `2^x` for `x` up to 120: a polynomial of degree 6 on the fraction, within 2 ulp; exactly 1 at 0, exactly 0 below −151, NaN
/// for NaN. Ten operations to [`exp`]'s fifteen: what softmax is computed with.
#[inline(always)]
pub(super) unsafe fn exp2<S: Simd>(x: S::F) -> S::F {
    use std::f32::consts::LN_2;
    unsafe {
        let x = S::max(S::splat(-152.0), x);
        let n = S::round(x);
        let r = S::sub(x, n);
        let mut p = S::splat(1.545_316_3e-4);
        for c in [1.339_086_3e-3, 9.618_083e-3, 5.550_357e-2, 0.240_226_5, LN_2, 1.0] {
            p = S::fma(p, r, S::splat(c));
        }
        S::scale2(p, n)
    }
}
