//! The walls around a worker process, behind WebAssembly's: resource limits, and on Linux a seccomp filter that leaves the
//! system calls a call needs.
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
    let all = [
        (libc::RLIMIT_CORE, 0),
        (libc::RLIMIT_FSIZE, 0),
        (libc::RLIMIT_NOFILE, 32),
        (libc::RLIMIT_DATA, data),
        #[cfg(target_os = "linux")]
        (libc::RLIMIT_NPROC, 0),
    ];
    for (resource, most) in all {
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

    pub fn install() -> io::Result<()> {
        for program in [declined(), allowed()] {
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
