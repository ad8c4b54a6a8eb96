//! The host's calls as WebAssembly imports: one table of their signatures, read by the linker and by the exerciser.

use wasmer::{Function, FunctionEnv, FunctionEnvMut, Imports, RuntimeError, Store, Value};

use super::{Errno, Guest, Host, Result};
use crate::meter::BULK;
use crate::vm::World;

type Env<'a> = FunctionEnvMut<'a, World>;

/// Runs one call on the host with the memory of the guest that makes it, and charges for the bytes it moved.
fn call(env: &mut Env, run: impl FnOnce(&mut Host, &mut Guest) -> Result<()>) -> i32 {
    let (world, mut store) = env.data_and_store_mut();
    let (Some(memory), Some(fuel)) = (world.memory.clone(), world.fuel.clone()) else {
        return Errno::FAULT.0;
    };
    let view = memory.view(&store);
    // SAFETY: the guest is stopped in this call and its memory is not shared, so nothing else reads or writes it while
    // the slice lives; it cannot grow before the call returns.
    let bytes = unsafe { view.data_unchecked_mut() };
    let done = run(&mut world.host, &mut Guest(bytes));
    let cost = std::mem::take(&mut world.host.moved) >> BULK;
    if cost > 0 {
        // Below 0 the guest traps at its next charge.
        let left = fuel.get(&mut store).unwrap_i64().saturating_sub_unsigned(cost);
        fuel.set(&mut store, Value::I64(left)).expect("the fuel global is a mutable i64");
    }
    done.map_or_else(|e| e.0, |()| Errno::SUCCESS.0)
}

/// Hands every function of `wasi_snapshot_preview1` that an image may import, but `proc_exit`, to the macro `$with`: its
/// name, its parameters, and what it does to a host and a guest. Those that can only fail or do nothing say so here.
macro_rules! calls {
    ($with:ident) => {
        $with! {
            args_get(p: u32, b: u32) |h, g| h.args_get(g, p, b);
            args_sizes_get(n: u32, b: u32) |h, g| h.args_sizes_get(g, n, b);
            environ_get(p: u32, b: u32) |h, g| h.environ_get(g, p, b);
            environ_sizes_get(n: u32, b: u32) |h, g| h.environ_sizes_get(g, n, b);
            clock_res_get(id: u32, out: u32) |h, g| h.clock_res_get(g, id, out);
            clock_time_get(id: u32, _precision: u64, out: u32) |h, g| h.clock_time_get(g, id, out);
            fd_close(fd: u32) |h, _g| h.fd_close(fd);
            fd_fdstat_get(fd: u32, out: u32) |h, g| h.fd_fdstat_get(g, fd, out);
            fd_filestat_get(fd: u32, out: u32) |h, g| h.fd_filestat_get(g, fd, out);
            fd_prestat_get(fd: u32, out: u32) |h, g| h.fd_prestat_get(g, fd, out);
            fd_prestat_dir_name(fd: u32, at: u32, n: u32) |h, g| h.fd_prestat_dir_name(g, fd, at, n);
            fd_pread(fd: u32, v: u32, n: u32, offset: u64, out: u32) |h, g| h.fd_pread(g, fd, (v, n), offset, out);
            fd_read(fd: u32, v: u32, n: u32, out: u32) |h, g| h.fd_read(g, fd, (v, n), out);
            fd_write(fd: u32, v: u32, n: u32, out: u32) |h, g| h.fd_write(g, fd, (v, n), out);
            fd_seek(fd: u32, offset: i64, whence: u32, out: u32) |h, g| h.fd_seek(g, fd, offset, whence, out);
            fd_tell(fd: u32, out: u32) |h, g| h.fd_tell(g, fd, out);
            fd_readdir(fd: u32, _at: u32, _n: u32, _cookie: u64, out: u32) |h, g| h.fd_readdir(g, fd, out);
            path_filestat_get(fd: u32, _flags: u32, p: u32, n: u32, out: u32)
                |h, g| h.path_filestat_get(g, fd, (p, n), out);
            path_open(fd: u32, _lookup: u32, p: u32, n: u32, flags: u32, _rights: u64, _inherit: u64, _fdflags: u32, out: u32)
                |h, g| h.path_open(g, fd, (p, n), flags, out);
            path_readlink(fd: u32, p: u32, n: u32, _at: u32, _len: u32, _used: u32)
                |h, g| h.path_readlink(g, fd, (p, n));
            poll_oneoff(subs: u32, events: u32, n: u32, out: u32) |h, g| h.poll_oneoff(g, subs, events, n, out);
            random_get(at: u32, n: u32) |h, g| h.random_get(g, at, n);
            fd_advise(_: u32, _: u64, _: u64, _: u32) |_h, _g| Ok(());
            fd_datasync(_: u32) |_h, _g| Ok(());
            fd_sync(_: u32) |_h, _g| Ok(());
            fd_fdstat_set_flags(_: u32, _: u32) |_h, _g| Ok(());
            sched_yield() |_h, _g| Ok(());
            fd_allocate(_: u32, _: u64, _: u64) |_h, _g| Err(Errno::ROFS);
            fd_filestat_set_size(_: u32, _: u64) |_h, _g| Err(Errno::ROFS);
            fd_filestat_set_times(_: u32, _: u64, _: u64, _: u32) |_h, _g| Err(Errno::ROFS);
            fd_pwrite(_: u32, _: u32, _: u32, _: u64, _: u32) |_h, _g| Err(Errno::ROFS);
            path_create_directory(_: u32, _: u32, _: u32) |_h, _g| Err(Errno::ROFS);
            path_filestat_set_times(_: u32, _: u32, _: u32, _: u32, _: u64, _: u64, _: u32) |_h, _g| Err(Errno::ROFS);
            path_link(_: u32, _: u32, _: u32, _: u32, _: u32, _: u32, _: u32) |_h, _g| Err(Errno::ROFS);
            path_remove_directory(_: u32, _: u32, _: u32) |_h, _g| Err(Errno::ROFS);
            path_rename(_: u32, _: u32, _: u32, _: u32, _: u32, _: u32) |_h, _g| Err(Errno::ROFS);
            path_symlink(_: u32, _: u32, _: u32, _: u32, _: u32) |_h, _g| Err(Errno::ROFS);
            path_unlink_file(_: u32, _: u32, _: u32) |_h, _g| Err(Errno::ROFS);
            fd_renumber(_: u32, _: u32) |_h, _g| Err(Errno::NOSYS);
            sock_accept(_: u32, _: u32, _: u32) |_h, _g| Err(Errno::NOSYS);
            sock_recv(_: u32, _: u32, _: u32, _: u32, _: u32, _: u32) |_h, _g| Err(Errno::NOSYS);
            sock_send(_: u32, _: u32, _: u32, _: u32, _: u32) |_h, _g| Err(Errno::NOSYS);
            sock_shutdown(_: u32, _: u32) |_h, _g| Err(Errno::NOSYS);
        }
    };
}

/// The host's calls, and the image's own `host.call`, which has no one to answer.
pub(crate) fn imports(store: &mut Store, env: &FunctionEnv<World>) -> Imports {
    let mut all = Imports::new();
    macro_rules! define {
        ($($name:ident($($arg:tt: $ty:ty),*) |$h:ident, $g:ident| $body:expr;)*) => {$({
            let f = |mut e: Env, $($arg: $ty),*| -> i32 { call(&mut e, |$h, $g| $body) };
            let f = Function::new_typed_with_env(store, env, f);
            all.define("wasi_snapshot_preview1", stringify!($name), f);
        })*};
    }
    calls!(define);
    let exit = |mut e: Env, status: i32| -> std::result::Result<(), RuntimeError> {
        e.data_mut().host.exit = Some(status);
        Err(RuntimeError::new("proc_exit"))
    };
    let exit = Function::new_typed_with_env(store, env, exit);
    all.define("wasi_snapshot_preview1", "proc_exit", exit);
    let no_one = |_: Env, _: u32, _: u32, _: u32, _: u32| -> i32 { -1 };
    let no_one = Function::new_typed_with_env(store, env, no_one);
    all.define("host", "call", no_one);
    all
}

/// Makes the call with number `index` (modulo how many there are) with arguments from `word`, as a guest would.
#[cfg(any(test, feature = "fuzz"))]
pub(super) fn dispatch(
    host: &mut Host,
    guest: &mut Guest,
    index: usize,
    mut word: impl FnMut() -> u64,
) -> Result<()> {
    macro_rules! name {
        ($($name:ident($($arg:tt: $ty:ty),*) |$h:ident, $g:ident| $body:expr;)*) => { [$(stringify!($name)),*] };
    }
    let names = calls!(name);
    let chosen = names[index % names.len()];
    macro_rules! make {
        ($($name:ident($($arg:tt: $ty:ty),*) |$h:ident, $g:ident| $body:expr;)*) => {$(
            if chosen == stringify!($name) {
                $(let $arg = word() as $ty;)*
                let ($h, $g) = (host, guest);
                return $body;
            }
        )*};
    }
    calls!(make);
    unreachable!("the name is one of the table's")
}
