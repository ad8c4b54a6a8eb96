//! What runs inside a worker process, and on Linux in the zygote before it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::mem::ManuallyDrop;
use std::os::fd::FromRawFd;
use std::sync::Arc;

#[cfg(target_os = "linux")]
use super::confine::confine_zygote;
use super::confine::{close_others, confine};
#[cfg(target_os = "linux")]
use super::zygote::Zygote;
use super::{ASK, PREFIX, Reply, Request, frame, lengths};
use crate::interpreter::Interpreter;
use crate::watchdog::Stop;
use crate::{Image, Outcome, SandboxError, Session};

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
    // SAFETY: changes the disposition of a signal.
    unsafe { libc::signal(libc::SIGINT, libc::SIG_IGN) };
    close_others();
    let Some((Request::Begin { image, limits }, _)) = read()? else {
        return Ok(());
    };
    let warm = || -> Result<_, SandboxError> {
        let mut interpreter = Interpreter::new(&Image::trusted(&image)?, &limits)?;
        #[cfg(target_os = "linux")]
        super::zygote::unread(&image, || interpreter.warm("import os\nos.abort()"))?;
        interpreter.warm("")?;
        Ok(interpreter)
    };
    let mut interpreter = match warm() {
        Ok(interpreter) => interpreter,
        Err(e) => return refuse(e),
    };
    #[cfg(target_os = "linux")]
    {
        name(c"sandbox-zygote");
        let zygote = Zygote::new().and_then(|zygote| confine_zygote().map(|()| zygote));
        let zygote = match zygote {
            Ok(zygote) => zygote,
            Err(e) => return refuse(e),
        };
        write(&Reply::Ready, &[])?;
        if !zygote.serve()? {
            return Ok(());
        }
        name(c"sandbox-worker");
        if let Err(e) = zygote.part() {
            return refuse(e);
        }
    }
    // What a call opens or starts once a process is opened and started before the door closes.
    interpreter.watch();
    match confine(&limits) {
        Ok(()) => write(&Reply::Ready, &[])?,
        Err(e) => return refuse(e),
    }
    work(interpreter)
}

fn refuse(why: impl std::fmt::Display) -> io::Result<()> {
    write(&Reply::Failed(why.to_string()), &[])
}

/// This process's name in `ps`.
#[cfg(target_os = "linux")]
fn name(name: &std::ffi::CStr) {
    // SAFETY: a string of less than 16 bytes.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

fn work(mut interpreter: Interpreter) -> io::Result<()> {
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
        // A new instance would take some megabytes of its own, and another fork shares the zygote's.
        let last = cfg!(target_os = "linux") && !interpreter.is_up();
        write(&Reply::Done { outcome, last }, &body.unwrap_or_default())?;
        if last {
            break;
        }
        // In the parent's time, not in the next call's.
        let _ = interpreter.ready();
    }
    Ok(())
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

pub(super) fn write(reply: &Reply, body: &[u8]) -> io::Result<()> {
    stream(1).write_all(&frame(reply, body)?)
}
