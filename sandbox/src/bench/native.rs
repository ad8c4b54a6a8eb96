//! Processes to compare with: native Python, a new one for each program, as a tool server without a sandbox would start it;
//! and one forked for each program from a Python that has imported and warmed what ours has. No interpreter as slow as
//! CPython comes past the second.

use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use crate::bench::{Native, Plan, limits, part, percentile};
use crate::corpus::{Program, programs};
use crate::{Image, Job, Sandbox, SandboxError};

/// Every how many-th program is compared: a native process takes its time.
const EVERY: usize = 12;
/// Turns that the sandbox and native Python take.
const TURNS: usize = 3;
/// Processes started for the time to the first result.
const STARTS: usize = 15;

/// Both kinds by turns; the reason why not, where there is no Python with sympy.
pub(super) fn measure(image: &Image, plan: &Plan) -> Result<Result<Native, String>, SandboxError> {
    let python = &plan.python;
    match command(python, "import sympy, numpy, networkx").stderr(Stdio::piped()).output() {
        Err(e) => return Ok(Err(format!("{}: {e}", python.display()))),
        Ok(out) if !out.status.success() => {
            let said = String::from_utf8_lossy(&out.stderr);
            let why = said.lines().last().unwrap_or("it failed").to_owned();
            return Ok(Err(format!("{}: {why}", python.display())));
        }
        Ok(_) => {}
    }
    let chosen: Vec<Program> = programs().into_iter().step_by(EVERY).collect();
    let pool = Sandbox::builder().image(image.clone()).limits(limits()).pool(plan.workers)?;
    let mut forks =
        match (0..plan.workers.max(1)).map(|_| Forks::start(python)).collect::<io::Result<Vec<_>>>() {
            Err(e) => return Ok(Err(format!("{}: {e}", python.display()))),
            Ok(forks) => forks,
        };
    let (mut sandbox, mut native, mut forked) = (0.0, 0.0, 0.0);
    // The first turn is not counted: it finds the files of both in memory for the others.
    for turn in 0..=TURNS {
        let started = Instant::now();
        for (id, program) in chosen.iter().enumerate() {
            pool.submit(Job::new(id as u64, program.source)).expect("the queue has room for all");
        }
        for _ in &chosen {
            pool.completions().recv().expect("the pool lives and completes every job");
        }
        let ours = started.elapsed().as_secs_f64();
        let started = Instant::now();
        let new = || |program: &Program| process(python, program);
        each(&chosen, (0..plan.workers.max(1)).map(|_| new()));
        let theirs = started.elapsed().as_secs_f64();
        let started = Instant::now();
        each(&chosen, forks.iter_mut().map(|f| |program: &Program| f.run(program)));
        let warm = started.elapsed().as_secs_f64();
        if turn > 0 {
            sandbox += ours;
            native += theirs;
            forked += warm;
        }
    }
    let all = (chosen.len() * TURNS) as f64;
    Ok(Ok(Native {
        python: python.clone(),
        programs: chosen.len(),
        sandbox_per_second: all / sandbox,
        python_per_second: all / native,
        forked_per_second: all / forked,
        ratio: native / sandbox,
    }))
}

/// Gives each program to whichever of `workers` is free.
fn each<W: FnMut(&Program) + Send>(programs: &[Program], workers: impl Iterator<Item = W>) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for mut work in workers {
            let next = &next;
            scope.spawn(move || {
                while let Some(program) = programs.get(next.fetch_add(1, Relaxed)) {
                    work(program);
                }
            });
        }
    });
}

/// Runs the program in a process that imports sympy first. How it ends is no matter: some fail on purpose.
fn process(python: &Path, program: &Program) {
    let _ = command(python, &format!("import sympy\n{}", program.source)).status();
}

/// A native Python that has run the warmed part of the corpus and forks itself for each program.
struct Forks {
    process: Child,
    programs: ChildStdin,
    ends: BufReader<ChildStdout>,
}

impl Forks {
    fn start(python: &Path) -> io::Result<Forks> {
        let mut process =
            command(python, include_str!("forks.py")).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let programs = process.stdin.take().expect("piped");
        let ends = BufReader::new(process.stdout.take().expect("piped"));
        let mut forks = Forks { process, programs, ends };
        let warmed: Vec<&str> = part(false).iter().map(|p| p.source).collect();
        forks.exchange(&serde_json::to_string(&warmed)?)?;
        Ok(forks)
    }

    /// Writes a line and waits for one.
    fn exchange(&mut self, line: &str) -> io::Result<()> {
        writeln!(self.programs, "{line}")?;
        match self.ends.read_line(&mut String::new())? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    fn run(&mut self, program: &Program) {
        let line = serde_json::to_string(program.source).expect("text is JSON");
        self.exchange(&line).expect("a process that only forks lives on");
    }
}

impl Drop for Forks {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn command(python: &Path, source: &str) -> Command {
    let mut command = Command::new(python);
    command.args(["-c", source]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// The median time from the start of `command` to the end of its first result; None where there is no command or it fails.
pub(super) fn first(command: &[PathBuf]) -> Option<f64> {
    let (program, arguments) = command.split_first()?;
    let once = || {
        let started = Instant::now();
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        child.stdin.take()?.write_all(b"print(2**100)").ok()?;
        let output = child.wait_with_output().ok()?;
        let right = output.stdout.starts_with(b"1267650600228229401496703205376");
        right.then(|| started.elapsed().as_secs_f64() * 1e3)
    };
    once()?;
    let mut times = (0..STARTS).map(|_| once()).collect::<Option<Vec<_>>>()?;
    Some(percentile(&mut times, 0.5))
}
