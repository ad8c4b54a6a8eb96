//! A model with tools, for programs that embed one.
//!
//! The façade over [`rollout()`]: one conversation at a time, streamed. What trains and evaluates many sequences
//! at once uses [`rollout()`] itself. Absent: conversations of several user turns.
//!
//! ```
//! use toolsmith::{Agent, AgentEvent, random_model};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     // A Hugging Face directory or a .gguf file; here a model of random weights, which talks nonsense.
//!     let model = random_model(&std::env::temp_dir().join("toolsmith-random-model"), 0)?;
//!     let mut agent = Agent::builder(model).max_tokens(64).build()?;
//!     let reply = agent.run("What is 7919 to the power of 3?", |event| match event {
//!         AgentEvent::Text(text) | AgentEvent::Code(text) => print!("{text}"),
//!         AgentEvent::Output(output, _) => println!("\n> {output}"),
//!         AgentEvent::Answer(answer) => println!("\nAnswer: {answer}"),
//!     })?;
//!     println!("{} tool calls", reply.trajectory.calls.len());
//!     Ok(())
//! }
//! ```
//!
//! Python is there unless [`no_tools`](AgentBuilder::no_tools) takes it away. Others stand beside it, or in its place:
//!
//! ```
//! use serde_json::json;
//! use toolsmith::config::Dialect;
//! use toolsmith::tool::{Closure, WasmTool};
//! use toolsmith::{Agent, Limits, random_model};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let model = random_model(&std::env::temp_dir().join("toolsmith-random-model"), 0)?;
//! let schema = json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]});
//! let weather = Closure::new("weather", "The weather in a city now.", schema, |arguments, _| {
//!     match arguments["city"].as_str() {
//!         Some("Oslo") => Ok("4 degrees, rain"),
//!         city => Err(format!("no station in {city:?}")),
//!     }
//! });
//! let collatz = WasmTool::open("examples/tools/collatz.wat".as_ref(), &Limits::default())?;
//! let agent = Agent::builder(&model).dialect(Dialect::Hermes).tool(weather).tool(collatz).build()?;
//! let names: Vec<&str> = agent.tools().iter().map(|t| t.name.as_str()).collect();
//! assert_eq!(names, ["python", "weather", "collatz"]);
//! # Ok(())
//! # }
//! ```

use crate::chat::{self, Chat};
use crate::config::{Dialect, Dtype, RolloutConfig, SandboxConfig};
use crate::rollout::tools::PYTHON;
use crate::rollout::{
    self, Control, EndReason, Event, Part, Request, ToolPool, Toolbox, Trajectory, rollout,
};
use crate::task::answer;
use serde_json::json;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use toolsmith_models::config::ModelConfig;
use toolsmith_models::convert::ModelSource;
use toolsmith_models::engine::{Engine, EngineOptions};
use toolsmith_models::live::TrainingState;
use toolsmith_models::tokenizer::Tokenizer;
use toolsmith_models::weights::{Precision, Weights};
use toolsmith_sandbox::tool::{self, Cancel, Spec, Tool, ToolError, Tools};
use toolsmith_sandbox::{Image, SandboxError};

/// Tokens a forward step carries at most while a prompt is read.
const PREFILL: usize = 512;

/// Why an agent could not be made, or did not answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The model could not be opened.
    #[error(transparent)]
    Model(#[from] toolsmith_models::Error),
    /// Python could not be prepared.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The prompt could not be made.
    #[error(transparent)]
    Prompt(#[from] chat::Error),
    /// A tool that cannot be offered.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// The model or a tool failed on the way.
    #[error(transparent)]
    Rollout(#[from] rollout::Error),
}

/// What an agent does, as it does it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum AgentEvent<'a> {
    /// Text of the model.
    Text(&'a str),
    /// Text of the model inside a tool call.
    Code(&'a str),
    /// A tool's answer, and whether it ran without an error.
    Output(&'a str, bool),
    /// The content of the last box, once the model has finished.
    Answer(&'a str),
}

/// What came of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// Everything the model wrote, tool calls included, tool output not.
    pub text: String,
    /// The content of its last `\boxed{…}`.
    pub answer: Option<String>,
    /// All tokens with their sources, and the tool calls.
    pub trajectory: Trajectory,
}

impl Reply {
    /// Why the model stopped.
    pub fn end(&self) -> EndReason {
        self.trajectory.end
    }
}

/// Lets a callback return nothing.
impl From<()> for Control {
    fn from((): ()) -> Self {
        Self::Continue
    }
}

/// How an agent is put together.
pub struct AgentBuilder {
    model: PathBuf,
    cache: PathBuf,
    dtype: Dtype,
    seed: u64,
    rollout: RolloutConfig,
    python: bool,
    sandbox: SandboxConfig,
    tools: Vec<Arc<dyn Tool>>,
    cancel: Cancel,
}

impl AgentBuilder {
    /// Python, and the limits of its calls. Other tools bring their own limits.
    pub fn limits(mut self, limits: &SandboxConfig) -> Self {
        self.sandbox = limits.clone();
        self
    }

    /// Offers a tool, beside Python and those offered before. One named `python`, such as
    /// [`Closure::python`](crate::tool::Closure::python) makes of a function of a program, takes Python's place.
    pub fn tool(mut self, tool: impl Tool + 'static) -> Self {
        self.tools.push(Arc::new(tool));
        self
    }

    /// Takes Python away, and the tools offered so far. Without any tool, a call ends the reply.
    pub fn no_tools(mut self) -> Self {
        self.python = false;
        self.tools.clear();
        self
    }

    /// A token by which another thread ends a run, in the middle of a tool's call too. Once fired it ends every further
    /// run soon after it has begun.
    pub fn cancel(mut self, cancel: &Cancel) -> Self {
        self.cancel = cancel.clone();
        self
    }

    /// Softmax temperature; 0, the default, is greedy.
    pub fn temperature(mut self, temperature: f32) -> Self {
        self.rollout.temperature = temperature;
        self
    }

    /// Tokens the model may write between two tool outputs.
    pub fn max_tokens(mut self, tokens: usize) -> Self {
        self.rollout.max_completion_length = tokens;
        self
    }

    /// How tool calls are written; the default prompt says so.
    pub fn dialect(mut self, dialect: Dialect) -> Self {
        self.rollout.dialect = dialect;
        self
    }

    /// Everything else about sampling at once.
    pub fn sampling(mut self, config: RolloutConfig) -> Self {
        self.rollout = config;
        self
    }

    /// Seed of the draws at a temperature above 0.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Precision of weights and matmul inputs; bf16 by default.
    pub fn dtype(mut self, dtype: Dtype) -> Self {
        self.dtype = dtype;
        self
    }

    /// Opens the model. Python is prepared when the model first calls it; where a conversation's programs share an interpreter
    /// (`rollout.stateful`), here.
    ///
    /// # Errors
    /// If the model, its tokenizer, a template or a tool is not as it should be.
    pub fn build(self) -> Result<Agent, Error> {
        let mut tools = Tools::new();
        let mut pool = None;
        if self.python && self.tools.iter().all(|t| t.name() != PYTHON) {
            // One conversation makes one call at a time.
            let builder = self.sandbox.builder().cache(&self.cache);
            match self.rollout.stateful {
                true => pool = Some(builder.pool(1)?),
                false => tools.add(tool::Python::new(builder, 1))?,
            }
        }
        for tool in self.tools {
            tools.add_shared(tool)?;
        }
        let none = tools.is_empty() && pool.is_none();
        let tools =
            if none { None } else { Some(Toolbox::new(pool, tools, 1)?.stateful(self.rollout.stateful)) };
        let specs = tools.as_ref().map_or(&[][..], Toolbox::specs);
        let source = ModelSource::open(&self.model, &self.cache)?;
        let precision = self.dtype.into();
        let weights = source.weights(precision)?;
        let max_context = self.rollout.context(source.config.max_position_embeddings);
        let options =
            EngineOptions { slots: 1, max_context, max_batch_tokens: PREFILL, kv_memory: None, precision };
        Ok(Agent {
            engine: Engine::new(&source.config, options)?,
            chat: Chat::load(self.rollout.template(tools.is_some()), &source.tokenizer)?.with_tools(specs),
            tokenizer: source.tokenizer,
            weights,
            tools,
            cancel: self.cancel,
            rollout: self.rollout,
            seed: self.seed,
            runs: 0,
        })
    }
}

/// A model that runs the code it writes.
pub struct Agent {
    engine: Engine,
    weights: Weights,
    tokenizer: Tokenizer,
    chat: Chat,
    tools: Option<Toolbox>,
    cancel: Cancel,
    rollout: RolloutConfig,
    seed: u64,
    runs: usize,
}

impl Agent {
    /// An agent on the model at `path` (a Hugging Face directory or a `.gguf` file) with Python as its tool.
    pub fn builder(path: impl Into<PathBuf>) -> AgentBuilder {
        let cache = Image::default_cache();
        AgentBuilder {
            model: path.into(),
            cache,
            dtype: Dtype::default(),
            seed: 0,
            rollout: RolloutConfig {
                temperature: 0.0,
                concurrency: 1,
                max_completion_length: 1024,
                ..Default::default()
            },
            python: true,
            sandbox: SandboxConfig::default(),
            tools: Vec::new(),
            cancel: Cancel::new(),
        }
    }

    /// The tools that the model is offered, in the order of the prompt's list.
    pub fn tools(&self) -> &[Spec] {
        self.tools.as_ref().map_or(&[], Toolbox::specs)
    }

    /// Answers `prompt`. `on_event` sees everything as it happens and may return [`Control::Stop`] to end it.
    ///
    /// Every run starts a new conversation and draws from its own stream of the seed.
    ///
    /// # Errors
    /// If the model fails, or Python cannot be prepared when it is first called. A failing program is no
    /// error: the model sees its message and goes on.
    pub fn run<C: Into<Control>>(
        &mut self,
        prompt: &str,
        mut on_event: impl FnMut(AgentEvent) -> C,
    ) -> Result<Reply, Error> {
        let ids = self.chat.ids(&self.tokenizer, prompt)?;
        let request = Request { problem: 0, prompt: ids, samples: self.runs..self.runs + 1, seed: self.seed };
        self.runs += 1;
        let view = self.weights.view();
        let mut model = self.engine.bind(&view);
        let cancel = &self.cancel;
        let mut forward = |event: Event| match event {
            Event::Sequence { part: Part::Text(text), .. } => on_event(AgentEvent::Text(text)).into(),
            Event::Sequence { part: Part::Code(code), .. } => on_event(AgentEvent::Code(code)).into(),
            Event::Sequence { part: Part::Output(call), .. } => {
                on_event(AgentEvent::Output(&call.output, call.ok)).into()
            }
            // The sequence has started once there was a step.
            Event::Progress(stats) if stats.steps > 0 && cancel.is_fired() => Control::Stop,
            _ => Control::Continue,
        };
        let tools = self.tools.as_ref().map(|tools| tools as &dyn ToolPool);
        let (trajectories, _) =
            rollout(&mut model, &self.tokenizer, tools, &[request], &self.rollout, &mut forward)?;
        let trajectory = trajectories.into_iter().next().expect("one sequence was started");
        let text = self.tokenizer.decode(&trajectory.model_ids());
        let answer = answer::stated(&text);
        if let Some(answer) = &answer {
            on_event(AgentEvent::Answer(answer));
        }
        Ok(Reply { text, answer, trajectory })
    }
}

/// Writes a model of some ten thousand random weights with a character tokenizer to `dir`, and returns `dir`:
/// something small to try an embedding program with. What it says is noise; it never calls a tool. A model that
/// is there already stays.
///
/// # Errors
/// If `dir` is something else, or cannot be written.
pub fn random_model(dir: &Path, seed: u64) -> Result<PathBuf, Error> {
    let failed = toolsmith_models::Error::io(dir);
    if dir.join("config.json").exists() {
        return Ok(dir.to_owned());
    } else if dir.exists() {
        return Err(failed(io::ErrorKind::AlreadyExists.into()).into());
    }
    let tokenizer = Tokenizer::digits(&[]);
    let config = json!({
        "model_type": "qwen3", "vocab_size": tokenizer.vocab_size().next_multiple_of(32), "hidden_size": 32,
        "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2,
        "head_dim": 16, "rms_norm_eps": 1e-5, "rope_theta": 1e4, "max_position_embeddings": 2048,
        "tie_word_embeddings": true, "eos_token_id": tokenizer.eos(),
    });
    let config = ModelConfig::from_json(&config, dir)?;
    let scratch = tempfile::tempdir().map_err(failed)?;
    let weights = scratch.path().join("weights");
    tokenizer.save(scratch.path())?;
    TrainingState::init_random(&weights, config.param_specs(), Precision::Bf16, seed)?.export(
        dir,
        &config,
        Some(scratch.path()),
    )?;
    Ok(dir.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(build: impl Fn(AgentBuilder) -> AgentBuilder) -> Agent {
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().join("model");
        // The weights stay mapped after the directory is gone.
        build(Agent::builder(random_model(&model, 3).unwrap()).max_tokens(24)).build().unwrap()
    }

    #[test]
    fn what_is_streamed_is_what_is_returned() {
        let mut agent = agent(|b| b.temperature(1.0));
        let mut streamed = String::new();
        let reply = agent
            .run("2+2?", |event| match event {
                AgentEvent::Text(text) | AgentEvent::Code(text) => streamed += text,
                other => panic!("{other:?}"),
            })
            .unwrap();
        let ids = reply.trajectory.model_ids();
        let text = if reply.end() == EndReason::EndOfTurn { &ids[..ids.len() - 1] } else { &ids[..] };
        assert_eq!(streamed, agent.tokenizer.decode(text));
        assert!(!ids.is_empty() && ids.len() <= 24);
        assert!(reply.trajectory.tokens.iter().all(|t| t.logprob <= 0.0));
    }

    #[test]
    fn runs_are_reproducible_and_differ() {
        let runs = |seed| {
            let mut agent = agent(|b| b.temperature(1.0).seed(seed));
            [(); 2].map(|()| agent.run("2+2?", |_| ()).unwrap().trajectory.model_ids())
        };
        let [first, second] = runs(1);
        assert_ne!(first, second);
        assert_eq!(runs(1), [first.clone(), second]);
        assert_ne!(runs(2)[0], first);
    }

    #[test]
    fn a_callback_can_stop_it() {
        let mut agent = agent(|b| b.temperature(1.0));
        let reply = agent.run("2+2?", |_| Control::Stop).unwrap();
        assert_eq!(reply.end(), EndReason::Cancelled);
        assert!(reply.trajectory.model_ids().len() < 4);
    }

    #[test]
    fn a_token_ends_a_run() {
        let token = Cancel::new();
        let mut agent = agent(|b| b.temperature(1.0).cancel(&token));
        let reply = agent.run("2+2?", |_| token.fire()).unwrap();
        assert_eq!(reply.end(), EndReason::Cancelled);
        let reply = agent.run("2+2?", |_| ()).unwrap();
        assert_eq!(reply.end(), EndReason::Cancelled);
        assert!(reply.trajectory.model_ids().len() <= 1, "it ends after its first step");
    }

    #[test]
    fn tools_stand_beside_python_or_in_its_place() {
        let named = |name: &str| tool::Closure::new(name, "", json!({}), |_, _| "");
        let names = |agent: &Agent| agent.tools().iter().map(|t| t.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&agent(|b| b.tool(named("a")).tool(named("b")))), ["python", "a", "b"]);
        assert_eq!(names(&agent(|b| b.tool(named("a")).tool(named("python")))), ["a", "python"]);
        assert_eq!(names(&agent(|b| b.tool(named("a")).no_tools())), [""; 0]);
        assert_eq!(names(&agent(|b| b.no_tools().tool(named("b")))), ["b"]);
        let dir = tempfile::tempdir().unwrap();
        let model = random_model(&dir.path().join("model"), 3).unwrap();
        let twice = Agent::builder(model).tool(named("a")).tool(named("a")).build();
        assert!(twice.err().unwrap().to_string().contains("two tools named `a`"));
    }

    #[test]
    fn a_random_model_replaces_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert!(random_model(dir.path(), 0).unwrap_err().to_string().contains("exists"));
        let model = dir.path().join("model");
        let weights =
            |seed| std::fs::read(random_model(&model, seed).unwrap().join("model.safetensors")).unwrap();
        assert_eq!(weights(0), weights(1));
        assert!(Agent::builder("/nowhere").build().err().unwrap().to_string().contains("/nowhere"));
    }
}
