//! What became of one program.

use serde::{Deserialize, Serialize};

use crate::Limit;

/// How one call ended. All but `wall` is the same for the same source, limits and image, on any worker and at any load; except
/// where the call did not end by itself: [`Limit::Wall`], [`Limit::Lost`] and [`Limit::Cancelled`] depend on the machine.
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
    /// Steps taken, of [`Limits::fuel`](crate::Limits::fuel); 0 where the interpreter's process died.
    pub fuel: u64,
    /// Seconds from the call's start to its end, bringing the interpreter up where it had to be included, waiting for a
    /// worker not.
    pub wall: f64,
    /// The most linear memory the call had, in bytes, the interpreter's own included; 0 where its process died.
    pub memory_peak: u64,
    /// The limit met, if one was.
    pub limit_hit: Option<Limit>,
    /// Bytes left out of `stdout`, `stderr`, `value` and the traceback.
    pub truncated: usize,
}

/// An uncaught Python error, or one of the same form that stands for a limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PythonError {
    /// The exception's type, with its module unless that is builtins; serialised as `type`.
    #[serde(rename = "type")]
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

    /// The outcome of a call that met `limit` and left nothing else.
    pub(crate) fn ended(limit: Limit, kind: &str, message: impl Into<String>) -> Self {
        Outcome {
            error: Some(PythonError::new(kind, message.into())),
            limit_hit: Some(limit),
            ..Default::default()
        }
    }

    /// The outcome of a call whose interpreter is gone.
    pub(crate) fn crashed(message: impl Into<String>) -> Self {
        Outcome::ended(Limit::Crash, "SystemError", message)
    }

    /// The outcome of a call that no interpreter was there for, or that lost it for a reason of the machine's.
    pub(crate) fn lost(message: impl Into<String>) -> Self {
        Outcome::ended(Limit::Lost, "SystemError", message)
    }

    /// The outcome of a call that its caller gave up.
    pub(crate) fn cancelled() -> Self {
        Outcome::ended(Limit::Cancelled, "CancelledError", "the call was cancelled")
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

    /// The names that other programs read.
    #[test]
    fn serialised_under_the_documented_names() {
        let error = PythonError::new("ValueError", "no".into());
        let outcome = Outcome {
            stdout: "é\n".into(),
            stderr: "w".into(),
            value: Some("42".into()),
            error: Some(PythonError { line: Some(3), ..error }),
            fuel: u64::MAX,
            wall: 0.25,
            memory_peak: 1 << 40,
            limit_hit: Some(Limit::Cancelled),
            truncated: 7,
        };
        let json = serde_json::to_value(&outcome).unwrap();
        let expected = serde_json::json!({
            "stdout": "é\n", "stderr": "w", "value": "42",
            "error": {"type": "ValueError", "message": "no", "line": 3, "traceback": "ValueError: no"},
            "fuel": u64::MAX, "wall": 0.25, "memory_peak": 1u64 << 40, "limit_hit": "cancelled", "truncated": 7,
        });
        assert_eq!(json, expected);
        assert_eq!(serde_json::from_value::<Outcome>(json).unwrap(), outcome);
    }
}
