//! Which problem comes when: the training list, the held-out list and the cold start's traces.
//!
//! The n-th problem or trace of a run is a function of the seed and n alone, so a resumed run needs no state here.

use std::path::Path;

use serde_json::{Value, json};

use super::batches::Sequence;
use super::{Error, ppo};
use crate::chat::Chat;
use crate::config::Config;
use crate::rng::{Rng, derive};
use crate::rollout::dialect::Wrapper;
use crate::rollout::{Request, Source, Text, Token, Trajectory};
use crate::task::arithmetic::{self, Arithmetic};
use crate::task::dataset::{self, Problem};
use crate::task::{answer, trace};

/// Tags of derived seeds.
const PROBLEMS: u64 = 0x7072_6f62;
const TRACES: u64 = 0x7472_6163;
const SHUFFLE: u64 = 0x7368_7566;
const SAMPLES: u64 = 0x7361_6d70;
const EVALUATION: u64 = 0x6576_616c;

/// An endless list.
enum List<T> {
    Generated(Arithmetic),
    /// Every pass over the file in an order of its own.
    File(Vec<T>),
}

/// Index into a list of `len` for position `n` of an endless list that passes over it again and again, each time in
/// another order.
fn shuffled(seed: u64, n: u64, len: usize) -> usize {
    let (epoch, at) = (n / len as u64, n % len as u64);
    let mut order: Vec<usize> = (0..len).collect();
    Rng::new(derive(seed, SHUFFLE), epoch as u32, 0).shuffle(&mut order);
    order[at as usize]
}

/// The problems of a run, and how they are put to the model.
pub struct Problems<'a> {
    chat: &'a Chat,
    text: &'a dyn Text,
    seed: u64,
    prompts_per_step: usize,
    num_generations: usize,
    train: List<Problem>,
    eval: Vec<Problem>,
    /// Position in the list and problem of each of the last requests.
    asked: Vec<(usize, Problem)>,
}

impl<'a> Problems<'a> {
    /// Reads or generates the problems that the configuration names.
    ///
    /// # Errors
    /// Those of reading the files; a training file with too few problems to hold some out.
    pub fn new(config: &Config, chat: &'a Chat, text: &'a dyn Text) -> Result<Self, Error> {
        let seed = config.run.seed;
        let read = |path: &str| dataset::read(Path::new(path));
        let size = config.data.eval_size;
        // The held-out list is the same for every seed, so that runs can be compared.
        let held_out =
            || (0..size as u64).map(|i| Arithmetic { seed: EVALUATION, held_out: true }.problem(i));
        let (train, eval) = match (config.data.train.as_str(), config.data.eval.as_str()) {
            ("", "") => (None, held_out().collect()),
            ("", eval) => (None, read(eval)?),
            (train, "") => {
                let mut train = read(train)?;
                let size = size.min(train.len() / 5);
                if size == 0 {
                    let what = "has too few problems to hold some out: name others in `data.eval`";
                    return Err(Error::Unfit(format!("{}: {what}", config.data.train)));
                }
                let eval = train.split_off(train.len() - size);
                (Some(train), eval)
            }
            (train, eval) => (Some(read(train)?), read(eval)?),
        };
        let train = match train {
            Some(file) => List::File(file),
            None => List::Generated(Arithmetic { seed: derive(seed, PROBLEMS), held_out: false }),
        };
        let (prompts_per_step, num_generations) = (config.rl.prompts_per_step, config.rl.num_generations);
        Ok(Self { chat, text, seed, prompts_per_step, num_generations, train, eval, asked: Vec::new() })
    }

    /// Requests for `samples` answers to every held-out problem, put as `chat` does.
    ///
    /// # Errors
    /// If a prompt cannot be made.
    pub fn evaluation(&mut self, samples: usize, chat: &Chat) -> Result<Vec<Request>, Error> {
        self.asked = self.eval.iter().cloned().enumerate().collect();
        self.ask(chat, samples, derive(self.seed, EVALUATION))
    }

    /// Checks that sequences of `context` positions leave room to answer at least one held-out problem.
    ///
    /// # Errors
    /// If they do not, or a prompt cannot be made.
    pub fn check_context(&mut self, context: usize) -> Result<(), Error> {
        let prompts = self.evaluation(1, self.chat)?;
        match prompts.iter().map(|request| request.prompt.len()).min() {
            Some(n) if n >= context => Err(Error::Unfit(format!(
                "the shortest prompt has {n} tokens, and a sequence only {context} positions: see `rollout.max_context`"
            ))),
            _ => Ok(()),
        }
    }

    /// The held-out problems as lines of JSON that `toolsmith eval --data` reads.
    pub fn held_out(&self) -> Vec<Value> {
        self.eval.iter().map(|p| json!({"problem": p.text, "answer": p.answer.to_string()})).collect()
    }

    fn ask(&self, chat: &Chat, samples: usize, seed: u64) -> Result<Vec<Request>, Error> {
        let one = |(n, problem): &(usize, Problem)| {
            let prompt = chat.ids(self.text, &problem.text)?;
            Ok(Request { problem: *n, prompt, samples: 0..samples, seed })
        };
        self.asked.iter().map(one).collect()
    }
}

impl ppo::Task for Problems<'_> {
    fn requests(&mut self, step: usize) -> Result<Vec<Request>, Error> {
        let first = step * self.prompts_per_step;
        let problem = |n: usize| match &self.train {
            List::Generated(list) => list.problem(n as u64),
            List::File(list) => list[shuffled(self.seed, n as u64, list.len())].clone(),
        };
        self.asked = (first..first + self.prompts_per_step).map(|n| (n, problem(n))).collect();
        self.ask(self.chat, self.num_generations, derive(self.seed, SAMPLES))
    }

    fn reward(&self, trajectory: &Trajectory) -> (f64, bool) {
        let asked = self.asked.iter().find(|(n, _)| *n == trajectory.problem);
        let gold = &asked.expect("a trajectory answers a request").1.answer;
        let correct = answer::verify(&self.text.decode(&trajectory.model_ids()), gold);
        (if correct { 1.0 } else { -1.0 }, correct)
    }

    fn text(&self, ids: &[u32]) -> String {
        self.text.decode(ids)
    }
}

/// The cold start's traces.
pub struct Traces<'a> {
    chat: &'a Chat,
    text: &'a dyn Text,
    config: &'a Config,
    wrapper: Wrapper,
    list: List<(String, String)>,
}

impl<'a> Traces<'a> {
    /// Reads the traces that the configuration names, or generates them.
    ///
    /// # Errors
    /// Those of reading the file.
    pub fn new(config: &'a Config, chat: &'a Chat, text: &'a dyn Text) -> Result<Self, Error> {
        let wrapper = Wrapper::new(config.rollout.dialect, text)?;
        let list = match config.sft.data.as_str() {
            "" => List::Generated(Arithmetic { seed: derive(config.run.seed, TRACES), held_out: false }),
            file => List::File(dataset::read_traces(Path::new(file))?),
        };
        Ok(Self { chat, text, config, wrapper, list })
    }

    /// The traces of step `step` (counted from 0); none may be longer than `limit` tokens.
    ///
    /// # Errors
    /// If a trace cannot be encoded or is too long.
    pub fn of_step(&self, step: usize, limit: usize) -> Result<Vec<Sequence>, Error> {
        let size = self.config.sft.batch_size;
        (step * size..(step + 1) * size).map(|n| self.trace(n, limit)).collect()
    }

    fn trace(&self, n: usize, limit: usize) -> Result<Sequence, Error> {
        let (prompt, completion) = match &self.list {
            List::Generated(list) => {
                let problem = list.problem(n as u64);
                // Spread evenly, so that every batch has the share.
                let share = f64::from(self.config.sft.tool_share);
                let tool = ((n + 1) as f64 * share).floor() > (n as f64 * share).floor();
                let completion = arithmetic::completion(&problem, tool);
                (problem.text, completion)
            }
            List::File(list) => list[shuffled(self.config.run.seed, n as u64, list.len())].clone(),
        };
        let prompt = self.chat.ids(self.text, &prompt)?;
        let dialect = self.config.rollout.dialect;
        let tokens: Vec<Token> = trace::tokens(self.text, dialect, &self.wrapper, &prompt, &completion)?;
        if tokens.len() > limit {
            let beginning: String = completion.chars().take(30).collect();
            return Err(Error::Unfit(format!(
                "{}: the trace {beginning:?} has {} tokens, more than the {limit} of `rollout.max_context`",
                if self.config.sft.data.is_empty() { "cold start" } else { &self.config.sft.data },
                tokens.len(),
            )));
        }
        let mask = tokens.iter().map(|t| t.source == Source::Model).collect();
        Ok(Sequence::new(tokens.iter().map(|t| t.id).collect(), mask))
    }
}
