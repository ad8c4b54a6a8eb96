//! Losses over packed tokens, in primitives.
//!
//! Every argument is a vector `[t]`. `weights` holds the loss mask divided by the denominator of the whole
//! mini-batch: one graph serves every aggregation (`token-mean`, `seq-mean-token-sum`, …), and the gradient does not
//! depend on how a mini-batch was cut. Advantages, returns and their whitening are computed elsewhere.

use crate::tensor::Tensor;

/// Differences of log-probabilities are limited to ± this before they are exponentiated.
const MAX_LOG_RATIO: f32 = 20.0;

/// Constants of [`policy`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PolicyConstants {
    /// ε_low: the ratio is clipped from below at 1 − ε_low.
    pub clip_low: f32,
    /// ε_high: the ratio is clipped from above at 1 + ε_high.
    pub clip_high: f32,
    /// Dual clip c > 1 (arXiv 1912.09729): for A < 0 the loss is at most −A·c.
    pub dual_clip: Option<f32>,
    /// Weight of the k3 estimate of KL(π‖π_ref).
    pub kl_coef: f32,
}

/// `Σ w · (−ℓ)`: masked cross-entropy of log-probabilities ℓ. A scalar.
pub fn cross_entropy(logprobs: &Tensor, weights: &Tensor) -> Tensor {
    -(weights * logprobs).sum(0)
}

/// The clipped policy loss (PPO, arXiv 1707.06347, equation 7) with asymmetric clip (DAPO, arXiv 2503.14476) and dual clip:
/// `Σ w · [max(−Aρ, −A·clip(ρ, 1−ε_low, 1+ε_high)) + kl_coef · k3]` with `ρ = exp(ℓ − ℓ_old)` and
/// `k3 = exp(ℓ_ref − ℓ) − (ℓ_ref − ℓ) − 1`. A scalar.
///
/// `reference` is needed if `kl_coef` is not 0. At ρ = 1 the unclipped branch carries the gradient.
pub fn policy(
    logprobs: &Tensor,
    old: &Tensor,
    advantages: &Tensor,
    weights: &Tensor,
    reference: Option<&Tensor>,
    c: &PolicyConstants,
) -> Tensor {
    let ratio = (logprobs - old).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp();
    let gain = -advantages;
    let clipped = ratio.clamp(1.0 - c.clip_low, 1.0 + c.clip_high);
    let mut loss = (&gain * &ratio).max(&(&gain * clipped));
    if let Some(dual) = c.dual_clip {
        let negative = advantages.less_than(&advantages.graph().constant(0.0));
        loss = negative.select(&loss.min(&(gain * dual)), &loss);
    }
    if c.kl_coef != 0.0 {
        let reference = reference.expect("a KL penalty needs the reference's log-probabilities");
        let d = (reference - logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO);
        loss = loss + (d.exp() - d - 1.0) * c.kl_coef;
    }
    (weights * loss).sum(0)
}

/// The clipped value loss `Σ w · ½ max((V−R)², (clip(V, V_old ± ε) − R)²)`; unclipped without `clip`. A scalar.
pub fn value(values: &Tensor, old: &Tensor, returns: &Tensor, weights: &Tensor, clip: Option<f32>) -> Tensor {
    let mut loss = (values - returns).square();
    if let Some(range) = clip {
        let near = values.max(&(old - range)).min(&(old + range));
        loss = loss.max(&(near - returns).square());
    }
    (weights * loss).sum(0) * 0.5
}
