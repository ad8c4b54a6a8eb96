//! The host's calls as WebAssembly imports.

use wasmer::{Function, FunctionEnv, FunctionEnvMut, Imports, RuntimeError, Store, Value};

use super::calls::calls;
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
