//! What a run may take of memory, and what that leaves for activations.
//!
//! Weights, moments, gradients, the sampler's plan and its KV cache have a size of their own; only a training pass can
//! do with less, by computing layers again in its backward pass. So the limit decides how many do. It changes the time
//! and no bit of a result. Tools run in processes of their own, which the limit does not see.

use toolsmith_models::batch::Objective;
use toolsmith_models::trainer::Activations;

use super::Error;
use super::live::LiveModel;

/// Bytes of this machine's memory, or of what a control group leaves of it, if that can be found out.
pub fn machine() -> Option<u64> {
    let read = |path| std::fs::read_to_string(path).ok();
    let kib = read("/proc/meminfo").and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    });
    let group = read("/sys/fs/cgroup/memory.max").and_then(|text| text.trim().parse().ok());
    kib.map(|kib| kib << 10).into_iter().chain(group).min()
}

/// What a stage takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Layers that compute their activations again in the backward pass, of the model in which most do.
    pub recomputed: usize,
    /// Layers of a model.
    pub layers: usize,
    /// Bytes in all.
    pub bytes: usize,
    /// Bytes it may take.
    pub limit: usize,
}

/// Compiles the passes of the models that learn in a stage, so that with `others` (bytes that have to be) they stay
/// within `limit`; `key` is what sets it.
///
/// # Errors
/// [`Error::Unfit`] if no choice does, with the least that would.
pub fn fit(
    limit: usize,
    others: usize,
    models: &mut [(&mut LiveModel, Objective)],
) -> Result<Footprint, Error> {
    let fixed = models.iter().map(|(model, _)| model.memory()).sum::<usize>() + others;
    let given = limit.saturating_sub(fixed) / models.len().max(1);
    let mut all = Footprint { recomputed: 0, layers: 0, bytes: fixed, limit };
    let mut least = fixed;
    for (model, objective) in models.iter_mut() {
        match model.prepare(objective, Activations::Within(given)) {
            Ok(one) => {
                all.recomputed = all.recomputed.max(one.recomputed);
                (all.layers, all.bytes) = (one.layers, all.bytes + one.bytes);
            }
            Err(Error::Model(toolsmith_models::Error::Memory { least: own, .. })) => least += own,
            Err(e) => return Err(e),
        }
    }
    if least > fixed {
        let least = least.max(fixed + models.len() * (least - fixed).div_ceil(models.len()));
        return Err(Error::Unfit(format!(
            "`run.memory_limit`: training takes at least {}, of which weights, moments, gradients and the sampler {}, and may take {}; \
             a smaller `rl.micro_batch_tokens` or `rollout.concurrency` takes less",
            gigabytes(least),
            gigabytes(fixed),
            gigabytes(limit),
        )));
    }
    Ok(all)
}

/// Bytes as a message has them.
pub fn gigabytes(bytes: usize) -> String {
    format!("{:.2} GB", bytes as f64 / 1e9)
}
