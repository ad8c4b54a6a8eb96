//! What the machine can do at most, and what it is: the walls that speeds are held against.

use std::fs;
use std::hint::black_box;
use std::time::Instant;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use toolsmith_graphs::cpu::{Isa, dot_bf16, fma_f32};
use toolsmith_sandbox::bench::load_average;

/// Bytes read to measure memory: far beyond any cache.
const READ: usize = 512 << 20;
/// Seconds that the longest run of a multiplication peak takes at least.
const CHAIN: f64 = 0.05;

/// The machine and the program, as a report names them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    /// Version of this program.
    pub version: String,
    /// Name of the processor.
    pub cpu: String,
    /// Its instruction-set flags as the operating system lists them.
    pub cpu_flags: Vec<String>,
    /// Instruction set the kernels run on.
    pub kernels: String,
    /// Threads the kernels run on.
    pub threads: usize,
    /// Load averages over 1, 5 and 15 minutes when this was asked.
    pub load_average: Vec<f64>,
}

impl Machine {
    /// This machine, now, in the calling thread's pool.
    pub fn here() -> Machine {
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |names: &[&str]| {
            let fields = info.lines().filter_map(|l| l.split_once(':'));
            let mut found = fields.filter(|(name, _)| names.contains(&name.trim()));
            found.next().map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
        };
        Machine {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cpu: field(&["model name", "Model"]),
            cpu_flags: field(&["flags", "Features"]).split_whitespace().map(str::to_owned).collect(),
            kernels: Isa::current().name().to_owned(),
            threads: rayon::current_num_threads(),
            load_average: load_average(),
        }
    }
}

/// Measures the walls, on all threads of the calling thread's pool.
pub struct Probe {
    data: Vec<u64>,
}

/// The walls once measured.
#[derive(Clone, Copy, Debug)]
pub struct Walls {
    /// Bytes a second read from DRAM.
    pub read: f64,
    /// Operations a second of f32 fused multiply-adds.
    pub f32: f64,
    /// Operations a second of bf16 dot products; `None` where the instruction set in use has none.
    pub bf16: Option<f64>,
}

impl Probe {
    /// Takes 512 MiB to read.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Probe {
        Probe { data: vec![1; READ / size_of::<u64>()] }
    }

    /// Measures once, in about a quarter of a second on a quiet machine.
    pub fn measure(&self) -> Walls {
        Walls { read: self.read(), f32: peak(|n| Some(fma_f32(n))).unwrap_or(0.0), bf16: peak(dot_bf16) }
    }

    /// The best of three readings; eight streams a thread, since one does not fill a core's queues.
    fn read(&self) -> f64 {
        let read = |part: &[u64]| {
            let streams: Vec<&[[u64; 8]]> = part.chunks(part.len() / 8).map(|s| s.as_chunks().0).collect();
            let mut sums = [[0u64; 8]; 8];
            for i in 0..streams[0].len() {
                for (sum, stream) in sums.iter_mut().zip(&streams) {
                    (0..8).for_each(|lane| sum[lane] ^= stream[i][lane]);
                }
            }
            black_box(sums);
        };
        // Whole lines in every stream of every thread.
        let part = self.data.len() / rayon::current_num_threads() / 64 * 64;
        let threads = rayon::current_num_threads();
        let seconds = (0..3).map(|_| {
            let start = Instant::now();
            self.data.par_chunks_exact(part).for_each(read);
            start.elapsed().as_secs_f64()
        });
        (threads * part * size_of::<u64>()) as f64 / seconds.fold(f64::INFINITY, f64::min)
    }
}

/// Operations a second that all threads reach at once by `chain`, which does a number of steps and counts operations:
/// the best of several runs, the last of them long enough to drown the time it takes threads to start.
fn peak(chain: impl Fn(usize) -> Option<u64> + Sync) -> Option<f64> {
    let rate = |steps: usize| {
        let run = |_: rayon::BroadcastContext| {
            let start = Instant::now();
            let count = chain(steps)?;
            Some((count as f64, start.elapsed().as_secs_f64()))
        };
        let runs = rayon::broadcast(run).into_iter().collect::<Option<Vec<_>>>()?;
        let shortest = runs.iter().map(|(_, seconds)| *seconds).fold(f64::INFINITY, f64::min);
        Some((runs.iter().map(|(count, seconds)| count / seconds).sum::<f64>(), shortest))
    };
    let (mut steps, mut best) = (20_000, 0f64);
    loop {
        let (found, shortest) = rate(steps)?;
        best = best.max(found);
        if shortest >= CHAIN {
            return Some(best);
        }
        steps *= 2;
    }
}

/// Makes the process's peak memory its present memory, so that [`peak_memory`] tells of what comes.
/// Returns whether the system let it.
pub fn reset_peak_memory() -> bool {
    fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// Most bytes the process held resident since [`reset_peak_memory`], mapped files included.
pub fn peak_memory() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}
