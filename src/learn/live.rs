//! Models in training as the rest of the program meets them: live weights, what computes on them, what samples
//! from them.

use std::sync::atomic::{AtomicBool, Ordering};

use toolsmith_models::batch::{Objective, TrainBatch, TrainOutput};
use toolsmith_models::config::ModelConfig;
use toolsmith_models::engine::Engine;
use toolsmith_models::live::TrainingState;
use toolsmith_models::trainer::{Activations, AdamW, Footprint, Head, Trainer, TrainerOptions};
use toolsmith_models::weights::{Mat, Precision, Weights};

use super::ppo::Actor;
use super::{Error, Learner, Scorer};
use crate::config::{OptimizerConfig, RolloutConfig};
use crate::rollout::{Control, Event, Request, RolloutStats, Text, ToolPool, Trajectory, rollout};

/// A model whose weights an optimizer updates in place.
pub struct LiveModel {
    state: TrainingState,
    trainer: Trainer,
    optimizer: OptimizerConfig,
}

impl LiveModel {
    /// Puts a trainer on a state.
    ///
    /// # Errors
    /// If the model is too large to compile.
    pub fn new(
        state: TrainingState,
        config: &ModelConfig,
        head: Head,
        options: &TrainerOptions,
        optimizer: &OptimizerConfig,
    ) -> Result<Self, Error> {
        let trainer = Trainer::new(config, head, options);
        Ok(Self { state, trainer, optimizer: optimizer.clone() })
    }

    /// Compiles what learning takes.
    ///
    /// # Errors
    /// If no choice of `activations` fits, or the model is too large to compile.
    pub fn prepare(&mut self, objective: &Objective, activations: Activations) -> Result<Footprint, Error> {
        Ok(self.trainer.prepare(objective, activations)?)
    }

    /// Compiles what scoring takes.
    ///
    /// # Errors
    /// If the model is too large to compile.
    pub fn prepare_scores(&mut self) -> Result<(), Error> {
        Ok(self.trainer.prepare_forward()?)
    }

    /// Bytes of weights, moments and gradients, and of the plans compiled so far.
    pub fn memory(&self) -> usize {
        self.state.bytes() + self.trainer.memory()
    }

    /// Takes the trainer off again.
    pub fn into_state(self) -> TrainingState {
        self.state
    }

    /// Weights and moments.
    pub fn state(&self) -> &TrainingState {
        &self.state
    }
}

impl Scorer for LiveModel {
    fn score(&mut self, batch: &TrainBatch) -> Result<Vec<f32>, Error> {
        Ok(self.trainer.forward(&self.state.weights(), batch)?.to_vec())
    }
}

impl Learner for LiveModel {
    fn accumulate(&mut self, batch: &TrainBatch, objective: &Objective) -> Result<TrainOutput<'_>, Error> {
        Ok(self.trainer.accumulate(&self.state.weights(), batch, objective)?)
    }

    fn step(&mut self, learning_rate: f32) -> Result<f32, Error> {
        let o = &self.optimizer;
        let hyper = AdamW {
            lr: learning_rate,
            beta1: o.beta1,
            beta2: o.beta2,
            eps: o.epsilon,
            weight_decay: o.weight_decay,
        };
        Ok(self.trainer.step(&mut self.state, &hyper, o.max_grad_norm)?)
    }
}

/// Fixed weights that score tokens: the reference of a KL penalty.
pub struct Reference {
    weights: Weights,
    trainer: Trainer,
}

impl Reference {
    /// Puts a trainer, of which only the forward pass is used, on weights.
    ///
    /// # Errors
    /// If the model is too large to compile.
    pub fn new(weights: Weights, config: &ModelConfig, options: &TrainerOptions) -> Result<Self, Error> {
        let mut trainer = Trainer::scorer(config, Head::Policy, options);
        trainer.prepare_forward()?;
        Ok(Self { weights, trainer })
    }

    /// Bytes of the weights and of the plan.
    pub fn memory(&self) -> usize {
        self.weights.view().mats().iter().map(Mat::bytes).sum::<usize>() + self.trainer.memory()
    }
}

impl Scorer for Reference {
    fn score(&mut self, batch: &TrainBatch) -> Result<Vec<f32>, Error> {
        Ok(self.trainer.forward(&self.weights.view(), batch)?.to_vec())
    }
}

/// What sampling needs besides weights.
pub struct Sampler<'a> {
    engine: Engine,
    text: &'a dyn Text,
    tools: Option<&'a dyn ToolPool>,
    stop: &'a AtomicBool,
}

impl<'a> Sampler<'a> {
    /// An engine of the size that the configuration asks for, and what it talks to.
    ///
    /// # Errors
    /// If the model is too large to compile.
    pub fn new(
        config: &ModelConfig,
        rollout: &RolloutConfig,
        precision: Precision,
        text: &'a dyn Text,
        tools: Option<&'a dyn ToolPool>,
        stop: &'a AtomicBool,
    ) -> Result<Self, Error> {
        let options = rollout.engine(config.max_position_embeddings, precision);
        Ok(Self { engine: Engine::new(config, options)?, text, tools, stop })
    }

    /// Bytes of the plan and of the KV cache.
    pub fn memory(&self) -> usize {
        self.engine.memory()
    }

    /// Samples from `state`; without tools if `with_tools` is off.
    ///
    /// # Errors
    /// Those of the rollout; [`Error::Interrupted`] if the user stopped it.
    pub fn sample(
        &mut self,
        state: &TrainingState,
        requests: &[Request],
        config: &RolloutConfig,
        with_tools: bool,
    ) -> Result<(Vec<Trajectory>, RolloutStats), Error> {
        let weights = state.weights();
        let mut model = self.engine.bind(&weights);
        let stop = self.stop;
        let mut watch = |_: Event| match stop.load(Ordering::Relaxed) {
            true => Control::Stop,
            false => Control::Continue,
        };
        let tools = self.tools.filter(|_| with_tools);
        let out = rollout(&mut model, self.text, tools, requests, config, &mut watch)?;
        if stop.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(out) }
    }
}

/// A policy in training, with what samples from it.
pub struct LivePolicy<'a, 's> {
    /// The weights.
    pub model: LiveModel,
    /// What samples.
    pub sampler: &'s mut Sampler<'a>,
    /// How.
    pub rollout: &'s RolloutConfig,
}

impl Scorer for LivePolicy<'_, '_> {
    fn score(&mut self, batch: &TrainBatch) -> Result<Vec<f32>, Error> {
        self.model.score(batch)
    }
}

impl Learner for LivePolicy<'_, '_> {
    fn accumulate(&mut self, batch: &TrainBatch, objective: &Objective) -> Result<TrainOutput<'_>, Error> {
        self.model.accumulate(batch, objective)
    }

    fn step(&mut self, learning_rate: f32) -> Result<f32, Error> {
        self.model.step(learning_rate)
    }
}

impl Actor for LivePolicy<'_, '_> {
    fn rollout(&mut self, requests: &[Request]) -> Result<(Vec<Trajectory>, RolloutStats), Error> {
        self.sampler.sample(self.model.state(), requests, self.rollout, true)
    }
}
