//! A pool's books, as plain data: which jobs wait, which run where, how many workers are fit to run them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use super::{Job, Refused};

/// A job in the pool's care.
#[derive(Debug)]
pub(super) struct Task {
    pub job: Job,
    /// Set when it is to end; never unset.
    pub stop: Arc<AtomicBool>,
}

pub(super) struct Queue {
    waiting: VecDeque<Task>,
    bound: usize,
    /// What each worker runs.
    running: Vec<Option<(u64, Arc<AtomicBool>)>>,
    /// Workers that take jobs.
    fit: usize,
    closed: bool,
}

/// What a worker is to do next.
#[derive(Debug)]
pub(super) enum Next {
    Run(Task),
    Wait,
    Leave,
}

impl Queue {
    /// Of a pool of `workers`, all fit. At most `bound` jobs may wait.
    pub fn new(workers: usize, bound: usize) -> Queue {
        let running = (0..workers).map(|_| None).collect();
        Queue { waiting: VecDeque::new(), bound, running, fit: workers, closed: false }
    }

    /// A bound of 0 still takes a job for a worker that idles.
    pub fn push(&mut self, job: Job) -> Result<(), Refused> {
        let idle = self.fit.saturating_sub(self.running.iter().flatten().count());
        if self.closed {
            return Err(Refused::Closed(job));
        }
        if self.waiting.len() >= self.bound.saturating_add(idle) {
            return Err(Refused::Full(job));
        }
        self.waiting.push_back(Task { job, stop: Arc::default() });
        Ok(())
    }

    pub fn next(&mut self, worker: usize) -> Next {
        match self.waiting.pop_front() {
            Some(task) => {
                self.running[worker] = Some((task.job.id, task.stop.clone()));
                Next::Run(task)
            }
            None if self.closed => Next::Leave,
            None => Next::Wait,
        }
    }

    /// A worker's job ended.
    pub fn done(&mut self, worker: usize) {
        self.running[worker] = None;
    }

    /// A worker that cannot run its job leaves it to the others and takes no more, if there are others; else it keeps it.
    pub fn step_aside(&mut self, worker: usize, task: Task) -> Option<Task> {
        if self.fit == 1 {
            return Some(task);
        }
        self.fit -= 1;
        self.done(worker);
        self.waiting.push_front(task);
        None
    }

    /// A worker that stepped aside is fit again.
    pub fn step_back(&mut self) {
        self.fit += 1;
    }

    /// Takes out the jobs of this id that wait.
    pub fn cancel(&mut self, id: u64) -> Vec<Job> {
        let (out, waiting) = std::mem::take(&mut self.waiting).into_iter().partition(|t| t.job.id == id);
        self.waiting = waiting;
        let out: VecDeque<Task> = out;
        out.into_iter().map(|t| t.job).collect()
    }

    /// Stops the jobs of this id that run; whether there are any.
    pub fn stop(&mut self, id: u64) -> bool {
        let mut found = false;
        for (_, stop) in self.running.iter().flatten().filter(|(running, _)| *running == id) {
            stop.store(true, SeqCst);
            found = true;
        }
        found
    }

    pub fn close(&mut self) {
        self.closed = true;
    }

    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Closes, stops all that runs and forgets all that waits.
    pub fn abort(&mut self) {
        self.closed = true;
        self.waiting.clear();
        for (_, stop) in self.running.iter().flatten() {
            stop.store(true, SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(next: Next) -> Option<u64> {
        match next {
            Next::Run(task) => Some(task.job.id),
            _ => None,
        }
    }

    #[test]
    fn the_bound_counts_what_waits_beyond_idle_workers() {
        let mut q = Queue::new(2, 1);
        for i in 0..3 {
            q.push(Job::new(i, "")).unwrap();
        }
        let Err(Refused::Full(job)) = q.push(Job::new(3, "text")) else { panic!("four of three") };
        assert_eq!((job.id, job.source.as_str()), (3, "text"));
        assert_eq!(id(q.next(0)), Some(0));
        assert!(q.push(job).is_err(), "a running job gives no room: the worker it took is no longer idle");
        q.done(0);
        assert!(q.push(Job::new(4, "")).is_ok());
    }

    #[test]
    fn a_closed_queue_gives_out_what_it_has() {
        let mut q = Queue::new(1, 9);
        q.push(Job::new(1, "")).unwrap();
        q.close();
        assert!(matches!(q.push(Job::new(2, "")), Err(Refused::Closed(_))));
        assert_eq!(id(q.next(0)), Some(1));
        assert!(matches!(q.next(0), Next::Leave));
        q.abort();
        assert!(q.running[0].as_ref().unwrap().1.load(SeqCst));
    }

    #[test]
    fn cancelling_finds_what_waits_and_what_runs() {
        let mut q = Queue::new(2, 9);
        for i in [1, 2, 1, 3] {
            q.push(Job::new(i, "")).unwrap();
        }
        let Next::Run(first) = q.next(0) else { panic!("it has four") };
        assert_eq!(q.cancel(1).len(), 1);
        assert!(q.stop(1) && first.stop.load(SeqCst));
        assert!(q.cancel(9).is_empty() && !q.stop(9));
        q.done(0);
        assert!(!q.stop(1), "it has ended");
        assert_eq!((id(q.next(0)), id(q.next(1))), (Some(2), Some(3)));
    }

    /// The last fit worker keeps its job, to report why it cannot be run.
    #[test]
    fn who_cannot_run_leaves_it_to_the_others() {
        let mut q = Queue::new(2, 9);
        q.push(Job::new(1, "")).unwrap();
        q.push(Job::new(2, "")).unwrap();
        let Next::Run(task) = q.next(0) else { panic!("it has two") };
        assert!(q.step_aside(0, task).is_none());
        let Next::Run(task) = q.next(1) else { panic!("it has two") };
        assert_eq!(task.job.id, 1, "the older one first");
        assert!(q.step_aside(1, task).is_some());
        q.step_back();
        let Next::Run(task) = q.next(0) else { panic!("one is left") };
        assert!(q.step_aside(0, task).is_none());
    }
}
