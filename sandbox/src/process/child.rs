//! A worker process, or the zygote of several: talking to it within a time, finding out how it died.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::{Errno, retry_on_intr};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpgid, waitpid};

use super::{ASK, PREFIX, Reply, Request, frame, lengths};
use crate::Outcome;

/// How often a wait looks up.
const TICK: Duration = Duration::from_millis(10);

/// A child process that speaks this module's language. Dropping it kills and reaps it.
pub(super) struct Child {
    process: Process,
    requests: File,
    replies: File,
    /// Bytes written since the last answer.
    sent: usize,
    /// It has given its last answer.
    spent: bool,
    group: Arc<Group>,
}

/// What a wait is over for, beside its pipe.
pub(super) type Until<'a> = &'a mut dyn FnMut() -> io::Result<()>;

/// A child by its number, which stays its own until it is reaped.
struct Process {
    pid: Pid,
    ended: Option<ExitStatus>,
}

impl Process {
    /// How it ended, if it has.
    fn poll(&mut self, options: WaitOptions) -> io::Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            let found = retry_on_intr(|| waitpid(Some(self.pid), options))?;
            self.ended = found.map(|(_, status)| ExitStatus::from_raw(status.as_raw()));
        }
        Ok(self.ended)
    }

    /// Ends it, where it has not ended, and waits until it has.
    fn end(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            // Of no effect on one that is dying already: its status is settled before its pipes close.
            let _ = kill_process(self.pid, Signal::KILL);
        }
        self.poll(WaitOptions::empty())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// The process group of a child that was executed, and of those that were forked from it. Reaps, when the last of them is gone,
/// one that nobody was told of because its zygote died over forking it; it ends by itself, for nobody holds its pipes.
struct Group(Pid);

impl Drop for Group {
    fn drop(&mut self) {
        while !matches!(waitpgid(self.0, WaitOptions::empty()), Err(e) if e != Errno::INTR) {}
    }
}

impl Child {
    /// Executes `command` and has it `begin`.
    pub fn spawn(command: &mut Command, begin: &Request, until: Until) -> io::Result<Child> {
        let (theirs, requests) = request_pipe()?;
        let process = command.arg(ASK).env_clear().process_group(0).stdin(theirs).stdout(Stdio::piped());
        let mut process = process.spawn()?;
        let replies = process.stdout.take().expect("piped").into();
        let pid = Pid::from_child(&process);
        let mut child = Child::new(pid, requests, replies, Arc::new(Group(pid)))?;
        child.send(&frame(begin, &[])?, until)?;
        child.begun(until)?;
        Ok(child)
    }

    /// A child of this process, with this side's ends of its pipes.
    fn new(pid: Pid, requests: OwnedFd, replies: OwnedFd, group: Arc<Group>) -> io::Result<Child> {
        let process = Process { pid, ended: None };
        let child = Child {
            process,
            requests: requests.into(),
            replies: replies.into(),
            sent: 0,
            spent: false,
            group,
        };
        for fd in [&child.requests, &child.replies] {
            // Neither may block this process; the other ends have flags of their own.
            let flags = rustix::fs::fcntl_getfl(fd)?;
            rustix::fs::fcntl_setfl(fd, flags | rustix::fs::OFlags::NONBLOCK)?;
        }
        Ok(child)
    }

    /// Waits until it says that it is up.
    pub fn begun(&mut self, until: Until) -> io::Result<()> {
        match self.receive(until)?.0 {
            Reply::Ready => Ok(()),
            other => Err(unasked(other)),
        }
    }

    /// Of a zygote: another worker, which has not begun yet.
    #[cfg(target_os = "linux")]
    pub fn fork(&mut self, until: Until) -> io::Result<Child> {
        let (their_requests, requests) = io::pipe()?;
        let (replies, their_replies) = io::pipe()?;
        super::pass::send(&self.requests, [their_requests.into(), their_replies.into()])?;
        match self.receive(until)?.0 {
            Reply::Forked(pid) => {
                let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidData)?;
                Child::new(pid, requests.into(), replies.into(), self.group.clone())
            }
            other => Err(unasked(other)),
        }
    }

    pub fn id(&self) -> u32 {
        self.process.pid.as_raw_nonzero().get() as u32
    }

    /// Whether the process is there, and takes another request.
    pub fn is_alive(&mut self) -> bool {
        !self.spent && matches!(self.process.poll(WaitOptions::NOHANG), Ok(None))
    }

    /// Writes a message, while `until` lets it: a worker that was stopped reads nothing.
    pub fn send(&mut self, message: &[u8], until: Until) -> io::Result<()> {
        let mut rest = message;
        while !rest.is_empty() {
            match self.requests.write(rest) {
                Ok(n) => (self.sent, rest) = (self.sent + n, &rest[n..]),
                Err(e) => self.blocked(e, self.requests.as_raw_fd(), libc::POLLOUT, until)?,
            }
        }
        Ok(())
    }

    /// Waits for a message's first byte, while `until` lets it.
    pub fn listen(&self, until: Until) -> io::Result<()> {
        self.blocked(io::ErrorKind::WouldBlock.into(), self.replies.as_raw_fd(), libc::POLLIN, until)
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
        let reply = serde_json::from_slice(&message)?;
        self.spent |= matches!(reply, Reply::Done { last: true, .. });
        Ok((reply, body))
    }

    fn fill(&mut self, mut buffer: &mut [u8], until: Until) -> io::Result<()> {
        while !buffer.is_empty() {
            match self.replies.read(buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => buffer = &mut buffer[n..],
                Err(e) => self.blocked(e, self.replies.as_raw_fd(), libc::POLLIN, until)?,
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
        let told = unsafe { libc::ioctl(self.requests.as_raw_fd(), libc::FIONREAD, &mut waiting) } == 0;
        told && waiting as usize + PREFIX >= self.sent
    }

    /// What became of a call in a worker that broke off: it died, of the program or of something else.
    pub fn post_mortem(mut self) -> Outcome {
        let status = match self.process.end() {
            Ok(status) => status.expect("it was waited for"),
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

/// A pipe for requests. On Linux a socket, which takes a zygote descriptors along with them.
#[cfg(target_os = "linux")]
fn request_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (theirs, ours) = std::os::unix::net::UnixStream::pair()?;
    Ok((theirs.into(), ours.into()))
}

#[cfg(not(target_os = "linux"))]
fn request_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (theirs, ours) = io::pipe()?;
    Ok((theirs.into(), ours.into()))
}

/// The error that an answer is which was not asked for, or that says what failed.
fn unasked(reply: Reply) -> io::Error {
    match reply {
        Reply::Failed(why) => io::Error::other(why),
        _ => io::Error::other("it answered what it was not asked"),
    }
}

/// `TimedOut` from `end` on.
pub(super) fn before(end: Instant) -> io::Result<()> {
    if Instant::now() < end { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) }
}
