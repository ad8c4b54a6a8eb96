//! Evaluation: samples of each problem, graded, one JSON line each, and the figures made of them.
//!
//! [`Evaluation`] draws and grades, [`Sample`] is the line, [`Results`] the resumable file, [`Summary`] the
//! figures. Nothing here prints.

use serde::{Deserialize, Serialize};

use crate::rollout::EndReason;

mod harness;
mod metrics;
mod results;

pub use harness::{Error, Evaluation, Step};
pub use metrics::{PassAt, Summary, pass_at_k};
pub use results::{Results, ResultsError};

/// One graded response: a line of the results file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Index of the problem in its file, from 0.
    pub problem: usize,
    /// The problem's `id` field, or its line number.
    pub id: String,
    /// Index among the problem's samples.
    pub sample: usize,
    /// Seed the sample was drawn with.
    pub seed: u64,
    /// The whole response, tool outputs included.
    pub text: String,
    /// The answer the model gave, if it gave one.
    pub answer: Option<String>,
    /// The right answer.
    pub expected: String,
    /// Whether the two agree.
    pub correct: bool,
    /// Tool calls made.
    pub calls: usize,
    /// Tool calls that ran without an error.
    pub calls_ok: usize,
    /// Tokens the model wrote.
    pub tokens: usize,
    /// Why the response ended.
    pub end: EndReason,
}

#[cfg(test)]
impl Sample {
    /// An empty wrong response.
    fn blank(problem: usize, end: EndReason) -> Self {
        let (text, expected, id) = (String::new(), String::new(), problem.to_string());
        let (sample, seed, answer, correct) = (0, 0, None, false);
        Self {
            problem,
            id,
            sample,
            seed,
            text,
            answer,
            expected,
            correct,
            calls: 0,
            calls_ok: 0,
            tokens: 0,
            end,
        }
    }
}
