//! The tools of a rollout: Python in the sandbox's pool, all others in a few threads.
//!
//! Calls are answered as they end; which thread ran one and what else ran does not reach its answer. A call that names
//! no tool, or whose arguments do not fit, is answered at once with a line that says what there is.
//! Absent: limits of the box's own. Every tool brings its own.

use super::tools::PYTHON;
use super::{Answer, Call, Error, ToolPool, python, python_spec};
use crossbeam_channel::{Receiver, Sender, never, select, unbounded};
use serde_json::Value;
use std::cell::RefCell;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;
use toolsmith_sandbox::tool::{self, Cancel, Spec, Tool, ToolError, ToolOutput, Tools};
use toolsmith_sandbox::{Pool, Session};

/// A call on its way to a thread.
struct Work {
    id: u64,
    tool: Arc<dyn Tool>,
    arguments: Value,
    cancel: Cancel,
    session: Option<Session>,
}

type Done = Result<Answer, Error>;

/// Python and other tools.
pub struct Toolbox {
    /// Python's first, where there is a pool.
    specs: Vec<Spec>,
    python: Option<python::Workers>,
    tools: Tools,
    work: Sender<Work>,
    give: Sender<Done>,
    done: Receiver<Done>,
    /// Tokens of the calls that threads have or wait for.
    running: RefCell<HashMap<u64, Cancel>>,
}

impl Toolbox {
    /// Python in `pool`, where there is one, and `tools` in `threads` (at least 1) threads.
    ///
    /// # Errors
    /// A tool that has Python's name where there is a pool.
    pub fn new(pool: Option<Pool>, tools: Tools, threads: usize) -> Result<Self, ToolError> {
        let mut specs = Vec::new();
        if pool.is_some() {
            if tools.get(PYTHON).is_some() {
                return Err(ToolError::Duplicate(PYTHON.into()));
            }
            specs.push(python_spec(false));
        }
        specs.extend_from_slice(tools.specs());
        let (work, take) = unbounded::<Work>();
        let (give, done) = unbounded();
        for n in 0..if tools.is_empty() { 0 } else { threads.max(1) } {
            let (take, give) = (take.clone(), give.clone());
            let run = move || {
                // Not waited for at the end: a tool that does not mind its token keeps its thread for as long as it likes.
                for work in take {
                    let Work { id, .. } = work;
                    let done = run(&work).map(|output| Answer { id, output, session: work.session });
                    if give.send(done).is_err() {
                        break;
                    }
                }
            };
            let thread = std::thread::Builder::new().name(format!("tools {n}"));
            thread
                .spawn(run)
                .map_err(|source| ToolError::Io { path: "a thread for tools".into(), source })?;
        }
        let running = RefCell::default();
        Ok(Self { specs, python: pool.map(python::Workers::new), tools, work, give, done, running })
    }

    /// Whether a trajectory's programs share an interpreter, as [`RolloutConfig::stateful`](crate::config::RolloutConfig) says:
    /// of effect on what the model is told of Python.
    pub fn stateful(mut self, stateful: bool) -> Self {
        if self.python.is_some() {
            self.specs[0] = python_spec(stateful);
        }
        self
    }

    /// What the model needs to know of each tool, in the order of the prompt's list.
    pub fn specs(&self) -> &[Spec] {
        &self.specs
    }
}

fn run(work: &Work) -> Result<ToolOutput, Error> {
    if !work.cancel.is_fired() {
        work.tool.prepare().map_err(|e| Error::Tool(e.to_string()))?;
    }
    let call = || work.tool.call(&work.arguments, &work.cancel);
    let failed = |_| ToolOutput::error(format!("the tool `{}` panicked", work.tool.name()));
    Ok(catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(failed))
}

impl ToolPool for Toolbox {
    fn submit(&self, id: u64, call: Call, session: Option<Session>) -> Result<(), Error> {
        let answered = match (tool::resolve(&self.specs, &call.tool, &call.arguments), &self.python) {
            (Err(problem), _) => {
                let output = ToolOutput::error(problem);
                self.give.send(Ok(Answer { id, output, session })).is_ok()
            }
            (Ok(0), Some(workers)) => return workers.submit(id, call.code().unwrap_or_default(), session),
            (Ok(found), workers) => {
                let tool = self.tools.iter().nth(found - usize::from(workers.is_some()));
                let tool = tool.expect("the list of the others follows Python").clone();
                let cancel = Cancel::new();
                self.running.borrow_mut().insert(id, cancel.clone());
                self.work.send(Work { id, tool, arguments: call.arguments, cancel, session }).is_ok()
            }
        };
        if answered { Ok(()) } else { Err(Error::Tool("every thread for tools has stopped".into())) }
    }

    fn poll(&self, wait: Duration) -> Result<Option<Answer>, Error> {
        let stopped = || Error::Tool("every worker has stopped".into());
        let nothing = never();
        let python = self.python.as_ref().map_or(&nothing, |workers| workers.completions());
        select! {
            recv(python) -> done => Ok(Some(python::answer(done.map_err(|_| stopped())?))),
            recv(self.done) -> done => {
                let answer = done.map_err(|_| stopped())??;
                self.running.borrow_mut().remove(&answer.id);
                Ok(Some(answer))
            }
            default(wait) => Ok(None),
        }
    }

    fn cancel(&self, id: u64) {
        match self.running.borrow().get(&id) {
            Some(cancel) => cancel.fire(),
            None => self.python.iter().for_each(|workers| workers.cancel(id)),
        }
    }

    fn beside_python(&self) -> bool {
        self.specs.iter().any(|s| s.name != PYTHON)
    }
}

impl Drop for Toolbox {
    fn drop(&mut self) {
        self.running.borrow().values().for_each(Cancel::fire);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Ascii, Scripted, says};
    use super::super::{Control, EndReason, Event, Part, Request, Source, Text, Trajectory, rollout};
    use super::*;
    use crate::config::{Dialect, RolloutConfig};
    use serde_json::json;
    use std::time::Instant;
    use toolsmith_sandbox::tool::{Closure, WasmTool};
    use toolsmith_sandbox::{Limits, Sandbox, SandboxError};

    fn add() -> Closure {
        let number = json!({"type": "integer"});
        let schema =
            json!({"type": "object", "properties": {"a": number, "b": number}, "required": ["a", "b"]});
        Closure::new("add", "Adds.", schema, |x, _| {
            (x["a"].as_i64().unwrap() + x["b"].as_i64().unwrap()).to_string()
        })
    }

    fn collatz() -> WasmTool {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/tools/collatz.wat");
        WasmTool::open(path.as_ref(), &Limits::default()).unwrap()
    }

    fn toolbox(tools: Vec<Arc<dyn Tool>>, threads: usize) -> Toolbox {
        let mut set = Tools::new();
        tools.into_iter().for_each(|t| set.add_shared(t).unwrap());
        Toolbox::new(None, set, threads).unwrap()
    }

    fn config(dialect: Dialect) -> RolloutConfig {
        RolloutConfig {
            dialect,
            max_completion_length: 200,
            max_tool_output: 200,
            max_turns: 8,
            ..RolloutConfig::default()
        }
    }

    fn one(tools: &Toolbox, dialect: Dialect, turns: &'static [&'static str]) -> Trajectory {
        run_once(tools, &config(dialect), turns)
    }

    fn run_once(tools: &Toolbox, config: &RolloutConfig, turns: &'static [&'static str]) -> Trajectory {
        let text = Ascii::default();
        let mut model = Scripted::new(1, 64, 2000, says(text, "Q", turns));
        let request = Request { problem: 0, prompt: text.encode("Q").unwrap(), samples: 0..1, seed: 0 };
        let mut go = |_: Event| Control::Continue;
        let out = rollout(&mut model, &text, Some(tools), &[request], config, &mut go);
        out.unwrap().0.remove(0)
    }

    fn shown(t: &Trajectory) -> Vec<(&str, &str, bool)> {
        t.calls.iter().map(|c| (c.tool.as_str(), c.output.as_str(), c.ok)).collect()
    }

    #[test]
    fn a_model_calls_closures_and_modules_by_name() {
        let turns = &[
            "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 40, \"b\": 2}}\n</tool_call>",
            "<tool_call>{\"name\": \"collatz\", \"arguments\": {\"n\": 27}}</tool_call>",
            "so \\boxed{42}",
        ];
        let t = one(&toolbox(vec![Arc::new(add()), Arc::new(collatz())], 2), Dialect::Hermes, turns);
        assert_eq!(shown(&t), [("add", "42", true), ("collatz", "111", true)]);
        assert_eq!(
            (t.end, t.calls[0].arguments.to_string()),
            (EndReason::EndOfTurn, r#"{"a":40,"b":2}"#.into())
        );
        assert!(t.calls[1].fuel > 111, "a module's steps are counted");
        let of = |source| t.tokens.iter().filter(|t| t.source == source).map(|t| t.id).collect::<Vec<_>>();
        assert_eq!(Ascii::default().decode(&of(Source::Tool)), "42111");
        let around = "\n<tool_response>\n\n</tool_response>\n";
        assert_eq!(Ascii::default().decode(&of(Source::Template)), around.repeat(2));
    }

    #[test]
    fn retool_takes_json_beside_code_where_there_is_more_than_python() {
        let python = || Arc::new(Closure::python(|code| format!("ran {code}")));
        let turns = &[
            "<code>1+1</code>",
            "<tool_call>{\"name\": \"add\", \"arguments\": {\"a\": 1, \"b\": 2}}</tool_call>",
            "3",
        ];
        let t = one(&toolbox(vec![python(), Arc::new(add())], 1), Dialect::Retool, turns);
        assert_eq!(shown(&t), [("python", "ran 1+1", true), ("add", "3", true)]);
        // With Python alone the same text is no call.
        let turns = &["<code>1</code>", "<tool_call>{\"name\": \"python\"}</tool_call>"];
        let t = one(&toolbox(vec![python()], 1), Dialect::Retool, turns);
        assert_eq!((shown(&t), t.end), (vec![("python", "ran 1", true)], EndReason::EndOfTurn));
    }

    #[test]
    fn a_call_that_cannot_be_made_is_answered_with_what_there_is() {
        let turns = &[
            "<tool_call>{\"name\": \"ad\", \"arguments\": {}}</tool_call>",
            "<tool_call>{\"name\": \"add\", \"arguments\": {\"a\": \"x\"}}</tool_call>",
            "<tool_call>{\"name\": \"collatz\", \"arguments\": {\"n\": 0}}</tool_call>",
            "<tool_call>{\"name\"</tool_call>",
            "<tool_call>{\"name\": \"python\", \"arguments\": {\"code\": \"1\"}}</tool_call>",
            "x",
        ];
        let t = one(&toolbox(vec![Arc::new(add()), Arc::new(collatz())], 1), Dialect::Hermes, turns);
        assert_eq!(
            t.calls.iter().map(|c| c.output.as_str()).collect::<Vec<_>>(),
            [
                "Error: there is no tool `ad`; the tools are `add`, `collatz`",
                "Error: bad arguments for `add`: `b` is missing; `a` must be of type integer, not \"x\"",
                "Error: bad arguments for `collatz`: `n` must be at least 1, not 0",
                "Error: the call is not JSON: EOF while parsing an object at line 1 column 7",
                "Error: there is no tool `python`; the tools are `add`, `collatz`",
            ]
        );
        assert!(t.calls.iter().all(|c| !c.ok && c.fuel == 0));
        assert_eq!((t.calls[3].tool.as_str(), &t.calls[3].arguments), ("", &json!("{\"name\"")));
    }

    #[test]
    fn answers_depend_neither_on_threads_nor_on_order() {
        // Every sequence calls a tool that takes longer the earlier it was started.
        let slow = || {
            let schema =
                json!({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]});
            Arc::new(Closure::new("slow", "", schema, |x, cancel| {
                let n = x["n"].as_u64().unwrap();
                cancel.wait(Duration::from_millis(20 - 2 * n));
                (n * n).to_string()
            }))
        };
        let run = |threads| {
            let tools = toolbox(vec![slow(), Arc::new(add())], threads);
            let mut model = Scripted::new(8, 64, 300, |kv: &[u32], row: &mut [f32]| {
                let call = "<tool_call>{\"name\": \"slow\", \"arguments\": {\"n\": #}}</tool_call>";
                let said = call.replace('#', &char::from(kv[0] as u8).to_string());
                row[said.as_bytes().get(kv.len() - 1).map_or(Ascii::END, |&b| u32::from(b)) as usize] = 0.0;
            });
            let request = |n: u8| Request {
                problem: n.into(),
                prompt: vec![u32::from(b'0' + n)],
                samples: 0..1,
                seed: 0,
            };
            let requests: Vec<_> = (0..8).map(request).collect();
            let mut go = |_: Event| Control::Continue;
            let out = rollout(
                &mut model,
                &Ascii::default(),
                Some(&tools),
                &requests,
                &config(Dialect::Hermes),
                &mut go,
            );
            out.unwrap().0
        };
        let reference = run(1);
        let outputs: Vec<_> = reference.iter().map(|t| t.calls[0].output.as_str()).collect();
        assert_eq!(outputs, ["0", "1", "4", "9", "16", "25", "36", "49"]);
        assert_eq!(run(4), reference);
        assert_eq!(run(16), reference);
    }

    #[test]
    fn stopping_a_rollout_ends_its_calls() {
        let (send, told) = crossbeam_channel::unbounded();
        let wait = Closure::new("wait", "", json!({}), move |_, cancel| {
            let _ = send.send(cancel.wait(Duration::from_secs(60)));
            "late"
        });
        let tools = toolbox(vec![Arc::new(wait)], 1);
        let text = Ascii::default();
        let turns = &["<tool_call>{\"name\": \"wait\", \"arguments\": {}}</tool_call>"];
        let mut model = Scripted::new(1, 64, 300, says(text, "Q", turns));
        let request = Request { problem: 0, prompt: text.encode("Q").unwrap(), samples: 0..1, seed: 0 };
        let (started, mut called) = (Instant::now(), false);
        let mut stop_when_called = |event: Event| {
            called |= matches!(event, Event::Sequence { part: Part::CodeEnd, .. });
            if called && started.elapsed() > Duration::from_millis(20) {
                Control::Stop
            } else {
                Control::Continue
            }
        };
        let out = rollout(
            &mut model,
            &text,
            Some(&tools),
            &[request],
            &config(Dialect::Hermes),
            &mut stop_when_called,
        );
        assert_eq!(out.unwrap().0[0].end, EndReason::Cancelled);
        assert_eq!(
            told.recv_timeout(Duration::from_secs(30)),
            Ok(true),
            "it was told, and did not have to wait"
        );
    }

    /// A tool that does not keep its promises.
    struct Bad {
        missing: bool,
    }

    impl Tool for Bad {
        fn name(&self) -> &str {
            "bad"
        }
        fn description(&self) -> &str {
            ""
        }
        fn schema(&self) -> Value {
            json!({})
        }
        fn prepare(&self) -> Result<(), SandboxError> {
            let why = || SandboxError::Limits { field: "fuel", why: "must be above 0".into() };
            if self.missing { Err(why()) } else { Ok(()) }
        }
        fn call(&self, _: &Value, _: &Cancel) -> ToolOutput {
            panic!("never so")
        }
    }

    #[test]
    fn a_trajectorys_programs_share_an_interpreter_where_that_is_asked_for() {
        let turns = &["<code>x = 41</code>", "<code>x += 1</code>", "<code>x</code>", "so"];
        let tools = Toolbox::new(Some(Sandbox::builder().pool(2).unwrap()), Tools::new(), 1).unwrap();
        let last = |stateful| {
            let config = RolloutConfig { stateful, ..config(Dialect::Retool) };
            run_once(&tools, &config, turns).calls[2].output.clone()
        };
        assert_eq!(last(true), "42");
        assert_eq!(last(false), "NameError: name 'x' is not defined");
        assert_eq!(last(true), "42", "of its own, not of the one before");
    }

    #[test]
    fn a_tool_that_panics_fails_and_one_that_is_not_ready_ends_the_rollout() {
        let call = Call { tool: "bad".into(), arguments: json!({}) };
        let ask = |missing| {
            let tools = toolbox(vec![Arc::new(Bad { missing })], 1);
            tools.submit(3, call.clone(), None).unwrap();
            tools.poll(Duration::from_secs(30))
        };
        let panicked = ToolOutput::error("the tool `bad` panicked");
        let answer = ask(false).unwrap().unwrap();
        assert_eq!((answer.id, answer.output), (3, panicked));
        assert_eq!(ask(true).unwrap_err().to_string(), "tools: limits.fuel: must be above 0");
        let empty = toolbox(vec![], 1);
        assert!(empty.poll(Duration::ZERO).unwrap().is_none());
        assert!(!empty.beside_python());
    }
}
