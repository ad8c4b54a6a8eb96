//! Linear memory that starts as a private copy-on-write view of a snapshot file, and returns to it by dropping the pages
//! that were written. Growth stops at a cap, so a program meets `MemoryError` and not the host's limits.
//!
//! Absent on purpose: shared memories, cloning a memory, any memory but the image's one.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use wasmer::sys::{BaseTunables, Tunables};
use wasmer::{MemoryError, MemoryType, Pages, TableType};
use wasmer_vm::{
    LinearMemory, MemoryStyle, TableStyle, Trap, VMConfig, VMMemory, VMMemoryDefinition, VMTable,
    VMTableDefinition,
};

/// Bytes of a WebAssembly page.
pub(crate) const PAGE: usize = 65536;
/// Address space of one memory: what a 32-bit index plus a 32-bit offset can reach, so compiled code needs no bounds
/// checks (`MemoryStyle::Static`).
const RESERVE: usize = (8 << 30) + PAGE;
/// Native stack of a call. Python's own recursion limit must be met first; only touched pages cost memory.
const STACK: usize = 32 << 20;

/// What the next instance of this thread gets as its memory.
#[derive(Clone)]
pub(crate) struct Plan {
    /// The snapshot to start from and its length in pages; without one, memory starts as the module's data says.
    pub snapshot: Option<(Arc<File>, usize)>,
    /// Pages the memory may grow to.
    pub max_pages: usize,
}

thread_local! {
    /// Hands the plan to `create_vm_memory`, which wasmer calls while it instantiates, and the slot made back.
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
    if let Some(slot) = &slot {
        slot.ready.store(1, Relaxed);
    }
    made.map(|made| (made, slot))
}

/// One reserved range of addresses and what of it is in use.
#[derive(Debug)]
pub(crate) struct Slot {
    base: NonNull<u8>,
    /// Where compiled code reads base and length; in the instance, which outlives every use of the slot but its drop.
    definition: NonNull<VMMemoryDefinition>,
    pages: AtomicUsize,
    max_pages: usize,
    peak: AtomicUsize,
    denied: AtomicUsize,
    from_snapshot: Option<usize>,
    /// 0 while wasmer instantiates.
    ready: AtomicUsize,
}

// SAFETY: a slot is reached from its store (in `CowMemory`) and from the `Vm` that owns that store; a `Vm` is used by one
// thread at a time, and the instance holding `definition` is dropped after the last call of any method but `drop`.
unsafe impl Send for Slot {}
unsafe impl Sync for Slot {}

impl Slot {
    fn new(least: usize, plan: &Plan, definition: NonNull<VMMemoryDefinition>) -> io::Result<Slot> {
        let from_snapshot = plan.snapshot.as_ref().map(|(_, pages)| *pages);
        let pages = from_snapshot.unwrap_or(least);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a fresh mapping at an address the kernel chooses.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), RESERVE, libc::PROT_NONE, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let slot = Slot {
            base: NonNull::new(base.cast()).expect("mmap gives no null"),
            definition,
            pages: AtomicUsize::new(pages),
            max_pages: plan.max_pages.max(pages),
            peak: AtomicUsize::new(pages),
            denied: AtomicUsize::new(0),
            from_snapshot,
            ready: AtomicUsize::new(0),
        };
        if let Some((file, pages)) = &plan.snapshot {
            let (prot, flags) = (
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE,
            );
            // SAFETY: replaces part of the range reserved above, which nothing uses yet. The file is this process's
            // own, checked against its digest and never written again (a new one replaces it by rename).
            let at = unsafe { libc::mmap(base, pages * PAGE, prot, flags, file.as_raw_fd(), 0) };
            if at == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
        } else {
            slot.protect(0, pages, libc::PROT_READ | libc::PROT_WRITE)?;
        }
        slot.set_pages(pages);
        Ok(slot)
    }

    fn protect(&self, from: usize, pages: usize, prot: i32) -> io::Result<()> {
        // SAFETY: `from + pages` is at most 65536 pages (wasm32), inside the reserved range.
        let r = unsafe {
            let at = self.base.as_ptr().add(from * PAGE);
            libc::mprotect(at.cast(), pages * PAGE, prot)
        };
        if r == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    fn set_pages(&self, pages: usize) {
        self.pages.store(pages, Relaxed);
        // SAFETY: see `definition`; no compiled code of this store runs now.
        unsafe {
            (*self.definition.as_ptr()).base = self.base.as_ptr();
            (*self.definition.as_ptr()).current_length = pages * PAGE;
        }
    }

    /// Pages in use.
    pub fn pages(&self) -> usize {
        self.pages.load(Relaxed)
    }

    /// The most pages in use since the last reset.
    pub fn peak(&self) -> usize {
        self.peak.load(Relaxed)
    }

    /// Requests for more memory refused since the last reset.
    pub fn denied(&self) -> usize {
        self.denied.load(Relaxed)
    }

    fn grow(&self, delta: usize) -> Option<usize> {
        let now = self.pages();
        let then = now.checked_add(delta).filter(|n| *n <= self.max_pages);
        let grown = then.filter(|_| self.protect(now, delta, libc::PROT_READ | libc::PROT_WRITE).is_ok());
        let Some(then) = grown else {
            self.denied.fetch_add(1, Relaxed);
            return None;
        };
        self.set_pages(then);
        self.peak.fetch_max(then, Relaxed);
        Some(now)
    }

    /// Makes the memory equal to the snapshot again. Only between calls.
    pub fn reset(&self) -> io::Result<()> {
        let kept = self.from_snapshot.expect("only a snapshot's memory is reset");
        let now = self.pages();
        // SAFETY: inside the reserved range; private pages are dropped, so the file's bytes (or zeros) show again.
        let r = unsafe { libc::madvise(self.base.as_ptr().cast(), now * PAGE, libc::MADV_DONTNEED) };
        if r != 0 {
            return Err(io::Error::last_os_error());
        }
        if now > kept {
            self.protect(kept, now - kept, libc::PROT_NONE)?;
        }
        self.set_pages(kept);
        self.peak.store(kept, Relaxed);
        self.denied.store(0, Relaxed);
        Ok(())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // SAFETY: the range mapped in `new`; the last owner is gone.
        unsafe { libc::munmap(self.base.as_ptr().cast(), RESERVE) };
    }
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
        self.slot.definition
    }
    fn try_clone(&self) -> Result<Box<dyn LinearMemory + Send + Sync + 'static>, MemoryError> {
        Err(not_supported())
    }
    fn copy(&self) -> Result<Box<dyn LinearMemory + Send + Sync + 'static>, MemoryError> {
        Err(not_supported())
    }
    /// While a snapshot is instantiated the module's data is skipped: the snapshot holds it already.
    unsafe fn initialize_with_data(&self, start: usize, data: &[u8]) -> Result<(), Trap> {
        if self.slot.from_snapshot.is_some() && self.slot.ready.load(Relaxed) == 0 {
            return Ok(());
        }
        let end = start.checked_add(data.len());
        if end.is_none_or(|end| end > self.slot.pages() * PAGE) {
            return Err(Trap::lib(wasmer_types::TrapCode::HeapAccessOutOfBounds));
        }
        // SAFETY: `start..end` lies in the pages in use, and `data` is the module's, not guest memory.
        unsafe {
            let to = self.slot.base.as_ptr().add(start);
            to.copy_from_nonoverlapping(data.as_ptr(), data.len());
        }
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
            let slot = Slot::new(ty.minimum.0 as usize, &plan, definition)
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
