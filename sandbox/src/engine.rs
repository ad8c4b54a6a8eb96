//! Compiling the image with Cranelift, and loading what was compiled. A middleware charges fuel and exports what a snapshot
//! needs beside memory.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use wasmer::sys::{
    CompilerConfig, Cranelift, EngineBuilder, Features, FunctionMiddleware, MiddlewareError,
    MiddlewareReaderState, ModuleMiddleware, NativeEngineExt, Target,
};
use wasmer::wasmparser::{BlockType, Operator};
use wasmer::{Engine, GlobalType, LocalFunctionIndex, Module, Mutability, Type};
use wasmer_types::{CompilationProgress, CompilationProgressCallback, ExportIndex, GlobalInit, ModuleInfo};

use crate::SandboxError;
use crate::memory::CowTunables;

/// What compiles: wasmer, and the middleware's version. Names code in cache keys.
pub(crate) const VERSION: &str = "wasmer 7.4.2, cranelift, meter 2";
/// Prefix of the names under which mutable globals are exported.
pub(crate) const GLOBAL: &str = "__toolsmith_global_";
/// The exported fuel counter, an i64 that a call starts with its limit and that traps below 0.
pub(crate) const FUEL: &str = "__toolsmith_fuel";

/// Compiles `wasm` for this machine's CPU into bytes for [`load`]. `progress` gets the share that is done.
pub(crate) fn compile(wasm: &[u8], progress: &mut dyn FnMut(Option<f32>)) -> Result<Vec<u8>, SandboxError> {
    let failed = |e: &dyn std::fmt::Display| SandboxError::engine("compile", e);
    let mut config = Cranelift::new();
    config.push_middleware(Arc::new(Meter::new(true)));
    let mut features = Features::default();
    features.exceptions(true);
    let engine =
        EngineBuilder::new(config).set_features(Some(features)).set_target(Some(Target::default())).engine();
    let mut engine: Engine = engine.into();
    engine.set_tunables(CowTunables::new());

    // Compilation reports from its own threads; the caller's closure runs on this one.
    let (send, receive) = crossbeam_channel::unbounded();
    let send = Mutex::new(send);
    let report = CompilationProgressCallback::new(move |p: CompilationProgress| {
        let share = p.phase_step().zip(p.phase_step_count());
        let share = share.map(|(step, of)| step as f32 / of.max(1) as f32);
        let _ = send.lock().expect("a sender never panics").send(share);
        Ok(())
    });
    std::thread::scope(|scope| {
        let compiling = scope.spawn(move || {
            let module = engine.new_module_with_progress(wasm, report).map_err(|e| failed(&e))?;
            module.serialize().map_err(|e| failed(&e))
        });
        for share in receive {
            progress(share);
        }
        let bytes = compiling.join().map_err(|_| failed(&"the compiler panicked"))??;
        Ok(bytes.to_vec())
    })
}

/// Loads what [`compile`] wrote, without a compiler.
///
/// # Safety
/// The file is native code that runs with this process's rights: it must be as [`compile`] wrote it, on a CPU with the same
/// features. The caller has compared it with the digest kept of it.
pub(crate) unsafe fn load(path: &Path) -> Result<(Engine, Module), SandboxError> {
    let mut engine = Engine::headless();
    engine.set_tunables(CowTunables::new());
    // SAFETY: the caller's promise.
    let module = unsafe { engine.deserialize_from_mmapped_file_unchecked(path) };
    Ok((engine, module.map_err(|e| SandboxError::engine("load", e))?))
}

/// What of a machine's CPU a compiled image depends on, as text for a cache key.
pub(crate) fn target() -> String {
    let target = Target::default();
    format!("{} {}", target.triple(), target.cpu_features())
}

/// A copy or fill of 2 to this many bytes costs one unit of fuel: about the time that a loop iteration takes.
pub(crate) const BULK: u32 = 4;

/// Charges one unit of fuel at every function entry and loop iteration, and for what bulk instructions move; exports the
/// mutable globals, and refuses code whose effects a snapshot, a copy of memory and globals, would miss.
#[derive(Debug)]
pub(crate) struct Meter {
    /// Whether snapshots are taken of what runs.
    snapshots: bool,
    /// The index of the fuel global, known once the module's globals are. The next one is scratch: a bulk instruction's
    /// length, which its charge needs twice. It holds nothing from one instruction to the next.
    fuel: AtomicU32,
}

impl Meter {
    /// A meter for one module; without `snapshots` no code is refused.
    pub fn new(snapshots: bool) -> Self {
        Meter { snapshots, fuel: AtomicU32::default() }
    }
}

impl ModuleMiddleware for Meter {
    fn generate_function_middleware<'a>(
        &self,
        _: LocalFunctionIndex,
    ) -> Box<dyn FunctionMiddleware<'a> + 'a> {
        Box::new(FunctionMeter { fuel: self.fuel.load(Relaxed), snapshots: self.snapshots, entered: false })
    }

    fn transform_module_info(&self, info: &mut ModuleInfo) -> Result<(), MiddlewareError> {
        let mutable = |(i, g): (_, &GlobalType)| (g.mutability == Mutability::Var).then_some(i);
        let mutable: Vec<_> = info.globals.iter().filter_map(mutable).collect();
        for (k, index) in mutable.into_iter().enumerate() {
            info.exports.insert(format!("{GLOBAL}{k}"), ExportIndex::Global(index));
        }
        let fuel = info.globals.push(GlobalType::new(Type::I64, Mutability::Var));
        info.global_initializers.push(GlobalInit::I64Const(i64::MAX));
        info.exports.insert(FUEL.into(), ExportIndex::Global(fuel));
        info.globals.push(GlobalType::new(Type::I32, Mutability::Var));
        info.global_initializers.push(GlobalInit::I32Const(0));
        self.fuel.store(fuel.as_u32(), Relaxed);
        Ok(())
    }
}

#[derive(Debug)]
struct FunctionMeter {
    fuel: u32,
    snapshots: bool,
    entered: bool,
}

impl FunctionMeter {
    fn charge(&self, state: &mut MiddlewareReaderState<'_>) {
        let global_index = self.fuel;
        state.extend(&[
            Operator::GlobalGet { global_index },
            Operator::I64Const { value: 1 },
            Operator::I64Sub,
            Operator::GlobalSet { global_index },
            Operator::GlobalGet { global_index },
            Operator::I64Const { value: 0 },
            Operator::I64LtS,
            Operator::If { blockty: BlockType::Empty },
            Operator::Unreachable,
            Operator::End,
        ]);
    }

    /// Charges for as many bytes as the stack's top says, and leaves it there. The next [`charge`](Self::charge) traps.
    fn charge_bulk(&self, state: &mut MiddlewareReaderState<'_>) {
        let (global_index, scratch) = (self.fuel, self.fuel + 1);
        state.extend(&[
            Operator::GlobalSet { global_index: scratch },
            Operator::GlobalGet { global_index },
            Operator::GlobalGet { global_index: scratch },
            Operator::I64ExtendI32U,
            Operator::I64Const { value: BULK.into() },
            Operator::I64ShrU,
            Operator::I64Sub,
            Operator::GlobalSet { global_index },
            Operator::GlobalGet { global_index: scratch },
        ]);
    }
}

impl<'a> FunctionMiddleware<'a> for FunctionMeter {
    fn feed(
        &mut self,
        operator: Operator<'a>,
        state: &mut MiddlewareReaderState<'a>,
    ) -> Result<(), MiddlewareError> {
        use Operator::*;
        if let TableSet { .. }
        | TableGrow { .. }
        | TableFill { .. }
        | TableCopy { .. }
        | TableInit { .. }
        | MemoryInit { .. }
        | DataDrop { .. }
        | ElemDrop { .. } = operator
            && self.snapshots
        {
            return Err(MiddlewareError::new(
                "snapshot",
                "the image changes state outside memory and globals",
            ));
        }
        if !std::mem::replace(&mut self.entered, true) {
            self.charge(state);
        }
        if let MemoryCopy { .. }
        | MemoryFill { .. }
        | MemoryInit { .. }
        | TableCopy { .. }
        | TableFill { .. }
        | TableGrow { .. }
        | TableInit { .. } = operator
        {
            self.charge_bulk(state);
        }
        let charge = matches!(operator, Loop { .. });
        state.push_operator(operator);
        if charge {
            self.charge(state);
        }
        Ok(())
    }
}
