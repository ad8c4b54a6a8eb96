//! Several interpreters fed from one queue.
//!
//! A job goes to whichever worker is free; its outcome does not depend on which. Neither submitting nor taking an outcome
//! waits. Absent: priorities, a bounded queue, cancelling one job.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, unbounded};
use serde::{Deserialize, Serialize};

use crate::process::Child;
use crate::watchdog::Watch;
use crate::{Image, Limits, Outcome, Sandbox, SandboxError};

/// Where a worker's interpreter lives. The outcomes are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// A thread of this process: nothing to start, no second wall behind WebAssembly's.
    Thread,
    /// A process with resource limits: whatever happens to it costs one call. It is this process's executable, started again,
    /// whose `main` must begin with [`worker_main_if_asked`](crate::worker_main_if_asked).
    #[default]
    Process,
}

/// A pool of workers. Dropping it ends running calls and forgets those that wait.
pub struct Pool {
    jobs: Option<Sender<(u64, String)>>,
    completions: Receiver<(u64, Outcome)>,
    workers: Vec<JoinHandle<()>>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    closing: AtomicBool,
    /// The threads' interpreters, whose calls a closing pool ends.
    watches: Mutex<Vec<Arc<Watch>>>,
}

impl Pool {
    /// Starts `workers` (at least 1) interpreters and waits until they are up.
    ///
    /// # Errors
    /// The first worker's that did not come up.
    pub fn new(
        image: &Image,
        limits: &Limits,
        workers: usize,
        isolation: Isolation,
    ) -> Result<Pool, SandboxError> {
        let exe = match isolation {
            Isolation::Thread => None,
            Isolation::Process => Some(
                std::env::current_exe()
                    .map_err(SandboxError::io(Path::new("the path of this executable")))?,
            ),
        };
        Pool::start(image, limits, workers, exe)
    }

    /// [`Pool::new`] with processes of another executable than this one.
    pub fn with_worker(
        image: &Image,
        limits: &Limits,
        workers: usize,
        exe: &Path,
    ) -> Result<Pool, SandboxError> {
        Pool::start(image, limits, workers, Some(exe.to_path_buf()))
    }

    fn start(
        image: &Image,
        limits: &Limits,
        workers: usize,
        exe: Option<PathBuf>,
    ) -> Result<Pool, SandboxError> {
        limits.check(image.registers().pages)?;
        let (jobs, take) = unbounded();
        let (give, completions) = unbounded();
        let (up, started) = unbounded();
        let shared = Arc::new(Shared::default());
        let worker = |n: usize| {
            let (image, limits, exe) = (image.clone(), limits.clone(), exe.clone());
            let (take, give, up, shared) = (take.clone(), give.clone(), up.clone(), shared.clone());
            let run = move || {
                let runner = match exe {
                    Some(exe) => process_runner(image, limits, exe, shared.clone()),
                    None => thread_runner(image, limits, &shared),
                };
                match runner {
                    Err(e) => drop(up.send(Err(e))),
                    Ok(mut runner) => {
                        let _ = up.send(Ok(()));
                        drop(up);
                        for (id, source) in take as Receiver<(u64, String)> {
                            if shared.closing.load(SeqCst) {
                                break;
                            }
                            if give.send((id, runner(&source))).is_err() {
                                break;
                            }
                        }
                    }
                }
            };
            let thread = std::thread::Builder::new().name(format!("sandbox {n}"));
            thread.spawn(run).map_err(SandboxError::io(Path::new("a sandbox thread")))
        };
        let mut pool = Pool { jobs: Some(jobs), completions, workers: Vec::new(), shared: shared.clone() };
        for n in 0..workers.max(1) {
            pool.workers.push(worker(n)?);
        }
        drop(up);
        for _ in 0..pool.workers.len() {
            started.recv().expect("every worker reports once")?;
        }
        Ok(pool)
    }

    /// Queues a program; its outcome comes with `id`. Never waits.
    pub fn submit(&self, id: u64, source: String) {
        let jobs = self.jobs.as_ref().expect("there until the drop");
        // The workers hold the other end as long as the pool lives, so this cannot fail.
        let _ = jobs.send((id, source));
    }

    /// Where outcomes arrive, in the order in which calls end.
    pub fn completions(&self) -> &Receiver<(u64, Outcome)> {
        &self.completions
    }

    /// How many programs run at a time.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.closing.store(true, SeqCst);
        self.jobs = None;
        // A call may begin between the flag and this, so watches are asked until their threads are gone.
        while self.workers.iter().any(|w| !w.is_finished()) {
            for watch in self.shared.watches.lock().expect("nothing panics with it held").iter() {
                watch.cancel();
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

type Runner = Box<dyn FnMut(&str) -> Outcome>;

fn thread_runner(image: Image, limits: Limits, shared: &Shared) -> Result<Runner, SandboxError> {
    let mut sandbox = Sandbox::new(&image, &limits)?;
    let watches = || shared.watches.lock().expect("nothing panics with it held");
    watches().push(sandbox.watch());
    Ok(Box::new(move |source| {
        let run = catch_unwind(AssertUnwindSafe(|| sandbox.run(source)));
        run.unwrap_or_else(|_| {
            // A bug of the host, not of the program; the next call gets an interpreter that it has not touched.
            sandbox.discard();
            Outcome::crashed("the sandbox panicked")
        })
    }))
}

fn process_runner(
    image: Image,
    limits: Limits,
    exe: PathBuf,
    shared: Arc<Shared>,
) -> Result<Runner, SandboxError> {
    let mut child = Some(Child::start(&exe, &image, &limits)?);
    Ok(Box::new(move |source| {
        if child.is_none() {
            match Child::start(&exe, &image, &limits) {
                Ok(new) => child = Some(new),
                Err(e) => return Outcome::lost(e.to_string()),
            }
        }
        let running = child.as_mut().expect("started above");
        match running.run(source, || shared.closing.load(SeqCst)) {
            Ok(outcome) => outcome,
            Err(outcome) => {
                child = None;
                *outcome
            }
        }
    }))
}
