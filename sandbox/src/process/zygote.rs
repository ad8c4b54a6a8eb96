//! The zygote's side: a process with a warm interpreter, which forks it for each pair of pipes that it is sent.
//!
//! A fork has all memory of the zygote, copy-on-write, and one thread. It is made by `clone` with `CLONE_PARENT`, so that the
//! program that the zygote works for reaps it and sees how it ended, as if it had started it itself. What a fork must not share
//! it replaces: the zygote's streams by its own pipes (the zygote closes those before the next is forked), the page map,
//! which would be the zygote's, and the positions in files, for after a trap wasmer seeks and reads in the code's.
//!
//! The C library's bookkeeping is as `fork` leaves it but for the thread's own number, which only error-checking and robust
//! mutexes use, and nothing here has one.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use super::serve::write;
use super::{Reply, pass};
use crate::SandboxError;
use crate::image::CODE;
use crate::memory::reopen_pagemap;

/// What is found out before the door closes.
pub(super) struct Zygote {
    /// Descriptors beyond the standard streams.
    open: Vec<RawFd>,
}

impl Zygote {
    /// Of this process, which must have one thread: others would be missing in its forks, in the middle of what they do.
    pub fn new() -> io::Result<Zygote> {
        let threads = std::fs::read_dir("/proc/self/task")?.count();
        if threads != 1 {
            return Err(io::Error::other(format!(
                "{threads} threads run in it before its main; there may be one"
            )));
        }
        Ok(Zygote { open: descriptors()? })
    }

    /// Forks a worker for each pair that comes in. True in each of them; false here, when the parent is gone.
    pub fn serve(&self) -> io::Result<bool> {
        // SAFETY: standard input is open as long as the process is.
        let stdin = unsafe { BorrowedFd::borrow_raw(0) };
        while let Some([requests, replies]) = pass::receive(stdin)? {
            match fork() {
                Ok(0) => {
                    put(requests, 0)?;
                    put(replies, 1)?;
                    return Ok(true);
                }
                Ok(pid) => write(&Reply::Forked(pid), &[])?,
                Err(e) => write(&Reply::Failed(format!("it cannot be forked: {e}")), &[])?,
            }
        }
        Ok(false)
    }

    /// Makes a fork's descriptors its own.
    pub fn part(&self) -> io::Result<()> {
        let pagemap = reopen_pagemap()?;
        for fd in self.open.iter().copied().filter(|fd| Some(*fd) != pagemap) {
            // SAFETY: it is not closed while this borrows it; if it was before, `metadata` fails.
            let inherited = unsafe { BorrowedFd::borrow_raw(fd) };
            if rustix::fs::fstat(inherited)
                .is_ok_and(|s| rustix::fs::FileType::from_raw_mode(s.st_mode).is_file())
            {
                put(File::open(format!("/proc/self/fd/{fd}"))?.into(), fd)?;
            }
        }
        Ok(())
    }
}

/// Descriptors beyond the standard streams.
fn descriptors() -> io::Result<Vec<RawFd>> {
    let all = std::fs::read_dir("/proc/self/fd")?;
    let all = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    Ok(all.filter(|fd| *fd > 2).collect())
}

/// Runs `trap` while the code's file in `folder` seems to be empty. At the first trap of a process wasmer reads all of it, for
/// DWARF sections that it does not have, and never again; forks of a process that has done so need not.
pub(super) fn unread<T>(
    folder: &Path,
    trap: impl FnOnce() -> Result<T, SandboxError>,
) -> Result<T, SandboxError> {
    let code = folder.join(CODE);
    let hide = || {
        let real = code.canonicalize()?;
        let mut hidden = Vec::new();
        for fd in descriptors()? {
            if std::fs::read_link(format!("/proc/self/fd/{fd}")).is_ok_and(|file| file == real) {
                // SAFETY: it was open a moment ago, and this process has one thread.
                let kept = unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned()?;
                put(File::open("/dev/null")?.into(), fd)?;
                hidden.push((fd, kept));
            }
        }
        Ok(hidden)
    };
    let hidden = hide().map_err(SandboxError::io(&code))?;
    let done = trap();
    for (fd, kept) in hidden {
        put(kept, fd).map_err(SandboxError::io(&code))?;
    }
    done
}

/// As `fork`, with a child that is the parent's.
fn fork() -> io::Result<libc::pid_t> {
    let flags = libc::CLONE_PARENT | libc::SIGCHLD;
    // SAFETY: this process has one thread (`Zygote::new`), so no lock is held in the copy, and without a stack of its own the
    // child goes on here, in its own memory.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags as libc::c_long, 0, 0, 0, 0) };
    if pid < 0 { Err(io::Error::last_os_error()) } else { Ok(pid as libc::pid_t) }
}

/// Puts an open file in the place of another.
fn put(file: OwnedFd, at: RawFd) -> io::Result<()> {
    let flags = if at > 2 { libc::O_CLOEXEC } else { 0 };
    // SAFETY: both are open, and whoever uses the number wants what it stands for from now on.
    match unsafe { libc::dup3(file.as_fd().as_raw_fd(), at, flags) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
