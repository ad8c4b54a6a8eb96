//! What can go wrong with model files. Every message is one line that names the file, the tensor or
//! field, and the way out where there is one.

use std::io;
use std::path::{Path, PathBuf};

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused to read, write or map a file.
    #[error("{}: {}", .path.display(), describe(.source))]
    Io { path: PathBuf, source: io::Error },
    /// The file is damaged, or is not what its name says.
    #[error("{}: {message}", .path.display())]
    File { path: PathBuf, message: String },
    /// One tensor of a file is missing, damaged or unfit.
    #[error("{}: tensor {tensor}: {message}", .path.display())]
    Tensor { path: PathBuf, tensor: String, message: String },
    /// The file is sound but asks for something this program does not do.
    #[error("{}: {message}", .path.display())]
    Unsupported { path: PathBuf, message: String },
    /// A text or a token id the tokenizer cannot take.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// A batch that a plan cannot take.
    #[error("batch: {0}")]
    Batch(String),
    /// The KV cache has no block left.
    #[error(transparent)]
    Full(#[from] crate::blocks::Full),
    /// A KV cache that cannot hold one context.
    #[error("{0}")]
    KvMemory(String),
    /// A budget that no plan fits, in bytes.
    #[error(
        "a training pass takes at least {least} bytes, of which {given} are left; fewer tokens a batch take less"
    )]
    Memory { least: usize, given: usize },
    /// The graph or its plan refused.
    #[error(transparent)]
    Graph(#[from] toolsmith_graphs::Error),
    /// The model could not be fetched.
    #[error("{0}")]
    Fetch(String),
}

impl Error {
    /// For `map_err`: names the file an I/O error belongs to.
    pub fn io(path: &Path) -> impl FnOnce(io::Error) -> Error + '_ {
        move |source| Error::Io { path: path.to_owned(), source }
    }

    pub(crate) fn file(path: &Path, message: impl Into<String>) -> Error {
        Error::File { path: path.to_owned(), message: message.into() }
    }

    pub(crate) fn tensor(path: &Path, tensor: &str, message: impl Into<String>) -> Error {
        Error::Tensor { path: path.to_owned(), tensor: tensor.to_owned(), message: message.into() }
    }

    pub(crate) fn unsupported(path: &Path, message: impl Into<String>) -> Error {
        Error::Unsupported { path: path.to_owned(), message: message.into() }
    }
}

fn describe(source: &io::Error) -> String {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            format!("{source}; nothing was replaced, free some space and try again")
        }
        _ => source.to_string(),
    }
}
