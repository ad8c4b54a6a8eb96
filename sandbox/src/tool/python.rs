//! Python as a tool: a program as its one argument.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};

use crossbeam_channel::{Sender, bounded, select};
use serde_json::{Value, json};

use super::{Cancel, Spec, Tool, ToolOutput};
use crate::{Builder, Completion, Job, Outcome, Pool, SandboxError};

/// What a caller needs to know of Python.
pub fn spec() -> Spec {
    let schema = json!({
        "type": "object",
        "properties": {"code": {"type": "string", "description": "The program."}},
        "required": ["code"],
    });
    let description = "Runs a Python program in a fresh interpreter and returns what it prints.";
    Spec { name: "python".into(), description: description.into(), schema }
}

/// Python, a fresh interpreter a call, in a [`Pool`] that is started when it is first needed. It takes a waiting thread a
/// call; a caller that has none to spare uses the pool itself.
pub struct Python {
    spec: Spec,
    builder: Builder,
    workers: usize,
    pool: Mutex<Option<Arc<Pool>>>,
    next: AtomicU64,
    /// Where the outcomes of running calls go.
    waiting: Mutex<BTreeMap<u64, Sender<Outcome>>>,
}

impl Python {
    /// Python as `builder` makes it, at most `workers` (at least 1) calls at a time. Nothing is prepared yet.
    pub fn new(builder: Builder, workers: usize) -> Self {
        let (pool, next, waiting) = Default::default();
        Python { spec: spec(), builder, workers, pool, next, waiting }
    }

    fn pool(&self) -> Result<Arc<Pool>, SandboxError> {
        let mut pool = self.pool.lock().expect("nothing panics with it held");
        if let Some(pool) = &*pool {
            return Ok(pool.clone());
        }
        let made = Arc::new(self.builder.clone().pool(self.workers)?);
        Ok(pool.insert(made).clone())
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<u64, Sender<Outcome>>> {
        self.waiting.lock().expect("nothing panics with it held")
    }

    /// Hands an outcome to the call that waits for it.
    fn route(&self, done: Completion) {
        if let Some(caller) = self.waiting().remove(&done.id) {
            // There is room for the one outcome of a call.
            let _ = caller.send(done.outcome);
        }
    }

    fn run(&self, pool: Arc<Pool>, code: &str, cancel: &Cancel) -> ToolOutput {
        let id = self.next.fetch_add(1, Relaxed);
        let (send, own) = bounded(1);
        self.waiting().insert(id, send);
        // A program gives the same whenever it is run, so one whose worker died is run again.
        if let Err(refused) = pool.submit(Job { retry: true, ..Job::new(id, code) }) {
            self.waiting().remove(&id);
            return ToolOutput::error(refused);
        }
        let running = pool.clone();
        let _hook = cancel.on_fire(move || {
            running.cancel(id);
        });
        // Whoever waits takes what comes: its own, or another's that it passes on.
        loop {
            select! {
                recv(own) -> outcome => match outcome {
                    Ok(outcome) => return outcome.into(),
                    Err(_) => return ToolOutput::error("the sandbox is gone"),
                },
                recv(pool.completions()) -> done => match done {
                    Ok(done) => self.route(done),
                    Err(_) => return ToolOutput::error("every worker has stopped"),
                },
            }
        }
    }
}

impl Tool for Python {
    fn name(&self) -> &str {
        &self.spec.name
    }

    fn description(&self) -> &str {
        &self.spec.description
    }

    fn schema(&self) -> Value {
        self.spec.schema.clone()
    }

    /// Prepares the image and starts the pool.
    fn prepare(&self) -> Result<(), SandboxError> {
        self.pool().map(drop)
    }

    fn call(&self, arguments: &Value, cancel: &Cancel) -> ToolOutput {
        if cancel.is_fired() {
            return ToolOutput::cancelled();
        }
        let Some(code) = arguments["code"].as_str() else {
            return ToolOutput::error("`code` is missing");
        };
        match self.pool() {
            Ok(pool) => self.run(pool, code, cancel),
            Err(e) => ToolOutput::error(e),
        }
    }
}
