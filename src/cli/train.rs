//! `toolsmith train`: a whole run, from nothing or from a model, told line by line and summed up in a table.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use toolsmith_sandbox::Image;

use super::flags::{Everything, Flags};
use super::table::table;
use super::tools::{modules, offered, toolbox};
use super::{BadInput, Interrupted, program, stop_on_ctrl_c};
use crate::config::{Config, ConfigError};
use crate::learn::Error;
use crate::learn::memory::gigabytes;
use crate::learn::stages::{self, Event, Inputs, Surroundings};
use crate::run_dir::{Checkpoint, Metrics, RunDir, Stage};

/// Train a policy to call Python.
///
/// With no argument, a small policy is made from nothing, shown how a call looks (the cold start), trained by PPO
/// while the code it writes runs, and evaluated on held-out problems with and without the tool. With --model and
/// --data it is your model and your problems. Every key of the configuration is a flag; `toolsmith config` prints
/// them as TOML, and the values that a preset sets.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Built-in configuration: `default`, `quick` (the same in two minutes) or `model` (what --model starts from).
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    /// Model to train: Hugging Face directory or .gguf file.
    #[arg(long, value_name = "MODEL")]
    model: Option<PathBuf>,
    /// Problems to train on: JSONL with `problem`, `prompt` or `question`, and `answer`.
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// TOML file of configuration keys.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory of the run, which must be new [default: runs/train-seedN].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on with the run in DIR (or in --out) where its last checkpoint stands.
    #[arg(long, value_name = "DIR", num_args = 0..=1)]
    resume: Option<Option<PathBuf>>,
    #[command(flatten)]
    flags: Flags<Everything>,
}

/// Trains.
///
/// # Errors
/// Bad input before anything is written; what goes wrong on the way; Ctrl-C.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let start = Instant::now();
    let stop = stop_on_ctrl_c()?;
    let (config, resumed) = match &args.resume {
        Some(dir) => {
            let (run, config, checkpoint) = resume(&args, dir.as_deref())?;
            (config, Some((run, checkpoint)))
        }
        None => (configure(&args)?, None),
    };
    rayon::ThreadPoolBuilder::new().num_threads(config.run.threads).build_global()?;
    // Everything is read and checked, the Python image included, before a new run's directory is made.
    let modules = modules(&config)?;
    let offered = offered(&config, &modules)?;
    let inputs = match &resumed {
        Some((run, Some(checkpoint))) => Inputs::of_checkpoint(&config, run, checkpoint, &offered)?,
        _ => Inputs::read(&config, &Image::default_cache(), &offered)?,
    };
    let tools = toolbox(&config, modules)?;
    let (mut run, checkpoint) = match resumed {
        Some(resumed) => resumed,
        None => (RunDir::create(args.out.as_deref(), &config)?, None),
    };
    eprintln!("{}: {} parameters", run.path().display(), grouped(inputs.parameters()));
    let every = config.sft.steps.div_ceil(20).max(1);
    let mut notify = |event: Event| {
        if let Some(line) = line(&event, every) {
            eprintln!("{line}");
        }
    };
    let surroundings = Surroundings { tools: tools.as_ref().map(|t| t as _), stop, notify: &mut notify };
    let evaluations = match stages::train(&config, inputs, &mut run, checkpoint.as_ref(), surroundings) {
        Ok(evaluations) => evaluations,
        Err(Error::Interrupted) => {
            let hint = format!("`{} train --resume {}` goes on", program(), run.path().display());
            return Err(Interrupted(Some(hint)).into());
        }
        Err(e) => return Err(e.into()),
    };
    print!("{}", summary(&config, &run, &evaluations, start.elapsed().as_secs_f64()));
    Ok(ExitCode::SUCCESS)
}

/// The run to go on with, its configuration, and its checkpoint if it has one.
fn resume(args: &Args, dir: Option<&Path>) -> anyhow::Result<(RunDir, Config, Option<Checkpoint>)> {
    let Some(dir) = dir.or(args.out.as_deref()) else {
        return Err(BadInput(
            "--resume needs the run's directory: --resume DIR, or --out DIR --resume".into(),
        )
        .into());
    };
    let set = args.flags.overrides.first().map(|(key, _)| key.as_str());
    let named = [
        ("config", args.config.is_some()),
        ("preset", args.preset.is_some()),
        ("model", args.model.is_some()),
        ("data", args.data.is_some()),
    ];
    if let Some(flag) = named.iter().find(|(_, given)| *given).map(|(name, _)| *name).or(set) {
        let file = dir.join("config.toml");
        return Err(
            BadInput(format!("--resume goes on as {} says: leave out --{flag}", file.display())).into()
        );
    }
    let (run, config, checkpoint) = RunDir::resume(dir)?;
    if let Some(c) = &checkpoint {
        eprintln!("going on after {} step {}", c.stage.name(), c.step);
    }
    Ok((run, config, checkpoint))
}

/// Preset, file and flags; files named relative to here, so that a resume from elsewhere finds them.
fn configure(args: &Args) -> Result<Config, ConfigError> {
    let mut flags = args.flags.clone();
    for (key, path) in [("model.path", &args.model), ("data.train", &args.data)] {
        if let Some(path) = path {
            flags.overrides.push((key.into(), path.display().to_string()));
        }
    }
    let file = args.config.as_deref();
    let preset = match &args.preset {
        Some(preset) => preset.as_str(),
        None if flags.load(file, "model")?.model.path.is_empty() => "default",
        None => "model",
    };
    let mut config = flags.load(file, preset)?;
    let is_file = |template: &str| Path::new(template).is_file();
    for path in [
        Some(&mut config.model.path),
        Some(&mut config.data.train),
        Some(&mut config.data.eval),
        Some(&mut config.sft.data),
        Some(&mut config.rollout.prompt_template).filter(|t| is_file(t)),
    ]
    .into_iter()
    .flatten()
    .filter(|path| !path.is_empty())
    {
        if let Ok(absolute) = std::path::absolute(&*path) {
            *path = absolute.display().to_string();
        }
    }
    Ok(config)
}

/// An event as at most 80 columns; of the cold start only every `every`-th step is told.
fn line(event: &Event, every: usize) -> Option<String> {
    let number = |m: &Metrics, name: &str| m.get(name).unwrap_or(f64::NAN);
    let share =
        |m: &Metrics, name: &str| m.get(name).map_or("  - ".into(), |x| format!("{:3.0}%", 100.0 * x));
    Some(match event {
        Event::Fitted(_, f) if f.recomputed == 0 => return None,
        Event::Fitted(stage, f) => format!(
            "{}: {} of {}; {} of {} layers recompute their activations",
            stage.name(),
            gigabytes(f.bytes),
            gigabytes(f.limit),
            f.recomputed,
            f.layers,
        ),
        Event::Step { stage: Stage::Sft, step, steps, .. } if step % every != 0 && step != steps => {
            return None;
        }
        Event::Step { stage: Stage::Sft, step, steps, metrics: m } => format!(
            "cold start {step:5}/{steps}  loss {:.3}  lr {:.1e}  grad {:.2}  {:.0} tok/s",
            number(m, "losses/cross_entropy"),
            number(m, "lr"),
            number(m, "grad_norm"),
            number(m, "perf/train_tokens_per_s"),
        ),
        Event::Step { stage: Stage::Rl, step, steps, metrics: m } => format!(
            "rl {step:4}/{steps}  reward {:+.2}  right {}  code {}  pass {}  kl {:.4}  {:.1}s",
            number(m, "objective/reward"),
            share(m, "objective/accuracy"),
            share(m, "rollout/code_share"),
            share(m, "rollout/code_pass_rate"),
            m.get("losses/approx_kl").unwrap_or(0.0),
            number(m, "perf/rollout_s") + number(m, "perf/update_s"),
        ),
        Event::Evaluated(m) => format!(
            "evaluated: {}  right {}  code {}  without the tool right {}",
            m.name("eval").unwrap_or_default(),
            share(m, "eval/accuracy"),
            share(m, "eval/code_share"),
            share(m, "eval_no_tool/accuracy"),
        ),
        Event::Checkpoint(_) => return None,
    })
}

/// The table, where everything lies, and how to go on.
fn summary(config: &Config, run: &RunDir, evaluations: &[Metrics], seconds: f64) -> String {
    let share =
        |m: &Metrics, name: String| m.get(&name).map_or("-".into(), |x| format!("{:.1} %", 100.0 * x));
    let mut rows = Vec::new();
    // What random weights say is noise; it is in the metrics.
    let told = |m: &&Metrics| !(config.model.path.is_empty() && m.name("eval") == Some("start"));
    for m in evaluations.iter().filter(told) {
        let label = match m.name("eval").unwrap_or_default() {
            label @ ("PPO" | "GRPO") => format!("after {label}"),
            label => label.to_string(),
        };
        for (prefix, label) in
            [("eval/", label.clone()), ("eval_no_tool/", format!("{label}, without the tool"))]
        {
            rows.push([
                label,
                share(m, format!("{prefix}accuracy")),
                share(m, format!("{prefix}code_share")),
                share(m, format!("{prefix}code_pass_rate")),
            ]);
        }
    }
    let n = evaluations.last().and_then(|m| m.get("eval/samples")).unwrap_or(0.0);
    let (path, model) = (run.path().display(), run.model());
    let (model, program) = (model.display(), program());
    let like = format!("--config {path}/config.toml --model {model}");
    format!(
        "\n{}{} of held-out problems, seed {}, {:.0} s\n\nrun directory  {path}\nask it         {program} run {like} \"{}\"\nevaluate it    {program} eval {like} --data {}\n",
        table(["", "accuracy", "with code", "code passes"], &rows),
        if n == 1.0 { "1 sample".into() } else { format!("{n} samples") },
        config.run.seed,
        seconds,
        if config.data.train.is_empty() { "372*48-915" } else { "a problem" },
        run.held_out().display(),
    )
}

fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|g| std::str::from_utf8(g).expect("digits")).collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learn::memory::Footprint;

    #[test]
    fn lines_fit_80_columns() {
        let mut m = Metrics::default();
        for name in [
            "objective/accuracy",
            "rollout/code_share",
            "rollout/code_pass_rate",
            "eval/accuracy",
            "eval/code_share",
            "eval_no_tool/accuracy",
        ] {
            m.put(name, 1.0);
        }
        m.put("objective/reward", -1.0);
        m.put("losses/approx_kl", 0.123456);
        m.put("losses/cross_entropy", 12.3456);
        m.put("grad_norm", 123.456);
        m.put("lr", 3e-3);
        m.put("perf/train_tokens_per_s", 123456.7);
        m.put("perf/rollout_s", 1234.5);
        m.put("perf/update_s", 1.0);
        m.put("eval", "cold start");
        let most = Footprint { recomputed: 100, layers: 100, bytes: 999_999_999_999, limit: 999_999_999_999 };
        for event in [
            Event::Fitted(Stage::Sft, most),
            Event::Step { stage: Stage::Sft, step: 10000, steps: 10000, metrics: &m },
            Event::Step { stage: Stage::Rl, step: 1000, steps: 1000, metrics: &m },
            Event::Evaluated(&m),
        ] {
            let line = line(&event, 1).unwrap();
            assert!(line.chars().count() <= 80, "{line}");
        }
    }

    #[test]
    fn parameters_are_counted_in_groups() {
        assert_eq!([7, 1234, 123456, 1234567].map(grouped), ["7", "1,234", "123,456", "1,234,567"]);
    }
}
