//! A conversation as token ids: what the model wrote, what a tool answered, and why it ended.
//!
//! Token ids are the only state. Text is derived from them and never tokenised again; the loss mask is
//! derived from the sources and never kept beside them.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Who wrote a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The prompt, as the chat template rendered it.
    Prompt,
    /// Sampled from the policy: the only tokens a loss sees.
    Model,
    /// Output of a tool.
    Tool,
    /// Text around tool output that the dialect dictates, such as `<interpreter>`.
    Template,
}

/// One token with what is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Token {
    /// Vocabulary index.
    pub id: u32,
    /// Natural log-probability under the temperature-scaled distribution, before top-k and top-p.
    /// 0 for tokens that were not sampled.
    pub logprob: f32,
    /// Who wrote it.
    pub source: Source,
}

/// Why a trajectory ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// A final answer was closed (`\boxed{…}`) and the stop on answers is set.
    Answered,
    /// The model ended its turn.
    EndOfTurn,
    /// `max_completion_length` tokens in one turn.
    TokenBudget,
    /// `max_turns` tool calls were used up.
    TurnBudget,
    /// The KV slot is full.
    ContextFull,
    /// The caller cancelled.
    Cancelled,
}

impl EndReason {
    /// Whether a budget cut the trajectory off (what `mask_truncated_completions` looks at).
    pub fn truncated(self) -> bool {
        matches!(self, Self::TokenBudget | Self::ContextFull)
    }
}

/// One tool call inside a trajectory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolCall {
    /// The tool's name; empty where the text means no call.
    pub tool: String,
    /// Its arguments as the model gave them (Python's are `{"code": …}`); the text where it means no call.
    pub arguments: Value,
    /// What the tool answered, before the dialect's wrapping and before any cut to fit.
    pub output: String,
    /// Whether it ran without an error or a limit hit.
    pub ok: bool,
    /// Bytes of output left out because they did not fit.
    pub cut: usize,
    /// Fuel used (the sandbox's deterministic measure of work).
    pub fuel: u64,
}

/// A finished rollout of one prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trajectory {
    /// Index of the problem in the request.
    pub problem: usize,
    /// Index of this sample among the problem's samples.
    pub sample: usize,
    /// All tokens, prompt first.
    pub tokens: Vec<Token>,
    /// Tool calls in order.
    pub calls: Vec<ToolCall>,
    /// Why it ended.
    pub end: EndReason,
}

impl Trajectory {
    /// Loss mask `[tokens]`: true where the policy wrote the token.
    pub fn mask(&self) -> impl Iterator<Item = bool> + '_ {
        self.tokens.iter().map(|t| t.source == Source::Model)
    }

    /// Ids from the model only, in order (what an answer is read from).
    pub fn model_ids(&self) -> Vec<u32> {
        self.tokens.iter().filter(|t| t.source == Source::Model).map(|t| t.id).collect()
    }
}
