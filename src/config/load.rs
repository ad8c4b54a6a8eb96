//! Where a configuration comes from: a preset, then a TOML file, then dotted flags, each over the one before.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::schema::{Kind, nearest, schema};
use super::{Algorithm, Config};

/// Names of the built-in presets.
pub const PRESETS: [&str; 3] = ["default", "quick", "model"];

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error, PartialEq)]
#[allow(missing_docs)]
pub enum ConfigError {
    #[error("{}: {why}", file.display())]
    Unreadable { file: PathBuf, why: String },
    #[error("{at}: line {line}: {why}")]
    Syntax { at: String, line: usize, why: String },
    #[error("{at}: unknown key `{key}`{}", near.as_ref().map(|n| format!("; did you mean `{n}`?")).unwrap_or_else(|| "; `toolsmith config` lists them".into()))]
    UnknownKey { at: String, key: String, near: Option<String> },
    #[error("{at}: `{key}` must be {wanted}, not {found}")]
    Type { at: String, key: String, wanted: String, found: String },
    #[error("`{key}` = {value}: {why}")]
    Value { key: String, value: String, why: String },
    #[error("unknown preset `{name}`; there are {}", PRESETS.join(", "))]
    UnknownPreset { name: String },
}

impl Config {
    /// The named preset, overlaid by a TOML file and by dotted overrides (`("rl.steps", "3")`), checked.
    ///
    /// # Errors
    /// An unreadable file, a key that does not exist (with the nearest that does), a value of the wrong type
    /// or out of range.
    pub fn load(
        file: Option<&Path>,
        preset: &str,
        overrides: &[(String, String)],
    ) -> Result<Self, ConfigError> {
        let text = match preset {
            "default" => include_str!("presets/default.toml"),
            "quick" => include_str!("presets/quick.toml"),
            "model" => include_str!("presets/model.toml"),
            name => return Err(ConfigError::UnknownPreset { name: name.into() }),
        };
        let mut table = Table::new();
        merge(&mut table, parse(text, &format!("preset {preset}"))?);
        if let Some(file) = file {
            let text = std::fs::read_to_string(file)
                .map_err(|e| ConfigError::Unreadable { file: file.into(), why: e.to_string() })?;
            merge(&mut table, parse(&text, &file.display().to_string())?);
        }
        for (path, text) in overrides {
            set(&mut table, path, text)?;
        }
        let config: Self = table.try_into().map_err(|e: toml::de::Error| ConfigError::Syntax {
            at: "configuration".into(),
            line: 0,
            why: e.message().to_string(),
        })?;
        config.check()?;
        Ok(config)
    }

    /// Reads a complete configuration as a run directory keeps it, nothing overlaid.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn read(file: &Path) -> Result<Self, ConfigError> {
        Self::load(Some(file), "model", &[])
    }

    /// Checks what types cannot say.
    ///
    /// # Errors
    /// The first field out of range, with what it may be.
    pub fn check(&self) -> Result<(), ConfigError> {
        let require = |ok: bool, key: &str, why: &str| {
            let error = || ConfigError::Value {
                key: key.into(),
                value: self.value(key).expect("a key of the schema"),
                why: why.into(),
            };
            ok.then_some(()).ok_or_else(error)
        };
        let (m, r, rl) = (&self.model, &self.rollout, &self.rl);
        require(m.num_hidden_layers > 0, "model.num_hidden_layers", "at least one layer is needed")?;
        require(m.num_attention_heads > 0, "model.num_attention_heads", "at least one head is needed")?;
        require(
            m.hidden_size > 0 && m.hidden_size % (2 * m.num_attention_heads) == 0,
            "model.hidden_size",
            "must be a multiple of twice model.num_attention_heads (rotary embeddings pair the dimensions of a head)",
        )?;
        require(
            m.num_key_value_heads > 0 && m.num_attention_heads % m.num_key_value_heads == 0,
            "model.num_key_value_heads",
            "must divide model.num_attention_heads",
        )?;
        require(m.intermediate_size > 0, "model.intermediate_size", "must be positive")?;
        require(m.rope_theta > 1.0, "model.rope_theta", "must be greater than 1")?;
        require(r.max_completion_length > 0, "rollout.max_completion_length", "must be positive")?;
        require(r.concurrency > 0, "rollout.concurrency", "must be positive")?;
        require(
            r.temperature >= 0.0 && r.temperature.is_finite(),
            "rollout.temperature",
            "must be 0 or more",
        )?;
        require(r.top_p > 0.0 && r.top_p <= 1.0, "rollout.top_p", "must be above 0 and at most 1")?;
        require(
            rl.steps == 0 || r.temperature > 0.0,
            "rollout.temperature",
            "reinforcement learning needs samples; eval.temperature is the one for evaluation",
        )?;
        require(
            r.kv_memory.is_empty() || r.kv_bytes().is_some(),
            "rollout.kv_memory",
            "must be an amount such as 512MB or 2GiB, or empty",
        )?;
        require(self.sandbox.fuel > 0, "sandbox.fuel", "must be positive")?;
        require(self.sandbox.memory_mb <= 4095, "sandbox.memory_mb", "32-bit memory ends at 4095")?;
        require(self.sandbox.wall_ms > 0, "sandbox.wall_ms", "must be positive")?;
        require(self.eval.temperature >= 0.0, "eval.temperature", "must be 0 or more")?;
        require(self.eval.samples > 0, "eval.samples", "must be positive")?;
        require((0.0..=1.0).contains(&self.sft.tool_share), "sft.tool_share", "is a share between 0 and 1")?;
        require(self.sft.steps == 0 || self.sft.batch_size > 0, "sft.batch_size", "must be positive")?;
        require(self.run.save_total_limit > 0, "run.save_total_limit", "keep at least one checkpoint")?;
        require(
            self.run.memory_limit.is_empty() || self.run.memory().is_some(),
            "run.memory_limit",
            "must be an amount such as 8GB or 512MiB, or empty",
        )?;
        require(rl.prompts_per_step > 0, "rl.prompts_per_step", "must be positive")?;
        require(rl.num_generations > 0, "rl.num_generations", "must be positive")?;
        require(
            rl.algorithm != Algorithm::Grpo || rl.num_generations > 1,
            "rl.num_generations",
            "group advantages need at least 2 samples of a problem",
        )?;
        require(rl.num_iterations > 0, "rl.num_iterations", "must be positive")?;
        require(
            (1..=rl.prompts_per_step).contains(&rl.num_mini_batches),
            "rl.num_mini_batches",
            "must be between 1 and rl.prompts_per_step",
        )?;
        require(rl.micro_batch_tokens > 0, "rl.micro_batch_tokens", "must be positive")?;
        require(
            (0.0..1.0).contains(&rl.clip_range_low),
            "rl.clip_range_low",
            "must be at least 0 and below 1",
        )?;
        require(rl.clip_range_high >= 0.0, "rl.clip_range_high", "must be 0 or more")?;
        require(
            rl.dual_clip == 0.0 || rl.dual_clip > 1.0,
            "rl.dual_clip",
            "must be above 1, or 0 to switch it off",
        )?;
        require(rl.cliprange_value >= 0.0, "rl.cliprange_value", "must be 0 or more")?;
        require((0.0..=1.0).contains(&rl.gamma), "rl.gamma", "must be between 0 and 1")?;
        require((0.0..=1.0).contains(&rl.lam), "rl.lam", "must be between 0 and 1")?;
        require(rl.kl_coef >= 0.0, "rl.kl_coef", "must be 0 or more")?;
        for (o, section) in [
            (&self.sft.optimizer, "sft.optimizer"),
            (&rl.optimizer, "rl.optimizer"),
            (&rl.critic_optimizer, "rl.critic_optimizer"),
        ] {
            let require = |ok: bool, name: &str, why: &str| require(ok, &format!("{section}.{name}"), why);
            let share = 0.0..=1.0;
            require(
                o.learning_rate >= 0.0 && o.learning_rate.is_finite(),
                "learning_rate",
                "must be 0 or more",
            )?;
            require(share.contains(&o.warmup_ratio), "warmup_ratio", "is a share between 0 and 1")?;
            require(share.contains(&o.min_lr_ratio), "min_lr_ratio", "is a share between 0 and 1")?;
            require((0.0..1.0).contains(&o.beta1), "beta1", "must be at least 0 and below 1")?;
            require((0.0..1.0).contains(&o.beta2), "beta2", "must be at least 0 and below 1")?;
            require(o.epsilon > 0.0, "epsilon", "must be positive")?;
            require(o.max_grad_norm >= 0.0, "max_grad_norm", "must be 0 or more")?;
        }
        Ok(())
    }
}

/// Parses TOML and checks every key and type against the schema; `at` names the source in messages.
fn parse(text: &str, at: &str) -> Result<Table, ConfigError> {
    let table: Table = text.parse().map_err(|e: toml::de::Error| {
        let line = e.span().map_or(0, |span| text[..span.start.min(text.len())].matches('\n').count()) + 1;
        ConfigError::Syntax { at: at.into(), line, why: e.message().replace('\n', " ") }
    })?;
    check_keys(&table, "", at)?;
    Ok(table)
}

fn check_keys(table: &Table, prefix: &str, at: &str) -> Result<(), ConfigError> {
    for (name, value) in table {
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        let is_section = schema().sections.iter().any(|section| section.path == path);
        match (schema().keys.iter().find(|key| key.path == path), value) {
            (Some(key), value) if fits(&key.kind, value) => {}
            (Some(key), value) => return Err(wrong_type(at, &path, &key.kind, &value.to_string())),
            (None, Value::Table(inner)) if is_section => check_keys(inner, &path, at)?,
            (None, value) if is_section => {
                let (wanted, found) = ("a table".into(), value.to_string());
                return Err(ConfigError::Type { at: at.into(), key: path, wanted, found });
            }
            (None, _) => return Err(unknown(at, &path)),
        }
    }
    Ok(())
}

fn fits(kind: &Kind, value: &Value) -> bool {
    match (kind, value) {
        (Kind::Bool, Value::Boolean(_)) | (Kind::String, Value::String(_)) => true,
        (Kind::Float, Value::Float(_) | Value::Integer(_)) => true,
        (Kind::List, Value::Array(items)) => items.iter().all(Value::is_str),
        (Kind::Integer { unsigned }, Value::Integer(n)) => !unsigned || *n >= 0,
        (Kind::Choice(names), Value::String(s)) => names.iter().any(|(name, _)| name == s),
        _ => false,
    }
}

fn wrong_type(at: &str, path: &str, kind: &Kind, found: &str) -> ConfigError {
    ConfigError::Type { at: at.into(), key: path.into(), wanted: kind.name(), found: found.into() }
}

/// The unknown key with the nearest one: by whole path, else a key or table of the same name elsewhere.
fn unknown(at: &str, path: &str) -> ConfigError {
    let near = nearest_key(path).map(str::to_string);
    ConfigError::UnknownKey { at: at.into(), key: path.into(), near }
}

/// The key or table that was meant by one that does not exist: the same name deeper in the same table, what is a slip
/// away, or the same name anywhere.
pub fn nearest_key(path: &str) -> Option<&'static str> {
    let keys = || schema().keys.iter();
    let sections = schema().sections.iter().map(|section| section.path.as_str());
    let (table, name) = path.rsplit_once('.').unwrap_or(("", path));
    let same_name = || keys().filter(|key| key.name() == name).map(|key| key.path.as_str());
    same_name()
        .find(|key| !table.is_empty() && key.starts_with(&format!("{table}.")))
        .or_else(|| nearest(path, keys().map(|key| key.path.as_str()).chain(sections)))
        .or_else(|| same_name().next())
}

fn merge(base: &mut Table, over: Table) {
    for (name, value) in over {
        match (base.get_mut(&name), value) {
            (Some(Value::Table(inner)), Value::Table(value)) => merge(inner, value),
            (_, value) => {
                base.insert(name, value);
            }
        }
    }
}

/// Sets the dotted key to the value that `text` spells.
fn set(table: &mut Table, path: &str, text: &str) -> Result<(), ConfigError> {
    let at = "command line";
    let key = schema().keys.iter().find(|key| key.path == path).ok_or_else(|| unknown(at, path))?;
    let value = match &key.kind {
        Kind::Bool => text.parse().ok().map(Value::Boolean),
        Kind::Integer { .. } => text.replace('_', "").parse().ok().map(Value::Integer),
        Kind::Float => text.parse().ok().filter(|x: &f64| x.is_finite()).map(Value::Float),
        Kind::String | Kind::Choice(_) => Some(Value::String(text.into())),
        Kind::List => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Some(Value::Array(items.map(|item| Value::String(item.into())).collect()))
        }
    };
    let value = value
        .filter(|value| fits(&key.kind, value))
        .ok_or_else(|| wrong_type(at, path, &key.kind, &format!("`{text}`")))?;
    let mut inner = table;
    for part in key.section().split('.') {
        let entry = inner.entry(part).or_insert_with(|| Value::Table(Table::new()));
        inner = entry.as_table_mut().expect("keys were checked against the schema");
    }
    inner.insert(key.name().into(), value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(overrides: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let overrides: Vec<_> = overrides.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        Config::load(None, "model", &overrides)
    }

    fn from_file(text: &str) -> Result<Config, String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("run.toml");
        std::fs::write(&file, text).unwrap();
        Config::load(Some(&file), "default", &[])
            .map_err(|e| e.to_string().replace(&file.display().to_string(), "run.toml"))
    }

    #[test]
    fn flags_beat_the_file_and_the_file_beats_the_preset() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("run.toml");
        std::fs::write(&file, "[rl]\nsteps = 7\ngamma = 1\n[rl.optimizer]\nbeta2 = 0.9").unwrap();
        let preset = Config::load(None, "default", &[]).unwrap();
        let config = Config::load(Some(&file), "default", &[("rl.steps".into(), "3".into())]).unwrap();
        assert_eq!((config.rl.steps, config.rl.optimizer.beta2), (3, 0.9));
        assert_eq!(config.rl.optimizer.learning_rate, preset.rl.optimizer.learning_rate);
        assert_eq!(config.sft, preset.sft);
    }

    #[test]
    fn an_unknown_key_names_the_nearest() {
        let message = |text: &str| from_file(text).unwrap_err();
        assert_eq!(message("[rl]\nstepz = 3"), "run.toml: unknown key `rl.stepz`; did you mean `rl.steps`?");
        assert_eq!(message("[rll]\nsteps = 3"), "run.toml: unknown key `rll`; did you mean `rl`?");
        assert_eq!(
            message("learning_rate = 3"),
            "run.toml: unknown key `learning_rate`; did you mean `sft.optimizer.learning_rate`?"
        );
        assert_eq!(
            message("[rl]\nlearning_rate = 3"),
            "run.toml: unknown key `rl.learning_rate`; did you mean `rl.optimizer.learning_rate`?"
        );
        assert_eq!(
            message("qqqqqqqqqqqqq = 3"),
            "run.toml: unknown key `qqqqqqqqqqqqq`; `toolsmith config` lists them"
        );
        assert_eq!(
            with(&[("rl.step", "3")]).unwrap_err().to_string(),
            "command line: unknown key `rl.step`; did you mean `rl.steps`?"
        );
    }

    #[test]
    fn wrong_values_name_the_field() {
        let message = |k: &str, v: &str| with(&[(k, v)]).unwrap_err().to_string();
        assert_eq!(
            message("rl.steps", "many"),
            "command line: `rl.steps` must be a whole number of at least 0, not `many`"
        );
        assert_eq!(
            message("rl.steps", "-1"),
            "command line: `rl.steps` must be a whole number of at least 0, not `-1`"
        );
        assert_eq!(
            message("rl.algorithm", "pppo"),
            "command line: `rl.algorithm` must be one of ppo, grpo, not `pppo`"
        );
        assert_eq!(message("rl.gamma", "1.5"), "`rl.gamma` = 1.5: must be between 0 and 1");
        assert_eq!(message("rl.gamma", "nan"), "command line: `rl.gamma` must be a number, not `nan`");
        assert_eq!(
            from_file("[rl]\nsteps = \"3\"").unwrap_err(),
            "run.toml: `rl.steps` must be a whole number of at least 0, not \"3\""
        );
        assert_eq!(from_file("rl = 3").unwrap_err(), "run.toml: `rl` must be a table, not 3");
        assert!(from_file("[rl]\n\nsteps = = 3").unwrap_err().starts_with("run.toml: line 3: "));
    }

    #[test]
    fn every_message_is_one_line() {
        for text in ["[rl", "a = [1,\n2", "rl = \"\"\"\n\n", "[rl]\nsteps = 3\nsteps = 4"] {
            let message = from_file(text).unwrap_err();
            assert_eq!(message.lines().count(), 1, "{message}");
        }
    }

    #[test]
    fn all_presets_load_and_others_are_refused() {
        for preset in PRESETS {
            Config::load(None, preset, &[]).unwrap();
        }
        let message = Config::load(None, "fast", &[]).unwrap_err().to_string();
        assert_eq!(message, "unknown preset `fast`; there are default, quick, model");
    }
}
