//! A worker process as its owner sees it: calls go in, outcomes come out, whatever becomes of the process.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::child::{Child, before};
use super::{Nursery, Reply, Request, frame};
use crate::watchdog::Stop;
use crate::{Limit, Outcome, SandboxError, Session};

/// How much longer than its own wall clock a call may take, and how long a worker may take to end a call when told.
const GRACE: Duration = Duration::from_secs(2);
const OBEY: Duration = Duration::from_secs(1);

/// A worker process that is started again when it is gone.
pub(crate) struct Worker {
    nursery: Arc<Nursery>,
    child: Option<Child>,
}

impl Worker {
    pub fn start(nursery: Arc<Nursery>) -> Result<Worker, SandboxError> {
        let mut worker = Worker { nursery, child: None };
        worker.ready()?;
        Ok(worker)
    }

    /// Starts the process anew if it died since the last call.
    pub fn ready(&mut self) -> Result<(), SandboxError> {
        self.child().map(drop)
    }

    fn child(&mut self) -> Result<&mut Child, SandboxError> {
        if !self.child.as_mut().is_some_and(Child::is_alive) {
            let another = self.nursery.worker();
            // Reaped whether there is another or not; meanwhile it has come to its end.
            self.child = None;
            self.child = Some(another?);
        }
        Ok(self.child.as_mut().expect("started above"))
    }

    pub fn process_id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Ends the process; the next call starts another.
    pub fn discard(&mut self) {
        self.child = None;
    }

    /// As an interpreter's call, with the same outcome. A session that the worker did not give back is as it was before.
    ///
    /// # Errors
    /// If there is no process and none can be started: the call has not begun.
    pub fn call(
        &mut self,
        source: &str,
        mut session: Option<&mut Session>,
        stop: &Stop,
    ) -> Result<Outcome, SandboxError> {
        let started = Instant::now();
        if stop() {
            return Ok(Outcome::cancelled());
        }
        let mut outcome = match self.request(source, session.as_deref()) {
            Err(e) => Outcome::crashed(format!("the session cannot be read: {e}")),
            Ok(request) => self.exchange(&request, &mut session, stop)?,
        };
        outcome.wall = started.elapsed().as_secs_f64();
        Ok(outcome)
    }

    fn request(&self, source: &str, session: Option<&Session>) -> io::Result<Vec<u8>> {
        let body = session.map(Session::to_bytes).transpose()?;
        let run = Request::Run { source: source.into(), session: body.is_some() };
        frame(&run, &body.unwrap_or_default())
    }

    fn exchange(
        &mut self,
        request: &[u8],
        session: &mut Option<&mut Session>,
        stop: &Stop,
    ) -> Result<Outcome, SandboxError> {
        let wall_ms = self.nursery.limits().wall_ms;
        // A worker that was killed while it idled may look alive until the request finds nobody: that has cost nothing, so
        // another one gets it.
        for _ in 0..3 {
            let end = Instant::now() + Duration::from_millis(wall_ms) + GRACE;
            let child = self.child()?;
            let answer = match child.send(request, &mut || before(end)) {
                Ok(()) => answer(child, end, stop),
                Err(e) => Err(e),
            };
            let broken = match answer {
                Ok((Reply::Done { outcome, .. }, body)) => {
                    let Some(session) = session else { return Ok(outcome) };
                    match Session::from_bytes(&body) {
                        Ok(new) => {
                            **session = new;
                            return Ok(outcome);
                        }
                        Err(e) => e,
                    }
                }
                Ok(_) => io::ErrorKind::InvalidData.into(),
                Err(e) => e,
            };
            let child = self.child.take().expect("in use above");
            match broken.kind() {
                io::ErrorKind::TimedOut => {
                    if let Some(session) = session {
                        session.advance(None);
                    }
                    let why = format!("the program ran longer than {} ms", wall_ms);
                    return Ok(match stop() {
                        true => Outcome::cancelled(),
                        false => Outcome::ended(Limit::Wall, "TimeoutError", why),
                    });
                }
                _ if child.unread() => {}
                _ => return Ok(child.post_mortem()),
            }
        }
        Err(self.nursery.failed("it died before the call, three times over"))
    }
}

/// Waits for a call's answer, and passes a stop on.
fn answer(child: &mut Child, mut end: Instant, stop: &Stop) -> io::Result<(Reply, Vec<u8>)> {
    let begun = child.listen(&mut || match stop() {
        true => Err(io::ErrorKind::Interrupted.into()),
        false => before(end),
    });
    match begun {
        Err(e) if e.kind() == io::ErrorKind::Interrupted => {
            end = end.min(Instant::now() + OBEY);
            child.send(&frame(&Request::Cancel, &[])?, &mut || before(end))?;
        }
        other => other?,
    }
    child.receive(&mut || before(end))
}
