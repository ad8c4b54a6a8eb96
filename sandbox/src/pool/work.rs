//! A pool's worker: a thread that owns a sandbox and runs one job after another.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use super::queue::{Next, Task};
use super::{Completion, Job, Shared};
use crate::watchdog::Stop;
use crate::{Limit, Outcome, Sandbox, SandboxError};

/// Pauses of a worker that cannot be brought up, doubled from the first to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(5);

/// Runs jobs until the pool is closed and none is left.
pub(super) fn work(shared: &Shared, me: usize, mut sandbox: Sandbox) {
    while let Some(mut task) = take(shared, me) {
        let outcome = match run(&mut sandbox, &mut task) {
            Ok(outcome) if outcome.limit_hit == Some(Limit::Lost) && task.job.retry => {
                task.job.retry = false;
                run(&mut sandbox, &mut task)
            }
            once => once,
        };
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(e) => {
                let kept = shared.queue().step_aside(me, task);
                let Some(mine) = kept else {
                    shared.work.notify_one();
                    if recover(shared, &mut sandbox) {
                        continue;
                    }
                    return;
                };
                task = mine;
                Outcome::lost(e.to_string())
            }
        };
        let open = {
            let mut queue = shared.queue();
            queue.done(me);
            !queue.is_closed()
        };
        let (id, session) = (task.job.id, task.job.session);
        shared.complete(Completion { id, outcome, session });
        if open {
            // Now, rather than when the next job waits for it; which asks again if this fails.
            let _ = sandbox.ready();
        }
    }
}

fn take(shared: &Shared, me: usize) -> Option<Task> {
    let mut queue = shared.queue();
    loop {
        match queue.next(me) {
            Next::Run(task) => return Some(task),
            Next::Leave => return None,
            Next::Wait => queue = shared.work.wait(queue).expect("nothing panics with it held"),
        }
    }
}

/// Tries until the sandbox is up; false if the pool closes first.
fn recover(shared: &Shared, sandbox: &mut Sandbox) -> bool {
    let mut pause = FIRST_PAUSE;
    loop {
        let open = |queue: &mut super::Queue| !queue.is_closed();
        let waited = shared.closed.wait_timeout_while(shared.queue(), pause, open);
        if waited.expect("nothing panics with it held").0.is_closed() {
            return false;
        }
        if sandbox.ready().is_ok() {
            shared.queue().step_back();
            return true;
        }
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

/// An error where there is no interpreter: the job has not begun.
fn run(sandbox: &mut Sandbox, task: &mut Task) -> Result<Outcome, SandboxError> {
    let flag = task.stop.clone();
    let stop: Stop = Arc::new(move || flag.load(SeqCst));
    let Job { source, session, .. } = &mut task.job;
    let ran = catch_unwind(AssertUnwindSafe(|| sandbox.call(source, session.as_mut(), &stop)));
    ran.unwrap_or_else(|_| {
        // A bug of the host, not of the program; the next call gets an interpreter that it has not touched.
        sandbox.discard();
        Ok(Outcome::crashed("the sandbox panicked"))
    })
}
