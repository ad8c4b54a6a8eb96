//! Python in wasmer: a source text in, an [`Outcome`] out, bounded and deterministic.
//!
//! ```no_run
//! let mut python = toolsmith_sandbox::Sandbox::builder().build()?;
//! assert_eq!(python.run("print(2**100)").stdout, "1267650600228229401496703205376\n");
//! # Ok::<(), toolsmith_sandbox::SandboxError>(())
//! ```
//!
//! # How it holds together
//! - [`Image`] is CPython compiled once to native code by Cranelift and warmed up once, kept in a cache folder.
//! - [`Sandbox`] maps the warmed memory copy-on-write, runs one program, and drops the pages that it wrote; in this process
//!   or in one of its own.
//! - [`Pool`] runs programs on several of them.
//!
//! # Invariants
//! - The crate knows nothing of language models.
//! - The same source, limits and image give the same `Outcome` (its `wall` apart) on any worker, in any order.
//! - A program reaches nothing of the host: no call of `host` touches the operating system.
//! - Native code is loaded from a file only after its digest was compared.

pub mod bench;
mod builder;
mod capture;
pub mod corpus;
mod engine;
mod error;
mod host;
mod image;
mod immortal;
mod interpreter;
mod limits;
mod memory;
mod meter;
mod outcome;
mod pool;
mod process;
mod sandbox;
mod session;
mod snapshot;
pub mod tool;
mod vm;
mod watchdog;

pub use builder::{Builder, Isolation};
pub use error::SandboxError;
#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub use host::exercise;
pub use image::{Image, ImageStatus, Packages, Progress, Recipe, Source, Stage};
pub use limits::{Limit, Limits};
pub use outcome::{Outcome, PythonError};
pub use pool::{Completion, Job, Pool, Refused};
#[doc(hidden)]
pub use process::confine;
#[cfg(target_os = "linux")]
#[doc(hidden)]
pub use process::confine_zygote;
pub use process::worker_main_if_asked;
pub use sandbox::Sandbox;
pub use session::{Session, Spill};
