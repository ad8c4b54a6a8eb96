//! Rollouts: prompts in, trajectories with executed tool calls out.
//!
//! [`rollout`] is the loop: plan a step, run it, sample one token a sequence, read the new text, hand closed
//! calls to the sandbox and put its answers back. The loop waits for the sandbox only when no sequence can
//! compute, and counts that time. Token ids are the only state: text is read from them, never tokenised again.
//!
//! A trajectory (tokens, log-probabilities, calls) depends on the weights, its prompt and its
//! (seed, problem, sample) alone: not on concurrency, slots, KV memory, workers or the order in which they answer.
//! Absent: speculative decoding, parallel calls in one turn.

pub mod dialect;
mod python;
mod run;
pub mod sampler;
pub mod scheduler;
#[cfg(test)]
pub(crate) mod testing;
pub mod text;
pub mod toolbox;
pub mod tools;
pub mod trajectory;

pub use python::python_spec;
pub use run::rollout;
pub use sampler::{Choice, Sampling};
pub use text::{Stream, Text};
pub use toolbox::Toolbox;
pub use tools::{Answer, Call, ToolPool};
pub use toolsmith_sandbox::tool::ToolOutput;
pub use trajectory::{EndReason, Source, Token, ToolCall, Trajectory};

use std::ops::Range;

use crate::config::{Dialect, RolloutConfig};
use toolsmith_models::engine::EngineOptions;
use toolsmith_models::weights::Precision;

/// Positions of a sequence where neither the configuration nor the model says less.
const DEFAULT_CONTEXT: usize = 4096;
/// Tokens a forward step may carry at least: what a prompt is read in.
const MIN_BATCH_TOKENS: usize = 512;

/// Why a rollout failed as a whole.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The model could not compute.
    #[error(transparent)]
    Model(#[from] toolsmith_models::Error),
    /// Text could not be made into token ids.
    #[error("{0}")]
    Text(String),
    /// No tool result can come any more.
    #[error("tools: {0}")]
    Tool(String),
    /// A prompt without a token gives the model nothing to continue.
    #[error("problem {0}: the prompt is empty; check the prompt template")]
    EmptyPrompt(usize),
    /// Logits that are not numbers.
    #[error(
        "problem {problem}, sample {sample}: the model's logits are not finite; its weights have diverged"
    )]
    Diverged {
        /// The problem.
        problem: usize,
        /// The sample.
        sample: usize,
    },
}

impl RolloutConfig {
    /// The prompt template in use: of the built-in ones that offer Python, the one that offers it in this dialect, or
    /// the one that offers none where there is no tool.
    pub fn template(&self, with_tools: bool) -> &str {
        match (self.prompt_template.as_str(), self.dialect) {
            ("default" | "hermes", _) if !with_tools || self.max_turns == 0 => "direct",
            ("default" | "hermes", Dialect::Retool) => "default",
            ("default" | "hermes", Dialect::Hermes) => "hermes",
            (own, _) => own,
        }
    }

    /// Positions a sequence may have on a model that allows `model`.
    pub fn context(&self, model: usize) -> usize {
        let wanted = if self.max_context == 0 { DEFAULT_CONTEXT } else { self.max_context };
        wanted.min(model)
    }

    /// The size of an engine for these rollouts, on a model that allows `model` positions. Parked sequences keep
    /// their slots: half as many more than compute at a time let others compute meanwhile.
    pub fn engine(&self, model: usize, precision: Precision) -> EngineOptions {
        let slots = self.concurrency + self.concurrency.div_ceil(2);
        let max_batch_tokens = slots.max(MIN_BATCH_TOKENS);
        EngineOptions {
            slots,
            max_context: self.context(model),
            max_batch_tokens,
            kv_memory: self.kv_bytes(),
            precision,
        }
    }
}

/// Samples wanted of one prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Names the problem in trajectories and seeds its draws.
    pub problem: usize,
    /// Token ids of the prompt, at least one.
    pub prompt: Vec<u32>,
    /// Which samples: `0..n`, or the missing ones of an interrupted evaluation.
    pub samples: Range<usize>,
    /// Seed of the draws. Sample s of problem p draws from the stream (seed, p, s).
    pub seed: u64,
}

/// What happens while a rollout runs.
#[derive(Debug)]
pub enum Event<'a> {
    /// Once a step.
    Progress(&'a RolloutStats),
    /// A piece of one sequence.
    Sequence {
        /// Its problem.
        problem: usize,
        /// Its sample.
        sample: usize,
        /// What was added.
        part: Part<'a>,
    },
}

/// A piece of a sequence, in the order in which it was written.
#[derive(Debug)]
pub enum Part<'a> {
    /// Text of the model outside a call.
    Text(&'a str),
    /// A call begins.
    CodeStart,
    /// Text of the model inside a call, as written: a program, or the JSON of `<tool_call>`.
    Code(&'a str),
    /// The call is closed and runs if the turn budget allows.
    CodeEnd,
    /// A tool has answered.
    Output(&'a ToolCall),
    /// The sequence has ended; all of it.
    End(&'a Trajectory),
}

/// Whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// Go on.
    Continue,
    /// End every started sequence as cancelled and drop the others.
    Stop,
}

/// What a rollout did. Times are the only figures that differ between two runs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RolloutStats {
    /// Trajectories asked for.
    pub trajectories: usize,
    /// Trajectories ended.
    pub finished: usize,
    /// Tokens sampled.
    pub generated_tokens: usize,
    /// Tokens run through the model that were not sampled: prompts and tool output.
    pub prefill_tokens: usize,
    /// Tokens run once more because their sequence had lost its KV blocks.
    pub recomputed_tokens: usize,
    /// How often a sequence lost its KV blocks to others.
    pub preemptions: usize,
    /// Most KV blocks in use at a time.
    pub kv_blocks_peak: usize,
    /// Forward steps.
    pub steps: usize,
    /// Tool calls run.
    pub tool_calls: usize,
    /// Tool calls that ended in an error or at a limit.
    pub tool_errors: usize,
    /// Prompts too long to write a single token behind.
    pub prompts_too_long: usize,
    /// Duration in seconds.
    pub wall_s: f64,
    /// Seconds in which no sequence could compute because all waited for tools.
    pub decode_idle_s: f64,
    /// Waits that these seconds are made of, each for at least one answer or until the loop looked up.
    pub idle_waits: usize,
}

#[cfg(test)]
mod tests;
