//! Bounds of a module's tables, which its memory's cap does not count. Memory itself is [`CowTunables`]' business.

use std::ptr::NonNull;

use wasmer::sys::Tunables;
use wasmer::{MemoryError, MemoryType, TableType};
use wasmer_vm::{
    MemoryStyle, TableStyle, VMConfig, VMMemory, VMMemoryDefinition, VMTable, VMTableDefinition,
};

use crate::memory::CowTunables;

/// The most elements of a table: a megabyte.
pub(super) const TABLE: u32 = 1 << 16;

pub(super) struct ToolTunables(CowTunables);

impl ToolTunables {
    pub fn new() -> Self {
        ToolTunables(CowTunables::new())
    }
}

impl Tunables for ToolTunables {
    fn memory_style(&self, memory: &MemoryType) -> MemoryStyle {
        self.0.memory_style(memory)
    }
    fn table_style(&self, table: &TableType) -> TableStyle {
        self.0.table_style(table)
    }
    fn create_host_memory(&self, ty: &MemoryType, style: &MemoryStyle) -> Result<VMMemory, MemoryError> {
        self.0.create_host_memory(ty, style)
    }
    unsafe fn create_vm_memory(
        &self,
        ty: &MemoryType,
        style: &MemoryStyle,
        definition: NonNull<VMMemoryDefinition>,
    ) -> Result<VMMemory, MemoryError> {
        // SAFETY: passed on as it came.
        unsafe { self.0.create_vm_memory(ty, style, definition) }
    }
    fn create_host_table(&self, ty: &TableType, style: &TableStyle) -> Result<VMTable, String> {
        self.0.create_host_table(ty, style)
    }
    unsafe fn create_vm_table(
        &self,
        ty: &TableType,
        style: &TableStyle,
        definition: NonNull<VMTableDefinition>,
    ) -> Result<VMTable, String> {
        let most = ty.maximum.map_or(TABLE, |most| most.min(TABLE));
        let ty = TableType { maximum: Some(most), ..*ty };
        // SAFETY: passed on as it came, but for the bound.
        unsafe { self.0.create_vm_table(&ty, style, definition) }
    }
    fn vmconfig(&self) -> &VMConfig {
        self.0.vmconfig()
    }
}
