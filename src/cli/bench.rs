//! `toolsmith bench`: how fast a model is on this machine, and how far from its walls.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use toolsmith_models::convert::ModelSource;
use toolsmith_sandbox::Image;

use super::BadInput;
use super::table::table;
use crate::bench::compare::{Change, TOLERANCE, compare};
use crate::bench::{self, Options, Phase, Rate, Report};
use crate::config::{Dtype, RunConfig};

/// Measure a model on this machine: prefill, decoding, a training step.
///
/// Reading memory and multiplying are measured too, and each phase is given as a share of what they allow. Each phase
/// runs once alone, which gives its peak memory, then all run in turn, --repeat times. Rates are means with their standard
/// deviation. Bytes are those of every operand of every kernel, once, as if no cache held any; operations those of every
/// kernel. `toolsmith graph` lists both.
///
/// `--json > FILE` keeps a report; `--against FILE` measures again and ends with exit status 1 if a phase has become more
/// than 10 % slower. Medians are compared, on the same kind of machine only.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Hugging Face directory or .gguf file.
    #[arg(long, value_name = "MODEL")]
    model: PathBuf,
    /// Tokens of the prompt, which decoding follows [default: 512, less where the model has fewer positions].
    #[arg(long, value_name = "TOKENS")]
    prompt: Option<usize>,
    /// Tokens each sequence decodes; 0 leaves decoding out [default: 128, or what the model's positions leave].
    #[arg(long, value_name = "TOKENS")]
    decode: Option<usize>,
    /// Sequences that decode together, a row each.
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1,16,32")]
    batch: Vec<usize>,
    /// Sequences and tokens of the training step, or `none` [default: 4x512, shorter where the model is]. 8x640/512 are 8
    /// samples of 128 tokens after the same prompt of 512.
    #[arg(long, value_name = "NxTOKENS[/PROMPT]")]
    train: Option<String>,
    /// What weights, moments, gradients and activations of the training step may take, as `run.memory_limit` of a
    /// run [default: half of the machine's memory].
    #[arg(long, value_name = "SIZE")]
    memory_limit: Option<String>,
    /// Precision of weights and matmul inputs.
    #[arg(long, value_enum, default_value_t)]
    dtype: Dtype,
    /// Threads for kernels; 0 means all cores.
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// Rounds.
    #[arg(long, value_name = "N", default_value_t = 5)]
    repeat: usize,
    /// Print JSON instead of tables.
    #[arg(long)]
    json: bool,
    /// Compare with a report that `--json` printed earlier.
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
}

/// Measures and prints; exit status 1 if that is slower than [`Args::against`].
///
/// # Errors
/// A model that cannot be read, numbers it cannot take.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    rayon::ThreadPoolBuilder::new().num_threads(args.threads).build_global()?;
    let model = ModelSource::open(&args.model, &Image::default_cache())?;
    let options = args.options(model.config.max_position_embeddings)?;
    let before = args.against.as_deref().map(|path| Ok::<_, BadInput>((path, read(path)?))).transpose()?;
    let bar = if std::io::stderr().is_terminal() { ProgressBar::new(1000) } else { ProgressBar::hidden() };
    bar.set_style(ProgressStyle::with_template("{spinner} {msg:42} {bar:24} {elapsed}")?);
    bar.enable_steady_tick(Duration::from_millis(200));
    let show = |fraction: f64, what: &str| {
        bar.set_position((fraction * 1000.0) as u64);
        bar.set_message(what.to_owned());
    };
    // The kernels' pool, whose threads the plans are compiled for.
    let report = rayon::scope(|_| bench::run(&model, &options, show))?;
    bar.finish_and_clear();
    let changes = before.map(|(path, before)| {
        compare(&before, &report).map_err(|e| BadInput(format!("--against {}: {e}", path.display())))
    });
    let changes = changes.transpose()?.unwrap_or_default();
    if args.json {
        let mut json = serde_json::to_value(&report)?;
        json["model"] = args.model.display().to_string().into();
        if args.against.is_some() {
            json["against"] = serde_json::to_value(&changes)?;
        }
        println!("{json:#}");
    } else {
        print!("{}", text(&args.model.display().to_string(), &report));
        if args.against.is_some() {
            print!("\n{}", compared(&changes));
        }
    }
    Ok(if changes.iter().any(Change::slower) { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

/// A report that `--json` printed.
fn read(path: &Path) -> Result<Report, BadInput> {
    let bad = |e: &dyn std::fmt::Display| BadInput(format!("--against {}: {e}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|e| bad(&e))?;
    serde_json::from_str(&text).map_err(|e| bad(&format!("{e}; `toolsmith bench --json` writes such a file")))
}

/// `4x512` or `8x640/512`.
fn training(text: &str) -> Option<Phase> {
    let (n, tokens) = text.split_once(['x', '×'])?;
    let (tokens, prompt) = tokens.split_once('/').unwrap_or((tokens, "0"));
    let [sequences, tokens, prompt] = [n, tokens, prompt].map(|number| number.parse().ok());
    Some(Phase::Train { sequences: sequences?, tokens: tokens?, prompt: prompt? })
}

impl Args {
    /// The phases asked for, on a model of `positions` positions.
    fn options(&self, positions: usize) -> Result<Options, BadInput> {
        let bad = |message: String| Err(BadInput(message));
        let prompt = self.prompt.unwrap_or(512.min((positions / 2).max(1)));
        let decode = self.decode.unwrap_or(128.min(positions.saturating_sub(prompt)));
        let train = match self.train.as_deref() {
            None => Some(Phase::Train { sequences: 4, tokens: 512.min(positions), prompt: 0 }),
            Some("none") => None,
            Some(text) => match training(text) {
                Some(phase) => Some(phase),
                None => {
                    return bad(format!(
                        "--train {text}: expected sequences x tokens such as 4x512 or 8x640/512, or none"
                    ));
                }
            },
        };
        if self.repeat == 0 {
            return bad("--repeat 0 measures nothing; it must be at least 1".into());
        }
        if self.batch.contains(&0) {
            return bad("--batch: a batch of 0 sequences decodes nothing; leave it out".into());
        }
        let mut phases = vec![Phase::Prefill { sequences: 1, tokens: prompt }];
        if decode > 0 {
            let decode = |&sequences: &usize| Phase::Decode { sequences, past: prompt, tokens: decode };
            phases.extend(self.batch.iter().map(decode));
        }
        phases.extend(train);
        for &phase in &phases {
            fits(phase, positions)?;
        }
        let run =
            RunConfig { memory_limit: self.memory_limit.clone().unwrap_or_default(), ..RunConfig::default() };
        let memory_limit = match (run.memory(), &self.memory_limit) {
            (Some(bytes), _) => bytes,
            (None, None) => usize::MAX,
            (None, Some(text)) => {
                return bad(format!("--memory-limit {text}: expected an amount such as 8GB or 512MiB"));
            }
        };
        Ok(Options { phases, repeat: self.repeat, dtype: self.dtype, memory_limit })
    }
}

/// Refuses a phase that a model of `positions` positions cannot run.
pub(super) fn fits(phase: Phase, positions: usize) -> Result<(), BadInput> {
    let (name, context) = (bench::name(phase), phase.context());
    if matches!(phase, Phase::Train { tokens: 0 | 1, .. }) {
        return Err(BadInput(format!("{name}: a sequence to train on needs at least 2 tokens")));
    }
    if matches!(phase, Phase::Train { tokens, prompt, .. } if prompt >= tokens) {
        return Err(BadInput(format!("{name}: nothing follows the prompt; it is a part of the tokens")));
    }
    if phase.tokens() == 0 || context == 0 {
        return Err(BadInput(format!("{name}: every number must be at least 1")));
    }
    if context > positions {
        let message = format!("{name}: takes {context} positions, the model has {positions}");
        return Err(BadInput(message));
    }
    Ok(())
}

fn text(model: &str, report: &Report) -> String {
    let machine = &report.machine;
    let load = |loads: &[f64]| loads.first().map_or("unknown".into(), |l| format!("{l:.1}"));
    let mut out = format!(
        "{model}: {:.1} M parameters, {}\n{}, {} threads, {} kernels\nload {} before, {} after; version {}\n\n",
        report.parameters as f64 / 1e6,
        report.dtype.name(),
        machine.cpu,
        machine.threads,
        machine.kernels,
        load(&machine.load_average),
        load(&report.load_average_after),
        machine.version,
    );
    let limits = &report.limits;
    let wall = |name: &str, rate: &Rate, unit: &str| {
        let giga = |x: f64| format!("{:.1}", x / 1e9);
        [name.to_owned(), giga(rate.mean), giga(rate.sd), unit.to_owned()]
    };
    let mut walls = vec![
        wall("memory read", &limits.dram_read, "GB/s"),
        wall("f32 multiply-add", &limits.f32_fma, "GFLOP/s"),
    ];
    walls.extend(limits.bf16_dot.iter().map(|r| wall("bf16 dot products", r, "GFLOP/s")));
    out += &table(["limit", "mean", "± sd", ""], &walls);
    out.push('\n');
    let percent = |share: f64| format!("{:.0} %", 100.0 * share);
    let rows: Vec<_> = report
        .phases
        .iter()
        .map(|p| {
            [
                bench::name(p.phase),
                format!("{:.1}", p.tokens_per_second.mean),
                format!("{:.1}", p.tokens_per_second.sd),
                percent(p.bandwidth_share),
                percent(p.peak_share),
                p.peak_memory.map_or("-".into(), |b| format!("{:.2} GB", b as f64 / 1e9)),
            ]
        })
        .collect();
    out += &table(["phase", "tok/s", "± sd", "of memory", "of peak", "peak memory"], &rows);
    out
}

fn compared(changes: &[Change]) -> String {
    let row = |c: &Change| {
        let (scale, digits) = if c.phase { (1.0, 1) } else { (1e9, 1) };
        let verdict = if c.slower() { "slower" } else { "" };
        [
            c.what.clone(),
            format!("{:.digits$}", c.before / scale),
            format!("{:.digits$}", c.now / scale),
            format!("{:+.1} %", 100.0 * (c.ratio() - 1.0)),
            verdict.to_owned(),
        ]
    };
    let rows: Vec<_> = changes.iter().map(row).collect();
    let slower = changes.iter().filter(|c| c.slower()).count();
    let allowed = 100.0 * TOLERANCE;
    format!(
        "{}{slower} of {} phases lost more than {allowed:.0} %\n",
        table(["median", "before", "now", "change", ""], &rows),
        changes.iter().filter(|c| c.phase).count(),
    )
}
