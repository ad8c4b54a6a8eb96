//! A token by which one thread ends what another runs.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// A token that is fired once. Clones are the same token; a fired one stays fired.
#[derive(Clone, Default)]
pub struct Cancel(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    woken: Condvar,
}

#[derive(Default)]
struct State {
    fired: bool,
    next: u64,
    hooks: Vec<(u64, Box<dyn FnOnce() + Send>)>,
}

impl Cancel {
    /// A token that is not fired.
    pub fn new() -> Self {
        Cancel::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().expect("nothing panics with it held")
    }

    /// Ends what runs with this token. Returns once every hook has run.
    pub fn fire(&self) {
        let mut state = self.state();
        state.fired = true;
        let hooks = std::mem::take(&mut state.hooks);
        drop(state);
        self.0.woken.notify_all();
        hooks.into_iter().for_each(|(_, hook)| hook());
    }

    /// Whether it was fired.
    pub fn is_fired(&self) -> bool {
        self.state().fired
    }

    /// Sleeps until it is fired, or for `time`; whether it was fired.
    pub fn wait(&self, time: Duration) -> bool {
        let waited = self.0.woken.wait_timeout_while(self.state(), time, |s| !s.fired);
        waited.expect("nothing panics with it held").0.fired
    }

    /// Runs `hook` when the token is fired, in the thread that fires it; at once if it was. Dropping what is returned
    /// forgets the hook.
    pub fn on_fire(&self, hook: impl FnOnce() + Send + 'static) -> Hook {
        let mut state = self.state();
        if state.fired {
            drop(state);
            hook();
            return Hook { token: self.clone(), id: u64::MAX };
        }
        let id = state.next;
        state.next += 1;
        state.hooks.push((id, Box::new(hook)));
        drop(state);
        Hook { token: self.clone(), id }
    }
}

impl fmt::Debug for Cancel {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_tuple("Cancel").field(&self.is_fired()).finish()
    }
}

/// Keeps a hook of a [`Cancel`] until it is dropped.
#[must_use = "dropping it forgets the hook"]
#[derive(Debug)]
pub struct Hook {
    token: Cancel,
    id: u64,
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.token.state().hooks.retain(|(id, _)| *id != self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
    use std::time::Instant;

    #[test]
    fn hooks_run_once_when_it_is_fired_unless_forgotten() {
        let (token, count) = (Cancel::new(), Arc::new(AtomicU32::new(0)));
        let add = |n| {
            let count = count.clone();
            move || {
                count.fetch_add(n, SeqCst);
            }
        };
        let kept = token.on_fire(add(1));
        drop(token.on_fire(add(10)));
        assert!(!token.is_fired());
        token.clone().fire();
        token.fire();
        assert!(token.is_fired());
        assert_eq!(count.load(SeqCst), 1);
        drop((kept, token.on_fire(add(100))));
        assert_eq!(count.load(SeqCst), 101);
    }

    #[test]
    fn waiting_ends_with_the_time_or_the_token() {
        let token = Cancel::new();
        assert!(!token.wait(Duration::from_millis(1)));
        let (other, started) = (token.clone(), Instant::now());
        let fires = std::thread::spawn(move || other.fire());
        assert!(token.wait(Duration::from_secs(60)) && started.elapsed() < Duration::from_secs(30));
        fires.join().unwrap();
    }
}
