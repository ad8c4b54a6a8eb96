//! A program's own tools, called as a model calls them: `cargo run --release --example tools`.
//! With a model they are offered to it: `cargo run --release --example tools -- MODEL "How many steps does 27 take?"`.

use std::error::Error;
use std::path::Path;

use serde_json::json;
use toolsmith::config::Dialect;
use toolsmith::tool::{Cancel, Closure, Tools, WasmTool};
use toolsmith::{Agent, AgentEvent, Limits};

/// A closure: a name, what it does, a schema of its arguments, and what to run.
fn convert() -> Closure {
    let schema = json!({
        "type": "object",
        "properties": {
            "value": {"type": "number"},
            "to": {"type": "string", "enum": ["celsius", "fahrenheit"]},
        },
        "required": ["value", "to"],
    });
    Closure::new("convert", "Converts a temperature to another unit.", schema, |arguments, _| {
        let value = arguments["value"].as_f64().ok_or("value is no number")?;
        match arguments["to"].as_str() {
            Some("celsius") => Ok(format!("{:.1}", (value - 32.0) / 1.8)),
            Some("fahrenheit") => Ok(format!("{:.1}", value * 1.8 + 32.0)),
            // Not reached through `Tools` or an `Agent`: they check arguments against the schema.
            _ => Err("unknown unit"),
        }
    })
}

/// A WebAssembly module: nobody needs to trust it, and it stops at the limits' first.
fn collatz() -> Result<WasmTool, toolsmith::tool::ToolError> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/tools/collatz.wat");
    WasmTool::open(&path, &Limits { fuel: 1_000_000, memory_mb: 1, ..Limits::default() })
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    if let Some(model) = arguments.next() {
        let prompt = arguments.next().unwrap_or_else(|| "How many Collatz steps does 27 take?".into());
        let agent = Agent::builder(model).dialect(Dialect::Hermes).tool(convert()).tool(collatz()?);
        let reply = agent.build()?.run(&prompt, |event| match event {
            AgentEvent::Text(text) | AgentEvent::Code(text) => print!("{text}"),
            AgentEvent::Output(output, ok) => println!("\n{} {output}", if ok { ">" } else { "!" }),
            AgentEvent::Answer(answer) => println!("\nAnswer: {answer}"),
        })?;
        for call in &reply.trajectory.calls {
            println!("{} {} -> {}", call.tool, call.arguments, call.output);
        }
        return Ok(());
    }
    let mut tools = Tools::new();
    tools.add(convert())?;
    tools.add(collatz()?)?;
    println!("{:#}\n", tools.describe());
    for (name, arguments) in [
        ("collatz", json!({"n": 27})),
        ("convert", json!({"value": 100, "to": "fahrenheit"})),
        ("convert", json!({"value": "hot", "to": "kelvin"})),
        ("collats", json!({})),
    ] {
        let output = tools.call(name, &arguments, &Cancel::new());
        println!("{name} {arguments} -> {} (fuel {})", output.text, output.fuel);
    }
    Ok(())
}
