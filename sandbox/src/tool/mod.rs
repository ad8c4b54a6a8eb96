//! Tools called by name with JSON arguments: Python, WebAssembly modules, Rust closures.
//!
//! | limit | [`Python`] | [`WasmTool`] | [`Closure`] |
//! |---|---|---|---|
//! | `fuel` | counted in compiled code | counted in compiled code | not counted: native code cannot be |
//! | `memory_mb` | cap on linear memory | cap on linear memory | not capped |
//! | `output_bytes` | what was printed is cut in the middle | the result is cut in the middle | the result is cut in the middle |
//! | `wall_ms` | the interpreter is interrupted | the instance is interrupted | its result is abandoned |
//! | [`Cancel`] | as the wall clock | as the wall clock | as the wall clock, and it sees the token |
//!
//! A call never panics and never takes longer than its limits say. What a call gives depends on its arguments alone, for
//! Python and modules by construction, for closures as far as they keep to it.
//!
//! ```
//! use serde_json::json;
//! use toolsmith_sandbox::tool::{Cancel, Closure, Tools};
//!
//! let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
//!     "required": ["a", "b"]});
//! let gcd = Closure::new("gcd", "Greatest common divisor.", schema, |arguments, _| {
//!     let (mut a, mut b) = (arguments["a"].as_i64().unwrap(), arguments["b"].as_i64().unwrap());
//!     while b != 0 {
//!         (a, b) = (b, a % b);
//!     }
//!     a.abs().to_string()
//! });
//! let mut tools = Tools::new();
//! tools.add(gcd)?;
//! let output = tools.call("gcd", &json!({"a": 12, "b": 18}), &Cancel::new());
//! assert_eq!((output.text.as_str(), output.ok), ("6", true));
//! let output = tools.call("gcd", &json!({"a": 12}), &Cancel::new());
//! assert_eq!(output.text, "Error: bad arguments for `gcd`: `b` is missing");
//! # Ok::<(), toolsmith_sandbox::tool::ToolError>(())
//! ```

mod cancel;
mod closure;
mod python;
mod schema;
mod set;
mod wasm;

use std::fmt::Display;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::capture::Capture;
use crate::{Limit, Limits, Outcome, SandboxError};

pub use cancel::{Cancel, Hook};
pub use closure::Closure;
pub use python::{Python, spec as python_spec};

pub use set::{Spec, Tools, resolve};
pub use wasm::WasmTool;
#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub use wasm::exercise;

/// Something that can be called by name with JSON arguments. Calls may come from several threads at once.
pub trait Tool: Send + Sync {
    /// What it is called by: 1 to 64 letters, digits, `_` and `-`.
    fn name(&self) -> &str;
    /// What it does, for whoever decides to call it.
    fn description(&self) -> &str;
    /// JSON Schema of the arguments, an object. [`Spec::check`] says which keywords are checked before a call.
    fn schema(&self) -> Value;
    /// Makes ready what the first call needs. [`call`](Tool::call) does so by itself, but can only show a failure as the
    /// call's: a caller that asks here first learns of it as what it is.
    ///
    /// # Errors
    /// What is missing, in one line.
    fn prepare(&self) -> Result<(), SandboxError> {
        Ok(())
    }
    /// Runs one call to its end, to a limit, or to soon after `cancel` is fired. `arguments` were checked against the
    /// schema by whoever calls through [`Tools`]; a tool must withstand others.
    fn call(&self, arguments: &Value, cancel: &Cancel) -> ToolOutput;
}

/// How one call ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolOutput {
    /// What the caller is shown: the result, or one that begins with `Error:`.
    pub text: String,
    /// Whether it ran to its end without an error.
    pub ok: bool,
    /// Steps taken (`Limits::fuel`); 0 for tools whose steps cannot be counted.
    pub fuel: u64,
    /// The limit met, if one was.
    pub limit_hit: Option<Limit>,
}

impl ToolOutput {
    /// A failed call, shown as `Error: ` and the reason.
    pub fn error(reason: impl Display) -> Self {
        ToolOutput { text: format!("Error: {reason}"), ..Default::default() }
    }

    pub(crate) fn at_limit(limit: Limit, reason: impl Display) -> Self {
        ToolOutput { limit_hit: Some(limit), ..ToolOutput::error(reason) }
    }

    pub(crate) fn cancelled() -> Self {
        ToolOutput::at_limit(Limit::Cancelled, "the call was cancelled")
    }

    /// The text cut as `limits` say.
    pub(crate) fn cut(mut self, limits: &Limits) -> Self {
        if self.text.len() > limits.output_bytes {
            let mut capture = Capture::new(limits.output_bytes);
            capture.push(self.text.as_bytes());
            self.text = capture.finish().0;
            self.limit_hit = self.limit_hit.or(Some(Limit::Output));
        }
        self
    }
}

/// A result.
impl From<String> for ToolOutput {
    fn from(text: String) -> Self {
        ToolOutput { text, ok: true, ..Default::default() }
    }
}

/// A result.
impl From<&str> for ToolOutput {
    fn from(text: &str) -> Self {
        ToolOutput::from(text.to_owned())
    }
}

/// A result, or a failed call.
impl<T: Into<ToolOutput>, E: Display> From<Result<T, E>> for ToolOutput {
    fn from(result: Result<T, E>) -> Self {
        result.map_or_else(ToolOutput::error, Into::into)
    }
}

/// What a program printed, or its error; see [`Outcome::feedback`].
impl From<Outcome> for ToolOutput {
    fn from(outcome: Outcome) -> Self {
        ToolOutput {
            text: outcome.feedback(),
            ok: outcome.ok(),
            fuel: outcome.fuel,
            limit_hit: outcome.limit_hit,
        }
    }
}

/// Why a tool cannot be used. A failing call is a [`ToolOutput`], never an error.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// A module that is not what [`WasmTool`] takes.
    #[error("{tool}: {why}")]
    Module { tool: String, why: String },
    /// A file that cannot be read.
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    /// A name no one can call.
    #[error("tool name {0:?}: 1 to 64 letters, digits, `_` and `-` are possible")]
    Name(String),
    /// A schema that means nothing.
    #[error("tool `{tool}`: its schema is no JSON Schema of an object: {why}")]
    Schema { tool: String, why: String },
    /// Two tools of one name.
    #[error("there are two tools named `{0}`; a name can be given once")]
    Duplicate(String),
    /// Limits under which nothing runs.
    #[error(transparent)]
    Limits(#[from] SandboxError),
}
