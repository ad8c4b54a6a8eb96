//! A WebAssembly module of the user's as a tool; [`WasmTool`] says what a module must be.
//!
//! A call runs in an instance of its own, so that nothing of a call is left. Unlike the Python image, a module may change
//! tables and drop segments, which a copy of memory would miss, and making an instance of a small module takes some
//! microseconds.
//! Absent: WASI imports, a cache of compiled modules, calls in a process of their own.

mod abi;
mod tunables;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use wasmer::sys::{CompilerConfig, Cranelift, EngineBuilder, Features, NativeEngineExt, Target};
use wasmer::{
    Engine, ExternType, Global, Imports, Instance, Memory, Module, RuntimeError, Store, Type, TypedFunction,
    Value as Wasm,
};
use wasmer_types::TrapCode;

use self::abi::Manifest;
use self::tunables::{TABLE, ToolTunables};
use super::{Cancel, Spec, Tool, ToolError, ToolOutput};
use crate::capture::Capture;
use crate::error::one_line;
use crate::memory::{PAGE, Plan, Slot, with_plan};
use crate::meter::{FUEL, Meter};
use crate::watchdog::{Tank, Watch};
use crate::{Limit, Limits};

/// The longest module that is compiled.
const MODULE_BYTES: usize = 64 << 20;
/// The longest description that is read.
const DESCRIPTION_BYTES: u64 = 1 << 20;

/// A WebAssembly module, compiled. Calls may come from several threads at once.
///
/// # What a module exports
/// - `memory`, its only one.
/// - `alloc(len: i32) -> i32`: a place in memory for `len` bytes, 0 if there is none.
/// - `call(ptr: i32, len: i32) -> i64`: takes the arguments as JSON text (an object) from where `alloc` said, and gives
///   `ptr << 32 | len` of the result, UTF-8 text. With bit 31 of `len` set the text is an error's.
/// - `describe() -> i64`, if it likes: points in the same way to `{"name": …, "description": …, "schema": …}`, the schema
///   a JSON Schema of the arguments. A file of that content beside the module (`tool.json` for `tool.wasm`) goes before it.
/// - `_initialize()`, if it likes: called before anything else.
///
/// A trap, such as Rust's `panic!` compiles to, is a failed call.
///
/// # What it may not
/// Import anything: it is a function of its arguments, reaches nothing, and nobody needs to trust it. Nor have a start
/// function (`_initialize` can be told apart and limited), several memories, exceptions, threads, or tables of more than
/// 65,536 elements (they are memory that no cap counts).
///
/// Rust builds such a module for `wasm32-unknown-unknown` as a `cdylib`, C with
/// `clang --target=wasm32 -nostdlib -Wl,--no-entry`:
/// ```no_run
/// use serde_json::Value;
///
/// #[unsafe(no_mangle)]
/// extern "C" fn alloc(len: usize) -> *mut u8 {
///     Vec::with_capacity(len).leak().as_mut_ptr()
/// }
///
/// /// # Safety
/// /// `at` is what `alloc(len)` gave.
/// #[unsafe(no_mangle)]
/// unsafe extern "C" fn call(at: *mut u8, len: usize) -> u64 {
///     let arguments = unsafe { Vec::from_raw_parts(at, len, len) };
///     let arguments: Value = serde_json::from_slice(&arguments).unwrap();
///     let (text, failed) = match arguments["text"].as_str() {
///         Some(text) => (text.to_uppercase(), 0),
///         None => ("there is no text".to_owned(), 1 << 31),
///     };
///     let text = text.leak();
///     (text.as_ptr() as u64) << 32 | text.len() as u64 | failed
/// }
/// # fn main() {}
/// ```
///
/// # What a call gives
/// The same text and fuel for the same arguments, on every machine: nothing is imported, NaNs are made canonical, and
/// relaxed SIMD is off. Fuel counts `_initialize`, `alloc` and `call` together.
pub struct WasmTool {
    spec: Spec,
    program: Program,
}

impl WasmTool {
    /// The module in the file at `path`, binary or text (`.wat`), described by a `.json` file of the same name beside it, or
    /// by itself. Compiling takes about a second a megabyte.
    ///
    /// # Errors
    /// A file that cannot be read; a module that is not as it should be, or describes itself nowhere. Each names the file.
    pub fn open(path: &Path, limits: &Limits) -> Result<WasmTool, ToolError> {
        let io = |path: &Path| {
            let path = path.to_path_buf();
            move |source| ToolError::Io { path, source }
        };
        let module = std::fs::read(path).map_err(io(path))?;
        let beside = path.with_extension("json");
        let manifest = match std::fs::read(&beside) {
            Ok(json) => Some(Manifest::parse(&json).map_err(|why| ToolError::Module {
                tool: beside.display().to_string(),
                why: format!("the description cannot be read: {why}"),
            })?),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => return Err(io(&beside)(e)),
        };
        let failed = |why| ToolError::Module { tool: path.display().to_string(), why };
        let program = Program::compile(&module, limits)?.map_err(failed)?;
        let manifest = match manifest {
            Some(manifest) => manifest,
            None => program.describe().map_err(failed)?,
        };
        let spec = Spec::new(&manifest.name, &manifest.description, manifest.schema)?;
        Ok(WasmTool { spec, program })
    }

    /// The module in `bytes`, binary or text, which describes itself.
    ///
    /// # Errors
    /// As [`WasmTool::open`].
    pub fn new(bytes: &[u8], limits: &Limits) -> Result<WasmTool, ToolError> {
        let failed = |why| ToolError::Module { tool: "the module".into(), why };
        let program = Program::compile(bytes, limits)?.map_err(failed)?;
        let manifest = program.describe().map_err(failed)?;
        Ok(WasmTool { spec: Spec::new(&manifest.name, &manifest.description, manifest.schema)?, program })
    }

    /// The module in `bytes`, described by the caller.
    ///
    /// # Errors
    /// As [`WasmTool::open`].
    pub fn with_spec(bytes: &[u8], spec: Spec, limits: &Limits) -> Result<WasmTool, ToolError> {
        let failed = |why| ToolError::Module { tool: spec.name.clone(), why };
        let program = Program::compile(bytes, limits)?.map_err(failed)?;
        Ok(WasmTool { spec, program })
    }
}

impl Tool for WasmTool {
    fn name(&self) -> &str {
        &self.spec.name
    }

    fn description(&self) -> &str {
        &self.spec.description
    }

    fn schema(&self) -> Value {
        self.spec.schema.clone()
    }

    fn call(&self, arguments: &Value, cancel: &Cancel) -> ToolOutput {
        self.program.call(arguments.to_string().as_bytes(), cancel)
    }
}

/// What a module's call came to: bytes in its memory, and whether they are an error's.
type Reply = (Range<u64>, bool);

/// How a call failed on the module's side.
enum Fault {
    Trap(RuntimeError),
    Abi(String),
}

impl From<RuntimeError> for Fault {
    fn from(trap: RuntimeError) -> Self {
        Fault::Trap(trap)
    }
}

impl From<String> for Fault {
    fn from(why: String) -> Self {
        Fault::Abi(why)
    }
}

struct Program {
    engine: Engine,
    module: Module,
    limits: Limits,
}

/// One instance, for one call.
struct Live {
    store: Store,
    instance: Instance,
    memory: Memory,
    slot: Arc<Slot>,
    fuel: Global,
}

impl Program {
    /// The outer error is the limits', the inner one the module's.
    fn compile(bytes: &[u8], limits: &Limits) -> Result<Result<Program, String>, ToolError> {
        limits.check(0)?;
        Ok(Program::compiled(bytes, limits))
    }

    fn compiled(bytes: &[u8], limits: &Limits) -> Result<Program, String> {
        if bytes.len() > MODULE_BYTES {
            return Err(format!("the module has {} bytes, more than {MODULE_BYTES}", bytes.len()));
        }
        let failed = |e: &dyn std::fmt::Display| format!("cannot compile it: {}", one_line(&e.to_string()));
        let wasm = wasmer::wat2wasm(bytes).map_err(|e| failed(&e))?;
        let mut config = Cranelift::new();
        config.push_middleware(Arc::new(Meter::strict()));
        config.canonicalize_nans(true);
        let mut features = Features::default();
        features.threads(false).multi_memory(false).memory64(false);
        features.exceptions(false).relaxed_simd(false);
        let engine =
            EngineBuilder::new(config).set_features(Some(features)).set_target(Some(Target::default()));
        let mut engine: Engine = engine.engine().into();
        engine.set_tunables(ToolTunables::new());
        let module = Module::from_binary(&engine, &wasm).map_err(|e| failed(&e))?;
        inspect(&module, limits)?;
        Ok(Program { engine, module, limits: limits.clone() })
    }

    fn instantiate(&self) -> Result<Live, String> {
        let mut store = Store::new(self.engine.clone());
        let plan = Plan { snapshot: None, max_pages: self.limits.memory_mb as usize * 16 };
        let failed = |e: wasmer::InstantiationError| format!("cannot start it: {}", one_line(&e.to_string()));
        let (instance, slot) =
            with_plan(plan, || Instance::new(&mut store, &self.module, &Imports::new()).map_err(failed))?;
        let missing = |e: wasmer::ExportError| format!("cannot start it: {e}");
        let memory = instance.exports.get_memory("memory").map_err(missing)?.clone();
        let fuel = instance.exports.get_global(FUEL).map_err(missing)?.clone();
        let slot = slot.ok_or("cannot start it: it has no memory of its own")?;
        Ok(Live { store, instance, memory, slot, fuel })
    }

    fn call(&self, arguments: &[u8], cancel: &Cancel) -> ToolOutput {
        self.run(&self.limits, cancel, |live| {
            let at = live.function::<i32, i32>("alloc")?.call(&mut live.store, arguments.len() as i32)?;
            let at_checked = abi::place(at, arguments.len(), live.size())?;
            live.memory.view(&live.store).write(at_checked, arguments).map_err(|e| e.to_string())?;
            let call = live.function::<(i32, i32), i64>("call")?;
            let packed = call.call(&mut live.store, at, arguments.len() as i32)?;
            Ok(abi::span(packed, live.size())?)
        })
    }

    fn describe(&self) -> Result<Manifest, String> {
        let nowhere = "it does not describe itself: export `describe`, or put its name, description and schema into a \
                       .json file of the same name beside it";
        if self.module.exports().all(|e| e.name() != "describe") {
            return Err(nowhere.into());
        }
        let limits = Limits { output_bytes: DESCRIPTION_BYTES as usize, ..self.limits.clone() };
        let described = self.run(&limits, &Cancel::new(), |live| {
            let packed = live.function::<(), i64>("describe")?.call(&mut live.store)?;
            let (range, failed) = abi::span(packed, live.size())?;
            if range.end - range.start > DESCRIPTION_BYTES {
                return Err(Fault::Abi(format!("its description has more than {DESCRIPTION_BYTES} bytes")));
            }
            Ok((range, failed))
        });
        if !described.ok {
            return Err(format!("`describe` failed: {}", one_line(&described.text)));
        }
        Manifest::parse(described.text.as_bytes())
            .map_err(|why| format!("`describe` gave no description: {why}"))
    }

    /// Runs `body` on a fresh instance under the limits.
    fn run(
        &self,
        limits: &Limits,
        cancel: &Cancel,
        body: impl FnOnce(&mut Live) -> Result<Reply, Fault>,
    ) -> ToolOutput {
        if cancel.is_fired() {
            return ToolOutput::cancelled();
        }
        let end = Instant::now() + Duration::from_millis(limits.wall_ms);
        let mut live = match self.instantiate() {
            Ok(live) => live,
            Err(why) => return ToolOutput::error(why),
        };
        let budget = limits.fuel.min(i64::MAX as u64) as i64;
        live.fuel.set(&mut live.store, Wasm::I64(budget)).expect("the fuel global is a mutable i64");
        let watch = Watch::new();
        let told = cancel.clone();
        let Some(tank) = Tank::of(&live.fuel, &mut live.store) else {
            return ToolOutput::error("its fuel cannot be reached");
        };
        // SAFETY: the counter is `live`'s, which lives on after the guard has ended.
        let running = unsafe { watch.begin(end, tank, Arc::new(move || told.is_fired())) };
        let replied = live.initialize().and_then(|()| body(&mut live));
        let interrupted = running.end();
        let left = interrupted.unwrap_or_else(|| live.fuel.get(&mut live.store).unwrap_i64());
        let mut output = match replied {
            Ok((range, failed)) => live.read(range, failed, limits),
            Err(Fault::Abi(why)) => ToolOutput::error(why),
            Err(Fault::Trap(_)) if left < 0 => {
                let why = format!("the tool ran too long (more than {} steps)", limits.fuel);
                ToolOutput::at_limit(Limit::Fuel, why)
            }
            Err(Fault::Trap(_)) if interrupted.is_some() && cancel.is_fired() => ToolOutput::cancelled(),
            Err(Fault::Trap(_)) if interrupted.is_some() => {
                let why = format!("the tool ran longer than {} ms", limits.wall_ms);
                ToolOutput::at_limit(Limit::Wall, why)
            }
            Err(Fault::Trap(trap)) => trapped(&trap, live.slot.denied() > 0, limits),
        };
        output.fuel = (budget - left.max(0)) as u64;
        output
    }
}

impl Live {
    fn function<A, R>(&self, name: &str) -> Result<TypedFunction<A, R>, String>
    where
        A: wasmer::WasmTypeList,
        R: wasmer::WasmTypeList,
    {
        self.instance.exports.get_typed_function(&self.store, name).map_err(|e| format!("`{name}`: {e}"))
    }

    fn initialize(&mut self) -> Result<(), Fault> {
        if self.instance.exports.get_extern("_initialize").is_some() {
            self.function::<(), ()>("_initialize")?.call(&mut self.store)?;
        }
        Ok(())
    }

    fn size(&self) -> u64 {
        self.slot.pages() as u64 * PAGE as u64
    }

    /// The bytes of a checked `range` as text, cut at the limit.
    fn read(&self, range: Range<u64>, failed: bool, limits: &Limits) -> ToolOutput {
        let view = self.memory.view(&self.store);
        let mut capture = Capture::new(limits.output_bytes);
        let mut chunk = vec![0; PAGE.min((range.end - range.start) as usize)];
        let mut at = range.start;
        while at < range.end {
            let len = chunk.len().min((range.end - at) as usize);
            if let Err(e) = view.read(at, &mut chunk[..len]) {
                return ToolOutput::error(format!("its result cannot be read: {e}"));
            }
            capture.push(&chunk[..len]);
            at += len as u64;
        }
        let (text, out) = capture.finish();
        let limit_hit = (out > 0).then_some(Limit::Output);
        let output = if failed { ToolOutput::error(text) } else { ToolOutput::from(text) };
        ToolOutput { limit_hit, ..output }
    }
}

fn trapped(trap: &RuntimeError, denied: bool, limits: &Limits) -> ToolOutput {
    match trap.clone().to_trap() {
        Some(TrapCode::StackOverflow) => ToolOutput::at_limit(Limit::Crash, "the tool's stack overflowed"),
        _ if denied => {
            let why = format!("the tool used more than {} MB", limits.memory_mb);
            ToolOutput::at_limit(Limit::Memory, why)
        }
        _ => ToolOutput::error(format!("the tool trapped: {}", one_line(&trap.message()))),
    }
}

/// Refuses modules that do not keep to the interface, each with what to do about it.
fn inspect(module: &Module, limits: &Limits) -> Result<(), String> {
    let imports: Vec<String> =
        module.imports().map(|i| format!("{}.{}", i.module(), i.name())).take(4).collect();
    if !imports.is_empty() {
        let more = if module.imports().count() > imports.len() { ", ..." } else { "" };
        let all = imports.join(", ");
        return Err(format!(
            "it imports {all}{more}, and nothing is given; build it without, as for wasm32-unknown-unknown"
        ));
    }
    let info = module.info();
    if info.start_function.is_some() {
        return Err("it has a start function; export it as `_initialize` instead".into());
    }
    if let Some(table) = info.tables.values().find(|t| t.minimum > TABLE) {
        return Err(format!("it has a table of {} elements, more than {TABLE}", table.minimum));
    }
    let [i32, i64] = [Type::I32, Type::I64];
    function(module, "alloc", &[i32], &[i32], true)?;
    function(module, "call", &[i32, i32], &[i64], true)?;
    function(module, "describe", &[], &[i64], false)?;
    function(module, "_initialize", &[], &[], false)?;
    let memory = module.exports().find(|e| e.name() == "memory");
    let Some(ExternType::Memory(memory)) = memory.map(|e| e.ty().clone()) else {
        return Err("it exports no memory named `memory`".into());
    };
    let pages = memory.minimum.0 as usize;
    if pages > limits.memory_mb as usize * 16 {
        let least = pages.div_ceil(16);
        return Err(format!(
            "it starts with {least} MB of memory, more than limits.memory_mb, {}",
            limits.memory_mb
        ));
    }
    Ok(())
}

/// Whether a function is exported as it should be.
fn function(
    module: &Module,
    name: &str,
    parameters: &[Type],
    results: &[Type],
    required: bool,
) -> Result<(), String> {
    let wanted = || {
        let list = |types: &[Type]| types.iter().map(Type::to_string).collect::<Vec<_>>().join(", ");
        format!("`{name}({}) -> ({})`", list(parameters), list(results)).to_lowercase()
    };
    match module.exports().find(|e| e.name() == name).map(|e| e.ty().clone()) {
        None if !required => Ok(()),
        Some(ExternType::Function(f)) if f.params() == parameters && f.results() == results => Ok(()),
        None => Err(format!("it exports no {}", wanted())),
        Some(_) => Err(format!("its export `{name}` is not {}", wanted())),
    }
}

/// For the fuzzer: descriptions and pointers of any content, through the same checks and the same instance as a tool's.
#[cfg(any(test, feature = "fuzz"))]
#[doc(hidden)]
pub fn exercise(data: &[u8]) {
    use std::sync::OnceLock;
    // `alloc` gives a place that depends on the length, `call` returns the first eight bytes that it was given.
    const ECHO: &str = r#"(module (memory (export "memory") 1 4)
        (func (export "alloc") (param i32) (result i32)
            (if (result i32) (i32.and (local.get 0) (i32.const 1))
                (then (i32.mul (local.get 0) (i32.const -1640531535))) (else (i32.const 8))))
        (func (export "call") (param i32 i32) (result i64)
            (drop (memory.grow (i32.and (local.get 1) (i32.const 3))))
            (i64.load (local.get 0))))"#;
    static PROGRAM: OnceLock<Program> = OnceLock::new();
    let limits = Limits { fuel: 1000, output_bytes: 64, memory_mb: 1, ..Limits::default() };
    let program =
        PROGRAM.get_or_init(|| Program::compiled(ECHO.as_bytes(), &limits).expect("it is as it should be"));
    let output = program.call(data, &Cancel::new());
    assert!(output.text.len() < 200, "{output:?}");
    assert!(output.ok || output.text.starts_with("Error: "), "{output:?}");
    if let Ok(manifest) = Manifest::parse(data)
        && let Ok(spec) = Spec::new(&manifest.name, &manifest.description, manifest.schema)
    {
        let _ = spec.check(&spec.schema);
        let _ = spec.describe().to_string();
    }
}

#[cfg(test)]
mod tests;
