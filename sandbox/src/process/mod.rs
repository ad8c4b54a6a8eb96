//! A worker process, from both ends of its pipes: [`Worker`] in the program that uses it, [`worker_main_if_asked`] in it.
//!
//! On Linux workers are forked. The executable is started again once, as a zygote that loads the image, warms an interpreter up
//! and then forks a worker for each pair of pipes that it is sent ([`Nursery`] keeps it, `zygote` is its side): what it has in
//! memory, its workers share until they write to it. They are nevertheless the program's own children, not the zygote's.
//! Elsewhere the executable is started again for each worker.
//!
//! A message is two little-endian u32 lengths and as many bytes: JSON ([`Request`] to the worker, [`Reply`] back), then the
//! bytes of a session where the call has one. What a program prints never reaches these pipes: the host keeps it.

mod child;
mod confine;
mod nursery;
#[cfg(target_os = "linux")]
mod pass;
mod serve;
mod worker;
#[cfg(target_os = "linux")]
mod zygote;

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{Limits, Outcome};

#[doc(hidden)]
pub use confine::confine;
#[cfg(target_os = "linux")]
#[doc(hidden)]
pub use confine::confine_zygote;
pub(crate) use nursery::Nursery;
pub use serve::worker_main_if_asked;
pub(crate) use worker::Worker;

/// Bytes of the two lengths.
const PREFIX: usize = 8;
/// The argument that makes an executable a worker.
const ASK: &str = "__toolsmith_sandbox_worker";

#[derive(Debug, Serialize, Deserialize)]
enum Request {
    /// What the process is for; its first message.
    Begin { image: PathBuf, limits: Limits },
    /// A program, with a session where `session` is set.
    Run { source: String, session: bool },
    /// End the running program, if one is.
    Cancel,
}

#[derive(Debug, Serialize, Deserialize)]
enum Reply {
    /// The worker is up; or the zygote.
    Ready,
    /// It will not be.
    Failed(String),
    /// The zygote's: the number of the worker that it forked.
    #[cfg(target_os = "linux")]
    Forked(i32),
    /// A program's, with its session where it had one. After the `last` the worker ends.
    Done { outcome: Outcome, last: bool },
}

/// The message as it travels.
fn frame(head: &impl Serialize, body: &[u8]) -> io::Result<Vec<u8>> {
    let head = serde_json::to_vec(head)?;
    let mut message = Vec::with_capacity(PREFIX + head.len() + body.len());
    for part in [head.as_slice(), body] {
        let len = u32::try_from(part.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        message.extend(len.to_le_bytes());
    }
    message.extend(head);
    message.extend(body);
    Ok(message)
}

/// The lengths of a message's parts.
fn lengths(prefix: [u8; PREFIX]) -> (usize, usize) {
    let [a, b, c, d, rest @ ..] = prefix;
    (u32::from_le_bytes([a, b, c, d]) as usize, u32::from_le_bytes(rest) as usize)
}
