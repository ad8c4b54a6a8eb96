//! Log-softmax of one row of logits, in fixed blocks, with an online maximum.
//!
//! The sampler on whole rows and the trainer on pieces of them go through [`Denominator`] block by block, so
//! their log-probabilities are the same bits.

use super::simd::{L, Simd, exp, load, multiversion, store};

/// Logits in a block.
pub(super) const BLOCK: usize = 1024;

/// `max`, `Σ e^(x − max)` and `Σ e^(x − max) (x − max)` of the logits seen so far, `x` scaled by the inverse temperature.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Denominator {
    pub max: f32,
    pub sum: f32,
    weighted: f32,
}

impl Denominator {
    pub const EMPTY: Denominator = Denominator { max: f32::MIN, sum: 0.0, weighted: 0.0 };

    /// Adds the next block of at most [`BLOCK`] logits; all but the last must be full.
    pub fn push(&mut self, block: &[f32], inv_temperature: f32, entropy: bool) {
        self.merge(Denominator::of(block, inv_temperature, entropy), entropy);
    }

    /// Of a block alone.
    pub fn of(block: &[f32], inv_temperature: f32, entropy: bool) -> Denominator {
        debug_assert!(block.len() <= BLOCK);
        let mut own = Denominator::EMPTY;
        // SAFETY: the pointer holds as many values as said.
        unsafe { block_sums(block.as_ptr(), block.len(), inv_temperature, entropy, &mut own) };
        own
    }

    /// Adds the next block.
    pub fn merge(&mut self, mut own: Denominator, entropy: bool) {
        if own.max > self.max {
            std::mem::swap(self, &mut own);
        }
        // A block of −∞ only has no sum to add.
        let gap = own.max - self.max;
        let shrink = scalar_exp(gap);
        self.sum += own.sum * shrink;
        if entropy && own.sum > 0.0 {
            self.weighted += shrink * (own.weighted + gap * own.sum);
        }
    }

    /// Log of the sum of exponentials.
    pub fn log(&self) -> f32 {
        self.max + (self.sum as f64).ln() as f32
    }

    /// Entropy in nats.
    pub fn entropy(&self) -> f32 {
        (self.sum as f64).ln() as f32 - self.weighted / self.sum
    }
}

multiversion! {
    unsafe fn exp_of<S>(x: f32) -> f32 {
        let mut y = 0.0;
        S::store_n(&mut y, 1, exp::<S>(S::splat(x)));
        y
    }
}

fn scalar_exp(x: f32) -> f32 {
    // SAFETY: no pointers.
    unsafe { exp_of(x) }
}

/// Scaled logits `i..i + 16` of `n`, −∞ beyond the end.
#[inline(always)]
unsafe fn logits<S: Simd>(x: *const f32, i: usize, n: usize, scale: S::F) -> S::F {
    // SAFETY: `x` holds `n` values.
    unsafe {
        if i + L <= n {
            S::mul(S::load(x.add(i)), scale)
        } else {
            S::keep(n - i, S::mul(S::load_n(x.add(i), n - i), scale), S::splat(f32::NEG_INFINITY))
        }
    }
}

#[inline(always)]
unsafe fn total<S: Simd>(x: [S::F; 4]) -> f32 {
    // SAFETY: lane arithmetic.
    unsafe { S::sum(S::add(S::add(x[0], x[1]), S::add(x[2], x[3]))) }
}

multiversion! {
    unsafe fn block_sums<S>(x: *const f32, n: usize, inv_temperature: f32, entropy: bool, out: &mut Denominator) {
        let scale = S::splat(inv_temperature);
        let low = S::splat(f32::MIN);
        let mut top = [low; 4];
        for i in (0..n).step_by(L) {
            let slot = &mut top[i / L % 4];
            *slot = S::max(logits::<S>(x, i, n, scale), *slot);
        }
        let max = S::max_lane(S::max(S::max(top[0], top[1]), S::max(top[2], top[3])));
        let m = S::splat(max);
        let (mut sum, mut weighted) = ([S::splat(0.0); 4], [S::splat(0.0); 4]);
        for i in (0..n).step_by(L) {
            // Clamped so that 0 · −∞ cannot arise.
            let gap = S::max(S::splat(-1e30), S::sub(logits::<S>(x, i, n, scale), m));
            let e = exp::<S>(gap);
            let slot = i / L % 4;
            sum[slot] = S::add(sum[slot], e);
            if entropy {
                weighted[slot] = S::fma(e, gap, weighted[slot]);
            }
        }
        *out = Denominator { max, sum: total::<S>(sum), weighted: total::<S>(weighted) };
    }
}

fn denominator(row: &[f32], inv_temperature: f32, entropy: bool) -> Denominator {
    let mut d = Denominator::EMPTY;
    row.chunks(BLOCK).for_each(|block| d.push(block, inv_temperature, entropy));
    d
}

/// `ln Σ e^(x · inv_temperature)` over a row of logits.
pub fn logsumexp(row: &[f32], inv_temperature: f32) -> f32 {
    denominator(row, inv_temperature, false).log()
}

/// Log-probability of a token: its scaled logit minus [`logsumexp`].
pub fn token_logprob_of(row: &[f32], token: u32, inv_temperature: f32) -> f32 {
    row[token as usize] * inv_temperature - logsumexp(row, inv_temperature)
}

/// Entropy, in nats, of the softmax of a row of logits.
pub fn entropy(row: &[f32], inv_temperature: f32) -> f32 {
    denominator(row, inv_temperature, true).entropy()
}

/// What turns a row's logits into their gradients.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowGradient {
    pub lse: f32,
    pub inv_temperature: f32,
    /// Gradient of the target's log-probability.
    pub dlogprob: f32,
    /// Gradient of the entropy, and the entropy.
    pub dentropy: f32,
    pub entropy: f32,
}

multiversion! {
    /// Replaces logits by their gradients, `T⁻¹ (−p (dlogprob + dentropy (ln p + H)))`; the target's `+ T⁻¹ dlogprob` is left to the caller.
    pub(super) unsafe fn logit_gradients<S>(x: *mut f32, n: usize, g: &RowGradient) {
        let (scale, lse) = (S::splat(g.inv_temperature), S::splat(g.lse));
        let (dl, de) = (S::splat(-g.dlogprob * g.inv_temperature), S::splat(-g.dentropy * g.inv_temperature));
        let h = S::splat(g.entropy);
        for i in (0..n).step_by(L) {
            let w = (n - i).min(L);
            let logp = S::sub(S::mul(load::<S>(x.add(i), w), scale), lse);
            let logp = S::max(S::splat(-1e30), logp);
            let slope = S::fma(de, S::add(logp, h), dl);
            store::<S>(x.add(i), w, S::mul(exp::<S>(logp), slope));
        }
    }
}
