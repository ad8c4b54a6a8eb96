//! What a rollout needs from a sandbox.

use super::Error;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::time::Duration;

/// What running a program gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolResult {
    /// What the model is shown.
    pub output: String,
    /// Whether it ran without an error or a limit hit.
    pub ok: bool,
    /// Fuel used.
    pub fuel: u64,
}

/// Runs programs beside the decode loop. The sandbox implements it; tests script it.
///
/// What a program gives may depend on the program only, not on order, workers or time: trajectories are
/// reproducible as far as this holds.
pub trait ToolPool {
    /// Hands a program over. Does not wait.
    fn submit(&self, id: u64, code: String) -> Result<(), Error>;
    /// A finished program, in any order; waits for one at most `wait`. Fails if none can come any more.
    fn poll(&self, wait: Duration) -> Result<Option<(u64, ToolResult)>, Error>;
}

/// A function of the caller's as a tool. It runs in the caller's thread, before the loop goes on.
pub struct Function<F> {
    run: F,
    done: RefCell<VecDeque<(u64, ToolResult)>>,
}

impl<F: Fn(&str) -> ToolResult> Function<F> {
    /// A pool that calls `run` with each program.
    pub fn new(run: F) -> Self {
        Self { run, done: RefCell::default() }
    }
}

impl<F: Fn(&str) -> ToolResult> ToolPool for Function<F> {
    fn submit(&self, id: u64, code: String) -> Result<(), Error> {
        let result = (self.run)(&code);
        self.done.borrow_mut().push_back((id, result));
        Ok(())
    }

    fn poll(&self, _: Duration) -> Result<Option<(u64, ToolResult)>, Error> {
        Ok(self.done.borrow_mut().pop_front())
    }
}
