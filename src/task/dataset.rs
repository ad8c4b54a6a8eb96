//! Problems with answers, from JSON Lines.
//!
//! One object a line: the problem in `prompt`, `problem` or `question`, a number or a string in `answer`,
//! and any other fields, which are kept. Reading stops at the first bad line, which the error names.

use super::number::Number;
use serde_json::{Map, Value};
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

/// Fields a problem's text may stand in, the first found counts.
const TEXT_FIELDS: [&str; 3] = ["prompt", "problem", "question"];

/// A problem and its answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// What is asked.
    pub text: String,
    /// The reference answer.
    pub answer: Number,
    /// The line's other fields, in their order.
    pub extra: Map<String, Value>,
}

/// Why a file of problems or traces was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be read.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// One line is not as it should be.
    #[error("{}:{line}: {what}", .path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Its line, from 1.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
    /// No line holds anything.
    #[error("{}: no problems in it", .0.display())]
    Empty(PathBuf),
}

/// Reads a file of problems.
pub fn read(path: &Path) -> Result<Vec<Problem>, Error> {
    let file = File::open(path).map_err(|source| Error::Io { path: path.into(), source })?;
    read_lines(path, BufReader::new(file), problem)
}

/// Reads a file of cold-start traces: `prompt` and `completion`, both strings.
pub fn read_traces(path: &Path) -> Result<Vec<(String, String)>, Error> {
    let file = File::open(path).map_err(|source| Error::Io { path: path.into(), source })?;
    read_lines(path, BufReader::new(file), |mut fields| {
        let mut take = |name| match fields.remove(name) {
            Some(Value::String(s)) => Ok(s),
            _ => Err(format!("field `{name}` must be a string")),
        };
        Ok((take("prompt")?, take("completion")?))
    })
}

/// Parses every line that is not blank; `path` is only named in errors.
pub fn read_lines<T>(
    path: &Path,
    mut from: impl BufRead,
    parse: impl Fn(Map<String, Value>) -> Result<T, String>,
) -> Result<Vec<T>, Error> {
    let (mut out, mut bytes, mut line) = (Vec::new(), Vec::new(), 0);
    loop {
        bytes.clear();
        let n =
            from.read_until(b'\n', &mut bytes).map_err(|source| Error::Io { path: path.into(), source })?;
        if n == 0 {
            break;
        }
        line += 1;
        let at = |what| Error::Line { path: path.into(), line, what };
        let text = std::str::from_utf8(&bytes).map_err(|_| at("not UTF-8".into()))?;
        let text = text.trim_start_matches('\u{feff}').trim();
        if text.is_empty() {
            continue;
        }
        let fields = match serde_json::from_str(text) {
            Ok(Value::Object(fields)) => fields,
            Ok(_) => return Err(at("not a JSON object".into())),
            Err(e) => return Err(at(format!("not JSON: {}", json_error(&e)))),
        };
        out.push(parse(fields).map_err(at)?);
    }
    if out.is_empty() { Err(Error::Empty(path.into())) } else { Ok(out) }
}

/// serde_json counts lines within the text it got, which is always one line here.
fn json_error(e: &serde_json::Error) -> String {
    let text = e.to_string();
    let what = text.split(" at line ").next().unwrap_or(&text);
    format!("{what} at column {}", e.column())
}

/// A problem from one line's fields.
pub fn problem(mut fields: Map<String, Value>) -> Result<Problem, String> {
    let name = TEXT_FIELDS.into_iter().find(|name| fields.contains_key(*name));
    let Some(name) = name else { return Err("no field `prompt`, `problem` or `question`".into()) };
    let Some(Value::String(text)) = fields.shift_remove(name) else {
        return Err(format!("field `{name}` must be a string"));
    };
    let answer = match fields.shift_remove("answer") {
        Some(Value::String(s)) => s,
        Some(Value::Number(n)) => n.to_string(),
        Some(_) => return Err("field `answer` must be a number or a string".into()),
        None => return Err("no field `answer`".into()),
    };
    let Some(answer) = Number::parse(super::answer::boxed(&answer).unwrap_or(&answer)) else {
        let shown: String = answer.chars().take(40).collect();
        return Err(format!(
            "answer {shown:?} is no number (integers, decimals and fractions can be checked)"
        ));
    };
    Ok(Problem { text, answer, extra: fields })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_str(text: &str) -> Result<Vec<Problem>, String> {
        read_lines(Path::new("p.jsonl"), text.as_bytes(), problem).map_err(|e| e.to_string())
    }

    #[test]
    fn keeps_what_it_does_not_know() {
        let p = read_str(concat!(
            "\u{feff}{\"id\": 1, \"problem\": \"2+2?\", \"answer\": 4, \"tag\": \"x\"}\r\n\n",
            "{\"question\": \"half?\", \"answer\": \"$\\\\frac12$\"}"
        ))
        .unwrap();
        assert_eq!((p[0].text.as_str(), &p[0].answer), ("2+2?", &4.into()));
        assert_eq!(p[0].extra.keys().collect::<Vec<_>>(), ["id", "tag"]);
        assert_eq!(p[1].answer.to_string(), "1/2");
    }

    #[test]
    fn errors_name_the_line() {
        let ok = "{\"prompt\": \"a\", \"answer\": 1}\n";
        for (bad, says) in [
            ("{\"prompt\": \"a\", \"answer\": \"about 7\"}", "p.jsonl:2: answer \"about 7\" is no number"),
            ("{\"prompt\": \"a\"}", "p.jsonl:2: no field `answer`"),
            ("{\"text\": \"a\", \"answer\": 1}", "p.jsonl:2: no field `prompt`, `problem` or `question`"),
            ("{\"prompt\": 3, \"answer\": 1}", "p.jsonl:2: field `prompt` must be a string"),
            (
                "{\"prompt\": \"a\", \"answer\": [1]}",
                "p.jsonl:2: field `answer` must be a number or a string",
            ),
            ("[1]", "p.jsonl:2: not a JSON object"),
            ("{\"prompt\": ", "p.jsonl:2: not JSON: EOF while parsing a value at column"),
        ] {
            let e = read_str(&format!("{ok}{bad}")).unwrap_err();
            assert!(e.starts_with(says), "{e}");
            assert_eq!(e.lines().count(), 1);
        }
        assert_eq!(read_str(" \n").unwrap_err(), "p.jsonl: no problems in it");
        let bytes = b"{\"prompt\": \"a\", \"answer\": 1}\n\xff\n";
        let e = read_lines(Path::new("p.jsonl"), &bytes[..], problem).unwrap_err();
        assert_eq!(e.to_string(), "p.jsonl:2: not UTF-8");
        assert!(
            read(Path::new("/nowhere/p.jsonl")).unwrap_err().to_string().starts_with("/nowhere/p.jsonl: ")
        );
    }

    #[test]
    fn big_numbers_stay_exact() {
        let p = read_str("{\"prompt\": \"a\", \"answer\": 12345678901234567890}").unwrap();
        assert_eq!(p[0].answer.to_string(), "12345678901234567890");
    }
}
