//! How far a policy has moved from the one that sampled: what training reports beside the loss.

/// Sums over the tokens in the loss; each figure is a mean over them. f64, as diagnostics are not differentiated.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Drift {
    tokens: f64,
    ratio: f64,
    k1: f64,
    k3: f64,
    clipped: f64,
}

impl Drift {
    /// Counts a token: its log-probability now and when it was sampled, its advantage, and the clip range.
    pub fn add(&mut self, logprob: f32, old: f32, advantage: f32, [clip_low, clip_high]: [f32; 2]) {
        let delta = f64::from(logprob) - f64::from(old);
        let ratio = delta.exp();
        let clipped = ratio.clamp(1.0 - f64::from(clip_low), 1.0 + f64::from(clip_high));
        let gain = -f64::from(advantage);
        self.tokens += 1.0;
        self.ratio += ratio;
        self.k1 -= delta;
        self.k3 += ratio - 1.0 - delta;
        self.clipped += f64::from(u8::from(gain * clipped > gain * ratio));
    }

    /// Mean of ρ = π/π_old.
    pub fn ratio(&self) -> f64 {
        self.ratio / self.tokens
    }

    /// The k1 estimate of KL(π_old‖π): the mean of −log ρ.
    pub fn kl_k1(&self) -> f64 {
        self.k1 / self.tokens
    }

    /// The k3 estimate of KL(π_old‖π): the mean of ρ − 1 − log ρ, never negative.
    pub fn kl_k3(&self) -> f64 {
        self.k3 / self.tokens
    }

    /// Share of tokens whose loss the clip decides.
    pub fn clip_fraction(&self) -> f64 {
        self.clipped / self.tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_clip_decides_is_clipped() {
        let clip = [0.2, 0.2];
        let clipped = |logprob, advantage| {
            let mut drift = Drift::default();
            drift.add(logprob, -1.0, advantage, clip);
            drift.clip_fraction()
        };
        // Ratios of about 1.35, 1.0 and 0.74.
        assert_eq!([-0.7, -1.0, -1.3].map(|l| clipped(l, 1.0)), [1.0, 0.0, 0.0]);
        assert_eq!([-0.7, -1.0, -1.3].map(|l| clipped(l, -1.0)), [0.0, 0.0, 1.0]);
        assert_eq!(clipped(-0.7, 0.0), 0.0);
    }

    #[test]
    fn an_unmoved_policy_has_no_divergence() {
        let mut drift = Drift::default();
        drift.add(-0.5, -0.5, 1.0, [0.2, 0.2]);
        assert_eq!((drift.ratio(), drift.kl_k1(), drift.kl_k3()), (1.0, 0.0, 0.0));
    }
}
