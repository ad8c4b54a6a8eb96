//! One instance of the image: calling it, and bringing it back to where its snapshot was taken.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use wasmer::{
    Extern, FunctionEnv, Global, Instance, Memory, Module, RuntimeError, Store, TypedFunction, Value,
};

use crate::SandboxError;
use crate::host::{Archive, Host, State, imports};
use crate::memory::{Original, Plan, Resident, Slot, page_size, with_plan};
use crate::meter::{FUEL, GLOBAL};
use crate::session::{Delta, Head};
use crate::watchdog::Tank;

/// What the instance's imports see.
pub(crate) struct World {
    pub host: Host,
    pub memory: Option<Memory>,
    /// Charged for what the host copies.
    pub fuel: Option<Global>,
}

/// A snapshot's state beside linear memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Registers {
    /// Pages of linear memory.
    pub pages: usize,
    /// The mutable globals as they are exported, all i32.
    pub globals: Vec<i32>,
    pub host: State,
}

pub(crate) struct Vm {
    store: Store,
    instance: Instance,
    world: FunctionEnv<World>,
    slot: Arc<Slot>,
    resident: Resident,
    fuel: Global,
    tank: Tank,
    globals: Vec<Global>,
    alloc: TypedFunction<i32, i32>,
    turn: TypedFunction<(i32, i32), i32>,
}

impl Vm {
    /// An instance that starts from `snapshot`, or as the module says where there is none.
    pub fn new(
        engine: &wasmer::Engine,
        module: &Module,
        archive: Archive,
        snapshot: Option<(Arc<Original>, &Registers)>,
        max_pages: usize,
    ) -> Result<Vm, SandboxError> {
        let failed = |e: &dyn std::fmt::Display| SandboxError::engine("start", e);
        let mut store = Store::new(engine.clone());
        let world = World { host: Host::new(archive), memory: None, fuel: None };
        let world = FunctionEnv::new(&mut store, world);
        let imports = imports(&mut store, &world);
        let plan = Plan { snapshot: snapshot.as_ref().map(|(original, _)| original.clone()), max_pages };
        let (instance, slot) =
            with_plan(plan, || Instance::new(&mut store, module, &imports).map_err(|e| failed(&e)))?;
        let slot = slot.ok_or_else(|| failed(&"it has no memory of its own"))?;
        let memory = instance.exports.get_memory("memory");
        world.as_mut(&mut store).memory = Some(memory.map_err(|e| failed(&e))?.clone());
        let fuel = instance.exports.get_global(FUEL).map_err(|e| failed(&e))?.clone();
        world.as_mut(&mut store).fuel = Some(fuel.clone());
        let tank = Tank::of(&fuel, &mut store).ok_or_else(|| failed(&"its fuel cannot be reached"))?;
        let mut globals = Vec::new();
        while let Some(Extern::Global(g)) = instance.exports.get_extern(&format!("{GLOBAL}{}", globals.len()))
        {
            if !matches!(g.get(&mut store), Value::I32(_)) {
                return Err(failed(&"a mutable global is not an i32"));
            }
            globals.push(g.clone());
        }
        let alloc = instance.exports.get_typed_function(&store, "host_alloc");
        let alloc = alloc.map_err(|e| failed(&e))?;
        let turn = instance.exports.get_typed_function(&store, "turn");
        let turn = turn.map_err(|e| failed(&e))?;
        let resident = Resident::default();
        let mut vm = Vm { store, instance, world, slot, resident, fuel, tank, globals, alloc, turn };
        if let Some((_, registers)) = snapshot {
            vm.restore(registers)?;
        }
        Ok(vm)
    }

    /// Brings a fresh interpreter up. Not for an instance of a snapshot, which is up.
    pub fn initialize(&mut self) -> Result<(), RuntimeError> {
        self.set_fuel(i64::MAX as u64);
        let start = self.instance.exports.get_typed_function::<(), ()>(&self.store, "_initialize");
        start.map_err(|e| RuntimeError::new(e.to_string()))?.call(&mut self.store)
    }

    /// Runs Python `code` in the interpreter; gives its exit status.
    pub fn turn(&mut self, code: &str) -> Result<i32, RuntimeError> {
        let len = code.len() as i32;
        let at = self.alloc.call(&mut self.store, len)?;
        let memory = self.world.as_ref(&self.store).memory.clone();
        let memory = memory.expect("set in `new`");
        memory
            .view(&self.store)
            .write(at as u32 as u64, code.as_bytes())
            .map_err(|e| RuntimeError::new(e.to_string()))?;
        self.turn.call(&mut self.store, at, len)
    }

    pub fn set_fuel(&mut self, fuel: u64) {
        let fuel = fuel.min(i64::MAX as u64) as i64;
        self.fuel.set(&mut self.store, Value::I64(fuel)).expect("the fuel global is a mutable i64");
    }

    /// What is left of the fuel set; below 0 where it ran out.
    pub fn fuel(&mut self) -> i64 {
        self.fuel.get(&mut self.store).unwrap_i64()
    }

    pub fn host(&mut self) -> &mut Host {
        &mut self.world.as_mut(&mut self.store).host
    }

    pub fn slot(&self) -> &Slot {
        &self.slot
    }

    /// Where it counts its fuel, for the watchdog.
    pub fn tank(&self) -> Tank {
        self.tank
    }

    /// The state beside memory, now. Only between calls.
    pub fn registers(&mut self) -> Registers {
        let store = &mut self.store;
        let globals = self.globals.iter().map(|g| g.get(store).unwrap_i32());
        Registers {
            globals: globals.collect(),
            pages: self.slot.pages(),
            host: self.world.as_ref(store).host.state.clone(),
        }
    }

    /// The memory in use, to be written.
    pub fn memory_mut(&mut self) -> &mut [u8] {
        self.slot.bytes_mut()
    }

    /// The memory in use. Only between calls.
    pub fn memory(&self) -> &[u8] {
        self.slot.bytes()
    }

    /// Back to the snapshot: memory, globals, host. Exact, because the image changes nothing else (`engine::Meter` refuses
    /// code that would).
    pub fn reset(&mut self, registers: &Registers) -> Result<(), SandboxError> {
        let reset = self.slot.reset(&mut self.resident);
        reset.map_err(|e| SandboxError::engine("reset", e))?;
        self.restore(registers)
    }

    /// What this interpreter has become since the snapshot of `image`. Only between calls.
    pub fn park(&mut self, image: &str) -> Delta {
        let patch = self.slot.delta(&mut self.resident);
        let head = Head { image: image.into(), page: page_size() as u32, registers: self.registers() };
        Delta { head, patch }
    }

    /// Makes an interpreter that is as its snapshot into what [`park`](Vm::park) gave; False where `delta` does not fit it. It
    /// must then be reset.
    pub fn resume(&mut self, delta: &Delta) -> bool {
        delta.head.page as usize == page_size()
            && self.slot.apply(delta.head.registers.pages, &delta.patch)
            && self.restore(&delta.head.registers).is_ok()
    }

    fn restore(&mut self, registers: &Registers) -> Result<(), SandboxError> {
        if registers.globals.len() != self.globals.len() {
            return Err(SandboxError::engine("start", "the snapshot is of another image"));
        }
        for (global, value) in self.globals.iter().zip(&registers.globals) {
            global.set(&mut self.store, Value::I32(*value)).map_err(|e| SandboxError::engine("reset", e))?;
        }
        self.host().state = registers.host.clone();
        Ok(())
    }
}
