//! How tool calls are written in text and how their results are put back.
//!
//! - ReTool (arXiv 2504.11536): `<code>…</code>`, often with a ```` ```python ```` fence inside, answered by
//!   `<interpreter>…</interpreter>`.
//! - Hermes, what Qwen models were taught: `<tool_call>{"name": "python", "arguments": {"code": …}}</tool_call>`,
//!   answered by a user turn with a `<tool_response>`.
//!
//! ReTool has one tool. Where there are others, its dialect takes Hermes' `<tool_call>` beside `<code>` and answers both
//! with `<interpreter>`: the one way to write a call that models know already, and nothing of ReTool's own changes. Where
//! there are none, a `<tool_call>` is text as it always was.
//!
//! Where the vocabulary has a tag as one token, the tag stands alone; where it is plain text, it stands on
//! its own line as the models were taught. A result is encoded by itself: the tokens before it stay as they
//! were sampled.

use super::text::Text;
use super::tools::PYTHON;
use super::trajectory::{Source, Token};
use super::{Call, Error, Part};
use crate::config::Dialect;
use crate::task::answer;
use serde_json::Value;

/// Stands where a tool's output was cut.
const CUT: &str = "\n[...]\n";

/// How one call is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A program between `<code>` and `</code>`.
    Code,
    /// JSON between `<tool_call>` and `</tool_call>`.
    Json,
}

impl Form {
    /// The tags a call stands between.
    pub fn tags(self) -> (&'static str, &'static str) {
        match self {
            Self::Code => ("<code>", "</code>"),
            Self::Json => ("<tool_call>", "</tool_call>"),
        }
    }

    /// The call that `text` between the tags means, or what to tell the model if there is none.
    pub fn call(self, text: &str) -> Result<Call, String> {
        match self {
            Self::Code => Ok(Call::python(unfence(text))),
            Self::Json => json_call(text),
        }
    }
}

impl Dialect {
    /// How calls may be written, where `others` says whether there are tools beside Python.
    pub fn forms(self, others: bool) -> &'static [Form] {
        match (self, others) {
            (Self::Retool, false) => &[Form::Code],
            (Self::Retool, true) => &[Form::Code, Form::Json],
            (Self::Hermes, _) => &[Form::Json],
        }
    }
}

/// Takes a Markdown fence off, if the whole text stands in one.
fn unfence(code: &str) -> String {
    let trimmed = code.trim();
    let inner = || {
        let (language, body) = trimmed.strip_prefix("```")?.split_once('\n')?;
        matches!(language.trim(), "" | "python" | "py" | "python3").then_some(())?;
        Some(body.strip_suffix("```").unwrap_or(body).trim_end())
    };
    // Leading spaces of an unfenced first line are Python's business.
    inner().unwrap_or_else(|| code.trim_matches('\n').trim_end()).to_owned()
}

fn json_call(text: &str) -> Result<Call, String> {
    let mut value: Value =
        serde_json::from_str(text.trim()).map_err(|e| format!("Error: the call is not JSON: {e}"))?;
    let tool = value["name"].as_str().ok_or("Error: the call has no \"name\"")?.to_owned();
    let mut arguments = value.get_mut("arguments").map_or(Value::Null, Value::take);
    // Models were taught by interfaces that carry the arguments as text.
    if let Some(text) = arguments.as_str() {
        arguments = serde_json::from_str(text).unwrap_or(Value::Null);
    }
    if !arguments.is_object() {
        return Err("Error: the call's \"arguments\" must be an object".into());
    }
    if tool == PYTHON
        && let Some(code) = arguments["code"].as_str()
    {
        arguments["code"] = unfence(code).into();
    }
    Ok(Call { tool, arguments })
}

/// The tokens around a tool's output.
#[derive(Clone, Debug)]
pub struct Wrapper {
    open: Vec<u32>,
    close: Vec<u32>,
    cut: Vec<u32>,
}

/// Tool output as tokens, wrapped, and how much of it was left out.
#[derive(Clone, Debug, PartialEq)]
pub struct Feedback {
    /// Template, tool, template.
    pub tokens: Vec<Token>,
    /// Bytes left out.
    pub cut: usize,
}

impl Wrapper {
    /// The dialect's wrapper in this vocabulary.
    pub fn new(dialect: Dialect, text: &dyn Text) -> Result<Self, Error> {
        let (open, close) = match dialect {
            Dialect::Retool if text.token("<interpreter>").is_some() => ("<interpreter>", "</interpreter>"),
            Dialect::Retool => ("\n<interpreter>\n", "\n</interpreter>\n"),
            Dialect::Hermes if text.token("<|im_start|>").is_some() => (
                "<|im_end|>\n<|im_start|>user\n<tool_response>\n",
                "\n</tool_response><|im_end|>\n<|im_start|>assistant\n",
            ),
            Dialect::Hermes => ("\n<tool_response>\n", "\n</tool_response>\n"),
        };
        Ok(Self { open: text.encode(open)?, close: text.encode(close)?, cut: text.encode_plain(CUT)? })
    }

    /// Tokens the wrapper itself takes.
    pub fn len(&self) -> usize {
        self.open.len() + self.close.len()
    }

    /// Whether the wrapper takes no tokens (no dialect's does).
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Wraps `output`, cut in the middle to `limit` tokens, the mark included.
    pub fn feedback(&self, text: &dyn Text, output: &str, limit: usize) -> Result<Feedback, Error> {
        let output = output.trim_end();
        let ids = match text.encode_plain(output) {
            Ok(ids) => ids,
            // A small vocabulary may lack characters that a program can print.
            Err(_) => text.encode_plain(&output.replace(|c: char| !c.is_ascii(), "?"))?,
        };
        let (ids, cut) =
            if ids.len() <= limit { (ids, 0) } else { self.shorten(text, &ids, output.len(), limit) };
        let token = |source| move |&id: &u32| Token { id, logprob: 0.0, source };
        let mut tokens: Vec<Token> = self.open.iter().map(token(Source::Template)).collect();
        tokens.extend(ids.iter().map(token(Source::Tool)));
        tokens.extend(self.close.iter().map(token(Source::Template)));
        Ok(Feedback { tokens, cut })
    }

    /// Head, mark, tail: `limit` tokens at most, no character broken at the edges.
    fn shorten(&self, text: &dyn Text, ids: &[u32], bytes: usize, limit: usize) -> (Vec<u32>, usize) {
        let kept = limit.saturating_sub(self.cut.len());
        let mut head = &ids[..kept.div_ceil(2)];
        let mut tail = &ids[ids.len() - kept / 2..];
        while !head.is_empty() && text.decode(head).ends_with('\u{fffd}') {
            head = &head[..head.len() - 1];
        }
        while !tail.is_empty() && text.decode(tail).starts_with('\u{fffd}') {
            tail = &tail[1..];
        }
        let shown = text.decode(head).len() + text.decode(tail).len();
        let mark = &self.cut[..self.cut.len().min(limit)];
        ([head, mark, tail].concat(), bytes.saturating_sub(shown))
    }
}

/// What the text of a turn has come to.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// A tool call was closed; its text, tags excluded.
    Call(Form, String),
    /// A `\boxed{…}` was closed outside a call.
    Answer,
}

/// Reads one model turn as it is written: splits text from calls, finds the stops.
///
/// Holds back what may be the beginning of a tag, so that what it emits is told apart for good.
#[derive(Clone, Debug)]
pub struct Turn {
    forms: &'static [Form],
    /// Text read but not told apart yet.
    held: String,
    /// The call being written.
    call: Option<(Form, String)>,
    /// Text outside calls, kept while answers are looked for.
    said: Option<String>,
}

impl Turn {
    /// A turn that has not begun, with calls in these `forms`; `answers` looks for closed boxes.
    pub fn new(forms: &'static [Form], answers: bool) -> Self {
        Self { forms, held: String::new(), call: None, said: answers.then(String::new) }
    }

    /// Takes the next text; what it can tell apart goes to `emit`.
    pub fn push(&mut self, text: &str, emit: &mut dyn FnMut(Part)) -> Option<Found> {
        self.held.push_str(text);
        loop {
            let tags = self.tags();
            let found = tags
                .iter()
                .filter_map(|&(form, tag)| Some((self.held.find(tag)?, form, tag)))
                .min_by_key(|f| f.0);
            let partial = || tags.iter().map(|(_, tag)| overlap(&self.held, tag)).max().unwrap_or(0);
            let end = found.map_or_else(|| self.held.len() - partial(), |f| f.0);
            let answered = self.settle(end, emit);
            if answered {
                return Some(Found::Answer);
            }
            let (_, form, tag) = found?;
            self.held.drain(..tag.len());
            match self.call.take() {
                None => {
                    self.call = Some((form, String::new()));
                    emit(Part::CodeStart);
                }
                Some((form, call)) => {
                    emit(Part::CodeEnd);
                    self.flush(emit);
                    return Some(Found::Call(form, call));
                }
            }
        }
    }

    /// The tags that may come next.
    fn tags(&self) -> Vec<(Form, &'static str)> {
        match &self.call {
            Some((form, _)) => vec![(*form, form.tags().1)],
            None => self.forms.iter().map(|form| (*form, form.tags().0)).collect(),
        }
    }

    /// Emits what was held back: the turn is over.
    pub fn flush(&mut self, emit: &mut dyn FnMut(Part)) {
        self.settle(self.held.len(), emit);
    }

    /// Emits the first `end` bytes held; whether they close an answer.
    fn settle(&mut self, end: usize, emit: &mut dyn FnMut(Part)) -> bool {
        if end == 0 {
            return false;
        }
        let text: String = self.held.drain(..end).collect();
        if let Some((_, call)) = &mut self.call {
            call.push_str(&text);
            emit(Part::Code(&text));
            return false;
        }
        emit(Part::Text(&text));
        self.said.as_mut().is_some_and(|said| {
            said.push_str(&text);
            text.contains('}') && answer::closed_box(said)
        })
    }
}

/// Length of the longest end of `text` that begins `tag`.
fn overlap(text: &str, tag: &str) -> usize {
    (1..tag.len()).rev().find(|&n| text.as_bytes().ends_with(&tag.as_bytes()[..n])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::super::testing::Ascii;
    use super::*;
    use serde_json::json;

    /// Feeds `pieces` and returns what was emitted, one letter a kind, and what was found.
    fn read(dialect: Dialect, answers: bool, pieces: &[&str]) -> (String, Option<Found>) {
        read_forms(dialect.forms(false), answers, pieces)
    }

    fn read_forms(forms: &'static [Form], answers: bool, pieces: &[&str]) -> (String, Option<Found>) {
        let (mut turn, mut log, mut found) = (Turn::new(forms, answers), String::new(), None);
        for p in pieces {
            let mut emit = |part: Part| match part {
                Part::Text(t) => log += &format!("t({t})"),
                Part::CodeStart => log += "[",
                Part::Code(c) => log += &format!("c({c})"),
                Part::CodeEnd => log += "]",
                _ => unreachable!(),
            };
            found = turn.push(p, &mut emit);
            if found.is_some() {
                break;
            }
        }
        (log, found)
    }

    #[test]
    fn tags_are_found_across_pieces_and_within_them() {
        let (log, found) =
            read(Dialect::Retool, false, &["a <", "co", "de>pri", "nt(1 <", " 2)</cod", "e>\nx", "y"]);
        assert_eq!(log, "t(a )[c(pri)c(nt(1 )c(< 2))]t(\nx)");
        assert_eq!(found, Some(Found::Call(Form::Code, "print(1 < 2)".into())));
        let (log, found) = read(Dialect::Retool, false, &["<code>1</code>"]);
        assert_eq!((log.as_str(), found), ("[c(1)]", Some(Found::Call(Form::Code, "1".into()))));
        let (log, found) = read(Dialect::Retool, false, &["no call </code> é<", "b"]);
        assert_eq!((log.as_str(), found), ("t(no call </code> é)t(<b)", None));
    }

    #[test]
    fn both_forms_are_told_apart_where_both_are_possible() {
        let both = |pieces: &[&str]| read_forms(Dialect::Retool.forms(true), false, pieces);
        let (log, found) = both(&["a <t", "ool", "_call>{\"<code>\"}</code> </tool_", "call>"]);
        assert_eq!(log, "t(a )[c({\"<code>\"}</code> )]");
        assert_eq!(found, Some(Found::Call(Form::Json, "{\"<code>\"}</code> ".into())));
        let (log, found) = both(&["<", "code>1 <tool_call></code>", "rest"]);
        assert_eq!(
            (log.as_str(), found),
            ("[c(1 <tool_call>)]", Some(Found::Call(Form::Code, "1 <tool_call>".into())))
        );
        assert_eq!(both(&["<tool_code> <", "b"]).0, "t(<tool_code> )t(<b)");
        // Python alone: a tool call is text.
        assert_eq!(
            read(Dialect::Retool, false, &["<tool_call>{}</tool_call>"]),
            ("t(<tool_call>{}</tool_call>)".into(), None)
        );
    }

    #[test]
    fn answers_count_outside_calls_only() {
        assert_eq!(read(Dialect::Retool, true, &["\\boxed{1", "}"]).1, Some(Found::Answer));
        assert_eq!(read(Dialect::Retool, true, &["\\boxed{\\frac{1}", "{2}"]).1, None);
        assert_eq!(read(Dialect::Retool, false, &["\\boxed{1}"]).1, None);
        let found = read(Dialect::Retool, true, &["<code>'\\boxed{1}'", "</code>"]).1;
        assert_eq!(found, Some(Found::Call(Form::Code, "'\\boxed{1}'".into())));
    }

    #[test]
    fn fences_come_off() {
        for (call, code) in [
            ("print(1)", "print(1)"),
            ("\n```python\nprint(1)\nprint(2)\n```\n", "print(1)\nprint(2)"),
            ("```\nprint(1)\n```", "print(1)"),
            ("```py\nprint(1)", "print(1)"),
            ("\nif 1:\n  print(1)\n", "if 1:\n  print(1)"),
            ("print('```')", "print('```')"),
        ] {
            assert_eq!(Form::Code.call(call).unwrap(), Call::python(code));
        }
    }

    #[test]
    fn hermes_calls() {
        let h = |call: &str| Form::Json.call(call);
        let python = |code: &str| Ok(Call::python(code));
        assert_eq!(
            h("\n{\"name\": \"python\", \"arguments\": {\"code\": \"print(1)\\n\"}}\n"),
            python("print(1)")
        );
        assert_eq!(h(r#"{"name": "python", "arguments": "{\"code\": \"1\"}"}"#), python("1"));
        assert_eq!(h(r#"{"name": "python", "arguments": {"code": "```py\n1\n```"}}"#), python("1"));
        let search = Call { tool: "search".into(), arguments: json!({"code": "```\n1```", "n": 1}) };
        assert_eq!(h(r#"{"arguments": {"code": "```\n1```", "n": 1}, "name": "search"}"#), Ok(search));
        assert!(h("{\"name\": ").unwrap_err().starts_with("Error: the call is not JSON: EOF"));
        assert!(h("{}").unwrap_err().contains("no \"name\""));
        for bad in
            [r#"{"name": "f"}"#, r#"{"name": "f", "arguments": "x"}"#, r#"{"name": "f", "arguments": [1]}"#]
        {
            assert_eq!(h(bad).unwrap_err(), "Error: the call's \"arguments\" must be an object");
        }
    }

    #[test]
    fn feedback_has_sources_and_is_cut_in_the_middle() {
        let text = Ascii::default();
        let w = Wrapper::new(Dialect::Retool, &text).unwrap();
        let show = |output, limit| {
            let f = w.feedback(&text, output, limit).unwrap();
            let of =
                |s| text.decode(&f.tokens.iter().filter(|t| t.source == s).map(|t| t.id).collect::<Vec<_>>());
            (of(Source::Tool), of(Source::Template), f.cut)
        };
        let around = "\n<interpreter>\n\n</interpreter>\n".to_string();
        assert_eq!(show("42\n", 10), ("42".into(), around.clone(), 0));
        assert_eq!(show("0123456789abcdef", 12), ("012\n[...]\nef".into(), around.clone(), 11));
        assert_eq!(show("0123456789abcdef", 3), ("\n[.".into(), around.clone(), 16));
        assert_eq!(show("naïve", 9), ("na?ve".into(), around, 0));
    }

    #[test]
    fn tools_cannot_write_special_tokens() {
        let text = Ascii::with_tags();
        let w = Wrapper::new(Dialect::Retool, &text).unwrap();
        assert_eq!(w.len(), 2);
        let f = w.feedback(&text, "</interpreter><end>", 99).unwrap();
        assert_eq!(f.tokens.len(), 2 + "</interpreter><end>".len());
        assert!(f.tokens.iter().all(|t| t.logprob == 0.0));
    }

    #[test]
    fn hermes_results_are_a_turn_where_the_vocabulary_has_turns() {
        let text = Ascii::default();
        let plain = Wrapper::new(Dialect::Hermes, &text).unwrap();
        assert_eq!(text.decode(&plain.open), "\n<tool_response>\n");
        let text = Ascii::with_tags();
        let chat = Wrapper::new(Dialect::Hermes, &text).unwrap();
        assert_eq!(text.decode(&chat.close), "\n</tool_response><|im_end|>\n<|im_start|>assistant\n");
        assert!(chat.close.contains(&text.token("<|im_start|>").unwrap()));
    }
}
