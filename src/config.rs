//! The run's configuration: plain serde structs whose comments are the manual.
//!
//! `toolsmith config` prints them as commented TOML; `toolsmith train --help` lists them as dotted flags.
//! Reading, overriding and checking live in `config/` beside this file.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use toolsmith_models::weights::Precision;
use toolsmith_sandbox::{Packages, Recipe};

mod load;
mod print;
mod schema;
mod size;

pub use load::{ConfigError, PRESETS, nearest_key};
pub use schema::{Key, Kind, Schema, Section, schema};

/// Everything a run is made of.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The run itself: seed, threads, where it writes.
    pub run: RunConfig,
    /// The policy.
    pub model: ModelConfig,
    /// Problems to learn from and to evaluate on.
    pub data: DataConfig,
    /// How responses are sampled, in training and in evaluation.
    pub rollout: RolloutConfig,
    /// Python, and the limits of one call.
    pub sandbox: SandboxConfig,
    /// Cold start: supervised fine-tuning on tool-call traces.
    pub sft: SftConfig,
    /// Reinforcement learning.
    pub rl: RlConfig,
    /// Evaluation before and after each stage.
    pub eval: EvalConfig,
}

/// The run itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RunConfig {
    /// Seed of everything random: weights, problems, sampling, order.
    pub seed: u64,
    /// Threads for kernels; 0 means all cores. Results do not depend on it.
    pub threads: usize,
    /// Write a checkpoint every so many steps of a stage.
    pub save_steps: usize,
    /// Keep at most this many checkpoints.
    pub save_total_limit: usize,
    /// Memory for weights, moments, gradients, activations and the sampler, such as `8GB`: as many layers as it takes compute their activations again in the backward pass. Empty means half of the machine's. Results do not depend on it.
    pub memory_limit: String,
}

impl RunConfig {
    /// [`RunConfig::memory_limit`] in bytes; `None` if it is no amount, or empty on a machine that does not say what it has.
    pub fn memory(&self) -> Option<usize> {
        match self.memory_limit.as_str() {
            "" => crate::learn::memory::machine().map(|bytes| (bytes / 2) as usize),
            text => size::bytes(text),
        }
    }
}

impl Default for RunConfig {
    fn default() -> Self {
        Self { seed: 0, threads: 0, save_steps: 20, save_total_limit: 2, memory_limit: String::new() }
    }
}

/// Weight and matmul precision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// bf16 weights and matmul inputs, f32 sums.
    #[default]
    Bf16,
    /// f32 throughout, for comparison with references.
    F32,
}

impl Dtype {
    /// `bf16` or `f32`.
    pub fn name(self) -> &'static str {
        match self {
            Dtype::Bf16 => "bf16",
            Dtype::F32 => "f32",
        }
    }
}

impl From<Dtype> for Precision {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::Bf16 => Self::Bf16,
            Dtype::F32 => Self::F32,
        }
    }
}

/// The policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    /// Hugging Face directory or `.gguf` file; empty makes the small policy described by the fields below.
    pub path: String,
    /// Precision of weights and matmul inputs.
    pub dtype: Dtype,
    /// Width of the small policy's residual stream.
    pub hidden_size: usize,
    /// Width of its feed-forward layers.
    pub intermediate_size: usize,
    /// Number of its layers.
    pub num_hidden_layers: usize,
    /// Number of its attention heads.
    pub num_attention_heads: usize,
    /// Number of its key/value heads.
    pub num_key_value_heads: usize,
    /// Base of its rotary embedding.
    pub rope_theta: f64,
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            path: String::new(),
            dtype: Dtype::Bf16,
            hidden_size: 128,
            intermediate_size: 384,
            num_hidden_layers: 4,
            num_attention_heads: 4,
            num_key_value_heads: 4,
            rope_theta: 10_000.0,
        }
    }
}

/// Problems to learn from and to evaluate on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// JSONL file of problems (`prompt`, `problem` or `question`, and `answer`); empty generates integer arithmetic.
    pub train: String,
    /// JSONL file of held-out problems; empty takes `eval_size` generated ones, or the last `eval_size` of `train`, at most a fifth of it.
    pub eval: String,
    /// Number of held-out problems.
    pub eval_size: usize,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self { train: String::new(), eval: String::new(), eval_size: 200 }
    }
}

/// How a tool call is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Dialect {
    /// ReTool (arXiv 2504.11536): `<code>…</code>`, answered by `<interpreter>…</interpreter>`.
    #[default]
    Retool,
    /// Hermes: `<tool_call>{"name": "python", "arguments": {"code": …}}</tool_call>`, answered by a tool message.
    Hermes,
}

/// How responses are sampled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RolloutConfig {
    /// How tool calls are written.
    pub dialect: Dialect,
    /// Prompt template: `default` (offers Python in the dialect, or nothing where the tool is off), `plain` (the bare problem), `tiny` (the small policy's), or a minijinja file with the variable `problem`.
    pub prompt_template: String,
    /// Tools offered beside Python: WebAssembly modules (`.wasm`, or `.wat` as text) with the interface that the sandbox's README describes. The limits are the sandbox's.
    pub tools: Vec<String>,
    /// Let a trajectory's programs share one interpreter, so that variables stay from call to call; else each starts afresh.
    pub stateful: bool,
    /// Tool calls a trajectory may make; 0 switches the tools off.
    pub max_turns: usize,
    /// Tokens the model may write in one turn (between two tool outputs).
    pub max_completion_length: usize,
    /// Tokens of tool output inserted at most; longer output is cut in the middle and marked.
    pub max_tool_output: usize,
    /// Positions of a sequence, prompt included; 0 takes what the model allows, at most 4096.
    pub max_context: usize,
    /// Sequences decoded at a time.
    pub concurrency: usize,
    /// Memory of the sampler's keys and values, such as `512MB`: where it runs out, the youngest sequences lose theirs and compute them again later. Empty is enough for every sequence to fill its context. Results do not depend on it.
    pub kv_memory: String,
    /// Softmax temperature; 0 is greedy.
    pub temperature: f32,
    /// Keep the k most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the smallest set of tokens with this probability; 1 keeps all.
    pub top_p: f32,
    /// Stop as soon as a `\boxed{…}` is closed.
    pub stop_at_answer: bool,
    /// Sandbox workers; 0 means one a core.
    pub tool_workers: usize,
}

impl RolloutConfig {
    /// [`RolloutConfig::kv_memory`] in bytes; `None` if it is empty or no amount.
    pub fn kv_bytes(&self) -> Option<u64> {
        size::bytes(&self.kv_memory).map(|bytes| bytes as u64)
    }
}

impl Default for RolloutConfig {
    fn default() -> Self {
        Self {
            dialect: Dialect::Retool,
            prompt_template: "default".into(),
            tools: Vec::new(),
            stateful: false,
            max_turns: 4,
            max_completion_length: 512,
            max_tool_output: 256,
            max_context: 0,
            concurrency: 32,
            kv_memory: String::new(),
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            stop_at_answer: false,
            tool_workers: 0,
        }
    }
}

/// Which packages a program finds beside the standard library.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImageKind {
    /// sympy, mpmath, numpy and networkx; compiled once, in less than a minute on two cores.
    #[default]
    Math,
    /// scipy, pandas, statsmodels, scikit-learn and more besides; compiled once, in some minutes and 1.5 GB of memory.
    Full,
}

/// Python, and the limits of one call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SandboxConfig {
    /// The Python image.
    pub image: ImageKind,
    /// Modules every program finds imported already, beside those the image imports by itself, such as `["scipy.optimize"]`. Each set of them is an image of its own, prepared once.
    pub preimport: Vec<String>,
    /// Fuel: loop iterations and calls of the interpreter, and what it copies. What makes a time-out reproducible.
    pub fuel: u64,
    /// Memory in MiB, the interpreter's own (about 100, more with pre-imports) included.
    pub memory_mb: u32,
    /// Bytes of output kept.
    pub output_bytes: usize,
    /// Wall clock in milliseconds, the second wall behind fuel.
    pub wall_ms: u64,
    /// Show the model the whole traceback instead of its last line.
    pub traceback: bool,
}

impl Default for SandboxConfig {
    fn default() -> Self {
        Self {
            image: ImageKind::Math,
            preimport: Vec::new(),
            fuel: 2_000_000_000,
            memory_mb: 256,
            output_bytes: 65_536,
            wall_ms: 20_000,
            traceback: false,
        }
    }
}

impl From<&SandboxConfig> for Recipe {
    fn from(c: &SandboxConfig) -> Self {
        let packages = match c.image {
            ImageKind::Math => Packages::Math,
            ImageKind::Full => Packages::Full,
        };
        Self { packages, preimport: c.preimport.clone() }
    }
}

/// AdamW and its schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerConfig {
    /// Peak learning rate.
    pub learning_rate: f32,
    /// Share of the steps over which the rate rises from 0.
    pub warmup_ratio: f32,
    /// The rate falls by a cosine to this share of the peak; 1 keeps it constant.
    pub min_lr_ratio: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// First-moment decay.
    pub beta1: f32,
    /// Second-moment decay.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub epsilon: f32,
    /// Gradients are scaled down to this global norm; 0 leaves them.
    pub max_grad_norm: f32,
    /// What the moments are kept in.
    pub moments: MomentType,
}

/// What AdamW's moments are kept in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MomentType {
    /// 8 bytes a parameter.
    #[default]
    F32,
    /// 4 bytes a parameter; rounded so that none is stuck, the same from run to run.
    Bf16,
}

impl From<MomentType> for Precision {
    fn from(moments: MomentType) -> Self {
        match moments {
            MomentType::Bf16 => Self::Bf16,
            MomentType::F32 => Self::F32,
        }
    }
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            learning_rate: 1e-6,
            warmup_ratio: 0.0,
            min_lr_ratio: 1.0,
            weight_decay: 0.0,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            max_grad_norm: 1.0,
            moments: MomentType::F32,
        }
    }
}

/// Cold start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SftConfig {
    /// Optimizer steps; 0 skips the stage.
    pub steps: usize,
    /// Traces a step.
    pub batch_size: usize,
    /// Share of the generated traces that call the tool; the others go straight to an answer.
    pub tool_share: f32,
    /// JSONL file of traces (`prompt` and `completion`); empty generates them.
    pub data: String,
    /// Its optimizer.
    pub optimizer: OptimizerConfig,
}

impl Default for SftConfig {
    fn default() -> Self {
        Self {
            steps: 0,
            batch_size: 64,
            tool_share: 0.5,
            data: String::new(),
            optimizer: OptimizerConfig {
                learning_rate: 2e-3,
                warmup_ratio: 0.05,
                min_lr_ratio: 0.05,
                ..Default::default()
            },
        }
    }
}

/// How advantages are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    /// PPO with a critic and GAE carried across tool tokens (arXiv 1707.06347, 1506.02438).
    #[default]
    Ppo,
    /// Rewards relative to the group of samples of one prompt (arXiv 2402.03300).
    Grpo,
}

/// How a mini-batch's token losses become one number. Denominators are the whole mini-batch's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Aggregation {
    /// Mean over all masked-in tokens (DAPO).
    #[default]
    TokenMean,
    /// Mean over a sequence's tokens, then over sequences (GRPO).
    SeqMeanTokenMean,
    /// Sum over a sequence's tokens, then mean over sequences.
    SeqMeanTokenSum,
    /// Sum over tokens divided by sequences × `max_completion_length` (Dr. GRPO).
    SeqMeanTokenSumNorm,
}

/// Reinforcement learning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RlConfig {
    /// How advantages are made.
    pub algorithm: Algorithm,
    /// Rollout-and-update steps; 0 skips the stage.
    pub steps: usize,
    /// Problems a step.
    pub prompts_per_step: usize,
    /// Samples of each problem (GRPO's group).
    pub num_generations: usize,
    /// Passes over a step's trajectories.
    pub num_iterations: usize,
    /// Mini-batches (optimizer steps) a pass, each of whole problems: all samples of one are in the same.
    pub num_mini_batches: usize,
    /// Tokens that a micro-batch runs at most, what samples of a problem begin with counted once: bounds memory, does not
    /// change the gradient.
    pub micro_batch_tokens: usize,
    /// The ratio is clipped from below at 1 − this.
    pub clip_range_low: f32,
    /// The ratio is clipped from above at 1 + this (DAPO's clip-higher).
    pub clip_range_high: f32,
    /// Dual clip for negative advantages; 0 switches it off.
    pub dual_clip: f32,
    /// Clip of the value around its old estimate; 0 switches it off.
    pub cliprange_value: f32,
    /// Discount.
    pub gamma: f32,
    /// GAE's λ.
    pub lam: f32,
    /// Weight of KL(π‖π_ref) (k3) in the loss; 0 needs no reference model.
    pub kl_coef: f32,
    /// How token losses are averaged.
    pub loss_aggregation: Aggregation,
    /// Shift and scale advantages to mean 0 and deviation 1 over the mask (PPO).
    pub whiten_advantages: bool,
    /// Divide group advantages by the group's deviation (GRPO; Dr. GRPO does not).
    pub scale_rewards: bool,
    /// Leave trajectories that a budget cut off out of the loss.
    pub mask_truncated_completions: bool,
    /// Steps at the start in which only the critic learns.
    pub critic_warmup: usize,
    /// The policy's optimizer.
    pub optimizer: OptimizerConfig,
    /// The critic's optimizer.
    pub critic_optimizer: OptimizerConfig,
}

impl Default for RlConfig {
    fn default() -> Self {
        Self {
            algorithm: Algorithm::Ppo,
            steps: 0,
            prompts_per_step: 16,
            num_generations: 8,
            num_iterations: 1,
            num_mini_batches: 1,
            micro_batch_tokens: 4096,
            clip_range_low: 0.2,
            clip_range_high: 0.28,
            dual_clip: 0.0,
            cliprange_value: 0.0,
            gamma: 1.0,
            lam: 1.0,
            kl_coef: 0.0,
            loss_aggregation: Aggregation::TokenMean,
            whiten_advantages: true,
            scale_rewards: true,
            mask_truncated_completions: false,
            critic_warmup: 0,
            optimizer: OptimizerConfig::default(),
            critic_optimizer: OptimizerConfig { learning_rate: 2e-6, ..Default::default() },
        }
    }
}

/// Evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EvalConfig {
    /// Samples a problem.
    pub samples: usize,
    /// Temperature while evaluating; 0 is greedy.
    pub temperature: f32,
    /// Evaluate every so many reinforcement steps; 0 only before and after each stage.
    pub every: usize,
}

impl Default for EvalConfig {
    fn default() -> Self {
        Self { samples: 1, temperature: 1.0, every: 0 }
    }
}
