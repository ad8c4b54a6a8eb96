//! Learning rates by step.

use crate::config::OptimizerConfig;

/// The learning rate of optimizer step `step` (from 0) of `total`: a linear rise over `warmup_ratio` of the
/// steps, then a cosine down to `min_lr_ratio` of the peak at the last step (arXiv 1608.03983); constant where that ratio is 1.
pub fn learning_rate(config: &OptimizerConfig, step: usize, total: usize) -> f32 {
    let peak = f64::from(config.learning_rate);
    let floor = f64::from(config.min_lr_ratio);
    let warmup = (f64::from(config.warmup_ratio) * total as f64).round() as usize;
    let factor = if step < warmup {
        (step + 1) as f64 / warmup as f64
    } else {
        let progress = ((step + 1 - warmup) as f64 / (total - warmup).max(1) as f64).min(1.0);
        floor + (1.0 - floor) * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
    };
    (peak * factor) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rises_then_falls_to_the_floor() {
        let config = OptimizerConfig {
            learning_rate: 2.0,
            warmup_ratio: 0.1,
            min_lr_ratio: 0.25,
            ..Default::default()
        };
        let rates: Vec<f32> = (0..100).map(|step| learning_rate(&config, step, 100)).collect();
        assert_eq!((rates[0], rates[9], rates[99]), (0.2, 2.0, 0.5));
        assert!(rates[..10].is_sorted() && rates[10..].is_sorted_by(|a, b| a > b));
    }

    #[test]
    fn stays_constant_without_warmup_and_floor() {
        let config = OptimizerConfig { learning_rate: 1e-6, ..Default::default() };
        assert!((0..7).all(|step| learning_rate(&config, step, 5) == 1e-6));
    }
}
