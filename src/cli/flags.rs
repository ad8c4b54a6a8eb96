//! Configuration keys as dotted flags, made from the schema: `--rl.steps 3`.
//!
//! A key's last part works as a flag too where only one key ends in it (`--clip_range_low`); where several do,
//! using it is an error that names them.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::path::Path;

use clap::builder::StyledStr;
use clap::error::ErrorKind;
use clap::{Arg, ArgMatches, Args, Command, Error, FromArgMatches};

use crate::config::{Config, ConfigError, Key, Kind, schema};

/// Which keys a subcommand takes.
pub trait Scope {
    /// Top-level tables whose keys become flags.
    const TABLES: &'static [&'static str];
    /// Names the subcommand uses for flags of its own: no key is shortened to them.
    const TAKEN: &'static [&'static str];
}

/// Every key: `toolsmith train` and `toolsmith config`.
#[derive(Clone, Debug)]
pub struct Everything;

impl Scope for Everything {
    const TABLES: &'static [&'static str] =
        &["run", "model", "data", "rollout", "sandbox", "sft", "rl", "eval"];
    const TAKEN: &'static [&'static str] = &["preset", "model", "data", "config", "out", "resume", "help"];
}

/// What was set on the command line, in the order of the schema.
#[derive(Clone, Debug)]
pub struct Flags<S: Scope> {
    /// Dotted key and the text given for it.
    pub overrides: Vec<(String, String)>,
    scope: PhantomData<S>,
}

impl<S: Scope> Flags<S> {
    /// The preset, overlaid by the file and by these flags.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load(&self, file: Option<&Path>, preset: &str) -> Result<Config, ConfigError> {
        Config::load(file, preset, &self.overrides)
    }

    fn keys() -> impl Iterator<Item = &'static Key> {
        let table = |key: &Key| key.path.split('.').next().is_some_and(|table| S::TABLES.contains(&table));
        schema().keys.iter().filter(move |key| table(key))
    }

    /// Last parts of keys, each with the keys that end in it, without those the subcommand uses itself.
    fn short_names() -> BTreeMap<&'static str, Vec<&'static str>> {
        let mut names = BTreeMap::<_, Vec<_>>::new();
        for key in Self::keys().filter(|key| !S::TAKEN.contains(&key.name())) {
            names.entry(key.name()).or_default().push(key.path.as_str());
        }
        names
    }
}

impl<S: Scope> Args for Flags<S> {
    fn augment_args(mut command: Command) -> Command {
        let short = Self::short_names();
        let defaults = Config::default();
        for key in Self::keys() {
            let (value_name, choices) = match &key.kind {
                Kind::Bool => ("true|false".to_string(), String::new()),
                Kind::Integer { .. } => ("N".into(), String::new()),
                Kind::Float => ("X".into(), String::new()),
                Kind::String => ("TEXT".into(), String::new()),
                Kind::List => ("A,B".into(), String::new()),
                Kind::Choice(names) => {
                    let list: Vec<String> =
                        names.iter().map(|(name, doc)| format!("\n- {name}: {doc}")).collect();
                    (names.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join("|"), list.concat())
                }
            };
            let default = defaults.value(&key.path).expect("a key of the schema");
            let table = key.path.split('.').next().expect("a path has a first part");
            let section = schema().sections.iter().find(|s| s.path == table).expect("a key's table");
            let arg = Arg::new(key.path.as_str())
                .long(key.path.as_str())
                .value_name(value_name)
                .help(StyledStr::from(format!("{}{choices} [default: {default}]", key.doc)))
                .help_heading(format!("[{table}] {}", section.doc.trim_end_matches('.')))
                .allow_hyphen_values(true)
                .hide_short_help(true);
            let alone = short.get(key.name()).is_some_and(|keys| keys.len() == 1);
            command = command.arg(if alone { arg.visible_alias(key.name()) } else { arg });
        }
        for (name, _) in short.iter().filter(|(_, keys)| keys.len() > 1) {
            command = command.arg(Arg::new(*name).long(*name).allow_hyphen_values(true).hide(true));
        }
        command
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<S: Scope> FromArgMatches for Flags<S> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let given = |id: &str| matches.get_one::<String>(id).cloned();
        for (name, keys) in Self::short_names().iter().filter(|(_, keys)| keys.len() > 1) {
            if given(name).is_some() {
                let flags: Vec<String> = keys.iter().map(|key| format!("--{key}")).collect();
                let message = format!("--{name} could be any of {}: write it in full\n", flags.join(", "));
                return Err(Error::raw(ErrorKind::UnknownArgument, message));
            }
        }
        let overrides = Self::keys().filter_map(|key| Some((key.path.clone(), given(&key.path)?))).collect();
        Ok(Self { overrides, scope: PhantomData })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Config, String> {
        let command = Flags::<Everything>::augment_args(Command::new("train"));
        let matches = command.try_get_matches_from([&["train"], args].concat()).map_err(|e| e.to_string())?;
        let flags = Flags::<Everything>::from_arg_matches(&matches).map_err(|e| e.to_string())?;
        flags.load(None, "model").map_err(|e| e.to_string())
    }

    #[test]
    fn dotted_and_short_flags_set_the_same_key() {
        let long = parse(&["--rl.clip_range_low", "0.1", "--rl.algorithm=grpo", "--run.seed", "7"]).unwrap();
        assert_eq!((long.rl.clip_range_low, long.run.seed), (0.1, 7));
        assert_eq!(parse(&["--clip_range_low", "0.1", "--algorithm", "grpo", "--seed", "7"]).unwrap(), long);
    }

    #[test]
    fn an_ambiguous_name_is_refused_with_all_it_could_be() {
        let message = parse(&["--learning_rate", "1e-3"]).unwrap_err();
        for flag in [
            "--sft.optimizer.learning_rate",
            "--rl.optimizer.learning_rate",
            "--rl.critic_optimizer.learning_rate",
        ] {
            assert!(message.contains(flag), "{message}");
        }
    }

    #[test]
    fn negative_numbers_are_values() {
        assert!(parse(&["--rl.gamma", "-1"]).unwrap_err().contains("`rl.gamma` = -1.0"));
    }

    #[test]
    fn help_lists_every_key_with_its_meaning() {
        let help = Flags::<Everything>::augment_args(Command::new("train")).render_long_help().to_string();
        for key in &schema().keys {
            assert!(help.contains(&format!("--{}", key.path)), "{} is not in the help", key.path);
        }
        assert!(help.contains("dapo") || help.contains("DAPO"));
        Flags::<Everything>::augment_args(Command::new("train")).debug_assert();
    }
}
