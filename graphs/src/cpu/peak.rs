//! How fast a core multiplies at best: chains of fused multiply-adds and of bf16 dot products that stay in registers.
//!
//! No kernel can be faster; what share of this one reaches is what benches report. Timing is the caller's.

use std::hint::black_box;

use super::isa::Isa;
use super::simd::{L, Simd, multiversion};

/// Runs `steps` rounds of independent fused multiply-adds on the calling thread, on the instruction set in use.
/// Returns the floating-point operations done.
pub fn fma_f32(steps: usize) -> u64 {
    // SAFETY: registers only.
    unsafe { chains_f32(steps) }
}

/// As [`fma_f32`] with dot products of bf16 pairs, summed in f32. `None` where the set in use has no such
/// instruction: products of bf16 are then bounded by f32's.
pub fn dot_bf16(steps: usize) -> Option<u64> {
    // SAFETY: registers only.
    (Isa::current() == Isa::Avx512Bf16).then(|| unsafe { chains_bf16(steps) })
}

multiversion! {
    unsafe fn chains_f32<S>(steps: usize) -> u64 {
        // Enough accumulators to hide an addition's latency, few enough to stay in the set's registers.
        if S::ROWS > 3 { chains::<S, 12, false>(steps) } else { chains::<S, 6, false>(steps) }
    }
}

multiversion! {
    unsafe fn chains_bf16<S>(steps: usize) -> u64 {
        chains::<S, 12, true>(steps)
    }
}

/// `N` accumulators, each added to in every step.
#[inline(always)]
unsafe fn chains<S: Simd, const N: usize, const BF16: bool>(steps: usize) -> u64 {
    // SAFETY: the caller runs on the set's processor; only `total` is touched in memory.
    unsafe {
        let (x, y) = (S::splat(black_box(1e-3)), S::splat(black_box(1.001)));
        let pair = S::pair_bf16(x, y);
        let mut sums = [S::splat(0.0); N];
        for _ in 0..steps {
            for sum in &mut sums {
                *sum = if BF16 { S::dot2(*sum, pair, pair) } else { S::fma(*sum, x, y) };
            }
        }
        let total = sums.into_iter().reduce(|a, b| S::add(a, b)).expect("there are accumulators");
        black_box(S::sum(total));
        (steps * N * L * if BF16 { 4 } else { 2 }) as u64
    }
}
