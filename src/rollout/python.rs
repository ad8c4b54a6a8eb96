//! The sandbox's pool as a rollout uses it.

use super::{Answer, Error};
use crate::config::SandboxConfig;
use crossbeam_channel::Receiver;
use toolsmith_sandbox::tool::{self, Spec};
use toolsmith_sandbox::{Builder, Completion, Job, Limits, Pool, Recipe, Sandbox, Session};

impl From<&SandboxConfig> for Limits {
    fn from(c: &SandboxConfig) -> Self {
        Self {
            fuel: c.fuel,
            memory_mb: c.memory_mb,
            output_bytes: c.output_bytes,
            wall_ms: c.wall_ms,
            traceback: c.traceback,
        }
    }
}

impl SandboxConfig {
    /// A sandbox, or a pool of them, as configured.
    pub fn builder(&self) -> Builder {
        let Recipe { packages, preimport } = self.into();
        Sandbox::builder().packages(packages).preimport(preimport).limits(self.into())
    }
}

/// What a prompt says of Python: `stateful`, whether a trajectory's programs share an interpreter.
pub fn python_spec(stateful: bool) -> Spec {
    let spec = tool::python_spec();
    let shared = "Runs a Python program in the interpreter of those before it and returns what it prints.";
    Spec { description: if stateful { shared.into() } else { spec.description }, ..spec }
}

/// A finished program as a tool's answer.
pub(super) fn answer(done: Completion) -> Answer {
    Answer { id: done.id, output: done.outcome.into(), session: done.session }
}

/// A pool of interpreters.
pub(super) struct Workers(Pool);

impl Workers {
    pub fn new(pool: Pool) -> Self {
        Self(pool)
    }

    pub fn submit(&self, id: u64, code: &str, session: Option<Session>) -> Result<(), Error> {
        // A program gives the same whenever it is run, so one whose worker died is run again.
        let job = Job { retry: true, session, ..Job::new(id, code) };
        self.0.submit(job).map_err(|e| Error::Tool(e.to_string()))
    }

    pub fn completions(&self) -> &Receiver<Completion> {
        self.0.completions()
    }

    pub fn cancel(&self, id: u64) {
        self.0.cancel(id);
    }
}
