//! What a sandbox costs on this machine: times of single calls, the corpus's throughput beside a process of `python3` for each
//! program, memory of one more worker and of a parked session.
//!
//! [`run`] takes all measurements and gives plain data. Fuel and page faults are the same on a busy machine and on a quiet one;
//! times are not, so [`Report::load`] says how busy it was. The metering's own cost is not measured here.

mod memory;
mod native;

use std::path::PathBuf;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::corpus::{Program, programs};
use crate::{Builder, Image, Isolation, Job, Limits, Sandbox, SandboxError};

/// What to measure with.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Workers of the pools; cores, usually.
    pub workers: usize,
    /// Calls of each single program.
    pub calls: usize,
    /// How often the corpus is run through each pool.
    pub passes: usize,
    /// The Python to compare with; a word alone is looked up in `$PATH`.
    pub python: PathBuf,
    /// A command that runs the program on its standard input and prints what it gave, for the time from a process's start to
    /// its first result. Not measured where it is empty.
    pub first: Vec<PathBuf>,
    /// The executable of worker processes, where it is not this one.
    pub worker: Option<PathBuf>,
}

/// What was measured. Times are in milliseconds, memory in bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub workers: usize,
    /// The machine's load average of a minute before and after, where the system tells.
    pub load: Option<(f64, f64)>,
    pub calls: Vec<Call>,
    pub corpus: Vec<Corpus>,
    pub rates: Vec<Rate>,
    /// Against a process of native Python a program; the reason why not, where that could not be.
    pub native: Result<Native, String>,
    /// Until another worker process is up where one is gone: the median.
    #[serde(default)]
    pub restart: Option<f64>,
    /// From a process's start to its first result, everything cached: the median.
    pub first: Option<f64>,
    pub memory: Memory,
}

/// One program, run again and again in one interpreter, reset included.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Call {
    pub name: String,
    pub p50: f64,
    pub p99: f64,
    pub fuel: u64,
}

/// A part of the corpus, each program once in one interpreter.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Corpus {
    /// Whether these are the programs that the warm-up does not know.
    pub held_out: bool,
    pub programs: usize,
    pub p50: f64,
    pub p99: f64,
    pub fuel_p50: u64,
    pub fuel_p99: u64,
    /// Page faults of the calling thread.
    pub faults_p50: u64,
    pub faults_p99: u64,
}

/// How many programs of the corpus a pool runs in a second.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    pub isolation: Isolation,
    pub held_out: bool,
    pub per_second: f64,
}

/// The same programs in the sandbox's threads, in a process of native Python each, and in a fork each of a native Python that
/// has imported everything and run the warmed programs; by turns, each on all workers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Native {
    pub python: PathBuf,
    /// How many these are, taken evenly from the corpus.
    pub programs: usize,
    pub sandbox_per_second: f64,
    pub python_per_second: f64,
    pub forked_per_second: f64,
    /// The sandbox by the processes.
    pub ratio: f64,
}

/// Growth of proportional set sizes (shared pages are divided among those who share them), where the system tells.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// One more interpreter in this process that has run a program of sympy.
    pub thread: Option<u64>,
    /// One more worker process that has.
    pub process: Option<u64>,
    /// One more worker process that has run the held-out corpus.
    #[serde(default)]
    pub process_corpus: Option<u64>,
    /// A parked session that holds a variable (`Session::bytes`).
    pub session: u64,
    /// A parked session that has worked with sympy.
    pub sympy_session: u64,
}

/// A call's name and program.
pub const CALLS: [(&str, &str); 6] = [
    ("print(2**100)", "print(2**100)"),
    ("an uncaught error", "1 / 0"),
    ("numpy: a 2x2 system", "import numpy as np\nnp.linalg.solve([[2., 1.], [1., 3.]], [3., 5.])"),
    ("sympy: factorint(10**15 + 37)", "from sympy import *\nfactorint(10**15 + 37)"),
    (
        "sympy: a 2x2 system",
        "from sympy import *\nx, y = symbols('x y')\nsolve([2*x + y - 7, x - y + 1], [x, y])",
    ),
    ("sympy: a cubic", "from sympy import *\nx = symbols('x')\nsolve(x**3 - 7*x + 6, x)"),
];

const SYMPY: &str = CALLS[5].1;

/// Takes all measurements, some minutes on two cores; `say` is told what comes next.
///
/// # Errors
/// If a sandbox or a worker does not come up.
pub fn run(image: &Image, plan: &Plan, say: &mut dyn FnMut(&str)) -> Result<Report, SandboxError> {
    let load = || load_average().first().copied();
    let before = load();
    say("single calls");
    let calls = calls(image, plan)?;
    say("the corpus, program by program");
    let corpus = vec![corpus(image, false)?, corpus(image, true)?];
    let mut rates = Vec::new();
    for isolation in [Isolation::Thread, Isolation::Process] {
        say(match isolation {
            Isolation::Thread => "the corpus on all workers, in threads",
            Isolation::Process => "the corpus on all workers, in processes",
        });
        for held_out in [false, true] {
            let programs = part(held_out);
            let per_second = rate(image, plan, isolation, &programs)?;
            rates.push(Rate { isolation, held_out, per_second });
        }
    }
    say("memory");
    let memory = memory::measure(image, plan)?;
    let restart = Some(restart(image, plan)?);
    say("a process's start to its first result");
    let first = native::first(&plan.first);
    say("a process of native Python a program");
    let native = native::measure(image, plan)?;
    let load = before.zip(load());
    Ok(Report { workers: plan.workers, load, calls, corpus, rates, native, restart, first, memory })
}

/// Enough for every program of the corpus.
fn limits() -> Limits {
    Limits { fuel: 20_000_000_000, ..Limits::default() }
}

fn part(held_out: bool) -> Vec<Program> {
    programs().into_iter().filter(|p| p.held_out() == held_out).collect()
}

fn calls(image: &Image, plan: &Plan) -> Result<Vec<Call>, SandboxError> {
    let mut python = Sandbox::builder().image(image.clone()).limits(limits()).build()?;
    let one = |(name, source): (&str, &str)| {
        python.run(source);
        let mut times = Vec::with_capacity(plan.calls);
        let mut fuel = 0;
        for _ in 0..plan.calls.max(1) {
            // The reset belongs to the call, and `Outcome::wall` ends before it.
            let started = Instant::now();
            fuel = python.run(source).fuel;
            times.push(started.elapsed().as_secs_f64() * 1e3);
        }
        let (p50, p99) = (percentile(&mut times, 0.5), percentile(&mut times, 0.99));
        Call { name: name.into(), p50, p99, fuel }
    };
    Ok(CALLS.into_iter().map(one).collect())
}

fn corpus(image: &Image, held_out: bool) -> Result<Corpus, SandboxError> {
    let mut python = Sandbox::builder().image(image.clone()).limits(limits()).build()?;
    python.run("1");
    let (mut times, mut fuel, mut faults) = (Vec::new(), Vec::new(), Vec::new());
    for program in part(held_out) {
        let (started, before) = (Instant::now(), memory::faults());
        fuel.push(python.run(program.source).fuel as f64);
        times.push(started.elapsed().as_secs_f64() * 1e3);
        faults.push((memory::faults() - before) as f64);
    }
    Ok(Corpus {
        held_out,
        programs: times.len(),
        p50: percentile(&mut times, 0.5),
        p99: percentile(&mut times, 0.99),
        fuel_p50: percentile(&mut fuel, 0.5) as u64,
        fuel_p99: percentile(&mut fuel, 0.99) as u64,
        faults_p50: percentile(&mut faults, 0.5) as u64,
        faults_p99: percentile(&mut faults, 0.99) as u64,
    })
}

fn builder(image: &Image, plan: &Plan, isolation: Isolation) -> Builder {
    let builder = Sandbox::builder().image(image.clone()).limits(limits()).isolation(isolation);
    match (&plan.worker, isolation) {
        (Some(exe), Isolation::Process) => builder.worker(exe),
        _ => builder,
    }
}

/// Milliseconds until a worker process that is gone is replaced and up.
fn restart(image: &Image, plan: &Plan) -> Result<f64, SandboxError> {
    let mut python = builder(image, plan, Isolation::Process).build()?;
    let mut times = Vec::new();
    for _ in 0..plan.calls.clamp(1, 100) {
        python.run(CALLS[0].1);
        python.discard();
        let started = Instant::now();
        python.ready()?;
        times.push(started.elapsed().as_secs_f64() * 1e3);
    }
    Ok(percentile(&mut times, 0.5))
}

/// Programs a second on a fresh pool that has run each once.
fn rate(image: &Image, plan: &Plan, isolation: Isolation, programs: &[Program]) -> Result<f64, SandboxError> {
    let builder = builder(image, plan, isolation);
    let passes = plan.passes.max(1);
    let pool = builder.queue(programs.len() * passes).pool(plan.workers)?;
    let all = |passes: usize| {
        let started = Instant::now();
        for id in 0..programs.len() * passes {
            let job = Job::new(id as u64, programs[id % programs.len()].source);
            pool.submit(job).expect("the queue has room for all");
        }
        for _ in 0..programs.len() * passes {
            pool.completions().recv().expect("the pool lives and completes every job");
        }
        (programs.len() * passes) as f64 / started.elapsed().as_secs_f64()
    };
    all(1);
    Ok(all(passes))
}

/// The value below which a `share` of `values` lies, by the nearest rank; sorts them.
fn percentile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (values.len() as f64 * share).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

/// Load averages over 1, 5 and 15 minutes; empty where the system has none to tell.
pub fn load_average() -> Vec<f64> {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).filter_map(|n| n.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_the_nearest_rank() {
        let mut values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!((percentile(&mut values, 0.5), percentile(&mut values, 0.99)), (100.0, 198.0));
        assert_eq!((percentile(&mut [7.0], 0.99), percentile(&mut [], 0.5)), (7.0, 0.0));
    }

    #[test]
    fn a_report_is_data() {
        let rate = Rate { isolation: Isolation::Process, held_out: true, per_second: 2.5 };
        let report = Report {
            workers: 2,
            load: Some((0.5, 1.0)),
            calls: vec![Call::default()],
            corpus: vec![Corpus::default()],
            rates: vec![rate],
            native: Err("python3: no sympy".into()),
            restart: None,
            first: None,
            memory: Memory::default(),
        };
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
    }
}
