//! `toolsmith eval`: samples of every problem of a file, one JSON line each, and the figures made of them.

use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use toolsmith_models::convert::ModelSource;
use toolsmith_models::engine::Engine;
use toolsmith_sandbox::Image;

use super::inference::Inference;
use super::table::table;
use super::tools::{modules, offered, toolbox};
use super::{BadInput, Interrupted, stop_on_ctrl_c};
use crate::chat::Chat;
use crate::config::Config;
use crate::eval::{Evaluation, Results, Sample, Step, Summary};
use crate::rollout::Control;
use crate::task::dataset;

/// Seconds between lines that say how far an evaluation is.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// Evaluate a model on a file of problems.
///
/// Every problem is answered --samples times; answers are compared exactly, as numbers. With --out, each sample is
/// one JSON line there, written as it ends: the same command goes on where it was stopped, and more --samples or a
/// larger --limit extend the file.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Problems: JSONL with `problem`, `prompt` or `question`, and `answer`.
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Samples of each problem [default: 1, or `eval.samples` of --config].
    #[arg(long, value_name = "K")]
    samples: Option<usize>,
    /// Results file, JSONL; continued if it exists.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Take only the first N problems.
    #[arg(long, value_name = "N")]
    limit: Option<NonZero<usize>>,
    /// Print the summary as JSON instead of a table.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    inference: Inference,
}

/// Evaluates.
///
/// # Errors
/// Bad input before anything is written; what goes wrong on the way; Ctrl-C.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let config = configure(&args)?;
    let mut problems = dataset::read(&args.data)?;
    problems.truncate(args.limit.map_or(usize::MAX, NonZero::get));
    let source = ModelSource::open(&args.inference.model, &Image::default_cache())?;
    let precision = config.model.dtype.into();
    let weights = source.weights(precision)?;
    let modules = modules(&config)?;
    let chat = Chat::load(&config.rollout.prompt_template, &source.tokenizer)?;
    let chat = chat.with_tools(&offered(&config, &modules)?);
    let tools = toolbox(&config, modules)?;
    let mut results = match &args.out {
        Some(path) => Some(Results::open(path, &settings(&args, &config)?)?),
        None => None,
    };

    let evaluation = Evaluation {
        text: &source.tokenizer,
        chat: &chat,
        tools: tools.as_ref().map(|t| t as _),
        rollout: &config.rollout,
        problems: &problems,
        samples: config.eval.samples,
        seed: config.run.seed,
    };
    let wanted = |s: &Sample| s.problem < problems.len() && s.sample < config.eval.samples;
    let mut samples: Vec<Sample> = match &results {
        Some(results) => results.samples().iter().filter(|s| wanted(s)).cloned().collect(),
        None => Vec::new(),
    };
    let done: std::collections::BTreeSet<_> = samples.iter().map(|s| (s.problem, s.sample)).collect();
    let total = problems.len() * config.eval.samples;
    if !done.is_empty() {
        eprintln!("{} of {total} samples are there already", done.len());
    }
    if done.len() < total {
        let mut options = config.rollout.engine(source.config.max_position_embeddings, precision);
        options.slots = options.slots.min(total - done.len());
        let mut engine = Engine::new(&source.config, options)?;
        let view = weights.view();
        let stop = stop_on_ctrl_c()?;
        let (start, mut reported) = (Instant::now(), Instant::now());
        let mut failed = None;
        let mut on_step = |step: Step| {
            match step {
                Step::Done(sample) => {
                    if let (Some(results), None) = (&mut results, &failed) {
                        failed = results.push(sample.clone()).err();
                    }
                    samples.push(sample);
                }
                Step::Progress(stats) if reported.elapsed() >= REPORT_EVERY => {
                    reported = Instant::now();
                    let (n, rate) = (samples.len(), stats.generated_tokens as f64 / stats.wall_s);
                    eprintln!(
                        "{n} of {total} samples, {rate:.0} tok/s, {:.0} s",
                        start.elapsed().as_secs_f64()
                    );
                }
                Step::Progress(_) => {}
            }
            let end = stop.load(Ordering::Relaxed) || failed.is_some();
            if end { Control::Stop } else { Control::Continue }
        };
        let has = |problem, sample| done.contains(&(problem, sample));
        let stats = evaluation.run(&mut engine.bind(&view), &has, &mut on_step)?;
        if let Some(error) = failed {
            return Err(error.into());
        }
        if stop.load(Ordering::Relaxed) {
            let hint = "the same command goes on from here".to_owned();
            return Err(Interrupted(args.out.is_some().then_some(hint)).into());
        }
        if stats.prompts_too_long > 0 {
            let (n, what) = (stats.prompts_too_long, "prompts fill the context: no answer was possible");
            eprintln!("{n} of {total} samples: {what}; see `rollout.max_context`");
        }
    }

    let summary = Summary::of(&samples);
    if args.json {
        println!("{:#}", serde_json::to_value(&summary)?);
    } else {
        print!("{}", text(&summary, config.eval.samples));
    }
    Ok(ExitCode::SUCCESS)
}

/// The file, flags over it; an evaluation's own temperature where none is given.
fn configure(args: &Args) -> anyhow::Result<Config> {
    let mut config = args.inference.load()?;
    if let Some(samples) = args.samples {
        config.eval.samples = samples;
    }
    if !args.inference.sets("rollout.temperature") {
        config.rollout.temperature = config.eval.temperature;
    }
    config.check()?;
    Ok(config)
}

/// What a sample depends on. What only costs time (threads, workers, concurrency) is left out.
fn settings(args: &Args, config: &Config) -> anyhow::Result<Map<String, Value>> {
    let absolute = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let digest = |path: &Path| -> anyhow::Result<String> {
        let bytes = std::fs::read(path).map_err(|e| BadInput(format!("{}: {e}", path.display())))?;
        Ok(Sha256::digest(bytes)[..8].iter().map(|b| format!("{b:02x}")).collect())
    };
    let mut all = json!({
        "model": absolute(&args.inference.model),
        "dtype": config.model.dtype,
        "data": absolute(&args.data),
        "data_sha256": digest(&args.data)?,
        "seed": config.run.seed,
        "rollout": config.rollout,
        "sandbox": config.sandbox,
    });
    let tools = config.rollout.tools.iter().map(|path| digest(Path::new(path)));
    all["rollout"]["tools"] = tools.collect::<Result<Vec<_>, _>>()?.into();
    for key in ["concurrency", "tool_workers"] {
        all["rollout"].as_object_mut().expect("a table").shift_remove(key);
    }
    let Value::Object(mut all) = all else { unreachable!("made above") };
    // Flat, so that a difference is named by its key.
    for table in ["rollout", "sandbox"] {
        if let Some(Value::Object(keys)) = all.shift_remove(table) {
            all.extend(keys.into_iter().map(|(key, value)| (format!("{table}.{key}"), value)));
        }
    }
    Ok(all)
}

fn text(summary: &Summary, samples: usize) -> String {
    let percent = |x: f64| format!("{:.1} %", 100.0 * x);
    let mut rows =
        vec![[format!("avg@{samples}"), format!("{} ± {:.1}", percent(summary.avg), 100.0 * summary.stderr)]];
    rows.extend(summary.pass.iter().map(|p| [format!("pass@{}", p.k), percent(p.value)]));
    rows.extend([
        ["samples with an answer".into(), percent(summary.answered)],
        ["samples with code".into(), percent(summary.code_share)],
        ["code that ran without error".into(), percent(summary.code_pass)],
        ["calls a sample".into(), format!("{:.2}", summary.calls)],
        ["tokens a sample".into(), format!("{:.0}", summary.tokens)],
        ["cut off by a budget".into(), percent(summary.truncated)],
    ]);
    let head = format!("{} problems, {} samples", summary.problems, summary.samples);
    table([&head, ""], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_fits_80_columns() {
        let summary = Summary {
            problems: 30,
            samples: 960,
            avg: 1.0,
            stderr: 0.05,
            pass: vec![crate::eval::PassAt { k: 1, value: 0.5 }],
            ..Summary::default()
        };
        let text = text(&summary, 32);
        assert!(text.contains("avg@32") && text.contains("100.0 % ± 5.0"), "{text}");
        assert!(text.lines().all(|l| l.chars().count() <= 80), "{text}");
    }
}
