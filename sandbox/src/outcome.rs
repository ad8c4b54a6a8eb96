//! What became of one program.

use serde::{Deserialize, Serialize};

use crate::Limit;

/// How one call ended. `stdout`, `stderr`, `value`, `error` and `fuel` are the same for the same source, limits and
/// image, on any worker and at any load; so is `limit_hit`, except [`Limit::Wall`] and the death of a worker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// What the program printed, cut in the middle at `Limits::output_bytes`.
    pub stdout: String,
    /// What it wrote to standard error: warnings, not the uncaught error.
    pub stderr: String,
    /// `repr` of the last expression, where nothing was printed and it is not None.
    pub value: Option<String>,
    /// The uncaught error.
    pub error: Option<PythonError>,
    /// Steps taken (`Limits::fuel`).
    pub fuel: u64,
    /// Seconds in the interpreter.
    pub wall_s: f64,
    /// Bytes of linear memory at the end, the interpreter's own included.
    pub memory_peak: u64,
    /// The limit met, if one was.
    pub limit_hit: Option<Limit>,
    /// Bytes left out of `stdout`, `stderr`, `value` and the traceback.
    pub truncated: usize,
}

/// An uncaught Python error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PythonError {
    /// The exception's type, with its module unless that is builtins.
    pub kind: String,
    /// `str` of the exception.
    pub message: String,
    /// The line of the program's source (from 1) that raised it or that led there.
    pub line: Option<u32>,
    /// The last line of the traceback, or the whole where `Limits::traceback` is set.
    pub traceback: String,
}

impl PythonError {
    pub(crate) fn new(kind: &str, message: String) -> Self {
        PythonError { traceback: format!("{kind}: {message}"), kind: kind.into(), message, line: None }
    }
}

impl Outcome {
    /// Whether the program ran to its end without an uncaught error.
    pub fn ok(&self) -> bool {
        self.error.is_none()
    }

    /// The text a model sees: what was printed, then the error; the last expression's value if there is neither; else "".
    pub fn feedback(&self) -> String {
        let mut text = self.stdout.clone();
        if let Some(error) = &self.error {
            if !text.is_empty() && !text.ends_with('\n') {
                text.push('\n');
            }
            text.push_str(&error.traceback);
        } else if text.is_empty() {
            text.push_str(self.value.as_deref().unwrap_or(""));
        }
        text
    }

    /// The outcome of a call whose interpreter is gone.
    pub(crate) fn crashed(message: impl Into<String>) -> Self {
        Outcome {
            error: Some(PythonError::new("SystemError", message.into())),
            limit_hit: Some(Limit::Crash),
            ..Default::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn feedback_is_what_was_printed_then_the_error_else_the_value() {
        let mut o = Outcome::default();
        assert_eq!(o.feedback(), "");
        o.value = Some("42".into());
        assert_eq!(o.feedback(), "42");
        o.stdout = "x".into();
        assert_eq!(o.feedback(), "x");
        o.error = Some(PythonError::new("ValueError", "no".into()));
        assert_eq!(o.feedback(), "x\nValueError: no");
        assert!(!o.ok());
    }
}
