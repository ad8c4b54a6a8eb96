//! `toolsmith check`: compares with references and prints the largest relative error of each quantity.

use std::path::PathBuf;
use std::process::ExitCode;

use super::table::table;
use crate::check::{Report, model, rl};

/// Compare this machine's numbers with references.
///
/// DIR holds a model (`config.json`, `model.safetensors`) and its references (`golden.json`,
/// `golden.safetensors`): logits, loss, every gradient and one AdamW step, computed in f32.
/// FILE.json holds reinforcement-learning quantities: advantages, losses and their gradients.
/// The exit status is 1 if any relative error is above the tolerance.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Model directory with references, or JSON file of reinforcement-learning quantities.
    #[arg(value_name = "DIR|FILE.json")]
    path: PathBuf,
    /// Largest relative error allowed [default: 1e-4 for a model, 1e-6 for a file].
    #[arg(long)]
    tolerance: Option<f64>,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// Compares and prints; exit status 1 above the tolerance.
///
/// # Errors
/// If the references or the model cannot be read.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let (report, tolerance) =
        if args.path.is_dir() { (model::check(&args.path)?, 1e-4) } else { (rl::check(&args.path)?, 1e-6) };
    let tolerance = args.tolerance.unwrap_or(tolerance);
    let ok = report.worst() <= tolerance;
    if args.json {
        let json = serde_json::json!({
            "path": args.path, "tolerance": tolerance, "worst": report.worst(), "ok": ok, "rows": report.rows,
        });
        println!("{json:#}");
    } else {
        print!("{}", text(&report, tolerance));
    }
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn text(report: &Report, tolerance: f64) -> String {
    let rows: Vec<_> = report
        .rows
        .iter()
        .map(|r| {
            let mark = if r.error <= tolerance { "ok" } else { "ABOVE" };
            [r.quantity.clone(), r.count.to_string(), format!("{:.1e}", r.error), mark.into()]
        })
        .collect();
    let above = report.rows.iter().filter(|r| r.error > tolerance).count();
    let verdict = match above {
        0 => format!("all within {tolerance:.0e}"),
        n => format!("{n} of {} above {tolerance:.0e}", report.rows.len()),
    };
    format!("{}\n{verdict}\n", table(["quantity", "numbers", "relative error", ""], &rows))
}
