//! [`Simd`] on AVX2 with FMA: two `ymm` registers a vector, bf16 products by widening.

use super::{L, Simd};
use std::arch::x86_64::*;
use std::array::from_fn;

/// Two `ymm` registers.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Avx2;

type F = [__m256; 2];
type I = [__m256i; 2];

macro_rules! both {
    ($op:ident, $a:expr, $b:expr) => {
        unsafe { [$op($a[0], $b[0]), $op($a[1], $b[1])] }
    };
}

/// Rounds 8 lanes to bf16 (nearest even), kept in the upper half of each lane, lower half zero.
#[inline(always)]
unsafe fn round_bf16(x: __m256) -> __m256i {
    unsafe {
        let bits = _mm256_castps_si256(x);
        let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
        let up = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
        let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(x, x));
        let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
        let r = _mm256_blendv_epi8(up, quiet, nan);
        _mm256_and_si256(r, _mm256_set1_epi32(0xffff_0000u32 as i32))
    }
}

// The helpers are functions, not closures: a closure would be compiled without the features and call each intrinsic.

/// The upper halves of `a` below those of `b`.
#[inline(always)]
unsafe fn pair(a: __m256i, b: __m256i) -> __m256i {
    unsafe { _mm256_blend_epi16::<0xaa>(_mm256_srli_epi32::<16>(a), b) }
}

/// `a * 2^n` in two steps, so that 2^n may lie outside the normal range.
#[inline(always)]
unsafe fn scale2(a: __m256, n: __m256) -> __m256 {
    unsafe {
        let n = _mm256_cvtps_epi32(n);
        let half = _mm256_srai_epi32::<1>(n);
        let bias = _mm256_set1_epi32(127);
        let first = _mm256_slli_epi32::<23>(_mm256_add_epi32(half, bias));
        let second = _mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_sub_epi32(n, half), bias));
        _mm256_mul_ps(_mm256_mul_ps(a, _mm256_castsi256_ps(first)), _mm256_castsi256_ps(second))
    }
}

/// All ones in the lanes `base..base + 8` that are below `n`.
#[inline(always)]
unsafe fn below(n: usize, base: i32) -> __m256 {
    unsafe {
        let lane = _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(base));
        _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32), lane))
    }
}

#[inline(always)]
unsafe fn widen(p: *const u16) -> __m256 {
    unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast())))) }
}

#[inline(always)]
unsafe fn dot2(acc: __m256, a: __m256i, b: __m256i) -> __m256 {
    unsafe {
        let mask = _mm256_set1_epi32(0xffff_0000u32 as i32);
        let (ah, bh) = (_mm256_and_si256(a, mask), _mm256_and_si256(b, mask));
        let (al, bl) = (_mm256_slli_epi32::<16>(a), _mm256_slli_epi32::<16>(b));
        let acc = _mm256_fmadd_ps(_mm256_castsi256_ps(ah), _mm256_castsi256_ps(bh), acc);
        _mm256_fmadd_ps(_mm256_castsi256_ps(al), _mm256_castsi256_ps(bl), acc)
    }
}

// SAFETY: used only after detection of avx2 and fma; pointers are the caller's.
unsafe impl Simd for Avx2 {
    type F = F;
    type I = I;
    const ROWS: usize = 3;
    const OUTER: (usize, usize) = (4, 1);

    #[inline(always)]
    unsafe fn splat(x: f32) -> F {
        unsafe { [_mm256_set1_ps(x); 2] }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> F {
        unsafe { [_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))] }
    }
    #[inline(always)]
    unsafe fn load_n(p: *const f32, n: usize) -> F {
        let x: [f32; L] = from_fn(|i| if i < n { unsafe { p.add(i).read() } } else { 0.0 });
        unsafe { Self::load(x.as_ptr()) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, x: F) {
        unsafe {
            _mm256_storeu_ps(p, x[0]);
            _mm256_storeu_ps(p.add(8), x[1]);
        }
    }
    #[inline(always)]
    unsafe fn store_n(p: *mut f32, n: usize, x: F) {
        unsafe {
            let mut t = [0.0; L];
            Self::store(t.as_mut_ptr(), x);
            for (i, t) in t.into_iter().enumerate().take(n) {
                p.add(i).write(t);
            }
        }
    }
    #[inline(always)]
    unsafe fn add(a: F, b: F) -> F {
        both!(_mm256_add_ps, a, b)
    }
    #[inline(always)]
    unsafe fn sub(a: F, b: F) -> F {
        both!(_mm256_sub_ps, a, b)
    }
    #[inline(always)]
    unsafe fn mul(a: F, b: F) -> F {
        both!(_mm256_mul_ps, a, b)
    }
    #[inline(always)]
    unsafe fn div(a: F, b: F) -> F {
        both!(_mm256_div_ps, a, b)
    }
    #[inline(always)]
    unsafe fn fma(a: F, b: F, c: F) -> F {
        unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
    }
    #[inline(always)]
    unsafe fn max(a: F, b: F) -> F {
        both!(_mm256_max_ps, a, b)
    }
    #[inline(always)]
    unsafe fn min(a: F, b: F) -> F {
        both!(_mm256_min_ps, a, b)
    }
    #[inline(always)]
    unsafe fn round(a: F) -> F {
        const MODE: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        unsafe { [_mm256_round_ps::<MODE>(a[0]), _mm256_round_ps::<MODE>(a[1])] }
    }
    #[inline(always)]
    unsafe fn scale2(a: F, n: F) -> F {
        unsafe { [scale2(a[0], n[0]), scale2(a[1], n[1])] }
    }
    #[inline(always)]
    unsafe fn keep(n: usize, a: F, b: F) -> F {
        unsafe { [_mm256_blendv_ps(b[0], a[0], below(n, 0)), _mm256_blendv_ps(b[1], a[1], below(n, 8))] }
    }
    #[inline(always)]
    unsafe fn sums(x: [F; 16]) -> F {
        unsafe {
            let mut out = [0.0; L];
            for (i, out) in out.iter_mut().enumerate() {
                *out = Self::sum(x[4 * (i % 4) + i / 4]);
            }
            Self::load(out.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn sum(x: F) -> f32 {
        unsafe {
            let h = _mm256_add_ps(x[0], x[1]);
            let q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps::<1>(h));
            let p = _mm_add_ps(q, _mm_movehdup_ps(q));
            _mm_cvtss_f32(_mm_add_ss(p, _mm_movehl_ps(p, p)))
        }
    }
    #[inline(always)]
    unsafe fn max_lane(x: F) -> f32 {
        unsafe {
            let h = _mm256_max_ps(x[0], x[1]);
            let q = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps::<1>(h));
            let p = _mm_max_ps(q, _mm_movehdup_ps(q));
            _mm_cvtss_f32(_mm_max_ss(p, _mm_movehl_ps(p, p)))
        }
    }

    #[inline(always)]
    unsafe fn load_i(p: *const u32) -> I {
        unsafe { [_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(8).cast())] }
    }
    #[inline(always)]
    unsafe fn load_i_n(p: *const u32, n: usize) -> I {
        let x: [u32; L] = from_fn(|i| if i < n { unsafe { p.add(i).read_unaligned() } } else { 0 });
        unsafe { Self::load_i(x.as_ptr()) }
    }
    #[inline(always)]
    unsafe fn load_h_n(p: *const u16, n: usize) -> I {
        let x: [u16; 2 * L] = from_fn(|i| if i < n { unsafe { p.add(i).read() } } else { 0 });
        unsafe { Self::load_i(x.as_ptr().cast()) }
    }
    #[inline(always)]
    unsafe fn store_i(p: *mut u32, x: I) {
        unsafe {
            _mm256_storeu_si256(p.cast(), x[0]);
            _mm256_storeu_si256(p.add(8).cast(), x[1]);
        }
    }
    #[inline(always)]
    unsafe fn splat_i(x: u32) -> I {
        unsafe { [_mm256_set1_epi32(x as i32); 2] }
    }
    #[inline(always)]
    unsafe fn as_f(x: I) -> F {
        unsafe { [_mm256_castsi256_ps(x[0]), _mm256_castsi256_ps(x[1])] }
    }
    #[inline(always)]
    unsafe fn as_i(x: F) -> I {
        unsafe { [_mm256_castps_si256(x[0]), _mm256_castps_si256(x[1])] }
    }
    #[inline(always)]
    unsafe fn transpose(x: [I; 16]) -> [I; 16] {
        unsafe {
            let mut rows = [[0u32; L]; L];
            for (row, x) in rows.iter_mut().zip(x) {
                Self::store_i(row.as_mut_ptr(), x);
            }
            from_fn(|i| {
                let column: [u32; L] = from_fn(|j| rows[j][i]);
                Self::load_i(column.as_ptr())
            })
        }
    }
    #[inline(always)]
    unsafe fn dot2(acc: F, a: I, b: I) -> F {
        unsafe { [dot2(acc[0], a[0], b[0]), dot2(acc[1], a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> F {
        unsafe { [widen(p), widen(p.add(8))] }
    }
    #[inline(always)]
    unsafe fn load_bf16_n(p: *const u16, n: usize) -> F {
        let x: [u16; L] = from_fn(|i| if i < n { unsafe { p.add(i).read() } } else { 0 });
        unsafe { Self::load_bf16(x.as_ptr()) }
    }
    #[inline(always)]
    unsafe fn store_bf16(p: *mut u16, x: F) {
        unsafe {
            let lo = _mm256_srli_epi32::<16>(round_bf16(x[0]));
            let packed = _mm256_packus_epi32(lo, _mm256_srli_epi32::<16>(round_bf16(x[1])));
            _mm256_storeu_si256(p.cast(), _mm256_permute4x64_epi64::<0xd8>(packed));
        }
    }
    #[inline(always)]
    unsafe fn store_bf16_n(p: *mut u16, n: usize, x: F) {
        unsafe {
            let mut t = [0u16; L];
            Self::store_bf16(t.as_mut_ptr(), x);
            for (i, t) in t.into_iter().enumerate().take(n) {
                p.add(i).write(t);
            }
        }
    }
    #[inline(always)]
    unsafe fn pair_bf16(a: F, b: F) -> I {
        unsafe { [pair(round_bf16(a[0]), round_bf16(b[0])), pair(round_bf16(a[1]), round_bf16(b[1]))] }
    }
    #[inline(always)]
    unsafe fn pair_high(a: F, b: F) -> I {
        unsafe {
            let [a0, a1] = Self::as_i(a);
            let [b0, b1] = Self::as_i(b);
            [pair(a0, b0), pair(a1, b1)]
        }
    }
    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[inline(always)]
    unsafe fn prefetch_far(p: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }
}
