//! Taking the snapshot: an interpreter is started, warmed up, and its memory written down.
//!
//! The state of an interpreter is its linear memory, its mutable globals and the host's few values, so a copy of those is
//! the interpreter. `gc.freeze` at the end keeps a collection from writing to every page the snapshot shares.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use wasmer::{Engine, Module};

use crate::error::one_line;
use crate::host::Archive;
use crate::immortal;
use crate::memory::{Original, PAGE};
use crate::vm::{Registers, Vm};
use crate::{Progress, Recipe, SandboxError, Stage};

const DRIVER: &str = include_str!("python/driver.py");
const WARM_UP: &str = include_str!("python/warmup.py");
/// Runs the program that waits on standard input.
pub(crate) const RUN: &str = "__import__('sys').modules['_toolsmith'].run()";
const SETTLE: &str = "import gc as _gc\n_gc.collect()\n_gc.freeze()\ndel _gc\n";
/// The most pages the warm-up may need.
const MAX_PAGES: usize = 16 * 1024;
const OUTPUT: usize = 4096;

/// What a snapshot depends on beside the image's code, for a cache key.
pub(crate) fn sources() -> [&'static str; 7] {
    let [objects, fill] = immortal::sources();
    [DRIVER, WARM_UP, RUN, SETTLE, "layout 5", objects, fill]
}

/// Warms an interpreter up, makes its objects immortal, writes its memory to `to` and gives the rest of its state.
pub(crate) fn take(
    (engine, module): &(Engine, Module),
    data: &[u8],
    archive: Archive,
    recipe: &Recipe,
    to: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<Registers, SandboxError> {
    let failed = |e: String| SandboxError::WarmUp(one_line(&e));
    let mut vm = Vm::new(engine, module, archive.clone(), None, MAX_PAGES)?;
    place(&mut vm, data)
        .ok_or_else(|| SandboxError::Descriptor("the data does not fit its memory".into()))?;
    vm.initialize().map_err(|e| failed(format!("_initialize: {}", e.message())))?;
    let programs: Vec<&str> = WARM_UP.split("# ----\n").collect();
    // Two rounds: the first imports and compiles, the second runs what the first specialised.
    let rounds = 2;
    let total = ((rounds + 1) * programs.len() + recipe.preimport.len() + 4) as f32;
    let mut step = 0.0;
    let mut turn = |vm: &mut Vm, code: &str, program: Option<&str>| {
        progress(Progress::new(Stage::Snapshot, Some(step / total)));
        step += 1.0;
        turn(vm, code, program)
    };
    turn(&mut vm, DRIVER, None).map_err(failed)?;
    // First, because they may fail.
    for name in &recipe.preimport {
        turn(&mut vm, RUN, Some(&format!("import {name}"))).map_err(|why| {
            let why = why.strip_prefix("ModuleNotFoundError: ").unwrap_or(&why);
            recipe.failed(name, &one_line(why))
        })?;
    }
    for program in programs.iter().cycle().take(rounds * programs.len()) {
        turn(&mut vm, RUN, Some(program)).map_err(failed)?;
    }
    // What programs left in the module they ran in, and in the packages' own settings, must not greet the next.
    turn(&mut vm, "__import__('sys').modules['_toolsmith'].reset()", None).map_err(failed)?;
    turn(&mut vm, SETTLE, None).map_err(failed)?;
    turn(&mut vm, RUN, Some("1")).map_err(failed)?;

    let registers = vm.registers();
    let mut memory = vm.memory().to_vec();
    drop(vm);
    let original = write(to, &memory)?;
    let max_pages = memory.len() / PAGE + MAX_PAGES;
    immortal::make(&mut memory, || {
        Vm::new(engine, module, archive.clone(), Some((original.clone(), &registers)), max_pages)
    })?;
    drop(original);
    let original = write(to, &memory)?;
    // Were a word taken for a count that is none, this would hardly run.
    let mut vm = Vm::new(engine, module, archive, Some((original, &registers)), max_pages)?;
    for program in programs {
        turn(&mut vm, RUN, Some(program)).map_err(failed)?;
    }
    Ok(registers)
}

/// Writes the module's data, as `image::slim::data` gives it, to memory; None where it does not fit.
fn place(vm: &mut Vm, mut data: &[u8]) -> Option<()> {
    while let Some((at, rest)) = data.split_first_chunk() {
        let (len, rest) = rest.split_first_chunk()?;
        let (at, len) = (u32::from_le_bytes(*at) as usize, u32::from_le_bytes(*len) as usize);
        let (bytes, rest) = rest.split_at_checked(len)?;
        vm.memory_mut().get_mut(at..at.checked_add(len)?)?.copy_from_slice(bytes);
        data = rest;
    }
    data.is_empty().then_some(())
}

/// Runs `code`; where there is a `program`, as the one that waits on standard input. Gives what was printed.
pub(crate) fn turn(vm: &mut Vm, code: &str, program: Option<&str>) -> Result<String, String> {
    let stdin = program.map(|p| format!("last 0\n{p}").into_bytes());
    vm.host().begin(stdin.unwrap_or_default(), OUTPUT);
    vm.set_fuel(i64::MAX as u64);
    let status = vm.turn(code);
    let host = vm.host();
    let (printed, said) = (host.out.finish().0, host.err.finish().0);
    let error = host.report.field(b't').map(|t| t.0);
    match status {
        Ok(0) if error.is_none() && (program.is_none() || host.report.done) => Ok(printed),
        Ok(status) => Err(error.unwrap_or_else(|| format!("status {status}: {said}"))),
        Err(e) => Err(format!("{}: {said}", e.message())),
    }
}

/// Writes a snapshot's memory, zero pages as holes.
fn write(to: &Path, memory: &[u8]) -> Result<Arc<Original>, SandboxError> {
    let written = || {
        // A file that is mapped is not written to: each is a new one.
        let _ = std::fs::remove_file(to);
        let file = File::options().read(true).write(true).create_new(true).open(to)?;
        file.set_len(memory.len() as u64)?;
        let block = PAGE / 16;
        for (i, bytes) in memory.chunks(block).enumerate() {
            if bytes.iter().any(|b| *b != 0) {
                file.write_all_at(bytes, (i * block) as u64)?;
            }
        }
        file.sync_all()?;
        Original::new(file)
    };
    written().map(Arc::new).map_err(SandboxError::io(to))
}
