//! The crate from outside. The first test to need the image prepares it, by the crate's own code, in the default cache.

mod bounds;
mod closed;
mod confine;
mod corpus;
mod full;
mod hostile;
mod image;
mod leftovers;
mod mixed;
mod pool;
mod programs;
mod sessions;
mod tools;

use std::path::Path;
use std::sync::OnceLock;

use toolsmith_sandbox::{Builder, Image, Limits, Outcome, Recipe, Sandbox, Source};

/// The prepared image, made once.
fn image() -> &'static Image {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    IMAGE.get_or_init(|| {
        Image::prepare(&Image::default_cache(), &Recipe::default(), &Source::default(), &mut |_| {})
            .unwrap_or_else(|e| panic!("{e}"))
    })
}

/// The executable of the worker processes: this one's `main` is the test harness's.
fn worker() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_toolsmith-sandbox-worker"))
}

/// Of the image above, in threads.
fn builder(limits: &Limits) -> Builder {
    Sandbox::builder().image(image().clone()).limits(limits.clone())
}

fn sandbox(limits: &Limits) -> Sandbox {
    builder(limits).build().unwrap()
}

/// One program in an interpreter of its own, under the default limits.
fn run(source: &str) -> Outcome {
    sandbox(&Limits::default()).run(source)
}

/// The kind of the error a program ended with.
fn kind(outcome: &Outcome) -> &str {
    outcome.error.as_ref().map_or("none", |e| e.kind.as_str())
}

/// An outcome without what depends on the machine's load.
fn timeless(mut outcome: Outcome) -> Outcome {
    outcome.wall = 0.0;
    outcome
}
