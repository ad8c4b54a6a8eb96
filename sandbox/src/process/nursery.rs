//! Where workers come from.

use std::io;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use super::Request;
use super::child::{Child, Until, before};
use crate::error::one_line;
use crate::{Image, Limits, SandboxError};

/// How long a worker may take to come up.
const START: Duration = Duration::from_secs(60);

/// Starts workers of one executable, image and limits: on Linux from one zygote, which is started when the first worker is and
/// again when it is found dead. Workers live on without it.
pub(crate) struct Nursery {
    exe: PathBuf,
    image: Image,
    limits: Limits,
    #[cfg(target_os = "linux")]
    zygote: std::sync::Mutex<Option<Child>>,
}

impl Nursery {
    /// Nothing is started yet.
    ///
    /// # Errors
    /// [`SandboxError::Limits`] for limits under which nothing can run.
    pub fn new(exe: PathBuf, image: &Image, limits: &Limits) -> Result<Nursery, SandboxError> {
        limits.check(image.registers().pages)?;
        Ok(Nursery {
            exe,
            image: image.clone(),
            limits: limits.clone(),
            #[cfg(target_os = "linux")]
            zygote: Default::default(),
        })
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// That no worker can be had.
    pub fn failed(&self, why: &str) -> SandboxError {
        SandboxError::Worker { exe: self.exe.clone(), why: one_line(why) }
    }

    /// A worker that is up.
    pub(super) fn worker(&self) -> Result<Child, SandboxError> {
        let end = Instant::now() + START;
        self.start(&mut || before(end)).map_err(|e| self.failed(&e.to_string()))
    }

    /// The executable, started again.
    fn spawn(&self, until: Until) -> io::Result<Child> {
        let begin = Request::Begin { image: self.image.folder().to_path_buf(), limits: self.limits.clone() };
        Child::spawn(&mut Command::new(&self.exe), &begin, until).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
                let why =
                    "it ended at once; its main must begin with toolsmith_sandbox::worker_main_if_asked()";
                io::Error::other(why)
            }
            _ => e,
        })
    }

    #[cfg(not(target_os = "linux"))]
    fn start(&self, until: Until) -> io::Result<Child> {
        self.spawn(until)
    }

    #[cfg(target_os = "linux")]
    fn start(&self, until: Until) -> io::Result<Child> {
        let mut worker = self.fork(until)?;
        match worker.begun(until) {
            // Killed on its way up, and not for its own fault: another one may be luckier.
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                drop(worker);
                worker = self.fork(until)?;
                worker.begun(until)?;
            }
            begun => begun?,
        }
        Ok(worker)
    }

    #[cfg(target_os = "linux")]
    fn fork(&self, until: Until) -> io::Result<Child> {
        let mut kept = self.zygote.lock().expect("nothing panics with it held");
        // The one there is may have died meanwhile.
        if let Some(mut zygote) = kept.take()
            && let Ok(worker) = zygote.fork(until)
        {
            *kept = Some(zygote);
            return Ok(worker);
        }
        let mut zygote = self.spawn(until)?;
        let worker = zygote.fork(until)?;
        *kept = Some(zygote);
        Ok(worker)
    }
}
