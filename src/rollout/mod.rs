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
pub mod sampler;
pub mod scheduler;
#[cfg(test)]
pub(crate) mod testing;
pub mod text;
pub mod toolbox;
pub mod tools;
pub mod trajectory;

pub use python::python_spec;
pub use sampler::{Choice, Sampling};
pub use text::{Stream, Text};
pub use toolbox::Toolbox;
pub use tools::{Answer, Call, ToolPool};
pub use toolsmith_sandbox::tool::ToolOutput;
pub use trajectory::{EndReason, Source, Token, ToolCall, Trajectory};

use crate::config::{Dialect, RolloutConfig};
use crate::rng::Rng;
use dialect::{Form, Found, Turn, Wrapper};
use scheduler::{Limits, Plan, Scheduler};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use toolsmith_models::batch::{Batch, Decode};
use toolsmith_models::engine::EngineOptions;
use toolsmith_models::weights::Precision;
use toolsmith_sandbox::Session;

/// How long to wait for a tool before looking whether the caller wants to stop.
const TICK: Duration = Duration::from_millis(50);
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

/// Samples every request and returns the trajectories in the order of the requests, samples ascending.
///
/// `tools` of `None` is the same as `max_turns = 0`. After [`Control::Stop`] the trajectories that had
/// started come back, the unfinished ones ended as [`EndReason::Cancelled`].
///
/// # Errors
/// If the model, the tokenizer or the tool pool fails; a failing program is no error but a tool's answer.
pub fn rollout(
    model: &mut dyn Decode,
    text: &dyn Text,
    tools: Option<&dyn ToolPool>,
    requests: &[Request],
    config: &RolloutConfig,
    on_event: &mut dyn FnMut(Event) -> Control,
) -> Result<(Vec<Trajectory>, RolloutStats), Error> {
    let start = Instant::now();
    let mut run = Run::new(&*model, text, tools, requests, config, on_event)?;
    let mut plan = Plan::default();
    let mut batch = Batch::default();
    model.kv().clear();
    while !run.scheduler.is_done() {
        run.take_answers(Duration::ZERO)?;
        run.stats.wall_s = start.elapsed().as_secs_f64();
        run.stopped |= (run.on_event)(Event::Progress(&run.stats)) == Control::Stop;
        if run.stopped {
            run.cancel();
            break;
        }
        run.scheduler.plan(model.kv(), &mut plan);
        if plan.work.is_empty() {
            if !run.scheduler.is_done() {
                let idle = Instant::now();
                run.take_answers(TICK)?;
                run.stats.decode_idle_s += idle.elapsed().as_secs_f64();
                run.stats.idle_waits += 1;
            }
            continue;
        }
        run.fill(&plan, &mut batch);
        let vocab = model.vocab_size();
        let logits = model.forward(&batch)?;
        run.advance(&plan, logits, vocab)?;
    }
    run.stats.wall_s = start.elapsed().as_secs_f64();
    run.stats.preemptions = run.scheduler.preemptions();
    run.stats.kv_blocks_peak = model.kv().peak();
    let stats = run.stats;
    let trajectories = run.sequences.into_iter().filter_map(|s| s.ended.then_some(s.trajectory)).collect();
    Ok((trajectories, stats))
}

/// One sequence: its trajectory and what reads it.
struct Sequence<'a> {
    trajectory: Trajectory,
    ended: bool,
    rng: Rng,
    /// Tokens sampled.
    drawn: u64,
    /// Tokens sampled in this turn.
    turn_len: usize,
    stream: Box<dyn Stream + 'a>,
    turn: Turn,
    /// The call that runs.
    call: Option<Call>,
    /// Its interpreter between two calls, where programs share one.
    session: Option<Session>,
}

struct Run<'a> {
    text: &'a dyn Text,
    tools: Option<&'a dyn ToolPool>,
    config: &'a RolloutConfig,
    on_event: &'a mut dyn FnMut(Event) -> Control,
    stopped: bool,
    sampling: Sampling,
    max_turns: usize,
    max_context: usize,
    forms: &'static [Form],
    wrapper: Wrapper,
    scheduler: Scheduler,
    sequences: Vec<Sequence<'a>>,
    /// Sequences whose calls run, by the id given to the pool.
    running: HashMap<u64, usize>,
    stats: RolloutStats,
}

/// Ids of tool calls, apart for the whole process: a pool may still answer a cancelled rollout's.
static NEXT_CALL: AtomicU64 = AtomicU64::new(0);

impl<'a> Run<'a> {
    fn new(
        model: &dyn Decode,
        text: &'a dyn Text,
        tools: Option<&'a dyn ToolPool>,
        requests: &[Request],
        config: &'a RolloutConfig,
        on_event: &'a mut dyn FnMut(Event) -> Control,
    ) -> Result<Self, Error> {
        let mut run = Self {
            text,
            tools,
            config,
            on_event,
            stopped: false,
            sampling: config.into(),
            max_turns: if tools.is_some() { config.max_turns } else { 0 },
            max_context: config.context(model.max_context()),
            forms: config.dialect.forms(tools.is_some_and(|t| t.beside_python())),
            wrapper: Wrapper::new(config.dialect, text)?,
            scheduler: Scheduler::new(Limits {
                slots: model.slots(),
                context: model.max_context(),
                batch_tokens: model.max_batch_tokens(),
                concurrency: config.concurrency.max(1),
            }),
            sequences: Vec::new(),
            running: HashMap::new(),
            stats: RolloutStats::default(),
        };
        for (group, request) in requests.iter().enumerate() {
            if request.prompt.is_empty() {
                return Err(Error::EmptyPrompt(request.problem));
            }
            for sample in request.samples.clone() {
                run.add(group, request, sample);
            }
        }
        Ok(run)
    }

    fn add(&mut self, group: usize, request: &Request, sample: usize) {
        let prompt = request.prompt.iter().map(|&id| Token { id, logprob: 0.0, source: Source::Prompt });
        let id = self.scheduler.add(group, request.prompt.len());
        self.sequences.push(Sequence {
            trajectory: Trajectory {
                problem: request.problem,
                sample,
                tokens: prompt.collect(),
                calls: Vec::new(),
                end: EndReason::Cancelled,
            },
            ended: false,
            rng: Rng::new(request.seed, request.problem as u32, sample as u32),
            drawn: 0,
            turn_len: 0,
            stream: self.text.stream(),
            turn: Turn::new(self.forms, self.config.stop_at_answer),
            call: None,
            session: self.config.stateful.then(Session::default),
        });
        self.stats.trajectories += 1;
        if request.prompt.len() >= self.max_context {
            self.stats.prompts_too_long += 1;
            self.end(id, EndReason::ContextFull);
        }
    }

    /// The planned tokens as a batch.
    fn fill(&mut self, plan: &Plan, batch: &mut Batch) {
        batch.clear();
        let mut ids = Vec::new();
        for w in &plan.work {
            let tokens = &self.sequences[w.sequence].trajectory.tokens[w.past..w.past + w.len];
            ids.clear();
            ids.extend(tokens.iter().map(|t| t.id));
            batch.push(w.slot, w.past, &ids, w.logits);
            self.stats.prefill_tokens +=
                tokens[w.again..].iter().filter(|t| t.source != Source::Model).count();
            self.stats.recomputed_tokens += w.again;
        }
        self.stats.steps += 1;
    }

    /// Samples a token for every row of `logits` `[rows, vocab]` and reads it.
    fn advance(&mut self, plan: &Plan, logits: &[f32], vocab: usize) -> Result<(), Error> {
        let ready: Vec<usize> = plan.work.iter().filter(|w| w.logits).map(|w| w.sequence).collect();
        let draw = |&id: &usize| self.sequences[id].rng.unit_at(self.sequences[id].drawn);
        let draws: Vec<f64> = ready.iter().map(draw).collect();
        let choices = self.sampling.choose_all(logits, vocab, &draws);
        for (id, choice) in ready.into_iter().zip(choices) {
            let t = &self.sequences[id].trajectory;
            let choice = choice.ok_or(Error::Diverged { problem: t.problem, sample: t.sample })?;
            self.accept(id, choice)?;
        }
        Ok(())
    }

    /// Appends a sampled token and acts on what it completes.
    fn accept(&mut self, id: usize, choice: Choice) -> Result<(), Error> {
        let (text, max_turns) = (self.text, self.max_turns);
        self.stats.generated_tokens += 1;
        self.scheduler.extend(id, 1);
        let s = &mut self.sequences[id];
        s.trajectory.tokens.push(Token { id: choice.id, logprob: choice.logprob, source: Source::Model });
        s.drawn += 1;
        s.turn_len += 1;
        if text.is_end(choice.id) {
            self.end(id, EndReason::EndOfTurn);
            return Ok(());
        }
        let delta = s.stream.push(choice.id);
        let (problem, sample) = (s.trajectory.problem, s.trajectory.sample);
        let mut stop = false;
        let found = s.turn.push(delta, &mut |part| {
            stop |= (self.on_event)(Event::Sequence { problem, sample, part }) == Control::Stop;
        });
        self.stopped |= stop;
        let room = self.max_context - s.trajectory.tokens.len();
        let end = match found {
            Some(Found::Answer) => Some(EndReason::Answered),
            // Asking for a call that is not granted ends it, as does asking for one with the tool off.
            Some(Found::Call(..)) if s.trajectory.calls.len() >= max_turns => Some(EndReason::TurnBudget),
            // An answer that cannot be shown is not computed.
            Some(Found::Call(..)) if room <= self.wrapper.len() => Some(EndReason::ContextFull),
            Some(Found::Call(form, text)) => return self.call(id, form, text),
            None if room == 0 => Some(EndReason::ContextFull),
            None if s.turn_len >= self.config.max_completion_length => Some(EndReason::TokenBudget),
            None => None,
        };
        if let Some(end) = end {
            self.end(id, end);
        }
        Ok(())
    }

    /// Parks a sequence while its call runs; a text that means no call is answered at once.
    fn call(&mut self, id: usize, form: Form, text: String) -> Result<(), Error> {
        self.scheduler.park(id);
        match form.call(&text) {
            Ok(call) => {
                let key = NEXT_CALL.fetch_add(1, Ordering::Relaxed);
                let s = &mut self.sequences[id];
                s.call = Some(call.clone());
                let session = s.session.take();
                self.running.insert(key, id);
                self.tools.expect("a call is granted only with tools").submit(key, call, session)
            }
            Err(message) => {
                self.sequences[id].call = Some(Call { tool: String::new(), arguments: text.into() });
                self.answer(id, ToolOutput { text: message, ..ToolOutput::default() })
            }
        }
    }

    /// Takes the tool results there are; waits at most `wait` for the first.
    fn take_answers(&mut self, mut wait: Duration) -> Result<(), Error> {
        let Some(tools) = self.tools else { return Ok(()) };
        while !self.running.is_empty() {
            let Some(answer) = tools.poll(wait)? else { break };
            wait = Duration::ZERO;
            if let Some(id) = self.running.remove(&answer.id) {
                self.sequences[id].session = answer.session;
                self.answer(id, answer.output)?;
            }
        }
        Ok(())
    }

    /// Puts a tool's answer behind a parked sequence and lets it go on.
    fn answer(&mut self, id: usize, result: ToolOutput) -> Result<(), Error> {
        self.stats.tool_calls += 1;
        self.stats.tool_errors += usize::from(!result.ok);
        let s = &mut self.sequences[id];
        // One position stays for the model to go on in.
        let room = self.max_context - s.trajectory.tokens.len() - self.wrapper.len() - 1;
        let limit = self.config.max_tool_output.min(room);
        let feedback = self.wrapper.feedback(self.text, &result.text, limit)?;
        s.trajectory.tokens.extend_from_slice(&feedback.tokens);
        let Call { tool, arguments } = s.call.take().expect("it is parked for a call");
        s.trajectory.calls.push(ToolCall {
            tool,
            arguments,
            output: result.text,
            ok: result.ok,
            cut: feedback.cut,
            fuel: result.fuel,
        });
        s.turn_len = 0;
        s.stream = self.text.stream();
        s.turn = Turn::new(self.forms, self.config.stop_at_answer);
        let (problem, sample) = (s.trajectory.problem, s.trajectory.sample);
        let part = Part::Output(&s.trajectory.calls[s.trajectory.calls.len() - 1]);
        self.stopped |= (self.on_event)(Event::Sequence { problem, sample, part }) == Control::Stop;
        self.scheduler.extend(id, feedback.tokens.len());
        self.scheduler.resume(id);
        Ok(())
    }

    /// Ends a sequence.
    fn end(&mut self, id: usize, end: EndReason) {
        self.scheduler.finish(id);
        self.stats.finished += 1;
        let s = &mut self.sequences[id];
        s.ended = true;
        s.trajectory.end = end;
        let (problem, sample) = (s.trajectory.problem, s.trajectory.sample);
        let mut stop = false;
        let mut emit = |part: Part| {
            stop |= (self.on_event)(Event::Sequence { problem, sample, part }) == Control::Stop;
        };
        s.turn.flush(&mut emit);
        emit(Part::End(&s.trajectory));
        self.stopped |= stop;
    }

    /// Ends what has started.
    fn cancel(&mut self) {
        for key in std::mem::take(&mut self.running).into_keys() {
            self.tools.iter().for_each(|tools| tools.cancel(key));
        }
        for id in 0..self.sequences.len() {
            if self.scheduler.is_live(id) {
                self.end(id, EndReason::Cancelled);
            }
        }
    }
}

#[cfg(test)]
mod tests;
