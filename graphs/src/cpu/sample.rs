//! What a sampler needs of a row of logits, in vectors: the softmax block by block, its weights, and how far each
//! logit lies below the largest.
//!
//! The choice itself (draws, top-k, top-p) is the caller's, and so are its numbers: nothing here depends on threads.

use super::simd::{L, exp, load, multiversion, store};
use super::softmax::{BLOCK, Denominator};

/// The softmax of a row in blocks of [`Softmax::BLOCK`] logits, at an inverse temperature.
#[derive(Clone, Debug)]
pub struct Softmax {
    blocks: Vec<Denominator>,
    whole: Denominator,
}

impl Default for Softmax {
    fn default() -> Self {
        Softmax { blocks: Vec::new(), whole: Denominator::EMPTY }
    }
}

impl Softmax {
    /// Logits in a block; the last may have fewer.
    pub const BLOCK: usize = BLOCK;

    /// Reads a row, in the place of what was read before. `false` if the row has no finite maximum or holds a NaN.
    pub fn read(&mut self, row: &[f32], inv_temperature: f32) -> bool {
        self.blocks.clear();
        self.blocks.extend(row.chunks(BLOCK).map(|block| Denominator::of(block, inv_temperature, false)));
        self.whole = Denominator::EMPTY;
        self.blocks.iter().for_each(|&block| self.whole.merge(block, false));
        // An infinite or missing maximum leaves no sum, or one that is not a number.
        self.whole.sum > 0.0 && self.whole.max.is_finite()
    }

    /// `ln Σ e^(x · inv_temperature)`, the bits of [`logsumexp`](super::logsumexp).
    pub fn log_sum(&self) -> f32 {
        self.whole.log()
    }

    /// The largest logit, scaled.
    pub fn max(&self) -> f32 {
        self.whole.max
    }

    /// The largest logit of each block, scaled.
    pub fn maxima(&self) -> impl Iterator<Item = f32> + '_ {
        self.blocks.iter().map(|block| block.max)
    }

    /// `Σ e^(x · inv_temperature − max)` of each block.
    pub fn masses(&self) -> impl Iterator<Item = f64> + '_ {
        let max = f64::from(self.whole.max);
        self.blocks.iter().map(move |block| f64::from(block.sum) * (f64::from(block.max) - max).exp())
    }
}

/// `out = e^(x · inv_temperature − max)`.
///
/// # Panics
/// If the lengths differ.
pub fn softmax_weights(x: &[f32], inv_temperature: f32, max: f32, out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "softmax_weights: lengths do not match");
    // SAFETY: the pointers hold as many values as said.
    unsafe { weights(x.as_ptr(), out.as_mut_ptr(), x.len(), inv_temperature, max) }
}

multiversion! {
    unsafe fn weights<S>(x: *const f32, out: *mut f32, n: usize, inv_temperature: f32, max: f32) {
        let (scale, m) = (S::splat(inv_temperature), S::splat(max));
        for i in (0..n).step_by(L) {
            let w = (n - i).min(L);
            let gap = S::sub(S::mul(load::<S>(x.add(i), w), scale), m);
            store::<S>(out.add(i), w, exp::<S>(gap));
        }
    }
}

/// `out = ⌊16 (max − x · inv_temperature)⌉`, at most `most` (at most 2^20): equal logits share a bucket, and a larger
/// logit is never in a higher one.
///
/// # Panics
/// If the lengths differ.
pub fn softmax_buckets(x: &[f32], inv_temperature: f32, max: f32, most: u32, out: &mut [u32]) {
    assert_eq!(x.len(), out.len(), "softmax_buckets: lengths do not match");
    assert!(most <= 1 << 20, "softmax_buckets: {most} buckets");
    // SAFETY: the pointers hold as many values as said.
    unsafe { buckets(x.as_ptr(), out.as_mut_ptr().cast(), x.len(), inv_temperature, max, most as f32) };
    // The sum's low bits are the bucket.
    out.iter_mut().for_each(|bits| *bits &= (1 << 21) - 1);
}

/// A number to which adding another of up to 2^22 leaves the other's nearest integer in the low bits.
const SHIFT: f32 = 8_388_608.0;

multiversion! {
    unsafe fn buckets<S>(x: *const f32, out: *mut f32, n: usize, inv_temperature: f32, max: f32, most: f32) {
        let (scale, m) = (S::splat(inv_temperature), S::splat(max));
        for i in (0..n).step_by(L) {
            let w = (n - i).min(L);
            let gap = S::sub(m, S::mul(load::<S>(x.add(i), w), scale));
            let bucket = S::min(S::splat(most), S::mul(gap, S::splat(16.0)));
            store::<S>(out.add(i), w, S::add(bucket, S::splat(SHIFT)));
        }
    }
}
