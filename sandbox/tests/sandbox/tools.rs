//! Python as a tool, by the crate's own pool.

use std::time::{Duration, Instant};

use serde_json::json;
use toolsmith_sandbox::tool::{Cancel, Python, Tool, ToolOutput, Tools};
use toolsmith_sandbox::{Limit, Limits};

use crate::builder;

fn python(limits: Limits, workers: usize) -> Python {
    Python::new(builder(&limits), workers)
}

fn call(tool: &Python, code: &str) -> ToolOutput {
    tool.call(&json!({"code": code}), &Cancel::new())
}

#[test]
fn a_program_is_a_call() {
    let tool = python(Limits { output_bytes: 100, ..Limits::default() }, 1);
    tool.prepare().unwrap();
    let output = call(&tool, "print(6 * 7)");
    assert_eq!((output.text.as_str(), output.ok, output.limit_hit), ("42\n", true, None));
    assert!(output.fuel > 0);
    let output = call(&tool, "1/0");
    assert_eq!((output.text.as_str(), output.ok), ("ZeroDivisionError: division by zero", false));
    assert_eq!(call(&tool, "print('x' * 1000)").limit_hit, Some(Limit::Output));
    assert_eq!(tool.call(&json!({"code": 1}), &Cancel::new()).text, "Error: `code` is missing");
    let mut tools = Tools::new();
    tools.add(tool).unwrap();
    let output = tools.call("python", &json!({}), &Cancel::new());
    assert_eq!(output.text, "Error: bad arguments for `python`: `code` is missing");
}

#[test]
fn limits_and_cancelling_end_a_call() {
    let tool = python(Limits { fuel: 1_000_000, ..Limits::default() }, 1);
    assert_eq!(call(&tool, "while True: pass").limit_hit, Some(Limit::Fuel));
    let tool = python(Limits { fuel: u64::MAX, ..Limits::default() }, 1);
    tool.prepare().unwrap();
    let (cancel, started) = (Cancel::new(), Instant::now());
    let code = json!({"code": "while True: pass"});
    let output = std::thread::scope(|scope| {
        let calling = scope.spawn(|| tool.call(&code, &cancel));
        std::thread::sleep(Duration::from_millis(50));
        cancel.fire();
        calling.join().unwrap()
    });
    assert_eq!((output.limit_hit, output.ok), (Some(Limit::Cancelled), false), "{output:?}");
    assert!(started.elapsed() < Duration::from_secs(30));
    assert_eq!(tool.call(&json!({"code": "1"}), &cancel).limit_hit, Some(Limit::Cancelled), "it stays fired");
    assert_eq!(call(&tool, "1 + 1").text, "2", "the next call finds an interpreter");
}

#[test]
fn callers_in_several_threads_get_their_own_answers() {
    let tool = python(Limits::default(), 2);
    std::thread::scope(|scope| {
        for caller in 0..4 {
            let tool = &tool;
            scope.spawn(move || {
                for n in 0..25 {
                    let number = caller * 100 + n;
                    assert_eq!(call(tool, &format!("print({number} * 3)")).text, format!("{}\n", number * 3));
                }
            });
        }
    });
}
