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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::ModelFormat;
    use crate::rollout::ToolOutput;
    use crate::rollout::testing::{Ascii, Scripted, Shuffled};
    use std::collections::BTreeSet;

    fn problems() -> Vec<Problem> {
        let problem = |text: &str, answer: i64, extra: serde_json::Value| {
            let extra = extra.as_object().unwrap().clone();
            Problem { text: text.into(), answer: answer.into(), extra }
        };
        vec![problem("1+1", 2, serde_json::json!({"id": "sum"})), problem("2+2", 5, serde_json::json!({}))]
    }

    /// Calls the tool with the problem and boxes what it says.
    fn row(kv: &[u32], row: &mut [f32]) {
        let text = Ascii::default();
        let context = text.decode(kv);
        let output = if context.starts_with("1+1") { "2" } else { "4" };
        let script = format!(
            "{q}<code>{q}</code>\n<interpreter>\n{output}\n</interpreter>\n\\boxed{{{output}}}",
            q = &context[..3]
        );
        let next = script.strip_prefix(&context).expect("the script").chars().next();
        row[next.map_or(Ascii::END as usize, |c| c as usize)] = 0.0;
    }

    fn evaluate(done: &[(usize, usize)], stop_after: usize, tool: bool) -> Vec<Sample> {
        let (text, chat) = (Ascii::default(), Chat::new("plain", ModelFormat::default()).unwrap());
        let pool = Shuffled::new(1, |code: &str| {
            let output = if code == "1+1" { "2" } else { "4" };
            ToolOutput { fuel: 1, ..output.into() }
        });
        let evaluation = Evaluation {
            text: &text,
            chat: &chat,
            tools: tool.then_some(&pool as _),
            rollout: &RolloutConfig { max_completion_length: 60, ..Default::default() },
            problems: &problems(),
            samples: 3,
            seed: 4,
        };
        let mut model = Scripted::new(2, 32, 200, row);
        let mut samples = Vec::new();
        let mut on_step = |step: Step| {
            if let Step::Done(sample) = step {
                samples.push(sample);
            }
            if samples.len() >= stop_after { Control::Stop } else { Control::Continue }
        };
        evaluation.run(&mut model, &|p, s| done.contains(&(p, s)), &mut on_step).unwrap();
        samples
    }

    #[test]
    fn grades_what_the_model_says_with_its_tool() {
        let samples = evaluate(&[], usize::MAX, true);
        assert_eq!(samples.len(), 6);
        for s in &samples {
            assert_eq!((s.calls, s.calls_ok, s.end, s.seed), (1, 1, EndReason::EndOfTurn, 4));
            assert!(s.text.contains("<interpreter>"), "tool output is shown: {}", s.text);
            let (id, answer, correct) = [("sum", "2", true), ("2", "4", false)][s.problem];
            assert_eq!((s.id.as_str(), s.answer.as_deref(), s.correct), (id, Some(answer), correct));
            assert_eq!(s.tokens, "<code>1+1</code>\\boxed{2}".len() + 1, "its own tokens and the end");
        }
    }

    #[test]
    fn without_the_tool_a_call_ends_the_answer() {
        for s in evaluate(&[], usize::MAX, false) {
            assert_eq!((s.calls, s.end, s.answer, s.correct), (0, EndReason::TurnBudget, None, false));
        }
    }

    #[test]
    fn only_missing_samples_are_drawn() {
        let samples = evaluate(&[(0, 1), (1, 0), (1, 2)], usize::MAX, true);
        let drawn: BTreeSet<_> = samples.iter().map(|s| (s.problem, s.sample)).collect();
        assert_eq!(drawn, BTreeSet::from([(0, 0), (0, 2), (1, 1)]));
        assert_eq!(evaluate(&drawn.into_iter().collect::<Vec<_>>(), usize::MAX, true).len(), 3);
    }

    #[test]
    fn what_was_stopped_is_no_sample() {
        let samples = evaluate(&[], 1, true);
        assert!((1..6).contains(&samples.len()), "{}", samples.len());
        assert!(samples.iter().all(|s| s.end != EndReason::Cancelled));
    }
}
