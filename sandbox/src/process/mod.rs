//! A worker process, from both ends of its pipes: [`Worker`] in the program that uses it, [`worker_main_if_asked`] in it.
//!
//! A message is two little-endian u32 lengths and as many bytes: JSON ([`Request`] to the worker, [`Reply`] back), then the
//! bytes of a session where the call has one. What a program prints never reaches these pipes: the host keeps it.

mod child;
mod confine;
mod serve;
mod worker;

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{Limits, Outcome};

#[doc(hidden)]
pub use confine::confine;
pub use serve::worker_main_if_asked;
pub(crate) use worker::Worker;

/// Bytes of the two lengths.
const PREFIX: usize = 8;
/// The argument that makes an executable a worker.
const ASK: &str = "__toolsmith_sandbox_worker";

#[derive(Debug, Serialize, Deserialize)]
enum Request {
    /// What the worker is for; the first message.
    Begin { image: PathBuf, limits: Limits },
    /// A program, with a session where `session` is set.
    Run { source: String, session: bool },
    /// End the running program, if one is.
    Cancel,
}

#[derive(Debug, Serialize, Deserialize)]
enum Reply {
    /// The worker is up.
    Ready,
    /// It will not be.
    Failed(String),
    /// A program's, with its session where it had one.
    Done(Outcome),
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
