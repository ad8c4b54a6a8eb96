//! What a rollout needs from its tools.

use super::Error;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::time::Duration;
use toolsmith_sandbox::Session;
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

/// A finished call.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// What it was handed over with.
    pub id: u64,
    /// What it gave.
    pub output: ToolOutput,
    /// The session it was handed over with, advanced if the call was a program.
    pub session: Option<Session>,
}

/// Runs calls beside the decode loop. [`Toolbox`](super::Toolbox) is the one to use; tests script others.
///
/// What a call gives may depend on the call and its session only, not on order, workers or time: trajectories are
/// reproducible as far as this holds.
pub trait ToolPool {
    /// Hands a call over; a program goes on in `session`, or in a fresh interpreter where there is none. Does not wait. What is
    /// wrong with the call itself comes back as its output.
    fn submit(&self, id: u64, call: Call, session: Option<Session>) -> Result<(), Error>;
    /// A finished call, in any order; waits for one at most `wait`. Fails if none can come any more.
    fn poll(&self, wait: Duration) -> Result<Option<Answer>, Error>;
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
    done: RefCell<VecDeque<Answer>>,
}

impl<F: Fn(&Call) -> ToolOutput> Function<F> {
    /// A pool that calls `run` with each call.
    pub fn new(run: F) -> Self {
        Self { run, done: RefCell::default() }
    }
}

impl<F: Fn(&Call) -> ToolOutput> ToolPool for Function<F> {
    fn submit(&self, id: u64, call: Call, session: Option<Session>) -> Result<(), Error> {
        let output = (self.run)(&call);
        self.done.borrow_mut().push_back(Answer { id, output, session });
        Ok(())
    }

    fn poll(&self, _: Duration) -> Result<Option<Answer>, Error> {
        Ok(self.done.borrow_mut().pop_front())
    }
}
