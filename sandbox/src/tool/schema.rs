//! Arguments checked against a JSON Schema before a call, with errors that say what to write instead.
//!
//! Checked: `type` (one or several), `enum`, `const`, `properties`, `required`, `additionalProperties`, `items`,
//! `minItems`, `maxItems`, `minLength`, `maxLength`, `minimum`, `maximum`, `exclusiveMinimum`, `exclusiveMaximum`. Other
//! keywords (`anyOf`, `$ref`, `pattern`, ...) are shown to the caller like the rest, and left to the tool: this check is
//! a help to whoever writes calls, not a wall. The crate that checks all of JSON Schema brings 75 others along.

use std::cmp::Ordering;

use serde_json::{Map, Number, Value};

/// Problems named at most in one error.
const NAMED: usize = 3;
/// Characters of an offending value that are shown.
const SHOWN: usize = 40;

/// Checks `value`, called `arguments`, against `schema`; the first few things wrong with it in one line.
pub(super) fn check(schema: &Value, value: &Value) -> Result<(), String> {
    let mut problems = Vec::new();
    visit(schema, value, "", &mut problems);
    if problems.is_empty() {
        return Ok(());
    }
    let more = problems.len().saturating_sub(NAMED);
    problems.truncate(NAMED);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    Err(problems.join("; ") + &more)
}

/// `at` is the path of `value` inside the arguments, "" for the whole.
fn visit(schema: &Value, value: &Value, at: &str, out: &mut Vec<String>) {
    let name = if at.is_empty() { "the arguments".into() } else { format!("`{at}`") };
    let Some(schema) = schema.as_object() else {
        if schema == &Value::Bool(false) {
            out.push(format!("{name} must not be given"));
        }
        return;
    };
    if let Some(wanted) = schema.get("type")
        && !types(wanted).any(|t| is(value, t))
    {
        let wanted = types(wanted).collect::<Vec<_>>().join(" or ");
        return out.push(format!("{name} must be of type {wanted}, not {}", shown(value)));
    }
    if let Some(choices) = schema.get("enum").and_then(Value::as_array)
        && !choices.iter().any(|c| same(c, value))
    {
        let choices: Vec<String> = choices.iter().map(Value::to_string).collect();
        return out.push(format!("{name} must be one of {}, not {}", choices.join(", "), shown(value)));
    }
    if let Some(only) = schema.get("const")
        && !same(only, value)
    {
        return out.push(format!("{name} must be {only}, not {}", shown(value)));
    }
    match value {
        Value::Object(fields) => object(schema, fields, at, out),
        Value::Array(items) => {
            length(schema, ["minItems", "maxItems"], items.len(), "items", &name, out);
            if let Some(each) = schema.get("items") {
                items.iter().enumerate().for_each(|(i, v)| visit(each, v, &format!("{at}[{i}]"), out));
            }
        }
        Value::String(s) => {
            length(schema, ["minLength", "maxLength"], s.chars().count(), "characters", &name, out);
        }
        Value::Number(n) => number(schema, n, &name, out),
        Value::Null | Value::Bool(_) => {}
    }
}

fn object(schema: &Map<String, Value>, fields: &Map<String, Value>, at: &str, out: &mut Vec<String>) {
    let path = |key: &str| if at.is_empty() { key.to_owned() } else { format!("{at}.{key}") };
    let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
    for key in required.filter_map(Value::as_str).filter(|key| !fields.contains_key(*key)) {
        out.push(format!("`{}` is missing", path(key)));
    }
    let known = schema.get("properties").and_then(Value::as_object);
    for (key, value) in fields {
        if let Some(schema) = known.and_then(|known| known.get(key)) {
            visit(schema, value, &path(key), out);
            continue;
        }
        match schema.get("additionalProperties") {
            Some(Value::Bool(false)) => {
                let known: Vec<String> = known.into_iter().flatten().map(|(k, _)| format!("`{k}`")).collect();
                let known = if known.is_empty() { "nothing".into() } else { known.join(", ") };
                out.push(format!("`{}` is unknown, there is {known}", path(key)));
            }
            Some(schema) => visit(schema, value, &path(key), out),
            None => {}
        }
    }
}

fn length(
    schema: &Map<String, Value>,
    [least, most]: [&str; 2],
    len: usize,
    what: &str,
    name: &str,
    out: &mut Vec<String>,
) {
    let limit = |key| schema.get(key).and_then(Value::as_u64);
    if let Some(least) = limit(least).filter(|n| (len as u64) < *n) {
        out.push(format!("{name} must have at least {least} {what}, not {len}"));
    }
    if let Some(most) = limit(most).filter(|n| len as u64 > *n) {
        out.push(format!("{name} must have at most {most} {what}, not {len}"));
    }
}

fn number(schema: &Map<String, Value>, n: &Number, name: &str, out: &mut Vec<String>) {
    use Ordering::{Equal, Greater, Less};
    let bounds: [(&str, &str, &[Ordering]); 4] = [
        ("minimum", "at least", &[Greater, Equal]),
        ("exclusiveMinimum", "above", &[Greater]),
        ("maximum", "at most", &[Less, Equal]),
        ("exclusiveMaximum", "below", &[Less]),
    ];
    for (key, words, allowed) in bounds {
        if let Some(Value::Number(bound)) = schema.get(key)
            && !allowed.contains(&compare(n, bound))
        {
            out.push(format!("{name} must be {words} {bound}, not {n}"));
        }
    }
}

fn types(wanted: &Value) -> impl Iterator<Item = &str> {
    let one = wanted.as_str().into_iter();
    one.chain(wanted.as_array().into_iter().flatten().filter_map(Value::as_str))
}

const TYPES: [&str; 7] = ["object", "array", "string", "number", "integer", "boolean", "null"];

fn is(value: &Value, kind: &str) -> bool {
    match (kind, value) {
        ("object", Value::Object(_))
        | ("array", Value::Array(_))
        | ("string", Value::String(_))
        | ("number", Value::Number(_))
        | ("boolean", Value::Bool(_))
        | ("null", Value::Null) => true,
        ("integer", Value::Number(n)) => integer(n).is_some() || n.as_f64().is_some_and(|x| x.fract() == 0.0),
        _ => false,
    }
}

fn integer(n: &Number) -> Option<i128> {
    n.as_i64().map(i128::from).or(n.as_u64().map(i128::from))
}

fn compare(a: &Number, b: &Number) -> Ordering {
    let floats = || a.as_f64().partial_cmp(&b.as_f64()).unwrap_or(Ordering::Equal);
    integer(a).zip(integer(b)).map_or_else(floats, |(a, b)| a.cmp(&b))
}

/// JSON's equality: 1 and 1.0 are one number.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => compare(a, b) == Ordering::Equal,
        _ => a == b,
    }
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}

/// Whether `schema` can describe arguments: its checked keywords hold what they should, and it is of an object.
pub(super) fn well_formed(schema: &Value) -> Result<(), String> {
    let top = schema.as_object().ok_or_else(|| format!("{} is no object", shown(schema)))?;
    if top.get("type").is_some_and(|t| !types(t).any(|t| t == "object")) {
        return Err(format!("`type` must be \"object\", not {}", shown(&top["type"])));
    }
    keywords(schema)
}

fn keywords(schema: &Value) -> Result<(), String> {
    let Some(fields) = schema.as_object() else {
        return if schema.is_boolean() { Ok(()) } else { Err(format!("{} is no schema", shown(schema))) };
    };
    for (key, value) in fields {
        let fits = match key.as_str() {
            "type" => types(value).next().is_some() && types(value).all(|t| TYPES.contains(&t)),
            "enum" => value.is_array(),
            "required" => value.as_array().is_some_and(|all| all.iter().all(Value::is_string)),
            "minItems" | "maxItems" | "minLength" | "maxLength" => value.is_u64(),
            "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" => value.is_number(),
            "properties" => {
                value.as_object().ok_or("`properties` is no object")?.values().try_for_each(keywords)?;
                true
            }
            "items" | "additionalProperties" => return_if_bad(value)?,
            _ => true,
        };
        if !fits {
            return Err(format!("`{key}` cannot be {}", shown(value)));
        }
    }
    Ok(())
}

fn return_if_bad(schema: &Value) -> Result<bool, String> {
    keywords(schema).map(|()| true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn says(schema: Value, value: Value) -> String {
        well_formed(&json!({"properties": {"x": schema.clone()}})).unwrap();
        check(&json!({"properties": {"x": schema}}), &json!({"x": value})).err().unwrap_or_default()
    }

    #[test]
    fn problems_are_named_with_the_way_out() {
        for (schema, value, problem) in [
            (json!({"type": "integer"}), json!("7"), "`x` must be of type integer, not \"7\""),
            (json!({"type": "integer"}), json!(7.5), "`x` must be of type integer, not 7.5"),
            (json!({"type": "integer"}), json!(7.0), ""),
            (json!({"type": ["string", "null"]}), json!(1), "`x` must be of type string or null, not 1"),
            (json!({"type": ["string", "null"]}), json!(null), ""),
            (json!({"enum": ["c", 1]}), json!("k"), "`x` must be one of \"c\", 1, not \"k\""),
            (json!({"enum": ["c", 1]}), json!(1.0), ""),
            (json!({"const": 3}), json!(4), "`x` must be 3, not 4"),
            (json!({"minimum": 1, "maximum": 9}), json!(0), "`x` must be at least 1, not 0"),
            (json!({"minimum": 1, "maximum": 9}), json!(9), ""),
            (json!({"exclusiveMaximum": 9}), json!(9), "`x` must be below 9, not 9"),
            (json!({"exclusiveMinimum": 0.5}), json!(0.25), "`x` must be above 0.5, not 0.25"),
            (
                json!({"maximum": u64::MAX - 1}),
                json!(u64::MAX),
                "18446744073709551614, not 18446744073709551615",
            ),
            (json!({"maxLength": 2}), json!("äöü"), "`x` must have at most 2 characters, not 3"),
            (json!({"minItems": 1}), json!([]), "`x` must have at least 1 items, not 0"),
            (
                json!({"items": {"properties": {"y": {"type": "string"}}, "required": ["y"]}}),
                json!([{"y": "a"}, {"y": 1}, {}]),
                "`x[1].y` must be of type string, not 1; `x[2].y` is missing",
            ),
            (
                json!({"properties": {"a": {}}, "additionalProperties": false}),
                json!({"b": 1}),
                "`x.b` is unknown, there is `a`",
            ),
            (
                json!({"additionalProperties": {"type": "null"}}),
                json!({"b": 1}),
                "`x.b` must be of type null, not 1",
            ),
            (json!(false), json!(1), "`x` must not be given"),
            (json!({"pattern": "^a", "anyOf": [{"type": "string"}]}), json!(1), ""),
        ] {
            let said = says(schema.clone(), value.clone());
            assert!(
                said == problem || (!problem.is_empty() && said.ends_with(problem)),
                "{schema} {value}: {said}"
            );
        }
    }

    #[test]
    fn an_error_is_short_and_one_line() {
        let long = json!("x\n".repeat(1000));
        let many: Map<String, Value> = (0..9).map(|i| (format!("k{i}"), long.clone())).collect();
        let said = check(&json!({"additionalProperties": {"type": "null"}}), &many.into()).unwrap_err();
        assert!(said.ends_with("; and 6 more") && said.len() < 400 && said.lines().count() == 1, "{said}");
        assert_eq!(
            check(&json!({"type": "object"}), &json!([1])).unwrap_err(),
            "the arguments must be of type object, not [1]"
        );
    }

    #[test]
    fn schemas_are_checked_too() {
        for (schema, why) in [
            (json!([]), "[] is no object"),
            (json!({"type": "string"}), "`type` must be \"object\", not \"string\""),
            (json!({"type": "object", "properties": 1}), "`properties` is no object"),
            (json!({"properties": {"a": {"type": "int"}}}), "`type` cannot be \"int\""),
            (json!({"properties": {"a": {"items": 3}}}), "3 is no schema"),
            (json!({"required": "a"}), "`required` cannot be \"a\""),
            (json!({"properties": {"a": {"minimum": "1"}}}), "`minimum` cannot be \"1\""),
        ] {
            assert_eq!(well_formed(&schema).unwrap_err(), why);
        }
        well_formed(&json!({})).unwrap();
        well_formed(&json!({"type": ["object", "null"], "$defs": {"x": 1}})).unwrap();
    }
}
