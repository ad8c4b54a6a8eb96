//! One interpreter in the calling thread: a program in, an [`Outcome`] out, and the interpreter as before.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use wasmer::RuntimeError;
use wasmer_types::TrapCode;

use crate::memory::PAGE;
use crate::snapshot::RUN;
use crate::vm::Vm;
use crate::watchdog::{Running, Stop, Watch};
use crate::{Image, Limit, Limits, Outcome, PythonError, SandboxError, Session};

/// Calls after which an instance is made anew, because wasmer keeps every exception object thrown until its store goes
/// (wasmerio/wasmer#5718).
const CALLS: u32 = 1000;

/// An interpreter of its own. Every [`call`](Interpreter::call) starts from the same snapshot.
pub(crate) struct Interpreter {
    image: Image,
    limits: Limits,
    vm: Option<Vm>,
    calls: u32,
    watch: Option<Arc<Watch>>,
}

impl Interpreter {
    /// Maps the image's snapshot; a few milliseconds, once a process has loaded the image.
    ///
    /// # Errors
    /// [`SandboxError::Limits`] for limits under which nothing can run; a damaged image.
    pub fn new(image: &Image, limits: &Limits) -> Result<Self, SandboxError> {
        limits.check(image.registers().pages)?;
        let (image, limits) = (image.clone(), limits.clone());
        let mut interpreter = Interpreter { image, limits, vm: None, calls: 0, watch: None };
        interpreter.ready()?;
        Ok(interpreter)
    }

    /// Drops the interpreter; the next call makes a new one.
    pub fn discard(&mut self) {
        self.vm = None;
    }

    /// Whether the next call finds an instance: the last did not end it.
    pub fn is_up(&self) -> bool {
        self.vm.is_some()
    }

    /// A digest of all that the next call starts from: memory, globals, and what the host keeps.
    pub fn digest(&mut self) -> Result<[u8; 32], SandboxError> {
        let vm = self.ready()?;
        let mut hash = Sha256::new();
        hash.update(vm.memory());
        hash.update(serde_json::to_vec(&vm.registers()).expect("plain data"));
        Ok(hash.finalize().into())
    }

    /// The instance, made anew where the last is gone.
    pub fn ready(&mut self) -> Result<&mut Vm, SandboxError> {
        if self.vm.is_none() {
            let loaded = self.image.load()?;
            let (engine, module) = &loaded.code;
            self.vm = Some(Vm::new(
                engine,
                module,
                loaded.archive.clone(),
                Some((loaded.memory.clone(), self.image.registers())),
                self.limits.memory_mb as usize * 16,
            )?);
            self.calls = 0;
        }
        Ok(self.vm.as_mut().expect("made above"))
    }

    /// Has the watchdog look after it from now on, a thread of this process; the first call does, if it was not asked to before.
    pub fn watch(&mut self) {
        self.watch.get_or_insert_with(Watch::new);
    }

    /// Runs a program so that what its like opens and makes once in a process is there; without a watchdog and its thread, so
    /// that the process may be forked afterwards.
    pub fn warm(&mut self, source: &str) -> Result<(), SandboxError> {
        self.run(source, None, &(Arc::new(|| false) as Stop))?;
        self.ready().map(drop)
    }

    /// Runs a program to its end, to a limit or until `stop` says so; in a session, as its next block.
    ///
    /// # Errors
    /// If the instance is gone and none can be made: the call has not begun.
    pub fn call(
        &mut self,
        source: &str,
        session: Option<&mut Session>,
        stop: &Stop,
    ) -> Result<Outcome, SandboxError> {
        self.watch();
        self.run(source, session, stop)
    }

    fn run(
        &mut self,
        source: &str,
        mut session: Option<&mut Session>,
        stop: &Stop,
    ) -> Result<Outcome, SandboxError> {
        let started = Instant::now();
        let (image, limits, watch) = (self.image.clone(), self.limits.clone(), self.watch.clone());
        if stop() {
            return Ok(Outcome::cancelled());
        }
        let vm = self.ready()?;
        if let Some(session) = &session {
            match session.delta() {
                Err(e) => return Ok(Outcome::crashed(format!("the session cannot be read: {e}"))),
                Ok(Some(delta)) if delta.head.image != image.name() || !vm.resume(&delta) => {
                    self.vm = None;
                    return Ok(Outcome::crashed(match delta.head.image == image.name() {
                        true => "the session needs more memory than memory_mb allows",
                        false => "the session is of another image",
                    }));
                }
                Ok(_) => {}
            }
        }
        let block = session.as_ref().map_or(0, |s| s.blocks().saturating_add(1));
        let trace = if limits.traceback { "traceback" } else { "last" };
        let request = format!("{trace} {block}\n{source}").into_bytes();
        vm.host().begin(request, limits.output_bytes);
        vm.set_fuel(limits.fuel);
        let end = started + Duration::from_millis(limits.wall_ms);
        // SAFETY: the counter is `vm`'s, which lives on after the guard has ended.
        let running = watch.as_ref().map(|watch| unsafe { watch.begin(end, vm.tank(), stop.clone()) });
        let ended = vm.turn(RUN);
        let interrupted = running.and_then(Running::end);
        let left = interrupted.unwrap_or_else(|| vm.fuel());
        let broken = ended.is_err();
        if let Some(session) = &mut session {
            session.advance(ended.is_ok().then(|| vm.park(image.name())));
        }
        let why = interrupted.map(|_| if stop() { Limit::Cancelled } else { Limit::Wall });
        let mut outcome = outcome(vm, ended, left, why, &limits);
        self.calls += 1;
        // After a trap the instance may hold on to anything.
        if broken || self.calls >= CALLS {
            self.vm = None;
        } else if let Some(vm) = &mut self.vm
            && vm.reset(image.registers()).is_err()
        {
            self.vm = None;
        }
        outcome.wall = started.elapsed().as_secs_f64();
        Ok(outcome)
    }
}

/// What the interpreter, the host and the way the call ended say together.
fn outcome(
    vm: &mut Vm,
    ended: Result<i32, RuntimeError>,
    left: i64,
    interrupted: Option<Limit>,
    limits: &Limits,
) -> Outcome {
    let denied = vm.slot().denied() > 0;
    let memory_peak = (vm.slot().peak() * PAGE) as u64;
    let host = vm.host();
    let (exit, report) = (host.exit, host.report.clone());
    let (stdout, cut_out) = host.out.finish();
    let (stderr, cut_err) = host.err.finish();
    let mut truncated = cut_out + cut_err;
    let mut field = |tag| {
        report.field(tag).map(|(text, cut)| {
            truncated += cut;
            text
        })
    };
    let (mut value, mut error, mut limit_hit) = (None, None, None);
    match ended {
        Ok(_) if report.done => {
            value = field(b'v');
            error = field(b'k').map(|kind| PythonError {
                kind,
                message: field(b'm').unwrap_or_default(),
                line: field(b'l').and_then(|l| l.parse().ok()),
                traceback: field(b't').unwrap_or_default(),
            });
            // Without a word it is CPython's own, which asks for nothing where the size alone is too much; else a
            // program's, or its parser's.
            let wordless = error.as_ref().is_some_and(|e| e.message.is_empty());
            if report.field(b'o').is_some() && (denied || wordless) {
                limit_hit = Some(Limit::Memory);
            }
        }
        // The driver itself failed: there was no memory left to report in, or the program broke it.
        Ok(_) if denied => (error, limit_hit) = memory(limits),
        Ok(status) => {
            let last = stderr.lines().rev().find(|l| !l.trim().is_empty());
            let why = last.unwrap_or("it reported nothing");
            error = Some(PythonError::new(
                "SystemError",
                format!("the interpreter ended with status {status}: {why}"),
            ));
        }
        Err(_) if exit == Some(0) => {}
        Err(_) if exit.is_some_and(|status| status < 128) => {
            error = Some(PythonError::new("SystemExit", exit.unwrap_or(0).to_string()));
        }
        Err(_) if left < 0 => {
            let why = format!("the program ran too long (more than {} steps)", limits.fuel);
            error = Some(PythonError::new("TimeoutError", why));
            limit_hit = Some(Limit::Fuel);
        }
        Err(_) if interrupted == Some(Limit::Cancelled) => {
            Outcome { error, limit_hit, .. } = Outcome::cancelled();
        }
        Err(_) if interrupted.is_some() => {
            let why = format!("the program ran longer than {} ms", limits.wall_ms);
            error = Some(PythonError::new("TimeoutError", why));
            limit_hit = Some(Limit::Wall);
        }
        Err(trap) => match trap.clone().to_trap() {
            Some(TrapCode::StackOverflow) => {
                let why = "the interpreter's stack overflowed".into();
                error = Some(PythonError::new("RecursionError", why));
                limit_hit = Some(Limit::Crash);
            }
            _ if denied => (error, limit_hit) = memory(limits),
            _ => {
                // CPython says why before it aborts.
                let fatal = stderr.lines().rev().find_map(|l| l.strip_prefix("Fatal Python error: "));
                let kind = match fatal.is_some_and(|why| why.contains("stack overflow")) {
                    true => "RecursionError",
                    false => "SystemError",
                };
                let why = format!("the interpreter crashed ({})", fatal.unwrap_or(&trap.message()));
                error = Some(PythonError::new(kind, why));
                limit_hit = Some(Limit::Crash);
            }
        },
    }
    if limit_hit.is_none() && truncated > 0 {
        limit_hit = Some(Limit::Output);
    }
    Outcome {
        stdout,
        stderr,
        value,
        error,
        fuel: limits.fuel.min(i64::MAX as u64) - left.max(0) as u64,
        wall: 0.0,
        memory_peak,
        limit_hit,
        truncated,
    }
}

fn memory(limits: &Limits) -> (Option<PythonError>, Option<Limit>) {
    let why = format!("the program used more than {} MB", limits.memory_mb);
    (Some(PythonError::new("MemoryError", why)), Some(Limit::Memory))
}
