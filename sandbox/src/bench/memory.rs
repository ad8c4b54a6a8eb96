//! What interpreters and sessions hold, as the kernel counts it.

use std::fs;

use crate::bench::{Memory, Plan, SYMPY, limits};
use crate::{Builder, Image, Sandbox, SandboxError};

pub(super) fn measure(image: &Image, plan: &Plan) -> Result<Memory, SandboxError> {
    let builder = || Sandbox::builder().image(image.clone()).limits(limits());
    let thread = more(builder, || pss("self"))?;
    let process = builder().isolation(crate::Isolation::Process);
    let process = match &plan.worker {
        Some(exe) => process.worker(exe),
        None => process,
    };
    let process = more(|| process.clone(), || children().iter().map(|pid| pss(pid)).sum())?;
    let mut python = builder().build()?;
    let mut bytes = |source| {
        let mut session = python.session();
        python.run_in(&mut session, source);
        session.bytes() as u64
    };
    let (session, sympy_session) = (bytes("x = 1"), bytes(SYMPY));
    Ok(Memory { thread, process, session, sympy_session })
}

/// What the second of two interpreters that have run a program adds to `size`.
fn more(builder: impl Fn() -> Builder, size: impl Fn() -> Option<u64>) -> Result<Option<u64>, SandboxError> {
    let up = || {
        let mut python = builder().build()?;
        python.run(SYMPY);
        Ok::<_, SandboxError>(python)
    };
    let _first = up()?;
    let one = size();
    let _second = up()?;
    Ok(one.zip(size()).map(|(one, two)| two.saturating_sub(one)))
}

/// The proportional set size of a process of this user.
fn pss(pid: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("Pss:"))?;
    let kb: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kb * 1024)
}

/// The children of this process.
fn children() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// Page faults of this thread so far that needed no disk.
pub(super) fn faults() -> u64 {
    #[cfg(target_os = "linux")]
    let who = libc::RUSAGE_THREAD;
    #[cfg(not(target_os = "linux"))]
    let who = libc::RUSAGE_SELF;
    // SAFETY: all zeros is a valid `rusage`, and the call only writes it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(who, &mut usage);
        usage
    };
    usage.ru_minflt as u64
}
