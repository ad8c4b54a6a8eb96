//! A worker process, from both ends of its pipes: [`Child`] in the program that uses it, [`worker_main_if_asked`] in it.
//!
//! Messages are a little-endian u32 length and that many bytes. To the worker: its [`Task`] once, then programs. Back: one
//! line of readiness, then outcomes, as JSON. What a program prints never reaches these pipes: the host keeps it.

use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::one_line;
use crate::{Image, Limit, Limits, Outcome, PythonError, Sandbox, SandboxError};

/// The argument that makes an executable a worker.
const ASK: &str = "__toolsmith_sandbox_worker";
const READY: &[u8] = b"ready";
/// Longest message believed; beyond it the other end is broken.
const MAX_MESSAGE: usize = 1 << 30;
/// How long a worker may take to come up, and how much longer than its own wall clock a call may.
const START: Duration = Duration::from_secs(60);
const GRACE: Duration = Duration::from_secs(2);

/// What a worker is for.
#[derive(Serialize, Deserialize)]
struct Task {
    image: PathBuf,
    limits: Limits,
}

/// A running worker. Dropping it kills and reaps the process.
pub(crate) struct Child {
    process: std::process::Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
    limits: Limits,
}

impl Child {
    pub fn start(exe: &Path, image: &Image, limits: &Limits) -> Result<Child, SandboxError> {
        let failed = |why: String| SandboxError::Worker { exe: exe.to_path_buf(), why: one_line(&why) };
        let mut process = Command::new(exe)
            .arg(ASK)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| failed(e.to_string()))?;
        let stdin = process.stdin.take().expect("piped");
        let stdout = process.stdout.take().expect("piped");
        let mut child = Child { process, stdin, stdout, limits: limits.clone() };
        let task = Task { image: image.folder().to_path_buf(), limits: limits.clone() };
        let task = serde_json::to_vec(&task).map_err(|e| failed(e.to_string()))?;
        let end = Instant::now() + START;
        let ready = child.write(&task, end, &|| false).and_then(|()| child.read(end, &|| false));
        let ready =
            ready.map_err(|e| failed(format!("{e}; its main must begin with worker_main_if_asked()")))?;
        match ready == READY {
            true => Ok(child),
            false => Err(failed(String::from_utf8_lossy(&ready).into_owned())),
        }
    }

    /// Runs a program in the worker. An `Err` holds the call's outcome too, of a worker that is no more of use; so it ends
    /// when `stop` says so.
    pub fn run(&mut self, source: &str, stop: impl Fn() -> bool) -> Result<Outcome, Box<Outcome>> {
        let started = Instant::now();
        let end = started + Duration::from_millis(self.limits.wall_ms) + GRACE;
        let answer = self
            .write(source.as_bytes(), end, &stop)
            .and_then(|()| self.read(end, &stop))
            .and_then(|json| Ok(serde_json::from_slice(&json)?));
        answer.map_err(|e: io::Error| {
            let mut outcome = match e.kind() {
                io::ErrorKind::TimedOut => Outcome {
                    error: Some(PythonError::new(
                        "TimeoutError",
                        format!("the program ran longer than {} ms", self.limits.wall_ms),
                    )),
                    limit_hit: Some(Limit::Wall),
                    ..Default::default()
                },
                _ => Outcome::lost("the interpreter's process died"),
            };
            outcome.wall = started.elapsed().as_secs_f64();
            Box::new(outcome)
        })
    }

    fn read(&mut self, end: Instant, stop: &dyn Fn() -> bool) -> io::Result<Vec<u8>> {
        let mut len = [0; 4];
        self.fill(&mut len, end, stop)?;
        let len = u32::from_le_bytes(len) as usize;
        if len > MAX_MESSAGE {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut message = vec![0; len];
        self.fill(&mut message, end, stop)?;
        Ok(message)
    }

    /// Reads all of `buffer`, until `end` at most.
    fn fill(&mut self, mut buffer: &mut [u8], end: Instant, stop: &dyn Fn() -> bool) -> io::Result<()> {
        while !buffer.is_empty() {
            wait(self.stdout.as_raw_fd(), libc::POLLIN, end, stop)?;
            match self.stdout.read(buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => buffer = &mut buffer[n..],
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Writes a message, until `end` at most: a worker that was stopped reads nothing.
    fn write(&mut self, message: &[u8], end: Instant, stop: &dyn Fn() -> bool) -> io::Result<()> {
        let mut framed = Vec::with_capacity(message.len() + 4);
        write_message(&mut framed, message)?;
        // A pipe that polls as writable takes PIPE_BUF bytes without blocking.
        for part in framed.chunks(libc::PIPE_BUF) {
            wait(self.stdin.as_raw_fd(), libc::POLLOUT, end, stop)?;
            self.stdin.write_all(part)?;
        }
        Ok(())
    }
}

/// Waits until a pipe is ready for `events`, its other end is gone, `end` is reached or `stop` says so.
fn wait(fd: i32, events: i16, end: Instant, stop: &dyn Fn() -> bool) -> io::Result<()> {
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        if stop() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let mut poll = libc::pollfd { fd, events, revents: 0 };
        let pause = left.min(Duration::from_millis(50)).as_millis() as i32 + 1;
        // SAFETY: one pollfd, of a descriptor that the caller owns.
        if unsafe { libc::poll(&mut poll, 1, pause) } > 0 {
            return Ok(());
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn write_message(to: &mut impl Write, message: &[u8]) -> io::Result<()> {
    let len = u32::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    to.write_all(&len.to_le_bytes())?;
    to.write_all(message)?;
    to.flush()
}

/// The next message, or none at the end of the stream.
fn read_message(from: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut len = [0; 4];
    match from.read_exact(&mut len) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let mut message = vec![0; u32::from_le_bytes(len) as usize];
    from.read_exact(&mut message)?;
    Ok(Some(message))
}

/// Makes this process a sandbox worker, and never returns, if it was started as one by a [`Pool`](crate::Pool); else returns
/// at once. The first thing in `main` of a program that uses [`Isolation::Process`](crate::Isolation).
pub fn worker_main_if_asked() {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|a| a == ASK) && arguments.next().is_none() {
        let status = if work().is_ok() { 0 } else { 1 };
        std::process::exit(status);
    }
}

fn work() -> io::Result<()> {
    let (mut stdin, mut stdout) = (io::stdin().lock(), io::stdout().lock());
    follow_parent();
    let Some(task) = read_message(&mut stdin)? else {
        return Ok(());
    };
    let task: Task = serde_json::from_slice(&task)?;
    let sandbox = Image::trusted(&task.image).and_then(|i| Sandbox::new(&i, &task.limits));
    let mut sandbox = match sandbox {
        Ok(sandbox) => sandbox,
        Err(e) => return write_message(&mut stdout, e.to_string().as_bytes()),
    };
    confine(&task.limits)?;
    write_message(&mut stdout, READY)?;
    while let Some(source) = read_message(&mut stdin)? {
        let outcome = match std::str::from_utf8(&source) {
            Ok(source) => sandbox.run(source),
            Err(e) => return Err(io::Error::new(io::ErrorKind::InvalidData, e)),
        };
        write_message(&mut stdout, &serde_json::to_vec(&outcome)?)?;
    }
    Ok(())
}

/// Dies with the thread that started it; leaves Ctrl-C, which a terminal sends to both, to the parent.
fn follow_parent() {
    // SAFETY: two calls that only change this process's signal dispositions.
    unsafe {
        #[cfg(target_os = "linux")]
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        libc::signal(libc::SIGINT, libc::SIG_IGN);
    }
}

/// Resource limits behind WebAssembly's walls: no core dump, no file written, few descriptors, no new process, and not much
/// more memory than a program may use.
fn confine(limits: &Limits) -> io::Result<()> {
    let host = 512 << 20;
    let data = (u64::from(limits.memory_mb) << 20) * 2 + host;
    let all = [
        (libc::RLIMIT_CORE, 0),
        (libc::RLIMIT_FSIZE, 0),
        (libc::RLIMIT_NOFILE, 32),
        (libc::RLIMIT_DATA, data),
        #[cfg(target_os = "linux")]
        (libc::RLIMIT_NPROC, 0),
    ];
    for (resource, most) in all {
        let mut now = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: a valid resource and a struct of ours.
        let set = unsafe {
            libc::getrlimit(resource, &mut now);
            let most = (most as libc::rlim_t).min(now.rlim_max);
            (now.rlim_cur, now.rlim_max) = (most, most);
            libc::setrlimit(resource, &now)
        };
        if set != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: as in `follow_parent`. A write that meets the limit on files fails instead of killing.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    Ok(())
}
