//! Measuring a model on this machine: how fast each phase is, and how far from what memory and multipliers allow.
//!
//! [`run`] measures speeds, the walls between them; [`compare`](mod@compare) holds a report against an earlier one;
//! [`listing`] shows where the time of a compiled plan goes, [`svg`] draws that. Bytes and operations are what the plans'
//! kernels say of themselves ([`Work`]): each operand once, as if no cache held it.
//! Printing is [`cli`](crate::cli)'s.

use serde::{Deserialize, Serialize};
use toolsmith_graphs::ops::Work;
use toolsmith_models::Result;
use toolsmith_models::convert::ModelSource;
use toolsmith_models::weights::Precision;
use toolsmith_sandbox::bench::load_average;

use crate::config::Dtype;

pub mod compare;
pub mod listing;
pub mod machine;
mod subject;
pub mod svg;

use machine::{Machine, Probe, Walls};
pub use subject::{Inference, Phase, Training};

/// What is measured, and how often.
#[derive(Clone, Debug)]
pub struct Options {
    /// The phases.
    pub phases: Vec<Phase>,
    /// Rounds; each measures the walls and every phase once.
    pub repeat: usize,
    /// Precision of weights and matmul inputs.
    pub dtype: Dtype,
    /// Bytes that training may take, [`memory_limit`](crate::config::RunConfig::memory_limit)'s.
    pub memory_limit: usize,
}

/// A rate measured several times.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rate {
    /// Arithmetic mean.
    pub mean: f64,
    /// Standard deviation of the runs; 0 for one.
    pub sd: f64,
    /// Every run, in order.
    pub runs: Vec<f64>,
}

impl Rate {
    fn of(runs: Vec<f64>) -> Rate {
        let n = runs.len() as f64;
        let mean = runs.iter().sum::<f64>() / n;
        let square = runs.iter().map(|x| (x - mean).powi(2)).sum::<f64>();
        Rate { mean, sd: (square / (n - 1.0).max(1.0)).sqrt(), runs }
    }

    /// The median of the runs; of two in the middle, their mean.
    pub fn median(&self) -> f64 {
        let mut sorted = self.runs.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |i: usize| sorted.get(i).copied().unwrap_or(f64::NAN);
        (at(sorted.len().saturating_sub(1) / 2) + at(sorted.len() / 2)) / 2.0
    }
}

/// The walls, a value a round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes a second read from DRAM by all threads.
    pub dram_read: Rate,
    /// Operations a second of f32 fused multiply-adds.
    pub f32_fma: Rate,
    /// Operations a second of bf16 dot products, where the kernels' instruction set has them.
    pub bf16_dot: Option<Rate>,
}

/// One phase.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    /// Which.
    #[serde(flatten)]
    pub phase: Phase,
    /// Tokens a second over all sequences.
    pub tokens_per_second: Rate,
    /// Seconds of every run.
    pub seconds: Vec<f64>,
    /// Bytes that a run moves: every operand of every kernel once, as if no cache held it.
    pub bytes: u64,
    /// Operations of a run in products of bf16.
    pub bf16_flops: u64,
    /// All other operations of a run.
    pub f32_flops: u64,
    /// Bytes a second, divided by the measured [`Limits::dram_read`]; above 1 where caches hold operands.
    pub bandwidth_share: f64,
    /// The time that the operations would take at the measured peaks, divided by the time taken.
    pub peak_share: f64,
    /// Most bytes resident while the phase ran alone, mapped weights included; absent where the system cannot tell.
    pub peak_memory: Option<u64>,
}

/// Everything measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Where.
    #[serde(flatten)]
    pub machine: Machine,
    /// Load averages at the end.
    pub load_average_after: Vec<f64>,
    /// The model's parameters.
    pub parameters: usize,
    /// Precision of weights and matmul inputs.
    pub dtype: Dtype,
    /// The walls.
    pub limits: Limits,
    /// The phases, in the order asked.
    pub phases: Vec<Measured>,
}

/// Measures each phase alone once (memory, warm-up), then all of them in rounds, so that a drift of the machine hits all
/// alike. `progress` gets a fraction and what comes next.
///
/// # Errors
/// Weights that cannot be read, a full disk.
pub fn run(model: &ModelSource, options: &Options, mut progress: impl FnMut(f64, &str)) -> Result<Report> {
    let &Options { ref phases, repeat, dtype, memory_limit } = options;
    let precision = dtype.into();
    let machine = Machine::here();
    let total = (phases.len() * (repeat + 1) + repeat) as f64;
    let mut done = 0.0;
    let mut next = |what: &str| {
        progress(done / total, what);
        done += 1.0;
    };
    let mut alone = Vec::new();
    for &phase in phases {
        next(&format!("{}, alone", name(phase)));
        alone.push(once(model, phase, precision, memory_limit)?);
    }

    let mut inference = Inference::new(model, phases, precision)?;
    let train = phases.iter().find_map(|p| match *p {
        Phase::Train { sequences, tokens, prompt } => Some([sequences, tokens, prompt]),
        _ => None,
    });
    let mut training = train.map(|shape| Training::new(model, shape, precision, memory_limit)).transpose()?;
    if let Some(training) = &mut training {
        training.run()?; // compiles the optimizer
    }
    let probe = Probe::new();
    let mut walls: Vec<Walls> = Vec::new();
    let mut seconds = vec![Vec::new(); phases.len()];
    for round in 1..=repeat {
        next(&format!("memory and multipliers, {round} of {repeat}"));
        walls.push(probe.measure());
        for (&phase, seconds) in phases.iter().zip(&mut seconds) {
            next(&format!("{}, {round} of {repeat}", name(phase)));
            let time = match (phase, &mut training) {
                (Phase::Train { .. }, Some(training)) => training.run()?,
                _ => inference.run(phase)?,
            };
            seconds.push(time.as_secs_f64());
        }
    }
    let of =
        |rate: fn(&Walls) -> Option<f64>| walls.iter().map(rate).collect::<Option<Vec<_>>>().map(Rate::of);
    let limits = Limits {
        dram_read: of(|w| Some(w.read)).expect("every round measured it"),
        f32_fma: of(|w| Some(w.f32)).expect("every round measured it"),
        bf16_dot: of(|w| w.bf16),
    };
    let measured = phases.iter().zip(seconds).zip(alone);
    Ok(Report {
        machine,
        load_average_after: load_average(),
        parameters: model.config.param_specs().iter().map(|s| s.numel()).sum(),
        dtype,
        phases: measured.map(|((&p, seconds), alone)| shares(p, seconds, alone, &limits)).collect(),
        limits,
    })
}

/// What a phase is called: `prefill 512`, `decode 16 × 128 after 512`, `train 4 × 512`.
pub fn name(phase: Phase) -> String {
    match phase {
        Phase::Prefill { sequences: 1, tokens } => format!("prefill {tokens}"),
        Phase::Prefill { sequences, tokens } => format!("prefill {sequences} × {tokens}"),
        Phase::Decode { sequences, past, tokens } => format!("decode {sequences} × {tokens} after {past}"),
        Phase::Train { sequences, tokens, prompt: 0 } => format!("train {sequences} × {tokens}"),
        Phase::Train { sequences, tokens, prompt } => {
            format!("train {sequences} × {tokens}, prompt {prompt}")
        }
    }
}

/// Runs a phase with nothing else in memory: its work and its peak memory.
fn once(
    model: &ModelSource,
    phase: Phase,
    precision: Precision,
    memory_limit: usize,
) -> Result<(Work, Option<u64>)> {
    let reset = machine::reset_peak_memory;
    let (work, reset) = match phase {
        Phase::Train { sequences, tokens, prompt } => {
            let mut training = Training::new(model, [sequences, tokens, prompt], precision, memory_limit)?;
            let reset = reset();
            (training.work()?, reset)
        }
        phase => {
            let mut inference = Inference::new(model, &[phase], precision)?;
            let reset = reset();
            (inference.work(phase)?, reset)
        }
    };
    Ok((work, machine::peak_memory().filter(|_| reset)))
}

fn shares(phase: Phase, seconds: Vec<f64>, (work, memory): (Work, Option<u64>), limits: &Limits) -> Measured {
    let mean = seconds.iter().sum::<f64>() / seconds.len() as f64;
    let f32 = limits.f32_fma.mean;
    let bf16 = limits.bf16_dot.as_ref().map_or(f32, |r| r.mean);
    Measured {
        phase,
        tokens_per_second: Rate::of(seconds.iter().map(|s| phase.tokens() as f64 / s).collect()),
        bandwidth_share: work.bytes() as f64 / mean / limits.dram_read.mean,
        peak_share: (work.bf16_flops as f64 / bf16 + work.f32_flops as f64 / f32) / mean,
        seconds,
        bytes: work.bytes(),
        bf16_flops: work.bf16_flops,
        f32_flops: work.f32_flops,
        peak_memory: memory,
    }
}
