//! What a call may use.

use serde::{Deserialize, Serialize};

use crate::SandboxError;

/// The limits of one call. A call that meets one ends, and its [`Outcome`](crate::Outcome) says which.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Steps a program may take: loop iterations of the interpreter, its indirect and recursive calls, and one for every
    /// 16 bytes that it copies in bulk. The same program takes the same number everywhere, so this is what makes a
    /// time-out reproducible. A second of Python is about 2.5e8.
    pub fuel: u64,
    /// Linear memory in MiB, the warmed interpreter's own (104) included. Beyond it Python raises MemoryError.
    pub memory_mb: u32,
    /// Bytes kept of stdout, of stderr, and of the value and the traceback; what is longer is cut in the middle.
    pub output_bytes: usize,
    /// Wall clock in milliseconds: the wall behind fuel, for what fuel undercounts. Not reproducible, so keep it
    /// far above the time that `fuel` takes.
    pub wall_ms: u64,
    /// Report an uncaught error as its whole traceback, not as the last line of it.
    pub traceback: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            fuel: 1_000_000_000,
            memory_mb: 512,
            output_bytes: 16 * 1024,
            wall_ms: 60_000,
            traceback: false,
        }
    }
}

impl Limits {
    /// Rejects limits under which no program could run: less memory than the snapshot's `pages` (64 KiB each), no time.
    pub(crate) fn check(&self, pages: usize) -> Result<(), SandboxError> {
        let least = least_memory(pages) as usize;
        if (self.memory_mb as usize) < least || self.memory_mb > 4095 {
            return Err(SandboxError::Limits {
                field: "memory_mb",
                why: format!("{} is not between {least} and 4095", self.memory_mb),
            });
        }
        for (field, zero) in [("fuel", self.fuel == 0), ("wall_ms", self.wall_ms == 0)] {
            if zero {
                return Err(SandboxError::Limits { field, why: "must be above 0".into() });
            }
        }
        Ok(())
    }
}

/// The least [`Limits::memory_mb`] under which a snapshot of so many pages runs.
pub(crate) fn least_memory(pages: usize) -> u32 {
    pages.div_ceil(16) as u32 + 1
}

/// The limit that a call met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// It took more steps than `fuel`.
    Fuel,
    /// It asked for more than `memory_mb` and failed for it.
    Memory,
    /// It wrote more than `output_bytes`. The program still ran to its end.
    Output,
    /// It took longer than `wall_ms`.
    Wall,
    /// The interpreter died of the program: an abort, a trap, a signal that a fault raises.
    Crash,
    /// The worker process died in the middle, or none could be started. It says nothing of the program, which may be run again.
    Lost,
    /// The caller gave the call up.
    Cancelled,
}
