//! `toolsmith sandbox bench`: the sandbox's costs on this machine, as tables or as JSON.

use std::path::PathBuf;
use std::process::ExitCode;

use toolsmith_sandbox::bench::{self, Memory, Native, Plan, Report};
use toolsmith_sandbox::{Isolation, SandboxError};

use super::{Python, prepared_image};
use crate::cli::table::table;

/// Measure the sandbox on this machine: single calls, a corpus of programs beside native Python, memory. Some minutes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print the measurements as JSON.
    #[arg(long)]
    json: bool,
    /// The Python to compare with, which needs sympy, numpy and networkx.
    #[arg(long, value_name = "PATH", default_value = "python3")]
    python: PathBuf,
    /// Workers; 0 means one a core.
    #[arg(long, value_name = "N", default_value_t = 0)]
    workers: usize,
    /// Calls of each single program.
    #[arg(long, value_name = "N", default_value_t = 300)]
    calls: usize,
    /// How often each pool runs the corpus.
    #[arg(long, value_name = "N", default_value_t = 2)]
    passes: usize,
    #[command(flatten)]
    keys: Python,
}

/// Measures and prints.
///
/// # Errors
/// If the image cannot be prepared or a worker not be started.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let image = prepared_image(&args.keys.load()?)?;
    let exe = std::env::current_exe()
        .map_err(|e| SandboxError::Io { path: "the path of this executable".into(), source: e })?;
    let plan = Plan {
        workers: match args.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        },
        calls: args.calls,
        passes: args.passes,
        python: args.python.clone(),
        first: vec![exe, "sandbox".into(), "run".into(), "-".into()],
        worker: None,
    };
    let report = bench::run(&image, &plan, &mut |what| eprintln!("measuring {what}"))?;
    match args.json {
        true => println!("{}", serde_json::to_string_pretty(&report)?),
        false => print!("{}", tables(&report)),
    }
    Ok(ExitCode::SUCCESS)
}

/// The report as tables of at most 80 columns.
fn tables(report: &Report) -> String {
    let calls = report.calls.iter().map(|c| [c.name.clone(), ms(c.p50), ms(c.p99), million(c.fuel)]);
    let mut text =
        table(["a call, reset included", "p50 ms", "p99 ms", "fuel, 10^6"], &calls.collect::<Vec<_>>());

    let name = |held_out| if held_out { "held out" } else { "warmed" };
    let corpus = report.corpus.iter().map(|c| {
        let rate = |isolation| {
            let found = report.rates.iter().find(|r| r.isolation == isolation && r.held_out == c.held_out);
            found.map_or("-".into(), |r| format!("{:.0}", r.per_second))
        };
        [
            format!("{} {}", c.programs, name(c.held_out)),
            ms(c.p50),
            ms(c.p99),
            million(c.fuel_p50),
            million(c.fuel_p99),
            rate(Isolation::Thread),
            rate(Isolation::Process),
        ]
    });
    let head = ["corpus programs", "p50 ms", "p99 ms", "fuel p50", "p99", "threads/s", "processes/s"];
    text += &format!("\n{}", table(head, &corpus.collect::<Vec<_>>()));
    let faults = report
        .corpus
        .iter()
        .map(|c| [name(c.held_out).into(), c.faults_p50.to_string(), c.faults_p99.to_string()]);
    text += &format!("\n{}", table(["page faults of a program", "p50", "p99"], &faults.collect::<Vec<_>>()));

    let Memory { thread, process, process_corpus, session, sympy_session } = &report.memory;
    let known = |bytes: &Option<u64>| bytes.map_or("not told here".into(), mib);
    let mut rest = vec![
        ["a further interpreter in the process".into(), known(thread)],
        ["a further worker process".into(), known(process)],
        ["the same after the corpus".into(), known(process_corpus)],
        ["a parked session with a variable".into(), mib(*session)],
        ["a parked session that used sympy".into(), mib(*sympy_session)],
    ];
    if let Some(restart) = report.restart {
        rest.push(["another worker for one that is gone".into(), format!("{restart:.1} ms")]);
    }
    if let Some(first) = report.first {
        rest.push(["process start to first result".into(), format!("{first:.0} ms")]);
    }
    text += &format!("\n{}\n", table(["memory, and the time to start", ""], &rest));
    text += &match &report.native {
        Ok(Native { programs, sandbox_per_second, python_per_second, forked_per_second, ratio, .. }) => {
            format!(
                "{programs} programs of the corpus, {} at a time: {sandbox_per_second:.0} a second in the sandbox,\n\
             {python_per_second:.1} a second in a python3 process each that imports sympy: {ratio:.0} times,\n\
             {forked_per_second:.0} a second in a fork each of a python3 that is as warm: {:.2} times.\n",
                report.workers,
                sandbox_per_second / forked_per_second,
            )
        }
        Err(why) => format!("No native Python to compare with; --python names one.\n({why})\n"),
    };
    if let Some((before, after)) = report.load {
        text += &format!("Load average {before:.1} before, {after:.1} after, {} workers.\n", report.workers);
    }
    text
}

fn ms(ms: f64) -> String {
    if ms < 9.995 { format!("{ms:.2}") } else { format!("{ms:.1}") }
}

fn million(fuel: u64) -> String {
    format!("{:.2}", fuel as f64 / 1e6)
}

fn mib(bytes: u64) -> String {
    match bytes {
        0..1_048_576 => format!("{:.0} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

#[cfg(test)]
mod tests {
    use toolsmith_sandbox::bench::{Call, Corpus, Rate};

    use super::*;

    #[test]
    fn tables_fit_a_terminal() {
        let call = |name: &str| Call { name: name.into(), p50: 1234.5, p99: 98765.4, fuel: 20_000_000_000 };
        let corpus = |held_out| Corpus {
            held_out,
            programs: 1286,
            p50: 1e4,
            p99: 1e5,
            fuel_p99: 19_000_000_000,
            ..Corpus::default()
        };
        let rate = |isolation, held_out| Rate { isolation, held_out, per_second: 12345.6 };
        let mut report = Report {
            workers: 128,
            load: Some((12.5, 130.0)),
            calls: bench::CALLS.iter().map(|(name, _)| call(name)).collect(),
            corpus: vec![corpus(false), corpus(true)],
            rates: vec![rate(Isolation::Thread, false), rate(Isolation::Process, true)],
            native: Ok(Native {
                programs: 38,
                sandbox_per_second: 4321.0,
                python_per_second: 54.3,
                forked_per_second: 4320.0,
                ratio: 123.4,
                ..Native::default()
            }),
            restart: Some(123.4),
            first: Some(151.0),
            memory: Memory {
                thread: Some(9 << 20),
                process: None,
                process_corpus: Some(99 << 20),
                session: 26_000,
                sympy_session: 3 << 20,
            },
        };
        for native in [report.native.clone(), Err("python3: ModuleNotFoundError: No module".into())] {
            report.native = native;
            let text = tables(&report);
            assert!(text.lines().all(|l| l.chars().count() <= 80), "{text}");
            for word in ["held out", "12346", "25 KiB", "9.0 MiB", "not told here", "151 ms", "20000.00"] {
                assert!(text.contains(word), "{word} is not in:\n{text}");
            }
        }
    }
}
