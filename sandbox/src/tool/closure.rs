//! A Rust closure as a tool.
//!
//! A closure cannot be killed. A call runs in a thread of its own, and when its time is over or it is cancelled the
//! caller goes on without it: its result is dropped whenever it comes. The token that the closure gets is fired then, so
//! that it can stop by itself. Fuel and memory are not limited.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use serde_json::Value;

use super::{Cancel, Tool, ToolOutput, python};
use crate::error::one_line;
use crate::{Limit, Limits};

/// Abandoned calls of one closure that may still run; more are refused until one of them returns.
const MOST_ABANDONED: usize = 16;

/// A closure with a name, a description and a schema.
pub struct Closure {
    name: String,
    description: String,
    schema: Value,
    limits: Limits,
    run: Arc<Run>,
    abandoned: Arc<AtomicUsize>,
}

type Run = dyn Fn(&Value, &Cancel) -> ToolOutput + Send + Sync;

impl Closure {
    /// A tool that runs `run` with arguments that match `schema`. It returns text, a `Result` whose error is shown as a
    /// failed call's, or a whole [`ToolOutput`]. The token is fired when nobody waits for the result any more.
    ///
    /// A panic is a failed call (the panic hook still reports it as usual).
    pub fn new<R: Into<ToolOutput>>(
        name: impl Into<String>,
        description: impl Into<String>,
        schema: Value,
        run: impl Fn(&Value, &Cancel) -> R + Send + Sync + 'static,
    ) -> Self {
        Closure {
            name: name.into(),
            description: description.into(),
            schema,
            limits: Limits::default(),
            run: Arc::new(move |arguments, cancel| run(arguments, cancel).into()),
            abandoned: Arc::default(),
        }
    }

    /// A tool that takes Python's place: it has its name and schema, and gets the program as text.
    pub fn python<R: Into<ToolOutput>>(run: impl Fn(&str) -> R + Send + Sync + 'static) -> Self {
        let spec = python::spec();
        Closure::new(spec.name, spec.description, spec.schema, move |arguments, _| {
            run(arguments["code"].as_str().unwrap_or_default())
        })
    }

    /// Other limits than the default ones: `wall_ms` and `output_bytes` hold.
    pub fn limits(mut self, limits: &Limits) -> Self {
        self.limits = limits.clone();
        self
    }
}

/// One call: whether it runs, was abandoned, or is over; and how many of its closure's calls run abandoned.
struct Running {
    state: AtomicU8,
    abandoned: Arc<AtomicUsize>,
}

const RUNS: u8 = 0;
const ABANDONED: u8 = 1;
const OVER: u8 = 2;

impl Running {
    fn abandon(&self) {
        // Counted first, so that the thread, should it end between the two, takes away what is there.
        self.abandoned.fetch_add(1, SeqCst);
        if self.state.compare_exchange(RUNS, ABANDONED, SeqCst, SeqCst).is_err() {
            self.abandoned.fetch_sub(1, SeqCst);
        }
    }

    fn over(&self) {
        if self.state.swap(OVER, SeqCst) == ABANDONED {
            self.abandoned.fetch_sub(1, SeqCst);
        }
    }
}

enum Ended {
    With(ToolOutput),
    Panicked(String),
    Cancelled,
}

impl Tool for Closure {
    fn name(&self) -> &str {
        &self.name
    }

    fn description(&self) -> &str {
        &self.description
    }

    fn schema(&self) -> Value {
        self.schema.clone()
    }

    fn call(&self, arguments: &Value, cancel: &Cancel) -> ToolOutput {
        if cancel.is_fired() {
            return ToolOutput::cancelled();
        }
        if self.abandoned.load(SeqCst) >= MOST_ABANDONED {
            let why = format!("{MOST_ABANDONED} abandoned calls of `{}` are still running", self.name);
            return ToolOutput::at_limit(Limit::Wall, why);
        }
        let end = Instant::now() + Duration::from_millis(self.limits.wall_ms);
        let (send, receive) = bounded(2);
        let token = Cancel::new();
        let running = Arc::new(Running { state: AtomicU8::new(RUNS), abandoned: self.abandoned.clone() });
        let work = {
            let (run, arguments, token) = (self.run.clone(), arguments.clone(), token.clone());
            let (send, running) = (send.clone(), running.clone());
            move || {
                let ended = match catch_unwind(AssertUnwindSafe(|| run(&arguments, &token))) {
                    Ok(output) => Ended::With(output),
                    Err(panic) => Ended::Panicked(said(&*panic)),
                };
                let _ = send.send(ended);
                running.over();
            }
        };
        if let Err(e) = std::thread::Builder::new().name(format!("tool {}", self.name)).spawn(work) {
            return ToolOutput::error(format!("cannot start a thread: {e}"));
        }
        let hook = cancel.on_fire(move || drop(send.try_send(Ended::Cancelled)));
        let ended = receive.recv_deadline(end);
        drop(hook);
        let output = match ended {
            Ok(Ended::With(output)) => output,
            Ok(Ended::Panicked(why)) => ToolOutput::error(format!("the tool panicked: {why}")),
            Ok(Ended::Cancelled) => {
                running.abandon();
                token.fire();
                ToolOutput::cancelled()
            }
            Err(_) => {
                running.abandon();
                token.fire();
                let why = format!("the tool ran longer than {} ms", self.limits.wall_ms);
                ToolOutput::at_limit(Limit::Wall, why)
            }
        };
        output.cut(&self.limits)
    }
}

/// A panic's message.
fn said(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or(panic.downcast_ref::<String>().map(String::as_str));
    one_line(text.unwrap_or("no message"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn closure<R: Into<ToolOutput>>(run: impl Fn(&Value, &Cancel) -> R + Send + Sync + 'static) -> Closure {
        let limits = Limits { output_bytes: 100, ..Limits::default() };
        Closure::new("f", "", json!({}), run).limits(&limits)
    }

    fn call(tool: &Closure) -> ToolOutput {
        tool.call(&json!({"x": 1}), &Cancel::new())
    }

    #[test]
    fn returns_are_shown_as_what_they_are() {
        let ok = |text: &str| ToolOutput { text: text.into(), ok: true, ..Default::default() };
        assert_eq!(call(&closure(|a, _| a["x"].to_string())), ok("1"));
        assert_eq!(call(&closure(|_, _| Ok::<_, String>("fine"))), ok("fine"));
        assert_eq!(
            call(&closure(|_, _| Err::<String, _>("no such city"))),
            ToolOutput::error("no such city")
        );
        let whole = ToolOutput { fuel: 7, ..ok("w") };
        assert_eq!(call(&closure(|_, _| ToolOutput { fuel: 7, ..ToolOutput::from("w") })), whole);
        let python = Closure::python(|code| code.len().to_string());
        assert_eq!(python.call(&json!({"code": "12345"}), &Cancel::new()), ok("5"));
        assert_eq!(python.name(), "python");
    }

    #[test]
    fn a_panic_is_a_failed_call() {
        let tool = closure(|a, _| if a["x"] == 1 { panic!("two\nlines") } else { "fine" });
        assert_eq!(call(&tool), ToolOutput::error("the tool panicked: two; lines"));
        assert!(tool.call(&json!({"x": 2}), &Cancel::new()).ok);
    }

    #[test]
    fn long_output_is_cut() {
        let output = call(&closure(|_, _| "x".repeat(1000)));
        assert!(output.ok && output.limit_hit == Some(Limit::Output), "{output:?}");
        assert!(output.text.contains("[900 bytes left out]"), "{}", output.text);
    }

    #[test]
    fn a_sleeper_is_abandoned_and_told() {
        let (send, told) = bounded(1);
        let tool = closure(move |_, token| {
            let fired = token.wait(Duration::from_secs(60));
            let _ = send.send(fired);
            "late"
        });
        let output = call(&tool.limits(&Limits { wall_ms: 50, ..Limits::default() }));
        assert_eq!(output, ToolOutput::at_limit(Limit::Wall, "the tool ran longer than 50 ms"));
        assert_eq!(told.recv_timeout(Duration::from_secs(30)), Ok(true));
    }

    #[test]
    fn cancelling_ends_the_wait_and_tells_the_closure() {
        let (send, started) = bounded(1);
        let (ended, told) = bounded(1);
        let tool = closure(move |_, token| {
            send.send(()).unwrap();
            let _ = ended.send(token.wait(Duration::from_secs(60)));
            "late"
        });
        let cancel = Cancel::new();
        let output = std::thread::scope(|scope| {
            let calling = scope.spawn(|| tool.call(&json!({}), &cancel));
            started.recv().unwrap();
            cancel.fire();
            calling.join().unwrap()
        });
        assert_eq!(output, ToolOutput::cancelled());
        assert_eq!(told.recv_timeout(Duration::from_secs(30)), Ok(true));
        assert_eq!(tool.call(&json!({}), &cancel), ToolOutput::cancelled(), "a fired token starts nothing");
        assert!(started.is_empty());
    }

    #[test]
    fn abandoned_calls_are_bounded() {
        let (release, held) = bounded::<()>(0);
        let tool = closure(move |_, _| {
            let _ = held.recv();
            "late"
        });
        let tool = tool.limits(&Limits { wall_ms: 1, ..Limits::default() });
        for _ in 0..MOST_ABANDONED {
            assert!(call(&tool).text.contains("longer than 1 ms"));
        }
        assert!(call(&tool).text.contains("16 abandoned calls of `f` are still running"));
        drop(release);
        let end = Instant::now() + Duration::from_secs(30);
        while tool.abandoned.load(SeqCst) > 0 && Instant::now() < end {
            std::thread::yield_now();
        }
        assert_eq!(tool.limits(&Limits::default()).call(&json!({}), &Cancel::new()).text, "late");
    }
}
