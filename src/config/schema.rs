//! The configuration seen as a flat list of dotted keys, read from the structs' JSON schema.
//!
//! The list is what flags, the commented default and the check for unknown keys are made of, so a field
//! is written down once: in its struct.

use std::sync::OnceLock;

use serde_json::Value;

use super::Config;

/// What a key's value may be.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// An integer; `unsigned` ones are at least 0.
    Integer {
        /// Whether negative numbers are refused.
        unsigned: bool,
    },
    /// A number.
    Float,
    /// A string.
    String,
    /// Strings; on the command line with commas between.
    List,
    /// One of these names, each with its description.
    Choice(Vec<(String, String)>),
}

impl Kind {
    /// What the value is called in a message and in `--help`.
    pub fn name(&self) -> String {
        match self {
            Self::Bool => "true or false".into(),
            Self::Integer { unsigned: true } => "a whole number of at least 0".into(),
            Self::Integer { unsigned: false } => "a whole number".into(),
            Self::Float => "a number".into(),
            Self::String => "a string".into(),
            Self::List => "a list of strings".into(),
            Self::Choice(names) => {
                let names: Vec<&str> = names.iter().map(|(name, _)| name.as_str()).collect();
                format!("one of {}", names.join(", "))
            }
        }
    }
}

/// One leaf of the configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    /// Dotted path, such as `rl.optimizer.learning_rate`.
    pub path: String,
    /// The field's doc comment.
    pub doc: String,
    /// What it may be.
    pub kind: Kind,
}

impl Key {
    /// The table it lies in, such as `rl.optimizer`.
    pub fn section(&self) -> &str {
        self.path.rsplit_once('.').map_or("", |(section, _)| section)
    }

    /// Its last part, such as `learning_rate`.
    pub fn name(&self) -> &str {
        self.path.rsplit_once('.').map_or(&self.path, |(_, name)| name)
    }
}

/// One table of the configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Section {
    /// Dotted path.
    pub path: String,
    /// The field's doc comment.
    pub doc: String,
}

/// All tables and leaves, in the order of the structs, a table's leaves before its sub-tables.
pub struct Schema {
    /// Tables.
    pub sections: Vec<Section>,
    /// Leaves.
    pub keys: Vec<Key>,
}

/// The schema of [`Config`].
pub fn schema() -> &'static Schema {
    static SCHEMA: OnceLock<Schema> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        let root = schemars::schema_for!(Config).to_value();
        let mut schema = Schema { sections: Vec::new(), keys: Vec::new() };
        walk(&root, &root, "", &mut schema);
        schema
    })
}

fn resolve<'a>(root: &'a Value, node: &'a Value) -> &'a Value {
    match node.get("$ref").and_then(Value::as_str) {
        Some(reference) => {
            root.pointer(reference.trim_start_matches('#')).expect("schemars references its own definitions")
        }
        None => node,
    }
}

fn walk(root: &Value, table: &Value, prefix: &str, schema: &mut Schema) {
    let Some(properties) = table.get("properties").and_then(Value::as_object) else { return };
    let mut tables = Vec::new();
    for (name, field) in properties {
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        let target = resolve(root, field);
        let doc = text(if field.get("description").is_some() { field } else { target });
        if target.get("properties").is_some() {
            tables.push((path, doc, target));
        } else {
            schema.keys.push(Key { path, doc, kind: kind(target) });
        }
    }
    for (path, doc, target) in tables {
        schema.sections.push(Section { path: path.clone(), doc });
        walk(root, target, &path, schema);
    }
}

fn kind(node: &Value) -> Kind {
    if let Some(variants) = node.get("oneOf").and_then(Value::as_array) {
        let name = |v: &Value| v["const"].as_str().expect("a variant is a string").to_string();
        return Kind::Choice(variants.iter().map(|v| (name(v), text(v))).collect());
    }
    match node.get("type").and_then(Value::as_str) {
        Some("boolean") => Kind::Bool,
        Some("integer") => Kind::Integer { unsigned: node.get("minimum").is_some() },
        Some("number") => Kind::Float,
        Some("string") => Kind::String,
        Some("array") if node.pointer("/items/type").is_some_and(|item| item == "string") => Kind::List,
        other => unreachable!("a configuration field of JSON type {other:?}"),
    }
}

/// A description on one line.
fn text(node: &Value) -> String {
    let doc = node.get("description").and_then(Value::as_str).unwrap_or_default();
    doc.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The candidate with the smallest edit distance to `word`, if it is near enough to be a slip.
pub fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (word.chars().count() / 3).max(2);
    candidates
        .map(|c| (distance(word, c), c))
        .filter(|(d, _)| *d <= limit)
        .min_by_key(|(d, _)| *d)
        .map(|(_, c)| c)
}

/// Levenshtein distance in characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let cost = if x == *y { diagonal } else { 1 + diagonal.min(row[j]).min(row[j + 1]) };
            diagonal = std::mem::replace(&mut row[j + 1], cost);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_leaf_and_table_is_documented() {
        let schema = schema();
        for key in &schema.keys {
            assert!(!key.doc.is_empty(), "{} has no comment", key.path);
            if let Kind::Choice(names) = &key.kind {
                assert!(
                    names.iter().all(|(_, doc)| !doc.is_empty()),
                    "a choice of {} has no comment",
                    key.path
                );
            }
        }
        assert!(schema.sections.iter().all(|s| !s.doc.is_empty()));
    }

    #[test]
    fn the_list_has_exactly_the_leaves_of_the_structs() {
        fn leaves(value: &Value, prefix: &str, out: &mut Vec<String>) {
            for (name, field) in value.as_object().unwrap() {
                let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                if field.is_object() { leaves(field, &path, out) } else { out.push(path) }
            }
        }
        let mut expected = Vec::new();
        leaves(&serde_json::to_value(Config::default()).unwrap(), "", &mut expected);
        let mut found: Vec<String> = schema().keys.iter().map(|k| k.path.clone()).collect();
        expected.sort();
        found.sort();
        assert_eq!(found, expected);
    }

    #[test]
    fn distance_counts_edits() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(nearest("rl.stepz", ["rl.steps", "sft.steps"].into_iter()), Some("rl.steps"));
        assert_eq!(nearest("unrelated", ["rl.steps"].into_iter()), None);
    }
}
