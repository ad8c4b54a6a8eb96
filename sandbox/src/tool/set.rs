//! A set of tools: unique names in the order in which they were added, calls by name, and a list for prompts.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Cancel, Tool, ToolError, ToolOutput, schema};

/// What a caller needs to know of a tool.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// What it is called by.
    pub name: String,
    /// What it does.
    pub description: String,
    /// JSON Schema of its arguments.
    pub schema: Value,
}

impl Spec {
    /// A tool's own.
    ///
    /// # Errors
    /// A name or a schema that cannot be used.
    pub fn of(tool: &dyn Tool) -> Result<Spec, ToolError> {
        Spec::new(tool.name(), tool.description(), tool.schema())
    }

    /// The same from its parts.
    ///
    /// # Errors
    /// As [`Spec::of`].
    pub fn new(name: &str, description: &str, schema: Value) -> Result<Spec, ToolError> {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        if name.is_empty() || name.len() > 64 || !name.bytes().all(fits) {
            return Err(ToolError::Name(name.into()));
        }
        schema::well_formed(&schema).map_err(|why| ToolError::Schema { tool: name.into(), why })?;
        Ok(Spec { name: name.into(), description: description.into(), schema })
    }

    /// The tool as chat templates take it: `{"type": "function", "function": {"name", "description", "parameters"}}`.
    pub fn describe(&self) -> Value {
        json!({"type": "function", "function": {
            "name": self.name, "description": self.description, "parameters": self.schema,
        }})
    }

    /// Checks arguments against the schema. Checked are `type`, `enum`, `const`, `properties`, `required`,
    /// `additionalProperties`, `items`, `minItems`, `maxItems`, `minLength`, `maxLength`, `minimum`, `maximum`,
    /// `exclusiveMinimum` and `exclusiveMaximum`; other keywords are left to the tool.
    ///
    /// # Errors
    /// The first things wrong, in one line that says what to write instead.
    pub fn check(&self, arguments: &Value) -> Result<(), String> {
        schema::check(&self.schema, arguments)
            .map_err(|problem| format!("bad arguments for `{}`: {problem}", self.name))
    }
}

/// The place in `specs` of the tool named `name`, if it can be called with `arguments`.
///
/// # Errors
/// What to tell the caller, in one line: the tools there are, or what is wrong with the arguments.
pub fn resolve(specs: &[Spec], name: &str, arguments: &Value) -> Result<usize, String> {
    let Some(found) = specs.iter().position(|s| s.name == name) else {
        let names: Vec<String> = specs.iter().map(|s| format!("`{}`", s.name)).collect();
        return Err(match names.as_slice() {
            [] => format!("there is no tool `{name}`, nor any other"),
            [only] => format!("there is no tool `{name}`; the tool is {only}"),
            _ => format!("there is no tool `{name}`; the tools are {}", names.join(", ")),
        });
    };
    specs[found].check(arguments).map(|()| found)
}

/// Tools by name. Cloning it shares them.
#[derive(Clone, Default)]
pub struct Tools {
    specs: Vec<Spec>,
    tools: Vec<Arc<dyn Tool>>,
}

impl Tools {
    /// No tools yet.
    pub fn new() -> Self {
        Tools::default()
    }

    /// Adds a tool at the end.
    ///
    /// # Errors
    /// A name that is there already or cannot be used, a schema that cannot be used.
    pub fn add(&mut self, tool: impl Tool + 'static) -> Result<(), ToolError> {
        self.add_shared(Arc::new(tool))
    }

    /// The same for a tool that others use too.
    ///
    /// # Errors
    /// As [`Tools::add`].
    pub fn add_shared(&mut self, tool: Arc<dyn Tool>) -> Result<(), ToolError> {
        let spec = Spec::of(&*tool)?;
        if self.get(&spec.name).is_some() {
            return Err(ToolError::Duplicate(spec.name));
        }
        self.specs.push(spec);
        self.tools.push(tool);
        Ok(())
    }

    /// The tool of that name.
    pub fn get(&self, name: &str) -> Option<&Arc<dyn Tool>> {
        let found = self.specs.iter().position(|s| s.name == name)?;
        Some(&self.tools[found])
    }

    /// What callers need to know of each, in the order in which they were added.
    pub fn specs(&self) -> &[Spec] {
        &self.specs
    }

    /// Every tool, in the same order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<dyn Tool>> {
        self.tools.iter()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.tools.is_empty()
    }

    /// The JSON list of [`Spec::describe`], in the same order: what OpenAI's interface and chat templates take as `tools`.
    pub fn describe(&self) -> Value {
        self.specs.iter().map(Spec::describe).collect()
    }

    /// Checks the arguments and calls the tool. An unknown name or bad arguments are a failed call whose text says what
    /// there is.
    pub fn call(&self, name: &str, arguments: &Value, cancel: &Cancel) -> ToolOutput {
        match resolve(&self.specs, name, arguments) {
            Ok(found) => self.tools[found].call(arguments, cancel),
            Err(problem) => ToolOutput::error(problem),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Closure;
    use super::*;

    fn echo(name: &str) -> Closure {
        let schema = json!({"type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"]});
        Closure::new(name, "Says it again.", schema, |a, _| a["x"].as_str().unwrap_or("?").to_owned())
    }

    #[test]
    fn names_are_unique_and_ordered() {
        let mut tools = Tools::new();
        assert_eq!(
            tools.call("a", &json!({}), &Cancel::new()).text,
            "Error: there is no tool `a`, nor any other"
        );
        for name in ["zeta", "alpha", "m-1"] {
            tools.add(echo(name)).unwrap();
        }
        let error = tools.add(echo("alpha")).unwrap_err().to_string();
        assert_eq!(error, "there are two tools named `alpha`; a name can be given once");
        for bad in ["", "a b", "é", &"x".repeat(65)] {
            assert!(tools.add(echo(bad)).unwrap_err().to_string().contains("64 letters"), "{bad}");
        }
        let list = tools.describe();
        let names: Vec<_> =
            list.as_array().unwrap().iter().map(|t| t["function"]["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["zeta", "alpha", "m-1"]);
        assert_eq!(
            list[0].to_string(),
            r#"{"type":"function","function":{"name":"zeta","description":"Says it again.","parameters":{"type":"object","properties":{"x":{"type":"string"}},"required":["x"]}}}"#
        );
    }

    #[test]
    fn calls_are_by_name_with_checked_arguments() {
        let mut tools = Tools::new();
        tools.add(echo("echo")).unwrap();
        let call = |name: &str, arguments| tools.call(name, &arguments, &Cancel::new());
        assert_eq!(call("echo", json!({"x": "hi"})), ToolOutput::from("hi"));
        assert_eq!(call("ekko", json!({})).text, "Error: there is no tool `ekko`; the tool is `echo`");
        let bad = call("echo", json!({"x": 1}));
        assert_eq!(bad.text, "Error: bad arguments for `echo`: `x` must be of type string, not 1");
        assert!(!bad.ok);
    }
}
