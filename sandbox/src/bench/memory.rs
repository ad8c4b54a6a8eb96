//! What interpreters and sessions hold, as the kernel counts it.

use std::fs;

use super::{Memory, Plan, SYMPY, builder, part};
use crate::{Builder, Image, Isolation, Sandbox, SandboxError};

pub(super) fn measure(image: &Image, plan: &Plan) -> Result<Memory, SandboxError> {
    let builder = |isolation| builder(image, plan, isolation);
    let [thread, _] = more(builder(Isolation::Thread), || pss("self"))?;
    // With this process, whose share of the image's pages becomes less with each worker that maps them too.
    let all = || children().iter().map(String::as_str).chain(["self"]).map(pss).sum();
    let [process, process_corpus] = more(builder(Isolation::Process), all)?;
    let mut python = builder(Isolation::Thread).build()?;
    let mut bytes = |source| {
        let mut session = python.session();
        python.run_in(&mut session, source);
        session.bytes() as u64
    };
    let (session, sympy_session) = (bytes("x = 1"), bytes(SYMPY));
    Ok(Memory { thread, process, process_corpus, session, sympy_session })
}

/// What the second of two interpreters that share what they can adds to `size`: when it has run a program, and when it has run
/// the corpus.
fn more(builder: Builder, size: impl Fn() -> Option<u64>) -> Result<[Option<u64>; 2], SandboxError> {
    let make = builder.maker()?;
    let warm = |python: &mut Sandbox| drop(python.run(SYMPY));
    let used = |python: &mut Sandbox| part(true).iter().for_each(|p| drop(python.run(p.source)));
    let (mut first, mut sizes) = (make()?, Vec::new());
    warm(&mut first);
    let one = size();
    let mut second = make()?;
    warm(&mut second);
    sizes.push(one.zip(size()));
    drop(second);
    used(&mut first);
    let one = size();
    let mut second = make()?;
    used(&mut second);
    sizes.push(one.zip(size()));
    Ok([0, 1].map(|n| sizes[n].map(|(one, two)| two.saturating_sub(one))))
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
