//! The loop of an evaluation: which samples are missing, drawing them, grading them.

use super::Sample;
use crate::chat::{self, Chat};
use crate::config::RolloutConfig;
use crate::rollout::{
    self, Control, EndReason, Event, Part, Request, RolloutStats, Source, Text, ToolPool, Trajectory, rollout,
};
use crate::task::{Problem, answer};
use toolsmith_models::batch::Decode;

/// Why an evaluation ended early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A problem could not be made into a prompt.
    #[error(transparent)]
    Prompt(#[from] chat::Error),
    /// The model or a tool failed.
    #[error(transparent)]
    Rollout(#[from] rollout::Error),
}

/// What to evaluate, on what, and how.
pub struct Evaluation<'a> {
    /// Token ids to text and back.
    pub text: &'a dyn Text,
    /// Makes prompts.
    pub chat: &'a Chat,
    /// Runs code; `None` evaluates without the tool.
    pub tools: Option<&'a dyn ToolPool>,
    /// How samples are drawn.
    pub rollout: &'a RolloutConfig,
    /// What is asked.
    pub problems: &'a [Problem],
    /// Samples of each problem.
    pub samples: usize,
    /// Seed of all samples; each draws from a stream of its own.
    pub seed: u64,
}

/// What an evaluation reports while it runs.
#[derive(Debug)]
pub enum Step<'a> {
    /// A sample has ended and is graded.
    Done(Sample),
    /// Once a forward step.
    Progress(&'a RolloutStats),
}

impl Evaluation<'_> {
    /// Draws the samples that `done` (problem, sample) does not hold yet, in no particular order. Which samples
    /// were drawn before changes nothing in the others.
    ///
    /// # Errors
    /// If a prompt cannot be made, or the model or the tool fails.
    pub fn run(
        &self,
        model: &mut dyn Decode,
        done: &dyn Fn(usize, usize) -> bool,
        on_step: &mut dyn FnMut(Step) -> Control,
    ) -> Result<RolloutStats, Error> {
        let mut requests = Vec::new();
        for (problem, p) in self.problems.iter().enumerate() {
            let missing: Vec<usize> = (0..self.samples).filter(|&s| !done(problem, s)).collect();
            if missing.is_empty() {
                continue;
            }
            let prompt = self.chat.ids(self.text, &p.text)?;
            for run in missing.chunk_by(|a, b| a + 1 == *b) {
                let samples = run[0]..run[run.len() - 1] + 1;
                requests.push(Request { problem, prompt: prompt.clone(), samples, seed: self.seed });
            }
        }
        let mut on_event = |event: Event| match event {
            Event::Progress(stats) => on_step(Step::Progress(stats)),
            Event::Sequence { part: Part::End(t), .. } if t.end != EndReason::Cancelled => {
                on_step(Step::Done(self.grade(t)))
            }
            Event::Sequence { .. } => Control::Continue,
        };
        let (_, stats) = rollout(model, self.text, self.tools, &requests, self.rollout, &mut on_event)?;
        Ok(stats)
    }

    /// A trajectory as a line of the results.
    fn grade(&self, t: &Trajectory) -> Sample {
        let problem = &self.problems[t.problem];
        let own = self.text.decode(&t.model_ids());
        let response: Vec<u32> =
            t.tokens.iter().filter(|t| t.source != Source::Prompt).map(|t| t.id).collect();
        Sample {
            problem: t.problem,
            id: id(problem).unwrap_or_else(|| (t.problem + 1).to_string()),
            sample: t.sample,
            seed: self.seed,
            text: self.text.decode(&response),
            answer: answer::stated(&own),
            expected: problem.answer.to_string(),
            correct: answer::verify(&own, &problem.answer),
            calls: t.calls.len(),
            calls_ok: t.calls.iter().filter(|c| c.ok).count(),
            tokens: t.model_ids().len(),
            end: t.end,
        }
    }
}

/// The problem's own `id` field.
fn id(problem: &Problem) -> Option<String> {
    let id = problem.extra.get("id")?;
    id.as_str().map(str::to_owned).or_else(|| id.is_number().then(|| id.to_string()))
}
