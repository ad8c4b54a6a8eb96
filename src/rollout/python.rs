//! The sandbox as a rollout's tool.

use super::{Error, ToolPool, ToolResult};
use crate::config::SandboxConfig;
use crossbeam_channel::RecvTimeoutError;
use std::time::Duration;
use toolsmith_sandbox::{Job, Limits, Outcome, Pool};

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

impl From<Outcome> for ToolResult {
    fn from(outcome: Outcome) -> Self {
        Self { output: outcome.feedback(), ok: outcome.ok(), fuel: outcome.fuel }
    }
}

impl ToolPool for Pool {
    fn submit(&self, id: u64, code: String) -> Result<(), Error> {
        let job = Job { retry: true, ..Job::new(id, code) };
        Pool::submit(self, job).map_err(|e| Error::Tool(e.to_string()))
    }

    fn poll(&self, wait: Duration) -> Result<Option<(u64, ToolResult)>, Error> {
        match self.completions().recv_timeout(wait) {
            Ok(done) => Ok(Some((done.id, done.outcome.into()))),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(Error::Tool("every worker has stopped".into())),
        }
    }
}
