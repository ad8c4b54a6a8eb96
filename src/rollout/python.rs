//! The sandbox's pool as a rollout uses it.

use super::{Error, ToolOutput};
use crate::config::SandboxConfig;
use crossbeam_channel::Receiver;
use toolsmith_sandbox::{Builder, Completion, Job, Limits, Pool, Recipe, Sandbox};

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

/// A finished program as a tool's answer.
pub(super) fn output(done: Completion) -> (u64, ToolOutput) {
    (done.id, done.outcome.into())
}

/// A pool of interpreters.
pub(super) struct Workers(Pool);

impl Workers {
    pub fn new(pool: Pool) -> Self {
        Self(pool)
    }

    pub fn submit(&self, id: u64, code: &str) -> Result<(), Error> {
        // A program gives the same whenever it is run, so one whose worker died is run again.
        let job = Job { retry: true, ..Job::new(id, code) };
        self.0.submit(job).map_err(|e| Error::Tool(e.to_string()))
    }

    pub fn completions(&self) -> &Receiver<Completion> {
        self.0.completions()
    }

    pub fn cancel(&self, id: u64) {
        self.0.cancel(id);
    }
}
