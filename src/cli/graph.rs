//! `toolsmith graph`: the compiled plan of a phase, and what each of its steps takes.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use toolsmith_graphs::{Plan, ops::Work};
use toolsmith_models::convert::ModelSource;
use toolsmith_models::weights::Precision;
use toolsmith_sandbox::Image;

use super::BadInput;
use super::bench::fits;
use super::table::{WIDTH, table};
use crate::bench::listing::{Group, Row, fold, rows};
use crate::bench::svg::{self, Section};
use crate::bench::{Inference, Phase, Training, name};
use crate::config::{Dtype, RunConfig};

/// Print a model's compiled plan with what each step moves, computes and takes.
///
/// The plan runs once to warm up and once to be timed, on made-up tokens. What repeats from layer to layer is one group,
/// summed, that shows the first of them (--all shows every step). MB are those of every operand, once, as if no cache held
/// it; dtype is bf16 where the weights are, or the inputs of products.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Hugging Face directory or .gguf file.
    #[arg(long, value_name = "MODEL")]
    model: PathBuf,
    /// What to compile.
    #[arg(long, value_enum)]
    phase: Kind,
    /// Sequences in the batch [default: 1; 4 to train].
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Tokens of each sequence; of those before it, to decode [default: 512, less where the model has fewer positions].
    #[arg(long, value_name = "TOKENS")]
    prompt: Option<usize>,
    /// Draw it, too.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Every step on a line of its own.
    #[arg(long)]
    all: bool,
    /// Precision of weights and matmul inputs.
    #[arg(long, value_enum, default_value_t)]
    dtype: Dtype,
    /// Threads for kernels; 0 means all cores.
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
}

/// A phase of a model's life.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Kind {
    /// A prompt.
    Prefill,
    /// A token of each sequence after its prompt.
    Decode,
    /// Forward, backward and the optimizer.
    Train,
}

/// Compiles, runs and prints.
///
/// # Errors
/// A model that cannot be read, numbers it cannot take, a file that cannot be written.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    rayon::ThreadPoolBuilder::new().num_threads(args.threads).build_global()?;
    let model = ModelSource::open(&args.model, &Image::default_cache())?;
    let phase = args.phase(model.config.max_position_embeddings)?;
    // Inside the pool, whose threads the plans are compiled for.
    let plans = rayon::scope(|_| recorded(&model, phase, args.dtype.into()))?;

    let model = args.model.display().to_string();
    let total: Duration = plans.iter().flat_map(|(_, rows)| rows).map(|r| r.time).sum();
    println!("{model}: {}, {:.1} ms on {} threads", name(phase), ms(total), rayon::current_num_threads());
    for (title, rows) in &plans {
        let groups = if args.all { whole(rows) } else { fold(rows.clone()) };
        print!("\n{}", text(title, rows.len(), &groups, total));
    }
    if let Some(path) = &args.svg {
        let section = |(title, rows): (&str, Vec<Row>)| Section { title: title.into(), groups: fold(rows) };
        let sections: Vec<Section> = plans.into_iter().map(section).collect();
        let facts = format!(
            "{:.1} ms on {} threads; bars and percentages are shares of time",
            ms(total),
            rayon::current_num_threads()
        );
        let picture = svg::draw(&format!("{model}: {}", name(phase)), &facts, &sections);
        std::fs::write(path, picture).map_err(|e| BadInput(format!("{}: {e}", path.display())))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The phase's plans, each with its steps.
fn recorded(
    model: &ModelSource,
    phase: Phase,
    precision: Precision,
) -> toolsmith_models::Result<Vec<(&'static str, Vec<Row>)>> {
    Ok(match phase {
        Phase::Train { sequences, tokens, prompt } => {
            let limit = RunConfig::default().memory().unwrap_or(usize::MAX);
            let mut training = Training::new(model, [sequences, tokens, prompt], precision, limit)?;
            let plans = training.record()?.map(rows);
            ["forward and backward", "optimizer"].into_iter().zip(plans).collect()
        }
        phase => {
            let mut inference = Inference::new(model, &[phase], precision)?;
            let plan: &Plan = inference.record(phase)?;
            vec![("one batch", rows(plan))]
        }
    })
}

impl Args {
    fn phase(&self, positions: usize) -> Result<Phase, BadInput> {
        let tokens = |most: usize| self.prompt.unwrap_or(512.min(most.max(1)));
        let phase = match self.phase {
            Kind::Prefill => Phase::Prefill { sequences: self.batch.unwrap_or(1), tokens: tokens(positions) },
            Kind::Decode => Phase::Decode {
                sequences: self.batch.unwrap_or(1),
                past: tokens(positions.saturating_sub(1)),
                tokens: 1,
            },
            Kind::Train => {
                let (sequences, tokens) = (self.batch.unwrap_or(4), tokens(positions));
                Phase::Train { sequences, tokens, prompt: 0 }
            }
        };
        fits(phase, positions).map(|()| phase)
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn whole(rows: &[Row]) -> Vec<Group> {
    vec![Group { repeat: 1, rows: rows.to_vec() }]
}

fn text(title: &str, steps: usize, groups: &[Group], total: Duration) -> String {
    let mut lines = Vec::new();
    // Kernel and parameter of each line; a parameter is cut where the two don't fit.
    let mut names = Vec::new();
    for group in groups {
        let repeated = group.repeat > 1;
        if repeated {
            names.push((format!("{} ×", group.repeat), String::new()));
            lines.push(numbers("", "", group.work(), group.time(), total));
        }
        for row in &group.rows {
            let indent = if repeated { "  " } else { "" };
            let param = row.param.rsplit('.').next().unwrap_or_default();
            names.push((format!("{indent}{}", row.kernel), param.replace("_proj", "")));
            let dtype = if row.bf16 { "bf16" } else { "f32" };
            lines.push(numbers(&row.shape, dtype, row.work, row.time, total));
        }
    }
    let time: Duration = groups.iter().map(Group::time).sum();
    let work: Work = groups.iter().map(Group::work).sum();
    names.push(("total".into(), String::new()));
    lines.push(numbers("", "", work, time, total));

    let widest = |column: usize| lines.iter().map(|l| l[column].chars().count()).max().unwrap_or_default();
    let room = WIDTH - (0..6).map(|c| 2 + widest(c).max(HEAD[c + 1].len())).sum::<usize>();
    let lines: Vec<_> = names
        .iter()
        .zip(lines)
        .map(|((kernel, param), [shape, dtype, mb, gflop, ms, share])| {
            let left = room.saturating_sub(kernel.chars().count() + 1);
            let param = match param.chars().count() {
                n if n <= left => param.clone(),
                _ if left < 3 => String::new(),
                _ => format!("{}…", param.chars().take(left - 1).collect::<String>()),
            };
            let name = format!("{kernel} {param}");
            [name.trim_end().to_owned(), shape, dtype, mb, gflop, ms, share]
        })
        .collect();
    let seconds = time.as_secs_f64().max(1e-12);
    format!(
        "{title}: {steps} steps, {:.1} GB/s, {:.1} GFLOP/s\n{}",
        work.bytes() as f64 / 1e9 / seconds,
        work.flops() as f64 / 1e9 / seconds,
        table(HEAD, &lines)
    )
}

const HEAD: [&str; 7] = ["step", "shape", "dtype", "MB", "GFLOP", "ms", "%"];

fn numbers(shape: &str, dtype: &str, work: Work, time: Duration, total: Duration) -> [String; 6] {
    [
        shape.to_owned(),
        dtype.to_owned(),
        short(work.bytes() as f64 / 1e6),
        short(work.flops() as f64 / 1e9),
        short(ms(time)),
        format!("{:.1}", 100.0 * time.as_secs_f64() / total.as_secs_f64().max(1e-12)),
    ]
}

/// Two decimals, fewer where the number is large.
fn short(x: f64) -> String {
    let decimals = if x < 99.995 { 2 } else { usize::from(x < 999.95) };
    format!("{x:.decimals$}")
}
