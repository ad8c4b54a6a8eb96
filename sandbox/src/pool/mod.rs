//! Several interpreters fed from one queue.
//!
//! A job goes to whichever worker is free; its outcome does not depend on which. Neither submitting nor taking a completion
//! waits. Every job that was taken is completed exactly once, whatever becomes of workers, unless the pool is dropped.
//! Absent: priorities.

mod queue;
mod work;

use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::{Outcome, Sandbox, SandboxError, Session};
use queue::Queue;

/// A program for a pool.
#[derive(Clone, Debug, Default)]
pub struct Job {
    /// What its completion and [`Pool::cancel`] know it by. The pool does not mind two with the same.
    pub id: u64,
    /// The program.
    pub source: String,
    /// The session whose next block it is; it comes back with the completion. A fresh interpreter where there is none.
    pub session: Option<Session>,
    /// Run it once more where its worker process dies in the middle ([`Limit::Lost`](crate::Limit::Lost)).
    pub retry: bool,
}

impl Job {
    /// A program in a fresh interpreter, reported and not run again if its worker dies.
    pub fn new(id: u64, source: impl Into<String>) -> Job {
        Job { id, source: source.into(), ..Job::default() }
    }
}

/// A job's end.
#[derive(Clone, Debug)]
pub struct Completion {
    /// The job's.
    pub id: u64,
    pub outcome: Outcome,
    /// The job's session, where it brought one: advanced by the block, or as it was where the block was cut off.
    pub session: Option<Session>,
}

/// A job that was not taken, handed back.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// As many jobs wait as may ([`Builder::queue`](crate::Builder::queue)); some will not once completions arrive.
    #[error("the sandbox's queue is full")]
    Full(Job),
    /// The pool was closed.
    #[error("the sandbox's pool is closed")]
    Closed(Job),
}

impl Refused {
    /// The job.
    pub fn into_job(self) -> Job {
        let (Refused::Full(job) | Refused::Closed(job)) = self;
        job
    }
}

/// A pool of workers, from [`Builder::pool`](crate::Builder::pool). Dropping it ends running calls at once and forgets those
/// that wait; [`Pool::shutdown`] is the graceful end.
pub struct Pool {
    shared: Arc<Shared>,
    completions: Receiver<Completion>,
    workers: Vec<JoinHandle<()>>,
}

/// What the pool and its workers share.
struct Shared {
    queue: Mutex<Queue>,
    /// There is a job, or there will be none.
    work: Condvar,
    /// The pool is closed.
    closed: Condvar,
    completions: Sender<Completion>,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("nothing panics with it held")
    }

    fn complete(&self, completion: Completion) {
        // Nobody may be left to care.
        let _ = self.completions.send(completion);
    }
}

impl Pool {
    /// Starts `workers` (at least 1) threads, each with a sandbox that `make` gives, and waits until they are up.
    pub(crate) fn start(
        workers: usize,
        bound: usize,
        make: impl Fn() -> Result<Sandbox, SandboxError> + Send + Sync + 'static,
    ) -> Result<Pool, SandboxError> {
        let workers = workers.max(1);
        let (give, completions) = unbounded();
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue::new(workers, bound)),
            work: Condvar::new(),
            closed: Condvar::new(),
            completions: give,
        });
        let mut pool = Pool { shared, completions, workers: Vec::new() };
        let make = Arc::new(make);
        let (up, started) = unbounded();
        for n in 0..workers {
            let (shared, make) = (pool.shared.clone(), make.clone());
            let up: Sender<Result<(), SandboxError>> = up.clone();
            let run = move || match make() {
                Err(e) => drop(up.send(Err(e))),
                Ok(sandbox) => {
                    let _ = up.send(Ok(()));
                    drop(up);
                    work::work(&shared, n, sandbox);
                }
            };
            let thread = std::thread::Builder::new().name(format!("sandbox {n}")).spawn(run);
            pool.workers.push(thread.map_err(SandboxError::io("a sandbox thread".as_ref()))?);
        }
        drop(up);
        for _ in 0..workers {
            started.recv().expect("every worker reports once")?;
        }
        Ok(pool)
    }

    /// Queues a job. Never waits.
    ///
    /// # Errors
    /// The job, where the queue is full or closed.
    pub fn submit(&self, job: Job) -> Result<(), Refused> {
        self.shared.queue().push(job)?;
        self.shared.work.notify_one();
        Ok(())
    }

    /// Where completions arrive, in the order in which calls end. Clones of the receiver outlive the pool.
    pub fn completions(&self) -> &Receiver<Completion> {
        &self.completions
    }

    /// Ends the jobs of this id: one that waits is completed at once, one that runs within some ten milliseconds, with
    /// [`Limit::Cancelled`](crate::Limit::Cancelled), unless it ended meanwhile. Whether there was one.
    pub fn cancel(&self, id: u64) -> bool {
        let mut queue = self.shared.queue();
        let waited = queue.cancel(id);
        let found = !waited.is_empty() || queue.stop(id);
        drop(queue);
        for job in waited {
            self.shared.complete(Completion { id, outcome: Outcome::cancelled(), session: job.session });
        }
        found
    }

    /// How many programs run at a time.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Takes no further jobs; what was taken is still run.
    pub fn close(&self) {
        self.shared.queue().close();
        self.shared.work.notify_all();
        self.shared.closed.notify_all();
    }

    /// Closes the pool, waits until what was taken is done, and gives the receiver with the completions not yet taken, which
    /// ends after the last.
    pub fn shutdown(mut self) -> Receiver<Completion> {
        self.close();
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
        self.completions.clone()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.queue().abort();
        self.close();
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}
