//! Compiling the image with Cranelift, and loading what was compiled.

use std::path::Path;
use std::sync::{Arc, Mutex};

use wasmer::sys::{CompilerConfig, Cranelift, EngineBuilder, Features, NativeEngineExt, Target};
use wasmer::{Engine, Module};
use wasmer_types::{CompilationProgress, CompilationProgressCallback};

use crate::SandboxError;
use crate::memory::CowTunables;
use crate::meter::Meter;

/// What compiles: wasmer, and the middleware's version. Names code in cache keys.
pub(crate) const VERSION: &str = "wasmer 7.4.2, cranelift, meter 3, elf 1, data apart";

/// Compiles `wasm` for this machine's CPU into bytes for [`load`]. `progress` gets the share that is done.
pub(crate) fn compile(
    wasm: &[u8],
    meter: Meter,
    progress: &mut dyn FnMut(Option<f32>),
) -> Result<Vec<u8>, SandboxError> {
    let failed = |e: &dyn std::fmt::Display| SandboxError::engine("compile", e);
    let mut config = Cranelift::new();
    // An ELF file is mapped, so that worker processes share it; wasmer copies and relocates its other format.
    config.experimental_artifact(cfg!(target_os = "linux"));
    config.push_middleware(Arc::new(meter));
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
    let module = unsafe { Module::deserialize_from_file(&engine, path) };
    Ok((engine, module.map_err(|e| SandboxError::engine("load", e))?))
}

/// What of a machine's CPU a compiled image depends on, as text for a cache key.
pub(crate) fn target() -> String {
    let target = Target::default();
    format!("{} {}", target.triple(), target.cpu_features())
}
