//! A running worker process: starting it, talking to it within a time, finding out how it died.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use super::{ASK, PREFIX, Reply, Request, frame, lengths};
use crate::error::one_line;
use crate::{Image, Limits, Outcome, SandboxError};

/// How long a worker may take to come up.
const START: Duration = Duration::from_secs(60);
/// How often a wait looks up.
const TICK: Duration = Duration::from_millis(10);

/// A worker process. Dropping it kills and reaps it.
pub(super) struct Child {
    process: std::process::Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
    /// Bytes written since the last answer.
    sent: usize,
}

/// What a wait is over for, beside its pipe.
pub(super) type Until<'a> = &'a mut dyn FnMut() -> io::Result<()>;

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
        let mut child = Child { process, stdin, stdout, sent: 0 };
        let begin = Request::Begin { image: image.folder().to_path_buf(), limits: limits.clone() };
        let end = Instant::now() + START;
        let until = &mut || before(end);
        let ready = child.settle().and_then(|()| child.send(&frame(&begin, &[])?, until));
        match ready.and_then(|()| child.receive(until)) {
            Ok((Reply::Ready, _)) => Ok(child),
            Ok((Reply::Failed(why), _)) => Err(failed(why)),
            Ok((Reply::Done(_), _)) => Err(failed("it answered what it was not asked".into())),
            Err(e) => Err(failed(format!(
                "{e}; its main must begin with toolsmith_sandbox::worker_main_if_asked()"
            ))),
        }
    }

    /// Lets neither end of a pipe block this process.
    fn settle(&self) -> io::Result<()> {
        for fd in [self.stdin.as_raw_fd(), self.stdout.as_raw_fd()] {
            // SAFETY: flags of descriptors this value owns; the worker's ends have their own.
            let set = unsafe {
                let flags = libc::fcntl(fd, libc::F_GETFL);
                libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK)
            };
            if set == -1 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Whether the process is there.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    /// Writes a message, while `until` lets it: a worker that was stopped reads nothing.
    pub fn send(&mut self, message: &[u8], until: Until) -> io::Result<()> {
        let mut rest = message;
        while !rest.is_empty() {
            match self.stdin.write(rest) {
                Ok(n) => (self.sent, rest) = (self.sent + n, &rest[n..]),
                Err(e) => self.blocked(e, self.stdin.as_raw_fd(), libc::POLLOUT, until)?,
            }
        }
        Ok(())
    }

    /// Waits for a message's first byte, while `until` lets it.
    pub fn listen(&self, until: Until) -> io::Result<()> {
        self.blocked(io::ErrorKind::WouldBlock.into(), self.stdout.as_raw_fd(), libc::POLLIN, until)
    }

    /// Reads a message, while `until` lets it; broken off, the rest of it would be taken for the next.
    pub fn receive(&mut self, until: Until) -> io::Result<(Reply, Vec<u8>)> {
        let mut prefix = [0; PREFIX];
        self.fill(&mut prefix, until)?;
        let (head, body) = lengths(prefix);
        let mut message = vec![0; head + body];
        self.fill(&mut message, until)?;
        let body = message.split_off(head);
        self.sent = 0;
        Ok((serde_json::from_slice(&message)?, body))
    }

    fn fill(&mut self, mut buffer: &mut [u8], until: Until) -> io::Result<()> {
        while !buffer.is_empty() {
            match self.stdout.read(buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => buffer = &mut buffer[n..],
                Err(e) => self.blocked(e, self.stdout.as_raw_fd(), libc::POLLIN, until)?,
            }
        }
        Ok(())
    }

    /// Waits where a call would have blocked.
    fn blocked(&self, e: io::Error, fd: RawFd, events: i16, until: Until) -> io::Result<()> {
        match e.kind() {
            io::ErrorKind::WouldBlock => {}
            io::ErrorKind::Interrupted => return Ok(()),
            _ => return Err(e),
        }
        loop {
            let mut poll = libc::pollfd { fd, events, revents: 0 };
            // SAFETY: one pollfd, of a descriptor this value owns.
            if unsafe { libc::poll(&mut poll, 1, TICK.as_millis() as i32) } > 0 {
                return Ok(());
            }
            until()?;
        }
    }

    /// Whether the worker has read nothing of what it was asked for: the call has not begun. The lengths before it may be gone,
    /// which even a killed process still takes when its `read` is woken with the signal and the bytes both there.
    pub fn unread(&self) -> bool {
        let mut waiting: libc::c_int = 0;
        // SAFETY: fills an int. Where a pipe's writing end does not tell, the call counts as begun.
        let told = unsafe { libc::ioctl(self.stdin.as_raw_fd(), libc::FIONREAD, &mut waiting) } == 0;
        told && waiting as usize + PREFIX >= self.sent
    }

    /// What became of a call in a worker that broke off: it died, of the program or of something else.
    pub fn post_mortem(mut self) -> Outcome {
        // Of no effect on one that is dying already: its status is settled before its pipes close.
        let _ = self.process.kill();
        let status = match self.process.wait() {
            Ok(status) => status,
            Err(e) => return Outcome::lost(format!("the interpreter's process is gone: {e}")),
        };
        use libc::{SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGSYS, SIGTRAP};
        match status.signal() {
            Some(n @ (SIGABRT | SIGBUS | SIGFPE | SIGILL | SIGSEGV | SIGSYS | SIGTRAP)) => {
                Outcome::crashed(format!("the interpreter's process died of a fault (signal {n})"))
            }
            Some(n) => {
                Outcome::lost(format!("the interpreter's process was killed in the middle (signal {n})"))
            }
            None => Outcome::lost(format!("the interpreter's process ended in the middle ({status})")),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// `TimedOut` from `end` on.
pub(super) fn before(end: Instant) -> io::Result<()> {
    if Instant::now() < end { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) }
}
