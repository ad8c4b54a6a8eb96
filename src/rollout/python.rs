//! The sandbox as a rollout's tool.

use super::ToolResult;
use crate::config::SandboxConfig;
use toolsmith_sandbox::{Limits, Outcome};

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
