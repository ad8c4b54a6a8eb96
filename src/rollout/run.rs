//! The loop of a rollout, and what it keeps of each sequence.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use toolsmith_models::batch::{Batch, Decode};
use toolsmith_sandbox::Session;

use super::dialect::{Form, Found, Turn, Wrapper};
use super::sampler::{Choice, Sampling};
use super::scheduler::{Limits, Plan, Scheduler};
use super::text::{Stream, Text};
use super::tools::{Call, ToolPool};
use super::trajectory::{EndReason, Source, Token, ToolCall, Trajectory};
use super::{Control, Error, Event, Part, Request, RolloutStats, ToolOutput};
use crate::config::RolloutConfig;
use crate::rng::Rng;

/// How long to wait for a tool before looking whether the caller wants to stop.
const TICK: Duration = Duration::from_millis(50);

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
