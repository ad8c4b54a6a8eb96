//! Linear memory that starts as a private copy-on-write view of a snapshot file, and returns to it by dropping the pages
//! that were written. Growth stops at a cap, so a program meets `MemoryError` and not the host's limits.
//!
//! Absent on purpose: shared memories, cloning a memory, any memory but the image's one.

mod patch;
mod slot;
mod written;

use std::cell::RefCell;
use std::ptr::NonNull;
use std::sync::Arc;

use wasmer::sys::{BaseTunables, Tunables};
use wasmer::{MemoryError, MemoryType, Pages, TableType};
use wasmer_vm::{
    LinearMemory, MemoryStyle, TableStyle, Trap, VMConfig, VMMemory, VMMemoryDefinition, VMTable,
    VMTableDefinition,
};

pub(crate) use patch::Patch;
pub(crate) use slot::{Original, Resident, Slot};
#[cfg(target_os = "linux")]
pub(crate) use written::reopen_pagemap;
pub(crate) use written::{PAGEMAP_SCAN, page_size};

/// Bytes of a WebAssembly page.
pub(crate) const PAGE: usize = 65536;
/// Native stack of a call. Python's own recursion limit must be met first; only touched pages cost memory.
const STACK: usize = 32 << 20;

/// What the next instance of this thread gets as its memory.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The snapshot to start from; without one, memory starts as the module's data says.
    pub snapshot: Option<Arc<Original>>,
    /// Pages the memory may grow to.
    pub max_pages: usize,
}

thread_local! {
    /// Hands the plan to `create_vm_memory`, which wasmer calls while it instantiates, and what it made back.
    static NEXT: RefCell<(Option<Plan>, Option<Arc<Slot>>)> = const { RefCell::new((None, None)) };
}

/// Runs `instantiate` so that the memory it makes follows `plan`; gives its result and that memory.
pub(crate) fn with_plan<T, E>(
    plan: Plan,
    instantiate: impl FnOnce() -> Result<T, E>,
) -> Result<(T, Option<Arc<Slot>>), E> {
    NEXT.set((Some(plan), None));
    let made = instantiate();
    let (_, slot) = NEXT.take();
    made.map(|made| (made, slot))
}

#[derive(Debug)]
struct CowMemory {
    slot: Arc<Slot>,
    ty: MemoryType,
}

impl LinearMemory for CowMemory {
    fn ty(&self) -> MemoryType {
        MemoryType { minimum: self.size(), ..self.ty }
    }
    fn size(&self) -> Pages {
        Pages(self.slot.pages() as u32)
    }
    fn style(&self) -> MemoryStyle {
        MemoryStyle::Static
    }
    fn grow(&mut self, delta: Pages) -> Result<Pages, MemoryError> {
        let denied = MemoryError::CouldNotGrow { current: self.size(), attempted_delta: delta };
        let old = self.slot.grow(delta.0 as usize).ok_or(denied)?;
        Ok(Pages(old as u32))
    }
    fn vmmemory(&self) -> NonNull<VMMemoryDefinition> {
        self.slot.definition()
    }
    fn try_clone(&self) -> Result<Box<dyn LinearMemory + Send + Sync + 'static>, MemoryError> {
        Err(not_supported())
    }
    fn copy(&self) -> Result<Box<dyn LinearMemory + Send + Sync + 'static>, MemoryError> {
        Err(not_supported())
    }
    /// The image's modules have no data left in them (`image::slim::data`), so a snapshot is never written over.
    unsafe fn initialize_with_data(&self, start: usize, data: &[u8]) -> Result<(), Trap> {
        let end = start.checked_add(data.len());
        let to = end.and_then(|end| self.slot.bytes_mut().get_mut(start..end));
        let to = to.ok_or_else(|| Trap::lib(wasmer_types::TrapCode::HeapAccessOutOfBounds))?;
        to.copy_from_slice(data);
        Ok(())
    }
}

fn not_supported() -> MemoryError {
    MemoryError::UnsupportedOperation { message: "a sandbox memory is not copied".into() }
}

/// wasmer's hooks: memories follow this thread's [`Plan`], calls get [`STACK`] bytes of native stack.
pub(crate) struct CowTunables {
    base: BaseTunables,
    config: VMConfig,
}

impl CowTunables {
    pub fn new() -> Self {
        CowTunables { base: BaseTunables::new(), config: VMConfig { wasm_stack_size: Some(STACK) } }
    }
}

impl Tunables for CowTunables {
    fn memory_style(&self, _: &MemoryType) -> MemoryStyle {
        MemoryStyle::Static
    }
    fn table_style(&self, table: &TableType) -> TableStyle {
        self.base.table_style(table)
    }
    fn create_host_memory(&self, ty: &MemoryType, style: &MemoryStyle) -> Result<VMMemory, MemoryError> {
        self.base.create_host_memory(ty, style)
    }
    unsafe fn create_vm_memory(
        &self,
        ty: &MemoryType,
        _: &MemoryStyle,
        definition: NonNull<VMMemoryDefinition>,
    ) -> Result<VMMemory, MemoryError> {
        let invalid = |reason: String| MemoryError::InvalidMemory { reason };
        NEXT.with_borrow_mut(|(plan, made)| {
            let plan = plan.take().ok_or_else(|| invalid("the image has more than one memory".into()))?;
            let slot = Slot::new(ty.minimum.0 as usize, plan, definition)
                .map_err(|e| MemoryError::Region(e.to_string()))?;
            let slot = Arc::new(slot);
            *made = Some(slot.clone());
            let memory = CowMemory { slot, ty: *ty };
            let memory: Box<dyn LinearMemory + Send + Sync> = Box::new(memory);
            Ok(VMMemory::from_custom(memory))
        })
    }
    fn create_host_table(&self, ty: &TableType, style: &TableStyle) -> Result<VMTable, String> {
        self.base.create_host_table(ty, style)
    }
    unsafe fn create_vm_table(
        &self,
        ty: &TableType,
        style: &TableStyle,
        definition: NonNull<VMTableDefinition>,
    ) -> Result<VMTable, String> {
        // SAFETY: passed on as it came.
        unsafe { self.base.create_vm_table(ty, style, definition) }
    }
    fn vmconfig(&self) -> &VMConfig {
        &self.config
    }
}
