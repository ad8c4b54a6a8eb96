//! Putting a sandbox or a pool together: everything has a default, nothing is started before `build` or `pool`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::interpreter::Interpreter;
use crate::pool::Pool;
use crate::process::{Nursery, Worker};
use crate::sandbox::Place;
use crate::{Image, Limits, Packages, Recipe, Sandbox, SandboxError, Source};

/// Where an interpreter lives. The outcomes are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// A thread of this process: nothing to start, no second wall behind WebAssembly's.
    #[default]
    Thread,
    /// A process of its own, confined: whatever happens to it costs one call. On Linux it is forked from this process's
    /// executable, which is started again once for all workers of a pool; elsewhere it is started again for each. That `main`
    /// must begin with [`worker_main_if_asked`](crate::worker_main_if_asked); or name another by [`Builder::worker`].
    Process,
}

/// Jobs that may wait in a pool where [`Builder::queue`] does not say.
const QUEUE: usize = 4096;

/// What a [`Sandbox`] or a [`Pool`] is made of. From [`Sandbox::builder`].
///
/// ```no_run
/// use toolsmith_sandbox::{Isolation, Sandbox};
/// let mut python = Sandbox::builder().fuel(500_000_000).stateful(true).build()?;
/// python.run("x = 6");
/// assert_eq!(python.run("x * 7").value.as_deref(), Some("42"));
/// # Ok::<(), toolsmith_sandbox::SandboxError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is made before `build` or `pool`"]
pub struct Builder {
    image: Option<Image>,
    cache: Option<PathBuf>,
    recipe: Recipe,
    limits: Limits,
    stateful: bool,
    isolation: Isolation,
    worker: Option<PathBuf>,
    queue: usize,
}

impl Default for Builder {
    fn default() -> Self {
        Builder {
            image: None,
            cache: None,
            recipe: Recipe::default(),
            limits: Limits::default(),
            stateful: false,
            isolation: Isolation::default(),
            worker: None,
            queue: QUEUE,
        }
    }
}

impl Builder {
    /// A prepared image. Without one it is made, or found made, from [`packages`](Builder::packages),
    /// [`preimport`](Builder::preimport) and [`cache`](Builder::cache), which are of no effect with one.
    pub fn image(self, image: Image) -> Self {
        Builder { image: Some(image), ..self }
    }

    /// The packages to be had; [`Packages::Math`] where it is not said.
    pub fn packages(self, packages: Packages) -> Self {
        Builder { recipe: Recipe { packages, ..self.recipe }, ..self }
    }

    /// Modules that every program finds imported already; see [`Recipe::preimport`].
    pub fn preimport(self, modules: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let preimport = modules.into_iter().map(Into::into).collect();
        Builder { recipe: Recipe { preimport, ..self.recipe }, ..self }
    }

    /// The folder that images are kept in; [`Image::default_cache`] where it is not said.
    pub fn cache(self, folder: impl Into<PathBuf>) -> Self {
        Builder { cache: Some(folder.into()), ..self }
    }

    /// All limits of a call.
    pub fn limits(self, limits: Limits) -> Self {
        Builder { limits, ..self }
    }

    /// [`Limits::fuel`].
    pub fn fuel(self, steps: u64) -> Self {
        Builder { limits: Limits { fuel: steps, ..self.limits }, ..self }
    }

    /// [`Limits::memory_mb`].
    pub fn memory_mb(self, memory_mb: u32) -> Self {
        Builder { limits: Limits { memory_mb, ..self.limits }, ..self }
    }

    /// [`Limits::output_bytes`].
    pub fn output_bytes(self, output_bytes: usize) -> Self {
        Builder { limits: Limits { output_bytes, ..self.limits }, ..self }
    }

    /// [`Limits::wall_ms`].
    pub fn wall_ms(self, wall_ms: u64) -> Self {
        Builder { limits: Limits { wall_ms, ..self.limits }, ..self }
    }

    /// [`Limits::traceback`].
    pub fn traceback(self, whole: bool) -> Self {
        Builder { limits: Limits { traceback: whole, ..self.limits }, ..self }
    }

    /// Whether a [`Sandbox`]'s runs go on where the last one ended, as blocks of one [`Session`](crate::Session). A pool's
    /// jobs bring their sessions along, so it has no part in [`pool`](Builder::pool).
    pub fn stateful(self, stateful: bool) -> Self {
        Builder { stateful, ..self }
    }

    /// Where interpreters live; threads where it is not said.
    pub fn isolation(self, isolation: Isolation) -> Self {
        Builder { isolation, ..self }
    }

    /// The executable of worker processes, where it is not this one; implies [`Isolation::Process`].
    pub fn worker(self, exe: impl Into<PathBuf>) -> Self {
        Builder { worker: Some(exe.into()), isolation: Isolation::Process, ..self }
    }

    /// How many jobs may wait in a pool, those that run not counted; 4096 where it is not said.
    pub fn queue(self, jobs: usize) -> Self {
        Builder { queue: jobs, ..self }
    }

    /// A sandbox for one caller, its interpreter up. A few milliseconds in a thread whose image was loaded before, some 50
    /// in a process; the first use of an image prepares it (about a minute, with the network).
    ///
    /// # Errors
    /// [`SandboxError::Limits`] for limits under which nothing can run, what [`Image::prepare`] gives, and
    /// [`SandboxError::Worker`] where a process does not come up.
    pub fn build(self) -> Result<Sandbox, SandboxError> {
        self.maker()?()
    }

    /// A pool of `workers` (at least 1) interpreters, all of them up.
    ///
    /// # Errors
    /// As [`build`](Builder::build).
    pub fn pool(self, workers: usize) -> Result<Pool, SandboxError> {
        let queue = self.queue;
        Pool::start(workers, queue, Builder { stateful: false, ..self }.maker()?)
    }

    /// What makes sandboxes that share all they can: the image, and the process that theirs are forked from.
    pub(crate) fn maker(
        self,
    ) -> Result<impl Fn() -> Result<Sandbox, SandboxError> + Send + Sync, SandboxError> {
        let image = self.prepared()?;
        let nursery = match self.isolation {
            Isolation::Thread => None,
            Isolation::Process => {
                let exe = self.worker.clone().map_or_else(this_executable, Ok)?;
                Some(Arc::new(Nursery::new(exe, &image, &self.limits)?))
            }
        };
        Ok(move || {
            let place = match &nursery {
                None => Place::Thread(Box::new(Interpreter::new(&image, &self.limits)?)),
                Some(nursery) => Place::Process(Worker::start(nursery.clone())?),
            };
            Ok(Sandbox::new(place, self.stateful))
        })
    }

    fn prepared(&self) -> Result<Image, SandboxError> {
        match &self.image {
            Some(image) => Ok(image.clone()),
            None => {
                let cache = self.cache.clone().unwrap_or_else(Image::default_cache);
                Image::prepare(&cache, &self.recipe, &Source::default(), &mut |_| {})
            }
        }
    }
}

/// What is running, to be started again. On Linux by a name that stays true when the file is replaced, as a build does under a
/// long training run: a worker started later is then still of this program.
fn this_executable() -> Result<PathBuf, SandboxError> {
    match cfg!(target_os = "linux") {
        true => Ok("/proc/self/exe".into()),
        false => std::env::current_exe().map_err(SandboxError::io(Path::new("the path of this executable"))),
    }
}
