//! What runs inside a worker process.

use std::fs::File;
use std::io::{self, Read, Write};
use std::mem::ManuallyDrop;
use std::os::fd::FromRawFd;
use std::sync::Arc;

use super::confine::{close_others, confine};
use super::{ASK, PREFIX, Reply, Request, frame, lengths};
use crate::interpreter::Interpreter;
use crate::watchdog::Stop;
use crate::{Image, Limits, Outcome, SandboxError, Session};

/// Makes this process a sandbox worker, and never returns, if it was started as one by a
/// [`Pool`](crate::Pool) or a [`Sandbox`](crate::Sandbox); else returns at once. The first thing in `main` of a program that
/// uses [`Isolation::Process`](crate::Isolation).
pub fn worker_main_if_asked() {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|a| a == ASK) && arguments.next().is_none() {
        let status = if serve().is_ok() { 0 } else { 1 };
        // SAFETY: ends the process, without what a library may have left to be done then.
        unsafe { libc::_exit(status) };
    }
}

fn serve() -> io::Result<()> {
    // Ctrl-C, which a terminal sends to both, is for the parent.
    // SAFETY: changes the disposition of a signal, and this process's name in `ps`.
    unsafe {
        libc::signal(libc::SIGINT, libc::SIG_IGN);
        #[cfg(target_os = "linux")]
        libc::prctl(libc::PR_SET_NAME, c"sandbox-worker".as_ptr());
    }
    close_others();
    let Some((Request::Begin { image, limits }, _)) = read()? else {
        return Ok(());
    };
    let ready = Image::trusted(&image).and_then(|image| begin(&image, &limits));
    let mut interpreter = match ready {
        Ok(interpreter) => interpreter,
        Err(e) => return write(&Reply::Failed(e.to_string()), &[]),
    };
    write(&Reply::Ready, &[])?;
    let stop: Stop = Arc::new(told_to_stop);
    while let Some((request, body)) = read()? {
        let Request::Run { source, session } = request else {
            // A cancellation that came too late.
            continue;
        };
        let mut session = match session {
            true => Some(Session::from_bytes(&body)?),
            false => None,
        };
        let outcome = interpreter.call(&source, session.as_mut(), &stop);
        let outcome = outcome.unwrap_or_else(|e| Outcome::lost(e.to_string()));
        let body = session.map(|s| s.to_bytes()).transpose()?;
        write(&Reply::Done(outcome), &body.unwrap_or_default())?;
        // In the parent's time, not in the next call's.
        let _ = interpreter.ready();
    }
    Ok(())
}

/// An interpreter in a process that can do nothing else any more. What a call opens or starts once a process is opened and
/// started by a call before the door closes.
fn begin(image: &Image, limits: &Limits) -> Result<Interpreter, SandboxError> {
    let mut interpreter = Interpreter::new(image, limits)?;
    let never: Stop = Arc::new(|| false);
    interpreter.call("", None, &never)?;
    interpreter.ready()?;
    confine(limits).map_err(SandboxError::io("the worker's confinement".as_ref()))?;
    Ok(interpreter)
}

/// Whether the parent wants the running call to end: its next word can be nothing else. Ends the process if the parent is gone.
fn told_to_stop() -> bool {
    let mut poll = libc::pollfd { fd: 0, events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd, of standard input; and leaving.
    unsafe {
        libc::poll(&mut poll, 1, 0);
        if poll.revents & libc::POLLHUP != 0 {
            libc::_exit(0);
        }
    }
    poll.revents & libc::POLLIN != 0
}

/// A standard stream without std's buffer and lock.
fn stream(fd: i32) -> ManuallyDrop<File> {
    // SAFETY: the descriptor is open as long as the process is, and never closed here.
    ManuallyDrop::new(unsafe { File::from_raw_fd(fd) })
}

/// The next request, or none at the end of the stream.
fn read() -> io::Result<Option<(Request, Vec<u8>)>> {
    let mut stdin = stream(0);
    let mut prefix = [0; PREFIX];
    match stdin.read_exact(&mut prefix) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let (head, body) = lengths(prefix);
    let mut message = vec![0; head + body];
    stdin.read_exact(&mut message)?;
    let body = message.split_off(head);
    Ok(Some((serde_json::from_slice(&message)?, body)))
}

fn write(reply: &Reply, body: &[u8]) -> io::Result<()> {
    stream(1).write_all(&frame(reply, body)?)
}
