//! [`Simd`] on AVX-512: with BF16 dot products (Zen 4 and later, Cooper Lake and later), or by widening (Skylake-X, Ice Lake).

use super::Simd;
use std::arch::x86_64::*;
use std::mem::transmute;

/// One `zmm` register. `BF16`: the processor multiplies and rounds bf16 itself.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Avx512<const BF16: bool>;

/// Upper halves of each lane.
const HIGH: i32 = 0xffff_0000u32 as i32;

/// Rounds to bf16 (nearest even), kept in the upper half of each lane; the lower half is anything.
#[inline(always)]
unsafe fn rounded(x: __m512) -> __m512i {
    unsafe {
        let bits = _mm512_castps_si512(x);
        let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
        let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
        _mm512_mask_or_epi32(up, nan, bits, _mm512_set1_epi32(0x0040_0000))
    }
}

/// Sixteen bf16, rounded to nearest even.
#[inline(always)]
unsafe fn narrow<const BF16: bool>(x: __m512) -> __m256i {
    unsafe {
        match BF16 {
            true => transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(x)),
            false => _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(rounded(x))),
        }
    }
}

// The steps of `sums`: each adds parts of two vectors side by side, so that every sum is taken in the order of `sum`.
// Functions, not closures: a closure would be compiled without the features and call each intrinsic.

#[inline(always)]
unsafe fn half(a: __m512, b: __m512) -> __m512 {
    unsafe { _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0xee>(a, b)) }
}

#[inline(always)]
unsafe fn quarter(a: __m512, b: __m512) -> __m512 {
    unsafe { _mm512_add_ps(_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b)) }
}

#[inline(always)]
unsafe fn pair(a: __m512, b: __m512) -> __m512 {
    unsafe { _mm512_add_ps(_mm512_shuffle_ps::<0x88>(a, b), _mm512_shuffle_ps::<0xdd>(a, b)) }
}

#[inline(always)]
unsafe fn column(a: __m512, b: __m512, c: __m512, d: __m512) -> __m512 {
    unsafe { quarter(half(a, b), half(c, d)) }
}

/// `i` in both halves of lane `i`.
#[inline(always)]
unsafe fn lanes_twice() -> __m512i {
    unsafe {
        let lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
        _mm512_or_si512(lane, _mm512_slli_epi32::<16>(lane))
    }
}

#[inline(always)]
fn mask16(n: usize) -> u16 {
    ((1u32 << n) - 1) as u16
}

#[inline(always)]
fn mask32(n: usize) -> u32 {
    ((1u64 << n) - 1) as u32
}

// SAFETY: used only after detection of avx512f, bw, dq, vl, and bf16 if `BF16`; pointers are the caller's.
unsafe impl<const BF16: bool> Simd for Avx512<BF16> {
    type F = __m512;
    type I = __m512i;
    const ROWS: usize = 8;
    const OUTER: (usize, usize) = (8, 3);

    #[inline(always)]
    unsafe fn splat(x: f32) -> __m512 {
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn load_n(p: *const f32, n: usize) -> __m512 {
        unsafe { _mm512_maskz_loadu_ps(mask16(n), p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, x: __m512) {
        unsafe { _mm512_storeu_ps(p, x) }
    }
    #[inline(always)]
    unsafe fn store_n(p: *mut f32, n: usize, x: __m512) {
        unsafe { _mm512_mask_storeu_ps(p, mask16(n), x) }
    }
    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn round(a: __m512) -> __m512 {
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    unsafe fn scale2(a: __m512, n: __m512) -> __m512 {
        unsafe { _mm512_scalef_ps(a, n) }
    }
    #[inline(always)]
    unsafe fn keep(n: usize, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mask_mov_ps(b, mask16(n), a) }
    }
    #[inline(always)]
    unsafe fn sums(x: [__m512; 16]) -> __m512 {
        unsafe {
            let c0 = column(x[0], x[1], x[2], x[3]);
            let c1 = column(x[4], x[5], x[6], x[7]);
            let c2 = column(x[8], x[9], x[10], x[11]);
            let c3 = column(x[12], x[13], x[14], x[15]);
            pair(pair(c0, c1), pair(c2, c3))
        }
    }
    #[inline(always)]
    unsafe fn sum(x: __m512) -> f32 {
        unsafe {
            let h = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x));
            let q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps::<1>(h));
            let p = _mm_add_ps(q, _mm_movehdup_ps(q));
            _mm_cvtss_f32(_mm_add_ss(p, _mm_movehl_ps(p, p)))
        }
    }
    #[inline(always)]
    unsafe fn store_apart<const N: usize>(p: *mut f32, step: usize, x: __m512, first: usize) {
        unsafe {
            for i in 0..N {
                let quarter = match (first + i) / 4 {
                    0 => _mm512_castps512_ps128(x),
                    1 => _mm512_extractf32x4_ps::<1>(x),
                    2 => _mm512_extractf32x4_ps::<2>(x),
                    _ => _mm512_extractf32x4_ps::<3>(x),
                };
                let lane = match (first + i) % 4 {
                    0 => _mm_extract_ps::<0>(quarter),
                    1 => _mm_extract_ps::<1>(quarter),
                    2 => _mm_extract_ps::<2>(quarter),
                    _ => _mm_extract_ps::<3>(quarter),
                };
                p.add(i * step).cast::<i32>().write(lane);
            }
        }
    }
    #[inline(always)]
    unsafe fn max_lane(x: __m512) -> f32 {
        unsafe { _mm512_reduce_max_ps(x) }
    }

    #[inline(always)]
    unsafe fn load_i(p: *const u32) -> __m512i {
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn load_i_n(p: *const u32, n: usize) -> __m512i {
        unsafe { _mm512_maskz_loadu_epi32(mask16(n), p.cast()) }
    }
    #[inline(always)]
    unsafe fn load_h_n(p: *const u16, n: usize) -> __m512i {
        unsafe { _mm512_maskz_loadu_epi16(mask32(n), p.cast()) }
    }
    #[inline(always)]
    unsafe fn store_i(p: *mut u32, x: __m512i) {
        unsafe { _mm512_storeu_si512(p.cast(), x) }
    }
    #[inline(always)]
    unsafe fn splat_i(x: u32) -> __m512i {
        unsafe { _mm512_set1_epi32(x as i32) }
    }
    #[inline(always)]
    unsafe fn as_f(x: __m512i) -> __m512 {
        unsafe { _mm512_castsi512_ps(x) }
    }
    #[inline(always)]
    unsafe fn as_i(x: __m512) -> __m512i {
        unsafe { _mm512_castps_si512(x) }
    }
    #[inline(always)]
    unsafe fn transpose(x: [__m512i; 16]) -> [__m512i; 16] {
        unsafe {
            // Within 128-bit quarters first (4x4 blocks), then the quarters themselves.
            let mut t = x;
            for g in 0..4 {
                let [a, b, c, d] = [x[4 * g], x[4 * g + 1], x[4 * g + 2], x[4 * g + 3]];
                let (ab, ab2) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
                let (cd, cd2) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
                t[4 * g] = _mm512_unpacklo_epi64(ab, cd);
                t[4 * g + 1] = _mm512_unpackhi_epi64(ab, cd);
                t[4 * g + 2] = _mm512_unpacklo_epi64(ab2, cd2);
                t[4 * g + 3] = _mm512_unpackhi_epi64(ab2, cd2);
            }
            let mut y = t;
            for i in 0..4 {
                let [a, b, c, d] = [t[i], t[i + 4], t[i + 8], t[i + 12]];
                let lo = _mm512_shuffle_i32x4::<0x88>(a, b);
                let hi = _mm512_shuffle_i32x4::<0xdd>(a, b);
                let lo2 = _mm512_shuffle_i32x4::<0x88>(c, d);
                let hi2 = _mm512_shuffle_i32x4::<0xdd>(c, d);
                y[i] = _mm512_shuffle_i32x4::<0x88>(lo, lo2);
                y[i + 8] = _mm512_shuffle_i32x4::<0xdd>(lo, lo2);
                y[i + 4] = _mm512_shuffle_i32x4::<0x88>(hi, hi2);
                y[i + 12] = _mm512_shuffle_i32x4::<0xdd>(hi, hi2);
            }
            y
        }
    }
    #[inline(always)]
    unsafe fn dot2(acc: __m512, a: __m512i, b: __m512i) -> __m512 {
        unsafe {
            if BF16 {
                // SAFETY: same size, any bit pattern is valid.
                let (a, b) = (transmute::<__m512i, __m512bh>(a), transmute::<__m512i, __m512bh>(b));
                return _mm512_dpbf16_ps(acc, a, b);
            }
            let (ah, bh) =
                (_mm512_and_si512(a, _mm512_set1_epi32(HIGH)), _mm512_and_si512(b, _mm512_set1_epi32(HIGH)));
            let (al, bl) = (_mm512_slli_epi32::<16>(a), _mm512_slli_epi32::<16>(b));
            let acc = _mm512_fmadd_ps(Self::as_f(ah), Self::as_f(bh), acc);
            _mm512_fmadd_ps(Self::as_f(al), Self::as_f(bl), acc)
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> __m512 {
        unsafe {
            let x = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(x))
        }
    }
    #[inline(always)]
    unsafe fn load_bf16_n(p: *const u16, n: usize) -> __m512 {
        unsafe {
            let x = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask16(n), p.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(x))
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(p: *mut u16, x: __m512) {
        unsafe { _mm256_storeu_si256(p.cast(), narrow::<BF16>(x)) }
    }
    #[inline(always)]
    unsafe fn store_bf16_n(p: *mut u16, n: usize, x: __m512) {
        unsafe { _mm256_mask_storeu_epi16(p.cast(), mask16(n), narrow::<BF16>(x)) }
    }
    #[inline(always)]
    unsafe fn pair_bf16(a: __m512, b: __m512) -> __m512i {
        unsafe {
            if !BF16 {
                return Self::pair_high(Self::as_f(rounded(a)), Self::as_f(rounded(b)));
            }
            // Lane i of the interleaving: element i of the low half, then of the high half.
            let places = _mm512_add_epi32(_mm512_set1_epi32(0x0010_0000), lanes_twice());
            let both = transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(b, a));
            _mm512_permutexvar_epi16(places, both)
        }
    }
    #[inline(always)]
    unsafe fn join_bf16(a: __m512, b: __m512) -> __m512i {
        unsafe {
            if BF16 {
                return transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(b, a));
            }
            let low = _mm512_castsi256_si512(narrow::<BF16>(a));
            _mm512_inserti64x4::<1>(low, narrow::<BF16>(b))
        }
    }
    #[inline(always)]
    unsafe fn pair_high(a: __m512, b: __m512) -> __m512i {
        unsafe {
            let lo = _mm512_srli_epi32::<16>(_mm512_castps_si512(a));
            _mm512_mask_blend_epi16(0xaaaa_aaaa, lo, _mm512_castps_si512(b))
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
