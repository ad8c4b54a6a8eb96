//! The configuration as commented TOML that parses back to itself.

use std::fmt::Write;

use serde_json::Value;

use super::Config;
use super::schema::{Kind, schema};

/// Comments are wrapped at this many columns.
const COLUMNS: usize = 100;

impl Config {
    /// Commented TOML of every key, each under its doc comment. Parsing it gives this configuration again.
    pub fn to_commented_toml(&self) -> String {
        let values = serde_json::to_value(self).expect("a configuration is plain data");
        let mut out = String::new();
        for section in &schema().sections {
            if !out.is_empty() {
                out.push('\n');
            }
            comment(&mut out, &section.doc);
            writeln!(out, "[{}]", section.path).expect("writing to a string");
            for key in schema().keys.iter().filter(|key| key.section() == section.path) {
                comment(&mut out, &key.doc);
                if let Kind::Choice(names) = &key.kind {
                    for (name, doc) in names {
                        comment(&mut out, &format!("- {name}: {doc}"));
                    }
                }
                writeln!(out, "{} = {}", key.name(), key_value(&values, &key.path, &key.kind))
                    .expect("writing to a string");
            }
        }
        out
    }

    /// The value of a dotted key as TOML writes it, or `None` for an unknown key.
    pub fn value(&self, path: &str) -> Option<String> {
        let key = schema().keys.iter().find(|key| key.path == path)?;
        let values = serde_json::to_value(self).expect("a configuration is plain data");
        Some(key_value(&values, path, &key.kind))
    }
}

fn key_value(values: &Value, path: &str, kind: &Kind) -> String {
    let pointer = format!("/{}", path.replace('.', "/"));
    let value = values.pointer(&pointer).expect("the schema lists fields of the structs");
    match value {
        // JSON widens f32 to f64; print the digits that the f32 needs. Fields of f64 survive the detour
        // only where the two agree, so take the shorter form when it reads back the same.
        Value::Number(n) if *kind == Kind::Float => {
            let wide = n.as_f64().expect("a float");
            let narrow = wide as f32;
            if f64::from(narrow) == wide { format!("{narrow:?}") } else { format!("{wide:?}") }
        }
        Value::String(s) => toml::Value::String(s.clone()).to_string(),
        Value::Array(_) => toml::Value::try_from(value).expect("a list of strings").to_string(),
        other => other.to_string(),
    }
}

fn comment(out: &mut String, text: &str) {
    let mut line = String::from("#");
    for word in text.split_whitespace() {
        if line.len() > 1 && line.chars().count() + 1 + word.chars().count() > COLUMNS {
            writeln!(out, "{line}").expect("writing to a string");
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    writeln!(out, "{line}").expect("writing to a string");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Algorithm, load};

    #[test]
    fn the_commented_toml_parses_back_to_itself() {
        let mut config = Config::default();
        for preset in load::PRESETS {
            let config = Config::load(None, preset, &[]).unwrap();
            assert_eq!(
                toml::from_str::<Config>(&config.to_commented_toml()).unwrap(),
                config,
                "preset {preset}"
            );
        }
        config.model.path = "a \"quoted\"\\path\nwith a line break".into();
        config.rl.optimizer.learning_rate = 1.234_567_9e-7;
        config.rl.algorithm = Algorithm::Grpo;
        config.run.seed = i64::MAX as u64;
        config.sandbox.preimport = vec!["scipy".into(), "a \"b\\".into()];
        config.model.rope_theta = 0.1;
        let text = config.to_commented_toml();
        assert_eq!(toml::from_str::<Config>(&text).unwrap(), config);
        assert!(text.lines().filter(|l| l.starts_with('#')).all(|l| l.chars().count() <= COLUMNS));
    }

    #[test]
    fn floats_are_printed_as_they_were_written() {
        let config = Config::default();
        assert_eq!(config.value("rl.optimizer.learning_rate").unwrap(), "1e-6");
        assert_eq!(config.value("rl.clip_range_high").unwrap(), "0.28");
        assert_eq!(config.value("model.rope_theta").unwrap(), "10000.0");
        assert_eq!(config.value("no.such"), None);
    }
}
