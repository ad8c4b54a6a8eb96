//! `toolsmith doctor`: what this machine offers, what is missing, and what to do about it.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use toolsmith_graphs::cpu::Isa;
use toolsmith_models::fetch::smollm2_path;
use toolsmith_sandbox::{Image, Packages, Recipe};

use super::sandbox::Python;
use crate::learn::memory::machine;

/// Say what this machine offers and what is missing.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    python: Python,
}

/// Prints.
///
/// # Errors
/// If the configuration cannot be used.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let cache = Image::default_cache();
    let recipe = Recipe::from(&args.python.load()?);
    let image = Image::status(&cache, &recipe);
    let state = if image.ready { format!("ready in {}", image.folder.display()) } else { "not ready".into() };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let rows = [
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("kernels", kernels()),
        ("threads", threads.to_string()),
        ("memory", memory()),
        ("cache", format!("{} (TOOLSMITH_CACHE names another)", cache.display())),
        ("disk", disk(&cache, &recipe)),
        ("Python image", format!("{}, {state}", recipe.packages)),
        ("pip", pip()),
        ("seccomp", seccomp().into()),
        ("SmolLM2", model(&smollm2_path(&cache))),
    ];
    for (name, value) in rows {
        println!("{name:14}{value}");
    }
    if !image.ready {
        println!("\n{}\n`{}` makes it; so does whatever needs it first.", image.missing, prepare(&recipe));
    }
    Ok(ExitCode::SUCCESS)
}

/// The instruction set in use, and those the machine has.
fn kernels() -> String {
    let others = Isa::ALL.into_iter().filter(|&i| i.available() && i != Isa::current());
    match others.map(Isa::name).collect::<Vec<_>>().as_slice() {
        [] => Isa::current().name().to_owned(),
        others => format!("{} (TOOLSMITH_ISA forces {})", Isa::current().name(), others.join(" or ")),
    }
}

fn memory() -> String {
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    machine().map_or("unknown".into(), |bytes| {
        format!(
            "{:.1} GiB; training takes at most {:.1} unless run.memory_limit is set",
            gib(bytes),
            gib(bytes / 2)
        )
    })
}

/// The command that prepares an image.
fn prepare(recipe: &Recipe) -> String {
    let image = match recipe.packages {
        Packages::Math => "",
        Packages::Full => " --image full",
    };
    let modules = match recipe.preimport.as_slice() {
        [] => String::new(),
        modules => format!(" --preimport {}", modules.join(",")),
    };
    format!("toolsmith sandbox prepare{image}{modules}")
}

/// Free space where the cache is, or would be.
fn disk(cache: &Path, recipe: &Recipe) -> String {
    let folder = cache.ancestors().find(|folder| folder.is_dir()).map_or(PathBuf::from("/"), Path::to_owned);
    // The wheel, the image, and the image again while it is made.
    let needed: u64 = match recipe.packages {
        Packages::Math => 600 << 20,
        Packages::Full => 1100 << 20,
    };
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    match rustix::fs::statvfs(&folder).map(|s| s.f_bavail * s.f_frsize) {
        Ok(free) if free < needed => {
            format!("{:.1} GiB free in the cache, of {:.1} that preparing takes", gib(free), gib(needed))
        }
        Ok(free) => format!("{:.1} GiB free in the cache", gib(free)),
        Err(e) => format!("unknown ({e})"),
    }
}

/// Whether worker processes get a filter of system calls around them.
fn seccomp() -> &'static str {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let known = read("/proc/self/status").lines().any(|line| line.starts_with("Seccomp:"));
    let kills =
        read("/proc/sys/kernel/seccomp/actions_avail").split_whitespace().any(|a| a == "kill_process");
    match known && kills {
        true => "available; it confines worker processes",
        false => "not available (worker processes have resource limits alone)",
    }
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
