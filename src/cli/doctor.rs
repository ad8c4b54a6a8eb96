//! `toolsmith doctor`: what this machine offers, what is missing, and what to do about it.

use std::path::Path;
use std::process::{Command, ExitCode};

use toolsmith_graphs::cpu::Isa;
use toolsmith_models::fetch::smollm2_path;
use toolsmith_sandbox::{Image, Recipe};

/// Say what this machine offers and what is missing.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Prints.
///
/// # Errors
/// None.
pub fn run(_: Args) -> anyhow::Result<ExitCode> {
    let cache = Image::default_cache();
    let image = Image::status(&cache, &Recipe::default());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let rows = [
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("kernels", kernels()),
        ("threads", threads.to_string()),
        ("memory", memory()),
        ("cache", format!("{} (TOOLSMITH_CACHE names another)", cache.display())),
        (
            "Python image",
            if image.ready { format!("ready in {}", image.folder.display()) } else { "not ready".into() },
        ),
        ("pip", pip()),
        ("SmolLM2", model(&smollm2_path(&cache))),
    ];
    for (name, value) in rows {
        println!("{name:14}{value}");
    }
    if !image.ready {
        println!(
            "\n{}\n`toolsmith sandbox prepare` makes it; so does whatever needs it first.",
            image.missing
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// The instruction set in use, and those the machine has.
fn kernels() -> String {
    let name = |isa: Isa| match isa {
        Isa::Scalar => "scalar",
        Isa::Avx2 => "avx2",
        Isa::Avx512Bf16 => "avx512bf16",
    };
    let all = [Isa::Avx512Bf16, Isa::Avx2, Isa::Scalar];
    let others: Vec<_> =
        all.into_iter().filter(|&i| i.available() && i != Isa::current()).map(name).collect();
    match others.as_slice() {
        [] => name(Isa::current()).to_owned(),
        others => format!("{} (TOOLSMITH_ISA forces {})", name(Isa::current()), others.join(" or ")),
    }
}

fn memory() -> String {
    let total = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find(|l| l.starts_with("MemTotal:"))?;
        line.split_whitespace().nth(1)?.parse::<f64>().ok()
    });
    total.map_or("unknown".into(), |kib| format!("{:.1} GiB", kib / f64::from(1 << 20)))
}

/// pip is asked only when something has to be fetched.
fn pip() -> String {
    match Command::new("python3").args(["-m", "pip", "--version"]).output() {
        Ok(out) if out.status.success() => {
            let text = String::from_utf8_lossy(&out.stdout).into_owned();
            text.split(" from ").next().unwrap_or_default().trim().to_owned()
        }
        _ => "no python3 with pip (needed once, to fetch the Python image)".into(),
    }
}

fn model(path: &Path) -> String {
    if path.exists() {
        path.display().to_string()
    } else {
        "absent; `toolsmith fetch smollm2` gets it".into()
    }
}
