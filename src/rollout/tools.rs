//! What a rollout needs from its tools.

use super::Error;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::time::Duration;
use toolsmith_sandbox::tool::ToolOutput;

/// The tool that `<code>` calls.
pub const PYTHON: &str = "python";

/// A call as the model wrote it.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// The tool's name.
    pub tool: String,
    /// Its arguments, not checked yet.
    pub arguments: Value,
}

impl Call {
    /// A call of Python.
    pub fn python(code: impl Into<String>) -> Self {
        Self { tool: PYTHON.into(), arguments: json!({"code": code.into()}) }
    }

    /// The program, in a call that has one.
    pub fn code(&self) -> Option<&str> {
        self.arguments["code"].as_str()
    }
}

/// Runs calls beside the decode loop. [`Toolbox`](super::Toolbox) is the one to use; tests script others.
///
/// What a call gives may depend on the call only, not on order, workers or time: trajectories are reproducible as far
/// as this holds.
pub trait ToolPool {
    /// Hands a call over. Does not wait. What is wrong with the call itself comes back as its output.
    fn submit(&self, id: u64, call: Call) -> Result<(), Error>;
    /// A finished call, in any order; waits for one at most `wait`. Fails if none can come any more.
    fn poll(&self, wait: Duration) -> Result<Option<(u64, ToolOutput)>, Error>;
    /// Nobody waits for this call any more.
    fn cancel(&self, _id: u64) {}
    /// Whether there are tools beside Python, so that a dialect whose calls are code listens for theirs too.
    fn beside_python(&self) -> bool {
        false
    }
}

/// A function of the caller's in place of all tools. It runs in the caller's thread, before the loop goes on.
pub struct Function<F> {
    run: F,
    done: RefCell<VecDeque<(u64, ToolOutput)>>,
}

impl<F: Fn(&Call) -> ToolOutput> Function<F> {
    /// A pool that calls `run` with each call.
    pub fn new(run: F) -> Self {
        Self { run, done: RefCell::default() }
    }
}

impl<F: Fn(&Call) -> ToolOutput> ToolPool for Function<F> {
    fn submit(&self, id: u64, call: Call) -> Result<(), Error> {
        let output = (self.run)(&call);
        self.done.borrow_mut().push_back((id, output));
        Ok(())
    }

    fn poll(&self, _: Duration) -> Result<Option<(u64, ToolOutput)>, Error> {
        Ok(self.done.borrow_mut().pop_front())
    }
}
