//! The sandbox of one caller: an interpreter in its thread or in a worker process, behind the same calls.

use std::sync::Arc;

use crate::interpreter::Interpreter;
use crate::process::Worker;
use crate::watchdog::Stop;
use crate::{Builder, Outcome, SandboxError, Session};

/// Python for one caller at a time. Every [`run`](Sandbox::run) starts from the same snapshot, unless it was built
/// [`stateful`](Builder::stateful). It stays in the thread that made it.
pub struct Sandbox {
    place: Place,
    /// What a stateful one goes on with.
    remembered: Option<Session>,
}

pub(crate) enum Place {
    Thread(Box<Interpreter>),
    Process(Worker),
}

impl Sandbox {
    /// Puts one together, or a [`Pool`](crate::Pool), from defaults.
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) fn new(place: Place, stateful: bool) -> Sandbox {
        Sandbox { place, remembered: stateful.then(Session::default) }
    }

    /// Runs a program to its end or to a limit. Nothing of it is left afterwards; in a stateful sandbox, what a
    /// [`Session`] keeps is.
    pub fn run(&mut self, source: &str) -> Outcome {
        self.run_until(source, || false)
    }

    /// [`run`](Sandbox::run), ended with [`Limit::Cancelled`](crate::Limit::Cancelled) once `stop` gives true. It is asked from
    /// other threads every ten milliseconds or so, and must then go on giving true.
    pub fn run_until(&mut self, source: &str, stop: impl Fn() -> bool + Send + Sync + 'static) -> Outcome {
        let stop: Stop = Arc::new(stop);
        let mut remembered = self.remembered.take();
        let outcome = self.call(source, remembered.as_mut(), &stop);
        self.remembered = remembered;
        outcome.unwrap_or_else(|e| Outcome::lost(e.to_string()))
    }

    /// A trajectory's own interpreter, for [`run_in`](Sandbox::run_in).
    pub fn session(&self) -> Session {
        Session::default()
    }

    /// Runs the next block of a session, which goes on where its last block ended. A block that is cut off, by a limit or by
    /// an end of the interpreter, leaves the session as it was before. Any sandbox of the same image will do.
    pub fn run_in(&mut self, session: &mut Session, source: &str) -> Outcome {
        let stop: Stop = Arc::new(|| false);
        self.call(source, Some(session), &stop).unwrap_or_else(|e| Outcome::lost(e.to_string()))
    }

    /// The process that it runs in, where it has one of its own: another one from time to time.
    pub fn process_id(&self) -> Option<u32> {
        match &self.place {
            Place::Thread(_) => None,
            Place::Process(worker) => worker.process_id(),
        }
    }

    /// An error where there is no interpreter: the call has not begun.
    pub(crate) fn call(
        &mut self,
        source: &str,
        session: Option<&mut Session>,
        stop: &Stop,
    ) -> Result<Outcome, SandboxError> {
        match &mut self.place {
            Place::Thread(interpreter) => interpreter.call(source, session, stop),
            Place::Process(worker) => worker.call(source, session, stop),
        }
    }

    /// Makes the interpreter ready for a call, where it is not: the last call ended it, or its process died since.
    pub(crate) fn ready(&mut self) -> Result<(), SandboxError> {
        match &mut self.place {
            Place::Thread(interpreter) => interpreter.ready().map(drop),
            Place::Process(worker) => worker.ready(),
        }
    }

    /// Drops the interpreter; the next call makes a new one.
    pub(crate) fn discard(&mut self) {
        match &mut self.place {
            Place::Thread(interpreter) => interpreter.discard(),
            Place::Process(worker) => worker.discard(),
        }
    }

    /// A digest of all that the next call starts from: memory, globals, and what the host keeps. None in another process.
    #[doc(hidden)]
    pub fn digest(&mut self) -> Result<Option<[u8; 32]>, SandboxError> {
        match &mut self.place {
            Place::Thread(interpreter) => interpreter.digest().map(Some),
            Place::Process(_) => Ok(None),
        }
    }
}
