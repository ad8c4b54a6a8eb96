//! The walls around a worker process, behind WebAssembly's: resource limits, and on Linux a seccomp filter that leaves the
//! system calls a call needs. The zygote has a looser one, which its forks keep behind their own.
//!
//! What is not allowed kills the process: it is a hole in the walls before, or a mistake here, and in neither case should the
//! process go on; the call is reported as [`Limit::Crash`](crate::Limit::Crash) with SIGSYS. On other systems and CPUs than
//! Linux on x86-64 and aarch64 there are the resource limits alone.

use std::io;

use crate::Limits;

/// Closes what the process inherited beside its standard streams.
pub(super) fn close_others() {
    #[cfg(target_os = "linux")]
    // SAFETY: nothing in this process has been opened yet; so early, no descriptor belongs to a Rust value. Kernels before
    // 5.9 refuse.
    unsafe {
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0);
    }
}

/// From here on this process forks workers and prepares them to be confined for good, and does nothing else: no file written, no
/// program executed, no other process signalled or looked into.
#[cfg(target_os = "linux")]
#[doc(hidden)]
pub fn confine_zygote() -> io::Result<()> {
    limit(&[(libc::RLIMIT_CORE, 0), (libc::RLIMIT_FSIZE, 0), (libc::RLIMIT_NOFILE, 32)])?;
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    filter::install_zygote()?;
    Ok(())
}

/// From here on this process computes and answers, and does nothing else. For good.
#[doc(hidden)]
pub fn confine(limits: &Limits) -> io::Result<()> {
    limit_resources(limits)?;
    #[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
    filter::install()?;
    Ok(())
}

/// No core dump, no file written, few descriptors, no new process, and not much more memory than a program may use.
fn limit_resources(limits: &Limits) -> io::Result<()> {
    let host = 512 << 20;
    let data = (u64::from(limits.memory_mb) << 20) * 2 + host;
    limit(&[
        (libc::RLIMIT_CORE, 0),
        (libc::RLIMIT_FSIZE, 0),
        (libc::RLIMIT_NOFILE, 32),
        (libc::RLIMIT_DATA, data),
        #[cfg(target_os = "linux")]
        (libc::RLIMIT_NPROC, 0),
    ])
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
type Resource = libc::__rlimit_resource_t;
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
type Resource = libc::c_int;

/// Lowers resource limits to at most these.
fn limit(all: &[(Resource, u64)]) -> io::Result<()> {
    for (resource, most) in all.iter().copied() {
        let mut now = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: a valid resource and a struct of ours.
        let set = unsafe {
            libc::getrlimit(resource, &mut now);
            let most = (most as libc::rlim_t).min(now.rlim_max);
            (now.rlim_cur, now.rlim_max) = (most, most);
            libc::setrlimit(resource, &now)
        };
        if set != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: changes the disposition of a signal. A write that meets the limit on files fails instead of killing.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    Ok(())
}

#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod filter {
    use std::collections::BTreeMap;
    use std::io;

    use seccompiler::SeccompCmpArgLen::Dword;
    use seccompiler::SeccompCmpOp::{Eq, Le, MaskedEq, Ne};
    use seccompiler::{
        BackendError, BpfProgram, SeccompAction, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
    };

    use crate::memory::PAGEMAP_SCAN;

    /// Allowed with any arguments. Nothing here names a file, a socket, another process or code; what is open is standard input,
    /// files of the image and the page map, all to be read only. After a trap wasmer reads the code's file again.
    const FREE: &[libc::c_long] = &[
        libc::SYS_brk,
        libc::SYS_clock_gettime,
        libc::SYS_clock_nanosleep,
        libc::SYS_close,
        libc::SYS_exit,
        libc::SYS_exit_group,
        libc::SYS_futex,
        libc::SYS_getpid,
        libc::SYS_getrandom,
        libc::SYS_gettid,
        libc::SYS_lseek,
        libc::SYS_madvise,
        libc::SYS_mremap,
        libc::SYS_munmap,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_poll,
        libc::SYS_ppoll,
        libc::SYS_pread64,
        libc::SYS_read,
        libc::SYS_restart_syscall,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_sched_yield,
        libc::SYS_sigaltstack,
    ];

    /// Refused with EPERM, which std, asking for a file's length before it reads it, does not mind. They can name a file.
    const DECLINED: &[libc::c_long] = &[libc::SYS_statx, libc::SYS_newfstatat];

    /// What the zygote needs beyond that: to receive, to fork, and to do in the fork what goes before `confine`, which starts
    /// a thread. It may open any file, to read.
    const ZYGOTE: &[libc::c_long] = &[
        // Refused by the other filter.
        libc::SYS_clone3,
        libc::SYS_dup3,
        libc::SYS_fcntl,
        libc::SYS_fstat,
        libc::SYS_prctl,
        libc::SYS_prlimit64,
        libc::SYS_recvmsg,
        libc::SYS_rseq,
        libc::SYS_sched_getaffinity,
        libc::SYS_seccomp,
        libc::SYS_set_robust_list,
        libc::SYS_write,
    ];

    pub fn install() -> io::Result<()> {
        apply([declined(), allowed()])
    }

    pub fn install_zygote() -> io::Result<()> {
        apply([no_clone3(), allowed_to_zygote()])
    }

    fn apply(programs: [Result<BpfProgram, BackendError>; 2]) -> io::Result<()> {
        for program in programs {
            // Sets no_new_privs, and reaches the watchdog's thread too.
            let program = program.map_err(io::Error::other)?;
            seccompiler::apply_filter_all_threads(&program).map_err(io::Error::other)?;
        }
        Ok(())
    }

    /// Of several filters the strictest answer counts.
    fn declined() -> Result<BpfProgram, BackendError> {
        let rules = DECLINED.iter().map(|n| (*n, vec![])).collect();
        let no = SeccompAction::Errno(libc::EPERM as u32);
        SeccompFilter::new(rules, SeccompAction::Allow, no, arch()?)?.try_into()
    }

    /// Its flags cannot be looked at. C libraries then start threads by `clone`.
    fn no_clone3() -> Result<BpfProgram, BackendError> {
        let rules = [(libc::SYS_clone3, vec![])].into();
        let no = SeccompAction::Errno(libc::ENOSYS as u32);
        SeccompFilter::new(rules, SeccompAction::Allow, no, arch()?)?.try_into()
    }

    /// What is not allowed fails, and with it the worker that was to be.
    fn allowed_to_zygote() -> Result<BpfProgram, BackendError> {
        let is = |arg, op, value| SeccompCondition::new(arg, Dword, op, value);
        let one = |a| SeccompRule::new(vec![a]);
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
            [FREE, DECLINED, ZYGOTE].concat().into_iter().map(|n| (n, vec![])).collect();
        let no_code = || is(2, MaskedEq(libc::PROT_EXEC as u64), 0);
        let writes = libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC;
        let (fork, thread) = (libc::CLONE_PARENT | libc::SIGCHLD, libc::CLONE_THREAD as u64);
        rules.extend([
            (libc::SYS_openat, vec![one(is(2, MaskedEq(writes as u64), libc::O_RDONLY as u64)?)?]),
            (libc::SYS_mmap, vec![one(no_code()?)?]),
            (libc::SYS_mprotect, vec![one(no_code()?)?]),
            (libc::SYS_ioctl, vec![one(is(1, Eq, PAGEMAP_SCAN)?)?]),
            (libc::SYS_clone, vec![one(is(0, Eq, fork as u64)?)?, one(is(0, MaskedEq(thread), thread)?)?]),
        ]);
        let no = SeccompAction::Errno(libc::EPERM as u32);
        SeccompFilter::new(rules, no, SeccompAction::Allow, arch()?)?.try_into()
    }

    fn arch() -> Result<TargetArch, BackendError> {
        std::env::consts::ARCH.try_into()
    }

    fn allowed() -> Result<BpfProgram, BackendError> {
        let is = |arg, op, value| SeccompCondition::new(arg, Dword, op, value);
        let both = |a, b| SeccompRule::new(vec![a, b]);
        let one = |a| SeccompRule::new(vec![a]);
        let no_code = || is(2, MaskedEq(libc::PROT_EXEC as u64), 0);
        // SAFETY: asks for a number.
        let me = unsafe { libc::getpid() } as u64;
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
            [FREE, DECLINED].concat().into_iter().map(|n| (n, vec![])).collect();
        rules.extend([
            (libc::SYS_fcntl, vec![one(is(1, Eq, libc::F_DUPFD_CLOEXEC as u64)?)?]),
            (libc::SYS_write, vec![both(is(0, Le, 2)?, is(0, Ne, 0)?)?]),
            (libc::SYS_mmap, vec![one(no_code()?)?]),
            (libc::SYS_mprotect, vec![one(no_code()?)?]),
            (libc::SYS_ioctl, vec![one(is(1, Eq, PAGEMAP_SCAN)?)?]),
            // An abort.
            (libc::SYS_tgkill, vec![both(is(0, Eq, me)?, is(2, Eq, libc::SIGABRT as u64)?)?]),
        ]);
        SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, arch()?)?.try_into()
    }
}
