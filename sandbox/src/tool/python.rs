//! Python as a tool: a program as its one argument.

use serde_json::json;

use super::Spec;

/// What a caller needs to know of Python.
pub fn spec() -> Spec {
    let schema = json!({
        "type": "object",
        "properties": {"code": {"type": "string", "description": "The program."}},
        "required": ["code"],
    });
    let description = "Runs a Python program in a fresh interpreter and returns what it prints.";
    Spec { name: "python".into(), description: description.into(), schema }
}
