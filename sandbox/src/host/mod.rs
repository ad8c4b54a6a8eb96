//! The system calls a program sees (WASI preview 1), over a world that holds nothing: one read-only archive, the three
//! standard streams, a clock that only calls advance, a seeded generator. No call here reaches the operating system, and
//! no answer depends on anything but the program and the calls before.
//!
//! Absent on purpose: writing files, listing folders, sockets, sleeping (the clock jumps), the embedder's environment.

mod bind;
mod calls;
#[cfg(any(test, feature = "fuzz"))]
mod exercise;
mod guest;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub(crate) use bind::imports;
#[cfg(feature = "fuzz")]
pub use exercise::exercise;
use guest::{Errno, Guest, Result};

use crate::capture::Capture;

/// The descriptor on which the driver inside the interpreter reports how a program ended (`python/driver.py`). A program
/// can write to it as well, and thereby lie about its own value or error, as it could by printing; the driver's report
/// comes last and replaces what was there.
const REPORT: u32 = 3;
/// The folder with the archive, as the guest sees it.
const LIB: &str = "/usr/local/lib";
const LIB_FD: u32 = 4;
const FIRST_FREE_FD: u32 = 5;
const MAX_FD: u32 = 64;
/// Nanoseconds of a clock reading: each reading is later than the last.
const TICK: u64 = 1000;
/// 2024-01-01T00:00:00Z, when every program starts.
const EPOCH: u64 = 1_704_067_200_000_000_000;

/// What an open descriptor is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Fd {
    Stdin,
    Stdout,
    Stderr,
    Report,
    Lib,
    Archive { pos: u64 },
}

/// The part of the host that a snapshot keeps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    fds: BTreeMap<u32, Fd>,
    clock: u64,
    random: u64,
}

impl Default for State {
    fn default() -> Self {
        let fds = [Fd::Stdin, Fd::Stdout, Fd::Stderr, Fd::Report, Fd::Lib];
        State { fds: (0..).zip(fds).collect(), clock: 1_000_000_000, random: 0x9E37_79B9_7F4A_7C15 }
    }
}

/// The read-only archive: its name in `/usr/local/lib` and its bytes.
#[derive(Clone)]
pub struct Archive {
    pub name: String,
    pub data: Arc<dyn AsRef<[u8]> + Send + Sync>,
}

impl Archive {
    fn bytes(&self) -> &[u8] {
        (*self.data).as_ref()
    }
}

/// How a program ended, field by field, as the driver reported it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    fields: BTreeMap<u8, Capture>,
    /// The driver reached its end.
    pub done: bool,
}

impl Report {
    /// A field's text and the bytes left out of it.
    pub fn field(&self, tag: u8) -> Option<(String, usize)> {
        self.fields.get(&tag).map(Capture::finish)
    }

    /// One write: a tag and, for a field, a piece of it. `(` begins a report, `.` ends it.
    fn write(&mut self, tag: u8, bytes: &[u8], limit: usize) {
        match tag {
            b'(' => *self = Report::default(),
            b'.' => self.done = true,
            b'v' | b'k' | b'm' | b'l' | b't' | b'o' => {
                self.fields.entry(tag).or_insert_with(|| Capture::new(limit)).push(bytes);
            }
            _ => {}
        }
    }
}

/// One program's world.
pub struct Host {
    pub state: State,
    archive: Archive,
    env: Vec<String>,
    args: Vec<String>,
    stdin: Vec<u8>,
    stdin_pos: usize,
    limit: usize,
    /// Bytes copied since this was last taken: what a guest pays for.
    pub(crate) moved: u64,
    pub(crate) out: Capture,
    pub(crate) err: Capture,
    pub report: Report,
    /// The status of `proc_exit`, once called.
    pub exit: Option<i32>,
}

impl Host {
    pub fn new(archive: Archive) -> Host {
        let text = |list: &[&str]| list.iter().map(|s| s.to_string()).collect();
        Host {
            state: State::default(),
            archive,
            env: text(&[
                "HOME=/",
                "NO_COLOR=1",
                "PYTHONDONTWRITEBYTECODE=1",
                "PYTHONHASHSEED=0",
                "PYTHONTZPATH=",
                "PYTHON_COLORS=0",
                "TMPDIR=/tmp",
            ]),
            args: text(&["python"]),
            stdin: Vec::new(),
            stdin_pos: 0,
            limit: 0,
            moved: 0,
            out: Capture::default(),
            err: Capture::default(),
            report: Report::default(),
            exit: None,
        }
    }

    /// A new call: `stdin` to read, at most `limit` bytes kept of each stream.
    ///
    /// A session's earlier block may have closed its streams; the next has its own.
    pub fn begin(&mut self, stdin: Vec<u8>, limit: usize) {
        self.state.fds.extend((0..).zip([Fd::Stdin, Fd::Stdout, Fd::Stderr]));
        self.stdin = stdin;
        self.stdin_pos = 0;
        self.limit = limit;
        self.out = Capture::new(limit);
        self.err = Capture::new(limit);
        self.report = Report::default();
        self.exit = None;
    }

    fn fd(&self, fd: u32) -> Result<&Fd> {
        self.state.fds.get(&fd).ok_or(Errno::BADF)
    }

    fn lib(&self, fd: u32) -> Result<()> {
        match self.fd(fd)? {
            Fd::Lib => Ok(()),
            _ => Err(Errno::NOTDIR),
        }
    }

    /// Whether `path` under [`LIB`] is the archive (true) or the folder itself (false).
    fn resolve(&self, g: &Guest, path: u32, len: u32) -> Result<bool> {
        if len > 4096 {
            return Err(Errno::NAMETOOLONG);
        }
        let path = std::str::from_utf8(g.bytes(path, len)?).map_err(|_| Errno::NOENT)?;
        let mut parts = Vec::new();
        for part in path.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    parts.pop().ok_or(Errno::NOTCAPABLE)?;
                }
                part => parts.push(part),
            }
        }
        match parts.as_slice() {
            _ if path.starts_with('/') => Err(Errno::NOTCAPABLE),
            [] => Ok(false),
            [name] if *name == self.archive.name => Ok(true),
            _ => Err(Errno::NOENT),
        }
    }

    fn random(&mut self) -> u64 {
        // xorshift64*
        let x = &mut self.state.random;
        *x ^= *x >> 12;
        *x ^= *x << 25;
        *x ^= *x >> 27;
        x.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    // ---- the calls, named as WASI names them

    pub fn args_get(&mut self, g: &mut Guest, pointers: u32, buffer: u32) -> Result<()> {
        g.strings(&self.args, pointers, buffer)
    }

    pub fn args_sizes_get(&mut self, g: &mut Guest, count: u32, bytes: u32) -> Result<()> {
        sizes(&self.args, g, count, bytes)
    }

    pub fn environ_get(&mut self, g: &mut Guest, pointers: u32, buffer: u32) -> Result<()> {
        g.strings(&self.env, pointers, buffer)
    }

    pub fn environ_sizes_get(&mut self, g: &mut Guest, count: u32, bytes: u32) -> Result<()> {
        sizes(&self.env, g, count, bytes)
    }

    pub fn clock_res_get(&mut self, g: &mut Guest, clock: u32, out: u32) -> Result<()> {
        if clock > 3 {
            return Err(Errno::INVAL);
        }
        g.put_u64(out, TICK)
    }

    pub fn clock_time_get(&mut self, g: &mut Guest, clock: u32, out: u32) -> Result<()> {
        if clock > 3 {
            return Err(Errno::INVAL);
        }
        self.state.clock = self.state.clock.saturating_add(TICK);
        let epoch = if clock == 0 { EPOCH } else { 0 };
        g.put_u64(out, self.state.clock.saturating_add(epoch))
    }

    pub fn fd_close(&mut self, fd: u32) -> Result<()> {
        self.fd(fd)?;
        // The folder and the report stay: a program that closed them would only take its own value away.
        if fd != LIB_FD && fd != REPORT {
            self.state.fds.remove(&fd);
        }
        Ok(())
    }

    pub fn fd_fdstat_get(&mut self, g: &mut Guest, fd: u32, out: u32) -> Result<()> {
        let mut stat = [0u8; 24];
        stat[0] = file_type(self.fd(fd)?);
        // Every right there is. wasi-libc knows a terminal by its lack of the right to seek, and these are none.
        stat[8..24].fill(0xFF);
        g.put(out, &stat)
    }

    pub fn fd_filestat_get(&mut self, g: &mut Guest, fd: u32, out: u32) -> Result<()> {
        let fd = self.fd(fd)?;
        // Of a stream: the bytes that passed or wait; of the report, what was printed, for the driver to see.
        let size = match fd {
            Fd::Stdin => (self.stdin.len() - self.stdin_pos) as u64,
            Fd::Stdout | Fd::Report => self.out.total(),
            Fd::Stderr => self.err.total(),
            Fd::Archive { .. } => self.archive.bytes().len() as u64,
            Fd::Lib => 0,
        };
        g.put(out, &file_stat(file_type(fd), size))
    }

    pub fn fd_prestat_get(&mut self, g: &mut Guest, fd: u32, out: u32) -> Result<()> {
        if *self.fd(fd)? != Fd::Lib && fd != REPORT {
            return Err(Errno::BADF);
        }
        // wasi-libc reads descriptors from 3 upwards until one is refused; the report must not end that walk, so it
        // poses as a folder whose name no path begins with.
        let len = if fd == REPORT { 1 } else { LIB.len() };
        g.put_u32(out, 0)?;
        g.put_u32(Guest::element(out, 1, 4)?, len as u32)
    }

    pub fn fd_prestat_dir_name(&mut self, g: &mut Guest, fd: u32, at: u32, len: u32) -> Result<()> {
        if *self.fd(fd)? != Fd::Lib && fd != REPORT {
            return Err(Errno::BADF);
        }
        let name = if fd == REPORT { "\u{1}" } else { LIB };
        let len = (len as usize).min(name.len());
        g.put(at, &name.as_bytes()[..len])
    }

    pub fn fd_pread(
        &mut self,
        g: &mut Guest,
        fd: u32,
        (buffers, n): (u32, u32),
        offset: u64,
        read: u32,
    ) -> Result<()> {
        let Fd::Archive { .. } = self.fd(fd)? else {
            return Err(Errno::SPIPE);
        };
        let (buffers, _) = g.buffers(buffers, n)?;
        let count = g.scatter(&buffers, after(self.archive.bytes(), offset))?;
        self.moved += u64::from(count);
        g.put_u32(read, count)
    }

    pub fn fd_read(&mut self, g: &mut Guest, fd: u32, (buffers, n): (u32, u32), read: u32) -> Result<()> {
        let kind = self.fd(fd)?.clone();
        let (buffers, _) = g.buffers(buffers, n)?;
        let count = match kind {
            Fd::Stdin => {
                let count = g.scatter(&buffers, &self.stdin[self.stdin_pos..])?;
                self.stdin_pos += count as usize;
                count
            }
            Fd::Archive { pos } => {
                let count = g.scatter(&buffers, after(self.archive.bytes(), pos))?;
                let pos = pos.saturating_add(count.into());
                self.state.fds.insert(fd, Fd::Archive { pos });
                count
            }
            _ => return Err(Errno::BADF),
        };
        self.moved += u64::from(count);
        g.put_u32(read, count)
    }

    pub fn fd_seek(&mut self, g: &mut Guest, fd: u32, offset: i64, whence: u32, out: u32) -> Result<()> {
        let Fd::Archive { pos } = *self.fd(fd)? else {
            return Err(Errno::SPIPE);
        };
        let base = match whence {
            0 => 0,
            1 => pos,
            2 => self.archive.bytes().len() as u64,
            _ => return Err(Errno::INVAL),
        };
        let pos = base.checked_add_signed(offset).ok_or(Errno::INVAL)?;
        self.state.fds.insert(fd, Fd::Archive { pos });
        g.put_u64(out, pos)
    }

    pub fn fd_tell(&mut self, g: &mut Guest, fd: u32, out: u32) -> Result<()> {
        match *self.fd(fd)? {
            Fd::Archive { pos } => g.put_u64(out, pos),
            _ => Err(Errno::SPIPE),
        }
    }

    pub fn fd_write(&mut self, g: &mut Guest, fd: u32, (buffers, n): (u32, u32), written: u32) -> Result<()> {
        let kind = self.fd(fd)?.clone();
        let (buffers, total) = g.buffers(buffers, n)?;
        // What a stream does not keep is not copied.
        self.moved += u64::from(total).min(self.limit as u64);
        for &(ptr, len) in &buffers {
            let bytes = g.bytes(ptr, len)?;
            match kind {
                Fd::Stdout => self.out.push(bytes),
                Fd::Stderr => self.err.push(bytes),
                Fd::Report => {
                    if let Some((tag, bytes)) = bytes.split_first() {
                        self.report.write(*tag, bytes, self.limit);
                    }
                }
                _ => return Err(Errno::BADF),
            }
        }
        g.put_u32(written, total)
    }

    pub fn fd_readdir(&mut self, g: &mut Guest, fd: u32, used: u32) -> Result<()> {
        self.lib(fd)?;
        g.put_u32(used, 0)
    }

    pub fn path_filestat_get(
        &mut self,
        g: &mut Guest,
        fd: u32,
        (path, len): (u32, u32),
        out: u32,
    ) -> Result<()> {
        self.lib(fd)?;
        let stat = match self.resolve(g, path, len)? {
            true => file_stat(REGULAR, self.archive.bytes().len() as u64),
            false => file_stat(DIRECTORY, 0),
        };
        g.put(out, &stat)
    }

    pub fn path_open(
        &mut self,
        g: &mut Guest,
        fd: u32,
        (path, len): (u32, u32),
        flags: u32,
        out: u32,
    ) -> Result<()> {
        const CREATE_OR_TRUNCATE: u32 = 1 | 8;
        const ONLY_FOLDER: u32 = 2;
        self.lib(fd)?;
        let kind = match self.resolve(g, path, len) {
            Ok(true) if flags & ONLY_FOLDER != 0 => return Err(Errno::NOTDIR),
            Ok(_) if flags & CREATE_OR_TRUNCATE != 0 => return Err(Errno::ROFS),
            Ok(true) => Fd::Archive { pos: 0 },
            Ok(false) => Fd::Lib,
            Err(Errno::NOENT) if flags & CREATE_OR_TRUNCATE != 0 => return Err(Errno::ROFS),
            Err(e) => return Err(e),
        };
        let free = |fd: &u32| !self.state.fds.contains_key(fd);
        let new = (FIRST_FREE_FD..MAX_FD).find(free).ok_or(Errno::MFILE)?;
        g.put_u32(out, new)?;
        self.state.fds.insert(new, kind);
        Ok(())
    }

    pub fn path_readlink(&mut self, g: &Guest, fd: u32, (path, len): (u32, u32)) -> Result<()> {
        self.lib(fd)?;
        self.resolve(g, path, len)?;
        Err(Errno::INVAL)
    }

    /// Every subscription is ready at once; a time-out moves the clock instead of waiting.
    pub fn poll_oneoff(
        &mut self,
        g: &mut Guest,
        subscriptions: u32,
        events: u32,
        n: u32,
        count: u32,
    ) -> Result<()> {
        if n == 0 || n > 1024 {
            return Err(Errno::INVAL);
        }
        for i in 0..n {
            let mut sub = [0u8; 48];
            sub.copy_from_slice(g.bytes(Guest::element(subscriptions, i, 48)?, 48)?);
            if sub[8] == 0 {
                let time = u64::from_le_bytes(sub[24..32].try_into().expect("eight bytes"));
                let clock = self.state.clock;
                let absolute = sub[40] & 1 != 0;
                let realtime = sub[16..20] == [0; 4];
                self.state.clock = match absolute {
                    true if realtime => clock.max(time.saturating_sub(EPOCH)),
                    true => clock.max(time),
                    false => clock.saturating_add(time),
                };
            }
            let mut event = [0u8; 32];
            event[..8].copy_from_slice(&sub[..8]);
            event[10] = sub[8];
            g.put(Guest::element(events, i, 32)?, &event)?;
        }
        g.put_u32(count, n)
    }

    pub fn random_get(&mut self, g: &mut Guest, at: u32, len: u32) -> Result<()> {
        for chunk in g.bytes_mut(at, len)?.chunks_mut(8) {
            chunk.copy_from_slice(&self.random().to_le_bytes()[..chunk.len()]);
        }
        self.moved += u64::from(len);
        Ok(())
    }
}

const CHARACTER: u8 = 2;
const DIRECTORY: u8 = 3;
const REGULAR: u8 = 4;

fn file_type(fd: &Fd) -> u8 {
    match fd {
        Fd::Lib => DIRECTORY,
        Fd::Archive { .. } => REGULAR,
        _ => CHARACTER,
    }
}

fn file_stat(kind: u8, size: u64) -> [u8; 64] {
    let mut stat = [0u8; 64];
    (stat[0], stat[8], stat[16], stat[24]) = (1, 7, kind, 1);
    stat[32..40].copy_from_slice(&size.to_le_bytes());
    for time in [40, 48, 56] {
        stat[time..time + 8].copy_from_slice(&EPOCH.to_le_bytes());
    }
    stat
}

fn sizes(list: &[String], g: &mut Guest, count: u32, bytes: u32) -> Result<()> {
    g.put_u32(count, list.len() as u32)?;
    g.put_u32(bytes, list.iter().map(|s| s.len() as u32 + 1).sum())
}

fn after(data: &[u8], offset: u64) -> &[u8] {
    &data[offset.min(data.len() as u64) as usize..]
}
