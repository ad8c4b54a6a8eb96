//! SIGUSR1, kept from wasmer.
//!
//! wasmer's handler of SIGUSR1 (its feature `experimental-host-interrupt`, which nothing here uses) takes for granted that its
//! own `interrupt` sent the signal, and aborts the process otherwise. So a handler of ours comes first and lets only a signal
//! through that a thread of this process sent to a thread of it.

/// Puts our handler before wasmer's. One that the embedding program had installed gets the signals from outside; where it had
/// none they are ignored.
pub(crate) fn guard() {
    #[cfg(target_os = "linux")]
    linux::guard();
}

#[cfg(target_os = "linux")]
mod linux {
    use std::mem::{transmute, zeroed};
    use std::ptr::{null, null_mut};
    use std::sync::{Once, OnceLock};

    use libc::{SA_ONSTACK, SA_SIGINFO, SIG_DFL, SIG_IGN, SIGUSR1, c_int, c_void, sigaction, siginfo_t};

    type Full = extern "C" fn(c_int, *mut siginfo_t, *mut c_void);
    type Plain = extern "C" fn(c_int);

    struct Handlers {
        wasmer: sigaction,
        before: sigaction,
    }

    static HANDLERS: OnceLock<Handlers> = OnceLock::new();

    pub fn guard() {
        static ONCE: Once = Once::new();
        // SAFETY: installs a handler with wasmer's own flags, once both that it calls are known.
        ONCE.call_once(|| unsafe {
            let (mut before, mut wasmer): (sigaction, sigaction) = (zeroed(), zeroed());
            sigaction(SIGUSR1, null(), &mut before);
            wasmer_vm::init_traps();
            sigaction(SIGUSR1, null(), &mut wasmer);
            let _ = HANDLERS.set(Handlers { wasmer, before });
            let mut ours: sigaction = zeroed();
            ours.sa_flags = SA_SIGINFO | SA_ONSTACK;
            ours.sa_sigaction = handle as *const () as usize;
            sigaction(SIGUSR1, &ours, null_mut());
        });
    }

    extern "C" fn handle(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
        let Some(Handlers { wasmer, before }) = HANDLERS.get() else { return };
        // SAFETY: the kernel's own pointers; what is called are handlers of the kind that their flags say.
        unsafe {
            let ours = (*info).si_code == libc::SI_TKILL && (*info).si_pid() == libc::getpid();
            let to = if ours { wasmer } else { before };
            match to.sa_sigaction {
                SIG_DFL | SIG_IGN => {}
                // wasmer was there before us, and with it the assertion.
                same if !ours && same == wasmer.sa_sigaction => {}
                full if to.sa_flags & SA_SIGINFO != 0 => {
                    transmute::<usize, Full>(full)(signal, info, context)
                }
                plain => transmute::<usize, Plain>(plain)(signal),
            }
        }
    }
}
