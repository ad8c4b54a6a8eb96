//! From a problem to the token ids a model is asked to continue.
//!
//! Two templates, both Jinja. The *prompt template* turns a problem into a user message: a built-in
//! (`chat/*.jinja` beside this file) or the user's own file, with the variables `problem`, `native_tools` (whether the
//! chat template can list tools), `offered` (the tools, each with `name`, `description` and `parameters`), `python`
//! (whether Python is one) and `others` (those beside it). What it assigns to `system` becomes the system message; if it sets
//! `tools`, the chat template is given the tools' descriptions. The model's own *chat template*, where it has one, puts
//! turns around the messages; a model without one continues the bare text.
//! Deliberately absent: conversations of several user turns, and dates (`strftime_now`), which would make
//! prompts depend on the day.

use crate::rollout::tools::PYTHON;
use crate::rollout::{self, Text};
use minijinja::value::Kwargs;
use minijinja::{Environment, UndefinedBehavior, context};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};
use serde_json::{Value, json};
use std::io;
use std::path::Path;
use toolsmith_models::tokenizer::Tokenizer;
use toolsmith_sandbox::tool::{self, Spec};

/// Built-in prompt templates by name.
const BUILT_IN: [(&str, &str); 5] = [
    ("default", include_str!("chat/default.jinja")),
    ("direct", include_str!("chat/direct.jinja")),
    ("hermes", include_str!("chat/hermes.jinja")),
    ("plain", include_str!("chat/plain.jinja")),
    ("tiny", include_str!("chat/tiny.jinja")),
];

/// Why no prompt could be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither a built-in template nor a file that can be read.
    #[error(
        "prompt template {name}: {source}; built in are default, direct, hermes, plain and tiny, anything else names a file"
    )]
    Read {
        /// As configured.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// A template that is not Jinja, or fails while it is rendered.
    #[error("{name}: {what}")]
    Template {
        /// The prompt template, or `chat template of the model`.
        name: String,
        /// Line and reason.
        what: String,
    },
    /// The text has no token ids.
    #[error(transparent)]
    Text(#[from] rollout::Error),
}

/// What a model's directory says about its turns.
#[derive(Clone, Debug, Default)]
pub struct ModelFormat<'a> {
    /// `chat_template`.
    pub chat_template: Option<&'a str>,
    /// `tokenizer_config.json`: templates read special tokens such as `bos_token` from it.
    pub config: Value,
    /// The token before a bare text.
    pub bos: Option<u32>,
}

/// Makes prompts.
#[derive(Debug)]
pub struct Chat {
    env: Environment<'static>,
    /// Name of the prompt template, for errors.
    name: String,
    special: Value,
    bos: Option<u32>,
    has_turns: bool,
    native_tools: bool,
    offer: Offer,
}

/// What templates are told of the tools.
#[derive(Debug)]
struct Offer {
    /// Each with `name`, `description` and `parameters`.
    offered: minijinja::Value,
    /// Whether Python is one.
    python: bool,
    /// Those beside it.
    others: minijinja::Value,
    /// All, as chat templates take them.
    functions: minijinja::Value,
}

impl Offer {
    fn of(tools: &[Spec]) -> Self {
        let functions: Vec<Value> = tools.iter().map(Spec::describe).collect();
        let offered: Vec<&Value> = functions.iter().map(|tool| &tool["function"]).collect();
        let others: Vec<&Value> = offered.iter().copied().filter(|tool| tool["name"] != PYTHON).collect();
        let python = others.len() < offered.len();
        let [offered, others] = [offered, others].map(minijinja::Value::from_serialize);
        Self { offered, python, others, functions: minijinja::Value::from_serialize(&functions) }
    }
}

const PROMPT: &str = "prompt";
const TURNS: &str = "turns";

impl Chat {
    /// The prompt template `name` (built in, or a file) around which the tokenizer's model puts its turns.
    pub fn load(name: &str, tokenizer: &Tokenizer) -> Result<Self, Error> {
        let format = ModelFormat {
            chat_template: tokenizer.chat_template(),
            config: tokenizer.config().clone(),
            bos: tokenizer.bos().filter(|_| tokenizer.config()["add_bos_token"] != false),
        };
        Self::new(name, format)
    }

    /// The same from what a tokenizer would give.
    pub fn new(name: &str, format: ModelFormat) -> Result<Self, Error> {
        let source = match BUILT_IN.iter().find(|b| b.0 == name) {
            Some(built_in) => built_in.1.to_owned(),
            None => std::fs::read_to_string(Path::new(name))
                .map_err(|source| Error::Read { name: name.into(), source })?,
        };
        let mut env = Environment::new();
        env.set_trim_blocks(true);
        env.set_lstrip_blocks(true);
        env.set_undefined_behavior(UndefinedBehavior::Lenient);
        env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        env.add_function("raise_exception", |what: String| -> Result<String, minijinja::Error> {
            Err(minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, what))
        });
        env.add_filter("tojson", to_json);
        let mut chat = Self {
            env,
            name: format!("prompt template {name}"),
            special: special_tokens(&format.config),
            bos: format.bos,
            has_turns: format.chat_template.is_some(),
            native_tools: false,
            offer: Offer::of(&[tool::python_spec()]),
        };
        chat.env.add_template_owned(PROMPT, source).map_err(|e| chat.template_error(PROMPT, &e))?;
        if let Some(turns) = format.chat_template {
            chat.env
                .add_template_owned(TURNS, turns.to_owned())
                .map_err(|e| chat.template_error(TURNS, &e))?;
            chat.native_tools =
                chat.env.get_template(TURNS).is_ok_and(|t| t.undeclared_variables(false).contains("tools"));
        }
        Ok(chat)
    }

    /// The same, offering `tools` instead of Python alone.
    pub fn with_tools(self, tools: &[Spec]) -> Self {
        Self { offer: Offer::of(tools), ..self }
    }

    /// The text a model is asked to continue for `problem`.
    pub fn prompt(&self, problem: &str) -> Result<String, Error> {
        let failed = |e: minijinja::Error| self.template_error(PROMPT, &e);
        let template = self.env.get_template(PROMPT).map_err(failed)?;
        let native_tools = self.native_tools;
        let Offer { offered, python, others, functions } = &self.offer;
        let variables = context! { problem, native_tools, offered, python, others };
        let rendered = template.render_captured(variables).map_err(failed)?;
        let user = rendered.output();
        let system = rendered.state().lookup("system").map(|s| s.to_string()).unwrap_or_default();
        let (user, system) = (user.trim_end_matches('\n').trim_start_matches('\n'), system.trim());
        if !self.has_turns {
            return Ok(if system.is_empty() { user.into() } else { format!("{system}\n\n{user}") });
        }
        let mut messages = Vec::new();
        if !system.is_empty() {
            messages.push(json!({"role": "system", "content": system}));
        }
        messages.push(json!({"role": "user", "content": user}));
        let wanted = rendered.state().lookup("tools").is_some_and(|t| t.is_true());
        let tools = wanted.then_some(functions);
        let failed = |e: minijinja::Error| self.template_error(TURNS, &e);
        let variables = context! { messages, tools, add_generation_prompt => true, ..minijinja::Value::from_serialize(&self.special) };
        self.env.get_template(TURNS).and_then(|t| t.render(variables)).map_err(failed)
    }

    /// Token ids of [`Chat::prompt`]; a bare text begins with the model's BOS token where it has one.
    pub fn ids(&self, text: &dyn Text, problem: &str) -> Result<Vec<u32>, Error> {
        let bos = if self.has_turns { None } else { self.bos };
        Ok(bos.into_iter().chain(text.encode(&self.prompt(problem)?)?).collect())
    }

    fn template_error(&self, which: &str, e: &minijinja::Error) -> Error {
        let name = if which == PROMPT { self.name.clone() } else { "chat template of the model".into() };
        let what = e.detail().map_or_else(|| e.kind().to_string(), str::to_owned);
        let line = e.line().map_or(String::new(), |line| format!("line {line}: "));
        Error::Template { name, what: format!("{line}{what}") }
    }
}

/// JSON as Python writes it: models were trained on templates rendered there.
fn to_json(value: minijinja::Value, options: Kwargs) -> Result<String, minijinja::Error> {
    let mut out = Vec::new();
    let written = match options.get::<Option<usize>>("indent")? {
        Some(n) => {
            let indent = vec![b' '; n];
            value.serialize(&mut Serializer::with_formatter(&mut out, PrettyFormatter::with_indent(&indent)))
        }
        None => value.serialize(&mut Serializer::with_formatter(&mut out, Spaced)),
    };
    let failed = |what: String| minijinja::Error::new(minijinja::ErrorKind::BadSerialization, what);
    written.map_err(|e| failed(e.to_string()))?;
    String::from_utf8(out).map_err(|e| failed(e.to_string()))
}

/// `json.dumps`'s separators: a space behind each comma and colon.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }
}

/// `bos_token`, `eos_token` and the like, as text.
fn special_tokens(config: &Value) -> Value {
    let fields = config.as_object().into_iter().flatten().filter(|(name, _)| name.ends_with("_token"));
    let text = |v: &Value| v.as_str().or(v["content"].as_str()).map(Value::from);
    fields.filter_map(|(name, v)| Some((name.clone(), text(v)?))).collect::<serde_json::Map<_, _>>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TURNS: &str = "{{ bos_token }}{% for m in messages %}\n  {% if m['role'] == 'tool' %}{{ raise_exception('no tools') }}{% endif %}\
        <|{{ m.role }}|>{{ m.content.strip() }}<end>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}";

    fn format(chat_template: &str) -> ModelFormat<'_> {
        let config = json!({"bos_token": {"content": "<s>"}, "eos_token": "</s>", "model_max_length": 10});
        ModelFormat { chat_template: Some(chat_template), config, bos: Some(1) }
    }

    #[test]
    fn built_in_templates_hold_the_problem_and_the_way_to_answer() {
        for (name, _) in BUILT_IN {
            let bare = Chat::new(name, ModelFormat::default()).unwrap().prompt("What is 2+2?").unwrap();
            assert!(bare.contains("What is 2+2?"), "{name}: {bare}");
            assert!(!bare.contains("{{") && !bare.contains("{#"), "{name}: {bare}");
            assert_eq!(
                bare.contains("\\boxed{answer}"),
                matches!(name, "default" | "direct" | "hermes"),
                "{name}"
            );
        }
        let chat = Chat::new("tiny", ModelFormat::default()).unwrap();
        assert_eq!(chat.prompt("12*34+56").unwrap(), "Compute 12*34+56.<|assistant|>");
        assert_eq!(Chat::new("plain", ModelFormat::default()).unwrap().prompt(" x\n y").unwrap(), " x\n y");
    }

    #[test]
    fn the_models_turns_go_around() {
        let chat = Chat::new("plain", format(TURNS)).unwrap();
        assert_eq!(chat.prompt(" 2+2? ").unwrap(), "<s><|user|>2+2?<end>\n<|assistant|>");
        let hermes = Chat::new("hermes", format(TURNS)).unwrap().prompt("2+2?").unwrap();
        assert!(hermes.starts_with("<s><|system|>You can run Python."), "{hermes}");
        assert!(
            hermes.contains("{\"name\": \"python\", \"arguments\": {\"code\": \"print(2 ** 10)\"}}"),
            "{hermes}"
        );
        assert!(hermes.contains("<end>\n<|user|>Solve the problem below."), "{hermes}");
    }

    #[test]
    fn a_chat_template_that_knows_tools_lists_ours() {
        let turns = "{% if tools %}{% for t in tools %}{{ t | tojson }}{% endfor %}{% endif %}\
            {% for m in messages %}<|{{ m.role }}|>{% endfor %}";
        let hermes = Chat::new("hermes", format(turns)).unwrap().prompt("2+2?").unwrap();
        assert!(
            hermes.starts_with("{\"type\": \"function\", \"function\": {\"name\": \"python\", "),
            "{hermes}"
        );
        assert!(hermes.contains("\"required\": [\"code\"]}}}<"), "{hermes}");
        assert!(hermes.ends_with("}<|user|>"), "no system message of ours: {hermes}");
        assert_eq!(Chat::new("default", format(turns)).unwrap().prompt("2+2?").unwrap(), "<|user|>");
    }

    /// Trained models know these prompts: with Python alone they stay as they are, byte for byte.
    #[test]
    fn prompts_with_python_alone_stay_as_they_are() {
        use sha2::{Digest, Sha256};
        let native = "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}";
        let mut hash = Sha256::new();
        for (name, _) in BUILT_IN {
            for format in [ModelFormat::default(), format(TURNS), format(native)] {
                hash.update(Chat::new(name, format).unwrap().prompt("What is 2+2?").unwrap());
                hash.update([0]);
            }
        }
        let whole = "4d5214cc120a561be8d6294b63ec1c6c983143eeb2bdaa1037ecb33fc0411e61";
        assert_eq!(format!("{:x}", hash.finalize()), whole);
    }

    #[test]
    fn other_tools_are_listed() {
        let schema = json!({"type": "object", "properties": {"city": {"type": "string"}}});
        let weather = Spec::new("weather", "The weather.", schema).unwrap();
        let line = r#"{"name": "weather", "description": "The weather.", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}"#;
        let prompt = |name: &str, specs: &[Spec]| {
            let chat = Chat::new(name, ModelFormat::default()).unwrap().with_tools(specs);
            chat.prompt("2+2?").unwrap()
        };
        let both = [tool::python_spec(), weather.clone()];
        let retool = prompt("default", &both);
        assert!(
            retool.starts_with("Solve the problem with the help of Python. ") && retool.contains("Example\n")
        );
        assert!(retool.contains(&format!("The tools:\n{line}\n\nExample\n")), "{retool}");
        assert!(retool.ends_with("Problem: 2+2?\nSolution:"), "{retool}");
        let hermes = prompt("hermes", &both);
        assert!(hermes.contains("<tools>\n{\"name\": \"python\", "), "{hermes}");
        assert!(hermes.contains(&format!("]}}}}\n{line}\n</tools>\nThe next message")), "{hermes}");
        assert!(hermes.contains("call the tools where they help. Once"), "{hermes}");
        for name in ["default", "hermes"] {
            let alone = prompt(name, std::slice::from_ref(&weather));
            assert!(alone.contains(line) && !alone.to_lowercase().contains("python"), "{alone}");
        }
        let turns = "{% for t in tools %}{{ t | tojson }}{% endfor %}";
        let native = Chat::new("hermes", format(turns)).unwrap().with_tools(&both).prompt("2+2?").unwrap();
        assert!(native.ends_with(&format!(r#"{{"type": "function", "function": {line}}}"#)), "{native}");
    }

    #[test]
    fn users_bring_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mine.jinja");
        std::fs::write(&path, "{% set system %}Be brief.{% endset %}Q: {{ problem }}\n").unwrap();
        let chat = Chat::new(path.to_str().unwrap(), format(TURNS)).unwrap();
        assert_eq!(
            chat.prompt("2+2?").unwrap(),
            "<s><|system|>Be brief.<end>\n<|user|>Q: 2+2?<end>\n<|assistant|>"
        );
    }

    #[test]
    fn errors_are_one_line_and_name_the_template() {
        let says = |r: Result<Chat, Error>| r.unwrap_err().to_string();
        assert!(
            says(Chat::new("/nowhere.jinja", ModelFormat::default()))
                .starts_with("prompt template /nowhere.jinja: ")
        );
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bad.jinja");
        std::fs::write(&path, "a\n{% if %}").unwrap();
        let bad = says(Chat::new(path.to_str().unwrap(), ModelFormat::default()));
        assert!(bad.contains("bad.jinja: line 2: ") && bad.lines().count() == 1, "{bad}");
        let raises = Chat::new("plain", format("{{ raise_exception('no users here') }}")).unwrap();
        assert_eq!(
            raises.prompt("a").unwrap_err().to_string(),
            "chat template of the model: line 1: no users here"
        );
    }
}
