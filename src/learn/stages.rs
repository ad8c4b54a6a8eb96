//! A whole run: cold start, reinforcement learning, evaluation between them, checkpoints all along.
//!
//! The run is a function of its configuration: whatever is random is drawn by counters of seed, stage and step, and
//! weights and moments are restored bit for bit. So a run that was stopped and resumed ends in the same weights as
//! one that was not.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use toolsmith_models::batch::Objective;
use toolsmith_models::config::{Architecture, ModelConfig};
use toolsmith_models::convert::ModelSource;
use toolsmith_models::live::{Format, TrainingState};
use toolsmith_models::tokenizer::Tokenizer;
use toolsmith_models::trainer::{Activations, Head, TrainerOptions};
use toolsmith_models::weights::Weights;
use toolsmith_sandbox::tool::Spec;

use super::live::{LiveModel, LivePolicy, Reference, Sampler};
use super::memory::{self, Footprint};
use super::ppo::{self, Task};
use super::problems::{Problems, Traces};
use super::{Error, Learner, Scorer, sft};
use crate::chat::Chat;
use crate::config::{Algorithm, Config, OptimizerConfig};
use crate::rng::derive;
use crate::rollout::ToolPool;
use crate::run_dir::{Checkpoint, Metrics, RunDir, Stage};
use crate::task::arithmetic;

/// Tag of the seed that initial weights are drawn with.
const WEIGHTS: u64 = 0x7765_6967;

/// What happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// A stage begins, and takes so much memory.
    Fitted(Stage, Footprint),
    /// A step of a stage is done.
    Step {
        /// Which.
        stage: Stage,
        /// Steps done.
        step: usize,
        /// Steps in all.
        steps: usize,
        /// What was measured.
        metrics: &'a Metrics,
    },
    /// An evaluation is done: `eval` (where in the run), `eval/…` and `eval_no_tool/…`.
    Evaluated(&'a Metrics),
    /// A checkpoint was written.
    Checkpoint(&'a Path),
}

/// What a run starts from, read and checked before anything is written.
pub struct Inputs {
    model: ModelConfig,
    tokenizer: Tokenizer,
    chat: Chat,
    /// For evaluation without the tool.
    chat_without_tool: Chat,
    /// `None` for random weights, and for those of a checkpoint.
    weights: Option<Weights>,
}

impl Inputs {
    /// Reads the model that the configuration names, or describes the small policy; checks problems and traces.
    /// Converted models are kept in `cache`; prompts that offer tools offer `tools`.
    ///
    /// # Errors
    /// Anything that is missing or damaged.
    pub fn read(config: &Config, cache: &Path, tools: &[Spec]) -> Result<Self, Error> {
        let inputs = if config.model.path.is_empty() {
            let tokenizer = Tokenizer::digits(&arithmetic::TOKENS);
            Self::new(config, small_policy(config, &tokenizer), tokenizer, None, tools)?
        } else {
            let source = ModelSource::open(Path::new(&config.model.path), cache)?;
            let weights = source.weights(config.model.dtype.into())?;
            Self::new(config, source.config, source.tokenizer, Some(weights), tools)?
        };
        Problems::new(config, &inputs.chat, &inputs.tokenizer)?
            .check_context(config.rollout.context(inputs.model.max_position_embeddings))?;
        if config.sft.steps > 0 {
            Traces::new(config, &inputs.chat, &inputs.tokenizer)?;
        }
        Ok(inputs)
    }

    /// Reads what a run goes on with.
    ///
    /// # Errors
    /// Anything that is missing or damaged.
    pub fn of_checkpoint(
        config: &Config,
        run: &RunDir,
        checkpoint: &Checkpoint,
        tools: &[Spec],
    ) -> Result<Self, Error> {
        let model = ModelConfig::read(&checkpoint.path)?;
        let mut tokenizer = Tokenizer::load(&run.tokenizer())?;
        tokenizer.add_eos(model.eos_token_id.iter().copied());
        Self::new(config, model, tokenizer, None, tools)
    }

    fn new(
        config: &Config,
        model: ModelConfig,
        tokenizer: Tokenizer,
        weights: Option<Weights>,
        tools: &[Spec],
    ) -> Result<Self, Error> {
        let load = |with_tools| Chat::load(config.rollout.template(with_tools), &tokenizer);
        let chat = |with_tools| load(with_tools).map(|chat| chat.with_tools(tools));
        let (chat, chat_without_tool) = (chat(true)?, chat(false)?);
        Ok(Self { model, tokenizer, chat, chat_without_tool, weights })
    }

    /// The policy's `config.json`.
    pub fn model(&self) -> &ModelConfig {
        &self.model
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Its prompts.
    pub fn chat(&self) -> &Chat {
        &self.chat
    }

    /// Parameters of the policy.
    pub fn parameters(&self) -> usize {
        Head::Policy.specs(&self.model).iter().map(|spec| spec.numel()).sum()
    }
}

/// What a run needs from its caller.
pub struct Surroundings<'a> {
    /// Runs the policy's programs; `None` trains without a tool.
    pub tools: Option<&'a dyn ToolPool>,
    /// Set to stop after the step that is running.
    pub stop: &'a AtomicBool,
    /// Told what happens.
    pub notify: &'a mut dyn FnMut(Event),
}

/// Runs all stages, from `checkpoint` on if there is one, and leaves the policy in [`RunDir::model`]. Returns the
/// evaluations of the whole run, those before a resume included.
///
/// # Errors
/// Those of the parts; [`Error::Interrupted`] after a checkpoint if the user stopped the run.
pub fn train(
    config: &Config,
    inputs: Inputs,
    run: &mut RunDir,
    checkpoint: Option<&Checkpoint>,
    surroundings: Surroundings,
) -> Result<Vec<Metrics>, Error> {
    let precision = config.model.dtype.into();
    let Inputs { model, tokenizer, chat, chat_without_tool, weights } = inputs;
    tokenizer.save(&run.tokenizer())?;
    let mut problems = Problems::new(config, &chat, &tokenizer)?;
    run.write_held_out(&problems.held_out())?;

    let specs = || Head::Policy.specs(&model);
    let live = run.live("policy");
    let first = if config.sft.steps > 0 { Stage::Sft } else { Stage::Rl };
    let format = match checkpoint.map_or(first, |c| c.stage) {
        Stage::Sft => format(config, &config.sft.optimizer),
        Stage::Rl => format(config, &config.rl.optimizer),
    };
    let mut policy = match (checkpoint, &weights) {
        (Some(checkpoint), _) => {
            TrainingState::restore(&checkpoint.path.join("policy.state"), &live, specs(), format)?
        }
        (None, Some(weights)) => TrainingState::create(&live, specs(), format, &weights.view())?,
        (None, None) => TrainingState::init_random(&live, specs(), format, derive(config.run.seed, WEIGHTS))?,
    };
    drop(weights);

    let (tools, stop) = (surroundings.tools, surroundings.stop);
    let mut sampler = Sampler::new(&model, &config.rollout, precision, &tokenizer, tools, stop)?;
    let evaluations = run.lines()?.into_iter().filter(|line| line.name("eval").is_some()).collect();
    let tokenizer_dir = run.tokenizer();
    let mut session = Session {
        config,
        run,
        model: &model,
        tokenizer_dir: &tokenizer_dir,
        problems: &mut problems,
        chats: [&chat_without_tool, &chat],
        sampler: &mut sampler,
        surroundings,
        evaluations,
        saved: checkpoint.map(|c| (c.stage, c.step)),
    };
    let at = checkpoint.map(|c| (c.stage, c.step));
    if config.sft.steps > 0 && at.is_none_or(|(stage, _)| stage == Stage::Sft) {
        let traces = Traces::new(config, &chat, &tokenizer)?;
        policy = session.cold_start(policy, &traces, at.map_or(0, |(_, step)| step))?;
    }
    if config.rl.steps > 0 {
        policy = session.reinforce(policy, checkpoint.filter(|c| c.stage == Stage::Rl))?;
    }
    let evaluations = session.evaluations;
    policy.export(&run.model(), &model, Some(&tokenizer_dir))?;
    Ok(evaluations)
}

/// What a model that this optimizer steps is kept in.
fn format(config: &Config, optimizer: &OptimizerConfig) -> Format {
    Format { precision: config.model.dtype.into(), moments: optimizer.moments.into() }
}

/// What the stages share.
struct Session<'a, 's, 'e> {
    config: &'a Config,
    run: &'a mut RunDir,
    model: &'a ModelConfig,
    tokenizer_dir: &'a Path,
    problems: &'a mut Problems<'s>,
    /// For evaluation without the tool, and with it.
    chats: [&'a Chat; 2],
    sampler: &'a mut Sampler<'s>,
    surroundings: Surroundings<'e>,
    evaluations: Vec<Metrics>,
    /// The last checkpoint.
    saved: Option<(Stage, usize)>,
}

impl Session<'_, '_, '_> {
    fn cold_start(
        &mut self,
        state: TrainingState,
        traces: &Traces,
        done: usize,
    ) -> Result<TrainingState, Error> {
        let (config, stage) = (self.config, Stage::Sft);
        let options = self.trainer_options(1.0);
        let mut model = LiveModel::new(state, self.model, Head::Policy, &options, &config.sft.optimizer)?;
        self.fit(stage, 0, &mut [(&mut model, Objective::CrossEntropy)])?;
        for step in done.. {
            self.evaluate_if_due(stage, step, model.state())?;
            if step == config.sft.steps {
                break;
            }
            let metrics = sft::step(config, step, &traces.of_step(step, options.max_tokens)?, &mut model)?;
            self.finish_step(stage, step + 1, metrics, model.state(), None)?;
        }
        Ok(model.into_state())
    }

    fn reinforce(
        &mut self,
        state: TrainingState,
        resumed: Option<&Checkpoint>,
    ) -> Result<TrainingState, Error> {
        let (config, stage) = (self.config, Stage::Rl);
        let options = self.trainer_options(1.0 / config.rollout.temperature);
        let precision = options.precision;
        let [own, critics] =
            [&config.rl.optimizer, &config.rl.critic_optimizer].map(|optimizer| format(config, optimizer));
        let specs = |head: Head| head.specs(self.model);
        // A new stage starts from the weights alone, with moments of its own.
        let state = match resumed {
            Some(_) => state,
            None => {
                let live = self.run.live("policy");
                TrainingState::create(&live, specs(Head::Policy), own, &state.weights())?
            }
        };
        let mut critic = match config.rl.algorithm {
            Algorithm::Ppo => {
                let live = self.run.live("critic");
                let state = match resumed {
                    Some(c) => TrainingState::restore(
                        &c.path.join("critic.state"),
                        &live,
                        specs(Head::Value),
                        critics,
                    )?,
                    // The policy's decoder; the value head, which the policy lacks, starts at zero.
                    None => TrainingState::create(&live, specs(Head::Value), critics, &state.weights())?,
                };
                Some(LiveModel::new(state, self.model, Head::Value, &options, &config.rl.critic_optimizer)?)
            }
            Algorithm::Grpo => None,
        };
        let mut reference = if config.rl.kl_coef > 0.0 {
            let dir = self.run.path().join("reference");
            if resumed.is_none() {
                state.export(&dir, self.model, Some(self.tokenizer_dir))?;
            }
            let weights = Weights::load(&dir, specs(Head::Policy), precision)?;
            Some(Reference::new(weights, self.model, &options)?)
        } else {
            None
        };
        let mut model = LiveModel::new(state, self.model, Head::Policy, &options, &config.rl.optimizer)?;
        let (objective, value_objective) = ppo::objectives(&config.rl);
        let mut learners = vec![(&mut model, objective)];
        if let Some(critic) = &mut critic {
            critic.prepare_scores()?;
            learners.push((critic, value_objective));
        }
        self.fit(stage, reference.as_ref().map_or(0, Reference::memory), &mut learners)?;
        for step in resumed.map_or(0, |c| c.step).. {
            let evaluated = self.evaluate_if_due(stage, step, model.state());
            if matches!(evaluated, Err(Error::Interrupted)) {
                self.save(stage, step, model.state(), critic.as_ref().map(LiveModel::state))?;
            }
            evaluated?;
            if step == config.rl.steps {
                break;
            }
            let mut policy = LivePolicy { model, sampler: self.sampler, rollout: &config.rollout };
            let critic_model = critic.as_mut().map(|c| c as &mut dyn Learner);
            let reference_model = reference.as_mut().map(|r| r as &mut dyn Scorer);
            let outcome = ppo::step(config, step, self.problems, &mut policy, critic_model, reference_model);
            model = policy.model;
            let critic_state = critic.as_ref().map(LiveModel::state);
            let (metrics, episodes) = match outcome {
                Ok(done) => done,
                Err(Error::Interrupted) => {
                    self.save(stage, step, model.state(), critic_state)?;
                    return Err(Error::Interrupted);
                }
                Err(e) => return Err(e),
            };
            self.run.write_rollouts(step + 1, &episodes)?;
            self.finish_step(stage, step + 1, metrics, model.state(), critic_state)?;
        }
        Ok(model.into_state())
    }

    /// Chooses what the learners' passes keep, so that with `others` the stage stays within `run.memory_limit`.
    fn fit(
        &mut self,
        stage: Stage,
        others: usize,
        learners: &mut [(&mut LiveModel, Objective)],
    ) -> Result<(), Error> {
        let limit = self.config.run.memory().unwrap_or(usize::MAX);
        let footprint = memory::fit(limit, others + self.sampler.memory(), learners)?;
        (self.surroundings.notify)(Event::Fitted(stage, footprint));
        Ok(())
    }

    fn trainer_options(&self, inv_temperature: f32) -> TrainerOptions {
        let longest = self.config.rollout.context(self.model.max_position_embeddings);
        TrainerOptions {
            max_tokens: self.config.rl.micro_batch_tokens.max(longest),
            activations: Activations::Keep,
            inv_temperature,
            precision: self.config.model.dtype.into(),
        }
    }

    /// Logs a finished step, writes a checkpoint where one is due, and stops if the user wants to.
    fn finish_step(
        &mut self,
        stage: Stage,
        step: usize,
        metrics: Metrics,
        policy: &TrainingState,
        critic: Option<&TrainingState>,
    ) -> Result<(), Error> {
        let steps = self.steps(stage);
        let mut line = position(stage, step);
        line.extend("", &metrics);
        self.run.log(&line)?;
        (self.surroundings.notify)(Event::Step { stage, step, steps, metrics: &metrics });
        let stop = self.surroundings.stop.load(Ordering::Relaxed);
        if stop || step == steps || step.is_multiple_of(self.config.run.save_steps.max(1)) {
            self.save(stage, step, policy, critic)?;
        }
        if stop { Err(Error::Interrupted) } else { Ok(()) }
    }

    fn save(
        &mut self,
        stage: Stage,
        step: usize,
        policy: &TrainingState,
        critic: Option<&TrainingState>,
    ) -> Result<(), Error> {
        if self.saved == Some((stage, step)) {
            return Ok(());
        }
        let keep = self.config.run.save_total_limit;
        let path = self.run.write_checkpoint(stage, step, keep, |dir| {
            policy.export(dir, self.model, Some(self.tokenizer_dir))?;
            policy.snapshot_to(&dir.join("policy.state"))?;
            critic.map_or(Ok(()), |critic| critic.snapshot_to(&dir.join("critic.state")))
        })?;
        self.saved = Some((stage, step));
        (self.surroundings.notify)(Event::Checkpoint(&path));
        Ok(())
    }

    fn steps(&self, stage: Stage) -> usize {
        match stage {
            Stage::Sft => self.config.sft.steps,
            Stage::Rl => self.config.rl.steps,
        }
    }

    /// Evaluates before and after each stage and every so many reinforcement steps, with and without the tool.
    /// What the log holds already, from before a resume, is not done again.
    fn evaluate_if_due(&mut self, stage: Stage, step: usize, policy: &TrainingState) -> Result<(), Error> {
        let every = self.config.eval.every;
        let first = stage == Stage::Sft || self.config.sft.steps == 0;
        let label = match (stage, step) {
            (_, 0) if first => "start".to_string(),
            (Stage::Sft, n) if n == self.config.sft.steps => "cold start".into(),
            (Stage::Rl, n) if n == self.config.rl.steps => match self.config.rl.algorithm {
                Algorithm::Ppo => "PPO".into(),
                Algorithm::Grpo => "GRPO".into(),
            },
            (Stage::Rl, n) if n > 0 && every > 0 && n.is_multiple_of(every) => format!("step {n}"),
            _ => return Ok(()),
        };
        if self.evaluations.iter().any(|e| e.name("eval") == Some(&label)) {
            return Ok(());
        }
        let mut line = position(stage, step);
        line.put("eval", label);
        for (with_tools, prefix) in [(true, "eval/"), (false, "eval_no_tool/")] {
            line.extend(prefix, &self.evaluate(policy, with_tools)?);
        }
        self.run.log(&line)?;
        (self.surroundings.notify)(Event::Evaluated(&line));
        self.evaluations.push(line);
        Ok(())
    }

    fn evaluate(&mut self, policy: &TrainingState, with_tools: bool) -> Result<Metrics, Error> {
        let requests =
            self.problems.evaluation(self.config.eval.samples, self.chats[usize::from(with_tools)])?;
        let rollout = crate::config::RolloutConfig {
            temperature: self.config.eval.temperature,
            ..self.config.rollout.clone()
        };
        let (trajectories, stats) = self.sampler.sample(policy, &requests, &rollout, with_tools)?;
        let judged: Vec<(f64, bool)> = trajectories.iter().map(|t| self.problems.reward(t)).collect();
        let mut all = Metrics::default();
        ppo::rollout_metrics(&mut all, &trajectories, &judged, &stats);
        let mut metrics = Metrics::default();
        metrics.put("samples", trajectories.len());
        for (name, from) in [
            ("accuracy", "objective/accuracy"),
            ("code_share", "rollout/code_share"),
            ("code_pass_rate", "rollout/code_pass_rate"),
            ("mean_length", "rollout/mean_length"),
            ("seconds", "perf/rollout_s"),
        ] {
            metrics.put(name, all.get(from));
        }
        Ok(metrics)
    }
}

fn position(stage: Stage, step: usize) -> Metrics {
    let mut line = Metrics::default();
    line.put("stage", stage.name());
    line.put("step", step);
    line
}

/// The small policy's `config.json`.
fn small_policy(config: &Config, tokenizer: &Tokenizer) -> ModelConfig {
    let m = &config.model;
    ModelConfig {
        architecture: Architecture::Qwen3,
        // A multiple of 32 keeps rows of logits at cache lines.
        vocab_size: tokenizer.vocab_size().next_multiple_of(32),
        hidden_size: m.hidden_size,
        intermediate_size: m.intermediate_size,
        num_hidden_layers: m.num_hidden_layers,
        num_attention_heads: m.num_attention_heads,
        num_key_value_heads: m.num_key_value_heads,
        head_dim: m.hidden_size / m.num_attention_heads,
        rms_norm_eps: 1e-5,
        rope_theta: m.rope_theta,
        rope_scaling: None,
        max_position_embeddings: if config.rollout.max_context == 0 {
            4096
        } else {
            config.rollout.max_context
        },
        tie_word_embeddings: true,
        attention_bias: false,
        bos_token_id: None,
        eos_token_id: tokenizer.eos().to_vec(),
        pad_token_id: tokenizer.token_id("<pad>"),
        torch_dtype: "bfloat16".into(),
    }
}
